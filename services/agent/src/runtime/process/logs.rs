//! What a process wrote: read from the files of its shim, at the pace of who reads, over the seams where files are put aside.
//!
//! | module | job |
//! |---|---|
//! | `files` | which files a stream consists of, and when what is in them was written |
//! | `stream` | the lines of one stream |
//! | `both` | standard output and standard error as one log |

mod both;
mod files;
mod stream;
#[cfg(test)]
mod tests;

use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;

use tokio::sync::mpsc;
use tokio::time::{Instant, sleep};

use self::both::Both;
use super::error::io_failed;
use crate::runtime::RuntimeError;
use crate::runtime::logs::{LogAsk, LogPart};

/// Between two looks whether there is more: a few calls of the kernel each.
const LOOK_PERIOD: Duration = Duration::from_millis(100);
/// The begin of a line that nobody ends is told after so long.
const UNENDED_AFTER: Duration = Duration::from_secs(1);

/// Tells what is asked for of the log in `dir`, until its end or until nobody takes it any more.
pub(super) async fn tell(dir: &Path, ask: &LogAsk, out: &mpsc::Sender<LogPart>) -> Result<(), RuntimeError> {
    let dir = dir.to_owned();
    let mut both = blocking({
        let (dir, ask) = (dir.clone(), ask.clone());
        move || Both::open(&dir, &ask)
    })
    .await?;
    let (mut caught_up, mut quiet_since) = (false, Instant::now());
    loop {
        // Nothing is read for nobody: first there must be room.
        let Ok(room) = out.reserve().await else { return Ok(()) };
        let is_last = !ask.follow || quiet_since.elapsed() >= UNENDED_AFTER;
        let (back, lines) = blocking(move || {
            let lines = both.read(is_last)?;
            Ok((both, lines))
        })
        .await?;
        both = back;
        if !lines.is_empty() {
            room.send(LogPart::Lines(lines));
            quiet_since = Instant::now();
            continue;
        }
        if !both.is_at_end() {
            // All that was read was of no interest.
            continue;
        }
        if std::mem::replace(&mut caught_up, true) {
            drop(room);
        } else {
            room.send(LogPart::CaughtUp(both.position()));
        }
        if !ask.follow {
            return Ok(());
        }
        tokio::select! {
            () = out.closed() => return Ok(()),
            grown = grows(&both, &dir, quiet_since) => if !grown { return Ok(()) },
        }
    }
}

/// Waits until there may be more. `false`: the instance is gone.
async fn grows(both: &Both, dir: &Path, quiet_since: Instant) -> bool {
    loop {
        let was_due = quiet_since.elapsed() >= UNENDED_AFTER;
        sleep(LOOK_PERIOD).await;
        if both.has_grown() {
            return true;
        }
        if both.has_unended() && !was_due && quiet_since.elapsed() >= UNENDED_AFTER {
            return true;
        }
        if !dir.is_dir() {
            return false;
        }
    }
}

async fn blocking<T: Send + 'static>(
    step: impl FnOnce() -> io::Result<T> + Send + 'static,
) -> Result<T, RuntimeError> {
    let done = tokio::task::spawn_blocking(step).await.map_err(io::Error::other).flatten();
    done.map_err(|error| io_failed("reading the log", &error))
}

/// The files of a stream below `dir`.
fn log_of(dir: &Path, name: &str) -> PathBuf {
    dir.join(name)
}
