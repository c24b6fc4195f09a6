//! The verb `logs`: finds the copy that is meant, has its runtime tell what it wrote, and passes it on at the pace of who reads.

use std::sync::{Arc, LazyLock};
use std::time::SystemTime;

use skerry_daemon::OwnLog;
use skerry_model::InstanceName;
use skerry_proto::relay::v1 as pb;
use skerry_proto::relay::v1::open_request::Body as Up;
use tokio::sync::mpsc;

use super::own_log;
use crate::runtime::{LogAsk, LogPart, Observed, Place, Runtime, RuntimeError};

/// Parts that a runtime has ready before the last one is taken.
const PARTS_MAX: usize = 1;

/// Serves the log that `start` asks for, until its end or until nobody reads it any more.
pub(super) async fn serve(
    runtimes: &[Arc<dyn Runtime>],
    start: &pb::LogsStart,
    out: &mpsc::Sender<pb::OpenRequest>,
) -> Result<(), RuntimeError> {
    if start.instance.is_empty() {
        return own(start, out).await;
    }
    let name = InstanceName::parse(&start.instance).map_err(|error| RuntimeError {
        reason: "InstanceUnknown",
        message: error.to_string(),
        transient: false,
    })?;
    let (runtime, copy) = find(runtimes, &name).await?;
    let ask = LogAsk::of(start, copy.started);
    let (parts, told) = mpsc::channel(PARTS_MAX);
    let telling = async {
        let told = runtime.logs(&copy, &ask, &parts).await;
        drop(parts);
        told
    };
    let (told, ()) = tokio::join!(telling, pass(told, &start.grep, out));
    told
}

/// Serves what this agent says itself.
async fn own(start: &pb::LogsStart, out: &mpsc::Sender<pb::OpenRequest>) -> Result<(), RuntimeError> {
    /// When it began to.
    static STARTED: LazyLock<u64> = LazyLock::new(|| own_log::mark_of(SystemTime::now()));
    let ask = LogAsk::of(start, None);
    let (parts, told) = mpsc::channel(PARTS_MAX);
    let telling = async {
        own_log::tell(OwnLog::of_process(), *STARTED, &ask, &parts).await;
        drop(parts);
    };
    tokio::join!(telling, pass(told, &start.grep, out));
    Ok(())
}

/// The runtime that has a copy of the instance, and that copy: the one in its own place, if there are two.
pub(super) async fn find<'a>(
    runtimes: &'a [Arc<dyn Runtime>],
    name: &InstanceName,
) -> Result<(&'a Arc<dyn Runtime>, Observed), RuntimeError> {
    let mut failed = None;
    for runtime in runtimes {
        match runtime.observe().await {
            Ok(seen) => {
                let mut copies: Vec<Observed> =
                    seen.into_iter().filter(|copy| copy.instance == *name).collect();
                copies.sort_by_key(|copy| copy.place != Place::Own);
                if let Some(copy) = copies.into_iter().next() {
                    return Ok((runtime, copy));
                }
            }
            Err(error) => failed = Some(error),
        }
    }
    // One that does not answer may have it.
    Err(failed.unwrap_or_else(|| RuntimeError {
        reason: "NotHere",
        message: format!(
            "{name} has not been started here yet, or is gone: `skerry explain` says how it stands"
        ),
        transient: true,
    }))
}

/// Passes on what is told, as far as it has the text that is looked for.
async fn pass(mut told: mpsc::Receiver<LogPart>, grep: &str, out: &mpsc::Sender<pb::OpenRequest>) {
    // Bytes that were skipped before lines that are not told.
    let mut skipped = 0;
    while let Some(part) = told.recv().await {
        let batch = match part {
            LogPart::Lines(mut lines) => {
                if !grep.is_empty() {
                    lines.retain_mut(|line| {
                        skipped += std::mem::take(&mut line.skipped_bytes);
                        let has = contains(&line.data, grep.as_bytes());
                        if has {
                            line.skipped_bytes = std::mem::take(&mut skipped);
                        }
                        has
                    });
                }
                pb::LogBatch { lines, ..pb::LogBatch::default() }
            }
            LogPart::CaughtUp(position) => pb::LogBatch { lines: Vec::new(), caught_up: true, position },
        };
        if batch.lines.is_empty() && !batch.caught_up {
            continue;
        }
        if out.send(pb::OpenRequest { body: Some(Up::Logs(batch)) }).await.is_err() {
            return;
        }
    }
}

fn contains(data: &[u8], text: &[u8]) -> bool {
    text.is_empty() || data.windows(text.len()).any(|window| window == text)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn line(text: &str, skipped_bytes: u64) -> pb::LogLine {
        pb::LogLine { data: text.to_owned().into(), skipped_bytes, ..pb::LogLine::default() }
    }

    #[tokio::test]
    async fn only_lines_with_the_text_are_passed_on_and_what_was_skipped_before_them_is_kept() {
        let (parts, told) = mpsc::channel(4);
        let (out, mut frames) = mpsc::channel(4);
        parts.send(LogPart::Lines(vec![line("one", 5), line("two", 7)])).await.unwrap();
        parts.send(LogPart::Lines(vec![line("none", 1)])).await.unwrap();
        parts.send(LogPart::CaughtUp(bytes::Bytes::new())).await.unwrap();
        drop(parts);
        pass(told, "wo", &out).await;
        drop(out);
        let mut batches = Vec::new();
        while let Some(pb::OpenRequest { body: Some(Up::Logs(batch)) }) = frames.recv().await {
            batches.push(batch);
        }
        assert_eq!(batches.len(), 2, "a part of which nothing is left is not sent");
        assert_eq!(batches[0].lines, [line("two", 12)]);
        assert!(batches[1].caught_up);
    }

    #[test]
    fn a_text_is_found_among_any_bytes() {
        assert!(contains(b"\xff\0needle\xfe", b"needle"));
        assert!(!contains(b"need", b"needle") && contains(b"x", b""));
    }
}
