//! `Logs`: what instances wrote, from all their nodes, as one stream.
//!
//! | module | job |
//! |---|---|
//! | `ask` | what is asked for, checked |
//! | `call` | one call: an actor that drives the merge and answers the user |
//! | `source` | one instance: opens its channel, and again where it was lost |
//! | `merge` | the order of what comes from several; pure |

mod ask;
mod call;
mod merge;
mod source;

pub(crate) use self::ask::{Ask, Whose};
pub(crate) use self::call::Call;
