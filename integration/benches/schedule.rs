//! `cargo xtask bench schedule`: how placement grows with the fleet, and how soon a changed app is assigned to ten thousand clusters.
//!
//! Method. *Placement*, alone and on one thread: fleets of 1,000, 10,000 and 100,000 nodes (`support/fleet.rs`), half of them in clusters of four, with 200 apps. In each
//! all is solved with nothing assigned yet (`fresh`), and where each node is assigned what it shall be (`settled`), as when a scheduler starts; then one change
//! after the other is applied, each to what came of the one before: other labels of a node and back, a node lost and found, a new revision of an app that goes to a
//! hundred clusters and back, the same app deleted and made again. Of changes every single one counts. At the end all is as it was; and on a fleet
//! of the smallest size some changes are made of which each is held against a full solution.
//!
//! *Rollout*: a scheduler in this process, with its API on loopback, over a real etcd that has the nodes, each a cluster of one, connected. An app is made
//! there, then changed, both without a rollout strategy: for all clusters at once. Time counts from the call until a watch of the store has told that the last node's
//! assignment has the revision. The scheduler starts with nothing assigned, and is given the time to say so of each node.
//!
//! `--quick`: smaller fleets, few changes. `--changes=N` of nodes, `--updates=N` of the app. `--only=place`, `law`, `rollout`: one part.

mod support;

use std::collections::BTreeSet;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use etcd_client::{Client, EventType, WatchOptions, WatchStream};
use prost::Message as _;
use skerry_daemon::Shutdown;
use skerry_model::{NodeRef, ProjectName};
use skerry_placement::{Changed, Delta, Node, Solution, State, apply, solve};
use skerry_proto::scheduler::v1::app_service_client::AppServiceClient;
use skerry_proto::scheduler::v1::{App, UpdateAppRequest};
use skerry_proto::store::v1 as stored;
use skerry_proto::types::v1::{self as types, Metadata};
use skerry_rpc::{Access, Server};
use skerry_scheduler::{Scheduler, SecretKeys};
use skerry_store::keys::GatewayId;
use skerry_store::{Key, Prefix, Store, StoreConfig, Target, Txn};
use skerry_testing::{Budget, Etcd, Figures, anonymous_bytes, percentile};
use support::fleet::{Fleet, LOCAL_CLUSTERS_MAX, app_name, local_apps};
use support::{median, ms, note_load, option, quick};
use tokio::net::TcpListener;
use tonic::transport::Channel;

/// What the design allows for the largest fleet.
const SOLVE_S_MAX: f64 = 5.0;
const CHANGE_MS_MAX: f64 = 20.0;
const ROLLOUT_S_MAX: f64 = 5.0;
/// Of nodes.
const LARGEST: usize = 100_000;
/// To so many clusters an app is rolled out.
const ROLLED_OUT: usize = 10_000;
/// Full solutions of each kind.
const SOLUTIONS: usize = 3;
/// Steps through the nodes of a fleet: prime, so that they come to nodes of all sorts.
const STRIDE: usize = 7919;
/// Nodes of which the records are written in one call.
const NODES_PER_CALL: usize = 500;
/// How long anything of a rollout may take.
const PATIENCE: Duration = Duration::from_secs(300);
/// Between two rollouts, for what a scheduler does after it has written.
const QUIET: Duration = Duration::from_secs(3);

#[tokio::main(flavor = "multi_thread", worker_threads = 2)]
async fn main() -> Result<()> {
    let figures = Figures::from_args();
    let changes = option("--changes")?.unwrap_or(if quick() { 100 } else { 1000 });
    let updates = option("--updates")?.unwrap_or(if quick() { 1 } else { 5 });
    ensure!(changes > 0 && updates > 0, "there is nothing to measure");
    note_load(&figures);
    let only = option::<String>("--only")?;
    let parts = ["place", "law", "rollout"];
    ensure!(only.as_deref().is_none_or(|only| parts.contains(&only)), "--only takes one of {parts:?}");
    let does = |part: &str| only.as_ref().is_none_or(|only| only == part);
    if does("place") {
        let fleets: &[usize] = if quick() { &[1000, 10_000] } else { &[1000, 10_000, LARGEST] };
        for nodes in fleets {
            placement(&Place { figures: &figures, nodes: *nodes }, Fleet::new(*nodes)?, changes)?;
        }
    }
    if does("law") {
        hold_law(Fleet::new(1000)?)?;
    }
    if does("rollout") {
        let rollouts: &[usize] = if quick() { &[1000] } else { &[1000, ROLLED_OUT] };
        for clusters in rollouts {
            rollout(&figures, *clusters, updates).await?;
        }
    }
    note_load(&figures);
    Ok(())
}

