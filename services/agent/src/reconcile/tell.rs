//! Telling: statuses when they change, events when something happens.
//!
//! Statuses go before the events of the same pass, since what a user waits for is the status.

use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, SystemTime};

use skerry_model::InstanceName;
use skerry_model::time::to_timestamp;
use skerry_proto::types::v1 as pb;
use skerry_sync::MonoTime;

use super::{Local, Reconciler, RuntimeStatus};
use crate::health::HealthState;
use crate::jobs::Happening as Happened;
use crate::memory::{Ended, Fetch, Happening, Memory, OVERUSE, Run};
use crate::plan::Hold;
use crate::runtime::{Progress, RuntimeError};
use crate::status::{
    About, dress_taken_back, how, of_blocked, of_unwanted, of_wanted, of_withheld, stopped_for,
};
use crate::world::{is_running, kind_of, place_of};

/// What is under way for less than this is not told: most of it is over by then, and the report of the outcome would wait for the
/// report of the work.
const HOLD_BACK: Duration = Duration::from_millis(500);

impl Reconciler {
    /// Tells all that changed. Answers when something that was held back is due.
    pub(super) async fn tell(
        &mut self,
        holds: &BTreeMap<InstanceName, Hold>,
        now: MonoTime,
    ) -> Option<MonoTime> {
        let mut due: Option<MonoTime> = None;
        let mut gone: BTreeSet<InstanceName> = self.told.keys().cloned().collect();
        let names: BTreeSet<&InstanceName> = self
            .desired
            .instances
            .keys()
            .chain(self.desired.blocked.keys())
            .chain(self.desired.taken_back.values().flat_map(|taken_back| &taken_back.withheld))
            .chain(self.world.values().flat_map(|view| view.instances.keys()))
            .collect();
        let mut changed = Vec::new();
        for name in names {
            gone.remove(name);
            if let Some(until) = self.held_back_until(name, now) {
                due = Some(due.map_or(until, |due| due.min(until)));
                continue;
            }
            let status = self.status(name, holds.get(name));
            if self.told.get(name) != Some(&status) {
                changed.push((name.clone(), status));
            }
        }
        for (name, status) in changed {
            self.told.insert(name, status.clone());
            self.send(Local::Instance(Box::new(status))).await;
        }
        for name in gone {
            self.told.remove(&name);
            self.send(Local::Gone(name.to_string())).await;
        }
        self.tell_images().await;
        for event in std::mem::take(&mut self.events) {
            self.send(Local::Event(Box::new(event))).await;
        }
        if self.looked && !self.looks_told {
            self.looks_told = true;
            self.send(Local::Looked).await;
        }
        due
    }

    /// Until when the status of `name` is held back, if it is. Before the first look was told nothing is: the first report is whole.
    fn held_back_until(&self, name: &InstanceName, now: MonoTime) -> Option<MonoTime> {
        if !self.looks_told {
            return None;
        }
        let memory = self.memories.get(name)?;
        let since = match (&memory.fetch, &memory.busy) {
            (Some(fetch), _) if !fetch.reason.is_empty() => return None,
            (Some(Fetch { since, .. }), _) | (None, Some((_, since))) => *since,
            (None, None) => return None,
        };
        Some(since + HOLD_BACK).filter(|until| *until > now)
    }

    pub(super) fn status(&self, name: &InstanceName, hold: Option<&Hold>) -> pb::InstanceStatus {
        let blank = Memory::default();
        let memory = self.memories.get(name).unwrap_or(&blank);
        let wanted = self.desired.instances.get(name);
        let mut views = self.world.iter();
        let view = match wanted {
            Some(spec) => {
                let kind = kind_of(spec);
                self.world.get(&place_of(&self.world, name, kind).unwrap_or(kind))
            }
            None => views.find(|(_, view)| view.instances.contains_key(name)).map(|(_, view)| view),
        };
        let about = About {
            observed: view.and_then(|view| view.instances.get(name)),
            memory,
            health: self.health.get(name),
            away: view.and_then(|view| view.error.as_ref()),
        };
        let taken_back = self.desired.taken_back.get(&name.app);
        let is_withheld = taken_back.is_some_and(|taken_back| taken_back.withheld.contains(name));
        let mut status = match (wanted, self.desired.blocked.get(name)) {
            (Some(spec), _) => {
                let mut status = of_wanted(spec, hold, about);
                let runs = about.observed.is_some_and(is_running);
                let is_at_fault = about.away.is_some() || memory.error(Some(&spec.fingerprint)).is_some();
                self.jobs.dress(name, runs, is_at_fault, &mut status);
                status
            }
            (None, Some(blocked)) => of_blocked(name, blocked, about),
            (None, None) => match taken_back.filter(|_| is_withheld && about.observed.is_none()) {
                Some(taken_back) => of_withheld(name, taken_back, about),
                None => of_unwanted(name, self.desired.authoritative, about),
            },
        };
        self.dress_gpus(name, about.observed, &mut status);
        if let Some(taken_back) = taken_back {
            dress_taken_back(taken_back, &mut status);
        }
        status
    }

    pub(super) async fn send(&self, local: Local) {
        // The uplink ends only when the agent does: then nobody needs to be told.
        let _ = self.links.local.send(local).await;
    }

    /// Tells which copies there are, if that changed.
    pub(super) fn tell_copies(&self) {
        self.links.copies.send_if_modified(|told| {
            let news = *told != self.copies;
            if news {
                told.clone_from(&self.copies);
            }
            news
        });
    }

