//! Instances that are started anew, stopped and started by hand: with their outcome, until somebody says otherwise, and in nobody's way.

use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use serde_json::Value;
use skerry_integration::apps::{app, container, once, replicas, script, with_env};
use skerry_integration::containers::{Containers, unique};
use skerry_integration::stack::PATIENCE;
use skerry_integration::{Stack, StackConfig};
use skerry_proto::types::v1::container::PullPolicy;
use skerry_proto::types::v1::{
    AppSpec, InstancePhase, Job, RolloutStrategy, ServiceSpec, condition, service_spec,
};
use skerry_testing::{BUSYBOX_IMAGE, Docker, eventually};

use super::{done, ran, stack};

/// Says when it begins, with a variable, and when it is told to end.
const SAYS: &str = "trap 'echo told to end; exit 0' TERM; echo begun $VALUE; while :; do sleep 0.1; done";

/// A command about one instance that is done, and what it says of it.
async fn says(stack: &Stack, words: &[&str], instance: &str, what: &str) -> Result<()> {
    let (out, _) = done(stack, words).await?;
    assert_eq!(out, format!("instance/{instance} {what}\n"), "{words:?}");
    Ok(())
}

/// Waits until an instance is shown as stopped by hand.
async fn wait_stopped(stack: &Stack, app: &str, instance: &str) {
    eventually("it is shown as stopped by hand", PATIENCE, async || {
        let all = stack.instances(app).await?;
        let one = all.iter().find(|one| one.instance == instance).context("it is there")?;
        ensure!(
            one.phase() == InstancePhase::Stopped && one.reason == "StoppedByHand" && !one.ready,
            "{one:?}"
        );
        Ok(())
    })
    .await;
}

