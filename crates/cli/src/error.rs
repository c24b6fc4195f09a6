//! How commands fail: what is printed, and which exit code a script sees.

use std::fmt::Write as _;
use std::process::ExitCode;

use skerry_manifest::{ManifestErrors, Positions};
use skerry_rpc::{ConnectError, MESSAGE_BYTES_MAX, SPEAKS_TLS, fault_of, is_too_large};
use tonic::{Code, Status};

use crate::render::table::{plain, plain_lines};

/// The exit codes, for `--help`.
pub const EXIT_CODES_HELP: &str = "\
Exit codes:
  0    done
  1    refused by the server, or failed; diff: there are differences
  2    wrong usage, or an error in a manifest
  3    not found
  4    the server cannot be reached or trusted, or does not answer in time
  5    the time of a wait is over
  130  interrupted
exec and debug: that of the command, else 125";

/// What to look at when an address is none: somebody may have meant a GPU by `--gpu`.
const WHERE_ADDRESSES_ARE: &str = "--server, --registry, --scheduler, --relay and --gpu, the variables SKERRY_SERVER and so on, and contexts \
     say where servers are";

/// Why a command ended early.
#[derive(Debug)]
pub(crate) enum CliError {
    /// What was typed makes no sense.
    Usage(String),
    /// A manifest cannot be read.
    Manifest(Vec<ManifestErrors>),
    /// There is no such thing.
    NotFound(String),
    /// A server said no.
    Refused(Box<Refusal>),
    /// No server there, or none that can answer now.
    Unreachable {
        /// Where it should be.
        address: String,
        /// How it failed.
        how: Away,
        /// What happened.
        detail: String,
    },
    /// A server is there, and it or this client is not trusted by the other. Trying again is in vain.
    Untrusted(String),
    /// `wait` waited long enough.
    TimedOut(String),
    /// Anything else.
    Failed(String),
    /// Several, each said already: the first decides the exit code.
    Said(Box<CliError>),
    /// `diff` found differences, and showed them.
    Differences,
    /// `diff` failed: exit code 1 would say that there are differences.
    OfDiff(Box<CliError>),
    /// Ctrl-C.
    Interrupted,
    /// Whoever reads our output has gone: nothing is wrong.
    BrokenPipe,
}

/// Which of flags and environment says where a server is.
const WHO_DECIDES: &str = "--server, SKERRY_SERVER or a context (skerry config) says where to look";

/// How a server is away.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Away {
    /// Nobody answers at its address.
    Absent,
    /// It was reached and did not answer in time.
    Silent,
    /// It says itself that it cannot now, for example because its store is away.
    Unavailable,
}

/// A server's refusal.
#[derive(Debug)]
pub(crate) struct Refusal {
    pub(crate) code: Code,
    pub(crate) message: String,
    pub(crate) reason: String,
    /// Lines that say which field is wrong and why.
    pub(crate) fields: Vec<String>,
}

impl CliError {
    /// From a call's status. `address` is where it went.
    pub(crate) fn of_status(status: &Status, address: &str) -> Self {
        if is_too_large(status) {
            return Self::Failed(format!(
                "a message from or to {address} is larger than the {MESSAGE_BYTES_MAX} bytes that are taken: ask for less"
            ));
        }
        if speaks_tls(status) {
            return Self::Untrusted(format!("cannot talk to {address}: {SPEAKS_TLS}, with --tls-ca"));
        }
        let fault = fault_of(status);
        let away = match status.code() {
            // The server waited in vain for its store, and says so.
            Code::DeadlineExceeded if fault.metadata.contains_key("reason") => Some(Away::Unavailable),
            Code::DeadlineExceeded => Some(Away::Silent),
            _ if is_timeout(status) => Some(Away::Silent),
            // What our servers say themselves has a reason; a broken connection has none.
            Code::Unavailable if fault.metadata.contains_key("reason") => Some(Away::Unavailable),
            _ if is_transport_failure(status) => Some(Away::Absent),
            _ => None,
        };
        if let Some(how) = away {
            let detail = if how == Away::Unavailable { fault.message } else { root_cause(status) };
            return Self::Unreachable { address: address.to_owned(), how, detail: plain(&detail) };
        }
        let reason = fault.metadata.get("reason").map_or(fault.reason, String::as_str);
        if status.code() == Code::NotFound {
            return Self::NotFound(plain(&fault.message));
        }
        // A quota is no field of the request's, and the message tells it.
        let wrong = if status.code() == Code::ResourceExhausted { &[][..] } else { &fault.violations };
        // Each on one line, whatever a server says: no part of it passes for a line of ours.
        let fields = wrong.iter().map(|v| plain(&format!("{}: {}", v.field, v.description))).collect();
        Self::Refused(Box::new(Refusal {
            code: status.code(),
            message: plain(&fault.message),
            reason: plain(reason),
            fields,
        }))
    }

