//! When what is in a log was written: beside each file of a log a small one with marks, `<file>.marks`.
//!
//! It consists of records of two numbers of 64 bits, little-endian. The first record names the stream and says how many bytes of it were
//! written before this file: so a place in the stream has a number that stays when files are put aside. Each further one is an offset in
//! the file and the time at which the bytes from there on were written, in microseconds since 1970. Marks are 10 ms apart at least, and
//! take an eighth of what is marked, beside 4 KiB; only what is a second later than the last mark has one in any case, as has what a new run of the
//! program writes first. So of a program that writes a few bytes each second the marks are larger than its log, by a little.

use std::ffi::OsString;
use std::fs::{File, OpenOptions};
use std::io::{self, Write as _};
use std::os::unix::fs::{FileExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};
use std::time::{SystemTime, UNIX_EPOCH};

/// Bytes of one record.
pub(crate) const RECORD_BYTES: u64 = 16;
/// Shortest time between two marks.
const GRAIN_MICROS: u64 = 10_000;
/// What comes so much later than the last mark has one, whatever marks take.
const LATE_MICROS: u64 = 1_000_000;
/// What marks may take of a file that has nothing yet.
const FREE_BYTES: u64 = 4096;
/// What they may take beyond it: this part of the file.
const SHARE: u64 = 8;

/// Two numbers.
pub(crate) type Mark = (u64, u64);

/// The marks of the file that is written.
#[derive(Debug)]
pub(super) struct Marks {
    file: File,
    stream: u64,
    /// Bytes of the stream before this file.
    base: u64,
    bytes: u64,
    last_micros: u64,
}

/// Where the marks of a file are.
pub(crate) fn path_of(log: &Path) -> PathBuf {
    let mut path = OsString::from(log);
    path.push(".marks");
    path.into()
}

/// Now, as marks have it.
pub(super) fn micros_now() -> u64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    u64::try_from(since.as_micros()).unwrap_or(u64::MAX)
}

/// The record of that number, if it is there and whole.
pub(crate) fn read(file: &File, index: u64) -> Option<Mark> {
    let mut record = [0; 16];
    file.read_exact_at(&mut record, index * RECORD_BYTES).ok()?;
    decode(&record)
}

/// A record.
pub(crate) fn decode(record: &[u8]) -> Option<Mark> {
    let (first, second) = record.split_at_checked(8)?;
    Some((u64::from_le_bytes(first.try_into().ok()?), u64::from_le_bytes(second.try_into().ok()?)))
}

fn encode((first, second): Mark) -> [u8; 16] {
    let mut record = [0; 16];
    let (head, tail) = record.split_at_mut(8);
    head.copy_from_slice(&first.to_le_bytes());
    tail.copy_from_slice(&second.to_le_bytes());
    record
}

impl Marks {
    /// Goes on with the marks of a log that is appended to; begins a stream where there are none.
    pub(super) fn open(log: &Path) -> io::Result<Self> {
        let file = options().open(path_of(log))?;
        let Some((stream, base)) = read(&file, 0) else { return Self::begin(log, micros_now(), 0) };
        let bytes = file.metadata()?.len() / RECORD_BYTES * RECORD_BYTES;
        // Half a record, of a shim that was killed.
        file.set_len(bytes)?;
        Ok(Self { file, stream, base, bytes, last_micros: 0 })
    }

    /// Begins the marks of a new file.
    pub(super) fn begin(log: &Path, stream: u64, base: u64) -> io::Result<Self> {
        let mut file = options().open(path_of(log))?;
        file.set_len(0)?;
        file.write_all(&encode((stream, base)))?;
        Ok(Self { file, stream, base, bytes: RECORD_BYTES, last_micros: 0 })
    }

    /// The stream, and the bytes before this file.
    pub(super) fn head(&self) -> Mark {
        (self.stream, self.base)
    }

    /// What is written from `offset` on is written now. That it cannot be noted holds up nobody: then the time before counts.
    pub(super) fn note(&mut self, offset: u64, micros: u64) {
        let is_soon = self.last_micros <= micros && micros < self.last_micros.saturating_add(GRAIN_MICROS);
        let has_room = self.bytes + RECORD_BYTES <= FREE_BYTES + offset / SHARE;
        let is_late = micros < self.last_micros || micros - self.last_micros >= LATE_MICROS;
        if !is_soon && (has_room || is_late) && self.file.write_all(&encode((offset, micros))).is_ok() {
            self.bytes += RECORD_BYTES;
            self.last_micros = micros;
        }
    }
}

fn options() -> OpenOptions {
    let mut options = OpenOptions::new();
    options.read(true).append(true).create(true).mode(0o600);
    options
}

#[cfg(test)]
mod tests {
    use super::*;

    fn all(log: &Path) -> Vec<Mark> {
        let file = File::open(path_of(log)).unwrap();
        (0..).map_while(|index| read(&file, index)).collect()
    }

    #[test]
    fn marks_go_on_where_they_were_and_are_not_too_close() {
        let dir = tempfile::tempdir().unwrap();
        let log = dir.path().join("a.log");
        let mut marks = Marks::begin(&log, 7, 100).unwrap();
        marks.note(0, 1_000_000);
        marks.note(5, 1_009_999);
        marks.note(9, 1_010_000);
        drop(marks);
        OpenOptions::new().append(true).open(path_of(&log)).unwrap().write_all(b"half").unwrap();
        let mut marks = Marks::open(&log).unwrap();
        assert_eq!(marks.head(), (7, 100));
        marks.note(20, 600_000);
        assert_eq!(
            all(&log),
            [(7, 100), (0, 1_000_000), (9, 1_010_000), (20, 600_000)],
            "a clock that went back counts"
        );
    }

    #[test]
    fn marks_take_a_small_part_of_what_they_mark_unless_little_is_written_each_second() {
        let dir = tempfile::tempdir().unwrap();
        let log = dir.path().join("a.log");
        let mut marks = Marks::open(&log).unwrap();
        for n in 0..100_000 {
            marks.note(n, 1_000_000 + n * GRAIN_MICROS);
        }
        let bytes = std::fs::metadata(path_of(&log)).unwrap().len();
        // One in a hundred is a second later than the one before.
        let late = 100_000 * GRAIN_MICROS / LATE_MICROS * RECORD_BYTES;
        assert!(bytes > FREE_BYTES && bytes <= FREE_BYTES + 100_000 / SHARE + late, "{bytes}");
        let slow = dir.path().join("slow.log");
        let mut marks = Marks::open(&slow).unwrap();
        for n in 0..1000 {
            marks.note(n * 8, 1_000_000 + n * LATE_MICROS);
        }
        drop(marks);
        Marks::open(&slow).unwrap().note(8000, 1_000_000 + 999 * LATE_MICROS + 1);
        assert_eq!(all(&slow).len(), 1002, "each second, and where it began anew");
    }
}
