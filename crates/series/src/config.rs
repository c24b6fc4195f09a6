//! How much is kept, and for how long: checked once.

use std::time::Duration;

use crate::{buckets::ROWS_MAX, raw::FIELDS_MAX, types::whole_ms};

/// How many segments a level's files are cut into, about.
const SEGMENTS: u64 = 16;
/// Of files that hold most: a segment is read as a whole when the store is opened.
const SEGMENT_BYTES_MAX: u64 = 64 << 20;
const MIB: u64 = 1 << 20;
/// A block's time has 32 bits: 49 days.
const BATCH_MS_MAX: i64 = 30 * 86_400_000;
/// Ten years.
const KEEP_MS_MAX: i64 = 3650 * 86_400_000;
/// Most levels beside that of samples.
const LEVELS_MAX: usize = 7;

/// What one level keeps: until it is too old, or too much.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Keep {
    /// For how long.
    pub time: Duration,
    /// How many bytes the level's files have at most, all groups together.
    pub bytes_max: u64,
    /// How many bytes one group has in them at most. Nobody's history goes for want of space
    /// as long as all groups together have less than half of `bytes_max`.
    pub group_bytes_max: u64,
}

/// A store's bounds. Valid by construction.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Config {
    pub(crate) levels: Vec<Level>,
    pub(crate) groups_max: usize,
    pub(crate) fields_max: usize,
    pub(crate) block_bytes: usize,
    pub(crate) pending_bytes_max: usize,
    pub(crate) hold_ms: i64,
    pub(crate) checkpoint_ms: i64,
    pub(crate) sync_ms: i64,
}

/// A level, of samples (the first) or of buckets.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Level {
    /// Of a bucket; 1 of samples.
    pub(crate) width_ms: i64,
    pub(crate) keep_ms: i64,
    pub(crate) bytes_max: u64,
    pub(crate) group_bytes_max: u64,
    pub(crate) segment_bytes: u64,
}

impl Level {
    /// So much time of it at once is thinned out to the next one.
    pub(crate) fn batch_ms(&self) -> i64 {
        (self.keep_ms / 4).min(BATCH_MS_MAX)
    }
}

/// Why there is no such [`Config`].
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum InvalidConfig {
    /// The widths of buckets do not fit.
    #[error(
        "buckets of {width:?}: take 10 ms or more, and a multiple (2 or more) of the width before, which is {before:?}"
    )]
    Width {
        /// The width that does not fit.
        width: Duration,
        /// That of the level before it.
        before: Duration,
    },
    /// The level is not kept for as long as it has to be.
    #[error("level {level} is kept for {time:?}: take {at_least:?} to {at_most:?}")]
    Time {
        /// Counted from 0, which is that of samples.
        level: usize,
        /// What was asked for.
        time: Duration,
        /// Least that can be.
        at_least: Duration,
        /// Most that can be.
        at_most: Duration,
    },
    /// The level has fewer bytes than are of use.
    #[error("level {level} has {bytes} bytes at most: take {at_least} or more")]
    Bytes {
        /// Counted from 0, which is that of samples.
        level: usize,
        /// What was asked for.
        bytes: u64,
        /// Least that can be.
        at_least: u64,
    },
    /// A group has fewer bytes in the level than are of use, or more than the level.
    #[error("a group has {bytes} bytes of level {level} at most: take {at_least} to {at_most}")]
    GroupBytes {
        /// Counted from 0, which is that of samples.
        level: usize,
        /// What was asked for.
        bytes: u64,
        /// Least that can be.
        at_least: u64,
        /// Most that can be: what the level has.
        at_most: u64,
    },
    /// There are too many levels.
    #[error("{levels} levels of buckets: take {LEVELS_MAX} at most")]
    Levels {
        /// What was asked for.
        levels: usize,
    },
    /// A number is out of its bounds.
    #[error("{what} is {value}: take {at_least} to {at_most}")]
    Number {
        /// What it bounds.
        what: &'static str,
        /// What was asked for.
        value: u64,
        /// Least that can be.
        at_least: u64,
        /// Most that can be.
        at_most: u64,
    },
}

impl Default for Config {
    /// Samples for 2 hours (256 MiB), buckets of 10 s for 24 hours and of 5 min for 30 days (512 MiB each); of a group 4 MiB a level.
    /// 100,000 groups of 256 fields. What is not spoken of for 15 min is not known. A checkpoint every 30 s, synced.
    fn default() -> Self {
        let keep = |hours: u64, bytes_max: u64| Keep {
            time: Duration::from_secs(hours * 3600),
            bytes_max,
            group_bytes_max: 4 * MIB,
        };
        let ten_seconds = (Duration::from_secs(10), keep(24, 512 * MIB));
        let five_minutes = (Duration::from_secs(300), keep(30 * 24, 512 * MIB));
        Self::unchecked(keep(2, 256 * MIB), &[ten_seconds, five_minutes])
    }
}

