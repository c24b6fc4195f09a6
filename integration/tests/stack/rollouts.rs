//! Rollouts with several clusters: some after others, back by themselves, and never held up by who is not there.

use std::collections::BTreeMap;

use anyhow::{Context as _, Result, ensure};
use skerry_integration::apps::{app, script};
use skerry_integration::stack::PATIENCE;
use skerry_integration::{Stack, StackConfig, Witness};
use skerry_proto::scheduler::v1::RolloutStatus;
use skerry_proto::scheduler::v1::rollout_status::Phase;
use skerry_proto::types::v1::health_check::{Exec, Probe};
use skerry_proto::types::v1::service_spec::Kind;
use skerry_proto::types::v1::{AppSpec, HealthCheck, Job, LabelSelector, RolloutStrategy, ServiceSpec};
use skerry_testing::eventually;

use crate::operator::{said, skerry};

/// Batches of one cluster, which has to be healthy for a second.
fn one_by_one() -> RolloutStrategy {
    let seconds = |seconds| Some(prost_types::Duration { seconds, nanos: 0 });
    RolloutStrategy {
        batch_size: "1".to_owned(),
        health_window: seconds(1),
        progress_deadline: seconds(20),
        ..Default::default()
    }
}

/// The same, which stays at its first batch for as long as a test takes.
fn stuck() -> RolloutStrategy {
    let hour = Some(prost_types::Duration { seconds: 3600, nanos: 0 });
    RolloutStrategy { health_window: hour, progress_deadline: hour, ..one_by_one() }
}

fn spec(witness: &Witness, version: &str, rollout: RolloutStrategy) -> AppSpec {
    AppSpec { rollout: Some(rollout), ..app([witness.service("s", version)]) }
}

/// Runs and is never healthy.
fn broken(witness: &Witness, version: &str, deadline: i64) -> AppSpec {
    let mut service = witness.service("s", version);
    service.health_check = Some(HealthCheck {
        probe: Some(Probe::Exec(Exec { command: vec!["/bin/false".to_owned()] })),
        interval: Some(prost_types::Duration { seconds: 1, nanos: 0 }),
        ..Default::default()
    });
    let deadline = Some(prost_types::Duration { seconds: deadline, nanos: 0 });
    let rollout = RolloutStrategy { progress_deadline: deadline, ..one_by_one() };
    AppSpec { rollout: Some(rollout), ..app([service]) }
}

/// A stack of nodes n1 to n`count`, on each of which `web` runs in version one.
async fn fleet(witness: &Witness, count: usize, config: StackConfig) -> Result<Stack> {
    let mut stack = Stack::start_with(config).await?;
    for n in 1..=count {
        stack.add_agent(&format!("n{n}"), &[])?;
    }
    for n in 1..=count {
        stack.wait_connected(&format!("n{n}")).await;
    }
    stack.apply("web", spec(witness, "one", one_by_one())).await?;
    stack.wait_ready("web", u32::try_from(count)?).await;
    witness.wait_running(count).await;
    Ok(stack)
}

async fn rollout(stack: &Stack) -> Result<RolloutStatus> {
    stack.app("web").await?.status.and_then(|status| status.rollout).context("no rollout")
}

async fn wait_phase(stack: &Stack, phase: Phase) {
    eventually(&format!("the rollout is {phase:?}"), PATIENCE, async || -> Result<()> {
        let now = rollout(stack).await?;
        ensure!(now.phase() == phase, "{now:?}");
        Ok(())
    })
    .await;
}

/// Which version runs on each node.
fn versions(witness: &Witness) -> BTreeMap<String, String> {
    let node = |instance: &str| instance.split('_').nth(2).unwrap_or_default().to_owned();
    witness.running().into_iter().map(|start| (node(&start.instance), start.version)).collect()
}

/// Waits until these nodes run these versions.
async fn wait_versions(witness: &Witness, wanted: &[(&str, &str)]) {
    let wanted: BTreeMap<String, String> =
        wanted.iter().map(|(node, version)| ((*node).to_owned(), (*version).to_owned())).collect();
    eventually("the right versions run", PATIENCE, async || -> Result<()> {
        let now = versions(witness);
        ensure!(now == wanted, "{now:?}");
        Ok(())
    })
    .await;
}

