//! The nodes that this replica has: a decoder for each, what it has now, and what happened.
//!
//! A node is locked by itself, and only while a frame of it is taken; nothing waits in that. Its last events and gaps have numbers, so that who follows them
//! misses none unless it is very slow, and then knows it.

use std::collections::{HashMap, HashSet, VecDeque};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, RwLock};
use std::time::{Duration, Instant};

use prost::Message as _;
use skerry_gpu_model::decode::{EventMark, Outcome, Taken};
use skerry_gpu_model::{Decoder, Field, PLACES_MAX, Reading, Sample};
use skerry_proto::gpu::v1 as pb;
use skerry_proto::gpu::v1::gap::Cause;
use skerry_series::{Group, Time, VALUE_MAX};
use tokio::sync::mpsc;

use crate::convert::timestamp;
use crate::group::{gpu_name, group_of};
use crate::marks::Marks;
use crate::recorder::{Note, Values};

/// Nodes of which something is known.
const NODES_MAX: usize = 50_000;
/// So many give way at once where there are too many.
const NODES_AT_ONCE: usize = NODES_MAX / 64;
/// Happenings that are kept for who follows them: those of some seconds.
const HAPPENED_MAX: usize = 1024;
/// Happenings in a second that are told, more than a node has events that wait. A node that makes up more must not end the streams of who follows others too.
const HAPPENINGS_PER_SECOND: u32 = 320;
/// GPUs and parts of one node that history has, as long as this service runs: divided anew a few times. Without a bound one node could take the room of all.
const GROUPS_MAX: usize = 4 * PLACES_MAX;
/// A node that says nothing for so long has a gap: with a link something comes every ten seconds.
pub(crate) const SILENT_AFTER: Duration = Duration::from_secs(15);
/// At most so often a keyframe is asked for, and what was acknowledged is acknowledged again.
const ASK_EVERY: Duration = Duration::from_secs(1);
/// At most so often a node's faults are logged.
const WARN_EVERY: Duration = Duration::from_secs(60);
/// A node's clock that is ahead by more is not believed.
const AHEAD_MAX_MILLIS: i64 = 3_600_000;

/// Order of sessions of a node: term and revision.
pub(crate) type Epoch = (u64, i64);

/// What history was last handed of a place. Nothing: all is to be handed over.
type Record = Option<Box<[Reading; Field::ALL.len()]>>;

/// All nodes.
#[derive(Debug, Default)]
pub(crate) struct Fleet {
    nodes: RwLock<HashMap<Box<str>, Arc<Cell>>>,
}

/// One node.
#[derive(Debug)]
pub(crate) struct Cell {
    state: Mutex<Node>,
}

/// See [`Cell`].
#[derive(Debug)]
pub(crate) struct Node {
    /// `projects/<project>/nodes/<node>`.
    pub(crate) name: Box<str>,
    decoder: Decoder,
    epoch: Epoch,
    session: Option<Session>,
    /// By place: under which number history is kept, if it is.
    records: Vec<(Option<Group>, Record)>,
    /// All that there ever were.
    groups: HashSet<Group>,
    pub(crate) marks: Marks,
    /// Whether `marks` is to be written.
    dirty: bool,
    /// Events up to this one are on disk.
    saved: Option<EventMark>,
    happened: VecDeque<Happening>,
    /// How many there ever were.
    happenings: u64,
    /// Since when they are counted for [`HAPPENINGS_PER_SECOND`], and how many there were.
    burst: Option<(Instant, u32)>,
    heard: Option<Instant>,
    is_silent: bool,
    /// Time of the newest sample that history was handed: it takes none from before.
    noted: i64,
    /// The last sample that history got before some that it had no room for, or that were from before it. 0: it got none before.
    lost: Option<i64>,
    asked: Option<Instant>,
    /// When it was told last which events are on disk, and up to which.
    acknowledged: Option<(Instant, u64)>,
    warned: Option<Instant>,
    /// Frames that were taken.
    pub(crate) frames: u64,
}

/// Where a node's frames come from.
#[derive(Debug, Clone)]
struct Session {
    id: u64,
    handle: u32,
    to: mpsc::Sender<pb::IngestFeedback>,
}

/// Something that nobody may miss.
#[derive(Debug, Clone, PartialEq)]
pub(crate) enum Happening {
    /// An event.
    Event(pb::GpuEvent),
    /// A time of which nothing is known has begun, or is over.
    Gap(pb::Gap),
}

