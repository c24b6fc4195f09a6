//! Samples to frames. The rules are at the head of `proto/skerry/gpu/v1/frame.proto`.
//!
//! What is compared is always the reading with what was last sent, never with the reading before: a drift too slow to be seen from one sample to the
//! next is sent all the same. What was sent counts in steps, as the receiver has it, so that both ends hold the very same values.

use std::collections::{BTreeMap, VecDeque};

use skerry_proto::gpu::v1 as pb;
use skerry_proto::gpu::v1::keyframe::Reason;

use crate::event::Event;
use crate::field::{FIELDS, Spec};
use crate::health::Health;
use crate::place::{self, ID_BYTES_MAX, TEXT_BYTES_MAX};
use crate::{
    Absent, EVENTS_MAX, Field, InvalidDevice, NODE_PROCESSES_MAX, PROCESSES_MAX, Place, Process, Sample, cut,
    wire,
};

/// After so long without a frame one is sent though nothing changed, in milliseconds: who receives it knows that nothing did.
pub const SILENCE_MILLIS_MAX: i64 = 10_000;
/// What was not sent for so long is sent when it differs at all, in milliseconds.
pub const AGE_MILLIS_MAX: i64 = 60_000;
/// A keyframe is sent at least so often, in milliseconds.
pub const KEYFRAME_MILLIS_MAX: i64 = 600_000;
/// A process's memory is sent when it differs by so much, in bytes.
pub const PROCESS_MEMORY_THRESHOLD: u64 = 1 << 20;
/// A process's utilisation is sent when it differs by so much, in percent.
pub const PROCESS_UTILIZATION_THRESHOLD: u32 = 2;
/// Most processes in one frame, so that frames have a bound. What does not fit is in the next ones.
const PROCESSES_PER_FRAME_MAX: usize = 512;
/// Most bytes of a process's command.
const COMMAND_BYTES_MAX: usize = 64;

/// The sending end of a stream. Only frames that it gave out count as sent: see [`Self::begin_anew`] for what was lost on the way out.
#[derive(Debug)]
pub struct Encoder {
    stream: u32,
    boot_id: String,
    sequence: u32,
    /// When the last frame was sampled.
    time: i64,
    /// When the last keyframe was.
    keyframe_time: i64,
    devices: Vec<pb::Device>,
    /// By place.
    sent: Vec<Sent>,
    /// By place: what is to be told.
    health: Vec<Option<pb::Health>>,
    /// A keyframe is to be sent next.
    due: Option<Reason>,
    /// Not acknowledged yet, the oldest first.
    events: VecDeque<pb::FrameEvent>,
    event_last: u64,
    /// Events up to this one were in a frame since the last keyframe began.
    event_sent: u64,
}

/// What the receiver has of a place.
#[derive(Debug)]
struct Sent {
    slots: Box<[Slot; FIELDS]>,
    processes: BTreeMap<u32, SentProcess>,
    health: Option<pb::Health>,
}

#[derive(Debug, Clone, Copy)]
struct Slot {
    /// In steps.
    held: Result<i64, Absent>,
    /// When it was sent.
    at: i64,
}

#[derive(Debug)]
struct SentProcess {
    told: pb::Process,
    at: i64,
}

impl Encoder {
    /// A stream with no devices. `stream` is random, and another one for each encoder; `boot_id`, of at most 64 bytes, is the scope of event
    /// numbers: another one for each start of the agent.
    pub fn new(stream: u32, boot_id: &str) -> Self {
        Self {
            stream,
            boot_id: cut(boot_id, ID_BYTES_MAX).to_owned(),
            sequence: 0,
            time: 0,
            keyframe_time: 0,
            devices: Vec::new(),
            sent: Vec::new(),
            health: Vec::new(),
            due: Some(Reason::Start),
            events: VecDeque::new(),
            event_last: 0,
            event_sent: 0,
        }
    }

    /// The id of the stream.
    pub fn stream(&self) -> u32 {
        self.stream
    }

    /// Says which devices there are. Where they are others than before, or described otherwise, the next frame is a keyframe, and of their health
    /// nothing is known. What cannot be told is refused, and all stays as it was.
    pub fn set_devices(&mut self, devices: Vec<pb::Device>) -> Result<(), InvalidDevice> {
        place::check(&devices)?;
        if devices != self.devices {
            self.health = vec![None; Place::all(&devices).len()];
            self.devices = devices;
            self.begin_anew(Reason::DevicesChanged);
        }
        Ok(())
    }

    /// What is sampled, in the order in which samples are to be given.
    pub fn places(&self) -> Vec<Place> {
        Place::all(&self.devices)
    }

    /// Says how a place is. It is told with the next frame, if it is otherwise than before.
    pub fn set_health(&mut self, place: usize, health: &Health) {
        if let Some(there) = self.health.get_mut(place) {
            *there = Some(health.to_wire());
        }
    }

    /// Makes the next frame a keyframe: the link was lost, or frames were dropped. Of several reasons the one is told that makes the longest gap.
    pub fn begin_anew(&mut self, reason: Reason) {
        if self.due.is_none_or(|due| gap_of(due) < gap_of(reason)) {
            self.due = Some(reason);
        }
    }

