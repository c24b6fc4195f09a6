//! The world around two machines: wire, disk, store, clock.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use prost::Message as _;
use skerry_model::ContentHash;
use skerry_proto::gateway::v1 as pb;
use skerry_proto::gateway::v1::{sync_request::Body as Up, sync_response::Body as Down};
use skerry_proto::scheduler::v1::ConfigSpec;
use skerry_proto::store::v1 as store;
use skerry_proto::types::v1 as types;
use skerry_sync::desired::{ResourceName, content_resource, resources_of};
use skerry_sync::{
    AgentConfig, AgentEffect, AgentEvent, AgentMachine, Assignment, Change, Desired, Ending, GatewaySession,
    MonoTime, Now, OpenFailure, Opened, SessionConfig, SessionEffect, SessionEvent, Told, Version, WallTime,
    limits, merge,
};

mod effects;

const NODE: &str = "projects/p/nodes/n";

/// What comes from outside.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Input {
    Assign { app: u8, variant: u8 },
    Instance { instance: u8, restarts: u8 },
    Gone { instance: u8 },
    Machine { memory: u8 },
    Events { count: u8 },
}

/// What a gateway asked of the store.
#[derive(Debug, Clone)]
enum Io {
    Open(Box<pb::Hello>),
    Load(u64, Vec<String>),
    Commit(u64, Arc<Change>),
    Close,
}

/// One stream.
struct Conn {
    session: GatewaySession,
    up: VecDeque<pb::SyncRequest>,
    down: VecDeque<pb::SyncResponse>,
    io: Vec<Io>,
    epoch: i64,
    /// The agent's end is gone: the gateway notices after it has read what came before.
    cut: bool,
    noticed: bool,
    ended: bool,
    /// Reports whose commit has happened, or needs none.
    committed: BTreeSet<u64>,
    /// Versions of assignments that the gateway was told.
    told: i64,
}

#[derive(Default)]
struct Store {
    revision: i64,
    assignment: (i64, Arc<store::AssignmentRecord>),
    session: (i64, String),
    status: Option<store::StatusRecord>,
    old_status: Option<store::StatusRecord>,
    events: store::EventsRecord,
    contents: BTreeMap<String, (Bytes, Vec<String>)>,
    /// All events that were ever stored.
    log: Vec<(String, u64)>,
}

pub(crate) struct World {
    now: MonoTime,
    agent: AgentMachine,
    boot: u32,
    raised: u64,
    disk: Arc<Desired>,
    persisting: Option<(u64, Arc<Desired>)>,
    dialling: bool,
    attached: Option<usize>,
    conns: Vec<Conn>,
    store: Store,
    apps: BTreeMap<u8, u8>,
    machine: Option<types::MachineStatus>,
    instances: BTreeMap<String, types::InstanceStatus>,
    /// Frames that were sent either way.
    pub(crate) frames: u64,
}

/// What may happen next.
#[derive(Debug, Clone, Copy)]
enum Action {
    Accept,
    Up(usize),
    Down,
    Notice(usize),
    Io(usize, usize),
    Tell(usize),
    Persist,
    Timer,
    // What goes wrong:
    Refuse,
    Cut,
    IoFails(usize, usize),
    IoAnswerLost(usize, usize),
    PersistFails,
    AgentCrash { written: bool },
    GatewayCrash,
    StoreForgets,
}

fn agent(boot: u32, seed: u64) -> AgentMachine {
    AgentMachine::new(AgentConfig {
        node: NODE.to_owned(),
        node_uid: String::new(),
        boot_id: format!("boot-{boot}"),
        agent_version: "1".to_owned(),
        features: [skerry_model::feature::PEERS.to_owned(), skerry_model::feature::PREFETCH.to_owned()]
            .into(),
        identity: None,
        seed: seed ^ u64::from(boot),
    })
}

impl World {
    pub(crate) fn new(seed: u64) -> Self {
        let mut world = Self {
            now: MonoTime::from_origin(Duration::from_secs(1)),
            agent: agent(1, seed),
            boot: 1,
            raised: 0,
            disk: Arc::default(),
            persisting: None,
            dialling: false,
            attached: None,
            conns: Vec::new(),
            store: Store { revision: 10, ..Store::default() },
            apps: BTreeMap::new(),
            machine: None,
            instances: BTreeMap::new(),
            frames: 0,
        };
        world.feed_agent(AgentEvent::Start { held: Arc::default() });
        world.input(Input::Assign { app: 0, variant: 1 });
        world
    }

