//! The last step before a program: this process enters the instance's cgroups, becomes its user, goes to its directory, and turns into it.
//!
//! A step of its own because it is one for the program and for commands beside it, and because none of it may happen to the shim, which
//! keeps the agent's rights.
//!
//! Its own environment is empty, and only `execve` is given the program's: a linker that loads this binary heeds what stands there
//! (`LD_PRELOAD`, `LD_LIBRARY_PATH`), and would load what the program's user put into a place of theirs, as root.

use std::collections::BTreeMap;
use std::convert::Infallible;
use std::ffi::{CString, NulError, OsStr, OsString};
use std::fs::File;
use std::io::{self, Write as _};
use std::os::unix::ffi::{OsStrExt as _, OsStringExt as _};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use rustix::fs::{Gid, Uid};

use super::cgroup;
use super::files::{Launch, RunAs};
use super::program::{DIRECTORY_MISSING, START_FAILED, STATE_UNWRITABLE, StartFailure};

/// The first argument that asks for it. Then: the instance's directory, the program's file, its name for itself, its arguments. Standard
/// input is a pipe that is told why it did not work, and closed if it did.
pub(crate) const WORD: &str = "__enter";
/// Exit code when it did not work, as shells have it.
const NOT_STARTED: i32 = 127;

/// Returns only when it did not work.
pub(super) fn run(mut args: impl Iterator<Item = OsString>) -> i32 {
    let (Some(dir), Some(program), Some(name)) = (args.next(), args.next(), args.next()) else { return 2 };
    let Ok(mut report) = take_over_stdin() else { return NOT_STARTED };
    let failure = become_program(&PathBuf::from(dir), &PathBuf::from(program), &name, args);
    let _ = report.write_all(format!("{} {}", failure.reason, failure.message).as_bytes());
    NOT_STARTED
}

fn take_over_stdin() -> rustix::io::Result<File> {
    let report = rustix::io::fcntl_dupfd_cloexec(rustix::stdio::stdin(), 3)?;
    let flags = rustix::fs::OFlags::RDWR | rustix::fs::OFlags::CLOEXEC;
    let null = rustix::fs::open("/dev/null", flags, rustix::fs::Mode::empty())?;
    rustix::stdio::dup2_stdin(&null)?;
    Ok(File::from(report))
}

fn become_program(
    dir: &Path,
    program: &Path,
    name: &OsStr,
    args: impl Iterator<Item = OsString>,
) -> StartFailure {
    let launch = match Launch::read(dir) {
        Ok(Some(launch)) => launch,
        Ok(None) => return StartFailure::new(STATE_UNWRITABLE, "what to run is not there or not whole"),
        Err(error) => return StartFailure::state("reading what to run", &error),
    };
    // While it may be read: its user may not.
    let environment = match launch.environment(dir) {
        Ok(environment) => environment,
        Err(error) => return StartFailure::state("reading the variables", &error),
    };
    for cgroup in &launch.cgroups {
        if let Err(error) = cgroup::enter(Path::new(cgroup)) {
            return StartFailure::new(START_FAILED, format!("entering the cgroup {cgroup}: {error}"));
        }
    }
    if let Some(user) = &launch.user
        && let Err(error) = take_user(user)
    {
        let message = format!("becoming user {} of group {}: {error}", user.uid, user.gid);
        return StartFailure::new(START_FAILED, message);
    }
    let directory = launch.directory(dir);
    if let Err(error) = rustix::process::chdir(&directory) {
        let message = format!("the working directory {} cannot be entered: {error}", directory.display());
        return StartFailure::new(DIRECTORY_MISSING, message);
    }
    match execute(program, name, args, environment) {
        Err(error) => StartFailure::exec(program, &error),
        Ok(never) => match never {},
    }
}

/// `execve` itself: `execvp`, which `CommandExt::exec` is, has /bin/sh run what the kernel refuses as no program of this machine.
fn execute(
    program: &Path,
    name: &OsStr,
    args: impl Iterator<Item = OsString>,
    environment: BTreeMap<OsString, OsString>,
) -> io::Result<Infallible> {
    let text = |text: OsString| CString::new(text.into_vec());
    let args =
        std::iter::once(name.to_owned()).chain(args).map(text).collect::<Result<Vec<_>, NulError>>()?;
    let variables = environment.into_iter().map(|(mut name, value)| {
        name.push("=");
        name.push(value);
        text(name)
    });
    let variables = variables.collect::<Result<Vec<_>, NulError>>()?;
    let program = CString::new(program.as_os_str().as_bytes())?;
    // What is ignored here, `execve` would hand on: SIGPIPE by Rust, SIGHUP where the agent was started by `nohup`. A signal that has a handler
    // is at its default after it; only those that are ignored get one, since what has one is not heard until then.
    let status = std::fs::read_to_string("/proc/self/status")?;
    for signal in ignored(&status) {
        // The few that nobody may handle stay as they are.
        if !signal_hook::consts::FORBIDDEN.contains(&signal) {
            signal_hook::flag::register(signal, Arc::default())?;
        }
    }
    Ok(nix::unistd::execve(&program, &args, &variables)?)
}

/// This process has one thread, so what the kernel does to a thread it does to all of it. The user last: it takes the right to the others.
pub(super) fn take_user(user: &RunAs) -> rustix::io::Result<()> {
    let groups: Vec<Gid> = user.groups.iter().map(|group| Gid::from_raw(*group)).collect();
    rustix::thread::set_thread_groups(&groups)?;
    rustix::thread::set_thread_gid(Gid::from_raw(user.gid))?;
    rustix::thread::set_thread_uid(Uid::from_raw(user.uid))
}

/// The signals that a process ignores, by its `/proc/…/status` (proc_pid_status(5)): the lowest bit of `SigIgn` is signal 1. Without 32 and
/// 33, which are the C library's own.
fn ignored(status: &str) -> impl Iterator<Item = i32> + use<> {
    let mask = status.lines().find_map(|line| line.strip_prefix("SigIgn:"));
    let mask = mask.and_then(|mask| u64::from_str_radix(mask.trim(), 16).ok()).unwrap_or(0);
    (1..=64).filter(move |signal| mask & (1 << (signal - 1)) != 0 && !matches!(signal, 32 | 33))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_signals_that_are_ignored_are_read_from_the_kernels_mask() {
        let of =
            |mask: &str| ignored(&format!("Name:\tx\nSigIgn:\t{mask}\nSigCgt:\tffff\n")).collect::<Vec<_>>();
        assert_eq!(of("0000000000001001"), [1, 13]);
        assert_eq!(of("8000000180000000"), [64]);
        assert_eq!(of("0000000000000000"), [0; 0]);
        assert_eq!(ignored("Name:\tx\n").count(), 0);
    }
}
