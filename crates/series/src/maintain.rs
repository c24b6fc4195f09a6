//! What touches files: full blocks are written, thinned out to the next level, dropped when they are too old or too much; open ones are checkpointed.
//!
//! A level is made of the blocks of the one before alone, a batch of a quarter of its time at once, so that nothing is held in memory for it, and
//! what a crash cut short is done again. No block goes before it was thinned out.

use std::{io, mem};

use crate::{
    DiskError, Group, Store, Time, buckets, checkpoint,
    config::Level,
    gather::Gather,
    line::Line,
    log::{Entry, Log, Victim},
    query::Block,
    record::Record,
    types::{Span, ceil, floor},
};

/// So often it is looked for blocks that are too old, in milliseconds.
const EXPIRY_MS: i64 = 30_000;

impl Store {
    /// Does what is due: writes what became full, drops what is too old or too much, writes the checkpoint, syncs. To be called about once a second, with
    /// the time of day. It may wait for the disk.
    ///
    /// After an error the store goes on; what was not written is written by the next call, or dropped once too much waits.
    pub fn maintain(&mut self, now: Time) -> Result<(), DiskError> {
        self.keep(now.unix_ms()).map_err(DiskError::of("writing", &self.dir))
    }

    /// Writes all that is in memory, and syncs: nothing of it is lost after that.
    pub fn flush(&mut self) -> Result<(), DiskError> {
        self.write_all().map_err(DiskError::of("writing", &self.dir))
    }

    fn keep(&mut self, now: i64) -> io::Result<()> {
        let mut done = self.write_pending();
        if is_due(self.done.expiry, now, EXPIRY_MS) {
            done = done.and(self.expire(now));
            self.done.expiry = Some(now);
        }
        done = done.and(self.remove_empty());
        // What failed is not tried again at once. Full blocks are synced before the checkpoint, which begins where they end.
        if is_due(self.done.sync, now, self.config.sync_ms) {
            self.done.sync = Some(now);
            done = done.and(self.sync());
        }
        if is_due(self.done.checkpoint, now, self.config.checkpoint_ms) {
            self.done.checkpoint = Some(now);
            done = done.and(self.checkpoint());
        }
        done
    }

    fn write_all(&mut self) -> io::Result<()> {
        self.write_pending()?;
        self.sync()?;
        self.checkpoint()
    }

    fn write_pending(&mut self) -> io::Result<()> {
        while let Some(full) = self.pending.front().cloned() {
            self.put(0, full.group, &full.time, &full.block)?;
            self.pending.pop_front();
            self.pending_bytes -= full.block.len();
            self.thin(full.group, 0, false)?;
        }
        Ok(())
    }

    /// Writes a block to a level, and makes the group keep to its bounds there.
    fn put(&mut self, level: usize, group: Group, time: &Span, block: &[u8]) -> io::Result<()> {
        self.make_room(level)?;
        let Some(log) = self.logs.get_mut(level) else { return Ok(()) };
        let entry = log.append(&Record { group, time: time.clone(), block })?;
        if let Some(stats) = self.counts.levels.get_mut(level) {
            stats.written_blocks += 1;
            stats.written_bytes += entry.bytes();
        }
        if let Some(line) = self.lines.get_mut(&group) {
            line.push(level, entry);
        }
        self.trim(group, level)
    }

    /// Drops the oldest of a group that has too much in a level.
    fn trim(&mut self, group: Group, level: usize) -> io::Result<()> {
        let most = self.config.levels.get(level).map_or(u64::MAX, |level| level.group_bytes_max);
        loop {
            let kept = self.lines.get(&group).and_then(|line| line.kept.get(level));
            let Some(kept) = kept.filter(|kept| kept.bytes > most && kept.entries.len() > 1) else {
                return Ok(());
            };
            if kept.entries.front().is_some_and(|first| first.end() > kept.thinned) {
                self.thin(group, level, true)?;
            }
            self.drop_first(group, level);
            if let Some(stats) = self.counts.levels.get_mut(level) {
                stats.dropped_group += 1;
            }
        }
    }

    fn drop_first(&mut self, group: Group, level: usize) {
        let first = self.lines.get_mut(&group).and_then(|line| line.pop(level));
        if let (Some(first), Some(log)) = (first, self.logs.get_mut(level)) {
            log.release(&first);
        }
    }

