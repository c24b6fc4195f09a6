//! The agent's life: take the data directory, read what is on disk, run both actors until the end.

use std::fs::{self, File, TryLockError};
use std::io;
use std::path::{Path, PathBuf};
use std::pin::Pin;
use std::sync::Arc;

use skerry_model::NodeRef;
use tokio::sync::{mpsc, watch};
use tokio_util::sync::CancellationToken;

use crate::channel::{Channels, Sources};
use crate::clock::Clock;
use crate::config::{Config, DockerAccess, Gateway, Means, NodeTls};
use crate::gpu::{Collector, GpuAccess, GpuLink, Grants, Keeper, Mps, sample_stream, sharing};
use crate::hand::{ASKS_MAX, Desk};
use crate::identity::{Enroller, Enrolment, Kept, NoWayIn, Own, Proof};
use crate::jobs::Jobs;
use crate::ledger::Ledger;
use crate::machine::Sampler;
use crate::quiet;
use crate::reconcile::{Copies, LOCAL_MAX, Links, Reconciler, RuntimeStatuses};
use crate::runtime::docker::DockerRuntime;
use crate::runtime::process::{self, ProcessRuntime};
use crate::runtime::{Runtime, RuntimeDirs};
use crate::secrets::Secrets;
use crate::state::{Directory, StateFiles};
use crate::update::Updates;
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
    /// The machine is not a node, and nothing says how it could become one.
    #[error("{0}")]
    NotEnrolled(String),
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
    let kept = Kept::new(&data_dir);
    let (mut node, mut proof) = match config.tls.clone() {
        None => (config.node.clone(), Proof::plain(kept, config.node.clone())),
        Some(NodeTls(Means::Files(source, expected))) => {
            (config.node.clone(), Proof::files(kept, config.node.clone(), source, expected))
        }
        Some(NodeTls(Means::Own(enrolment))) => {
            let identity = Identity { enrolment: *enrolment, gateways: config.gateways.clone(), kept };
            match identity.begin(&data_dir, &shutdown).await? {
                Some(begun) => begun,
                None => return Ok(()),
            }
        }
    };
    while let Some(own) = core(&config, node, proof, &data_dir, &shutdown).await? {
        let Some(NodeTls(Means::Own(enrolment))) = config.tls.clone() else { break };
        let (kept, gateways) = (Kept::new(&data_dir), config.gateways.clone());
        let enroller = Enroller::new(*enrolment, gateways, kept.clone());
        node = own.node().clone();
        proof = Proof::own(kept, node.clone(), Some(own), enroller);
    }
    Ok(())
}

/// What an identity of its own begins with.
struct Identity {
    enrolment: Enrolment,
    gateways: Vec<Gateway>,
    kept: Kept,
}

impl Identity {
    /// Who this machine is. One that was a node is that node at once, whatever is wrong with its identity; any other one first enrols.
    /// Nothing: the agent ends before that.
    async fn begin(
        self,
        data_dir: &Path,
        shutdown: &CancellationToken,
    ) -> Result<Option<(NodeRef, Proof)>, ServeError> {
        let Self { enrolment, gateways, kept } = self;
        let enroller = Enroller::new(enrolment.clone(), gateways, kept.clone());
        let known = || {
            let of_state = StateFiles::node_of(&Directory::new(data_dir))?;
            NodeRef::parse(&of_state).ok()
        };
        let (own, node) = match Own::open(&kept) {
            Ok(Some(own)) => {
                let node = own.node().clone();
                (Some(own), Some(node))
            }
            // Nothing runs here yet, or it ran without an identity of its own before.
            Ok(None) => (None, known()),
            Err(broken) => {
                let why = &broken.why;
                tracing::error!(
                    why,
                    "the identity on disk cannot be used; what is on disk runs, and the link waits"
                );
                (None, broken.node.or_else(known))
            }
        };
        if let (Some(node), Some(asked)) = (&node, enrolment.node.as_ref().filter(|_| own.is_some()))
            && node.node != *asked
        {
            tracing::warn!(%node, %asked, "--node is not what this machine enrolled as: it stays what it is until it enrols anew");
        }
        if let Some(node) = node {
            return Ok(Some((node.clone(), Proof::own(kept, node, own, enroller))));
        }
        enrolment.check().map_err(|why: NoWayIn| ServeError::NotEnrolled(why.to_string()))?;
        let enrolled = shutdown.run_until_cancelled(Box::pin(enroller.clone().run(None))).await;
        Ok(enrolled.map(|own| {
            let node = own.node().clone();
            (node.clone(), Proof::own(kept, node, Some(own), enroller))
        }))
    }
}

