//! What an instance really gets of the machine's GPUs: its bookings, held against what is there.
//!
//! Nothing is run without what is booked for it: where a device is gone, or where less isolation can be had than is asked for, it is an error that
//! says so. [`grant`] is pure; [`Grants`] is how runtimes and the reconciler ask it.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use skerry_model::app::ServiceSpec;
use skerry_model::{GpuBooking, GpuId, GpuIsolation, GpuShare};
use skerry_proto::gpu::v1 as pb;
use skerry_proto::types::v1::machine_status::Gpu;
use tokio::sync::watch;

use super::mps::Mps;
use crate::desired::InstanceSpec;
use crate::runtime::RuntimeError;

/// Where what is booked is not on the machine.
pub(crate) const MISSING: &str = "GpuMissing";
/// Where nothing is known of the machine's GPUs yet.
pub(crate) const UNKNOWN: &str = "GpusUnknown";
/// Where only less isolation can be had than is asked for.
pub(crate) const ISOLATION: &str = "GpuIsolation";
/// How warnings of what is granted begin.
pub(crate) const WARNING: &str = "GPU: ";
/// Most devices that a message names.
const NAMED_MAX: usize = 8;

/// What CUDA sees, by UUID.
const CUDA_DEVICES: &str = "CUDA_VISIBLE_DEVICES";
/// What NVIDIA's container runtime gives.
const CONTAINER_DEVICES: &str = "NVIDIA_VISIBLE_DEVICES";
/// Where the daemon of MPS is reached.
pub(super) const PIPE_DIRECTORY: &str = "CUDA_MPS_PIPE_DIRECTORY";
/// Share of the multiprocessors that a client may use.
const THREAD_PERCENTAGE: &str = "CUDA_MPS_ACTIVE_THREAD_PERCENTAGE";
/// Memory that a client may have, by the place of the device among those that it sees.
const MEMORY_LIMIT: &str = "CUDA_MPS_PINNED_DEVICE_MEM_LIMIT";

/// What an instance gets.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Granted {
    /// The bookings, each with the isolation that it really has.
    pub(crate) bookings: Vec<GpuBooking>,
    /// The GPUs of these, in the same order.
    pub(crate) devices: Vec<pb::Device>,
    /// The pipe directory of the MPS daemon that holds it to what is booked.
    pub(crate) pipe: Option<PathBuf>,
    /// What it does not get, in sentences for people.
    pub(crate) warnings: Vec<String>,
}

impl Granted {
    /// UUIDs of the devices, or of the parts of divided ones.
    pub(crate) fn ids(&self) -> Vec<String> {
        let id = |booking: &GpuBooking| match &booking.share {
            GpuShare::Mig { device, .. } => device.to_string(),
            GpuShare::Whole | GpuShare::Part { .. } => booking.gpu.to_string(),
        };
        self.bookings.iter().map(id).collect()
    }

    /// The variables that it has for that. `pipe`: where it sees the daemon's pipe directory.
    pub(crate) fn variables(&self, pipe: Option<&Path>) -> BTreeMap<String, String> {
        let ids = self.ids().join(",");
        let mut all =
            BTreeMap::from([(CUDA_DEVICES.to_owned(), ids.clone()), (CONTAINER_DEVICES.to_owned(), ids)]);
        let Some(pipe) = pipe.filter(|_| self.pipe.is_some()) else { return all };
        all.insert(PIPE_DIRECTORY.to_owned(), pipe.display().to_string());
        // With MPS there is exactly one, a share of one.
        if let Some(GpuBooking { share: GpuShare::Part { memory_bytes, compute_percent }, .. }) =
            self.bookings.first()
        {
            if let Some(percent) = compute_percent {
                all.insert(THREAD_PERCENTAGE.to_owned(), percent.to_string());
            }
            if let Some(bytes) = memory_bytes {
                all.insert(MEMORY_LIMIT.to_owned(), format!("0={}M", (bytes >> 20).max(1)));
            }
        }
        all
    }
}

/// The variables of a process that has no GPU: it cannot be kept from one, and CUDA in it finds none.
pub(crate) fn none_visible() -> BTreeMap<String, String> {
    BTreeMap::from([(CUDA_DEVICES.to_owned(), String::new()), none_by_runtime()])
}

/// What keeps NVIDIA's container runtime from giving an image what it asks for by itself.
pub(crate) fn none_by_runtime() -> (String, String) {
    (CONTAINER_DEVICES.to_owned(), "void".to_owned())
}

/// What is known of the machine.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Facts<'a> {
    /// Nobody looks for GPUs here.
    pub(crate) off: bool,
    /// Its GPUs.
    pub(crate) gpus: &'a [Gpu],
    /// The MPS daemon, as far as there is one.
    pub(crate) mps: &'a Mps,
}

