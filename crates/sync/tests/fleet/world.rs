//! The world around the machines: clocks, a network, disks, an authority.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use skerry_proto::gateway::v1 as pb;
use skerry_proto::gateway::v1::sync_response::Body as Down;
use skerry_sync::gateway::Roots;
use skerry_sync::{
    AgentConfig, AgentEffect, AgentEvent, AgentIdentity, AgentMachine, Desired, GatewaySession, MonoTime,
    Now, OpenFailure, Opened, SessionConfig, SessionEffect, SessionEvent, Version, WallTime, limits,
};

pub(crate) const DAY: Duration = Duration::from_secs(24 * 3600);
/// When it begins, by clocks that are right.
const BEGIN: u64 = 1_800_000_000;
/// What wall clocks show at the beginning: right, 1970, 2099.
const WALLS: [u64; 3] = [BEGIN, 0, 4_070_908_800];
/// Some time after all that happens here.
const NEVER: u64 = 9_000_000_000;

/// A bug that is put into the world around the machines, to show that the checks find it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Planted {
    /// The agent looks at its own wall clock whether its certificate is still good.
    ExpiryByWallClock,
    /// The agent does not know when its certificate is to be renewed.
    RenewalForgotten,
    /// The gateway does not ask whether the key is still the node's.
    RevokedNotLookedAt,
}

/// A certificate: what the authority decided, and nothing to check it by.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Certificate {
    key: u64,
    pub(crate) root: u64,
    not_before: u64,
    pub(crate) not_after: u64,
}

impl Certificate {
    fn encode(self) -> Bytes {
        [self.key, self.root, self.not_before, self.not_after]
            .iter()
            .flat_map(|n| n.to_be_bytes())
            .collect::<Vec<u8>>()
            .into()
    }

    fn decode(bytes: &[u8]) -> Self {
        let number = |at: usize| u64::from_be_bytes(bytes[8 * at..8 * at + 8].try_into().unwrap());
        Self { key: number(0), root: number(1), not_before: number(2), not_after: number(3) }
    }
}

/// What outlives an agent's process.
#[derive(Debug, Clone)]
pub(crate) struct Disk {
    pub(crate) certificate: Certificate,
    /// Trusted roots, the newest first.
    pub(crate) roots: Vec<u64>,
    held: Arc<Desired>,
}

impl Disk {
    fn identity(&self, planted: Option<Planted>) -> AgentIdentity {
        let Certificate { root, not_before, not_after, .. } = self.certificate;
        // As the agent does: a certificate under no trusted root is renewed at once.
        let renew_at = match planted {
            Some(Planted::RenewalForgotten) => NEVER,
            _ if self.roots.contains(&root) => not_before + (not_after - not_before) * 2 / 3,
            _ => 0,
        };
        AgentIdentity {
            certificate_request: Bytes::from_static(b"request"),
            renew_at: at(renew_at),
            not_after: at(not_after),
            roots_digest: digest(&self.roots),
        }
    }
}

/// A machine with its agent.
pub(crate) struct Agent {
    pub(crate) disk: Disk,
    machine: Option<AgentMachine>,
    session: Option<GatewaySession>,
    wall: u64,
    online: bool,
    applied: u32,
}

impl Agent {
    pub(crate) fn switch_off(&mut self) {
        (self.machine, self.session, self.online) = (None, None, false);
    }
}

/// Everybody.
pub(crate) struct World {
    now: Duration,
    /// Trusted roots, the newest first: that one issues.
    roots: Vec<u64>,
    pub(crate) agents: Vec<Agent>,
    /// The key in each node's record. Absent: it was struck out.
    keys: Vec<Option<u64>>,
    keys_made: u64,
    /// What the clock of gateway and registry showed at the beginning.
    server_wall: u64,
    /// Whether anything fails by itself.
    pub(crate) faults: bool,
    planted: Option<Planted>,
    /// What was violated first.
    violated: Option<String>,
    seed: u64,
}

/// To whom, what.
#[expect(clippy::large_enum_variant, reason = "made and taken apart at once")]
enum To {
    Agent(AgentEvent),
    Session(SessionEvent),
}

fn at(seconds: u64) -> WallTime {
    WallTime::from_epoch(Duration::from_secs(seconds))
}

fn der(roots: &[u64]) -> Vec<Bytes> {
    roots.iter().map(|root| Bytes::copy_from_slice(&root.to_be_bytes())).collect()
}

fn digest(roots: &[u64]) -> Bytes {
    let mut sorted = roots.to_vec();
    sorted.sort_unstable();
    der(&sorted).concat().into()
}

