//! The call itself: what is typed and read here goes there, what is written there comes here.
//!
//! Reading and writing are on threads of their own: either may block for as long as somebody at the other end wants, and this program still hears
//! signals and the server.

use std::io::{self, ErrorKind, Read as _, Write as _};
use std::time::Duration;

use bytes::Bytes;
use skerry_proto::relay::v1 as pb;
use skerry_proto::relay::v1::exec_request::Body as Input;
use skerry_proto::relay::v1::exec_response::Body as Output;
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::sync::{mpsc, oneshot};
use tokio::time::timeout;
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Request, Streaming};

use crate::client::{Client, relay};
use crate::error::CliError;
use crate::print::note;
use crate::terminal::{self, Raw};

/// Requests that gRPC has not taken yet.
const REQUESTS_MAX: usize = 2;
/// Pieces of output that were not written yet.
const OUTPUT_MAX: usize = 2;
/// Most input in one request.
const PIECE_BYTES_MAX: usize = 32 * 1024;
/// So many signals are the command's; the next one ends this program, and the command with it.
const SIGNALS_PASSED_MAX: u32 = 2;
/// How long a signal may wait behind input that nobody reads.
const SIGNAL_WAIT: Duration = Duration::from_secs(2);

/// Runs it to its end: its exit code.
pub(super) async fn run(
    client: &Client,
    start: pb::ExecStart,
    is_node: bool,
    is_told: bool,
) -> Result<i32, CliError> {
    let (requests, stream) = mpsc::channel(REQUESTS_MAX);
    let (tty, has_input) = (start.tty, start.stdin);
    let mut signals = Signals::listen().map_err(|error| failed("listening to signals", &error))?;
    requests.try_send(request(Input::Start(start))).map_err(|_| gone())?;
    let opening = client.relay_once(|channel| async move {
        let (mut relay, requests) = (relay(channel), Request::new(ReceiverStream::new(stream)));
        // Without a deadline: it lasts as long as the command.
        if is_node { relay.exec_node(requests).await } else { relay.exec(requests).await }
    });
    let mut answers = tokio::select! {
        opened = opening => opened?,
        name = signals.ending() => return Err(stopped(name)),
    };
    let started = tokio::select! {
        started = next(client, &mut answers) => started?,
        name = signals.ending() => return Err(stopped(name)),
    };
    match started {
        Some(Output::Started(pb::ExecStarted { instance, node })) if is_told => {
            let node = node.rsplit('/').next().unwrap_or_default();
            note(&if instance.is_empty() {
                format!("on {node}")
            } else {
                format!("in {instance} on {node}")
            });
        }
        Some(Output::Started(_)) => {}
        _ => return Err(gone()),
    }
    let raw = if tty && has_input {
        Some(Raw::set().map_err(|error| failed("setting the terminal up", &error))?)
    } else {
        None
    };
    if has_input {
        read_on(requests.clone()).map_err(|error| failed("reading standard input", &error))?;
    }
    let (write, mut written) = write_on().map_err(|error| failed("writing", &error))?;
    let exit = tokio::select! {
        exit = take(client, &mut answers, &write) => exit,
        error = signals.pass_on(tty, &requests) => Err(error),
        error = &mut written => Err(error.map_or_else(|_| gone(), |error| unwritten(&error))),
    };
    let exit = exit?;
    // All of it is written before anybody is told that it has ended.
    drop(write);
    if let Ok(error) = written.await {
        return Err(unwritten(&error));
    }
    drop(raw);
    if !exit.message.is_empty() {
        note(&exit.message);
    }
    Ok(exit.code)
}

fn request(body: Input) -> pb::ExecRequest {
    pb::ExecRequest { body: Some(body) }
}

fn failed(doing: &str, error: &io::Error) -> CliError {
    CliError::Failed(format!("{doing}: {error}"))
}

fn unwritten(error: &io::Error) -> CliError {
    match error.kind() {
        ErrorKind::BrokenPipe => CliError::BrokenPipe,
        _ => failed("writing what the command said", error),
    }
}

fn gone() -> CliError {
    CliError::Failed("the relay ended the call, and did not say how the command ended".to_owned())
}

fn stopped(signal: &str) -> CliError {
    CliError::Failed(format!("ended by {signal}: the command, if it was run, is killed"))
}

/// The next of the answers.
async fn next(
    client: &Client,
    answers: &mut Streaming<pb::ExecResponse>,
) -> Result<Option<Output>, CliError> {
    match answers.message().await {
        Ok(Some(answer)) => Ok(answer.body),
        Ok(None) => Err(gone()),
        Err(status) => Err(CliError::of_status(&status, client.relay_address())),
    }
}

