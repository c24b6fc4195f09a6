//! A scheduler as a process: campaigns, follows the store, writes assignments that are not what placement says, clears away what nobody
//! refers to. What it writes are the real one's transactions.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::rc::Rc;
use std::time::Duration;

use skerry_model::{AppRef, ConfigRef, NodeName};
use skerry_placement::Placed;
use skerry_proto::store::v1 as stored;
use skerry_scheduler::writes::{self, Unsettled};
use skerry_store::keys::LeaderName;

use super::check::Origin;
use super::client::{Client, DEADLINE};
use super::faults::Fault;
use super::fleet::{Fleet, node_ref, records};
use super::lease::{Lease, campaign, lost};
use super::mirror::{Mirror, target};
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
        target::<stored::ClusterRecord>(false),
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
                let txn = writes::assign(&self.unsettled(&node), String::new());
                match self.commit(txn, leadership).await {
                    Some(revision) => {
                        self.process.trace(format_args!("assigns {node} at {revision}"));
                        newest = newest.max(revision);
                    }
                    None => failed = true,
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

    /// The node's assignment as it is and as it shall be.
    fn unsettled(&self, name: &NodeName) -> Unsettled {
        let fleet = self.fleet.borrow();
        Unsettled {
            causes: Vec::new(),
            node: node_ref(name),
            placed: fleet.state.plan_of(&fleet.solution, name).map(<[Placed]>::to_vec),
            before: fleet.state.previous.get(name).cloned().unwrap_or_default(),
            peers: Vec::new(),
            images: Vec::new(),
            images_before: Vec::new(),
            mod_revision: fleet.assignments.get(name).copied().unwrap_or(0),
        }
    }

    /// Deletes all but the newest revisions and contents, less what is used.
    async fn clear(&self, leadership: &Leadership) {
        for txn in self.clearances() {
            if self.commit(txn, leadership).await.is_some() {
                self.process.trace(format_args!("clears away a content"));
            }
        }
    }

    fn clearances(&self) -> Vec<skerry_store::Txn> {
        let map = self.mirror.map();
        let fleet = self.fleet.borrow();
        let planned = fleet.solution.values().flat_map(|plan| plan.nodes.values().flatten());
        let used: Vec<&Placed> = fleet.state.previous.values().flatten().chain(planned).collect();

        let apps = by_name(records::<stored::AppRecord>(&map));
        let all = records::<stored::RevisionRecord>(&map);
        let all = all.into_iter().map(|(name, record, at)| (name.app, (record.number, name.hash, at)));
        let app_at = |app: &AppRef| apps.get(app).map_or(0, |(_, at)| *at);
        let revisions = writes::unused(KEPT, all, app_at, |app, hash| {
            apps.get(app).is_some_and(|(record, _)| record.revision == hash.to_string())
                || used.iter().any(|p| p.instance.app == app.app && p.revision == *hash)
        });

        let configs = by_name(records::<stored::ConfigRecord>(&map));
        let all = records::<stored::ConfigRevisionRecord>(&map);
        let all = all.into_iter().map(|(name, _, at)| (name.config, (at, name.hash, at)));
        let config_at = |config: &ConfigRef| configs.get(config).map_or(0, |(_, at)| *at);
        let contents = writes::unused(KEPT, all, config_at, |config, hash| {
            configs.get(config).is_some_and(|(record, _)| record.hash == hash.to_string())
                || used.iter().any(|p| p.configs.get(&config.config) == Some(hash))
        });

        let revisions = revisions.into_iter().map(writes::clear_revision);
        revisions.chain(contents.into_iter().map(writes::clear_content)).collect()
    }

    /// Answers the revision of what happened.
    async fn commit(&self, txn: skerry_store::Txn, leadership: &Leadership) -> Option<i64> {
        let txn = self.process.sim.check(|_| Txn::of(txn));
        self.client.commit(txn.fenced(leadership), Origin::Other).await.ok()
    }
}

fn by_name<N: Ord, R>(records: Vec<(N, R, i64)>) -> BTreeMap<N, (R, i64)> {
    records.into_iter().map(|(name, record, at)| (name, (record, at))).collect()
}
