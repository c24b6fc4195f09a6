//! Removes records by age and number, now and then, whoever wrote them. Replicas may do it at the same time: each removal compares the head.

use std::time::{Duration, SystemTime};

use skerry_daemon::Shutdown;
use skerry_store::{AuditKeep, Store};

/// Between two looks.
const PERIOD: Duration = Duration::from_secs(600);

/// Removes what is not kept, until the end.
pub(crate) async fn retain(store: Store, keep: AuditKeep, shutdown: Shutdown) {
    loop {
        match store.trim_audit(keep, SystemTime::now()).await {
            Ok(0) => {}
            Ok(removed) => tracing::info!(removed, "records of the audit log were removed for age or number"),
            Err(error) => tracing::warn!(%error, "old records of the audit log stay until the next look"),
        }
        tokio::select! {
            () = shutdown.wait() => return,
            () = tokio::time::sleep(PERIOD) => {}
        }
    }
}
