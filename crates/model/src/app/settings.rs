//! From the wire to a container's network, isolation, kernel parameters, log and labels: what `docker run` has options for.
//!
//! What Docker's daemon would refuse when the container is made is refused here by field, as far as it does not depend on the machine.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use skerry_proto::types::v1 as pb;

use crate::{NetworkName, Violations};

use super::parse::{absent_if_empty, bound, is_absolute};
use super::{Device, Dns, ExtraHost, IpcMode, Isolation, Kernel, Log, Network, NetworkMode, Ulimit};

/// Most bytes of a label's key or value, of an option and of the like.
const TEXT_BYTES_MAX: usize = 4096;
/// What begins the keys of labels that are Skerry's.
const OWN_LABELS: &str = "skerry.io/";
/// The address that means the machine.
const HOST_GATEWAY: &str = "host-gateway";
/// capabilities(7), without `CAP_`.
const CAPABILITIES: [&str; 42] = [
    "ALL",
    "AUDIT_CONTROL",
    "AUDIT_READ",
    "AUDIT_WRITE",
    "BLOCK_SUSPEND",
    "BPF",
    "CHECKPOINT_RESTORE",
    "CHOWN",
    "DAC_OVERRIDE",
    "DAC_READ_SEARCH",
    "FOWNER",
    "FSETID",
    "IPC_LOCK",
    "IPC_OWNER",
    "KILL",
    "LEASE",
    "LINUX_IMMUTABLE",
    "MAC_ADMIN",
    "MAC_OVERRIDE",
    "MKNOD",
    "NET_ADMIN",
    "NET_BIND_SERVICE",
    "NET_BROADCAST",
    "NET_RAW",
    "PERFMON",
    "SETFCAP",
    "SETGID",
    "SETPCAP",
    "SETUID",
    "SYSLOG",
    "SYS_ADMIN",
    "SYS_BOOT",
    "SYS_CHROOT",
    "SYS_MODULE",
    "SYS_NICE",
    "SYS_PACCT",
    "SYS_PTRACE",
    "SYS_RAWIO",
    "SYS_RESOURCE",
    "SYS_TIME",
    "SYS_TTY_CONFIG",
    "WAKE_ALARM",
];
/// The limits that Docker knows.
const ULIMITS: [&str; 15] = [
    "core",
    "cpu",
    "data",
    "fsize",
    "locks",
    "memlock",
    "msgqueue",
    "nice",
    "nofile",
    "nproc",
    "rss",
    "rtprio",
    "rttime",
    "sigpending",
    "stack",
];

pub(super) fn network(at: &str, container: &pb::Container, v: &mut Violations) -> Network {
    let mode = match pb::NetworkMode::try_from(container.network_mode) {
        Ok(pb::NetworkMode::Unspecified | pb::NetworkMode::App) => NetworkMode::App,
        Ok(pb::NetworkMode::Host) => NetworkMode::Host,
        Ok(pb::NetworkMode::None) => NetworkMode::None,
        Err(_) => {
            v.add(format!("{at}.network_mode"), "use app, host or none");
            NetworkMode::App
        }
    };
    for (field, given) in
        [("network_aliases", container.network_aliases.len()), ("networks", container.networks.len())]
    {
        bound(&format!("{at}.{field}"), given, v);
        if given > 0 && mode != NetworkMode::App {
            v.add(format!("{at}.{field}"), "it goes with the app's own network: leave it or networkMode out");
        }
    }
    check_names(&format!("{at}.network_aliases"), &container.network_aliases, v);
    let only = format!("{at}.only_networks");
    if container.only_networks && container.networks.is_empty() {
        v.add(&only, "name at least one of networks: it would be in none");
    }
    if container.only_networks && !container.network_aliases.is_empty() {
        v.add(&only, "networkAliases are names in the app's own network: write them as aliases of networks");
    }
    Network {
        mode,
        aliases: container.network_aliases.clone(),
        further: further_networks(at, &container.networks, v),
        only_further: container.only_networks,
        extra_hosts: extra_hosts(at, &container.extra_hosts, v),
        dns: dns(at, container.dns.as_ref(), mode, v),
    }
}