    /// Tells the state of the runtimes, for the machine's status.
    pub(super) fn tell_runtimes(&self) {
        let needed: BTreeSet<_> = self.desired.instances.values().map(|spec| kind_of(spec)).collect();
        let statuses = self
            .world
            .iter()
            .map(|(kind, view)| {
                let status = RuntimeStatus {
                    version: view.version.clone(),
                    available: view.available,
                    error: view.error.clone(),
                    missed: !view.available && (needed.contains(kind) || !view.version.is_empty()),
                };
                (*kind, status)
            })
            .collect();
        self.links.runtimes.send_replace(statuses);
    }

    pub(super) fn tell_happening(&mut self, name: &InstanceName, happening: &Happening) {
        match happening {
            Happening::Started(run) => {
                let started = self.memories.get(name).and_then(|memory| memory.started.as_ref());
                let former = self.desired.formers.get(name).map(|former| &former.fingerprint);
                let message = match run {
                    Run::First => "it runs",
                    Run::Again => "it runs again",
                    Run::Other if started.is_some() && started == former => "its former copy runs again",
                    Run::Other => "its updated copy runs",
                };
                self.instance_event(name, "Started", message.to_owned(), false);
                let seen = self.world.values().find_map(|view| view.instances.get(name));
                for warning in seen.map(|seen| seen.warnings.clone()).unwrap_or_default() {
                    let of_gpu = warning.starts_with(crate::gpu::WARNING);
                    let reason = if of_gpu { "GpuIncomplete" } else { "LimitNotHeld" };
                    self.instance_event(name, reason, warning, true);
                }
            }
            Happening::Ended(Ended { code, out_of_memory, wait }) => {
                let overuse = self.memories.get(name).and_then(|memory| memory.overuse.clone());
                let reason = match &overuse {
                    Some(_) => OVERUSE,
                    None if *out_of_memory => "OutOfMemory",
                    None => "Exited",
                };
                let then = wait.map_or(String::new(), |wait| {
                    format!("; started again after {:.1} s", wait.as_secs_f64())
                });
                let how = overuse.map_or_else(|| how(*code, *out_of_memory), |words| stopped_for(&words));
                let message = format!("{how}{then}");
                self.instance_event(name, reason, message, *code != Some(0));
            }
            Happening::Vanished => {
                let message = "it is gone and the agent did not remove it".to_owned();
                self.instance_event(name, "Vanished", message, true);
            }
        }
    }

    /// What happened to the copy beside the one that it is to replace.
    pub(super) fn tell_beside(&mut self, name: &InstanceName, happening: &Happening) {
        match happening {
            Happening::Started(_) => {
                let message = "its updated copy runs beside the old one".to_owned();
                self.instance_event(name, "UpdateStarted", message, false);
            }
            Happening::Ended(Ended { code, out_of_memory, wait }) => {
                let then = wait.map_or(String::new(), |wait| {
                    format!("; started again after {:.1} s", wait.as_secs_f64())
                });
                let message = format!("of its updated copy, {}{then}", how(*code, *out_of_memory));
                self.instance_event(name, "UpdateEnded", message, *code != Some(0));
            }
            // The agent itself withdraws it; whatever else took it away, another one is started.
            Happening::Vanished => {}
        }
    }

    pub(super) fn tell_progress(&mut self, name: &InstanceName, progress: Progress) {
        self.instance_event(name, progress.reason, progress.message, false);
    }

    pub(super) fn tell_failure(&mut self, name: &InstanceName, error: &RuntimeError) {
        self.instance_event(name, error.reason, error.message.clone(), true);
    }

    /// What came of a job, or of an update.
    pub(super) fn tell_happening_of(&mut self, happening: Happened) {
        let Happened { instance, reason, message, warning } = happening;
        self.instance_event(&instance, reason, message, warning);
    }

    pub(super) fn tell_removed(&mut self, name: &InstanceName) {
        self.instance_event(name, "Removed", "it was stopped and removed".to_owned(), false);
    }

    /// Events for what changed since `old`.
    pub(super) fn tell_health(&mut self, old: &BTreeMap<InstanceName, HealthState>) {
        let changed: Vec<(InstanceName, HealthState)> = self
            .health
            .iter()
            .filter(|(name, state)| old.get(*name) != Some(*state))
            .map(|(name, state)| (name.clone(), state.clone()))
            .collect();
        for (name, state) in changed {
            match (state, old.get(&name)) {
                (HealthState::Healthy, _) => {
                    self.instance_event(&name, "Healthy", "its health check succeeds".to_owned(), false);
                }
                // Only the message is another one: the status tells that.
                (HealthState::Unhealthy { .. }, Some(HealthState::Unhealthy { .. }))
                | (HealthState::Starting, _) => {}
                (HealthState::Unhealthy { message }, _) => {
                    self.instance_event(&name, "Unhealthy", message, true);
                }
            }
        }
    }

    pub(super) fn instance_event(
        &mut self,
        name: &InstanceName,
        reason: &str,
        message: String,
        warning: bool,
    ) {
        let regarding = format!("{}/instances/{name}", self.node.project.parent());
        self.event(regarding, reason, message, warning);
    }

    pub(super) fn tell_node_event(&mut self, reason: &str, message: String, warning: bool) {
        let regarding = self.node.to_string();
        self.event(regarding, reason, message, warning);
    }

    fn event(&mut self, regarding: String, reason: &str, message: String, warning: bool) {
        if warning {
            tracing::warn!(regarding, reason, message, "event");
        } else {
            tracing::info!(regarding, reason, message, "event");
        }
        let severity = if warning { pb::event::Severity::Warning } else { pb::event::Severity::Normal };
        self.events.push(pb::Event {
            time: Some(to_timestamp(SystemTime::now())),
            severity: severity.into(),
            reason: reason.to_owned(),
            message,
            regarding,
            ..pb::Event::default()
        });
    }
}