    /// From a failed connect.
    pub(crate) fn of_connect(error: ConnectError) -> Self {
        match error {
            ConnectError::Unreachable { address, source } => {
                Self::Unreachable { address, how: Away::Absent, detail: innermost(&source) }
            }
            error @ ConnectError::Tls { .. } => Self::Untrusted(error.to_string()),
            error @ ConnectError::Address { .. } => Self::Usage(format!("{error}\n  {WHERE_ADDRESSES_ARE}")),
            error @ (ConnectError::NoAuthority { .. } | ConnectError::Plain { .. }) => {
                Self::Usage(error.to_string())
            }
        }
    }

    /// As `of_status`, with fields shown where the manifest has them.
    pub(crate) fn of_manifest_status(
        status: &Status,
        address: &str,
        file: &str,
        positions: &Positions,
    ) -> Self {
        let mut error = Self::of_status(status, address);
        if let Self::Refused(refusal) = &mut error
            && refusal.code == Code::ResourceExhausted
        {
            let place = positions.locate("metadata").position;
            refusal.fields = vec![plain(&format!("{file}:{place}: is what was refused"))];
        } else if let Self::Refused(refusal) = &mut error {
            let fault = fault_of(status);
            refusal.fields = fault
                .violations
                .iter()
                .map(|violation| {
                    let found = positions.locate(below_resource(&violation.field));
                    let file = positions.file(found.position).unwrap_or(file);
                    plain(&format!("{file}:{}: {}: {}", found.position, found.path, violation.description))
                })
                .collect();
        }
        error
    }

    /// With one line more where the server refused, or there is none of what was named: only then it is certain.
    pub(crate) fn and(mut self, line: &str) -> Self {
        match &mut self {
            Self::Refused(refusal) => refusal.fields.push(plain(line)),
            Self::NotFound(message) => {
                message.push_str("\n  ");
                message.push_str(&plain(line));
            }
            _ => {}
        }
        self
    }

    /// With a place where no field is named that has one.
    pub(crate) fn or_at(mut self, place: &str) -> Self {
        match &mut self {
            Self::Refused(refusal) if refusal.fields.is_empty() => refusal.fields.push(plain(place)),
            Self::NotFound(message) => {
                message.push_str("\n  ");
                message.push_str(&plain(place));
            }
            _ => {}
        }
        self
    }

    /// In one line, for a command that goes on.
    pub(crate) fn summary(&self) -> String {
        let text = self.text().unwrap_or_default();
        let first = text.lines().next().unwrap_or_default();
        first.strip_prefix("error: ").unwrap_or(first).to_owned()
    }

    /// Itself, or the first of several.
    fn innermost(&self) -> &Self {
        match self {
            Self::Said(first) => first.innermost(),
            other => other,
        }
    }

    pub(crate) fn exit_code(&self) -> ExitCode {
        match self {
            Self::Refused(_) | Self::Failed(_) | Self::Differences => ExitCode::from(1),
            Self::OfDiff(error) => {
                let failed = matches!(error.innermost(), Self::Refused(_) | Self::Failed(_));
                if failed { ExitCode::from(2) } else { error.exit_code() }
            }
            Self::Usage(_) | Self::Manifest(_) => ExitCode::from(2),
            Self::NotFound(_) => ExitCode::from(3),
            Self::Unreachable { .. } | Self::Untrusted(_) => ExitCode::from(4),
            Self::TimedOut(_) => ExitCode::from(5),
            Self::Said(first) => first.exit_code(),
            Self::Interrupted => ExitCode::from(130),
            Self::BrokenPipe => ExitCode::SUCCESS,
        }
    }

