//! One level's files: segments that blocks are appended to, and that go as a whole.
//!
//! A file is never written in the middle. What is to go is counted per segment; a segment in which nothing is left is removed, and where space is
//! wanted, one of which less than half is left gives that to the newest one. Only where each is more than half full the oldest goes with what it has.

use std::{
    collections::BTreeMap,
    fs::{self, File, OpenOptions},
    io::{self, Read as _},
    os::unix::fs::FileExt as _,
    path::{Path, PathBuf},
    sync::Arc,
};

use crate::{
    Group,
    config::Level,
    record::{HEAD_BYTES, Record, scan},
    types::Span,
};

const EXTENSION: &str = "blocks";

/// Where a block is, and when it begins and ends. Hundreds of thousands are in memory.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Entry {
    start: i64,
    span_ms: u32,
    segment: u32,
    offset: u32,
    /// With its head.
    length: u32,
}

impl Entry {
    pub(crate) fn time(&self) -> Span {
        self.start..self.start + i64::from(self.span_ms)
    }

    pub(crate) fn end(&self) -> i64 {
        self.time().end
    }

    pub(crate) fn bytes(&self) -> u64 {
        self.length.into()
    }

    pub(crate) fn segment(&self) -> u32 {
        self.segment
    }

    /// Where it is among all that were ever written to the level.
    pub(crate) fn position(&self) -> Position {
        (self.segment, self.offset)
    }
}

/// Segment, and offset in it.
pub(crate) type Position = (u32, u32);

#[derive(Debug)]
struct Segment {
    path: PathBuf,
    file: Arc<File>,
    bytes: u64,
    /// Of blocks that are still asked for.
    live: u64,
    synced: bool,
}

/// The segments of one level.
#[derive(Debug)]
pub(crate) struct Log {
    dir: PathBuf,
    prefix: String,
    segment_bytes: u64,
    bytes_max: u64,
    segments: BTreeMap<u32, Segment>,
    /// The segment that is written to, if one is.
    writer: Option<u32>,
    next: u32,
}

/// What was found in the files.
#[derive(Debug, Default)]
pub(crate) struct Opened {
    /// In the order in which they were written.
    pub(crate) entries: Vec<(Group, Entry)>,
    /// Places at which something was damaged, and is lost.
    pub(crate) damaged: u64,
}

/// A segment that is to go.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Victim {
    pub(crate) segment: u32,
    /// Few enough blocks are left to be written again.
    pub(crate) spare: bool,
}

/// The beginning of the names of a level's segments.
fn prefix(width_ms: i64) -> String {
    if width_ms == 1 { "samples-".to_owned() } else { format!("buckets-{width_ms}-") }
}

/// Removes the segments of levels that are not among these.
pub(crate) fn remove_others(dir: &Path, levels: &[Level]) -> io::Result<()> {
    let prefixes: Vec<_> = levels.iter().map(|level| prefix(level.width_ms)).collect();
    for entry in fs::read_dir(dir)? {
        let path = entry?.path();
        let name = path.file_name().unwrap_or_default().to_string_lossy();
        let is_level = path.extension().is_some_and(|end| end == EXTENSION);
        if is_level && !prefixes.iter().any(|prefix| name.starts_with(prefix)) {
            fs::remove_file(&path)?;
        }
    }
    Ok(())
}

impl Log {
    /// Reads all that there is of the level in `dir`.
    pub(crate) fn open(dir: &Path, level: &Level) -> io::Result<(Self, Opened)> {
        let mut log = Self {
            dir: dir.to_owned(),
            prefix: prefix(level.width_ms),
            segment_bytes: level.segment_bytes,
            bytes_max: level.bytes_max,
            segments: BTreeMap::new(),
            writer: None,
            next: 0,
        };
        let mut numbers = Vec::new();
        for entry in fs::read_dir(dir)? {
            let name = entry?.file_name();
            let name = name.to_string_lossy();
            let number = name.strip_prefix(&log.prefix).and_then(|rest| rest.strip_suffix(".blocks"));
            numbers.extend(number.and_then(|number| u32::from_str_radix(number, 16).ok()));
        }
        numbers.sort_unstable();
        let mut opened = Opened::default();
        for number in numbers {
            log.open_segment(number, &mut opened)?;
        }
        Ok((log, opened))
    }

