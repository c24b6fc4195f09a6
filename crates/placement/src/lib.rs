//! Placement: which instances each node shall run. Pure, stable and total.
//!
//! - Pure: `solve` takes everything and answers; it knows neither clock nor store.
//! - Stable: what a node runs is given; solving again with its own answer as `previous` moves nothing.
//! - Total: an instance that cannot be placed, or not in the wanted revision, carries the reason.
//!
//! Which revision of an app a cluster shall have is given, [`App::wanted`]: rollouts decide it (`skerry-rollout`). Which node cannot be reached for so
//! long that it counts as lost is given, too: [`Node::lost`].
//!
//! An app goes to the clusters that its selector matches; a system app, beside that, to those that are chosen for it, whole or member by member
//! ([`State::goes_to`]).
//!
//! What an instance has of GPUs is booked device by device, and with the instance ([`Placed::gpus`]): it is part of what the node is assigned.
//!
//! Nodes of a cluster are planned together, and a node that is in none is a cluster of one. A cluster's plan depends on its members and the apps
//! alone; [`apply`] uses this to recompute only what a change can touch. Its law: afterwards the solution equals `solve` of the changed state. A cluster
//! without members is no place: nothing is wanted there.

mod ask;
mod books;
mod cluster;
mod gpu;
mod index;
mod reach;
mod reason;
mod solution;
mod state;
mod want;

pub use ask::{Room, preview};
pub use books::{INSTANCES_MAX, Placed, SealedSecret};
pub use cluster::{ClusterPlan, Unplaced};
pub use gpu::{Gpu, Standing};
pub use reason::Reason;
pub use solution::{Changed, Solution, apply, solve};
pub use state::{App, Cluster, Delta, Node, Secret, State, Wanted};

#[cfg(test)]
mod tests;
