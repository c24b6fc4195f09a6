//! A `skerry up` of our own: started on a free port, its output in a file, stopped when it is no longer held.

use std::{
    env,
    ffi::{OsStr, OsString},
    fs::{self, File},
    net::{Ipv4Addr, TcpListener},
    os::unix::process::CommandExt as _,
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::{Duration, Instant},
};

use anyhow::{Context, Result, bail};
use signal_hook::consts::{SIGINT, SIGTERM};

use crate::sh;

/// Names the client's configuration file.
pub(crate) const CONFIG: &str = "SKERRY_CONFIG";
/// Without TLS, and so without a context either.
const INSECURE: &str = "--insecure";
/// `skerry up` is ready in about a second; a machine that does much else may take longer.
const START_DEADLINE: Duration = Duration::from_secs(60);
const STOP_DEADLINE: Duration = Duration::from_secs(30);
const POLL_PERIOD: Duration = Duration::from_millis(50);
/// How much of its output an error shows.
const TAIL_LINES: usize = 40;

/// Becomes true on Ctrl-C or SIGTERM, which no longer end xtask itself: it still has to clean up.
#[derive(Clone)]
pub(crate) struct Interrupt(Arc<AtomicBool>);

impl Interrupt {
    pub(crate) fn listen() -> Result<Self> {
        let flag = Arc::new(AtomicBool::new(false));
        for signal in [SIGINT, SIGTERM] {
            signal_hook::flag::register(signal, Arc::clone(&flag)).context("listening for Ctrl-C")?;
        }
        Ok(Self(flag))
    }

    pub(crate) fn check(&self) -> Result<()> {
        if self.0.load(Ordering::Relaxed) {
            bail!("interrupted");
        }
        Ok(())
    }
}

/// A running `skerry up`. Dropping it kills it.
pub(crate) struct Up {
    child: Child,
    skerry: PathBuf,
    data_dir: PathBuf,
    port: u16,
    insecure: bool,
    log: PathBuf,
}

impl Up {
    /// The command that [`Up::start`] runs, to show it before.
    pub(crate) fn command(skerry: &Path, data_dir: &Path, port: u16) -> Command {
        let mut command = sh::command(skerry);
        command.arg("up").arg("--data-dir").arg(data_dir).arg("--listen").arg(format!("127.0.0.1:{port}"));
        // The agent looks programs of processes up in its PATH: the examples lie beside skerry.
        let programs = skerry.parent().map(Path::to_path_buf);
        let path = env::var_os("PATH").unwrap_or_default();
        let path = env::join_paths(programs.into_iter().chain(env::split_paths(&path)));
        command.env("PATH", path.unwrap_or_else(|_| OsString::new()));
        command.env(CONFIG, Self::config(data_dir));
        command
    }

    /// Where it keeps the client's context: whoever runs this keeps the configuration that they have.
    pub(crate) fn config(data_dir: &Path) -> PathBuf {
        data_dir.join("config.yaml")
    }

    /// The files of its administrator: certificate, key and authority.
    pub(crate) fn admin(&self) -> [PathBuf; 3] {
        ["admin.crt", "admin.key", "ca.crt"].map(|name| self.data_dir.join("tls").join(name))
    }

    /// Starts it with `args` more, and waits until it says that it is ready.
    pub(crate) fn start(
        skerry: &Path,
        data_dir: &Path,
        port: u16,
        args: &[&str],
        interrupt: &Interrupt,
    ) -> Result<Self> {
        fs::create_dir_all(data_dir).with_context(|| format!("creating {}", data_dir.display()))?;
        let log = data_dir.join("up.log");
        let file = File::create(&log).with_context(|| format!("creating {}", log.display()))?;
        let mut command = Self::command(skerry, data_dir, port);
        command.args(args);
        command.stdin(Stdio::null()).stdout(file.try_clone().context("sharing the log")?).stderr(file);
        // In a process group of its own, so that Ctrl-C reaches xtask alone and everything ends in order.
        let child =
            command.process_group(0).spawn().with_context(|| format!("starting {}", skerry.display()))?;
        let insecure = args.contains(&INSECURE);
        let (skerry, data_dir) = (skerry.to_path_buf(), data_dir.to_path_buf());
        let mut up = Self { child, skerry, data_dir, port, insecure, log };
        let start = Instant::now();
        loop {
            if up.output().contains("ready") {
                return Ok(up);
            }
            if let Some(status) = up.child.try_wait().context("looking after skerry up")? {
                bail!("skerry up ended with {status}:\n{}", up.tail());
            }
            if start.elapsed() > START_DEADLINE {
                bail!("skerry up is not ready after {START_DEADLINE:?}:\n{}", up.tail());
            }
            interrupt.check()?;
            sh::sleep(POLL_PERIOD);
        }
    }

