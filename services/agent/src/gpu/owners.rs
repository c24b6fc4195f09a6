//! Whose a process is that uses a GPU: by its cgroup, by the container that the cgroup names, or by descent from a shim.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use skerry_gpu_model::Process;
use skerry_gpu_model::attribution::{Container, Owner, owner};
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
    ours: Ours,
    known: BTreeMap<u32, Known>,
}

/// Which cgroups are those of the instances that this agent runs as processes.
struct Ours {
    /// What they are below.
    agent: String,
    /// The containers that the agent itself is in.
    within: Vec<Container>,
}

impl Ours {
    fn new(instances: &Path) -> Self {
        let within = match owner(&cgroup_of("self")) {
            Owner::Containers(all) => all,
            Owner::Process(cgroup) => cgroup.within,
            Owner::Machine => Vec::new(),
        };
        Self { agent: cgroup_name(instances), within }
    }

    /// Whose a process with this `/proc/<pid>/cgroup` is, by that alone.
    fn instance(&self, text: &str, containers: &Containers, tops: &[Top]) -> Option<InstanceName> {
        let of_container = |all: &[Container]| {
            // A container may run others within it; the outermost that is an instance's counts.
            all.iter().find_map(|container| containers.get(&container.id).cloned())
        };
        match owner(text) {
            // Whoever is in a container can make cgroups below its own, and name them as ours are: that one counts, and not what was made in it.
            Owner::Process(cgroup) if !self.within.starts_with(&cgroup.within) => {
                of_container(&cgroup.within)
            }
            Owner::Process(cgroup) if cgroup.agent != self.agent => None,
            Owner::Process(cgroup) => {
                tops.iter().find(|top| cgroup.is_of(&top.instance)).map(|top| top.instance.clone())
            }
            Owner::Containers(all) => of_container(&all),
            Owner::Machine => None,
        }
    }
}

struct Known {
    /// When it started: a number that was used again is another process.
    started: u64,
    instance: String,
    command: String,
}

impl Owners {
    pub(super) fn new(containers: watch::Receiver<Arc<Containers>>, instances: PathBuf) -> Self {
        let ours = Ours::new(&instances);
        Self { containers, instances, ours, known: BTreeMap::new() }
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
                let text = cgroup_of(&process.pid.to_string());
                let instance = self.ours.instance(&text, &containers, tops);
                let instance = instance.or_else(|| by_descent(process.pid, &stat, tops));
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

fn cgroup_of(process: &str) -> String {
    fs::read_to_string(format!("/proc/{process}/cgroup")).unwrap_or_default()
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

#[cfg(test)]
mod tests {
    use skerry_gpu_model::attribution::leaf;

    use super::*;

    #[test]
    fn a_cgroup_that_a_container_made_up_is_the_containers() {
        let name = |text: &str| InstanceName::parse(text).unwrap();
        let (victim, other) = (name("infer/web/n1/0"), name("infer/batch/n1/0"));
        let [a, b, c] = ["a", "b", "c"].map(|digit| digit.repeat(64));
        let containers = Containers::from([(b.clone(), other.clone())]);
        let tops = [Top { instance: victim.clone(), pid: 7 }];
        let agent = "0123456789ab";
        let ours = format!("/skerry/{agent}/{}", leaf(&victim));
        let whose = |within: &[&String], path: &str| {
            let within =
                match owner(&within.iter().map(|id| format!("0::/docker/{id}\n")).collect::<String>()) {
                    Owner::Containers(all) => all,
                    Owner::Process(_) | Owner::Machine => Vec::new(),
                };
            let ours = Ours { agent: agent.to_owned(), within };
            ours.instance(&format!("0::{path}\n"), &containers, &tops)
        };
        assert_eq!(whose(&[], &ours), Some(victim.clone()));
        assert_eq!(whose(&[], &format!("{ours}/below")), Some(victim.clone()));
        // A container's own process that calls its cgroup so.
        assert_eq!(whose(&[], &format!("/docker/{b}{ours}")), Some(other.clone()));
        assert_eq!(whose(&[], &format!("/docker/{c}{ours}")), None, "of nobody who is known");
        // An agent in a container: with the machine's cgroups, or its own.
        assert_eq!(whose(&[&a], &ours), Some(victim.clone()));
        assert_eq!(whose(&[&a], &format!("/docker/{a}{ours}")), Some(victim.clone()));
        assert_eq!(whose(&[&a], &format!("/docker/{a}/docker/{b}{ours}")), Some(other));
        assert_eq!(whose(&[&a], &ours.replace(agent, "ba9876543210")), None, "of another agent");
        // What one instance makes below its own cgroup stays its own.
        let forged = ours.replace(&leaf(&victim), &leaf(&name("infer/batch/n1/1")));
        assert_eq!(whose(&[], &format!("{ours}{forged}")), Some(victim));
    }
}