impl Fleet {
    /// As it was before.
    pub(crate) fn with(marks: Vec<Marks>) -> Self {
        let node = |marks: Marks| (marks.node.clone().into(), Arc::new(Cell::new(marks)));
        Self { nodes: RwLock::new(marks.into_iter().map(node).collect()) }
    }

    /// A node, if anything is known of it.
    pub(crate) fn get(&self, node: &str) -> Option<Arc<Cell>> {
        self.nodes.read().unwrap_or_else(PoisonError::into_inner).get(node).cloned()
    }

    /// A node that may be new. `None`: there are too many that have sessions.
    fn enter(&self, node: &str) -> Option<Arc<Cell>> {
        if let Some(cell) = self.get(node) {
            return Some(cell);
        }
        let mut nodes = self.nodes.write().unwrap_or_else(PoisonError::into_inner);
        if nodes.len() >= NODES_MAX && !nodes.contains_key(node) {
            give_way(&mut nodes);
            if nodes.len() >= NODES_MAX {
                return None;
            }
        }
        Some(Arc::clone(nodes.entry(node.into()).or_insert_with(|| Arc::new(Cell::new(Marks::new(node))))))
    }

    /// All of them, in no order.
    pub(crate) fn all(&self) -> Vec<Arc<Cell>> {
        self.nodes.read().unwrap_or_else(PoisonError::into_inner).values().cloned().collect()
    }

    /// Opens a session of a node. `None`: it is older than what was heard of the node, or there are too many nodes.
    pub(crate) fn open(
        &self,
        session: &pb::IngestSession,
        id: u64,
        to: &mpsc::Sender<pb::IngestFeedback>,
    ) -> Option<Arc<Cell>> {
        loop {
            let cell = self.enter(&session.node)?;
            if !cell.lock().open(session, id, to.clone()) {
                return None;
            }
            // Before it had its session it may have given way to others.
            if self.get(&session.node).is_some_and(|there| Arc::ptr_eq(&there, &cell)) {
                return Some(cell);
            }
        }
    }
}

/// Forgets some nodes without a session, first those that were sampled longest ago.
fn give_way(nodes: &mut HashMap<Box<str>, Arc<Cell>>) {
    let mut away: Vec<(i64, Box<str>)> = Vec::new();
    for (name, cell) in nodes.iter() {
        let node = cell.lock();
        if !node.is_ours() {
            away.push((node.marks.last, name.clone()));
        }
    }
    away.sort_unstable();
    away.truncate(NODES_AT_ONCE);
    for (_, name) in &away {
        nodes.remove(name);
    }
    tracing::warn!(known = NODES_MAX, forgotten = away.len(), "there are too many nodes with GPUs");
}

impl Cell {
    fn new(marks: Marks) -> Self {
        let saved = marks.events_known();
        let last = (marks.last > 0).then_some(marks.last);
        let node = Node {
            name: marks.node.clone().into(),
            decoder: Decoder::resume(last, marks.events_known()),
            epoch: Epoch::default(),
            session: None,
            records: Vec::new(),
            groups: HashSet::new(),
            marks,
            dirty: false,
            saved,
            happened: VecDeque::new(),
            happenings: 0,
            burst: None,
            heard: None,
            is_silent: last.is_some(),
            noted: last.unwrap_or_default(),
            lost: None,
            asked: None,
            acknowledged: None,
            warned: None,
            frames: 0,
        };
        Self { state: Mutex::new(node) }
    }

    /// The node, for a moment.
    pub(crate) fn lock(&self) -> MutexGuard<'_, Node> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Node {
    /// Begins a session. `false`: it is older than what was heard of the node.
    fn open(&mut self, session: &pb::IngestSession, id: u64, to: mpsc::Sender<pb::IngestFeedback>) -> bool {
        let epoch = (session.epoch_term, session.epoch_revision);
        if epoch < self.epoch {
            return false;
        }
        self.epoch = epoch;
        self.session = Some(Session { id, handle: session.handle, to });
        // What an earlier session was following may have gone on elsewhere meanwhile.
        let last = self.decoder.time().or((self.marks.last > 0).then_some(self.marks.last));
        self.decoder = Decoder::resume(last, self.marks.events_known());
        (self.asked, self.acknowledged) = (None, None);
        true
    }

