//! A driver of GPUs that are not there: a library with the symbols of NVML, for tests, for the demo, and for people without a GPU.
//!
//! # Use
//!
//! ```sh
//! cargo build -p skerry-nvml-sim
//! echo 'machine = "a100x2"' > /tmp/gpus.toml
//! SKERRY_NVML_SIM=/tmp/gpus.toml skerry-agent --nvml-library target/debug/libskerry_nvml_sim.so ...
//! ```
//!
//! Any program that loads NVML by a path can use it, and one that loads `libnvidia-ml.so.1` finds a copy under that name by
//! `LD_LIBRARY_PATH`; nothing loads it that is not told to. What it simulates stands in one control file,
//! which may be changed while programs run: the library looks at it with each call, at most every 50 ms. Where that file is:
//!
//! 1. the library's own path with `.toml` behind it, if there is one. Copies of the library are libraries of their own: a process with
//!    several has several machines ([`place`]);
//! 2. else what the variable `SKERRY_NVML_SIM` names, which is read at the first call;
//! 3. else there is one T4 with a lively load.
//!
//! A file that is wrong changes nothing: what was said before stays, and what is wrong is said once on standard error and in the file
//! `<control file>.error`, which goes when all is well. Where nothing good was said before, there is no driver (`DRIVER_NOT_LOADED`).
//!
//! From Rust, a [`Control`] is written with [`Control::write`], and [`place`] puts a library with its file into a directory.
//!
//! # The control file, with every key
//!
#![doc = concat!("```toml\n", include_str!("example.toml"), "```")]
//!
//! # What is simulated
//!
//! Of each card what its profile in `profiles/` says, over time: work by the load, with noise; power follows work, temperature follows
//! power, clocks give way at the power limit and in heat (with the reasons and how long), energy is the sum of power. All of that is the
//! same for a seed and a time: two programs that load the library see the same machine, but for counters, which begin when a program first
//! calls (as at the load of a driver, 120 s before). Calls may be made by any number of threads; one that hangs holds up no other.
//!
//! | what | how |
//! |---|---|
//! | devices | by index, UUID, PCI address and serial number; the UUIDs stay while seed, index and MIG profile do |
//! | memory | total, reserved, used, BAR1; ECC counters, retired pages, remapped rows as the file says |
//! | processes | compute, graphics and MPS, with memory and utilisation, as the file says |
//! | events | XID and the others, each once for each set that had registered; `GPU_IS_LOST` once all is told and a card is lost |
//! | MIG | instances as the file says, each with one compute instance; utilisation of a partitioned card is `NOT_SUPPORTED`, as in NVML |
//! | GPM | on Hopper: ratios between two samples, and throughput |
//! | faults | answers by call and card, calls that hang, lost cards, a driver that goes or restarts |
//! | time | how long calls take, by a table: from 50 µs on a call sleeps, below it computes, as with a driver |
//!
//! An XID is told with its own number, where a driver may name the last one for all that wait.
//!
//! What is not simulated answers `NOT_SUPPORTED`, among it all that changes a card. The profile `orin` answers that to nearly all, has no
//! events, and so makes a program look for XIDs elsewhere; `lost` falls off the bus after 30 s.

mod code;
mod control;
mod ffi;
mod file;
mod install;
mod model;
mod profile;
mod sim;
mod spec;

pub use code::Code;
pub use control::{
    CallPattern, ComputeMode, Control, ControlError, CudaVersion, DeviceControl, DriverControl, EccErrors,
    Event, EventKind, Fault, Latencies, Load, Mig, MigInstance, NvLinkControl, Outcome, Percent, Process,
    ProcessKind, RemappedRows, RetiredPages, Shape,
};
pub use install::{NotBuilt, Placed, built_library, place};
pub use model::latency::{Latency, LatencyTable};
pub use spec::{InvalidMachine, MachineSpec};

/// Names of all functions that the library has, in C.
pub fn calls() -> impl Iterator<Item = &'static str> {
    ffi::names()
}
