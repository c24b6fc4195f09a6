//! List and watch as one state machine, without I/O: it says what to do next, and is told how that went.
//!
//! ```text
//! Meta ──► List ──► Open ──► Check ──► Watch
//!  ▲ │      │        ▲         │         │
//!  │ ▼      │        └─ Wait ◄─┼─────────┤ the stream broke
//!  │ Raise  └──────────────────┤         │
//!  └───────────────────────────┴─────────┘ compacted, restored, another term
//! ```
//! - `Meta` reads `meta/store`: which term the store is in, and at which revision the listing is made. Where the store turns out to be
//!   an older one, `Raise` has its term raised first, so that a snapshot never carries an old term with new content or the reverse.
//! - `List` reads pages at that revision. The difference to what was mirrored tells what was deleted in a gap. An entry that is older than
//!   the mirror's position and that the mirror has not had is of another past.
//! - `Open` opens watches from each prefix's own position. `Check` then proves that the store's past is ours: at each position the
//!   newest entry and the count must be what the mirror has, and the term must be the mirror's. (A store that was restored and written to
//!   since has another past, and would otherwise go unnoticed: etcd's revisions look the same.) Without their values, two newest entries
//!   may look the same and be of two pasts, so where only keys are kept all of them are compared. The stream is open before the check is
//!   made, so a restore between them breaks it.
//! - `Watch` applies events. A revision that comes in fragments is applied when it is whole.

use std::sync::Arc;

use super::sorted::Sorted;
use crate::client::{Found, Header, Range};
use crate::failure::Failure;
use crate::record::Entry;
use crate::store::page_range;
use crate::term::Evidence;

/// Keys of one page, at most. Halved when an answer is too large.
const PAGE_KEYS: usize = crate::store::PAGE_KEYS_MAX;

/// One mirrored prefix.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Target {
    /// Ends with a slash.
    pub prefix: Arc<str>,
    /// Values are dropped as they arrive.
    pub keys_only: bool,
}

/// One change of one key.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Change {
    /// What was there. With `new` absent: what was deleted.
    pub old: Option<Arc<Entry>>,
    /// What is there.
    pub new: Option<Arc<Entry>>,
    /// When it changed. For what was found deleted in a listing: the revision of the listing.
    pub revision: i64,
}

impl Change {
    /// Which key changed.
    pub fn key(&self) -> &str {
        self.new.as_ref().or(self.old.as_ref()).map_or("", |entry| &entry.key)
    }
}

/// One event of a watch.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Event {
    /// Which key.
    pub key: Arc<str>,
    /// When it changed.
    pub mod_revision: i64,
    /// Absent: deleted.
    pub put: Option<Entry>,
}

/// Which watch a message is of.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Source {
    /// The target of this index.
    Target(usize),
    /// `meta/store`.
    Meta,
    /// None of them: only a sign of life.
    Stream,
}

/// One message of a watch stream.
#[derive(Debug, Clone)]
pub struct Message {
    /// Of which watch.
    pub source: Source,
    /// The store when it was sent.
    pub header: Header,
    /// What it tells.
    pub kind: Kind,
    /// What changed, oldest first.
    pub events: Vec<Event>,
}

/// What a message tells.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// The watch is there.
    Created,
    /// The watch is ended by the store.
    Canceled,
    /// The same, because events that it had still to send are compacted.
    Compacted,
    /// Events; without any, that all were sent up to the header's revision.
    Whole,
    /// Events, of whose last revision more is to come.
    Fragment,
}

/// What to do next.
#[derive(Debug, Clone)]
pub enum Step {
    /// Read `meta/store`, without a stream: `on_meta`.
    ReadMeta,
    /// Read `meta/store`, and leave the stream open: `on_meta`.
    CheckMeta,
    /// Have the term settled: `on_raised`.
    Raise(Evidence),
    /// Read: `on_found`.
    Read(Range),
    /// Open a stream with a watch for each target from these revisions, and one for `meta/store` from the last: `on_opened`.
    Open {
        /// By target.
        targets: Vec<i64>,
        /// Of `meta/store`.
        meta: i64,
    },
    /// Receive a message: `on_message`.
    Receive,
    /// Close the stream, if any; wait, longer each time: `on_waited`.
    Wait,
}

#[derive(Debug)]
struct Listing {
    header: Header,
    term: u64,
    target: usize,
    after: Option<Arc<str>>,
    page_keys: usize,
    entries: Vec<Arc<Entry>>,
}

