//! The MPS daemon as the agent runs it, and what it gives a client.

use std::collections::BTreeMap;
use std::env;
use std::path::{Path, PathBuf};
use std::time::Duration;

use skerry_model::{GpuBooking, GpuId, GpuIsolation, GpuShare};
use skerry_proto::gpu::v1 as pb;
use tokio::runtime::{Builder, Runtime};
use tokio::sync::watch;
use tokio::time::{Instant, sleep};

use super::CheckError;
use crate::gpu::grant::{Granted, serves};
use crate::gpu::mps::{Keeper, Mps, PROGRAM};

/// For how long it is waited for that it serves, and that it is gone.
const WAIT: Duration = Duration::from_secs(20);
const LOOK_EVERY: Duration = Duration::from_millis(200);

/// Why no MPS daemon can hold a device to a share, where that is so by what it is.
pub fn why_no_limits(device: &pb::Device) -> Option<&'static str> {
    (!serves(device)).then_some("MPS has limits for undivided devices from compute capability 7.0 on")
}

/// Where the control program of MPS is; `program`: another one, or by another name.
pub fn mps_program(program: Option<&Path>) -> Result<PathBuf, String> {
    let name = program.unwrap_or(Path::new(PROGRAM));
    if name.components().count() > 1 {
        return if name.is_file() {
            Ok(name.to_owned())
        } else {
            Err(format!("{} is not there", name.display()))
        };
    }
    let paths = env::var_os("PATH").unwrap_or_default();
    let found = env::split_paths(&paths).map(|dir| dir.join(name)).find(|file| file.is_file());
    found.ok_or_else(|| format!("{} is not on this machine: it comes with NVIDIA's driver", name.display()))
}

/// A daemon of the agent's own, until this is dropped.
pub struct MpsDaemon {
    keeper: Keeper,
    runtime: Runtime,
    pipe: PathBuf,
    has_ended: bool,
}

impl MpsDaemon {
    /// Begins one below `data_dir`.
    ///
    /// # Errors
    ///
    /// It does not serve.
    pub fn begin(program: PathBuf, data_dir: &Path) -> Result<Self, CheckError> {
        let failed = CheckError::Mps;
        let runtime = Builder::new_current_thread().enable_all().build();
        let runtime = runtime.map_err(|error| failed(error.to_string()))?;
        let mut keeper = Keeper::of(program, data_dir, watch::Sender::new(Mps::None));
        let pipe = runtime.block_on(async {
            let began = Instant::now();
            loop {
                match keeper.look_after().await {
                    Mps::Serves(pipe) => return Ok(pipe),
                    Mps::Fails(why) if began.elapsed() > WAIT => return Err(failed(why)),
                    // Where the daemon is slow to write who it is, the next look finds it.
                    Mps::Fails(_) | Mps::None => sleep(LOOK_EVERY).await,
                }
            }
        })?;
        Ok(Self { keeper, runtime, pipe, has_ended: false })
    }

    /// What an instance gets as variables that has such a share of the device.
    ///
    /// # Errors
    ///
    /// The UUID is none.
    pub fn variables(
        &self,
        uuid: &str,
        memory_bytes: u64,
        compute_percent: u32,
    ) -> Result<BTreeMap<String, String>, CheckError> {
        let gpu = GpuId::parse(uuid).map_err(|error| CheckError::Mps(error.to_string()))?;
        let (memory_bytes, compute_percent) = (Some(memory_bytes), Some(compute_percent));
        let share = GpuShare::Part { memory_bytes, compute_percent };
        let bookings = vec![GpuBooking { gpu, share, isolation: GpuIsolation::Mps }];
        let granted =
            Granted { bookings, devices: Vec::new(), pipe: Some(self.pipe.clone()), warnings: Vec::new() };
        Ok(granted.variables(Some(&self.pipe)))
    }

    /// Ends it.
    ///
    /// # Errors
    ///
    /// It lives on.
    pub fn end(mut self) -> Result<(), CheckError> {
        self.finish()
    }

    fn finish(&mut self) -> Result<(), CheckError> {
        if std::mem::replace(&mut self.has_ended, true) {
            return Ok(());
        }
        let Self { keeper, runtime, pipe, .. } = self;
        runtime.block_on(async {
            keeper.end().await;
            let began = Instant::now();
            while keeper.lives() {
                if began.elapsed() > WAIT {
                    let why = format!("it was told to end and lives on: its pipes are in {}", pipe.display());
                    return Err(CheckError::Mps(why));
                }
                sleep(LOOK_EVERY).await;
            }
            Ok(())
        })
    }
}

impl Drop for MpsDaemon {
    fn drop(&mut self) {
        if let Err(error) = self.finish() {
            tracing::warn!(%error, "the MPS daemon of the check");
        }
    }
}
