//! One group of a store: its open block, which blocks it has, and how a sample becomes a row of a block.

use std::{collections::VecDeque, sync::Arc};

use crate::{
    Config, Field, Group, Refusal, Time, column::Column, config::Level, log::Entry, raw::Head, types::Span,
};

/// One group.
#[derive(Debug)]
pub(crate) struct Line {
    pub(crate) head: Option<Head>,
    /// What is older is refused.
    pub(crate) newest: i64,
    /// By level. In order of time, and none overlaps another.
    pub(crate) kept: Box<[Kept]>,
}

/// Blocks of a group in one level.
#[derive(Clone, Debug, Default)]
pub(crate) struct Kept {
    pub(crate) entries: VecDeque<Entry>,
    pub(crate) bytes: u64,
    /// Until when it was thinned out to the next level.
    pub(crate) thinned: i64,
    /// Blocks went since the store was opened.
    pub(crate) dropped: bool,
}

/// A full block of samples.
#[derive(Clone, Debug)]
pub(crate) struct Full {
    pub(crate) group: Group,
    pub(crate) time: Span,
    pub(crate) block: Arc<[u8]>,
    pub(crate) values: u64,
}

/// A sample as it is written: room that is used again and again.
#[derive(Debug, Default)]
pub(crate) struct Row {
    /// By column, rising.
    pub(crate) changes: Vec<(u32, Option<i64>)>,
    /// Fields that have no column yet.
    pub(crate) new: Vec<(u32, i64)>,
}

impl Row {
    /// Sorts the values of a sample by the columns that there are. Of two of the same field the later one holds.
    pub(crate) fn place(&mut self, columns: &[Column], values: &[(Field, Option<i64>)]) {
        self.changes.clear();
        self.new.clear();
        let (mut next, mut in_order) = (0, true);
        for (field, value) in values {
            let is = |column: &Column| column.id == field.0;
            // Mostly both are in the same order.
            let ahead = columns[next..].iter().position(is).map(|found| next + found);
            if let Some(found) = ahead.or_else(|| columns[..next].iter().position(is)) {
                in_order &= found >= next;
                next = found + 1;
                self.changes.push((found as u32, *value));
            } else {
                self.new.retain(|(id, _)| *id != field.0);
                self.new.extend(value.map(|value| (field.0, value)));
            }
        }
        if !in_order {
            self.changes.reverse();
            self.changes.sort_by_key(|(column, _)| *column);
            self.changes.dedup_by_key(|(column, _)| *column);
        }
    }

    /// How many of the columns are known after it.
    pub(crate) fn known_after(&self, columns: &[Column]) -> usize {
        let known = columns.iter().filter(|column| column.known).count();
        let is_known = |column: u32| columns.get(column as usize).is_some_and(|column| column.known);
        let came =
            self.changes.iter().filter(|(column, value)| value.is_some() && !is_known(*column)).count();
        let went = self.changes.iter().filter(|(column, value)| value.is_none() && is_known(*column)).count();
        known + came - went
    }
}

impl Line {
    pub(crate) fn new(levels: usize) -> Self {
        Self { head: None, newest: i64::MIN, kept: vec![Kept::default(); levels].into() }
    }

    pub(crate) fn check(&self, time: i64) -> Result<(), Refusal> {
        if time >= self.newest {
            return Ok(());
        }
        Err(Refusal::Late { time: Time::clamped(time), newest: Time::clamped(self.newest) })
    }

    pub(crate) fn columns(&self) -> &[Column] {
        self.head.as_ref().map_or(&[], Head::columns)
    }

    /// Whether nothing was heard of the group for so long that nothing holds at `time`.
    pub(crate) fn is_silent(&self, time: i64, hold_ms: i64) -> bool {
        self.head.as_ref().is_some_and(|head| time - head.time() > hold_ms)
    }

    /// Whether a sample at `time` begins a block.
    pub(crate) fn needs_block(&self, time: i64, config: &Config, is_crowded: bool) -> bool {
        let long = config.levels.first().map_or(i64::MAX, Level::batch_ms);
        let is_full = |head: &Head| head.is_full(config.block_bytes) || time - head.start() >= long;
        self.head.as_ref().is_some_and(|head| is_crowded || is_full(head))
            || self.is_silent(time, config.hold_ms)
    }

    /// Ends the open block and begins another one. Values go on in it, if they still hold.
    pub(crate) fn next_block(&mut self, group: Group, time: i64, hold_ms: i64) -> Option<Full> {
        let is_silent = self.is_silent(time, hold_ms);
        let head = self.head.as_ref()?;
        let next = Head::begin(time, (!is_silent).then_some(head));
        let full = self.seal(group, time.min(head.end(hold_ms)));
        self.head = Some(next);
        full
    }

    /// Ends the open block. None: it lasted for no time.
    pub(crate) fn seal(&mut self, group: Group, end: i64) -> Option<Full> {
        let head = self.head.take()?;
        (end > head.start()).then(|| Full {
            group,
            time: head.start()..end,
            block: head.payload().into(),
            values: head.values(),
        })
    }

    pub(crate) fn push(&mut self, level: usize, entry: Entry) {
        if let Some(kept) = self.kept.get_mut(level) {
            kept.bytes += entry.bytes();
            kept.entries.push_back(entry);
        }
    }

    /// Takes the oldest block out.
    pub(crate) fn pop(&mut self, level: usize) -> Option<Entry> {
        let kept = self.kept.get_mut(level)?;
        let entry = kept.entries.pop_front()?;
        kept.bytes -= entry.bytes();
        kept.dropped = true;
        Some(entry)
    }
}
