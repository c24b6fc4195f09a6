//! Commands that people run in containers, and in new ones beside them.
//!
//! Docker neither ends a command nor signals it: its guard does (`guard`), by the processes of the machine. So a command that is given up, by whoever it
//! was, leaves nothing behind where the agent is root and sees the machine's processes; elsewhere it sees its input end, and ends when it wants
//! to or with its container.

use std::time::Duration;

use bollard::Docker;
use bollard::models::ExecConfig;
use bollard::query_parameters::{ResizeContainerTTYOptionsBuilder, ResizeExecOptionsBuilder};
use bytes::Bytes;
use skerry_model::InstanceName;
use tokio::io::AsyncWriteExt as _;
use tokio::net::unix::OwnedWriteHalf;
use tokio::sync::mpsc;
use tokio::time::Instant;

use super::client::{Client, LOOK_DEADLINE, START_DEADLINE};
use super::error::{Failure, Kind, classify};
use super::guard::Guard;
use super::hijack::{self, Output};
use crate::runtime::RuntimeError;
use crate::runtime::exec::{
    Act, CANNOT_RUN, END_OF_INPUT, ExecAsk, ExecLine, Exit, NO_PROGRAM, TERM, TerminalSize, Told,
};

/// Between two looks at a command that begins or ends.
const LOOK: Duration = Duration::from_millis(10);
/// The same of one that has closed its output and goes on.
const LOOK_LATER: Duration = Duration::from_millis(500);
/// From when on it is looked at so.
const LATER: Duration = Duration::from_secs(5);
/// Longest complaint of Docker's that is told.
const COMPLAINT_BYTES_MAX: usize = 4096;
/// The variable by which a command and what it starts are found again.
const MARK: &str = "SKERRY_EXEC";

/// What runs.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Target {
    /// A command in a container.
    Exec(String),
    /// A container's own program.
    Container(String),
}

/// Where it stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum State {
    /// Not yet.
    Coming,
    /// With this process id.
    Runs(i64),
    Ended {
        code: i32,
        /// Its process id, as far as Docker still knows.
        pid: i64,
    },
}

/// Runs a command in a container, until its end or until it is given up.
pub(super) async fn run(
    client: &Client,
    instance: &InstanceName,
    container: &str,
    ask: &ExecAsk,
    line: ExecLine,
) -> Result<Exit, RuntimeError> {
    let failed =
        |failure: Failure| failure.while_doing(&format!("running a command in {instance}"), "ExecFailed");
    let docker = client.docker().await.map_err(failed)?;
    let mark = format!("{MARK}={}", random()?);
    let mut env = variables(ask);
    env.push(mark.clone());
    let config = ExecConfig {
        cmd: Some(ask.command.clone()),
        attach_stdin: Some(ask.stdin),
        attach_stdout: Some(true),
        attach_stderr: Some(true),
        tty: Some(ask.terminal.is_some()),
        env: Some(env),
        user: ask.user.clone(),
        working_dir: ask.working_dir.clone(),
        ..ExecConfig::default()
    };
    let exec = client.within(LOOK_DEADLINE, docker.create_exec(container, config)).await.map_err(failed)?.id;
    let mut guard = Guard::set(container, Some(&mark))?;
    let terminal = ask.terminal.is_some();
    let body = format!("{{\"Detach\":false,\"Tty\":{terminal}}}");
    let path = format!("/exec/{exec}/start");
    let opened = hijack::open(client.socket(), &path, &body, terminal);
    let opened = tokio::time::timeout(START_DEADLINE, opened).await;
    let opened = opened.map_err(|_| Failure::timed_out(START_DEADLINE)).flatten();
    let (mut output, input) = opened.map_err(failed)?;
    let target = Target::Exec(exec);
    let mut held = Vec::new();
    match begun(client, &docker, &target).await.map_err(failed)? {
        State::Ended { code, pid: 0 } => {
            // Docker writes why it could not be run to where it would have written.
            held = complaint(&mut output).await;
            if let Some(exit) = not_run(code, &held) {
                guard.over().await;
                let _ = line.out.send(Told::Started).await;
                return Ok(exit);
            }
        }
        State::Runs(pid) | State::Ended { pid, .. } => guard.leads(pid).await,
        State::Coming => {}
    }
    let exit = flow(client, &docker, &target, ask, (output, input), held, &mut guard, line).await;
    if exit.is_ok() {
        guard.over().await;
    }
    exit.map(Exit::of)
}

