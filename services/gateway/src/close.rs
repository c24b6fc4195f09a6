//! Writes into session records that their sessions are closed: many at once, and again when the store is away.

use std::time::{Duration, SystemTime};

use skerry_daemon::Shutdown;
use skerry_model::NodeRef;
use skerry_proto::store::v1 as stored;
use skerry_store::{Key, Store, Txn, TxnError};
use tokio::sync::mpsc;

use crate::clock::jitter;

/// Sessions that wait to be closed. Beyond it an actor waits until there is room.
pub(crate) const QUEUE_MAX: usize = 1024;
/// Closed by one call.
const BATCH_MAX: usize = 50;
/// Longest wait between two tries.
const RETRY_MAX: Duration = Duration::from_secs(5);

/// A session that ended.
#[derive(Debug)]
pub(crate) struct Closed {
    pub(crate) node: NodeRef,
    /// Its epoch: if the record has another revision, it is no longer this session's.
    pub(crate) mod_revision: i64,
    /// The record as it was written then.
    pub(crate) record: stored::SessionRecord,
    /// When it ended.
    pub(crate) close_time: SystemTime,
}

/// Closes sessions until the gateway stops. Those that are open then end with the gateway's lease.
pub(crate) async fn run(store: Store, mut queue: mpsc::Receiver<Closed>, shutdown: Shutdown) {
    let mut batch = Vec::with_capacity(BATCH_MAX);
    loop {
        tokio::select! {
            () = shutdown.wait() => return,
            received = queue.recv_many(&mut batch, BATCH_MAX) => if received == 0 { return },
        }
        while !batch.is_empty() {
            let results = store.commit_all(batch.iter().map(write).collect(), None).await;
            let mut again = results.iter().map(is_to_be_repeated);
            batch.retain(|_| again.next().unwrap_or(false));
            if !batch.is_empty() {
                tokio::select! {
                    () = shutdown.wait() => return,
                    () = tokio::time::sleep(RETRY_MAX / 10 + jitter(RETRY_MAX)) => {}
                }
            }
        }
    }
}

fn write(closed: &Closed) -> Txn {
    let key = Key::<stored::SessionRecord>::of(&closed.node);
    let close_time = Some(skerry_model::time::to_timestamp(closed.close_time));
    let record = stored::SessionRecord { close_time, ..closed.record.clone() };
    // By value too: a store that was restored meanwhile may have given the same revision to a newer session.
    Txn::new().when_written(&key, closed.mod_revision, &closed.record).put(&key, &record)
}

/// A conflict says that a newer session has the record, or that it was closed by a try whose answer was lost.
fn is_to_be_repeated<T>(result: &Result<T, TxnError>) -> bool {
    matches!(
        result,
        Err(TxnError::Unavailable { .. } | TxnError::Indeterminate { .. } | TxnError::Full { .. })
    )
}
