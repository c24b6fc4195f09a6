//! What the shim writes is read as it was written, wherever files are put aside meanwhile.

use std::fs;

use proptest::prelude::*;
use skerry_model::app::LogBounds;
use skerry_proto::relay::v1::LogLine;
use skerry_proto::relay::v1::log_line::Source;

use super::both::Both;
use super::*;
use crate::runtime::logs::{LINE_BYTES_MAX, PART_LINES_MAX};
use crate::shim::files::{STDERR, STDOUT};
use crate::shim::logs::Log;

fn bounds(max_size_bytes: u64, max_files: u32) -> LogBounds {
    LogBounds { max_size_bytes, max_files }
}

fn log(dir: &Path, name: &str, bounds: LogBounds) -> Log {
    Log::open(&dir.join(name), bounds).unwrap()
}

/// All that is there now.
fn drain(both: &mut Both, unended: bool) -> Vec<LogLine> {
    let mut lines = Vec::new();
    loop {
        let read = both.read(unended).unwrap();
        assert!(read.len() <= PART_LINES_MAX);
        lines.extend(read);
        if both.is_at_end() {
            return lines;
        }
    }
}

fn texts(lines: &[LogLine]) -> Vec<String> {
    lines.iter().map(|line| String::from_utf8_lossy(&line.data).into_owned()).collect()
}

/// The bytes that lines stand for.
fn joined(lines: &[LogLine]) -> Vec<u8> {
    let mut all = Vec::new();
    for line in lines {
        all.extend_from_slice(&line.data);
        if !line.partial {
            all.push(b'\n');
        }
    }
    all
}

/// Lines and what is counted as skipped are all that was written, in order.
fn check_whole(written: &[u8], lines: &[LogLine]) {
    let mut place = 0;
    for line in lines {
        place += usize::try_from(line.skipped_bytes).unwrap();
        let end = place + line.data.len();
        assert!(end <= written.len(), "{end} of {}", written.len());
        assert_eq!(&written[place..end], &line.data[..]);
        place = end + usize::from(!line.partial);
    }
    assert_eq!(place, written.len());
}

#[test]
fn both_streams_are_told_apart_and_together_in_the_order_of_time() {
    let dir = tempfile::tempdir().unwrap();
    let (mut out, mut err) =
        (log(dir.path(), STDOUT, bounds(1 << 20, 3)), log(dir.path(), STDERR, bounds(1 << 20, 3)));
    let pause = || std::thread::park_timeout(Duration::from_millis(15));
    for n in 0..3 {
        out.take(format!("out {n}\n").as_bytes());
        pause();
        err.take(format!("err {n}\n").as_bytes());
        pause();
    }
    let mut both = Both::open(dir.path(), &LogAsk::default()).unwrap();
    let lines = drain(&mut both, true);
    assert_eq!(texts(&lines), ["out 0", "err 0", "out 1", "err 1", "out 2", "err 2"]);
    assert!(lines.iter().all(|line| (line.source() == Source::Stdout) == line.data.starts_with(b"out")));
    assert!(lines.iter().map(|line| line.time_unix_nanos).is_sorted());
    // Told from where each stood.
    for (index, line) in lines.iter().enumerate() {
        let ask = LogAsk { position: line.position.clone(), ..LogAsk::default() };
        let rest = drain(&mut Both::open(dir.path(), &ask).unwrap(), true);
        assert_eq!(texts(&rest), texts(&lines[index + 1..]));
    }
    // By time, and from the end.
    let (since, until) = (Some(lines[2].time_unix_nanos), Some(lines[4].time_unix_nanos));
    let ask = LogAsk { since, until, ..LogAsk::default() };
    assert_eq!(texts(&drain(&mut Both::open(dir.path(), &ask).unwrap(), true)), ["out 1", "err 1"]);
    for tail in 0..8 {
        let ask = LogAsk { tail: Some(tail), ..LogAsk::default() };
        let rest = drain(&mut Both::open(dir.path(), &ask).unwrap(), true);
        assert_eq!(
            texts(&rest),
            texts(&lines[lines.len().saturating_sub(tail)..]),
            "the last {tail} of both"
        );
    }
}