    /// Ends a session, if it is still the node's.
    pub(crate) fn close(&mut self, id: u64) {
        self.session.take_if(|session| session.id == id);
    }

    /// Takes a frame of a session; what is to be written down of it goes to `notes`. `now`: milliseconds since 1970, by our clock.
    pub(crate) fn take(&mut self, id: u64, frame: &pb::Frame, now: i64, notes: &mut Vec<Note>) {
        let Some(session) = self.session.clone().filter(|session| session.id == id) else { return };
        let taken = self.decoder.take(frame);
        match taken.outcome {
            Outcome::Wanted(why) => {
                let feedback = pb::Feedback { stream: frame.stream, keyframe: true, events_through: 0 };
                if is_due(self.asked, ASK_EVERY) && session.say(&feedback) {
                    self.asked = Some(Instant::now());
                    tracing::debug!(node = &*self.name, %why, "a keyframe is asked for");
                }
                return;
            }
            Outcome::Repeated => {}
            Outcome::Sampled | Outcome::Begun => {
                self.frames += 1;
                self.heard = Some(Instant::now());
                self.sampled(&taken, now, notes);
            }
        }
        if !frame.events.is_empty() {
            self.events(taken, now);
            // Who repeats them without end must not take the room of what is said to others.
            let saved = self.saved.as_ref().map(|saved| saved.sequence);
            let told = self.acknowledged.filter(|(_, through)| Some(*through) == saved);
            if is_due(told.map(|(at, _)| at), ASK_EVERY) {
                self.acknowledge();
            }
        }
    }

    /// As [`Self::take`], where history has no room. With the next frame for which it has some it begins anew, with a gap from the last sample on that it got.
    pub(crate) fn take_without_room(&mut self, id: u64, frame: &pb::Frame, now: i64) {
        let (frames, last, lost, noted) = (self.frames, self.marks.last, self.lost.take(), self.noted);
        self.take(id, frame, now, &mut Vec::new());
        self.noted = noted;
        if self.frames == frames {
            self.lost = lost;
            return;
        }
        self.lost = lost.or(self.lost).or(Some(last));
        for (_, record) in &mut self.records {
            *record = None;
        }
    }

    fn sampled(&mut self, taken: &Taken, now: i64, notes: &mut Vec<Note>) {
        let Some(told) = self.decoder.time() else { return };
        let time = clamped(told, now);
        if taken.outcome == Outcome::Begun {
            self.put_records();
        }
        let until = time.unix_ms();
        // From the last sample on, as it is noted: a clock that is not believed now was not then.
        let last = self.marks.last;
        let gap = taken.gap.map(|gap| gap.cause).or(self.is_silent.then_some(Cause::LinkLost));
        let gap = gap.filter(|_| (1..until).contains(&last));
        let gap_from = |since: i64, cause: Cause| pb::Gap {
            start_time: Some(timestamp(since)),
            end_time: Some(timestamp(until)),
            cause: cause.into(),
        };
        // Who follows samples had those that history did not take.
        if let Some(cause) = gap {
            self.happens(Happening::Gap(gap_from(last, cause)));
        }
        self.is_silent = false;
        self.marks.last = until;
        if until < self.noted {
            // The node's clock was set back. Once it is again where it was history is told all, with a gap from there on.
            if self.lost.is_none() {
                self.lost = Some(self.noted);
                self.forget_records(clamped(self.noted, now), notes);
            }
            notes.extend(self.records.iter().map(|_| Note::Refused));
            return;
        }
        if let Some(since) = gap.map(|_| last).into_iter().chain(self.lost.take()).min() {
            if (1..until).contains(&since) {
                self.marks.gap(gap_from(since, gap.unwrap_or(Cause::Dropped)));
                self.dirty = true;
            }
            self.forget_records(clamped(since.max(self.noted), now), notes);
        }
        self.noted = until;
        for ((group, record), followed) in self.records.iter_mut().zip(self.decoder.places()) {
            notes.push(match group {
                Some(group) => Note::Sample(*group, time, changes(record, followed.sample())),
                None => Note::Refused,
            });
        }
    }

