//! The mirror's core against a model of the store: random writes, compactions, broken connections, failed reads, and restores of older
//! states under the same cluster id and under another.
//!
//! Laws: while it follows the store, each mirrored prefix is the store's at its position; left alone, it becomes the store's of now; one
//! version never names two contents, over restores too; changes lead from each snapshot to the next.

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;

use bytes::Bytes;
use proptest::prelude::*;
use skerry_proto::store::v1 as pb;

use super::core::{Core, Event, Kind, Message, Publication, Source, Step, Target};
use super::log::Log;
use crate::client::{Found, Header, Range};
use crate::failure::Failure;
use crate::record::Entry;
use crate::term::{Evidence, Known, next_term};

const PREFIXES: [&str; 3] = ["/a/", "/b/", "/c/"];
/// Of the last prefix only keys are kept.
const KEYS_ONLY: usize = 2;

type State = BTreeMap<Arc<str>, Entry>;

/// One write: the keys that it puts, or deletes.
type Write = Vec<(Arc<str>, Option<Bytes>)>;

/// The store.
struct World {
    cluster_id: u64,
    /// Of the cluster that `meta/store` names, and the term.
    meta: Option<(u64, u64)>,
    /// Revision 1 is the empty store; each write is one more.
    writes: Vec<Write>,
    /// Whether a revision changed `meta/store`, and `meta` before it.
    metas: BTreeMap<i64, Option<(u64, u64)>>,
    compacted: i64,
    /// Makes each value another one.
    values: u64,
}

impl World {
    fn revision(&self) -> i64 {
        self.writes.len() as i64 + 1
    }

    fn header(&self) -> Header {
        Header { cluster_id: self.cluster_id, revision: self.revision() }
    }

    fn state(&self, revision: i64) -> State {
        let mut state = State::new();
        for (at, write) in (2..=revision).zip(&self.writes) {
            for (key, value) in write {
                match value {
                    None => drop(state.remove(key)),
                    Some(value) => {
                        let create_revision = state.get(key).map_or(at, |entry| entry.create_revision);
                        let entry = Entry {
                            key: Arc::clone(key),
                            bytes: value.clone(),
                            create_revision,
                            mod_revision: at,
                        };
                        state.insert(Arc::clone(key), entry);
                    }
                }
            }
        }
        state
    }

    fn write(&mut self, choice: u8, keys: u8) {
        let mut write = Write::new();
        for offset in 0..=keys % 3 {
            let number = choice.wrapping_add(offset * 5);
            let key: Arc<str> = format!("{}{}", PREFIXES[usize::from(number % 3)], number % 12).into();
            self.values += 1;
            let value = (number % 4 != 3).then(|| Bytes::from(self.values.to_string()));
            let exists = self.state(self.revision()).contains_key(&key);
            if (value.is_some() || exists) && !write.iter().any(|(have, _)| *have == key) {
                write.push((key, value));
            }
        }
        if !write.is_empty() {
            self.writes.push(write);
        }
    }

    fn set_meta(&mut self, term: u64) {
        self.writes.push(Write::new());
        self.metas.insert(self.revision(), self.meta);
        self.meta = Some((term, self.cluster_id));
    }

    fn restore(&mut self, back: u8, other_cluster: bool) {
        let revision = (self.revision() - i64::from(back)).max(1);
        while let Some((at, before)) = self.metas.pop_last() {
            if at <= revision {
                self.metas.insert(at, before);
                break;
            }
            self.meta = before;
        }
        self.writes.truncate(usize::try_from(revision - 1).unwrap());
        self.compacted = self.compacted.min(revision);
        if other_cluster {
            self.cluster_id += 1;
        }
    }

    fn read(&self, range: &Range) -> Result<Found, Failure> {
        let revision = if range.revision == 0 { self.revision() } else { range.revision };
        if revision > self.revision() {
            return Err(Failure::Future);
        }
        if revision < self.compacted {
            return Err(Failure::Compacted);
        }
        let end = range.end.clone().unwrap();
        let within = |key: &str| key.as_bytes() >= range.key.as_slice() && key.as_bytes() < end.as_slice();
        let mut entries: Vec<Entry> =
            self.state(revision).into_values().filter(|entry| within(&entry.key)).collect();
        let count = entries.len() as i64;
        if range.newest_first {
            entries.sort_by_key(|entry| -entry.mod_revision);
        }
        let limit = usize::try_from(range.limit).unwrap();
        let more = entries.len() > limit;
        entries.truncate(limit);
        if range.keys_only {
            for entry in &mut entries {
                entry.bytes = Bytes::new();
            }
        }
        Ok(Found { header: self.header(), entries, more, count })
    }
}

/// An open stream: from where each watch goes on.
struct Stream {
    next: Vec<i64>,
    meta: i64,
    queue: VecDeque<Message>,
}

struct Harness {
    world: World,
    core: Core,
    stream: Option<Stream>,
    known: u64,
    published: Option<Publication>,
    log: Log,
    /// What each version named.
    contents: BTreeMap<(u64, Arc<str>, i64), Bytes>,
    choices: u64,
}