impl World {
    pub(crate) fn new(seed: u64, agents: usize, planted: Option<Planted>) -> Self {
        let mut world = Self {
            now: DAY,
            roots: vec![1],
            agents: Vec::new(),
            keys: Vec::new(),
            keys_made: 0,
            server_wall: BEGIN,
            faults: true,
            planted,
            violated: None,
            seed: seed.wrapping_mul(2) | 1,
        };
        for index in 0..agents {
            let held = Desired { version: Some(Version::new(1, 1)), ..Desired::default() };
            let key = world.new_key();
            world.keys.push(Some(key));
            let disk =
                Disk { certificate: world.issue(key), roots: world.roots.clone(), held: Arc::new(held) };
            let wall = WALLS[index % WALLS.len()];
            let agent = Agent { disk, machine: None, session: None, wall, online: true, applied: 0 };
            world.agents.push(agent);
            world.start(index);
        }
        world
    }

    /// One of `n`, by the seed.
    fn pick(&mut self, n: u64) -> u64 {
        self.seed = self.seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (self.seed >> 33) % n
    }

    fn fails(&mut self, one_in: u64) -> bool {
        self.faults && self.pick(one_in) == 0
    }

    pub(crate) fn true_seconds(&self) -> u64 {
        BEGIN + self.now.as_secs()
    }

    fn server_seconds(&self) -> u64 {
        self.server_wall + self.now.as_secs()
    }

    /// The clock of gateway and registry jumps: to 1970, to 2099, or to the right time.
    pub(crate) fn server_jumps(&mut self, wall: usize) {
        self.server_wall = WALLS[wall];
    }

    fn new_key(&mut self) -> u64 {
        self.keys_made += 1;
        self.keys_made
    }

    /// The node's key is struck out.
    pub(crate) fn revoke(&mut self, index: usize) {
        self.keys[index] = None;
        self.deliver(index, To::Session(SessionEvent::Revoked));
    }

    /// The machine enrols anew, with another key.
    pub(crate) fn enrol(&mut self, index: usize) {
        let key = self.new_key();
        self.keys[index] = Some(key);
        let (certificate, roots) = (self.issue(key), self.roots.clone());
        let disk = &mut self.agents[index].disk;
        (disk.certificate, disk.roots) = (certificate, roots);
        let identity = disk.identity(self.planted);
        self.deliver(index, To::Agent(AgentEvent::Enrolled { identity, node_uid: "uid".to_owned() }));
    }

    pub(crate) fn newest(&self) -> u64 {
        self.roots[0]
    }

    fn issue(&self, key: u64) -> Certificate {
        let now = self.server_seconds();
        let not_before = now.saturating_sub(300);
        Certificate { key, root: self.newest(), not_before, not_after: now + DAY.as_secs() }
    }

    fn trusted(&self) -> Roots {
        Roots { digest: digest(&self.roots), der: der(&self.roots) }
    }

    /// A new root issues; the former one is trusted still, and links to it.
    pub(crate) fn rotate(&mut self) {
        self.roots.insert(0, self.newest() + 1);
        self.roots_changed();
    }

    /// Only the newest root is trusted.
    pub(crate) fn retire(&mut self) {
        self.roots.truncate(1);
        self.roots_changed();
    }

    fn roots_changed(&mut self) {
        for index in 0..self.agents.len() {
            let roots = self.trusted();
            self.deliver(index, To::Session(SessionEvent::RootsChanged(roots)));
        }
    }

    /// Sends everybody away once.
    pub(crate) fn drain(&mut self) {
        for index in 0..self.agents.len() {
            let retry_after = Duration::ZERO;
            self.deliver(index, To::Session(SessionEvent::Drain { why: "test", retry_after }));
        }
    }

    pub(crate) fn leave(&mut self, index: usize) {
        self.agents[index].online = false;
        self.cut(index);
    }

    pub(crate) fn come_back(&mut self, index: usize) {
        self.agents[index].online = true;
        if self.agents[index].machine.is_none() {
            self.start(index);
        }
    }

    fn start(&mut self, index: usize) {
        let seed = self.pick(u64::from(u32::MAX));
        let agent = &mut self.agents[index];
        agent.session = None;
        agent.machine = Some(AgentMachine::new(AgentConfig {
            node: format!("projects/p/nodes/n{index}"),
            node_uid: "uid".to_owned(),
            boot_id: format!("boot-{seed}"),
            agent_version: "1".to_owned(),
            features: std::collections::BTreeSet::new(),
            identity: Some(agent.disk.identity(self.planted)),
            seed,
        }));
        let held = Arc::clone(&agent.disk.held);
        self.deliver(index, To::Agent(AgentEvent::Start { held }));
        self.deliver(index, To::Agent(AgentEvent::MachineChanged(Box::default())));
    }

