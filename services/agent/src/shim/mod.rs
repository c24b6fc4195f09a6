//! The shim: the small process that stands between the agent and one process instance.
//!
//! It starts the program, keeps its output and its exit record, and is alive as long as anything that the program has started is.
//! It needs nobody: the agent may be stopped, killed or replaced, and finds the instance again by the files that the shim keeps.
//! When to start and when to end is the agent's.
//!
//! - Sessions: the shim leads a session of its own, and the program a process group of its own in it: no signal that is meant for the
//!   agent or its terminal reaches them.
//! - Ending: the agent asks the program itself (the stop signal goes to the main process only, as with a container). When that one has ended, everything
//!   else that it started is killed, as systemd does with `KillMode=mixed`: the shim is the subreaper of them all, so that none of them escapes it
//!   by leaving its group or session.
//! - Never two: the agent takes the lock on the instance's directory before anything else, and hands the locked file on to the shim, the
//!   shim to the program. The kernel gives the lock back when the last of them is gone, whoever was killed before.
//! - Rights: the shim has the agent's; the program gets its own user and cgroups in the step between fork and exec (`enter`).
//! - Small: it is the agent's own binary, so its code is in memory already; it has no async runtime and one extra thread.

use std::ffi::OsStr;
use std::fs::File;
use std::io::{self, Read as _, Write as _};
use std::os::fd::OwnedFd;
use std::os::unix::process::CommandExt as _;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::mpsc;
use std::time::{Duration, SystemTime};

use rustix::process::{
    Pid, Resource, Rlimit, Signal, WaitOptions, WaitStatus, getrlimit, kill_process, setrlimit, wait,
};

pub(crate) mod cgroup;
pub(crate) mod copy;
pub(crate) mod enter;
pub(crate) mod exec;
pub(crate) mod files;
pub(crate) mod guard;
pub(crate) mod leave;
pub(crate) mod logs;
pub(crate) mod marks;
pub(crate) mod procfs;
pub(crate) mod program;
pub(crate) mod record;

use files::{Ended, Launch, Started};
use logs::{Log, Stream};
use procfs::{ProcessId, Stat};
use program::StartFailure;
use record::Reserved;

/// The first argument that asks for a shim. The second is the instance's directory, a third the soft limit of open files that the program is
/// to have, where that is not the agent's; standard input is the locked file, standard output takes one line: `started`, or `failed <reason>
/// <message>`.
pub(crate) const WORD: &str = "__shim";
/// What the shim says when the program runs.
pub(crate) const STARTED: &str = "started";
/// What it says when it does not, before reason and message.
pub(crate) const FAILED: &str = "failed ";

/// Stack of the thread that copies output, in bytes.
const PUMP_STACK_BYTES: usize = 64 * 1024;
/// How often what is left in the cgroups is killed: each may have forked while it was looked for.
const KILL_ROUNDS_MAX: usize = 16;
/// How long output is waited for after everything has ended: somebody else may hold the pipe for ever. Less than the agent waits for a shim
/// that clears up, more than a disk takes that others keep busy.
const PUMP_WAIT: Duration = Duration::from_secs(4);

/// Runs the shim, the step by which a program is entered, or a copy of files, and never returns, if that is what this process was started for. To be called first in `main`, before any runtime is built
/// and any thread is started.
pub fn run_shim_if_asked() {
    let mut args = std::env::args_os().skip(1);
    let word = args.next();
    let code = if word.as_deref() == Some(OsStr::new(enter::WORD)) {
        enter::run(args)
    } else if word.as_deref() == Some(OsStr::new(exec::WORD)) {
        exec::run()
    } else if word.as_deref() == Some(OsStr::new(exec::STEP)) {
        exec::step()
    } else if word.as_deref() == Some(OsStr::new(guard::WORD)) {
        guard::run(args)
    } else if word.as_deref() == Some(OsStr::new(copy::WORD)) {
        copy::run(args)
    } else if word.as_deref() == Some(OsStr::new(WORD)) {
        args.next().map_or(2, |dir| run(Path::new(&dir), args.next().as_deref()))
    } else {
        return;
    };
    std::process::exit(code);
}

