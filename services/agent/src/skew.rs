//! How wrong the machine's clock is, by what a server told. It stops nothing; it is only told.

use std::time::{Duration, SystemTime};

/// A clock counts as right up to this: far more than an answer is on its way, and less than what spoils logs.
const RIGHT: Duration = Duration::from_secs(120);

/// How far the clock is off, as it was told last.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Skew {
    by: Duration,
    is_ahead: bool,
}

impl Skew {
    /// Of `wall` against what the server showed. Nothing while it is right. `told` stays while it is about the same: a text that moves with
    /// each answer would be sent with each.
    pub(crate) fn of(wall: SystemTime, server: SystemTime, told: Option<Self>) -> Option<Self> {
        let skew = match wall.duration_since(server) {
            Ok(by) => Self { by, is_ahead: true },
            Err(error) => Self { by: error.duration(), is_ahead: false },
        };
        let about = told.filter(|told| {
            told.is_ahead == skew.is_ahead && told.by.abs_diff(skew.by) <= RIGHT.max(told.by / 10)
        });
        // Between the half and the whole it stays what it was, so that it does not flap.
        let right = if told.is_some() { RIGHT / 2 } else { RIGHT };
        if skew.by <= right { None } else { about.or(Some(skew)) }
    }

    /// For people.
    pub(crate) fn text(self) -> String {
        let seconds = self.by.as_secs();
        let (count, unit) = match seconds {
            0..7_200 => (seconds / 60, "minutes"),
            7_200..172_800 => (seconds / 3_600, "hours"),
            172_800..63_072_000 => (seconds / 86_400, "days"),
            _ => (seconds / 31_557_600, "years"),
        };
        let side = if self.is_ahead { "ahead of" } else { "behind" };
        format!(
            "the machine's clock is {count} {unit} {side} the control plane's; nothing is stopped by that, but times in logs and events are wrong"
        )
    }
}

#[cfg(test)]
mod tests {
    use std::time::UNIX_EPOCH;

    use proptest::prelude::*;

    use super::*;

    fn at(seconds: u64) -> SystemTime {
        UNIX_EPOCH + Duration::from_secs(seconds)
    }

    #[test]
    fn a_wrong_clock_is_told_with_how_much() {
        let now = 1_800_000_000;
        let text = |wall| Skew::of(at(wall), at(now), None).unwrap().text();
        assert!(text(0).starts_with("the machine's clock is 57 years behind the control plane's"));
        assert!(text(now + 3 * 86_400).contains("3 days ahead of"));
        assert!(text(now - 7_300).contains("2 hours behind"));
        assert!(text(now + 180).contains("3 minutes ahead of"));
        assert_eq!(Skew::of(at(now + 100), at(now), None), None);
    }

    proptest! {
        #[test]
        fn one_that_goes_on_as_it_was_is_told_once(off in 0u64..5_000_000_000, jitter in 0u64..30) {
            let server = at(6_000_000_000);
            let wall = |off| server - Duration::from_secs(off);
            if let Some(told) = Skew::of(wall(off), server, None) {
                prop_assert_eq!(Skew::of(wall(off + jitter), server, Some(told)), Some(told));
            }
        }

        #[test]
        fn a_clock_that_was_set_right_is_told_right(off in 0u64..5_000_000_000) {
            let server = at(6_000_000_000);
            let told = Skew::of(server - Duration::from_secs(off), server, None);
            prop_assert_eq!(Skew::of(server, server, told), None);
        }
    }
}
