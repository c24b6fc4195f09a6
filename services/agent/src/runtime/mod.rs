//! What runs instances: the trait that the reconciler drives, with Docker and plain processes behind it.
//!
//! A runtime is convergent: `ensure` and `remove` may be repeated, interrupted and repeated, and end at the same place. It keeps no
//! state that it cannot find again by looking (labels of containers, files of shims), so that an agent that restarts adopts
//! what runs. When to start, restart or stop is never its decision: that is the plan's.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use skerry_model::{AppName, ConfigName, GpuBooking, InstanceName, NetworkName, VolumeName};

use tokio::sync::mpsc;

pub use self::copy::{CopyPart, CopySource};
pub use self::exec::{ExecAsk, ExecLine, Exit};
pub use self::logs::{LogAsk, LogPart};
pub use self::usage::{Counts, Used};
use crate::ahead::Image;
use crate::desired::InstanceSpec;
use crate::peers::Peers;

pub(crate) mod copy;
pub mod docker;
pub(crate) mod environment;
pub(crate) mod exec;
pub(crate) mod logs;
pub mod process;
pub(crate) mod usage;

/// Which runtime.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum RuntimeKind {
    /// Containers, by Docker.
    Docker,
    /// Processes of the machine.
    Process,
}

impl RuntimeKind {
    /// As `MachineStatus.Runtime.kind` names it.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Docker => "docker",
            Self::Process => "process",
        }
    }
}

/// Which copy of an instance. There are two while a new one is started before the old one is stopped.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Place {
    /// The one that is there, or the only one.
    Own,
    /// The one that is to take its place.
    Beside,
}

/// What a runtime sees of one copy of an instance. Everything that carries our mark is told, also what nobody wants any more.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Observed {
    /// Which instance.
    pub instance: InstanceName,
    /// `InstanceSpec::fingerprint` that it was made from.
    pub fingerprint: String,
    /// Revision of the app that it was made from, as text.
    pub revision: String,
    /// Container id, or process id.
    pub runtime_id: String,
    /// Whether it runs.
    pub state: RunState,
    /// Where its ports are reached from the agent: the container's address, or loopback.
    pub address: Option<IpAddr>,
    /// What the image's own health check says, where it has one.
    pub image_health: Option<bool>,
    /// What other hands changed about a copy that runs, which `ensure` puts right. One word: `Paused`, `Renamed`, `Disconnected`.
    pub drift: Option<&'static str>,
    /// Which copy. One that is alone is in its own place.
    pub place: Place,
    /// When it was last started, also if it has ended since. Absent: it never was, or nobody knows.
    pub started: Option<SystemTime>,
    /// What is not as the spec says though it runs, in sentences for people.
    pub warnings: Vec<String>,
    /// What was booked for it of the machine's GPUs when it was made, each with the isolation that it was given.
    pub gpus: Vec<GpuBooking>,
}

impl Observed {
    /// Refuses one that does not run.
    pub(crate) fn check_runs(&self) -> Result<(), RuntimeError> {
        if matches!(self.state, RunState::Running { .. }) {
            return Ok(());
        }
        Err(RuntimeError {
            reason: "NotRunning",
            message: format!("{} does not run now: `skerry explain` says how it stands", self.instance),
            transient: true,
        })
    }
}

/// Where the ports of a copy are.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Reach {
    /// On the network of the machine.
    Machine,
    /// On a network of its own.
    Own {
        /// A process that is in it, as Docker numbers it. Whether that is it here as well is for who uses it to see.
        pid: Option<i32>,
        /// What the cgroup of that process has in its name.
        cgroup: String,
        /// Where it is reached from outside of it.
        address: Option<IpAddr>,
    },
}

/// Whether an instance runs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RunState {
    /// Made and never started.
    Created,
    /// Runs.
    Running {
        /// Since when.
        since: SystemTime,
    },
    /// Ended.
    Exited {
        /// Exit code; 128 + n for signal n, as shells count. Absent: nobody saw it (power loss, say).
        code: Option<i32>,
        /// When.
        at: SystemTime,
        /// Ended by the kernel for want of memory.
        out_of_memory: bool,
    },
}