fn further_networks(
    at: &str,
    networks: &[pb::NetworkAttachment],
    v: &mut Violations,
) -> BTreeMap<NetworkName, Vec<String>> {
    let mut further = BTreeMap::new();
    for (n, network) in networks.iter().enumerate() {
        let at = format!("{at}.networks[{n}]");
        bound(&format!("{at}.aliases"), network.aliases.len(), v);
        check_names(&format!("{at}.aliases"), &network.aliases, v);
        if let Some(name) = v.check(format!("{at}.name"), NetworkName::parse(&network.name))
            && further.insert(name, network.aliases.clone()).is_some()
        {
            v.add(format!("{at}.name"), format!("`{}` is there twice", network.name));
        }
    }
    further
}

fn check_names(at: &str, names: &[String], v: &mut Violations) {
    for (n, name) in names.iter().enumerate() {
        if !is_host_name(name) {
            v.add(format!("{at}[{n}]"), "use a host name: letters, digits, -, _ and dots");
        }
    }
}

/// A name as people give to hosts: wider than DNS by `_`.
fn is_host_name(text: &str) -> bool {
    let fine = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_');
    let label =
        |part: &str| !part.is_empty() && part.len() <= 63 && part.bytes().all(fine) && !part.starts_with('-');
    text.len() <= 253 && text.split('.').all(label)
}

fn extra_hosts(at: &str, hosts: &[pb::ExtraHost], v: &mut Violations) -> Vec<ExtraHost> {
    bound(&format!("{at}.extra_hosts"), hosts.len(), v);
    let mut parsed = Vec::with_capacity(hosts.len());
    for (n, host) in hosts.iter().enumerate() {
        let at = format!("{at}.extra_hosts[{n}]");
        if !is_host_name(&host.hostname) {
            v.add(format!("{at}.hostname"), "use a host name: letters, digits, -, _ and dots");
        }
        let address = match host.address.as_str() {
            HOST_GATEWAY => None,
            text => {
                let address = text.parse::<IpAddr>();
                if address.is_err() {
                    v.add(format!("{at}.address"), format!("use an IP address, or {HOST_GATEWAY}"));
                }
                address.ok()
            }
        };
        parsed.push(ExtraHost { hostname: host.hostname.clone(), address });
    }
    parsed
}

fn dns(at: &str, dns: Option<&pb::Dns>, mode: NetworkMode, v: &mut Violations) -> Dns {
    let Some(dns) = dns else { return Dns::default() };
    let at = format!("{at}.dns");
    if mode == NetworkMode::None {
        v.add(&at, "without a network no name is resolved: leave it out");
    }
    bound(&format!("{at}.servers"), dns.servers.len(), v);
    let servers = dns.servers.iter().enumerate().filter_map(|(n, server)| {
        let parsed = server.parse::<IpAddr>().map_err(|_| format!("`{server}` is not an IP address"));
        v.check(format!("{at}.servers[{n}]"), parsed)
    });
    let servers = servers.collect();
    bound(&format!("{at}.search"), dns.search.len(), v);
    for (n, domain) in dns.search.iter().enumerate() {
        // A lone dot means: none.
        if domain != "." && !is_host_name(domain.trim_end_matches('.')) {
            v.add(format!("{at}.search[{n}]"), "use a domain, as example.org");
        }
    }
    check_words(&format!("{at}.options"), &dns.options, "ndots:2", v);
    Dns { servers, search: dns.search.clone(), options: dns.options.clone() }
}

/// Words without spaces.
fn check_words(at: &str, words: &[String], example: &str, v: &mut Violations) {
    bound(at, words.len(), v);
    for (n, word) in words.iter().enumerate() {
        if word.is_empty() || word.len() > 256 || !word.bytes().all(|b| b.is_ascii_graphic()) {
            v.add(format!("{at}[{n}]"), format!("use a word without spaces, as {example}"));
        }
    }
}

