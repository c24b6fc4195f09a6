//! Ending an instance: asked, given its grace, killed, and everything it left behind likewise.
//!
//! Every wait may be dropped. How long an instance has been asked is kept in its slot, so that a repeated call does not begin its grace anew.

use std::path::Path;
use std::time::Duration;

use rustix::process::Signal;
use skerry_model::InstanceName;
use tokio::time::{Instant, sleep, timeout, timeout_at};

use super::error::{failed, io_failed};
use super::handle::{ProcessHandle, signal_of};
use super::holders::{Holders, holders};
use super::inspect::{Phase, View};
use super::layout::try_lock;
use super::{Claim, ProcessRuntime, ROUNDS_MAX, is_down};
use crate::runtime::{GRACE_DEFAULT, RuntimeError};
use crate::shim::cgroup;
use crate::shim::procfs::ProcessId;

/// How long a killed process may take to be gone. Longer: it hangs in the kernel.
const KILL_WAIT: Duration = Duration::from_secs(5);
/// How long a shim may take to clear up after its program.
const CLEAR_WAIT: Duration = Duration::from_secs(5);
/// How long a held lock is left alone before its holders are looked for: a shim on its way up or down, a process between fork and exec.
const SETTLE_WAIT: Duration = Duration::from_secs(2);
/// How often holders are looked for and killed: each may have forked while it was looked for.
const KILL_ROUNDS: usize = 3;
/// Between two looks at a lock.
const LOCK_LOOK: Duration = Duration::from_millis(10);

impl ProcessRuntime {
    /// Ends an instance, and leaves what there is of it.
    pub(super) async fn take_down(&self, instance: &InstanceName, how: How) -> Result<(), RuntimeError> {
        self.reap();
        let dir = self.instance_dir(instance);
        let mut claim = self.claim(instance).await;
        for _ in 0..ROUNDS_MAX {
            let view = self.view(&dir).await?;
            let Some(view) = view.filter(|view| !is_down(view)) else { return Ok(()) };
            // A shim on its way up has a program in a moment, which is asked first.
            if matches!(view.phase, Phase::Starting { .. }) && self.settled(&dir).await? {
                continue;
            }
            self.end(&mut claim, &dir, &view, how).await?;
        }
        Err(failed("StillStopping", "it changes by itself all the time", true))
    }

    /// Ends what `view` shows and waits until nothing of it holds the lock.
    pub(super) async fn end(
        &self,
        claim: &mut Claim,
        dir: &Path,
        view: &View,
        how: How,
    ) -> Result<(), RuntimeError> {
        let (shim, program) = match view.phase {
            Phase::Made | Phase::Ended { .. } => (None, None),
            Phase::Starting { shim } | Phase::Ending { shim, .. } => (Some(shim), None),
            Phase::Running { shim, program, .. } => (Some(shim), Some(program)),
            Phase::Orphaned { program, .. } => (None, Some(program)),
        };
        let (shim, program) = (shim.and_then(ProcessHandle::open), program.and_then(ProcessHandle::open));
        let policy = match how {
            How::Asked => Policy::of(view),
            How::Killed => Policy { signal: Signal::KILL, grace: Duration::ZERO },
        };
        if let Some(program) = &program {
            end(claim, &policy, std::slice::from_ref(program)).await?;
        }
        if let Some(shim) = &shim
            && timeout(CLEAR_WAIT, shim.gone()).await.is_err()
        {
            signal(shim, Signal::KILL)?;
            let _ = timeout(KILL_WAIT, shim.gone()).await;
        }
        self.end_cgroups(view).await?;
        self.free(claim, dir, &policy, program.is_some()).await
    }

    /// Kills what is left in the cgroups: what a shim that was killed could not clear up, wherever it hid.
    async fn end_cgroups(&self, view: &View) -> Result<(), RuntimeError> {
        let cgroups = view.launch.as_ref().map(|launch| launch.cgroups.clone()).unwrap_or_default();
        let until = Instant::now() + KILL_WAIT;
        loop {
            let dirs = cgroups.clone();
            let populated = self.look(move || {
                let populated = cgroup::is_populated(&dirs);
                if populated {
                    cgroup::kill(&dirs);
                }
                populated
            });
            if !populated.await? {
                return Ok(());
            }
            if Instant::now() >= until {
                return Err(failed(
                    "StillStopping",
                    "processes in its cgroup do not end even when killed",
                    true,
                ));
            }
            sleep(LOCK_LOOK).await;
        }
    }

