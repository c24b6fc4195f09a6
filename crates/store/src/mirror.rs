//! Mirrors: families of the store kept in memory, always the store as it was at some revision, never long ago.
//!
//! `core` decides, `driver` does, `sorted` holds, `log` remembers what changed. A consumer is woken without payload, takes the snapshot,
//! and plans anew from it; one that wants deltas asks for what changed since its cursor, and is told to start over when it lags.

pub(crate) mod core;
mod driver;
mod log;
#[cfg(test)]
mod model;
pub(crate) mod sorted;

use std::sync::{Arc, PoisonError, RwLock, Weak};
use std::time::Duration;

use tokio::sync::watch;
use tokio_util::sync::DropGuard;

pub use self::core::Change;
use self::core::{Core, Publication, Target};
use self::log::Log;
pub use self::log::{Changes, Cursor};
use self::sorted::Sorted;
use crate::keys::{Key, Prefix, Record};
use crate::observe;
use crate::record::{DecodeError, Entry, StoreVersion, Versioned};
use crate::store::Store;
use crate::txn::Committed;

/// Most prefixes of one mirror: each is a watch in etcd.
pub const TARGETS_MAX: usize = 32;

/// What is mirrored.
#[derive(Debug, Clone, Default)]
pub struct MirrorConfig {
    targets: Vec<Target>,
}

impl MirrorConfig {
    /// Nothing yet.
    pub fn new() -> Self {
        Self::default()
    }

    /// With all of a family.
    #[must_use]
    pub fn family<R: Record>(self) -> Self {
        self.with(Prefix::<R>::all().to_shared(), false)
    }

    /// With all of a family, but only keys and revisions: the values are dropped as they arrive.
    #[must_use]
    pub fn keys_only<R: Record>(self) -> Self {
        self.with(Prefix::<R>::all().to_shared(), true)
    }

    /// With what stands under a prefix.
    #[must_use]
    pub fn prefix<R: Record>(self, prefix: &Prefix<R>) -> Self {
        self.with(prefix.to_shared(), false)
    }

    /// # Panics
    /// On prefixes that overlap and on more than [`TARGETS_MAX`]: both are mistakes in the program.
    fn with(mut self, prefix: Arc<str>, keys_only: bool) -> Self {
        let overlaps =
            |target: &Target| target.prefix.starts_with(&*prefix) || prefix.starts_with(&*target.prefix);
        assert!(!self.targets.iter().any(overlaps), "`{prefix}` is mirrored already");
        assert!(self.targets.len() < TARGETS_MAX, "more than {TARGETS_MAX} prefixes are mirrored");
        self.targets.push(Target { prefix, keys_only });
        self
    }
}

/// The mirrored keys at one moment. Never changes.
#[derive(Debug, Clone)]
pub struct Snapshot {
    map: Sorted,
    term: u64,
    targets: Arc<[Target]>,
    positions: Vec<i64>,
}

impl Snapshot {
    /// An empty snapshot at `version`: what consumers' own tests begin with.
    pub fn at(version: StoreVersion) -> Self {
        Self {
            map: Sorted::default(),
            term: version.term,
            targets: Arc::default(),
            positions: vec![version.revision],
        }
    }

    /// The newest revision that it shows. Prefixes may stand at different revisions: each shows all of its changes up to its own, and
    /// one that lags does so for moments. What is written on the ground of a snapshot compares what it read.
    pub fn revision(&self) -> i64 {
        self.positions.iter().copied().max().unwrap_or(0)
    }

    /// The revision up to which every mirrored prefix is complete. Behind [`Self::revision`] where a prefix lags or was quiet for long.
    pub fn complete(&self) -> StoreVersion {
        StoreVersion { term: self.term, revision: self.positions.iter().copied().min().unwrap_or(0) }
    }

    /// The store's term that it is of.
    pub fn term(&self) -> u64 {
        self.term
    }

    /// Term and revision: ordered over restores.
    pub fn version(&self) -> StoreVersion {
        StoreVersion { term: self.term, revision: self.revision() }
    }

    /// The version of one entry of it.
    pub fn version_of(&self, mod_revision: i64) -> StoreVersion {
        StoreVersion { term: self.term, revision: mod_revision }
    }

    /// How many entries it has.
    pub fn len(&self) -> usize {
        self.map.len()
    }

    /// Whether it has none.
    pub fn is_empty(&self) -> bool {
        self.map.len() == 0
    }

