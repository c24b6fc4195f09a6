//! Questions: what is asked for is taken out of the store at once, and read after that without it.

use std::{collections::BTreeMap, fs::File, io, ops::Range, path::PathBuf, sync::Arc, time::Duration};

use crate::{
    Bucket, DiskError, Field, Group, Store, Time, buckets,
    gather::Gather,
    log::{Entry, read},
    plan::{Have, plan},
    raw::{self, Visit},
    record::Record,
    types::{Span, ceil, floor, whole_ms},
};

/// Most buckets a field that may be asked for at once.
pub const BUCKETS_MAX: u64 = 50_000;

/// Why there is no answer.
#[derive(Debug, thiserror::Error)]
pub enum QueryError {
    /// The step is too short for the range, or is none.
    #[error(
        "a step of {step_ms} ms makes {buckets} buckets: take a step of at least {at_least_ms} ms, or a shorter range"
    )]
    Step {
        /// What was asked for, in milliseconds.
        step_ms: i64,
        /// How many buckets of it there would be.
        buckets: u64,
        /// The shortest step that does.
        at_least_ms: i64,
    },
    /// A file could not be read. (What is damaged in it is no error.)
    #[error(transparent)]
    Disk(#[from] DiskError),
}

/// A question that can be answered without the store, on another thread too: it has the blocks that are in memory, and the files open.
#[derive(Debug)]
pub struct Query {
    dir: PathBuf,
    fields: Vec<u32>,
    runs: Vec<Run>,
}

/// What is known.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Answer {
    /// By field, in the order of time, not overlapping. Where nothing is known there is no bucket.
    pub fields: BTreeMap<Field, Vec<Bucket>>,
    /// Blocks that were damaged: what they had is missing.
    pub damaged: usize,
}

#[derive(Debug)]
struct Run {
    within: Span,
    span_ms: i64,
    parts: Vec<Part>,
}

#[derive(Debug)]
struct Part {
    time: Span,
    width_ms: i64,
    blocks: Vec<Block>,
}

/// A block, wherever it is.
#[derive(Clone, Debug)]
pub(crate) enum Block {
    File(Arc<File>, Entry),
    Memory(Span, Arc<[u8]>),
}

impl Block {
    pub(crate) fn time(&self) -> Span {
        match self {
            Self::File(_, entry) => entry.time(),
            Self::Memory(time, _) => time.clone(),
        }
    }

    /// Has its bytes looked at. `None`: it is damaged, as far as what looks can tell.
    pub(crate) fn with<T, E>(&self, look: impl FnOnce(&[u8]) -> Result<T, E>) -> io::Result<Option<T>> {
        match self {
            Self::File(file, entry) => {
                let bytes = match read(file, entry) {
                    // The file was cut off.
                    Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => return Ok(None),
                    bytes => bytes?,
                };
                let record = Record::take(&bytes).ok().filter(|record| record.time == entry.time());
                Ok(record.and_then(|record| look(record.block).ok()))
            }
            Self::Memory(_, bytes) => Ok(look(bytes).ok()),
        }
    }
}

