//! On the node an update of an app is one thing: its images come first, and what does not become healthy while the control plane is away is
//! taken back whole, by the node itself.

use std::collections::BTreeMap;
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use skerry_integration::apps::{app, container, script, with_env};
use skerry_integration::containers::{Containers, on_app_network, signing, unique};
use skerry_integration::stack::PATIENCE;
use skerry_integration::{Stack, Witness};
use skerry_proto::scheduler::v1::rollout_status::Phase;
use skerry_proto::types::v1::{AppSpec, InstanceStatus, RolloutStrategy, ServiceSpec, service_spec};
use skerry_testing::{Docker, eventually};

use crate::operator::done;

/// Nothing answers there.
const NOWHERE: &str = "127.0.0.1:1/none:1";
const APP: &str = "web";

/// What does not become healthy within some seconds has failed.
fn strategy() -> RolloutStrategy {
    let seconds = |seconds| Some(prost_types::Duration { seconds, nanos: 0 });
    RolloutStrategy { health_window: seconds(1), progress_deadline: seconds(15), ..Default::default() }
}

fn rolled_out(rollout: RolloutStrategy, services: [ServiceSpec; 2]) -> AppSpec {
    AppSpec { rollout: Some(rollout), ..app(services) }
}

/// Waits until the agent knows that what runs is good: nothing else is taken back to it.
async fn wait_good(stack: &Stack, node: &str, revision: &str) {
    let file = stack.agent_dir(node).join("updates");
    eventually("the node found it good", PATIENCE, async || {
        let known = std::fs::read(&file).context("nothing was found good yet")?;
        ensure!(String::from_utf8_lossy(&known).contains(revision), "not {revision}");
        Ok(())
    })
    .await;
}

async fn revision(stack: &Stack) -> Result<String> {
    Ok(stack.app(APP).await?.status.context("no status")?.revision)
}

/// The instances of the app by service.
async fn told(stack: &Stack) -> Result<BTreeMap<String, InstanceStatus>> {
    let service = |one: &InstanceStatus| one.instance.split('/').nth(1).unwrap_or_default().to_owned();
    Ok(stack.instances(APP).await?.into_iter().map(|one| (service(&one), one)).collect())
}

/// Waits until the services run in these versions and nothing else does, and answers the ids of the containers.
async fn wait_containers(containers: &Containers, what: &str, versions: [&str; 2]) -> Vec<String> {
    eventually(what, PATIENCE, async || {
        let running = containers.running()?;
        let found: Vec<&str> = running.iter().map(|one| one.version.as_str()).collect();
        ensure!(found == versions, "{running:?}");
        Ok(running.into_iter().map(|one| one.id).collect())
    })
    .await
}