    fn open_segment(&mut self, number: u32, opened: &mut Opened) -> io::Result<()> {
        let path = self.path(number);
        let mut file = OpenOptions::new().read(true).write(true).open(&path)?;
        let mut bytes = Vec::new();
        // A segment is far below this; what is not one of ours is not read to its end.
        file.by_ref().take(u64::from(u32::MAX)).read_to_end(&mut bytes)?;
        let mut live = 0;
        let found = scan(&bytes, |offset, record| {
            let span_ms = u32::try_from(record.time.end - record.time.start);
            let (Ok(span_ms), Ok(offset), Ok(length)) =
                (span_ms, u32::try_from(offset), u32::try_from(record.len()))
            else {
                return;
            };
            live += u64::from(length);
            let entry = Entry { start: record.time.start, span_ms, segment: number, offset, length };
            opened.entries.push((record.group, entry));
        });
        opened.damaged += found.damaged;
        let end = found.end as u64;
        if end < bytes.len() as u64 {
            // The write that was cut off, if not worse: what comes next begins where the last whole one ends.
            file.set_len(end)?;
        }
        self.next = number.saturating_add(1);
        self.writer = Some(number);
        let segment = Segment { path, file: Arc::new(file), bytes: end, live, synced: false };
        self.segments.insert(number, segment);
        Ok(())
    }

    /// Has what comes go to segments after this one.
    pub(crate) fn begin_after(&mut self, segment: u32) {
        self.next = self.next.max(segment.saturating_add(1));
        self.writer = self.writer.filter(|writer| *writer > segment);
    }

    fn path(&self, number: u32) -> PathBuf {
        self.dir.join(format!("{}{number:08x}.{EXTENSION}", self.prefix))
    }

    /// Writes a block behind the others.
    pub(crate) fn append(&mut self, record: &Record<'_>) -> io::Result<Entry> {
        let mut bytes = Vec::with_capacity(record.len());
        record.put(&mut bytes);
        self.append_bytes(record.time.clone(), &bytes)
    }

    /// Writes a block again that is already in a segment.
    pub(crate) fn copy(&mut self, entry: &Entry) -> io::Result<Entry> {
        let bytes = self.file(entry).ok_or_else(|| io::Error::from(io::ErrorKind::NotFound))?;
        let bytes = read(&bytes, entry)?;
        self.append_bytes(entry.time(), &bytes)
    }

    fn append_bytes(&mut self, time: Span, bytes: &[u8]) -> io::Result<Entry> {
        let length = bytes.len() as u64;
        let full = |segment: &Segment| segment.bytes > 0 && segment.bytes + length > self.segment_bytes;
        let number = match self.writer {
            Some(number) if self.segments.get(&number).is_some_and(|segment| !full(segment)) => number,
            _ => self.begin()?,
        };
        let Some(segment) = self.segments.get_mut(&number) else {
            return Err(io::ErrorKind::NotFound.into());
        };
        // Where it fails in the middle, the next one is written over what was.
        segment.file.write_all_at(bytes, segment.bytes)?;
        let too_long = |_| io::Error::from(io::ErrorKind::FileTooLarge);
        let entry = Entry {
            start: time.start,
            span_ms: u32::try_from(time.end - time.start).map_err(too_long)?,
            segment: number,
            offset: u32::try_from(segment.bytes).map_err(too_long)?,
            length: u32::try_from(length).map_err(too_long)?,
        };
        segment.bytes += length;
        segment.live += length;
        segment.synced = false;
        Ok(entry)
    }

