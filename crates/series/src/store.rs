//! The store: groups, their open blocks, and the index of those that are full.
//!
//! What comes is taken in memory alone; files are touched by [`Store::maintain`] (`maintain.rs`) and by who asks.

use std::{
    collections::{HashMap, VecDeque},
    fs::{self, File, TryLockError},
    io,
    path::{Path, PathBuf},
    sync::Arc,
};

use crate::{
    Config, Field, Group, LevelStats, Refused, Stats, Time,
    checkpoint::{self, Forgotten, Saved},
    column::in_range,
    config::Level,
    line::{Full, Kept, Line, Row},
    log::{Entry, Log, remove_others},
    query::Block,
    raw::Head,
    record::HEAD_BYTES,
    types::Span,
};

/// Series of many groups, in a directory of its own.
#[derive(Debug)]
pub struct Store {
    pub(crate) config: Config,
    pub(crate) dir: PathBuf,
    pub(crate) lines: HashMap<Group, Line>,
    pub(crate) logs: Vec<Log>,
    /// Full blocks that are in no file yet, in order.
    pub(crate) pending: VecDeque<Full>,
    pub(crate) pending_bytes: usize,
    /// Groups that were forgotten, while there are files that still have them.
    pub(crate) forgotten: Forgotten,
    pub(crate) counts: Counts,
    pub(crate) done: Done,
    row: Row,
    /// Held as long as the store is.
    _lock: File,
}

#[derive(Clone, Debug, Default)]
pub(crate) struct Counts {
    pub(crate) samples: u64,
    pub(crate) values: u64,
    pub(crate) sealed_values: u64,
    pub(crate) sealed_bytes: u64,
    pub(crate) refused: Refused,
    pub(crate) unwritten: u64,
    pub(crate) levels: Vec<LevelStats>,
}

/// When what is done from time to time was done last.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Done {
    pub(crate) checkpoint: Option<i64>,
    pub(crate) sync: Option<i64>,
    pub(crate) expiry: Option<i64>,
}

/// Why a sample or a gap mark was refused. Nothing of it was taken, and it was counted.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Refusal {
    /// Older than the newest one.
    #[error(
        "{time} is before {newest}, up to which the group is known: samples of a group come in the order of their times"
    )]
    Late {
        /// Its time.
        time: Time,
        /// That of the newest one.
        newest: Time,
    },
    /// A value is out of range.
    #[error("field {} has the value {value}: take -2^58 + 1 to 2^58 - 1, and leave out what is not known", field.0)]
    Value {
        /// Which field.
        field: Field,
        /// Its value.
        value: i64,
    },
    /// The group has too many fields.
    #[error("the group would have {fields} fields: take {most} at most, or a larger bound")]
    Fields {
        /// How many it would have.
        fields: usize,
        /// How many it may have.
        most: usize,
    },
    /// There are too many groups.
    #[error("there are {most} groups: forget some, or take a larger bound")]
    Groups {
        /// How many there may be.
        most: usize,
    },
}

/// Why a store was not opened. What is damaged in its files is none: it is left out, and counted.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// Another one has it open.
    #[error("{dir} is open already, in this process or another one", dir = .0.display())]
    InUse(PathBuf),
    /// The directory or a file in it could not be read or written.
    #[error(transparent)]
    Disk(#[from] DiskError),
}

/// A file could not be read or written.
#[derive(Debug, thiserror::Error)]
#[error("{act} the series in {dir}", dir = dir.display())]
pub struct DiskError {
    act: &'static str,
    dir: PathBuf,
    source: io::Error,
}

impl DiskError {
    /// Of whoever was `act`.
    pub(crate) fn of(act: &'static str, dir: &Path) -> impl Fn(io::Error) -> Self {
        move |source| Self { act, dir: dir.to_owned(), source }
    }
}