    fn now(&self) -> Now {
        Now { mono: self.now, wall: WallTime::from_epoch(self.now.since_origin()) }
    }

    // What comes from outside.

    pub(crate) fn input(&mut self, input: Input) {
        match input {
            Input::Assign { app, variant } => {
                self.apps.insert(app, variant);
                let record = self.assignment();
                self.store.revision += 1;
                self.store.assignment = (self.store.revision, Arc::new(record));
            }
            Input::Instance { instance, restarts } => {
                let status = types::InstanceStatus {
                    instance: format!("app0/s/n/{instance}"),
                    restarts: restarts.into(),
                    ..types::InstanceStatus::default()
                };
                self.instances.insert(status.instance.clone(), status.clone());
                self.feed_agent(AgentEvent::InstanceChanged(Box::new(status)));
            }
            Input::Gone { instance } => {
                let name = format!("app0/s/n/{instance}");
                self.instances.remove(&name);
                self.feed_agent(AgentEvent::InstanceGone(name));
            }
            Input::Machine { memory } => {
                let machine =
                    types::MachineStatus { memory_bytes: memory.into(), ..types::MachineStatus::default() };
                self.machine = Some(machine.clone());
                self.feed_agent(AgentEvent::MachineChanged(Box::new(machine)));
            }
            Input::Events { count } => {
                for _ in 0..count {
                    self.raised += 1;
                    // Each another one: what repeats is counted and not told again.
                    let reason = format!("{}-{}", self.boot, self.raised);
                    let event = types::Event { reason, ..types::Event::default() };
                    self.feed_agent(AgentEvent::Raised(Box::new(event)));
                }
            }
        }
    }

    /// The assignment that the apps' variants make. 0: none. 4: requires what no agent has. 5: a content that the store lost.
    fn assignment(&mut self) -> store::AssignmentRecord {
        let (mut instances, mut peers, mut images) = (Vec::new(), Vec::new(), Vec::new());
        for (app, variant) in self.apps.clone().into_iter().filter(|(_, variant)| *variant > 0) {
            let mut configs = Vec::new();
            let mut service = types::ServiceSpec {
                name: "s".to_owned(),
                program: Some(types::service_spec::Program::Process(types::Process {
                    program: format!("/bin/v{variant}"),
                    ..types::Process::default()
                })),
                ..types::ServiceSpec::default()
            };
            if variant == 2 || variant == 3 {
                let spec = ConfigSpec {
                    data: [("k".to_owned(), format!("{variant}"))].into(),
                    ..ConfigSpec::default()
                };
                let bytes = Bytes::from(spec.encode_to_vec());
                let hash = ContentHash::of(&bytes).to_string();
                self.store.contents.insert(format!("configs/c/{hash}"), (bytes, Vec::new()));
                service.configs =
                    vec![types::ConfigMount { config: "c".to_owned(), ..types::ConfigMount::default() }];
                configs.push(store::AssignedConfig { config: "c".to_owned(), hash });
            }
            let spec = types::AppSpec { services: vec![service], ..types::AppSpec::default() };
            let bytes = Bytes::from(spec.encode_to_vec());
            let revision = ContentHash::of(&bytes).to_string();
            let requires = if variant == 4 { vec!["from-the-future".to_owned()] } else { Vec::new() };
            if variant != 5 {
                self.store.contents.insert(format!("revisions/app{app}/{revision}"), (bytes, requires));
            }
            if variant == 1 || variant == 3 {
                let member =
                    store::AssignedPeer { node: "m".to_owned(), address: format!("192.0.2.{variant}") };
                let service = store::AssignedPeerService {
                    service: "t".to_owned(),
                    members: vec![member],
                    met: vec![1],
                };
                peers.push(store::AssignedPeers {
                    app: format!("app{app}"),
                    revision: revision.clone(),
                    services: vec![service],
                });
            }
            if variant == 2 || variant == 3 {
                images.push(store::AssignedImage {
                    id: skerry_model::image_id(&format!("app{app}"), "", ""),
                    image: format!("app{app}"),
                    round: variant.into(),
                    ..store::AssignedImage::default()
                });
            }
            for ordinal in 0..2 {
                instances.push(store::AssignedInstance {
                    instance: format!("app{app}/s/n/{ordinal}"),
                    revision: revision.clone(),
                    configs: configs.clone(),
                    ..Default::default()
                });
            }
        }
        store::AssignmentRecord { instances, peers, images, ..Default::default() }
    }

