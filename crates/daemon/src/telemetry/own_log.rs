//! What this process has logged of late, for who asks for it from afar: the log itself goes to stderr, and whoever reads that may be out of reach.

use std::collections::VecDeque;
use std::io;
use std::sync::{Arc, Mutex, OnceLock, PoisonError};
use std::time::SystemTime;

use tokio::sync::watch;
use tracing_subscriber::fmt::MakeWriter;

/// Most bytes that are kept.
const BYTES_MAX: usize = 256 * 1024;
/// What a line takes beside its text, about.
const LINE_BYTES: usize = 64;

static KEPT: OnceLock<OwnLog> = OnceLock::new();

/// The last lines of the log of this process, 256 KiB of them. Cheap to clone.
#[derive(Debug, Clone)]
pub struct OwnLog {
    lines: Arc<Mutex<Lines>>,
    /// The number of the next line.
    next: watch::Sender<u64>,
}

/// A line as it was logged.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct OwnLine {
    /// Counts from 0 in the life of the process.
    pub number: u64,
    /// When.
    pub time: SystemTime,
    /// Without its end.
    pub text: Arc<[u8]>,
}

#[derive(Debug, Default)]
struct Lines {
    kept: VecDeque<OwnLine>,
    bytes: usize,
    next: u64,
}

impl OwnLog {
    /// That of this process, which keeps it from the first call on.
    pub fn of_process() -> &'static Self {
        KEPT.get_or_init(Self::new)
    }

    fn new() -> Self {
        Self { lines: Arc::default(), next: watch::Sender::new(0) }
    }

    /// The first line from `number` on that is still kept.
    pub fn from(&self, number: u64) -> Option<OwnLine> {
        let lines = self.lines.lock().unwrap_or_else(PoisonError::into_inner);
        let first = lines.kept.front()?.number;
        let at = usize::try_from(number.saturating_sub(first)).ok()?;
        lines.kept.get(at).cloned()
    }

    /// The number of the next line; it changes with each.
    pub fn next(&self) -> watch::Receiver<u64> {
        self.next.subscribe()
    }

    fn push(&self, text: &[u8]) {
        let text = text.strip_suffix(b"\n").unwrap_or(text);
        let mut lines = self.lines.lock().unwrap_or_else(PoisonError::into_inner);
        let number = lines.next;
        lines.next += 1;
        lines.bytes += text.len() + LINE_BYTES;
        lines.kept.push_back(OwnLine { number, time: SystemTime::now(), text: text.into() });
        while lines.bytes > BYTES_MAX && lines.kept.len() > 1 {
            let Some(gone) = lines.kept.pop_front() else { break };
            lines.bytes -= gone.text.len() + LINE_BYTES;
        }
        let next = lines.next;
        drop(lines);
        self.next.send_replace(next);
    }
}

/// Writes to stderr, and to what is kept where that is.
#[derive(Debug, Clone, Copy)]
pub(super) struct Tee;

impl io::Write for Tee {
    /// One call is one line: so it is with what is made for each event.
    fn write(&mut self, text: &[u8]) -> io::Result<usize> {
        if let Some(kept) = KEPT.get() {
            kept.push(text);
        }
        io::stderr().write_all(text)?;
        Ok(text.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        io::stderr().flush()
    }
}

impl<'a> MakeWriter<'a> for Tee {
    type Writer = Self;

    fn make_writer(&'a self) -> Self {
        Self
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_last_lines_are_kept_and_those_before_are_not() {
        let log = OwnLog::new();
        assert_eq!(log.from(0), None);
        for number in 0..10_000 {
            log.push(format!("line {number}\n").as_bytes());
        }
        let first = log.from(0).expect("there are lines");
        assert!(first.number > 5_000, "{first:?}");
        assert_eq!(*first.text, *format!("line {}", first.number).as_bytes());
        assert_eq!(log.from(9_999).map(|line| line.number), Some(9_999));
        assert_eq!(log.from(10_000), None);
        assert_eq!(*log.next().borrow(), 10_000);
    }

    #[test]
    fn one_line_is_kept_however_long_it_is() {
        let log = OwnLog::new();
        log.push(&vec![b'x'; 2 * BYTES_MAX]);
        assert_eq!(log.from(0).map(|line| line.text.len()), Some(2 * BYTES_MAX));
    }
}
