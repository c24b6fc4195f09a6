//! When the status of apps is reckoned anew: at once where that is cheap. It looks at all that an app has anywhere, which takes its time where that is much;
//! then it waits, so that it takes a share of the time however fast the store changes.

use std::collections::BTreeSet;
use std::time::{Duration, Instant};

use skerry_model::AppRef;

/// So many times as long as it took is waited until it is done again.
const REST: u32 = 4;
/// And no longer than this.
const REST_MAX: Duration = Duration::from_secs(2);

/// Which apps wait to be reckoned, and until when.
#[derive(Debug, Default)]
pub(crate) struct Pace {
    waiting: BTreeSet<AppRef>,
    rests_until: Option<Instant>,
}

impl Pace {
    /// Something of these apps changed. Answers which to reckon now; the others wait.
    pub(crate) fn admit(&mut self, apps: BTreeSet<AppRef>, now: Instant) -> BTreeSet<AppRef> {
        self.waiting.extend(apps);
        if self.rests_until.is_some_and(|until| now < until) {
            return BTreeSet::new();
        }
        std::mem::take(&mut self.waiting)
    }

    /// Some were reckoned, from `begun` on: they wait no longer. What was reckoned although it was not time lengthens no rest, so that the others come to
    /// their turn.
    pub(crate) fn done<'a>(
        &mut self,
        apps: impl IntoIterator<Item = &'a AppRef>,
        begun: Instant,
        now: Instant,
    ) {
        for app in apps {
            self.waiting.remove(app);
        }
        if self.rests_until.is_none_or(|until| until <= begun) {
            let took = now.saturating_duration_since(begun);
            self.rests_until = Some(now + took.saturating_mul(REST).min(REST_MAX));
        }
    }

    /// When those that wait can be reckoned. Absent: none waits.
    pub(crate) fn due(&self) -> Option<Instant> {
        self.rests_until.filter(|_| !self.waiting.is_empty())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn apps(names: &[&str]) -> BTreeSet<AppRef> {
        names.iter().map(|name| AppRef::parse(&format!("projects/p/apps/{name}")).unwrap()).collect()
    }

    #[test]
    fn what_was_dear_rests_and_nothing_is_forgotten() {
        let (mut pace, start) = (Pace::default(), Instant::now());
        let at = |millis| start + Duration::from_millis(millis);
        assert_eq!(pace.admit(apps(&["a", "b"]), at(0)), apps(&["a", "b"]));
        assert_eq!(pace.due(), None);
        pace.done(&apps(&["a", "b"]), at(0), at(10));
        assert_eq!(pace.due(), None, "nobody waits");
        assert_eq!(pace.admit(apps(&["a"]), at(49)), apps(&[]));
        assert_eq!(pace.admit(apps(&["c"]), at(49)), apps(&[]));
        assert_eq!(pace.due(), Some(at(50)));
        // One that was reckoned all the same, since its record changed.
        pace.done(&apps(&["c"]), at(39), at(49));
        assert_eq!(pace.due(), Some(at(50)));
        assert_eq!(pace.admit(apps(&[]), at(50)), apps(&["a"]));
        assert_eq!(pace.due(), None);
    }

    #[test]
    fn nothing_rests_for_ever() {
        let (mut pace, start) = (Pace::default(), Instant::now());
        let end = start + Duration::from_secs(3600);
        pace.done(&apps(&[]), start, end);
        assert_eq!(pace.admit(apps(&["a"]), end), apps(&[]));
        assert_eq!(pace.due(), Some(end + REST_MAX));
    }
}