    /// Keeps an event until it is acknowledged; its number. `uuid` is the device's, or empty for all of the node. The oldest gives way where
    /// there are [`EVENTS_MAX`].
    pub fn event(&mut self, now_ms: i64, uuid: &str, event: &Event) -> u64 {
        if self.events.len() >= EVENTS_MAX {
            self.events.pop_front();
        }
        self.event_last += 1;
        self.events.push_back(pb::FrameEvent {
            sequence: self.event_last,
            time_unix_millis: now_ms,
            uuid: cut(uuid, ID_BYTES_MAX).to_owned(),
            kind: Some(event.to_wire()),
        });
        self.event_last
    }

    /// Events that are not acknowledged.
    pub fn events_waiting(&self) -> usize {
        self.events.len()
    }

    /// Does what the receiver asks for. What is about another stream is passed over.
    pub fn feedback(&mut self, feedback: &pb::Feedback) {
        if feedback.stream != self.stream {
            return;
        }
        while self.events.front().is_some_and(|event| event.sequence <= feedback.events_through) {
            self.events.pop_front();
        }
        if feedback.keyframe {
            self.begin_anew(Reason::Asked);
        }
    }

    /// The frame for samples that were taken at `now_ms`, in milliseconds since 1970, one for each place in order. `None`: nothing is to be
    /// told. A place without a sample counts as not read yet; samples beyond the places are passed over.
    pub fn encode(&mut self, now_ms: i64, samples: &[Sample]) -> Option<pb::Frame> {
        let since = |then: i64| now_ms.checked_sub(then).filter(|passed| *passed >= 0);
        // A clock that was set back makes all due: nothing waits for it to come there again.
        if since(self.keyframe_time).is_none_or(|age| age >= KEYFRAME_MILLIS_MAX) {
            self.begin_anew(Reason::Periodic);
        }
        let keyframe = self.due.take().map(|reason| self.keyframe(now_ms, reason));
        let whole = keyframe.is_some();
        let mut frame = pb::Frame { stream: self.stream, keyframe, ..pb::Frame::default() };
        let unread = Sample::new();
        let told: usize = self.sent.iter().map(|sent| sent.processes.len()).sum();
        let mut free = NODE_PROCESSES_MAX.saturating_sub(told);
        for ((place, sent), health) in (0u32..).zip(&mut self.sent).zip(&self.health) {
            let sample = samples.get(place as usize).unwrap_or(&unread);
            let changes = sent.changes(place, now_ms, sample);
            if !changes.fields.is_empty() || !changes.absent.is_empty() {
                frame.changes.push(changes);
            }
            let room = PROCESSES_PER_FRAME_MAX.saturating_sub(frame.processes.len());
            sent.processes(place, now_ms, sample, (room, &mut free), &mut frame.processes);
            if *health != sent.health {
                sent.health.clone_from(health);
                frame.health.push(pb::HealthChange { place, health: health.clone() });
            }
        }
        frame.events = self.events.iter().filter(|event| event.sequence > self.event_sent).cloned().collect();
        let silent = frame.changes.is_empty()
            && frame.processes.is_empty()
            && frame.events.is_empty()
            && frame.health.is_empty();
        if silent && !whole && since(self.time).is_some_and(|passed| passed < SILENCE_MILLIS_MAX) {
            return None;
        }
        self.event_sent = self.event_last;
        self.sequence = self.sequence.wrapping_add(1);
        frame.sequence = self.sequence;
        frame.elapsed_millis = if whole { 0 } else { now_ms.wrapping_sub(self.time) };
        self.time = now_ms;
        Some(frame)
    }

    /// Forgets what the receiver has.
    fn keyframe(&mut self, now_ms: i64, reason: Reason) -> pb::Keyframe {
        self.sent = self.health.iter().map(|_| Sent::new(now_ms)).collect();
        self.event_sent = 0;
        self.keyframe_time = now_ms;
        pb::Keyframe {
            reason: reason.into(),
            time_unix_millis: now_ms,
            boot_id: self.boot_id.clone(),
            devices: self.devices.clone(),
        }
    }
}

impl Sent {
    fn new(at: i64) -> Self {
        let nothing = Slot { held: Err(Absent::NotYet), at };
        Self { slots: Box::new([nothing; FIELDS]), processes: BTreeMap::new(), health: None }
    }

    fn changes(&mut self, place: u32, now: i64, sample: &Sample) -> pb::Changes {
        let mut changes = pb::Changes { place, ..pb::Changes::default() };
        let mut absent: BTreeMap<Absent, Vec<u64>> = BTreeMap::new();
        for (field, reading) in sample.iter() {
            let slot = &mut self.slots[field.index()];
            let spec = field.spec();
            let held = match (slot.held, reading) {
                (Ok(held), Ok(value)) => {
                    let near = steps(value, spec.step);
                    if near == held || !is_due(spec, held, value, now.wrapping_sub(slot.at)) {
                        continue;
                    }
                    wire::insert(&mut changes.fields, field.number());
                    changes.steps.push(near.wrapping_sub(held));
                    Ok(near)
                }
                (Err(_), Ok(value)) => {
                    let near = steps(value, spec.step);
                    wire::insert(&mut changes.fields, field.number());
                    changes.steps.push(near);
                    Ok(near)
                }
                (held, Err(reason)) if held == Err(reason) => continue,
                (_, Err(reason)) => {
                    wire::insert(absent.entry(reason).or_default(), field.number());
                    Err(reason)
                }
            };
            *slot = Slot { held, at: now };
        }
        let sets = absent.into_iter();
        changes.absent =
            sets.map(|(reason, fields)| pb::AbsentSet { reason: reason.to_wire().into(), fields }).collect();
        changes
    }

