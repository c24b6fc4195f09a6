//! Frames to samples. The rules are at the head of `proto/skerry/gpu/v1/frame.proto`.
//!
//! A decoder is one node's. It either follows a stream, and then what it has of each device differs from what was read there by less than each field's
//! threshold; or it waits for a keyframe, and has nothing. Nothing is between: a frame that is missing, or is none that an encoder makes, ends the
//! following. What it takes is from a machine that may be anybody's, so every bound is held here.

use std::collections::{BTreeMap, BTreeSet};

use skerry_proto::gpu::v1 as pb;
use skerry_proto::gpu::v1::gap::Cause;
use skerry_proto::gpu::v1::keyframe::Reason;

use crate::event::Event;
use crate::field::FIELDS;
use crate::place::{self, ID_BYTES_MAX, TEXT_BYTES_MAX};
use crate::{
    Absent, EVENTS_MAX, Field, NODE_PROCESSES_MAX, PROCESSES_MAX, Place, Process, Reading, Sample, wire,
};

/// Most reasons of a place's health: more than there are, also of newer agents.
const HEALTH_REASONS_MAX: usize = 64;
/// Most sets of absent fields: more than there are reasons, also of newer agents.
const ABSENT_SETS_MAX: usize = 64;

/// The receiving end of a node's streams.
#[derive(Debug, Default)]
pub struct Decoder {
    following: Option<Following>,
    /// When the last frame that was taken was sampled.
    last: Option<i64>,
    /// A frame was lost since.
    broken: bool,
    events: Option<EventMark>,
}

/// Up to where the events of a boot are known.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct EventMark {
    /// Random for each start of the agent.
    pub boot_id: String,
    /// The last event that was taken.
    pub sequence: u64,
}

#[derive(Debug)]
struct Following {
    stream: u32,
    sequence: u32,
    time: i64,
    devices: Vec<pb::Device>,
    places: Vec<Followed>,
}

/// What is known of a place.
#[derive(Debug)]
pub struct Followed {
    place: Place,
    steps: Box<[i64; FIELDS]>,
    sample: Sample,
    processes: BTreeMap<u32, Process>,
    health: Option<pb::Health>,
}

/// What a frame brought.
#[derive(Debug, PartialEq, Eq)]
pub struct Taken {
    /// What became of the samples.
    pub outcome: Outcome,
    /// A time before this frame of which nothing is known.
    pub gap: Option<Gap>,
    /// Events that were not known before, by number.
    pub events: Vec<Happened>,
    /// Events that the node dropped before it could send them, or that are none.
    pub events_missed: u64,
}

/// What became of a frame's samples.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Outcome {
    /// All places were sampled at [`Decoder::time`]; what the frame did not name is as it was.
    Sampled,
    /// The same, and the devices may be others than before.
    Begun,
    /// The frame was taken before. Nothing changed.
    Repeated,
    /// A keyframe is to be asked for; the frame was passed over.
    Wanted(Why),
}

/// Why a keyframe is to be asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Why {
    /// There is nothing yet that differences could count from.
    #[error("no keyframe was taken yet")]
    Beginning,
    /// Frames between the last one and this one are missing.
    #[error("frames are missing before number {got}: {wanted} comes next")]
    Missing {
        /// The number that comes next.
        wanted: u32,
        /// The one that came.
        got: u32,
    },
    /// It belongs to another stream, whose keyframe did not come.
    #[error("the frame is of another stream, whose keyframe did not come")]
    OtherStream,
    /// No encoder makes such a frame.
    #[error("the frame is malformed: {0}")]
    Malformed(&'static str),
}

/// A time of which nothing is known, in milliseconds since 1970, by the node's clock.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Gap {
    /// The last time before it.
    pub since: i64,
    /// The first time after it, later than `since`.
    pub until: i64,
    /// Why.
    pub cause: Cause,
}

/// An event of a node.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Happened {
    /// Scope of `sequence`.
    pub boot_id: String,
    /// Its number.
    pub sequence: u64,
    /// When, in milliseconds since 1970, by the node's clock.
    pub time: i64,
    /// UUID of the device, or of the part. Empty: all of the node.
    pub uuid: String,
    /// What.
    pub event: Event,
}

impl Decoder {
    /// Of a node of which nothing is known.
    pub fn new() -> Self {
        Self::default()
    }

    /// Of a node of which something is kept: when it was last sampled, and up to where its events are stored.
    pub fn resume(last: Option<i64>, events: Option<EventMark>) -> Self {
        Self { following: None, last, broken: false, events }
    }

    /// When the last frame that was taken was sampled, in milliseconds since 1970, by the node's clock.
    pub fn time(&self) -> Option<i64> {
        self.last
    }

    /// The stream that is followed.
    pub fn stream(&self) -> Option<u32> {
        self.following.as_ref().map(|following| following.stream)
    }

    /// Up to where events are known.
    pub fn events(&self) -> Option<&EventMark> {
        self.events.as_ref()
    }

    /// The devices. None while a keyframe is waited for.
    pub fn devices(&self) -> &[pb::Device] {
        self.following.as_ref().map_or(&[], |following| &following.devices)
    }

