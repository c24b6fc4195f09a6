//! Files that are copied into and out of instances, as runtimes take and tell them.

use bytes::Bytes;
use skerry_archive::Error;

use super::{RuntimeError, RuntimeKind};

/// Most bytes of a part.
pub(crate) const PART_BYTES_MAX: usize = 64 * 1024;

/// The next of an archive that comes.
#[derive(Debug)]
pub enum CopyPart {
    /// Bytes of it; at most 64 KiB.
    Data(Bytes),
    /// That was all, and it is what was sent.
    Whole,
}

/// What is to be packed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CopySource {
    /// From the instance's working directory where it is not absolute.
    pub(crate) path: String,
    /// Only what it is.
    pub(crate) bare: bool,
}

impl CopySource {
    /// The last part of its path. None: what is in a directory that its path gives no name.
    pub(crate) fn name(&self) -> Option<&str> {
        let last = self.path.split('/').rfind(|part| !part.is_empty() && *part != ".")?;
        (last != "..").then_some(last)
    }
}

pub(super) fn unsupported(kind: RuntimeKind) -> RuntimeError {
    RuntimeError {
        reason: "CopyUnsupported",
        message: format!("{} does not copy files", kind.as_str()),
        transient: false,
    }
}

/// Nothing more comes, and not all has.
pub(crate) fn truncated() -> RuntimeError {
    RuntimeError {
        reason: "Truncated",
        message: "not all of the archive came: nothing counts as copied".to_owned(),
        transient: true,
    }
}

impl From<Error> for RuntimeError {
    fn from(error: Error) -> Self {
        Self { reason: error.reason(), message: error.to_string(), transient: false }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_packed_has_the_last_part_of_its_path_as_its_name() {
        let name = |path: &str| CopySource { path: path.to_owned(), bare: false }.name().map(str::to_owned);
        for (path, is) in [("/etc/hosts", "hosts"), ("a/", "a"), ("/a/b/.", "b"), ("..x", "..x")] {
            assert_eq!(name(path).as_deref(), Some(is), "{path}");
        }
        for path in ["/", ".", "./", "..", "a/.."] {
            assert_eq!(name(path), None, "{path}");
        }
    }
}