impl Config {
    /// Least bytes of a level.
    pub const LEVEL_BYTES_MIN: u64 = MIB;
    /// Least bytes of a group in a level.
    pub const GROUP_BYTES_MIN: u64 = 64 * 1024;

    /// Samples are kept so, and of what comes thinned out of them each width of bucket so. Each level is made of the one before. A width is a
    /// multiple of the one before; a level is kept for at least 8 buckets of the next one.
    pub fn new(samples: Keep, buckets: &[(Duration, Keep)]) -> Result<Self, InvalidConfig> {
        if buckets.len() > LEVELS_MAX {
            return Err(InvalidConfig::Levels { levels: buckets.len() });
        }
        let config = Self::unchecked(samples, buckets);
        for (level, this) in config.levels.iter().enumerate() {
            let next = config.levels.get(level + 1);
            if let Some(next) = next {
                let (width, before) = (next.width_ms, this.width_ms);
                if width < 10 || width % before != 0 || width == before {
                    let [width, before] = [width, before].map(|ms| Duration::from_millis(ms.unsigned_abs()));
                    return Err(InvalidConfig::Width { width, before });
                }
            }
            let at_least = (8 * next.map_or(this.width_ms, |next| next.width_ms)).max(1_000);
            // A batch is one block of the next level.
            let block_ms = next.map_or(BATCH_MS_MAX, |next| next.width_ms.saturating_mul(ROWS_MAX as i64));
            let at_most = if block_ms < BATCH_MS_MAX { 4 * block_ms } else { KEEP_MS_MAX };
            if !(at_least..=at_most).contains(&this.keep_ms) {
                let [time, at_least, at_most] =
                    [this.keep_ms, at_least, at_most].map(|ms| Duration::from_millis(ms.unsigned_abs()));
                return Err(InvalidConfig::Time { level, time, at_least, at_most });
            }
            let Level { bytes_max, group_bytes_max, .. } = *this;
            if bytes_max < Self::LEVEL_BYTES_MIN {
                return Err(InvalidConfig::Bytes {
                    level,
                    bytes: bytes_max,
                    at_least: Self::LEVEL_BYTES_MIN,
                });
            }
            if !(Self::GROUP_BYTES_MIN..=bytes_max).contains(&group_bytes_max) {
                let (bytes, at_least) = (group_bytes_max, Self::GROUP_BYTES_MIN);
                return Err(InvalidConfig::GroupBytes { level, bytes, at_least, at_most: bytes_max });
            }
        }
        Ok(config)
    }

    /// At most so many groups, 1 to 1,000,000. What comes of others is refused.
    pub fn with_groups_max(self, groups: usize) -> Result<Self, InvalidConfig> {
        let groups_max = number("the number of groups", groups, 1, 1_000_000)?;
        Ok(Self { groups_max, ..self })
    }

    /// At most so many fields of a group at once, 1 to 4096. A sample that has more is refused.
    pub fn with_fields_max(self, fields: usize) -> Result<Self, InvalidConfig> {
        let fields_max = number("the number of fields", fields, 1, FIELDS_MAX)?;
        Ok(Self { fields_max, ..self })
    }

    /// A group's samples fill a block of about so many bytes, 256 to 16,384, which is in memory until it is full: half of it on the
    /// average. (A group of very many fields has longer ones.)
    pub fn with_block_bytes(self, bytes: usize) -> Result<Self, InvalidConfig> {
        let block_bytes = number("the size of a block", bytes, 256, 16_384)?;
        Ok(Self { block_bytes, ..self })
    }

    /// Blocks that are full wait for [`Store::maintain`](crate::Store::maintain) with so many bytes at most, 64 KiB to 1 GiB; after that the oldest is
    /// dropped. 40,000 GPUs fill about half a MiB a second.
    pub fn with_pending_bytes_max(self, bytes: usize) -> Result<Self, InvalidConfig> {
        let pending_bytes_max = number("the bytes of blocks that wait", bytes, 64 << 10, 1 << 30)?;
        Ok(Self { pending_bytes_max, ..self })
    }

