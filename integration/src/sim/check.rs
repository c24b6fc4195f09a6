//! The ledgers of what must hold all along, kept by the world beside the programs and never shown to them.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use prost::Message as _;
use skerry_etcd_embedded::mvcc::{Core, Entry, KeyRange, Range};
use skerry_proto::store::v1 as stored;
use skerry_store::Family;
use skerry_sync::{Desired, Version};

/// Who makes a transaction, as the world knows it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Origin {
    /// Anything that is not fenced by a session.
    Other,
    /// What an agent said, merged by the gateway of this session.
    Commit {
        /// `<project>/<node>`.
        node: String,
        /// Whose.
        session: String,
    },
    /// The end of this session, written into its record.
    Close {
        /// `<project>/<node>`.
        node: String,
        /// Whose.
        session: String,
    },
}

/// An event: node, boot, sequence.
pub(super) type EventId = (String, String, u64);

/// See [`Check::era`].
pub(super) type Era = (u64, u64);

/// A copy of an instance that ran or may run: instance, revision, configs.
pub(super) type Assigned = (String, String, String);

/// What a snapshot of the store takes with it.
#[derive(Debug, Clone, Default)]
pub(super) struct StoreLedger {
    /// Events that are or were in the store.
    events: BTreeSet<EventId>,
}

/// All ledgers.
#[derive(Debug, Default)]
pub(super) struct Check {
    /// By `<project>/<node>`: the session whose record is in the store, as applied, durable or not.
    sessions: BTreeMap<String, String>,
    pub(super) store: StoreLedger,
    /// How often the store was restored: what was acknowledged before may be gone.
    restores: u64,
    /// How often a node's events were deleted with the node.
    deletions: BTreeMap<String, u64>,
    /// By node: all that it was ever assigned.
    assigned: BTreeMap<String, BTreeSet<Assigned>>,
    /// By machine: the newest version that it told anybody that it holds.
    held: BTreeMap<String, Version>,
    /// Events acknowledged to agents and then checked.
    pub(super) acknowledged: u64,
}

/// Names the session whose record this is; each record that is ever written has another `open_time`.
pub(super) fn session_of(record: &stored::SessionRecord) -> String {
    let opened = record.open_time.map_or(0, |time| time.nanos);
    format!("{}/{}/{opened}", record.gateway, record.boot_id)
}

impl Check {
    /// The store opened with this state, perhaps an older one.
    pub(super) fn opened(&mut self, core: &Core) {
        let keys = KeyRange::prefix(Family::Sessions.prefix());
        self.sessions.clear();
        for entry in core.range(&Range::new(keys)).map(|answer| answer.entries).unwrap_or_default() {
            self.take_session(&entry);
        }
    }

    /// The store was replaced by a snapshot.
    pub(super) fn restored(&mut self, ledger: StoreLedger) {
        self.store = ledger;
        self.restores += 1;
    }

    /// Changes when the store may rightly have forgotten events of a node.
    pub(super) fn era(&self, node: &str) -> Era {
        (self.restores, self.deletions.get(node).copied().unwrap_or(0))
    }

    /// A transaction happened in the core.
    pub(super) fn applied(&mut self, origin: &Origin, changes: &[Arc<Entry>]) -> Result<(), String> {
        let fenced = match origin {
            Origin::Other => None,
            Origin::Commit { node, session } => Some((node, session, "a report of it was stored")),
            Origin::Close { node, session } => Some((node, session, "its end was written")),
        };
        if let Some((node, session, what)) = fenced.filter(|_| !changes.is_empty())
            && self.sessions.get(node) != Some(session)
        {
            let now = self.sessions.get(node).map_or("none", String::as_str);
            return Err(format!("the session of {node} is {now}, and of {session} {what}"));
        }
        for entry in changes {
            if entry.key.starts_with(Family::Sessions.prefix().as_bytes()) {
                self.take_session(entry);
            }
        }
        Ok(())
    }

    fn take_session(&mut self, entry: &Entry) {
        let node = name_of(entry, Family::Sessions);
        match stored::SessionRecord::decode(&*entry.value) {
            Ok(record) if !entry.is_tombstone() => self.sessions.insert(node, session_of(&record)),
            _ => self.sessions.remove(&node),
        };
    }