#[tokio::test]
async fn a_bundle_of_which_one_part_fails_without_a_link_goes_back_whole_and_its_rollout_has_failed()
-> Result<()> {
    let Some(docker) = Docker::required() else { return Ok(()) };
    docker.busybox()?;
    let node = unique("taken-back");
    let (witness, containers) = (Witness::new()?, Containers::of(&docker, &node));
    let mut stack = Stack::start().await?;
    stack.add_agent(&node, &[&format!("--docker-host=unix://{}", docker.socket().display())])?;
    stack.wait_connected(&node).await;
    let part = |name: &str, version: &str| on_app_network(signing(name, version, &witness));
    stack.apply(APP, rolled_out(strategy(), [part("a", "v1"), part("b", "v1")])).await?;
    stack.wait_ready(APP, 2).await;
    wait_good(&stack, &node, &revision(&stack).await?).await;
    wait_containers(&containers, "both run", ["v1", "v1"]).await;

    // The update has come when the link goes; one of its parts ends again and again.
    let fails = with_env("VERSION", "v2", on_app_network(container("b", "exit 3")));
    stack.apply(APP, rolled_out(strategy(), [part("a", "v2"), fails])).await?;
    eventually("the good part is updated", PATIENCE, async || {
        let running = containers.running()?;
        ensure!(running.iter().any(|one| one.version == "v2" && one.instance.contains("/a/")), "{running:?}");
        Ok(())
    })
    .await;
    for service in ["gateway-0", "scheduler-0"] {
        stack.kill_service(service)?;
    }
    // The agent dies in the middle: then the time begins anew.
    stack.kill_agent(&node)?;
    stack.start_agent(&node)?;
    // And as soon as it goes back.
    eventually("the first goes back", PATIENCE, async || {
        let running = containers.running()?;
        ensure!(running.iter().any(|one| one.version == "v1"), "{running:?}");
        Ok(())
    })
    .await;
    stack.kill_agent(&node)?;
    stack.start_agent(&node)?;
    let back = wait_containers(&containers, "both run as before", ["v1", "v1"]).await;

    // It stays so, without a link, and for an agent that starts anew.
    stack.kill_agent(&node)?;
    stack.start_agent(&node)?;
    let starts = witness.starts().len();
    tokio::time::sleep(Duration::from_secs(3)).await;
    assert_eq!(wait_containers(&containers, "both run", ["v1", "v1"]).await, back);
    assert_eq!(witness.starts().len(), starts, "what was rejected is not tried again");

    // The link is back: the rollout has failed there, and says why.
    for service in ["scheduler-0", "gateway-0"] {
        stack.start_service(service)?;
        stack.wait_service(service).await?;
    }
    stack.wait_connected(&node).await;
    eventually("the rollout is rolled back", PATIENCE, async || {
        let status = stack.app(APP).await?.status.context("no status")?;
        let rollout = status.rollout.context("no rollout")?;
        // It may be seen before the node has said what became of it: then its time is over.
        let reasons = ["TakenBack", "ProgressDeadlineExceeded"];
        ensure!(
            rollout.phase() == Phase::RolledBack && reasons.contains(&rollout.reason.as_str()),
            "{rollout:?}"
        );
        ensure!(rollout.message.contains(&format!("{node}: {APP}/")), "{rollout:?}");
        Ok(())
    })
    .await;
    let described = done(&stack, &["describe", "app/web"]).await?;
    ensure!(described.contains(&format!("{APP}/b/{node}/0")), "{described}");
    eventually("the node says what it did", PATIENCE, async || {
        let events = stack.events().await?;
        let taken_back =
            events.iter().find(|one| one.reason == "RolledBack" && one.regarding.contains("/b/"));
        let message = &taken_back.with_context(|| format!("{events:?}"))?.message;
        ensure!(message.contains("without a link") && message.contains("exit code 3"), "{message}");
        Ok(())
    })
    .await;
    stack.wait_ready(APP, 2).await;
    assert_eq!(
        wait_containers(&containers, "both run", ["v1", "v1"]).await,
        back,
        "and were never touched again"
    );
    stack.delete_app(APP).await?;
    containers.wait_none().await;
    stack.finish(None).await
}