    /// Places may be others than before.
    fn put_records(&mut self) {
        let devices = self.decoder.devices();
        let known = &mut self.groups;
        let groups: Vec<Option<Group>> = self
            .decoder
            .places()
            .iter()
            .map(|followed| {
                let place = followed.place();
                let device = devices.get(place.device).map_or("", |device| &device.uuid);
                let part = place.part.and_then(|_| place.uuid(devices)).unwrap_or_default();
                let group = group_of(&gpu_name(&self.name, device), part);
                if known.len() >= GROUPS_MAX && !known.contains(&group) {
                    return None;
                }
                known.insert(group);
                Some(group)
            })
            .collect();
        if !self.records.iter().map(|(group, _)| group).eq(&groups) {
            self.records = groups.into_iter().map(|group| (group, None)).collect();
        }
    }

    fn forget_records(&mut self, from: Time, notes: &mut Vec<Note>) {
        for (group, record) in &mut self.records {
            *record = None;
            notes.extend(group.map(|group| Note::Gap(group, from)));
        }
    }

    fn events(&mut self, taken: Taken, now: i64) {
        for mut happened in taken.events {
            happened.time = clamped(happened.time, now).unix_ms();
            let event = self.marks.count(&happened);
            self.happens(Happening::Event(event));
        }
        if taken.events_missed > 0 && is_due(self.warned, WARN_EVERY) {
            self.warned = Some(Instant::now());
            let missed = taken.events_missed;
            tracing::warn!(node = &*self.name, missed, "events of GPUs were lost on the node");
        }
        let known = self.decoder.events().filter(|known| known.sequence > 0);
        if known.is_some() && known != self.marks.events_known().as_ref() {
            self.marks.know_events(known);
            self.dirty = true;
        }
    }

    /// Tells the agent which events are on disk.
    fn acknowledge(&mut self) {
        let (Some(session), Some(stream), Some(saved)) = (&self.session, self.decoder.stream(), &self.saved)
        else {
            return;
        };
        if self.decoder.events().is_some_and(|known| known.boot_id == saved.boot_id) && saved.sequence > 0 {
            let feedback = pb::Feedback { stream, keyframe: false, events_through: saved.sequence };
            if session.say(&feedback) {
                self.acknowledged = Some((Instant::now(), saved.sequence));
            }
        }
    }

    /// What is to be written, if anything.
    pub(crate) fn unsaved(&mut self) -> bool {
        std::mem::take(&mut self.dirty)
    }

    /// What is to be on disk: a service that starts with it is to know from when on history lacks something.
    pub(crate) fn kept(&self) -> Marks {
        let mut marks = self.marks.clone();
        marks.last = self.lost.unwrap_or(marks.last);
        marks
    }

    /// These marks are on disk.
    pub(crate) fn saved(&mut self, marks: &Marks) {
        let saved = marks.events_known();
        if self.saved != saved {
            self.saved = saved;
            self.acknowledge();
        }
    }

    /// They could not be written: they still are to be.
    pub(crate) fn not_saved(&mut self) {
        self.dirty = true;
    }

    /// Notices that nothing was heard for long. What is to be written down of that goes to `notes`.
    pub(crate) fn look_for_silence(&mut self, now: i64, notes: &mut Vec<Note>) {
        if self.is_silent || self.heard.is_none_or(|heard| heard.elapsed() < SILENT_AFTER) {
            return;
        }
        self.is_silent = true;
        let since = self.lost.unwrap_or(self.marks.last).max(self.noted);
        self.forget_records(clamped(since, now), notes);
        let since = Some(timestamp(self.marks.last));
        let gap = pb::Gap { start_time: since, end_time: None, cause: Cause::LinkLost.into() };
        self.happens(Happening::Gap(gap));
        self.dirty = true;
    }

    /// Since when nothing is known of it, if that is so now.
    pub(crate) fn open_gap(&self) -> Option<pb::Gap> {
        let since = (self.is_silent && self.marks.last > 0).then(|| timestamp(self.marks.last))?;
        Some(pb::Gap { start_time: Some(since), end_time: None, cause: Cause::LinkLost.into() })
    }

    /// Since when history lacks something, if that is so now.
    pub(crate) fn open_gap_of_history(&self) -> Option<pb::Gap> {
        let Some(since) = self.lost.filter(|since| *since > 0) else { return self.open_gap() };
        Some(pb::Gap { start_time: Some(timestamp(since)), end_time: None, cause: Cause::Dropped.into() })
    }