    fn cut(&mut self, index: usize) {
        if self.agents[index].session.take().is_some() {
            let why = "the stream ended".to_owned();
            self.deliver(index, To::Agent(AgentEvent::Disconnected { why, retry_after: None }));
        }
    }

    /// Lets time pass.
    pub(crate) fn run(&mut self, time: Duration) {
        let until = self.now + time;
        loop {
            let due = |agent: &Agent| {
                let machine = agent.machine.as_ref().and_then(AgentMachine::deadline);
                [machine, agent.session.as_ref().and_then(GatewaySession::deadline)]
                    .into_iter()
                    .flatten()
                    .min()
            };
            let next =
                (0..self.agents.len()).filter_map(|index| Some((due(&self.agents[index])?, index))).min();
            let Some((deadline, index)) = next.filter(|(at, _)| at.since_origin() <= until) else { break };
            self.now = self.now.max(deadline.since_origin());
            if self.fails(2_000) {
                self.cut(index);
            }
            if self.fails(500) {
                let wall = usize::try_from(self.pick(3)).unwrap();
                self.agents[index].wall = WALLS[wall];
            }
            self.deliver(index, To::Agent(AgentEvent::Timer));
            self.deliver(index, To::Session(SessionEvent::Timer));
        }
        self.now = until;
    }

    /// All whose keys count are connected with all rights, and trust and are trusted as they shall be; and nothing was ever violated.
    pub(crate) fn check(&self, when: &str) -> Result<(), String> {
        if let Some(violated) = &self.violated {
            return Err(format!("{when}: {violated}"));
        }
        for (index, agent) in self.agents.iter().enumerate().filter(|(index, _)| self.keys[*index].is_some())
        {
            let machine = agent.machine.as_ref().unwrap();
            let Certificate { not_before, not_after, .. } = agent.disk.certificate;
            let wrong = [
                (!machine.is_reported(), "is not connected"),
                (not_after <= self.true_seconds(), "has a certificate that has expired"),
                (not_before > self.true_seconds(), "has a certificate of the future"),
                (digest(&agent.disk.roots) != digest(&self.roots), "trusts other roots"),
                (agent.applied == 0, "runs nothing"),
            ];
            if let Some((_, what)) = wrong.iter().find(|(is, _)| *is) {
                return Err(format!("{when}: node {index} {what}"));
            }
        }
        Ok(())
    }

    /// Delivers one event, and all that comes of it.
    fn deliver(&mut self, index: usize, event: To) {
        let mut queue = VecDeque::from([event]);
        while let Some(event) = queue.pop_front() {
            match event {
                To::Agent(event) => self.agent(index, event, &mut queue),
                To::Session(event) => self.session(index, event, &mut queue),
            }
        }
    }

    fn agent(&mut self, index: usize, event: AgentEvent, queue: &mut VecDeque<To>) {
        let mono = MonoTime::from_origin(self.now);
        let wall = at(self.agents[index].wall + self.now.as_secs());
        let Some(machine) = &mut self.agents[index].machine else { return };
        for effect in machine.on(event, Now { mono, wall }) {
            match effect {
                AgentEffect::Dial => self.dial(index, queue),
                AgentEffect::Send(frame) => queue.push_back(To::Session(SessionEvent::Frame(frame))),
                AgentEffect::Persist { .. } => panic!("nothing new is to be held"),
                AgentEffect::Apply { desired } => {
                    let agent = &mut self.agents[index];
                    assert_eq!(desired, agent.disk.held, "told to run something else");
                    agent.applied += 1;
                }
                AgentEffect::GpuFeedback(_) => panic!("no agent here has GPUs"),
                AgentEffect::OpenChannel(_) => panic!("no relay is here"),
                AgentEffect::TakeIdentity { certificate } => {
                    if self.fails(20) {
                        // Power is lost before it is written; or after.
                        if self.fails(2) {
                            let _ = self.take(index, &certificate);
                        }
                        queue.clear();
                        self.start(index);
                        return;
                    }
                    let result = self.take(index, &certificate);
                    queue.push_back(To::Agent(AgentEvent::IdentityTaken { result }));
                }
                AgentEffect::Hangup { .. } => {
                    self.agents[index].session = None;
                    queue.retain(|to| matches!(to, To::Agent(AgentEvent::IdentityTaken { .. })));
                }
                AgentEffect::Told(_) => {}
            }
        }
    }

    /// As the agent's identity does it: roots only if the server fits under them, and on disk before it counts.
    fn take(&mut self, index: usize, sent: &pb::IssuedCertificate) -> Result<AgentIdentity, String> {
        if self.fails(5) {
            return Err("the disk is full".to_owned());
        }
        let roots: Vec<u64> =
            sent.roots.iter().map(|der| u64::from_be_bytes(der.as_ref().try_into().unwrap())).collect();
        if !roots.iter().any(|root| self.roots.contains(root)) {
            return Err("the server does not fit".to_owned());
        }
        let disk = &mut self.agents[index].disk;
        disk.roots = roots;
        if let Some(chain) = sent.chain.first() {
            disk.certificate = Certificate::decode(chain);
        }
        Ok(disk.identity(self.planted))
    }