    /// The record at `key`.
    pub fn get<R: Record>(&self, key: &Key<R>) -> Result<Option<Versioned<R>>, DecodeError> {
        self.map.get(key.as_str()).map(|entry| entry.decode()).transpose()
    }

    /// The stored entry at `key`; of a family whose values are dropped, without its bytes.
    pub fn entry<R>(&self, key: &Key<R>) -> Option<&Arc<Entry>> {
        self.map.get(key.as_str())
    }

    /// The records under `prefix`, by key.
    pub fn iter<'a, R: Record>(
        &'a self,
        prefix: &'a Prefix<R>,
    ) -> impl Iterator<Item = Result<Versioned<R>, DecodeError>> + 'a {
        self.map.under(prefix.as_str()).map(|entry| entry.decode())
    }

    /// The stored entries under `prefix`, by key.
    pub fn entries<'a, R>(&'a self, prefix: &'a Prefix<R>) -> impl Iterator<Item = &'a Arc<Entry>> + 'a {
        self.map.under(prefix.as_str())
    }

    /// Whether each mirrored prefix that `committed` touched has reached it.
    fn shows(&self, committed: &Committed) -> bool {
        let touches = |target: &Target| {
            let prefix = &*target.prefix;
            committed
                .touched
                .iter()
                .any(|touched| touched.starts_with(prefix) || prefix.starts_with(&**touched))
        };
        self.targets
            .iter()
            .zip(&self.positions)
            .all(|(target, position)| *position >= committed.revision || !touches(target))
    }
}

/// A snapshot and how it came from an earlier one.
#[derive(Debug, Clone)]
pub struct Delta {
    /// The snapshot to which the changes lead.
    pub snapshot: Arc<Snapshot>,
    /// What changed.
    pub changes: Changes,
    /// Where to continue.
    pub cursor: Cursor,
}

/// Why a wait ended without what was waited for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum WaitError {
    /// The mirror did not get there in time.
    #[error("this service has not seen its own change yet: it lags behind the store")]
    Behind,
    /// The store was restored to an earlier state meanwhile: the write may be undone.
    #[error("the store was restored meanwhile: look whether the change is there")]
    Restored,
    /// The mirror has ended.
    #[error("this service is stopping")]
    Ended,
}

impl From<WaitError> for skerry_model::Fault {
    fn from(error: WaitError) -> Self {
        Self::unavailable(error.to_string())
    }
}

/// Families of the store in memory. Ends when the last clone is dropped or the store closes.
#[derive(Debug, Clone)]
pub struct Mirror {
    shared: Arc<Shared>,
    wake: watch::Receiver<Wake>,
    deadline: Duration,
    _guard: Arc<DropGuard>,
    _store: Store,
}

/// Whether a mirror follows the store, for the store's readiness.
#[derive(Debug)]
pub(crate) struct Liveness {
    mirror: Weak<DropGuard>,
    wake: watch::Receiver<Wake>,
}

impl Liveness {
    /// Nobody has the mirror any more.
    pub(crate) fn has_ended(&self) -> bool {
        self.mirror.strong_count() == 0
    }

    /// It has read everything once and follows the store at present.
    pub(crate) fn is_live(&self) -> bool {
        let wake = self.wake.borrow();
        wake.live && wake.published > 0
    }
}

/// What wakes a consumer.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
struct Wake {
    /// Counts publications. 0: there is none yet.
    published: u64,
    /// Whether the mirror follows the store at present.
    live: bool,
}

/// What the driver and the consumers share.
#[derive(Debug)]
struct Shared {
    targets: Arc<[Target]>,
    published: RwLock<Published>,
}

#[derive(Debug)]
struct Published {
    snapshot: Arc<Snapshot>,
    log: Log,
}

impl Mirror {
    /// Begins to mirror. Until [`Mirror::ready`] the snapshot is empty.
    pub fn start(store: &Store, config: MirrorConfig) -> Self {
        let targets: Arc<[Target]> = config.targets.into();
        let empty = Snapshot {
            map: Sorted::default(),
            term: 0,
            targets: Arc::clone(&targets),
            positions: vec![0; targets.len()],
        };
        let published = Published { snapshot: Arc::new(empty), log: Log::default() };
        let shared = Arc::new(Shared { targets: Arc::clone(&targets), published: RwLock::new(published) });
        let (sender, wake) = watch::channel(Wake::default());
        let driver = driver::Driver::new(
            Arc::clone(&store.client),
            Arc::clone(&store.term),
            Core::new(targets.to_vec()),
            Publisher { shared: Arc::clone(&shared), wake: sender },
        );
        let stop = store.spawn(|stop| driver.run(stop));
        let guard = Arc::new(stop.drop_guard());
        store.follow(Liveness { mirror: Arc::downgrade(&guard), wake: wake.clone() });
        Self { shared, wake, deadline: store.client.deadline, _guard: guard, _store: store.clone() }
    }

