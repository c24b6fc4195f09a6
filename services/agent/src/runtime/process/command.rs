//! Commands that people run: beside an instance, as its user, in its cgroups, directory and environment; or on the node itself.
//!
//! Each has a keeper (`shim::exec`), which ends it when it is given up here.

use std::fs;
use std::io;
use std::os::fd::{AsFd as _, OwnedFd};
use std::os::unix::net::UnixStream as Socket;
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use rustix::fs::OFlags;
use rustix::pty::OpenptFlags;
use rustix::termios::Winsize;
use tokio::io::{AsyncBufReadExt as _, AsyncRead, AsyncReadExt as _, AsyncWriteExt as _, BufReader};
use tokio::net::UnixStream;
use tokio::net::unix::OwnedWriteHalf;
use tokio::net::unix::pipe;
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;

use super::error::failed;
use super::user;
use crate::runtime::RuntimeError;
use crate::runtime::exec::{
    Act, CANNOT_RUN, END_OF_INPUT, ExecAsk, ExecLine, Exit, NO_PROGRAM, PIECE_BYTES_MAX, TERM, TerminalSize,
    Told,
};
use crate::shim::exec::{Commanded, EXITED, SIGNAL, WORD, hand_on};
use crate::shim::files::{Launch, RunAs};
use crate::shim::program::{
    DIRECTORY_MISSING, PROGRAM_NOT_EXECUTABLE, PROGRAM_NOT_FOUND, REASONS, StartFailure,
};
use crate::shim::{FAILED, STARTED};

/// After the end of all that the command started, somebody else may still hold its output.
const SETTLE: Duration = Duration::from_secs(2);
/// Where programs are looked up, where nothing says so.
const PATH_DEFAULT: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

/// A command that was started, and its keeper.
pub(super) struct Begun {
    keeper: Socket,
    stdin: Option<OwnedFd>,
    outs: Outs,
}

enum Outs {
    Pipes(OwnedFd, OwnedFd),
    Terminal(OwnedFd),
}

/// What to run beside an instance. Blocks on the disk.
pub(super) fn beside(dir: &Path, launch: &Launch, ask: &ExecAsk) -> Result<Commanded, RuntimeError> {
    let variables = launch
        .environment(dir)
        .map_err(|error| failed("StateUnwritable", format!("reading the variables: {error}"), true))?;
    let text = |text: std::ffi::OsString| text.to_string_lossy().into_owned();
    let env = variables.into_iter().map(|(name, value)| (text(name), text(value)));
    let directory = launch.directory(dir);
    Ok(Commanded {
        command: ask.command.clone(),
        called: None,
        env: with(env.collect(), ask),
        directory: within(&directory, ask),
        user: as_user(launch.user.as_ref(), ask)?,
        cgroups: launch.cgroups.clone(),
        terminal: ask.terminal.is_some(),
        open_files: skerry_daemon::open_files_before(),
    })
}

/// As whom: an instance that runs as root, or as an agent that is root, may have any; another one its own alone.
fn as_user(own: Option<&RunAs>, ask: &ExecAsk) -> Result<Option<RunAs>, RuntimeError> {
    let Some(wanted) = &ask.user else { return Ok(own.cloned()) };
    let resolved = user::resolve(Some(wanted))?;
    match (own, &resolved) {
        (Some(own), Some(wanted)) if own.uid == wanted.uid && own.gid == wanted.gid => Ok(Some(own.clone())),
        (Some(own), _) if own.uid != 0 => {
            let message = format!(
                "user `{wanted}`: the instance runs as uid {}, and so does what runs beside it",
                own.uid
            );
            Err(failed("UserNotAllowed", message, false))
        }
        _ => Ok(resolved),
    }
}

/// What to run on the node itself: as the agent's user, in their home, with their shell where nothing is named.
pub(super) fn on_node(ask: &ExecAsk) -> Result<Commanded, RuntimeError> {
    let run_as = ask.user.as_deref().map(|text| user::resolve(Some(text))).transpose()?.flatten();
    let uid = run_as.as_ref().map_or_else(|| rustix::process::geteuid().as_raw(), |user| user.uid);
    let passwd = fs::read_to_string("/etc/passwd").unwrap_or_default();
    let Account { name, home, shell } = Account::find(&passwd, uid);
    let (command, called) = if ask.command.is_empty() {
        // Told so, a shell is one of a login.
        let called = format!("-{}", shell.rsplit('/').next().unwrap_or("sh"));
        (vec![shell.clone()], Some(called))
    } else {
        (ask.command.clone(), None)
    };
    let path = std::env::var("PATH").unwrap_or_else(|_| PATH_DEFAULT.to_owned());
    let words =
        [("PATH", path), ("HOME", home.clone()), ("SHELL", shell), ("USER", name.clone()), ("LOGNAME", name)];
    let env = words.into_iter().filter(|(_, value)| !value.is_empty());
    // The agent's own variables may hold what is not for people: its token, say.
    let env = env.map(|(name, value)| (name.to_owned(), value)).collect();
    let directory = if Path::new(&home).is_dir() { PathBuf::from(home) } else { PathBuf::from("/") };
    Ok(Commanded {
        command,
        called,
        env: with(env, ask),
        directory: within(&directory, ask),
        user: run_as,
        cgroups: Vec::new(),
        terminal: ask.terminal.is_some(),
        open_files: skerry_daemon::open_files_before(),
    })
}