pub(super) fn isolation(at: &str, container: &pb::Container, v: &mut Violations) -> Isolation {
    use pb::{IpcMode as WireIpc, PidMode as WirePid};
    bound(&format!("{at}.security_opts"), container.security_opts.len(), v);
    for (n, option) in container.security_opts.iter().enumerate() {
        check_security_opt(&format!("{at}.security_opts[{n}]"), option, v);
    }
    check_words(&format!("{at}.group_add"), &container.group_add, "audio or 29", v);
    let ipc = match WireIpc::try_from(container.ipc_mode) {
        Ok(WireIpc::Unspecified) => None,
        Ok(WireIpc::Private) => Some(IpcMode::Private),
        Ok(WireIpc::Shareable) => Some(IpcMode::Shareable),
        Ok(WireIpc::Host) => Some(IpcMode::Host),
        Err(_) => {
            v.add(format!("{at}.ipc_mode"), "use private, shareable or host");
            None
        }
    };
    let host_pid = match WirePid::try_from(container.pid_mode) {
        Ok(WirePid::Unspecified | WirePid::Private) => false,
        Ok(WirePid::Host) => true,
        Err(_) => {
            v.add(format!("{at}.pid_mode"), "use private or host");
            false
        }
    };
    Isolation {
        read_only_root: container.read_only_root,
        cap_add: capabilities(&format!("{at}.cap_add"), &container.cap_add, v),
        cap_drop: capabilities(&format!("{at}.cap_drop"), &container.cap_drop, v),
        privileged: container.privileged,
        security_opts: container.security_opts.clone(),
        devices: devices(at, &container.devices, v),
        group_add: container.group_add.clone(),
        ipc,
        host_pid,
        device_cgroup_rules: device_rules(
            &format!("{at}.device_cgroup_rules"),
            &container.device_cgroup_rules,
            v,
        ),
        runtime: oci_runtime(&format!("{at}.runtime"), &container.runtime, v),
    }
}

/// Each `a|b|c MAJOR:MINOR PERMISSIONS`, where `*` is any number.
fn device_rules(at: &str, rules: &[String], v: &mut Violations) -> Vec<String> {
    bound(at, rules.len(), v);
    let number = |text: &str| text == "*" || text.parse::<u32>().is_ok_and(|_| !text.starts_with('+'));
    for (n, rule) in rules.iter().enumerate() {
        let words: Vec<&str> = rule.split(' ').collect();
        let good = matches!(words[..], [kind, numbers, permissions]
            if ["a", "b", "c"].contains(&kind)
                && numbers.split_once(':').is_some_and(|(major, minor)| number(major) && number(minor))
                && are_permissions(permissions));
        if !good {
            v.add(
                format!("{at}[{n}]"),
                "write it as `c 188:* rwm`: a, b or c, the device's numbers, and r, w and m",
            );
        }
    }
    rules.to_vec()
}

fn oci_runtime(at: &str, name: &str, v: &mut Violations) -> Option<String> {
    let fine = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_' | b'.');
    if name.len() > TEXT_BYTES_MAX || !name.bytes().all(fine) {
        v.add(at, "use the name of a runtime that Docker's daemon knows, as runsc");
    }
    absent_if_empty(name)
}

fn capabilities(at: &str, names: &[String], v: &mut Violations) -> Vec<String> {
    bound(at, names.len(), v);
    let mut parsed = Vec::with_capacity(names.len());
    for (n, name) in names.iter().enumerate() {
        let upper = name.to_ascii_uppercase();
        let bare = upper.strip_prefix("CAP_").unwrap_or(&upper);
        if CAPABILITIES.contains(&bare) {
            parsed.push(bare.to_owned());
        } else {
            v.add(
                format!("{at}[{n}]"),
                format!("`{name}` is no capability: use one of {}", CAPABILITIES.join(", ")),
            );
        }
    }
    parsed
}

fn check_security_opt(at: &str, option: &str, v: &mut Violations) {
    let (key, value) = match option.split_once(['=', ':']) {
        Some((key, value)) => (key, Some(value)),
        None => (option, None),
    };
    let fine = match (key, value) {
        ("no-new-privileges", None | Some("true" | "false")) => true,
        // The client of Docker reads files of profiles; its daemon takes the profile itself.
        ("seccomp", Some(profile)) => profile == "unconfined" || profile.trim_start().starts_with('{'),
        ("apparmor" | "label", Some(value)) => !value.is_empty() && !value.contains('\0'),
        _ => false,
    };
    if !fine {
        v.add(
            at,
            "use no-new-privileges, apparmor=PROFILE, label=..., seccomp=unconfined or seccomp={the profile itself}",
        );
    }
}

