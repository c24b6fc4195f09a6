//! `Exec` and `ExecNode`: a command in an instance, or on a node.

use std::ops::RangeInclusive;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use futures_util::{Stream, StreamExt as _};
use skerry_model::fault::Violations;
use skerry_model::{Code, Fault, NodeRef};
use skerry_proto::relay::v1 as pb;
use skerry_proto::relay::v1::channel_start::Verb as Start;
use skerry_proto::relay::v1::exec_request::Body as Input;
use skerry_proto::relay::v1::exec_response::Body as Output;
use skerry_proto::relay::v1::{open_request, open_response};
use tonic::Status;

use crate::Shared;
use crate::caller::Caller;
use crate::duplex::{self, Answers, Asked, Verb};
use crate::instances::{self, Which};
use crate::words::quoted;

/// How long the first request may take.
pub(crate) const START_TIMEOUT: Duration = Duration::from_secs(10);
/// Longest command, arguments together, and longest environment.
const COMMAND_BYTES_MAX: usize = 32 * 1024;
/// Longest user, directory or image.
const WORD_BYTES_MAX: usize = 4096;
/// What the exit code of a command may be.
const EXIT_CODES: RangeInclusive<i32> = 0..=255;
/// Longest piece of input.
const PIECE_BYTES_MAX: usize = 64 * 1024;

/// Requests of a call.
pub(crate) type Requests<T> = Pin<Box<dyn Stream<Item = Result<T, Status>> + Send>>;

/// The verb.
pub(crate) struct Exec {
    name: &'static str,
    /// Empty: on the node.
    instance: String,
    node: String,
    exit: Option<i32>,
}

/// Runs what the first request says, in an instance.
pub(crate) async fn in_instance(
    shared: &Arc<Shared>,
    caller: Caller,
    mut requests: Requests<pb::ExecRequest>,
) -> Result<Answers<Exec>, Fault> {
    let start = first(&mut requests).await?;
    let mut wrong = Violations::new();
    let pb::ExecStart { app, service, node, cluster, instance, .. } = &start;
    let which = Which::parse(&mut wrong, "start.", [app, service, node, cluster, instance]);
    if start.command.is_empty() {
        wrong.add("start.command", "say what to run");
    }
    check(&mut wrong, &start);
    let which = wrong.finish(which)?;
    let (instance, node) = instances::find_one(&shared.reach, &which).await?;
    let project = node.project.parent();
    let asked = Asked {
        caller,
        method: "skerry.relay.v1.RelayService/Exec",
        resource: format!("{project}/instances/{instance}"),
        detail: shown(&start),
        node: node.clone(),
    };
    let start = pb::ExecStart { instance: instance.to_string(), ..start };
    let verb = Exec::new("exec", instance.to_string(), &node);
    duplex::open(shared, asked, verb, Start::Exec(start), None, requests).await
}

/// Runs what the first request says, on a node.
pub(crate) async fn on_node(
    shared: &Arc<Shared>,
    caller: Caller,
    mut requests: Requests<pb::ExecRequest>,
) -> Result<Answers<Exec>, Fault> {
    let start = first(&mut requests).await?;
    let mut wrong = Violations::new();
    let node = wrong.check("start.node", NodeRef::parse(&start.node));
    let pb::ExecStart { app, service, cluster, instance, debug_image, .. } = &start;
    let others = [
        ("start.app", app),
        ("start.service", service),
        ("start.cluster", cluster),
        ("start.instance", instance),
        ("start.debug_image", debug_image),
    ];
    for (field, _) in others.iter().filter(|(_, value)| !value.is_empty()) {
        wrong.add(*field, "leave it out: this is for a node, Exec is for instances");
    }
    check(&mut wrong, &start);
    let node = wrong.finish(node)?;
    let asked = Asked {
        caller,
        method: "skerry.relay.v1.RelayService/ExecNode",
        resource: node.to_string(),
        detail: shown(&start),
        node: node.clone(),
    };
    let verb = Exec::new("node-shell", String::new(), &node);
    duplex::open(shared, asked, verb, Start::Exec(start), None, requests).await
}