    /// Whether its frames come here.
    pub(crate) fn is_ours(&self) -> bool {
        self.session.is_some()
    }

    /// Whether a frame was taken in that time.
    pub(crate) fn was_heard_within(&self, time: Duration) -> bool {
        self.heard.is_some_and(|heard| heard.elapsed() < time)
    }

    /// What its GPUs are. None while nothing is known.
    pub(crate) fn devices(&self) -> &[pb::Device] {
        self.decoder.devices()
    }

    /// When it was last sampled, and what is known since: of each place the GPU, the part or nothing, the sample. Nothing while it is silent.
    pub(crate) fn now(&self) -> Option<(i64, impl Iterator<Item = (usize, &str, &Sample)>)> {
        let time = (!self.is_silent && self.marks.last > 0).then_some(self.marks.last)?;
        let devices = self.decoder.devices();
        let all = self.decoder.places().iter().map(move |followed| {
            let place = followed.place();
            let part = place.part.and_then(|_| place.uuid(devices)).unwrap_or_default();
            (place.device, part, followed.sample())
        });
        Some((time, all))
    }

    /// How a device is, as its agent says.
    pub(crate) fn health(&self, device: usize) -> Option<&pb::Health> {
        self.decoder.places().get(device).and_then(|followed| followed.health())
    }

    /// How much happened so far.
    pub(crate) fn happenings(&self) -> u64 {
        self.happenings
    }

    /// What happened after the first `seen`. `None`: some of it is forgotten.
    pub(crate) fn happened_after(&self, seen: u64) -> Option<impl Iterator<Item = &Happening>> {
        let new = usize::try_from(self.happenings.saturating_sub(seen)).ok()?;
        let skip = self.happened.len().checked_sub(new)?;
        Some(self.happened.iter().skip(skip))
    }

    fn happens(&mut self, what: Happening) {
        let burst = self.burst.filter(|(begun, _)| begun.elapsed() < Duration::from_secs(1));
        let (begun, so_far) = burst.unwrap_or_else(|| (Instant::now(), 0));
        self.burst = Some((begun, so_far.saturating_add(1)));
        if so_far >= HAPPENINGS_PER_SECOND {
            // Who follows it sees that by the numbers of events.
            return;
        }
        if self.happened.len() >= HAPPENED_MAX {
            self.happened.pop_front();
        }
        self.happened.push_back(what);
        self.happenings += 1;
    }
}

impl Session {
    /// `false`: there is no room. It is said again with a later frame.
    fn say(&self, feedback: &pb::Feedback) -> bool {
        let feedback = pb::IngestFeedback { handle: self.handle, feedback: feedback.encode_to_vec().into() };
        self.to.try_send(feedback).is_ok()
    }
}

fn is_due(last: Option<Instant>, every: Duration) -> bool {
    last.is_none_or(|last| last.elapsed() >= every)
}

/// A value that history takes: of one that it does not, it would not take the whole sample.
fn storable(reading: Reading) -> Option<i64> {
    reading.ok().filter(|value| value.unsigned_abs() <= VALUE_MAX.unsigned_abs())
}

/// What is other than what history was last handed.
fn changes(record: &mut Record, sample: &Sample) -> Values {
    let mut values = Values::new();
    let number = |field: Field| skerry_series::Field(field.to_wire() as u32);
    if let Some(record) = record {
        for ((field, now), before) in sample.iter().zip(record.iter_mut()) {
            if now != *before {
                if storable(now) != storable(*before) {
                    values.push((number(field), storable(now)));
                }
                *before = now;
            }
        }
    } else {
        let known = sample.iter().filter_map(|(field, now)| Some((number(field), Some(storable(now)?))));
        values.extend(known);
        let mut all = Box::new([Err(skerry_gpu_model::Absent::NotYet); Field::ALL.len()]);
        for ((_, now), place) in sample.iter().zip(all.iter_mut()) {
            *place = now;
        }
        *record = Some(all);
    }
    values
}

fn clamped(told: i64, now: i64) -> Time {
    let time = if told > now.saturating_add(AHEAD_MAX_MILLIS) { now } else { told };
    Time::from_unix_ms(time).unwrap_or(Time::MIN)
}

#[cfg(test)]
mod hostile;
#[cfg(test)]
mod tests;
