//! The present state of one kind of resource, with a bounded memory of changes for watchers and of snapshots for pages.

use std::collections::{BTreeMap, VecDeque};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use skerry_model::{Fault, Selector};
use skerry_proto::types::v1::Metadata;
use skerry_store::{Snapshot, StoreVersion};
use tokio::sync::watch;

use crate::request::PageArgs;
use crate::version::ResourceVersion;

/// Changes that a watcher may be behind before it is told to list again.
const CHANGES_KEPT: usize = 8192;
/// Bytes that these may hold: for most resources the count binds; large specs that change often would fill the memory long before it does.
const CHANGES_BYTES_KEPT: usize = 32 * 1024 * 1024;
/// Snapshots that unfinished listings may hold at once.
const SNAPSHOTS_KEPT: usize = 8;
/// Longest that a reader waits for a version that the hub has not reached yet.
const CATCH_UP: Duration = Duration::from_secs(5);

/// Something that is listed and watched.
pub trait Resource: Clone + PartialEq + Send + Sync + 'static {
    /// What says which of them are meant.
    type Selector: Send + Sync + 'static;

    /// Its metadata. What nobody makes has none.
    fn metadata(&self) -> Option<&Metadata>;

    /// About how large it is on the wire.
    fn size_bytes(&self) -> usize;

    /// Whether it is meant.
    fn matches(&self, selector: &Self::Selector) -> bool;
}

macro_rules! resources {
    ($($kind:ty),*) => {
        $(impl Resource for $kind {
            type Selector = Selector;

            fn metadata(&self) -> Option<&Metadata> {
                self.metadata.as_ref()
            }
            fn size_bytes(&self) -> usize {
                prost::Message::encoded_len(self)
            }
            /// By its labels.
            fn matches(&self, selector: &Selector) -> bool {
                self.metadata.as_ref().is_some_and(|metadata| selector.matches(&metadata.labels))
            }
        })*
    };
}

resources!(
    skerry_proto::registry::v1::Node,
    skerry_proto::registry::v1::Cluster,
    skerry_proto::registry::v1::Project,
    skerry_proto::registry::v1::User,
    skerry_proto::registry::v1::Group,
    skerry_proto::registry::v1::RoleBinding,
    skerry_proto::registry::v1::Grant,
    skerry_proto::registry::v1::Task,
    skerry_proto::scheduler::v1::App,
    skerry_proto::scheduler::v1::Config,
    skerry_proto::scheduler::v1::Secret
);

/// Resources by full name, as they were at one version.
pub type Listed<T> = Arc<BTreeMap<String, Arc<T>>>;

/// One change of one resource.
#[derive(Debug, Clone)]
pub struct Change<T> {
    /// Full name.
    pub name: Arc<str>,
    /// Before.
    pub old: Option<Arc<T>>,
    /// After.
    pub new: Option<Arc<T>>,
    /// A watch that saw this change, and those before it, may continue from here.
    pub version: ResourceVersion,
    /// The newest revision of the store that had been seen when it was published.
    pub reached: StoreVersion,
}

impl<T: Resource> Change<T> {
    /// About what it keeps in memory beside what the change before it of the same resource does.
    pub(crate) fn size_bytes(&self) -> usize {
        self.name.len() + self.new.as_ref().or(self.old.as_ref()).map_or(0, |item| item.size_bytes())
    }
}

/// A snapshot kept for the later pages of a listing.
#[derive(Debug, Clone)]
pub struct Pinned<T> {
    version: ResourceVersion,
    items: Listed<T>,
}

/// One page of a listing.
#[derive(Debug)]
pub struct ListPage<T> {
    /// By name.
    pub items: Vec<T>,
    /// Empty on the last page.
    pub next_page_token: String,
    /// Where a watch continues.
    pub resource_version: String,
}

pub(crate) struct Inner<T> {
    pub(crate) version: ResourceVersion,
    pub(crate) reached: StoreVersion,
    pub(crate) items: Listed<T>,
    /// The newest changes; `first` is the sequence number of the oldest that is kept.
    pub(crate) changes: VecDeque<Change<T>>,
    pub(crate) first: u64,
    /// Of all kept changes, as [`Change::size_bytes`] counts them.
    changes_bytes: usize,
    /// Watches of other replicas from before this version cannot be continued.
    pub(crate) floor: StoreVersion,
    pinned: VecDeque<Pinned<T>>,
}

/// The present state of one kind of resource. Shared between the task that publishes and the handlers that read.
pub struct Hub<T> {
    inner: Mutex<Inner<T>>,
    reached: watch::Sender<StoreVersion>,
}

impl<T: Resource> Default for Hub<T> {
    fn default() -> Self {
        let inner = Inner {
            version: ResourceVersion {
                hub: uuid::Uuid::new_v4().as_fields().0,
                ..ResourceVersion::default()
            },
            reached: StoreVersion::default(),
            items: Listed::default(),
            changes: VecDeque::new(),
            first: 0,
            changes_bytes: 0,
            floor: StoreVersion::default(),
            pinned: VecDeque::new(),
        };
        Self { inner: Mutex::new(inner), reached: watch::Sender::new(StoreVersion::default()) }
    }
}

