//! Whose a process is: from the text of `/proc/<pid>/cgroup` (cgroups(7)) to containers, or to an instance that Skerry runs as a process.
//!
//! A line is `hierarchy:controllers:path`; with cgroup 2 there is one, `0::path`. A path has a part for each level, the outermost first. What container
//! engines and kubelets name their parts is their habit and no promise of theirs: a part is taken for a container where it is 64 hexadecimal
//! digits, alone or with what they are known to put around it. Nothing here asks an engine; whether a container is one of Skerry's is known to who knows its
//! containers.

use std::fmt;

use skerry_model::InstanceName;

/// Digits of a container's id.
const ID_DIGITS: usize = 64;
/// Below which the cgroups of Skerry's processes are.
const OURS: &str = "skerry";
/// Digits of the hash in the name of an instance's cgroup, and of its agent's.
const HASH_DIGITS: usize = 12;

/// Whose a process is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Owner {
    /// It is in a container, or in one within another: all of them, the outermost first; at least one.
    Containers(Vec<Container>),
    /// It is of an instance that an agent on this machine runs as a process.
    Process(ProcessCgroup),
    /// It is in no container that is known as one.
    Machine,
}

/// A container.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Container {
    /// Its id: 64 hexadecimal digits in small letters.
    pub id: String,
    /// Who runs it, as far as the path tells.
    pub engine: Engine,
}

/// Who runs a container.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Engine {
    /// Docker.
    Docker,
    /// containerd, for a kubelet.
    Containerd,
    /// CRI-O.
    Crio,
    /// Podman.
    Podman,
    /// The path does not tell.
    Unknown,
}

/// The cgroup of an instance that an agent runs as a process: `skerry/<agent>/<app>.<service>.<ordinal>-<hash>`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ProcessCgroup {
    /// Tells agents on one machine apart: 12 hexadecimal digits.
    pub agent: String,
    /// The containers around it: those that its agent is in. Where they are others, a container made up the rest.
    pub within: Vec<Container>,
    leaf: String,
}

impl ProcessCgroup {
    /// Whether it is the cgroup of this instance.
    pub fn is_of(&self, instance: &InstanceName) -> bool {
        self.leaf == leaf(instance)
    }
}

impl fmt::Display for ProcessCgroup {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{OURS}/{}/{}", self.agent, self.leaf)
    }
}

/// The name of an instance's cgroup: readable as far as its length allows, and one for each.
pub fn leaf(instance: &InstanceName) -> String {
    let hash = blake3::hash(instance.to_string().as_bytes()).to_hex();
    format!("{}.{}.{}-{}", instance.app, instance.service, instance.ordinal, &hash[..HASH_DIGITS])
}

/// Whose the process is whose `/proc/<pid>/cgroup` has this text. An instance's own cgroup counts before containers around it, since an agent may run in one; of
/// several lines the one that tells of the most containers counts.
pub fn owner(text: &str) -> Owner {
    let mut found = Vec::new();
    for path in text.lines().filter_map(path) {
        if let Some(ours) = process(path) {
            return Owner::Process(ours);
        }
        let containers: Vec<Container> = path.split('/').filter_map(container).collect();
        if containers.len() > found.len() {
            found = containers;
        }
    }
    if found.is_empty() { Owner::Machine } else { Owner::Containers(found) }
}

/// The path of a line. One that the kernel has removed already is marked as such.
fn path(line: &str) -> Option<&str> {
    let path = line.splitn(3, ':').nth(2)?;
    Some(path.strip_suffix(" (deleted)").unwrap_or(path))
}

fn process(path: &str) -> Option<ProcessCgroup> {
    let all: Vec<&str> = path.split('/').collect();
    all.windows(3).enumerate().find_map(|(at, parts)| {
        let [root, agent, leaf] = parts else { return None };
        let (name, hash) = leaf.rsplit_once('-')?;
        let named = name.split('.').count() == 3 && name.split('.').all(|part| !part.is_empty());
        let ours = *root == OURS && is_hex(agent, HASH_DIGITS) && is_hex(hash, HASH_DIGITS) && named;
        ours.then(|| ProcessCgroup {
            agent: (*agent).to_owned(),
            within: all[..at].iter().copied().filter_map(container).collect(),
            leaf: (*leaf).to_owned(),
        })
    })
}

