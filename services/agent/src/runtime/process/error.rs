//! Errors of this runtime, in the words of `RuntimeError`.

use std::io;

use crate::runtime::RuntimeError;
use crate::shim::program::{DIRECTORY_MISSING, PROGRAM_NOT_EXECUTABLE, PROGRAM_NOT_FOUND, StartFailure};

pub(super) fn failed(reason: &'static str, message: impl Into<String>, transient: bool) -> RuntimeError {
    RuntimeError { reason, message: message.into(), transient }
}

/// A file of ours that could not be read, written or removed.
pub(super) fn io_failed(doing: &str, error: &io::Error) -> RuntimeError {
    StartFailure::state(doing, error).into()
}

impl From<StartFailure> for RuntimeError {
    fn from(failure: StartFailure) -> Self {
        let lasting = [PROGRAM_NOT_FOUND, PROGRAM_NOT_EXECUTABLE, DIRECTORY_MISSING];
        Self {
            reason: failure.reason,
            message: failure.message,
            transient: !lasting.contains(&failure.reason),
        }
    }
}

/// What the shim said: `<reason> <message>`.
pub(super) fn shim_failed(text: &str) -> RuntimeError {
    StartFailure::from_text(text).into()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::shim::program::{DISK_FULL, START_FAILED};

    #[test]
    fn a_full_disk_and_a_missing_program_are_told_apart() {
        let full = io_failed("writing", &io::Error::from(io::ErrorKind::StorageFull));
        assert_eq!((full.reason, full.transient), (DISK_FULL, true));
        let missing = shim_failed("ProgramNotFound `x` does not exist\n");
        assert_eq!((missing.reason, missing.transient), (PROGRAM_NOT_FOUND, false));
        assert_eq!(missing.message, "`x` does not exist");
        assert_eq!(shim_failed("").reason, START_FAILED);
    }
}
