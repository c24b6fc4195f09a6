//! What is told to a caller when something is refused or fails: a canonical code, a reason, and which fields to mend.
//!
//! `skerry-rpc` turns a `Fault` into a gRPC status with `google.rpc.ErrorInfo` and `google.rpc.BadRequest`.

use std::collections::BTreeMap;
use std::fmt;

/// The canonical codes that Skerry uses (google.rpc.Code, same meaning).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Code {
    /// The request can never be taken as it is.
    InvalidArgument,
    /// There is no such resource.
    NotFound,
    /// There is one already.
    AlreadyExists,
    /// Not in the state that the system is in.
    FailedPrecondition,
    /// Somebody else changed it meanwhile: read again.
    Aborted,
    /// The version asked for is no longer known: list again.
    OutOfRange,
    /// The caller may not.
    PermissionDenied,
    /// The caller is nobody.
    Unauthenticated,
    /// A limit is reached.
    ResourceExhausted,
    /// Not now: try again.
    Unavailable,
    /// It took too long; it may or may not have happened.
    DeadlineExceeded,
    /// Not part of this version.
    Unimplemented,
    /// A defect of Skerry's.
    Internal,
}

/// One field and what is wrong with it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Violation {
    /// Path in the request's proto field names, as `spec.services[0].container.image`.
    pub field: String,
    /// What is wrong and how to mend it.
    pub description: String,
}

/// Most violations that are told at once.
pub const VIOLATIONS_MAX: usize = 50;

/// Collects violations under a field path.
#[derive(Debug, Default)]
pub struct Violations {
    list: Vec<Violation>,
}

impl Violations {
    /// None yet.
    pub fn new() -> Self {
        Self::default()
    }

    /// Adds one; beyond `VIOLATIONS_MAX` they are dropped.
    pub fn add(&mut self, field: impl Into<String>, description: impl fmt::Display) {
        if self.list.len() < VIOLATIONS_MAX {
            self.list.push(Violation { field: field.into(), description: description.to_string() });
        }
    }

    /// Adds `result`'s error, if it is one.
    pub fn check<T, E: fmt::Display>(&mut self, field: impl Into<String>, result: Result<T, E>) -> Option<T> {
        match result {
            Ok(value) => Some(value),
            Err(error) => {
                self.add(field, error);
                None
            }
        }
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.list.is_empty()
    }

    /// All of them.
    pub fn into_vec(self) -> Vec<Violation> {
        self.list
    }

    /// `value` if there is no violation, else a fault that names them.
    pub fn finish<T>(self, value: Option<T>) -> Result<T, Fault> {
        match value {
            Some(value) if self.list.is_empty() => Ok(value),
            _ => Err(Fault::invalid(self.list)),
        }
    }
}

/// A refusal or a failure, fit to be told to a caller.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Fault {
    /// The canonical code.
    pub code: Code,
    /// One UPPER_SNAKE_CASE word for programs, as `APP_NOT_FOUND`.
    pub reason: &'static str,
    /// A sentence for people.
    pub message: String,
    /// More for programs.
    pub metadata: BTreeMap<String, String>,
    /// Fields to mend. Where a quota is used up: whose it is, in place of the field, and by what.
    pub violations: Vec<Violation>,
}

impl Fault {
    /// A fault without metadata.
    pub fn new(code: Code, reason: &'static str, message: impl Into<String>) -> Self {
        Self { code, reason, message: message.into(), metadata: BTreeMap::new(), violations: Vec::new() }
    }

    /// Adds one entry of metadata.
    #[must_use]
    pub fn with(mut self, key: &str, value: impl fmt::Display) -> Self {
        self.metadata.insert(key.to_owned(), value.to_string());
        self
    }

    /// INVALID_ARGUMENT for these fields.
    pub fn invalid(violations: Vec<Violation>) -> Self {
        let message = match violations.as_slice() {
            [] => "the request is invalid".to_owned(),
            [one] => format!("{}: {}", one.field, one.description),
            [first, rest @ ..] => format!("{}: {} (and {} more)", first.field, first.description, rest.len()),
        };
        Self { violations, ..Self::new(Code::InvalidArgument, "INVALID_FIELD", message) }
    }

    /// INVALID_ARGUMENT for one field.
    pub fn invalid_field(field: impl Into<String>, description: impl fmt::Display) -> Self {
        Self::invalid(vec![Violation { field: field.into(), description: description.to_string() }])
    }

    /// NOT_FOUND for a resource.
    pub fn not_found(name: impl fmt::Display) -> Self {
        Self::new(Code::NotFound, "NOT_FOUND", format!("{name} does not exist")).with("resource", name)
    }

    /// NOT_FOUND for a project: nothing can be in it.
    pub fn no_project(project: &crate::ProjectName) -> Self {
        let name = project.parent();
        let message = format!(
            "{name} does not exist: an admin of the installation can make it (skerry create project {project})"
        );
        Self::new(Code::NotFound, "PROJECT_NOT_FOUND", message).with("resource", name)
    }

    /// RESOURCE_EXHAUSTED: more than the quota of `subject` allows.
    pub fn quota(subject: impl Into<String>, message: impl Into<String>) -> Self {
        let (subject, message) = (subject.into(), message.into());
        let violation = Violation { field: subject, description: message.clone() };
        Self { violations: vec![violation], ..Self::new(Code::ResourceExhausted, "QUOTA_USED_UP", message) }
    }

    /// ALREADY_EXISTS for a resource.
    pub fn already_exists(name: impl fmt::Display) -> Self {
        Self::new(Code::AlreadyExists, "ALREADY_EXISTS", format!("{name} exists already"))
            .with("resource", name)
    }

    /// ABORTED: the caller's etag is stale.
    pub fn stale_etag(name: impl fmt::Display) -> Self {
        Self::new(
            Code::Aborted,
            "ETAG_STALE",
            format!("{name} was changed meanwhile: read it again and repeat the change"),
        )
        .with("resource", name)
    }

    /// ABORTED: too many concurrent changes.
    pub fn contended(name: impl fmt::Display) -> Self {
        Self::new(Code::Aborted, "CONTENDED", format!("{name} is being changed by others: try again"))
            .with("resource", name)
    }

    /// OUT_OF_RANGE: list again.
    pub fn version_gone(message: impl Into<String>) -> Self {
        Self::new(Code::OutOfRange, "RESOURCE_VERSION_GONE", message)
    }

    /// UNAVAILABLE: try again.
    pub fn unavailable(message: impl Into<String>) -> Self {
        Self::new(Code::Unavailable, "UNAVAILABLE", message)
    }

    /// INTERNAL: a defect.
    pub fn internal(message: impl Into<String>) -> Self {
        Self::new(Code::Internal, "INTERNAL", message)
    }
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.message)
    }
}

impl std::error::Error for Fault {}

impl From<crate::InvalidName> for Fault {
    fn from(error: crate::InvalidName) -> Self {
        Fault::invalid_field("name", error)
    }
}
