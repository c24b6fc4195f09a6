//! A scheduler as a process: campaigns, follows the store, writes assignments that are not what placement says, clears away what nobody
//! refers to. Its transactions compare what the real one's do.

use std::cell::RefCell;
use std::collections::{BTreeMap, BTreeSet};
use std::rc::Rc;
use std::time::Duration;

use skerry_model::{AppRef, ConfigRef, ContentHash, NodeName, RevisionRef};
use skerry_placement::Placed;
use skerry_proto::store::v1 as stored;
use skerry_store::Key;
use skerry_store::keys::{ConfigRevisionRef, LeaderName};

use super::check::Origin;
use super::client::{Client, DEADLINE};
use super::faults::Fault;
use super::fleet::{Fleet, node_ref, record_of, records};
use super::lease::{Lease, campaign, lost};
use super::mirror::{Mirror, target};
use super::operator::project;
use super::sim::{Crash, Process, Sim, WallClock};
use super::store::StoreHost;
use super::txn::{Leadership, Txn};

/// How long a leader may be silent before another takes over.
const LEASE_TTL: Duration = Duration::from_secs(8);
/// After a pass in which something failed, before the next.
const RETRY_WAIT: Duration = Duration::from_millis(250);
/// Between two looks for what can be cleared away.
const CLEAR_EVERY: Duration = Duration::from_secs(60);
/// Revisions of one app, or contents of one config, that stay in any case. The real one keeps ten; fewer make the simulation find more.
const KEPT: usize = 1;

/// One place where a scheduler runs, over all its lives.
pub(super) struct SchedulerHost {
    sim: Sim,
    store: StoreHost,
    index: usize,
    pub(super) clock: Rc<WallClock>,
}

struct Scheduler {
    process: Process,
    client: Client,
    mirror: Mirror,
    fleet: RefCell<Fleet>,
}

impl SchedulerHost {
    pub(super) fn new(sim: &Sim, store: &StoreHost, index: usize) -> Rc<Self> {
        Rc::new(Self { sim: sim.clone(), store: store.clone(), index, clock: Rc::default() })
    }

    /// Starts it.
    pub(super) fn start(self: &Rc<Self>) {
        let crash = Crash { per_million: 1_200, fault: Fault::SchedulerCrash };
        let process = self.sim.process(&format!("scheduler-{}", self.index), crash, &self.clock);
        let host = Rc::clone(self);
        self.sim.exec().on_kill(process.id, move || {
            let (again, away) = (Rc::clone(&host), host.sim.between_ms(100, 20_000));
            host.sim.exec().at(host.sim.now() + away, move || again.start());
        });
        let store = self.store.clone();
        process.spawn(run(process.clone(), store));
    }
}

async fn run(process: Process, store: StoreHost) {
    process.trace(format_args!("starts"));
    let Ok(name) = LeaderName::parse("scheduler") else { return };
    let client = Client::new(&process, &store);
    client.connect().await;
    let targets = vec![
        target::<stored::NodeRecord>(false),
        target::<stored::AppRecord>(false),
        target::<stored::RevisionRecord>(false),
        target::<stored::ConfigRecord>(false),
        target::<stored::ConfigRevisionRecord>(false),
        target::<stored::AssignmentRecord>(false),
    ];
    let mirror = Mirror::start(&client, targets);
    let scheduler = Scheduler { process, client, mirror, fleet: RefCell::default() };
    scheduler.mirror.ready().await;
    loop {
        let lease = Lease::keep(&scheduler.client, LEASE_TTL);
        let (leadership, id) = campaign(&scheduler.client, &name, &lease).await;
        tokio::select! {
            biased;
            () = lost(&scheduler.client, &lease, &leadership, id) => {
                scheduler.process.trace(format_args!("no longer leads"));
            }
            () = scheduler.assign(&leadership) => {}
        }
        lease.revoke().await;
    }
}

impl Scheduler {
    async fn assign(&self, leadership: &Leadership) {
        let mut wake = self.mirror.subscribe();
        let mut clear = self.process.sim.now() + CLEAR_EVERY;
        loop {
            wake.take();
            self.take();
            let open = self.fleet.borrow().unsettled();
            if open.is_empty() {
                tokio::select! {
                    biased;
                    changed = wake.changed() => if changed.is_err() { return },
                    () = self.process.sleep_until(clear) => {
                        clear = self.process.sim.now() + CLEAR_EVERY;
                        self.clear(leadership).await;
                    }
                }
                continue;
            }
            let (mut newest, mut failed) = (0, false);
            for node in open {
                let txn = self.write(&node).fenced(leadership);
                match self.client.commit(txn, Origin::Other).await {
                    Ok(revision) => {
                        self.process.trace(format_args!("assigns {node} at {revision}"));
                        newest = newest.max(revision);
                    }
                    Err(_) => failed = true,
                }
            }
            let mut published = self.mirror.subscribe();
            let shown =
                async { while self.mirror.revision() < newest && published.changed().await.is_ok() {} };
            self.process.timeout(DEADLINE, shown).await;
            if failed {
                self.process.timeout(RETRY_WAIT, wake.changed()).await;
            }
        }
    }

    fn take(&self) {
        let turn = self.process.sim.rng(|rng| rng.below(64));
        let taken = self.fleet.borrow_mut().take(&self.mirror.map(), turn);
        self.process.sim.check(|_| taken);
    }

