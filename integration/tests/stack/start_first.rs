//! An update that starts first: the old copy goes on until the new one is healthy, whoever is killed meanwhile.

use anyhow::{Context as _, Result, ensure};
use skerry_integration::apps::{app, with_env};
use skerry_integration::containers::{Containers, Running, on_app_network, signing, unique};
use skerry_integration::stack::PATIENCE;
use skerry_integration::{Stack, Witness};
use skerry_proto::types::v1::{
    HealthCheck, RestartPolicy, ServiceSpec, UpdatePolicy, health_check, update_policy,
};
use skerry_testing::{Docker, eventually};

const APP: &str = "web";

/// Healthy as `v1`, and as another version once the book's directory has a file of that name.
fn web(version: &str, witness: &Witness) -> ServiceSpec {
    let check = "test \"$VERSION\" = v1 || test -e /book/$VERSION";
    let command = ["sh", "-c", check].map(str::to_owned).to_vec();
    let second = prost_types::Duration { seconds: 1, nanos: 0 };
    ServiceSpec {
        health_check: Some(HealthCheck {
            probe: Some(health_check::Probe::Exec(health_check::Exec { command })),
            interval: Some(second),
            timeout: Some(prost_types::Duration { seconds: 5, nanos: 0 }),
            retries: Some(3),
            ..HealthCheck::default()
        }),
        restart: Some(RestartPolicy {
            backoff: Some(second),
            backoff_max: Some(second),
            ..RestartPolicy::default()
        }),
        update: Some(UpdatePolicy { order: update_policy::Order::StartFirst.into() }),
        ..on_app_network(signing(APP, version, witness))
    }
}

fn of_version<'a>(running: &'a [Running], version: &str) -> Option<&'a Running> {
    running.iter().find(|one| one.version == version)
}

/// Waits until exactly these versions run, and answers them in this order.
async fn wait_versions(containers: &Containers, versions: &[&str]) -> Vec<Running> {
    eventually(&format!("{versions:?} run"), PATIENCE, async || {
        let running = containers.running()?;
        ensure!(running.len() <= 2, "never more than two: {running:?}");
        ensure!(running.len() == versions.len(), "{running:?}");
        let found = versions.iter().map(|version| of_version(&running, version).cloned());
        found.collect::<Option<Vec<_>>>().with_context(|| format!("{running:?}"))
    })
    .await
}

#[tokio::test]
async fn the_old_copy_goes_on_until_the_new_one_is_healthy_whenever_the_agent_is_killed() -> Result<()> {
    let Some(docker) = Docker::required() else { return Ok(()) };
    docker.busybox()?;
    let node = unique("start-first");
    let (witness, containers) = (Witness::new()?, Containers::of(&docker, &node));
    let mut stack = Stack::start().await?;
    stack.add_agent(&node, &[&format!("--docker-host=unix://{}", docker.socket().display())])?;
    stack.wait_connected(&node).await;
    stack.apply(APP, app([web("v1", &witness)])).await?;
    stack.wait_ready(APP, 1).await;
    let old = wait_versions(&containers, &["v1"]).await.remove(0);

    // The new one does not become healthy: it is given up and tried again, and the old one goes on.
    stack.apply(APP, app([web("v2", &witness)])).await?;
    eventually("it is given up", PATIENCE, async || {
        let events = stack.events().await?;
        ensure!(events.iter().any(|event| event.reason == "UpdateUnhealthy"), "{events:?}");
        Ok(())
    })
    .await;
    let both = wait_versions(&containers, &["v1", "v2"]).await;
    ensure!(both[0] == old, "the old one was touched: {both:?}");

    // In the overlap the agent is killed.
    stack.kill_agent(&node)?;
    stack.start_agent(&node)?;
    let both = wait_versions(&containers, &["v1", "v2"]).await;
    ensure!(both[0] == old, "the old one was touched: {both:?}");

    // It becomes healthy, and the agent is killed again and again while the one takes the place of the other.
    std::fs::write(witness.path().join("v2"), "")?;
    for _ in 0..5 {
        stack.kill_agent(&node)?;
        stack.start_agent(&node)?;
        let running = containers.running()?;
        ensure!((1..=2).contains(&running.len()), "{running:?}");
    }
    let new = wait_versions(&containers, &["v2"]).await.remove(0);
    stack.wait_ready(APP, 1).await;

    // Back again in the overlap: the one beside goes and the other one was never touched.
    stack.apply(APP, app([with_env("MORE", "1", web("v3", &witness))])).await?;
    let both = wait_versions(&containers, &["v2", "v3"]).await;
    ensure!(both[0] == new, "the old one was touched: {both:?}");
    stack.apply(APP, app([web("v2", &witness)])).await?;
    let left = wait_versions(&containers, &["v2"]).await;
    ensure!(left == [new], "the old one was touched: {left:?}");

    stack.delete_app(APP).await?;
    containers.wait_none().await;
    stack.finish(None).await
}