    /// `room` is for how many changes the frame has some, `free` how many processes more the receiver takes.
    fn processes(
        &mut self,
        place: u32,
        now: i64,
        sample: &Sample,
        (room, free): (usize, &mut usize),
        out: &mut Vec<pb::ProcessChange>,
    ) {
        let known = sample.value(Field::Processes).is_some();
        let mut there: BTreeMap<u32, &Process> =
            sample.processes.iter().filter(|_| known).map(|process| (process.pid, process)).collect();
        while there.len() > PROCESSES_MAX {
            there.pop_last();
        }
        let gone = self.processes.keys().filter(|pid| !there.contains_key(pid));
        let gone: Vec<u32> = gone.copied().take(room).collect();
        let full = out.len() + room;
        for pid in gone {
            self.processes.remove(&pid);
            *free += 1;
            out.push(pb::ProcessChange { place, pid, gone: true, ..pb::ProcessChange::default() });
        }
        for (pid, process) in there {
            if out.len() >= full {
                return;
            }
            if !self.processes.contains_key(&pid) {
                let Some(less) = free.checked_sub(1) else { continue };
                *free = less;
            }
            out.extend(self.process(place, pid, now, process));
        }
    }

    fn process(&mut self, place: u32, pid: u32, now: i64, process: &Process) -> Option<pb::ProcessChange> {
        let told = told(process);
        let mut change = pb::ProcessChange { place, pid, ..pb::ProcessChange::default() };
        match self.processes.get_mut(&pid) {
            Some(sent) if is_same(&sent.told, &told) => {
                let old = now.wrapping_sub(sent.at) >= AGE_MILLIS_MAX;
                let differs = |by: u64, threshold: u64| by >= threshold || (old && by > 0);
                let by = |a: Option<i64>, b: Option<i64>| a.zip(b).map_or(0, |(a, b)| a.abs_diff(b));
                if differs(by(told.memory_bytes, sent.told.memory_bytes), PROCESS_MEMORY_THRESHOLD) {
                    change.memory_bytes = told.memory_bytes;
                    sent.told.memory_bytes = told.memory_bytes;
                }
                let busy = |process: &pb::Process| process.utilization_percent.map(i64::from);
                if differs(by(busy(&told), busy(&sent.told)), PROCESS_UTILIZATION_THRESHOLD.into()) {
                    change.utilization_percent = told.utilization_percent;
                    sent.told.utilization_percent = told.utilization_percent;
                }
                let changed = change.memory_bytes.is_some() || change.utilization_percent.is_some();
                if changed {
                    sent.at = now;
                }
                changed.then_some(change)
            }
            _ => {
                self.processes.insert(pid, SentProcess { told: told.clone(), at: now });
                change.process = Some(told);
                Some(change)
            }
        }
    }
}

/// How much of the time before a keyframe is not known for this reason.
fn gap_of(reason: Reason) -> u8 {
    match reason {
        Reason::Unspecified | Reason::Periodic | Reason::Asked | Reason::DevicesChanged => 0,
        Reason::Dropped => 1,
        Reason::LinkRestored => 2,
        Reason::Start => 3,
    }
}

/// The nearest number of steps.
fn steps(value: i64, step: i64) -> i64 {
    let (whole, rest) = (value.div_euclid(step), value.rem_euclid(step));
    if rest >= step - rest { whole.saturating_add(1) } else { whole }
}

fn is_due(spec: &Spec, held: i64, value: i64, age: i64) -> bool {
    let differs = held.saturating_mul(spec.step).abs_diff(value);
    differs >= spec.threshold.unsigned_abs() || !(0..AGE_MILLIS_MAX).contains(&age)
}

/// As it is sent. The pid is beside it.
fn told(process: &Process) -> pb::Process {
    pb::Process {
        pid: 0,
        instance: cut(&process.instance, TEXT_BYTES_MAX).to_owned(),
        command: cut(&process.command, COMMAND_BYTES_MAX).to_owned(),
        memory_bytes: process.memory_bytes.map(|bytes| i64::try_from(bytes).unwrap_or(i64::MAX)),
        utilization_percent: process.utilization_percent,
    }
}

/// Whether only figures may differ.
fn is_same(a: &pb::Process, b: &pb::Process) -> bool {
    a.instance == b.instance
        && a.command == b.command
        && a.memory_bytes.is_some() == b.memory_bytes.is_some()
        && a.utilization_percent.is_some() == b.utilization_percent.is_some()
}
