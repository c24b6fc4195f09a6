//! Memory that a service needed at its start or in a busy time is given back.
//!
//! See docs/adr/0014-resident.md. The agent knows better when its machine is quiet and does the same by itself.

use std::convert::Infallible;
use std::time::Duration;

/// After the start: connections are made and mirrors filled by then.
const SETTLED: Duration = Duration::from_secs(20);
const PERIOD: Duration = Duration::from_secs(600);

/// Gives memory back once things have settled, and then now and then. What is in use comes back by itself: some hundred page faults.
pub(crate) async fn keep_small() -> Infallible {
    let mut wait = SETTLED;
    loop {
        tokio::time::sleep(wait).await;
        if let Err(error) = skerry_resident::give_back() {
            tracing::debug!(%error, "memory that is not needed cannot be given back");
        }
        wait = PERIOD;
    }
}
