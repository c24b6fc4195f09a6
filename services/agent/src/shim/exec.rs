//! A command that somebody runs from outside: the process that keeps it, and the step by which it is entered.
//!
//! The keeper stands between the agent and the command, and lives as long as anything that the command started does. It is told by a socket
//! from the agent. When that one closes, whoever closed it (the agent that gives the command up, that ends or that was killed), the command is
//! hung up: `SIGHUP`, and `SIGKILL` to what is left shortly after. When the command itself ends, so does all that it left behind: the
//! keeper is the subreaper of them all.
//!
//! Nothing of it is written to a disk: program, variables and the three files come over the socket, and the step gets them the same way.

use std::collections::BTreeMap;
use std::ffi::{OsStr, OsString};
use std::io::{self, BufRead as _, BufReader, IoSlice, IoSliceMut, Read as _, Write as _};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd as _, BorrowedFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::os::unix::process::CommandExt as _;
use std::path::Path;
use std::process::{Command, Stdio};

use rustix::fs::Uid;
use rustix::net::{
    RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, SendAncillaryBuffer, SendAncillaryMessage,
    SendFlags,
};
use rustix::process::{Pid, Resource, Rlimit, Signal, getrlimit, kill_process_group, setrlimit};

use super::files::RunAs;
use super::leave::{self, Meant};
use super::program::{DIRECTORY_MISSING, START_FAILED, StartFailure, find};
use super::record::Record;
use super::{FAILED, STARTED, end_all, enter, wait_for};

/// The first argument that asks for a keeper. Standard input is the agent's socket.
pub(crate) const WORD: &str = "__exec";
/// The first argument that asks for the step. Standard input is the keeper's socket.
pub(super) const STEP: &str = "__exec-step";
/// What the keeper says at last, before the exit code.
pub(crate) const EXITED: &str = "exit ";
/// What the agent says, before the number of a signal.
pub(crate) const SIGNAL: &str = "signal ";

/// Standard input, output and error.
const FILES: usize = 3;
/// Longest that is told of a command. Its variables have the most.
const TEXT_BYTES_MAX: u32 = 4 << 20;
/// Stack of the thread that listens to the agent, in bytes.
const LISTEN_STACK_BYTES: usize = 64 * 1024;

/// What to run.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Commanded {
    /// The program as it is looked up, and its arguments.
    pub(crate) command: Vec<String>,
    /// What the program finds as its own name, where that is another one.
    pub(crate) called: Option<String>,
    /// All that it has.
    pub(crate) env: Vec<(String, String)>,
    pub(crate) directory: String,
    pub(crate) user: Option<RunAs>,
    pub(crate) cgroups: Vec<String>,
    /// Whether the three files are one terminal, which becomes its own.
    pub(crate) terminal: bool,
    /// The soft limit of open files, where it is not the agent's.
    pub(crate) open_files: Option<u64>,
}

impl Commanded {
    fn encode(&self) -> Vec<u8> {
        let mut record = Record::default();
        for word in &self.command {
            record.push("arg", word);
        }
        if let Some(called) = &self.called {
            record.push("called", called);
        }
        for (name, value) in &self.env {
            record.push("env", format!("{name}={value}"));
        }
        record.push("directory", &self.directory);
        if let Some(user) = &self.user {
            record.push("user", user.to_text());
        }
        for cgroup in &self.cgroups {
            record.push("cgroup", cgroup);
        }
        record.push("terminal", if self.terminal { "yes" } else { "no" });
        if let Some(soft) = self.open_files {
            record.push("open-files", soft.to_string());
        }
        record.encode()
    }

    fn decode(bytes: &[u8]) -> Option<Self> {
        let record = Record::decode(bytes)?;
        let pair = |text: &str| text.split_once('=').map(|(name, value)| (name.to_owned(), value.to_owned()));
        Some(Self {
            command: record.all("arg").map(str::to_owned).collect(),
            called: record.get("called").map(str::to_owned),
            env: record.all("env").map(pair).collect::<Option<_>>()?,
            directory: record.get("directory")?.to_owned(),
            user: match record.get("user") {
                // One that does not read must not run with the agent's rights.
                Some(user) => Some(RunAs::from_text(user)?),
                None => None,
            },
            cgroups: record.all("cgroup").map(str::to_owned).collect(),
            terminal: record.get("terminal")? == "yes",
            open_files: record.number("open-files"),
        })
    }
}

/// Tells the process at the other end what to run, and hands the three files on. Blocks until it has read nearly all of it.
pub(crate) fn hand_on(
    socket: &UnixStream,
    commanded: &Commanded,
    files: [BorrowedFd<'_>; FILES],
) -> io::Result<()> {
    let text = commanded.encode();
    let length = u32::try_from(text.len()).ok().filter(|length| *length <= TEXT_BYTES_MAX);
    let length = length.ok_or_else(|| io::Error::other("it is too long"))?.to_le_bytes();
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(FILES))];
    let mut control = SendAncillaryBuffer::new(&mut space);
    if !control.push(SendAncillaryMessage::ScmRights(&files)) {
        return Err(io::Error::other("there is no room for its files"));
    }
    let sent = rustix::net::sendmsg(socket, &[IoSlice::new(&length)], &mut control, SendFlags::NOSIGNAL)?;
    if sent != length.len() {
        return Err(io::ErrorKind::WriteZero.into());
    }
    (&mut &*socket).write_all(&text)
}

