//! The simulator: the real state machines on virtual time, from one seed.
//!
//! Real: `skerry_sync`'s agent and gateway machines, merge and differences; `skerry_etcd_embedded`'s core; `skerry_store`'s mirror core
//! and rule of terms; `skerry_placement`; the transactions of `skerry_scheduler`. Written for it, after the product's own drivers and, in the
//! gateway, with the same transactions: the loops around these (the gateway's actor, leases, campaign, the scheduler's passes, the agent's uplink), an agent's disk, a runtime, the
//! network. Not simulated: gRPC and HTTP/2 (frames arrive whole and in order, or not at all), redb and the agent's state files (a batch
//! or a file is there or not), Docker and processes, the API's handlers, request ids, bookings and ports.
//!
//! ```text
//! operator ── chaos        changes apps, configs, labels, nodes; injects faults
//!     │
//!   store  ◄── client ◄─── gateway ×2 ◄── net ──► agent ×1..3 ──► reconcile ──► machine
//!  (core,      (calls,     (session,              (sync machine)               (copies)
//!   disk,       watches)    upward)                     └─► disk
//!   watch)        ▲
//!                 └─────── scheduler ×2 (mirror, fleet, lease)
//! ```
//! A process is a group of tasks on `exec`; it may be killed wherever it waits, and it waits between any two effects. `check` keeps
//! the ledgers of what must hold all along; `world` says what must hold in the end.

mod agent;
mod chaos;
mod check;
mod client;
mod disk;
mod exec;
mod faults;
mod fleet;
mod gateway;
mod lease;
mod machine;
mod mirror;
mod net;
mod operator;
mod reconcile;
mod rng;
mod scheduler;
mod session;
mod signal;
#[allow(clippy::module_inception, reason = "the handle that every part has is called so everywhere")]
mod sim;
mod store;
mod trace;
mod txn;
mod upward;
mod watch;
mod world;

use std::time::Duration;

pub use faults::{Counts, Fault};

/// A bug that is put into the simulated environment, to show that the checks find it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Planted {
    /// The gateway merges what an agent says without comparing the session's epoch.
    EpochNotCompared,
    /// The gateway acknowledges a report before its commit.
    AcknowledgedBeforeCommit,
    /// The agent's disk says that the desired state is written before it is synced.
    NotSynced,
}

/// How to run a seed.
#[derive(Debug, Clone, Copy, Default)]
pub struct Options {
    /// Prints every line of the trace.
    pub print: bool,
    /// With this bug.
    pub planted: Option<Planted>,
}

/// What became of a seed.
#[derive(Debug, Clone)]
pub struct Outcome {
    /// Which.
    pub seed: u64,
    /// What was violated first, if anything was.
    pub failure: Option<String>,
    /// Of the whole trace: the same for each run of one seed.
    pub trace_hash: u64,
    /// The last lines of the trace.
    pub last: Vec<String>,
    /// How often each fault happened.
    pub faults: Counts,
    /// Polls and timers.
    pub steps: u64,
    /// Virtual time.
    pub simulated: Duration,
    /// How long after the last fault all was as it should be.
    pub converged_after: Option<Duration>,
    /// Events that were acknowledged to agents, each looked up in the store.
    pub acknowledged: u64,
}

/// Runs one seed to its end, or to the first thing that is wrong.
pub fn run(seed: u64, options: Options) -> Outcome {
    world::run(seed, options)
}