/// The container of one part of a path.
fn container(part: &str) -> Option<Container> {
    // `kubepods-besteffort-pod<uid>.slice:cri-containerd:<id>`: a name for systemd that was not given to it.
    if let Some((rest, id)) = part.rsplit_once(':') {
        let engine = rest.rsplit(':').next().unwrap_or_default();
        return found(id, engine);
    }
    // `docker-<id>.scope`, `cri-containerd-<id>.scope`, `crio-<id>.scope` or, without systemd, `crio-<id>`; `libpod-<id>.scope`. What ends in `-conmon` is the
    // container's guard.
    let unit = part.strip_suffix(".scope").unwrap_or(part);
    match unit.rsplit_once('-') {
        Some((engine, id)) => found(id, engine),
        None => found(unit, ""),
    }
}

fn found(id: &str, engine: &str) -> Option<Container> {
    let engine = match engine {
        "docker" => Engine::Docker,
        "cri-containerd" | "containerd" => Engine::Containerd,
        "crio" => Engine::Crio,
        "libpod" => Engine::Podman,
        "" => Engine::Unknown,
        _ => return None,
    };
    is_hex(id, ID_DIGITS).then(|| Container { id: id.to_owned(), engine })
}

fn is_hex(text: &str, digits: usize) -> bool {
    text.len() == digits && text.bytes().all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f'))
}

#[cfg(test)]
mod tests {
    use super::*;

    const A: &str = "3726184226f5d3147c25fdeab5b60097e378e8a720503a5e19ecfdf29f869860";
    const B: &str = "9ec39b91f3d70e1beff50a308f77067065ea6be0d91a3378375056cd4422cf3d";

    fn containers(text: &str) -> Vec<(String, Engine)> {
        match owner(text) {
            Owner::Containers(containers) => containers.into_iter().map(|one| (one.id, one.engine)).collect(),
            Owner::Process(ours) => panic!("{ours}"),
            Owner::Machine => Vec::new(),
        }
    }

    fn is_in(text: &str, engine: Engine) {
        assert_eq!(containers(text), [(A.to_owned(), engine)], "{text}");
    }

    #[test]
    fn docker_with_either_driver_and_either_version() {
        is_in(&format!("0::/system.slice/docker-{A}.scope\n"), Engine::Docker);
        is_in(&format!("0::/docker/{A}\n"), Engine::Unknown);
        is_in(
            &format!("13:name=systemd:/docker/{A}\n12:pids:/docker/{A}\n1:cpu,cpuacct:/docker/{A}\n"),
            Engine::Unknown,
        );
        is_in(
            &format!(
                "11:devices:/system.slice/docker-{A}.scope\n1:name=systemd:/system.slice/docker-{A}.scope\n0::/system.slice/containerd.service\n"
            ),
            Engine::Docker,
        );
        // Below a parent of the user's choice, rootless, seen from another cgroup namespace, and with cgroups of its own inside.
        is_in(&format!("0::/limits.slice/docker-{A}.scope\n"), Engine::Docker);
        is_in(
            &format!("0::/user.slice/user-1000.slice/user@1000.service/user.slice/docker-{A}.scope\n"),
            Engine::Docker,
        );
        is_in(&format!("0::/../../docker/{A}\n"), Engine::Unknown);
        is_in(&format!("0::/docker/{A}/init\n"), Engine::Unknown);
        is_in(&format!("0::/system.slice/docker-{A}.scope/system.slice/nginx.service\n"), Engine::Docker);
        is_in(&format!("0::/system.slice/docker-{A}.scope (deleted)\n"), Engine::Docker);
    }

    #[test]
    fn kubelets_with_each_engine() {
        let pod = "pod2d53b1ad_9f4c_4d4e_bb2e_6a3c6f5f3a0e";
        is_in(
            &format!(
                "0::/kubepods.slice/kubepods-burstable.slice/kubepods-burstable-{pod}.slice/cri-containerd-{A}.scope\n"
            ),
            Engine::Containerd,
        );
        is_in(
            &format!(
                "0::/kubepods.slice/kubepods-besteffort.slice/kubepods-besteffort-{pod}.slice/crio-{A}.scope\n"
            ),
            Engine::Crio,
        );
        is_in(&format!("0::/kubepods.slice/kubepods-{pod}.slice/docker-{A}.scope\n"), Engine::Docker);
        is_in(
            &format!("10:memory:/kubepods/besteffort/pod2d53b1ad-9f4c-4d4e-bb2e-6a3c6f5f3a0e/{A}\n"),
            Engine::Unknown,
        );
        is_in(
            &format!("10:memory:/kubepods/besteffort/pod2d53b1ad-9f4c-4d4e-bb2e-6a3c6f5f3a0e/crio-{A}\n"),
            Engine::Crio,
        );
        is_in(
            &format!(
                "0::/system.slice/containerd.service/kubepods-besteffort-{pod}.slice:cri-containerd:{A}\n"
            ),
            Engine::Containerd,
        );
    }