    /// Makes the next level's blocks of what a group has in this one and was not thinned out yet, once it is enough for a batch, or all of it.
    fn thin(&mut self, group: Group, level: usize, all: bool) -> io::Result<()> {
        let next = level + 1;
        if next >= self.levels() {
            return Ok(());
        }
        let width = self.width_ms(next);
        let batch = self.config.levels.get(level).map_or(width, Level::batch_ms);
        let Some((thinned, blocks)) = self.not_thinned(group, level) else { return Ok(()) };
        let (Some(first), Some(last)) = (blocks.first(), blocks.last()) else { return Ok(()) };
        let from = floor(first.time().start, width).max(thinned);
        let end = last.time().end;
        // The last bucket is not whole, unless nothing more comes into it.
        let goes_on = !all || self.goes_on(group, level, end, ceil(end, width));
        let to = if goes_on { floor(end, width) } else { ceil(end, width) };
        if to <= from || (!all && to - from < batch) {
            return Ok(());
        }
        for (time, blocks) in batches(from..to, &blocks, width, floor(batch, width)) {
            self.thin_batch(group, level, &time, &blocks)?;
        }
        self.thin(group, next, false)
    }

    /// The group's blocks of a level that were not thinned out yet, or not all of it, and until when it was.
    fn not_thinned(&self, group: Group, level: usize) -> Option<(i64, Vec<Block>)> {
        let kept = self.lines.get(&group)?.kept.get(level)?;
        let log = self.logs.get(level)?;
        let first = kept.entries.partition_point(|entry| entry.end() <= kept.thinned);
        let block = |entry: &Entry| Some(Block::File(log.file(entry)?, *entry));
        Some((kept.thinned, kept.entries.range(first..).filter_map(block).collect()))
    }

    /// Whether there is anything of the group between these times that is to come into this level.
    fn goes_on(&self, group: Group, level: usize, from: i64, to: i64) -> bool {
        let Some(line) = self.lines.get(&group) else { return false };
        let is_between = |time: Span| time.end > from && time.start < to;
        let mut finer = line.kept.iter().take(level);
        line.head.as_ref().is_some_and(|head| head.start() < to)
            || finer.any(|kept| {
                let later = kept.entries.iter().rev().take_while(|entry| entry.end() > from);
                later.into_iter().any(|entry| is_between(entry.time()))
            })
            || self.pending.iter().any(|full| full.group == group && is_between(full.time.clone()))
    }

    fn thin_batch(&mut self, group: Group, level: usize, time: &Span, blocks: &[Block]) -> io::Result<()> {
        let (width, finer) = (self.width_ms(level + 1), self.width_ms(level));
        let mut gather = Gather::new(&[], time.clone(), width);
        for block in blocks {
            let has = block.time();
            let read = block.with(|bytes| match level {
                0 => gather.samples(&has, bytes, time),
                _ => gather.buckets(&has, finer, bytes, time),
            })?;
            if let (None, Some(stats)) = (read, self.counts.levels.get_mut(level)) {
                stats.damaged += 1;
            }
        }
        let fields: Vec<_> = gather
            .finish()
            .into_iter()
            .map(|(id, held)| {
                let row = |(start, held)| (((start - time.start) / width) as u32, held);
                (id, held.into_iter().map(row).collect())
            })
            .collect();
        if !fields.is_empty() {
            let rows = ((time.end - time.start) / width) as usize;
            self.put(level + 1, group, time, &buckets::encode(rows, width, &fields))?;
        }
        if let Some(kept) = self.lines.get_mut(&group).and_then(|line| line.kept.get_mut(level)) {
            kept.thinned = time.end;
        }
        Ok(())
    }

    /// Makes room for one more segment of a level.
    fn make_room(&mut self, level: usize) -> io::Result<()> {
        while let Some(Victim { segment, spare }) = self.logs.get(level).and_then(Log::victim) {
            if spare {
                self.write_again(level, segment)?;
            } else {
                self.drop_segment(level, segment)?;
            }
            if let Some(log) = self.logs.get_mut(level) {
                log.remove(segment)?;
            }
        }
        Ok(())
    }

    fn write_again(&mut self, level: usize, segment: u32) -> io::Result<()> {
        let Some(log) = self.logs.get_mut(level) else { return Ok(()) };
        let kept = self.lines.values_mut().filter_map(|line| line.kept.get_mut(level));
        for entry in kept.flat_map(|kept| &mut kept.entries).filter(|entry| entry.segment() == segment) {
            let again = log.copy(entry)?;
            log.release(&mem::replace(entry, again));
        }
        Ok(())
    }

