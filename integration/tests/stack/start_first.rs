//! An update that starts first: the old copy goes on until the new one is healthy, whoever is killed meanwhile.

use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use serde_json::{Value, json};
use skerry_integration::apps::{app, with_env};
use skerry_integration::containers::{Containers, Running, on_app_network, signing, unique};
use skerry_integration::stack::PATIENCE;
use skerry_integration::{Dockerd, Stack, Witness};
use skerry_proto::types::v1::{
    HealthCheck, RestartPolicy, ServiceSpec, UpdatePolicy, health_check, update_policy,
};
use skerry_testing::{BUSYBOX_IMAGE, Docker, eventually};

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

/// Containers of somebody else: one that Docker itself starts again, one that never ran.
struct Foreign {
    docker: Docker,
    ids: [String; 2],
    before: [Value; 2],
}

impl Foreign {
    fn new(docker: &Docker) -> Result<Self> {
        let body = json!({
            "Image": BUSYBOX_IMAGE, "Cmd": ["sleep", "1000000"], "Labels": {"theirs": "yes"},
            "HostConfig": {"NetworkMode": "host", "RestartPolicy": {"Name": "always"}},
        });
        let ids = [docker.create_container(&body)?, docker.create_container(&body)?];
        let started = docker.request("POST", &format!("/containers/{}/start", ids[0]), &[])?;
        ensure!(started.status == 204, "{}", started.text());
        let before = [made(docker, &ids[0])?, made(docker, &ids[1])?];
        Ok(Self { docker: docker.clone(), ids, before })
    }

    /// Waits until both are as they were made, the one running, the other never started.
    async fn wait_untouched(&self) {
        eventually("foreign containers are as they were", PATIENCE, async || {
            for (id, before) in self.ids.iter().zip(&self.before) {
                let now = made(&self.docker, id)?;
                ensure!(now == *before, "{before} became {now}");
            }
            let states =
                [0, 1].map(|n| self.docker.inspect(&self.ids[n]).map(|one| one["State"]["Status"].clone()));
            let [runs, never] = states;
            ensure!(
                (runs?, never?) == ("running".into(), "created".into()),
                "Docker did not bring them back"
            );
            Ok(())
        })
        .await;
    }
}

/// What does not change of a container that nobody touches, also when Docker starts anew.
fn made(docker: &Docker, id: &str) -> Result<Value> {
    let seen = docker.inspect(id)?;
    Ok(json!([seen["Id"], seen["Name"], seen["Created"], seen["Config"]]))
}

/// The names of all containers of the instance, whether they run or not.
fn names(docker: &Docker, instance: &str) -> Result<Vec<String>> {
    let all = docker.containers(&format!("skerry.io/instance={instance}"))?;
    let name = |id: &String| Ok(docker.inspect(id)?["Name"].as_str().unwrap_or_default().to_owned());
    all.iter().map(name).collect()
}

#[tokio::test]
async fn docker_killed_in_the_overlap_comes_back_to_one_copy_the_right_one_and_touches_nobody_elses()
-> Result<()> {
    // Where there shall be no Docker there is none to kill.
    if Docker::required().is_none() {
        return Ok(());
    }
    let witness = Witness::new()?;
    let mut dockerd = Dockerd::start().await?;
    let docker = dockerd.docker();
    docker.busybox()?;
    let foreign = Foreign::new(&docker)?;
    let node = unique("overlap");
    let containers = Containers::of(&docker, &node);
    let mut stack = Stack::start().await?;
    stack.add_agent(&node, &[&format!("--docker-host=unix://{}", docker.socket().display())])?;
    stack.wait_connected(&node).await;
    stack.apply(APP, app([web("v1", &witness)])).await?;
    stack.wait_ready(APP, 1).await;
    let first = wait_versions(&containers, &["v1"]).await.remove(0);
    let name = names(&docker, &first.instance)?;
    ensure!(name.len() == 1, "{name:?}");

    // The new one is not healthy: after Docker's death the old one is what runs again, and the other beside it.
    stack.apply(APP, app([web("v2", &witness)])).await?;
    wait_versions(&containers, &["v1", "v2"]).await;
    dockerd.kill().await?;
    dockerd.restart().await?;
    let both = wait_versions(&containers, &["v1", "v2"]).await;
    ensure!(both[0].id == first.id && both[0].started_at != first.started_at, "{both:?}");
    foreign.wait_untouched().await;

    // It becomes healthy while Docker is away, and the agent dies too.
    dockerd.kill().await?;
    stack.kill_agent(&node)?;
    std::fs::write(witness.path().join("v2"), "")?;
    stack.start_agent(&node)?;
    dockerd.restart().await?;
    wait_versions(&containers, &["v2"]).await;
    stack.wait_ready(APP, 1).await;
    assert_eq!(names(&docker, &first.instance)?, name, "one copy, with the instance's own name");
    foreign.wait_untouched().await;

    // Healthy from the start: Docker dies sooner or later while the one takes the place of the other.
    for (version, after_ms) in [("v3", 0), ("v4", 700), ("v5", 1400)] {
        std::fs::write(witness.path().join(version), "")?;
        stack.apply(APP, app([web(version, &witness)])).await?;
        eventually("the new one has started", PATIENCE, async || {
            let starts = witness.starts();
            ensure!(starts.iter().any(|start| start.version == version), "{starts:?}");
            Ok(())
        })
        .await;
        tokio::time::sleep(Duration::from_millis(after_ms)).await;
        dockerd.kill().await?;
        dockerd.restart().await?;
        let left = wait_versions(&containers, &[version]).await;
        stack.wait_ready(APP, 1).await;
        assert_eq!(containers.running()?, left, "what runs in the end is not touched again");
        assert_eq!(
            names(&docker, &first.instance)?,
            name,
            "{version}: one copy, with the instance's own name"
        );
        foreign.wait_untouched().await;
    }
    stack.delete_app(APP).await?;
    containers.wait_none().await;
    foreign.wait_untouched().await;
    stack.finish(None).await
}
