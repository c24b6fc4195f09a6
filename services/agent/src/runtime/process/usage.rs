//! What processes have used, as `/proc` has it: of an instance all that descends from its shim, or from its program where the shim was killed.

use std::collections::BTreeMap;
use std::fs;
use std::io;
use std::path::Path;

use skerry_model::{AppName, InstanceName};

use super::inspect::{Phase, View};
use super::layout;
use crate::machine;
use crate::runtime::usage::{Counts, Used};
use crate::shim::procfs::{self, Stat};

/// The limit of a cgroup's memory: cgroup 2, and 1.
const LIMITS: [&str; 2] = ["memory.max", "memory.limit_in_bytes"];
const NANOS_PER_SECOND: u64 = 1_000_000_000;

/// The process from which all of an instance's descend: its shim, or its program where the shim was killed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Top {
    /// Which instance.
    pub(crate) instance: InstanceName,
    /// Its process id.
    pub(crate) pid: i32,
}

/// Of the instances below `root` that run.
pub(super) fn tops(root: &Path, boot: &str) -> io::Result<Vec<Top>> {
    let top = |(instance, dir): (InstanceName, std::path::PathBuf)| {
        let pid = match View::of(&dir, boot).ok()??.phase {
            Phase::Running { shim, .. } => shim.pid,
            Phase::Orphaned { program, .. } => program.pid,
            Phase::Made | Phase::Starting { .. } | Phase::Ending { .. } | Phase::Ended { .. } => return None,
        };
        Some(Top { instance, pid })
    };
    Ok(layout::scan(root)?.into_iter().filter_map(top).collect())
}

/// Of the instances below `root` that run. `machine_bytes`: all memory; a limit of as much is none.
pub(super) fn count(
    root: &Path,
    boot: &str,
    app: Option<&AppName>,
    machine_bytes: u64,
) -> io::Result<Vec<Used>> {
    let mut running = Vec::new();
    for (instance, dir) in layout::scan(root)? {
        if app.is_some_and(|app| instance.app != *app) {
            continue;
        }
        // One that cannot be read is told of where instances are looked at.
        let Ok(Some(view)) = View::of(&dir, boot) else { continue };
        let (top, program, is_shim) = match view.phase {
            Phase::Running { shim, program, .. } => (shim.pid, program, true),
            Phase::Orphaned { program, .. } => (program.pid, program, false),
            Phase::Made | Phase::Starting { .. } | Phase::Ending { .. } | Phase::Ended { .. } => continue,
        };
        let cgroups = view.launch.map(|launch| launch.cgroups).unwrap_or_default();
        running.push((instance, program, top, is_shim, cgroups));
    }
    if running.is_empty() {
        return Ok(Vec::new());
    }
    let family = Family::of_machine();
    Ok(running
        .into_iter()
        .map(|(instance, program, top, is_shim, cgroups)| {
            let below = family.below(top);
            let counts = Counts {
                cpu_nanos: family.cpu_nanos(top, &below, is_shim),
                memory_bytes: memory(below.iter().copied().chain((!is_shim).then_some(top))),
                memory_limit_bytes: limit(&cgroups).filter(|limit| *limit < machine_bytes),
                processes: u64::try_from(below.len() + usize::from(!is_shim)).ok(),
                network: None,
            };
            Used { instance, runtime_id: program.pid.to_string(), counts }
        })
        .collect())
}

/// All processes, and who is whose child.
struct Family {
    stats: BTreeMap<i32, Stat>,
    children: BTreeMap<i32, Vec<i32>>,
}

impl Family {
    fn of_machine() -> Self {
        Self::of(procfs::all_pids().into_iter().filter_map(|pid| Some((pid, Stat::of(pid)?))).collect())
    }

    fn of(stats: BTreeMap<i32, Stat>) -> Self {
        let mut children: BTreeMap<i32, Vec<i32>> = BTreeMap::new();
        for (pid, stat) in &stats {
            children.entry(stat.parent).or_default().push(*pid);
        }
        Self { stats, children }
    }

