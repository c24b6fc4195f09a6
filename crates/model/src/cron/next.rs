//! When a schedule comes.

use std::time::{Duration, SystemTime};

use jiff::{Timestamp, civil};

use super::zone::next_minute;
use super::{Schedule, Zone};

/// So many days are looked through: the 29th of February on a given weekday comes after 40 years at most.
const DAYS_MAX: u32 = 41 * 366;
/// Most steps of a schedule that goes by elapsed time: a day's minutes after the days that are passed over.
const STEPS_MAX: u32 = DAYS_MAX + 2 * 24 * 60;
const EVERY_HOUR: u64 = (1 << 24) - 1;
/// The last time is looked for in the last hour, then in more, so that few times have to be gone through however often it comes.
const WINDOWS: [Duration; 4] = [
    Duration::from_secs(60 * 60),
    Duration::from_secs(2 * 24 * 60 * 60),
    Duration::from_secs(62 * 24 * 60 * 60),
    Duration::from_secs(800 * 24 * 60 * 60),
];

impl Schedule {
    /// When it comes next after `after`. Never, if not within 40 years.
    pub fn next(&self, after: SystemTime, zone: &Zone) -> Option<SystemTime> {
        let after = Timestamp::try_from(after).ok()?;
        let next = if self.hours == EVERY_HOUR {
            self.next_elapsed(after, zone)
        } else {
            self.next_named(after, zone)
        };
        SystemTime::try_from(next?).ok()
    }

    /// When it came last, after `after` and not after `until`.
    pub fn last(&self, after: SystemTime, until: SystemTime, zone: &Zone) -> Option<SystemTime> {
        let from = |window: &Duration| until.checked_sub(*window).filter(|from| *from > after);
        let mut windows = WINDOWS.iter().filter_map(from).chain([after]);
        windows.find_map(|from| self.last_of(from, until, zone))
    }

    fn last_of(&self, after: SystemTime, until: SystemTime, zone: &Zone) -> Option<SystemTime> {
        let mut last = None;
        let mut at = after;
        while let Some(next) = self.next(at, zone).filter(|next| *next <= until) {
            last = Some(next);
            at = next;
        }
        last
    }

    /// By local times: each comes once.
    fn next_named(&self, after: Timestamp, zone: &Zone) -> Option<Timestamp> {
        let mut local = zone.local(after);
        loop {
            local = self.next_local(local)?;
            let at = zone.first(local)?;
            // What is shown a second time came before.
            if at > after {
                return Some(at);
            }
        }
    }

    /// By minutes that pass.
    fn next_elapsed(&self, after: Timestamp, zone: &Zone) -> Option<Timestamp> {
        let mut at = next_minute(after)?;
        for _ in 0..STEPS_MAX {
            let local = zone.local(at);
            if !self.is_on(local.date()) {
                at = zone.tomorrow(local).filter(|next| *next > at)?;
            } else if has(self.minutes, local.minute()) {
                return Some(at);
            } else {
                at = next_minute(at)?;
            }
        }
        None
    }

    /// The first local time of it in a later minute than that of `after`.
    fn next_local(&self, after: civil::DateTime) -> Option<civil::DateTime> {
        let mut date = after.date();
        let mut from = Some((after.hour(), after.minute()));
        for _ in 0..DAYS_MAX {
            if self.is_on(date)
                && let Some((hour, minute)) = self.time_after(from)
            {
                return Some(date.at(hour, minute, 0, 0));
            }
            date = date.tomorrow().ok()?;
            from = None;
        }
        None
    }

    fn time_after(&self, from: Option<(i8, i8)>) -> Option<(i8, i8)> {
        let Some((hour, minute)) = from else {
            return Some((first(self.hours, 0)?, first(self.minutes, 0)?));
        };
        if has(self.hours, hour)
            && let Some(minute) = first(self.minutes, minute + 1)
        {
            return Some((hour, minute));
        }
        Some((first(self.hours, hour + 1)?, first(self.minutes, 0)?))
    }

    fn is_on(&self, date: civil::Date) -> bool {
        let day = has(self.days, date.day());
        let weekday = has(self.weekdays, date.weekday().to_sunday_zero_offset());
        let is_day = if self.either_day { day || weekday } else { day && weekday };
        is_day && has(self.months, date.month())
    }
}

fn has(bits: u64, value: i8) -> bool {
    u32::try_from(value).is_ok_and(|value| bits >> value & 1 == 1)
}

/// The first value from `from` on.
fn first(bits: u64, from: i8) -> Option<i8> {
    let left = bits & u64::MAX.checked_shl(u32::try_from(from).ok()?)?;
    (left != 0).then(|| i8::try_from(left.trailing_zeros()).ok())?
}
