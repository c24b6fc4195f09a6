//! Images that are fetched before anything uses them: by a task, and ahead of a rollout's next batches.

use std::collections::BTreeMap;

use anyhow::{Context as _, Result, ensure};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use skerry_integration::apps::{container, script, with_env};
use skerry_integration::containers::{Containers, unique};
use skerry_integration::registry::{PASSWORD, USER};
use skerry_integration::stack::PATIENCE;
use skerry_integration::{Registry, Stack};
use skerry_proto::scheduler::v1::rollout_status::Phase;
use skerry_proto::types::v1::container::PullPolicy;
use skerry_proto::types::v1::{
    AppSpec, DaemonSet, ImageState, LabelSelector, RolloutStrategy, ServiceSpec, service_spec,
};
use skerry_testing::{Docker, eventually};

use crate::operator::{done, said, skerry};

/// A registry with images that this machine does not have, and credentials for it.
struct Images {
    docker: Docker,
    registry: Registry,
    login: String,
}

impl Images {
    async fn new() -> Result<Option<Self>> {
        let Some(docker) = Docker::required() else { return Ok(None) };
        docker.busybox()?;
        let registry = Registry::start().await?;
        let auth = STANDARD.encode(format!("{USER}:{PASSWORD}"));
        let path = registry.dir().join("config.json");
        let file = serde_json::json!({"auths": {registry.host(): {"auth": auth}}});
        std::fs::write(&path, file.to_string())?;
        Ok(Some(Self { docker, registry, login: format!("--docker-config={}", path.display()) }))
    }

    fn push(&self, name: &str) -> Result<String> {
        let name = format!("{name}-{}", std::process::id());
        self.registry.push_own(&self.docker, &name)?;
        let image = format!("{}/{name}:1", self.registry.host());
        self.remove(&image)?;
        Ok(image)
    }

    fn remove(&self, image: &str) -> Result<()> {
        self.docker.request("DELETE", &format!("/images/{image}"), &[]).map(drop)
    }

    fn add_node(&self, stack: &mut Stack, node: &str) -> Result<()> {
        let socket = format!("--docker-host=unix://{}", self.docker.socket().display());
        stack.add_agent(node, &[&socket, &self.login])
    }
}

/// How far a node is with each image.
async fn ahead(stack: &Stack, node: &str) -> Result<BTreeMap<String, ImageState>> {
    let status = stack.node(node).await?.status.context("a status")?;
    Ok(status.images.iter().map(|image| (image.image.clone(), image.state())).collect())
}

#[tokio::test]
async fn a_task_has_the_nodes_that_match_fetch_an_image_and_no_others() -> Result<()> {
    let Some(images) = Images::new().await? else { return Ok(()) };
    let image = images.push("ahead")?;
    let mut stack = Stack::start().await?;
    for node in ["n1", "n2", "n3"] {
        images.add_node(&mut stack, node)?;
        stack.wait_connected(node).await;
    }
    done(&stack, &["label", "node/n1", "node/n3", "site=oslo"]).await?;
    stack.kill_agent("n3")?;
    stack.wait_disconnected("n3").await;
    let told = done(&stack, &["prefetch", &image, "-l", "site=oslo", "--timeout", "1m"]).await?;
    assert_eq!(told, "1 of 2 nodes has the image; 1 skipped, which is not connected: n3\n");
    ensure!(images.docker.has_image(&image)?);
    let present = BTreeMap::from([(image.clone(), ImageState::Present)]);
    assert_eq!((ahead(&stack, "n1").await?, ahead(&stack, "n2").await?), (present.clone(), BTreeMap::new()));
    let text = done(&stack, &["describe", "node/n1"]).await?;
    ensure!(text.lines().any(|line| line.contains(&image) && line.contains("Present")), "{text}");
    let tasks = done(&stack, &["get", "tasks", "--no-headers"]).await?;
    ensure!(tasks.contains(&format!("prefetch {image} -l site=oslo")) && tasks.contains("2/2"), "{tasks}");

    // Who was away, and who comes to match, fetch it too.
    stack.start_agent("n3")?;
    done(&stack, &["label", "node/n2", "site=oslo"]).await?;
    for node in ["n2", "n3"] {
        eventually("it has the image", PATIENCE, async || -> Result<()> {
            let now = ahead(&stack, node).await?;
            ensure!(now == present, "{now:?}");
            Ok(())
        })
        .await;
    }
    // It ends with its task.
    let id = done(&stack, &["get", "tasks", "-o", "name"]).await?;
    done(&stack, &["delete", id.trim()]).await?;
    eventually("nobody fetches it any more", PATIENCE, async || -> Result<()> {
        let now = ahead(&stack, "n1").await?;
        ensure!(now.is_empty(), "{now:?}");
        Ok(())
    })
    .await;
    images.remove(&image)?;
    stack.finish(None).await
}

