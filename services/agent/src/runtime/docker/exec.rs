//! Commands inside containers, for health checks.
//!
//! Docker has no call to end a command that it began. So one whose caller went away (a timeout) is noted, and ended by its process id when
//! the next one is due or Docker is looked at: where the agent shares the machine's processes with Docker and may signal them, which
//! is checked by the process's cgroup. Elsewhere it ends with its container, and until it has ended no second one begins for that
//! instance: they never pile up.

use std::sync::Mutex;
use std::time::Duration;

use bollard::exec::StartExecResults;
use bollard::models::{ExecConfig, ExecInspectResponse};
use futures_util::StreamExt as _;
use rustix::process::{Pid, PidfdFlags, Signal, pidfd_open, pidfd_send_signal};
use skerry_model::InstanceName;
use tracing::debug;

use super::client::{Client, LOOK_DEADLINE, START_DEADLINE};
use super::error::{Failure, Kind};
use crate::lock::lock;
use crate::runtime::RuntimeError;

/// For a command, beyond every timeout that a health check may ask for (10 min): the backstop of callers without one.
const EXEC_DEADLINE: Duration = Duration::from_secs(15 * 60);
/// Docker learns of the end of a command after its output ended.
const SETTLE_DEADLINE: Duration = Duration::from_secs(5);
const SETTLE_PERIOD: Duration = Duration::from_millis(10);
/// Longest that ending overdue commands may take, all together: a look at Docker waits for it.
const REAP_DEADLINE: Duration = Duration::from_secs(2);
/// Commands that are ended at one time.
const REAPS_AT_ONCE: usize = 32;
/// Commands noted at most; beyond it the oldest is forgotten, and ends with its container.
const OVERDUE_MAX: usize = 256;

/// A command whose caller went away.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Overdue {
    exec: String,
    container: String,
    instance: InstanceName,
}

/// Commands whose callers went away.
#[derive(Default)]
pub(super) struct Execs {
    overdue: Mutex<Vec<Overdue>>,
}

/// Notes a command as overdue when dropped before it ended.
struct Watched<'a> {
    execs: &'a Execs,
    overdue: Option<Overdue>,
}

impl Drop for Watched<'_> {
    fn drop(&mut self) {
        if let Some(overdue) = self.overdue.take() {
            self.execs.note(overdue);
        }
    }
}

impl Execs {
    /// Runs a command in a container until it ends: its exit code. Its output is thrown away.
    pub(super) async fn run(
        &self,
        client: &Client,
        instance: &InstanceName,
        container: &str,
        command: &[String],
    ) -> Result<i32, RuntimeError> {
        self.reap(client, Some(instance)).await;
        if self.noted().iter().any(|overdue| overdue.container == container) {
            return Err(RuntimeError {
                reason: "ExecStillRunning",
                message: format!("an earlier command in {instance} still runs after its timeout"),
                transient: true,
            });
        }
        let failed = |failure: Failure| {
            // The container is gone or ended; whoever looks next will see it.
            let reason = if failure.kind == Kind::NotFound { "NotRunning" } else { "ExecFailed" };
            failure.while_doing(&format!("running a command in {instance}"), reason)
        };
        self.run_once(client, instance, container, command).await.map_err(failed)
    }

    async fn run_once(
        &self,
        client: &Client,
        instance: &InstanceName,
        container: &str,
        command: &[String],
    ) -> Result<i32, Failure> {
        let docker = client.docker().await?;
        let config = ExecConfig {
            cmd: Some(command.to_vec()),
            // Attached only to hear the end.
            attach_stdout: Some(true),
            attach_stderr: Some(true),
            ..ExecConfig::default()
        };
        let exec = client.within(LOOK_DEADLINE, docker.create_exec(container, config)).await?.id;
        let overdue =
            Overdue { exec: exec.clone(), container: container.to_owned(), instance: instance.clone() };
        let mut watched = Watched { execs: self, overdue: Some(overdue) };
        let started = client.within(START_DEADLINE, docker.start_exec(&exec, None)).await?;
        if let StartExecResults::Attached { mut output, input } = started {
            let drain = async {
                while output.next().await.transpose()?.is_some() {}
                Ok(())
            };
            client.within(EXEC_DEADLINE, drain).await?;
            drop(input);
        }
        let ended = async {
            loop {
                let seen = docker.inspect_exec(&exec).await?;
                if !seen.running.unwrap_or(false)
                    && let Some(code) = seen.exit_code
                {
                    return Ok(i32::try_from(code).unwrap_or(-1));
                }
                tokio::time::sleep(SETTLE_PERIOD).await;
            }
        };
        let code = client.within(SETTLE_DEADLINE, ended).await?;
        watched.overdue = None;
        Ok(code)
    }

