//! Standard output and standard error as one log, in the order of time.

use std::io;
use std::path::Path;

use bytes::{Buf as _, BufMut as _, Bytes, BytesMut};
use skerry_proto::relay::v1::LogLine;
use skerry_proto::relay::v1::log_line::Source;

use super::log_of;
use super::stream::Stream;
use crate::runtime::logs::{LogAsk, PART_BYTES_MAX, PART_LINES_MAX, size};
use crate::shim::files::{STDERR, STDOUT};

/// What a position begins with.
const KIND: u8 = b'p';
/// Bytes of a position.
const POSITION_BYTES: usize = 33;
/// Lines that are looked at before a part is given although it is empty: each step on a blocking thread is short.
const LOOKED_AT_MAX: usize = 8192;

/// Where a reader is in both streams.
type Position = [Option<(u64, u64)>; 2];

/// See the module.
#[derive(Debug)]
pub(super) struct Both {
    /// Standard output, standard error.
    streams: [Stream; 2],
    ask: LogAsk,
    /// Lines that are still passed over, so that both streams together have as many at their end as are asked for.
    pass_over: usize,
    /// Whether the last read came to the end.
    at_end: bool,
}

impl Both {
    pub(super) fn open(dir: &Path, ask: &LogAsk) -> io::Result<Self> {
        let from = decode(&ask.position);
        let tail = ask.tail.filter(|_| from.is_none());
        let mut both = Self::at(dir, ask, from, tail)?;
        if let Some(tail) = tail {
            // Each has so many at its end, and together they are too many: read once to count them.
            let mut counting = Self::at(dir, ask, from, Some(tail))?;
            let mut lines = 0;
            while counting.next(false)?.is_some() {
                lines += 1;
            }
            lines += counting.streams.iter().filter(|stream| stream.has_unended()).count();
            both.pass_over = lines.saturating_sub(tail);
        }
        Ok(both)
    }

    fn at(dir: &Path, ask: &LogAsk, from: Option<Position>, tail: Option<usize>) -> io::Result<Self> {
        let stream =
            |index: usize, name| Stream::open(&log_of(dir, name), from.and_then(|from| from[index]), tail);
        let streams = [stream(0, STDOUT)?, stream(1, STDERR)?];
        Ok(Self { streams, ask: ask.clone(), pass_over: 0, at_end: false })
    }

    /// The next lines that are asked for; with `unended` also the begin of a line that has no end yet.
    pub(super) fn read(&mut self, unended: bool) -> io::Result<Vec<LogLine>> {
        let (mut lines, mut bytes) = (Vec::new(), 0);
        self.at_end = false;
        self.streams.iter_mut().for_each(Stream::look_again);
        for _ in 0..LOOKED_AT_MAX {
            let Some(line) = self.next(unended)? else {
                self.at_end = true;
                break;
            };
            if self.pass_over > 0 {
                self.pass_over -= 1;
                continue;
            }
            if !self.ask.has(line.time_unix_nanos) {
                continue;
            }
            bytes += size(&line);
            lines.push(line);
            if bytes >= PART_BYTES_MAX || lines.len() >= PART_LINES_MAX {
                break;
            }
        }
        Ok(lines)
    }

    /// Whether the last read came to the end.
    pub(super) fn is_at_end(&self) -> bool {
        self.at_end
    }

    /// Whether there may be more to read.
    pub(super) fn has_grown(&self) -> bool {
        self.streams.iter().any(Stream::has_grown)
    }

    /// Whether there is the begin of a line.
    pub(super) fn has_unended(&self) -> bool {
        self.streams.iter().any(Stream::has_unended)
    }

    /// Where to go on.
    pub(super) fn position(&self) -> Bytes {
        encode([self.streams[0].position(), self.streams[1].position()])
    }

    fn next(&mut self, unended: bool) -> io::Result<Option<LogLine>> {
        let [out, err] = &mut self.streams;
        let (first, line) = match (out.due()?, err.due()?) {
            (Some(out_due), Some(err_due)) if err_due < out_due => (1, err.take(false)),
            (Some(_), _) => (0, out.take(false)),
            (None, Some(_)) => (1, err.take(false)),
            (None, None) if unended => match out.take(true) {
                Some(line) => (0, Some(line)),
                None => (1, err.take(true)),
            },
            (None, None) => return Ok(None),
        };
        let source = if first == 0 { Source::Stdout } else { Source::Stderr };
        Ok(line.map(|line| LogLine {
            source: source.into(),
            time_unix_nanos: line.time,
            data: line.data,
            partial: line.partial,
            skipped_bytes: line.skipped,
            position: self.position(),
        }))
    }
}

fn encode(position: Position) -> Bytes {
    let mut bytes = BytesMut::with_capacity(POSITION_BYTES);
    bytes.put_u8(KIND);
    for place in position {
        let (stream, place) = place.unwrap_or_default();
        bytes.put_u64(stream);
        bytes.put_u64(place);
    }
    bytes.freeze()
}

/// Nothing for what is not a position in the log of a process.
fn decode(bytes: &Bytes) -> Option<Position> {
    let mut bytes = bytes.clone();
    if bytes.len() != POSITION_BYTES || bytes.get_u8() != KIND {
        return None;
    }
    let mut place = || Some((bytes.get_u64(), bytes.get_u64()));
    Some([place(), place()])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_position_is_read_as_it_was_written_and_anything_else_is_none() {
        let position = [Some((1, 2)), Some((3, u64::MAX))];
        assert_eq!(decode(&encode(position)), Some(position));
        for bad in [&b""[..], b"p", &[b'd'; POSITION_BYTES], &[b'p'; POSITION_BYTES + 1]] {
            assert_eq!(decode(&Bytes::copy_from_slice(bad)), None);
        }
    }
}
