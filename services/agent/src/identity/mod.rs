//! By what the agent proves to be its node: files that somebody else keeps, or an identity of its own.
//!
//! | file | job |
//! |---|---|
//! | `kept` | what lies on disk under `<data-dir>/identity`, and how it gets there |
//! | `floor` | the latest time that a server proved to have told |
//! | `own` | the identity of its own: what is presented and trusted, and what may take its place |
//! | `enrol` | how a machine becomes a node: asking until it is one |
//! | `proof` | what the uplink asks of either kind |
//!
//! Nothing here stops what runs: without a usable identity the link waits, and everything else does what is on disk.

mod enrol;
mod floor;
mod kept;
mod own;
mod proof;

pub(crate) use self::enrol::{Enroller, NoWayIn};
pub use self::enrol::{Enrolment, TokenText};
pub(crate) use self::kept::Kept;
pub(crate) use self::own::Own;
pub(crate) use self::proof::{News, Proof, Source, check_owner};
