//! What `cargo xtask gpu-check` sees of the agent: the collector's own reading, which it holds against what the driver's own tool says, how soon the watchdog
//! finds an overuse, and the MPS daemon. Not for others: nothing here is promised, and it calls the driver where it stands.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::thread;
use std::time::{Duration, SystemTime};

use skerry_gpu_model::{Absent, Field, Place, Process, Sample};
use skerry_model::InstanceName;
use skerry_proto::gpu::v1 as pb;
use tokio::sync::watch;

use super::driver::{Driver, Due, Reader, Session};
use super::nvml::{NvmlDriver, read};
use super::owners::Owners;
use crate::runtime::process::instance_dir;
use crate::shim::files::Started;
use crate::shim::procfs::ProcessId;

mod daemon;
mod overuse;

pub use daemon::{MpsDaemon, mps_program, why_no_limits};
pub use overuse::{Discovery, Look, Share};

/// Ratios are of two samples of the chip's counters, which should be this far apart.
const BETWEEN_COUNTERS: Duration = Duration::from_millis(250);
/// All that there is.
const ALL: Due = Due { second: true, processes: true, ten_seconds: true, minute: true };

/// Why nothing could be checked.
#[derive(Debug, thiserror::Error)]
pub enum CheckError {
    /// There is no driver.
    #[error("loading the driver's library: {0}")]
    Unopened(String),
    /// It went while it was read.
    #[error("the driver went away while it was read: see what the kernel's log says, and try again")]
    Gone,
    /// What an instance's directory holds could not be written.
    #[error("writing down that process {pid} is an instance's: {source}")]
    Standing {
        /// The process.
        pid: u32,
        /// Why.
        source: io::Error,
    },
    /// The watchdog could not be watched.
    #[error("watching the watchdog: {0}")]
    Watching(String),
    /// The daemon of MPS.
    #[error("the MPS daemon: {0}")]
    Mps(String),
}

/// The fields that the collector reads by NVML's numbers for them.
pub fn numbered() -> impl Iterator<Item = (Field, u32)> {
    read::NUMBERED.iter().copied()
}

/// A driver that is loaded, and its devices as the collector sees them.
pub struct Check {
    library: Option<PathBuf>,
    session: Arc<dyn Session>,
    devices: Vec<pb::Device>,
}

impl Check {
    /// Loads this library; absent: the one that the system's loader finds.
    pub fn open(library: Option<PathBuf>) -> Result<Self, CheckError> {
        let session =
            NvmlDriver::new(library.clone()).open().map_err(|error| CheckError::Unopened(error.0))?;
        let devices = session.devices(&[]).map_err(|_| CheckError::Gone)?;
        Ok(Self { library, session, devices })
    }

    /// The devices, in the driver's order.
    pub fn devices(&self) -> &[pb::Device] {
        &self.devices
    }

    /// Reads every field of every whole device, then does something, then reads them again: what a device said in between lies between the two.
    #[expect(clippy::disallowed_methods, reason = "a program of one thread, without an executor")]
    pub fn around<T>(
        &self,
        between: impl FnOnce() -> T,
    ) -> Result<(Vec<Sample>, T, Vec<Sample>), CheckError> {
        let mut reader = self.session.reader(&self.devices);
        self.read(reader.as_mut())?;
        thread::sleep(BETWEEN_COUNTERS);
        let before = self.read(reader.as_mut())?;
        let done = between();
        thread::sleep(BETWEEN_COUNTERS);
        Ok((before, done, self.read(reader.as_mut())?))
    }

    /// Who has a context on the device, each with the instance below this directory whose it is.
    pub fn processes(&self, device: usize, instances: &Path) -> Result<Vec<Process>, CheckError> {
        let mut reader = self.session.reader(&self.devices);
        let mut sample = Sample::new();
        let due = Due { processes: true, ..Due::default() };
        reader.read(device, due, &mut sample).map_err(|_| CheckError::Gone)?;
        let containers = watch::Sender::new(Arc::default());
        Owners::new(containers.subscribe(), instances.to_owned()).name(&mut sample.processes);
        Ok(sample.processes)
    }

    fn read(&self, reader: &mut dyn Reader) -> Result<Vec<Sample>, CheckError> {
        let whole = Place::all(&self.devices).into_iter().filter(|place| place.part.is_none());
        let sample = |(at, _)| {
            let mut sample = Sample::absent(Absent::NotYet);
            reader.read(at, ALL, &mut sample).map_err(|_| CheckError::Gone)?;
            Ok(sample)
        };
        whole.enumerate().map(sample).collect()
    }
}

/// Writes down below `instances` that a process is this instance's, as the agent's shim does.
pub fn stand_for(instances: &Path, instance: &InstanceName, pid: u32) -> Result<(), CheckError> {
    let failed = |source| CheckError::Standing { pid, source };
    let gone = || failed(io::ErrorKind::NotFound.into());
    let id = i32::try_from(pid).ok().and_then(ProcessId::of).ok_or_else(gone)?;
    let boot = std::fs::read_to_string("/proc/sys/kernel/random/boot_id").map_err(failed)?;
    let dir = instance_dir(instances, instance);
    std::fs::create_dir_all(&dir).map_err(failed)?;
    let started = Started {
        boot: boot.trim().to_owned(),
        fingerprint: "gpu-check".to_owned(),
        revision: "gpu-check".to_owned(),
        shim: id,
        program: Some(id),
        since: SystemTime::now(),
    };
    started.write(&dir).map_err(failed)
}