#[tokio::test]
async fn what_is_still_wanted_stays_taken_back_and_is_shown_until_something_else_is_sent() -> Result<()> {
    let witness = Witness::new()?;
    let mut stack = Stack::start().await?;
    stack.add_agent("n1", &[])?;
    stack.wait_connected("n1").await;
    // The rollout bears it.
    let bears = RolloutStrategy { max_failures: "1".to_owned(), ..strategy() };
    let bundle = |a: &str, b: ServiceSpec| rolled_out(bears.clone(), [witness.service("a", a), b]);
    stack.apply(APP, bundle("one", witness.service("b", "one"))).await?;
    stack.wait_ready(APP, 2).await;
    let first = revision(&stack).await?;
    wait_good(&stack, "n1", &first).await;

    stack.apply(APP, bundle("two", script("b", "exit 3"))).await?;
    let second = revision(&stack).await?;
    eventually("the good part is updated", PATIENCE, async || {
        ensure!(witness.running().iter().any(|one| one.version == "two"), "{:?}", witness.running());
        Ok(())
    })
    .await;
    stack.kill_service("gateway-0")?;
    let is_back = async || {
        let running = witness.running();
        ensure!(running.len() == 2 && running.iter().all(|one| one.version == "one"), "{running:?}");
        Ok(())
    };
    eventually("both run as before", PATIENCE, is_back).await;
    stack.start_service("gateway-0")?;
    stack.wait_connected("n1").await;

    eventually("it is told of all of it", PATIENCE, async || {
        let told = told(&stack).await?;
        for service in ["a", "b"] {
            let one = told.get(service).context("not told")?;
            ensure!(one.reason == "RolledBack" && !one.ready && one.revision == first, "{one:?}");
            ensure!(one.rejected_revision == second && one.message.contains(&second[..12]), "{one:?}");
        }
        Ok(())
    })
    .await;
    let starts = witness.starts().len();
    stack.kill_agent("n1")?;
    stack.start_agent("n1")?;
    stack.wait_connected("n1").await;
    tokio::time::sleep(Duration::from_secs(3)).await;
    is_back().await?;
    assert_eq!(witness.starts().len(), starts, "what was rejected is not tried again");
    for words in [&["describe", "app/web"][..], &["get", "instances", "web"], &["explain", "app/web"]] {
        let shown = done(&stack, words).await?;
        ensure!(shown.contains("RolledBack"), "{words:?}: {shown}");
    }

    stack.apply(APP, bundle("three", witness.service("b", "three"))).await?;
    stack.wait_ready(APP, 2).await;
    let running = witness.wait_running(2).await;
    ensure!(running.iter().all(|one| one.version == "three"), "{running:?}");
    let told = told(&stack).await?;
    ensure!(told.values().all(|one| one.rejected_revision.is_empty()), "{told:?}");
    stack.finish(Some(&witness)).await?;
    witness.check();
    Ok(())
}

#[tokio::test]
async fn an_image_that_cannot_be_pulled_keeps_its_whole_app_as_it_was_and_no_other_one() -> Result<()> {
    let Some(docker) = Docker::required() else { return Ok(()) };
    docker.busybox()?;
    let node = unique("images-first");
    let (witness, containers) = (Witness::new()?, Containers::of(&docker, &node));
    let mut stack = Stack::start().await?;
    stack.add_agent(&node, &[&format!("--docker-host=unix://{}", docker.socket().display())])?;
    stack.wait_connected(&node).await;
    let part = |name: &str, version: &str| on_app_network(signing(name, version, &witness));
    stack.apply(APP, app([part("a", "v1"), part("b", "v1")])).await?;
    stack.wait_ready(APP, 2).await;
    let before = wait_containers(&containers, "both run", ["v1", "v1"]).await;

    // Nobody listens there.
    let mut absent = part("b", "v2");
    if let Some(service_spec::Program::Container(container)) = &mut absent.program {
        container.image = NOWHERE.to_owned();
        container.pull_policy = 0;
    }
    stack.apply(APP, app([part("a", "v2"), absent])).await?;
    eventually("it is told what is awaited", PATIENCE, async || {
        let told = told(&stack).await?;
        let (a, b) = (told.get("a").context("no a")?, told.get("b").context("no b")?);
        ensure!(b.reason == "ImagePullFailed" && !b.ready, "{b:?}");
        ensure!(a.reason == "WaitingForImages" && !a.ready && a.message.contains(NOWHERE), "{a:?}");
        Ok(())
    })
    .await;
    stack.apply("other", app([part("x", "v1")])).await?;
    stack.wait_ready("other", 1).await;
    stack.delete_app("other").await?;
    eventually("the other one is gone", PATIENCE, async || {
        ensure!(containers.running()?.len() == 2, "{:?}", containers.running()?);
        Ok(())
    })
    .await;
    assert_eq!(wait_containers(&containers, "both run", ["v1", "v1"]).await, before, "neither was touched");

    stack.apply(APP, app([part("a", "v3"), part("b", "v3")])).await?;
    wait_containers(&containers, "both are updated", ["v3", "v3"]).await;
    stack.wait_ready(APP, 2).await;
    stack.delete_app(APP).await?;
    containers.wait_none().await;
    stack.finish(None).await
}
