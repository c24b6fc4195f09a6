//! Reading the history forward, page by page: what watchers live on. There are no queues of events; a
//! watcher is a position, and a slow one simply reads later.

use std::sync::Arc;

use super::Core;
use super::entry::Entry;
use super::fault::Fault;

/// One change, with what it replaced.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HistoryItem {
    /// The change.
    pub entry: Arc<Entry>,
    /// The key before the change's transaction, where it lived and is still kept.
    pub prev: Option<Arc<Entry>>,
}

/// Some whole transactions of the history.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HistoryPage {
    /// Their changes, oldest first.
    pub items: Vec<HistoryItem>,
    /// The main revision from which the next page goes on.
    pub next: i64,
}

impl Core {
    /// The oldest main revision from which [`history`](Self::history) reads. Not above
    /// [`compacted`](Self::compacted), which is where a new watch may begin: a little more is kept for watches
    /// that are under way.
    pub fn history_start(&self) -> i64 {
        self.log_start
    }

    /// The committed changes from main revision `from` on: whole transactions, and no further one once there
    /// are `entries_max` changes or `bytes_max` bytes in the page.
    pub fn history(&self, from: i64, entries_max: usize, bytes_max: usize) -> Result<HistoryPage, Fault> {
        if from < self.log_start {
            return Err(Fault::Compacted);
        }
        let start = self.log.partition_point(|entry| entry.revision.main < from);
        let mut items: Vec<HistoryItem> = Vec::new();
        let mut bytes = 0;
        for entry in self.log.range(start..) {
            let main = entry.revision.main;
            if main > self.committed {
                break;
            }
            let full = items.len() >= entries_max || bytes >= bytes_max;
            if full && items.last().is_some_and(|last| last.entry.revision.main != main) {
                return Ok(HistoryPage { items, next: main });
            }
            let prev = self.before(entry);
            bytes += entry.cost_bytes() + prev.as_ref().map_or(0, |prev| prev.cost_bytes());
            items.push(HistoryItem { entry: Arc::clone(entry), prev });
        }
        Ok(HistoryPage { items, next: from.max(self.committed + 1) })
    }

    fn before(&self, entry: &Entry) -> Option<Arc<Entry>> {
        let before = entry.revision.main - 1;
        if entry.is_create() || before < self.compacted {
            return None;
        }
        self.index.get(&entry.key, before).cloned()
    }
}
