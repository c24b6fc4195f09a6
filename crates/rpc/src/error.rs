//! `Fault` <-> gRPC status with `google.rpc` details: one `ErrorInfo` always, `BadRequest` where fields are to mend, `QuotaFailure` where a
//! quota is used up, `RetryInfo` where it is worth trying again.

use std::collections::HashMap;
use std::time::Duration;

use skerry_model::{Code, Fault, Violation};
use tonic::Status;
use tonic_types::{ErrorDetails, StatusExt as _};

use crate::ERROR_DOMAIN;

/// Codes both ways, and the reason that a foreign status without `ErrorInfo` gets.
const CODES: [(Code, tonic::Code, &str); 13] = [
    (Code::InvalidArgument, tonic::Code::InvalidArgument, "INVALID_ARGUMENT"),
    (Code::NotFound, tonic::Code::NotFound, "NOT_FOUND"),
    (Code::AlreadyExists, tonic::Code::AlreadyExists, "ALREADY_EXISTS"),
    (Code::FailedPrecondition, tonic::Code::FailedPrecondition, "FAILED_PRECONDITION"),
    (Code::Aborted, tonic::Code::Aborted, "ABORTED"),
    (Code::OutOfRange, tonic::Code::OutOfRange, "OUT_OF_RANGE"),
    (Code::PermissionDenied, tonic::Code::PermissionDenied, "PERMISSION_DENIED"),
    (Code::Unauthenticated, tonic::Code::Unauthenticated, "UNAUTHENTICATED"),
    (Code::ResourceExhausted, tonic::Code::ResourceExhausted, "RESOURCE_EXHAUSTED"),
    (Code::Unavailable, tonic::Code::Unavailable, "UNAVAILABLE"),
    (Code::DeadlineExceeded, tonic::Code::DeadlineExceeded, "DEADLINE_EXCEEDED"),
    (Code::Unimplemented, tonic::Code::Unimplemented, "UNIMPLEMENTED"),
    (Code::Internal, tonic::Code::Internal, "INTERNAL"),
];

/// How long a caller waits at least before it tries what was UNAVAILABLE again; callers add jitter.
const RETRY_AFTER: Duration = Duration::from_millis(500);

/// The status that tells `fault` to a caller.
pub fn status_of(fault: &Fault) -> Status {
    let code = CODES
        .iter()
        .find(|(ours, ..)| *ours == fault.code)
        .map_or(tonic::Code::Internal, |(_, wire, _)| *wire);
    let metadata: HashMap<String, String> = fault.metadata.clone().into_iter().collect();
    let mut details = ErrorDetails::with_error_info(fault.reason, ERROR_DOMAIN, metadata);
    for violation in &fault.violations {
        if fault.code == Code::ResourceExhausted {
            details.add_quota_failure_violation(&violation.field, &violation.description);
        } else {
            details.add_bad_request_violation(&violation.field, &violation.description);
        }
    }
    if fault.code == Code::Unavailable {
        details.set_retry_info(Some(RETRY_AFTER));
    }
    Status::with_error_details(code, fault.message.clone(), details)
}

/// Whether a message was larger than its receiver takes, in tonic's words: a caller's own, of an answer, or a server's, of a request.
pub fn is_too_large(status: &Status) -> bool {
    status.code() == tonic::Code::OutOfRange && status.message().contains("message length too large")
}

/// The fault that a status tells of. The reason of a foreign `ErrorInfo` is in the metadata as `reason`.
pub fn fault_of(status: &Status) -> Fault {
    let (code, _, reason) = CODES.iter().find(|(_, wire, _)| *wire == status.code()).copied().unwrap_or((
        Code::Internal,
        status.code(),
        "UNKNOWN",
    ));
    let mut fault = Fault::new(code, reason, status.message());
    let details = status.get_error_details();
    if let Some(info) = details.error_info() {
        fault.metadata.extend(info.metadata.clone());
        fault.metadata.insert("reason".to_owned(), info.reason.clone());
    }
    if let Some(request) = details.bad_request() {
        fault.violations = request
            .field_violations
            .iter()
            .map(|v| Violation { field: v.field.clone(), description: v.description.clone() })
            .collect();
    }
    if let Some(quota) = details.quota_failure() {
        fault.violations = quota
            .violations
            .iter()
            .map(|v| Violation { field: v.subject.clone(), description: v.description.clone() })
            .collect();
    }
    fault
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_fault_survives_the_wire() {
        let fault = Fault::invalid_field("spec.services", "name at least one service").with("app", "web");
        let status = status_of(&fault);
        assert_eq!(status.code(), tonic::Code::InvalidArgument);
        let info = status.get_details_error_info().unwrap();
        assert_eq!((info.reason.as_str(), info.domain.as_str()), ("INVALID_FIELD", ERROR_DOMAIN));
        let back = fault_of(&status);
        assert_eq!(back.violations, fault.violations);
        assert_eq!(back.metadata["app"], "web");
        assert_eq!(back.code, Code::InvalidArgument);
    }

    #[test]
    fn a_quota_that_is_used_up_is_told_as_one_and_survives_the_wire() {
        let fault = Fault::quota("projects/shop", "projects/shop has 10 of 10 apps");
        let status = status_of(&fault);
        assert_eq!(status.code(), tonic::Code::ResourceExhausted);
        assert!(status.get_details_bad_request().is_none());
        let told = status.get_details_quota_failure().unwrap().violations;
        assert_eq!((told.len(), told[0].subject.as_str()), (1, "projects/shop"));
        assert_eq!(fault_of(&status).violations, fault.violations);
    }

    #[test]
    fn what_is_unavailable_says_when_to_try_again() {
        let delay =
            |fault: &Fault| status_of(fault).get_details_retry_info().and_then(|info| info.retry_delay);
        assert_eq!(delay(&Fault::unavailable("the store does not answer")), Some(RETRY_AFTER));
        assert_eq!(delay(&Fault::not_found("x")), None);
    }

    #[test]
    fn every_code_maps_to_itself() {
        for (ours, _, reason) in CODES {
            assert_eq!(fault_of(&status_of(&Fault::new(ours, reason, "x"))).code, ours);
        }
    }
}
