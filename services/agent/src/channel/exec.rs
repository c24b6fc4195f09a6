//! The verbs `exec` and `node-shell`: finds the instance, or takes the node itself, has its runtime run the command, and passes on what goes in
//! and comes out. Whoever hangs up, the command is given up with its channel: runtimes end what is given up.

use std::sync::Arc;

use bytes::Bytes;
use skerry_model::InstanceName;
use skerry_proto::relay::v1 as pb;
use skerry_proto::relay::v1::exec_request::Body as Input;
use skerry_proto::relay::v1::exec_response::Body as Output;
use skerry_proto::relay::v1::open_request::Body as Up;
use skerry_proto::relay::v1::open_response::Body as Down;
use tokio::sync::mpsc;
use tonic::{Status, Streaming};

use super::logs::find;
use crate::runtime::exec::{Act, ExecAsk, ExecLine, ExecSignal, Exit, TerminalSize, Told};
use crate::runtime::{RunState, Runtime, RuntimeError, RuntimeKind};

/// Pieces of input that the command has not taken yet.
const INPUT_MAX: usize = 4;
/// Signals and sizes that were not passed on yet.
const ACTS_MAX: usize = 16;
/// Pieces of output that gRPC has not taken yet.
const OUTPUT_MAX: usize = 1;

/// Runs the command that `start` asks for, until its end. Nothing: who asked has hung up, or broken off.
pub(super) async fn serve(
    runtimes: &[Arc<dyn Runtime>],
    start: &pb::ExecStart,
    node: &str,
    out: &mpsc::Sender<pb::OpenRequest>,
    frames: &mut Streaming<pb::OpenResponse>,
) -> Option<Result<(), RuntimeError>> {
    let (stdin, its_stdin) = mpsc::channel(INPUT_MAX);
    let (acts, its_acts) = mpsc::channel(ACTS_MAX);
    let (told, output) = mpsc::channel(OUTPUT_MAX);
    let line = ExecLine { stdin: its_stdin, acts: its_acts, out: told };
    let running = async {
        let started = pb::ExecStarted { instance: start.instance.clone(), node: node.to_owned() };
        let (exit, ()) = tokio::join!(run(runtimes, start, line), pass(output, started, out));
        let Exit { code, message } = exit?;
        say(out, Output::Exit(pb::ExecExit { code, message })).await;
        Ok(())
    };
    tokio::select! {
        ran = running => Some(ran),
        () = hear(frames, stdin, acts, out) => None,
    }
}

async fn run(
    runtimes: &[Arc<dyn Runtime>],
    start: &pb::ExecStart,
    line: ExecLine,
) -> Result<Exit, RuntimeError> {
    let ask = ExecAsk::of(start)?;
    if start.instance.is_empty() {
        let processes = runtimes.iter().find(|runtime| runtime.kind() == RuntimeKind::Process);
        let processes = processes.ok_or_else(|| RuntimeError {
            reason: "ExecUnsupported",
            message: "this agent runs no processes".to_owned(),
            transient: false,
        })?;
        return processes.node_command(&ask, line).await;
    }
    let name = InstanceName::parse(&start.instance).map_err(|error| RuntimeError {
        reason: "InstanceUnknown",
        message: error.to_string(),
        transient: false,
    })?;
    let (runtime, copy) = find(runtimes, &name).await?;
    if !matches!(copy.state, RunState::Running { .. }) {
        return Err(RuntimeError {
            reason: "NotRunning",
            message: format!("{name} does not run: `skerry explain` says how it stands"),
            transient: true,
        });
    }
    runtime.command(&copy, &ask, line).await
}

/// Passes on what the command says, at the pace of who reads it.
async fn pass(mut told: mpsc::Receiver<Told>, started: pb::ExecStarted, out: &mpsc::Sender<pb::OpenRequest>) {
    let mut started = Some(started);
    while let Some(told) = told.recv().await {
        let body = match told {
            Told::Started => match started.take() {
                Some(started) => Output::Started(started),
                None => continue,
            },
            Told::Stdout(bytes) => Output::Stdout(bytes),
            Told::Stderr(bytes) => Output::Stderr(bytes),
        };
        say(out, body).await;
    }
}

