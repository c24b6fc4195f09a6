//! A Docker daemon for the time of the tests, where none answers.

use std::{
    fs::{self, File},
    os::unix::process::CommandExt as _,
    path::PathBuf,
    process::{Child, Stdio},
    time::{Duration, Instant},
};

use anyhow::{Context, Result, bail};

use crate::{hello, sh, up::Interrupt};

/// First starts create storage and firewall rules.
const START_DEADLINE: Duration = Duration::from_secs(60);
const STOP_DEADLINE: Duration = Duration::from_secs(30);
const POLL_PERIOD: Duration = Duration::from_millis(200);
const TAIL_LINES: usize = 5;

/// A daemon that we started. Dropping it asks it to end, too.
pub(super) struct Daemon {
    child: Child,
    ended: bool,
}

/// Makes sure that a daemon answers. `None` where one did already: that one stays.
pub(super) fn ensure(interrupt: &Interrupt) -> Result<Option<Daemon>> {
    let Err(silent) = hello::docker_answers() else { return Ok(None) };
    let Some(dockerd) = sh::find("dockerd") else { bail!("{silent:#}, and dockerd is not installed") };
    if std::env::var_os("DOCKER_HOST").is_some() {
        bail!("{silent:#}; DOCKER_HOST names somebody else's daemon, so none is started");
    }
    let log = log_file()?;
    println!("no Docker daemon answers: starting one for the time of the tests (its log: {})", log.display());
    let file = File::create(&log).with_context(|| format!("creating {}", log.display()))?;
    let mut command = sh::command(dockerd);
    command.stdin(Stdio::null()).stdout(file.try_clone().context("sharing the log")?).stderr(file);
    let child = command.process_group(0).spawn().context("starting dockerd")?;
    let mut daemon = Daemon { child, ended: false };
    let start = Instant::now();
    while hello::docker_answers().is_err() {
        if let Some(status) = daemon.child.try_wait().context("looking after dockerd")? {
            daemon.ended = true;
            bail!("dockerd ended with {status}: {}", tail(&log));
        }
        if start.elapsed() > START_DEADLINE {
            bail!("dockerd does not answer after {START_DEADLINE:?}: {}", tail(&log));
        }
        interrupt.check()?;
        sh::sleep(POLL_PERIOD);
    }
    Ok(Some(daemon))
}

impl Daemon {
    /// Ends it, and waits for that.
    pub(super) fn stop(mut self) -> Result<()> {
        println!("\nstopping the Docker daemon that was started for the tests");
        self.terminate()?;
        let start = Instant::now();
        while start.elapsed() < STOP_DEADLINE {
            if self.child.try_wait().context("looking after dockerd")?.is_some() {
                self.ended = true;
                return Ok(());
            }
            sh::sleep(POLL_PERIOD);
        }
        bail!("dockerd has not ended {STOP_DEADLINE:?} after SIGTERM")
    }

    fn terminate(&self) -> Result<()> {
        // std has no signals; every shell has `kill`.
        sh::output(sh::command("sh").args(["-c", "kill -TERM \"$0\"", &self.child.id().to_string()]))
            .map(drop)
    }
}

impl Drop for Daemon {
    fn drop(&mut self) {
        if !self.ended && self.terminate().is_ok() {
            // It cleans up behind its containers before it ends; killing it would leave that undone.
            let _ = self.child.wait();
        }
    }
}

fn log_file() -> Result<PathBuf> {
    let dir = sh::target_dir()?.join("xtask");
    fs::create_dir_all(&dir).with_context(|| format!("creating {}", dir.display()))?;
    Ok(dir.join("dockerd.log"))
}

fn tail(log: &std::path::Path) -> String {
    let text = fs::read_to_string(log).unwrap_or_default();
    let lines: Vec<&str> = text.lines().collect();
    lines[lines.len().saturating_sub(TAIL_LINES)..].join(" | ")
}