    /// Ends commands whose callers went away: all, or those of one instance.
    pub(super) async fn reap(&self, client: &Client, only: Option<&InstanceName>) {
        let due: Vec<Overdue> = self
            .noted()
            .iter()
            .filter(|one| only.is_none_or(|only| one.instance == *only))
            .cloned()
            .collect();
        // What is not reached in time is left to the next.
        let reaped = futures_util::stream::iter(due).for_each_concurrent(REAPS_AT_ONCE, async |overdue| {
            if has_ended(client, &overdue).await {
                self.noted().retain(|one| one.exec != overdue.exec);
            }
        });
        if tokio::time::timeout(REAP_DEADLINE, reaped).await.is_err() {
            debug!("commands that are overdue do not end");
        }
    }

    fn note(&self, overdue: Overdue) {
        let mut noted = self.noted();
        if noted.len() >= OVERDUE_MAX {
            noted.remove(0);
        }
        noted.push(overdue);
    }

    fn noted(&self) -> std::sync::MutexGuard<'_, Vec<Overdue>> {
        lock(&self.overdue)
    }
}

/// Looks whether a command has ended, ending it where that can be done.
async fn has_ended(client: &Client, overdue: &Overdue) -> bool {
    let Ok(docker) = client.docker().await else { return false };
    let look = async {
        loop {
            let seen = docker.inspect_exec(&overdue.exec).await?;
            // One that was made and never started has no process and never will.
            if !seen.running.unwrap_or(false) {
                return Ok(());
            }
            kill(overdue, &seen);
            tokio::time::sleep(SETTLE_PERIOD).await;
        }
    };
    match client.within(Duration::from_secs(1), look).await {
        Ok(()) | Err(Failure { kind: Kind::NotFound, .. }) => true,
        Err(failure) => {
            debug!(instance = %overdue.instance, error = failure.message, "a command does not end");
            false
        }
    }
}

/// Kills the command's process if it is one of the container's, seen from here. The descriptor makes sure that what was checked is what
/// is killed.
fn kill(overdue: &Overdue, seen: &ExecInspectResponse) {
    let pid = seen.pid.and_then(|pid| i32::try_from(pid).ok()).filter(|pid| *pid > 0).and_then(Pid::from_raw);
    let Some(pid) = pid else { return };
    let Ok(process) = pidfd_open(pid, PidfdFlags::empty()) else { return };
    let cgroup =
        std::fs::read_to_string(format!("/proc/{}/cgroup", pid.as_raw_nonzero())).unwrap_or_default();
    if cgroup.contains(&overdue.container) {
        let _ = pidfd_send_signal(process, Signal::KILL);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn overdue(n: usize) -> Overdue {
        let instance = InstanceName::parse("a/b/n/0").unwrap();
        Overdue { exec: n.to_string(), container: "c".into(), instance }
    }

    #[test]
    fn a_command_is_noted_when_its_caller_goes_away() {
        let execs = Execs::default();
        drop(Watched { execs: &execs, overdue: Some(overdue(1)) });
        drop(Watched { execs: &execs, overdue: None });
        assert_eq!(*execs.noted(), [overdue(1)]);
    }

    #[test]
    fn notes_are_bounded() {
        let execs = Execs::default();
        (0..2 * OVERDUE_MAX).for_each(|n| execs.note(overdue(n)));
        assert_eq!(execs.noted().len(), OVERDUE_MAX);
        assert_eq!(execs.noted()[0], overdue(OVERDUE_MAX));
    }

    #[tokio::test(start_paused = true)]
    async fn commands_that_do_not_end_hold_up_a_look_for_moments_only() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("docker.sock");
        // Takes connections, and answers none.
        let _hung = tokio::net::UnixListener::bind(&path).unwrap();
        let (client, execs) = (Client::new(path), Execs::default());
        (0..OVERDUE_MAX).for_each(|n| execs.note(overdue(n)));
        let begin = tokio::time::Instant::now();
        execs.reap(&client, None).await;
        assert!(begin.elapsed() <= REAP_DEADLINE, "{:?}", begin.elapsed());
        assert_eq!(execs.noted().len(), OVERDUE_MAX);
    }

    #[test]
    fn a_process_of_no_such_container_is_left_alone() {
        let mut child = std::process::Command::new("sleep").arg("60").spawn().unwrap();
        let seen = ExecInspectResponse { pid: Some(child.id().into()), ..ExecInspectResponse::default() };
        kill(&Overdue { container: "0123456789abcdef-nosuch".into(), ..overdue(1) }, &seen);
        assert_eq!(child.try_wait().unwrap(), None);
        child.kill().unwrap();
        child.wait().unwrap();
    }
}