/// Nobody who hears it: the channel's end is on its way.
async fn say(out: &mpsc::Sender<pb::OpenRequest>, body: Output) {
    let _ = out.send(pb::OpenRequest { body: Some(Up::Exec(pb::ExecResponse { body: Some(body) })) }).await;
}

/// Passes on what is for the command. Returns when who asked has hung up.
async fn hear(
    frames: &mut Streaming<pb::OpenResponse>,
    stdin: mpsc::Sender<Bytes>,
    acts: mpsc::Sender<Act>,
    out: &mpsc::Sender<pb::OpenRequest>,
) {
    tokio::select! {
        () = pass_in(frames, stdin, acts) => {}
        // gRPC has given the stream up, though there may be frames that were not read.
        () = out.closed() => {}
    }
}

async fn pass_in(
    frames: &mut Streaming<pb::OpenResponse>,
    stdin: mpsc::Sender<Bytes>,
    acts: mpsc::Sender<Act>,
) {
    let mut stdin = Some(stdin);
    loop {
        match heard(frames.message().await, stdin.is_none()) {
            Heard::Input(bytes) => {
                // A command that reads no more has closed its end.
                if let Some(open) = &stdin
                    && open.send(bytes).await.is_err()
                {
                    stdin = None;
                }
            }
            Heard::InputEnd => stdin = None,
            Heard::Act(act) => {
                let _ = acts.send(act).await;
            }
            Heard::Nothing => {}
            Heard::Silence => std::future::pending().await,
            Heard::Gone => return,
        }
    }
}

/// What a frame means.
#[derive(Debug)]
enum Heard {
    Input(Bytes),
    InputEnd,
    Act(Act),
    Nothing,
    /// Nothing more comes; the rest is still awaited.
    Silence,
    /// Who asked has hung up.
    Gone,
}

fn heard(frame: Result<Option<pb::OpenResponse>, Status>, has_ended: bool) -> Heard {
    let body = match frame {
        Ok(Some(frame)) => frame.body,
        Ok(None) if has_ended => return Heard::Silence,
        Ok(None) | Err(_) => return Heard::Gone,
    };
    match body {
        Some(Down::Exec(request)) => match request.body {
            Some(Input::Stdin(bytes)) => Heard::Input(bytes),
            Some(Input::StdinEnd(_)) => Heard::InputEnd,
            Some(Input::Resize(size)) => Heard::Act(Act::Resize(TerminalSize::of(Some(&size)))),
            Some(Input::Signal(name)) => {
                ExecSignal::parse(&name).map_or(Heard::Nothing, |signal| Heard::Act(Act::Signal(signal)))
            }
            Some(Input::Start(_)) | None => Heard::Nothing,
        },
        Some(Down::End(end)) if end.reason.is_empty() => Heard::InputEnd,
        Some(Down::End(_)) => Heard::Gone,
        _ => Heard::Nothing,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn hears(body: Down) -> Heard {
        heard(Ok(Some(pb::OpenResponse { body: Some(body) })), false)
    }

    #[test]
    fn an_end_without_a_reason_is_the_end_of_input_alone() {
        let end = |reason: &str| {
            hears(Down::End(pb::ChannelEnd { reason: reason.to_owned(), message: String::new() }))
        };
        assert!(matches!(end(""), Heard::InputEnd));
        assert!(matches!(end("Cancelled"), Heard::Gone));
        assert!(matches!(heard(Ok(None), true), Heard::Silence));
        assert!(matches!(heard(Ok(None), false), Heard::Gone), "a stream that breaks without an end");
        assert!(matches!(heard(Err(Status::unavailable("")), true), Heard::Gone));
    }

    #[test]
    fn signals_that_nobody_knows_are_passed_over() {
        let signal = |name: &str| {
            let body = Some(Input::Signal(name.to_owned()));
            hears(Down::Exec(pb::ExecRequest { body }))
        };
        assert!(matches!(signal("SIGTERM"), Heard::Act(Act::Signal(_))));
        assert!(matches!(signal("SIGNOTHING"), Heard::Nothing));
    }
}