/// What the other end handed on.
fn take_over(socket: &UnixStream) -> io::Result<(Commanded, Vec<OwnedFd>)> {
    let mut length = [0; 4];
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(FILES))];
    let mut control = RecvAncillaryBuffer::new(&mut space);
    let came = rustix::net::recvmsg(
        socket,
        &mut [IoSliceMut::new(&mut length)],
        &mut control,
        RecvFlags::CMSG_CLOEXEC | RecvFlags::WAITALL,
    )?;
    let files: Vec<OwnedFd> = control
        .drain()
        .filter_map(|message| match message {
            RecvAncillaryMessage::ScmRights(files) => Some(files),
            _ => None,
        })
        .flatten()
        .collect();
    let length = u32::from_le_bytes(length);
    if came.bytes != 4 || files.len() != FILES || length > TEXT_BYTES_MAX {
        return Err(io::ErrorKind::InvalidData.into());
    }
    let mut text = vec![0; length as usize];
    (&mut &*socket).read_exact(&mut text)?;
    let commanded = Commanded::decode(&text).ok_or(io::ErrorKind::InvalidData)?;
    Ok((commanded, files))
}

/// The socket that standard input is. That, and the other two, are empty afterwards.
fn take_over_stdio() -> rustix::io::Result<UnixStream> {
    let socket = rustix::io::fcntl_dupfd_cloexec(rustix::stdio::stdin(), 3)?;
    let flags = rustix::fs::OFlags::RDWR | rustix::fs::OFlags::CLOEXEC;
    let null = rustix::fs::open("/dev/null", flags, rustix::fs::Mode::empty())?;
    rustix::stdio::dup2_stdin(&null)?;
    rustix::stdio::dup2_stdout(&null)?;
    rustix::stdio::dup2_stderr(&null)?;
    Ok(UnixStream::from(socket))
}

/// The keeper.
pub(super) fn run() -> i32 {
    // Fails only for a process that already leads a group: started by hand.
    let _ = rustix::process::setsid();
    let _ = rustix::process::set_child_subreaper(Some(rustix::process::getpid()));
    let _ = rustix::thread::set_name(c"skerry-exec");
    let _ = rustix::process::chdir("/");
    rustix::process::umask(rustix::fs::Mode::from_bits_truncate(0o022));
    let Ok(agent) = take_over_stdio() else { return 2 };
    let program = match start(&agent) {
        Ok(program) => program,
        Err(failure) => {
            let _ = writeln!(&agent, "{FAILED}{} {}", failure.reason, failure.message);
            return 1;
        }
    };
    let _ = writeln!(&agent, "{STARTED}");
    let listening = agent.try_clone().and_then(|agent| {
        let listen = move || listen(agent, program);
        std::thread::Builder::new().stack_size(LISTEN_STACK_BYTES).spawn(listen)
    });
    if listening.is_err() {
        // Nobody would hear that it is to end.
        let _ = kill_process_group(program, Signal::KILL);
    }
    let code = wait_for(program);
    end_all();
    let _ = writeln!(&agent, "{EXITED}{code}");
    0
}

fn start(agent: &UnixStream) -> Result<Pid, StartFailure> {
    let failed = |error| StartFailure::new(START_FAILED, format!("starting the command: {error}"));
    let (commanded, files) = take_over(agent).map_err(failed)?;
    if let Some(soft) = commanded.open_files {
        let Rlimit { maximum, .. } = getrlimit(Resource::Nofile);
        let _ = setrlimit(Resource::Nofile, Rlimit { current: Some(soft), maximum });
    }
    let (mut step, its) = UnixStream::pair().map_err(failed)?;
    let mut child = Command::new("/proc/self/exe")
        .arg0("skerry-exec")
        .arg(STEP)
        // The command's environment is for the command: the step is linked with the agent's rights.
        .env_clear()
        .stdin(OwnedFd::from(its))
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .map_err(failed)?;
    let [stdin, stdout, stderr] = &files[..] else {
        return Err(StartFailure::new(START_FAILED, "the command has no files"));
    };
    let mut text = String::new();
    let told = hand_on(&step, &commanded, [stdin.as_fd(), stdout.as_fd(), stderr.as_fd()])
        .and_then(|()| step.read_to_string(&mut text));
    if matches!(told, Ok(0)) {
        let pid = i32::try_from(child.id()).ok().and_then(Pid::from_raw);
        return pid.ok_or_else(|| StartFailure::new(START_FAILED, "the kernel's ids are positive"));
    }
    let _ = child.kill();
    let _ = child.wait();
    match told {
        Err(error) if text.is_empty() => Err(failed(error)),
        _ => Err(StartFailure::from_text(&text)),
    }
}

