//! Docker hangs in one call, is away, or dies: what hangs holds up only itself, what ran runs on, and afterwards all is as it should be.

use anyhow::{Context as _, Result, ensure};
use skerry_integration::apps::app;
use skerry_integration::containers::{Containers, of_image, signing, unique};
use skerry_integration::docker_gate::Call;
use skerry_integration::stack::PATIENCE;
use skerry_integration::{DockerGate, Stack, Witness};
use skerry_testing::{BUSYBOX_IMAGE, Docker, eventually};
use tempfile::TempDir;

/// A node whose agent reaches Docker through a gate.
struct World {
    node: String,
    // Dropped in this order: the stack first, so that its agent makes nothing anew.
    stack: Stack,
    gate: DockerGate,
    containers: Containers,
    docker: Docker,
    witness: Witness,
    _dir: TempDir,
}

impl World {
    /// None: no Docker, and somebody said that this is fine.
    async fn start(name: &str) -> Result<Option<Self>> {
        let Some(docker) = Docker::required() else { return Ok(None) };
        docker.busybox()?;
        let node = unique(name);
        let dir = TempDir::new()?;
        let gate = DockerGate::new(dir.path(), docker.socket())?;
        let containers = Containers::of(&docker, &node);
        let mut stack = Stack::start().await?;
        stack.add_agent(&node, &[&format!("--docker-host={}", gate.docker_host())])?;
        stack.wait_connected(&node).await;
        Ok(Some(Self { node, stack, gate, containers, docker, witness: Witness::new()?, _dir: dir }))
    }

    async fn apply(&self, name: &str, version: &str) -> Result<()> {
        self.stack.apply(name, app([signing(name, version, &self.witness)])).await.map(drop)
    }

    /// An app is applied, runs, is updated and is deleted.
    async fn other_work_goes_on(&self, name: &str) -> Result<()> {
        for version in ["v1", "v2"] {
            self.apply(name, version).await?;
            self.stack.wait_ready(name, 1).await;
            let runs = self.containers.of_app(name)?.context("it does not run")?;
            assert_eq!(runs.version, version);
        }
        self.stack.delete_app(name).await?;
        eventually("it is removed", PATIENCE, async || {
            let runs = self.containers.of_app(name)?;
            ensure!(runs.is_none(), "{runs:?}");
            Ok(())
        })
        .await;
        Ok(())
    }

    /// The versions in which an app's program was started, in order.
    fn starts(&self, name: &str) -> Vec<String> {
        let starts = self.witness.starts().into_iter().filter(|start| start.instance == name);
        starts.map(|start| start.version).collect()
    }

    /// Waits until an app's program was started in these versions and no others: it counts as running before it has come to the book.
    async fn wait_starts(&self, name: &str, versions: &[&str]) {
        eventually(&format!("{name} started as {versions:?}"), PATIENCE, async || {
            let starts = self.starts(name);
            ensure!(starts == versions, "{starts:?}");
            Ok(())
        })
        .await;
    }

    async fn finish(self) -> Result<()> {
        // The gate and the book stay until the agent has ended.
        let Self { stack, containers, witness, .. } = self;
        stack.delete_apps().await?;
        containers.wait_none().await;
        stack.finish(Some(&witness)).await
    }
}

#[tokio::test]
async fn a_hung_pull_holds_up_no_other_instance() -> Result<()> {
    let Some(world) = World::start("pull").await? else { return Ok(()) };
    let stack = &world.stack;
    let (repo, image) = (format!("skerry-test/{}", world.node), format!("skerry-test/{}:1", world.node));
    world.apply("old", "v1").await?;
    stack.wait_ready("old", 1).await;
    let old = world.containers.of_app("old")?.context("it runs")?;

    // One is new, one is an update of what runs.
    world.gate.hold(Call::pull(&repo));
    for name in ["hung", "old"] {
        let service = of_image(&image, signing(name, "v2", &world.witness));
        stack.apply(name, app([service])).await?;
    }
    world.gate.wait_held().await;
    let told = stack.wait_reason("hung", &world.node, &["Pulling"]).await;
    assert!(told.message.contains(&image), "{told:?}");
    world.other_work_goes_on("other").await?;
    stack.wait_reason("hung", &world.node, &["Pulling"]).await;
    assert_eq!(world.containers.of_app("old")?.as_ref(), Some(&old), "the copy before runs on");

    let busybox = BUSYBOX_IMAGE.rsplit_once(':').context("a tag")?.0;
    let tag = format!("/images/{busybox}:1/tag?repo={repo}&tag=1");
    ensure!(world.docker.request("POST", &tag, &[])?.status == 201, "the image gets its name");
    world.gate.let_go();
    stack.wait_ready("hung", 1).await;
    stack.wait_ready("old", 1).await;
    world.wait_starts("hung", &["v2"]).await;
    world.wait_starts("old", &["v1", "v2"]).await;
    let docker = world.docker.clone();
    world.finish().await?;
    ensure!(docker.request("DELETE", &format!("/images/{image}"), &[])?.status == 200, "the name goes");
    Ok(())
}

