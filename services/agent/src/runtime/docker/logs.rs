//! What containers wrote, as Docker keeps it: first what is there, then what comes. Docker says no places in a log, but times: a position is a
//! container, a time, and how many lines of that time were told.
//!
//! What Docker itself has rotated away is not counted: it does not say.

use std::collections::VecDeque;
use std::pin::pin;
use std::time::Duration;

use bollard::container::LogOutput;
use bollard::errors::Error;
use bollard::query_parameters::LogsOptions;
use bytes::{Buf as _, BufMut as _, Bytes, BytesMut};
use futures_util::{Stream, StreamExt as _};
use skerry_proto::relay::v1::LogLine;
use skerry_proto::relay::v1::log_line::Source;
use tokio::sync::mpsc;
use tokio::time::{Instant, timeout_at};

use super::client::Client;
use super::error::Failure;
use crate::runtime::RuntimeError;
use crate::runtime::logs::{LINE_BYTES_MAX, LogAsk, LogPart, PART_BYTES_MAX, PART_LINES_MAX, size};

/// What a position begins with.
const KIND: u8 = b'd';
/// Bytes of a container's id that a position has.
const ID_BYTES: usize = 12;
/// Bytes of a position.
const POSITION_BYTES: usize = 1 + ID_BYTES + 8 + 4;
/// Lines at the end that are kept where Docker itself cannot count them, in bytes; what is before them is not told.
const TAIL_BYTES_MAX: usize = 1024 * 1024;

/// Lines that come so soon after others were sent are gathered: Docker tells them one by one, and a frame for each would cost more than they do.
/// One that comes alone is sent at once.
const GATHERING: Duration = Duration::from_millis(5);

/// How far a log was told.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
struct Place {
    time: i64,
    /// Lines of that time that were told.
    told: u32,
}

/// Tells what is asked for of the log of a container, until its end or until nobody takes it any more.
pub(super) async fn tell(
    client: &Client,
    container: &str,
    ask: &LogAsk,
    out: &mpsc::Sender<LogPart>,
) -> Result<(), RuntimeError> {
    let failed = |failure: Failure| failure.while_doing("reading the log", "LogFailed");
    let docker = client.docker().await.map_err(failed)?;
    let mut reader = Reader::new(container, ask);
    let there = docker.logs(container, Some(reader.options(false)));
    if !reader.pass(there, out).await.map_err(failed)? || !reader.end_of_tail(out).await {
        return Ok(());
    }
    if out.send(LogPart::CaughtUp(reader.position())).await.is_err() || !ask.follow {
        return Ok(());
    }
    reader.resume();
    let coming = docker.logs(container, Some(reader.options(true)));
    tokio::select! {
        passed = reader.pass(coming, out) => passed.map(drop).map_err(failed),
        () = out.closed() => Ok(()),
    }
}

/// Lines that go out together.
struct Part {
    lines: Vec<LogLine>,
    bytes: usize,
    /// Until then more is waited for.
    due: Instant,
}

impl Part {
    fn push(&mut self, line: LogLine) {
        self.bytes += size(&line);
        self.lines.push(line);
    }

    fn is_full(&self) -> bool {
        self.bytes >= PART_BYTES_MAX || self.lines.len() >= PART_LINES_MAX
    }

    fn is_due(&self) -> bool {
        !self.lines.is_empty() && Instant::now() >= self.due
    }

    /// `false`: nobody takes them.
    async fn send(&mut self, out: &mpsc::Sender<LogPart>) -> bool {
        let lines = std::mem::take(&mut self.lines);
        self.bytes = 0;
        let taken = lines.is_empty() || out.send(LogPart::Lines(lines)).await.is_ok();
        self.due = Instant::now() + GATHERING;
        taken
    }
}

/// What is known while a log is read.
struct Reader<'a> {
    container: &'a str,
    ask: &'a LogAsk,
    /// What was told last.
    place: Place,
    /// Up to here it was told before; nothing, once that was found or there is none.
    resume: Option<Place>,
    /// Lines of the time of `resume` that came by.
    passed: u32,
    /// The last lines, where only they are asked for and Docker cannot count them.
    tail: Option<VecDeque<LogLine>>,
    tail_bytes: usize,
    /// Of what is there nothing is told.
    tells_none: bool,
}

impl<'a> Reader<'a> {
    fn new(container: &'a str, ask: &'a LogAsk) -> Self {
        let resume = decode(&ask.position, container);
        let place = resume.unwrap_or_default();
        let counts = ask.tail.is_some() && resume.is_none() && ask.until.is_some();
        let tells_none = ask.tail == Some(0) && resume.is_none();
        let tail = counts.then(VecDeque::new);
        Self { container, ask, place, resume, passed: 0, tail, tail_bytes: 0, tells_none }
    }

