//! What a machine must have. Looked at before anything is changed, and all of it told at once.

use std::fmt;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use crate::identity::Enrolment;

/// Room that the agent needs for itself, with what it shall run: images need more, and where they are is Docker's matter.
const FREE_BYTES_MIN: u64 = 200 * 1024 * 1024;
/// 2026-01-01: earlier than this it is not.
const NOT_BEFORE: Duration = Duration::from_secs(1_767_225_600);
/// A clock that is further ahead than the life of any machine is wrong: 2100-01-01.
const NOT_AFTER: Duration = Duration::from_secs(4_102_444_800);

/// What is asked of the machine.
pub(super) struct Wanted {
    /// It is this one, not a root elsewhere.
    pub(super) here: bool,
    /// The service is to be started.
    pub(super) systemd: bool,
    /// Where Docker shall listen.
    pub(super) docker: Option<PathBuf>,
    pub(super) data_dir: PathBuf,
    /// By what it shall enrol.
    pub(super) enrolment: Option<Enrolment>,
}

/// What was found of one thing.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Finding {
    Good(String),
    /// Something will not work, and may come later.
    Warning(String),
    /// It cannot be installed.
    Fatal(String),
}

impl Finding {
    pub(super) fn is_fatal(&self) -> bool {
        matches!(self, Self::Fatal(_))
    }
}

impl fmt::Display for Finding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Good(text) => write!(f, "ok       {text}"),
            Self::Warning(text) => write!(f, "warning  {text}"),
            Self::Fatal(text) => write!(f, "missing  {text}"),
        }
    }
}

/// Looks at all of it.
pub(super) fn look(wanted: &Wanted) -> Vec<Finding> {
    let mut found = Vec::new();
    if wanted.here {
        found.push(root(rustix::process::geteuid().is_root()));
        found.push(cgroups(Path::new("/sys/fs/cgroup/cgroup.controllers").exists()));
        found.push(clock(SystemTime::now()));
        found.extend(
            wanted.docker.as_deref().map(|socket| docker(socket, UnixStream::connect(socket).is_ok())),
        );
    }
    if wanted.systemd {
        found.push(systemd(has_systemd()));
    }
    found.push(disk(&wanted.data_dir, free_bytes(&wanted.data_dir)));
    let is_enrolled = wanted.data_dir.join("identity").is_dir();
    found.extend(wanted.enrolment.as_ref().filter(|_| !is_enrolled).map(enrolment));
    found
}

/// Whether systemd is what runs this machine (sd_booted(3)).
pub(super) fn has_systemd() -> bool {
    Path::new("/run/systemd/system").is_dir()
}

fn root(is_root: bool) -> Finding {
    if is_root {
        Finding::Good("root".to_owned())
    } else {
        Finding::Fatal("root: run it with sudo".to_owned())
    }
}

fn systemd(is_there: bool) -> Finding {
    if is_there {
        Finding::Good("systemd".to_owned())
    } else {
        Finding::Fatal(
            "systemd: it does not run here; --no-start installs the files, and something else must start the agent"
                .to_owned(),
        )
    }
}

fn cgroups(is_there: bool) -> Finding {
    if is_there {
        Finding::Good("control groups, version 2".to_owned())
    } else {
        Finding::Warning(
            "control groups of version 2 are not at /sys/fs/cgroup: limits of processes are not held"
                .to_owned(),
        )
    }
}

fn clock(now: SystemTime) -> Finding {
    let since = now.duration_since(UNIX_EPOCH).unwrap_or_default();
    if (NOT_BEFORE..NOT_AFTER).contains(&since) {
        return Finding::Good("clock".to_owned());
    }
    Finding::Warning(
        "the clock is wrong: the agent works all the same, but times in logs and events are wrong".to_owned(),
    )
}

fn docker(socket: &Path, answers: bool) -> Finding {
    let socket = socket.display();
    if answers {
        Finding::Good(format!("Docker at {socket}"))
    } else {
        Finding::Warning(format!(
            "Docker does not answer at {socket}: containers start when it does; --no-docker if none shall"
        ))
    }
}

fn disk(data_dir: &Path, free_bytes: Option<u64>) -> Finding {
    let path = data_dir.display();
    match free_bytes {
        Some(free) if free < FREE_BYTES_MIN => Finding::Fatal(format!(
            "room on the disk of {path}: {} MiB are free, and {} MiB are needed",
            free >> 20,
            FREE_BYTES_MIN >> 20
        )),
        Some(free) => Finding::Good(format!("{} MiB are free on the disk of {path}", free >> 20)),
        None => Finding::Warning(format!("how much of the disk of {path} is free cannot be found out")),
    }
}

/// Free on the disk of `path`, or of the nearest directory above it that there is.
fn free_bytes(path: &Path) -> Option<u64> {
    let there = path.ancestors().find(|path| path.is_dir())?;
    let stat = rustix::fs::statvfs(there).ok()?;
    Some(stat.f_bavail.saturating_mul(stat.f_frsize))
}

fn enrolment(enrolment: &Enrolment) -> Finding {
    // It is copied, after other things have been done.
    if let Some(path) = &enrolment.token_file
        && let Err(error) = std::fs::File::open(path)
    {
        return Finding::Fatal(format!("the token of --token-file {}: {error}", path.display()));
    }
    match enrolment.check() {
        Ok(()) => Finding::Good("a way to enrol".to_owned()),
        Err(why) => Finding::Fatal(why.to_string()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_missing_is_told_with_its_remedy() {
        assert_eq!(root(false).to_string(), "missing  root: run it with sudo");
        assert!(systemd(false).to_string().contains("--no-start"));
        assert!(docker(Path::new("/run/d.sock"), false).to_string().contains("--no-docker"));
        assert!(!docker(Path::new("/run/d.sock"), false).is_fatal(), "it may come later");
        assert!(disk(Path::new("/x"), Some(1 << 20)).is_fatal());
        assert!(!disk(Path::new("/x"), Some(1 << 30)).is_fatal());
        for (seconds, good) in [(0, false), (1_800_000_000, true), (4_200_000_000, false)] {
            let found = clock(UNIX_EPOCH + Duration::from_secs(seconds));
            assert_eq!(matches!(found, Finding::Good(_)), good, "{seconds}");
            assert!(!found.is_fatal(), "no clock keeps an agent out");
        }
    }
}
