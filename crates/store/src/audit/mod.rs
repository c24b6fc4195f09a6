//! The audit log: a record in the transaction of the change itself, in hash chains.
//!
//! A process writes to chains of its own, named after it and a random number, so that nobody else's writes are waited for. It has several,
//! so that changes at the same time do not wait for each other either; a further one begins only when all before it are in use. A chain is
//! held for the time of a commit, and its head is compared in the transaction, so nothing forks it. After a restart a process begins anew: the
//! first record says so, and names how other chains stood.
//!
//! | module | job |
//! |---|---|
//! | `act` | what is said of a change |
//! | `chain` | what one chain is for its writer, and what becomes of it: no I/O |
//! | `run` | commits a transaction with its records |
//! | `trim` | removes records by age and number |

mod act;
mod chain;
mod run;
mod trim;

pub use act::Act;
pub(crate) use run::Chains;
pub use trim::{AuditKeep, TrimError};

/// The most that the head of a chain takes of a transaction, with its compares; beside names of other chains in a first record, which are
/// counted in the room that transactions leave below etcd's bound.
pub(crate) const HEAD_BYTES_MAX: usize = 2 * 1024;