/// What an instance of `service` with these bookings gets. `None`: nothing is booked.
///
/// # Errors
///
/// A device is gone, nothing is known of any, or it would be less isolated than is asked for.
pub(crate) fn grant(
    service: &ServiceSpec,
    bookings: &[GpuBooking],
    facts: Facts<'_>,
) -> Result<Option<Granted>, RuntimeError> {
    if bookings.is_empty() {
        return Ok(None);
    }
    let mut granted = Granted { bookings: Vec::new(), devices: Vec::new(), pipe: None, warnings: Vec::new() };
    for booking in bookings {
        let found = find(booking, facts)?;
        let isolation = isolation(booking, found, facts.mps);
        if isolation == GpuIsolation::Mps {
            granted.pipe = facts.mps.pipe().map(Path::to_owned);
        }
        let least = service.gpu.as_ref().map(|gpu| gpu.isolation_min).unwrap_or_default();
        if isolation < least {
            let no_mps = facts.mps.why_not();
            let why = match found.device.as_ref().and_then(why_uncounted) {
                Some(why) if least <= GpuIsolation::Accounted => format!("{why}, and {no_mps}"),
                _ => no_mps,
            };
            let message = format!(
                "it asks for isolation {least} at least, and of {} it can have {isolation}: {why}; or ask for a lower isolationMin",
                booking.gpu
            );
            return Err(RuntimeError { reason: ISOLATION, message, transient: true });
        }
        if isolation == GpuIsolation::None
            && booking.isolation > isolation
            && let Some(why) = found.device.as_ref().and_then(why_uncounted)
        {
            let gpu = &booking.gpu;
            granted.warnings.push(format!("{WARNING}nobody counts what it uses of {gpu}: {why}"));
        }
        granted.devices.extend(found.device.clone());
        granted.bookings.push(GpuBooking { isolation, ..booking.clone() });
    }
    if let (Some(user), true) = (&service.user, granted.pipe.is_some()) {
        granted.warnings.push(format!(
            "{WARNING}it runs as user {user}, and an MPS daemon serves one user at a time, so it waits while instances of another user have the GPU"
        ));
    }
    Ok(Some(granted))
}

fn find<'a>(booking: &GpuBooking, facts: Facts<'a>) -> Result<&'a Gpu, RuntimeError> {
    let error = |reason, message| RuntimeError { reason, message, transient: true };
    let gpu = booking.gpu.as_str();
    if facts.off {
        let message =
            format!("{gpu} is booked for it, and this agent looks for no GPUs: start it without --no-gpu");
        return Err(error(MISSING, message));
    }
    if facts.gpus.is_empty() {
        let message = format!(
            "{gpu} is booked for it, and nothing is known of this machine's GPUs: they are looked for, or their driver does not load (see the agent's log, and nvidia-smi)"
        );
        return Err(error(UNKNOWN, message));
    }
    let known = || facts.gpus.iter().filter_map(|gpu| Some((gpu, gpu.device.as_ref()?)));
    let Some((found, device)) = known().find(|(_, device)| device.uuid == gpu) else {
        let here: Vec<&str> = known().map(|(_, device)| device.uuid.as_str()).take(NAMED_MAX).collect();
        let message = format!(
            "GPU {gpu}, which is booked for it, is not on this machine, which has {}: put it back, or have the instance placed anew",
            here.join(", ")
        );
        return Err(error(MISSING, message));
    };
    if let GpuShare::Mig { device: part, profile } = &booking.share
        && !device.mig_devices.iter().any(|one| one.uuid == part.as_str())
    {
        let message = format!(
            "part {part} ({profile}) of GPU {gpu}, which is booked for it, is not there: divide the GPU again so (nvidia-smi mig -cgi {profile} -C), or have the instance placed anew"
        );
        return Err(error(MISSING, message));
    }
    Ok(found)
}

/// What it really has; never more than was booked.
fn isolation(booking: &GpuBooking, gpu: &Gpu, mps: &Mps) -> GpuIsolation {
    let best = match booking.share {
        GpuShare::Mig { .. } => GpuIsolation::Mig,
        // Divided since it was booked: an instance gets any part of it, and nobody measures how much of that it uses.
        GpuShare::Whole | GpuShare::Part { .. } if gpu.device.as_ref().is_some_and(is_divided) => {
            GpuIsolation::None
        }
        GpuShare::Whole => GpuIsolation::Exclusive,
        GpuShare::Part { .. } if mps.pipe().is_some() && gpu.device.as_ref().is_some_and(serves) => {
            GpuIsolation::Mps
        }
        GpuShare::Part { .. }
            if gpu.device.as_ref().is_some_and(|device| why_uncounted(device).is_none()) =>
        {
            GpuIsolation::Accounted
        }
        GpuShare::Part { .. } => GpuIsolation::None,
    };
    best.min(booking.isolation)
}

/// Whether an MPS daemon holds shares of such a device to what is booked: limits came with Volta (compute capability 7.0), and one that is divided has parts instead.
pub(crate) fn serves(device: &pb::Device) -> bool {
    let major = device.compute_capability.split('.').next().and_then(|major| major.parse::<u32>().ok());
    device.vendor() == pb::device::Vendor::Nvidia
        && major.is_some_and(|major| major >= 7)
        && !is_divided(device)
}

/// Whether it has parts, or would have if any were made.
pub(super) fn is_divided(device: &pb::Device) -> bool {
    device.mig_mode() == pb::device::MigMode::Enabled || !device.mig_devices.is_empty()
}