/// The comparison of one target after the other.
#[derive(Debug)]
struct Check {
    target: usize,
    /// Of keys only: compared up to here.
    after: Option<Arc<str>>,
    page_keys: usize,
}

impl Check {
    fn of(target: usize, page_keys: usize) -> Self {
        Self { target, after: None, page_keys }
    }
}

#[derive(Debug)]
enum State {
    Meta,
    Raise(Evidence),
    List(Listing),
    Open,
    Check(Check),
    CheckMeta,
    Watch,
    Wait { then: AfterWait },
}

#[derive(Debug)]
enum AfterWait {
    Meta,
    List(Listing),
    Open,
}

/// Where a target stands.
#[derive(Debug, Clone, Default)]
struct Position {
    /// All events up to here are applied.
    revision: i64,
    /// Events of a revision of which more is to come.
    fragments: Vec<Event>,
}

/// What is to be published.
#[derive(Debug)]
pub struct Publication {
    /// The entries.
    pub map: Sorted,
    /// The store's term.
    pub term: u64,
    /// By target: up to where it is shown.
    pub positions: Vec<i64>,
    /// What changed since the last one.
    pub changes: Vec<Change>,
    /// Deltas do not reach over this one: the first listing, or another life of the store.
    pub resync: bool,
}

/// The machine.
#[derive(Debug)]
pub struct Core {
    targets: Vec<Target>,
    positions: Vec<Position>,
    meta_position: i64,
    map: Sorted,
    /// The term of the map. 0: nothing is listed yet.
    term: u64,
    cluster_id: u64,
    /// The store's past is not ours.
    lost_history: bool,
    state: State,
    changes: Vec<Change>,
    dirty: bool,
    resync: bool,
}

impl Core {
    /// A mirror that has listed nothing yet.
    pub fn new(targets: Vec<Target>) -> Self {
        Self {
            positions: vec![Position::default(); targets.len()],
            targets,
            meta_position: 0,
            map: Sorted::default(),
            term: 0,
            cluster_id: 0,
            lost_history: false,
            state: State::Meta,
            changes: Vec::new(),
            dirty: false,
            resync: false,
        }
    }

    /// What to do next.
    pub fn step(&self) -> Step {
        match &self.state {
            State::Meta => Step::ReadMeta,
            State::Raise(evidence) => Step::Raise(*evidence),
            State::List(listing) => {
                let target = &self.targets[listing.target];
                let after = listing.after.as_deref();
                Step::Read(page_range(
                    &target.prefix,
                    after,
                    listing.header.revision,
                    listing.page_keys,
                    target.keys_only,
                ))
            }
            State::Open => Step::Open {
                targets: self.positions.iter().map(|position| position.revision + 1).collect(),
                meta: self.meta_position + 1,
            },
            State::Check(check) => {
                let prefix = &self.targets[check.target].prefix;
                let revision = self.positions[check.target].revision;
                Step::Read(if self.targets[check.target].keys_only {
                    page_range(prefix, check.after.as_deref(), revision, check.page_keys, true)
                } else {
                    Range { newest_first: true, ..page_range(prefix, None, revision, 1, false) }
                })
            }
            State::CheckMeta => Step::CheckMeta,
            State::Watch => Step::Receive,
            State::Wait { .. } => Step::Wait,
        }
    }

    /// Whether the mirror follows the store at present.
    pub fn is_live(&self) -> bool {
        matches!(self.state, State::Watch)
    }

    /// What has to be published since it was last asked.
    pub fn take(&mut self) -> Option<Publication> {
        if !std::mem::take(&mut self.dirty) {
            return None;
        }
        Some(Publication {
            map: self.map.clone(),
            term: self.term,
            positions: self.positions.iter().map(|position| position.revision).collect(),
            changes: std::mem::take(&mut self.changes),
            resync: std::mem::take(&mut self.resync),
        })
    }

    /// `meta/store` as it is: its term and the cluster id that it names.
    pub fn on_meta(&mut self, header: Header, stored: Option<(u64, u64)>) {
        let newest =
            self.positions.iter().map(|position| position.revision).fold(self.meta_position, i64::max);
        if matches!(self.state, State::CheckMeta) {
            let same = stored == Some((self.term, self.cluster_id)) && header.cluster_id == self.cluster_id;
            self.state = if same && header.revision >= newest { State::Watch } else { State::Meta };
            return;
        }
        let lost_history = Evidence::LostHistory { term: self.term };
        self.state = match stored {
            None => State::Raise(Evidence::None),
            Some((_, cluster_id)) if cluster_id != header.cluster_id => State::Raise(Evidence::None),
            Some((term, _)) if term < self.term => State::Raise(lost_history),
            Some((term, _)) if term == self.term && (self.lost_history || header.revision < newest) => {
                State::Raise(lost_history)
            }
            Some((term, _)) => {
                self.lost_history = false;
                State::List(Listing {
                    header,
                    term,
                    target: 0,
                    after: None,
                    page_keys: PAGE_KEYS,
                    entries: Vec::new(),
                })
            }
        };
    }

