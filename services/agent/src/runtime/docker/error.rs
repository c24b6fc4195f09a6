//! What Docker's failures mean: from status codes and messages to the few kinds that decisions are made on, and to reasons for people.
//!
//! Docker's API gives most failures of a start as one long text behind status 400 or 500, so that the text has to be read. The patterns
//! are those of Docker 20.10 to 29; a text that none fits keeps the caller's reason and Docker's own words.

use std::error::Error as _;
use std::time::Duration;

use bollard::errors::Error;

use crate::runtime::RuntimeError;

/// Most characters of Docker's own text in a message.
const MESSAGE_CHARS_MAX: usize = 600;

/// What kind of failure it is, as far as somebody decides on it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    /// Docker does not answer: no socket, refused, connection broken, shutting down.
    Unavailable,
    /// Docker did not answer in time.
    TimedOut,
    /// The container (or whatever was named) does not exist.
    NotFound,
    /// Another container has the name.
    NameTaken,
    /// The container is being removed at this moment.
    BeingRemoved,
    /// The container does not run.
    NotRunning,
    /// The image is not on this machine.
    NoImage,
    /// The network does not exist, or several have its name.
    NoNetwork,
    /// The network is in use.
    NetworkInUse,
    /// Another network has the name.
    NetworkExists,
    /// containerd still has what is left of an earlier start, which a power loss or a kill cut short: this container never starts again.
    StaleTask,
    /// The container is in the network already.
    InNetwork,
    /// The image is there for another platform only.
    OtherPlatform,
    /// No address range is left for one more network.
    NoAddressRange,
    /// A port of the machine is taken.
    PortTaken,
    /// An address of the machine that it does not have.
    NoSuchAddress,
    /// A directory or file to mount does not exist.
    MountMissing,
    /// The program does not exist in the image.
    NoProgram,
    /// The program may not be run.
    NotExecutable,
    /// The user does not exist in the image.
    NoUser,
    /// No space left.
    DiskFull,
    /// Anything else that Docker said.
    Other,
}

/// A failed call.
#[derive(Debug, Clone)]
pub(super) struct Failure {
    /// What it means.
    pub(super) kind: Kind,
    /// Docker's words, or ours where it said nothing.
    pub(super) message: String,
}

impl Failure {
    /// The call took longer than `deadline`.
    pub(super) fn timed_out(deadline: Duration) -> Self {
        Self { kind: Kind::TimedOut, message: format!("no answer from Docker in {} s", deadline.as_secs()) }
    }

    /// As an error of the runtime. `doing` says what was being done to what; `reason` counts where Docker's words have no better one.
    pub(super) fn while_doing(self, doing: &str, reason: &'static str) -> RuntimeError {
        let (own, transient) = self.kind.reason();
        RuntimeError {
            reason: own.unwrap_or(reason),
            message: format!("{doing}: {}", shorten(&self.message)),
            transient,
        }
    }
}

impl Kind {
    /// Reason of the kind, if it has one of its own, and whether trying again unchanged may help.
    fn reason(self) -> (Option<&'static str>, bool) {
        match self {
            Self::Unavailable => (Some("RuntimeUnavailable"), true),
            Self::TimedOut => (Some("TimedOut"), true),
            Self::NoImage => (Some("ImageMissing"), false),
            Self::NoNetwork | Self::NetworkInUse | Self::NetworkExists | Self::InNetwork => {
                (Some("NetworkFailed"), true)
            }
            Self::OtherPlatform => (Some("PlatformMismatch"), false),
            Self::NoAddressRange => (Some("NetworkFailed"), false),
            Self::PortTaken => (Some("PortTaken"), true),
            Self::NoSuchAddress => (Some("HostAddressMissing"), false),
            Self::MountMissing => (Some("MountMissing"), false),
            Self::NoProgram => (Some("ProgramNotFound"), false),
            Self::NotExecutable => (Some("ProgramNotExecutable"), false),
            Self::NoUser => (Some("UserUnknown"), false),
            Self::DiskFull => (Some("DiskFull"), true),
            Self::NotRunning => (Some("NotRunning"), true),
            Self::NameTaken => (Some("NameTaken"), false),
            Self::NotFound | Self::BeingRemoved | Self::StaleTask | Self::Other => (None, true),
        }
    }
}

impl From<Error> for Failure {
    fn from(error: Error) -> Self {
        let kind = match &error {
            Error::DockerResponseServerError { status_code, message } => {
                return Self { kind: classify(*status_code, message), message: message.trim().to_owned() };
            }
            Error::DockerStreamError { error } => {
                return Self { kind: classify(500, error), message: error.trim().to_owned() };
            }
            Error::RequestTimeoutError => Kind::TimedOut,
            Error::SocketNotFoundError(_)
            | Error::IOError { .. }
            | Error::HyperLegacyError { .. }
            | Error::HyperResponseError { .. } => Kind::Unavailable,
            _ => Kind::Other,
        };
        Self { kind, message: with_causes(&error) }
    }
}

/// hyper keeps what happened ("connection refused") in the source of its error.
fn with_causes(error: &Error) -> String {
    let mut message = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        let text = cause.to_string();
        if !message.contains(&text) {
            message.push_str(": ");
            message.push_str(&text);
        }
        source = cause.source();
    }
    message
}

