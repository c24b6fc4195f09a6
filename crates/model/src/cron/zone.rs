//! Time zones by their IANA names. Their data is the machine's own: none is carried along.

use std::fmt;

use jiff::tz::{AmbiguousOffset, TimeZone};
use jiff::{SignedDuration, Timestamp, civil};

/// Longest name. The longest of today has 32 bytes.
const NAME_BYTES_MAX: usize = 64;
/// The zone that needs no data.
const UTC: &str = "UTC";

/// The name of a zone, as `Europe/Berlin`: of the form that names have. Whether a machine knows it is seen there.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct ZoneName(String);

/// Why something is not a time zone.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct InvalidZone(String);

impl ZoneName {
    /// Reads a name. It is a relative path that stays where it is.
    ///
    /// # Errors
    /// It has not the form of a name.
    pub fn parse(text: &str) -> Result<Self, InvalidZone> {
        let part = |part: &str| {
            part.starts_with(|c: char| c.is_ascii_alphabetic())
                && part.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"+-_".contains(&byte))
        };
        if text.len() <= NAME_BYTES_MAX && text.split('/').all(part) {
            Ok(Self(text.to_owned()))
        } else {
            Err(InvalidZone("use the IANA name of a time zone, as Europe/Berlin or UTC".to_owned()))
        }
    }

    /// The name.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// Whether it needs no data.
    pub fn is_utc(&self) -> bool {
        self.0 == UTC
    }
}

impl Default for ZoneName {
    fn default() -> Self {
        Self(UTC.to_owned())
    }
}

impl fmt::Display for ZoneName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// A zone with its data.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Zone(TimeZone);

impl Zone {
    /// UTC.
    pub fn utc() -> Self {
        Self(TimeZone::UTC)
    }

    /// From the content of a TZif file (RFC 9636), as machines have them below `/usr/share/zoneinfo`.
    ///
    /// # Errors
    /// It is no such file.
    pub fn from_tzif(name: &ZoneName, bytes: &[u8]) -> Result<Self, InvalidZone> {
        TimeZone::tzif(name.as_str(), bytes).map(Self).map_err(|error| InvalidZone(error.to_string()))
    }

    /// What a clock in it shows at `time`.
    pub(super) fn local(&self, time: Timestamp) -> civil::DateTime {
        self.0.to_datetime(time)
    }

    /// When its clock shows `local` first, or leaps over it.
    pub(super) fn first(&self, local: civil::DateTime) -> Option<Timestamp> {
        let ambiguous = self.0.to_ambiguous_timestamp(local);
        match ambiguous.offset() {
            AmbiguousOffset::Unambiguous { .. } | AmbiguousOffset::Fold { .. } => ambiguous.earlier().ok(),
            AmbiguousOffset::Gap { before, after } => {
                // The leap comes after the time that the later offset makes of it.
                let earlier = after.to_timestamp(local).ok()?;
                let leap = self.0.following(earlier).next().map(|transition| transition.timestamp());
                leap.or_else(|| before.to_timestamp(local).ok())
            }
        }
    }

    /// When the day after that of `local` begins.
    pub(super) fn tomorrow(&self, local: civil::DateTime) -> Option<Timestamp> {
        self.first(local.date().tomorrow().ok()?.at(0, 0, 0, 0))
    }
}

/// The next full minute after `time`.
pub(super) fn next_minute(time: Timestamp) -> Option<Timestamp> {
    let into = time.as_second().rem_euclid(60);
    Timestamp::from_second(time.as_second()).ok()?.checked_add(SignedDuration::from_secs(60 - into)).ok()
}