    /// The transaction that makes a node's assignment what it shall be.
    fn write(&self, name: &NodeName) -> Txn {
        let fleet = self.fleet.borrow();
        let node = node_ref(name);
        let key = Key::<stored::AssignmentRecord>::of(&node);
        let mod_revision = fleet.assignments.get(name).copied().unwrap_or(0);
        let mut txn = Txn::new().when_unchanged(&key, mod_revision);
        let Some(plan) = fleet.solution.get(name) else { return txn.delete(&key) };
        txn = txn.when_exists(&Key::<stored::NodeRecord>::of(&node));
        let before = fleet.state.previous.get(name).map_or(&[][..], Vec::as_slice);
        for revision in revisions(&plan.placed).difference(&revisions(before)) {
            txn = txn.when_exists(&Key::<stored::RevisionRecord>::of(revision));
        }
        for content in contents(&plan.placed).difference(&contents(before)) {
            let config = ConfigRef { project: project(), config: content.0.clone() };
            let content = ConfigRevisionRef { config, hash: content.1 };
            txn = txn.when_exists(&Key::<stored::ConfigRevisionRecord>::of(&content));
        }
        txn.put(&key, &record_of(&plan.placed))
    }

    /// Deletes all but the newest revisions and contents, less what is used.
    async fn clear(&self, leadership: &Leadership) {
        let map = self.mirror.map();
        let mut txns = Vec::new();
        {
            let fleet = self.fleet.borrow();
            let planned = fleet.solution.values().flat_map(|plan| &plan.placed);
            let used: Vec<&Placed> = fleet.state.previous.values().flatten().chain(planned).collect();
            let mut by_app: BTreeMap<AppRef, Vec<(i64, ContentHash, i64)>> = BTreeMap::new();
            for (name, record, at) in records::<stored::RevisionRecord>(&map) {
                by_app.entry(name.app).or_default().push((record.number, name.hash, at));
            }
            let current: BTreeMap<_, _> = records::<stored::AppRecord>(&map)
                .into_iter()
                .map(|(name, record, at)| (name, (record.revision, at)))
                .collect();
            for (app, list) in by_app {
                let keep = if current.contains_key(&app) { KEPT } else { 0 };
                for (hash, at) in old(list, keep) {
                    let (now, owner_at) = current.get(&app).cloned().unwrap_or_default();
                    let is_current = now == hash.to_string();
                    let is_used = used.iter().any(|p| p.instance.app == app.app && p.revision == hash);
                    if !is_current && !is_used {
                        let key = Key::<stored::RevisionRecord>::of(&RevisionRef { app: app.clone(), hash });
                        txns.push(
                            Txn::new()
                                .when_unchanged(&key, at)
                                .when_unchanged(&Key::<stored::AppRecord>::of(&app), owner_at)
                                .delete(&key),
                        );
                    }
                }
            }
            let mut by_config: BTreeMap<ConfigRef, Vec<(i64, ContentHash, i64)>> = BTreeMap::new();
            for (name, _, at) in records::<stored::ConfigRevisionRecord>(&map) {
                by_config.entry(name.config).or_default().push((at, name.hash, at));
            }
            let current: BTreeMap<_, _> = records::<stored::ConfigRecord>(&map)
                .into_iter()
                .map(|(name, record, at)| (name, (record.hash, at)))
                .collect();
            for (config, list) in by_config {
                let keep = if current.contains_key(&config) { KEPT } else { 0 };
                for (hash, at) in old(list, keep) {
                    let (now, owner_at) = current.get(&config).cloned().unwrap_or_default();
                    let is_current = now == hash.to_string();
                    let is_used = used.iter().any(|p| p.configs.get(&config.config) == Some(&hash));
                    if !is_current && !is_used {
                        let content = ConfigRevisionRef { config: config.clone(), hash };
                        let key = Key::<stored::ConfigRevisionRecord>::of(&content);
                        txns.push(
                            Txn::new()
                                .when_unchanged(&key, at)
                                .when_unchanged(&Key::<stored::ConfigRecord>::of(&config), owner_at)
                                .delete(&key),
                        );
                    }
                }
            }
        }
        for txn in txns {
            if self.client.commit(txn.fenced(leadership), Origin::Other).await.is_ok() {
                self.process.trace(format_args!("clears away a content"));
            }
        }
    }
}

fn old(mut list: Vec<(i64, ContentHash, i64)>, keep: usize) -> Vec<(ContentHash, i64)> {
    list.sort_unstable_by_key(|(order, ..)| std::cmp::Reverse(*order));
    list.into_iter().skip(keep).map(|(_, hash, at)| (hash, at)).collect()
}

fn revisions(placed: &[Placed]) -> BTreeSet<RevisionRef> {
    let app = |placed: &Placed| AppRef { project: project(), app: placed.instance.app.clone() };
    placed.iter().map(|placed| RevisionRef { app: app(placed), hash: placed.revision }).collect()
}

fn contents(placed: &[Placed]) -> BTreeSet<(skerry_model::ConfigName, ContentHash)> {
    placed.iter().flat_map(|placed| placed.configs.iter().map(|(name, hash)| (name.clone(), *hash))).collect()
}
