//! Whose a process is that uses a GPU: by its cgroup, by the container that the cgroup names, or by descent from a shim.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use skerry_gpu_model::Process;
use skerry_gpu_model::attribution::{Container, Owner, owner};
use skerry_model::InstanceName;
use tokio::sync::watch;

use crate::runtime::process::{Top, cgroup_name, tops};
use crate::shim::procfs::Stat;

/// For so many looks it is remembered that a process is nobody's: it may have been seen before its instance was written down.
const NOBODYS_LOOKS: u32 = 4;
/// Most of a command that is told.
const COMMAND_BYTES_MAX: usize = 64;

/// The containers of instances, by id: as the runtime saw them last.
pub(crate) type Containers = BTreeMap<String, InstanceName>;

/// Says whose processes are, and remembers it for as long as a process is the same.
pub(super) struct Owners {
    containers: watch::Receiver<Arc<Containers>>,
    /// How often these changed.
    version: u64,
    /// Where the instances are that run as processes.
    instances: PathBuf,
    ours: Ours,
    known: BTreeMap<u32, Known>,
}

/// Which cgroups are those of the instances that this agent runs as processes.
struct Ours {
    /// What they are below.
    agent: String,
    /// Ids of the containers that the agent itself is in, the outermost first.
    within: Vec<String>,
}

impl Ours {
    fn new(instances: &Path) -> Self {
        let around = match owner(&cgroup_of("self")) {
            Owner::Containers(all) => all,
            Owner::Process(cgroup) => cgroup.within,
            Owner::Machine => Vec::new(),
        };
        Self { agent: cgroup_name(instances), within: around.into_iter().map(|one| one.id).collect() }
    }

    /// Whether the agent is in these containers too. It may be in others within them: where it sees the machine's cgroups, it makes its own there.
    fn is_within(&self, around: &[Container]) -> bool {
        around.len() <= self.within.len() && around.iter().zip(&self.within).all(|(one, id)| one.id == *id)
    }

    /// Whose a process with this `/proc/<pid>/cgroup` is, by that alone.
    fn instance(&self, text: &str, containers: &Containers, tops: &[Top]) -> Option<InstanceName> {
        let of_container = |all: &[Container]| {
            // A container may run others within it; the outermost that is an instance's counts.
            all.iter().find_map(|container| containers.get(&container.id).cloned())
        };
        match owner(text) {
            // Whoever is in a container can make cgroups below its own, and name them as ours are: that one counts, and not what was made in it.
            Owner::Process(cgroup) if !self.is_within(&cgroup.within) => of_container(&cgroup.within),
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
    /// Where it is nobody's: by which containers, and for how many more looks that counts.
    version: u64,
    looks_left: u32,
}

impl Known {
    /// Whether a process that started then still need not be asked whose it is.
    fn counts(&mut self, started: u64, version: u64) -> bool {
        if self.started != started || !self.instance.is_empty() {
            return self.started == started;
        }
        let is_fresh = self.version == version && self.looks_left > 0;
        self.looks_left = self.looks_left.saturating_sub(1);
        is_fresh
    }
}

impl Owners {
    pub(super) fn new(containers: watch::Receiver<Arc<Containers>>, instances: PathBuf) -> Self {
        let ours = Ours::new(&instances);
        Self { containers, version: 0, instances, ours, known: BTreeMap::new() }
    }

    /// Notes of each process whose it is.
    pub(super) fn name(&mut self, processes: &mut [Process]) {
        self.version += u64::from(self.containers.has_changed().unwrap_or(false));
        let containers = Arc::clone(&self.containers.borrow_and_update());
        let mut running = None;
        for process in processes {
            let Some(stat) = i32::try_from(process.pid).ok().and_then(Stat::of) else { continue };
            let known = self.known.get_mut(&process.pid);
            if !known.is_some_and(|known| known.counts(stat.started, self.version)) {
                let tops = running.get_or_insert_with(|| tops(&self.instances));
                let text = cgroup_of(&process.pid.to_string());
                let instance = self.ours.instance(&text, &containers, tops);
                let instance =
                    instance.or_else(|| by_descent(process.pid, tops, |pid| Some(Stat::of(pid)?.parent)));
                let command = if instance.is_none() { command(process.pid) } else { String::new() };
                let instance = instance.map_or_else(String::new, |instance| instance.to_string());
                let (started, version, looks_left) = (stat.started, self.version, NOBODYS_LOOKS);
                self.known.insert(process.pid, Known { started, instance, command, version, looks_left });
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

/// Where there are no cgroups of ours, what descends from an instance's shim, or from its program, is the instance's, however many generations are between
/// them: a bound on these would be one that a program can pass. Each process is looked at once, since ids that are used again meanwhile may go round.
fn by_descent(pid: u32, tops: &[Top], parent: impl Fn(i32) -> Option<i32>) -> Option<InstanceName> {
    let mut seen = BTreeSet::new();
    let mut at = i32::try_from(pid).ok()?;
    while at > 1 && seen.insert(at) {
        if let Some(top) = tops.iter().find(|top| top.pid == at) {
            return Some(top.instance.clone());
        }
        at = parent(at)?;
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
            let within = within.iter().map(|id| (*id).clone()).collect();
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

    #[test]
    fn who_descends_from_an_instance_is_its_whatever_the_generations_between_them() {
        let instance = InstanceName::parse("infer/web/n1/0").unwrap();
        let tops = [Top { instance: instance.clone(), pid: 100 }];
        let is_child_of_the_one_before = |pid: i32| Some(pid - 1);
        assert_eq!(by_descent(100, &tops, is_child_of_the_one_before), Some(instance.clone()));
        assert_eq!(by_descent(4_000, &tops, is_child_of_the_one_before), Some(instance));
        assert_eq!(by_descent(99, &tops, is_child_of_the_one_before), None);
        assert_eq!(by_descent(4_000, &tops, |_| None), None, "one of them is gone");
        assert_eq!(by_descent(7, &tops, |pid| Some(if pid == 7 { 8 } else { 7 })), None, "they go round");
    }

    #[test]
    fn who_was_nobodys_is_asked_again_soon_and_when_containers_change() {
        let dir = tempfile::tempdir().unwrap();
        let (containers_in, containers) = watch::channel(Arc::default());
        let mut owners = Owners::new(containers, dir.path().to_owned());
        let (pid, instance) = (std::process::id(), InstanceName::parse("infer/web/n1/0").unwrap());
        assert_eq!(owners.instance(pid), "");
        crate::gpu::check::stand_for(dir.path(), &instance, pid).unwrap();
        let looks = (1..=100).find(|_| !owners.instance(pid).is_empty()).unwrap();
        assert_eq!((looks, owners.instance(pid)), (NOBODYS_LOOKS + 1, instance.to_string()));

        let mut owners = Owners::new(containers_in.subscribe(), dir.path().join("elsewhere"));
        let mut other =
            std::process::Command::new("cat").stdin(std::process::Stdio::piped()).spawn().unwrap();
        for pid in [pid, other.id()] {
            assert_eq!(owners.instance(pid), "");
        }
        containers_in.send_replace(Arc::default());
        for pid in [pid, other.id()] {
            owners.instance(pid);
            let known = &owners.known[&pid];
            assert_eq!((known.version, known.looks_left), (1, NOBODYS_LOOKS), "each device's processes are");
        }
        drop(other.stdin.take());
        other.wait().unwrap();
    }
}