    /// What to print, ending with a newline, with nothing in it that commands a terminal; `None` for nothing.
    pub(crate) fn text(&self) -> Option<String> {
        let text = match self {
            Self::Usage(message)
            | Self::NotFound(message)
            | Self::Failed(message)
            | Self::Untrusted(message)
            | Self::TimedOut(message) => {
                format!("error: {message}\n")
            }
            Self::Manifest(files) => {
                let lines: Vec<String> = files.iter().map(ToString::to_string).collect();
                lines.join("\n") + "\n"
            }
            Self::Refused(refusal) => refusal.text(),
            Self::Unreachable { address, how: Away::Absent, detail } => {
                format!("error: cannot reach {address}: {detail}\n  is `skerry up` running? {WHO_DECIDES}\n")
            }
            Self::Unreachable { address, how: Away::Silent, .. } => format!(
                "error: {address} did not answer in time\n  something listens there and is silent: look whether `skerry up` hangs or waits for its store; {WHO_DECIDES}\n  what was asked may have been done: the command can be run again\n"
            ),
            Self::Unreachable { address, how: Away::Unavailable, detail } => {
                format!("error: {address} cannot do this now: {detail}\n")
            }
            Self::OfDiff(error) => return error.text(),
            Self::Said(_) | Self::Differences | Self::Interrupted | Self::BrokenPipe => return None,
        };
        Some(plain_lines(&text))
    }
}

impl Refusal {
    fn text(&self) -> String {
        let mut text = if self.reason.is_empty() {
            format!("error: {}\n", self.message)
        } else {
            format!("error: {} ({})\n", self.message, self.reason)
        };
        // A single violation is the message already, unless its place in a file is known.
        let repeated = matches!(self.fields.as_slice(), [only] if *only == self.message);
        for field in self.fields.iter().filter(|_| !repeated) {
            writeln!(text, "  {field}").expect("writing to a string");
        }
        let next = match (self.code, self.reason.as_str()) {
            (Code::Aborted, _) => "somebody else changed it meanwhile: run the command again",
            (Code::PermissionDenied, "NOT_LOCAL") => {
                "run this on the server's own machine, or start the server with --insecure"
            }
            (Code::Unauthenticated, "CERTIFICATE_EXPIRED") => {
                "an admin issues a new one (skerry user issue NAME --csr FILE) for a request of yours (skerry user request NAME); that of `skerry up` is renewed at its start"
            }
            (Code::Unimplemented, _) => {
                "this server does not know the call: it may be older than this client"
            }
            (Code::ResourceExhausted, "QUOTA_USED_UP") => return text,
            (Code::ResourceExhausted, _) => {
                "a limit of the server is reached: try again later, or ask for less"
            }
            _ => return text,
        };
        writeln!(text, "  {next}").expect("writing to a string");
        text
    }
}

/// A field of one of several resources, `resources[2].spec.services`, as that resource has it.
fn below_resource(field: &str) -> &str {
    let below = field.strip_prefix("resources[").and_then(|rest| rest.split_once("]."));
    below.map_or(field, |(_, field)| field)
}

/// Whether the call may not have reached a server: worth another try with the same request id.
pub(crate) fn is_transport_failure(status: &Status) -> bool {
    match status.code() {
        Code::Unavailable => true,
        // What hyper says when a connection breaks under a call.
        Code::Unknown | Code::Cancelled | Code::Internal => std::error::Error::source(status).is_some(),
        _ => false,
    }
}

/// Whether the server answered a plain call with TLS.
pub(crate) fn speaks_tls(status: &Status) -> bool {
    is_transport_failure(status) && root_cause(status) == SPEAKS_TLS
}

pub(crate) fn root_cause(status: &Status) -> String {
    match std::error::Error::source(status) {
        Some(source) => innermost(source),
        None if status.message().is_empty() => status.code().description().to_owned(),
        None => status.message().to_owned(),
    }
}

/// Whether our own deadline ended the call: tonic calls that cancelled.
pub(crate) fn is_timeout(status: &Status) -> bool {
    let mut source = std::error::Error::source(status);
    while let Some(error) = source {
        if error.is::<tonic::TimeoutExpired>() {
            return true;
        }
        source = error.source();
    }
    false
}

