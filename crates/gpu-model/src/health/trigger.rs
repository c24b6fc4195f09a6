//! How something comes to count as wrong, and to be right again.

use super::rules::{Level, Rate};

/// Whether a level is too high.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct LevelState {
    /// Since when it counts as too high.
    pub(super) active: Option<i64>,
    /// Since when it is on the other side of the threshold that matters now.
    turned: Option<i64>,
}

impl LevelState {
    /// One that counts as too high.
    pub(super) fn active(since: i64) -> Self {
        Self { active: Some(since), turned: None }
    }

    /// Takes a level. Without one nothing is known: what was, stays, and time begins anew.
    pub(super) fn take(&mut self, rule: Level, value: Option<i64>, now: i64) {
        let Some(value) = value else {
            self.turned = None;
            return;
        };
        let (turns, after) = match self.active {
            None => (value >= rule.enter, rule.enter_after),
            Some(_) => (value < rule.leave.min(rule.enter), rule.leave_after),
        };
        if !turns {
            self.turned = None;
            return;
        }
        let since = *self.turned.get_or_insert(now);
        if now.saturating_sub(since) >= after {
            self.active = if self.active.is_none() { Some(now) } else { None };
            self.turned = None;
        }
    }
}

/// How many things of a kind are remembered: a bucket that leaks.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct RateState {
    /// Since when there are too many.
    pub(super) active: Option<i64>,
    /// Of those remembered, times `Rate::per`.
    level: i64,
    /// When it was last looked at.
    at: i64,
}

impl RateState {
    /// Takes so many that happened since it was last looked at.
    pub(super) fn take(&mut self, rule: Rate, more: u64, now: i64) {
        let (limit, per) = (i64::from(rule.limit.max(1)), rule.per.max(1));
        let full = limit.saturating_mul(per);
        let leaked = now.saturating_sub(self.at).max(0).saturating_mul(limit);
        let more = i64::try_from(more).unwrap_or(i64::MAX).saturating_mul(per);
        let left = self.level.saturating_sub(leaked).max(0);
        // What is far too much is not remembered longer for that.
        self.level = left.saturating_add(more).min(full.saturating_mul(2));
        self.at = now;
        self.active = match self.active {
            None if self.level >= full => Some(now),
            Some(since) if self.level > full / 2 => Some(since),
            _ => None,
        };
    }
}

/// How much a counter has grown. One that fell began anew, at 0.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct Growth(Option<i64>);

impl Growth {
    /// Takes a reading of the counter. The first one only says where it stands.
    pub(super) fn take(&mut self, value: Option<i64>) -> u64 {
        let Some(value) = value else { return 0 };
        let grown = match self.0.replace(value) {
            None => 0,
            Some(before) if value < before => value,
            Some(before) => value.saturating_sub(before),
        };
        u64::try_from(grown).unwrap_or(0)
    }
}
