//! The files of one stream, and their marks. A place in the stream is its number of bytes from the stream's begin.

use std::collections::VecDeque;
use std::fs::{self, File};
use std::io;
use std::os::unix::fs::{FileExt as _, MetadataExt as _};
use std::path::{Path, PathBuf};
use std::thread;
use std::time::Duration;

use crate::shim::logs::FILES_MAX;
use crate::shim::marks::{self, Mark, RECORD_BYTES};

/// How often files are looked for anew where they were put aside meanwhile, and the time between: they are put aside in less than one.
const TRIES_MAX: usize = 50;
const BETWEEN_TRIES: Duration = Duration::from_millis(1);
/// Marks that are read at once.
const MARKS_AT_ONCE: usize = 256;

/// One file of a stream.
#[derive(Debug)]
pub(super) struct Segment {
    pub(super) file: File,
    inode: u64,
    path: PathBuf,
    marks: Option<File>,
    /// Names the stream; another one where the instance was made anew. 0: of a shim that made no marks.
    pub(super) stream: u64,
    /// The place of its first byte.
    pub(super) base: u64,
}

impl Segment {
    fn open(path: PathBuf) -> io::Result<Option<Self>> {
        let file = match File::open(&path) {
            Ok(file) => file,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(error),
        };
        let inode = file.metadata()?.ino();
        let marks = File::open(marks::path_of(&path)).ok();
        let head = marks.as_ref().and_then(|marks| marks::read(marks, 0));
        let (stream, base) = head.unwrap_or((0, 0));
        Ok(Some(Self { file, inode, path, marks: marks.filter(|_| head.is_some()), stream, base }))
    }

    /// Where it ends at present.
    pub(super) fn end(&self) -> io::Result<u64> {
        Ok(self.base + self.file.metadata()?.len())
    }

    /// Whether it is the file that is written.
    pub(super) fn is_current(&self, log: &Path) -> bool {
        fs::metadata(log).is_ok_and(|found| found.ino() == self.inode)
    }

    /// Whether it was emptied, and is another part of the stream now: the bound of a log of one file.
    pub(super) fn was_emptied(&self) -> bool {
        let head = self.marks.as_ref().and_then(|marks| marks::read(marks, 0));
        head.is_some_and(|head| head != (self.stream, self.base))
    }

    /// Reads from a place on.
    pub(super) fn read_at(&self, place: u64, buffer: &mut [u8]) -> io::Result<usize> {
        let Some(offset) = place.checked_sub(self.base) else { return Ok(0) };
        loop {
            match self.file.read_at(buffer, offset) {
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                read => return read,
            }
        }
    }

    /// When it was written.
    pub(super) fn times(&self) -> Times {
        let marks = self.marks.as_ref().and_then(|marks| marks.try_clone().ok());
        Times { marks, base: self.base, next: 1, read: VecDeque::new(), now: 0 }
    }
}

/// The files of the stream at `log`, the oldest first. For a thread that may block.
#[expect(clippy::disallowed_methods, reason = "it is called where blocking is allowed")]
pub(super) fn segments(log: &Path) -> io::Result<Vec<Segment>> {
    for _ in 1..TRIES_MAX {
        let found = look(log)?;
        let same =
            |segment: &Segment| fs::metadata(&segment.path).is_ok_and(|now| now.ino() == segment.inode);
        // Whatever was put aside between two of these steps is found by another name now.
        if found.iter().all(same) && fit(log, &found)? {
            return Ok(found);
        }
        thread::sleep(BETWEEN_TRIES);
    }
    look(log)
}

/// Whether each file goes on where the one before ends, up to the one that is written. It does not while files are being put aside, one name after the
/// other: a file may have the marks of another one then, and with them its place.
fn fit(log: &Path, found: &[Segment]) -> io::Result<bool> {
    let Some(last) = found.last() else { return Ok(true) };
    for pair in found.windows(2) {
        if let [one, next] = pair
            && one.end()? != next.base
        {
            return Ok(false);
        }
    }
    Ok(last.path == log)
}

fn look(log: &Path) -> io::Result<Vec<Segment>> {
    let mut found: Vec<Segment> = Vec::new();
    let mut missing = 0;
    for n in 0..FILES_MAX {
        let path = if n == 0 { log.to_owned() } else { older(log, n) };
        match Segment::open(path)? {
            // The same one again: it was put aside meanwhile.
            Some(segment) if found.iter().any(|have| have.inode == segment.inode) => {}
            Some(segment) => found.push(segment),
            // One may be missing for the moment in which it gets its name.
            None => missing += 1,
        }
        if missing > 1 {
            break;
        }
    }
    found.reverse();
    // One that was begun at this moment has no head yet: what is in it is found at the next look.
    let heads =
        |found: &[Segment]| found.iter().rev().map(|segment| segment.stream != 0).take(2).collect::<Vec<_>>();
    if heads(&found) == [false, true] {
        found.pop();
    }
    // Files of a shim that made no marks follow one another.
    let mut place = 0;
    for segment in &mut found {
        if segment.stream == 0 {
            segment.base = place;
        }
        place = segment.end()?;
    }
    // Those of an earlier stream are over, and their places mean nothing in this one.
    if let Some(stream) = found.last().map(|last| last.stream) {
        found.retain(|segment| segment.stream == stream);
    }
    Ok(found)
}

fn older(log: &Path, n: u32) -> PathBuf {
    let mut path = log.to_owned().into_os_string();
    path.push(format!(".{n}"));
    path.into()
}

/// When what is in a file was written, asked for in the order of places.
#[derive(Debug)]
pub(super) struct Times {
    marks: Option<File>,
    base: u64,
    /// Number of the next record that is read.
    next: u64,
    read: VecDeque<Mark>,
    now: i64,
}

impl Times {
    /// When the byte at `place` was written, in nanoseconds since 1970. 0: nobody knows.
    pub(super) fn at(&mut self, place: u64) -> i64 {
        while let Some((offset, micros)) = self.peek()
            && self.base + offset <= place
        {
            self.now = i64::try_from(micros.saturating_mul(1000)).unwrap_or(i64::MAX);
            self.read.pop_front();
        }
        self.now
    }

    /// Goes on from what another file knew, until this one says more.
    pub(super) fn after(mut self, now: i64) -> Self {
        self.now = now;
        self
    }

    fn peek(&mut self) -> Option<Mark> {
        if self.read.is_empty() {
            let marks = self.marks.as_ref()?;
            let mut buffer = [0; MARKS_AT_ONCE * 16];
            let read = marks.read_at(&mut buffer, self.next * RECORD_BYTES).ok()?;
            let whole = buffer.get(..read)?.chunks_exact(16);
            self.read.extend(whole.filter_map(marks::decode));
            self.next += self.read.len() as u64;
        }
        self.read.front().copied()
    }
}
