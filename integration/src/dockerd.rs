//! A Docker daemon of a test's own, beside the machine's, that may be killed.
//!
//! It touches nothing of the other's: its own storage, containerd, firewall and links. The last two by a network namespace
//! of its own, since a daemon without a default bridge removes the one that it finds. What its containers serve is reached from outside only on a
//! machine of a [`Lan`](crate::Lan).

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use anyhow::{Context as _, Result, bail};
use rustix::process::{Pid, Signal, kill_process};
use skerry_testing::{Docker, Process, find_program};
use tempfile::TempDir;
use tokio::time::{sleep, timeout};

use crate::lan::Machine;

/// The first start makes the storage.
const START_DEADLINE: Duration = Duration::from_secs(60);
const STOP_DEADLINE: Duration = Duration::from_secs(30);
const POLL_PERIOD: Duration = Duration::from_millis(50);

/// A daemon. Dropping it kills it, its containers and what it started beside.
#[derive(Debug)]
pub struct Dockerd {
    dir: TempDir,
    machine: Option<Machine>,
    process: Option<Process>,
    starts: u32,
}

impl Dockerd {
    /// Starts a daemon with empty storage.
    ///
    /// # Errors
    /// When none is installed, or the machine does not let a second one run: the error says what the daemon said.
    pub async fn start() -> Result<Self> {
        Self::begin(None).await
    }

    /// The same on a machine of a network, where what its containers publish is reached at the machine's address.
    ///
    /// # Errors
    /// As [`Dockerd::start`].
    pub async fn start_on(machine: &Machine) -> Result<Self> {
        Self::begin(Some(machine.clone())).await
    }

    async fn begin(machine: Option<Machine>) -> Result<Self> {
        // Short: the paths of sockets below it have at most 107 bytes.
        let dir =
            tempfile::Builder::new().prefix("skd").tempdir().context("making a directory for dockerd")?;
        let mut dockerd = Self { dir, machine, process: None, starts: 0 };
        dockerd.restart().await?;
        Ok(dockerd)
    }

    /// Starts it again, with what it had.
    pub async fn restart(&mut self) -> Result<()> {
        let program =
            find_program("dockerd").context("dockerd is not installed: apt-get install docker.io")?;
        self.starts += 1;
        // Not the machine's own settings.
        fs::write(self.path("settings.json"), "{}").context("writing dockerd's settings")?;
        let (enter, network) = match &self.machine {
            None => ("unshare", "--net".to_owned()),
            Some(machine) => ("nsenter", format!("--net={}", machine.network())),
        };
        let enter = find_program(enter)
            .with_context(|| format!("{enter} is not installed: apt-get install util-linux"))?;
        let mut args = vec![network, "--".to_owned(), program.display().to_string()];
        args.extend(self.args());
        let mut process = Process::spawn(enter, args, self.log())?;
        let docker = self.docker();
        let answering = timeout(START_DEADLINE, async {
            while docker.ping().is_err() {
                if let Some(status) = process.try_wait()? {
                    bail!("it ended with {status}");
                }
                sleep(POLL_PERIOD).await;
            }
            Ok(())
        });
        let answering = answering.await.unwrap_or_else(|_| bail!("it did not answer in {START_DEADLINE:?}"));
        self.process = Some(process);
        answering.with_context(|| {
            let said = fs::read_to_string(self.log()).unwrap_or_default();
            let lines: Vec<&str> = said.lines().collect();
            let last = lines[lines.len().saturating_sub(8)..].join("\n");
            format!("this test needs a Docker daemon of its own, beside the machine's (root, cgroups and mounts); it said:\n{last}")
        })
    }

    fn args(&self) -> Vec<String> {
        let at = |name: &str| self.path(name).display().to_string();
        let space = self.space();
        // A range for documentation, which nobody has.
        let pool = self.machine.as_ref().map_or("198.51.100.0/24".to_owned(), Machine::pool);
        vec![
            format!("--host=unix://{}", at("s")),
            format!("--data-root={}", at("data")),
            format!("--exec-root={}", at("x")),
            format!("--pidfile={}", at("pid")),
            format!("--config-file={}", at("settings.json")),
            format!("--containerd-namespace={space}"),
            format!("--containerd-plugins-namespace={space}-plugins"),
            // Runs on every file system.
            "--storage-driver=vfs".to_owned(),
            "--bridge=none".to_owned(),
            "--iptables=false".to_owned(),
            "--ip-forward=false".to_owned(),
            "--ip-masq=false".to_owned(),
            format!("--default-address-pool=base={pool},size=28"),
        ]
    }