impl Harness {
    fn new(seed: u64) -> Self {
        let targets = PREFIXES.iter().enumerate();
        let targets = targets
            .map(|(index, prefix)| Target { prefix: Arc::from(*prefix), keys_only: index == KEYS_ONLY });
        let mut world = World {
            cluster_id: 7,
            meta: None,
            writes: Vec::new(),
            metas: BTreeMap::new(),
            compacted: 0,
            values: 0,
        };
        world.set_meta(1);
        let core = Core::new(targets.collect());
        Self {
            world,
            core,
            stream: None,
            known: 1,
            published: None,
            log: Log::default(),
            contents: BTreeMap::new(),
            choices: seed,
        }
    }

    /// A number below `n`.
    fn choose(&mut self, n: u64) -> u64 {
        self.choices =
            self.choices.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (self.choices >> 33) % n
    }

    fn advance(&mut self, flaky: bool) {
        let step = self.core.step();
        if matches!(step, Step::ReadMeta | Step::Raise(_) | Step::Wait) {
            self.stream = None;
        }
        if flaky && !matches!(step, Step::Wait | Step::Receive) && self.choose(8) == 0 {
            let failure =
                if self.choose(4) == 0 { Failure::AnswerTooLarge } else { Failure::Unclear(String::new()) };
            self.core.on_failure(&failure);
        } else {
            match step {
                Step::ReadMeta | Step::CheckMeta => self.core.on_meta(self.world.header(), self.world.meta),
                Step::Raise(evidence) => self.raise(evidence),
                Step::Read(range) => match self.world.read(&range) {
                    Ok(found) => self.core.on_found(found),
                    Err(failure) => self.core.on_failure(&failure),
                },
                Step::Open { targets, meta } => {
                    self.stream = Some(Stream { next: targets, meta, queue: VecDeque::new() });
                    self.core.on_opened();
                }
                Step::Receive => self.receive(),
                Step::Wait => self.core.on_waited(),
            }
        }
        self.look();
    }

    fn raise(&mut self, evidence: Evidence) {
        let stored = self.world.meta.map(|(term, cluster_id)| pb::StoreMeta { term, cluster_id });
        let known = Some(Known { term: self.known, mod_revision: 0, read_at: 0 });
        if let Some(term) = next_term(self.world.header(), stored.as_ref(), known, evidence).unwrap() {
            self.world.set_meta(term);
        }
        self.known = self.known.max(self.world.meta.unwrap().0);
        self.core.on_raised();
    }

    fn receive(&mut self) {
        self.fill();
        match self.stream.as_mut().map(|stream| stream.queue.pop_front()) {
            None => self.core.on_failure(&Failure::Unclear("broken".to_owned())),
            Some(None) => {}
            Some(Some(message)) => self.core.on_message(message),
        }
    }

    /// Makes messages of what has happened since.
    fn fill(&mut self) {
        let Some(mut stream) = self.stream.take() else { return };
        let header = self.world.header();
        let message = |source, events| Message { source, header, kind: Kind::Whole, events };
        if let Some(at) = (stream.meta..=header.revision).find(|at| self.world.metas.contains_key(at)) {
            stream.meta = at + 1;
            let event = Event { key: Arc::from("meta"), mod_revision: at, put: None };
            stream.queue.push_back(message(Source::Meta, vec![event]));
        }
        let target = usize::try_from(self.choose(3)).unwrap();
        let from = stream.next[target];
        if from < self.world.compacted {
            stream
                .queue
                .push_back(Message { kind: Kind::Compacted, ..message(Source::Target(target), Vec::new()) });
        } else if from <= header.revision {
            let to = from
                + i64::try_from(self.choose(u64::try_from(header.revision - from + 1).unwrap())).unwrap();
            let mut events = Vec::new();
            for at in from..=to {
                let state = self.world.state(at);
                for (key, value) in &self.world.writes[usize::try_from(at - 2).unwrap()] {
                    if key.starts_with(PREFIXES[target]) {
                        let mut put = value.as_ref().map(|_| state[key].clone());
                        if let Some(entry) = put.as_mut().filter(|_| target == KEYS_ONLY) {
                            entry.bytes = Bytes::new();
                        }
                        events.push(Event { key: Arc::clone(key), mod_revision: at, put });
                    }
                }
            }
            stream.next[target] = to + 1;
            while !events.is_empty() {
                let size = 1 + usize::try_from(self.choose(4)).unwrap();
                let rest = events.split_off(size.min(events.len()));
                let kind = if rest.is_empty() { Kind::Whole } else { Kind::Fragment };
                stream.queue.push_back(Message { kind, ..message(Source::Target(target), events) });
                events = rest;
            }
        } else if self.choose(3) == 0 {
            stream.queue.push_back(message(Source::Target(target), Vec::new()));
        } else {
            stream.queue.push_back(message(Source::Stream, Vec::new()));
        }
        self.stream = Some(stream);
    }

