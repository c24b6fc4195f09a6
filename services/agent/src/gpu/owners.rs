//! Whose a process is that uses a GPU: by its cgroup, by the container that the cgroup names, or by descent from a shim.

use std::collections::BTreeMap;
use std::fs;
use std::path::PathBuf;
use std::sync::Arc;

use skerry_gpu_model::Process;
use skerry_gpu_model::attribution::{Owner, owner};
use skerry_model::InstanceName;
use tokio::sync::watch;

use crate::runtime::process::{Top, cgroup_name, tops};
use crate::shim::procfs::Stat;

/// Generations that are looked through for a shim. More has no tree of processes that is none to confuse.
const GENERATIONS_MAX: usize = 64;
/// Most of a command that is told.
const COMMAND_BYTES_MAX: usize = 64;

/// The containers of instances, by id: as the runtime saw them last.
pub(crate) type Containers = BTreeMap<String, InstanceName>;

/// Says whose processes are, and remembers it for as long as a process is the same.
pub(super) struct Owners {
    containers: watch::Receiver<Arc<Containers>>,
    /// Where the instances are that run as processes.
    instances: PathBuf,
    /// What their cgroups are below.
    cgroups: String,
    known: BTreeMap<u32, Known>,
}

struct Known {
    /// When it started: a number that was used again is another process.
    started: u64,
    instance: String,
    command: String,
}

impl Owners {
    pub(super) fn new(containers: watch::Receiver<Arc<Containers>>, instances: PathBuf) -> Self {
        let cgroups = cgroup_name(&instances);
        Self { containers, instances, cgroups, known: BTreeMap::new() }
    }

    /// Notes of each process whose it is.
    pub(super) fn name(&mut self, processes: &mut [Process]) {
        // A container that was not known when its process was first seen may be now.
        let anew = self.containers.has_changed().unwrap_or(false);
        let containers = Arc::clone(&self.containers.borrow_and_update());
        let mut running = None;
        for process in processes {
            let Some(stat) = i32::try_from(process.pid).ok().and_then(Stat::of) else { continue };
            let known = self.known.get(&process.pid).filter(|known| known.started == stat.started);
            let is_settled = known.is_some_and(|known| !known.instance.is_empty() || !anew);
            if !is_settled {
                let tops = running.get_or_insert_with(|| tops(&self.instances));
                let instance = instance_of(process.pid, &stat, &containers, tops, &self.cgroups);
                let command = if instance.is_none() { command(process.pid) } else { String::new() };
                let instance = instance.map_or_else(String::new, |instance| instance.to_string());
                self.known.insert(process.pid, Known { started: stat.started, instance, command });
            }
            if let Some(known) = self.known.get(&process.pid) {
                process.instance.clone_from(&known.instance);
                process.command.clone_from(&known.command);
            }
        }
    }

    /// Whose a process is; empty: nobody's of whom is known.
    pub(super) fn instance(&mut self, pid: u32) -> String {
        let mut process = [Process { pid, ..Process::default() }];
        self.name(&mut process);
        let [process] = process;
        process.instance
    }

    /// Forgets processes that are gone.
    pub(super) fn forget(&mut self, is_there: impl Fn(u32) -> bool) {
        self.known.retain(|pid, _| is_there(*pid));
    }
}

fn instance_of(
    pid: u32,
    stat: &Stat,
    containers: &Containers,
    tops: &[Top],
    cgroups: &str,
) -> Option<InstanceName> {
    let text = fs::read_to_string(format!("/proc/{pid}/cgroup")).unwrap_or_default();
    let by_cgroup = match owner(&text) {
        Owner::Process(cgroup) if cgroup.agent != cgroups => None,
        Owner::Process(cgroup) => {
            tops.iter().find(|top| cgroup.is_of(&top.instance)).map(|top| top.instance.clone())
        }
        // A container may run others within it; the outermost that is an instance's counts.
        Owner::Containers(all) => all.iter().find_map(|container| containers.get(&container.id).cloned()),
        Owner::Machine => None,
    };
    by_cgroup.or_else(|| by_descent(pid, stat, tops))
}

/// Where there are no cgroups of ours, what descends from an instance's shim, or from its program, is the instance's.
fn by_descent(pid: u32, stat: &Stat, tops: &[Top]) -> Option<InstanceName> {
    let (mut at, mut parent) = (i32::try_from(pid).ok()?, stat.parent);
    for _ in 0..GENERATIONS_MAX {
        if let Some(top) = tops.iter().find(|top| top.pid == at) {
            return Some(top.instance.clone());
        }
        if parent <= 1 {
            return None;
        }
        at = parent;
        parent = Stat::of(at)?.parent;
    }
    None
}

/// The program of a process that is nobody's. Its arguments stay out of it: they may hold what is secret.
fn command(pid: u32) -> String {
    let name = fs::read_to_string(format!("/proc/{pid}/comm")).unwrap_or_default();
    let name = name.trim_end();
    name[..name.floor_char_boundary(COMMAND_BYTES_MAX)].to_owned()
}