#[test]
fn a_log_that_comes_later_is_followed_from_its_begin() {
    let dir = tempfile::tempdir().unwrap();
    let mut both = Both::open(dir.path(), &LogAsk { follow: true, ..LogAsk::default() }).unwrap();
    assert!(drain(&mut both, false).is_empty());
    let mut out = log(dir.path(), STDOUT, bounds(1 << 20, 3));
    out.take(b"first\nand");
    assert!(both.has_grown());
    assert_eq!(texts(&drain(&mut both, false)), ["first"]);
    assert!(both.has_unended() && !both.has_grown());
    let begin = drain(&mut both, true);
    assert_eq!((texts(&begin), begin[0].partial), (vec!["and".to_owned()], true));
    out.take(b" more\n");
    assert_eq!(texts(&drain(&mut both, false)), [" more"]);
}

#[test]
fn a_line_that_is_too_long_comes_in_parts_and_any_bytes_are_told() {
    let dir = tempfile::tempdir().unwrap();
    let mut long = vec![0xff_u8; LINE_BYTES_MAX * 2 + 5];
    long[7] = 0;
    long.push(b'\n');
    log(dir.path(), STDOUT, bounds(1 << 20, 3)).take(&long);
    let lines = drain(&mut Both::open(dir.path(), &LogAsk::default()).unwrap(), true);
    assert_eq!(lines.iter().map(|line| line.partial).collect::<Vec<_>>(), [true, true, false]);
    assert_eq!(joined(&lines), long);
}

#[test]
fn what_is_rotated_away_before_it_is_read_is_counted() {
    for max_files in [1, 2, 3] {
        let dir = tempfile::tempdir().unwrap();
        let mut out = log(dir.path(), STDOUT, bounds(100, max_files));
        let mut both = Both::open(dir.path(), &LogAsk { follow: true, ..LogAsk::default() }).unwrap();
        out.take(b"line 000\n");
        let mut lines = drain(&mut both, false);
        let mut written = b"line 000\n".to_vec();
        for n in 1..80 {
            let line = format!("line {n:03}\n");
            out.take(line.as_bytes());
            written.extend_from_slice(line.as_bytes());
        }
        let position = lines[0].position.clone();
        lines.extend(drain(&mut both, false));
        assert!(lines.iter().any(|line| line.skipped_bytes > 0), "{max_files} files");
        check_whole(&written, &lines);
        // Who comes back later is told what is left, and how much is not.
        let ask = LogAsk { position, ..LogAsk::default() };
        let later = drain(&mut Both::open(dir.path(), &ask).unwrap(), true);
        let first = lines[..1].iter().chain(&later).cloned().collect::<Vec<_>>();
        check_whole(&written, &first);
    }
}

#[test]
fn a_file_that_is_being_put_aside_is_never_taken_for_the_one_before_it() {
    let dir = tempfile::tempdir().unwrap();
    let mut out = log(dir.path(), STDOUT, bounds(20, 3));
    let mut both = Both::open(dir.path(), &LogAsk { follow: true, ..LogAsk::default() }).unwrap();
    out.take(b"line 000\n");
    let mut lines = drain(&mut both, false);
    for n in 1..9 {
        out.take(format!("line {n:03}\n").as_bytes());
    }
    // Half of what putting aside does: the file has its new name, and its marks do not.
    let at = |name: &str| dir.path().join(name);
    fs::rename(at("stdout.log"), at("stdout.log.1")).unwrap();
    let rest = std::thread::spawn({
        let (marks, aside) = (at("stdout.log.marks"), at("stdout.log.1.marks"));
        let dir = dir.path().to_owned();
        move || {
            std::thread::park_timeout(Duration::from_millis(3));
            fs::rename(&marks, &aside).unwrap();
            let head = fs::read(&aside).unwrap();
            let base = u64::from_le_bytes(head[8..16].try_into().unwrap());
            let next = base + fs::metadata(dir.join("stdout.log.1")).unwrap().len();
            fs::write(marks, [&head[..8], &next.to_le_bytes()[..]].concat()).unwrap();
            fs::write(dir.join("stdout.log"), "line 009\n").unwrap();
        }
    });
    lines.extend(drain(&mut both, false));
    rest.join().unwrap();
    lines.extend(drain(&mut both, true));
    let written: Vec<u8> = (0..10).flat_map(|n| format!("line {n:03}\n").into_bytes()).collect();
    check_whole(&written, &lines);
}

