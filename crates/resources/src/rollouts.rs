//! Rollouts of apps as far as a change of the app begins or ends them, and their records. What comes next in one is decided by `skerry-rollout`,
//! and written by the scheduler's leader.

mod record;

use std::time::SystemTime;

use skerry_model::{AppRef, ContentHash, Fault};
use skerry_proto::store::v1 as stored;
use skerry_rollout::begin;
use skerry_store::{Key, Prefix, Store, Txn};
use uuid::Uuid;

pub use self::record::{read, write};

/// Adds to the transaction that makes `new` the current revision of an app that its rollout begins.
pub(crate) async fn spread(
    store: &Store,
    name: &AppRef,
    app: &mut stored::AppRecord,
    (current, new): (ContentHash, ContentHash),
    txn: Txn,
) -> Result<Txn, Fault> {
    let key = Key::<stored::RolloutRecord>::of(name);
    let read = store.get(&key).await?;
    let last = read.as_ref().filter(|last| last.value.id == app.rollout_id && !app.rollout_id.is_empty());
    let last = last.and_then(|last| record::read(&last.value));
    let rollout = begin(last.as_ref(), current, new, SystemTime::now());
    app.rollout_id = Uuid::new_v4().to_string();
    let txn = match &read {
        Some(read) => txn.when_same(read),
        None => txn.when_absent(&key),
    };
    // Moves of one that says nothing any more would be taken for those of this one.
    let txn = if last.is_some() { txn } else { txn.delete_prefix(&Prefix::moves_of(name)) };
    Ok(txn.put(&key, &record::write(&app.rollout_id, &rollout)))
}

/// Adds to the transaction of a change of an app that all its clusters have the current revision from now on.
pub(crate) fn end_at_once(name: &AppRef, app: &mut stored::AppRecord, txn: Txn) -> Txn {
    if app.rollout_id.is_empty() {
        return txn;
    }
    app.rollout_id.clear();
    forget(name, txn)
}

/// Adds to a transaction that nothing is left of an app's rollouts.
pub fn forget(name: &AppRef, txn: Txn) -> Txn {
    txn.delete(&Key::<stored::RolloutRecord>::of(name)).delete_prefix(&Prefix::moves_of(name))
}
