//! What a cluster may say of itself.

use std::time::Duration;

use skerry_proto::registry::v1::ClusterSpec;

use crate::time::from_proto_duration;
use crate::{Fault, Violations};

/// How long a member may be out of reach before its replicas move, where its cluster does not say.
pub const FAILOVER_AFTER: Duration = Duration::from_secs(300);
/// The shortest such time: a gateway that is replaced must not move anybody.
pub const FAILOVER_AFTER_MIN: Duration = Duration::from_secs(10);
/// The longest such time.
pub const FAILOVER_AFTER_MAX: Duration = Duration::from_secs(24 * 60 * 60);

/// Checks the spec of a cluster; the fault names each field that is wrong.
pub fn check(spec: &ClusterSpec) -> Result<(), Fault> {
    let mut violations = Violations::new();
    if let Some(after) = &spec.failover_after {
        let fits = |after: Duration| (FAILOVER_AFTER_MIN..=FAILOVER_AFTER_MAX).contains(&after);
        if !from_proto_duration(after).is_some_and(fits) {
            violations.add(
                "spec.failover_after",
                "out of range: 10s to 24h; that nothing ever moves is said by a service (failover: never)",
            );
        }
    }
    violations.finish(Some(()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_time_before_a_failover_has_bounds() {
        let after = |seconds| {
            let failover_after = Some(prost_types::Duration { seconds, nanos: 0 });
            check(&ClusterSpec { failover_after })
        };
        assert!(check(&ClusterSpec::default()).is_ok());
        assert!(after(10).is_ok() && after(86_400).is_ok());
        for wrong in [-1, 0, 9, 86_401] {
            assert_eq!(after(wrong).unwrap_err().violations[0].field, "spec.failover_after");
        }
    }
}
