//! The leader's part: looks at every rollout that has not come to rest, and writes its next step.

use std::time::{Duration, SystemTime};

use skerry_api::audit;
use skerry_daemon::Shutdown;
use skerry_model::{AppRef, Fault};
use skerry_proto::store::v1 as stored;
use skerry_proto::types::v1::AuditOutcome;
use skerry_rollout::{Rollout, Step, step};
use skerry_store::{Act, Committed, Leadership, Store, TxnError, Versioned};
use tracing::{debug, info, warn};

use super::seen::{Scene, scene};
use super::writes;
use crate::follow::Shared;

/// Between two looks while rollouts are under way: a fleet that reports makes for one look, not for one each.
const SPACING: Duration = Duration::from_millis(20);
/// The longest time without a look while rollouts are under way: a clock may be set.
const LOOK_EVERY: Duration = Duration::from_secs(30);
/// After a step that could not be written, before the next.
const RETRY_WAIT: Duration = Duration::from_millis(250);

/// A step that is to be written.
struct Due {
    app: AppRef,
    uid: String,
    record: Versioned<stored::RolloutRecord>,
    before: Rollout,
    step: Step,
}

/// Drives rollouts as long as the leadership lasts.
pub(crate) async fn drive(shared: &Shared, store: &Store, leadership: &Leadership, shutdown: &Shutdown) {
    let mut wake = shared.subscribe();
    while !shutdown.is_ending() {
        wake.mark_unchanged();
        let (due, wait) = look(shared, SystemTime::now());
        let mut newest: Option<Committed> = None;
        let mut failed = false;
        for one in due {
            match write(store, leadership, &one).await {
                Ok(committed) => newest = Some(committed),
                Err(why) => {
                    debug!(app = %one.app, why, "a step of a rollout is decided anew");
                    failed = true;
                }
            }
        }
        if let Some(newest) = newest {
            // Otherwise the next look would not see it, and try it again in vain.
            if let Err(error) = shared.mirror.wait_for(&newest).await {
                debug!(%error, "the mirror lags behind what was written");
            }
        }
        let wait = if failed { Some(RETRY_WAIT) } else { wait };
        match wait {
            None => drop(wake.changed().await),
            Some(wait) => {
                tokio::time::sleep(SPACING.min(wait)).await;
                drop(tokio::time::timeout(wait.min(LOOK_EVERY), wake.changed()).await);
            }
        }
    }
}

/// What is to be written now, and when to look again. Absent: when something changes.
fn look(shared: &Shared, now: SystemTime) -> (Vec<Due>, Option<Duration>) {
    let world = shared.world();
    let (mut due, mut wait) = (Vec::new(), None);
    for (project_name, project) in world.projects() {
        for (app, view) in &project.apps {
            if project.rollout(app).is_none_or(|head| head.rollout.is_at_rest()) {
                continue;
            }
            wait.get_or_insert(LOOK_EVERY);
            let Some(Scene { head, strategy, clusters }) = scene(&world, project_name, project, app) else {
                continue;
            };
            let step = step(&strategy, &head.rollout, &clusters, now);
            wait = step.wait.into_iter().chain(wait).min();
            if step.rollout == head.rollout {
                continue;
            }
            wait = Some(Duration::ZERO);
            due.push(Due {
                app: AppRef { project: project_name.clone(), app: app.clone() },
                uid: view.record.value.meta.as_ref().map_or_else(String::new, |meta| meta.uid.clone()),
                record: head.record.clone(),
                before: head.rollout.clone(),
                step,
            });
        }
    }
    (due, wait)
}

async fn write(store: &Store, leadership: &Leadership, due: &Due) -> Result<Committed, String> {
    let Due { app, uid, record, before, step } = due;
    let told = |fault: Fault| fault.message;
    let mut txn = writes::goes_on(app, record, &step.rollout, &step.moves);
    txn = writes::with_event(store, app, uid, (before, &step.rollout), txn).await.map_err(told)?;
    if step.rejects {
        txn = writes::go_back(store, app, &step.rollout, txn).await.map_err(told)?;
        let act = Act::new(
            audit::itself("scheduler"),
            "rollout",
            app.project.clone(),
            app.to_string(),
            AuditOutcome::Updated,
        );
        txn = txn.audit(act.detail(format!("rolled back: {}", step.rollout.message)));
    }
    let committed = store.commit(txn.fenced(leadership)).await;
    if before.phase != step.rollout.phase && committed.is_ok() {
        info!(%app, phase = ?step.rollout.phase, why = step.rollout.message, "a rollout goes on");
    }
    committed.map_err(|error| {
        if !matches!(error, TxnError::Conflict(_) | TxnError::Deposed { .. }) {
            warn!(%app, %error, "a step of a rollout could not be written; it is tried again");
        }
        error.to_string()
    })
}
