//! Placement: which instances each node shall run. Pure, stable and total.
//!
//! - Pure: `solve` takes everything and answers; it knows neither clock nor store.
//! - Stable: what a node runs is given; solving again with its own answer as `previous` moves nothing.
//! - Total: an instance that cannot be placed, or not in the wanted revision, carries the reason.
//!
//! Which revision of an app a cluster shall have is given, [`App::wanted`]: rollouts decide it (`skerry-rollout`).
//!
//! Every node is a cluster of one here, so that a node's plan depends on that node and the apps alone; [`apply`] uses this to
//! recompute only what a change can touch. Its law: afterwards the solution equals `solve` of the changed state.

mod node;
mod state;

pub use node::{INSTANCES_MAX, NodePlan, Placed, Reason, SealedSecret, Unplaced};
pub use state::{App, Delta, Node, Secret, Solution, State, Wanted, apply, solve};

#[cfg(test)]
mod tests;