/// A user of the machine.
#[derive(Debug, PartialEq, Eq)]
struct Account {
    name: String,
    home: String,
    shell: String,
}

impl Account {
    /// By lines of passwd(5). One that is not there has a shell, and no home.
    fn find(passwd: &str, uid: u32) -> Self {
        let fields = passwd.lines().map(|line| line.split(':').collect::<Vec<_>>());
        let mut found = fields.filter(|fields| fields.get(2).is_some_and(|id| id.parse() == Ok(uid)));
        let fields = found.next().unwrap_or_default();
        let field = |at: usize, usual: &str| match fields.get(at) {
            Some(text) if !text.is_empty() => (*text).to_owned(),
            _ => usual.to_owned(),
        };
        Self { name: field(0, ""), home: field(5, "/"), shell: field(6, "/bin/sh") }
    }
}

/// With the variables that were asked for.
fn with(mut env: Vec<(String, String)>, ask: &ExecAsk) -> Vec<(String, String)> {
    let has = |env: &[(String, String)], name: &str| env.iter().any(|(one, _)| one == name);
    for (name, value) in &ask.env {
        env.retain(|(one, _)| one != name);
        env.push((name.clone(), value.clone()));
    }
    if ask.terminal.is_some() && !has(&env, TERM.0) {
        env.push((TERM.0.to_owned(), TERM.1.to_owned()));
    }
    env
}

fn within(directory: &Path, ask: &ExecAsk) -> String {
    let directory = ask.working_dir.as_ref().map_or_else(|| directory.to_owned(), |at| directory.join(at));
    directory.to_string_lossy().into_owned()
}

/// Starts a keeper and hands the command on to it. Blocks until that one has read it. The keeper is a child of this process, to be reaped.
pub(super) fn begin(
    shim: &Path,
    commanded: &Commanded,
    ask: &ExecAsk,
) -> Result<(Child, Begun), RuntimeError> {
    let starting =
        |error: io::Error| failed("StartFailed", format!("starting `{}`: {error}", ask.program()), true);
    let (keeper, its) = Socket::pair().map_err(starting)?;
    let child = Command::new(shim)
        .arg0("skerry-exec")
        .arg(WORD)
        .env_clear()
        .current_dir("/")
        .stdin(OwnedFd::from(its))
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .map_err(starting)?;
    let begun = match ask.terminal {
        Some(size) => terminal(keeper, commanded, size),
        None => pipes(keeper, commanded, ask.stdin),
    };
    // Where it failed, the keeper ends by itself: the other end of its socket is gone.
    begun.map(|begun| (child, begun)).map_err(starting)
}

fn terminal(keeper: Socket, commanded: &Commanded, size: TerminalSize) -> io::Result<Begun> {
    let flags = OpenptFlags::RDWR | OpenptFlags::NOCTTY | OpenptFlags::CLOEXEC;
    let master = rustix::pty::openpt(flags)?;
    rustix::pty::grantpt(&master)?;
    rustix::pty::unlockpt(&master)?;
    resize(&master, size)?;
    let its = rustix::pty::ioctl_tiocgptpeer(&master, flags)?;
    hand_on(&keeper, commanded, [its.as_fd(); 3])?;
    Ok(Begun { keeper, stdin: Some(master.try_clone()?), outs: Outs::Terminal(master) })
}

fn pipes(keeper: Socket, commanded: &Commanded, has_input: bool) -> io::Result<Begun> {
    let (its, stdin) = if has_input {
        let (reads, writes) = io::pipe()?;
        (OwnedFd::from(reads), Some(OwnedFd::from(writes)))
    } else {
        (OwnedFd::from(fs::File::open("/dev/null")?), None)
    };
    let ((out, its_out), (err, its_err)) = (io::pipe()?, io::pipe()?);
    hand_on(&keeper, commanded, [its.as_fd(), its_out.as_fd(), its_err.as_fd()])?;
    Ok(Begun { keeper, stdin, outs: Outs::Pipes(out.into(), err.into()) })
}

