//! How a machine becomes a node: by a token, or by an operator who approves its key; and how a node's certificate is renewed.
//!
//! | module | job |
//! |---|---|
//! | `asked` | what a machine asked, checked once |
//! | `template` | names of nodes from a token's template |
//! | `decide` | who is let in and what becomes of the records: pure |
//! | `enroller` | reads, asks `decide`, issues, writes |
//! | `renew` | the same for a node that has a key already |
//! | `tokens`, `waiting`, `issuing` | the handlers: `TokenService`, `EnrollmentRequestService`, `IssuerService` |
//! | `room` | whether one machine more may wait: pure |
//! | `lease` | for how long a machine that waits is remembered |
//! | `told` | what is told of it in the log and in events |
//!
//! **Counted once.** The use of a token, the node's record and the record of the machine's key (`enrollments/<project>/<key>`) are written in
//! one transaction that compares all three. A call that comes again finds what the first one made by its key: first by that record, which
//! stays some minutes, later by the node that has the key.

mod asked;
mod decide;
mod enroller;
mod issuing;
mod lease;
mod renew;
mod room;
mod template;
#[cfg(test)]
mod tests;
mod tokens;
mod told;
mod waiting;

pub(crate) use decide::{Struck, strike_out};
pub(crate) use enroller::Enroller;
pub(crate) use issuing::Issuing;
pub(crate) use tokens::{Tokens, sweep};
pub(crate) use waiting::Waiting;

/// Tokens of one project. Each may let in thousands.
pub(crate) const TOKENS_MAX: usize = 1000;
