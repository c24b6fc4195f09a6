//! Keeps what the program writes: from two pipes into two files of bounded size.
//!
//! The program is never held up: what cannot be written (a full disk) is counted, dropped, and said so once writing works again.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Read, Write as _};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};

use rustix::event::{PollFd, PollFlags, poll};

/// A log file is put aside at this size, in bytes. One older file is kept.
const LOG_BYTES_MAX: u64 = 10 * 1024 * 1024;
/// Read at once, in bytes.
const READ_BYTES: usize = 8 * 1024;

/// One log file.
pub(super) struct Log {
    path: PathBuf,
    file: File,
    bytes: u64,
    lost: u64,
    limit: u64,
}

impl Log {
    /// Opens `path` to append to.
    pub(super) fn open(path: &Path) -> io::Result<Self> {
        Self::with_limit(path, LOG_BYTES_MAX)
    }

    fn with_limit(path: &Path, limit: u64) -> io::Result<Self> {
        let file = OpenOptions::new().append(true).create(true).mode(0o600).open(path)?;
        let bytes = file.metadata()?.len();
        Ok(Self { path: path.to_owned(), file, bytes, lost: 0, limit })
    }

    fn take(&mut self, bytes: &[u8]) {
        if self.bytes + bytes.len() as u64 > self.limit {
            self.rotate();
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
    }

    fn rotate(&mut self) {
        let mut old = self.path.clone().into_os_string();
        old.push(".1");
        match fs::rename(&self.path, old).and_then(|()| Self::with_limit(&self.path, self.limit)) {
            Ok(new) => *self = Self { lost: self.lost, ..new },
            // The bound matters more than the lines.
            Err(_) if self.file.set_len(0).is_ok() => self.bytes = 0,
            Err(_) => {}
        }
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

    #[test]
    fn a_log_never_outgrows_its_limit_and_keeps_the_newest_bytes() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("out.log");
        let mut log = Log::with_limit(&path, 100).unwrap();
        for n in 0..50 {
            log.take(format!("line {n:03}\n").as_bytes());
        }
        let (new, old) = (fs::read(&path).unwrap(), fs::read(dir.path().join("out.log.1")).unwrap());
        assert!(new.len() <= 100 && old.len() <= 100);
        assert!(new.ends_with(b"line 049\n"));
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 2);
        let reopened = Log::with_limit(&path, 100).unwrap();
        assert_eq!(reopened.bytes, new.len() as u64);
    }

    #[test]
    fn both_pipes_are_copied_to_their_end() {
        let dir = tempfile::tempdir().unwrap();
        let (mut ends, mut streams) = (Vec::new(), Vec::new());
        for name in ["out", "err"] {
            let (read, write) = io::pipe().unwrap();
            streams.push(Stream::new(read, Log::open(&dir.path().join(name)).unwrap()));
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
        let mut log = Log::open(&path).unwrap();
        let good =
            std::mem::replace(&mut log.file, OpenOptions::new().write(true).open("/dev/full").unwrap());
        log.take(b"lost\n");
        log.file = good;
        log.take(b"kept\n");
        assert_eq!(fs::read_to_string(&path).unwrap(), "[skerry: 5 bytes could not be written here]\nkept\n");
    }
}
