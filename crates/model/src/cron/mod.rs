//! Schedules as cron writes them, and when they come in a time zone.
//!
//! Five fields: minute, hour, day of the month, month, day of the week. Where both day fields are restricted, either will do, as everywhere.
//! Where the clock of a zone jumps: a schedule that names hours is a list of local times, each of which comes once. One that the clock
//! leaps over comes when it has leapt; several of them then come as one. One that the clock shows twice comes the first time. A schedule of
//! every hour goes by elapsed time instead, so that it neither rests nor hurries when the clock is set.
//! Pure: the data of a zone comes from the caller.

use std::fmt;

mod next;
mod parse;
#[cfg(test)]
mod tests;
mod zone;

pub use zone::{InvalidZone, Zone, ZoneName};

/// When something is to be run.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct Schedule {
    /// Bit n: minute n of the hour.
    minutes: u64,
    /// Bit n: hour n of the day.
    hours: u64,
    /// Bit n: day n of the month, from 1.
    days: u64,
    /// Bit n: month n, from 1.
    months: u64,
    /// Bit n: n days after Sunday.
    weekdays: u64,
    /// Both day fields are restricted: either will do.
    either_day: bool,
}

/// Why a text is not a schedule, in words that say how to mend it.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct InvalidSchedule(pub(crate) String);

impl fmt::Debug for Schedule {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { minutes, hours, days, months, weekdays, either_day } = self;
        write!(f, "Schedule({minutes:x} {hours:x} {days:x} {months:x} {weekdays:x} {either_day})")
    }
}