async fn first(requests: &mut Requests<pb::ExecRequest>) -> Result<pb::ExecStart, Fault> {
    let request = next(requests).await?;
    match request.and_then(|request| request.body) {
        Some(Input::Start(start)) => Ok(start),
        _ => Err(Fault::invalid_field("start", "the first request says what to run and where")),
    }
}

/// The first request of a call.
pub(crate) async fn next<T>(requests: &mut Requests<T>) -> Result<Option<T>, Fault> {
    let late = |_| Fault::new(Code::DeadlineExceeded, "NO_START", "the first request did not come in time");
    let request = tokio::time::timeout(START_TIMEOUT, requests.next()).await.map_err(late)?;
    request.transpose().map_err(|status| skerry_rpc::fault_of(&status))
}

fn check(wrong: &mut Violations, start: &pb::ExecStart) {
    let command: usize = start.command.iter().map(String::len).sum();
    if command > COMMAND_BYTES_MAX {
        wrong.add("start.command", format!("at most {COMMAND_BYTES_MAX} bytes, and these are {command}"));
    }
    let env: usize = start.env.iter().map(|(name, value)| name.len() + value.len()).sum();
    if env > COMMAND_BYTES_MAX {
        wrong.add("start.env", format!("at most {COMMAND_BYTES_MAX} bytes, and these are {env}"));
    }
    if start.env.keys().any(|name| name.is_empty() || name.contains(['=', '\0'])) {
        wrong.add("start.env", "names are not empty and without `=`");
    }
    let values = start.env.values().chain(&start.command);
    if values.into_iter().any(|value| value.contains('\0')) {
        wrong.add("start.command", "no argument and no variable can have a NUL");
    }
    if !start.working_dir.is_empty() && !start.working_dir.starts_with('/') {
        wrong.add("start.working_dir", "write an absolute path");
    }
    for (field, value) in [
        ("start.user", &start.user),
        ("start.working_dir", &start.working_dir),
        ("start.debug_image", &start.debug_image),
    ] {
        if value.len() > WORD_BYTES_MAX || value.contains('\0') {
            wrong.add(field, format!("at most {WORD_BYTES_MAX} bytes, and no NUL"));
        }
    }
}

/// What the audit log has of a command: its program and how it is run. Arguments may hold what nobody else is to read.
fn shown(start: &pb::ExecStart) -> String {
    let program = start
        .command
        .first()
        .map_or("a shell".to_owned(), |program| quoted(&program.chars().take(200).collect::<String>()));
    let mut shown = format!("program: {program}, arguments: {}", start.command.len().saturating_sub(1));
    for (word, value) in [("user", &start.user), ("debug image", &start.debug_image)] {
        if !value.is_empty() {
            shown.extend([", ", word, ": ", &quoted(value)]);
        }
    }
    if start.tty {
        shown.push_str(", with a terminal");
    }
    shown
}

impl Exec {
    fn new(name: &'static str, instance: String, node: &NodeRef) -> Self {
        Self { name, instance, node: node.to_string(), exit: None }
    }
}

impl Verb for Exec {
    type Request = pb::ExecRequest;
    type Answer = pb::ExecResponse;