/// What holds of an instance of app `web`, whatever it runs on: `say` is its service with this value.
async fn is_stopped_and_started(
    stack: &mut Stack,
    node: &str,
    say: &dyn Fn(&str) -> ServiceSpec,
) -> Result<()> {
    let name = format!("web/s/{node}/0");
    let target = format!("instance/{name}");
    stack.apply("web", app([say("one")])).await?;
    stack.wait_ready("web", 1).await;
    says(stack, &["restart", &target], &name, "restarted").await?;
    says(stack, &["restart", "app/web", "s", "--node", node], &name, "restarted").await?;
    stack.wait_ready("web", 1).await;
    let (out, _) = done(stack, &["logs", "app/web"]).await?;
    assert_eq!(out, "begun one\ntold to end\nbegun one\ntold to end\nbegun one\n", "as its manifest says");
    let all = stack.instances("web").await?;
    assert_eq!(all.iter().map(|one| one.restarts).collect::<Vec<_>>(), [0], "nothing crashed");

    says(stack, &["start", "app/web"], &name, "runs already").await?;
    says(stack, &["stop", "app/web"], &name, "stopped").await?;
    wait_stopped(stack, "web", &name).await;
    says(stack, &["stop", "app/web"], &name, "is stopped already").await?;
    let (out, _) = done(stack, &["get", "instances"]).await?;
    ensure!(out.contains("Stopped") && out.contains("StoppedByHand"), "{out}");
    let (out, _) = done(stack, &["explain", "app/web"]).await?;
    ensure!(out.contains("stopped by hand"), "{out}");
    eventually("its app is not available", PATIENCE, async || {
        let status = stack.app("web").await?.status.unwrap_or_default();
        let available =
            status.conditions.iter().find(|one| one.r#type == "Available").context("a condition")?;
        ensure!(available.status() == condition::Status::False, "{available:?}");
        ensure!(available.reason == "StoppedByHand", "{available:?}");
        Ok(())
    })
    .await;

    // Neither another agent nor another revision starts it.
    stack.kill_agent(node)?;
    stack.wait_disconnected(node).await;
    stack.start_agent(node)?;
    stack.wait_connected(node).await;
    says(stack, &["stop", "app/web"], &name, "is stopped already").await?;
    stack.apply("web", app([say("two")])).await?;
    eventually("the node has the new revision", PATIENCE, async || {
        let (app, all) = (stack.app("web").await?, stack.instances("web").await?);
        let wanted = app.status.context("a status")?.revision;
        let one = all.first().context("an instance")?;
        ensure!(one.revision == wanted && one.reason == "StoppedByHand", "{one:?}");
        Ok(())
    })
    .await;
    says(stack, &["stop", "app/web"], &name, "is stopped already").await?;
    says(stack, &["start", &target], &name, "started").await?;
    stack.wait_ready("web", 1).await;
    let (out, _) = done(stack, &["logs", "app/web"]).await?;
    ensure!(out.ends_with("begun two\n") && out.matches("begun two").count() == 1, "{out}");

    // What was stopped is forgotten with the instance.
    says(stack, &["stop", &target], &name, "stopped").await?;
    stack.delete_apps().await?;
    stack.apply("web", app([say("three")])).await?;
    stack.wait_ready("web", 1).await;
    stack.delete_apps().await
}

#[tokio::test]
async fn a_process_is_stopped_and_started_by_hand() -> Result<()> {
    let mut stack = stack(&["n1"]).await?;
    is_stopped_and_started(&mut stack, "n1", &|value| with_env("VALUE", value, script("s", SAYS))).await?;
    stack.finish(None).await
}

#[tokio::test]
async fn a_container_is_stopped_and_started_by_hand() -> Result<()> {
    let Some(docker) = Docker::required() else { return Ok(()) };
    docker.busybox()?;
    let node = unique("act");
    let containers = Containers::of(&docker, &node);
    let config = StackConfig { gateways: 2, relays: 2, crossed_relays: true, ..StackConfig::default() };
    let mut stack = Stack::start_with(config).await?;
    stack.add_agent(&node, &[&format!("--docker-host=unix://{}", docker.socket().display())])?;
    stack.wait_connected(&node).await;
    let say = |value: &str| {
        let mut service = with_env("VALUE", value, container("s", SAYS));
        if let Some(service_spec::Program::Container(container)) = &mut service.program {
            container.pull_policy = PullPolicy::Never.into();
            BUSYBOX_IMAGE.clone_into(&mut container.image);
        }
        service
    };
    is_stopped_and_started(&mut stack, &node, &say).await?;
    containers.wait_none().await;
    stack.finish(None).await
}

#[tokio::test]
async fn each_of_several_has_its_own_outcome_and_what_is_refused_says_why() -> Result<()> {
    let mut stack = stack(&["n1", "n2"]).await?;
    stack.apply("web", app([replicas(2, script("s", "exec sleep 1000000"))])).await?;
    stack.wait_ready("web", 4).await;
    let refused = async |words: &[&str], code: i32, text: &str| -> Result<()> {
        let (ended, out, err) = ran(&stack, words).await?;
        ensure!(ended == Some(code) && err.contains(text), "{words:?}: {ended:?}: {out}{err}");
        Ok(())
    };
    refused(&["stop", "app/web"], 1, "these are 4 instances: web/s/n1/0 on n1, web/s/n1/1 on n1").await?;
    refused(&["stop", "app/web", "--node", "n1"], 1, "or all with --all").await?;
    refused(&["stop", "app/never"], 3, "projects/default/apps/never does not exist").await?;
    refused(&["stop", "app/web", "other"], 1, "no instance of service other").await?;
    refused(&["stop", "node/n1"], 2, "write app/NAME").await?;
    refused(&["stop", "app/web", "--timeout", "2h"], 1, "wait: from 1 s to 3600 s").await?;
    let (out, _) = done(&stack, &["stop", "app/web", "--node", "n1", "--all"]).await?;
    let mut lines: Vec<&str> = out.lines().collect();
    lines.sort_unstable();
    assert_eq!(lines, ["instance/web/s/n1/0 stopped", "instance/web/s/n1/1 stopped"]);

    // One node is away: it is told of its instances alone.
    stack.kill_agent("n2")?;
    stack.wait_disconnected("n2").await;
    let (code, out, err) = ran(&stack, &["start", "app/web", "--all"]).await?;
    let mut lines: Vec<&str> = out.lines().collect();
    lines.sort_unstable();
    assert_eq!(lines, ["instance/web/s/n1/0 started", "instance/web/s/n1/1 started"]);
    ensure!(code == Some(1) && err.matches("nodes/n2 is not connected").count() == 2, "{code:?}: {err}");
    stack.start_agent("n2")?;
    stack.wait_connected("n2").await;

    // What does not run afterwards says why.
    let mut none = once(script("s", ""));
    if let Some(service_spec::Program::Process(process)) = &mut none.program {
        "/no/such/program".clone_into(&mut process.program);
        process.args.clear();
    }
    stack.apply("ends", app([none])).await?;
    eventually("it cannot run", PATIENCE, async || {
        let all = stack.instances("ends").await?;
        ensure!(all.len() == 2 && all.iter().all(|one| one.phase() == InstancePhase::Failed), "{all:?}");
        Ok(())
    })
    .await;
    let (code, out, err) = ran(&stack, &["start", "app/ends", "--node", "n1"]).await?;
    ensure!(code == Some(1) && out.is_empty() && err.contains("/no/such/program"), "{code:?}: {out}{err}");

    // Jobs end by themselves.
    let job = ServiceSpec {
        kind: Some(service_spec::Kind::Job(Job::default())),
        ..script("s", "exec sleep 1000000")
    };
    stack.apply("job", app([job])).await?;
    eventually("the job runs", PATIENCE, async || {
        let all = stack.instances("job").await?;
        ensure!(all.iter().any(|one| one.phase() == InstancePhase::Running), "{all:?}");
        Ok(())
    })
    .await;
    let (code, _, err) = ran(&stack, &["stop", "app/job", "--all"]).await?;
    ensure!(code == Some(1) && err.contains("is of a job"), "{code:?}: {err}");

    // Who did what, and what came of it.
    eventually("it is on record", PATIENCE, async || {
        let (out, _) = done(&stack, &["audit", "--limit=0", "-o", "json"]).await?;
        let records: Value = serde_json::from_str(&out)?;
        let records = records["items"].as_array().context("records")?;
        let has = |resource: &str, outcome: &str, detail: &str| {
            records.iter().any(|one| {
                let text = one.to_string();
                text.contains("RelayService/ActOnInstances")
                    && text.contains(&format!("projects/default/instances/{resource}"))
                    && text.contains(outcome)
                    && text.contains(detail)
            })
        };
        ensure!(has("web/s/n1/0", "OPENED", "stop") && has("web/s/n1/0", "CLOSED", "stop: done"), "{out}");
        ensure!(
            has("web/s/n2/0", "CLOSED", "is not connected")
                && has("ends/s/n1/0", "CLOSED", "/no/such/program"),
            "{out}"
        );
        Ok(())
    })
    .await;
    stack.delete_apps().await?;
    stack.finish(None).await
}

/// An app that goes to one cluster after the other.
fn rolled(value: &str) -> AppSpec {
    let strategy = RolloutStrategy {
        health_window: Some(prost_types::Duration { seconds: 0, nanos: 0 }),
        ..RolloutStrategy::default()
    };
    AppSpec { rollout: Some(strategy), ..app([with_env("VALUE", value, script("s", SAYS))]) }
}

#[tokio::test]
async fn one_that_is_stopped_holds_up_no_rollout_and_has_the_new_revision_once_it_is_started() -> Result<()> {
    let stack = stack(&["n1", "n2", "n3"]).await?;
    stack.apply("web", rolled("one")).await?;
    stack.wait_ready("web", 3).await;
    says(&stack, &["stop", "app/web", "--node", "n1"], "web/s/n1/0", "stopped").await?;
    wait_stopped(&stack, "web", "web/s/n1/0").await;
    stack.apply("web", rolled("two")).await?;
    eventually("the rollout is done without it", Duration::from_secs(60), async || {
        let rollout =
            stack.app("web").await?.status.and_then(|status| status.rollout).context("a rollout")?;
        ensure!(rollout.phase().as_str_name() == "DONE", "{rollout:?}");
        ensure!(
            (rollout.healthy, rollout.away) == (2, 1),
            "it counts as nothing that it is not: {rollout:?}"
        );
        Ok(())
    })
    .await;
    says(&stack, &["start", "app/web", "--node", "n1"], "web/s/n1/0", "started").await?;
    stack.wait_ready("web", 3).await;
    let (out, _) = done(&stack, &["logs", "app/web", "--node", "n1", "--tail", "1"]).await?;
    assert_eq!(out, "begun two\n");
    stack.delete_apps().await?;
    stack.finish(None).await
}
