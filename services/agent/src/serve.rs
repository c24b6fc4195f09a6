//! The agent's life: take the data directory, read what is on disk, run both actors until the end.

use std::fs::{self, File, TryLockError};
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use skerry_model::NodeRef;
use tokio::sync::{mpsc, watch};
use tokio_util::sync::CancellationToken;

use crate::clock::Clock;
use crate::config::{Config, DockerAccess, NodeTls};
use crate::ledger::Ledger;
use crate::machine::Sampler;
use crate::reconcile::{Copies, LOCAL_MAX, Links, Reconciler, RuntimeStatuses};
use crate::runtime::docker::DockerRuntime;
use crate::runtime::process::{self, ProcessRuntime};
use crate::runtime::{Runtime, RuntimeDirs};
use crate::secrets::Secrets;
use crate::state::{Directory, StateFiles};
use crate::uplink::{Parts, Uplink};

/// Why the agent cannot run.
#[derive(Debug, thiserror::Error)]
pub enum ServeError {
    /// The data directory cannot be used.
    #[error("the data directory {path}: {source}")]
    DataDir {
        /// Which.
        path: PathBuf,
        /// What is wrong.
        source: io::Error,
    },
    /// Another agent has it.
    #[error("the data directory {0} is used by another agent")]
    DataDirTaken(PathBuf),
    /// No random numbers.
    #[error("the system gives no random numbers: {0}")]
    Random(io::Error),
}

/// Why no agent counts as running on a data directory.
#[derive(Debug, thiserror::Error)]
pub enum NotRunning {
    /// Nobody has it.
    #[error("no agent runs on the data directory {0}")]
    Nobody(PathBuf),
    /// It cannot be found out.
    #[error("finding out whether an agent runs on {path}: {source}")]
    Unknown {
        /// The data directory.
        path: PathBuf,
        /// What is wrong.
        source: io::Error,
    },
}

/// Runs the agent until `shutdown`. What runs on the machine runs on afterwards.
pub async fn serve(config: Config, shutdown: CancellationToken) -> Result<(), ServeError> {
    let wrong = |source| ServeError::DataDir { path: config.data_dir.clone(), source };
    make_private(&config.data_dir).map_err(wrong)?;
    let data_dir = config.data_dir.canonicalize().map_err(wrong)?;
    let _lock = lock(&data_dir)?;
    let (files, loaded) = StateFiles::open(Directory::new(&data_dir), config.node.to_string());
    if let Some(damage) = &loaded.damage {
        tracing::error!(
            damage,
            "the desired state on disk is damaged; nothing that runs is stopped until it has been sent anew"
        );
    }
    let secrets = Secrets::new(&config.node, &data_dir).in_directory(config.secrets_dir.clone());
    let secrets = Arc::new(secrets);
    let runtimes = runtimes(&config, &data_dir, &secrets);
    let clock = Clock::default();
    let (desired_in, desired) = watch::channel(Arc::default());
    let (local_in, local) = mpsc::channel(LOCAL_MAX);
    let (runtimes_in, runtime_statuses) = watch::channel(RuntimeStatuses::new());
    let (copies_in, copies) = watch::channel(Copies::default());
    let uplink = Uplink::new(Parts {
        node: config.node.clone(),
        gateways: config.gateways,
        tls: config.tls.as_ref().map(NodeTls::client),
        clock,
        boot_id: boot_id().map_err(ServeError::Random)?,
        files,
        loaded,
        sampler: Sampler::new(&data_dir),
        desired: desired_in,
        local,
        runtimes: runtime_statuses,
        copies,
    });
    let links = Links { desired, local: local_in, runtimes: runtimes_in, copies: copies_in };
    let ledger = Ledger::open(Directory::new(&data_dir));
    let reconciler =
        Reconciler::new(config.node, clock, runtimes, links).with_ledger(ledger).with_secrets(secrets);
    // Boxed: these two live as long as the agent, and their caller need not hold them on its stack.
    tokio::join!(
        Box::pin(uplink.run(shutdown.clone())),
        Box::pin(reconciler.run(shutdown.clone())),
        Box::pin(shutdown.run_until_cancelled(NodeTls::follow(config.tls))),
    );
    Ok(())
}

fn runtimes(config: &Config, data_dir: &Path, secrets: &Arc<Secrets>) -> Vec<Arc<dyn Runtime>> {
    let dirs = RuntimeDirs {
        configs: data_dir.join("configs"),
        instances: data_dir.join("instances"),
        artifacts: data_dir.join("artifacts"),
    };
    // Docker mounts from it as root; users of processes, who may be let through the data directory, have no business in it.
    if let Err(error) = make_private(&dirs.configs) {
        tracing::warn!(%error, "the directory of configs cannot be made");
    }
    let node = Some(config.node.node.clone());
    let processes = process::Config { node, secrets: Arc::clone(secrets), ..process::Config::new(&dirs) };
    let mut runtimes: Vec<Arc<dyn Runtime>> = vec![Arc::new(ProcessRuntime::new(processes))];
    if let DockerAccess::Socket(socket) = &config.docker {
        let owner = owner(&config.node, data_dir);
        runtimes.push(Arc::new(
            DockerRuntime::at_socket(socket, &owner, &dirs)
                .with_credentials(config.credentials.clone())
                .with_secrets(Arc::clone(secrets))
                .with_upkeep(data_dir, config.image_gc),
        ));
    }
    runtimes
}

