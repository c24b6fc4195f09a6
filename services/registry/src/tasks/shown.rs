//! Tasks as clients see them, kept in step with the store.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use skerry_api::{Etag, Hub, metadata_of};
use skerry_daemon::Shutdown;
use skerry_model::TaskRef;
use skerry_proto::registry::v1 as pb;
use skerry_proto::store::v1 as stored;
use skerry_proto::store::v1::TaskPhase;
use skerry_store::{
    Changes, Cursor, Family, Key, Mirror, MirrorConfig, Prefix, Record, Snapshot, Store, Versioned,
};
use tracing::warn;

use super::journal::{Wanted, ended};
use super::spec::shown_spec;

/// What handlers and workers look at.
pub(super) struct Shown {
    pub(super) mirror: Mirror,
    pub(super) tasks: Arc<Hub<pb::Task>>,
}

impl Shown {
    pub(super) fn new(store: &Store) -> Self {
        let mirrored = MirrorConfig::new()
            .family::<stored::TaskRecord>()
            .family::<stored::TaskProgressRecord>()
            .family::<stored::TaskClaimRecord>()
            // What is listed is of projects that are there.
            .family::<stored::ProjectRecord>();
        Self { mirror: Mirror::start(store, mirrored), tasks: Arc::default() }
    }

    /// How a task stands now.
    pub(super) fn status(&self, name: &TaskRef, record: &stored::TaskRecord) -> pb::TaskStatus {
        status_in(&self.mirror.snapshot(), name, record)
    }

    /// Brings all in step with what the mirror shows now; answers where to continue.
    fn take(&self, cursor: Option<Cursor>) -> Cursor {
        let delta = self.mirror.changes(cursor);
        let snapshot = &delta.snapshot;
        match &delta.changes {
            Changes::Since(changes) if changes.is_empty() => {}
            Changes::Since(changes) => {
                let touched: BTreeSet<TaskRef> =
                    changes.iter().filter_map(|change| task_of(change.key())).collect();
                let updates: Vec<_> =
                    touched.iter().map(|name| (name.to_string(), view(snapshot, name))).collect();
                self.tasks.publish(updates, snapshot);
            }
            Changes::Resync => {
                let all = Prefix::<stored::TaskRecord>::all();
                let names = snapshot.entries(&all).filter_map(|entry| task_of(&entry.key));
                let items: BTreeMap<_, _> = names
                    .filter_map(|name| Some((name.to_string(), Arc::new(view(snapshot, &name)?))))
                    .collect();
                self.tasks.reset(items, snapshot);
            }
        }
        delta.cursor
    }
}

/// The task that a key is about.
fn task_of(key: &str) -> Option<TaskRef> {
    match Family::of_key(key)? {
        Family::Tasks => Some(Key::<stored::TaskRecord>::parse(key).ok()?.name()),
        Family::TaskProgress => Some(Key::<stored::TaskProgressRecord>::parse(key).ok()?.name()),
        Family::TaskClaims => Some(Key::<stored::TaskClaimRecord>::parse(key).ok()?.name()),
        _ => None,
    }
}

fn view(snapshot: &Snapshot, name: &TaskRef) -> Option<pb::Task> {
    let found: Versioned<stored::TaskRecord> = read(snapshot, name)?;
    let etag = Etag { mod_revision: found.mod_revision };
    Some(pb::Task {
        metadata: Some(metadata_of(name, found.value.meta.as_ref(), etag)),
        spec: Some(shown_spec(&found.value)),
        status: Some(status_in(snapshot, name, &found.value)),
    })
}

fn status_in(snapshot: &Snapshot, name: &TaskRef, record: &stored::TaskRecord) -> pb::TaskStatus {
    let progress = read(snapshot, name).map(|read: Versioned<stored::TaskProgressRecord>| read.value);
    let claimed = snapshot.entry(&Key::<stored::TaskClaimRecord>::of(name)).is_some();
    status_of(record, progress, claimed)
}