#[tokio::test]
async fn an_image_that_cannot_be_fetched_is_told_with_its_name_and_why_and_is_gone_on_with() -> Result<()> {
    let Some(images) = Images::new().await? else { return Ok(()) };
    let image = images.push("good")?;
    let bad =
        image.strip_suffix(":1").map(|name| format!("{name}:nosuch")).context("the image has that tag")?;
    let mut stack = Stack::start().await?;
    images.add_node(&mut stack, "n1")?;
    stack.wait_connected("n1").await;
    let output = skerry(&stack, &["prefetch", &bad, &image, "--timeout", "1m"]).await?;
    let told = said(&output);
    ensure!(output.status.code() == Some(1) && told.contains("has failed: 0 of 1 nodes have"), "{told}");
    ensure!(told.contains(&format!("n1: pulling image `{bad}`")) && told.contains("not found"), "{told}");
    eventually("it is not tried again", PATIENCE, async || -> Result<()> {
        let now = ahead(&stack, "n1").await?;
        ensure!(now.is_empty(), "{now:?}");
        Ok(())
    })
    .await;
    // Somebody pushes what was missing.
    let name = bad.trim_start_matches(images.registry.host()).trim_matches('/').trim_end_matches(":nosuch");
    images.registry.push(&images.docker, name, "nosuch")?;
    let id = done(&stack, &["get", "tasks", "-o", "name"]).await?;
    done(&stack, &["task", "retry", id.trim()]).await?;
    let told = done(&stack, &["task", "watch", id.trim(), "--timeout", "1m"]).await?;
    ensure!(told.contains("1 of 1 nodes has the images"), "{told}");
    ensure!(images.docker.has_image(&bad)? && images.docker.has_image(&image)?);

    // A node without Docker says so.
    stack.add_agent("n2", &[])?;
    stack.wait_connected("n2").await;
    done(&stack, &["label", "node/n2", "site=bergen"]).await?;
    let output = skerry(&stack, &["prefetch", &image, "-l", "site=bergen", "--timeout", "1m"]).await?;
    let told = said(&output);
    ensure!(output.status.code() == Some(1) && told.contains("n2") && told.contains("--no-docker"), "{told}");
    let output = skerry(&stack, &["prefetch", "Bad:Name"]).await?;
    ensure!(said(&output).contains("prefetch_images.images[0]"), "{}", said(&output));
    let output = skerry(&stack, &["prefetch", &image, "--secret", "none"]).await?;
    ensure!(
        !output.status.success() && said(&output).contains("there is no projects/default/secrets/none"),
        "{}",
        said(&output)
    );
    images.remove(&bad)?;
    images.remove(&image)?;
    stack.finish(None).await
}

fn on(ring: &str, service: ServiceSpec) -> ServiceSpec {
    let kind = Some(service_spec::Kind::DaemonSet(DaemonSet {}));
    let match_labels = [("ring".to_owned(), ring.to_owned())].into();
    let node_selector = Some(LabelSelector { match_labels, ..Default::default() });
    ServiceSpec { kind, node_selector, ..service }
}

#[tokio::test]
async fn a_rollout_that_is_paused_after_its_canary_has_fetched_the_new_image_on_the_others() -> Result<()> {
    let Some(images) = Images::new().await? else { return Ok(()) };
    let image = images.push("next")?;
    let canary = unique("canary");
    let node = unique("other");
    let containers = Containers::of(&images.docker, &node);
    let mut stack = Stack::start().await?;
    // The canary runs no containers: what Docker has, it has for the other one.
    stack.add_agent(&canary, &[])?;
    images.add_node(&mut stack, &node)?;
    for (node, ring) in [(&canary, "canary"), (&node, "rest")] {
        stack.wait_connected(node).await;
        done(&stack, &["label", &format!("node/{node}"), &format!("ring={ring}")]).await?;
    }
    let match_labels = BTreeMap::from([("ring".to_owned(), "canary".to_owned())]);
    let seconds = |seconds| Some(prost_types::Duration { seconds, nanos: 0 });
    let strategy = RolloutStrategy {
        canary: Some(LabelSelector { match_labels, ..Default::default() }),
        pause_after_canary: true,
        batch_size: "1".to_owned(),
        health_window: seconds(1),
        ..Default::default()
    };
    let spec = |version: &str, image: Option<&str>| {
        let process = script("process", "trap 'exit 0' TERM; while :; do sleep 0.1; done");
        let mut web = container("web", "exec sleep 1000");
        if let (Some(service_spec::Program::Container(container)), Some(image)) = (&mut web.program, image) {
            container.image = image.to_owned();
            container.pull_policy = PullPolicy::IfNotPresent.into();
        }
        let services = vec![on("canary", with_env("VERSION", version, process)), on("rest", web)];
        AppSpec { services, rollout: Some(strategy.clone()), ..AppSpec::default() }
    };
    stack.apply("web", spec("one", None)).await?;
    stack.wait_ready("web", 2).await;
    let before = containers.of_app("web")?.context("it runs")?;
    ensure!(ahead(&stack, &node).await?.is_empty() && !images.docker.has_image(&image)?);

    stack.apply("web", spec("two", Some(&image))).await?;
    eventually("it pauses, and the image is there", PATIENCE, async || -> Result<()> {
        let rollout =
            stack.app("web").await?.status.and_then(|status| status.rollout).context("a rollout")?;
        ensure!(rollout.phase() == Phase::Paused, "{rollout:?}");
        let now = ahead(&stack, &node).await?;
        ensure!(now == BTreeMap::from([(image.clone(), ImageState::Present)]), "{now:?}");
        ensure!(images.docker.has_image(&image)?);
        Ok(())
    })
    .await;
    assert_eq!(containers.of_app("web")?.context("it runs")?.id, before.id, "nothing has switched");
    ensure!(ahead(&stack, &canary).await?.is_empty());
    let told = done(&stack, &["explain", "app/web"]).await?;
    ensure!(told.contains(&format!("the new one, {image}, is there already")), "{told}");

    done(&stack, &["rollout", "resume", "app/web"]).await?;
    eventually("it switches, and fetches nothing more", PATIENCE, async || -> Result<()> {
        let now = containers.of_app("web")?.context("it does not run")?;
        ensure!(now.id != before.id, "the old one");
        ensure!(ahead(&stack, &node).await?.is_empty());
        Ok(())
    })
    .await;
    stack.wait_ready("web", 2).await;
    stack.finish(None).await?;
    drop(containers);
    images.remove(&image)
}