/// The figures of one fleet.
struct Place<'a> {
    figures: &'a Figures,
    nodes: usize,
}

impl Place<'_> {
    fn name(&self, of: &str) -> String {
        format!("schedule.place.{}k.{of}", self.nodes / 1000)
    }

    /// Held against its budget in the largest fleet.
    fn show(&self, of: &str, value: f64, unit: &'static str, most: f64) {
        let name = self.name(of);
        if self.nodes == LARGEST {
            self.figures.hold(&name, value, unit, Budget::AtMost(most));
        } else {
            self.figures.show(&name, value, unit);
        }
    }

    fn show_changes(&self, of: &str, samples: &[f64]) -> Result<()> {
        for percent in [50.0, 99.0] {
            let value = percentile(&mut samples.to_vec(), percent).context("no changes")?;
            self.show(&format!("{of}.p{percent}"), value, "ms", CHANGE_MS_MAX);
        }
        Ok(())
    }
}

fn placement(place: &Place<'_>, mut fleet: Fleet, changes: usize) -> Result<()> {
    let memory = || anonymous_bytes(std::process::id());
    let bare = memory()?;
    let mut solution = full(place, "solve.fresh", &fleet.state)?;
    fleet.commit(&solution);
    let settled = full(place, "solve.settled", &fleet.state)?;
    ensure!(settled == solution, "solving again moves something");
    drop(settled);
    let instances: usize = solution.values().flat_map(|plan| plan.nodes.values().map(Vec::len)).sum();
    let unplaced: usize = solution.values().map(|plan| plan.unplaced.len()).sum();
    place.figures.show(&place.name("clusters"), solution.len() as f64, "");
    place.figures.show(&place.name("instances"), instances as f64, "");
    place.figures.show(&place.name("unplaced"), unplaced as f64, "");
    // What is planned and what is assigned, each once.
    let held = memory()?.saturating_sub(bare);
    place.figures.show(&place.name("memory"), held as f64 / f64::from(1 << 20), "MiB");

    let before = solution.clone();
    nodes(place, &mut fleet, &mut solution, changes)?;
    apps(place, &mut fleet, &mut solution)?;
    ensure!(solution == before, "all changes were undone, and yet the solution is another one");
    Ok(())
}

fn full(place: &Place<'_>, of: &str, state: &State) -> Result<Solution> {
    let mut times = Vec::new();
    let mut last = None;
    for _ in 0..SOLUTIONS {
        drop(last.take());
        let begun = Instant::now();
        last = Some(solve(state));
        times.push(begun.elapsed().as_secs_f64());
    }
    place.show(of, median(&times), "s", SOLVE_S_MAX);
    last.context("nothing was solved")
}

/// Applies a change; answers what came of it, and how long it took in ms.
fn timed(state: &mut State, solution: &mut Solution, delta: Delta) -> (Changed, f64) {
    let begun = Instant::now();
    let changed = apply(state, solution, delta);
    (changed, ms(begun.elapsed()))
}

/// The same node with another disk, in another tier.
fn relabelled(node: &Node) -> Node {
    let mut other = node.clone();
    for (key, value, otherwise) in [("disk", "ssd", "hdd"), ("tier", "gold", "silver")] {
        let is = node.labels.get(key).is_some_and(|label| label == value);
        other.labels.insert(key.to_owned(), if is { otherwise } else { value }.to_owned());
    }
    other
}

fn nodes(place: &Place<'_>, fleet: &mut Fleet, solution: &mut Solution, changes: usize) -> Result<()> {
    let (mut labels, mut losses) = (Vec::new(), Vec::new());
    let (mut relabelling, mut moved) = (0, 0);
    for turn in 0..changes {
        let name = &fleet.nodes[turn * STRIDE % fleet.nodes.len()];
        let node = fleet.state.nodes.get(name).cloned().context("a node of the fleet")?;
        let change = |node: Node| Delta::Node(name.clone(), Some(node));
        for other in [relabelled(&node), node.clone()] {
            let (changed, took) = timed(&mut fleet.state, solution, change(other));
            relabelling += changed.nodes.len();
            labels.push(took);
        }
        for other in [Node { lost: true, ..node.clone() }, node] {
            let (changed, took) = timed(&mut fleet.state, solution, change(other));
            moved += changed.nodes.len();
            losses.push(took);
        }
    }
    ensure!(relabelling > 0 && moved > 0, "no node's plan changed");
    place.show_changes("node.labels", &labels)?;
    place.show_changes("node.lost", &losses)
}