    // What goes on.

    fn actions(&self) -> Vec<Action> {
        let mut actions = Vec::new();
        if self.dialling {
            actions.push(Action::Accept);
        }
        if self.persisting.is_some() {
            actions.push(Action::Persist);
        }
        if let Some(conn) = self.attached
            && !self.conns[conn].down.is_empty()
        {
            actions.push(Action::Down);
        }
        for (index, conn) in self.conns.iter().enumerate() {
            if !conn.up.is_empty() {
                actions.push(Action::Up(index));
            } else if conn.cut && !conn.noticed {
                actions.push(Action::Notice(index));
            }
            actions.extend((0..conn.io.len()).map(|io| Action::Io(index, io)));
            if !conn.ended && conn.epoch > 0 && conn.told < self.store.revision {
                actions.push(Action::Tell(index));
            }
        }
        actions
    }

    /// One thing that goes on by itself; the clock, where there is none or it is picked.
    pub(crate) fn run(&mut self, pick: usize) {
        let mut actions = self.actions();
        // The disk is slow, and so is what is left of broken streams: it comes when others have gone on.
        if !pick.is_multiple_of(4) {
            actions.retain(|action| !self.is_late(*action));
        }
        // Time mostly passes while nothing else does: else every link would look dead.
        if actions.is_empty() || (pick / 4).is_multiple_of(16) {
            actions = vec![Action::Timer];
        }
        self.act(actions[(pick / 64) % actions.len()]);
    }

    fn is_late(&self, action: Action) -> bool {
        match action {
            Action::Persist => true,
            Action::Up(conn) | Action::Notice(conn) | Action::Io(conn, _) | Action::Tell(conn) => {
                self.conns[conn].cut
            }
            _ => false,
        }
    }

    /// One thing that goes wrong.
    pub(crate) fn fault(&mut self, pick: usize) {
        let mut actions = vec![
            Action::AgentCrash { written: pick.is_multiple_of(2) },
            Action::GatewayCrash,
            Action::StoreForgets,
        ];
        actions.extend([Action::Cut; 3]);
        if self.dialling {
            actions.push(Action::Refuse);
        }
        if self.persisting.is_some() {
            actions.extend([Action::PersistFails; 4]);
        }
        for (index, conn) in self.conns.iter().enumerate() {
            for io in 0..conn.io.len() {
                actions.extend([Action::IoFails(index, io), Action::IoAnswerLost(index, io)].repeat(2));
            }
        }
        self.act(actions[(pick / 2) % actions.len()]);
    }

    /// Lets everything go on, with nothing going wrong, until nothing does but heartbeats.
    pub(crate) fn settle(&mut self) {
        if self.machine.is_none() {
            self.input(Input::Machine { memory: 1 });
        }
        // The longest wait is that after being superseded; then some exchanges.
        let until = self.now + limits::SUPERSEDED_WAIT.1 * 2;
        while self.now < until {
            let mut actions = self.actions();
            actions.sort_by_key(|action| self.is_late(*action));
            match actions.first() {
                Some(action) => self.act(*action),
                None if self.is_converged() => return,
                None => self.act(Action::Timer),
            }
        }
    }

    pub(crate) fn idle(&mut self, time: Duration) {
        let until = self.now + time;
        while self.now < until {
            let action = self.actions().first().copied().unwrap_or(Action::Timer);
            self.act(action);
        }
    }

