//! The laws of updates, on a node whose runtime does at once what the plan says, whose link comes and goes, and which crashes wherever it can.

use std::path::{Path, PathBuf};
use std::time::Duration;

use proptest::prelude::*;
use skerry_proto::gateway::v1 as gateway;
use skerry_proto::types::v1 as types;

use super::*;
use crate::desired::join;
use crate::former::Resources;
use crate::good::Goods;
use crate::memory::Busy;
use crate::plan::{Act, Action, Inputs, plan};
use crate::runtime::{Observed, Place, RunState, RuntimeError, RuntimeKind};
use crate::testing::{app, instance_resource, revision_resource, service};
use crate::world::View;

mod cases;

const SERVICES: [&str; 3] = ["a", "b", "c"];
/// By which an update is taken back.
const DEADLINE: Duration = Duration::from_secs(300);

/// A revision: for each service whether it is there, and which spec of it.
#[derive(Debug, Clone)]
struct Sketch {
    specs: [Option<u8>; 3],
    start_first: bool,
    /// Services whose spec in it never becomes healthy, unless it is one of the first revision.
    bad: [bool; 3],
}

fn sketches() -> impl Strategy<Value = Vec<Sketch>> {
    let one = (
        prop::array::uniform3(prop::option::weighted(0.85, 0..3u8)),
        any::<bool>(),
        prop::bool::weighted(0.5),
        prop::array::uniform3(prop::bool::weighted(0.4)),
    );
    prop::collection::vec(one, 3..5).prop_map(|all| {
        let mut sketches = Vec::new();
        for (at, (mut specs, start_first, is_bad, bad)) in (10..).zip(all) {
            // At least one service; and no two revisions are the same.
            specs[0] = Some(at);
            sketches.push(Sketch { specs, start_first, bad: bad.map(|bad| bad && is_bad) });
        }
        sketches
    })
}

fn resources(sketch: &Sketch) -> Resources {
    let spec = |(at, spec): (usize, &Option<u8>)| {
        let mut service = types::ServiceSpec { health_check: Some(check()), ..service(SERVICES[at]) };
        service.env.insert("VALUE".to_owned(), (*spec)?.to_string());
        if sketch.start_first {
            let order = types::update_policy::Order::StartFirst.into();
            service.update = Some(types::UpdatePolicy { order });
        }
        Some(service)
    };
    let services: Vec<types::ServiceSpec> = sketch.specs.iter().enumerate().filter_map(spec).collect();
    let revision = revision_resource("app", &app(services.clone()));
    let instance =
        |one: &types::ServiceSpec| instance_resource(&format!("app/{}/n1/0", one.name), &revision, &[]);
    let mut all: Vec<gateway::Resource> = services.iter().map(instance).collect();
    all.push(revision);
    all.into_iter().map(|one| (one.name.clone(), Arc::new(one))).collect()
}

fn check() -> types::HealthCheck {
    let tcp = types::health_check::Tcp { port: 1 };
    types::HealthCheck { probe: Some(types::health_check::Probe::Tcp(tcp)), ..Default::default() }
}

fn node_ref() -> NodeRef {
    NodeRef::parse("projects/default/nodes/n1").unwrap()
}

fn name() -> AppName {
    AppName::parse("app").unwrap()
}

/// What a power loss leaves.
#[derive(Clone)]
struct Disk {
    held: Resources,
    good: Resources,
    book: PathBuf,
}

struct Node {
    sketches: Vec<Sketch>,
    disk: Disk,
    runtime: tokio::runtime::Runtime,
    _dir: tempfile::TempDir,
    goods: Goods,
    wanted: Arc<Desired>,
    updates: Updates,
    desired: Arc<Desired>,
    world: World,
    memories: BTreeMap<InstanceName, Memory>,
    /// Fingerprints that are bad, and those whose images are here.
    bad: BTreeSet<String>,
    images: BTreeSet<String>,
    fetchable: [bool; 3],
    link: bool,
    now: MonoTime,
    /// Reasons of events.
    told: Vec<&'static str>,
}

/// Of specs: a bad one is bad in each revision that has it.
fn bad(sketches: &[Sketch]) -> BTreeSet<String> {
    let fingerprints = |sketch: &Sketch, pick: [bool; 3]| -> BTreeSet<String> {
        let (joined, _) = join(resources(sketch).values().map(AsRef::as_ref), true);
        let picked = |name: &InstanceName| {
            SERVICES.iter().zip(pick).any(|(one, pick)| pick && *one == name.service.as_str())
        };
        let specs = joined.instances.iter().filter(|(name, _)| picked(name));
        specs.map(|(name, spec)| format!("{name} {}", spec.fingerprint)).collect()
    };
    let good = fingerprints(&sketches[0], [true; 3]);
    sketches
        .iter()
        .flat_map(|sketch| fingerprints(sketch, sketch.bad))
        .filter(|one| !good.contains(one))
        .collect()
}