/// Does what the agent says, until it says nothing more; then hangs up.
fn listen(agent: UnixStream, program: Pid) {
    for line in BufReader::new(agent).lines() {
        let Ok(line) = line else { break };
        let number = line.strip_prefix(SIGNAL).and_then(|number| number.parse().ok());
        if let Some(signal) = number.and_then(Signal::from_named_raw) {
            let _ = kill_process_group(program, signal);
        }
    }
    leave::hang_up(&Meant::Tree(program.as_raw_nonzero().get()));
}

/// The step. Returns only when it did not work.
pub(super) fn step() -> i32 {
    let Ok(mut keeper) = take_over_stdio() else { return 127 };
    let failure = match take_over(&keeper) {
        Ok((commanded, files)) => become_command(&commanded, files),
        Err(error) => StartFailure::new(START_FAILED, format!("starting the command: {error}")),
    };
    let _ = keeper.write_all(format!("{} {}", failure.reason, failure.message).as_bytes());
    127
}

fn become_command(commanded: &Commanded, files: Vec<OwnedFd>) -> StartFailure {
    match try_become(commanded, files) {
        Err(failure) => failure,
        Ok(never) => match never {},
    }
}

fn try_become(commanded: &Commanded, files: Vec<OwnedFd>) -> Result<std::convert::Infallible, StartFailure> {
    let failed = |what: &str, error: &dyn std::fmt::Display| {
        StartFailure::new(START_FAILED, format!("{what}: {error}"))
    };
    let [stdin, stdout, stderr] = &files[..] else {
        return Err(StartFailure::new(START_FAILED, "the command has no files"));
    };
    rustix::process::setsid().map_err(|error| failed("making a session", &error))?;
    for cgroup in &commanded.cgroups {
        super::cgroup::enter(Path::new(cgroup))
            .map_err(|error| failed(&format!("entering the cgroup {cgroup}"), &error))?;
    }
    if commanded.terminal {
        rustix::process::ioctl_tiocsctty(stdin).map_err(|error| failed("taking the terminal", &error))?;
    }
    if let Some(user) = &commanded.user {
        if commanded.terminal {
            // It may open its terminal by name.
            rustix::fs::fchown(stdin, Some(Uid::from_raw(user.uid)), None)
                .map_err(|error| failed("giving the terminal to its user", &error))?;
        }
        enter::take_user(user)
            .map_err(|error| failed(&format!("becoming user {} of group {}", user.uid, user.gid), &error))?;
    }
    // After the user, which forgets it: a keeper that is killed takes it along.
    let _ = rustix::process::set_parent_process_death_signal(Some(Signal::KILL));
    let directory = Path::new(&commanded.directory);
    rustix::process::chdir(directory).map_err(|error| {
        let message = format!("the working directory {} cannot be entered: {error}", directory.display());
        StartFailure::new(DIRECTORY_MISSING, message)
    })?;
    let duplicated = rustix::stdio::dup2_stdin(stdin)
        .and_then(|()| rustix::stdio::dup2_stdout(stdout))
        .and_then(|()| rustix::stdio::dup2_stderr(stderr));
    duplicated.map_err(|error| failed("setting up its files", &error))?;
    drop(files);
    let Some((name, args)) = commanded.command.split_first() else {
        return Err(StartFailure::new(START_FAILED, "no command was named"));
    };
    let env: BTreeMap<OsString, OsString> =
        commanded.env.iter().map(|(name, value)| (name.into(), value.into())).collect();
    let path = env.get(OsStr::new("PATH")).and_then(|path| path.to_str()).unwrap_or_default();
    let program = find(name, path, directory)?;
    let called = commanded.called.as_ref().unwrap_or(name);
    enter::execute(&program, OsStr::new(called), args.iter().map(OsString::from), env)
        .map_err(|error| StartFailure::exec(&program, &error))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_handed_on_comes_as_it_was() {
        let commanded = Commanded {
            command: vec!["sh".into(), "-c".into(), "echo 'a\nb' \\ ü".into()],
            called: Some("-sh".into()),
            env: vec![("A".into(), "x=y\n".into())],
            directory: "/tmp".into(),
            user: Some(RunAs { uid: 3, gid: 4, groups: vec![5] }),
            cgroups: vec!["/sys/fs/cgroup/x".into()],
            terminal: true,
            open_files: Some(1024),
        };
        assert_eq!(Commanded::decode(&commanded.encode()), Some(commanded.clone()));
        let (one, other) = UnixStream::pair().unwrap();
        let (mut reads, writes) = io::pipe().unwrap();
        hand_on(&one, &commanded, [writes.as_fd(), writes.as_fd(), writes.as_fd()]).unwrap();
        drop(writes);
        let (came, files) = take_over(&other).unwrap();
        assert_eq!(came, commanded);
        assert_eq!(files.len(), FILES);
        std::fs::File::from(files.into_iter().next().unwrap()).write_all(b"x").unwrap();
        let mut text = String::new();
        reads.read_to_string(&mut text).unwrap();
        assert_eq!(text, "x", "and nobody else holds the other end");
    }
}
