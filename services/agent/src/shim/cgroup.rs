//! The cgroups of an instance, once they are made: ending what is in them, and what the kernel says of them.
//!
//! An instance has one directory in each hierarchy that holds it: one with cgroup 2, one for each limit with cgroup 1. Making them is
//! `runtime::process::cgroup`'s.

use std::collections::BTreeSet;
use std::fs;
use std::io;
use std::path::Path;

use rustix::process::{Pid, PidfdFlags, Signal, kill_process, pidfd_open, pidfd_send_signal};

/// The file that lists a cgroup's processes; who writes 0 to it enters.
pub(crate) const PROCS: &str = "cgroup.procs";
/// The file that kills all of them (cgroup 2, from Linux 5.14).
const KILL: &str = "cgroup.kill";
/// Where the count of kills for want of memory is: cgroup 2, and 1.
const OOM_FILES: [&str; 2] = ["memory.events", "memory.oom_control"];

/// Makes this process, and what it starts from now on, part of the cgroup.
pub(crate) fn enter(dir: &Path) -> io::Result<()> {
    fs::write(dir.join(PROCS), "0")
}

/// Whether anything is in one of them.
pub(crate) fn is_populated(dirs: &[String]) -> bool {
    dirs.iter().any(|dir| !pids(Path::new(dir)).is_empty())
}

/// Kills what is in them. What forks meanwhile may be left: the caller looks again.
pub(crate) fn kill(dirs: &[String]) {
    for dir in dirs.iter().map(Path::new) {
        if dir.join(KILL).exists() && fs::write(dir.join(KILL), "1").is_ok() {
            continue;
        }
        // Held before it is looked again, so that no id that was used again is killed.
        let held: Vec<_> = pids(dir)
            .into_iter()
            .filter_map(|pid| Some((pid, pidfd_open(Pid::from_raw(pid)?, PidfdFlags::empty()))))
            .collect();
        let still = pids(dir);
        for (pid, held) in held.into_iter().filter(|(pid, _)| still.contains(pid)) {
            let _ = match (held, Pid::from_raw(pid)) {
                (Ok(held), _) => pidfd_send_signal(held, Signal::KILL),
                (Err(rustix::io::Errno::NOSYS), Some(pid)) => kill_process(pid, Signal::KILL),
                (Err(_), _) => Ok(()),
            };
        }
    }
}

/// Takes empty ones away, and the parents that they were the last in. One that is not empty stays.
pub(crate) fn remove(dirs: &[String]) {
    for dir in dirs.iter().map(Path::new) {
        let _ = fs::remove_dir(dir);
        for parent in dir.ancestors().skip(1).take(2) {
            let _ = fs::remove_dir(parent);
        }
    }
}

/// Whether something in them was killed because their memory was used up.
pub(crate) fn out_of_memory(dirs: &[String]) -> bool {
    let files = dirs.iter().flat_map(|dir| OOM_FILES.map(|name| Path::new(dir).join(name)));
    files.filter_map(|file| fs::read_to_string(file).ok()).any(|text| kills(&text) > 0)
}

fn kills(text: &str) -> u64 {
    let count = text.lines().find_map(|line| line.strip_prefix("oom_kill "));
    count.and_then(|count| count.trim().parse().ok()).unwrap_or(0)
}

fn pids(dir: &Path) -> BTreeSet<i32> {
    let text = fs::read_to_string(dir.join(PROCS)).unwrap_or_default();
    text.lines().filter_map(|line| line.parse().ok()).filter(|pid| *pid > 0).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn kills_are_counted_in_both_forms() {
        assert_eq!(kills("low 0\noom 3\noom_kill 2\noom_group_kill 0\n"), 2);
        assert_eq!(kills("oom_kill_disable 0\nunder_oom 0\noom_kill 1\n"), 1);
        assert_eq!(kills("oom_kill_disable 1\nunder_oom 0\n"), 0);
    }
}
