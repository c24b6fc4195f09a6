//! Makes a machine run what its agent applies: level-triggered, one act at a time for each instance; tells what it sees. A model of the
//! agent's reconciler, not the real one.

use std::cell::Cell;
use std::collections::BTreeMap;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use skerry_proto::gateway::v1 as pb;
use skerry_proto::types::v1 as types;
use skerry_sync::Desired;
use tokio::sync::mpsc;

use super::check::Assigned;
use super::faults::Fault;
use super::machine::{Copy, Machine};
use super::sim::Process;

/// Changes that wait for the driver.
pub(super) const LOCAL_MAX: usize = 64;
/// All is looked at again after this time, whatever happens.
const PERIOD: Duration = Duration::from_secs(30);

/// What it tells.
pub(super) enum Local {
    Instance(Box<types::InstanceStatus>),
    Gone(String),
    Event(Box<types::Event>),
    Looked(Box<types::MachineStatus>),
}

/// See the module.
pub(super) struct Reconciler {
    process: Process,
    machine: Rc<Machine>,
    desired: super::signal::Receiver<Arc<Desired>>,
    local: mpsc::Sender<Local>,
    storm: Rc<Cell<u32>>,
    told: BTreeMap<String, types::InstanceStatus>,
    looked: bool,
}

/// A wanted instance, as it would be assigned.
fn wanted(instance: &pb::Instance) -> Assigned {
    let configs: Vec<String> =
        instance.configs.iter().map(|config| format!("{}={}", config.config, config.hash)).collect();
    (instance.instance.clone(), instance.revision.clone(), configs.join(","))
}

impl Reconciler {
    pub(super) fn new(
        process: Process,
        machine: Rc<Machine>,
        desired: super::signal::Receiver<Arc<Desired>>,
        local: mpsc::Sender<Local>,
        storm: Rc<Cell<u32>>,
    ) -> Self {
        Self { process, machine, desired, local, storm, told: BTreeMap::new(), looked: false }
    }

    pub(super) async fn run(mut self) {
        // What the control plane remembers of an earlier life is replaced by the first full report.
        loop {
            self.act().await;
            self.tell().await;
            let machine = Rc::clone(&self.machine);
            tokio::select! {
                biased;
                changed = self.desired.changed() => if changed.is_err() { return },
                () = machine.stirred.notified() => {}
                () = self.process.sleep(PERIOD) => {}
            }
        }
    }

    /// Begins all that is to be done.
    async fn act(&mut self) {
        let desired = self.desired.take();
        let observed = self.machine.observe();
        let wanted: BTreeMap<String, Assigned> =
            desired.instances().map(|instance| (instance.instance.clone(), wanted(instance))).collect();
        // Nothing is stopped unless what is wanted is known for certain.
        let authoritative = desired.version.is_some();
        for name in observed.keys().filter(|name| authoritative && !wanted.contains_key(*name)) {
            if !self.machine.is_at_work(name) {
                self.process.boundary().await;
                self.machine.remove(name);
                self.event("Stopped", name).await;
            }
        }
        for (name, what) in &wanted {
            if self.machine.is_at_work(name) {
                continue;
            }
            self.process.boundary().await;
            match observed.get(name) {
                None => {
                    self.machine.start(what);
                    self.event("Started", name).await;
                }
                Some(copy) if copy.what != *what => {
                    // The old one goes first; what is missing then is started.
                    self.machine.remove(name);
                }
                Some(copy) if !copy.running => {
                    self.machine.restart(name);
                    self.event("Restarted", name).await;
                }
                Some(_) => {}
            }
        }
    }

    async fn event(&self, reason: &str, name: &str) {
        let event = types::Event {
            // Each another one: what repeats is counted and not told again, and every number shall be found.
            reason: format!("{reason}{}", self.process.sim.unique()),
            message: format!("{reason} {name}"),
            ..types::Event::default()
        };
        self.say(Local::Event(Box::new(event))).await;
    }

    async fn say(&self, local: Local) {
        // The driver lives as long as this does.
        let _ = self.local.send(local).await;
    }

    /// Says what changed since it was last said.
    async fn tell(&mut self) {
        let now: BTreeMap<String, types::InstanceStatus> =
            self.machine.observe().into_iter().map(|(name, copy)| (name, status(&copy))).collect();
        let before = std::mem::replace(&mut self.told, now.clone());
        for (name, status) in now {
            if before.get(&name) != Some(&status) {
                self.process.boundary().await;
                self.say(Local::Instance(Box::new(status))).await;
            }
        }
        for name in before.into_keys().filter(|name| !self.told.contains_key(name)) {
            self.say(Local::Gone(name)).await;
        }
        if !std::mem::replace(&mut self.looked, true) {
            let machine =
                types::MachineStatus { hostname: self.machine.name.to_string(), ..Default::default() };
            self.say(Local::Looked(Box::new(machine))).await;
        }
        let storm = self.storm.take();
        if storm > 0 {
            self.process.sim.count(Fault::EventStorm);
            for number in 0..storm {
                self.event("Storm", &number.to_string()).await;
            }
        }
    }
}

/// What is reported of a copy.
pub(super) fn status(copy: &Copy) -> types::InstanceStatus {
    let phase = if copy.running { types::InstancePhase::Running } else { types::InstancePhase::Backoff };
    types::InstanceStatus {
        instance: copy.what.0.clone(),
        revision: copy.what.1.clone(),
        phase: phase.into(),
        ready: copy.running,
        reason: if copy.running { String::new() } else { "Exited".to_owned() },
        restarts: copy.restarts,
        runtime_id: copy.id.to_string(),
        ..types::InstanceStatus::default()
    }
}