    /// The handshake: the server's chain links each trusted root to its own, and a client's must lead to a trusted one, at any time.
    fn dial(&mut self, index: usize, queue: &mut VecDeque<To>) {
        let (pick, lost) = (self.pick(u64::from(u32::MAX)), self.fails(10));
        let by_wall = self.planted == Some(Planted::ExpiryByWallClock);
        let (server_now, now) = (self.server_seconds(), self.now);
        let agent = &mut self.agents[index];
        let ended = by_wall && agent.wall + now.as_secs() > agent.disk.certificate.not_after;
        let knows = agent.disk.roots.iter().any(|root| self.roots.contains(root));
        let known = self.roots.contains(&agent.disk.certificate.root);
        if !agent.online || lost || !knows || !known || ended {
            let why = "cannot reach it".to_owned();
            queue.push_back(To::Agent(AgentEvent::Disconnected { why, retry_after: None }));
            return;
        }
        let heartbeat_interval = limits::HEARTBEAT_INTERVAL_RANGE.1;
        let config = SessionConfig { gateway: Arc::from("g"), heartbeat_interval, seed: pick };
        let now = Now { mono: MonoTime::from_origin(now), wall: at(server_now) };
        agent.session = Some(GatewaySession::new(config, now));
        queue.push_back(To::Agent(AgentEvent::Connected));
    }

    fn session(&mut self, index: usize, event: SessionEvent, queue: &mut VecDeque<To>) {
        let now = Now { mono: MonoTime::from_origin(self.now), wall: at(self.server_seconds()) };
        let Some(session) = &mut self.agents[index].session else { return };
        for effect in session.on(event, now) {
            match effect {
                SessionEffect::Open(_) => {
                    let certificate = self.agents[index].disk.certificate;
                    let counts = self.keys[index] == Some(certificate.key);
                    if !counts && self.planted != Some(Planted::RevokedNotLookedAt) {
                        let failure = OpenFailure::Revoked("the key was struck out".to_owned());
                        queue.push_back(To::Session(SessionEvent::OpenFailed(failure)));
                        continue;
                    }
                    let valid = certificate.not_before..=certificate.not_after;
                    let opened = Opened {
                        epoch: Version::new(1, 1),
                        node_uid: "uid".to_owned(),
                        status_digest: Bytes::new(),
                        acknowledged: None,
                        has_refused: false,
                        reported: Vec::new(),
                        assignment: None,
                        renew_only: !valid.contains(&self.server_seconds()),
                        roots: Some(self.trusted()),
                    };
                    queue.push_back(To::Session(SessionEvent::Opened(Box::new(opened))));
                }
                SessionEffect::Send(frame) => {
                    let is_open = matches!(frame.body, Some(Down::Welcome(_) | Down::Update(_)));
                    if is_open && self.keys[index].is_none() {
                        self.violated
                            .get_or_insert(format!("node {index} was let in after its key was struck out"));
                    }
                    queue.push_back(To::Agent(AgentEvent::Frame(frame)));
                }
                SessionEffect::Load { token, .. } => {
                    let (resources, missing) = (Vec::new(), Vec::new());
                    queue.push_back(To::Session(SessionEvent::Loaded { token, resources, missing }));
                }
                SessionEffect::Commit { token, .. } => {
                    let digest = Bytes::from_static(b"digest");
                    queue.push_back(To::Session(SessionEvent::Committed { token, digest }));
                }
                SessionEffect::OfferAnswered { .. } => panic!("no relay is here"),
                SessionEffect::GpuFrame(_) => panic!("no agent here has GPUs"),
                SessionEffect::Renew(_) => {
                    let issued = pb::IssuedCertificate {
                        chain: vec![self.issue(self.agents[index].disk.certificate.key).encode()],
                        roots: der(&self.roots),
                        server_time: Some(now.wall.to_proto()),
                    };
                    let refused = self.fails(3);
                    let answer = if refused { Err("the registry is away".to_owned()) } else { Ok(issued) };
                    queue.push_back(To::Session(SessionEvent::Renewed(answer)));
                }
                SessionEffect::Close => {}
                SessionEffect::End(_) => {
                    self.agents[index].session = None;
                    let why = "the stream ended".to_owned();
                    queue.push_back(To::Agent(AgentEvent::Disconnected { why, retry_after: None }));
                    return;
                }
            }
        }
    }
}