impl<T: Resource> Hub<T> {
    pub(crate) fn lock(&self) -> MutexGuard<'_, Inner<T>> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn subscribe(&self) -> watch::Receiver<StoreVersion> {
        self.reached.subscribe()
    }

    /// Replaces everything: at start, and when what came between is not known. Watches from before then list again.
    pub fn reset(&self, items: BTreeMap<String, Arc<T>>, at: &Snapshot) {
        {
            let mut inner = self.lock();
            inner.first += inner.changes.len() as u64 + 1;
            inner.changes.clear();
            inner.changes_bytes = 0;
            inner.items = Arc::new(items);
            inner.reached = at.version();
            inner.floor = at.version();
            inner.version = ResourceVersion { complete: at.complete(), seq: inner.first, ..inner.version };
            inner.pinned.clear();
        }
        self.reached.send_replace(at.version());
    }

    /// Takes in what changed up to a snapshot; what is equal to what was known is no change.
    pub fn publish(&self, updates: impl IntoIterator<Item = (String, Option<T>)>, at: &Snapshot) {
        {
            let mut inner = self.lock();
            let inner = &mut *inner;
            for (name, new) in updates {
                let old = inner.items.get(&name).cloned();
                if old.as_deref() == new.as_ref() {
                    continue;
                }
                let new = new.map(Arc::new);
                let items = Arc::make_mut(&mut inner.items);
                match &new {
                    Some(item) => items.insert(name.clone(), Arc::clone(item)),
                    None => items.remove(&name),
                };
                // Until the last change of the batch is told, only what the batch before completed is complete.
                inner.version.seq += 1;
                let version = inner.version;
                let change = Change { name: name.into(), old, new, version, reached: at.version() };
                inner.changes_bytes += change.size_bytes();
                inner.changes.push_back(change);
            }
            inner.version.complete = at.complete();
            if let Some(last) = inner.changes.back_mut().filter(|last| last.version.seq == inner.version.seq)
            {
                last.version = inner.version;
            }
            while inner.changes.len() > CHANGES_KEPT || inner.changes_bytes > CHANGES_BYTES_KEPT {
                let Some(gone) = inner.changes.pop_front() else { break };
                inner.changes_bytes -= gone.size_bytes();
                inner.floor = inner.floor.max(gone.reached);
                inner.first += 1;
            }
            inner.reached = at.version();
        }
        self.reached.send_replace(at.version());
    }

    /// One resource as it is now.
    pub fn get(&self, name: &str) -> Option<Arc<T>> {
        self.lock().items.get(name).cloned()
    }

    /// All resources as they are now.
    pub fn snapshot(&self) -> Listed<T> {
        Arc::clone(&self.lock().items)
    }

    /// Waits until the hub has seen `version` of the store. UNAVAILABLE if that takes too long.
    pub async fn wait_for(&self, version: StoreVersion) -> Result<(), Fault> {
        let mut reached = self.subscribe();
        let caught_up = reached.wait_for(|reached| *reached >= version);
        match tokio::time::timeout(CATCH_UP, caught_up).await {
            Ok(Ok(_)) => Ok(()),
            _ => Err(Fault::unavailable("this replica has not caught up with the store yet: try again")),
        }
    }

    /// One page of the resources whose names begin with `prefix`; all pages of a listing are of one version.
    pub fn list(
        &self,
        prefix: &str,
        selector: &T::Selector,
        page: &PageArgs,
        bytes_max: usize,
    ) -> Result<ListPage<T>, Fault> {
        let mut inner = self.lock();
        let (version, items) = match &page.after {
            None => (inner.version, Arc::clone(&inner.items)),
            Some((version, _)) => inner.pinned(*version).ok_or_else(|| {
                Fault::version_gone(
                    "the listing that this page_token continues is no longer kept: list from the beginning",
                )
            })?,
        };
        let start = match &page.after {
            Some((_, name)) => std::ops::Bound::Excluded(name.clone()),
            None => std::ops::Bound::Included(prefix.to_owned()),
        };
        let range = (start, std::ops::Bound::Unbounded);
        let mut matching = items
            .range::<String, _>(range)
            .take_while(|(name, _)| name.starts_with(prefix))
            .filter(|(_, item)| item.matches(selector))
            .peekable();
        let (mut picked, mut bytes, mut last) = (Vec::new(), 0, "");
        while let Some((name, item)) =
            matching.next_if(|_| picked.len() < page.size && (picked.is_empty() || bytes < bytes_max))
        {
            bytes += item.size_bytes();
            picked.push(T::clone(item));
            last = name;
        }
        let more = matching.peek().is_some();
        let next_page_token = if more { format!("{version}|{last}") } else { String::new() };
        if more {
            inner.pin(version, Arc::clone(&items));
        }
        Ok(ListPage { items: picked, next_page_token, resource_version: version.to_string() })
    }
}

impl<T> Inner<T> {
    fn pin(&mut self, version: ResourceVersion, items: Listed<T>) {
        self.pinned.retain(|pinned| pinned.version != version);
        self.pinned.push_back(Pinned { version, items });
        if self.pinned.len() > SNAPSHOTS_KEPT {
            self.pinned.pop_front();
        }
    }

    fn pinned(&self, version: ResourceVersion) -> Option<(ResourceVersion, Listed<T>)> {
        self.pinned
            .iter()
            .find(|pinned| pinned.version == version)
            .map(|pinned| (version, Arc::clone(&pinned.items)))
    }
}
