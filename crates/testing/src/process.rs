//! A child process that ends with its test, with its output in a file.

use std::{
    ffi::OsStr,
    fs::{self, File},
    net::SocketAddr,
    os::unix::process::CommandExt as _,
    path::{Path, PathBuf},
    process::{Child, Command, ExitStatus, Stdio},
    time::Duration,
};

use anyhow::{Context, Result, anyhow, bail};
use rustix::process::{Pid, Signal};
use tokio::time::{sleep, timeout};

/// Time between two looks at a file, a port or a process.
const POLL_PERIOD: Duration = Duration::from_millis(10);
/// How much of the output an error shows.
const TAIL_LINES: usize = 30;

/// A running program. Dropping it kills it with everything in its process group; what left the group (a shim that outlives its
/// agent by design) is the test's to clean up.
#[derive(Debug)]
pub struct Process {
    name: String,
    child: Child,
    log: PathBuf,
    status: Option<ExitStatus>,
}

impl Process {
    /// Starts `program` with standard output and error appended to `log`, in a process group of its own.
    pub fn spawn<S: AsRef<OsStr>>(
        program: impl AsRef<OsStr>,
        args: impl IntoIterator<Item = S>,
        log: impl Into<PathBuf>,
    ) -> Result<Self> {
        Self::spawn_command(Command::new(program).args(args), log)
    }

    /// The same with environment or directory set before.
    pub fn spawn_command(command: &mut Command, log: impl Into<PathBuf>) -> Result<Self> {
        let log = log.into();
        let name =
            Path::new(command.get_program()).file_name().unwrap_or_default().to_string_lossy().into_owned();
        let file = File::options().create(true).append(true).open(&log);
        let file = file.with_context(|| format!("opening {}", log.display()))?;
        let errors = file.try_clone().context("sharing the log file")?;
        command.stdin(Stdio::null()).stdout(file).stderr(errors).process_group(0);
        let child = command.spawn().with_context(|| format!("starting {command:?}"))?;
        Ok(Self { name, child, log, status: None })
    }

    /// Process id.
    #[must_use]
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Everything that it has printed so far, with what earlier processes on the same log file printed.
    #[must_use]
    pub fn output(&self) -> String {
        fs::read(&self.log).map(|bytes| String::from_utf8_lossy(&bytes).into_owned()).unwrap_or_default()
    }

    /// Waits for a line that contains `text`, and returns it. A line that an earlier process left in the same log counts: give
    /// each process a log of its own where that matters.
    ///
    /// # Errors
    /// After `deadline`, or when the process ends before; with the last lines of its output.
    pub async fn wait_for_line(&mut self, text: &str, deadline: Duration) -> Result<String> {
        self.wait_until(&format!("a line with `{text}`"), deadline, |process| {
            process.output().lines().find(|line| line.contains(text)).map(str::to_owned)
        })
        .await
    }

    /// Waits until something accepts TCP connections on `address`.
    ///
    /// # Errors
    /// After `deadline`, or when the process ends before; with the last lines of its output.
    pub async fn wait_for_port(&mut self, address: SocketAddr, deadline: Duration) -> Result<()> {
        self.wait_until(&format!("a listener on {address}"), deadline, |_| {
            std::net::TcpStream::connect_timeout(&address, Duration::from_secs(1)).ok().map(drop)
        })
        .await
    }

    async fn wait_until<T>(
        &mut self,
        what: &str,
        deadline: Duration,
        mut look: impl FnMut(&Self) -> Option<T>,
    ) -> Result<T> {
        let waited = timeout(deadline, async {
            loop {
                // The end first, the look second: a process may print its line and end.
                let ended = self.try_wait()?;
                if let Some(found) = look(self) {
                    return Ok(found);
                }
                if let Some(status) = ended {
                    return Err(anyhow!("ended with {status} before {what}"));
                }
                sleep(POLL_PERIOD).await;
            }
        });
        let waited = match waited.await {
            Ok(result) => result,
            Err(_) => Err(anyhow!("no {what} within {deadline:?}")),
        };
        waited.with_context(|| format!("{}; its last lines:\n{}", self.name, self.tail()))
    }

    fn tail(&self) -> String {
        let output = self.output();
        let lines: Vec<&str> = output.lines().collect();
        lines[lines.len().saturating_sub(TAIL_LINES)..].join("\n")
    }

    /// Its exit status, if it has ended.
    pub fn try_wait(&mut self) -> Result<Option<ExitStatus>> {
        if self.status.is_none() {
            self.status = self.child.try_wait().with_context(|| format!("looking after {}", self.name))?;
        }
        Ok(self.status)
    }

