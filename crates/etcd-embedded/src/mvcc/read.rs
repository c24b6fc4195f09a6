//! Answers one read of keys from the index, as etcd does: range, filter, sort, cut.

use std::sync::Arc;

use super::entry::Entry;
use super::fault::Fault;
use super::index::Index;
use super::types::{Range, RangeAnswer, SortOrder, SortTarget};

/// Reads at `now`, the newest main revision that this reader may see; `compacted` is the oldest one kept.
pub(super) fn read(index: &Index, range: &Range, now: i64, compacted: i64) -> Result<RangeAnswer, Fault> {
    if range.revision > now {
        return Err(Fault::FutureRevision);
    }
    let at = if range.revision <= 0 { now } else { range.revision };
    if at < compacted {
        return Err(Fault::Compacted);
    }
    let found = index.range(&range.keys, at);
    if range.count_only {
        return Ok(RangeAnswer {
            revision: now,
            entries: Vec::new(),
            more: false,
            count: count(found.count()),
        });
    }

    let limit = usize::try_from(range.limit).ok().filter(|limit| *limit > 0);
    // etcd sorts and filters all of the range, but with a target and no order only what the limit left.
    let whole = range.order != SortOrder::None || filters(range);
    let mut total = 0_usize;
    let mut entries = Vec::new();
    for entry in found {
        total += 1;
        if (whole || limit.is_none_or(|limit| entries.len() <= limit)) && passes(range, entry) {
            entries.push(Arc::clone(entry));
        }
    }
    sort(&mut entries, range);
    let more = limit.is_some_and(|limit| entries.len() > limit);
    if let Some(limit) = limit {
        entries.truncate(limit);
    }
    Ok(RangeAnswer { revision: now, entries, more, count: count(total) })
}

fn count(keys: usize) -> i64 {
    i64::try_from(keys).unwrap_or(i64::MAX)
}

fn filters(range: &Range) -> bool {
    [range.min_mod_revision, range.max_mod_revision, range.min_create_revision, range.max_create_revision]
        .iter()
        .any(|bound| *bound != 0)
}

fn passes(range: &Range, entry: &Entry) -> bool {
    let within =
        |revision: i64, min: i64, max: i64| (min == 0 || revision >= min) && (max == 0 || revision <= max);
    within(entry.revision.main, range.min_mod_revision, range.max_mod_revision)
        && within(entry.create_revision, range.min_create_revision, range.max_create_revision)
}

fn sort(entries: &mut [Arc<Entry>], range: &Range) {
    let descend = match (range.order, range.target) {
        (SortOrder::None, SortTarget::Key) => return,
        (SortOrder::None | SortOrder::Ascend, _) => false,
        (SortOrder::Descend, _) => true,
    };
    // Stable both ways: among equals the order by key stays.
    entries.sort_by(|a, b| {
        let (a, b) = if descend { (b, a) } else { (a, b) };
        match range.target {
            SortTarget::Key => a.key.cmp(&b.key),
            SortTarget::Version => a.version.cmp(&b.version),
            SortTarget::Create => a.create_revision.cmp(&b.create_revision),
            SortTarget::Mod => a.revision.main.cmp(&b.revision.main),
            SortTarget::Value => a.value.cmp(&b.value),
        }
    });
}
