//! From the wire to `RolloutStrategy`: how a changed app comes to its clusters.

use std::time::Duration;

use skerry_proto::types::v1 as pb;

use crate::time::{from_proto_duration, to_proto_duration};
use crate::{Fault, Selector, Violations};

/// Most clusters of one batch: what is written of one is bounded by it.
pub const BATCH_CLUSTERS_MAX: usize = 10_000;
/// Longest time of a strategy: longer ones are mistakes.
const TIME_MAX: Duration = Duration::from_secs(30 * 24 * 3600);
/// How long clusters must be healthy, where nothing is said.
const HEALTH_WINDOW: Duration = Duration::from_secs(10);
/// How long a batch may take, where nothing is said.
const PROGRESS_DEADLINE: Duration = Duration::from_secs(600);

/// How long a node without a link gives an update, where nothing is said.
const NODE_DEADLINE: Duration = Duration::from_secs(300);

/// The reason in the status of an instance whose node took an update back by itself.
pub const ROLLED_BACK: &str = "RolledBack";

/// How a changed app comes to its clusters.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RolloutStrategy {
    /// Clusters of one batch.
    pub batch_size: Share,
    /// Clusters that go first. Absent: none.
    pub canary: Option<Selector>,
    /// How long what was changed must be healthy before the next batch, or the end.
    pub health_window: Duration,
    /// How long a batch may take to become healthy.
    pub progress_deadline: Duration,
    /// Clusters that may be unhealthy or under way at once.
    pub max_unavailable: Share,
    /// Clusters that may fail without the rollout failing.
    pub max_failures: Share,
    /// Whether it pauses once the canary clusters are healthy.
    pub pause_after_canary: bool,
    /// What happens when it fails.
    pub on_failure: OnFailure,
}

/// What of its app's strategy a node goes by while the control plane is away.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct UpdateBounds {
    /// How long an update may take to become healthy once all that it needs is on the node.
    pub progress_deadline: Duration,
    /// How long all of the app must be healthy before the update counts as good.
    pub health_window: Duration,
    /// An update that does not become healthy stays all the same.
    pub stays: bool,
}

impl Default for UpdateBounds {
    /// Where nothing is said.
    fn default() -> Self {
        Self { progress_deadline: NODE_DEADLINE, health_window: HEALTH_WINDOW, stays: false }
    }
}

impl UpdateBounds {
    /// As it is stored and sent.
    pub fn to_proto(self) -> pb::UpdateBounds {
        pb::UpdateBounds {
            progress_deadline: Some(to_proto_duration(self.progress_deadline)),
            health_window: Some(to_proto_duration(self.health_window)),
            stays: self.stays,
        }
    }

    /// What was stored or sent. A time that is no time is as nothing said.
    pub fn from_proto(wire: &pb::UpdateBounds) -> Self {
        let time = |wire: Option<&prost_types::Duration>| from_proto_duration(wire?);
        let unsaid = Self::default();
        Self {
            progress_deadline: time(wire.progress_deadline.as_ref()).unwrap_or(unsaid.progress_deadline),
            health_window: time(wire.health_window.as_ref()).unwrap_or(unsaid.health_window),
            stays: wire.stays,
        }
    }
}

/// What happens when a rollout fails.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum OnFailure {
    /// Back to the former revision.
    #[default]
    RollBack,
    /// It waits for somebody.
    Pause,
}

/// So many, or a part.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Share {
    /// So many.
    Count(usize),
    /// So many of a hundred: 0 to 100.
    Percent(u8),
}

impl RolloutStrategy {
    /// Parses what is stored; violations name fields below `spec.rollout`.
    pub fn from_proto(strategy: &pb::RolloutStrategy) -> Result<Self, Fault> {
        let mut v = Violations::new();
        let parsed = parse("spec.rollout", strategy, &mut v);
        v.finish(Some(parsed))
    }

    /// What of it a node goes by while the control plane is away.
    pub fn bounds(&self) -> UpdateBounds {
        UpdateBounds {
            progress_deadline: self.progress_deadline,
            health_window: self.health_window,
            stays: self.on_failure == OnFailure::Pause,
        }
    }
}

impl Share {
    /// How many that is of `total`, at least one, and of a part never less than it.
    pub fn at_least_one_of(self, total: usize) -> usize {
        match self {
            Self::Count(count) => count.max(1),
            Self::Percent(percent) => total.saturating_mul(percent.into()).div_ceil(100).max(1),
        }
    }

    /// How many that is of `total`, of a part never more than it.
    pub fn at_most_of(self, total: usize) -> usize {
        match self {
            Self::Count(count) => count,
            Self::Percent(percent) => total.saturating_mul(percent.into()) / 100,
        }
    }

    fn parse(text: &str) -> Option<Self> {
        let (digits, is_part) = text.strip_suffix('%').map_or((text, false), |digits| (digits, true));
        let exact = !digits.is_empty() && digits.bytes().all(|byte| byte.is_ascii_digit());
        let number: usize = digits.parse().ok().filter(|_| exact)?;
        if is_part {
            u8::try_from(number).ok().filter(|percent| *percent <= 100).map(Self::Percent)
        } else {
            Some(Self::Count(number))
        }
    }

    fn is_zero(self) -> bool {
        matches!(self, Self::Count(0) | Self::Percent(0))
    }
}

