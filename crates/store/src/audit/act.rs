//! What the audit log says of a change. Where it stands in which chain is added when it is written.

use skerry_model::{ContentHash, ProjectName};
use skerry_proto::types::v1::{AuditCaller, AuditOutcome};

/// Longest text of a field; what is longer is cut.
const TEXT_BYTES_MAX: usize = 512;
/// What a record takes beside the texts of its act: its key, names of project and chain, hashes, times, and how each is framed.
const FRAME_BYTES_MAX: usize = 1024;

/// Who does what to which resource.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Act {
    /// Who.
    pub caller: AuditCaller,
    /// The method that was called (`package.Service/Method`), or the command.
    pub method: String,
    /// In which project.
    pub project: ProjectName,
    /// Full name of what is changed.
    pub resource: String,
    /// What becomes of it.
    pub outcome: AuditOutcome,
    /// The caller's id of the request, if any.
    pub request_id: String,
    /// Hash of the request, values of secrets blanked.
    pub request_hash: Option<ContentHash>,
    /// W3C trace id, if any.
    pub trace_id: String,
    /// A few words more.
    pub detail: String,
}

impl Act {
    /// What is known of every act.
    pub fn new(
        caller: AuditCaller,
        method: impl Into<String>,
        project: ProjectName,
        resource: impl Into<String>,
        outcome: AuditOutcome,
    ) -> Self {
        Self {
            caller,
            method: method.into(),
            project,
            resource: resource.into(),
            outcome,
            request_id: String::new(),
            request_hash: None,
            trace_id: String::new(),
            detail: String::new(),
        }
    }

    /// With a few words more.
    #[must_use]
    pub fn detail(self, detail: impl Into<String>) -> Self {
        Self { detail: detail.into(), ..self }
    }

    /// The most that its record takes of a transaction.
    pub(crate) fn bytes_max(&self) -> usize {
        let Self { caller, method, resource, request_id, trace_id, detail, .. } = self;
        let texts =
            [&caller.name, &caller.address, &caller.grant, method, resource, request_id, trace_id, detail];
        texts.iter().map(|text| text.len().min(TEXT_BYTES_MAX)).sum::<usize>() + FRAME_BYTES_MAX
    }

    /// With every text cut to its bound.
    pub(super) fn bounded(mut self) -> Self {
        let Self { caller, method, resource, request_id, trace_id, detail, .. } = &mut self;
        let of_caller = [&mut caller.name, &mut caller.address, &mut caller.grant];
        for text in of_caller.into_iter().chain([method, resource, request_id, trace_id, detail]) {
            text.truncate(text.floor_char_boundary(TEXT_BYTES_MAX));
        }
        self
    }
}