/// Why a runtime could not do what it was asked.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{message}")]
pub struct RuntimeError {
    /// One CamelCase word: `ImagePullFailed`, `ImageMissing`, `PortTaken`, `MountMissing`, `ProgramNotFound`, `RuntimeUnavailable`, `TimedOut`, ...
    pub reason: &'static str,
    /// A sentence for people.
    pub message: String,
    /// Whether trying again unchanged may help. `false` is tried again as well, but slowly.
    pub transient: bool,
}

/// Progress that users should see, turned into events (`Pulling`, `Pulled`, ...).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Progress {
    /// One CamelCase word.
    pub reason: &'static str,
    /// A sentence for people.
    pub message: String,
}

/// The reason of the progress that tells of want of room which the agent cannot end by itself.
pub(crate) const DISK_NEARLY_FULL: &str = "DiskNearlyFull";

impl Progress {
    /// Whether somebody should do something about it.
    pub fn is_warning(&self) -> bool {
        self.reason == DISK_NEARLY_FULL
    }
}

/// Where progress goes. Must not block.
pub type ProgressSink<'a> = &'a (dyn Fn(Progress) + Send + Sync);

/// What is still wanted on this node, for `sweep`.
#[derive(Debug, Default)]
pub struct Wanted {
    /// Apps with at least one wanted instance.
    pub apps: BTreeSet<AppName>,
    /// Further networks that a wanted instance names, with its app.
    pub networks: BTreeSet<(AppName, NetworkName)>,
    /// Wanted instances.
    pub instances: BTreeSet<InstanceName>,
    /// Wanted config contents: config and hash.
    pub configs: BTreeSet<(ConfigName, String)>,
}

/// Whether volumes are removed with their apps.
pub type VolumeWords = BTreeMap<(AppName, VolumeName), bool>;

/// What is still needed on this node, for `collect`.
#[derive(Debug, Default)]
pub struct Needs {
    /// Apps with at least one wanted instance.
    pub apps: BTreeSet<AppName>,
    /// Images that wanted instances and their former copies are made from, as specs name them, and those that are fetched ahead.
    pub images: BTreeSet<String>,
    /// Volumes that wanted instances mount, and whether each is removed with its app; also of what was wanted shortly before, as it was
    /// said last.
    pub volumes: VolumeWords,
    /// Checksums of the files that are downloaded for wanted instances and their former copies.
    pub artifacts: BTreeSet<String>,
}

impl Needs {
    /// Whether what `newer` needs is needed here too: what goes as unneeded here is unneeded there.
    pub fn cover(&self, newer: &Self) -> bool {
        newer.apps.is_subset(&self.apps)
            && newer.images.is_subset(&self.images)
            && newer.artifacts.is_subset(&self.artifacts)
    }
}

/// What containers know each other by, for `keep_names`.
#[derive(Debug, Default)]
pub struct Names {
    /// What apps have on other members of the cluster.
    pub peers: BTreeMap<AppName, Arc<Peers>>,
    /// What the copies that run may be made from.
    pub specs: Vec<Arc<InstanceSpec>>,
}

/// How an instance is asked to end, where the instance itself no longer says.
pub const GRACE_DEFAULT: Duration = Duration::from_secs(10);

/// What runs instances.
///
/// Every call may be dropped at any await point (a timeout, a shutdown) and repeated later. Calls for different instances come
/// concurrently; calls for one instance never do.
#[async_trait::async_trait]
pub trait Runtime: Send + Sync {
    /// Which one this is.
    fn kind(&self) -> RuntimeKind;

    /// Asks whether the runtime answers: its version, for the node's status.
    async fn probe(&self) -> Result<String, RuntimeError>;

    /// What it says of itself for who looks for a fault: lines of a name and a value, none of them of an instance.
    async fn describe(&self) -> Result<String, RuntimeError> {
        Ok(String::new())
    }

