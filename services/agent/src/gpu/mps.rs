//! The daemon of CUDA MPS, which holds several programs on one GPU to what is booked for each: one that is there, or one that the agent runs itself.
//!
//! After NVIDIA's "Multi-Process Service" guide: `nvidia-cuda-mps-control -d` puts a pipe `control` and its process id into the directory that
//! `CUDA_MPS_PIPE_DIRECTORY` names, and ends when it is told `quit`. It is one for the whole machine.
//!
//! One that the agent runs outlives it, as instances do: those on the GPU would end with it. The next agent finds it by its directory, and ends it
//! where it is not to run any more.

use std::fs;
use std::io;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::process::{ExitStatus, Stdio};
use std::time::Duration;

use tokio::io::AsyncWriteExt as _;
use tokio::process::Command;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use super::grant::PIPE_DIRECTORY;
use crate::shim::procfs::ProcessId;

/// The daemon, and what talks to it.
pub(super) const PROGRAM: &str = "nvidia-cuda-mps-control";
/// Where it is if nothing else is said.
const PIPE_DIRECTORY_DEFAULT: &str = "/tmp/nvidia-mps";
const LOG_DIRECTORY: &str = "CUDA_MPS_LOG_DIRECTORY";
/// In its pipe directory: what clients talk to, and who it is.
const CONTROL: &str = "control";
const PID: &str = "nvidia-cuda-mps-control.pid";
/// Longest that starting it, or telling it to end, may take.
const DEADLINE: Duration = Duration::from_secs(10);
/// Variables that it gets of the agent's own.
const HANDED_ON: [&str; 3] = ["PATH", "LD_LIBRARY_PATH", "CUDA_VISIBLE_DEVICES"];
/// A machine without a daemon is looked at so much less often.
const SELDOM: u32 = 15;
/// Between two tries to start it, at most so many looks.
const WAIT_LOOKS_MAX: u32 = 64;

/// How it stands with MPS on this machine.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) enum Mps {
    /// There is no daemon, and none was asked for.
    #[default]
    None,
    /// One is reached in this directory.
    Serves(PathBuf),
    /// One was asked for and does not run; why.
    Fails(String),
}

impl Mps {
    /// Where a daemon is reached.
    pub(crate) fn pipe(&self) -> Option<&Path> {
        match self {
            Self::Serves(directory) => Some(directory),
            Self::None | Self::Fails(_) => None,
        }
    }

    /// Why a device is not held to bookings by it, for people.
    pub(crate) fn why_not(&self) -> String {
        match self {
            Self::None => "no MPS daemon runs on this machine (the agent runs one with --mps)".to_owned(),
            Self::Serves(_) => "the MPS daemon cannot do that for this GPU".to_owned(),
            Self::Fails(why) => format!("the MPS daemon does not run: {why}"),
        }
    }
}

/// Looks for a daemon, or looks after one.
pub(crate) struct Keeper {
    /// Whether the agent shall run one itself.
    own: bool,
    program: PathBuf,
    /// Of the agent's own.
    directory: PathBuf,
    /// Where one of other hands may be.
    elsewhere: PathBuf,
    told: watch::Sender<Mps>,
    every: Duration,
    failures: u32,
    looks_to_wait: u32,
}

impl Keeper {
    /// `own`: the agent shall run one. `data_dir`: below it is what that one needs.
    pub(crate) fn new(own: bool, data_dir: &Path, told: watch::Sender<Mps>) -> Self {
        let named = std::env::var_os(PIPE_DIRECTORY).filter(|name| !name.is_empty());
        Self {
            own,
            program: PathBuf::from(PROGRAM),
            directory: data_dir.join("mps"),
            elsewhere: named.map_or_else(|| PathBuf::from(PIPE_DIRECTORY_DEFAULT), PathBuf::from),
            told,
            every: Duration::from_secs(2),
            failures: 0,
            looks_to_wait: 0,
        }
    }

    /// For who looks after a daemon of its own, with this program.
    pub(super) fn of(program: PathBuf, data_dir: &Path, told: watch::Sender<Mps>) -> Self {
        Self { program, ..Self::new(true, data_dir, told) }
    }

    /// Whether the agent's own runs.
    pub(super) fn lives(&self) -> bool {
        daemon(&self.pipe()).is_some()
    }