fn resize(terminal: &OwnedFd, size: TerminalSize) -> io::Result<()> {
    let TerminalSize { columns, rows } = size;
    let size = Winsize { ws_row: rows, ws_col: columns, ws_xpixel: 0, ws_ypixel: 0 };
    Ok(rustix::termios::tcsetwinsize(terminal, size)?)
}

/// Lets the command flow until it has ended. Dropped before, it is hung up.
pub(super) async fn run(begun: Begun, line: ExecLine) -> Result<Exit, RuntimeError> {
    let Begun { keeper, stdin, outs } = begun;
    let lost =
        |error: io::Error| failed("ExecLost", format!("talking to the command's keeper: {error}"), true);
    let ended_early =
        || failed("ExecLost", "the command's keeper was killed: nobody knows how it ended", true);
    keeper.set_nonblocking(true).map_err(lost)?;
    let (says, hears) = UnixStream::from_std(keeper).map_err(lost)?.into_split();
    let mut says = BufReader::new(says).lines();
    let first = says.next_line().await.map_err(lost)?.ok_or_else(ended_early)?;
    let ExecLine { stdin: input, acts, out } = line;
    if let Some(why) = first.strip_prefix(FAILED) {
        let exit = not_run(StartFailure::from_text(why))?;
        let _ = out.send(Told::Started).await;
        return Ok(exit);
    }
    if first != STARTED {
        return Err(ended_early());
    }
    if out.send(Told::Started).await.is_err() {
        return Err(unheard());
    }
    let ended = CancellationToken::new();
    let is_terminal = matches!(outs, Outs::Terminal(_));
    let acted_on = match &outs {
        Outs::Terminal(master) => Some(master.try_clone().map_err(lost)?),
        Outs::Pipes(..) => None,
    };
    let exit = async {
        let told = says.next_line().await.map_err(lost)?;
        let code = told.as_deref().and_then(|told| told.strip_prefix(EXITED)?.parse().ok());
        ended.cancel();
        code.ok_or_else(ended_early)
    };
    let drained = async {
        match outs {
            Outs::Terminal(master) => {
                drain(terminal_out(master).map_err(lost)?, &ended, &out, Told::Stdout).await
            }
            Outs::Pipes(stdout, stderr) => {
                let stdout = pipe::Receiver::from_owned_fd(stdout).map_err(lost)?;
                let stderr = pipe::Receiver::from_owned_fd(stderr).map_err(lost)?;
                let both = tokio::join!(
                    drain(stdout, &ended, &out, Told::Stdout),
                    drain(stderr, &ended, &out, Told::Stderr)
                );
                both.0.and(both.1)
            }
        }
    };
    let going_in = async {
        tokio::join!(feed(stdin, is_terminal, input), act(acted_on, hears, acts));
        std::future::pending::<()>().await;
    };
    tokio::select! {
        both = async { tokio::try_join!(exit, drained) } => both.map(|(code, ())| Exit::of(code)),
        () = going_in => Err(ended_early()),
    }
}

/// As shells have it, where the fault is the command's; else the runtime's.
fn not_run(failure: StartFailure) -> Result<Exit, RuntimeError> {
    debug_assert!(REASONS.contains(&failure.reason), "it was read as one");
    let code = match failure.reason {
        PROGRAM_NOT_FOUND => NO_PROGRAM,
        PROGRAM_NOT_EXECUTABLE | DIRECTORY_MISSING => CANNOT_RUN,
        _ => return Err(failure.into()),
    };
    Ok(Exit { code, message: failure.message })
}

fn unheard() -> RuntimeError {
    failed("Unheard", "nobody hears what it says", false)
}

/// A terminal's other end, to read from. It says so by an error when nobody has the terminal any more.
fn terminal_out(master: OwnedFd) -> io::Result<pipe::Receiver> {
    let flags = rustix::fs::fcntl_getfl(&master)?;
    rustix::fs::fcntl_setfl(&master, flags | OFlags::NONBLOCK)?;
    pipe::Receiver::from_owned_fd_unchecked(master)
}

/// Passes on what comes, to its end, at the pace of who takes it.
async fn drain(
    mut from: impl AsyncRead + Unpin,
    ended: &CancellationToken,
    out: &mpsc::Sender<Told>,
    as_told: fn(Bytes) -> Told,
) -> Result<(), RuntimeError> {
    let mut piece = BytesMut::new();
    loop {
        piece.reserve(PIECE_BYTES_MAX);
        let late = async {
            ended.cancelled().await;
            tokio::time::sleep(SETTLE).await;
        };
        let mut limited = (&mut from).take(PIECE_BYTES_MAX as u64);
        let count = tokio::select! {
            biased;
            read = limited.read_buf(&mut piece) => read.unwrap_or(0),
            () = late => 0,
        };
        if count == 0 {
            return Ok(());
        }
        if out.send(as_told(piece.split().freeze())).await.is_err() {
            return Err(unheard());
        }
    }
}