    /// The daemon, as clients see it.
    pub fn docker(&self) -> Docker {
        Docker::at(self.path("s"))
    }

    /// `kill -9`, of the daemon and its containerd. What its containers run runs on.
    pub async fn kill(&mut self) -> Result<()> {
        self.process.take().context("dockerd does not run")?.kill()?;
        // containerd ends with it, a moment later.
        let gone = timeout(STOP_DEADLINE, async {
            while self.helpers().iter().any(|(_, line)| line.contains("containerd\0--config")) {
                sleep(POLL_PERIOD).await;
            }
        });
        gone.await.context("containerd outlives dockerd")?;
        // After a power loss nobody has its number. Here it may be a zombie, where process 1 of the machine does not look after orphans,
        // and the next dockerd would take it for alive.
        match fs::remove_file(self.path("x/containerd/containerd.pid")) {
            // The machine's own containerd was used.
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(()),
            removed => removed.context("forgetting containerd"),
        }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    fn log(&self) -> PathBuf {
        self.path(&format!("log.{}", self.starts))
    }

    /// Its namespace in containerd: named after the directory, which is of this daemon alone.
    fn space(&self) -> String {
        self.dir.path().file_name().unwrap_or_default().to_string_lossy().into_owned()
    }

    /// Its containerd and the shims of its containers: they have the directory or the namespace on their command lines.
    fn helpers(&self) -> Vec<(Pid, String)> {
        let space = self.space();
        processes().filter(|(_, line)| line.contains(&space) && line.contains("containerd")).collect()
    }

    /// The processes of containers: children of the shims, or what shims that were killed left behind.
    fn contained(&self) -> BTreeSet<i32> {
        let shims: BTreeSet<i32> = self.helpers().iter().map(|(pid, _)| pid.as_raw_nonzero().get()).collect();
        let parent = |pid: Pid| {
            let stat = fs::read_to_string(format!("/proc/{}/stat", pid.as_raw_nonzero())).ok()?;
            stat.rsplit_once(") ")?.1.split(' ').nth(1)?.parse::<i32>().ok()
        };
        let children =
            processes().filter(|(pid, _)| parent(*pid).is_some_and(|parent| shims.contains(&parent)));
        children.map(|(pid, _)| pid.as_raw_nonzero().get()).filter(|pid| !shims.contains(pid)).collect()
    }
}

impl Drop for Dockerd {
    fn drop(&mut self) {
        // Dropping the daemon's process kills its group, containerd with it. Failures mean that it is gone.
        let contained = self.contained();
        self.process = None;
        let helpers = self.helpers().into_iter().map(|(pid, _)| pid);
        for pid in helpers.chain(contained.into_iter().filter_map(Pid::from_raw)) {
            let _ = kill_process(pid, Signal::KILL);
        }
        for mount in mounts_below(self.dir.path()).into_iter().rev() {
            let _ = Command::new("umount").arg("-l").arg(mount).status();
        }
    }
}

/// All processes with their command lines.
fn processes() -> impl Iterator<Item = (Pid, String)> {
    let entries = fs::read_dir("/proc").into_iter().flatten().flatten();
    entries.filter_map(|entry| {
        let pid = Pid::from_raw(entry.file_name().to_str()?.parse().ok()?)?;
        let line = fs::read(entry.path().join("cmdline")).ok()?;
        Some((pid, String::from_utf8_lossy(&line).into_owned()))
    })
}

fn mounts_below(dir: &Path) -> Vec<PathBuf> {
    let mounts = fs::read_to_string("/proc/self/mounts").unwrap_or_default();
    let places = mounts.lines().filter_map(|line| line.split(' ').nth(1)).map(PathBuf::from);
    places.filter(|place| place.starts_with(dir)).collect()
}