    /// What is known of each place at [`Self::time`], in their order. Nothing while a keyframe is waited for.
    pub fn places(&self) -> &[Followed] {
        self.following.as_ref().map_or(&[], |following| &following.places)
    }

    /// Takes a frame of the node's, in the order in which it sent them. Where the outcome is [`Outcome::Wanted`] a keyframe is to be asked for, and
    /// again as long as frames come and none of them is one; how often is the caller's.
    pub fn take(&mut self, frame: &pb::Frame) -> Taken {
        match self.step(frame) {
            Ok(taken) => taken,
            Err(why) => {
                if why != Why::OtherStream {
                    self.broken |= self.following.take().is_some();
                }
                Taken { outcome: Outcome::Wanted(why), gap: None, events: Vec::new(), events_missed: 0 }
            }
        }
    }

    fn step(&mut self, frame: &pb::Frame) -> Result<Taken, Why> {
        let nothing = Taken { outcome: Outcome::Repeated, gap: None, events: Vec::new(), events_missed: 0 };
        // Looked at first: of a frame that is refused nothing was taken.
        if frame.events.len() > EVENTS_MAX {
            return Err(Why::Malformed("it has too many events"));
        }
        let ours = self.following.as_ref().filter(|following| following.stream == frame.stream);
        let (sequence, skipped) = match ours {
            Some(following) if frame.sequence <= following.sequence => return Ok(nothing),
            Some(following) => {
                let wanted = following.sequence.saturating_add(1);
                (wanted, frame.sequence != wanted)
            }
            None => (0, false),
        };
        let Some(keyframe) = &frame.keyframe else {
            return match (&mut self.following, skipped) {
                (Some(_), true) => Err(Why::Missing { wanted: sequence, got: frame.sequence }),
                (Some(following), false) if following.stream == frame.stream => {
                    following.apply(frame)?;
                    following.sequence = frame.sequence;
                    following.time = following.time.wrapping_add(frame.elapsed_millis);
                    self.last = Some(following.time);
                    Ok(self.taken(frame, Outcome::Sampled, None))
                }
                (Some(_), false) => Err(Why::OtherStream),
                (None, _) => Err(Why::Beginning),
            };
        };
        let mut begun = Following::begin(frame, keyframe)?;
        begun.apply(frame)?;
        let until = keyframe.time_unix_millis;
        let since = self.last.filter(|last| *last < until);
        let gap = since.zip(self.cause(keyframe, skipped)).map(|(since, cause)| Gap { since, until, cause });
        if self.events.as_ref().is_none_or(|mark| mark.boot_id != keyframe.boot_id) {
            self.events = Some(EventMark { boot_id: keyframe.boot_id.clone(), sequence: 0 });
        }
        self.following = Some(begun);
        self.last = Some(until);
        self.broken = false;
        Ok(self.taken(frame, Outcome::Begun, gap))
    }

    /// Why nothing is known of the time before a keyframe. `None`: it goes on from the frame before.
    fn cause(&self, keyframe: &pb::Keyframe, skipped: bool) -> Option<Cause> {
        match keyframe.reason() {
            Reason::Start => Some(Cause::AgentRestarted),
            Reason::LinkRestored => Some(Cause::LinkLost),
            Reason::Dropped => Some(Cause::Dropped),
            Reason::Asked | Reason::DevicesChanged | Reason::Periodic | Reason::Unspecified => {
                // Of a decoder that was resumed nobody knows what it did not see.
                let lost = skipped || self.broken || self.following.is_none();
                lost.then_some(Cause::Dropped)
            }
        }
    }

    /// Adds the events of a frame that was applied. One that is none counts as taken, so that it is not sent for ever and those beside it are taken.
    fn taken(&mut self, frame: &pb::Frame, outcome: Outcome, gap: Option<Gap>) -> Taken {
        let mut taken = Taken { outcome, gap, events: Vec::new(), events_missed: 0 };
        let Some(mark) = &mut self.events else { return taken };
        for event in &frame.events {
            if event.sequence <= mark.sequence {
                continue;
            }
            taken.events_missed = taken.events_missed.saturating_add(event.sequence - mark.sequence - 1);
            mark.sequence = event.sequence;
            if event.uuid.len() > ID_BYTES_MAX {
                taken.events_missed = taken.events_missed.saturating_add(1);
                continue;
            }
            // Of a kind that is not known here: of a newer agent.
            let Some(kind) = &event.kind else { continue };
            taken.events.push(Happened {
                boot_id: mark.boot_id.clone(),
                sequence: event.sequence,
                time: event.time_unix_millis,
                uuid: event.uuid.clone(),
                event: Event::from_wire(kind),
            });
        }
        taken
    }
}

impl Following {
    fn begin(frame: &pb::Frame, keyframe: &pb::Keyframe) -> Result<Self, Why> {
        if keyframe.boot_id.len() > ID_BYTES_MAX {
            return Err(Why::Malformed("its boot id is too long"));
        }
        place::check(&keyframe.devices).map_err(|invalid| Why::Malformed(invalid.why))?;
        let places = Place::all(&keyframe.devices);
        Ok(Self {
            stream: frame.stream,
            sequence: frame.sequence,
            time: keyframe.time_unix_millis,
            devices: keyframe.devices.clone(),
            places: places.into_iter().map(Followed::new).collect(),
        })
    }