    fn act(&mut self, action: Action) {
        match action {
            Action::Timer => self.advance(),
            Action::Accept => {
                self.dialling = false;
                let config = SessionConfig {
                    gateway: "g".into(),
                    heartbeat_interval: limits::HEARTBEAT_INTERVAL,
                    seed: self.conns.len() as u64,
                };
                self.conns.push(Conn {
                    session: GatewaySession::new(config, self.now()),
                    up: VecDeque::new(),
                    down: VecDeque::new(),
                    io: Vec::new(),
                    epoch: 0,
                    cut: false,
                    noticed: false,
                    ended: false,
                    committed: BTreeSet::new(),
                    told: 0,
                });
                self.attached = Some(self.conns.len() - 1);
                self.feed_agent(AgentEvent::Connected);
            }
            Action::Refuse => {
                self.dialling = false;
                self.feed_agent(AgentEvent::Disconnected { why: "refused".to_owned(), retry_after: None });
            }
            Action::Cut => {
                if self.detach() {
                    self.feed_agent(AgentEvent::Disconnected { why: "cut".to_owned(), retry_after: None });
                }
            }
            Action::Up(conn) => {
                if let Some(frame) = self.conns[conn].up.pop_front() {
                    self.feed_session(conn, SessionEvent::Frame(frame));
                }
            }
            Action::Down => {
                let Some(conn) = self.attached else { return };
                if let Some(frame) = self.conns[conn].down.pop_front() {
                    self.feed_agent(AgentEvent::Frame(frame));
                }
                // The end of the stream comes after its last frame.
                if self.attached == Some(conn) && self.conns[conn].ended && self.conns[conn].down.is_empty() {
                    self.detach();
                    self.feed_agent(AgentEvent::Disconnected { why: "ended".to_owned(), retry_after: None });
                }
            }
            Action::Notice(conn) => {
                self.conns[conn].noticed = true;
                self.feed_session(conn, SessionEvent::StreamClosed);
            }
            Action::Tell(conn) => {
                self.conns[conn].told = self.store.revision;
                let assignment = self.assignment_event();
                self.feed_session(conn, SessionEvent::AssignmentChanged(assignment));
            }
            Action::Io(conn, io) => self.store_does(conn, io, true),
            Action::IoAnswerLost(conn, io) => self.store_does(conn, io, false),
            Action::IoFails(conn, io) => {
                let io = self.conns[conn].io.remove(io);
                self.io_failed(conn, &io);
            }
            Action::Persist => {
                let Some((token, desired)) = self.persisting.take() else { return };
                assert!(desired.version >= self.disk.version, "an older state was written over a newer one");
                self.disk = desired;
                self.feed_agent(AgentEvent::Persisted { token, result: Ok(()) });
            }
            Action::PersistFails => {
                let Some((token, _)) = self.persisting.take() else { return };
                self.feed_agent(AgentEvent::Persisted { token, result: Err("disk full".to_owned()) });
            }
            Action::AgentCrash { written } => self.agent_crash(written),
            Action::StoreForgets => {
                // An older status came back; what was open is not.
                self.store.status = std::mem::take(&mut self.store.old_status);
                self.store.revision += 1;
                self.store.session = (self.store.revision, format!("boot-{}", self.boot));
                for conn in 0..self.conns.len() {
                    let boot_id = self.store.session.1.clone();
                    self.feed_session(conn, SessionEvent::Superseded { boot_id });
                }
            }
            Action::GatewayCrash => {
                let was = self.detach();
                self.conns.clear();
                if was {
                    self.feed_agent(AgentEvent::Disconnected { why: "reset".to_owned(), retry_after: None });
                }
            }
        }
    }

    fn advance(&mut self) {
        let deadlines = self
            .conns
            .iter()
            .filter(|conn| !conn.ended)
            .map(|conn| conn.session.deadline())
            .chain([self.agent.deadline()]);
        let Some(next) = deadlines.flatten().min() else {
            self.now = self.now + Duration::from_secs(1);
            return;
        };
        self.now = self.now.max(next);
        if self.agent.deadline().is_some_and(|at| at <= self.now) {
            self.feed_agent(AgentEvent::Timer);
        }
        for conn in 0..self.conns.len() {
            if !self.conns[conn].ended && self.conns[conn].session.deadline().is_some_and(|at| at <= self.now)
            {
                self.feed_session(conn, SessionEvent::Timer);
            }
        }
    }

    fn detach(&mut self) -> bool {
        self.attached.take().is_some_and(|conn| {
            self.conns[conn].cut = true;
            self.conns[conn].down.clear();
            true
        })
    }

