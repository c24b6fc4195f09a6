//! What happens over and over, as one event with a count. Pure; both ends use it: the agent while nobody has heard of the former, the
//! gateway where the former is in the store.

use skerry_proto::types::v1::Event;

use crate::limits;
use crate::time::WallTime;

/// Whether `later` says again what `earlier` says. The messages may differ: the newest is told.
pub(crate) fn repeats(earlier: &Event, later: &Event) -> bool {
    let at = |event: &Event| event.time.as_ref().and_then(WallTime::from_proto).unwrap_or_default();
    let apart = at(later).since_epoch().abs_diff(at(earlier).since_epoch());
    earlier.regarding == later.regarding
        && earlier.reason == later.reason
        && earlier.severity == later.severity
        && apart <= limits::EVENT_FOLD_WINDOW
}

/// `later`, counting `earlier` as well.
pub(crate) fn folded(earlier: &Event, later: Event) -> Event {
    Event {
        count: earlier.count.max(1).saturating_add(later.count.max(1)),
        first_time: earlier.first_time.or(earlier.time),
        ..later
    }
}
