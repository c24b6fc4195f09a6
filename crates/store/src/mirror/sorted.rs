//! A sorted map of entries whose copies are cheap: a snapshot is published after each change, and shares all but what changed.
//!
//! Entries stand in chunks of up to 128; copying the map copies the list of chunks, changing an entry copies its chunk if a snapshot
//! still holds it.

use std::sync::Arc;

use crate::record::Entry;

/// Entries of one chunk, at most.
const CHUNK_MAX: usize = 128;
/// A chunk below this joins its neighbour where both fit.
const CHUNK_MIN: usize = 32;

type Chunk = Arc<Vec<Arc<Entry>>>;

/// Entries by key. Cloning copies one pointer for each hundred or so.
#[derive(Debug, Clone, Default)]
pub struct Sorted {
    /// None is empty.
    chunks: Vec<Chunk>,
    len: usize,
}

impl Sorted {
    /// Takes entries that are sorted by key, each key once.
    pub fn from_sorted(entries: Vec<Arc<Entry>>) -> Self {
        debug_assert!(entries.is_sorted_by(|a, b| a.key < b.key), "sorted, each key once");
        let len = entries.len();
        let mut chunks = Vec::with_capacity(len.div_ceil(CHUNK_MAX / 2));
        let mut entries = entries.into_iter().peekable();
        while entries.peek().is_some() {
            chunks.push(Arc::new(entries.by_ref().take(CHUNK_MAX / 2).collect()));
        }
        Self { chunks, len }
    }

    /// How many entries there are.
    pub fn len(&self) -> usize {
        self.len
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// The chunk that holds `key` or would.
    fn chunk_of(&self, key: &str) -> usize {
        let after = self.chunks.partition_point(|chunk| first(chunk) <= key);
        after.saturating_sub(1)
    }

    /// The entry at `key`.
    pub fn get(&self, key: &str) -> Option<&Arc<Entry>> {
        let chunk = self.chunks.get(self.chunk_of(key))?;
        let index = position(chunk, key).ok()?;
        chunk.get(index)
    }

    /// Puts `entry` in; answers what was there.
    pub fn insert(&mut self, entry: Arc<Entry>) -> Option<Arc<Entry>> {
        let at = self.chunk_of(&entry.key);
        let Some(chunk) = self.chunks.get_mut(at) else {
            self.chunks.push(Arc::new(vec![entry]));
            self.len = 1;
            return None;
        };
        let chunk = Arc::make_mut(chunk);
        match position(chunk, &entry.key) {
            Ok(index) => Some(std::mem::replace(&mut chunk[index], entry)),
            Err(index) => {
                chunk.insert(index, entry);
                self.len += 1;
                if chunk.len() > CHUNK_MAX {
                    let upper = chunk.split_off(CHUNK_MAX / 2);
                    self.chunks.insert(at + 1, Arc::new(upper));
                }
                None
            }
        }
    }

    /// Takes the entry at `key` out.
    pub fn remove(&mut self, key: &str) -> Option<Arc<Entry>> {
        let at = self.chunk_of(key);
        let chunk = self.chunks.get_mut(at)?;
        let index = position(chunk, key).ok()?;
        let chunk = Arc::make_mut(chunk);
        let removed = chunk.remove(index);
        self.len -= 1;
        if chunk.is_empty() {
            self.chunks.remove(at);
        } else if chunk.len() < CHUNK_MIN {
            self.join(at);
        }
        Some(removed)
    }

    /// Joins the chunk with the one after it, if both fit into three quarters of one.
    fn join(&mut self, at: usize) {
        let fits = |next: &Chunk| self.chunks[at].len() + next.len() <= CHUNK_MAX * 3 / 4;
        if self.chunks.get(at + 1).is_some_and(fits) {
            let next = self.chunks.remove(at + 1);
            Arc::make_mut(&mut self.chunks[at]).extend(next.iter().cloned());
        }
    }

    /// All, by key.
    pub fn iter(&self) -> impl Iterator<Item = &Arc<Entry>> {
        self.chunks.iter().flat_map(|chunk| chunk.iter())
    }

    /// Entries whose key begins with `prefix`.
    pub fn under<'a>(&'a self, prefix: &'a str) -> impl Iterator<Item = &'a Arc<Entry>> + 'a {
        let at = self.chunk_of(prefix);
        let skip =
            self.chunks.get(at).map_or(0, |chunk| position(chunk, prefix).unwrap_or_else(|index| index));
        let chunks = self.chunks.iter().skip(at).flat_map(|chunk| chunk.iter());
        chunks.skip(skip).take_while(move |entry| entry.key.starts_with(prefix))
    }
}

fn first(chunk: &Chunk) -> &str {
    chunk.first().map_or("", |entry| &entry.key)
}

fn position(chunk: &[Arc<Entry>], key: &str) -> Result<usize, usize> {
    chunk.binary_search_by(|entry| (*entry.key).cmp(key))
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use bytes::Bytes;
    use proptest::prelude::*;

    use super::*;

    fn entry(key: u16, revision: i64) -> Arc<Entry> {
        let key = Arc::from(format!("/{}/{:04}", key % 3, key));
        Arc::new(Entry { key, bytes: Bytes::new(), create_revision: 1, mod_revision: revision })
    }

    fn same(sorted: &Sorted, model: &BTreeMap<Arc<str>, Arc<Entry>>) {
        assert_eq!(sorted.len(), model.len());
        assert!(sorted.iter().eq(model.values()));
        assert!(sorted.chunks.iter().all(|chunk| !chunk.is_empty() && chunk.len() <= CHUNK_MAX));
        for prefix in ["/0/", "/1/", "/2/", "/3/", ""] {
            assert!(
                sorted.under(prefix).eq(model.values().filter(|entry| entry.key.starts_with(prefix))),
                "{prefix}"
            );
        }
    }

    proptest! {
        #[test]
        fn it_is_a_sorted_map_and_snapshots_stay_as_they_were(
            start in prop::collection::btree_set(0u16..2000, 0..600),
            steps in prop::collection::vec((any::<bool>(), 0u16..2000), 0..800),
        ) {
            let mut model: BTreeMap<Arc<str>, Arc<Entry>> = start.iter().map(|key| entry(*key, 1)).map(|e| (Arc::clone(&e.key), e)).collect();
            let mut sorted = Sorted::from_sorted(model.values().cloned().collect());
            let (snapshot, then) = (sorted.clone(), model.clone());
            for (revision, (put, key)) in (2..).zip(steps) {
                let entry = entry(key, revision);
                if put {
                    prop_assert_eq!(sorted.insert(Arc::clone(&entry)), model.insert(Arc::clone(&entry.key), entry));
                } else {
                    prop_assert_eq!(sorted.remove(&entry.key), model.remove(&entry.key));
                }
            }
            same(&sorted, &model);
            same(&snapshot, &then);
            for key in 0..2000 {
                let key = &entry(key, 0).key;
                prop_assert_eq!(sorted.get(key), model.get(key));
            }
        }
    }
}
