//! The words of Skerry as types: names, hashes, quantities, selectors, app specs, faults.
//!
//! Wire types stop here: `TryFrom`-like parsers turn them into values that are valid by construction, with errors that name
//! the field. No I/O, no clock, no tokio.

pub mod app;
pub mod audit;
pub mod cluster;
pub mod config;
pub mod cron;
pub mod env_file;
pub mod fault;
pub mod feature;
mod few;
pub mod gpu;
pub mod grant;
pub mod hash;
pub mod meta;
pub mod name;
mod prefetch;
pub mod project;
pub mod quantity;
pub mod secret;
pub mod selector;
pub mod taint;
pub mod text;
pub mod time;

pub use app::AppSpec;
pub use fault::{Code, Fault, Violation, Violations};
pub use few::few;
pub use gpu::{GpuBooking, GpuId, GpuIsolation, GpuShare, GpuTaken, MigProfile};
pub use grant::{Grant, GrantTarget, Verb};
pub use hash::ContentHash;
pub use name::{
    AppName, AppRef, ClusterName, ClusterRef, ConfigName, ConfigRef, GrantName, GrantRef, GroupName,
    GroupRef, InstanceName, InvalidName, NetworkName, NodeName, NodeRef, ProjectName, ProjectRef,
    RevisionRef, RoleBindingName, RoleBindingRef, SecretName, SecretRef, ServiceName, TaskName, TaskRef,
    UserName, UserRef, VolumeName,
};
pub use prefetch::{IMAGES_MAX, image_id};
pub use secret::{SealId, SecretVersion};
pub use selector::{Requirement, Selector};
pub use taint::{Taint, TaintEffect, Toleration};