impl Store {
    /// Opens the store in `dir`, which is made if there is none, and reads all of its files once: a second for about a GiB. Levels of a width that is not
    /// configured any more are removed.
    ///
    /// Every group has a gap from the newest time that is in the files on: what came after that is not known.
    pub fn open(dir: impl AsRef<Path>, config: Config) -> Result<Self, OpenError> {
        let dir = dir.as_ref();
        let io = DiskError::of("opening", dir);
        fs::create_dir_all(dir).map_err(&io)?;
        let lock = File::create(dir.join("lock")).map_err(&io)?;
        match lock.try_lock() {
            Ok(()) => {}
            Err(TryLockError::WouldBlock) => return Err(OpenError::InUse(dir.to_owned())),
            Err(TryLockError::Error(error)) => return Err(io(error).into()),
        }
        let mut store = Self {
            dir: dir.to_owned(),
            lines: HashMap::new(),
            logs: Vec::new(),
            pending: VecDeque::new(),
            pending_bytes: 0,
            forgotten: Forgotten::default(),
            counts: Counts::default(),
            done: Done::default(),
            row: Row::default(),
            config,
            _lock: lock,
        };
        store.load().map_err(io)?;
        Ok(store)
    }

    fn load(&mut self) -> io::Result<()> {
        let Saved { heads, forgotten, damaged } = checkpoint::read(&self.dir)?;
        self.forgotten = forgotten;
        remove_others(&self.dir, &self.config.levels)?;
        for (index, level) in self.config.levels.clone().iter().enumerate() {
            let (mut log, opened) = Log::open(&self.dir, level)?;
            let mut stats =
                LevelStats { width_ms: level.width_ms, damaged: opened.damaged, ..LevelStats::default() };
            if index == 0 {
                stats.damaged += damaged;
            }
            self.counts.levels.push(stats);
            if let Some(last) = self.forgotten.last_segment(level.width_ms) {
                log.begin_after(last);
            }
            self.index(index, opened.entries, &mut log);
            self.logs.push(log);
        }
        for (group, head, newest) in heads {
            let line = self.lines.entry(group).or_insert_with(|| Line::new(self.config.levels.len()));
            // What became full after the checkpoint was written as such.
            if line.kept[0].entries.back().is_none_or(|last| last.end() <= head.start()) {
                line.newest = line.newest.max(newest).max(head.time());
                line.head = Some(head);
            }
        }
        for line in self.lines.values_mut() {
            if let Some(head) = line.head.as_mut().filter(|head| head.knows()) {
                head.gap(line.newest);
            }
        }
        Ok(())
    }

    /// Takes up what was found of a level, without what was forgotten and what is there twice (as it was being written again).
    fn index(&mut self, level: usize, mut entries: Vec<(Group, Entry)>, log: &mut Log) {
        let levels = self.config.levels.len();
        let width = self.config.levels[level].width_ms;
        entries.sort_by_key(|(group, entry)| (*group, entry.time().start, entry.position()));
        for (group, entry) in entries {
            if self.forgotten.covers(group, width, entry.position()) {
                log.release(&entry);
                continue;
            }
            let line = self.lines.entry(group).or_insert_with(|| Line::new(levels));
            if line.kept[level].entries.back().is_some_and(|last| last.end() > entry.time().start) {
                log.release(&entry);
                continue;
            }
            // In a bucket at the end it may be anywhere.
            line.newest = line.newest.max(entry.end() - if level == 0 { 0 } else { width });
            line.push(level, entry);
            if let Some(finer) = level.checked_sub(1) {
                line.kept[finer].thinned = line.kept[finer].thinned.max(entry.end());
            }
        }
    }

    /// Takes a sample: from `time` on these fields of the group have these values, or none that is known. Others keep theirs, except after a gap: then
    /// each is known only when it has a value again. A sample of no field says that all are as they were.
    ///
    /// Samples of a group come in the order of their times; of two with the same time the later one holds. What comes late (from before a lost
    /// link) is taken as long as nothing newer of the same group was; so take no time from a clock that may be ahead by hours without a look at your own.
    /// Touches no file.
    pub fn append(
        &mut self,
        group: Group,
        time: Time,
        values: &[(Field, Option<i64>)],
    ) -> Result<(), Refusal> {
        let taken = self.sample(group, time.unix_ms(), values);
        match &taken {
            Ok(()) => {
                self.counts.samples += 1;
                self.counts.values += values.iter().filter(|(_, value)| value.is_some()).count() as u64;
            }
            Err(refusal) => self.counts.refused.count(refusal),
        }
        taken
    }