    /// A change became durable. `before` is the key's value before it.
    pub(super) fn durable(&mut self, entry: &Entry, before: Option<&Entry>) -> Result<(), String> {
        if entry.key.starts_with(Family::Assignments.prefix().as_bytes()) && !entry.is_tombstone() {
            let record = stored::AssignmentRecord::decode(&*entry.value).map_err(|e| e.to_string())?;
            let node = name_of(entry, Family::Assignments);
            self.assigned.entry(node).or_default().extend(record.instances.iter().map(assigned_of));
        }
        if entry.key.starts_with(Family::Events.prefix().as_bytes()) {
            return self.events_durable(entry, before);
        }
        Ok(())
    }

    fn events_durable(&mut self, entry: &Entry, before: Option<&Entry>) -> Result<(), String> {
        let node = name_of(entry, Family::Events);
        if entry.is_tombstone() {
            // The node was deleted, and its memory with it: what comes again later is news.
            self.store.events.retain(|(of, ..)| *of != node);
            *self.deletions.entry(node).or_default() += 1;
            return Ok(());
        }
        let read = |entry: &Entry| stored::EventsRecord::decode(&*entry.value).map_err(|e| e.to_string());
        let id =
            |event: &skerry_proto::types::v1::Event| (node.clone(), event.boot_id.clone(), event.sequence);
        let before = match before.filter(|before| !before.is_tombstone()) {
            Some(before) => read(before)?,
            None => stored::EventsRecord::default(),
        };
        let had: BTreeSet<EventId> = before.events.iter().map(id).collect();
        let mut seen = BTreeSet::new();
        for id in read(entry)?.events.iter().map(id) {
            if !seen.insert(id.clone()) {
                return Err(format!("event {id:?} stands twice in one record"));
            }
            let is_again = !had.contains(&id) && !self.store.events.insert(id.clone());
            // Where two machines of one name take turns, only what the ring still holds is known not to be new.
            if is_again && before.boot_id == id.1 {
                return Err(format!("event {id:?} was stored a second time"));
            }
        }
        Ok(())
    }

    /// An agent was told that these events are in the store. `since`: the era in which it sent them.
    pub(super) fn acknowledged(&mut self, node: &str, events: &[EventId], since: Era) -> Result<(), String> {
        self.acknowledged += events.len() as u64;
        if self.era(node) != since {
            return Ok(());
        }
        match events.iter().find(|id| !self.store.events.contains(*id)) {
            Some(lost) => Err(format!("event {lost:?} was acknowledged and is not in the store")),
            None => Ok(()),
        }
    }

    /// How many events of this boot are or were in the store.
    pub(super) fn events_of(&self, node: &str, boot: &str) -> u64 {
        self.store.events.iter().filter(|(of, by, _)| of == node && by == boot).count() as u64
    }

    /// An agent holds this version, and has said so or acts on it.
    pub(super) fn holds(&mut self, machine: &str, version: Option<Version>) -> Result<(), String> {
        let Some(version) = version else {
            return match self.held.get(machine) {
                Some(held) => Err(format!("{machine} held {held} and holds nothing now")),
                None => Ok(()),
            };
        };
        let held = self.held.entry(machine.to_owned()).or_insert(version);
        if version < *held {
            return Err(format!("{machine} held {held} and went back to {version}"));
        }
        *held = version;
        Ok(())
    }

    /// An agent applies `desired`, and this is what its disk holds for certain.
    pub(super) fn applies(
        &mut self,
        machine: &str,
        desired: &Desired,
        on_disk: &Desired,
    ) -> Result<(), String> {
        if desired != on_disk {
            let text = |desired: &Desired| desired.version.map_or("nothing".to_owned(), |v| v.to_string());
            return Err(format!("{machine} applies {} and its disk holds {}", text(desired), text(on_disk)));
        }
        self.holds(machine, desired.version)
    }

    /// A machine starts a copy.
    pub(super) fn starts(&self, node: &str, copy: &Assigned) -> Result<(), String> {
        let known = self.assigned.get(node).is_some_and(|assigned| assigned.contains(copy));
        if known { Ok(()) } else { Err(format!("{node} starts {copy:?}, which it was never assigned")) }
    }
}

/// What an assigned instance is, configs and all.
pub(super) fn assigned_of(instance: &stored::AssignedInstance) -> Assigned {
    let configs: Vec<String> =
        instance.configs.iter().map(|config| format!("{}={}", config.config, config.hash)).collect();
    (instance.instance.clone(), instance.revision.clone(), configs.join(","))
}

/// `<project>/<node>` of a key; of events, too.
fn name_of(entry: &Entry, family: Family) -> String {
    let key = String::from_utf8_lossy(&entry.key);
    key[family.prefix().len()..].replace("/nodes/", "/")
}