/// What an answer of Docker means.
pub(super) fn classify(status: u16, message: &str) -> Kind {
    let text = message.to_ascii_lowercase();
    let has = |part: &str| text.contains(part);
    let program =
        has("exec: \"") || has("unable to start container process") || has("starting container process");
    if has("port is already allocated") || has("address already in use") || has("failed to bind host port") {
        Kind::PortTaken
    } else if has("cannot assign requested address") {
        Kind::NoSuchAddress
    } else if has("does not match the specified platform") {
        Kind::OtherPlatform
    } else if has("no such image") || (status == 404 && has("image") && has("not found")) {
        Kind::NoImage
    } else if has("bind source path does not exist") || has("error while creating mount source path") {
        Kind::MountMissing
    } else if has("executable file not found") || (program && has("no such file or directory")) {
        Kind::NoProgram
    } else if program && (has("permission denied") || has("is a directory") || has("exec format error")) {
        Kind::NotExecutable
    } else if has("unable to find user")
        || has("unable to find group")
        || has("no matching entries in passwd")
    {
        Kind::NoUser
    } else if has("no space left on device") {
        Kind::DiskFull
    } else if has("address pool") {
        Kind::NoAddressRange
    } else if has("has active endpoints") {
        Kind::NetworkInUse
    } else if text == "id already in use" || (text.starts_with("task ") && has(": already exists")) {
        Kind::StaleTask
    } else if has("already exists in network") || has("is already connected to network") {
        Kind::InNetwork
    } else if has("network")
        && (has("not found") || has("ambiguous") || has("does not exist") || has("no such network"))
    {
        Kind::NoNetwork
    } else if has("network with name") && has("already exists") {
        Kind::NetworkExists
    } else if has("removal of container") || has("marked for removal") {
        Kind::BeingRemoved
    } else if status == 409 && has("is already in use") {
        Kind::NameTaken
    } else if has("is not running") {
        Kind::NotRunning
    } else if status == 404 {
        Kind::NotFound
    } else if status == 503 || has("daemon is shutting down") || has("containerd.sock") {
        Kind::Unavailable
    } else {
        Kind::Other
    }
}

/// Docker's text in one line, cut to a length that fits an event.
fn shorten(text: &str) -> String {
    let line = text.split_whitespace().collect::<Vec<_>>().join(" ");
    match line.char_indices().nth(MESSAGE_CHARS_MAX) {
        Some((at, _)) => format!("{}...", &line[..at]),
        None => line,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_docker_says_is_understood() {
        let cases: [(u16, &str, Kind); 23] = [
            (
                500,
                "driver failed programming external connectivity on endpoint x (abc): Bind for 0.0.0.0:8080 failed: port is already allocated",
                Kind::PortTaken,
            ),
            (
                500,
                "driver failed programming external connectivity on endpoint x: Error starting userland proxy: listen tcp4 127.0.0.1:8080: bind: address already in use",
                Kind::PortTaken,
            ),
            (
                500,
                "Error starting userland proxy: listen tcp4 192.0.2.1:80: bind: cannot assign requested address",
                Kind::NoSuchAddress,
            ),
            (404, "No such image: nosuch:1", Kind::NoImage),
            (
                400,
                "invalid mount config for type \"bind\": bind source path does not exist: /nosuch",
                Kind::MountMissing,
            ),
            (
                400,
                "OCI runtime create failed: runc create failed: unable to start container process: exec: \"nosuch\": executable file not found in $PATH: unknown",
                Kind::NoProgram,
            ),
            (
                400,
                "OCI runtime create failed: container_linux.go:380: starting container process caused: exec: \"/nosuch\": stat /nosuch: no such file or directory: unknown",
                Kind::NoProgram,
            ),
            (
                400,
                "OCI runtime create failed: runc create failed: unable to start container process: exec: \"/etc/passwd\": permission denied: unknown",
                Kind::NotExecutable,
            ),
            (400, "unable to find user nosuch: no matching entries in passwd file", Kind::NoUser),
            (500, "mkdir /var/lib/docker/overlay2/x: no space left on device", Kind::DiskFull),
            (
                500,
                "could not find an available, non-overlapping IPv4 address pool among the defaults to assign to the network",
                Kind::NoAddressRange,
            ),
            (403, "error while removing network: network x id 1 has active endpoints", Kind::NetworkInUse),
            (404, "network 0123 not found", Kind::NoNetwork),
            (500, "task 01a46c3fc49b74d2: already exists", Kind::StaleTask),
            (500, "id already in use", Kind::StaleTask),
            (403, "endpoint with name x already exists in network y", Kind::InNetwork),
            (
                404,
                "image with reference web:1 was found but does not match the specified platform: wanted linux/arm64, actual: linux/amd64",
                Kind::OtherPlatform,
            ),
            (409, "network with name x already exists", Kind::NetworkExists),
            (409, "removal of container abc is already in progress", Kind::BeingRemoved),
            (
                409,
                "Conflict. The container name \"/x\" is already in use by container \"abc\". You have to remove (or rename) that container to be able to reuse that name.",
                Kind::NameTaken,
            ),
            (409, "Container abc is not running", Kind::NotRunning),
            (404, "No such container: abc", Kind::NotFound),
            (500, "something new", Kind::Other),
        ];
        for (status, message, kind) in cases {
            assert_eq!(classify(status, message), kind, "{message}");
        }
    }

    #[test]
    fn a_missing_socket_is_an_absent_docker_and_passes() {
        let failure = Failure::from(Error::SocketNotFoundError("/nosuch".into()));
        let error = failure.while_doing("listing containers", "ListFailed");
        assert_eq!((error.reason, error.transient), ("RuntimeUnavailable", true));
        assert_eq!(error.message, "listing containers: Socket not found: /nosuch");
    }

    #[test]
    fn unknown_words_keep_the_callers_reason_and_are_cut() {
        let failure = Failure { kind: Kind::Other, message: format!("a\n  b {}", "é".repeat(2000)) };
        let error = failure.while_doing("starting x", "StartFailed");
        assert_eq!(error.reason, "StartFailed");
        assert!(error.message.starts_with("starting x: a b é"));
        assert!(error.message.chars().count() < 700);
    }
}
