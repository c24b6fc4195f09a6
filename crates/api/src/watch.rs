//! One watcher of a hub. Beyond a small look ahead it has no buffer: it reads the hub's memory of changes at its own pace, and is told when
//! it fell out of it.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;

use skerry_model::Fault;
use skerry_store::StoreVersion;
use tokio::sync::watch;

use crate::hub::{Change, Hub, Resource};
use crate::version::ResourceVersion;

/// A quiet watcher is told this often how far it has seen.
const BOOKMARK_EVERY: Duration = Duration::from_secs(30);
/// Changes that are looked at under one lock.
const LOOK_MAX: usize = 256;
/// Bytes of them after which no more are looked at: what a watcher that does not read keeps for itself.
const LOOK_BYTES_MAX: usize = 1024 * 1024;

/// What a watcher is told.
#[derive(Debug, Clone)]
pub enum Told<T> {
    /// New, or new to the selector.
    Added(Arc<T>, ResourceVersion),
    /// Changed.
    Modified(Arc<T>, ResourceVersion),
    /// Gone, or gone from the selector: the last state.
    Deleted(Arc<T>, ResourceVersion),
    /// Nothing up to here.
    Bookmark(ResourceVersion),
}

/// One watcher.
pub struct Watcher<T: Resource> {
    hub: Arc<Hub<T>>,
    reached: watch::Receiver<StoreVersion>,
    prefix: String,
    selector: T::Selector,
    ready: VecDeque<Told<T>>,
    /// The next change to look at.
    next: u64,
    version: ResourceVersion,
}

impl<T: Resource> Watcher<T> {
    /// Watches what is named with `prefix` from `resource_version`; if that is empty, first tells the present state and a bookmark.
    pub async fn start(
        hub: Arc<Hub<T>>,
        prefix: String,
        selector: T::Selector,
        resource_version: &str,
    ) -> Result<Self, Fault> {
        let from = match resource_version {
            "" => None,
            text => Some(ResourceVersion::parse(text)?),
        };
        if let Some(from) = from {
            hub.wait_for(from.complete).await?;
        }
        let reached = hub.subscribe();
        let (mut ready, next, version);
        {
            let inner = hub.lock();
            ready = VecDeque::new();
            match from {
                None => {
                    version = inner.version;
                    next = inner.first + inner.changes.len() as u64;
                    let present =
                        inner.items.range(prefix.clone()..).take_while(|(name, _)| name.starts_with(&prefix));
                    let present = present.filter(|(_, item)| item.matches(&selector));
                    ready.extend(present.map(|(_, item)| Told::Added(Arc::clone(item), version)));
                    ready.push_back(Told::Bookmark(version));
                }
                Some(from) if from.hub == inner.version.hub => {
                    if from.seq < inner.first || from.seq > inner.version.seq {
                        return Err(gone());
                    }
                    (version, next) = (from, from.seq);
                }
                Some(from) if from.complete < inner.floor || from.complete.term != inner.reached.term => {
                    return Err(gone());
                }
                Some(from) => {
                    let seen =
                        inner.changes.iter().take_while(|change| change.reached <= from.complete).count();
                    (version, next) = (from, inner.first + seen as u64);
                }
            }
        }
        Ok(Self { hub, reached, prefix, selector, ready, next, version })
    }

    /// What comes next; waits for it. OUT_OF_RANGE when it was too slow.
    pub async fn next(&mut self) -> Result<Told<T>, Fault> {
        loop {
            if let Some(told) = self.ready.pop_front() {
                return Ok(told);
            }
            self.reached.mark_unchanged();
            if self.look()? {
                continue;
            }
            match tokio::time::timeout(BOOKMARK_EVERY, self.reached.changed()).await {
                Ok(Ok(())) => {}
                Ok(Err(_)) => return Err(Fault::unavailable("the service is stopping")),
                Err(_) => return Ok(Told::Bookmark(self.version)),
            }
        }
    }

    /// How many changes it has looked ahead.
    #[cfg(test)]
    pub(crate) fn ready_len(&self) -> usize {
        self.ready.len()
    }

    /// Takes in some changes; answers whether there were any.
    fn look(&mut self) -> Result<bool, Fault> {
        let inner = self.hub.lock();
        let Some(skip) = self.next.checked_sub(inner.first) else { return Err(gone()) };
        let skip = usize::try_from(skip).unwrap_or(usize::MAX);
        let mut bytes = 0;
        let fits = |change: &&Change<T>| {
            let room = bytes < LOOK_BYTES_MAX;
            bytes += change.size_bytes();
            room
        };
        let fresh: Vec<&Change<T>> =
            inner.changes.iter().skip(skip).take(LOOK_MAX).take_while(fits).collect();
        if fresh.is_empty() {
            self.version = inner.version;
            return Ok(false);
        }
        self.next += fresh.len() as u64;
        for change in fresh {
            self.version = change.version;
            if !change.name.starts_with(&self.prefix) {
                continue;
            }
            let matching = |item: &Option<Arc<T>>| item.clone().filter(|item| item.matches(&self.selector));
            let told = match (matching(&change.old), matching(&change.new)) {
                (None, Some(new)) => Told::Added(new, change.version),
                (Some(_), Some(new)) => Told::Modified(new, change.version),
                (Some(old), None) => Told::Deleted(old, change.version),
                (None, None) => continue,
            };
            self.ready.push_back(told);
        }
        Ok(true)
    }
}

fn gone() -> Fault {
    Fault::version_gone(
        "changes from this resource_version on are no longer known, or were not read fast enough: list again",
    )
}