    /// All that descend from a process.
    fn below(&self, top: i32) -> Vec<i32> {
        let mut found: Vec<i32> = Vec::new();
        let mut next = vec![top];
        while let Some(pid) = next.pop() {
            // A list that was read while processes came and went may hold a circle.
            let children = self.children.get(&pid).into_iter().flatten().copied();
            let new: Vec<i32> = children.filter(|pid| *pid != top && !found.contains(pid)).collect();
            found.extend(&new);
            next.extend(new);
        }
        found
    }

    /// What they and those that they have waited for have used. Of a shim only the latter is the instance's.
    fn cpu_nanos(&self, top: i32, below: &[i32], is_shim: bool) -> Option<u64> {
        let top = self.stats.get(&top)?;
        let own = if is_shim { 0 } else { top.own_ticks };
        let each = below.iter().filter_map(|pid| self.stats.get(pid));
        let ticks: u64 = each.map(|stat| stat.own_ticks + stat.waited_ticks).sum();
        let ticks = ticks + own + top.waited_ticks;
        Some(ticks.saturating_mul(NANOS_PER_SECOND / rustix::param::clock_ticks_per_second().max(1)))
    }
}

fn memory(pids: impl Iterator<Item = i32>) -> Option<u64> {
    let each: Vec<u64> = pids.filter_map(memory_of).collect();
    (!each.is_empty()).then(|| each.iter().sum())
}

/// Of shared pages a share; where the kernel does not tell that, all that is resident.
fn memory_of(pid: i32) -> Option<u64> {
    let read = |file: &str| fs::read_to_string(format!("/proc/{pid}/{file}")).ok();
    let shared = read("smaps_rollup").and_then(|text| machine::memory_of(&text, "Pss:"));
    shared.or_else(|| machine::memory_of(&read("status")?, "VmRSS:")).and_then(|bytes| bytes.try_into().ok())
}

fn limit(cgroups: &[String]) -> Option<u64> {
    let files = cgroups.iter().flat_map(|dir| LIMITS.map(|name| Path::new(dir).join(name)));
    files.filter_map(|file| fs::read_to_string(file).ok()?.trim().parse().ok()).min()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn stat(parent: i32, own_ticks: u64, waited_ticks: u64) -> Stat {
        let text =
            format!("1 (x) S {parent} 7 7 0 -1 0 0 0 0 0 {own_ticks} 0 {waited_ticks} 0 20 0 1 0 42 1 1 1");
        Stat::parse(&text).unwrap()
    }

    #[test]
    fn what_descends_from_a_shim_is_the_instances_and_the_shim_is_not() {
        let family = Family::of(BTreeMap::from([
            (2, stat(1, 5, 7)),
            (3, stat(2, 11, 13)),
            (4, stat(3, 17, 19)),
            (9, stat(1, 100, 100)),
        ]));
        let below = family.below(2);
        assert_eq!(below, [3, 4]);
        let tick = NANOS_PER_SECOND / rustix::param::clock_ticks_per_second();
        assert_eq!(family.cpu_nanos(2, &below, true), Some((7 + 11 + 13 + 17 + 19) * tick));
        assert_eq!(family.cpu_nanos(3, &family.below(3), false), Some((11 + 13 + 17 + 19) * tick));
        assert_eq!(family.cpu_nanos(5, &[], true), None, "gone");
        let circle = Family::of(BTreeMap::from([(2, stat(3, 0, 0)), (3, stat(2, 0, 0))]));
        assert_eq!(circle.below(2), [3]);
    }

    #[test]
    fn this_process_has_memory() {
        let me = i32::try_from(std::process::id()).unwrap();
        assert!(memory([me].into_iter()).unwrap() > 100 * 1024);
        assert_eq!(memory([].into_iter()), None);
        assert_eq!(machine::memory_of("Rss: 1 kB\nPss:   12 kB\n", "Pss:"), Some(12 * 1024));
    }
}
