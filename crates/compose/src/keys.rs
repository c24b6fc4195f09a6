//! Every key of the Compose specification: whether it is taken, left out with a warning, or refused. What is in none of these tables is unknown.

use crate::context::{Context, Field};

/// What becomes of a key that is not taken.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Word {
    /// The file cannot be taken with it.
    Refused(&'static str),
    /// It is left out, which is safe, and said.
    Left(&'static str),
}

use Word::{Left, Refused};

/// The keys of one level.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Keys {
    /// Those that are taken.
    pub(crate) taken: &'static [&'static str],
    /// The others.
    pub(crate) named: &'static [(&'static str, Word)],
}

const WINDOWS: Word = Refused("it is for Windows, where Skerry does not run");
const ADDRESS: Word = Refused("Docker chooses addresses: services reach each other by name");
const FOR_DESCRIPTION: Word = Left("left out: it describes, and nothing depends on it");

pub(crate) const TOP: Keys = Keys {
    taken: &["name", "services", "networks", "volumes", "configs", "secrets", "include"],
    named: &[
        ("version", Left("left out: the keys say what a file means")),
        ("models", Refused("Skerry runs no models: take it away")),
    ],
};

pub(crate) const SERVICE: Keys = Keys {
    taken: &[
        "build",
        "cap_add",
        "cap_drop",
        "command",
        "configs",
        "container_name",
        "cpu_period",
        "cpu_quota",
        "cpus",
        "cpuset",
        "depends_on",
        "deploy",
        "device_cgroup_rules",
        "devices",
        "dns",
        "dns_opt",
        "dns_search",
        "entrypoint",
        "env_file",
        "environment",
        "expose",
        "extends",
        "extra_hosts",
        "gpus",
        "group_add",
        "healthcheck",
        "hostname",
        "image",
        "init",
        "ipc",
        "label_file",
        "labels",
        "links",
        "logging",
        "mem_limit",
        "mem_reservation",
        "memswap_limit",
        "network_mode",
        "networks",
        "oom_score_adj",
        "pid",
        "pids_limit",
        "platform",
        "ports",
        "privileged",
        "profiles",
        "pull_policy",
        "read_only",
        "restart",
        "runtime",
        "scale",
        "secrets",
        "security_opt",
        "shm_size",
        "stdin_open",
        "stop_grace_period",
        "stop_signal",
        "sysctls",
        "tmpfs",
        "tty",
        "ulimits",
        "user",
        "volumes",
        "working_dir",
    ],
    named: &[
        ("annotations", Refused("Skerry hands the OCI runtime no annotations: take it away")),
        ("attach", Left("left out: nothing is attached to what runs on another machine")),
        ("blkio_config", Refused("Skerry limits no input and output of disks: take it away")),
        ("cgroup", Refused("Skerry chooses the cgroup's namespace: take it away")),
        ("cgroup_parent", Refused("Skerry chooses the cgroup: take it away")),
        ("cpu_count", WINDOWS),
        ("cpu_percent", WINDOWS),
        ("cpu_rt_period", Refused("Skerry gives out no real time: take it away")),
        ("cpu_rt_runtime", Refused("Skerry gives out no real time: take it away")),
        ("cpu_shares", Left("left out: Docker gives all services the same weight; cpus limits one")),
        ("credential_spec", WINDOWS),
        ("develop", Left("left out: it is for who develops")),
        ("domainname", Refused("write the whole name as the hostname")),
        ("external_links", Refused("a service reaches those of its own app by name: take it away")),
        ("isolation", WINDOWS),
        ("mac_address", ADDRESS),
        (
            "mem_swappiness",
            Refused("Skerry does not set it: set vm.swappiness on the machine, or memswap_limit"),
        ),
        ("models", Refused("Skerry runs no models: take it away")),
        (
            "oom_kill_disable",
            Refused("what needs too much memory is ended: oom_score_adj says who comes last"),
        ),
        (
            "post_start",
            Refused("Skerry runs nothing beside a service's own program: let its entrypoint do it"),
        ),
        (
            "pre_stop",
            Refused("Skerry runs nothing beside a service's own program: let it do that at its stop_signal"),
        ),
        ("provider", Refused("Skerry runs containers, and no providers: take it away")),
        ("storage_opt", Refused("Skerry limits no container's own file system: take it away")),
        (
            "use_api_socket",
            Refused("mount the machine's socket instead: /var/run/docker.sock:/var/run/docker.sock"),
        ),
        ("userns_mode", Refused("user namespaces are the Docker daemon's matter: take it away")),
        ("uts", Refused("Skerry gives each container its own host name: take it away")),
        ("volumes_from", Refused("name the volumes in each service that mounts them")),
    ],
};

