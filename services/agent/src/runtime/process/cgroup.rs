//! Making the cgroups of an instance and setting its limits, as far as the machine allows.
//!
//! They are at `<hierarchy>/skerry/<agent>/<instance>`, not below the agent's own, so that what holds the agent down or ends it does not
//! reach them. With cgroup 2 one directory holds all limits; where controllers are mounted as cgroup 1, each limit has one of its
//! own. A directory without limits is made too where that is possible: by it everything of an instance is found when it ends.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use skerry_model::InstanceName;
use skerry_model::app::Amounts;

use crate::shim::cgroup::{kill, remove};

/// Below which all cgroups are.
const ROOT: &str = "skerry";
/// What is limited, by the names of controllers.
const CONTROLLERS: [&str; 3] = ["memory", "cpu", "pids"];
/// Over which a share of the processors is counted, in microseconds. Shares too small for the first are counted over the second.
const PERIODS_US: (u64, u64) = (100_000, 1_000_000);
/// The least that the kernel takes as a share, in thousandths of a processor, over the first period.
const SHARE_MIN: u64 = 10;
/// How often a directory is made again when somebody else's removal takes its parent away.
const MAKE_TRIES_MAX: usize = 5;

/// Where the hierarchies are.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Hierarchies {
    v2: Option<PathBuf>,
    v1: Vec<(&'static str, PathBuf)>,
}

/// What was made.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Made {
    pub(super) dirs: Vec<String>,
    /// Limits that do not hold.
    pub(super) warnings: Vec<String>,
}

impl Hierarchies {
    /// Those of this machine.
    pub(super) fn of_machine() -> Self {
        Self::parse(&fs::read_to_string("/proc/self/mounts").unwrap_or_default())
    }

    /// From lines as in proc_pid_mounts(5).
    fn parse(mounts: &str) -> Self {
        let mut found = Self::default();
        for line in mounts.lines() {
            let [_, path, kind, options, ..] = line.split(' ').collect::<Vec<_>>()[..] else { continue };
            match kind {
                "cgroup2" if found.v2.is_none() => found.v2 = Some(PathBuf::from(path)),
                "cgroup" => {
                    let here =
                        CONTROLLERS.into_iter().filter(|name| options.split(',').any(|one| one == *name));
                    found.v1.extend(here.map(|name| (name, PathBuf::from(path))));
                }
                _ => {}
            }
        }
        found
    }

    fn v1(&self, controller: &str) -> Option<&PathBuf> {
        self.v1.iter().find(|(name, _)| *name == controller).map(|(_, path)| path)
    }

    fn v2_has(&self, controller: &str) -> bool {
        let read = |path: &PathBuf| fs::read_to_string(path.join("cgroup.controllers")).unwrap_or_default();
        self.v2.as_ref().map(read).is_some_and(|all| all.split_whitespace().any(|name| name == controller))
    }

    /// Makes the cgroups of an instance that does not run, anew. `agent` tells this agent's from another one's.
    pub(super) fn make(&self, agent: &str, instance: &InstanceName, limits: Amounts) -> Made {
        let mut made = Made::default();
        let leaf = leaf(instance);
        let wanted = [
            ("memory", limits.memory_bytes.is_some()),
            ("cpu", limits.cpu_millis.is_some()),
            ("pids", limits.pids.is_some()),
        ];
        let unified = self.v2.as_ref().and_then(|mount| make_v2(mount, agent, &leaf).ok());
        made.dirs.extend(unified.iter().map(|dir| dir.display().to_string()));
        for (controller, wanted) in wanted {
            let held = match (self.v1(controller), &unified) {
                (Some(_), Some(_)) if !wanted => continue,
                // Nothing is limited by it: it is only by which processes are found.
                (Some(_), None) if !wanted && controller != "pids" => continue,
                (Some(mount), _) => make_dir(mount, agent, &leaf).and_then(|dir| {
                    made.dirs.push(dir.display().to_string());
                    set_v1(&dir, controller, limits)
                }),
                (None, Some(dir)) if wanted && self.v2_has(controller) => set_v2(dir, controller, limits),
                (None, None) if wanted && self.v2_has(controller) => {
                    Err(io::Error::other("the agent may not make cgroups on this machine"))
                }
                (None, _) => Err(io::Error::other("no cgroup hierarchy of this machine has it")),
            };
            if let (true, Err(error)) = (wanted, held) {
                made.warnings.push(format!("its limit on {controller} does not hold: {error}"));
            }
        }
        made
    }
}

/// The directory of an instance: readable as far as its length allows, and one for each.
fn leaf(instance: &InstanceName) -> String {
    let hash = blake3::hash(instance.to_string().as_bytes()).to_hex();
    format!("{}.{}.{}-{}", instance.app, instance.service, instance.ordinal, &hash[..12])
}

