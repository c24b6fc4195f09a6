//! What the audit log says of channels: who read what, when it ended and how much it was.

use std::time::Duration;

use skerry_model::{Code, Fault, ProjectName};
use skerry_proto::types::v1::{AuditCaller, AuditOutcome};
use skerry_store::{Act, Store, Txn};

use crate::Shared;

/// How often a record is tried again where the store is away.
const TRIES_MAX: u32 = 5;
/// Between two tries.
const RETRY_WAIT: Duration = Duration::from_secs(2);
/// How long one may take that must be written first.
const MUST_DEADLINE: Duration = Duration::from_secs(5);

/// Writes that `caller` did something, in a task of its own: whoever did it need not wait.
pub(crate) fn note(
    shared: &Shared,
    caller: AuditCaller,
    method: &'static str,
    about: (ProjectName, String, AuditOutcome),
    detail: String,
) {
    let (project, resource, outcome) = about;
    note_act(shared, Act::new(caller, method, project, resource, outcome).detail(detail));
}

/// The same, of what is put together already.
pub(crate) fn note_act(shared: &Shared, act: Act) {
    shared.shutdown.spawn(write(shared.store.clone(), act));
}

/// Writes a record of what is about to be done. What cannot be recorded is not done.
pub(crate) async fn must(shared: &Shared, act: Act) -> Result<(), Fault> {
    let written = tokio::time::timeout(MUST_DEADLINE, shared.store.commit(Txn::new().audit(act))).await;
    let failed = |why: String| {
        Fault::new(
            Code::Unavailable,
            "NOT_RECORDED",
            format!("it is not done, since it cannot be recorded: {why}"),
        )
    };
    match written {
        Ok(Ok(_)) => Ok(()),
        Ok(Err(error)) => Err(failed(error.to_string())),
        Err(_) => Err(failed("the store does not answer".to_owned())),
    }
}

async fn write(store: Store, act: Act) {
    for turn in 1..=TRIES_MAX {
        match store.commit(Txn::new().audit(act.clone())).await {
            Ok(_) => return,
            Err(error) if turn == TRIES_MAX => {
                // Never lost in silence: the log of the process has it.
                tracing::error!(%error, caller = act.caller.name, act.method, act.resource, act.detail, "an audit record could not be written");
            }
            Err(error) => {
                tracing::warn!(%error, "an audit record could not be written; it is tried again");
                tokio::time::sleep(RETRY_WAIT).await;
            }
        }
    }
}