fn apps(place: &Place<'_>, fleet: &mut Fleet, solution: &mut Solution) -> Result<()> {
    // A new revision, and an app that goes or comes.
    let mut times = [Vec::new(), Vec::new()];
    for number in local_apps().step_by(if quick() { 10 } else { 3 }) {
        let name = app_name(number)?;
        let (app, next) = (fleet.app(number, 0)?, fleet.app(number, 1)?);
        for (sort, app) in [(0, Some(next)), (0, Some(app.clone())), (1, None), (1, Some(app))] {
            let (changed, took) = timed(&mut fleet.state, solution, Delta::App(name.clone(), app));
            let clusters: BTreeSet<_> =
                changed.nodes.iter().map(|node| fleet.state.cluster_of(node)).collect();
            ensure!((1..=LOCAL_CLUSTERS_MAX).contains(&clusters.len()), "{name} is in {}", clusters.len());
            times[sort].push(took);
        }
    }
    place.show_changes("app.revision", &times[0])?;
    place.show_changes("app.arrival", &times[1])
}

/// Incremental is what full is, after each of some changes of every sort.
fn hold_law(mut fleet: Fleet) -> Result<()> {
    let mut solution = solve(&fleet.state);
    fleet.commit(&solution);
    let mut state = fleet.state.clone();
    let mut deltas = Vec::new();
    for turn in 0..8 {
        let name = &fleet.nodes[turn * STRIDE % fleet.nodes.len()];
        let node = state.nodes.get(name).cloned().context("a node of the fleet")?;
        let lost = Node { lost: true, ..node.clone() };
        deltas.push(Delta::Node(name.clone(), Some(relabelled(&node))));
        deltas.push(Delta::Node(name.clone(), turn.is_multiple_of(2).then_some(lost)));
        let (number, name) = (turn * 25, app_name(turn * 25)?);
        deltas.push(Delta::App(name.clone(), Some(fleet.app(number, 1)?)));
        deltas.push(Delta::App(name, turn.is_multiple_of(2).then(|| fleet.app(number, 2)).transpose()?));
    }
    for delta in deltas {
        let what = format!("{delta:?}");
        apply(&mut state, &mut solution, delta);
        ensure!(solve(&state) == solution, "incremental and full differ after {what}");
    }
    Ok(())
}

