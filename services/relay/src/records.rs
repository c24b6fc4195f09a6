//! What the audit log says of channels: who read what, when it ended and how much it was.

use skerry_model::ProjectName;
use skerry_proto::types::v1::{AuditCaller, AuditOutcome};
use skerry_store::{Act, Store, Txn};

use crate::Shared;

/// How often a record is tried again where the store is away.
const TRIES_MAX: u32 = 5;
/// Between two tries.
const RETRY_WAIT: std::time::Duration = std::time::Duration::from_secs(2);

/// Writes that `caller` did something, in a task of its own: whoever did it need not wait.
pub(crate) fn note(
    shared: &Shared,
    caller: AuditCaller,
    method: &'static str,
    about: (ProjectName, String, AuditOutcome),
    detail: String,
) {
    let (project, resource, outcome) = about;
    let act = Act::new(caller, method, project, resource, outcome).detail(detail);
    shared.shutdown.spawn(write(shared.store.clone(), act));
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
