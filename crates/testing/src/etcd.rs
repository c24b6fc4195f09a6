//! A real etcd of one member, with everything that can happen to one.

use std::{
    fs,
    path::{Path, PathBuf},
    process::Command,
    time::Duration,
};

use anyhow::{Context, Result, bail};
use tempfile::TempDir;

use crate::{Process, find_program, free_port, http_get};

/// From start to the first healthy answer; generous, for machines that do much else.
const START_DEADLINE: Duration = Duration::from_secs(30);
const STOP_DEADLINE: Duration = Duration::from_secs(10);
/// Somebody may take a free port between our look and etcd's.
const START_TRIES: usize = 3;

/// What an etcd with TLS is given: it lets in who has a certificate of the same authority.
#[derive(Debug, Clone)]
pub struct ServerFiles {
    /// PEM.
    pub certificate: PathBuf,
    /// Its key.
    pub key: PathBuf,
    /// Of its clients.
    pub authority: PathBuf,
}

/// A running etcd; ends, and its directory with it, when dropped.
#[derive(Debug)]
pub struct Etcd {
    dir: TempDir,
    args: Vec<String>,
    client_port: u16,
    peer_port: u16,
    /// Where it serves with TLS too, and with what.
    secured: Option<(u16, ServerFiles)>,
    /// None while stopped.
    process: Option<Process>,
    /// Counts starts, so that each has a log of its own.
    starts: u32,
}

impl Etcd {
    /// Starts etcd from `PATH` on free ports and waits until it is healthy.
    ///
    /// # Errors
    /// When etcd is not installed or does not become healthy within 30 s; the error carries its last lines.
    pub async fn start() -> Result<Self> {
        Self::start_with::<&str>(&[]).await
    }

    /// The same, and it serves on a second port by mutual TLS.
    pub async fn start_secured(files: ServerFiles) -> Result<Self> {
        Self::start_as::<&str>(&[], Some(files)).await
    }

    /// The same with more arguments, as `--max-txn-ops=256`.
    pub async fn start_with<S: AsRef<str>>(args: &[S]) -> Result<Self> {
        Self::start_as(args, None).await
    }

    async fn start_as<S: AsRef<str>>(args: &[S], secured: Option<ServerFiles>) -> Result<Self> {
        let args: Vec<String> = args.iter().map(|arg| arg.as_ref().to_owned()).collect();
        let mut last = None;
        for _ in 0..START_TRIES {
            let dir = tempfile::Builder::new()
                .prefix("skerry-etcd-")
                .tempdir()
                .context("making a directory for etcd")?;
            let mut etcd = Self {
                dir,
                args: args.clone(),
                client_port: free_port(),
                peer_port: free_port(),
                secured: secured.clone().map(|files| (free_port(), files)),
                process: None,
                starts: 0,
            };
            match etcd.restart().await {
                Ok(()) => return Ok(etcd),
                Err(error) if format!("{error:#}").contains("address already in use") => last = Some(error),
                Err(error) => return Err(error),
            }
        }
        Err(last.context("there is at least one try")?)
    }

    /// Where clients connect, as `http://127.0.0.1:2379`. Stays the same over restarts.
    #[must_use]
    pub fn endpoint(&self) -> String {
        format!("http://{}", self.address())
    }

    /// Where it serves with TLS, if it does.
    #[must_use]
    pub fn secured_endpoint(&self) -> Option<String> {
        self.secured.as_ref().map(|(port, _)| format!("https://127.0.0.1:{port}"))
    }

    /// The same without the scheme.
    #[must_use]
    pub fn address(&self) -> String {
        format!("127.0.0.1:{}", self.client_port)
    }

    /// Where its files are: what somebody has who steals its disk.
    #[must_use]
    pub fn dir(&self) -> &Path {
        self.dir.path()
    }

    /// What it has printed since its last start.
    #[must_use]
    pub fn output(&self) -> String {
        fs::read_to_string(self.log()).unwrap_or_default()
    }

    /// `kill -9`.
    pub fn kill(&mut self) -> Result<()> {
        self.running()?.kill()?;
        self.process = None;
        Ok(())
    }

    /// SIGTERM, and waits for its end.
    pub async fn stop(&mut self) -> Result<()> {
        self.running()?.terminate(STOP_DEADLINE).await?;
        self.process = None;
        Ok(())
    }

    /// SIGSTOP: connections stay open and nothing is answered.
    pub fn pause(&mut self) -> Result<()> {
        self.running()?.pause()
    }

    /// SIGCONT.
    pub fn resume(&mut self) -> Result<()> {
        self.running()?.resume()
    }