impl Store {
    /// Asks what is known of a group's fields, or of all of them, if none is named, in a range of time, in buckets of `step`.
    ///
    /// Buckets begin at multiples of `step` since 1970, and the range is widened to whole ones. A level that cannot answer so exactly is asked only where no
    /// finer one has anything any more: its buckets are longer, and may begin earlier. Means of thinned out data are within 1/2000 of the range of their values, or 1/32.
    /// The last value holds until the end of the range or of [`Config::with_hold`](crate::Config::with_hold), so ask for no time that is still to come.
    pub fn prepare(
        &self,
        group: Group,
        fields: &[Field],
        range: Range<Time>,
        step: Duration,
    ) -> Result<Query, QueryError> {
        let step = whole_ms(step);
        let span = range.start.unix_ms()..range.end.unix_ms().max(range.start.unix_ms());
        let count = |step: i64| ((ceil(span.end, step) - floor(span.start, step)) / step).unsigned_abs();
        if step == 0 || count(step) > BUCKETS_MAX {
            let at_least_ms = (span.end - span.start) / (BUCKETS_MAX as i64 - 2) + 1;
            return Err(QueryError::Step { step_ms: step, buckets: count(step.max(1)), at_least_ms });
        }
        let until = span.end;
        let span = floor(span.start, step)..ceil(span.end, step);
        let levels: Vec<(Have, Vec<Block>)> = (0..self.levels())
            .map(|level| {
                let blocks = self.blocks(group, level, &span, until);
                let have = Have {
                    width_ms: self.width_ms(level),
                    oldest: self.oldest(group, level),
                    dropped: self.dropped(group, level),
                    blocks: blocks.iter().map(Block::time).collect(),
                };
                (have, blocks)
            })
            .collect();
        let (have, blocks): (Vec<_>, Vec<_>) = levels.into_iter().unzip();
        let runs = plan(&have, &span, step).into_iter().map(|run| {
            let parts = run.parts.into_iter().map(|(time, level)| {
                let touches = |block: &&Block| {
                    let has = block.time();
                    has.start < time.end && has.end > time.start
                };
                let blocks = blocks.get(level).map_or(&[][..], Vec::as_slice);
                let blocks = blocks.iter().filter(touches).cloned().collect();
                Part { time, width_ms: self.width_ms(level), blocks }
            });
            Run { within: run.within, span_ms: run.span_ms, parts: parts.collect() }
        });
        let fields = fields.iter().map(|field| field.0).collect();
        Ok(Query { dir: self.dir.clone(), fields, runs: runs.collect() })
    }

    /// [`Store::prepare`] and [`Query::run`] in one.
    pub fn query(
        &self,
        group: Group,
        fields: &[Field],
        range: Range<Time>,
        step: Duration,
    ) -> Result<Answer, QueryError> {
        Ok(self.prepare(group, fields, range, step)?.run()?)
    }

    /// The fields of which something is stored in that range, in order. Reads all blocks of it.
    pub fn fields(&self, group: Group, range: Range<Time>) -> Result<Vec<Field>, DiskError> {
        self.read_fields(group, &range).map_err(DiskError::of("reading", &self.dir))
    }

    fn read_fields(&self, group: Group, range: &Range<Time>) -> io::Result<Vec<Field>> {
        struct Ids(Vec<Field>);
        impl Visit for Ids {
            fn column(&mut self, id: u32) {
                self.0.push(Field(id));
            }
            fn value(&mut self, _: usize, _: i64, _: i64) {}
            fn lost(&mut self, _: usize, _: i64) {}
            fn gap(&mut self, _: i64) {}
        }
        let span = range.start.unix_ms()..range.end.unix_ms();
        let mut ids = Ids(Vec::new());
        for level in 0..self.levels() {
            for block in self.blocks(group, level, &span, span.end) {
                let start = block.time().start;
                block.with(|bytes| {
                    if level == 0 {
                        return raw::decode(start, bytes, &mut ids);
                    }
                    let note = |id| {
                        ids.column(id);
                        false
                    };
                    buckets::decode(bytes, self.width_ms(level), note, |_, _, _| {})
                })?;
            }
            ids.0.sort_unstable();
            ids.0.dedup();
        }
        Ok(ids.0)
    }
}

impl Query {
    /// Reads what it takes. A damaged block is counted and left out.
    pub fn run(&self) -> Result<Answer, DiskError> {
        self.read().map_err(DiskError::of("reading", &self.dir))
    }

    fn read(&self) -> io::Result<Answer> {
        let mut answer = Answer::default();
        for run in &self.runs {
            let mut gather = Gather::new(&self.fields, run.within.clone(), run.span_ms);
            for part in &run.parts {
                for block in &part.blocks {
                    let time = block.time();
                    let read = block.with(|bytes| match part.width_ms {
                        1 => gather.samples(&time, bytes, &part.time),
                        width => gather.buckets(&time, width, bytes, &part.time),
                    })?;
                    answer.damaged += usize::from(read.is_none());
                }
            }
            for (id, mut buckets) in gather.finish() {
                answer.fields.entry(Field(id)).or_default().append(&mut buckets);
            }
        }
        answer.fields.retain(|_, buckets| !buckets.is_empty());
        Ok(answer)
    }
}
