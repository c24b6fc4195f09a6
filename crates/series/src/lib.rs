//! Time series of integers, as they come from sensors: many groups of fields, kept compressed and for a bounded time, thinned out as they grow
//! old, on disk.
//!
//! A group (a device) is sampled as a whole: a sample is a time and the fields that changed. A value holds until the next one, until it is
//! said to be unknown, until a gap, or until nothing was heard of the group for too long. So "as before" and "not known" are two things.
//!
//! | module | job |
//! |---|---|
//! | `types`, `config`, `stats` | groups, fields, times, bounds, counts |
//! | `bits`, `rice`, `column` | how numbers are coded that are mostly near the ones before |
//! | `raw` | a block of samples, written as they come |
//! | `buckets` | a block of buckets: least, largest, mean, last value, and for how long it was known |
//! | `fold`, `gather` | from blocks to buckets |
//! | `plan` | which level answers for which time |
//! | `record`, `log` | blocks in files |
//! | `checkpoint` | what is in memory only, written down |
//! | `store`, `line`, `maintain`, `query` | the parts put together: what comes, one group of it, what is kept, what is asked |
//!
//! Everything is bounded: groups, fields, bytes of a group and of all groups at each level, buckets of an answer. What goes for a bound, is refused or
//! is damaged is counted ([`Stats`]). A file that is cut off or damaged loses what is damaged, and nothing else. Calls that touch files block: run them
//! where that does no harm. (See `docs/adr/0028-series.md`.)
//!
//! In memory are, of a group, its open block, 32 bytes a field, and 24 bytes for each block that is in a file: with the default bounds some 12 KiB.

#![allow(
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    reason = "bits are cut off on purpose, and numbers have bounds far below what they are cast to"
)]

mod bits;
mod buckets;
mod checkpoint;
mod column;
mod config;
mod fold;
mod gather;
mod line;
mod log;
mod maintain;
mod plan;
mod query;
mod raw;
mod record;
mod rice;
mod stats;
mod store;
mod types;

pub use self::{
    config::{Config, InvalidConfig, Keep},
    query::{Answer, BUCKETS_MAX, Query, QueryError},
    stats::{LevelStats, Refused, Stats},
    store::{DiskError, OpenError, Refusal, Store},
    types::{Bucket, Field, Group, Time, VALUE_MAX},
};

pub(crate) use self::types::Damaged;