    /// What Docker is asked. It counts whole seconds; what is too much is left out here.
    fn options(&self, follow: bool) -> LogsOptions {
        let since = self.resume.map(|place| place.time).into_iter().chain(self.ask.since).max();
        let by_docker = self.ask.tail.filter(|_| self.resume.is_none() && self.tail.is_none() && !follow);
        LogsOptions {
            follow,
            stdout: true,
            stderr: true,
            timestamps: true,
            since: since.map_or(0, |nanos| i32::try_from(nanos / 1_000_000_000).unwrap_or(i32::MAX)),
            until: 0,
            // Of none, the last one says where to go on.
            tail: by_docker.map_or_else(|| "all".to_owned(), |lines| lines.max(1).to_string()),
        }
    }

    /// Where to go on. Empty: there was no line yet.
    fn position(&self) -> Bytes {
        if self.place == Place::default() { Bytes::new() } else { encode(self.container, self.place) }
    }

    /// What comes is read from the place that was told last.
    fn resume(&mut self) {
        self.resume = (self.place != Place::default()).then_some(self.place);
        self.passed = 0;
        self.tells_none = false;
    }

    /// Passes on what Docker tells. `false`: nobody takes it any more.
    async fn pass(
        &mut self,
        told: impl Stream<Item = Result<LogOutput, Error>>,
        out: &mpsc::Sender<LogPart>,
    ) -> Result<bool, Failure> {
        let mut told = pin!(told.ready_chunks(PART_LINES_MAX).fuse());
        let mut part = Part { lines: Vec::new(), bytes: 0, due: Instant::now() };
        loop {
            let chunk = if part.lines.is_empty() {
                told.next().await
            } else {
                match timeout_at(part.due, told.next()).await {
                    Ok(chunk) => chunk,
                    Err(_) if part.send(out).await => continue,
                    Err(_) => return Ok(false),
                }
            };
            let Some(chunk) = chunk else { return Ok(part.send(out).await) };
            for output in chunk {
                let output = match output {
                    Ok(output) => output,
                    Err(error) => {
                        part.send(out).await;
                        return Err(error.into());
                    }
                };
                for line in self.lines(output) {
                    part.push(line);
                    if part.is_full() && !part.send(out).await {
                        return Ok(false);
                    }
                }
            }
            if part.is_due() && !part.send(out).await {
                return Ok(false);
            }
        }
    }

    /// Tells the last lines that were kept. `false`: nobody takes them.
    async fn end_of_tail(&mut self, out: &mpsc::Sender<LogPart>) -> bool {
        let mut kept = self.tail.take().unwrap_or_default();
        while !kept.is_empty() {
            let (mut lines, mut bytes) = (Vec::new(), 0);
            while bytes < PART_BYTES_MAX
                && let Some(line) = kept.pop_front()
            {
                bytes += size(&line);
                lines.push(line);
            }
            if out.send(LogPart::Lines(lines)).await.is_err() {
                return false;
            }
        }
        true
    }

    /// The lines of one message of Docker's, as far as they are asked for now.
    fn lines(&mut self, output: LogOutput) -> Vec<LogLine> {
        let (source, message) = match output {
            LogOutput::StdErr { message } => (Source::Stderr, message),
            LogOutput::StdOut { message } => (Source::Stdout, message),
            LogOutput::StdIn { message } | LogOutput::Console { message } => (Source::Unspecified, message),
        };
        let (time, mut data) = split_time(message);
        if self.was_told(time) {
            return Vec::new();
        }
        self.place = match self.place {
            Place { time: last, told } if last == time => Place { time, told: told + 1 },
            _ => Place { time, told: 1 },
        };
        if !self.ask.has(time) || self.tells_none {
            return Vec::new();
        }
        let has_end = data.last() == Some(&b'\n');
        data.truncate(data.len() - usize::from(has_end));
        // A terminal ends lines with both, and its messages are lines.
        if source == Source::Unspecified && data.last() == Some(&b'\r') {
            data.truncate(data.len() - 1);
        }
        let ends = has_end || source == Source::Unspecified;
        let position = encode(self.container, self.place);
        let mut lines = Vec::new();
        loop {
            let part = data.split_to(data.len().min(LINE_BYTES_MAX));
            let is_last = data.is_empty();
            lines.push(LogLine {
                source: source.into(),
                time_unix_nanos: time,
                data: part,
                partial: !(is_last && ends),
                skipped_bytes: 0,
                position: position.clone(),
            });
            if is_last {
                break;
            }
        }
        self.keep(lines)
    }