/// Lets it flow until it has ended: its exit code, after all that it wrote was taken.
#[expect(clippy::too_many_arguments, reason = "each is another thing, and there are two callers")]
pub(super) async fn flow(
    client: &Client,
    docker: &Docker,
    target: &Target,
    ask: &ExecAsk,
    (mut output, input): (Output, OwnedWriteHalf),
    held: Vec<(bool, Bytes)>,
    guard: &mut Guard,
    line: ExecLine,
) -> Result<i32, RuntimeError> {
    let ExecLine { stdin, acts, out } = line;
    let unheard = |_| RuntimeError {
        reason: "Unheard",
        message: "nobody hears what it says".to_owned(),
        transient: false,
    };
    let lost = |message: String| RuntimeError { reason: "ExecLost", message, transient: true };
    out.send(Told::Started).await.map_err(unheard)?;
    if let Some(size) = ask.terminal {
        resize(client, docker, target, size).await;
    }
    let told = |is_stderr: bool, bytes| if is_stderr { Told::Stderr(bytes) } else { Told::Stdout(bytes) };
    let running = async {
        for (is_stderr, bytes) in held {
            out.send(told(is_stderr, bytes)).await.map_err(unheard)?;
        }
        loop {
            match output.next().await {
                Ok(Some(piece)) => out.send(told(piece.is_stderr, piece.bytes)).await.map_err(unheard)?,
                Ok(None) => break,
                Err(error) => return Err(lost(format!("listening to the command: {error}"))),
            }
        }
        let failed = |failure: Failure| failure.while_doing("asking how the command ended", "ExecLost");
        ended(client, docker, target).await.map_err(failed)
    };
    let going_in = async {
        tokio::join!(feed(input, ask, stdin), act(client, docker, target, guard, acts));
        std::future::pending::<()>().await;
    };
    tokio::select! {
        code = running => code,
        () = going_in => Err(lost("its input has ended it".to_owned())),
    }
}

/// Passes input on, at the pace of the command.
async fn feed(mut to: OwnedWriteHalf, ask: &ExecAsk, mut input: mpsc::Receiver<Bytes>) {
    if !ask.stdin {
        // What comes nonetheless is not for it, and holds up nothing behind it.
        input.close();
    }
    while let Some(bytes) = input.recv().await {
        if to.write_all(&bytes).await.is_err() {
            // It reads no more. What comes is thrown away, so that signals behind it are heard.
            while input.recv().await.is_some() {}
            return;
        }
    }
    if ask.terminal.is_none() {
        let _ = to.shutdown().await;
    } else if ask.stdin {
        let _ = to.write_all(END_OF_INPUT).await;
    }
    // Whole until the command has ended: what is behind it is closed by its end.
    std::future::pending::<()>().await;
}

async fn act(
    client: &Client,
    docker: &Docker,
    target: &Target,
    guard: &mut Guard,
    mut acts: mpsc::Receiver<Act>,
) {
    while let Some(act) = acts.recv().await {
        match act {
            Act::Resize(size) => resize(client, docker, target, size).await,
            Act::Signal(signal) => guard.signal(signal).await,
        }
    }
}

/// One that has no terminal, or has ended, has no size.
async fn resize(client: &Client, docker: &Docker, target: &Target, size: TerminalSize) {
    let (h, w) = (i32::from(size.rows), i32::from(size.columns));
    let resized = match target {
        Target::Exec(id) => {
            let options = ResizeExecOptionsBuilder::new().h(h).w(w).build();
            client.within(LOOK_DEADLINE, docker.resize_exec(id, options)).await
        }
        Target::Container(id) => {
            let options = ResizeContainerTTYOptionsBuilder::new().h(h).w(w).build();
            client.within(LOOK_DEADLINE, docker.resize_container_tty(id, options)).await
        }
    };
    if let Err(failure) = resized {
        tracing::debug!(error = failure.message, "a terminal could not be resized");
    }
}

/// Where it stands now.
async fn look(client: &Client, docker: &Docker, target: &Target) -> Result<State, Failure> {
    let (is_running, code, pid) = match target {
        Target::Exec(id) => {
            let seen = client.within(LOOK_DEADLINE, docker.inspect_exec(id)).await?;
            (seen.running, seen.exit_code, seen.pid)
        }
        Target::Container(id) => {
            let seen = client.within(LOOK_DEADLINE, docker.inspect_container(id, None)).await?;
            let state = seen.state.unwrap_or_default();
            (state.running, state.exit_code, state.pid)
        }
    };
    let pid = pid.unwrap_or(0);
    Ok(match (is_running.unwrap_or(false), code) {
        (true, _) if pid > 0 => State::Runs(pid),
        (false, Some(code)) => State::Ended { code: i32::try_from(code).unwrap_or(255), pid },
        _ => State::Coming,
    })
}