fn run(dir: &Path, open_files: Option<&OsStr>) -> i32 {
    // Fails only for a process that already leads a group: started by hand.
    let _ = rustix::process::setsid();
    let _ = rustix::process::set_child_subreaper(Some(rustix::process::getpid()));
    let _ = rustix::thread::set_name(c"skerry-shim");
    let _ = rustix::process::chdir("/");
    if let Some(soft) = open_files.and_then(|soft| soft.to_str()?.parse().ok()) {
        let Rlimit { maximum, .. } = getrlimit(Resource::Nofile);
        let _ = setrlimit(Resource::Nofile, Rlimit { current: Some(soft), maximum });
    }
    rustix::process::umask(rustix::fs::Mode::from_bits_truncate(0o022));
    let Ok((lock, mut status)) = take_over_stdio() else { return 2 };
    match start(dir) {
        Ok(running) => {
            let _ = status.write_all(format!("{STARTED}\n").as_bytes());
            drop(status);
            running.supervise(dir);
            drop(lock);
            0
        }
        Err(failure) => {
            let _ = writeln!(status, "{FAILED}{} {}", failure.reason, failure.message);
            1
        }
    }
}

/// The lock, open for the program to inherit, and where to say how starting went. Standard input and output are empty afterwards.
fn take_over_stdio() -> rustix::io::Result<(OwnedFd, File)> {
    let lock = rustix::io::fcntl_dupfd_cloexec(rustix::stdio::stdin(), 3)?;
    rustix::io::fcntl_setfd(&lock, rustix::io::FdFlags::empty())?;
    let status = rustix::io::fcntl_dupfd_cloexec(rustix::stdio::stdout(), 3)?;
    let flags = rustix::fs::OFlags::RDWR | rustix::fs::OFlags::CLOEXEC;
    let null = rustix::fs::open("/dev/null", flags, rustix::fs::Mode::empty())?;
    rustix::stdio::dup2_stdin(&null)?;
    rustix::stdio::dup2_stdout(&null)?;
    Ok((lock, File::from(status)))
}

/// A program that was started.
struct Running {
    program: Pid,
    boot: String,
    shim: ProcessId,
    exit: Reserved,
    streams: Vec<Stream>,
    cgroups: Vec<String>,
}

fn start(dir: &Path) -> Result<Running, StartFailure> {
    let launch =
        Launch::read(dir).map_err(|error| StartFailure::state("reading what to run", &error))?.ok_or_else(
            || StartFailure::new(program::STATE_UNWRITABLE, "what to run is not there or not whole"),
        )?;
    let myself = rustix::process::getpid().as_raw_nonzero().get();
    let shim = ProcessId::of(myself)
        .ok_or_else(|| StartFailure::new(program::START_FAILED, "/proc does not tell about this process"))?;
    let writing = |error| StartFailure::state("writing the instance's state", &error);
    let exit = Ended::reserve(dir).map_err(writing)?;
    let mut started = Started {
        boot: launch.boot.clone(),
        fingerprint: launch.fingerprint.clone(),
        revision: launch.revision.clone(),
        shim,
        program: None,
        since: SystemTime::now(),
    };
    started.write(dir).map_err(writing)?;
    let log = |name: &str| Log::open(&dir.join(name), launch.log);
    let logs = (log(files::STDOUT), log(files::STDERR));
    let (stdout, stderr) = (logs.0.map_err(writing)?, logs.1.map_err(writing)?);

    let mut child = spawn(dir, &launch)?;
    let program =
        i32::try_from(child.id()).ok().and_then(Pid::from_raw).expect("the kernel's ids are positive");
    started.program = ProcessId::of(program.as_raw_nonzero().get());
    started.since = SystemTime::now();
    if let Err(error) = started.write(dir) {
        let _ = kill_process(program, Signal::KILL);
        end_all();
        cgroup::remove(&launch.cgroups);
        return Err(writing(error));
    }
    let pipes = (child.stdout.take().map(OwnedFd::from), child.stderr.take().map(OwnedFd::from));
    let streams = [(pipes.0, stdout), (pipes.1, stderr)];
    let streams = streams.into_iter().filter_map(|(pipe, log)| Some(Stream::new(pipe?, log))).collect();
    Ok(Running { program, boot: launch.boot, shim, exit, streams, cgroups: launch.cgroups })
}