    /// Runs until `shutdown`. A daemon runs on.
    pub(crate) async fn run(mut self, shutdown: CancellationToken) {
        if !self.own && self.lives() {
            tracing::info!("the MPS daemon of an earlier agent is not to run any more");
            self.end().await;
        }
        loop {
            let found = if self.own { self.look_after().await } else { self.find() };
            // Most machines have none, and never will.
            let wait = if found == Mps::None { self.every * SELDOM } else { self.every };
            self.told.send_if_modified(|told| {
                let is_news = *told != found;
                match &found {
                    Mps::Serves(directory) if is_news => {
                        tracing::info!(directory = %directory.display(), "an MPS daemon serves the GPUs");
                    }
                    Mps::Fails(why) if is_news => tracing::warn!(why, "no MPS daemon can be run"),
                    Mps::None if is_news => tracing::warn!("the MPS daemon is gone"),
                    _ => {}
                }
                *told = found;
                is_news
            });
            tokio::select! {
                () = shutdown.cancelled() => return,
                () = tokio::time::sleep(wait) => {}
            }
        }
    }

    fn pipe(&self) -> PathBuf {
        self.directory.join("pipe")
    }

    /// One of other hands.
    fn find(&self) -> Mps {
        match daemon(&self.elsewhere) {
            Some(_) => Mps::Serves(self.elsewhere.clone()),
            None => Mps::None,
        }
    }

    /// The agent's own; begun anew where it is gone.
    pub(super) async fn look_after(&mut self) -> Mps {
        let pipe = self.pipe();
        if daemon(&pipe).is_some() {
            (self.failures, self.looks_to_wait) = (0, 0);
            return Mps::Serves(pipe);
        }
        if self.looks_to_wait > 0 {
            self.looks_to_wait -= 1;
            return self.told.borrow().clone();
        }
        let why = match self.begin().await {
            Ok(status) if daemon(&pipe).is_some() && status.success() => return Mps::Serves(pipe),
            Ok(status) => {
                format!("{PROGRAM} -d ended ({status}) and left no daemon: see {}", self.log().display())
            }
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                format!(
                    "{PROGRAM} is not on this machine: it comes with NVIDIA's driver (package nvidia-compute-utils or alike)"
                )
            }
            Err(error) => format!("{PROGRAM} -d: {error}"),
        };
        self.looks_to_wait = (1 << self.failures.min(8)).min(WAIT_LOOKS_MAX);
        self.failures = self.failures.saturating_add(1);
        Mps::Fails(why)
    }

    fn log(&self) -> PathBuf {
        self.directory.join("log")
    }

    async fn begin(&self) -> io::Result<ExitStatus> {
        fs::create_dir_all(self.log())?;
        fs::create_dir_all(self.pipe())?;
        // What one that was killed left is in the way of the next. The directory stays the same: containers that run have it.
        for left in fs::read_dir(self.pipe())? {
            let left = left?;
            if left.file_type()?.is_dir() {
                fs::remove_dir_all(left.path())?;
            } else {
                fs::remove_file(left.path())?;
            }
        }
        let mut begun = self.command().arg("-d").stdin(Stdio::null()).spawn()?;
        in_time(begun.wait()).await
    }

    /// Tells it to end, and waits for that.
    pub(super) async fn end(&self) {
        let told = async {
            let mut child = self.command().stdin(Stdio::piped()).spawn()?;
            if let Some(mut stdin) = child.stdin.take() {
                stdin.write_all(b"quit\n").await?;
            }
            in_time(child.wait()).await
        };
        let told = told.await;
        let Some(process) = daemon(&self.pipe()) else { return };
        if let Err(error) = told {
            tracing::warn!(%error, "the MPS daemon cannot be told to end");
        }
        if let Some(pid) = process.as_pid() {
            let _ = rustix::process::kill_process(pid, rustix::process::Signal::TERM);
        }
    }

    fn command(&self) -> Command {
        let mut command = Command::new(&self.program);
        // Nothing else of what the agent was told: its token may be among it.
        let kept = HANDED_ON.iter().filter_map(|name| Some((name, std::env::var_os(name)?)));
        command
            .env_clear()
            .envs(kept)
            .env(PIPE_DIRECTORY, self.pipe())
            .env(LOG_DIRECTORY, self.log())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .kill_on_drop(true);
        command
    }
}

async fn in_time<T>(work: impl Future<Output = io::Result<T>>) -> io::Result<T> {
    tokio::time::timeout(DEADLINE, work).await.unwrap_or_else(|_| Err(io::ErrorKind::TimedOut.into()))
}

/// The daemon that has a pipe directory, if one lives. Anybody can make a directory in /tmp: one of another user than root or the agent's does not count.
fn daemon(directory: &Path) -> Option<ProcessId> {
    let owner = fs::metadata(directory).ok()?.uid();
    let is_trusted = owner == 0 || owner == rustix::process::geteuid().as_raw();
    if !is_trusted || !directory.join(CONTROL).exists() {
        return None;
    }
    let pid = fs::read_to_string(directory.join(PID)).ok()?.trim().parse().ok()?;
    ProcessId::of(pid).filter(|process| process.is_alive())
}

#[cfg(test)]
mod tests;
