//! The lines of one stream, from a place on, over its files.

use std::io;
use std::path::{Path, PathBuf};

use bytes::{Bytes, BytesMut};

use super::files::{Segment, Times, segments};
use crate::runtime::logs::LINE_BYTES_MAX;

/// Read at once.
const READ_BYTES: usize = 32 * 1024;

/// A line, or a part of one.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Line {
    pub(super) time: i64,
    pub(super) data: Bytes,
    /// It goes on.
    pub(super) partial: bool,
    /// Bytes before it that were gone before they were read.
    pub(super) skipped: u64,
}

/// See the module.
#[derive(Debug)]
pub(super) struct Stream {
    log: PathBuf,
    at: Option<At>,
    /// What was read and not taken yet; its first byte is at `place`.
    buffer: BytesMut,
    place: u64,
    /// Bytes that were gone before they were read, and not told yet.
    skipped: u64,
    /// What is in the buffer ends at a gap: it is told as it is.
    cut: bool,
    /// It had no more when it was last looked at.
    dry: bool,
}

#[derive(Debug)]
struct At {
    segment: Segment,
    times: Times,
}

impl Stream {
    /// From a place on; what of it is gone counts as skipped. A place in another stream is none.
    pub(super) fn open(log: &Path, from: Option<(u64, u64)>, tail: Option<usize>) -> io::Result<Self> {
        let files = segments(log)?;
        let mut stream = Self {
            log: log.to_owned(),
            at: None,
            buffer: BytesMut::new(),
            place: 0,
            skipped: 0,
            cut: false,
            dry: false,
        };
        let (Some(first), Some(last)) = (files.first(), files.last()) else { return Ok(stream) };
        let (begin, end) = (first.base, last.end()?);
        stream.place = match from.filter(|(of, _)| *of == last.stream) {
            Some((_, place)) => {
                stream.skipped = begin.saturating_sub(place);
                place.clamp(begin, end)
            }
            None => match tail {
                Some(lines) => tail_of(&files, lines)?,
                None => begin,
            },
        };
        let place = stream.place;
        // The last one that begins at or before it.
        let at = files.into_iter().rev().find(|segment| segment.base <= place);
        stream.at = at.map(|segment| At { times: segment.times(), segment });
        Ok(stream)
    }

    /// Stream and place of what is told next. Absent: there is nothing yet.
    pub(super) fn position(&self) -> Option<(u64, u64)> {
        self.at.as_ref().map(|at| (at.segment.stream, self.place))
    }

    /// Looks anew whether there is more: it is not asked for each line of the other stream.
    pub(super) fn look_again(&mut self) {
        self.dry = false;
    }

    /// When the next line was written, if it is there in whole.
    pub(super) fn due(&mut self) -> io::Result<Option<i64>> {
        while self.whole().is_none() {
            if self.dry || !self.fill()? {
                self.dry = true;
                return Ok(None);
            }
        }
        Ok(Some(self.time()))
    }

    /// The next line, if it is there in whole; with `unended` what is there of it.
    pub(super) fn take(&mut self, unended: bool) -> Option<Line> {
        let (length, ends) = match self.whole() {
            Some(found) => found,
            None if unended && !self.buffer.is_empty() => (self.buffer.len(), false),
            None => return None,
        };
        let time = self.time();
        let mut data = self.buffer.split_to(length).freeze();
        data.truncate(length - usize::from(ends));
        self.place += length as u64;
        if self.buffer.is_empty() {
            self.cut = false;
        }
        Some(Line { time, data, partial: !ends, skipped: std::mem::take(&mut self.skipped) })
    }

    /// Whether there is the begin of a line.
    pub(super) fn has_unended(&self) -> bool {
        !self.buffer.is_empty()
    }

    /// Whether there may be more to read.
    pub(super) fn has_grown(&self) -> bool {
        let Some(At { segment, .. }) = &self.at else { return self.log.exists() };
        let end = self.place + self.buffer.len() as u64;
        segment.end().is_ok_and(|now| now != end) || !segment.is_current(&self.log)
    }

