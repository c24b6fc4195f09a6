//! Ending a command and all that it has started: asked first, killed shortly after, until none is left.

use std::collections::BTreeSet;
use std::fs;
use std::time::{Duration, Instant};

use rustix::process::{Pid, PidfdFlags, Signal, kill_process, pidfd_open, pidfd_send_signal};

use super::procfs::{ProcessId, Stat, all_pids};

/// How long what was hung up may take to end by itself.
const GRACE: Duration = Duration::from_secs(1);
/// Between two looks.
const LOOK: Duration = Duration::from_millis(20);
/// How long killing goes on: what is in the kernel's hands may take long.
const KILL_FOR: Duration = Duration::from_secs(10);

/// Which processes.
#[derive(Debug, Clone)]
pub(crate) enum Meant {
    /// This one, what is in its session, and what descends from either.
    Tree(i32),
    /// In a container, those with this variable, and what is in their sessions or in that of `leader`.
    Marked { container: String, mark: String, leader: Option<i32> },
    /// All of a container.
    Container(String),
}

impl Meant {
    /// Those that run now.
    pub(crate) fn found(&self) -> Vec<ProcessId> {
        let all = all_pids().into_iter().filter_map(|pid| Some((pid, Stat::of(pid)?)));
        let all: Vec<(i32, Stat)> = all.filter(|(_, stat)| !stat.is_dead()).collect();
        let meant: BTreeSet<i32> = match self {
            Self::Tree(root) => {
                let mut meant: BTreeSet<i32> = BTreeSet::from([*root]);
                let in_session = all.iter().filter(|(_, stat)| stat.session == *root);
                meant.extend(in_session.map(|(pid, _)| *pid));
                loop {
                    let children = all.iter().filter(|(_, stat)| meant.contains(&stat.parent));
                    let more: Vec<i32> =
                        children.map(|(pid, _)| *pid).filter(|pid| !meant.contains(pid)).collect();
                    if more.is_empty() {
                        break meant;
                    }
                    meant.extend(more);
                }
            }
            Self::Marked { container, mark, leader } => {
                let theirs = all.iter().filter(|(pid, _)| is_in(*pid, container));
                let theirs: Vec<&(i32, Stat)> = theirs.collect();
                let has = |pid: i32| {
                    let environ = fs::read(format!("/proc/{pid}/environ")).unwrap_or_default();
                    environ.split(|byte| *byte == 0).any(|variable| variable == mark.as_bytes())
                };
                let marked = theirs.iter().filter(|(pid, _)| has(*pid));
                let marked: Vec<&&(i32, Stat)> = marked.collect();
                // Of a container's own first process this is no session of the command's.
                let sessions: BTreeSet<i32> = marked
                    .iter()
                    .map(|(_, stat)| stat.session)
                    .filter(|session| marked.iter().any(|(pid, _)| pid == session))
                    .chain(*leader)
                    .collect();
                let in_sessions = theirs.iter().filter(|(_, stat)| sessions.contains(&stat.session));
                marked.iter().map(|(pid, _)| *pid).chain(in_sessions.map(|(pid, _)| *pid)).collect()
            }
            Self::Container(container) => {
                all.iter().map(|(pid, _)| *pid).filter(|pid| is_in(*pid, container)).collect()
            }
        };
        let started = |pid: &i32| all.iter().find(|(one, _)| one == pid).map(|(_, stat)| stat.started);
        meant.iter().filter_map(|pid| Some(ProcessId { pid: *pid, started: started(pid)? })).collect()
    }

    fn signal(&self, signals: &[Signal]) {
        for process in self.found() {
            let Some(pid) = process.as_pid() else { continue };
            // Held before it is looked at again, so that no id that was used again is meant.
            let held = pidfd_open(pid, PidfdFlags::empty());
            if !process.is_alive() {
                continue;
            }
            for signal in signals {
                let _ = match &held {
                    Ok(held) => pidfd_send_signal(held, *signal),
                    Err(rustix::io::Errno::NOSYS) => kill_process(pid, *signal),
                    Err(_) => Ok(()),
                };
            }
        }
    }
}

/// Whether a process is of a container: its cgroup is.
pub(crate) fn is_in(pid: i32, container: &str) -> bool {
    fs::read_to_string(format!("/proc/{pid}/cgroup")).is_ok_and(|cgroup| cgroup.contains(container))
}

/// As if their terminal were hung up; who has not ended shortly after is killed.
pub(crate) fn hang_up(meant: &Meant) {
    // Who is stopped hears it too.
    meant.signal(&[Signal::HUP, Signal::CONT]);
    let until = Instant::now() + GRACE;
    while Instant::now() < until {
        if meant.found().is_empty() {
            return;
        }
        pause();
    }
    kill(meant);
}

/// Kills them, until none is left: each may have forked while it was looked for.
pub(crate) fn kill(meant: &Meant) {
    let until = Instant::now() + KILL_FOR;
    while Instant::now() < until && !meant.found().is_empty() {
        meant.signal(&[Signal::KILL]);
        pause();
    }
}

#[expect(clippy::disallowed_methods, reason = "in a process of its own, which has no async runtime")]
pub(super) fn pause() {
    std::thread::sleep(LOOK);
}

/// Signals the group that a process leads, or it alone where it leads none.
pub(crate) fn to_group(leader: ProcessId, signal: Signal) {
    let Some(pid) = leader.as_pid().filter(|_| leader.is_alive()) else { return };
    let leads = Stat::of(leader.pid).is_some_and(|stat| stat.group == leader.pid);
    let _ = if leads { rustix::process::kill_process_group(pid, signal) } else { kill_process(pid, signal) };
}

/// A descriptor that is readable once the process has ended.
pub(crate) fn watch(process: ProcessId) -> Option<std::os::fd::OwnedFd> {
    let held = pidfd_open(Pid::from_raw(process.pid)?, PidfdFlags::empty()).ok()?;
    process.is_alive().then_some(held)
}

#[cfg(test)]
mod tests {
    use std::os::unix::process::CommandExt as _;
    use std::process::Command;

    use super::*;

    #[test]
    fn who_ignores_it_is_killed_and_so_are_its_children() {
        let script = "trap '' HUP; sleep 600 & sleep 600 & wait; sleep 600";
        let mut shell = Command::new("sh").args(["-c", script]).process_group(0).spawn().unwrap();
        let meant = Meant::Tree(shell.id().try_into().unwrap());
        let until = Instant::now() + Duration::from_secs(20);
        while meant.found().len() < 3 {
            assert!(Instant::now() < until, "{:?}", meant.found());
            pause();
        }
        let all = meant.found();
        hang_up(&meant);
        shell.wait().unwrap();
        assert!(all.iter().all(|process| !process.is_alive()), "{all:?}");
    }

    #[test]
    fn of_no_container_nothing_is_found() {
        let container = "0123456789abcdef-nosuch".to_owned();
        let marked = Meant::Marked { container: container.clone(), mark: "PATH=/".into(), leader: None };
        assert!(marked.found().is_empty());
        assert!(Meant::Container(container).found().is_empty());
    }
}