    fn sample(&mut self, group: Group, time: i64, values: &[(Field, Option<i64>)]) -> Result<(), Refusal> {
        for (field, value) in values {
            if let Some(value) = value.filter(|value| !in_range(*value)) {
                return Err(Refusal::Value { field: *field, value });
            }
        }
        let line = line(&mut self.lines, group, &self.config)?;
        line.check(time)?;
        // After a silence nothing holds, and a block begins that has no columns.
        let columns = if line.is_silent(time, self.config.hold_ms) { &[] } else { line.columns() };
        self.row.place(columns, values);
        let most = self.config.fields_max;
        let is_crowded = columns.len() + self.row.new.len() > most;
        if is_crowded {
            // Those of which something is known after this go to a new block, and the others end with this one.
            let fields = self.row.known_after(columns) + self.row.new.len();
            if fields > most {
                return Err(Refusal::Fields { fields, most });
            }
            let is_silent = line.is_silent(time, self.config.hold_ms);
            if let Some(head) = line.head.as_mut().filter(|_| !is_silent) {
                self.row.changes.retain(|(_, value)| value.is_none());
                head.sample(time, &self.row.changes, &[]);
            }
        }
        if line.needs_block(time, &self.config, is_crowded) {
            if let Some(full) = line.next_block(group, time, self.config.hold_ms) {
                self.pending_bytes += full.block.len();
                self.counts.seal(&full);
                self.pending.push_back(full);
            }
            self.row.place(line.columns(), values);
        }
        let head = line.head.get_or_insert_with(|| Head::begin(time, None));
        head.sample(time, &self.row.changes, &self.row.new);
        line.newest = time;
        self.bound_pending();
        Ok(())
    }

    /// Marks a gap: from `from` on nothing is known of the group, until it has values again. As a sample it may not be older than the newest one.
    /// Touches no file.
    pub fn gap(&mut self, group: Group, from: Time) -> Result<(), Refusal> {
        let marked = self.mark(group, from.unix_ms());
        if let Err(refusal) = &marked {
            self.counts.refused.count(refusal);
        }
        marked
    }

    fn mark(&mut self, group: Group, from: i64) -> Result<(), Refusal> {
        let Some(line) = self.lines.get_mut(&group) else { return Ok(()) };
        line.check(from)?;
        if let Some(head) = line.head.as_mut().filter(|head| head.knows()) {
            // After that nothing is known anyhow.
            head.gap(from.min(head.time() + self.config.hold_ms));
        }
        line.newest = from;
        Ok(())
    }

    /// Forgets a group. It may begin anew after that, also with times that were before. Its space is free when its files are; that it is forgotten
    /// outlasts a restart from the next checkpoint on.
    pub fn forget(&mut self, group: Group) {
        let Some(line) = self.lines.remove(&group) else { return };
        let before = self.pending.len();
        self.pending.retain(|full| full.group != group);
        if self.pending.len() < before {
            self.pending_bytes = self.pending.iter().map(|full| full.block.len()).sum();
        }
        for ((kept, log), level) in line.kept.iter().zip(&mut self.logs).zip(&self.config.levels) {
            for entry in &kept.entries {
                log.release(entry);
            }
            self.forgotten.add(group, level.width_ms, log.position());
        }
        // So that a checkpoint is due.
        self.done.checkpoint = None;
    }

    /// All groups of which anything is known, in no order.
    pub fn groups(&self) -> impl Iterator<Item = Group> {
        self.lines.keys().copied()
    }

    /// Until when a group is known: what is older is refused. `None`: it is not known at all.
    pub fn newest(&self, group: Group) -> Option<Time> {
        let newest = self.lines.get(&group)?.newest;
        (newest > i64::MIN).then(|| Time::clamped(newest))
    }

    /// What was counted, and how much there is. Looks at each group.
    pub fn stats(&self) -> Stats {
        let Counts { samples, values, sealed_values, sealed_bytes, refused, unwritten, levels } =
            self.counts.clone();
        let mut stats = Stats {
            groups: self.lines.len(),
            pending_bytes: self.pending_bytes,
            samples,
            values,
            sealed_values,
            sealed_bytes,
            refused,
            unwritten,
            levels,
            ..Stats::default()
        };
        for (level, log) in stats.levels.iter_mut().zip(&self.logs) {
            (level.live_bytes, level.file_bytes, level.files) = (log.live(), log.bytes(), log.files());
        }
        for line in self.lines.values() {
            if let Some(head) = &line.head {
                stats.series += head.columns().len();
                stats.head_bytes += head.capacity();
            }
            stats.index_bytes += size_of::<(Group, Line)>() + line.kept.len() * size_of::<Kept>();
            for (kept, level) in line.kept.iter().zip(&mut stats.levels) {
                stats.index_bytes += kept.entries.capacity() * size_of::<Entry>();
                level.blocks += kept.entries.len() as u64;
            }
        }
        stats
    }