/// Takes what the command says, to its exit.
async fn take(
    client: &Client,
    answers: &mut Streaming<pb::ExecResponse>,
    write: &mpsc::Sender<Written>,
) -> Result<pb::ExecExit, CliError> {
    loop {
        let piece = match next(client, answers).await? {
            Some(Output::Stdout(bytes)) => Written { bytes, is_stderr: false },
            Some(Output::Stderr(bytes)) => Written { bytes, is_stderr: true },
            Some(Output::Exit(exit)) => return Ok(exit),
            Some(Output::Started(_)) | None => continue,
        };
        if write.send(piece).await.is_err() {
            // What is wrong is told by the thread that wrote.
            std::future::pending::<()>().await;
        }
    }
}

/// What the command wrote.
struct Written {
    bytes: Bytes,
    is_stderr: bool,
}

/// Writes what is sent, on a thread of its own. The answer comes where it cannot be written; nothing comes where all of it was.
fn write_on() -> io::Result<(mpsc::Sender<Written>, oneshot::Receiver<io::Error>)> {
    let (send, mut pieces) = mpsc::channel(OUTPUT_MAX);
    let (tell, told) = oneshot::channel();
    std::thread::Builder::new().name("write".into()).spawn(move || {
        while let Some(Written { bytes, is_stderr }) = pieces.blocking_recv() {
            let done = if is_stderr {
                io::stderr().lock().write_all(&bytes)
            } else {
                let mut out = io::stdout().lock();
                out.write_all(&bytes).and_then(|()| out.flush())
            };
            if let Err(error) = done {
                let _ = tell.send(error);
                return;
            }
        }
    })?;
    Ok((send, told))
}

/// Sends what standard input has, from a thread of its own, which nobody waits for: reading a terminal ends when somebody types.
fn read_on(requests: mpsc::Sender<pb::ExecRequest>) -> io::Result<()> {
    std::thread::Builder::new().name("read".into()).spawn(move || {
        let mut piece = vec![0; PIECE_BYTES_MAX];
        loop {
            match io::stdin().lock().read(&mut piece) {
                Ok(0) => break,
                Ok(count) => {
                    let bytes = Bytes::copy_from_slice(&piece[..count]);
                    if requests.blocking_send(request(Input::Stdin(bytes))).is_err() {
                        return;
                    }
                }
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(_) => break,
            }
        }
        let _ = requests.blocking_send(request(Input::StdinEnd(pb::StdinEnd {})));
    })?;
    Ok(())
}

/// The signals that are the command's rather than this program's.
struct Signals {
    int: Signal,
    term: Signal,
    quit: Signal,
    hup: Signal,
    winch: Signal,
}

impl Signals {
    fn listen() -> io::Result<Self> {
        Ok(Self {
            int: signal(SignalKind::interrupt())?,
            term: signal(SignalKind::terminate())?,
            quit: signal(SignalKind::quit())?,
            hup: signal(SignalKind::hangup())?,
            winch: signal(SignalKind::window_change())?,
        })
    }

    /// The next that would end a program.
    async fn ending(&mut self) -> &'static str {
        tokio::select! {
            _ = self.int.recv() => "SIGINT",
            _ = self.term.recv() => "SIGTERM",
            _ = self.quit.recv() => "SIGQUIT",
            _ = self.hup.recv() => "SIGHUP",
        }
    }

    /// Passes them on, and the size of the terminal when it changes. Returns what ends the call: with a terminal, SIGTERM and SIGHUP, which
    /// are for this program then; and a signal that cannot be passed on, since nobody reads the input before it; and the third one, since the command
    /// does not end by those before.
    async fn pass_on(&mut self, tty: bool, requests: &mpsc::Sender<pb::ExecRequest>) -> CliError {
        let mut passed = 0;
        loop {
            let body = tokio::select! {
                _ = self.winch.recv() => {
                    if !tty {
                        continue;
                    }
                    Input::Resize(terminal::size())
                }
                _ = self.int.recv() => Input::Signal("SIGINT".to_owned()),
                _ = self.quit.recv() => Input::Signal("SIGQUIT".to_owned()),
                _ = self.term.recv() => Input::Signal("SIGTERM".to_owned()),
                _ = self.hup.recv() => Input::Signal("SIGHUP".to_owned()),
            };
            let name = match &body {
                Input::Signal(name) => Some(name.clone()),
                _ => None,
            };
            if let Some(name) =
                name.as_ref().filter(|name| tty && matches!(name.as_str(), "SIGTERM" | "SIGHUP"))
            {
                return stopped(name);
            }
            if let Some(name) = &name {
                passed += 1;
                if passed > SIGNALS_PASSED_MAX {
                    return stopped(&format!("{name}, after others that did not end the command"));
                }
            }
            let sent = timeout(SIGNAL_WAIT, requests.send(request(body))).await;
            if let (Some(name), Err(_)) = (name, sent) {
                return stopped(&format!("{name}, which could not be passed on behind its input"));
            }
        }
    }
}