fn devices(at: &str, devices: &[pb::Device], v: &mut Violations) -> Vec<Device> {
    bound(&format!("{at}.devices"), devices.len(), v);
    let mut parsed = Vec::with_capacity(devices.len());
    for (n, device) in devices.iter().enumerate() {
        let at = format!("{at}.devices[{n}]");
        let target = if device.target.is_empty() { &device.path } else { &device.target };
        if !is_absolute(&device.path) {
            v.add(format!("{at}.path"), "use an absolute path of the machine, as /dev/ttyUSB0");
        }
        if !device.target.is_empty() && !is_absolute(target) {
            v.add(format!("{at}.target"), "use an absolute path, without `..`");
        }
        let permissions = if device.permissions.is_empty() { "rwm" } else { &device.permissions };
        if !are_permissions(permissions) {
            v.add(format!("{at}.permissions"), "use r, w and m, each at most once");
        }
        parsed.push(Device {
            path: device.path.clone(),
            target: target.clone(),
            permissions: permissions.to_owned(),
        });
    }
    parsed
}

/// `r`, `w` and `m`, each at most once.
fn are_permissions(text: &str) -> bool {
    let each: BTreeSet<char> = text.chars().collect();
    !text.is_empty() && each.len() == text.len() && each.iter().all(|c| "rwm".contains(*c))
}

pub(super) fn kernel(at: &str, container: &pb::Container, mode: NetworkMode, v: &mut Violations) -> Kernel {
    let shm_size_bytes = container.shm_size_bytes.and_then(|bytes| {
        let bytes = u64::try_from(bytes).ok().filter(|bytes| *bytes > 0);
        if bytes.is_none() {
            v.add(format!("{at}.shm_size_bytes"), "use at least one byte, as 256Mi");
        }
        bytes
    });
    bound(&format!("{at}.sysctls"), container.sysctls.len(), v);
    let host_ipc = container.ipc_mode == i32::from(pb::IpcMode::Host);
    for (key, value) in &container.sysctls {
        check_sysctl(&format!("{at}.sysctls.{key}"), key, value, mode, host_ipc, v);
    }
    Kernel {
        ulimits: ulimits(at, &container.ulimits, v),
        sysctls: container.sysctls.clone(),
        shm_size_bytes,
        init: container.init,
        oom_score_adj: oom_score_adj(&format!("{at}.oom_score_adj"), container.oom_score_adj, v),
        cpuset_cpus: cpuset(&format!("{at}.cpuset_cpus"), &container.cpuset_cpus, v),
    }
}

fn oom_score_adj(at: &str, score: Option<i32>, v: &mut Violations) -> Option<i32> {
    if score.is_some_and(|score| !(-1000..=1000).contains(&score)) {
        v.add(at, "use -1000 to 1000");
    }
    score
}

/// Numbers of processors and ranges of them, between commas.
fn cpuset(at: &str, text: &str, v: &mut Violations) -> Option<String> {
    let number = |text: &str| text.parse::<u16>().ok().filter(|_| !text.starts_with('+'));
    let good = |part: &str| match part.split_once('-') {
        None => number(part).is_some(),
        Some((first, last)) => {
            matches!((number(first), number(last)), (Some(first), Some(last)) if first <= last)
        }
    };
    if !text.is_empty() && (text.len() > TEXT_BYTES_MAX || !text.split(',').all(good)) {
        v.add(at, "use the numbers of processors, as 0-3 or 0,2");
    }
    absent_if_empty(text)
}

/// Those that belong to a namespace, as Docker has them; the others are the machine's.
fn check_sysctl(at: &str, key: &str, value: &str, mode: NetworkMode, host_ipc: bool, v: &mut Violations) {
    let ipc = key.starts_with("fs.mqueue.")
        || ["msgmax", "msgmnb", "msgmni", "sem", "shmall", "shmmax", "shmmni", "shm_rmid_forced"]
            .iter()
            .any(|name| key.strip_prefix("kernel.") == Some(name));
    let net = key.starts_with("net.");
    if !ipc && !net {
        v.add(at, "a container has its own only of net.*, fs.mqueue.* and the kernel.* of IPC: set this one on the machine");
    } else if net && mode == NetworkMode::Host {
        v.add(at, "with the machine's network it is the machine's: set it there");
    } else if ipc && host_ipc {
        v.add(at, "with the machine's IPC it is the machine's: set it there");
    }
    if value.is_empty() || value.len() > TEXT_BYTES_MAX || value.contains(['\0', '\n']) {
        v.add(at, "use a value of one line");
    }
}

