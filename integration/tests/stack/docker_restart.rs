//! Docker and the agent die together, as at a power loss, and come back with no network: everything starts, each once.

use anyhow::{Context as _, Result, ensure};
use skerry_integration::apps::app;
use skerry_integration::containers::{Containers, on_app_network, signing, unique};
use skerry_integration::stack::PATIENCE;
use skerry_integration::{Dockerd, Stack, Witness};
use skerry_proto::types::v1::Dependency;
use skerry_testing::{Docker, eventually};

const SERVICES: [&str; 3] = ["first", "second", "third"];

#[tokio::test]
async fn after_docker_and_agent_died_everything_starts_once_with_no_link() -> Result<()> {
    // Where there shall be no Docker there is none to kill.
    if Docker::required().is_none() {
        return Ok(());
    }
    let witness = Witness::new()?;
    let mut dockerd = Dockerd::start().await?;
    let docker = dockerd.docker();
    docker.busybox()?;
    let node = unique("restart");
    let containers = Containers::of(&docker, &node);
    let mut stack = Stack::start().await?;
    stack.add_agent(&node, &[&format!("--docker-host=unix://{}", docker.socket().display())])?;
    stack.wait_connected(&node).await;
    let [first, second, third] = SERVICES.map(|name| signing(name, "v1", &witness));
    let second = skerry_proto::types::v1::ServiceSpec {
        depends_on: vec![Dependency { service: "first".into(), ..Default::default() }],
        ..on_app_network(second)
    };
    stack.apply("web", app([on_app_network(first), second, third])).await?;
    stack.wait_ready("web", 3).await;
    // One counts as running before it has come to the book.
    eventually("all have signed", PATIENCE, async || {
        ensure!(starts(&witness) == [1, 1, 1], "{:?}", witness.starts());
        Ok(())
    })
    .await;
    let before = containers.running()?;

    stack.kill_service("gateway-0")?;
    stack.kill_agent(&node)?;
    dockerd.kill().await?;
    // The agent is there before Docker is.
    stack.start_agent(&node)?;
    let log = stack.log(&format!("agent-{node}"));
    eventually("the agent finds no Docker", PATIENCE, async || {
        let log = std::fs::read_to_string(&log)?;
        ensure!(log.contains("not connected"), "{log}");
        Ok(())
    })
    .await;
    dockerd.restart().await?;
    eventually("all run again", PATIENCE, async || {
        let running = containers.running()?;
        let again = |one: &&skerry_integration::containers::Running| {
            !before.iter().any(|old| old.started_at == one.started_at)
        };
        ensure!(running.len() == 3 && running.iter().filter(again).count() == 3, "{running:?}");
        ensure!(starts(&witness) == [2, 2, 2], "{:?}", witness.starts());
        Ok(())
    })
    .await;
    for old in &before {
        let line = std::fs::read(format!("/proc/{}/cmdline", old.pid)).unwrap_or_default();
        assert!(!line.starts_with(b"sleep"), "the copy before of {} runs on", old.instance);
    }

    // The link comes back: all is as it should be, and nothing is touched.
    let running = containers.running()?;
    stack.start_service("gateway-0")?;
    stack.wait_service("gateway-0").await?;
    stack.wait_connected(&node).await;
    stack.wait_ready("web", 3).await;
    assert_eq!(containers.running()?, running);
    assert_eq!(starts(&witness), [2, 2, 2]);
    stack.delete_apps().await?;
    containers.wait_none().await;
    stack.finish(None).await.context("ending the stack")
}

/// How often each service was started.
fn starts(witness: &Witness) -> Vec<usize> {
    let starts = witness.starts();
    SERVICES.map(|name| starts.iter().filter(|start| start.instance == name).count()).to_vec()
}