/// The nodes on which a version was started, in order.
fn starts(witness: &Witness, version: &str) -> Vec<String> {
    let all = witness.starts().into_iter().filter(|start| start.version == version);
    all.map(|start| start.instance.split('_').nth(2).unwrap_or_default().to_owned()).collect()
}

#[tokio::test]
async fn canary_clusters_go_first_and_the_others_in_batches_once_somebody_says_so() -> Result<()> {
    let witness = Witness::new()?;
    let stack = fleet(&witness, 5, StackConfig::default()).await?;
    let labelled = skerry(&stack, &["label", "node/n5", "ring=canary"]).await?;
    ensure!(labelled.status.success(), "{}", said(&labelled));
    let canary = LabelSelector {
        match_labels: BTreeMap::from([("ring".to_owned(), "canary".to_owned())]),
        ..Default::default()
    };
    let strategy = RolloutStrategy {
        canary: Some(canary),
        pause_after_canary: true,
        batch_size: "2".to_owned(),
        ..one_by_one()
    };
    stack.apply("web", spec(&witness, "two", strategy)).await?;
    let paused = skerry(&stack, &["rollout", "status", "app/web", "--timeout=60s"]).await?;
    ensure!(paused.status.code() == Some(1), "{}", said(&paused));
    ensure!(said(&paused).contains("AfterCanary: the canary clusters are healthy"), "{}", said(&paused));
    assert_eq!(starts(&witness, "two"), ["n5"]);

    let resumed = skerry(&stack, &["rollout", "resume", "app/web"]).await?;
    ensure!(resumed.status.success(), "{}", said(&resumed));
    let done = skerry(&stack, &["rollout", "status", "app/web", "--timeout=60s"]).await?;
    ensure!(done.status.success(), "{}", said(&done));
    ensure!(said(&done).contains("app/web rolled out: 5/5 ready"), "{}", said(&done));
    let mut order = starts(&witness, "two");
    order[1..3].sort();
    order[3..].sort();
    assert_eq!(order, ["n5", "n1", "n2", "n3", "n4"]);
    let now = rollout(&stack).await?;
    assert_eq!((now.phase(), now.batch, now.healthy, now.clusters), (Phase::Done, 3, 5, 5));

    // How it is rolled out is no part of what runs: changed alone, it replaces nothing.
    let before = stack.app("web").await?;
    let after = stack.apply("web", spec(&witness, "two", one_by_one())).await?;
    let revision = |app: &skerry_proto::scheduler::v1::App| {
        app.status.as_ref().map(|status| status.revision.clone()).unwrap_or_default()
    };
    assert_eq!(revision(&before), revision(&after));
    assert_eq!(witness.starts().len(), 10);
    stack.finish(Some(&witness)).await?;
    witness.check();
    Ok(())
}