/// The last error of a chain: "connection refused" rather than "transport error".
fn innermost(error: &(dyn std::error::Error + 'static)) -> String {
    let mut last = error;
    while let Some(source) = last.source() {
        last = source;
    }
    // What the library has to say of it is for who writes servers.
    match last.to_string() {
        text if text.contains("close_notify") => "the server closed the connection".to_owned(),
        text => text,
    }
}

#[cfg(test)]
mod tests {
    use skerry_model::{Fault, Violation};
    use skerry_rpc::status_of;

    use super::*;

    #[test]
    fn every_failure_has_its_exit_code() {
        let code = |error: CliError| format!("{:?}", error.exit_code());
        let expected = |n: u8| format!("{:?}", ExitCode::from(n));
        let of = |fault: &Fault| CliError::of_status(&status_of(fault), "http://x");
        assert_eq!(code(of(&Fault::not_found("app hello"))), expected(3));
        assert_eq!(code(of(&Fault::invalid_field("a", "b"))), expected(1));
        assert_eq!(code(of(&Fault::unavailable("no leader"))), expected(4));
        assert_eq!(code(CliError::Usage(String::new())), expected(2));
        assert_eq!(code(CliError::TimedOut(String::new())), expected(5));
        assert_eq!(code(CliError::Said(Box::new(CliError::Interrupted))), expected(130));
        assert_eq!(code(CliError::BrokenPipe), expected(0));
        assert_eq!(code(CliError::Differences), expected(1));
        let of_diff = |error: CliError| code(CliError::OfDiff(Box::new(error)));
        assert_eq!(of_diff(of(&Fault::invalid_field("a", "b"))), expected(2));
        assert_eq!(of_diff(CliError::Said(Box::new(CliError::Failed(String::new())))), expected(2));
        assert_eq!(of_diff(of(&Fault::unavailable("no leader"))), expected(4));
    }

    #[test]
    fn a_refusal_names_reason_fields_and_what_to_do_next() {
        let violation = |field: &str| Violation { field: field.into(), description: "is wrong".into() };
        let two = status_of(&Fault::invalid(vec![violation("spec.a"), violation("spec.b")]));
        assert_eq!(
            CliError::of_status(&two, "http://x").text().expect("printed"),
            "error: spec.a: is wrong (and 1 more) (INVALID_FIELD)\n  spec.a: is wrong\n  spec.b: is wrong\n"
        );
        let one = status_of(&Fault::invalid(vec![violation("spec.a")]));
        assert_eq!(
            CliError::of_status(&one, "http://x").text().expect("printed"),
            "error: spec.a: is wrong (INVALID_FIELD)\n"
        );
        let stale = status_of(&Fault::stale_etag("app"));
        assert!(
            CliError::of_status(&stale, "http://x")
                .text()
                .expect("printed")
                .ends_with("run the command again\n")
        );
    }

    #[test]
    fn what_a_server_or_a_file_says_commands_no_terminal_and_passes_for_no_line_of_ours() {
        let evil = "no\x1b[2J\u{9b}31m\r\nerror: all is well\u{7}";
        let violation = |field: &str| Violation { field: field.into(), description: evil.into() };
        let faults = [
            Fault::not_found(evil),
            Fault::invalid_field("a", evil),
            Fault::invalid(vec![violation("spec.a"), violation(evil)]),
            Fault::unavailable(evil),
        ];
        let project =
            skerry_manifest::Project::Default(skerry_model::ProjectName::parse("p").expect("valid"));
        let manifest = "apiVersion: skerry/v1\nkind: Node\nmetadata:\n  name: n1\nspec:\n  cordoned: true\n";
        let manifest = &skerry_manifest::parse("n.yaml", manifest.as_bytes(), &project).expect("valid")[0];
        for fault in &faults {
            let status = status_of(fault);
            let told = [
                CliError::of_status(&status, "http://x"),
                CliError::of_manifest_status(&status, "http://x", "n.yaml", &manifest.positions),
            ];
            for error in told {
                let text = error.text().expect("printed");
                assert!(text.chars().all(|c| c == '\n' || !c.is_control()), "{text:?}");
                let ours = text.lines().skip(1).all(|line| line.starts_with("  "));
                assert!(text.contains("no [2J 31m  error: all is well") && ours, "{text:?}");
            }
        }
        for error in
            [CliError::Failed(evil.into()), CliError::Usage(evil.into()), CliError::TimedOut(evil.into())]
        {
            let text = CliError::OfDiff(Box::new(error)).text().expect("printed");
            assert!(text.chars().all(|c| c == '\n' || !c.is_control()), "{text:?}");
        }
    }

    #[test]
    fn an_absent_server_is_named_with_what_to_start() {
        let error = CliError::Unreachable {
            address: "http://127.0.0.1:7770".into(),
            how: Away::Absent,
            detail: "Connection refused".into(),
        };
        assert_eq!(
            error.text().expect("printed"),
            "error: cannot reach http://127.0.0.1:7770: Connection refused\n  is `skerry up` running? --server, SKERRY_SERVER or a context (skerry config) says where to look\n"
        );
    }

    #[test]
    fn a_server_that_is_there_is_not_said_to_be_absent() {
        let text = |status: &Status| CliError::of_status(status, "http://x").text().expect("printed");
        let fault = status_of(&Fault::unavailable("the store does not answer"));
        assert_eq!(text(&fault), "error: http://x cannot do this now: the store does not answer\n");
        assert!(
            text(&Status::deadline_exceeded("x")).starts_with("error: http://x did not answer in time\n")
        );
        let unknown =
            Fault::new(skerry_model::Code::DeadlineExceeded, "OUTCOME_UNKNOWN", "the store does not answer");
        assert_eq!(
            text(&status_of(&unknown)),
            "error: http://x cannot do this now: the store does not answer\n"
        );
        let ours = Status::from_error(Box::new(tonic::TimeoutExpired(())));
        assert!(text(&ours).starts_with("error: http://x did not answer in time\n"), "{ours:?}");
        let large = Status::out_of_range(
            "Error, decoded message length too large: found 5 bytes, the limit is: 4 bytes",
        );
        assert!(text(&large).contains("4194304 bytes"));
        assert!(text(&Status::unavailable("connection reset")).starts_with("error: cannot reach http://x"));
    }

    #[test]
    fn fields_that_a_server_finds_wrong_are_shown_in_the_file() {
        let text = "apiVersion: skerry/v1\nkind: Node\nmetadata:\n  name: n1\nspec:\n  cordoned: true\n";
        let project =
            skerry_manifest::Project::Default(skerry_model::ProjectName::parse("p").expect("valid"));
        let manifest = &skerry_manifest::parse("n.yaml", text.as_bytes(), &project).expect("valid")[0];
        let status = status_of(&Fault::invalid_field("node.spec.cordoned", "not today"));
        let error = CliError::of_manifest_status(&status, "http://x", "n.yaml", &manifest.positions);
        let text = error.text().expect("printed");
        assert!(text.ends_with("\n  n.yaml:6:3: spec.cordoned: not today\n"), "{text}");

        // Of several, the one that it is about.
        let status = status_of(&Fault::invalid_field("resources[3].node.spec.cordoned", "not today"));
        let error = CliError::of_manifest_status(&status, "http://x", "n.yaml", &manifest.positions);
        let text = error.and("nothing was changed").text().expect("printed");
        assert!(
            text.ends_with("\n  n.yaml:6:3: spec.cordoned: not today\n  nothing was changed\n"),
            "{text}"
        );
        let absent =
            CliError::NotFound("n does not exist".into()).or_at("n.yaml:3:1: n").and("nothing was changed");
        assert_eq!(
            absent.text().as_deref(),
            Some("error: n does not exist\n  n.yaml:3:1: n\n  nothing was changed\n")
        );

        // A quota is nobody's field: the file says which of its resources there is no room for.
        let status = status_of(&Fault::quota("projects/p", "projects/p has 1 of 1 nodes"));
        let error = CliError::of_manifest_status(&status, "http://x", "n.yaml", &manifest.positions);
        let told = "error: projects/p has 1 of 1 nodes (QUOTA_USED_UP)\n  n.yaml:3:1: is what was refused\n";
        assert_eq!(error.text().as_deref(), Some(told));
    }
}