#[test]
fn an_instance_that_was_made_anew_is_told_from_its_begin() {
    let dir = tempfile::tempdir().unwrap();
    log(dir.path(), STDOUT, bounds(1 << 20, 3)).take(b"old\nold\n");
    let mut both = Both::open(dir.path(), &LogAsk { follow: true, ..LogAsk::default() }).unwrap();
    let old = drain(&mut both, false);
    for entry in fs::read_dir(dir.path()).unwrap() {
        fs::remove_file(entry.unwrap().path()).unwrap();
    }
    log(dir.path(), STDOUT, bounds(1 << 20, 3)).take(b"new\n");
    assert_eq!(texts(&drain(&mut both, false)), ["new"]);
    let ask = LogAsk { position: old[1].position.clone(), ..LogAsk::default() };
    assert_eq!(texts(&drain(&mut Both::open(dir.path(), &ask).unwrap(), true)), ["new"]);
}

#[test]
fn a_log_without_marks_is_told_too() {
    let dir = tempfile::tempdir().unwrap();
    fs::write(dir.path().join("stdout.log.1"), "one\n").unwrap();
    fs::write(dir.path().join("stdout.log"), "two\n").unwrap();
    let lines = drain(&mut Both::open(dir.path(), &LogAsk::default()).unwrap(), true);
    assert_eq!(texts(&lines), ["one", "two"]);
    assert_eq!(lines[0].time_unix_nanos, 0, "nobody knows when");
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 64, ..ProptestConfig::default() })]

    /// However it is written and however often it is looked: what is told and what is counted as skipped is all that was written, in order,
    /// and who goes on from any place has no line twice and none too few.
    #[test]
    fn nothing_is_lost_in_silence_and_nothing_is_told_twice(
        size in 40u64..200,
        files in 1u32..4,
        steps in prop::collection::vec((1usize..60, any::<bool>(), any::<bool>()), 1..60),
    ) {
        let dir = tempfile::tempdir().unwrap();
        let mut out = log(dir.path(), STDOUT, bounds(size, files));
        let mut both = Both::open(dir.path(), &LogAsk { follow: true, ..LogAsk::default() }).unwrap();
        let (mut written, mut lines) = (Vec::new(), Vec::new());
        for (number, (length, ends, reads)) in steps.into_iter().enumerate() {
            let mut piece: Vec<u8> = format!("{number}:").into_bytes();
            piece.resize(length.max(piece.len()), b'x');
            if ends {
                piece.push(b'\n');
            }
            out.take(&piece);
            written.extend_from_slice(&piece);
            if reads {
                lines.extend(drain(&mut both, false));
            }
            // Begins anew, now and then, from where it was.
            if let Some(last) = lines.last().filter(|_| reads && number % 3 == 0) {
                let position = LogLine::clone(last).position;
                both = Both::open(dir.path(), &LogAsk { follow: true, position, ..LogAsk::default() }).unwrap();
            }
        }
        lines.extend(drain(&mut both, true));
        check_whole(&written, &lines);
    }
}