#[tokio::test]
async fn a_hung_call_of_one_instance_holds_up_no_other() -> Result<()> {
    let Some(world) = World::start("call").await? else { return Ok(()) };
    let stack = &world.stack;
    let calls = [
        ("create", Call::new("POST", "/containers/create?name=").with("hung-create")),
        ("start", Call::new("POST", "/start").of_container("hung-start")),
        ("list", Call::new("GET", "/containers/json").with("hung-list")),
    ];
    for (name, call) in calls {
        let hung = format!("hung-{name}");
        world.gate.hold(call);
        world.apply(&hung, "v1").await?;
        world.gate.wait_held().await;
        let told = stack.wait_reason(&hung, &world.node, &["Preparing"]).await;
        assert!(!told.message.is_empty(), "{told:?}");
        world.other_work_goes_on(&format!("beside-{name}")).await?;
        assert_eq!(world.starts(&hung), Vec::<String>::new());
        world.gate.let_go();
        stack.wait_ready(&hung, 1).await;
        world.wait_starts(&hung, &["v1"]).await;
    }
    world.finish().await
}

#[tokio::test]
async fn a_container_that_cannot_be_inspected_or_stopped_holds_up_no_other() -> Result<()> {
    let Some(world) = World::start("stop").await? else { return Ok(()) };
    let stack = &world.stack;
    world.gate.hold(Call::new("GET", "/json").of_container("hung-look"));
    world.apply("hung-look", "v1").await?;
    world.gate.wait_held().await;
    // Docker lists it as running: that is enough to tell so.
    stack.wait_ready("hung-look", 1).await;
    world.other_work_goes_on("beside-look").await?;
    assert_eq!(world.gate.held(), 1, "it is not asked again at each look");
    world.gate.let_go();
    stack.check_ready("hung-look", 1).await?;

    world.apply("hung-stop", "v1").await?;
    stack.wait_ready("hung-stop", 1).await;
    world.gate.hold(Call::new("POST", "/stop").of_container("hung-stop"));
    world.apply("hung-stop", "v2").await?;
    world.gate.wait_held().await;
    world.other_work_goes_on("beside-stop").await?;
    world.gate.let_go();
    stack.wait_ready("hung-stop", 1).await;
    world.wait_starts("hung-stop", &["v1", "v2"]).await;
    world.wait_starts("hung-look", &["v1"]).await;
    world.finish().await
}

#[tokio::test]
async fn while_docker_is_away_what_runs_runs_on_it_is_told_and_changes_are_made_afterwards() -> Result<()> {
    let Some(world) = World::start("away").await? else { return Ok(()) };
    let stack = &world.stack;
    for name in ["kept", "changed", "gone"] {
        world.apply(name, "v1").await?;
    }
    stack.apply("process", app([world.witness.service("a", "v1")])).await?;
    for name in ["kept", "changed", "gone", "process"] {
        stack.wait_ready(name, 1).await;
    }
    let before = world.containers.running()?;
    assert_eq!(before.len(), 3);

    world.gate.close();
    let told = stack.wait_condition(&world.node, "RuntimeAvailable", false, "RuntimeUnavailable").await;
    assert!(told.message.contains("docker"), "{told:?}");
    stack.wait_event(&world.node, "RuntimeUnavailable").await;
    for name in ["kept", "changed", "gone"] {
        stack.wait_reason(name, &world.node, &["RuntimeUnavailable"]).await;
    }
    world.apply("changed", "v2").await?;
    world.apply("new", "v1").await?;
    stack.delete_app("gone").await?;
    stack.wait_reason("changed", &world.node, &["RuntimeUnavailable"]).await;
    stack.wait_reason("new", &world.node, &["RuntimeUnavailable"]).await;
    // The other runtime of the node does its work.
    stack.apply("process", app([world.witness.service("a", "v2")])).await?;
    stack.wait_ready("process", 1).await;
    assert_eq!(world.containers.running()?, before, "what ran runs on, untouched");

    world.gate.open();
    for name in ["kept", "changed", "new"] {
        stack.wait_ready(name, 1).await;
    }
    stack.wait_condition(&world.node, "RuntimeAvailable", true, "RuntimesAnswer").await;
    stack.wait_event(&world.node, "RuntimeAvailable").await;
    eventually("what was deleted is gone", PATIENCE, async || {
        let runs = world.containers.of_app("gone")?;
        ensure!(runs.is_none(), "{runs:?}");
        Ok(())
    })
    .await;
    let kept = before.iter().find(|one| one.instance.starts_with("kept/"));
    assert_eq!(world.containers.of_app("kept")?.as_ref(), kept, "what did not change was not touched");
    world.wait_starts("changed", &["v1", "v2"]).await;
    for name in ["kept", "new", "gone"] {
        world.wait_starts(name, &["v1"]).await;
    }
    world.witness.check();
    world.finish().await
}