/// Why it cannot be told who uses how much of a device, for people. `None`: it can.
fn why_uncounted(device: &pb::Device) -> Option<&'static str> {
    use pb::AbsentReason as Why;
    if is_divided(device) {
        return Some("it is divided (MIG), and was not when it was booked");
    }
    if device.memory_bytes <= 0 {
        return Some("it has no memory of its own that could be counted");
    }
    let is_of_processes = |absent: &&pb::AbsentFields| absent.fields.contains(&pb::Field::Processes.into());
    let lacking = device.unsupported.iter().find(is_of_processes)?;
    Some(match lacking.reason() {
        Why::NoPermission => "the agent may not see what processes use of it: run the agent as root",
        Why::TimedOut => "its driver does not answer what processes use of it (see nvidia-smi)",
        Why::DriverError => "its driver fails when it is asked what processes use of it (see nvidia-smi)",
        _ => "its driver does not tell what processes use of it",
    })
}

/// Answers what instances get, from what is known at that time.
#[derive(Debug, Clone)]
pub struct Grants {
    off: bool,
    gpus: watch::Receiver<Arc<Vec<Gpu>>>,
    mps: watch::Receiver<Mps>,
    /// What `/proc` and `/dev` are below.
    root: Arc<Path>,
}

impl Default for Grants {
    /// Where nobody looks for GPUs.
    fn default() -> Self {
        let (gpus, mps) = (watch::channel(Arc::default()).1, watch::channel(Mps::default()).1);
        Self { off: true, ..Self::new(gpus, mps) }
    }
}

impl Grants {
    pub(crate) fn new(gpus: watch::Receiver<Arc<Vec<Gpu>>>, mps: watch::Receiver<Mps>) -> Self {
        Self { off: false, gpus, mps, root: Arc::from(Path::new("/")) }
    }

    /// Of a machine that has these GPUs and stays so. `pipe`: the pipe directory of its MPS daemon.
    pub fn fixed(gpus: Vec<Gpu>, pipe: Option<PathBuf>) -> Self {
        let mps = pipe.map_or_else(Mps::default, Mps::Serves);
        Self::new(watch::channel(Arc::new(gpus)).1, watch::channel(mps).1)
    }

    /// With what is below `root` in the place of the machine's `/proc` and `/dev`.
    #[must_use]
    pub fn below(self, root: &Path) -> Self {
        Self { root: Arc::from(root), ..self }
    }

    /// What `/proc` and `/dev` are below.
    pub(crate) fn root(&self) -> &Path {
        &self.root
    }

    /// Whether the machine has GPUs, as far as is known.
    pub(crate) fn has_gpus(&self) -> bool {
        !self.gpus.borrow().is_empty()
    }

    /// What an instance gets.
    pub(crate) fn of(&self, instance: &InstanceSpec) -> Result<Option<Granted>, RuntimeError> {
        let (gpus, mps) = (Arc::clone(&self.gpus.borrow()), self.mps.borrow().clone());
        let facts = Facts { off: self.off, gpus: &gpus, mps: &mps };
        grant(&instance.service, &instance.gpus, facts)
    }

    /// Bytes of memory of each of the machine's GPUs that is known and has any.
    pub(crate) fn memories(&self) -> BTreeMap<GpuId, u64> {
        let devices = self.gpus.borrow().clone();
        let devices = devices.iter().filter_map(|gpu| gpu.device.as_ref());
        let memory = |device: &pb::Device| {
            let bytes = u64::try_from(device.memory_bytes).ok().filter(|bytes| *bytes > 0)?;
            Some((GpuId::parse(&device.uuid).ok()?, bytes))
        };
        devices.filter_map(memory).collect()
    }

    /// What was booked for a copy that runs when it was made, each with the isolation that it has now.
    pub(crate) fn held(&self, bookings: &[GpuBooking]) -> Vec<GpuBooking> {
        let gpus = Arc::clone(&self.gpus.borrow());
        let device = |booking: &GpuBooking| {
            gpus.iter()
                .find(|gpu| gpu.device.as_ref().is_some_and(|device| device.uuid == booking.gpu.as_str()))
        };
        let held = |booking: &GpuBooking| {
            // Who was given the daemon's pipe has it still.
            let is_served = booking.isolation == GpuIsolation::Mps;
            let mps = if is_served { Mps::Serves(PathBuf::new()) } else { Mps::default() };
            // Of one that is not seen just now, what is booked is all that is known.
            let isolation = device(booking).map_or(booking.isolation, |gpu| isolation(booking, gpu, &mps));
            GpuBooking { isolation, ..booking.clone() }
        };
        bookings.iter().map(held).collect()
    }

    /// Returns when something may be granted otherwise.
    pub(crate) async fn changed(&mut self) {
        let gone = tokio::select! {
            changed = self.gpus.changed() => changed.is_err(),
            changed = self.mps.changed() => changed.is_err(),
        };
        if gone {
            std::future::pending::<()>().await;
        }
    }
}

#[cfg(test)]
mod tests;
