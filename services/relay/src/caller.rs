//! Who asks, as the audit log has it, and by which right.

use skerry_api::audit;
use skerry_model::Fault;
use skerry_proto::types::v1::AuditCaller;
use skerry_rpc::access::Right;
use tonic::Request;

/// See the module.
#[derive(Debug, Clone)]
pub(crate) struct Caller {
    pub(crate) audit: AuditCaller,
    /// Absent: the listener asks nobody who it is.
    right: Option<Right>,
}

impl Caller {
    pub(crate) fn of<T>(request: &Request<T>) -> Self {
        Self { audit: audit::caller_of(request), right: request.extensions().get().cloned() }
    }

    /// Waits until the caller may no longer do it, and says why. That the answers end is seen to before they come here; this ends the call where
    /// nobody takes them.
    pub(crate) async fn lost(&self) -> Fault {
        match &self.right {
            Some(right) => right.lost().await,
            None => std::future::pending().await,
        }
    }

    /// Why nobody takes the answers any more, for the audit log.
    pub(crate) fn gone(&self) -> String {
        match self.right.as_ref().map(Right::check) {
            Some(Err(fault)) => fault.message,
            Some(Ok(())) | None => "the caller hung up".to_owned(),
        }
    }
}