    /// Starts it again on the same ports with the same data, killing it before if it runs.
    pub async fn restart(&mut self) -> Result<()> {
        self.process = None;
        self.starts += 1;
        let program = find_program("etcd").context("etcd is not installed: apt-get install etcd-server")?;
        let (client, peer) = (self.endpoint(), self.peer());
        let mut command = Command::new(program);
        command.arg("--name=test").arg("--data-dir").arg(self.data_dir()).args([
            format!("--listen-client-urls={client}"),
            format!("--advertise-client-urls={client}"),
            format!("--listen-peer-urls={peer}"),
            format!("--initial-advertise-peer-urls={peer}"),
            format!("--initial-cluster=test={peer}"),
            "--logger=zap".to_owned(),
            "--log-level=warn".to_owned(),
        ]);
        if let Some((port, files)) = &self.secured {
            // The last one counts.
            command
                .arg(format!("--listen-client-urls={client},https://127.0.0.1:{port}"))
                .arg("--client-cert-auth");
            command.arg("--cert-file").arg(&files.certificate).arg("--key-file").arg(&files.key);
            command.arg("--trusted-ca-file").arg(&files.authority);
        }
        command.args(&self.args);
        let mut process = Process::spawn_command(&mut command, self.log())?;
        self.wait_healthy(&mut process).await?;
        self.process = Some(process);
        Ok(())
    }

    /// Writes a snapshot of what it holds now to `file`.
    pub fn snapshot(&self, file: &Path) -> Result<()> {
        run(etcdctl()?.arg("--endpoints").arg(self.endpoint()).args(["snapshot", "save"]).arg(file))
    }

    /// Stops it, puts the data of a snapshot in the place of its own, and starts it again: a restore from backup.
    pub async fn restore(&mut self, file: &Path) -> Result<()> {
        if self.process.is_some() {
            self.stop().await?;
        }
        let dir = self.data_dir();
        fs::remove_dir_all(&dir).with_context(|| format!("removing {}", dir.display()))?;
        // Newer releases moved this to etcdutl.
        let mut command = match find_program("etcdutl") {
            Some(program) => Command::new(program),
            None => etcdctl()?,
        };
        command.args(["snapshot", "restore"]).arg(file).arg("--data-dir").arg(&dir);
        let peer = self.peer();
        run(command.arg("--name=test").args([
            format!("--initial-cluster=test={peer}"),
            format!("--initial-advertise-peer-urls={peer}"),
        ]))?;
        self.restart().await
    }

    /// Runs `etcdctl` with these arguments against it and returns what it printed.
    pub fn ctl(&self, args: &[&str]) -> Result<String> {
        output(etcdctl()?.arg("--endpoints").arg(self.endpoint()).args(args))
    }

    fn running(&mut self) -> Result<&mut Process> {
        self.process.as_mut().context("etcd is stopped")
    }

    fn peer(&self) -> String {
        format!("http://127.0.0.1:{}", self.peer_port)
    }

    /// Where its data are.
    #[must_use]
    pub fn data_dir(&self) -> PathBuf {
        self.dir.path().join("data")
    }

    fn log(&self) -> PathBuf {
        self.dir.path().join(format!("log-{}", self.starts))
    }

    async fn wait_healthy(&self, process: &mut Process) -> Result<()> {
        let address = self.address();
        let healthy = tokio::time::timeout(START_DEADLINE, async {
            loop {
                if let Some(status) = process.try_wait()? {
                    bail!("etcd ended with {status}:\n{}", process.output());
                }
                if http_get(&address, "/health").await.is_ok_and(|answer| answer.status == 200) {
                    return Ok(());
                }
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
        });
        match healthy.await {
            Ok(result) => result,
            Err(_) => bail!("etcd is not healthy after {START_DEADLINE:?}:\n{}", process.output()),
        }
    }
}

fn etcdctl() -> Result<Command> {
    let program = find_program("etcdctl").context("etcdctl is not installed: apt-get install etcd-client")?;
    let mut command = Command::new(program);
    // Release 3.3 still speaks version 2 by default.
    command.env("ETCDCTL_API", "3");
    Ok(command)
}

fn run(command: &mut Command) -> Result<()> {
    output(command).map(drop)
}

fn output(command: &mut Command) -> Result<String> {
    let output = command.output().with_context(|| format!("starting {command:?}"))?;
    if !output.status.success() {
        bail!("{command:?} failed: {}\n{}", output.status, String::from_utf8_lossy(&output.stderr));
    }
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}
