//! Which process is meant: a process id and when it started, so that an id that was used again is not mistaken for the old process.

use std::fs;

use rustix::process::Pid;

/// A process of this boot.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct ProcessId {
    /// Process id; positive.
    pub(crate) pid: i32,
    /// When it started, in clock ticks since boot: field 22 of `/proc/<pid>/stat`.
    pub(crate) started: u64,
}

/// What `/proc/<pid>/stat` says, as far as it matters here (proc_pid_stat(5)).
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Stat {
    /// One letter; `Z` for a zombie.
    state: char,
    /// Parent.
    pub(crate) parent: i32,
    /// Process group.
    pub(crate) group: i32,
    pub(crate) session: i32,
    threads: u32,
    /// Processor time that it has used, in clock ticks: in user and kernel mode.
    pub(crate) own_ticks: u64,
    /// The same of those that ended below it and were waited for.
    pub(crate) waited_ticks: u64,
    /// Start time in clock ticks since boot.
    pub(crate) started: u64,
}

impl Stat {
    pub(crate) fn of(pid: i32) -> Option<Self> {
        Self::parse(&fs::read_to_string(format!("/proc/{pid}/stat")).ok()?)
    }

    /// The name, field 2, is in parentheses and may hold anything, parentheses and blanks included: count from the last one.
    pub(crate) fn parse(stat: &str) -> Option<Self> {
        let fields: Vec<&str> = stat.rsplit_once(')')?.1.split_whitespace().collect();
        let field = |n: usize| fields.get(n - 3).copied();
        let number = |n: usize| field(n)?.parse::<u64>().ok();
        Some(Self {
            state: field(3)?.chars().next()?,
            parent: field(4)?.parse().ok()?,
            group: field(5)?.parse().ok()?,
            session: field(6)?.parse().ok()?,
            threads: field(20)?.parse().ok()?,
            own_ticks: number(14)?.saturating_add(number(15)?),
            // The kernel's counts of these are signed.
            waited_ticks: number(16).unwrap_or(0).saturating_add(number(17).unwrap_or(0)),
            started: number(22)?,
        })
    }

    /// Whether it runs no more. A process whose first thread has ended while others run looks like a zombie with more than one thread.
    pub(crate) fn is_dead(&self) -> bool {
        match self.state {
            'Z' => self.threads <= 1,
            'X' | 'x' => true,
            _ => false,
        }
    }
}

impl ProcessId {
    /// The process that has this id now, be it a zombie.
    pub(crate) fn of(pid: i32) -> Option<Self> {
        Stat::of(pid).map(|stat| Self { pid, started: stat.started })
    }

    /// Whether it still runs.
    pub(crate) fn is_alive(self) -> bool {
        Stat::of(self.pid).is_some_and(|stat| stat.started == self.started && !stat.is_dead())
    }

    pub(crate) fn as_pid(self) -> Option<Pid> {
        Pid::from_raw(self.pid)
    }
}

/// The ids of all processes that can be seen.
pub(crate) fn all_pids() -> Vec<i32> {
    let Ok(entries) = fs::read_dir("/proc") else { return Vec::new() };
    entries.filter_map(|entry| entry.ok()?.file_name().to_str()?.parse().ok()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_with_parentheses_does_not_shift_the_fields() {
        let stat = "12 (a) b) Z) S 7 12 12 0 -1 4194304 1 0 0 0 3 4 5 6 20 0 3 0 4242 1 1 1";
        assert_eq!(
            Stat::parse(stat),
            Some(Stat {
                state: 'S',
                parent: 7,
                group: 12,
                session: 12,
                threads: 3,
                own_ticks: 7,
                waited_ticks: 11,
                started: 4242
            })
        );
        assert_eq!(Stat::parse("12 (a) S 7"), None);
        assert_eq!(Stat::parse(""), None);
    }

    #[test]
    fn this_process_is_alive_and_another_start_time_is_not_it() {
        let me = ProcessId::of(std::process::id().try_into().unwrap()).unwrap();
        assert!(me.is_alive());
        assert!(!ProcessId { started: me.started + 1, ..me }.is_alive());
        assert!(all_pids().contains(&me.pid));
    }

    #[test]
    fn a_zombie_is_not_alive() {
        let mut child = std::process::Command::new("true").spawn().unwrap();
        let id = ProcessId::of(child.id().try_into().unwrap()).unwrap();
        let until = std::time::Instant::now() + std::time::Duration::from_secs(10);
        while id.is_alive() {
            assert!(std::time::Instant::now() < until, "`true` ended");
            std::thread::yield_now();
        }
        assert_eq!(ProcessId::of(id.pid), Some(id));
        child.wait().unwrap();
        assert_eq!(ProcessId::of(id.pid), None);
    }
}