    /// Checks what is published.
    fn look(&mut self) {
        let Some(publication) = self.core.take() else { return };
        for entry in publication.map.iter().filter(|entry| !entry.key.starts_with(PREFIXES[KEYS_ONLY])) {
            let version = (publication.term, Arc::clone(&entry.key), entry.mod_revision);
            let before = self.contents.entry(version).or_insert_with(|| entry.bytes.clone());
            assert_eq!(*before, entry.bytes, "a version names two contents");
        }
        if publication.resync {
            self.log.restart(0);
        } else {
            let before = self.published.as_ref().expect("the first one is a resync");
            let mut state: BTreeMap<_, _> =
                before.map.iter().map(|entry| (Arc::clone(&entry.key), Arc::clone(entry))).collect();
            for change in &publication.changes {
                let old = match &change.new {
                    Some(new) => state.insert(Arc::clone(&new.key), Arc::clone(new)),
                    None => state.remove(change.key()),
                };
                assert_eq!(old, change.old, "a change begins where the one before it ended");
            }
            assert!(state.values().eq(publication.map.iter()), "changes lead from snapshot to snapshot");
            assert!(before.term == publication.term, "another term is a resync");
        }
        // A broken stream may be that of a store which is no longer there.
        if self.stream.is_some() && self.core.is_live() {
            self.compare(&publication);
        }
        self.published = Some(publication);
    }

    fn compare(&self, publication: &Publication) {
        for (index, (prefix, position)) in PREFIXES.iter().zip(&publication.positions).enumerate() {
            let theirs =
                self.world.state(*position).into_values().filter(|entry| entry.key.starts_with(prefix));
            let theirs = theirs
                .map(|entry| if index == KEYS_ONLY { Entry { bytes: Bytes::new(), ..entry } } else { entry });
            let ours = publication.map.under(prefix).map(|entry| (**entry).clone());
            assert!(theirs.eq(ours), "`{prefix}` is the store's at {position}");
        }
    }

    /// Left alone, it becomes the store of now.
    fn settle(&mut self) {
        let mut quiet = 0;
        for _ in 0..4000 {
            self.advance(false);
            let revision = self.world.revision();
            let caught_up = self.stream.as_ref().is_some_and(|stream| {
                stream.queue.is_empty()
                    && stream.meta > revision - 1
                    && stream.next.iter().all(|next| *next > revision)
            });
            quiet = if caught_up && self.core.is_live() { quiet + 1 } else { 0 };
            if quiet > 50 {
                break;
            }
        }
    }

    fn act(&mut self, action: u8, a: u8, b: u8) {
        match action {
            0..=99 => self.world.write(a, b),
            100..=219 => (0..=a % 6).for_each(|_| self.advance(true)),
            220..=231 => self.stream = None,
            232..=243 => {
                self.world.compacted = (self.world.revision() - i64::from(a % 4)).max(self.world.compacted);
            }

            _ => {
                self.world.restore(a % 16, b.is_multiple_of(2));
                self.stream = None;
            }
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 600, ..ProptestConfig::default() })]
    #[test]
    fn a_mirror_is_the_store_at_its_revision_whatever_happens(
        seed in any::<u64>(),
        actions in prop::collection::vec(any::<(u8, u8, u8)>(), 1..160),
    ) {
        let mut harness = Harness::new(seed);
        for (action, a, b) in actions {
            harness.act(action, a, b);
        }
        harness.settle();
        prop_assert!(harness.core.is_live());
        let published = harness.published.as_ref().unwrap();
        let now: Vec<Arc<str>> = harness.world.state(harness.world.revision()).into_keys().collect();
        let keys: Vec<Arc<str>> = published.map.iter().map(|entry| Arc::clone(&entry.key)).collect();
        prop_assert_eq!(keys, now);
        prop_assert_eq!(Some(published.term), harness.world.meta.map(|(term, _)| term));
        harness.compare(published);
    }
}

/// The one case in which the check before watching has nothing to look at: the revisions are compacted. The listing shows it.
#[test]
fn a_restore_that_was_caught_up_and_compacted_is_told_apart() {
    let mut harness = Harness::new(1);
    for choice in 0..9 {
        harness.world.write(choice, 0);
    }
    harness.settle();
    harness.world.restore(6, false);
    for choice in [4, 5, 6, 8, 9, 10, 0, 1, 2] {
        harness.world.write(choice, 0);
    }
    harness.world.compacted = harness.world.revision();
    harness.stream = None;
    harness.settle();
    assert_eq!(harness.world.meta, Some((2, 7)), "the term is raised");
    harness.compare(harness.published.as_ref().unwrap());
}

/// Where only keys are kept, two pasts can end in entries that look the same: count, newest key and its revisions.
#[test]
fn another_past_of_keys_alone_is_told_apart() {
    let mut harness = Harness::new(1);
    for choice in [0, 2, 5] {
        harness.world.write(choice, 0);
    }
    harness.settle();
    harness.world.restore(2, false);
    for choice in [8, 5] {
        harness.world.write(choice, 0);
    }
    harness.stream = None;
    harness.settle();
    assert_eq!(harness.world.meta, Some((2, 7)), "the term is raised");
    harness.compare(harness.published.as_ref().unwrap());
}