impl Node {
    fn new(sketches: Vec<Sketch>) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
        let disk = Disk { held: Resources::new(), good: Resources::new(), book: dir.path().to_owned() };
        let view = View { available: true, ..View::default() };
        let updates = Updates::open(Directory::new(dir.path()), &node_ref());
        let mut node = Self {
            bad: bad(&sketches),
            images: BTreeSet::new(),
            told: Vec::new(),
            sketches,
            disk,
            runtime,
            _dir: dir,
            goods: Goods::default(),
            wanted: Arc::default(),
            updates,
            desired: Arc::default(),
            world: [(RuntimeKind::Docker, view)].into(),
            memories: BTreeMap::new(),
            fetchable: [true; 3],
            link: true,
            now: MonoTime::default(),
        };
        node.receive(0);
        node
    }

    fn content(&self) -> Content {
        self.wanted.apps[&name()].content.clone()
    }

    fn rejected(&self) -> Option<Rejected> {
        self.updates.book.kept().get(&name()).and_then(|entry| entry.rejected.clone())
    }

    fn good(&self) -> Option<Content> {
        self.updates.good().remove(&name())
    }

    /// As the uplink does it: what came before is on disk before what comes.
    fn receive(&mut self, revision: usize) {
        let next = resources(&self.sketches[revision]);
        let (joined, refusals) = join(next.values().map(AsRef::as_ref), true);
        assert_eq!(refusals, []);
        let held = std::mem::take(&mut self.disk.held);
        self.goods = self.goods.supersede((&held, &self.wanted), &joined, &self.updates.good());
        self.disk.good = self.goods.resources().clone();
        self.disk.held = next;
        self.apply();
    }

    fn apply(&mut self) {
        let (mut joined, _) = join(self.disk.held.values().map(AsRef::as_ref), true);
        joined.goods = self.goods.of(&joined);
        self.wanted = Arc::new(joined);
    }

    fn prune(&mut self) {
        if let Some(goods) = self.goods.prune(&self.wanted, &self.updates.good()) {
            self.goods = goods;
            self.disk.good = self.goods.resources().clone();
            self.apply();
        }
    }

    /// The agent dies, and another one begins. `lost`: as does what it was about to write of updates.
    fn crash(&mut self, lost: bool) {
        let file = self.disk.book.join("updates");
        let before = std::fs::read(&file).ok();
        self.finish_writing();
        match before.filter(|_| lost) {
            Some(before) => std::fs::write(&file, before).unwrap(),
            None if lost => drop(std::fs::remove_file(&file)),
            None => {}
        }
        self.updates = Updates::open(Directory::new(Path::new(&self.disk.book)), &node_ref());
        self.goods = Goods::new(self.disk.good.clone());
        self.memories.clear();
        self.desired = Arc::default();
        self.apply();
    }

    /// So does the machine: nothing runs any more.
    fn reboot(&mut self) {
        self.crash(true);
        let at = SystemTime::UNIX_EPOCH;
        for view in self.world.values_mut() {
            for copy in view.instances.values_mut().chain(view.beside.values_mut()) {
                copy.state = RunState::Exited { code: None, at, out_of_memory: false };
            }
        }
    }

    fn finish_writing(&mut self) {
        let Self { runtime, updates, .. } = self;
        while !updates.book.is_idle() {
            runtime.block_on(updates.written());
        }
    }

    fn is_bad(&self, name: &InstanceName, fingerprint: &str) -> bool {
        self.bad.contains(&format!("{name} {fingerprint}"))
    }

    fn health(&self, beside: bool) -> BTreeMap<InstanceName, HealthState> {
        let copies = self.world.values().flat_map(|view| if beside { &view.beside } else { &view.instances });
        let running = copies.filter(|(_, copy)| matches!(copy.state, RunState::Running { .. }));
        let state = |copy: &Observed| {
            if self.is_bad(&copy.instance, &copy.fingerprint) {
                return HealthState::Unhealthy { message: "bad".to_owned() };
            }
            HealthState::Healthy
        };
        running.map(|(name, copy)| (name.clone(), state(copy))).collect()
    }

    /// One pass, of which so many acts are carried out before the agent is about to die, if it is.
    fn pass(&mut self, acts_max: usize) {
        let (health, beside_health) = (self.health(false), self.health(true));
        let (before, had_link) = (self.rejected(), self.link);
        let gates = BTreeMap::new();
        let seen = Seen {
            wanted: &self.wanted,
            world: &self.world,
            memories: &self.memories,
            hands: &BTreeMap::new(),
            gates: &gates,
            health: &health,
            link: self.link,
            now: self.now,
            wall: SystemTime::UNIX_EPOCH,
        };
        let entries = self.updates.entries.clone();
        let step = {
            let _guard = self.runtime.enter();
            self.updates.step(seen)
        };
        let is_rejected =
            |entries: &Entries| entries.get(&name()).is_some_and(|entry| entry.rejected.is_some());
        if is_rejected(&self.updates.entries) && !is_rejected(&entries) {
            assert!(!had_link, "the control plane decides while it is there");
            assert!(
                self.good().is_none_or(|good| !good.is_same(&self.content())),
                "what was good is not taken back"
            );
        }
        assert_eq!(before, self.rejected(), "nothing counts before it is written");
        self.desired = step.desired;
        self.told.extend(step.happenings.iter().map(|one| one.reason));
        let revisions: BTreeSet<String> =
            self.desired.instances.values().map(|spec| spec.revision.to_string()).collect();
        assert!(revisions.len() <= 1, "never two revisions are wanted at once: {revisions:?}");
        let plan = plan(Inputs {
            desired: &self.desired,
            world: &self.world,
            memories: &self.memories,
            hands: &BTreeMap::new(),
            gates: &gates,
            health: &health,
            beside_health: &beside_health,
            gpus: &BTreeMap::new(),
            now: self.now,
        });
        for action in plan.actions.iter().take(acts_max) {
            self.act(action);
        }
    }

    fn act(&mut self, action: &Action) {
        let at = SERVICES.iter().position(|one| *one == action.instance.service.as_str()).unwrap();
        let now = self.now;
        if action.act == Act::Fetch {
            let fingerprint = self.desired.instances[&action.instance].fingerprint.clone();
            let memory = self.memories.entry(action.instance.clone()).or_default();
            if self.fetchable[at] || self.images.contains(&fingerprint) {
                memory.fetched(&fingerprint);
                self.images.insert(fingerprint);
            } else {
                let error = RuntimeError { reason: "ImagePullFailed", message: "no".into(), transient: true };
                memory.not_fetched(fingerprint, error, now, 0.0);
            }
            return;
        }
        let busy = if action.act == Act::Remove { Busy::Stopping } else { Busy::Starting };
        if matches!(action.act, Act::Start | Act::Replace | Act::StartBeside | Act::Restart) {
            self.starts(action);
        }
        let memory = self.memories.entry(action.instance.clone()).or_default();
        memory.acts(busy, now);
        memory.busy = None;
        let specs = if action.former { &self.desired.formers } else { &self.desired.instances };
        let view = self.world.get_mut(&action.runtime).unwrap();
        match action.act {
            Act::Withdraw => drop(view.beside.remove(&action.instance)),
            Act::Remove => {
                view.beside.remove(&action.instance);
                view.instances.remove(&action.instance);
            }
            Act::StartBeside => {
                let copy = observed(&specs[&action.instance], Place::Beside);
                view.beside.insert(action.instance.clone(), copy);
            }
            _ => {
                let beside = if action.former { None } else { view.beside.remove(&action.instance) };
                let spec = &specs[&action.instance];
                let beside = beside.filter(|one| one.fingerprint == spec.fingerprint);
                let own = beside.map(|one| Observed { place: Place::Own, ..one });
                let own = own.unwrap_or_else(|| observed(spec, Place::Own));
                view.instances.insert(action.instance.clone(), own);
            }
        }
    }

    /// The laws about what is started.
    fn starts(&self, action: &Action) {
        let specs = if action.former { &self.desired.formers } else { &self.desired.instances };
        let spec = &specs[&action.instance];
        if let Some(rejected) = self.rejected().filter(|rejected| rejected.content.is_same(&self.content())) {
            assert!(
                Some(&spec.revision.to_string()) == rejected.runs.revisions.first(),
                "{action:?} is of what was taken back"
            );
        }
        let view = &self.world[&action.runtime];
        let there = view.instances.get(&action.instance);
        if action.act == Act::Replace && there.is_some_and(|there| there.fingerprint != spec.fingerprint) {
            for (name, other) in &self.desired.instances {
                let here = self.images.contains(&other.fingerprint);
                assert!(here, "{action:?} before what {name} needs is here");
            }
        }
    }

    /// Time passes, with a look every ten seconds.
    fn time(&mut self, seconds: u64) {
        for _ in 0..seconds.div_ceil(10) {
            self.pass(usize::MAX);
            self.finish_writing();
            self.prune();
            self.now = self.now + Duration::from_secs(10);
        }
    }

    /// Goes on until nothing more comes of it.
    fn settle(&mut self) {
        self.time(1_200);
    }

    fn is_wanted_bad(&self) -> bool {
        self.wanted.instances.values().any(|spec| self.is_bad(&spec.name, &spec.fingerprint))
    }
}

