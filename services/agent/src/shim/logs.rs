//! Keeps what the program writes: from two pipes into two files of bounded size.
//!
//! Beside each file is noted when it was written (`marks`), so that a log can be read by time and from a place that stays.
//!
//! The program is never held up: what cannot be written (a full disk) is counted, dropped, and said so once writing works again.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Read, Write as _};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};

use rustix::event::{PollFd, PollFlags, poll};
use skerry_model::app::LogBounds;

use super::marks::{self, Marks};

/// Files that an earlier bound may have left are looked for up to this number.
pub(crate) const FILES_MAX: u32 = 100;
/// Read at once, in bytes.
const READ_BYTES: usize = 8 * 1024;

/// One log: the file that is written, and those before it.
pub(crate) struct Log {
    path: PathBuf,
    file: File,
    bytes: u64,
    /// Whether what was written last ends a line.
    at_line: bool,
    lost: u64,
    bounds: LogBounds,
    /// When it is written. Absent: that cannot be noted.
    marks: Option<Marks>,
}

impl Log {
    /// Opens `path` to append to, and takes away older files than `bounds` allows.
    pub(crate) fn open(path: &Path, bounds: LogBounds) -> io::Result<Self> {
        let log = Self::current(path, bounds, None)?;
        for n in bounds.max_files.max(1)..FILES_MAX {
            let _ = fs::remove_file(log.older(n));
            let _ = fs::remove_file(marks::path_of(&log.older(n)));
        }
        Ok(log)
    }

    /// The file that is written; `head` is what its marks begin with, where it goes on from another one.
    fn current(path: &Path, bounds: LogBounds, head: Option<marks::Mark>) -> io::Result<Self> {
        let file = OpenOptions::new().append(true).create(true).mode(0o600).open(path)?;
        let bytes = file.metadata()?.len();
        let marks = match head {
            Some((stream, base)) => Marks::begin(path, stream, base),
            None => Marks::open(path),
        };
        let marks = marks.ok();
        Ok(Self { path: path.to_owned(), file, bytes, at_line: true, lost: 0, bounds, marks })
    }

    /// A line that does not fit begins the next file, as long as it fits into one.
    pub(crate) fn take(&mut self, bytes: &[u8]) {
        let room = self.bounds.max_size_bytes.saturating_sub(self.bytes);
        let (now, later) = match usize::try_from(room) {
            Ok(room) if room < bytes.len() => {
                let line = bytes[..room].iter().rposition(|b| *b == b'\n').map(|at| at + 1);
                bytes.split_at(line.unwrap_or(if self.at_line { 0 } else { room }))
            }
            _ => (bytes, &[][..]),
        };
        self.write(now);
        if !later.is_empty() {
            self.rotate();
            self.write(later);
        }
    }

    fn write(&mut self, bytes: &[u8]) {
        if bytes.is_empty() {
            return;
        }
        if let Some(marks) = &mut self.marks {
            marks.note(self.bytes, marks::micros_now());
        }
        if self.lost > 0 {
            let note = format!("[skerry: {} bytes could not be written here]\n", self.lost);
            if self.file.write_all(note.as_bytes()).is_ok() {
                self.lost = 0;
                self.bytes += note.len() as u64;
            }
        }
        match self.file.write_all(bytes) {
            Ok(()) => self.bytes += bytes.len() as u64,
            Err(_) => self.lost += bytes.len() as u64,
        }
        self.at_line = bytes.last().map_or(self.at_line, |last| *last == b'\n');
    }

    /// The n-th file before this one.
    fn older(&self, n: u32) -> PathBuf {
        let mut path = self.path.clone().into_os_string();
        path.push(format!(".{n}"));
        path.into()
    }

    /// Puts the file aside and begins another. The oldest goes.
    fn rotate(&mut self) {
        let next = self.marks.as_ref().map(|marks| {
            let (stream, base) = marks.head();
            (stream, base + self.bytes)
        });
        for n in (1..self.bounds.max_files.saturating_sub(1)).rev() {
            put_aside(&self.older(n), &self.older(n + 1));
        }
        let begun = if self.bounds.max_files > 1 {
            fs::rename(&self.path, self.older(1)).and_then(|()| {
                let _ = fs::rename(marks::path_of(&self.path), marks::path_of(&self.older(1)));
                Self::current(&self.path, self.bounds, next)
            })
        } else {
            Err(io::ErrorKind::Unsupported.into())
        };
        match begun {
            Ok(new) => *self = Self { lost: self.lost, ..new },
            // The bound matters more than the lines.
            Err(_) if self.file.set_len(0).is_ok() => {
                (self.bytes, self.at_line) = (0, true);
                self.marks = next.and_then(|(stream, base)| Marks::begin(&self.path, stream, base).ok());
            }
            Err(_) => {}
        }
    }
}

/// Moves a file of a log with its marks.
fn put_aside(from: &Path, to: &Path) {
    if fs::rename(from, to).is_ok() {
        let _ = fs::rename(marks::path_of(from), marks::path_of(to));
    }
}

