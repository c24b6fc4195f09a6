//! What an instance's directory says about it, checked against the processes that there are.

use std::fs;
use std::io;
use std::net::{IpAddr, Ipv4Addr};
use std::path::Path;
use std::time::SystemTime;

use skerry_model::InstanceName;

use crate::gpu::read_noted;
use crate::runtime::{Observed, RunState};
use crate::shim::files::{Ended, Launch, STDERR, STDOUT, Started};
use crate::shim::procfs::ProcessId;

/// What became of the last run.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Phase {
    /// Nothing was ever started here, or what was laid out could not be.
    Made,
    /// The shim is up, the program not yet.
    Starting { shim: ProcessId },
    /// Shim and program run.
    Running { shim: ProcessId, program: ProcessId, since: SystemTime },
    /// The program has ended, its shim still clears up after it.
    Ending { shim: ProcessId, code: i32, at: SystemTime, out_of_memory: bool },
    /// The program runs and its shim does not: somebody killed it. Nobody keeps its output or will see its exit code.
    Orphaned { program: ProcessId, since: SystemTime },
    /// Nothing that is recorded runs.
    Ended { code: Option<i32>, at: SystemTime, out_of_memory: bool },
}

/// One instance.
#[derive(Debug)]
pub(super) struct View {
    pub(super) launch: Option<Launch>,
    pub(super) started: Option<Started>,
    pub(super) phase: Phase,
}

impl View {
    /// Looks at `dir`: `None` when it is not there.
    pub(super) fn of(dir: &Path, boot: &str) -> io::Result<Option<Self>> {
        if !dir.is_dir() {
            return Ok(None);
        }
        // In this order: a shim that ends in between has written its exit record before the processes are looked at again.
        let launch = Launch::read(dir)?;
        let started = Started::read(dir)?;
        let alive = started.as_ref().filter(|started| started.boot == boot);
        let shim = alive.map(|started| started.shim).filter(|shim| shim.is_alive());
        let program = alive.and_then(|started| started.program).filter(|program| program.is_alive());
        let ended = Ended::read(dir)?.filter(|ended| {
            started.as_ref().is_some_and(|started| started.shim == ended.shim && started.boot == ended.boot)
        });
        let phase = match (&started, ended, shim, program) {
            (None, ..) => Phase::Made,
            (Some(_), Some(ended), Some(shim), _) => {
                Phase::Ending { shim, code: ended.code, at: ended.at, out_of_memory: ended.out_of_memory }
            }
            (Some(_), Some(ended), None, None) => {
                Phase::Ended { code: Some(ended.code), at: ended.at, out_of_memory: ended.out_of_memory }
            }
            (Some(started), _, None, Some(program)) => Phase::Orphaned { program, since: started.since },
            (Some(started), None, Some(shim), _) => match started.program {
                None => Phase::Starting { shim },
                // Also when it has ended and that is not recorded yet: its shim wakes us when it is.
                Some(program) => Phase::Running { shim, program, since: started.since },
            },
            (Some(started), None, None, None) if started.program.is_none() => Phase::Made,
            (Some(started), None, None, None) => {
                Phase::Ended { code: None, at: last_sign(dir, started.since), out_of_memory: false }
            }
        };
        Ok(Some(Self { launch, started, phase }))
    }

    /// Fingerprint of what was started, or else laid out.
    pub(super) fn fingerprint(&self) -> &str {
        let laid = || self.launch.as_ref().map(|launch| launch.fingerprint.as_str());
        self.started.as_ref().map(|started| started.fingerprint.as_str()).or_else(laid).unwrap_or_default()
    }

    pub(super) fn observed(&self, instance: InstanceName) -> Observed {
        let laid = || self.launch.as_ref().map(|launch| launch.revision.clone());
        let revision = self.started.as_ref().map(|started| started.revision.clone()).or_else(laid);
        let program = self.started.as_ref().and_then(|started| started.program);
        let (state, fingerprint) = match &self.phase {
            Phase::Made | Phase::Starting { .. } => (RunState::Created, self.fingerprint()),
            Phase::Running { since, .. } => (RunState::Running { since: *since }, self.fingerprint()),
            // Runs, but not as anybody wants it: without a fingerprint it is replaced, gracefully.
            Phase::Orphaned { since, .. } => (RunState::Running { since: *since }, ""),
            Phase::Ending { code, at, out_of_memory, .. } => (
                RunState::Exited { code: Some(*code), at: *at, out_of_memory: *out_of_memory },
                self.fingerprint(),
            ),
            Phase::Ended { code, at, out_of_memory } => {
                (RunState::Exited { code: *code, at: *at, out_of_memory: *out_of_memory }, self.fingerprint())
            }
        };
        let runs = matches!(state, RunState::Running { .. });
        Observed {
            instance,
            fingerprint: fingerprint.to_owned(),
            revision: revision.unwrap_or_default(),
            runtime_id: program.map(|program| program.pid.to_string()).unwrap_or_default(),
            state,
            address: runs.then_some(IpAddr::V4(Ipv4Addr::LOCALHOST)),
            image_health: None,
            drift: None,
            place: crate::runtime::Place::Own,
            started: self
                .started
                .as_ref()
                .filter(|started| started.program.is_some())
                .map(|started| started.since),
            warnings: self.launch.as_ref().map(|launch| launch.warnings.clone()).unwrap_or_default(),
            gpus: self.launch.as_ref().map(|launch| read_noted(&launch.gpus)).unwrap_or_default(),
        }
    }
}