    fn drop_segment(&mut self, level: usize, segment: u32) -> io::Result<()> {
        let is_in = |entry: &Entry| entry.segment() == segment;
        let has = |line: &Line| line.kept.get(level).is_some_and(|kept| kept.entries.iter().any(is_in));
        let groups: Vec<_> =
            self.lines.iter().filter(|(_, line)| has(line)).map(|(group, _)| *group).collect();
        for group in groups {
            self.thin(group, level, true)?;
            let Some(kept) = self.lines.get_mut(&group).and_then(|line| line.kept.get_mut(level)) else {
                continue;
            };
            let before = kept.entries.len();
            kept.entries.retain(|entry| !is_in(entry));
            kept.bytes = kept.entries.iter().map(Entry::bytes).sum();
            kept.dropped = true;
            if let Some(stats) = self.counts.levels.get_mut(level) {
                stats.dropped_level += (before - kept.entries.len()) as u64;
            }
        }
        Ok(())
    }

    /// Drops what is too old, and groups of which nothing is left.
    fn expire(&mut self, now: i64) -> io::Result<()> {
        let groups: Vec<_> = self.lines.keys().copied().collect();
        for group in groups {
            for level in 0..self.levels() {
                self.expire_level(group, level, now)?;
            }
            let Some(line) = self.lines.get_mut(&group) else { continue };
            if line.head.is_none() {
                if line.kept.iter().all(|kept| kept.entries.is_empty()) {
                    self.lines.remove(&group);
                }
                continue;
            }
            // Nobody tells of it any more: what it has goes the way of the rest.
            let end = line.head.as_ref().map_or(line.newest, |head| head.end(self.config.hold_ms));
            if self.config.levels.first().is_some_and(|level| level.is_old(end.max(line.newest), now)) {
                line.newest = line.newest.max(end);
                if let Some(full) = line.seal(group, end) {
                    self.push_full(full);
                }
            }
        }
        self.write_pending()
    }

    fn expire_level(&mut self, group: Group, level: usize, now: i64) -> io::Result<()> {
        let Some(bounds) = self.config.levels.get(level).copied() else { return Ok(()) };
        loop {
            let kept = self.lines.get(&group).and_then(|line| line.kept.get(level));
            let Some((first, thinned)) =
                kept.and_then(|kept| Some((kept.entries.front()?.end(), kept.thinned)))
            else {
                return Ok(());
            };
            if !bounds.is_old(first, now) {
                return Ok(());
            }
            if level + 1 < self.levels() && first > thinned {
                self.thin(group, level, true)?;
                let kept = self.lines.get(&group).and_then(|line| line.kept.get(level));
                if kept.is_some_and(|kept| kept.thinned < first) {
                    // Its last bucket goes on in the block after it.
                    return Ok(());
                }
            }
            self.drop_first(group, level);
            if let Some(stats) = self.counts.levels.get_mut(level) {
                stats.dropped_old += 1;
            }
        }
    }

    fn remove_empty(&mut self) -> io::Result<()> {
        for (log, level) in self.logs.iter_mut().zip(&self.config.levels) {
            log.remove_empty()?;
            self.forgotten.drop_gone(level.width_ms, log.oldest());
        }
        Ok(())
    }

    fn checkpoint(&self) -> io::Result<()> {
        let heads =
            self.lines.iter().filter_map(|(group, line)| Some((*group, line.head.as_ref()?, line.newest)));
        checkpoint::write(&self.dir, heads, &self.forgotten)
    }

    fn sync(&mut self) -> io::Result<()> {
        self.logs.iter_mut().try_for_each(Log::sync)
    }
}

fn is_due(last: Option<i64>, now: i64, every: i64) -> bool {
    // Also where the clock went back.
    last.is_none_or(|last| now - last >= every || now < last)
}

/// Cuts a time into batches of `batch` milliseconds at most, each with the blocks that it takes. Where there are no blocks for a bucket or more
/// there is no batch either, so that a level has nothing where the one before had nothing.
fn batches(time: Span, blocks: &[Block], width: i64, batch: i64) -> Vec<(Span, Vec<Block>)> {
    let mut runs: Vec<Span> = Vec::new();
    for block in blocks {
        let has = block.time();
        match runs.last_mut() {
            Some(run) if floor(has.start, width) <= run.end => run.end = run.end.max(ceil(has.end, width)),
            _ => runs.push(floor(has.start, width)..ceil(has.end, width)),
        }
    }
    let mut batches = Vec::new();
    for run in runs {
        let (mut from, end) = (run.start.max(time.start), run.end.min(time.end));
        while from < end {
            let to = end.min(from + batch);
            let touches = |block: &&Block| block.time().start < to && block.time().end > from;
            batches.push((from..to, blocks.iter().filter(touches).cloned().collect()));
            from = to;
        }
    }
    batches
}