    /// `skerry` as a client of it.
    pub(crate) fn client<S: AsRef<OsStr>>(&self, args: impl IntoIterator<Item = S>) -> Command {
        let mut command = sh::command(&self.skerry);
        // Whoever runs this may have a server of their own in mind, or a context.
        for variable in ["SERVER", "REGISTRY", "SCHEDULER", "PROJECT", "CONTEXT"] {
            command.env_remove(format!("SKERRY_{variable}"));
        }
        command.env(CONFIG, Self::config(&self.data_dir));
        if self.insecure {
            command.arg("--server").arg(format!("http://{}", self.address()));
        }
        command.args(args);
        command
    }

    /// Whether it does without TLS.
    pub(crate) fn is_insecure(&self) -> bool {
        self.insecure
    }

    /// Where it serves, as `host:port`.
    pub(crate) fn address(&self) -> String {
        format!("127.0.0.1:{}", self.port)
    }

    /// Fails when it has ended by itself.
    pub(crate) fn check(&mut self) -> Result<()> {
        match self.child.try_wait().context("looking after skerry up")? {
            Some(status) => bail!("skerry up ended with {status}:\n{}", self.tail()),
            None => Ok(()),
        }
    }

    /// The end of its output.
    pub(crate) fn tail(&self) -> String {
        let output = self.output();
        let lines: Vec<&str> = output.lines().collect();
        lines[lines.len().saturating_sub(TAIL_LINES)..].join("\n")
    }

    fn output(&self) -> String {
        fs::read(&self.log).map(|bytes| String::from_utf8_lossy(&bytes).into_owned()).unwrap_or_default()
    }

    /// SIGTERM, and waits for a clean end.
    pub(crate) fn stop(mut self) -> Result<()> {
        // std has no signals; every shell has `kill`.
        sh::output(sh::command("sh").args(["-c", "kill -TERM \"$0\"", &self.child.id().to_string()]))?;
        let start = Instant::now();
        while start.elapsed() < STOP_DEADLINE {
            if let Some(status) = self.child.try_wait().context("looking after skerry up")? {
                if status.success() {
                    return Ok(());
                }
                bail!("skerry up ended with {status} on SIGTERM:\n{}", self.tail());
            }
            sh::sleep(POLL_PERIOD);
        }
        bail!("skerry up has not ended {STOP_DEADLINE:?} after SIGTERM:\n{}", self.tail())
    }
}

impl Drop for Up {
    fn drop(&mut self) {
        // Failure means that it has ended.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// A TCP port of 127.0.0.1 that was free a moment ago, from below the range that the kernel gives to outgoing connections.
pub(crate) fn free_port() -> Result<u16> {
    const PORTS: std::ops::Range<u16> = 12_000..32_768;
    let start = PORTS.start + u16::try_from(std::process::id() % u32::from(PORTS.end - PORTS.start))?;
    let mut ports = (start..PORTS.end).chain(PORTS.start..start);
    ports.find(|port| TcpListener::bind((Ipv4Addr::LOCALHOST, *port)).is_ok()).context("no port is free")
}

/// A new directory under the target directory, for what this run leaves behind.
pub(crate) fn fresh_dir(name: &str) -> Result<PathBuf> {
    let dir = sh::target_dir()?.join("xtask").join(format!("{name}-{}", std::process::id()));
    if dir.exists() {
        fs::remove_dir_all(&dir).with_context(|| format!("removing {}", dir.display()))?;
    }
    fs::create_dir_all(&dir).with_context(|| format!("creating {}", dir.display()))?;
    Ok(dir)
}