    /// Waits for its end.
    ///
    /// # Errors
    /// After `deadline`.
    pub async fn wait(&mut self, deadline: Duration) -> Result<ExitStatus> {
        let waited = timeout(deadline, async {
            loop {
                if let Some(status) = self.try_wait()? {
                    return Ok(status);
                }
                sleep(POLL_PERIOD).await;
            }
        });
        match waited.await {
            Ok(status) => status,
            Err(_) => {
                bail!("{} has not ended within {deadline:?}; its last lines:\n{}", self.name, self.tail())
            }
        }
    }

    /// Sends a signal to the process alone, not to its group. Nothing happens when it has ended.
    pub fn signal(&mut self, signal: Signal) -> Result<()> {
        if self.try_wait()?.is_some() {
            return Ok(());
        }
        rustix::process::kill_process(id(&self.child), signal)
            .with_context(|| format!("sending {signal:?} to {}", self.name))
    }

    /// `kill -9` of the process alone, and waits until it is gone.
    pub fn kill(&mut self) -> Result<()> {
        self.signal(Signal::KILL)?;
        // KILL cannot be caught: this ends as soon as the kernel has cleaned up.
        self.status = Some(self.child.wait().with_context(|| format!("waiting for {}", self.name))?);
        Ok(())
    }

    /// SIGTERM, then waits for the end.
    ///
    /// # Errors
    /// When it has not ended after `deadline`.
    pub async fn terminate(&mut self, deadline: Duration) -> Result<ExitStatus> {
        self.signal(Signal::TERM)?;
        self.wait(deadline).await
    }

    /// SIGSTOP: it holds its sockets and answers nothing.
    pub fn pause(&mut self) -> Result<()> {
        self.signal(Signal::STOP)
    }

    /// SIGCONT.
    pub fn resume(&mut self) -> Result<()> {
        self.signal(Signal::CONT)
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        // The group may outlive its leader, so it is killed even when the leader has ended. Failure means that it is gone.
        let _ = rustix::process::kill_process_group(id(&self.child), Signal::KILL);
        let _ = self.child.wait();
    }
}

fn id(child: &Child) -> Pid {
    Pid::from_child(child)
}

#[cfg(test)]
mod tests {
    use super::*;

    const SHORT: Duration = Duration::from_secs(10);

    fn shell(script: &str) -> (Process, tempfile::TempDir) {
        let dir = tempfile::tempdir().expect("a directory");
        let process = Process::spawn("sh", ["-c", script], dir.path().join("log")).expect("sh starts");
        (process, dir)
    }

    #[tokio::test]
    async fn finds_a_line_of_a_process_that_has_ended() {
        let (mut process, _dir) = shell("echo one; echo two words >&2");
        assert_eq!(process.wait_for_line("two", SHORT).await.expect("the line"), "two words");
        assert!(process.wait(SHORT).await.expect("it ends").success());
    }

    #[tokio::test]
    async fn says_what_it_printed_when_the_line_never_comes() {
        let (mut process, _dir) = shell("echo oh dear; exit 3");
        let error = format!("{:#}", process.wait_for_line("ready", SHORT).await.expect_err("no such line"));
        assert!(error.contains("oh dear") && error.contains("exit status: 3"), "{error}");
    }

    #[tokio::test]
    async fn terminate_waits_for_a_handler_and_kill_does_not() {
        let (mut process, _dir) = shell("trap 'exit 7' TERM; echo up; while :; do sleep 0.01; done");
        process.wait_for_line("up", SHORT).await.expect("it is up");
        assert_eq!(process.terminate(SHORT).await.expect("it ends").code(), Some(7));

        let (mut process, _dir) = shell("trap '' TERM; echo up; while :; do sleep 0.01; done");
        process.wait_for_line("up", SHORT).await.expect("it is up");
        process.kill().expect("it is killed");
        assert!(process.try_wait().expect("it is known").is_some());
    }

    #[tokio::test]
    async fn dropping_it_ends_its_group() {
        let (mut process, _dir) = shell("sleep 1000 & echo $!; wait");
        let child = process.wait_for_line("", SHORT).await.expect("the child's id");
        drop(process);
        let gone = || async {
            // A killed orphan may stay as a zombie until its new parent looks.
            match fs::read_to_string(format!("/proc/{child}/stat")) {
                Ok(stat) if !stat.contains(") Z ") => Err(stat),
                _ => Ok(()),
            }
        };
        crate::eventually("the child is gone", SHORT, gone).await;
    }
}