    /// A value holds for so long, 1 s to 1 day, while nothing is heard of its group; after that it is not known, also without a mark.
    pub fn with_hold(self, hold: Duration) -> Result<Self, InvalidConfig> {
        let hold_ms = number("how long a value holds, in ms,", whole_ms(hold), 1_000, 86_400_000)?;
        Ok(Self { hold_ms, ..self })
    }

    /// What is in memory only is written down so often, 100 ms to 1 hour: what is lost at most when the process is killed.
    pub fn with_checkpoint(self, every: Duration) -> Result<Self, InvalidConfig> {
        let checkpoint_ms = number("the time between checkpoints, in ms,", whole_ms(every), 100, 3_600_000)?;
        Ok(Self { checkpoint_ms, ..self })
    }

    /// Files are synced so often, 100 ms to 1 hour: with the time between checkpoints what is lost at most when the machine stops.
    pub fn with_sync(self, every: Duration) -> Result<Self, InvalidConfig> {
        let sync_ms = number("the time between syncs, in ms,", whole_ms(every), 100, 3_600_000)?;
        Ok(Self { sync_ms, ..self })
    }

    fn unchecked(samples: Keep, buckets: &[(Duration, Keep)]) -> Self {
        let level = |width_ms, keep: &Keep| Level {
            width_ms,
            keep_ms: whole_ms(keep.time),
            bytes_max: keep.bytes_max,
            group_bytes_max: keep.group_bytes_max,
            segment_bytes: (keep.bytes_max / SEGMENTS).min(SEGMENT_BYTES_MAX),
        };
        let mut levels = vec![level(1, &samples)];
        levels.extend(buckets.iter().map(|(width, keep)| level(whole_ms(*width), keep)));
        Self {
            levels,
            groups_max: 100_000,
            fields_max: 256,
            block_bytes: 4096,
            pending_bytes_max: 32 << 20,
            hold_ms: 15 * 60_000,
            checkpoint_ms: 30_000,
            sync_ms: 30_000,
        }
    }
}

fn number<T>(what: &'static str, value: T, at_least: T, at_most: T) -> Result<T, InvalidConfig>
where
    T: Copy + PartialOrd + TryInto<u64>,
{
    if value >= at_least && value <= at_most {
        return Ok(value);
    }
    let [value, at_least, at_most] =
        [value, at_least, at_most].map(|value| value.try_into().unwrap_or_default());
    Err(InvalidConfig::Number { what, value, at_least, at_most })
}

#[cfg(test)]
mod tests {
    use super::*;

    const KEEP: Keep = Keep { time: Duration::from_secs(7200), bytes_max: 64 * MIB, group_bytes_max: MIB };

    fn config(widths: &[u64]) -> Result<Config, InvalidConfig> {
        let buckets: Vec<_> = widths.iter().map(|width| (Duration::from_secs(*width), KEEP)).collect();
        Config::new(KEEP, &buckets)
    }

    #[test]
    fn the_default_is_valid() {
        let Config { levels, .. } = Config::default();
        let keep = |level: &Level| Keep {
            time: Duration::from_millis(level.keep_ms.unsigned_abs()),
            bytes_max: level.bytes_max,
            group_bytes_max: level.group_bytes_max,
        };
        let buckets: Vec<_> = levels[1..]
            .iter()
            .map(|level| (Duration::from_millis(level.width_ms.unsigned_abs()), keep(level)))
            .collect();
        assert_eq!(Config::new(keep(&levels[0]), &buckets), Ok(Config::default()));
    }

    #[test]
    fn what_does_not_fit_is_refused_with_what_would() {
        assert!(config(&[]).is_ok() && config(&[10, 300]).is_ok());
        for widths in [&[0][..], &[10, 15], &[10, 10], &[10, 5]] {
            assert!(matches!(config(widths), Err(InvalidConfig::Width { .. })), "{widths:?}");
        }
        assert!(matches!(config(&[10, 3600]), Err(InvalidConfig::Time { level: 1, .. })));
        assert!(matches!(config(&[1; 9]), Err(InvalidConfig::Levels { levels: 9 })));
        let small = Keep { bytes_max: 1000, ..KEEP };
        assert!(matches!(Config::new(small, &[]), Err(InvalidConfig::Bytes { .. })));
        let greedy = Keep { group_bytes_max: 65 * MIB, ..KEEP };
        assert!(matches!(Config::new(greedy, &[]), Err(InvalidConfig::GroupBytes { .. })));
        let error = Config::default().with_block_bytes(100).unwrap_err();
        assert_eq!(error.to_string(), "the size of a block is 100: take 256 to 16384");
        assert!(Config::default().with_hold(Duration::ZERO).is_err());
        assert!(Config::default().with_groups_max(0).is_err());
    }
}
