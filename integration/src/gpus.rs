//! GPUs that are simulated: a driver of its own for each node, changed while its agent runs.

use std::path::Path;

use anyhow::{Context as _, Result};
use skerry_nvml_sim::{Control, Event, MachineSpec, Placed, Process, built_library, place};
use skerry_proto::types::v1::{GpuRequest, ServiceSpec};
use tempfile::TempDir;

/// The GPUs of a node.
#[derive(Debug)]
pub struct SimulatedGpus {
    _dir: TempDir,
    placed: Placed,
    control: Control,
}

impl SimulatedGpus {
    /// Those of a machine, as `a100x2+t4`. Machines of different seeds have different GPUs.
    pub fn new(machine: &str, seed: &str) -> Result<Self> {
        let dir = TempDir::new()?;
        let machine = MachineSpec::parse(machine).context("the machine")?;
        let control = Control { seed: Some(seed.to_owned()), ..Control::of(machine) };
        let placed = place(&built_library()?, dir.path(), &control)?;
        Ok(Self { _dir: dir, placed, control })
    }

    /// The driver's library.
    pub fn library(&self) -> &Path {
        &self.placed.library
    }

    /// The agent's argument for it.
    pub fn arg(&self) -> String {
        format!("--nvml-library={}", self.placed.library.display())
    }

    /// Changes what is simulated.
    pub fn change(&mut self, change: impl FnOnce(&mut Control)) -> Result<()> {
        change(&mut self.control);
        Ok(self.control.write(&self.placed.control)?)
    }

    /// The driver reports an error of a device; each has a number of its own.
    pub fn xid(&mut self, device: u32, code: u64) -> Result<()> {
        self.change(|control| {
            let id = control.event.len() as u64 + 1;
            control.event.push(Event::xid(id, device, code));
        })
    }

    /// These processes of this machine have so many MiB of a device.
    pub fn processes(&mut self, device: u32, processes: &[(u32, u64)]) -> Result<()> {
        let process = |&(pid, mib): &(u32, u64)| Process { pid, memory_mib: Some(mib), ..Process::default() };
        self.change(|control| control.device_mut(device).process = processes.iter().map(process).collect())
    }
}

/// A service that asks for GPUs.
pub fn with_gpu(gpu: GpuRequest, service: ServiceSpec) -> ServiceSpec {
    ServiceSpec { gpu: Some(gpu), ..service }
}

/// A share of a GPU: so many GiB of its memory.
pub fn share(gib: i64) -> GpuRequest {
    GpuRequest { memory_bytes: Some(gib << 30), ..GpuRequest::default() }
}
