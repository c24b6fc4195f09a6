//! System apps, with agents that enrol: chosen by a token and by labels of nodes and of a cluster, versioned and rolled out like any other, and
//! shown apart.

use anyhow::{Context as _, Result, ensure};
use skerry_integration::stack::PATIENCE;
use skerry_integration::{Witness, apps};
use skerry_proto::scheduler::v1::rollout_status::Phase;
use skerry_proto::scheduler::v1::{App, GetAppRequest, UpdateAppRequest};
use skerry_proto::types::v1::service_spec::Kind;
use skerry_proto::types::v1::{AppSpec, DaemonSet, Metadata, RolloutStrategy};
use skerry_testing::{Process, eventually};

use super::fleet_trust::World;

fn named(app: &str) -> String {
    format!("projects/default/apps/{app}")
}

async fn apply(world: &World, app: &str, spec: AppSpec) -> Result<()> {
    let metadata = Metadata { name: named(app), ..Default::default() };
    let app = Some(App { metadata: Some(metadata), spec: Some(spec), status: None });
    let request = UpdateAppRequest { app, allow_missing: true, ..Default::default() };
    world.apps().await?.update_app(request).await?;
    Ok(())
}

/// A system app with one copy on each node that is chosen for it.
fn broker(witness: &Witness, version: &str) -> AppSpec {
    let mut service = witness.service("b", version);
    service.kind = Some(Kind::DaemonSet(DaemonSet {}));
    let seconds = |seconds| Some(prost_types::Duration { seconds, nanos: 0 });
    let rollout =
        RolloutStrategy { batch_size: "1".to_owned(), health_window: seconds(1), ..Default::default() };
    AppSpec { system: true, rollout: Some(rollout), ..apps::app([service]) }
}

/// Waits until an app runs on these nodes, and is on no other.
async fn runs_on(world: &World, app: &str, nodes: &[&str]) {
    eventually(&format!("{app} runs on {nodes:?}"), PATIENCE, async || {
        let rows = world.skerry(&["get", "instances", app, "--no-headers"]).await?;
        let running = rows.lines().map(|row| {
            let words: Vec<&str> = row.split_whitespace().collect();
            let &[_, node, phase, ready, ..] = words.as_slice() else { return "?" };
            if (phase, ready) == ("Running", "yes") { node } else { "?" }
        });
        let mut running: Vec<&str> = running.collect();
        running.sort_unstable();
        ensure!(running == nodes, "{rows}");
        Ok(())
    })
    .await;
}

async fn machine(world: &World, node: &str, flags: &[&str]) -> Result<Process> {
    let token = world.skerry(&[&["token", "create", "--quiet"], flags].concat()).await?;
    world.agent(node, None, &["--token", token.trim(), "--node", node])
}

#[tokio::test]
async fn a_system_app_goes_where_it_is_chosen_is_rolled_out_and_shown_apart() -> Result<()> {
    let (world, witness) = (World::start().await?, Witness::new()?);
    world.skerry(&["create", "cluster", "plant"]).await?;
    // Born into the cluster, one of them for the broker; the third is in none.
    let in_plant = "--cluster=plant";
    let _agents = [
        machine(&world, "n1", &[in_plant, "--system-apps=broker"]).await?,
        machine(&world, "n2", &[in_plant]).await?,
        machine(&world, "n3", &[]).await?,
    ];
    world.connected(&["n1", "n2", "n3"]).await?;
    let clusters = world.skerry(&["get", "clusters", "--no-headers"]).await?;
    ensure!(clusters.split_whitespace().take(2).eq(["plant", "2/2"]), "{clusters}");

    apply(&world, "broker", broker(&witness, "one")).await?;
    let mut web = witness.service("w", "one");
    web.kind = Some(Kind::DaemonSet(DaemonSet {}));
    apply(&world, "web", apps::app([web])).await?;
    runs_on(&world, "broker", &["n1"]).await;
    runs_on(&world, "web", &["n1", "n2", "n3"]).await;

    // Nobody is chosen for this one, and that is what it says.
    apply(&world, "rules", AppSpec { system: true, ..apps::app([witness.service("r", "one")]) }).await?;
    eventually("it says what would choose it", PATIENCE, async || {
        let told = world.skerry(&["describe", "app/rules"]).await?;
        let reason =
            told.contains("NotChosen") && told.contains("none has the label `system.skerry.dev/rules`");
        ensure!(reason && told.contains("Instances: none"), "{told}");
        Ok(())
    })
    .await;

    // By its label, a member and a node that is in no cluster.
    world.skerry(&["label", "node/n3", "system.skerry.dev/broker=yes"]).await?;
    runs_on(&world, "broker", &["n1", "n3"]).await;

    // A new version comes to each cluster that it goes to, and to no other.
    apply(&world, "broker", broker(&witness, "two")).await?;
    eventually("the rollout is done", PATIENCE, async || {
        let app =
            world.apps().await?.get_app(GetAppRequest { name: named("broker") }).await?.into_inner().app;
        let rollout = app.and_then(|app| app.status).and_then(|status| status.rollout).context("none")?;
        ensure!(
            rollout.phase() == Phase::Done && (rollout.clusters, rollout.healthy) == (2, 2),
            "{rollout:?}"
        );
        Ok(())
    })
    .await;
    let two = witness.running().into_iter().filter(|start| start.version == "two").count();
    assert_eq!(two, 2, "{:?}", witness.running());

    // Apart from what the machines are there for.
    let table = world.skerry(&["get", "apps"]).await?;
    let (others, system) = table.split_once("\n\nSYSTEM APP ").with_context(|| table.clone())?;
    ensure!(others.contains("web") && !others.contains("broker"), "{table}");
    ensure!(system.contains("broker") && system.contains("rules"), "{table}");
    let told = world.skerry(&["describe", "node/n1"]).await?;
    let (own, system) = told.split_once("\nSystem apps:\n").with_context(|| told.clone())?;
    ensure!(own.contains("web/w/plant/") && !own.contains("broker/b/plant/"), "{told}");
    ensure!(system.contains("broker/b/plant/0"), "{told}");
    let told = world.skerry(&["describe", "app/broker"]).await?;
    ensure!(told.contains("System app:  yes; chosen by the label system.skerry.dev/broker"), "{told}");

    // The cluster's label means all of its members; without labels nothing is left.
    world.skerry(&["label", "cluster/plant", "system.skerry.dev/broker="]).await?;
    runs_on(&world, "broker", &["n1", "n2", "n3"]).await;
    world.skerry(&["label", "cluster/plant", "system.skerry.dev/broker-"]).await?;
    world.skerry(&["label", "node/n3", "system.skerry.dev/broker-"]).await?;
    runs_on(&world, "broker", &["n1"]).await;
    world.skerry(&["label", "node/n1", "system.skerry.dev/broker-"]).await?;
    runs_on(&world, "broker", &[]).await;
    runs_on(&world, "web", &["n1", "n2", "n3"]).await;

    world.skerry(&["delete", "app/broker", "app/web", "app/rules", "--timeout=60s"]).await?;
    witness.wait_running(0).await;
    witness.check();
    Ok(())
}
