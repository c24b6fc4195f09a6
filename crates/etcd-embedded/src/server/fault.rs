//! Refusals as gRPC statuses: etcd's texts come with the fault, etcd's codes are given here.

use tonic::{Code, Status};

use crate::mvcc::Fault;
use crate::writer::Refusal;

/// What ends a call or a stream when the store is closed.
pub(crate) fn stopped() -> Status {
    Status::unavailable(Refusal::Stopped.to_string())
}

/// Bytes of a request beyond which it is refused: etcd's default of 1.5 MiB.
pub(crate) const REQUEST_BYTES_MAX: usize = 3 << 19;

/// Refuses a write that is larger than etcd would take.
pub(crate) fn check_size(request: &impl prost::Message) -> Result<(), Status> {
    if request.encoded_len() > REQUEST_BYTES_MAX {
        return Err(Status::invalid_argument("etcdserver: request is too large"));
    }
    Ok(())
}

impl From<Fault> for Status {
    fn from(fault: Fault) -> Self {
        let code = match fault {
            Fault::EmptyKey
            | Fault::KeyNotFound
            | Fault::ValueProvided
            | Fault::LeaseProvided
            | Fault::TooManyOps
            | Fault::DuplicateKey
            | Fault::InvalidSortOption => Code::InvalidArgument,
            Fault::Compacted | Fault::FutureRevision | Fault::LeaseTtlTooLarge => Code::OutOfRange,
            Fault::NoSpace => Code::ResourceExhausted,
            Fault::LeaseNotFound => Code::NotFound,
            Fault::LeaseExists => Code::FailedPrecondition,
        };
        Self::new(code, fault.to_string())
    }
}

impl From<Refusal> for Status {
    fn from(refusal: Refusal) -> Self {
        match refusal {
            Refusal::Fault(fault) => fault.into(),
            Refusal::Disk(_) | Refusal::Stopped => Self::unavailable(refusal.to_string()),
        }
    }
}