fn observed(spec: &InstanceSpec, place: Place) -> Observed {
    Observed {
        instance: spec.name.clone(),
        fingerprint: spec.fingerprint.clone(),
        revision: spec.revision.to_string(),
        runtime_id: format!("id of {}", spec.fingerprint),
        state: RunState::Running { since: SystemTime::UNIX_EPOCH },
        address: None,
        image_health: None,
        drift: None,
        place,
        started: None,
        warnings: Vec::new(),
        gpus: Vec::new(),
    }
}

#[derive(Debug, Clone)]
enum Happens {
    Pass,
    Written,
    Prune,
    /// So many seconds pass, with passes.
    Time(u64),
    Link(bool),
    Receive(prop::sample::Index),
    Fetchable(usize, bool),
    /// In a pass, after so many acts.
    Crash(usize, bool),
    Reboot,
}

fn happens() -> impl Strategy<Value = Vec<Happens>> {
    let one = prop_oneof![
        8 => Just(Happens::Pass),
        4 => Just(Happens::Written),
        2 => Just(Happens::Prune),
        4 => prop_oneof![1..20u64, Just(400)].prop_map(Happens::Time),
        3 => any::<bool>().prop_map(Happens::Link),
        3 => any::<prop::sample::Index>().prop_map(Happens::Receive),
        2 => (0..3usize, any::<bool>()).prop_map(|(at, fetchable)| Happens::Fetchable(at, fetchable)),
        2 => (0..4usize, any::<bool>()).prop_map(|(acts, lost)| Happens::Crash(acts, lost)),
        1 => Just(Happens::Reboot),
    ];
    prop::collection::vec(one, 0..60)
}