/// One pipe and where it goes.
pub(super) struct Stream {
    pub(super) pipe: File,
    pub(super) log: Log,
}

impl Stream {
    pub(super) fn new(pipe: impl Into<OwnedFd>, log: Log) -> Self {
        Self { pipe: File::from(pipe.into()), log }
    }
}

/// Copies until nobody can write into the pipes any more.
pub(super) fn pump(mut streams: Vec<Stream>) {
    let mut buffer = vec![0; READ_BYTES];
    while !streams.is_empty() {
        let mut fds: Vec<_> = streams
            .iter()
            .map(|stream| PollFd::from_borrowed_fd(stream.pipe.as_fd(), PollFlags::IN))
            .collect();
        let ready: Vec<bool> = match poll(&mut fds, None) {
            Ok(_) => fds.iter().map(|fd| !fd.revents().is_empty()).collect(),
            Err(rustix::io::Errno::INTR) => continue,
            Err(_) => return,
        };
        let mut ready = ready.into_iter();
        streams.retain_mut(|stream| !ready.next().unwrap_or(false) || stream.copy(&mut buffer));
    }
}

impl Stream {
    /// Copies once: whether there may be more.
    fn copy(&mut self, buffer: &mut [u8]) -> bool {
        match self.pipe.read(buffer) {
            Ok(0) => false,
            Ok(read) => {
                self.log.take(&buffer[..read]);
                true
            }
            Err(error) => error.kind() == io::ErrorKind::Interrupted,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn bounds(max_size_bytes: u64, max_files: u32) -> LogBounds {
        LogBounds { max_size_bytes, max_files }
    }

    /// Newest first.
    fn files(path: &Path) -> Vec<String> {
        let older = |n: usize| format!("{}.{n}", path.display());
        let names = std::iter::once(path.display().to_string()).chain((1..).map(older));
        names.map_while(|name| fs::read_to_string(name).ok()).collect()
    }

    #[test]
    fn a_log_never_outgrows_its_bounds_and_keeps_the_newest_lines_whole() {
        for max_files in [1, 2, 3, 5] {
            let dir = tempfile::tempdir().unwrap();
            let path = dir.path().join("out.log");
            let mut log = Log::open(&path, bounds(100, max_files)).unwrap();
            let all = (0..80).map(|n| format!("line {n:03}\n")).collect::<Vec<_>>().concat();
            // In pieces that end anywhere.
            for piece in all.as_bytes().chunks(7) {
                log.take(piece);
            }
            let kept = files(&path);
            assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 2 * kept.len(), "each with its marks");
            assert!(
                kept.len() <= max_files as usize && kept.iter().all(|file| file.len() <= 100),
                "{kept:?}"
            );
            let joined: String = kept.iter().rev().map(String::as_str).collect();
            assert!(all.ends_with(&joined) && !joined.is_empty(), "nothing is lost at a seam: {joined}");
            assert!(kept.len() == max_files as usize && log.bytes == kept[0].len() as u64);
            drop(log);
            Log::open(&path, bounds(100, 1)).unwrap();
            assert_eq!(files(&path), kept[..1], "what is too many goes");
        }
    }

    #[test]
    fn a_line_that_fits_is_never_cut_by_a_seam() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("out.log");
        let mut log = Log::open(&path, bounds(64, 100)).unwrap();
        for n in 0..60 {
            log.take(format!("line {n:03}\nand another\n").as_bytes());
        }
        assert!(files(&path).len() > 2);
        assert!(files(&path).iter().all(|file| file.ends_with('\n')));
        log.take(&[b'x'; 150]);
        log.take(b"\n");
        assert!(files(&path).iter().all(|file| file.len() <= 150));
    }

    #[test]
    fn both_pipes_are_copied_to_their_end() {
        let dir = tempfile::tempdir().unwrap();
        let (mut ends, mut streams) = (Vec::new(), Vec::new());
        for name in ["out", "err"] {
            let (read, write) = io::pipe().unwrap();
            streams.push(Stream::new(read, Log::open(&dir.path().join(name), LogBounds::default()).unwrap()));
            ends.push(write);
        }
        let pump = std::thread::spawn(move || pump(streams));
        let text = "x".repeat(50_000);
        for (end, name) in ends.iter_mut().zip(["out", "err"]) {
            end.write_all(name.as_bytes()).unwrap();
            end.write_all(text.as_bytes()).unwrap();
        }
        drop(ends);
        pump.join().unwrap();
        for name in ["out", "err"] {
            assert_eq!(fs::read_to_string(dir.path().join(name)).unwrap(), format!("{name}{text}"));
        }
    }

    #[test]
    fn what_cannot_be_written_is_counted_and_said_later() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("out.log");
        let mut log = Log::open(&path, LogBounds::default()).unwrap();
        let good =
            std::mem::replace(&mut log.file, OpenOptions::new().write(true).open("/dev/full").unwrap());
        log.take(b"lost\n");
        log.file = good;
        log.take(b"kept\n");
        assert_eq!(fs::read_to_string(&path).unwrap(), "[skerry: 5 bytes could not be written here]\nkept\n");
    }
}
