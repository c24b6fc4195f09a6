//! `AuditService`: records for who may read them, and the removal of old ones. Verifying is its readers' own.
//!
//! | module | job |
//! |---|---|
//! | `filter` | which records are meant, and where a page ended: pure |
//! | `reader` | finds records by time in chains, and merges chains |
//! | `handlers` | the service |
//! | `retention` | removes old records |

mod filter;
mod handlers;
mod reader;
mod retention;

pub(crate) use handlers::Audit;
pub(crate) use retention::retain;
