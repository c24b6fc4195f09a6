//! Who works on a task: a leased key. All that a worker writes for a task compares it, so that one that lost its claim writes nothing.

use std::time::SystemTime;

use skerry_model::{Fault, TaskRef};
use skerry_proto::store::v1 as stored;
use skerry_store::{Key, Lease, Store, Txn, TxnError};

use super::journal::{Journal, Wanted, ended, take_up};

/// A claim that was made.
#[derive(Debug)]
pub(super) struct Claim {
    pub(super) task: TaskRef,
    key: Key<stored::TaskClaimRecord>,
    record: stored::TaskClaimRecord,
    create_revision: i64,
}

/// A task with its claim, as they were when it was made.
#[derive(Debug)]
pub(super) struct Held {
    pub(super) claim: Claim,
    pub(super) record: stored::TaskRecord,
    pub(super) mod_revision: i64,
    pub(super) journal: Journal,
}

impl Claim {
    /// Only as long as it holds.
    pub(super) fn hold(&self, txn: Txn) -> Txn {
        txn.when_held(&self.key, self.create_revision, &self.record)
    }

    /// With the journal written; only as long as it holds and the task is there.
    pub(super) fn write(&self, txn: Txn, journal: &Journal) -> Txn {
        self.hold(txn)
            .when_exists(&Key::<stored::TaskRecord>::of(&self.task))
            .put(&Key::<stored::TaskProgressRecord>::of(&self.task), journal)
    }

    /// The same, and whoever comes next may have it.
    pub(super) fn give_up(&self, journal: &Journal) -> Txn {
        self.write(Txn::new(), journal).delete(&self.key)
    }
}

/// Claims a task. Nothing: somebody else has it, or there is nothing to do.
pub(super) async fn claim(
    store: &Store,
    lease: &Lease,
    worker: &str,
    task: &TaskRef,
    now: SystemTime,
) -> Result<Option<Held>, Fault> {
    let Some(read) = store.get(&Key::<stored::TaskRecord>::of(task)).await? else { return Ok(None) };
    let progress_key = Key::<stored::TaskProgressRecord>::of(task);
    let progress = store.get(&progress_key).await?;
    let wanted = Wanted::of(&read.value);
    if ended(progress.as_ref().map(|progress| &progress.value), wanted).is_some() {
        return Ok(None);
    }
    let mod_revision = progress.as_ref().map_or(0, |progress| progress.mod_revision);
    let journal = take_up(progress.map(|progress| progress.value), wanted, worker, now);
    let key = Key::<stored::TaskClaimRecord>::of(task);
    let nonce = uuid::Uuid::new_v4().to_string();
    let record = stored::TaskClaimRecord { worker: worker.to_owned(), nonce };
    let txn = Txn::new()
        .when_absent(&key)
        .when_same(&read)
        .when_unchanged(&progress_key, mod_revision)
        .put_leased(&key, &record, lease)
        .put(&progress_key, &journal);
    match store.commit(txn).await {
        Ok(done) => {
            let claim = Claim { task: task.clone(), key, record, create_revision: done.revision };
            Ok(Some(Held { claim, record: read.value, mod_revision: read.mod_revision, journal }))
        }
        Err(TxnError::Conflict(_)) => Ok(None),
        Err(error) => Err(error.into()),
    }
}
