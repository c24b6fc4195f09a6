//! Where refused calls are kept: once a minute, each kind of them as one line of JSON, in a file that is begun anew when it is full; or in the
//! process's log.

use std::fs::{self, OpenOptions};
use std::io::{self, Write as _};
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use skerry_rpc::access::{Denied, DeniedCalls};

use crate::Shutdown;

/// How long calls are counted together.
const PERIOD: Duration = Duration::from_secs(60);
/// A file that would be longer is put aside, in the place of the one before: the two are all that there ever is.
const FILE_BYTES_MAX: u64 = 8 * 1024 * 1024;
/// Lines of a minute in the log; the rest is one number.
const LOGGED_MAX: usize = 20;

/// Keeps the refused calls of this process until the end.
pub async fn keep_denied(file: Option<PathBuf>, shutdown: Shutdown) {
    loop {
        let ending = tokio::select! {
            () = shutdown.wait() => true,
            () = tokio::time::sleep(PERIOD) => false,
        };
        let calls = DeniedCalls::of_process().take();
        match &file {
            _ if calls.is_empty() => {}
            Some(path) => {
                if let Err(error) = write(path, &calls, SystemTime::now(), FILE_BYTES_MAX) {
                    tracing::warn!(path = %path.display(), %error, "refused calls could not be written down");
                    log(&calls);
                }
            }
            None => log(&calls),
        }
        if ending {
            return;
        }
    }
}

fn log(calls: &[(Denied, u64)]) {
    for (Denied { who, method, reason }, count) in calls.iter().take(LOGGED_MAX) {
        tracing::warn!(who, method, reason, count, "calls were refused");
    }
    let rest: u64 = calls.iter().skip(LOGGED_MAX).map(|(_, count)| count).sum();
    if rest > 0 {
        tracing::warn!(count = rest, "more calls were refused");
    }
}

/// Appends. A file that would become too long is put aside first; where that fails nothing is written, so that the bound holds.
fn write(path: &Path, calls: &[(Denied, u64)], now: SystemTime, bytes_max: u64) -> io::Result<()> {
    let seconds = now.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default().as_secs();
    let mut text = String::new();
    for (Denied { who, method, reason }, count) in calls {
        let line = serde_json::json!({
            "time": seconds, "who": who, "method": method, "reason": reason, "count": count,
        });
        text.push_str(&line.to_string());
        text.push('\n');
    }
    let there = match fs::metadata(path) {
        Ok(there) => there.len(),
        Err(error) if error.kind() == io::ErrorKind::NotFound => 0,
        Err(error) => return Err(error),
    };
    let length = u64::try_from(text.len()).unwrap_or(u64::MAX);
    if there > 0 && there.saturating_add(length) > bytes_max {
        let mut aside = path.as_os_str().to_owned();
        aside.push(".1");
        fs::rename(path, aside)?;
    }
    let mut file = OpenOptions::new().create(true).append(true).open(path)?;
    file.write_all(text.as_bytes())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_file_never_takes_more_than_twice_its_bound() {
        let dir = tempfile::tempdir().expect("a directory");
        let path = dir.path().join("denied.jsonl");
        let one =
            Denied { who: "spiffe://d/project/p/user/\"a\"".into(), method: "M".into(), reason: "R".into() };
        for _ in 0..100 {
            write(&path, &[(one.clone(), 7)], SystemTime::UNIX_EPOCH, 500).expect("written");
        }
        let bytes: u64 = fs::read_dir(dir.path())
            .expect("listed")
            .map(|file| file.expect("a file").metadata().expect("it").len())
            .sum();
        assert!((1..=1000).contains(&bytes), "{bytes}");
        let aside = fs::read_to_string(dir.path().join("denied.jsonl.1")).expect("put aside");
        let line: serde_json::Value =
            serde_json::from_str(aside.lines().next().expect("a line")).expect("JSON");
        assert_eq!((line["count"].as_u64(), line["who"].as_str()), (Some(7), Some(&*one.who)));
    }

    #[test]
    fn a_full_file_that_cannot_be_put_aside_does_not_grow() {
        let dir = tempfile::tempdir().expect("a directory");
        let path = dir.path().join("denied.jsonl");
        fs::create_dir(dir.path().join("denied.jsonl.1")).expect("in the way");
        let one = Denied { who: "a".into(), method: "M".into(), reason: "R".into() };
        let written: Vec<bool> = (0..100)
            .map(|_| write(&path, &[(one.clone(), 1)], SystemTime::UNIX_EPOCH, 500).is_ok())
            .collect();
        assert!(written[0] && !written[99], "it is told, and then in the log");
        assert!(fs::metadata(&path).expect("the file").len() <= 500);
    }
}