#[tokio::test]
async fn an_update_that_fails_goes_back_by_itself_and_reaches_nobody_else() -> Result<()> {
    let witness = Witness::new()?;
    let stack = fleet(&witness, 3, StackConfig::default()).await?;
    let first = stack.app("web").await?;
    stack.apply("web", broken(&witness, "bad", 4)).await?;
    let failed = skerry(&stack, &["rollout", "status", "app/web", "--timeout=60s"]).await?;
    ensure!(failed.status.code() == Some(1), "{}", said(&failed));
    for what in ["was rolled back", "ProgressDeadlineExceeded: not healthy after 4s: n1"] {
        ensure!(said(&failed).contains(what), "{}", said(&failed));
    }
    wait_versions(&witness, &[("n1", "one"), ("n2", "one"), ("n3", "one")]).await;
    assert_eq!(starts(&witness, "bad"), ["n1"]);
    assert_eq!(starts(&witness, "one").len(), 4, "n2 and n3 were never touched");

    // The app is what it was, to the byte, under a new number; what failed is remembered.
    stack.wait_ready("web", 3).await;
    let now = stack.app("web").await?;
    let services = |app: &skerry_proto::scheduler::v1::App| app.spec.clone().unwrap_or_default().services;
    assert_eq!(services(&now), services(&first));
    let revision = |app: &skerry_proto::scheduler::v1::App| app.status.clone().unwrap_or_default().revision;
    assert_eq!(revision(&now), revision(&first));
    let history = skerry(&stack, &["rollout", "history", "app/web"]).await?;
    let lines: Vec<String> = String::from_utf8_lossy(&history.stdout).lines().map(str::to_owned).collect();
    ensure!(lines.len() == 3 && lines[1].starts_with("3 ") && lines[1].contains("current"), "{lines:?}");
    ensure!(lines[2].starts_with("2 ") && lines[2].contains("rejected"), "{lines:?}");
    let events = stack.events().await?;
    for reason in ["RolloutFailed", "RolledBack"] {
        ensure!(events.iter().any(|event| event.reason == reason), "no {reason} in {events:?}");
    }
    let log = skerry(&stack, &["audit"]).await?;
    ensure!(said(&log).contains("scheduler (of its own accord)"), "{}", said(&log));

    // Applied again, it is tried again; `undo` passes over it.
    stack.apply("web", broken(&witness, "bad", 3600)).await?;
    wait_versions(&witness, &[("n1", "bad"), ("n2", "one"), ("n3", "one")]).await;
    let aborted = skerry(&stack, &["rollout", "abort", "app/web"]).await?;
    ensure!(aborted.status.success(), "{}", said(&aborted));
    wait_phase(&stack, Phase::RolledBack).await;
    assert_eq!(rollout(&stack).await?.reason, "Aborted");
    wait_versions(&witness, &[("n1", "one"), ("n2", "one"), ("n3", "one")]).await;
    assert_eq!(starts(&witness, "bad"), ["n1", "n1"]);
    stack.finish(Some(&witness)).await?;
    witness.check();
    Ok(())
}

#[tokio::test]
async fn a_batch_waits_until_its_jobs_have_succeeded_and_one_that_fails_takes_the_bundle_back() -> Result<()>
{
    let witness = Witness::new()?;
    let stack = fleet(&witness, 2, StackConfig::default()).await?;
    let gate = stack.dir().join("gate");
    let bundle = |version: &str, text: &str| {
        let kind = Some(Kind::Job(Job { backoff_limit: Some(0), ..Default::default() }));
        let mut spec = spec(&witness, version, one_by_one());
        spec.services.push(ServiceSpec { kind, ..script("migrate", text) });
        spec
    };
    let waits = format!("while ! [ -e {} ]; do sleep 0.05; done", gate.display());
    stack.apply("web", bundle("two", &waits)).await?;
    wait_versions(&witness, &[("n1", "two"), ("n2", "one")]).await;
    eventually("the job is waited for", PATIENCE, async || -> Result<()> {
        let now = rollout(&stack).await?;
        ensure!(now.message.contains("web/migrate/n1/0"), "{now:?}");
        Ok(())
    })
    .await;
    assert_eq!(starts(&witness, "two"), ["n1"]);
    std::fs::write(&gate, "")?;
    wait_phase(&stack, Phase::Done).await;
    assert_eq!(starts(&witness, "two"), ["n1", "n2"]);

    let deadline = Some(prost_types::Duration { seconds: 4, nanos: 0 });
    let mut failing = bundle("three", "exit 3");
    failing.rollout = Some(RolloutStrategy { progress_deadline: deadline, ..one_by_one() });
    stack.apply("web", failing).await?;
    wait_phase(&stack, Phase::RolledBack).await;
    let now = rollout(&stack).await?;
    ensure!(now.reason == "ProgressDeadlineExceeded" && now.message.contains("web/migrate/n1/0"), "{now:?}");
    wait_versions(&witness, &[("n1", "two"), ("n2", "two")]).await;
    assert_eq!(starts(&witness, "three"), ["n1"]);
    stack.finish(Some(&witness)).await?;
    witness.check();
    Ok(())
}

#[tokio::test]
async fn a_cluster_that_is_away_holds_nothing_up_and_has_its_turn_when_it_is_back() -> Result<()> {
    let witness = Witness::new()?;
    let mut stack = fleet(&witness, 3, StackConfig::default()).await?;
    stack.kill_agent("n2")?;
    stack.wait_disconnected("n2").await;
    stack.apply("web", spec(&witness, "two", one_by_one())).await?;
    let done = skerry(&stack, &["rollout", "status", "app/web", "--timeout=60s"]).await?;
    ensure!(done.status.success(), "{}", said(&done));
    ensure!(said(&done).contains("not there yet: 1"), "{}", said(&done));
    wait_versions(&witness, &[("n1", "two"), ("n2", "one"), ("n3", "two")]).await;
    stack.start_agent("n2")?;
    wait_versions(&witness, &[("n1", "two"), ("n2", "two"), ("n3", "two")]).await;
    stack.wait_ready("web", 3).await;
    let now = rollout(&stack).await?;
    assert_eq!((now.phase(), now.healthy), (Phase::Done, 3));
    stack.finish(Some(&witness)).await?;
    witness.check();
    Ok(())
}