/// Waits until it runs or has ended.
pub(super) async fn begun(client: &Client, docker: &Docker, target: &Target) -> Result<State, Failure> {
    let until = Instant::now() + START_DEADLINE;
    while Instant::now() < until {
        match look(client, docker, target).await? {
            State::Coming => tokio::time::sleep(LOOK).await,
            state => return Ok(state),
        }
    }
    Err(Failure::timed_out(START_DEADLINE))
}

/// Waits until it has ended: its exit code.
async fn ended(client: &Client, docker: &Docker, target: &Target) -> Result<i32, Failure> {
    let began = Instant::now();
    loop {
        if let State::Ended { code, .. } = look(client, docker, target).await? {
            return Ok(code);
        }
        tokio::time::sleep(if began.elapsed() < LATER { LOOK } else { LOOK_LATER }).await;
    }
}

/// The first of what it wrote, as much as a complaint may have.
async fn complaint(output: &mut Output) -> Vec<(bool, Bytes)> {
    let mut held = Vec::new();
    let mut bytes = 0;
    while bytes < COMPLAINT_BYTES_MAX
        && let Ok(Some(piece)) = output.next().await
    {
        bytes += piece.bytes.len();
        held.push((piece.is_stderr, piece.bytes));
    }
    held
}

/// Whether it was never run, by what Docker wrote then.
fn not_run(code: i32, held: &[(bool, Bytes)]) -> Option<Exit> {
    let text: Vec<u8> = held.iter().flat_map(|(_, bytes)| bytes.to_vec()).collect();
    let text = String::from_utf8_lossy(&text).trim().to_owned();
    let is_dockers = text.starts_with("OCI runtime exec failed") || text.starts_with("unable to find user");
    (is_dockers && (CANNOT_RUN..=NO_PROGRAM).contains(&code)).then(|| complained(text))
}

/// As shells have it, by Docker's words.
pub(super) fn complained(message: String) -> Exit {
    let is_directory = message.contains("chdir to cwd");
    let code = match classify(500, &message) {
        Kind::NoProgram if !is_directory => NO_PROGRAM,
        _ => CANNOT_RUN,
    };
    Exit { code, message }
}

/// Those that are asked for, as Docker has them.
pub(super) fn variables(ask: &ExecAsk) -> Vec<String> {
    let has_term = ask.env.iter().any(|(name, _)| name == TERM.0);
    let term = (ask.terminal.is_some() && !has_term).then(|| format!("{}={}", TERM.0, TERM.1));
    ask.env.iter().map(|(name, value)| format!("{name}={value}")).chain(term).collect()
}

/// That nobody else has.
pub(super) fn random() -> Result<String, RuntimeError> {
    let mut bytes = [0u8; 16];
    let got = rustix::rand::getrandom(&mut bytes, rustix::rand::GetRandomFlags::empty());
    match got {
        Ok(16) => Ok(format!("{:032x}", u128::from_le_bytes(bytes))),
        _ => Err(RuntimeError {
            reason: "StartFailed",
            message: "the system gives no random numbers".to_owned(),
            transient: true,
        }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_docker_could_not_run_has_the_exit_codes_of_shells() {
        let exit = |text: &'static str| not_run(126, &[(false, Bytes::from(text))]).map(|exit| exit.code);
        assert_eq!(
            exit(
                "OCI runtime exec failed: exec failed: unable to start container process: exec: \"nosuch\": executable file not found in $PATH: unknown\r\n"
            ),
            Some(127)
        );
        assert_eq!(
            exit(
                "OCI runtime exec failed: exec failed: unable to start container process: exec: \"/nosuch\": stat /nosuch: no such file or directory: unknown\r\n"
            ),
            Some(127)
        );
        assert_eq!(
            exit(
                "OCI runtime exec failed: exec failed: unable to start container process: exec: \"/etc/passwd\": permission denied: unknown\r\n"
            ),
            Some(126)
        );
        assert_eq!(
            exit(
                "OCI runtime exec failed: exec failed: unable to start container process: chdir to cwd (\"/nosuch\") set in config.json failed: no such file or directory: unknown"
            ),
            Some(126)
        );
        assert_eq!(exit("a program wrote this and ended with 126"), None);
        assert_eq!(not_run(0, &[(false, Bytes::from_static(b"OCI runtime exec failed"))]), None);
    }
}
