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
//! In memory are, of a group, its open block (half of a full one on the average), 32 bytes a field, and 24 bytes for each block that is in a file: with the
//! default bounds and 15 fields about 10 KiB once 30 days are full.
//!
//! ```
//! use std::time::Duration;
//! use skerry_series::{Config, Field, Group, Store, Time};
//!
//! const TEMPERATURE: Field = Field(1);
//! # fn main() -> Result<(), Box<dyn std::error::Error>> {
//! # let dir = tempfile::tempdir()?;
//! let at = |seconds: i64| Time::from_unix_ms(1_790_000_000_000 + seconds * 1_000).ok_or("there is no such time");
//! let mut store = Store::open(dir.path(), Config::default())?;
//! let gpu = Group(7);
//! store.append(gpu, at(0)?, &[(TEMPERATURE, Some(40_000))])?;
//! store.append(gpu, at(3)?, &[(TEMPERATURE, Some(50_000))])?;
//! store.gap(gpu, at(6)?)?;
//! store.maintain(at(7)?)?;
//!
//! let answer = store.query(gpu, &[TEMPERATURE], at(0)?..at(7)?, Duration::from_secs(10))?;
//! let bucket = &answer.fields[&TEMPERATURE][0];
//! assert_eq!((bucket.min, bucket.max, bucket.known_ms), (40_000, 50_000, 6_000));
//! assert_eq!(bucket.mean, 45_000.0);
//! # Ok(())
//! # }
//! ```

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