    #[test]
    fn podman_and_what_guards_a_container() {
        is_in(&format!("0::/machine.slice/libpod-{A}.scope/container\n"), Engine::Podman);
        assert_eq!(owner(&format!("0::/machine.slice/libpod-conmon-{A}.scope\n")), Owner::Machine);
        assert_eq!(owner(&format!("0::/kubepods.slice/crio-conmon-{A}.scope\n")), Owner::Machine);
    }

    #[test]
    fn of_containers_within_containers_the_outermost_is_first() {
        let both = [(A.to_owned(), Engine::Unknown), (B.to_owned(), Engine::Containerd)];
        let text = format!("0::/docker/{A}/kubelet.slice/kubelet-kubepods.slice/cri-containerd-{B}.scope\n");
        assert_eq!(containers(&text), both);
        // One hierarchy may tell less than another.
        let text = format!("1:cpu:/docker/{A}\n0::/docker/{A}/kubelet.slice/cri-containerd-{B}.scope\n");
        assert_eq!(containers(&text), both);
    }

    #[test]
    fn what_is_in_no_container() {
        for text in [
            "",
            "0::/\n",
            "0::/init.scope\n",
            "0::/user.slice/user-1000.slice/session-2.scope\n",
            "0::/system.slice/docker.service\n",
            "0::/docker/3726184226f5\n",
            "12:cpu,cpuacct:/\n1:name=systemd:/system.slice/ssh.service\n",
            "no line of this kind\n:::\n",
        ] {
            assert_eq!(owner(text), Owner::Machine, "{text:?}");
        }
        let upper = A.to_uppercase();
        assert_eq!(owner(&format!("0::/docker/{upper}\n")), Owner::Machine);
        assert_eq!(owner(&format!("0::/docker/{A}0\n")), Owner::Machine);
    }

    #[test]
    fn an_instance_that_is_a_process_is_known_by_its_name() {
        let instance = InstanceName::parse("vision/detector/oslo-1/0").unwrap();
        let text = format!("0::/skerry/0123456789ab/{}\n", leaf(&instance));
        let Owner::Process(ours) = owner(&text) else { panic!("{text}") };
        assert_eq!(ours.agent, "0123456789ab");
        assert!(ours.is_of(&instance) && ours.within.is_empty());
        let elsewhere = InstanceName::parse("vision/detector/oslo-2/0").unwrap();
        assert!(!ours.is_of(&elsewhere));
        // With cgroup 1, and where the agent itself is in a container.
        let nested = format!("9:memory:/docker/{A}/skerry/0123456789ab/{}\n", leaf(&instance));
        let within = vec![Container { id: A.to_owned(), engine: Engine::Unknown }];
        assert_eq!(owner(&nested), Owner::Process(ProcessCgroup { within, ..ours }));
    }

    #[test]
    fn what_only_looks_like_one_of_ours_is_not() {
        for path in [
            "/skerry/0123456789ab",
            "/skerry/agent/a.b.0-0123456789ab",
            "/skerry/0123456789ab/a.b-0123456789ab",
        ] {
            assert_eq!(owner(&format!("0::{path}\n")), Owner::Machine, "{path}");
        }
    }

    #[test]
    fn the_name_of_a_cgroup_is_the_one_that_agents_make() {
        let instance = InstanceName::parse("a/b/c/7").unwrap();
        // `services/agent/src/runtime/process/cgroup.rs` makes the same.
        assert_eq!(leaf(&instance), format!("a.b.7-{}", &blake3::hash(b"a/b/c/7").to_hex()[..12]));
    }

    proptest::proptest! {
        #[test]
        fn no_text_is_too_much(text in "[0-9a-f:/.\\-\nskery ()]{0,300}|.{0,100}") {
            let _ = owner(&text);
        }
    }
}