fn run(node: &mut Node, happens: &[Happens]) {
    for one in happens {
        match one {
            Happens::Pass => node.pass(usize::MAX),
            Happens::Written => node.finish_writing(),
            Happens::Prune => node.prune(),
            Happens::Time(seconds) => node.time(*seconds),
            Happens::Link(link) => node.link = *link,
            Happens::Receive(revision) if node.link => node.receive(revision.index(node.sketches.len())),
            Happens::Receive(_) => {}
            Happens::Fetchable(at, fetchable) => node.fetchable[*at] = *fetchable,
            Happens::Crash(acts_max, lost) => {
                node.pass(*acts_max);
                node.crash(*lost);
            }
            Happens::Reboot => node.reboot(),
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(200))]

    /// Beside what each pass checks: what is wanted, started and taken back.
    #[test]
    fn whatever_happens_an_app_ends_wholly_at_one_revision_and_a_good_one(
        sketches in sketches(),
        first in any::<bool>(),
        happens in happens(),
        link in any::<bool>(),
        at_the_end in prop::option::of(any::<bool>()),
    ) {
        let mut node = Node::new(sketches);
        if first {
            node.settle();
        }
        run(&mut node, &happens);
        // Failures stop; the link stays as it is.
        node.fetchable = [true; 3];
        node.link = link;
        node.settle();
        // A crash at the end changes nothing of it.
        if let Some(lost) = at_the_end {
            node.crash(lost);
            node.settle();
        }
        let rejected = node.rejected();
        let is_bad = node.is_wanted_bad();
        if let Some(rejected) = &rejected {
            prop_assert!(is_bad, "a good update is not taken back: {rejected:?}");
            prop_assert!(rejected.content.is_same(&node.content()));
        }
        let can_go_back = !node.wanted.goods.is_empty();
        prop_assert!(link || !is_bad || !can_go_back || rejected.is_some(), "it is taken back");
        if is_bad && rejected.is_none() {
            // The control plane decides, or there is nothing to go back to.
            return Ok(());
        }
        let view = &node.world[&RuntimeKind::Docker];
        prop_assert!(view.beside.is_empty());
        prop_assert_eq!(view.instances.len(), node.desired.instances.len());
        for (name, copy) in &view.instances {
            let spec = &node.desired.instances[name];
            prop_assert_eq!(&copy.fingerprint, &spec.fingerprint);
            prop_assert!(!node.is_bad(name, &copy.fingerprint), "{} is not healthy", name);
        }
        if rejected.is_none() {
            prop_assert_eq!(node.good(), Some(node.content()));
        }
    }
}