fn make_v2(mount: &Path, agent: &str, leaf: &str) -> io::Result<PathBuf> {
    let dir = make_dir(mount, agent, leaf)?;
    for parent in [mount.to_owned(), mount.join(ROOT), mount.join(ROOT).join(agent)] {
        for controller in CONTROLLERS {
            // What the machine does not let through shows when the limit is set.
            let _ = fs::write(parent.join("cgroup.subtree_control"), format!("+{controller}"));
        }
    }
    Ok(dir)
}

/// Makes it anew, since it counts: what was killed in it belongs to the run before.
fn make_dir(mount: &Path, agent: &str, leaf: &str) -> io::Result<PathBuf> {
    let dir = mount.join(ROOT).join(agent).join(leaf);
    if dir.is_dir() {
        let old = [dir.display().to_string()];
        kill(&old);
        remove(&old);
    }
    for _ in 1..MAKE_TRIES_MAX {
        match fs::create_dir_all(&dir) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            made => return made.map_err(|error| in_words(&dir, &error)).map(|()| dir),
        }
    }
    fs::create_dir_all(&dir).map(|()| dir)
}

fn set(dir: &Path, file: &str, value: &str) -> io::Result<()> {
    let path = dir.join(file);
    fs::write(&path, value).map_err(|error| in_words(&path, &error))
}

fn in_words(path: &Path, error: &io::Error) -> io::Error {
    io::Error::new(error.kind(), format!("{}: {error}", path.display()))
}

/// Share and period in microseconds.
fn share(millis: u64) -> (u64, u64) {
    let period = if millis < SHARE_MIN { PERIODS_US.1 } else { PERIODS_US.0 };
    (millis * period / 1000, period)
}

fn set_v2(dir: &Path, controller: &str, limits: Amounts) -> io::Result<()> {
    match controller {
        "memory" => {
            set(dir, "memory.max", &limits.memory_bytes.unwrap_or(0).to_string())?;
            // Not there where the kernel has no swap.
            match set(dir, "memory.swap.max", &limits.swap_bytes.unwrap_or(0).to_string()) {
                Err(error) if error.kind() == io::ErrorKind::NotFound && limits.swap_bytes.is_none() => {
                    Ok(())
                }
                done => done,
            }
        }
        "cpu" => {
            let (share, period) = share(limits.cpu_millis.unwrap_or(0));
            set(dir, "cpu.max", &format!("{share} {period}"))
        }
        _ => set(dir, "pids.max", &limits.pids.unwrap_or(0).to_string()),
    }
}

fn set_v1(dir: &Path, controller: &str, limits: Amounts) -> io::Result<()> {
    match (controller, limits.memory_bytes, limits.cpu_millis, limits.pids) {
        ("memory", Some(bytes), ..) => {
            set(dir, "memory.limit_in_bytes", &bytes.to_string())?;
            let both = bytes.saturating_add(limits.swap_bytes.unwrap_or(0));
            // Not there where the kernel does not count swap.
            match set(dir, "memory.memsw.limit_in_bytes", &both.to_string()) {
                Err(error) if error.kind() == io::ErrorKind::NotFound && limits.swap_bytes.is_none() => {
                    Ok(())
                }
                done => done,
            }
        }
        ("cpu", _, Some(millis), _) => {
            let (share, period) = share(millis);
            set(dir, "cpu.cfs_period_us", &period.to_string())?;
            set(dir, "cpu.cfs_quota_us", &share.to_string())
        }
        ("pids", _, _, Some(pids)) => set(dir, "pids.max", &pids.to_string()),
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hierarchies_of_both_kinds_are_found() {
        let mounts = "tmpfs /sys/fs/cgroup tmpfs rw 0 0\n\
            cgroup /sys/fs/cgroup/cpu,cpuacct cgroup rw,relatime,cpu,cpuacct 0 0\n\
            cgroup /sys/fs/cgroup/cpuset cgroup rw,relatime,cpuset 0 0\n\
            cgroup2 /sys/fs/cgroup/unified cgroup2 rw,relatime 0 0\n";
        let found = Hierarchies::parse(mounts);
        assert_eq!(found.v2, Some("/sys/fs/cgroup/unified".into()));
        assert_eq!(found.v1, [("cpu", "/sys/fs/cgroup/cpu,cpuacct".into())]);
        assert_eq!(Hierarchies::parse("nonsense\n"), Hierarchies::default());
    }

    #[test]
    fn a_limit_that_no_hierarchy_holds_is_told_and_others_are_not() {
        let limits = Amounts { memory_bytes: Some(1 << 20), ..Amounts::default() };
        let name = InstanceName::parse("a/b/c/0").unwrap();
        let made = Hierarchies::default().make("x", &name, limits);
        assert!(made.dirs.is_empty());
        assert_eq!(made.warnings.len(), 1);
        assert!(made.warnings[0].contains("memory"), "{made:?}");
        assert_eq!(Hierarchies::default().make("x", &name, Amounts::default()), Made::default());
    }

    #[test]
    fn shares_are_such_that_the_kernel_takes_them() {
        assert_eq!(share(1500), (150_000, 100_000));
        assert_eq!(share(10), (1000, 100_000));
        assert_eq!(share(1), (1000, 1_000_000));
    }
}
