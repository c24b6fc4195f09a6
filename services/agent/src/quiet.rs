//! When the machine has been quiet for a while, memory that only what came before has used is given back.
//!
//! Most of an agent's life nothing happens, and most of its code is for the moments when something does: a handshake, an enrolment, the
//! making of containers. See docs/adr/0014-resident.md.

use std::io;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use crate::desired::Desired;
use crate::reconcile::Copies;

/// Nothing was wanted and nothing was made for so long.
const QUIET: Duration = Duration::from_secs(20);
/// What is used without a change being wanted (a link that broke, a container that was started again) is given back by then.
const PERIOD: Duration = Duration::from_secs(600);

/// Calls `give_back` after each time that something was wanted or made, and now and then, until `shutdown`.
pub(crate) async fn run(
    mut desired: watch::Receiver<Arc<Desired>>,
    mut copies: watch::Receiver<Copies>,
    shutdown: CancellationToken,
    mut give_back: impl FnMut() -> io::Result<u64>,
) {
    let mut wait = QUIET;
    loop {
        tokio::select! {
            () = shutdown.cancelled() => return,
            changed = desired.changed() => match changed {
                Ok(()) => wait = QUIET,
                Err(_) => return,
            },
            changed = copies.changed() => match changed {
                Ok(()) => wait = QUIET,
                Err(_) => return,
            },
            () = tokio::time::sleep(wait) => {
                if let Err(error) = give_back() {
                    tracing::debug!(%error, "memory that is not needed cannot be given back");
                }
                wait = PERIOD;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::cell::Cell;

    use super::*;

    #[tokio::test(start_paused = true)]
    async fn memory_is_given_back_once_after_each_change_and_now_and_then() {
        let (wanted, desired) = watch::channel(Arc::default());
        let (made, copies) = watch::channel(Copies::default());
        let shutdown = CancellationToken::new();
        let times = Cell::new(0);
        let running = run(desired, copies, shutdown.clone(), || {
            times.set(times.get() + 1);
            Ok(0)
        });
        let story = async {
            tokio::time::sleep(QUIET / 2).await;
            wanted.send_replace(Arc::default());
            tokio::time::sleep(QUIET * 9 / 10).await;
            assert_eq!(times.get(), 0, "not quiet yet");
            tokio::time::sleep(QUIET / 5).await;
            assert_eq!(times.get(), 1);
            made.send_replace(Copies::default());
            tokio::time::sleep(QUIET * 2).await;
            assert_eq!(times.get(), 2);
            tokio::time::sleep(PERIOD * 3).await;
            assert_eq!(times.get(), 5);
            shutdown.cancel();
        };
        tokio::join!(running, story);
    }
}