    fn apply(&mut self, frame: &pb::Frame) -> Result<(), Why> {
        for changes in &frame.changes {
            self.place(changes.place)?.apply(changes)?;
        }
        let mut processes: usize = self.places.iter().map(|followed| followed.processes.len()).sum();
        for change in &frame.processes {
            let followed = self.place(change.place)?;
            processes -= followed.processes.len();
            followed.process(change)?;
            processes += followed.processes.len();
            if processes > NODE_PROCESSES_MAX {
                return Err(Why::Malformed("the node has too many processes"));
            }
        }
        // Each once, in whatever order they come: all of its processes are copied.
        let touched: BTreeSet<u32> = frame.processes.iter().map(|change| change.place).collect();
        for place in touched {
            let followed = self.place(place)?;
            followed.sample.processes = followed.processes.values().cloned().collect();
        }
        for change in &frame.health {
            if let Some(health) = &change.health {
                check_health(health)?;
            }
            self.place(change.place)?.health.clone_from(&change.health);
        }
        Ok(())
    }

    fn place(&mut self, place: u32) -> Result<&mut Followed, Why> {
        let found = usize::try_from(place).ok().and_then(|place| self.places.get_mut(place));
        found.ok_or(Why::Malformed("it names a place that the keyframe has not"))
    }
}

impl Followed {
    fn new(place: Place) -> Self {
        Self {
            place,
            steps: Box::new([0; FIELDS]),
            sample: Sample::new(),
            processes: BTreeMap::new(),
            health: None,
        }
    }

    /// Which place it is.
    pub fn place(&self) -> Place {
        self.place
    }

    /// What is known of what was read there.
    pub fn sample(&self) -> &Sample {
        &self.sample
    }

    /// How it is, as its node judges. `None`: the node did not say.
    pub fn health(&self) -> Option<&pb::Health> {
        self.health.as_ref()
    }

    fn apply(&mut self, changes: &pb::Changes) -> Result<(), Why> {
        let sets = changes.absent.iter().map(|set| &set.fields).chain([&changes.fields]);
        if sets.into_iter().any(|words| words.len() > wire::WORDS_MAX) {
            return Err(Why::Malformed("a set of fields is too long"));
        }
        if changes.absent.len() > ABSENT_SETS_MAX || wire::len(&changes.fields) != changes.steps.len() {
            return Err(Why::Malformed("it has not one change for each field"));
        }
        for (number, change) in wire::numbers(&changes.fields).zip(&changes.steps) {
            // One that is not known here is of a newer agent.
            let Some(field) = Field::from_number(number) else { continue };
            let steps = &mut self.steps[field.index()];
            *steps = if self.sample.get(field).is_ok() { steps.wrapping_add(*change) } else { *change };
            self.sample.set(field, Ok(steps.saturating_mul(field.spec().step)));
        }
        for set in &changes.absent {
            let reading: Reading = Err(Absent::from_wire(set.reason));
            for field in wire::numbers(&set.fields).filter_map(Field::from_number) {
                self.sample.set(field, reading);
            }
        }
        Ok(())
    }

    fn process(&mut self, change: &pb::ProcessChange) -> Result<(), Why> {
        let bytes = |bytes: Option<i64>| bytes.and_then(|bytes| u64::try_from(bytes).ok());
        if change.gone {
            self.processes.remove(&change.pid);
            return Ok(());
        }
        if let Some(process) = &change.process {
            let texts = [&process.instance, &process.command];
            if texts.into_iter().any(|text| text.len() > TEXT_BYTES_MAX) {
                return Err(Why::Malformed("a text of a process is too long"));
            }
            if self.processes.len() >= PROCESSES_MAX && !self.processes.contains_key(&change.pid) {
                return Err(Why::Malformed("a device has too many processes"));
            }
            let there = Process {
                pid: change.pid,
                instance: process.instance.clone(),
                command: process.command.clone(),
                memory_bytes: bytes(process.memory_bytes),
                utilization_percent: process.utilization_percent,
            };
            self.processes.insert(change.pid, there);
        }
        let Some(there) = self.processes.get_mut(&change.pid) else {
            return Err(Why::Malformed("a process changed that is not there"));
        };
        there.memory_bytes = bytes(change.memory_bytes).or(there.memory_bytes);
        there.utilization_percent = change.utilization_percent.or(there.utilization_percent);
        Ok(())
    }
}

fn check_health(health: &pb::Health) -> Result<(), Why> {
    let too_long = |reason: &pb::HealthReason| reason.reason.len().max(reason.message.len()) > TEXT_BYTES_MAX;
    if health.reasons.len() > HEALTH_REASONS_MAX || health.reasons.iter().any(too_long) {
        return Err(Why::Malformed("the health of a place has too many words"));
    }
    Ok(())
}
