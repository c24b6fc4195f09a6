//! An agent as a process: drives the real machine of sync, as the agent's uplink does, on a machine that outlives it.

use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;
use std::pin::Pin;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use skerry_proto::gateway::v1 as pb;
use skerry_proto::gateway::v1::sync_request::Body as Up;
use skerry_proto::gateway::v1::sync_response::Body as Down;
use skerry_sync::{AgentConfig, AgentEffect, AgentEvent, AgentMachine, Desired};
use tokio::sync::{Notify, mpsc};

use super::check::{Era, EventId};
use super::faults::Fault;
use super::gateway::GatewayHost;
use super::machine::Machine;
use super::net::{self, End, Link};
use super::reconcile::{LOCAL_MAX, Local, Reconciler};
use super::sim::{Crash, Process, Sim};

/// The agent's end of a stream.
type Stream = End<pb::SyncRequest, pb::SyncResponse>;

/// A machine with its agent, over all its lives.
pub(super) struct AgentHost {
    sim: Sim,
    pub(super) machine: Rc<Machine>,
    gateways: Vec<Rc<GatewayHost>>,
    process: RefCell<Option<Process>>,
    pub(super) boot: RefCell<Boot>,
    /// The stream, if there is one.
    pub(super) link: RefCell<Option<Rc<Link>>>,
    /// No network before.
    pub(super) cut_until: Cell<Duration>,
    /// Whether it is to run.
    pub(super) wanted: Cell<bool>,
    leave: Rc<Notify>,
    storm: Rc<Cell<u32>>,
}

/// What the checks want to know of the agent's present life.
#[derive(Debug, Clone, Default)]
pub(super) struct Boot {
    pub(super) id: String,
    pub(super) raised: u64,
    pub(super) dropped: u64,
    pub(super) reported: bool,
    since: Era,
}

impl AgentHost {
    pub(super) fn new(sim: &Sim, machine: Rc<Machine>, gateways: &[Rc<GatewayHost>]) -> Rc<Self> {
        Rc::new(Self {
            sim: sim.clone(),
            machine,
            gateways: gateways.to_vec(),
            process: RefCell::default(),
            boot: RefCell::default(),
            link: RefCell::default(),
            cut_until: Cell::default(),
            wanted: Cell::new(true),
            leave: Rc::default(),
            storm: Rc::default(),
        })
    }

    /// Starts the agent.
    pub(super) fn start(self: &Rc<Self>) {
        let alive = self.process.borrow().as_ref().is_some_and(|p| self.sim.exec().is_alive(p.id));
        if alive || !self.wanted.get() {
            return;
        }
        let crash = Crash { per_million: 3_000, fault: Fault::AgentCrash };
        let process = self.sim.process(&self.machine.name, crash, &self.machine.clock);
        *self.process.borrow_mut() = Some(process.clone());
        let host = Rc::clone(self);
        self.sim.exec().on_kill(process.id, move || {
            host.link.borrow_mut().take();
            // Some processes end because their machine does.
            if host.sim.strikes(300_000) {
                host.sim.count(Fault::PowerLoss);
                host.machine.lose_power();
            }
            let (again, away) = (Rc::clone(&host), host.sim.between_ms(50, 20_000));
            host.sim.exec().at(host.sim.now() + away, move || again.start());
        });
        let id = format!("boot-{}", self.sim.unique());
        let since = self.sim.check(|check| Ok(check.era(&self.machine.node)));
        *self.boot.borrow_mut() = Boot { id, since, ..Boot::default() };
        process.spawn(Driver::new(Rc::clone(self), process.clone()).run());
    }

    /// The machine loses power, agent and all.
    pub(super) fn lose_power(&self) {
        // Nobody is told: the other end of the stream hears nothing any more.
        if let Some(link) = self.link.borrow().as_ref() {
            link.silence();
        }
        self.machine.lose_power();
        self.kill();
    }

    pub(super) fn kill(&self) {
        let id = self.process.borrow().as_ref().map(|process| process.id);
        if let Some(id) = id {
            self.sim.exec().kill(id);
        }
    }

    /// The agent says farewell and stops, as its machine does; it starts again when `wanted`.
    pub(super) fn leave(&self) {
        self.leave.notify_one();
    }

    /// So many events happen at once.
    pub(super) fn storm(&self, events: u32) {
        self.storm.set(events);
        self.machine.stirred.notify_one();
    }