    pub(crate) fn levels(&self) -> usize {
        self.config.levels.len()
    }

    /// 1 of samples.
    pub(crate) fn width_ms(&self, level: usize) -> i64 {
        self.config.levels.get(level).map_or(1, |level| level.width_ms)
    }

    /// The group's blocks of a level that touch `span`, in order. What the open one has last lasts until `until` at most.
    pub(crate) fn blocks(&self, group: Group, level: usize, span: &Span, until: i64) -> Vec<Block> {
        let mut blocks = Vec::new();
        let Some(line) = self.lines.get(&group) else { return blocks };
        let touches = |time: &Span| time.start < span.end && time.end > span.start;
        if let (Some(kept), Some(log)) = (line.kept.get(level), self.logs.get(level)) {
            let first = kept.entries.partition_point(|entry| entry.end() <= span.start);
            let entries = kept.entries.range(first..).take_while(|entry| entry.time().start < span.end);
            blocks.extend(entries.filter_map(|entry| Some(Block::File(log.file(entry)?, *entry))));
        }
        if level == 0 {
            let pending = self.pending.iter().filter(|full| full.group == group && touches(&full.time));
            blocks.extend(pending.map(|full| Block::Memory(full.time.clone(), Arc::clone(&full.block))));
            if let Some(head) = &line.head {
                let time = head.start()..head.end(self.config.hold_ms).min(until.max(head.time()));
                if touches(&time) && !time.is_empty() {
                    blocks.push(Block::Memory(time, head.payload().into()));
                }
            }
        }
        blocks
    }

    /// When the group's oldest block of a level begins.
    pub(crate) fn oldest(&self, group: Group, level: usize) -> Option<i64> {
        let line = self.lines.get(&group)?;
        let oldest = line.kept.get(level)?.entries.front().map(|entry| entry.time().start);
        if level > 0 {
            return oldest;
        }
        let pending = || self.pending.iter().find(|full| full.group == group).map(|full| full.time.start);
        oldest.or_else(pending).or_else(|| line.head.as_ref().map(Head::start))
    }

    /// Whether the group had blocks in a level that went, as far as is known.
    pub(crate) fn dropped(&self, group: Group, level: usize) -> bool {
        self.lines.get(&group).and_then(|line| line.kept.get(level)).is_some_and(|kept| kept.dropped)
    }

    pub(crate) fn push_full(&mut self, full: Full) {
        self.pending_bytes += full.block.len();
        self.counts.seal(&full);
        self.pending.push_back(full);
    }

    /// Drops the oldest blocks that are in no file, if nobody writes them.
    fn bound_pending(&mut self) {
        while self.pending_bytes > self.config.pending_bytes_max {
            let Some(full) = self.pending.pop_front() else { break };
            self.pending_bytes -= full.block.len();
            self.counts.unwritten += 1;
        }
    }
}

/// The group's line, a new one if there may be one more.
fn line<'a>(
    lines: &'a mut HashMap<Group, Line>,
    group: Group,
    config: &Config,
) -> Result<&'a mut Line, Refusal> {
    let most = config.groups_max;
    if lines.len() >= most && !lines.contains_key(&group) {
        return Err(Refusal::Groups { most });
    }
    Ok(lines.entry(group).or_insert_with(|| Line::new(config.levels.len())))
}

impl Counts {
    fn seal(&mut self, full: &Full) {
        self.sealed_bytes += (full.block.len() + HEAD_BYTES) as u64;
        self.sealed_values += full.values;
    }
}

impl Level {
    /// Whether a block that ends then is too old.
    pub(crate) fn is_old(&self, end: i64, now: i64) -> bool {
        end < now - self.keep_ms
    }
}

impl Refused {
    fn count(&mut self, refusal: &Refusal) {
        let count = match refusal {
            Refusal::Late { .. } => &mut self.late,
            Refusal::Value { .. } => &mut self.values,
            Refusal::Fields { .. } => &mut self.fields,
            Refusal::Groups { .. } => &mut self.groups,
        };
        *count += 1;
    }
}