pub(super) fn parse(at: &str, strategy: &pb::RolloutStrategy, v: &mut Violations) -> RolloutStrategy {
    use pb::rollout_strategy::OnFailure as Wire;
    let batch_size =
        share(&format!("{at}.batch_size"), &strategy.batch_size, 1, v).unwrap_or(Share::Percent(25));
    let canary = strategy
        .canary
        .as_ref()
        .map(|canary| Selector::from_proto(&format!("{at}.canary"), Some(canary), v))
        .filter(|canary| !canary.is_empty());
    if strategy.pause_after_canary && canary.is_none() {
        v.add(
            format!("{at}.pause_after_canary"),
            "there are no canary clusters to pause after: name them by canary",
        );
    }
    let on_failure = match Wire::try_from(strategy.on_failure) {
        Ok(Wire::Unspecified | Wire::RollBack) => OnFailure::RollBack,
        Ok(Wire::Pause) => OnFailure::Pause,
        Err(_) => {
            v.add(format!("{at}.on_failure"), "use roll-back or pause");
            OnFailure::RollBack
        }
    };
    let window = time(&format!("{at}.health_window"), strategy.health_window.as_ref(), v);
    let deadline = time(&format!("{at}.progress_deadline"), strategy.progress_deadline.as_ref(), v);
    if deadline == Some(Duration::ZERO) {
        v.add(
            format!("{at}.progress_deadline"),
            "no batch becomes healthy in no time: use a longer one, as 5m",
        );
    }
    RolloutStrategy {
        batch_size,
        canary,
        health_window: window.unwrap_or(HEALTH_WINDOW),
        progress_deadline: deadline.unwrap_or(PROGRESS_DEADLINE),
        max_unavailable: share(&format!("{at}.max_unavailable"), &strategy.max_unavailable, 1, v)
            .unwrap_or(batch_size),
        max_failures: share(&format!("{at}.max_failures"), &strategy.max_failures, 0, v)
            .unwrap_or(Share::Count(0)),
        pause_after_canary: strategy.pause_after_canary,
        on_failure,
    }
}

/// A share that is named, of which `least` is the least.
pub(super) fn share(at: &str, text: &str, least: usize, v: &mut Violations) -> Option<Share> {
    if text.is_empty() {
        return None;
    }
    let parsed = Share::parse(text).filter(|share| least == 0 || !share.is_zero());
    if parsed.is_none() {
        let shown: String = text.chars().take(20).collect();
        v.add(
            at,
            format!("`{shown}` is neither a number from {least} nor a part up to 100%: write for example \"10\" or \"25%\""),
        );
    }
    parsed
}

fn time(at: &str, wire: Option<&prost_types::Duration>, v: &mut Violations) -> Option<Duration> {
    let parsed = from_proto_duration(wire?).filter(|time| *time <= TIME_MAX);
    if parsed.is_none() {
        v.add(at, "use a time up to 720h, as 30s or 5m");
    }
    parsed
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parsed(strategy: &pb::RolloutStrategy) -> Result<RolloutStrategy, Vec<String>> {
        let mut v = Violations::new();
        let parsed = parse("rollout", strategy, &mut v);
        let fields: Vec<String> = v.into_vec().into_iter().map(|violation| violation.field).collect();
        if fields.is_empty() { Ok(parsed) } else { Err(fields) }
    }

    #[test]
    fn what_is_left_out_has_a_careful_default() {
        let parsed = parsed(&pb::RolloutStrategy::default()).unwrap();
        assert_eq!(parsed.batch_size, Share::Percent(25));
        assert_eq!(parsed.max_unavailable, parsed.batch_size);
        assert_eq!(parsed.max_failures, Share::Count(0));
        assert_eq!((parsed.health_window, parsed.progress_deadline), (HEALTH_WINDOW, PROGRESS_DEADLINE));
        assert_eq!((parsed.canary, parsed.on_failure), (None, OnFailure::RollBack));
    }

    #[test]
    fn what_makes_no_sense_is_named_by_field() {
        for bad in ["0", "0%", "101%", "ten", "-1", "+1", "%", "1.5", "99999999999999999999"] {
            let strategy = pb::RolloutStrategy { batch_size: bad.to_owned(), ..Default::default() };
            assert_eq!(parsed(&strategy), Err(vec!["rollout.batch_size".to_owned()]), "{bad}");
        }
        let minus = prost_types::Duration { seconds: -1, nanos: 0 };
        let strategy = pb::RolloutStrategy {
            pause_after_canary: true,
            on_failure: 9,
            health_window: Some(minus),
            progress_deadline: Some(prost_types::Duration::default()),
            max_failures: "x".to_owned(),
            max_unavailable: "0".to_owned(),
            ..Default::default()
        };
        let mut fields = parsed(&strategy).unwrap_err();
        fields.sort();
        let expected = [
            "health_window",
            "max_failures",
            "max_unavailable",
            "on_failure",
            "pause_after_canary",
            "progress_deadline",
        ];
        assert_eq!(fields, expected.map(|field| format!("rollout.{field}")));
    }

    #[test]
    fn parts_are_rounded_so_that_a_rollout_goes_on_and_failures_are_not_let_through() {
        assert_eq!(Share::Percent(25).at_least_one_of(10), 3);
        assert_eq!(Share::Percent(1).at_least_one_of(0), 1);
        assert_eq!(Share::Percent(25).at_most_of(10), 2);
        assert_eq!(Share::Percent(10).at_most_of(9), 0);
        assert_eq!(Share::Count(7).at_most_of(3), 7);
    }
}
