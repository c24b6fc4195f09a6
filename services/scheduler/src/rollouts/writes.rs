//! The transactions of rollouts. Each compares the rollout's record, which every step and every change of the app's revision writes: whoever is
//! late writes nothing.

use std::time::SystemTime;

use skerry_model::{AppRef, Fault, RevisionRef, time};
use skerry_proto::store::v1 as stored;
use skerry_resources::{AppEvents, rollouts};
use skerry_rollout::{Move, Phase, Reason, Rollout};
use skerry_store::keys::RolloutMoveName;
use skerry_store::{Key, Store, Txn, Versioned};

/// The rollout becomes `next`, with moves of clusters.
pub(super) fn goes_on(
    name: &AppRef,
    before: &Versioned<stored::RolloutRecord>,
    next: &Rollout,
    moves: &[Move],
) -> Txn {
    let mut txn = Txn::new().when_same(before).put(&before.key, &rollouts::write(&before.value.id, next));
    let numbers = (0..=next.last_move).rev().take(moves.len());
    for (number, one) in numbers.zip(moves.iter().rev()) {
        let key = Key::of(&RolloutMoveName { app: name.clone(), number });
        let clusters = one.clusters.iter().map(ToString::to_string).collect();
        txn = txn.put(&key, &stored::RolloutMoveRecord { revision: one.revision.to_string(), clusters });
    }
    txn
}

/// Adds to `txn` an event that tells of a change of phase, if there is one to tell.
pub(super) async fn with_event(
    store: &Store,
    name: &AppRef,
    uid: &str,
    (before, next): (&Rollout, &Rollout),
    txn: Txn,
) -> Result<Txn, Fault> {
    if before.phase == next.phase {
        return Ok(txn);
    }
    let revision = next.to.short();
    let (reason, message) = match next.phase {
        Phase::Paused => ("RolloutPaused", format!("revision {revision}: {}", next.message)),
        Phase::Progressing => ("RolloutResumed", format!("revision {revision} goes on")),
        Phase::Done => ("RolloutDone", format!("revision {revision} is healthy on every connected cluster")),
        Phase::RollingBack if next.reason == Some(Reason::Aborted) => {
            ("RolloutAborted", format!("revision {revision}: {}", next.message))
        }
        Phase::RollingBack => ("RolloutFailed", format!("revision {revision}: {}", next.message)),
        Phase::RolledBack => {
            ("RolledBack", format!("every cluster has revision {} again", next.from.short()))
        }
    };
    let failed = matches!(next.reason, Some(Reason::ProgressDeadlineExceeded | Reason::TakenBack));
    let events = AppEvents::read(store, name).await?;
    Ok(if failed { events.warn(txn, uid, reason, message) } else { events.add(txn, uid, reason, message) })
}

/// The rollout goes back: `txn` makes it so, and this adds that the former revision becomes the app's current one again, byte for byte, under
/// a new number, and that the new one is remembered as rejected.
pub(super) async fn go_back(store: &Store, name: &AppRef, next: &Rollout, txn: Txn) -> Result<Txn, Fault> {
    let key = |hash| Key::<stored::RevisionRecord>::of(&RevisionRef { app: name.clone(), hash });
    let app = store.get(&Key::<stored::AppRecord>::of(name)).await?;
    let app = app.ok_or_else(|| Fault::not_found(name))?;
    let former = store.get(&key(next.from)).await?;
    let former =
        former.ok_or_else(|| Fault::internal(format!("revision {} of {name} is gone", next.from)))?;
    let mut record = app.value.clone();
    record.revision = next.from.to_string();
    record.revision_number += 1;
    // What counts against the project's quota stays as it was until the next change: no way back is refused for want of room.
    record.trace_parent = String::new();
    record.trace_time = None;
    if let Some(meta) = &mut record.meta {
        meta.generation += 1;
    }
    let current = stored::RevisionRecord {
        number: record.revision_number,
        create_time: Some(time::to_timestamp(SystemTime::now())),
        ..former.value.clone()
    };
    let mut txn = txn.when_same(&app).put(&app.key, &record).when_same(&former).put(&former.key, &current);
    if let Some(rejected) = store.get(&key(next.to)).await? {
        let record = stored::RevisionRecord { rejected: next.message.clone(), ..rejected.value.clone() };
        txn = txn.when_same(&rejected).put(&rejected.key, &record);
    }
    Ok(txn)
}