    fn agent_crash(&mut self, written: bool) {
        if let Some((_, desired)) = self.persisting.take()
            && written
        {
            self.disk = desired;
        }
        self.detach();
        self.dialling = false;
        self.boot += 1;
        self.raised = 0;
        self.agent = agent(self.boot, 0);
        self.feed_agent(AgentEvent::Start { held: Arc::clone(&self.disk) });
        for status in self.instances.clone().into_values() {
            self.feed_agent(AgentEvent::InstanceChanged(Box::new(status)));
        }
        if let Some(machine) = self.machine.clone() {
            self.feed_agent(AgentEvent::MachineChanged(Box::new(machine)));
        }
    }

    fn is_converged(&self) -> bool {
        let Some(conn) = self.attached else { return false };
        self.agent.is_reported() && self.conns[conn].session.is_converged()
    }

    pub(crate) fn check_converged(&self) {
        let session = self.attached.map(|conn| (&self.conns[conn].session, &self.conns[conn].io));
        assert!(self.is_converged(), "not settled: {:#?} {session:#?}", self.agent);
        let status = self.store.status.clone().unwrap_or_default();
        let (revision, record) = &self.store.assignment;
        assert_eq!(merge::acknowledged_version(&status), Some(Version::new(1, *revision)));
        assert_eq!(self.agent.held(), &self.disk);

        let wanted = resources_of(record);
        let held = self.disk.versions();
        let refused: BTreeMap<_, _> =
            status.refused.iter().map(|r| (r.name.clone(), r.version.clone())).collect();
        for (name, version) in &wanted {
            assert!(
                held.get(name) == Some(version) || refused.get(name) == Some(version),
                "{name} is neither held nor refused"
            );
        }
        for (name, version) in &refused {
            assert_eq!(wanted.get(name), Some(version), "{name} was refused and is no longer wanted");
        }
        if refused.is_empty() {
            assert_eq!(held, wanted);
        }
        for instance in self.disk.instances() {
            for name in skerry_sync::desired::references(instance) {
                assert!(held.contains_key(&name), "{} is held without {name}", instance.instance);
            }
        }
        let impossible = self.apps.values().any(|variant| *variant >= 4);
        assert_eq!(refused.is_empty(), !impossible, "{refused:?}");

        let mut stored: BTreeMap<_, _> =
            status.instances.into_iter().map(|i| (i.instance.clone(), i)).collect();
        for instance in stored.values_mut() {
            assert_eq!(std::mem::take(&mut instance.node), NODE);
        }
        let assigned: BTreeSet<&str> = record.instances.iter().map(|i| i.instance.as_str()).collect();
        for (name, status) in &stored {
            assert_eq!(Some(status), self.instances.get(name), "stored, and not as it was reported");
        }
        for (name, status) in self.instances.iter().filter(|(name, _)| assigned.contains(name.as_str())) {
            assert_eq!(Some(status), stored.get(name), "assigned and reported, and not stored");
        }
        assert_eq!(status.machine, self.machine);

        let distinct: BTreeSet<_> = self.store.log.iter().collect();
        assert_eq!(distinct.len(), self.store.log.len(), "an event was stored twice");
        let boot = format!("boot-{}", self.boot);
        let mine: Vec<u64> =
            self.store.log.iter().filter(|(b, _)| *b == boot).map(|(_, sequence)| *sequence).collect();
        assert!(mine.is_sorted(), "events out of order");
        assert_eq!(mine.last().copied().unwrap_or(0), self.raised, "the newest event is stored");
        if self.agent.events_dropped() == 0 {
            assert_eq!(mine.len() as u64, self.raised, "all events of this boot are stored");
        }
        assert!(self.raised - mine.len() as u64 <= self.store.events.dropped, "dropped events are counted");
    }

    pub(crate) fn seconds_until_a_dead_link_is_seen(&mut self) -> (f64, f64) {
        let start = self.now;
        let conn = self.attached.expect("settled");
        let (mut agent, mut gateway) = (None, None);
        while agent.is_none() || gateway.is_none() {
            self.advance();
            // Swallowed.
            self.conns[conn].up.clear();
            self.conns[conn].down.clear();
            let passed = self.now.saturating_since(start).as_secs_f64();
            if !self.agent.is_open() {
                agent.get_or_insert(passed);
            }
            if self.conns[conn].ended {
                gateway.get_or_insert(passed);
            }
        }
        (agent.unwrap_or_default(), gateway.unwrap_or_default())
    }
}
