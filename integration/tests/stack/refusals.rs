//! What one node refuses: it is told with node and reason, and holds up neither other apps there nor the same app elsewhere.

use anyhow::{Context as _, Result, ensure};
use skerry_integration::apps::app;
use skerry_integration::containers::{Containers, signing, unique};
use skerry_integration::stack::PATIENCE;
use skerry_integration::{Stack, Witness};
use skerry_proto::types::v1::ConfigMount;
use skerry_testing::{Docker, eventually};

#[tokio::test]
async fn what_one_node_refuses_holds_up_nothing_else_there_and_nothing_elsewhere() -> Result<()> {
    let Some(docker) = Docker::required() else { return Ok(()) };
    docker.busybox()?;
    let (able, unable) = (unique("able"), unique("unable"));
    let containers = Containers::of(&docker, &able);
    let witness = Witness::new()?;
    let mut stack = Stack::start().await?;
    stack.add_agent(&able, &[&format!("--docker-host=unix://{}", docker.socket().display())])?;
    stack.add_agent(&unable, &[])?;
    stack.wait_connected(&able).await;
    stack.wait_connected(&unable).await;

    // One that needs a runtime that only one of them drives, one that both of them refuse when they get it, one that both can run.
    stack.apply_config("motd", &[("text", "hello")]).await?;
    let mut keyless = witness.service("a", "v1");
    keyless.configs = vec![ConfigMount {
        config: "motd".into(),
        path: "motd".into(),
        key: "other".into(),
        ..Default::default()
    }];
    stack.apply("keyless", app([keyless])).await?;
    for version in ["v1", "v2"] {
        stack.apply("contained", app([signing("contained", version, &witness)])).await?;
        stack.apply("plain", app([witness.service("a", version)])).await?;

        let told = stack.wait_reason("contained", &unable, &["RuntimeUnavailable"]).await;
        assert!(told.message.contains("does not drive the runtime"), "{told:?}");
        eventually("the able node runs it", PATIENCE, async || {
            let runs = containers.of_app("contained")?.context("it does not run")?;
            ensure!(runs.version == version, "{runs:?}");
            let signed = |start: &skerry_integration::witness::Start| {
                start.instance == "contained" && start.version == version
            };
            ensure!(witness.starts().iter().any(signed), "it has not come to the book");
            Ok(())
        })
        .await;
        stack.wait_ready_on("contained", &able).await;
        stack.wait_ready("plain", 2).await;
        for node in [&able, &unable] {
            let told = stack.wait_reason("keyless", node, &["ConfigKeyMissing"]).await;
            assert!(told.message.contains("`other`"), "{told:?}");
        }
    }
    eventually("the app's own status says where and why", PATIENCE, async || {
        let status = stack.app("contained").await?.status.context("no status")?;
        let counts = status.counts.unwrap_or_default();
        ensure!((counts.desired, counts.updated, counts.ready) == (2, 2, 1), "{counts:?}");
        let problems: Vec<_> =
            status.problems.iter().map(|one| (one.node.as_str(), one.reason.as_str())).collect();
        let node = format!("projects/default/nodes/{unable}");
        ensure!(problems == [(node.as_str(), "RuntimeUnavailable")], "{problems:?}");
        Ok(())
    })
    .await;
    // Nobody wants it any more, and what was missing comes.
    stack.delete_app("contained").await?;
    stack.wait_gone("contained").await;
    containers.wait_none().await;
    stack.apply_config("motd", &[("text", "hello"), ("other", "there")]).await?;
    stack.wait_ready("keyless", 2).await;
    stack.finish(Some(&witness)).await?;
    // The book of the container has the same pages.
    assert_eq!(witness.starts().iter().filter(|start| start.instance == "contained").count(), 2);
    witness.check();
    Ok(())
}