pub(crate) const DEPLOY: Keys = Keys {
    taken: &["mode", "replicas", "resources", "restart_policy", "update_config"],
    named: &[
        ("endpoint_mode", Left("left out: a service's name resolves to all its instances on the machine")),
        (
            "labels",
            Left(
                "left out: these are of Swarm's service; labels of the containers stand below the service itself",
            ),
        ),
        (
            "placement",
            Refused("nodes are chosen by labels: write a selector below x-skerry, or take it away"),
        ),
        ("rollback_config", Left("left out: how apps go back is not said by service")),
    ],
};

pub(crate) const UPDATE_CONFIG: Keys = Keys {
    taken: &["order"],
    named: &[
        ("parallelism", Left(ROLLOUT)),
        ("delay", Left(ROLLOUT)),
        ("failure_action", Left(ROLLOUT)),
        ("monitor", Left(ROLLOUT)),
        ("max_failure_ratio", Left(ROLLOUT)),
    ],
};
const ROLLOUT: &str = "left out: how an update goes from machine to machine is not said by service";

pub(crate) const RESTART_POLICY: Keys = Keys {
    taken: &["condition", "delay"],
    named: &[
        ("max_attempts", Left("left out: it is started again without an end, with longer and longer waits")),
        ("window", Left("left out: the waits begin anew after 10 minutes of running")),
    ],
};

pub(crate) const LIMITS: Keys = Keys { taken: &["cpus", "memory", "pids"], named: &[] };

pub(crate) const RESERVATIONS: Keys = Keys {
    taken: &["cpus", "devices", "memory"],
    named: &[
        ("generic_resources", Refused("processors and memory are kept free, and nothing else: take it away")),
        ("pids", Refused("they can only be limited: write it below limits")),
    ],
};

pub(crate) const GPU: Keys = Keys {
    taken: &["capabilities", "count", "driver"],
    named: &[
        (
            "device_ids",
            Refused(
                "which GPU an instance has is decided by placement: write count, and for a model gpu: {modelSelector: ...} below x-skerry",
            ),
        ),
        ("options", Refused("a driver gets no options: take it away")),
    ],
};

pub(crate) const RESOURCES: Keys = Keys { taken: &["limits", "reservations"], named: &[] };

pub(crate) const HEALTHCHECK: Keys = Keys {
    taken: &["test", "interval", "timeout", "retries", "start_period", "disable"],
    named: &[("start_interval", Left("left out: until the first success it is tried each second"))],
};

pub(crate) const DEPENDENCY: Keys = Keys {
    taken: &["condition", "required"],
    named: &[("restart", Left("left out: a service is not restarted because another one was"))],
};

pub(crate) const PORT: Keys = Keys {
    taken: &["target", "published", "host_ip", "protocol", "mode"],
    named: &[("name", FOR_DESCRIPTION), ("app_protocol", FOR_DESCRIPTION)],
};

pub(crate) const MOUNT: Keys = Keys {
    taken: &["type", "source", "target", "read_only", "bind", "volume", "tmpfs"],
    named: &[
        ("consistency", Left("left out: on Linux it means nothing")),
        ("image", Refused("a mount is a bind, a volume or a tmpfs")),
        ("cluster", Refused("a mount is a bind, a volume or a tmpfs")),
    ],
};
const NOT_MADE: &str = "left out: the directory must be on the machine";
pub(crate) const MOUNT_BIND: Keys = Keys {
    taken: &["propagation"],
    named: &[
        ("create_host_path", Left(NOT_MADE)),
        ("selinux", Left(crate::mounts::SELINUX)),
        ("recursive", Refused("what is mounted below a directory is there as Docker has it: take it away")),
    ],
};
pub(crate) const MOUNT_VOLUME: Keys = Keys {
    taken: &[],
    named: &[
        ("nocopy", Left(crate::mounts::NO_COPY)),
        ("subpath", Refused("a volume is mounted whole: name another volume")),
        ("labels", FOR_DESCRIPTION),
    ],
};
pub(crate) const MOUNT_TMPFS: Keys = Keys { taken: &["size", "mode"], named: &[] };