    fn time(&mut self) -> i64 {
        self.at.as_mut().map_or(0, |at| at.times.at(self.place))
    }

    /// Bytes of the next line, and whether it ends there with a newline.
    fn whole(&self) -> Option<(usize, bool)> {
        let seen = &self.buffer[..self.buffer.len().min(LINE_BYTES_MAX + 1)];
        match seen.iter().position(|byte| *byte == b'\n') {
            Some(newline) => Some((newline + 1, true)),
            None if self.buffer.len() >= LINE_BYTES_MAX => Some((LINE_BYTES_MAX, false)),
            None if self.cut && !self.buffer.is_empty() => Some((self.buffer.len(), false)),
            None => None,
        }
    }

    /// Reads on. `false`: there is no more at present.
    fn fill(&mut self) -> io::Result<bool> {
        let Some(at) = &self.at else { return self.begin() };
        if self.cut {
            return Ok(true);
        }
        let end = self.place + self.buffer.len() as u64;
        if at.segment.was_emptied() {
            return self.move_on(end);
        }
        let is_current = at.segment.is_current(&self.log);
        let before = self.buffer.len();
        self.buffer.resize(before + READ_BYTES, 0);
        let read = at.segment.read_at(end, &mut self.buffer[before..]);
        self.buffer.truncate(before + *read.as_ref().unwrap_or(&0));
        match read? {
            // It was put aside before this last read: it has no more.
            0 if !is_current => self.move_on(end),
            0 => Ok(false),
            _ => Ok(true),
        }
    }

    /// The first file came.
    fn begin(&mut self) -> io::Result<bool> {
        let fresh = Self::open(&self.log, None, None)?;
        let there = fresh.at.is_some();
        if there {
            *self = fresh;
        }
        Ok(there)
    }

    /// Goes on in the file that follows `end`. What of the stream is gone by then counts as skipped.
    fn move_on(&mut self, end: u64) -> io::Result<bool> {
        let Some(at) = &mut self.at else { return Ok(false) };
        let (stream, base, known) = (at.segment.stream, at.segment.base, at.times.at(end));
        let files = segments(&self.log)?;
        let Some(newest) = files.last() else { return Ok(false) };
        if newest.stream != stream {
            // The instance was made anew: its log begins anew.
            self.cut = !self.buffer.is_empty();
            if self.cut {
                return Ok(true);
            }
            return self.begin();
        }
        let next = files.into_iter().find(|segment| segment.base > base);
        let Some(segment) = next else { return Ok(false) };
        let gap = segment.base.saturating_sub(end);
        if gap > 0 && !self.buffer.is_empty() {
            // The begin of a line whose end is gone.
            self.cut = true;
            return Ok(true);
        }
        if gap > 0 {
            self.skipped += gap;
            self.place = segment.base;
        }
        let times = segment.times().after(known);
        self.at = Some(At { segment, times });
        Ok(true)
    }
}

/// The place from which `lines` lines are left.
fn tail_of(files: &[Segment], lines: usize) -> io::Result<u64> {
    let Some(last) = files.last() else { return Ok(0) };
    let end = last.end()?;
    if lines == 0 {
        return Ok(end);
    }
    let mut left = lines;
    let mut buffer = vec![0; READ_BYTES];
    for segment in files.iter().rev() {
        let mut until = segment.end()?;
        while until > segment.base {
            let from = until.saturating_sub(READ_BYTES as u64).max(segment.base);
            let length = usize::try_from(until - from).unwrap_or(READ_BYTES);
            let read = segment.read_at(from, &mut buffer[..length])?;
            for (index, byte) in buffer[..read].iter().enumerate().rev() {
                let place = from + index as u64 + 1;
                // The newline at the very end ends the last line, and begins none.
                if *byte == b'\n' && place < end {
                    left -= 1;
                    if left == 0 {
                        return Ok(place);
                    }
                }
            }
            until = from;
        }
    }
    Ok(files.first().map_or(0, |first| first.base))
}
