//! What a container is: types only, valid by construction. From the wire to them is `program`'s and `settings`' matter.

use std::collections::BTreeMap;
use std::net::IpAddr;

use crate::{NetworkName, SecretName, VolumeName};

/// A container.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Container {
    /// Image reference.
    pub image: String,
    /// When it is pulled.
    pub pull_policy: PullPolicy,
    /// The secret with the credentials of its registry.
    pub image_credentials: Option<SecretName>,
    /// `os[/architecture[/variant]]` of the image; absent: the machine's.
    pub platform: Option<String>,
    /// Replaces the image's entrypoint, if not empty.
    pub entrypoint: Vec<String>,
    /// Replaces the image's command, if not empty.
    pub command: Vec<String>,
    /// Ports published on the machine.
    pub ports: Vec<Port>,
    /// Directories and volumes.
    pub mounts: Vec<Mount>,
    /// Host name inside.
    pub hostname: Option<String>,
    /// What it is connected to, and how it finds others.
    pub network: Network,
    /// What it may do and see beside the default, or not.
    pub isolation: Isolation,
    /// Limits and parameters of its processes and namespaces.
    pub kernel: Kernel,
    /// Where its output goes.
    pub log: Log,
    /// Whether its output is a terminal.
    pub tty: bool,
    /// Whether its standard input stays open.
    pub stdin_open: bool,
    /// Labels of the user's; no key is below `skerry.io/`.
    pub labels: BTreeMap<String, String>,
}

/// When an image is pulled.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum PullPolicy {
    /// Before each new container.
    Always,
    /// When the machine lacks it.
    IfNotPresent,
    /// Never.
    Never,
}

/// A published port.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Port {
    /// Inside.
    pub container_port: u16,
    /// On the machine.
    pub host_port: u16,
    /// TCP or UDP.
    pub protocol: Protocol,
    /// Address of the machine; absent: all.
    pub host_address: Option<IpAddr>,
}

/// A transport protocol.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Protocol {
    /// TCP.
    Tcp,
    /// UDP.
    Udp,
}

/// A directory or volume in a container.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Mount {
    /// Absolute path inside.
    pub target: String,
    /// What is mounted.
    pub source: MountSource,
    /// May it only be read.
    pub read_only: bool,
}

/// What is mounted.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum MountSource {
    /// A path of the machine.
    Bind {
        /// Absolute.
        path: String,
        /// Who sees what is mounted below it later, in Docker's words; absent: nobody.
        propagation: Option<String>,
    },
    /// A named volume of the app.
    Volume {
        /// Its name.
        name: VolumeName,
        /// Whether it is removed once the app has left the node.
        remove_with_app: bool,
    },
    /// Files in memory.
    Tmpfs {
        /// Most bytes; absent: half of the machine's memory.
        size_bytes: Option<u64>,
        /// Permissions of the directory; absent: 0o1777.
        mode: Option<u32>,
    },
}

/// What a container is connected to, and how it finds others.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Network {
    /// The main one.
    pub mode: NetworkMode,
    /// More names in the app's own network.
    pub aliases: Vec<String>,
    /// Further networks of the app, with more names in each. Only where `mode` is `App`.
    pub further: BTreeMap<NetworkName, Vec<String>>,
    /// Whether it is in those alone, and not in the app's own.
    pub only_further: bool,
    /// Lines of /etc/hosts.
    pub extra_hosts: Vec<ExtraHost>,
    /// How names are resolved.
    pub dns: Dns,
}

/// Which network a container is in.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum NetworkMode {
    /// The app's own.
    #[default]
    App,
    /// The machine's.
    Host,
    /// Only loopback.
    None,
}

/// A line of /etc/hosts.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ExtraHost {
    /// The name.
    pub hostname: String,
    /// Where it is; absent: the machine, as containers reach it.
    pub address: Option<IpAddr>,
}

/// How names are resolved. Empty lists: the machine's.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Dns {
    /// Servers.
    pub servers: Vec<IpAddr>,
    /// Domains that short names are tried in.
    pub search: Vec<String>,
    /// Options of the resolver.
    pub options: Vec<String>,
}

/// What a container may do and see beside the default, or not.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Isolation {
    /// Its own file system may only be read.
    pub read_only_root: bool,
    /// Capabilities, without `CAP_`.
    pub cap_add: Vec<String>,
    /// Capabilities, without `CAP_`.
    pub cap_drop: Vec<String>,
    /// Everything that root of the machine may.
    pub privileged: bool,
    /// As Docker's API takes them.
    pub security_opts: Vec<String>,
    /// Devices of the machine.
    pub devices: Vec<Device>,
    /// More groups of its user.
    pub group_add: Vec<String>,
    /// Who shares its memory segments.
    pub ipc: Option<IpcMode>,
    /// Whether it sees all processes of the machine.
    pub host_pid: bool,
    /// Rules for devices that come and go.
    pub device_cgroup_rules: Vec<String>,
    /// Another OCI runtime than Docker's default one.
    pub runtime: Option<String>,
}

/// A device of the machine.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Device {
    /// Absolute path on the machine.
    pub path: String,
    /// Absolute path inside.
    pub target: String,
    /// Of `r`, `w` and `m`.
    pub permissions: String,
}

/// Who shares memory segments and queues.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum IpcMode {
    /// Nobody.
    Private,
    /// Whoever asks to.
    Shareable,
    /// The machine.
    Host,
}

/// Limits and parameters of processes and namespaces.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Kernel {
    /// Limits on each process; each name once.
    pub ulimits: Vec<Ulimit>,
    /// Parameters of its namespaces.
    pub sysctls: BTreeMap<String, String>,
    /// Size of /dev/shm; absent: 64 MiB.
    pub shm_size_bytes: Option<u64>,
    /// Whether a small init is process 1.
    pub init: bool,
    /// Added when the kernel looks for what to kill for want of memory: -1000 to 1000.
    pub oom_score_adj: Option<i32>,
    /// Processors that it may run on, as `0-3,5`.
    pub cpuset_cpus: Option<String>,
}

/// A limit on each process. -1: none.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Ulimit {
    /// As `nofile`.
    pub name: String,
    /// What counts at first.
    pub soft: i64,
    /// The highest.
    pub hard: i64,
}

/// Where a container's output goes.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Log {
    /// A log driver; absent: `json-file`.
    pub driver: Option<String>,
    /// Its options.
    pub options: BTreeMap<String, String>,
}