    fn name(&self) -> &'static str {
        self.name
    }

    fn to_agent(&mut self, request: pb::ExecRequest) -> Result<Option<open_response::Body>, Fault> {
        match &request.body {
            Some(Input::Start(_)) => Err(Fault::invalid_field("start", "only the first request is one")),
            Some(Input::Stdin(piece)) if piece.len() > PIECE_BYTES_MAX => {
                Err(Fault::invalid_field("stdin", format!("at most {PIECE_BYTES_MAX} bytes in a request")))
            }
            Some(_) => Ok(Some(open_response::Body::Exec(request))),
            None => Ok(None),
        }
    }

    fn to_user(&mut self, frame: open_request::Body) -> Option<pb::ExecResponse> {
        let open_request::Body::Exec(mut answer) = frame else { return None };
        // An exit is the last word, and only once: what comes after it was not the command's.
        if self.exit.is_some() {
            return None;
        }
        match answer.body.as_mut()? {
            // Where it runs is what this relay has asked for, whatever an agent says.
            Output::Started(started) => {
                *started = pb::ExecStarted { instance: self.instance.clone(), node: self.node.clone() };
            }
            // What cannot be one is none.
            Output::Exit(exit) if !EXIT_CODES.contains(&exit.code) => return None,
            Output::Exit(exit) => self.exit = Some(exit.code),
            Output::Stdout(_) | Output::Stderr(_) => {}
        }
        Some(answer)
    }

    fn finish(&mut self) -> Result<String, Fault> {
        let lost = || {
            let message = format!("{} ended and did not say how the command did", self.node);
            Fault::new(Code::Unavailable, "EXIT_UNKNOWN", message)
        };
        self.exit.map(|code| format!("exit code: {code}")).ok_or_else(lost)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn verb() -> Exec {
        Exec::new("exec", "a/s/n/0".to_owned(), &NodeRef::parse("projects/p/nodes/n").unwrap())
    }

    fn wrong(start: &pb::ExecStart) -> Vec<String> {
        let mut wrong = Violations::new();
        check(&mut wrong, start);
        let fault = wrong.finish(Some(())).expect_err("refused");
        fault.violations.into_iter().map(|violation| violation.field).collect()
    }

    #[test]
    fn an_exit_is_never_invented() {
        let mut verb = verb();
        assert_eq!(verb.finish().unwrap_err().reason, "EXIT_UNKNOWN");
        let exits = |code: i32| {
            let exit = pb::ExecExit { code, message: String::new() };
            open_request::Body::Exec(pb::ExecResponse { body: Some(Output::Exit(exit)) })
        };
        for none in [-1, 256, i32::MAX] {
            assert!(verb.to_user(exits(none)).is_none(), "{none}");
        }
        assert_eq!(verb.finish().unwrap_err().reason, "EXIT_UNKNOWN");
        assert!(verb.to_user(exits(7)).is_some());
        assert_eq!(verb.finish().unwrap(), "exit code: 7");
        assert!(verb.to_user(exits(0)).is_none(), "there is one");
        assert_eq!(verb.finish().unwrap(), "exit code: 7");
    }

    #[test]
    fn where_it_runs_is_what_was_asked_for() {
        let lie = pb::ExecStarted { instance: "other".to_owned(), node: "other".to_owned() };
        let frame = open_request::Body::Exec(pb::ExecResponse { body: Some(Output::Started(lie)) });
        let Some(Output::Started(told)) = verb().to_user(frame).and_then(|answer| answer.body) else {
            panic!("it is told");
        };
        assert_eq!((told.instance.as_str(), told.node.as_str()), ("a/s/n/0", "projects/p/nodes/n"));
    }

    #[test]
    fn every_field_that_is_wrong_is_named() {
        let long = "x".repeat(COMMAND_BYTES_MAX + 1);
        assert_eq!(
            wrong(&pb::ExecStart { command: vec![long.clone()], ..Default::default() }),
            ["start.command"]
        );
        let env = [("A=B".to_owned(), long)].into();
        assert_eq!(wrong(&pb::ExecStart { env, ..Default::default() }), ["start.env", "start.env"]);
        assert_eq!(wrong(&pb::ExecStart { user: "a\0b".to_owned(), ..Default::default() }), ["start.user"]);
    }

    #[test]
    fn the_audit_log_has_the_program_and_none_of_its_arguments() {
        let command = ["mysql", "--password=secret"].map(str::to_owned).to_vec();
        let told =
            shown(&pb::ExecStart { command, tty: true, user: "root".to_owned(), ..Default::default() });
        assert_eq!(told, "program: mysql, arguments: 1, user: root, with a terminal");
        assert!(shown(&pb::ExecStart::default()).starts_with("program: a shell"));
        let forged = pb::ExecStart { command: vec!["ls, arguments: 9\n".to_owned()], ..Default::default() };
        assert_eq!(shown(&forged), r#"program: "ls, arguments: 9\n", arguments: 0"#);
    }
}