async fn rollout(figures: &Figures, clusters: usize, updates: usize) -> Result<()> {
    let etcd = Etcd::start().await?;
    let target = || Target::parse(&etcd.endpoint());
    let project = ProjectName::parse("default")?;
    // One that writes nodes without anybody's asking for them, and one as a service opens it.
    let filling = Store::connect(StoreConfig::new(target()?)).await?;
    skerry_api::ensure_project(&filling, &project).await?;
    fill(&filling, clusters).await?;
    let store = Store::connect(StoreConfig::new(target()?).written_by("scheduler")).await?;
    let shutdown = Shutdown::new();
    let begun = Instant::now();
    let scheduler = Scheduler::start(store.clone(), "a-member", SecretKeys::none(), &shutdown).await?;
    let assigned = Prefix::<stored::AssignmentRecord>::project(&project);
    within("the first assignments", async {
        while filling.count(&assigned).await? < clusters as u64 {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        Ok(())
    })
    .await?;
    let name = |of: &str| format!("schedule.rollout.{}k.{of}", clusters / 1000);
    figures.show(&name("start"), begun.elapsed().as_secs_f64(), "s");

    let listener = TcpListener::bind("127.0.0.1:0").await?;
    let url = format!("http://{}", listener.local_addr()?);
    let mut server = Server::new(Access::Loopback)?;
    scheduler.register(&mut server);
    shutdown.spawn(server.serve(listener, shutdown.token()));
    let mut apps = AppServiceClient::new(skerry_rpc::connect(&url, None).await?);
    let mut client = Client::connect([etcd.endpoint()], None).await?;
    let mut times = Vec::new();
    for version in 0..=updates {
        tokio::time::sleep(QUIET).await;
        let watch = client.watch(assigned.as_str(), Some(WatchOptions::new().with_prefix())).await?;
        let begun = Instant::now();
        let generation = apply_app(&mut apps, version).await?;
        ensure!(generation == i64::try_from(version)? + 1, "the app was not changed");
        let called = begun.elapsed();
        within("the last assignment", all_assigned(watch, clusters)).await?;
        let took = begun.elapsed().as_secs_f64();
        if version == 0 {
            figures.show(&name("create.call"), ms(called), "ms");
            hold_rollout(figures, clusters, &name("create"), took);
        } else {
            times.push(took);
        }
    }
    hold_rollout(figures, clusters, &name("update"), median(&times));
    shutdown.finish().await;
    store.close().await;
    filling.close().await;
    Ok(())
}

fn hold_rollout(figures: &Figures, clusters: usize, name: &str, seconds: f64) {
    if clusters == ROLLED_OUT {
        figures.hold(name, seconds, "s", Budget::AtMost(ROLLOUT_S_MAX));
    } else {
        figures.show(name, seconds, "s");
    }
}

async fn within<T>(what: &str, done: impl Future<Output = Result<T>>) -> Result<T> {
    let done = tokio::time::timeout(PATIENCE, done).await;
    done.with_context(|| format!("waited {PATIENCE:?} for {what}"))?
}

/// The records of so many nodes that are connected to one gateway and have told of their machines.
async fn fill(store: &Store, nodes: usize) -> Result<()> {
    let gateway = GatewayId::parse("a-gateway")?;
    let record = stored::GatewayRecord { address: "127.0.0.1:1".to_owned(), ..Default::default() };
    store.commit(Txn::new().put(&Key::of(&gateway), &record)).await?;
    let mut txns = Vec::new();
    for number in 0..nodes {
        let name = NodeRef::parse(&format!("projects/default/nodes/node-{number:05}"))?;
        let labels = [("site".to_owned(), format!("site-{:04}", number / 25))].into();
        let node = stored::NodeRecord {
            meta: Some(stored::Meta { uid: number.to_string(), labels, ..Default::default() }),
            ..Default::default()
        };
        let session = stored::SessionRecord { gateway: gateway.to_string(), ..Default::default() };
        let machine = types::MachineStatus {
            architecture: "amd64".to_owned(),
            cpu_millis: 8000,
            memory_bytes: 16 << 30,
            ..Default::default()
        };
        let status = stored::StatusRecord { machine: Some(machine), ..Default::default() };
        let txn = Txn::new().put(&Key::of(&name), &node).put(&Key::of(&name), &session);
        txns.push(txn.put(&Key::of(&name), &status));
        if txns.len() == NODES_PER_CALL || number + 1 == nodes {
            for done in store.commit_all(std::mem::take(&mut txns), None).await {
                done?;
            }
        }
    }
    Ok(())
}

/// Makes the app, or gives it another revision; answers its generation.
async fn apply_app(apps: &mut AppServiceClient<Channel>, version: usize) -> Result<i64> {
    let program = types::service_spec::Program::Container(types::Container {
        image: "registry.example.org/app:1".to_owned(),
        ..Default::default()
    });
    let service = types::ServiceSpec {
        name: "main".to_owned(),
        program: Some(program),
        env: [("VERSION".to_owned(), version.to_string())].into(),
        ..Default::default()
    };
    let app = App {
        metadata: Some(Metadata {
            name: "projects/default/apps/rolled-out".to_owned(),
            ..Default::default()
        }),
        spec: Some(types::AppSpec { services: vec![service], ..Default::default() }),
        status: None,
    };
    let request = UpdateAppRequest { app: Some(app), allow_missing: true, ..Default::default() };
    let app = apps.update_app(request).await?.into_inner().app.context("an app")?;
    Ok(app.metadata.unwrap_or_default().generation)
}

/// Waits until so many assignments were written, each with the one instance in the one revision.
async fn all_assigned(mut watch: WatchStream, clusters: usize) -> Result<()> {
    let (mut nodes, mut revisions) = (BTreeSet::new(), BTreeSet::new());
    while nodes.len() < clusters {
        let answer = watch.message().await?.context("the watch ended")?;
        ensure!(!answer.canceled(), "the watch was cancelled: {}", answer.cancel_reason());
        for event in answer.events() {
            ensure!(event.event_type() == EventType::Put, "an assignment was deleted");
            let entry = event.kv().context("a key")?;
            let record = stored::AssignmentRecord::decode(entry.value())?;
            let [instance] = &record.instances[..] else {
                anyhow::bail!("{} has {} instances", entry.key_str()?, record.instances.len())
            };
            revisions.insert(instance.revision.clone());
            nodes.insert(entry.key().to_vec());
        }
    }
    ensure!(revisions.len() == 1, "nodes were assigned {} revisions", revisions.len());
    Ok(())
}