pub(crate) const ATTACHMENT: Keys = Keys {
    taken: &["aliases"],
    named: &[
        ("ipv4_address", ADDRESS),
        ("ipv6_address", ADDRESS),
        ("link_local_ips", ADDRESS),
        ("mac_address", ADDRESS),
        ("driver_opts", Refused("networks of apps are Docker's bridges: take it away")),
        ("gw_priority", Left("left out: the app's own network comes first")),
        ("interface_name", Left("left out: Docker names the interfaces")),
        ("priority", Left("left out: the app's own network comes first")),
    ],
};

pub(crate) const NETWORK: Keys = Keys {
    taken: &["driver"],
    named: &[
        ("attachable", Left("left out: nobody else joins the networks of an app")),
        ("driver_opts", Refused("networks of apps are Docker's bridges: take it away")),
        (
            "enable_ipv4",
            Refused("networks of apps have addresses as Docker's daemon is set up: take it away"),
        ),
        (
            "enable_ipv6",
            Refused("networks of apps have addresses as Docker's daemon is set up: take it away"),
        ),
        ("external", Refused("an app's networks are its own: take it away")),
        ("internal", Refused("networks of apps have a way out: take it away if that is fine")),
        ("ipam", Left("left out: Docker chooses the addresses")),
        ("labels", FOR_DESCRIPTION),
        ("name", Left("left out: the agent names networks")),
    ],
};

pub(crate) const VOLUME: Keys = Keys {
    taken: &["driver"],
    named: &[
        (
            "driver_opts",
            Refused("volumes are local directories of Docker's: mount it on the machine, and bind that"),
        ),
        (
            "external",
            Refused(
                "an app's volumes are its own: bind the directory /var/lib/docker/volumes/NAME/_data, or take it away",
            ),
        ),
        ("labels", FOR_DESCRIPTION),
        (
            "name",
            Left(
                "left out: the agent names volumes, so that what is in one of this name is not in the app's",
            ),
        ),
    ],
};

pub(crate) const CONFIG: Keys = Keys {
    taken: &["file", "content", "environment", "external", "name"],
    named: &[
        ("labels", FOR_DESCRIPTION),
        ("template_driver", Refused("contents are taken as they stand: take it away")),
    ],
};

pub(crate) const SECRET: Keys = Keys {
    taken: &["file", "environment", "external", "name"],
    named: &[
        ("driver", Refused("secrets are kept by Skerry: take it away")),
        ("driver_opts", Refused("secrets are kept by Skerry: take it away")),
        ("labels", FOR_DESCRIPTION),
        ("template_driver", Refused("contents are taken as they stand: take it away")),
    ],
};

pub(crate) const FILE_MOUNT: Keys = Keys { taken: &["source", "target", "uid", "gid", "mode"], named: &[] };

impl Keys {
    /// Says what is not taken of `field`'s entries.
    pub(crate) fn check(&self, cx: &mut Context<'_>, field: &Field) {
        for (key, entry) in field.entries(cx) {
            if self.taken.contains(&&*key) {
                continue;
            }
            match self.named.iter().find(|(name, _)| *name == &*key) {
                // As if it were not there.
                Some(_) if says_nothing(&entry) => {}
                Some((_, Word::Refused(why))) => cx.errors.add(entry.at, &entry.path, *why),
                Some((_, Word::Left(why))) => cx.warn(&entry, *why),
                None => {
                    let known: Vec<&str> =
                        self.taken.iter().copied().chain(self.named.iter().map(|(name, _)| *name)).collect();
                    cx.unknown(&entry, &known);
                }
            }
        }
    }
}

/// Whether a value is what counts where there is none.
fn says_nothing(field: &Field) -> bool {
    field.is_null() || matches!(field.scalar(), Some("" | "false")) || field.is_empty()
}