fn ulimits(at: &str, ulimits: &[pb::Ulimit], v: &mut Violations) -> Vec<Ulimit> {
    bound(&format!("{at}.ulimits"), ulimits.len(), v);
    let mut names = BTreeSet::new();
    let mut parsed = Vec::with_capacity(ulimits.len());
    for (n, ulimit) in ulimits.iter().enumerate() {
        let at = format!("{at}.ulimits[{n}]");
        if !ULIMITS.contains(&ulimit.name.as_str()) {
            v.add(format!("{at}.name"), format!("use one of {}", ULIMITS.join(", ")));
        } else if !names.insert(&ulimit.name) {
            v.add(format!("{at}.name"), format!("`{}` is limited twice", ulimit.name));
        }
        let (soft, hard) = (ulimit.soft, ulimit.hard.unwrap_or(ulimit.soft));
        for (field, limit) in [("soft", soft), ("hard", hard)] {
            if limit < -1 {
                v.add(format!("{at}.{field}"), "use 0 or more, or -1 for no limit");
            }
        }
        if hard >= 0 && (soft > hard || soft == -1) {
            v.add(format!("{at}.soft"), "it is above hard");
        }
        parsed.push(Ulimit { name: ulimit.name.clone(), soft, hard });
    }
    parsed
}

pub(super) fn log(at: &str, log: Option<&pb::Log>, v: &mut Violations) -> Log {
    let Some(log) = log else { return Log::default() };
    let at = format!("{at}.log");
    if log.driver.len() > 253 || !log.driver.bytes().all(|b| b.is_ascii_graphic()) {
        v.add(format!("{at}.driver"), "use the name of a log driver, as json-file");
    }
    bound(&format!("{at}.options"), log.options.len(), v);
    for (key, value) in &log.options {
        let at = format!("{at}.options.{key}");
        check_pair(&at, key, value, v);
        check_log_option(&at, &log.driver, key, value, v);
    }
    let driver = super::parse::absent_if_empty(&log.driver);
    Log { driver, options: log.options.clone() }
}

/// Options of the drivers that are part of Docker's engine and write to the machine; what others know is theirs.
/// <https://docs.docker.com/engine/logging/configure/>
fn check_log_option(at: &str, driver: &str, key: &str, value: &str, v: &mut Violations) {
    let known: &[&str] = match driver {
        "none" => {
            v.add(at, "the driver none keeps nothing: leave options out");
            return;
        }
        "json-file" => {
            &["max-size", "max-file", "compress", "labels", "labels-regex", "env", "env-regex", "tag"]
        }
        "local" => &["max-size", "max-file", "compress"],
        _ => return,
    };
    let number = |text: &str| text.parse::<u32>().is_ok_and(|number| number > 0) && !text.starts_with('+');
    let size = |text: &str| {
        let lower = text.to_ascii_lowercase();
        let digits = lower.trim_end_matches(|c: char| c.is_ascii_alphabetic());
        let unit = lower.strip_prefix(digits).unwrap_or_default();
        number(digits) && matches!(unit, "" | "b" | "k" | "kb" | "m" | "mb" | "g" | "gb")
    };
    match key {
        "max-size" if value != "-1" && !size(value) => v.add(at, "use a size, as 10m, or -1 for no bound"),
        "max-file" if !number(value) => v.add(at, "use how many files there are at most, as \"3\""),
        "compress" if !matches!(value, "true" | "false") => v.add(at, "use \"true\" or \"false\""),
        "mode" if !matches!(value, "blocking" | "non-blocking") => v.add(at, "use blocking or non-blocking"),
        "mode" | "max-buffer-size" => {}
        key if !known.contains(&key) => {
            v.add(
                at,
                format!("{driver} has no such option: use {}, mode or max-buffer-size", known.join(", ")),
            );
        }
        _ => {}
    }
}

pub(super) fn labels(at: &str, container: &pb::Container, v: &mut Violations) -> BTreeMap<String, String> {
    bound(&format!("{at}.labels"), container.labels.len(), v);
    for (key, value) in &container.labels {
        let at = format!("{at}.labels.{key}");
        check_pair(&at, key, value, v);
        if key.starts_with(OWN_LABELS) {
            v.add(&at, format!("labels below {OWN_LABELS} are Skerry's: use another key"));
        }
    }
    container.labels.clone()
}

fn check_pair(at: &str, key: &str, value: &str, v: &mut Violations) {
    if key.is_empty() || [key, value].iter().any(|text| text.len() > TEXT_BYTES_MAX || text.contains('\0')) {
        v.add(at, format!("use a key that is not empty, and at most {TEXT_BYTES_MAX} bytes of each"));
    }
}
