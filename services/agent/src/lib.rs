//! The node agent: makes the machine run what it has been told to run, and says what became of it.
//!
//! Two actors over one desired state. The `uplink` holds the stream to a gateway, writes the desired state to disk and hands it on; the
//! `reconcile` loop makes the runtimes run it and tells what it sees. With no network the first has nothing to say and the second all it needs.
//! No listening port, and nothing that runs is stopped when the agent ends.

pub mod ahead;
mod channel;
mod clock;
pub mod config;
pub mod desired;
mod features;
mod fingerprint;
mod former;
mod good;
mod gpu;
mod hand;
pub mod health;
mod hex;
mod identity;
mod install;
mod jobs;
mod ledger;
mod lock;
mod machine;
mod memory;
mod meters;
pub mod peers;
mod plan;
mod quiet;
mod reconcile;
pub mod runtime;
pub mod secrets;
mod serve;
pub mod shim;
mod skew;
mod state;
mod status;
mod update;
mod uplink;
mod world;

#[cfg(test)]
mod testing;

pub use channel::forbidden::{ForbidArgs, Forbidden, Verb};
pub use config::{
    AgentArgs, Config, ConfigError, DockerAccess, EnrolArgs, Gateway, ImageGcArgs, NodeTls, default_node_name,
};
pub use gpu::{GpuAccess, GpuArgs, Grants};
#[doc(hidden)]
pub use gpu::{check as gpu_check, recording as gpu_recording};
pub use identity::{Enrolment, TokenText};
pub use install::{InstallArgs, InstallError, PlaceArgs, UninstallArgs, install, uninstall};
pub use machine::host_name;
pub use runtime::docker::{CredentialsFile, ImageGc};
pub use serve::{NotRunning, ServeError, check_running, serve};
pub use shim::run_shim_if_asked;