    /// Waits until the lock is free. What holds it on is ended: gracefully if nobody was asked yet, else at once.
    async fn free(
        &self,
        claim: &mut Claim,
        dir: &Path,
        policy: &Policy,
        asked: bool,
    ) -> Result<(), RuntimeError> {
        if self.is_free_or_up(dir, SETTLE_WAIT).await? {
            return Ok(());
        }
        if !asked {
            // Not the shim, if it is there: it clears up behind its program.
            let roots = self.holders(claim, dir).await?.roots;
            let roots: Vec<_> = roots.into_iter().filter_map(ProcessHandle::open).collect();
            end(claim, policy, &roots).await?;
            if self.is_free_or_up(dir, SETTLE_WAIT).await? {
                return Ok(());
            }
        }
        for _ in 0..KILL_ROUNDS {
            for holder in self.holders(claim, dir).await?.all.into_iter().filter_map(ProcessHandle::open) {
                signal(&holder, Signal::KILL)?;
            }
            if self.is_free_or_up(dir, SETTLE_WAIT).await? {
                return Ok(());
            }
        }
        Err(failed("StillStopping", "processes of it that cannot be found or do not end hold its lock", true))
    }

    async fn holders(&self, claim: &Claim, dir: &Path) -> Result<Holders, RuntimeError> {
        let (dir, instance) = (dir.to_owned(), claim.name.to_string());
        self.look(move || holders(&dir, &instance)).await
    }

    /// Whether in this time the lock becomes free, or a copy comes up, started by a call that was dropped or by another agent: then the caller
    /// looks again.
    async fn is_free_or_up(&self, dir: &Path, wait: Duration) -> Result<bool, RuntimeError> {
        let until = Instant::now() + wait;
        loop {
            match try_lock(dir) {
                Ok(Some(_)) => return Ok(true),
                Ok(None) => {}
                Err(error) => return Err(io_failed("taking the instance's lock", &error)),
            }
            let phase = self.view(dir).await?.map(|view| view.phase);
            if matches!(phase, Some(Phase::Starting { .. } | Phase::Running { .. })) {
                return Ok(true);
            }
            if Instant::now() >= until {
                return Ok(false);
            }
            sleep(LOCK_LOOK).await;
        }
    }
}

/// Whether it is asked to end, or not.
#[derive(Debug, Clone, Copy)]
pub(super) enum How {
    /// As its spec says, and killed after its grace time.
    Asked,
    /// At once.
    Killed,
}

/// How an instance is asked to end.
struct Policy {
    signal: Signal,
    grace: Duration,
}

impl Policy {
    fn of(view: &View) -> Self {
        match &view.launch {
            Some(launch) => Self { signal: signal_of(&launch.stop_signal), grace: launch.stop_grace },
            None => Self { signal: Signal::TERM, grace: GRACE_DEFAULT },
        }
    }
}

/// Asks the processes to end, and kills those that have not in the grace time.
async fn end(claim: &mut Claim, policy: &Policy, processes: &[ProcessHandle]) -> Result<(), RuntimeError> {
    let Some(first) = processes.first() else { return Ok(()) };
    let asked_at = if let Some(at) = claim.asked(first.id()) {
        at
    } else {
        for process in processes {
            signal(process, policy.signal)?;
        }
        claim.note_asked(first.id(), Instant::now())
    };
    let all_gone = || async {
        for process in processes {
            process.gone().await;
        }
    };
    if timeout_at(asked_at + policy.grace, all_gone()).await.is_ok() {
        return Ok(());
    }
    for process in processes {
        signal(process, Signal::KILL)?;
    }
    timeout(KILL_WAIT, all_gone()).await.map_err(|_| {
        failed("StillStopping", format!("process {} does not end even when killed", first.id().pid), true)
    })
}

fn signal(process: &ProcessHandle, signal: Signal) -> Result<(), RuntimeError> {
    process.signal(signal).map_err(|error| {
        failed("StopFailed", format!("signalling process {}: {error}", process.id().pid), true)
    })
}

/// What is remembered of an instance between two calls.
#[derive(Debug, Default)]
pub(super) struct Slot {
    /// Who was asked to end, and when.
    asked: Option<(ProcessId, Instant)>,
}

impl Claim {
    /// Since when that process has been asked to end.
    pub(super) fn asked(&self, process: ProcessId) -> Option<Instant> {
        self.slot.asked.filter(|(asked, _)| *asked == process).map(|(_, at)| at)
    }

    fn note_asked(&mut self, process: ProcessId, at: Instant) -> Instant {
        self.slot.asked = Some((process, at));
        at
    }
}
