//! The guard of a command in a container: Docker has no call to end one, nor to signal it.
//!
//! A process beside the agent, so that the command does not outlive whoever began it, be it that the agent is killed: when its standard input
//! closes, the command and all that it started are hung up, and killed shortly after. When the command ends by itself, what it left behind is
//! killed. Its processes are found in the machine's `/proc`: by a variable that they were started with, and by the session that Docker
//! makes for each command. That takes an agent that sees the machine's processes and may signal them: root, outside of a container or with the
//! machine's process ids.

use std::ffi::OsString;
use std::os::fd::OwnedFd;
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::process::Signal;

use super::exec::SIGNAL;
use super::leave::{self, Meant};
use super::procfs::ProcessId;

/// The first argument that asks for it. Then: the container's id, and the variable, as `NAME=value`; without, all of the container is meant.
pub(crate) const WORD: &str = "__exec-guard";
/// What the agent says, before the process id of the command.
pub(crate) const LEADER: &str = "pid ";
/// What the agent says when the command has ended, or was never started.
pub(crate) const OVER: &str = "over";
/// How long a command that is given up before it has begun may take to come up.
const START_WAIT: Duration = Duration::from_secs(5);
/// Between two looks, where the kernel cannot tell of the end.
const LOOK: Duration = Duration::from_secs(1);

/// Stays until the command has ended or is given up.
pub(super) fn run(mut args: impl Iterator<Item = OsString>) -> i32 {
    let _ = rustix::process::setsid();
    let _ = rustix::thread::set_name(c"skerry-guard");
    let _ = rustix::process::chdir("/");
    let text = |text: OsString| text.into_string().ok();
    let Some(container) = args.next().and_then(text).filter(|id| !id.is_empty()) else { return 2 };
    let mark = args.next().and_then(text);
    let meant = |leader: Option<ProcessId>| match &mark {
        Some(mark) => Meant::Marked {
            container: container.clone(),
            mark: mark.clone(),
            leader: leader.map(|leader| leader.pid),
        },
        None => Meant::Container(container.clone()),
    };
    let mut leader = None;
    let mut watched: Option<OwnedFd> = None;
    let mut said = Vec::new();
    loop {
        let mut heard = [0; 256];
        let mut ended = match look(watched.as_ref()) {
            Heard::Nothing => leader.is_some_and(|leader: ProcessId| !leader.is_alive()),
            Heard::Ended => true,
            Heard::Something => match rustix::io::read(rustix::stdio::stdin(), &mut heard) {
                Ok(0) => {
                    // Docker may be starting it at this moment.
                    let until = Instant::now() + START_WAIT;
                    while leader.is_none() && meant(None).found().is_empty() && Instant::now() < until {
                        leave::pause();
                    }
                    leave::hang_up(&meant(leader));
                    return 0;
                }
                Ok(count) => {
                    said.extend_from_slice(&heard[..count]);
                    false
                }
                Err(_) => false,
            },
        };
        while let Some(end) = said.iter().position(|byte| *byte == b'\n') {
            let line: Vec<u8> = said.drain(..=end).collect();
            let line = String::from_utf8_lossy(&line);
            let number = |word: &str| line.trim_end().strip_prefix(word)?.parse::<i32>().ok();
            if let Some(pid) = number(LEADER).filter(|pid| leave::is_in(*pid, &container)) {
                leader = ProcessId::of(pid);
                watched = leader.and_then(leave::watch);
            }
            ended |= line.trim_end() == OVER;
            if let (Some(leader), Some(signal)) = (leader, number(SIGNAL).and_then(Signal::from_named_raw)) {
                leave::to_group(leader, signal);
            }
        }
        if ended {
            leave::kill(&meant(leader));
            return 0;
        }
    }
}

enum Heard {
    Nothing,
    Something,
    Ended,
}

fn look(watched: Option<&OwnedFd>) -> Heard {
    let mut all = vec![PollFd::from_borrowed_fd(rustix::stdio::stdin(), PollFlags::IN)];
    all.extend(watched.map(|watched| PollFd::new(watched, PollFlags::IN)));
    let timeout = Timespec::try_from(LOOK).ok();
    if poll(&mut all, timeout.as_ref()).is_err() {
        return Heard::Nothing;
    }
    let is_ready = |at: usize| all.get(at).is_some_and(|one| !one.revents().is_empty());
    match (is_ready(0), is_ready(1)) {
        (_, true) => Heard::Ended,
        (true, false) => Heard::Something,
        (false, false) => Heard::Nothing,
    }
}