/// Runs both actors until the end, or until the machine is another node: answers that one's identity.
async fn core(
    config: &Config,
    node: NodeRef,
    proof: Proof,
    data_dir: &Path,
    shutdown: &CancellationToken,
) -> Result<Option<Own>, ServeError> {
    let (files, loaded) = StateFiles::open(Directory::new(data_dir), node.to_string());
    if let Some(damage) = &loaded.damage {
        tracing::error!(
            damage,
            "the desired state on disk is damaged; nothing that runs is stopped until it has been sent anew"
        );
    }
    let secrets = Secrets::new(&node, data_dir).in_directory(config.secrets_dir.clone());
    let secrets = Arc::new(secrets);
    let (gpus_in, gpus) = watch::channel(Arc::default());
    let (mps_in, mps) = watch::channel(Mps::default());
    let (shares, gpu_link) = sharing(gpus.clone(), mps);
    let (keeper, gpu_link) = match config.gpus {
        GpuAccess::Nvml { mps, .. } => (Some(Keeper::new(mps, data_dir, mps_in)), gpu_link),
        GpuAccess::Off => (None, GpuLink::default()),
    };
    let runtimes = runtimes(config, &node, data_dir, (&secrets, &gpu_link.grants));
    let clock = Clock::default();
    let (desired_in, desired) = watch::channel(Arc::default());
    let (local_in, local) = mpsc::channel(LOCAL_MAX);
    let (runtimes_in, runtime_statuses) = watch::channel(RuntimeStatuses::new());
    let updates = Updates::open(Directory::new(data_dir), &node);
    let (copies_in, copies) = watch::channel(Copies { good: updates.good(), ..Copies::default() });
    let (link_in, link) = watch::channel(false);
    let containers = Arc::new(watch::Sender::new(Arc::default()));
    let boot_id = boot_id().map_err(ServeError::Random)?;
    let (samples_in, samples) = sample_stream(&boot_id);
    let collector =
        Collector::new(&config.gpus, data_dir, Arc::clone(&containers), gpus_in, samples_in, shares);
    let ended = shutdown.child_token();
    let (desk_in, asks) = mpsc::channel(ASKS_MAX);
    let desk = Desk::open(Directory::new(data_dir), asks);
    let (looks_in, looks) = mpsc::channel(1);
    let sources = Sources::new(config, data_dir, looks_in);
    let jobs = Jobs::open(Directory::new(data_dir), proof.floor());
    let quiet = quiet::run(desired.clone(), copies.clone(), ended.clone(), skerry_resident::give_back);
    let uplink = Uplink::new(Parts {
        node: node.clone(),
        gateways: config.gateways.clone(),
        proof,
        clock,
        boot_id,
        files,
        loaded,
        sampler: Sampler::new(data_dir),
        address: config.address,
        desired: desired_in,
        local,
        runtimes: runtime_statuses,
        gpus,
        samples,
        copies,
        channels: Channels::new(node.clone(), &runtimes, config.forbidden.clone(), desk_in, sources),
        link: link_in,
    });
    let links = Links { desired, local: local_in, runtimes: runtimes_in, copies: copies_in, link };
    let ledger = Ledger::open(Directory::new(data_dir));
    let reconciler = Reconciler::new(node, clock, runtimes, links)
        .with_ledger(ledger)
        .with_jobs(jobs)
        .with_updates(updates)
        .with_desk(desk)
        .with_looks(looks)
        .with_containers(containers)
        .with_gpus(gpu_link)
        .with_secrets(secrets);
    let linked = async {
        let renamed = uplink.run(ended.clone()).await;
        ended.cancel();
        renamed
    };
    // Boxed: these live as long as the agent, and their caller need not hold them on its stack.
    let reconciled = Box::pin(reconciler.run(ended.clone()));
    let collected: Pin<Box<dyn Future<Output = ()> + Send>> = match collector {
        Some(collector) => Box::pin(collector.run(ended.clone())),
        None => Box::pin(std::future::ready(())),
    };
    let mps: Pin<Box<dyn Future<Output = ()> + Send>> = match keeper {
        Some(keeper) => Box::pin(keeper.run(ended.clone())),
        None => Box::pin(std::future::ready(())),
    };
    let (renamed, (), (), (), ()) =
        tokio::join!(Box::pin(linked), reconciled, Box::pin(quiet), collected, mps);
    Ok(renamed)
}

fn runtimes(
    config: &Config,
    node: &NodeRef,
    data_dir: &Path,
    (secrets, gpus): (&Arc<Secrets>, &Grants),
) -> Vec<Arc<dyn Runtime>> {
    let dirs = RuntimeDirs {
        configs: data_dir.join("configs"),
        instances: data_dir.join("instances"),
        artifacts: data_dir.join("artifacts"),
    };
    // Docker mounts from it as root; users of processes, who may be let through the data directory, have no business in it.
    if let Err(error) = make_private(&dirs.configs) {
        tracing::warn!(%error, "the directory of configs cannot be made");
    }
    let name = Some(node.node.clone());
    let processes = process::Config {
        node: name,
        secrets: Arc::clone(secrets),
        gpus: gpus.clone(),
        ..process::Config::new(&dirs)
    };
    let mut runtimes: Vec<Arc<dyn Runtime>> = vec![Arc::new(ProcessRuntime::new(processes))];
    if let DockerAccess::Socket(socket) = &config.docker {
        let (owner, hosts) = (owner(node, data_dir), data_dir.join("hosts"));
        if let Err(error) = make_private(&hosts) {
            tracing::warn!(%error, "the directory of hosts files cannot be made");
        }
        runtimes.push(Arc::new(
            DockerRuntime::at_socket(socket, &owner, &dirs)
                .with_credentials(config.credentials.clone())
                .with_secrets(Arc::clone(secrets))
                .with_hosts(&hosts, &node.node)
                .with_grants(gpus.clone())
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
            gpus: crate::GpuAccess::Off,
            forbidden: crate::Forbidden::default(),
            secrets_dir: None,
            address: None,
        };
        is_send(&serve(config, CancellationToken::new()));
    }

    #[test]
    fn each_start_has_another_boot_id() {
        let (one, two) = (boot_id().unwrap(), boot_id().unwrap());
        assert_eq!((one.len(), one == two), (32, false));
    }
}