/// When a run whose end nobody saw last showed a sign of life. The same answer each time it is asked.
fn last_sign(dir: &Path, since: SystemTime) -> SystemTime {
    let written = |name: &str| fs::metadata(dir.join(name)).and_then(|meta| meta.modified()).ok();
    [STDOUT, STDERR].iter().filter_map(|name| written(name)).fold(since, SystemTime::max)
}

#[cfg(test)]
mod tests {
    use std::time::{Duration, UNIX_EPOCH};

    use super::*;

    fn started(boot: &str, program: Option<ProcessId>) -> Started {
        Started {
            boot: boot.into(),
            fingerprint: "f".into(),
            revision: "r".into(),
            shim: DEAD,
            program,
            since: UNIX_EPOCH + Duration::from_secs(1),
        }
    }

    const DEAD: ProcessId = ProcessId { pid: i32::MAX, started: 1 };

    fn myself() -> ProcessId {
        ProcessId::of(std::process::id().try_into().unwrap()).unwrap()
    }

    fn phase(dir: &Path, boot: &str) -> Phase {
        View::of(dir, boot).unwrap().unwrap().phase
    }

    #[test]
    fn every_state_of_the_files_has_its_phase() {
        let dir = tempfile::tempdir().unwrap();
        let dir = dir.path();
        assert!(View::of(&dir.join("none"), "b").unwrap().is_none());
        assert_eq!(phase(dir, "b"), Phase::Made);
        started("b", None).write(dir).unwrap();
        assert_eq!(phase(dir, "b"), Phase::Made);
        Started { shim: myself(), ..started("b", None) }.write(dir).unwrap();
        assert_eq!(phase(dir, "b"), Phase::Starting { shim: myself() });
        Started { shim: myself(), ..started("b", Some(myself())) }.write(dir).unwrap();
        assert!(matches!(phase(dir, "b"), Phase::Running { .. }));
        assert!(matches!(phase(dir, "other"), Phase::Ended { code: None, .. }), "another boot: nothing runs");
        Started { shim: myself(), ..started("b", Some(DEAD)) }.write(dir).unwrap();
        assert!(matches!(phase(dir, "b"), Phase::Running { .. }), "until its exit is recorded");
        started("b", Some(myself())).write(dir).unwrap();
        assert!(matches!(phase(dir, "b"), Phase::Orphaned { .. }));
        let view = View::of(dir, "b").unwrap().unwrap();
        assert_eq!(view.observed(InstanceName::parse("a/b/c/0").unwrap()).fingerprint, "");
        started("b", Some(DEAD)).write(dir).unwrap();
        assert!(matches!(phase(dir, "b"), Phase::Ended { code: None, .. }));
        let at = UNIX_EPOCH + Duration::from_secs(5);
        let ended = Ended { shim: DEAD, boot: "b".into(), code: 3, at, out_of_memory: true };
        ended.write(dir, Ended::reserve(dir).unwrap()).unwrap();
        assert_eq!(phase(dir, "b"), Phase::Ended { code: Some(3), at, out_of_memory: true });
        let other = Ended { shim: myself(), ..ended };
        other.write(dir, Ended::reserve(dir).unwrap()).unwrap();
        assert!(matches!(phase(dir, "b"), Phase::Ended { code: None, .. }), "the exit of another run");
    }

    #[test]
    fn torn_files_are_as_if_they_were_not_there() {
        let dir = tempfile::tempdir().unwrap();
        for name in ["launch", "shim", "exit"] {
            fs::write(dir.path().join(name), b"skerry-record 1\nboot").unwrap();
        }
        let view = View::of(dir.path(), "b").unwrap().unwrap();
        assert_eq!(view.phase, Phase::Made);
        assert_eq!(view.observed(InstanceName::parse("a/b/c/0").unwrap()).state, RunState::Created);
    }
}
