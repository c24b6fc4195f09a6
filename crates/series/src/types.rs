//! What is kept of whom, and when: groups, fields, times, and what they may be.

use std::{
    fmt,
    ops::Range,
    time::{Duration, SystemTime, UNIX_EPOCH},
};

/// Values are from `-VALUE_MAX` to `VALUE_MAX`. (A driver's "no value" is mostly the largest number that there is: it gets in here no more.)
pub const VALUE_MAX: i64 = (1 << 58) - 1;
/// The last time that can be said, in milliseconds since 1970: in the year 2248.
const TIME_MAX: i64 = (1 << 43) - 1;

/// Whose fields are sampled together, as a device: 16 bytes that the caller chooses, such as its UUID.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Group(pub u128);

/// A quantity of a group, such as its temperature: a number that the caller chooses. Small ones are stored shorter.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Field(pub u32);

/// A moment, in whole milliseconds since 1970 (UTC), until the year 2248.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Time(i64);

impl Time {
    /// 1970.
    pub const MIN: Self = Self(0);
    /// In the year 2248.
    pub const MAX: Self = Self(TIME_MAX);

    /// The moment so many milliseconds after 1970, if it is neither before that nor after [`Time::MAX`].
    pub fn from_unix_ms(ms: i64) -> Option<Self> {
        (0..=TIME_MAX).contains(&ms).then_some(Self(ms))
    }

    /// Milliseconds since 1970.
    pub fn unix_ms(self) -> i64 {
        self.0
    }

    /// As near as there is.
    pub(crate) fn clamped(ms: i64) -> Self {
        Self(ms.clamp(0, TIME_MAX))
    }
}

impl From<SystemTime> for Time {
    /// The nearest one: [`Time::MIN`] for what is before 1970.
    fn from(time: SystemTime) -> Self {
        let since = time.duration_since(UNIX_EPOCH).unwrap_or_default();
        Self::clamped(whole_ms(since))
    }
}

impl fmt::Display for Time {
    /// As `1790000000.123 s`.
    fn fmt(&self, to: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(to, "{}.{:03} s", self.0 / 1000, self.0 % 1000)
    }
}

/// What is known of a field in a span of time.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Bucket {
    /// When the span begins.
    pub start: Time,
    /// How long it is, in milliseconds. More than was asked for where the past is kept only so coarsely.
    pub span_ms: i64,
    /// For how much of it the value is known, in milliseconds: 1 to `span_ms`.
    pub known_ms: i64,
    /// The least value that was held.
    pub min: i64,
    /// The largest value that was held.
    pub max: i64,
    /// The mean, each value weighted by the time for which it was held.
    pub mean: f64,
    /// The last value that is known.
    pub last: i64,
}

/// What is stored is not what was written.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub(crate) struct Damaged(pub(crate) &'static str);

/// Part of the line of time, in milliseconds.
pub(crate) type Span = Range<i64>;

/// The largest multiple of `width` that is not after `ms`.
pub(crate) fn floor(ms: i64, width: i64) -> i64 {
    ms.div_euclid(width) * width
}

/// The least multiple of `width` that is not before `ms`.
pub(crate) fn ceil(ms: i64, width: i64) -> i64 {
    floor(ms + width - 1, width)
}

/// Whole milliseconds, as many as a time may have at most.
pub(crate) fn whole_ms(duration: Duration) -> i64 {
    i64::try_from(duration.as_millis()).unwrap_or(i64::MAX).min(TIME_MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_from_1970_on() {
        assert_eq!(Time::from_unix_ms(-1), None);
        assert_eq!(Time::from_unix_ms(0), Some(Time::MIN));
        assert_eq!(Time::from_unix_ms(i64::MAX), None);
        assert_eq!(Time::from(UNIX_EPOCH - Duration::from_secs(1)), Time::MIN);
        assert_eq!(Time::from(UNIX_EPOCH + Duration::from_millis(1234)).to_string(), "1.234 s");
    }

    #[test]
    fn multiples_are_on_both_sides() {
        assert_eq!((floor(19, 10), ceil(19, 10)), (10, 20));
        assert_eq!((floor(20, 10), ceil(20, 10)), (20, 20));
        assert_eq!((floor(-1, 10), ceil(-1, 10)), (-10, 0));
    }
}