    fn begin(&mut self) -> io::Result<u32> {
        let number = self.next;
        let path = self.path(number);
        let file = OpenOptions::new().read(true).write(true).create_new(true).open(&path)?;
        let segment = Segment { path, file: Arc::new(file), bytes: 0, live: 0, synced: false };
        self.segments.insert(number, segment);
        self.next =
            number.checked_add(1).ok_or_else(|| io::Error::other("all segment numbers are used up"))?;
        self.writer = Some(number);
        Ok(number)
    }

    /// The file that has the block.
    pub(crate) fn file(&self, entry: &Entry) -> Option<Arc<File>> {
        self.segments.get(&entry.segment).map(|segment| Arc::clone(&segment.file))
    }

    /// The block is not asked for any more.
    pub(crate) fn release(&mut self, entry: &Entry) {
        if let Some(segment) = self.segments.get_mut(&entry.segment) {
            segment.live = segment.live.saturating_sub(entry.bytes());
        }
    }

    /// Removes segments of which nothing is left.
    pub(crate) fn remove_empty(&mut self) -> io::Result<()> {
        let empty =
            |(number, segment): (&u32, &Segment)| (segment.live == 0 && segment.bytes > 0).then_some(*number);
        let empty: Vec<_> = self.segments.iter().filter_map(empty).collect();
        empty.into_iter().try_for_each(|number| self.remove(number))
    }

    /// Which segment goes next, if there is to be space for one more.
    pub(crate) fn victim(&self) -> Option<Victim> {
        if self.bytes() + self.segment_bytes <= self.bytes_max {
            return None;
        }
        let others = || self.segments.iter().filter(|(number, _)| Some(**number) != self.writer);
        let spare = others().filter(|(_, segment)| segment.live * 2 <= segment.bytes);
        if let Some((number, _)) = spare.min_by_key(|(_, segment)| segment.live) {
            return Some(Victim { segment: *number, spare: true });
        }
        others().next().map(|(number, _)| Victim { segment: *number, spare: false })
    }

    /// Removes a segment with all that it has.
    pub(crate) fn remove(&mut self, number: u32) -> io::Result<()> {
        if let Some(segment) = self.segments.get(&number) {
            fs::remove_file(&segment.path)?;
            self.segments.remove(&number);
        }
        if self.writer == Some(number) {
            self.writer = None;
        }
        Ok(())
    }

    /// Where the next block will be.
    pub(crate) fn position(&self) -> Position {
        let writer = self.writer.and_then(|number| Some((number, self.segments.get(&number)?)));
        writer.map_or((self.next, 0), |(number, segment)| {
            (number, segment.bytes.try_into().unwrap_or(u32::MAX))
        })
    }

    /// The oldest segment that there is.
    pub(crate) fn oldest(&self) -> Option<u32> {
        self.segments.keys().next().copied()
    }

    /// Has what was written brought to the disk.
    pub(crate) fn sync(&mut self) -> io::Result<()> {
        for segment in self.segments.values_mut().filter(|segment| !segment.synced) {
            segment.file.sync_data()?;
            segment.synced = true;
        }
        Ok(())
    }

    /// How long all files are.
    pub(crate) fn bytes(&self) -> u64 {
        self.segments.values().map(|segment| segment.bytes).sum()
    }

    /// How many bytes of them are still asked for.
    pub(crate) fn live(&self) -> u64 {
        self.segments.values().map(|segment| segment.live).sum()
    }

    /// How many files there are.
    pub(crate) fn files(&self) -> usize {
        self.segments.len()
    }
}

/// Reads the record, head and all.
pub(crate) fn read(file: &File, entry: &Entry) -> io::Result<Vec<u8>> {
    let mut bytes = vec![0; (entry.length as usize).max(HEAD_BYTES)];
    file.read_exact_at(&mut bytes, entry.offset.into())?;
    Ok(bytes)
}