/// Tells this agent's containers from those of another one on the machine: by node and place of the data directory, so that an agent
/// whose directory was emptied finds its own again.
fn owner(node: &NodeRef, data_dir: &Path) -> String {
    let place = blake3::hash(data_dir.as_os_str().as_encoded_bytes()).to_hex();
    format!("{}/{}/{}", node.project, node.node, &place[..12])
}

/// Makes the directory, for the agent alone: configs may hold what others should not read.
fn make_private(dir: &Path) -> io::Result<()> {
    use std::os::unix::fs::DirBuilderExt as _;
    if dir.is_dir() {
        return Ok(());
    }
    fs::DirBuilder::new().recursive(true).mode(0o700).create(dir)
}

/// Held as long as the file is open; the kernel gives it back whatever ends the agent.
fn lock(data_dir: &Path) -> Result<File, ServeError> {
    let wrong = |source| ServeError::DataDir { path: data_dir.to_owned(), source };
    let file = File::options()
        .create(true)
        .truncate(false)
        .write(true)
        .open(data_dir.join("lock"))
        .map_err(wrong)?;
    match file.try_lock() {
        Ok(()) => Ok(file),
        Err(TryLockError::WouldBlock) => Err(ServeError::DataDirTaken(data_dir.to_owned())),
        Err(TryLockError::Error(source)) => Err(wrong(source)),
    }
}

/// Whether an agent of this PID namespace holds `data_dir`, connected or not: having no link is no illness. Asks the kernel for the
/// lock's holder and never takes the lock itself: an agent that starts at that moment would find its directory taken.
pub fn check_running(data_dir: &Path) -> Result<(), NotRunning> {
    use std::os::unix::fs::MetadataExt as _;
    let unknown = |source| NotRunning::Unknown { path: data_dir.to_owned(), source };
    let inode = match fs::metadata(data_dir.join("lock")) {
        Ok(file) => file.ino(),
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            return Err(NotRunning::Nobody(data_dir.to_owned()));
        }
        Err(error) => return Err(unknown(error)),
    };
    let locks = fs::read_to_string("/proc/locks").map_err(unknown)?;
    if is_locked(&locks, inode) { Ok(()) } else { Err(NotRunning::Nobody(data_dir.to_owned())) }
}

/// Whether `/proc/locks` names the holder of an exclusive whole-file lock on `inode`: `1: FLOCK  ADVISORY  WRITE 4141 fe:00:1491184 0 EOF`.
/// The device stays out of it: some file systems name another there than to `stat`. One who waits has `->` before `FLOCK`.
fn is_locked(locks: &str, inode: u64) -> bool {
    let end = format!(":{inode}");
    locks.lines().any(|line| {
        let words: Vec<&str> = line.split_whitespace().collect();
        matches!(words[..], [_, "FLOCK", _, "WRITE", _, file, ..] if file.ends_with(&end))
    })
}

/// Random for each start.
fn boot_id() -> io::Result<String> {
    let mut bytes = [0u8; 16];
    let length = rustix::rand::getrandom(&mut bytes, rustix::rand::GetRandomFlags::empty())?;
    if length < bytes.len() {
        return Err(io::ErrorKind::UnexpectedEof.into());
    }
    Ok(format!("{:032x}", u128::from_le_bytes(bytes)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_data_directory_has_one_agent() {
        let dir = tempfile::tempdir().unwrap();
        let held = lock(dir.path()).unwrap();
        assert!(matches!(lock(dir.path()), Err(ServeError::DataDirTaken(_))));
        drop(held);
        lock(dir.path()).unwrap();
    }

    #[test]
    fn an_agent_runs_on_a_directory_as_long_as_it_holds_it() {
        let dir = tempfile::tempdir().unwrap();
        assert!(matches!(check_running(dir.path()), Err(NotRunning::Nobody(_))), "never used");
        let held = lock(dir.path()).unwrap();
        check_running(dir.path()).unwrap();
        drop(held);
        assert!(matches!(check_running(dir.path()), Err(NotRunning::Nobody(_))), "used before");
    }

    #[test]
    fn only_the_holder_of_an_exclusive_lock_counts() {
        let holds = |line: &str| is_locked(line, 91);
        assert!(holds("1: FLOCK  ADVISORY  WRITE 4141 fe:00:91 0 EOF"));
        assert!(!holds("1: FLOCK  ADVISORY  WRITE 4141 fe:00:191 0 EOF"));
        assert!(!holds("1: FLOCK  ADVISORY  READ 4141 fe:00:91 0 EOF"));
        assert!(!holds("1: POSIX  ADVISORY  WRITE 4141 fe:00:91 0 EOF"));
        assert!(!holds("1: -> FLOCK  ADVISORY  WRITE 4141 fe:00:91 0 EOF"));
    }

    #[test]
    fn the_agent_can_be_hosted_on_any_runtime() {
        fn is_send<T: Send>(_: &T) {}
        let config = Config {
            gateways: Vec::new(),
            tls: None,
            node: NodeRef::parse("projects/default/nodes/n1").unwrap(),
            data_dir: PathBuf::new(),
            credentials: crate::CredentialsFile::None,
            docker: DockerAccess::Off,
            image_gc: crate::ImageGc::default(),
            secrets_dir: None,
        };
        is_send(&serve(config, CancellationToken::new()));
    }

    #[test]
    fn each_start_has_another_boot_id() {
        let (one, two) = (boot_id().unwrap(), boot_id().unwrap());
        assert_eq!((one.len(), one == two), (32, false));
    }
}
