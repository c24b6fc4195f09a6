//! NVIDIA's driver, through its management library (NVML), which is loaded at run time by `nvml-wrapper`.
//!
//! | module | job |
//! |---|---|
//! | `inventory` | what the devices are, and their parts |
//! | `read` | values of one device: which call gives which field, and what is not asked again |
//! | `links` | errors on NVLinks where they are counted link by link |
//! | `processes` | who has a context |
//! | `events` | Xid and ECC errors from the driver's event set |
//! | `plausible` | what the driver answered, held against what can be: no sentinel leaves the node |
//!
//! Names and units are those of NVIDIA's "NVML API Reference Guide" (docs.nvidia.com/deploy/nvml-api).

use std::path::{Path, PathBuf};
use std::sync::Arc;

use nvml_wrapper::Nvml;
use nvml_wrapper::error::NvmlError;
use skerry_gpu_model::Absent;
use skerry_proto::gpu::v1 as pb;

use super::driver::{Broken, Driver, Events, Reader, Session, Unopened};

mod events;
mod inventory;
mod links;
mod plausible;
mod processes;
pub(super) mod read;

/// Names of the library where none is given, in the order in which they are tried.
const LIBRARIES: [&str; 2] = ["libnvidia-ml.so.1", "libnvidia-ml.so"];

/// One of these is there where a kernel has a driver that NVML could talk to: the modules of NVIDIA, that of its boards with a chip of one piece, and
/// what Windows passes to its Linux.
const SIGNS: [&str; 4] = ["/proc/driver/nvidia", "/dev/nvidiactl", "/sys/module/nvgpu", "/dev/dxg"];

/// NVIDIA's driver.
pub(crate) struct NvmlDriver {
    library: Option<PathBuf>,
}

impl NvmlDriver {
    /// With this library; absent: with the one that the system's loader finds, where a driver seems to be there.
    pub(crate) fn new(library: Option<PathBuf>) -> Self {
        Self { library }
    }
}

impl Driver for NvmlDriver {
    fn may_be_there(&self) -> bool {
        match &self.library {
            Some(library) => library.exists(),
            None => SIGNS.iter().any(|sign| Path::new(sign).exists()),
        }
    }

    fn open(&self) -> Result<Arc<dyn Session>, Unopened> {
        let load = |name: &Path| {
            let nvml = Nvml::builder().lib_path(name.as_os_str()).init();
            nvml.map_err(|error| Unopened(format!("{}: {error}", name.display())))
        };
        let nvml = match &self.library {
            Some(library) => load(library)?,
            None => load(Path::new(LIBRARIES[0]))
                .or_else(|first| load(Path::new(LIBRARIES[1])).map_err(|_| first))?,
        };
        Ok(Arc::new(NvmlSession { nvml }))
    }
}

struct NvmlSession {
    nvml: Nvml,
}

impl Session for NvmlSession {
    fn devices(&self, known: &[pb::Device]) -> Result<Vec<pb::Device>, Broken> {
        inventory::devices(&self.nvml, known)
    }

    fn reader<'a>(&'a self, devices: &'a [pb::Device]) -> Box<dyn Reader + 'a> {
        Box::new(read::NvmlReader::new(&self.nvml, devices))
    }

    fn events<'a>(&'a self, devices: &'a [pb::Device]) -> Result<Box<dyn Events + 'a>, Broken> {
        Ok(Box::new(events::NvmlEvents::new(&self.nvml, devices)?))
    }
}

/// What follows from an error of the driver's.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Failure {
    /// This value is not there.
    Field(Absent),
    /// The device is not.
    Lost,
    /// The driver is not.
    Broken,
}

impl Failure {
    fn of(error: &NvmlError) -> Self {
        Self::Field(match error {
            NvmlError::GpuLost => return Self::Lost,
            NvmlError::Uninitialized | NvmlError::DriverNotLoaded | NvmlError::LibRmVersionMismatch => {
                return Self::Broken;
            }
            NvmlError::NotSupported | NvmlError::FunctionNotFound | NvmlError::FailedToLoadSymbol(_) => {
                Absent::NotSupported
            }
            NvmlError::NoPermission | NvmlError::OperatingSystem => Absent::NoPermission,
            NvmlError::Timeout => Absent::TimedOut,
            NvmlError::NoData => Absent::NotYet,
            NvmlError::UnexpectedVariant(_) | NvmlError::IncorrectBits(_) => Absent::Implausible,
            _ => Absent::DriverError,
        })
    }
}