/// Passes input on, at the pace of the command.
async fn feed(to: Option<OwnedFd>, is_terminal: bool, mut input: mpsc::Receiver<Bytes>) {
    let Some(to) = to else { return };
    let sender =
        if is_terminal { pipe::Sender::from_owned_fd_unchecked(to) } else { pipe::Sender::from_owned_fd(to) };
    let Ok(mut to) = sender else { return };
    while let Some(bytes) = input.recv().await {
        if to.write_all(&bytes).await.is_err() {
            // It reads no more. What comes is thrown away, so that signals behind it are heard.
            while input.recv().await.is_some() {}
            return;
        }
    }
    if is_terminal {
        let _ = to.write_all(END_OF_INPUT).await;
        // Closed, it would be hung up.
        std::future::pending::<()>().await;
    }
}

async fn act(terminal: Option<OwnedFd>, mut keeper: OwnedWriteHalf, mut acts: mpsc::Receiver<Act>) {
    while let Some(act) = acts.recv().await {
        match (act, &terminal) {
            (Act::Resize(size), Some(terminal)) => {
                let _ = resize(terminal, size);
            }
            (Act::Resize(_), None) => {}
            (Act::Signal(signal), _) => {
                let word = format!("{SIGNAL}{}\n", signal.number());
                let _ = keeper.write_all(word.as_bytes()).await;
            }
        }
    }
    // Closed, the command would be hung up.
    std::future::pending::<()>().await;
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ask() -> ExecAsk {
        ExecAsk {
            command: vec!["ls".into()],
            terminal: None,
            stdin: false,
            env: vec![("A".into(), "new".into())],
            user: None,
            working_dir: None,
            debug_image: None,
        }
    }

    #[test]
    fn variables_that_are_asked_for_come_before_those_of_the_instance() {
        let env = with(vec![("A".into(), "old".into()), ("B".into(), "b".into())], &ask());
        assert_eq!(env, [("B".into(), "b".into()), ("A".into(), "new".into())]);
        let terminal = Some(TerminalSize { columns: 80, rows: 24 });
        let told = with(Vec::new(), &ExecAsk { terminal, ..ask() });
        assert!(told.contains(&("TERM".into(), "xterm".into())), "{told:?}");
        let own = with(vec![("TERM".into(), "vt100".into())], &ExecAsk { terminal, ..ask() });
        assert!(own.contains(&("TERM".into(), "vt100".into())), "{own:?}");
    }

    #[test]
    fn a_directory_is_taken_from_that_of_the_instance() {
        let at = |directory: &str| ExecAsk { working_dir: Some(directory.into()), ..ask() };
        assert_eq!(within(Path::new("/state"), &ask()), "/state");
        assert_eq!(within(Path::new("/state"), &at("logs")), "/state/logs");
        assert_eq!(within(Path::new("/state"), &at("/tmp")), "/tmp");
    }

    #[test]
    fn an_instance_of_another_user_lends_nobody_else() {
        let own = RunAs { uid: 4242, gid: 4242, groups: Vec::new() };
        assert_eq!(as_user(Some(&own), &ask()).unwrap(), Some(own.clone()));
        let root = ExecAsk { user: Some("root".into()), ..ask() };
        assert_eq!(as_user(Some(&own), &root).unwrap_err().reason, "UserNotAllowed");
    }

    #[test]
    fn what_cannot_be_run_has_the_exit_codes_of_shells() {
        let exit = |reason| not_run(StartFailure::new(reason, "why")).map(|exit| exit.code);
        assert_eq!(exit(PROGRAM_NOT_FOUND), Ok(127));
        assert_eq!(exit(PROGRAM_NOT_EXECUTABLE), Ok(126));
        assert_eq!(exit(DIRECTORY_MISSING), Ok(126));
        assert_eq!(exit(crate::shim::program::START_FAILED).unwrap_err().reason, "StartFailed");
    }

    #[test]
    fn an_account_is_found_by_its_number() {
        let passwd = "root:x:0:0:root:/root:/bin/bash\nweb:x:33:33::/srv/web:\n";
        let account = Account::find(passwd, 33);
        assert_eq!(
            (account.name.as_str(), account.home.as_str(), account.shell.as_str()),
            ("web", "/srv/web", "/bin/sh")
        );
        assert_eq!(Account::find(passwd, 7).home, "/");
    }
}
