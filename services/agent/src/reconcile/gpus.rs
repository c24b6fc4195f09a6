//! GPUs of instances: what they were really granted, and what is done about who uses more.

use std::collections::BTreeSet;
use std::time::{SystemTime, UNIX_EPOCH};

use skerry_model::app::OnOveruse;
use skerry_model::{GpuBooking, InstanceName};
use skerry_proto::types::v1 as pb;
use skerry_sync::MonoTime;
use tokio::sync::mpsc;

use super::Reconciler;
use super::act::News;
use crate::gpu::{Above, Booked, GpuLink, ISOLATION, MISSING, UNKNOWN, WARNING};
use crate::memory::OVERUSE;
use crate::plan::{Act, Action};
use crate::runtime::{Observed, RunState, RuntimeKind};
use crate::world::is_running;

/// What was told of somebody who uses more than is booked: who, of which GPU, and whether of its memory.
type Told = (InstanceName, String, bool);

/// The loop's part in GPUs.
#[derive(Default)]
pub(super) struct Gpus {
    pub(super) link: GpuLink,
    /// What was told, for as long as it is so.
    told: BTreeSet<Told>,
}

impl Reconciler {
    /// With what is known of GPUs.
    pub(crate) fn with_gpus(self, link: GpuLink) -> Self {
        Self { gpus: Gpus { link, told: BTreeSet::new() }, ..self }
    }

    /// What may be granted changed, or somebody uses more than is booked, or no more.
    pub(super) fn gpus_changed(&mut self) {
        let now = self.clock.mono();
        for memory in self.memories.values_mut() {
            for reason in [MISSING, UNKNOWN, ISOLATION] {
                memory.hurry(reason, now);
            }
        }
    }

    /// Says what is booked for what runs, and stops who uses more and is to be stopped for that.
    pub(super) fn step_gpus(&mut self, news: &mpsc::Sender<News>, now: MonoTime) {
        let booked = self.running().flat_map(|(_, observed)| {
            // Of what nobody wants any more it is not known, and it is on its way out.
            let spec = self.desired.spec_of(&observed.instance, &observed.fingerprint);
            let gpu = spec.and_then(|spec| spec.service.gpu.as_ref());
            let policy = gpu.map_or(OnOveruse::Report, |gpu| gpu.on_overuse);
            let held = self.gpus.link.grants.held(&observed.gpus);
            held.into_iter().map(move |booking| Booked {
                instance: observed.instance.clone(),
                booking,
                policy,
            })
        });
        let booked: Vec<Booked> = booked.collect();
        self.gpus.link.tell_booked(booked);
        let overuse = self.gpus.link.overuse();
        let mut told = BTreeSet::new();
        let mut stops = Vec::new();
        let wall = unix_ms(SystemTime::now());
        for one in overuse.iter() {
            // One that started in the future did so before the clock was set back.
            let is_meant = |at: i64| at <= one.since_ms || wall.is_some_and(|wall| at > wall);
            let meant = self.running().find(|(_, observed)| {
                observed.instance == one.instance && started_ms(observed).is_some_and(is_meant)
            });
            let Some((kind, _)) = meant else { continue };
            let key = (one.instance.clone(), one.gpu.clone(), matches!(one.above, Above::Memory { .. }));
            if !self.gpus.told.contains(&key) {
                let then = if one.stop { "; it is stopped" } else { "" };
                let message = format!("{} ({}){then}", one.words(), one.figure());
                self.instance_event(&one.instance, OVERUSE, message, true);
            }
            told.insert(key);
            if one.stop {
                stops.push((one.instance.clone(), kind, one.words()));
            }
        }
        self.gpus.told = told;
        for (instance, runtime, words) in stops {
            let memory = self.memories.entry(instance.clone()).or_default();
            if memory.busy.is_none() && memory.waits(None, now).is_none() {
                memory.stopped_for_overuse(words);
                // Not asked: its grace time would be at the cost of the others on the device.
                let action = Action { instance, runtime, act: Act::Kill, former: false };
                self.begin_act(&action, news, now);
            }
        }
    }

    /// What runs, wanted or not.
    fn running(&self) -> impl Iterator<Item = (RuntimeKind, &Observed)> {
        self.world.iter().flat_map(|(kind, view)| {
            let copies = view.instances.values().chain(view.beside.values());
            copies.filter(|observed| is_running(observed)).map(|observed| (*kind, observed))
        })
    }

    /// Says in a status what the instance has of GPUs, and what it uses of them that is not booked.
    pub(super) fn dress_gpus(
        &self,
        name: &InstanceName,
        observed: Option<&Observed>,
        status: &mut pb::InstanceStatus,
    ) {
        let running = observed.filter(|observed| is_running(observed));
        let spec = self.desired.instances.get(name).filter(|spec| !spec.gpus.is_empty());
        let held = match (running, spec) {
            (Some(observed), _) => self.gpus.link.grants.held(&observed.gpus),
            (None, Some(spec)) => match self.gpus.link.grants.of(spec) {
                Ok(Some(granted)) => granted.bookings,
                Ok(None) | Err(_) => spec.gpus.clone(),
            },
            (None, None) => Vec::new(),
        };
        status.gpus = held.iter().map(GpuBooking::to_proto).collect();
        let given = running.into_iter().flat_map(|observed| &observed.gpus).zip(&held);
        status.warnings.extend(given.filter_map(|(given, now)| weaker(given, now)));
        let overuse = self.gpus.link.overuse();
        let own = overuse.iter().filter(|one| {
            let key = (one.instance.clone(), one.gpu.clone(), matches!(one.above, Above::Memory { .. }));
            one.instance == *name && self.gpus.told.contains(&key)
        });
        status.warnings.extend(own.filter(|_| running.is_some()).map(crate::gpu::Overuse::words));
    }
}

/// That what a copy has is kept from others less well than when it was given that.
fn weaker(given: &GpuBooking, now: &GpuBooking) -> Option<String> {
    (now.isolation < given.isolation).then(|| {
        format!(
            "{WARNING}of {} it was given isolation {}, and has {} now: the GPU was divided since, or nobody tells who uses how much of it (see `skerry describe gpu`)",
            given.gpu, given.isolation, now.isolation
        )
    })
}

/// When a copy that runs was started, in milliseconds since 1970.
fn started_ms(observed: &Observed) -> Option<i64> {
    let RunState::Running { since } = observed.state else { return None };
    unix_ms(since)
}

fn unix_ms(time: SystemTime) -> Option<i64> {
    i64::try_from(time.duration_since(UNIX_EPOCH).ok()?.as_millis()).ok()
}
