//! What instances wrote, as runtimes tell it: which part is asked for, and in what it comes.

use std::time::SystemTime;

use bytes::Bytes;
use prost_types::Timestamp;
use skerry_model::time::from_timestamp;
use skerry_proto::relay::v1::{LogLine, LogsStart};

/// Longest line: what is longer comes in parts.
pub(crate) const LINE_BYTES_MAX: usize = 16 * 1024;
/// Most bytes of one part, and most lines: what a reader may have that nobody has taken yet.
pub(crate) const PART_BYTES_MAX: usize = 64 * 1024;
/// See [`PART_BYTES_MAX`].
pub(crate) const PART_LINES_MAX: usize = 512;

/// Which part of the log of an instance.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct LogAsk {
    /// Also what is written from then on.
    pub(crate) follow: bool,
    /// Nothing before this, in nanoseconds since 1970.
    pub(crate) since: Option<i64>,
    /// Nothing at this or later.
    pub(crate) until: Option<i64>,
    /// Of what is there, only so many lines at its end.
    pub(crate) tail: Option<usize>,
    /// Where an earlier reader was. Empty: there was none.
    pub(crate) position: Bytes,
}

/// What a runtime tells.
#[derive(Debug)]
pub enum LogPart {
    /// The next lines: at most 64 KiB, or one.
    Lines(Vec<LogLine>),
    /// What was there is told: what follows is live. With where to go on. Empty: from the begin.
    CaughtUp(Bytes),
}

impl LogAsk {
    /// As a relay asks; `started` is when the copy that runs now was started.
    pub(crate) fn of(start: &LogsStart, started: Option<SystemTime>) -> Self {
        let until = start.until.as_ref().and_then(nanos_of);
        let before = started.filter(|_| start.previous).and_then(nanos);
        Self {
            follow: start.follow,
            since: start.since.as_ref().and_then(nanos_of),
            until: [until, before].into_iter().flatten().min(),
            tail: start.tail.map(|tail| usize::try_from(tail).unwrap_or(usize::MAX)),
            position: start.position.clone(),
        }
    }

    /// Whether a line of that time is asked for. One of which nobody knows the time is, unless there is a first time.
    pub(crate) fn has(&self, time: i64) -> bool {
        self.since.is_none_or(|since| time >= since) && self.until.is_none_or(|until| time < until)
    }
}

fn nanos_of(timestamp: &Timestamp) -> Option<i64> {
    nanos(from_timestamp(timestamp)?)
}

/// As lines have their times.
pub(crate) fn nanos(time: SystemTime) -> Option<i64> {
    let since = time.duration_since(SystemTime::UNIX_EPOCH).ok()?;
    i64::try_from(since.as_nanos()).ok()
}

/// What a line takes, about.
pub(crate) fn size(line: &LogLine) -> usize {
    line.data.len() + line.position.len() + 32
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn what_was_written_before_the_present_copy_ends_where_that_began() {
        let at = |seconds| SystemTime::UNIX_EPOCH + Duration::from_secs(seconds);
        let until = Some(Timestamp { seconds: 5, nanos: 0 });
        let start = LogsStart { until, previous: true, ..LogsStart::default() };
        assert_eq!(LogAsk::of(&start, Some(at(3))).until, Some(3_000_000_000));
        assert_eq!(LogAsk::of(&start, Some(at(9))).until, Some(5_000_000_000));
        assert_eq!(LogAsk::of(&LogsStart::default(), Some(at(3))).until, None);
        let ask = LogAsk { since: Some(2), until: Some(4), ..LogAsk::default() };
        assert_eq!([1, 2, 3, 4].map(|time| ask.has(time)), [false, true, true, false]);
    }
}