    fn cut(&self) -> bool {
        self.cut_until.get() > self.sim.now()
    }

    /// What is wrong with the events of this life, once all is reported.
    pub(super) fn missing_events(&self) -> Option<String> {
        let boot = self.boot.borrow();
        let node = &self.machine.node;
        let (era, stored) = self.sim.check(|check| Ok((check.era(node), check.events_of(node, &boot.id))));
        // One that a full ring drops may have been on its way, and is stored after all.
        let all = stored + boot.dropped >= boot.raised;
        (era == boot.since && boot.reported && !all).then(|| {
            let Boot { id, raised, dropped, .. } = &*boot;
            format!("{node} {id}: of {raised} events {stored} are stored and {dropped} counted as dropped")
        })
    }
}

type Dial = Pin<Box<dyn Future<Output = Result<(Stream, Rc<Link>), String>>>>;
type Saving = Pin<Box<dyn Future<Output = (u64, Result<(), String>)>>>;

struct Driver {
    host: Rc<AgentHost>,
    process: Process,
    machine: AgentMachine,
    dial: Option<Dial>,
    stream: Option<Stream>,
    saving: Option<Saving>,
    desired: super::signal::Sender<Arc<Desired>>,
    /// Events of reports that were sent on this stream, and the era then.
    sent: BTreeMap<u64, (Vec<EventId>, Era)>,
}

impl Driver {
    fn new(host: Rc<AgentHost>, process: Process) -> Self {
        let node = host.machine.node.replace('/', "/nodes/");
        let machine = AgentMachine::new(AgentConfig {
            node: format!("projects/{node}"),
            node_uid: String::new(),
            boot_id: host.boot.borrow().id.clone(),
            agent_version: "simulated".to_owned(),
            features: std::collections::BTreeSet::new(),
            identity: None,
            seed: process.seed(),
        });
        let desired = super::signal::Sender::new(host.machine.disk.load());
        Self {
            host,
            process,
            machine,
            dial: None,
            stream: None,
            saving: None,
            desired,
            sent: BTreeMap::new(),
        }
    }

    async fn run(mut self) {
        let held = Arc::clone(&self.desired.borrow());
        let text = held.version.map_or("nothing".to_owned(), |version| version.to_string());
        self.process.trace(format_args!("starts, holds {text}, {}", self.host.boot.borrow().id));
        let (local_in, mut local) = mpsc::channel(LOCAL_MAX);
        let reconciler = Reconciler::new(
            self.process.clone(),
            Rc::clone(&self.host.machine),
            self.desired.subscribe(),
            local_in,
            Rc::clone(&self.host.storm),
        );
        self.process.spawn(reconciler.run());
        let leave = Rc::clone(&self.host.leave);
        let process = self.process.clone();
        self.feed(AgentEvent::Start { held }).await;
        loop {
            let deadline = self.machine.deadline().map(skerry_sync::MonoTime::since_origin);
            tokio::select! {
                biased;
                () = leave.notified() => return self.stop().await,
                (token, result) = wait(&mut self.saving) => {
                    self.saving = None;
                    self.feed(AgentEvent::Persisted { token, result }).await;
                }
                dialled = wait(&mut self.dial) => {
                    self.dial = None;
                    self.dialled(dialled).await;
                }
                frame = next(self.stream.as_ref()) => self.received(frame).await,
                Some(local) = local.recv() => self.local(local).await,
                () = until(&process, deadline) => self.feed(AgentEvent::Timer).await,
            }
            let mut boot = self.host.boot.borrow_mut();
            boot.dropped = self.machine.events_dropped();
            boot.reported = self.machine.is_reported();
        }
    }

    async fn stop(mut self) {
        self.process.trace(format_args!("leaves"));
        self.feed(AgentEvent::ShuttingDown).await;
        // What was said last goes out.
        self.stream = None;
        self.process.sim.exec().kill(self.process.id);
        std::future::pending::<()>().await;
    }

    async fn dialled(&mut self, dialled: Result<(Stream, Rc<Link>), String>) {
        match dialled {
            Ok((stream, link)) => {
                self.stream = Some(stream);
                *self.host.link.borrow_mut() = Some(link);
                self.sent.clear();
                self.feed(AgentEvent::Connected).await;
            }
            Err(why) => self.feed(AgentEvent::Disconnected { why, retry_after: None }).await,
        }
    }

