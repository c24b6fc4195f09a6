//! Rules on what `docker run` has options for: a table of refusals, each by the field that it names, and what is taken over.

use super::*;

/// A change of a container and the end of the field that it is refused by; none: it is taken.
type Row = (fn(&mut pb::Container), Option<&'static str>);

fn text(words: &[&str]) -> Vec<String> {
    words.iter().map(|word| (*word).to_owned()).collect()
}

fn pair(key: &str, value: &str) -> std::collections::BTreeMap<String, String> {
    [(key.to_owned(), value.to_owned())].into()
}

fn host(container: &mut pb::Container) {
    container.network_mode = pb::NetworkMode::Host.into();
}

fn none(container: &mut pb::Container) {
    container.network_mode = pb::NetworkMode::None.into();
}

fn device(path: &str, target: &str, permissions: &str) -> Vec<pb::Device> {
    vec![pb::Device { path: path.into(), target: target.into(), permissions: permissions.into() }]
}

fn ulimit(name: &str, soft: i64, hard: Option<i64>) -> Vec<pb::Ulimit> {
    vec![pb::Ulimit { name: name.into(), soft, hard }]
}

fn extra(hostname: &str, address: &str) -> Vec<pb::ExtraHost> {
    vec![pb::ExtraHost { hostname: hostname.into(), address: address.into() }]
}

fn tmpfs(size_bytes: Option<i64>, mode: &str) -> Vec<pb::Mount> {
    let tmpfs = pb::mount::Tmpfs { size_bytes, mode: mode.into() };
    vec![pb::Mount { target: "/t".into(), source: Some(pb::mount::Source::Tmpfs(tmpfs)), read_only: false }]
}

fn bind(propagation: &str) -> Vec<pb::Mount> {
    let bind = pb::mount::Bind { path: "/srv".into(), propagation: propagation.into() };
    vec![pb::Mount { target: "/t".into(), source: Some(pb::mount::Source::Bind(bind)), read_only: false }]
}

fn network(name: &str, aliases: &[&str]) -> pb::NetworkAttachment {
    pb::NetworkAttachment { name: name.into(), aliases: text(aliases) }
}

fn dns(servers: &[&str], search: &[&str], options: &[&str]) -> pb::Dns {
    pb::Dns { servers: text(servers), search: text(search), options: text(options) }
}

#[test]
fn what_docker_would_refuse_is_refused_by_its_field() {
    let rows: Vec<Row> = vec![
        (|c| c.cap_add = text(&["CAP_NET_ADMIN", "sys_time", "ALL"]), None),
        (|c| c.cap_add = text(&["NET_ADMIM"]), Some("cap_add[0]")),
        (|c| c.cap_drop = text(&["ALL", ""]), Some("cap_drop[1]")),
        (
            |c| {
                c.security_opts =
                    text(&["no-new-privileges", "seccomp=unconfined", "seccomp={}", "apparmor=x"]);
            },
            None,
        ),
        (|c| c.security_opts = text(&["seccomp=/etc/profile.json"]), Some("security_opts[0]")),
        (|c| c.security_opts = text(&["nonsense"]), Some("security_opts[0]")),
        (|c| c.devices = device("/dev/null", "", "rw"), None),
        (|c| c.devices = device("dev/null", "", ""), Some("devices[0].path")),
        (|c| c.devices = device("/dev/null", "x", ""), Some("devices[0].target")),
        (|c| c.devices = device("/dev/null", "", "rx"), Some("devices[0].permissions")),
        (|c| c.devices = device("/dev/null", "", "rr"), Some("devices[0].permissions")),
        (|c| c.ulimits = ulimit("nofile", 1, Some(2)), None),
        (|c| c.ulimits = ulimit("core", -1, None), None),
        (|c| c.ulimits = ulimit("core", 5, Some(-1)), None),
        (|c| c.ulimits = ulimit("files", 1, None), Some("ulimits[0].name")),
        (
            |c| c.ulimits = [ulimit("core", 1, None), ulimit("core", 1, None)].concat(),
            Some("ulimits[1].name"),
        ),
        (|c| c.ulimits = ulimit("core", 3, Some(2)), Some("ulimits[0].soft")),
        (|c| c.ulimits = ulimit("core", -1, Some(2)), Some("ulimits[0].soft")),
        (|c| c.ulimits = ulimit("core", 0, Some(-2)), Some("ulimits[0].hard")),
        (|c| c.sysctls = pair("net.core.somaxconn", "1024"), None),
        (|c| c.sysctls = pair("kernel.shmmax", "1"), None),
        (|c| c.sysctls = pair("vm.swappiness", "1"), Some("sysctls.vm.swappiness")),
        (|c| c.sysctls = pair("net.core.somaxconn", ""), Some("sysctls.net.core.somaxconn")),
        (
            |c| {
                host(c);
                c.sysctls = pair("net.core.somaxconn", "1");
            },
            Some("sysctls.net.core.somaxconn"),
        ),
        (
            |c| {
                c.ipc_mode = pb::IpcMode::Host.into();
                c.sysctls = pair("kernel.shmmax", "1");
            },
            Some("sysctls.kernel.shmmax"),
        ),
        (|c| c.shm_size_bytes = Some(0), Some("shm_size_bytes")),
        (|c| c.oom_score_adj = Some(-1000), None),
        (|c| c.oom_score_adj = Some(1001), Some("oom_score_adj")),
        (|c| c.cpuset_cpus = "0-3,5".into(), None),
        (|c| c.cpuset_cpus = "3-0".into(), Some("cpuset_cpus")),
        (|c| c.cpuset_cpus = "0,".into(), Some("cpuset_cpus")),
        (|c| c.device_cgroup_rules = text(&["c 188:* rwm", "a *:* r"]), None),
        (|c| c.device_cgroup_rules = text(&["c 188 rwm"]), Some("device_cgroup_rules[0]")),
        (|c| c.device_cgroup_rules = text(&["x 1:1 r"]), Some("device_cgroup_rules[0]")),
        (|c| c.runtime = "io.containerd.runc.v2".into(), None),
        (|c| c.runtime = "../runc".into(), Some("runtime")),
        (|c| c.mounts = bind("rslave"), None),
        (|c| c.mounts = bind("everywhere"), Some("mounts[0].bind.propagation")),
        (|c| c.extra_hosts = extra("db.example", "::1"), None),
        (|c| c.extra_hosts = extra("db", "host-gateway"), None),
        (|c| c.extra_hosts = extra("d b", "::1"), Some("extra_hosts[0].hostname")),
        (|c| c.extra_hosts = extra("db", "localhost"), Some("extra_hosts[0].address")),
        (|c| c.dns = Some(dns(&["192.0.2.1"], &["example.org", "."], &["ndots:2"])), None),
        (|c| c.dns = Some(dns(&["example.org"], &[], &[])), Some("dns.servers[0]")),
        (|c| c.dns = Some(dns(&[], &["a b"], &[])), Some("dns.search[0]")),
        (|c| c.dns = Some(dns(&[], &[], &["a b"])), Some("dns.options[0]")),
        (
            |c| {
                none(c);
                c.dns = Some(dns(&["192.0.2.1"], &[], &[]));
            },
            Some("dns"),
        ),
        (|c| c.network_aliases = text(&["web.example", "my_web"]), None),
        (|c| c.network_aliases = text(&["-"]), Some("network_aliases[0]")),
        (|c| c.only_networks = true, Some("only_networks")),
        (
            |c| {
                c.only_networks = true;
                c.networks = vec![pb::NetworkAttachment { name: "back".into(), aliases: vec![] }];
            },
            None,
        ),
        (
            |c| {
                c.only_networks = true;
                c.networks = vec![pb::NetworkAttachment { name: "back".into(), aliases: vec![] }];
                c.network_aliases = text(&["a"]);
            },
            Some("only_networks"),
        ),
        (
            |c| {
                none(c);
                c.network_aliases = text(&["a"]);
            },
            Some("network_aliases"),
        ),
        (|c| c.networks = vec![network("back", &["b"]), network("front", &[])], None),
        (|c| c.networks = vec![network("Back", &[])], Some("networks[0].name")),
        (|c| c.networks = vec![network("a", &[]), network("a", &[])], Some("networks[1].name")),
        (|c| c.networks = vec![network("a", &[""])], Some("networks[0].aliases[0]")),
        (
            |c| {
                host(c);
                c.networks = vec![network("a", &[])];
            },
            Some("networks"),
        ),
        (none, None),
        (
            |c| {
                none(c);
                c.ports = vec![pb::Port { container_port: 1, ..Default::default() }];
            },
            Some("ports"),
        ),
        (|c| c.network_mode = 9, Some("network_mode")),
        (|c| c.ipc_mode = 9, Some("ipc_mode")),
        (|c| c.pid_mode = 9, Some("pid_mode")),
        (|c| c.labels = pair("team", ""), None),
        (|c| c.labels = pair("skerry.io/app", "x"), Some("labels.skerry.io/app")),
        (|c| c.labels = pair("", "x"), Some("labels.")),
        (|c| c.platform = "linux/arm/v7".into(), None),
        (|c| c.platform = "linux//v7".into(), Some("platform")),
        (|c| c.group_add = text(&["audio", "29"]), None),
        (|c| c.group_add = text(&["a b"]), Some("group_add[0]")),
        (|c| c.gpus = "all".into(), Some("gpus")),
        (|c| c.log = Some(pb::Log { driver: "json file".into(), ..Default::default() }), Some("log.driver")),
        (|c| c.log = Some(pb::Log { options: pair("", "x"), ..Default::default() }), Some("log.options.")),
        (|c| c.mounts = tmpfs(Some(1), "0755"), None),
        (|c| c.mounts = tmpfs(Some(0), ""), Some("mounts[0].tmpfs.size_bytes")),
        (|c| c.mounts = tmpfs(None, "0788"), Some("mounts[0].tmpfs.mode")),
        (|c| c.mounts = tmpfs(None, "17777"), Some("mounts[0].tmpfs.mode")),
    ];
    for (n, (change, field)) in rows.into_iter().enumerate() {
        let refused = refused_with(|service| change(inner(service)));
        let expected: Vec<String> =
            field.iter().map(|field| format!("spec.services[0].container.{field}")).collect();
        assert_eq!(refused, expected, "row {n}");
    }
}

#[test]
fn names_are_normal_and_defaults_filled_in() {
    let mut service = container("a");
    let wire = inner(&mut service);
    wire.cap_add = text(&["cap_net_admin"]);
    wire.devices = device("/dev/null", "", "");
    wire.ulimits = ulimit("core", 7, None);
    wire.extra_hosts = extra("me", "host-gateway");
    wire.mounts = tmpfs(None, "1777");
    let spec = AppSpec::from_proto(&app(vec![service])).unwrap();
    let Program::Container(container) = &spec.services[0].program else { panic!("a container") };
    assert_eq!(container.isolation.cap_add, ["NET_ADMIN"]);
    let device = Device { path: "/dev/null".into(), target: "/dev/null".into(), permissions: "rwm".into() };
    assert_eq!(container.isolation.devices, [device]);
    assert_eq!(container.kernel.ulimits, [Ulimit { name: "core".into(), soft: 7, hard: 7 }]);
    assert_eq!(container.network.extra_hosts, [ExtraHost { hostname: "me".into(), address: None }]);
    assert_eq!(container.mounts[0].source, MountSource::Tmpfs { size_bytes: None, mode: Some(0o1777) });
}

#[test]
fn a_port_that_nobody_reaches_is_no_health_check() {
    let tcp = pb::health_check::Probe::Tcp(pb::health_check::Tcp { port: 80 });
    let check = pb::HealthCheck { probe: Some(tcp), ..Default::default() };
    let refused = refused_with(|service| {
        none(inner(service));
        service.health_check = Some(check);
    });
    assert_eq!(refused, ["spec.services[0].health_check.tcp"]);
}

#[test]
fn pids_and_swap_are_limits_of_containers() {
    let list = |pids, swap_bytes, memory_bytes| pb::ResourceList {
        pids,
        swap_bytes,
        memory_bytes,
        ..Default::default()
    };
    let with = |requests, limits| refused_with(|s| s.resources = Some(pb::Resources { requests, limits }));
    assert!(with(None, Some(list(Some(5), Some(1 << 20), Some(64 << 20)))).is_empty());
    assert_eq!(
        with(Some(list(Some(5), Some(5), None)), None),
        ["spec.services[0].resources.requests.pids", "spec.services[0].resources.requests.swap_bytes"]
    );
    assert_eq!(with(None, Some(list(None, Some(5), None))), ["spec.services[0].resources.limits.swap_bytes"]);
    assert_eq!(with(None, Some(list(Some(0), None, None))), ["spec.services[0].resources.limits.pids"]);
}

#[test]
fn a_first_wait_above_the_longest_is_refused_by_the_field_that_was_written() {
    let wait = |seconds| Some(prost_types::Duration { seconds, nanos: 0 });
    let with = |backoff, backoff_max| {
        let restart = pb::RestartPolicy { backoff, backoff_max, ..Default::default() };
        refused_with(|service| service.restart = Some(restart))
    };
    assert_eq!(with(wait(301), None), ["spec.services[0].restart.backoff"]);
    assert_eq!(with(wait(301), wait(300)), ["spec.services[0].restart.backoff_max"]);
    assert!(with(wait(301), wait(301)).is_empty());
}