    /// The term is settled.
    pub fn on_raised(&mut self) {
        self.state = State::Meta;
    }

    /// What was read.
    pub fn on_found(&mut self, found: Found) {
        match std::mem::replace(&mut self.state, State::Meta) {
            State::List(listing) => self.on_page(listing, found),
            State::Check(check) => self.on_check(check, &found),
            state => self.state = state,
        }
    }

    fn on_page(&mut self, mut listing: Listing, found: Found) {
        if found.header.cluster_id != listing.header.cluster_id {
            self.state = State::Wait { then: AfterWait::Meta };
            return;
        }
        // What stands there since before our position must be what we have had since then.
        if listing.term == self.term && !found.entries.iter().all(|entry| self.knows(listing.target, entry)) {
            self.lost_history = true;
            self.state = State::Meta;
            return;
        }
        listing.after = found.entries.last().map(|entry| Arc::clone(&entry.key));
        listing.entries.extend(found.entries.into_iter().map(Arc::new));
        if !found.more {
            listing.target += 1;
            listing.after = None;
        }
        if listing.target < self.targets.len() {
            self.state = State::List(listing);
        } else {
            self.install(listing);
            self.state = State::Open;
        }
    }

    /// Whether `theirs` is newer than all that we know, or what we know.
    fn knows(&self, target: usize, theirs: &Entry) -> bool {
        theirs.mod_revision > self.positions[target].revision
            || self.map.get(&theirs.key).is_some_and(|ours| **ours == *theirs)
    }

    /// Replaces the mirrored entries; what differs are the changes.
    fn install(&mut self, listing: Listing) {
        let Listing { header, term, mut entries, .. } = listing;
        // Targets are listed one after the other, in any order.
        entries.sort_by(|a, b| a.key.cmp(&b.key));
        let restored = self.term != 0 && term != self.term;
        self.resync |= self.term == 0 || restored;
        // In another life of the store the same revision may be of another write.
        let same = |old: &Entry, new: &Entry| {
            old.mod_revision == new.mod_revision
                && old.create_revision == new.create_revision
                && (!restored || old.bytes == new.bytes)
        };
        let mut changes = Vec::new();
        let mut olds = self.map.iter().peekable();
        for new in &mut entries {
            while let Some(gone) = olds.next_if(|old| old.key < new.key) {
                changes.push(Change { old: Some(Arc::clone(gone)), new: None, revision: header.revision });
            }
            match olds.next_if(|old| old.key == new.key) {
                Some(old) if same(old, new) => *new = Arc::clone(old),
                old => {
                    let old = old.map(Arc::clone);
                    changes.push(Change { old, new: Some(Arc::clone(new)), revision: new.mod_revision });
                }
            }
        }
        changes.extend(olds.map(|gone| Change {
            old: Some(Arc::clone(gone)),
            new: None,
            revision: header.revision,
        }));
        changes.sort_by_key(|change| change.revision);
        self.changes.append(&mut changes);

        self.map = Sorted::from_sorted(entries);
        self.term = term;
        self.cluster_id = header.cluster_id;
        self.meta_position = header.revision;
        for position in &mut self.positions {
            *position = Position { revision: header.revision, fragments: Vec::new() };
        }
        self.dirty = true;
    }

    /// The streams are open.
    pub fn on_opened(&mut self) {
        for position in &mut self.positions {
            position.fragments.clear();
        }
        self.state = State::Check(Check::of(0, PAGE_KEYS));
    }