    /// Fetches what `instance` needs (its image), so that a replacement does not begin before it can end.
    async fn prepare(&self, instance: &InstanceSpec, progress: ProgressSink<'_>) -> Result<(), RuntimeError>;

    /// Fetches an image that no instance may need yet. Here already: nothing happens, whatever its registry has by now.
    async fn fetch_image(&self, image: &Image, _progress: ProgressSink<'_>) -> Result<(), RuntimeError> {
        let message = format!("image `{}` is nothing that this runtime uses", image.image);
        Err(RuntimeError { reason: "ImageUnsupported", message, transient: false })
    }

    /// Makes exactly one copy of `instance` run with exactly its fingerprint. Runs already: what other hands changed about it is put
    /// right (`Observed::drift`), else nothing happens. Another fingerprint: stopped as
    /// that one's own stop policy says, removed, made anew. Created or exited with the same fingerprint: started again.
    async fn ensure(&self, instance: &InstanceSpec, progress: ProgressSink<'_>) -> Result<(), RuntimeError>;

    /// As `ensure`, for one of two copies: the other one is left alone. A copy in its own place stays there, one beside it runs until
    /// `ensure` puts it in that place, which it does without starting it again. Where a copy of the fingerprint is in either place,
    /// no second one is made.
    ///
    /// Error: `OverlapUnsupported` from a runtime that has never two; it is not asked for one.
    async fn ensure_at(
        &self,
        place: Place,
        instance: &InstanceSpec,
        progress: ProgressSink<'_>,
    ) -> Result<(), RuntimeError> {
        match place {
            Place::Own => self.ensure(instance, progress).await,
            Place::Beside => Err(no_overlap(&instance.name)),
        }
    }

    /// Stops one copy gracefully and removes it: the one with this `Observed::runtime_id`. Gone already: nothing happens.
    async fn withdraw(&self, instance: &InstanceName, _runtime_id: &str) -> Result<(), RuntimeError> {
        Err(no_overlap(instance))
    }

    /// Stops an instance gracefully and leaves it as if it had ended by itself, with all that it wrote. Does not run: nothing happens.
    async fn stop(&self, instance: &InstanceName) -> Result<(), RuntimeError>;

    /// As [`Self::stop`], but at once: it is not asked, and has no grace time.
    async fn kill(&self, instance: &InstanceName) -> Result<(), RuntimeError>;

    /// Stops an instance gracefully and removes every trace but its volumes. None there: nothing happens.
    async fn remove(&self, instance: &InstanceName) -> Result<(), RuntimeError>;

    /// All instances that carry this agent's mark.
    async fn observe(&self) -> Result<Vec<Observed>, RuntimeError>;

    /// Runs a command inside a running instance, for health checks: its exit code. Ends the command when dropped.
    async fn exec(&self, instance: &InstanceName, command: &[String]) -> Result<i32, RuntimeError>;

    /// As `exec`, in one of two copies.
    async fn exec_at(
        &self,
        place: Place,
        instance: &InstanceName,
        command: &[String],
    ) -> Result<i32, RuntimeError> {
        match place {
            Place::Own => self.exec(instance, command).await,
            Place::Beside => Err(no_overlap(instance)),
        }
    }

    /// Tells what a copy wrote, part by part, at the pace of who takes it: until its end, until the copy ends or until nobody takes it any
    /// more. Holds nothing once dropped.
    async fn logs(
        &self,
        _copy: &Observed,
        _ask: &LogAsk,
        _out: &mpsc::Sender<LogPart>,
    ) -> Result<(), RuntimeError> {
        Err(RuntimeError {
            reason: "LogsUnsupported",
            message: format!("{} keeps no logs", self.kind().as_str()),
            transient: false,
        })
    }

    /// Runs a command beside a copy that runs, for somebody who sees what it writes: how it ended, after all that it wrote was taken. What is
    /// left of it then is ended too, and so is all of it when this is dropped.
    async fn command(&self, copy: &Observed, _ask: &ExecAsk, _line: ExecLine) -> Result<Exit, RuntimeError> {
        Err(RuntimeError {
            reason: "ExecUnsupported",
            message: format!("{} runs no commands beside {}", self.kind().as_str(), copy.instance),
            transient: false,
        })
    }

    /// The same on the node itself, as the agent's user.
    async fn node_command(&self, _ask: &ExecAsk, _line: ExecLine) -> Result<Exit, RuntimeError> {
        Err(RuntimeError {
            reason: "ExecUnsupported",
            message: format!("{} runs no commands on the node itself", self.kind().as_str()),
            transient: false,
        })
    }

    /// Where what listens at 127.0.0.1 of a copy that runs is reached.
    async fn reach(&self, _copy: &Observed) -> Result<Reach, RuntimeError> {
        Err(RuntimeError {
            reason: "ForwardUnsupported",
            message: format!("{} has no ports to connect to", self.kind().as_str()),
            transient: false,
        })
    }

    /// Unpacks an archive below `path`, a directory that is there; from the instance's working directory where it is not absolute. What comes
    /// without [`CopyPart::Whole`] at its end is not whole: nothing of it stays, as far as the runtime can do that.
    async fn copy_to(
        &self,
        _copy: &Observed,
        _path: &str,
        _archive: mpsc::Receiver<CopyPart>,
    ) -> Result<(), RuntimeError> {
        Err(copy::unsupported(self.kind()))
    }

    /// Packs what is asked for, part by part, at the pace of who takes it.
    async fn copy_from(
        &self,
        _copy: &Observed,
        _source: &CopySource,
        _out: &mpsc::Sender<bytes::Bytes>,
    ) -> Result<(), RuntimeError> {
        Err(copy::unsupported(self.kind()))
    }

    /// What the copies that run have used so far, of one app or of all. What cannot be counted is left out.
    async fn usage(&self, _app: Option<&AppName>) -> Result<Vec<Used>, RuntimeError> {
        Err(RuntimeError {
            reason: "UsageUnsupported",
            message: format!("{} does not count what instances use", self.kind().as_str()),
            transient: false,
        })
    }

    /// Removes what no wanted instance uses: networks of apps that are gone or that they no longer name, laid-out config files. Never volumes.
    async fn sweep(&self, wanted: &Wanted) -> Result<(), RuntimeError>;

    /// Keeps in mind what is said of volumes, at once: once their app has left nobody says it again, and a `collect` between the two
    /// need not come.
    async fn note(&self, _volumes: &VolumeWords) -> Result<(), RuntimeError> {
        Ok(())
    }

    /// Removes what takes room on the machine and is needed no more, of what the runtime knows to be the agent's: images that it pulled,
    /// files that it downloaded, volumes that go with their app. Answers what was removed, for people.
    async fn collect(&self, _needs: &Needs) -> Result<Vec<Progress>, RuntimeError> {
        Ok(Vec::new())
    }

    /// From now on these are the names. What is started from now on has them; what runs has them by `keep_names`.
    fn take_names(&self, _names: Arc<Names>) {}

    /// Tells what runs the names that were taken last, and restarts nothing for it.
    async fn keep_names(&self) -> Result<(), RuntimeError> {
        Ok(())
    }

    /// Returns when something may have changed by itself (a container died), so that the reconciler looks sooner.
    async fn changed(&self);
}

/// So many bytes, for people.
pub(crate) fn mebibytes(bytes: u64) -> String {
    format!("{:.1} MiB", bytes as f64 / f64::from(1 << 20))
}

fn no_overlap(instance: &InstanceName) -> RuntimeError {
    RuntimeError {
        reason: "OverlapUnsupported",
        message: format!("{instance} cannot have two copies on this runtime"),
        transient: false,
    }
}

/// Where a runtime keeps its files, below the agent's data directory.
#[derive(Debug, Clone)]
pub struct RuntimeDirs {
    /// Laid-out config files: `<configs>/<config>/<hash>/<key>`.
    pub configs: PathBuf,
    /// State of process instances.
    pub instances: PathBuf,
    /// Files that were downloaded for them, by checksum.
    pub artifacts: PathBuf,
}