fn spawn(dir: &Path, launch: &Launch) -> Result<Child, StartFailure> {
    let directory = launch.directory(dir);
    if !directory.is_dir() {
        let message = format!("the working directory {} is not there", directory.display());
        return Err(StartFailure::new(program::DIRECTORY_MISSING, message));
    }
    let path = program::find(&launch.program, launch.search_path(), &files::state_dir(dir))?;
    let starting = |error| StartFailure::new(program::START_FAILED, format!("starting the program: {error}"));
    let (mut answer, say) = io::pipe().map_err(starting)?;
    let mut child = Command::new("/proc/self/exe")
        .arg0("skerry-shim")
        .args([OsStr::new(enter::WORD), dir.as_os_str(), path.as_os_str(), OsStr::new(&launch.program)])
        .args(&launch.args)
        // The program's environment is for the program: the step is linked with the agent's rights.
        .env_clear()
        .stdin(say)
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .process_group(0)
        .spawn()
        .map_err(starting)?;
    let mut text = String::new();
    // Nothing is said when the program runs, or when it was killed before: then its end tells.
    if matches!(answer.read_to_string(&mut text), Ok(0)) {
        return Ok(child);
    }
    let _ = child.wait();
    Err(StartFailure::from_text(&text))
}

impl Running {
    /// Stays until everything has ended.
    fn supervise(self, dir: &Path) {
        let (done, pumped) = mpsc::channel();
        let streams = self.streams;
        let pump = std::thread::Builder::new().stack_size(PUMP_STACK_BYTES).spawn(move || {
            logs::pump(streams);
            let _ = done.send(());
        });
        if let Err(error) = pump {
            complain(&format!("output is not kept: {error}"));
        }
        let code = wait_for(self.program);
        // Before the rest is killed: how the program ended must not be lost if that takes long.
        let out_of_memory = code != 0 && cgroup::out_of_memory(&self.cgroups);
        let ended = Ended { shim: self.shim, boot: self.boot, code, at: SystemTime::now(), out_of_memory };
        if let Err(error) = ended.write(dir, self.exit) {
            complain(&format!("exit code {code} could not be recorded: {error}"));
        }
        for _ in 0..KILL_ROUNDS_MAX {
            cgroup::kill(&self.cgroups);
            end_all();
            if !cgroup::is_populated(&self.cgroups) {
                break;
            }
        }
        cgroup::remove(&self.cgroups);
        let _ = pumped.recv_timeout(PUMP_WAIT);
    }
}

/// Reaps whatever ends, until `program` has: its exit code.
fn wait_for(program: Pid) -> i32 {
    loop {
        match wait(WaitOptions::empty()) {
            Ok(Some((pid, status))) if pid == program => return exit_code(status),
            Ok(_) | Err(rustix::io::Errno::INTR) => {}
            // No child: cannot be, it was never waited for.
            Err(_) => return 255,
        }
    }
}

fn exit_code(status: WaitStatus) -> i32 {
    let by_signal = || status.terminating_signal().map(|signal| 128 + signal);
    status.exit_status().or_else(by_signal).unwrap_or(255)
}

/// Kills and reaps all that is left. Each death hands the dead one's children to this process, so there is always one more to be
/// reaped, and one more look, until none is left.
fn end_all() {
    let myself = rustix::process::getpid().as_raw_nonzero().get();
    loop {
        match wait(WaitOptions::NOHANG) {
            Ok(Some(_)) | Err(rustix::io::Errno::INTR) => continue,
            Ok(None) => {}
            Err(_) => return,
        }
        for pid in procfs::all_pids() {
            // A child of ours that was not reaped keeps its id.
            if Stat::of(pid).is_some_and(|stat| stat.parent == myself)
                && let Some(pid) = Pid::from_raw(pid)
            {
                let _ = kill_process(pid, Signal::KILL);
            }
        }
        let _ = wait(WaitOptions::empty());
    }
}

/// Into `shim.log`, which is this process's standard error.
fn complain(message: &str) {
    let _ = writeln!(std::io::stderr(), "{message}");
}