    fn on_check(&mut self, check: Check, found: &Found) {
        let Check { target, after, page_keys } = check;
        let Target { prefix, keys_only: all } = &self.targets[target];
        let (mut count, mut newest) = (0, 0);
        for entry in self.map.under(prefix) {
            count += 1;
            newest = newest.max(entry.mod_revision);
        }
        // A later page's count is of the rest.
        let same = (after.is_some() || found.count == count)
            && (*all || found.entries.first().map_or(0, |theirs| theirs.mod_revision) == newest)
            && found.entries.iter().all(|theirs| self.knows(target, theirs));
        self.state = if found.header.cluster_id != self.cluster_id || !same {
            self.lost_history = true;
            State::Wait { then: AfterWait::Meta }
        } else if let Some(last) = found.entries.last().filter(|_| *all && found.more) {
            State::Check(Check { target, after: Some(Arc::clone(&last.key)), page_keys })
        } else if target + 1 < self.targets.len() {
            State::Check(Check::of(target + 1, page_keys))
        } else {
            State::CheckMeta
        };
    }

    /// A message of the stream.
    pub fn on_message(&mut self, message: Message) {
        if !matches!(self.state, State::Watch) {
            return;
        }
        if message.header.cluster_id != self.cluster_id {
            self.state = State::Wait { then: AfterWait::Meta };
            return;
        }
        match (message.kind, message.source) {
            (Kind::Compacted, _) => self.state = State::Wait { then: AfterWait::Meta },
            (Kind::Canceled, _) => self.state = State::Wait { then: AfterWait::Open },
            (Kind::Created, _) | (_, Source::Stream) => {}
            (Kind::Whole | Kind::Fragment, Source::Target(target)) => self.on_events(target, message),
            (Kind::Whole | Kind::Fragment, Source::Meta) => {
                self.meta_position = self.meta_position.max(message.header.revision);
                if !message.events.is_empty() {
                    // Another term: whatever the reason, begin from its start.
                    self.state = State::Meta;
                }
            }
        }
    }

    fn on_events(&mut self, target: usize, message: Message) {
        let Some(position) = self.positions.get_mut(target) else { return };
        if message.events.is_empty() && position.fragments.is_empty() {
            // A progress notice of this very watch: all up to there was sent.
            if message.header.revision > position.revision {
                position.revision = message.header.revision;
                self.dirty = true;
            }
            return;
        }
        position.fragments.extend(message.events);
        let Some(newest) = position.fragments.last().map(|event| event.mod_revision) else { return };
        // Of a fragment, the last revision may go on in the next one.
        let whole = if message.kind == Kind::Fragment { newest - 1 } else { newest };
        let ready = position.fragments.partition_point(|event| event.mod_revision <= whole);
        let applied: Vec<Event> = position.fragments.drain(..ready).collect();
        let from = position.revision;
        if let Some(last) = applied.last() {
            position.revision = from.max(last.mod_revision);
            self.dirty = true;
        }
        for event in applied.into_iter().filter(|event| event.mod_revision > from) {
            self.apply(event);
        }
    }

    fn apply(&mut self, event: Event) {
        let (old, new) = match event.put {
            Some(entry) => {
                let new = Arc::new(entry);
                (self.map.insert(Arc::clone(&new)), Some(new))
            }
            None => (self.map.remove(&event.key), None),
        };
        if old.is_some() || new.is_some() {
            self.changes.push(Change { old, new, revision: event.mod_revision });
        }
    }

    /// What was to be done next failed.
    pub fn on_failure(&mut self, failure: &Failure) {
        let then = match std::mem::replace(&mut self.state, State::Meta) {
            State::List(mut listing) if *failure == Failure::AnswerTooLarge && listing.page_keys > 1 => {
                listing.page_keys /= 2;
                self.state = State::List(listing);
                return;
            }
            State::List(listing) if failure.is_passing() => AfterWait::List(listing),
            State::List(_) | State::Meta | State::Raise(_) => AfterWait::Meta,
            State::Check(mut check) if *failure == Failure::AnswerTooLarge && check.page_keys > 1 => {
                check.page_keys /= 2;
                self.state = State::Check(check);
                return;
            }
            State::Check(_) if *failure == Failure::Future => {
                self.lost_history = true;
                AfterWait::Meta
            }
            State::Check(_) if !failure.is_passing() => AfterWait::Meta,
            State::Check(_) | State::CheckMeta | State::Open | State::Watch => AfterWait::Open,
            State::Wait { then } => then,
        };
        self.state = State::Wait { then };
    }

    /// The wait is over.
    pub fn on_waited(&mut self) {
        if let State::Wait { then } = std::mem::replace(&mut self.state, State::Meta) {
            self.state = match then {
                AfterWait::Meta => State::Meta,
                AfterWait::List(listing) => State::List(listing),
                AfterWait::Open => State::Open,
            };
        }
    }
}
