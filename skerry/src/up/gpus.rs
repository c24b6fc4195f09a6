//! This machine's GPUs: those that there are, or simulated ones for who has none.

use std::path::{Path, PathBuf};

use anyhow::Context as _;
use skerry_agent::{GpuAccess, GpuArgs};
use skerry_nvml_sim::{Control, MachineSpec, built_library, place};

/// Where the agent finds GPUs.
#[derive(Debug, Clone)]
pub(super) enum Gpus {
    /// Where its driver is.
    Driver(GpuAccess),
    /// By a simulated driver.
    Simulated {
        /// What it says there is.
        machine: MachineSpec,
        /// As it was written.
        spec: String,
    },
}

impl Gpus {
    /// As the flags say.
    pub(super) fn of(driver: GpuArgs, simulated: Option<String>) -> anyhow::Result<Self> {
        let Some(spec) = simulated else { return Ok(Self::Driver(driver.access())) };
        let machine = MachineSpec::parse(&spec).context("--gpu-sim")?;
        Ok(Self::Simulated { machine, spec })
    }

    /// Where the agent finds them. Of simulated ones the driver is put into the data directory, with the file that says how they are.
    pub(super) fn access(&self, data_dir: &Path) -> anyhow::Result<GpuAccess> {
        match self {
            Self::Driver(access) => Ok(access.clone()),
            Self::Simulated { machine, .. } => {
                let library = built_library().context("--gpu-sim")?;
                let dir = simulated_in(data_dir);
                std::fs::create_dir_all(&dir).with_context(|| format!("making {}", dir.display()))?;
                let placed = place(&library, &dir, &Control::of(machine.clone())).context("--gpu-sim")?;
                Ok(GpuAccess::Nvml { library: Some(placed.library), mps: false })
            }
        }
    }

    /// The line that says so, where they are not real.
    pub(super) fn summary(&self, data_dir: &Path) -> Option<String> {
        let Self::Simulated { spec, .. } = self else { return None };
        let file = simulated_in(data_dir).join("libnvml.so.toml");
        Some(format!("  gpus     simulated: {spec}; what they do is said in {}", file.display()))
    }
}

fn simulated_in(data_dir: &Path) -> PathBuf {
    data_dir.join("gpu-sim")
}