    /// Keeps lines for the end, where only the last are asked for.
    fn keep(&mut self, lines: Vec<LogLine>) -> Vec<LogLine> {
        let (Some(kept), Some(most)) = (&mut self.tail, self.ask.tail) else { return lines };
        for line in lines {
            self.tail_bytes += size(&line);
            kept.push_back(line);
        }
        while kept.len() > most || self.tail_bytes > TAIL_BYTES_MAX {
            let Some(line) = kept.pop_front() else { break };
            self.tail_bytes -= size(&line);
        }
        Vec::new()
    }

    /// Whether a line of that time was told by an earlier reading. Docker tells lines in the order in which they came in, so that all that
    /// comes after the last one told is new, whatever its time.
    fn was_told(&mut self, time: i64) -> bool {
        let Some(resume) = self.resume else { return false };
        if time == resume.time && self.passed < resume.told {
            self.passed += 1;
            if self.passed == resume.told {
                self.resume = None;
            }
            return true;
        }
        if time > resume.time {
            // It was rotated away.
            self.resume = None;
            return false;
        }
        true
    }
}

/// Takes the time off that Docker writes before each line: `2026-11-27T21:46:30.123456789Z `.
fn split_time(mut message: Bytes) -> (i64, Bytes) {
    let Some(space) = message.iter().take(40).position(|byte| *byte == b' ') else { return (0, message) };
    let Some(time) = std::str::from_utf8(&message[..space]).ok().and_then(parse_time) else {
        return (0, message);
    };
    message.advance(space + 1);
    (time, message)
}

/// RFC 3339 in UTC, in nanoseconds since 1970.
fn parse_time(text: &str) -> Option<i64> {
    let text = text.strip_suffix('Z')?;
    let (date, clock) = text.split_once('T')?;
    let mut date = date.splitn(3, '-').map(str::parse::<i64>);
    let (year, month, day) = (date.next()?.ok()?, date.next()?.ok()?, date.next()?.ok()?);
    let (clock, fraction) = clock.split_once('.').unwrap_or((clock, ""));
    let mut clock = clock.splitn(3, ':').map(str::parse::<i64>);
    let (hour, minute, second) = (clock.next()?.ok()?, clock.next()?.ok()?, clock.next()?.ok()?);
    if !(1970..=2261).contains(&year)
        || !(1..=12).contains(&month)
        || !(1..=31).contains(&day)
        || fraction.len() > 9
    {
        return None;
    }
    let nanos: i64 = if fraction.is_empty() { 0 } else { format!("{fraction:0<9}").parse().ok()? };
    // Days since 1970 in the Gregorian calendar: Howard Hinnant, "chrono-Compatible Low-Level Date Algorithms", days_from_civil.
    let (year, shifted) = if month <= 2 { (year - 1, month + 9) } else { (year, month - 3) };
    let (era, year_of_era) = (year.div_euclid(400), year.rem_euclid(400));
    let day_of_year = (153 * shifted + 2) / 5 + day - 1;
    let day_of_era = year_of_era * 365 + year_of_era / 4 - year_of_era / 100 + day_of_year;
    let days = era * 146_097 + day_of_era - 719_468;
    let seconds = days * 86_400 + hour * 3600 + minute * 60 + second;
    seconds.checked_mul(1_000_000_000)?.checked_add(nanos)
}

/// The begin of a container's id, as bytes.
fn id_of(container: &str) -> [u8; ID_BYTES] {
    let mut id = [0; ID_BYTES];
    for (byte, digits) in id.iter_mut().zip(container.as_bytes().chunks(2)) {
        *byte =
            std::str::from_utf8(digits).ok().and_then(|hex| u8::from_str_radix(hex, 16).ok()).unwrap_or(0);
    }
    id
}

fn encode(container: &str, place: Place) -> Bytes {
    let mut bytes = BytesMut::with_capacity(POSITION_BYTES);
    bytes.put_u8(KIND);
    bytes.put_slice(&id_of(container));
    bytes.put_i64(place.time);
    bytes.put_u32(place.told);
    bytes.freeze()
}