#[tokio::test]
async fn a_rollout_is_paused_resumed_replaced_and_aborted() -> Result<()> {
    let witness = Witness::new()?;
    let stack = fleet(&witness, 3, StackConfig::default()).await?;
    let control = async |word: &str| skerry(&stack, &["rollout", word, "app/web"]).await;
    let refused = control("pause").await?;
    ensure!(
        refused.status.code() == Some(1) && said(&refused).contains("has no rollout"),
        "{}",
        said(&refused)
    );

    stack.apply("web", spec(&witness, "two", stuck())).await?;
    wait_versions(&witness, &[("n1", "two"), ("n2", "one"), ("n3", "one")]).await;
    ensure!(control("pause").await?.status.success(), "pause");
    let paused = rollout(&stack).await?;
    assert_eq!((paused.phase(), paused.reason.as_str()), (Phase::Paused, "Requested"));
    let twice = control("pause").await?;
    ensure!(twice.status.code() == Some(1) && said(&twice).contains("paused already"), "{}", said(&twice));
    ensure!(control("resume").await?.status.success(), "resume");
    assert_eq!(rollout(&stack).await?.phase(), Phase::Progressing);

    // Another change takes its place: who has not had the second one never gets it.
    stack.apply("web", spec(&witness, "three", stuck())).await?;
    wait_versions(&witness, &[("n1", "three"), ("n2", "one"), ("n3", "one")]).await;
    ensure!(control("abort").await?.status.success(), "abort");
    wait_phase(&stack, Phase::RolledBack).await;
    wait_versions(&witness, &[("n1", "one"), ("n2", "one"), ("n3", "one")]).await;
    stack.wait_ready("web", 3).await;
    let over = control("resume").await?;
    ensure!(over.status.code() == Some(1) && said(&over).contains("has ended"), "{}", said(&over));
    assert_eq!(starts(&witness, "two"), ["n1"]);
    assert_eq!(starts(&witness, "three"), ["n1"]);

    // Without a strategy a change goes to all at once, and ends what was under way.
    stack.apply("web", spec(&witness, "four", stuck())).await?;
    wait_versions(&witness, &[("n1", "four"), ("n2", "one"), ("n3", "one")]).await;
    stack.apply("web", app([witness.service("s", "five")])).await?;
    wait_versions(&witness, &[("n1", "five"), ("n2", "five"), ("n3", "five")]).await;
    ensure!(rollout(&stack).await.is_err(), "a rollout is left");
    stack.finish(Some(&witness)).await?;
    witness.check();
    Ok(())
}

#[tokio::test]
async fn a_rollout_goes_on_where_it_was_when_the_leading_scheduler_is_killed() -> Result<()> {
    let witness = Witness::new()?;
    let mut stack = fleet(&witness, 4, StackConfig { schedulers: 2, ..StackConfig::default() }).await?;
    stack.apply("web", spec(&witness, "two", one_by_one())).await?;
    // Each falls once in the middle, so the leader does.
    for (scheduler, begun) in [("scheduler-1", 1), ("scheduler-0", 2)] {
        eventually(&format!("{begun} clusters have begun"), PATIENCE, async || -> Result<()> {
            let count = starts(&witness, "two").len();
            ensure!(count >= begun, "{count}");
            Ok(())
        })
        .await;
        stack.kill_service(scheduler)?;
        stack.start_service(scheduler)?;
        stack.wait_service(scheduler).await?;
    }
    wait_phase(&stack, Phase::Done).await;
    assert_eq!(starts(&witness, "two"), ["n1", "n2", "n3", "n4"], "each once, one after the other");
    stack.finish(Some(&witness)).await?;
    witness.check();
    Ok(())
}