    /// Waits, as long as it takes, until there is a first snapshot.
    pub async fn ready(&self) -> Result<(), WaitError> {
        let mut wake = self.wake.clone();
        wake.wait_for(|wake| wake.published > 0).await.map(|_| ()).map_err(|_| WaitError::Ended)
    }

    /// Whether it follows the store at present. A mirror that does not still serves what it last knew.
    pub fn is_live(&self) -> bool {
        self.wake.borrow().live
    }

    /// The newest snapshot.
    pub fn snapshot(&self) -> Arc<Snapshot> {
        Arc::clone(&self.shared.read().snapshot)
    }

    /// What changed since `since`; `None` gives [`Changes::Resync`] and a cursor to go on from.
    pub fn changes(&self, since: Option<Cursor>) -> Delta {
        let published = self.shared.read();
        let (changes, cursor) = published.log.since(since);
        Delta { snapshot: Arc::clone(&published.snapshot), changes, cursor }
    }

    /// A cursor after which come all changes above `version`, and perhaps some that are not: of a change, look at the revision.
    /// `None`: they are no longer all known, or the version is of another term.
    pub fn cursor_after(&self, version: StoreVersion) -> Option<Cursor> {
        let published = self.shared.read();
        let same_term = published.snapshot.term == version.term;
        if same_term { published.log.after_revision(version.revision) } else { None }
    }

    /// A wake-up for each new snapshot, several in a row perhaps as one.
    pub fn subscribe(&self) -> MirrorWake {
        let mut wake = self.wake.clone();
        let seen = wake.borrow_and_update().published;
        MirrorWake { wake, seen }
    }

    /// Waits until the snapshot shows what was committed, at most as long as one call to the store may take.
    pub async fn wait_for(&self, committed: &Committed) -> Result<Arc<Snapshot>, WaitError> {
        let term = self.snapshot().term();
        let asked = tokio::time::Instant::now();
        let mut wake = self.subscribe();
        let waiting = async {
            loop {
                let snapshot = self.snapshot();
                if term != 0 && snapshot.term() != term {
                    return Err(WaitError::Restored);
                }
                if snapshot.shows(committed) {
                    observe::seen_after(asked.elapsed());
                    return Ok(snapshot);
                }
                if !wake.changed().await {
                    return Err(WaitError::Ended);
                }
            }
        };
        tokio::time::timeout(self.deadline, waiting).await.unwrap_or(Err(WaitError::Behind))
    }
}

/// Wakes for each new snapshot.
#[derive(Debug, Clone)]
pub struct MirrorWake {
    wake: watch::Receiver<Wake>,
    seen: u64,
}

impl MirrorWake {
    /// Waits for a snapshot newer than at the last call, or than when this was made. `false`: the mirror has ended.
    pub async fn changed(&mut self) -> bool {
        let seen = self.seen;
        match self.wake.wait_for(|wake| wake.published > seen).await {
            Ok(wake) => {
                self.seen = wake.published;
                true
            }
            Err(_) => false,
        }
    }
}

impl Shared {
    fn read(&self) -> std::sync::RwLockReadGuard<'_, Published> {
        self.published.read().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The driver's end.
#[derive(Debug)]
struct Publisher {
    shared: Arc<Shared>,
    wake: watch::Sender<Wake>,
}

impl Publisher {
    fn publish(&self, publication: Publication) {
        let Publication { map, term, positions, changes, resync } = publication;
        let snapshot = Snapshot { map, term, targets: Arc::clone(&self.shared.targets), positions };
        let revision = snapshot.revision();
        {
            let mut published = self.shared.published.write().unwrap_or_else(PoisonError::into_inner);
            if resync {
                published.log.restart(revision);
            } else {
                published.log.extend(changes);
            }
            published.snapshot = Arc::new(snapshot);
        }
        self.wake.send_modify(|wake| wake.published += 1);
    }

    fn live(&self, live: bool) {
        self.wake.send_if_modified(|wake| std::mem::replace(&mut wake.live, live) != live);
    }
}