/// Nothing for what is not a position in the log of this container.
fn decode(bytes: &Bytes, container: &str) -> Option<Place> {
    let mut bytes = bytes.clone();
    if bytes.len() != POSITION_BYTES
        || bytes.get_u8() != KIND
        || bytes.split_to(ID_BYTES) != id_of(container)[..]
    {
        return None;
    }
    Some(Place { time: bytes.get_i64(), told: bytes.get_u32() })
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const ID: &str = "0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef";

    fn message(time: i64, text: &str) -> LogOutput {
        let (seconds, nanos) = (time / 1_000_000_000, time % 1_000_000_000);
        let clock = format!("{:02}:{:02}:{:02}", seconds / 3600, seconds / 60 % 60, seconds % 60);
        LogOutput::StdOut { message: format!("1970-01-01T{clock}.{nanos:09}Z {text}\n").into() }
    }

    #[test]
    fn times_are_read_as_docker_writes_them() {
        assert_eq!(parse_time("1970-01-01T00:00:00.000000001Z"), Some(1));
        assert_eq!(parse_time("2026-11-27T21:46:30.5Z"), Some(1_795_815_990_500_000_000));
        assert_eq!(parse_time("2000-02-29T00:00:00Z"), Some(951_782_400_000_000_000));
        for bad in ["", "2026-11-27", "2026-13-27T21:46:30Z", "x-y-zT1:2:3Z", "2026-11-27T21:46:30+01:00"] {
            assert_eq!(parse_time(bad), None, "{bad}");
        }
        let (time, data) = split_time(Bytes::from_static(b"no time here\n"));
        assert_eq!((time, &data[..]), (0, &b"no time here\n"[..]));
    }

    #[test]
    fn a_position_counts_for_its_container_alone() {
        let place = Place { time: 77, told: 3 };
        assert_eq!(decode(&encode(ID, place), ID), Some(place));
        assert_eq!(decode(&encode(ID, place), &ID.replace('0', "1")), None);
        assert_eq!(decode(&Bytes::from_static(b"d"), ID), None);
    }

    #[test]
    fn a_line_that_docker_split_or_that_is_too_long_is_marked() {
        let ask = LogAsk::default();
        let mut reader = Reader::new(ID, &ask);
        let long = "x".repeat(LINE_BYTES_MAX + 1);
        let lines = reader.lines(message(1, &long));
        assert_eq!(
            lines.iter().map(|line| (line.data.len(), line.partial)).collect::<Vec<_>>(),
            [(LINE_BYTES_MAX, true), (1, false)]
        );
        let part = LogOutput::StdErr { message: Bytes::from_static(b"1970-01-01T00:00:01Z part") };
        let lines = reader.lines(part);
        assert_eq!(
            (lines[0].source(), lines[0].partial, &lines[0].data[..]),
            (Source::Stderr, true, &b"part"[..])
        );
        let terminal = LogOutput::Console { message: Bytes::from_static(b"1970-01-01T00:00:02Z $ \r\n") };
        let lines = reader.lines(terminal);
        assert_eq!(
            (lines[0].source(), lines[0].partial, &lines[0].data[..]),
            (Source::Unspecified, false, &b"$ "[..])
        );
        assert_eq!(reader.lines(message(3, ""))[0].data.len(), 0, "an empty line is a line");
    }

    #[test]
    fn the_last_lines_before_an_end_are_counted_here() {
        let ask = LogAsk { tail: Some(2), until: Some(4), ..LogAsk::default() };
        let mut reader = Reader::new(ID, &ask);
        assert_eq!(reader.options(false).tail, "all");
        for time in 1..9 {
            assert!(reader.lines(message(time, "x")).is_empty());
        }
        let kept: Vec<i64> = reader.tail.iter().flatten().map(|line| line.time_unix_nanos).collect();
        assert_eq!(kept, [2, 3]);
        let plain = LogAsk { tail: Some(2), ..LogAsk::default() };
        assert_eq!(Reader::new(ID, &plain).options(false).tail, "2");
    }

    proptest! {
        /// Whoever comes back with the position of any line is told exactly the lines after it.
        #[test]
        fn who_goes_on_has_no_line_twice_and_none_too_few(gaps in prop::collection::vec(0i64..3, 1..40)) {
            let mut time = 0;
            let times: Vec<i64> = gaps.iter().map(|gap| { time += gap; time + 1 }).collect();
            let ask = LogAsk::default();
            let mut reader = Reader::new(ID, &ask);
            let all: Vec<LogLine> =
                times.iter().enumerate().flat_map(|(n, time)| reader.lines(message(*time, &n.to_string()))).collect();
            prop_assert_eq!(all.len(), times.len());
            for (index, line) in all.iter().enumerate() {
                let ask = LogAsk { position: line.position.clone(), ..LogAsk::default() };
                let mut reader = Reader::new(ID, &ask);
                let rest: Vec<LogLine> =
                    times.iter().enumerate().flat_map(|(n, time)| reader.lines(message(*time, &n.to_string()))).collect();
                prop_assert_eq!(&rest, &all[index + 1..]);
            }
        }
    }
}