    async fn received(&mut self, frame: Option<pb::SyncResponse>) {
        let Some(frame) = frame else {
            self.stream = None;
            let why = "the stream ended".to_owned();
            return self.feed(AgentEvent::Disconnected { why, retry_after: None }).await;
        };
        if let Some(Down::ReportAck(ack)) = &frame.body
            && let Some((events, since)) = self.sent.remove(&ack.sequence)
        {
            let node = &self.host.machine.node;
            self.process.sim.check(|check| check.acknowledged(node, &events, since));
        }
        self.feed(AgentEvent::Frame(frame)).await;
    }

    async fn local(&mut self, local: Local) {
        let event = match local {
            Local::Instance(status) => AgentEvent::InstanceChanged(status),
            Local::Gone(name) => AgentEvent::InstanceGone(name),
            Local::Looked(machine) => AgentEvent::MachineChanged(machine),
            Local::Event(event) => {
                self.host.boot.borrow_mut().raised += 1;
                AgentEvent::Raised(event)
            }
        };
        self.feed(event).await;
    }

    /// Tells the machine, and carries out what it says, one by one.
    async fn feed(&mut self, event: AgentEvent) {
        for effect in self.machine.on(event, self.process.now()) {
            self.process.boundary().await;
            match effect {
                AgentEffect::Dial => {
                    self.dial = Some(Box::pin(dial(Rc::clone(&self.host), self.process.clone())));
                }
                AgentEffect::Send(frame) => self.send(frame),
                AgentEffect::Persist { token, desired } => {
                    let saving = Rc::clone(&self.host.machine.disk).save(self.process.clone(), desired);
                    self.saving = Some(Box::pin(async move { (token, saving.await) }));
                }
                AgentEffect::Apply { desired } => {
                    let machine = &self.host.machine;
                    let on_disk = machine.disk.durable();
                    self.process.sim.check(|check| check.applies(&machine.name, &desired, &on_disk));
                    self.desired.set(desired);
                }
                AgentEffect::Hangup { why } => {
                    self.process.trace(format_args!("hangs up: {why}"));
                    self.dial = None;
                    self.stream = None;
                }
                AgentEffect::TakeIdentity { .. }
                | AgentEffect::OpenChannel(_)
                | AgentEffect::GpuFeedback(_) => {}
                AgentEffect::Told(told) => self.process.trace(format_args!("{told:?}")),
            }
        }
    }

    fn send(&mut self, frame: pb::SyncRequest) {
        if let Some(Up::Report(report)) = &frame.body {
            let machine = &self.host.machine;
            let id = |event: &skerry_proto::types::v1::Event| {
                (machine.node.to_string(), event.boot_id.clone(), event.sequence)
            };
            let events = report.events.iter().map(id).collect();
            let era = self.process.sim.check(|check| Ok(check.era(&machine.node)));
            self.sent.insert(report.sequence, (events, era));
        }
        if let Some(stream) = &self.stream {
            stream.out.send(frame);
        }
    }
}

/// Opens a stream to a gateway, if one answers.
async fn dial(host: Rc<AgentHost>, process: Process) -> Result<(Stream, Rc<Link>), String> {
    process.sleep(process.sim.between_ms(1, 120)).await;
    if host.cut() {
        // Nothing answers at all: the machine's own patience ends it.
        std::future::pending::<()>().await;
    }
    let gateway = process.sim.rng(|rng| rng.pick(&host.gateways).live());
    let Some(gateway) = gateway else { return Err("connection refused".to_owned()) };
    let (ours, theirs, link) = net::stream(&process.sim);
    gateway.accept(theirs);
    Ok((ours, link))
}

async fn wait<T>(work: &mut Option<Pin<Box<dyn Future<Output = T>>>>) -> T {
    match work {
        Some(work) => work.await,
        None => std::future::pending().await,
    }
}

async fn next(stream: Option<&Stream>) -> Option<pb::SyncResponse> {
    match stream {
        Some(stream) => stream.inn.next().await,
        None => std::future::pending().await,
    }
}

async fn until(process: &Process, at: Option<Duration>) {
    match at {
        Some(at) => process.sleep_until(at).await,
        None => std::future::pending().await,
    }
}
