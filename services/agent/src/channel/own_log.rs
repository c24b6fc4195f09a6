//! The log of the agent itself, as far as it has it in memory.

use std::time::SystemTime;

use bytes::{Buf as _, BufMut as _, Bytes, BytesMut};
use skerry_daemon::{OwnLine, OwnLog};
use skerry_proto::relay::v1::LogLine;
use skerry_proto::relay::v1::log_line::Source;
use tokio::sync::mpsc;

use crate::runtime::logs::{LINE_BYTES_MAX, LogAsk, LogPart, PART_BYTES_MAX, PART_LINES_MAX, nanos, size};

/// What a position begins with.
const KIND: u8 = b'o';
/// Bytes of a position.
const POSITION_BYTES: usize = 17;

/// Tells what is asked for, until its end or until nobody takes it any more. `started`: when this process was, by which its positions are known.
pub(super) async fn tell(log: &OwnLog, started: u64, ask: &LogAsk, out: &mpsc::Sender<LogPart>) {
    let mut changed = log.next();
    let resumed = decode(&ask.position).filter(|(of, _)| *of == started).map(|(_, number)| number);
    let next = *changed.borrow_and_update();
    let mut at = match (resumed, ask.tail) {
        (Some(number), _) => number,
        (None, Some(tail)) => next.saturating_sub(tail as u64),
        (None, None) => 0,
    };
    let mut caught_up = false;
    loop {
        // Nothing is read for nobody: first there must be room.
        let Ok(room) = out.reserve().await else { return };
        let (lines, reached) = part(log, started, ask, at);
        if reached != at {
            at = reached;
            if !lines.is_empty() {
                room.send(LogPart::Lines(lines));
            }
            continue;
        }
        if std::mem::replace(&mut caught_up, true) {
            drop(room);
        } else {
            room.send(LogPart::CaughtUp(encode(started, at)));
        }
        if !ask.follow {
            return;
        }
        tokio::select! {
            () = out.closed() => return,
            changed = changed.changed() => if changed.is_err() { return },
        }
    }
}

/// The next lines from `at` on that are asked for, and the number of the one after them.
fn part(log: &OwnLog, started: u64, ask: &LogAsk, mut at: u64) -> (Vec<LogLine>, u64) {
    let (mut lines, mut bytes) = (Vec::new(), 0);
    while bytes < PART_BYTES_MAX
        && lines.len() < PART_LINES_MAX
        && let Some(line) = log.from(at)
    {
        at = line.number + 1;
        let line = told(started, &line);
        if ask.has(line.time_unix_nanos) {
            bytes += size(&line);
            lines.push(line);
        }
    }
    (lines, at)
}

fn told(started: u64, line: &OwnLine) -> LogLine {
    let text = &line.text[..line.text.len().min(LINE_BYTES_MAX)];
    LogLine {
        source: Source::Unspecified.into(),
        time_unix_nanos: nanos(line.time).unwrap_or_default(),
        data: Bytes::copy_from_slice(text),
        partial: false,
        skipped_bytes: (line.text.len() - text.len()) as u64,
        position: encode(started, line.number + 1),
    }
}

/// By what the positions of this process are told from those of an earlier one.
pub(super) fn mark_of(started: SystemTime) -> u64 {
    nanos(started).map_or(0, i64::unsigned_abs)
}

fn encode(started: u64, number: u64) -> Bytes {
    let mut bytes = BytesMut::with_capacity(POSITION_BYTES);
    bytes.put_u8(KIND);
    bytes.put_u64(started);
    bytes.put_u64(number);
    bytes.freeze()
}

fn decode(position: &Bytes) -> Option<(u64, u64)> {
    let mut bytes = position.clone();
    if bytes.len() != POSITION_BYTES || bytes.get_u8() != KIND {
        return None;
    }
    Some((bytes.get_u64(), bytes.get_u64()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_position_is_read_as_it_was_written_and_anything_else_is_none() {
        assert_eq!(decode(&encode(7, u64::MAX)), Some((7, u64::MAX)));
        for bad in [&b""[..], b"o", &[b'p'; POSITION_BYTES]] {
            assert_eq!(decode(&Bytes::copy_from_slice(bad)), None);
        }
    }
}