/// How a task stands: pure.
fn status_of(
    record: &stored::TaskRecord,
    progress: Option<stored::TaskProgressRecord>,
    claimed: bool,
) -> pb::TaskStatus {
    let wanted = Wanted::of(record);
    let has_ended = ended(progress.as_ref(), wanted).is_some();
    let progress = progress.unwrap_or_default();
    let this_run = progress.run == wanted.run;
    let state = match progress.phase() {
        _ if !this_run => pb::TaskState::Queued,
        TaskPhase::Running if claimed => pb::TaskState::Running,
        // Its worker is gone, and the next one has not come yet.
        TaskPhase::Running | TaskPhase::Unspecified => pb::TaskState::Queued,
        TaskPhase::Waiting => pb::TaskState::Waiting,
        TaskPhase::Succeeded => pb::TaskState::Succeeded,
        TaskPhase::Failed => pb::TaskState::Failed,
        TaskPhase::Cancelled => pb::TaskState::Cancelled,
    };
    let failure = |one: stored::TaskFailureRecord| pb::TaskFailure {
        step: one.step,
        error: one.error,
        permanent: one.permanent && this_run,
    };
    pb::TaskStatus {
        state: state.into(),
        worker: progress.worker,
        run: wanted.run,
        attempt: if this_run { progress.attempt } else { 0 },
        steps_done: progress.steps_done,
        steps_total: progress.steps_total.max(progress.steps_done),
        message: if this_run { progress.message } else { String::new() },
        last_error: progress.last_error,
        next_try_time: progress.next_try_time.filter(|_| state == pb::TaskState::Waiting),
        start_time: progress.start_time,
        end_time: progress.end_time.filter(|_| has_ended),
        failures: progress.failures.into_iter().map(failure).collect(),
        cancelling: record.cancel && !has_ended,
        created_by: record.caller.as_ref().map(|caller| caller.name.clone()).unwrap_or_default(),
    }
}

fn read<R: Record<Name = TaskRef>>(snapshot: &Snapshot, name: &TaskRef) -> Option<Versioned<R>> {
    snapshot.get(&Key::of(name)).unwrap_or_else(|error| {
        warn!(%error, "a record that does not decode is passed over");
        None
    })
}

/// Follows the store until the end.
pub(super) async fn follow(shown: Arc<Shown>, shutdown: Shutdown) {
    skerry_api::follow(&shown.mirror, shutdown.wait(), |cursor| shown.take(cursor)).await;
}

#[cfg(test)]
mod tests {
    use super::*;

    fn state(run: u32, phase: TaskPhase, claimed: bool) -> pb::TaskState {
        let mut progress = stored::TaskProgressRecord { run, ..Default::default() };
        progress.set_phase(phase);
        status_of(&stored::TaskRecord { run: 2, ..Default::default() }, Some(progress), claimed).state()
    }

    #[test]
    fn a_task_runs_as_long_as_somebody_has_it_and_else_it_is_queued() {
        assert_eq!(state(2, TaskPhase::Running, true), pb::TaskState::Running);
        assert_eq!(state(2, TaskPhase::Running, false), pb::TaskState::Queued);
        assert_eq!(state(1, TaskPhase::Failed, false), pb::TaskState::Queued, "it was retried");
        assert_eq!(state(2, TaskPhase::Failed, false), pb::TaskState::Failed);
        let new = status_of(&stored::TaskRecord { run: 1, ..Default::default() }, None, false);
        assert_eq!((new.state(), new.run, new.attempt), (pb::TaskState::Queued, 1, 0));
    }

    #[test]
    fn what_is_cancelled_says_so_until_it_has_ended() {
        let record = stored::TaskRecord { run: 1, cancel: true, ..Default::default() };
        let mut progress = stored::TaskProgressRecord { run: 1, ..Default::default() };
        progress.set_phase(TaskPhase::Running);
        assert!(status_of(&record, Some(progress.clone()), true).cancelling);
        progress.set_phase(TaskPhase::Cancelled);
        assert!(!status_of(&record, Some(progress), false).cancelling);
    }
}
