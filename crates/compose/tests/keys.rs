//! The law of the whole crate: no key of the Compose specification is dropped in silence. Each changes what comes out, or is named.

mod support;

use support::{World, one};

/// A key of a service, with a value that says something, and lines that it needs beside it.
const SERVICE: &[(&str, &str)] = &[
    ("annotations", "annotations: {a: b}"),
    ("attach", "attach: true"),
    ("blkio_config", "blkio_config: {weight: 300}"),
    ("build", "build: ."),
    ("cap_add", "cap_add: [NET_ADMIN]"),
    ("cap_drop", "cap_drop: [ALL]"),
    ("cgroup", "cgroup: host"),
    ("cgroup_parent", "cgroup_parent: m"),
    ("command", "command: sleep 1"),
    ("configs", "configs: [there]"),
    ("container_name", "container_name: c"),
    ("cpu_count", "cpu_count: 1"),
    ("cpu_percent", "cpu_percent: 50"),
    ("cpu_period", "cpu_period: 50000\ncpu_quota: 25000"),
    ("cpu_quota", "cpu_quota: 50000"),
    ("cpu_rt_period", "cpu_rt_period: 400ms"),
    ("cpu_rt_runtime", "cpu_rt_runtime: 400ms"),
    ("cpu_shares", "cpu_shares: 73"),
    ("cpus", "cpus: 0.5"),
    ("cpuset", "cpuset: 0-1"),
    ("credential_spec", "credential_spec: {file: x}"),
    ("depends_on", "depends_on: [b]"),
    ("deploy", "deploy: {replicas: 2}"),
    ("develop", "develop: {watch: []}"),
    ("device_cgroup_rules", "device_cgroup_rules: ['c 1:3 mr']"),
    ("devices", "devices: [/dev/null]"),
    ("dns", "dns: 8.8.8.8"),
    ("dns_opt", "dns_opt: ['ndots:1']"),
    ("dns_search", "dns_search: example.org"),
    ("domainname", "domainname: example.org"),
    ("entrypoint", "entrypoint: /bin/x"),
    ("env_file", "env_file: a.env"),
    ("environment", "environment: {A: b}"),
    ("extends", "extends: b"),
    ("external_links", "external_links: [x]"),
    ("extra_hosts", "extra_hosts: ['h:10.0.0.1']"),
    ("gpus", "gpus: all"),
    ("group_add", "group_add: [mail]"),
    ("healthcheck", "healthcheck: {test: true}"),
    ("hostname", "hostname: h"),
    ("init", "init: true"),
    ("ipc", "ipc: host"),
    ("isolation", "isolation: hyperv"),
    ("label_file", "label_file: a.env"),
    ("labels", "labels: {a: b}"),
    ("links", "links: ['b:c']"),
    ("logging", "logging: {driver: local}"),
    ("mac_address", "mac_address: 02:42:ac:11:65:43"),
    ("mem_limit", "mem_limit: 64m"),
    ("mem_reservation", "mem_reservation: 64m"),
    ("mem_swappiness", "mem_swappiness: 10"),
    ("memswap_limit", "mem_limit: 64m\nmemswap_limit: 128m"),
    ("models", "models: [m]"),
    ("network_mode", "network_mode: host"),
    ("networks", "networks: [back]"),
    ("oom_kill_disable", "oom_kill_disable: true"),
    ("oom_score_adj", "oom_score_adj: 100"),
    ("pid", "pid: host"),
    ("pids_limit", "pids_limit: 10"),
    ("platform", "platform: linux/arm64"),
    ("ports", "ports: ['80:80']"),
    ("post_start", "post_start: [{command: x}]"),
    ("pre_stop", "pre_stop: [{command: x}]"),
    ("privileged", "privileged: true"),
    ("profiles", "profiles: [p]"),
    ("provider", "provider: {type: x}"),
    ("pull_policy", "pull_policy: always"),
    ("read_only", "read_only: true"),
    ("restart", "restart: on-failure"),
    ("runtime", "runtime: runsc"),
    ("scale", "scale: 2"),
    ("secrets", "secrets: [there]"),
    ("security_opt", "security_opt: [no-new-privileges]"),
    ("shm_size", "shm_size: 64m"),
    ("stdin_open", "stdin_open: true"),
    ("stop_grace_period", "stop_grace_period: 1s"),
    ("stop_signal", "stop_signal: SIGINT"),
    ("storage_opt", "storage_opt: {size: 1G}"),
    ("sysctls", "sysctls: {net.core.somaxconn: 1024}"),
    ("tmpfs", "tmpfs: /run"),
    ("tty", "tty: true"),
    ("ulimits", "ulimits: {nproc: 10}"),
    ("use_api_socket", "use_api_socket: true"),
    ("user", "user: nobody"),
    ("userns_mode", "userns_mode: host"),
    ("uts", "uts: host"),
    ("volumes", "volumes: ['/x']"),
    ("volumes_from", "volumes_from: [b]"),
    ("working_dir", "working_dir: /x"),
];

/// Keys further below, each as a whole service's line, with the word that names it.
const BELOW: &[(&str, &str)] = &[
    ("mode", "deploy: {mode: global}"),
    ("endpoint_mode", "deploy: {endpoint_mode: vip}"),
    ("labels", "deploy: {labels: {a: b}}"),
    ("placement", "deploy: {placement: {constraints: [x]}}"),
    ("rollback_config", "deploy: {rollback_config: {parallelism: 1}}"),
    ("order", "deploy: {update_config: {order: start-first}}"),
    ("parallelism", "deploy: {update_config: {parallelism: 2}}"),
    ("delay", "deploy: {update_config: {delay: 10s}}"),
    ("failure_action", "deploy: {update_config: {failure_action: rollback}}"),
    ("monitor", "deploy: {update_config: {monitor: 10s}}"),
    ("max_failure_ratio", "deploy: {update_config: {max_failure_ratio: 0.1}}"),
    ("condition", "deploy: {restart_policy: {condition: none}}"),
    ("delay", "deploy: {restart_policy: {delay: 9s}}"),
    ("max_attempts", "deploy: {restart_policy: {max_attempts: 3}}"),
    ("window", "deploy: {restart_policy: {window: 9s}}"),
    ("cpus", "deploy: {resources: {limits: {cpus: '0.5'}}}"),
    ("memory", "deploy: {resources: {limits: {memory: 64M}}}"),
    ("pids", "deploy: {resources: {limits: {pids: 9}}}"),
    ("cpus", "deploy: {resources: {reservations: {cpus: '0.5'}}}"),
    ("memory", "deploy: {resources: {reservations: {memory: 64M}}}"),
    ("devices", "deploy: {resources: {reservations: {devices: [{capabilities: [gpu]}]}}}"),
    ("count", "deploy: {resources: {reservations: {devices: [{capabilities: [gpu], count: 2}]}}}"),
    (
        "device_ids",
        "deploy: {resources: {reservations: {devices: [{capabilities: [gpu], device_ids: ['1']}]}}}",
    ),
    ("options", "gpus: [{count: 1, options: {a: b}}]"),
    ("generic_resources", "deploy: {resources: {reservations: {generic_resources: [x]}}}"),
    ("interval", "healthcheck: {test: x, interval: 5s}"),
    ("timeout", "healthcheck: {test: x, timeout: 5s}"),
    ("retries", "healthcheck: {test: x, retries: 9}"),
    ("start_period", "healthcheck: {test: x, start_period: 5s}"),
    ("start_interval", "healthcheck: {test: x, start_interval: 5s}"),
    ("restart", "depends_on: {b: {condition: service_started, restart: true}}"),
    ("name", "ports: [{target: 80, name: web}]"),
    ("app_protocol", "ports: [{target: 80, app_protocol: http}]"),
    ("consistency", "volumes: [{type: tmpfs, target: /x, consistency: cached}]"),
    ("create_host_path", "volumes: [{type: bind, source: /s, target: /x, bind: {create_host_path: true}}]"),
    ("propagation", "volumes: [{type: bind, source: /s, target: /x, bind: {propagation: shared}}]"),
    ("selinux", "volumes: [{type: bind, source: /s, target: /x, bind: {selinux: z}}]"),
    ("recursive", "volumes: [{type: bind, source: /s, target: /x, bind: {recursive: disabled}}]"),
    ("nocopy", "volumes: [{type: volume, target: /x, volume: {nocopy: true}}]"),
    ("subpath", "volumes: [{type: volume, target: /x, volume: {subpath: y}}]"),
    ("size", "volumes: [{type: tmpfs, target: /x, tmpfs: {size: 64m}}]"),
    ("mode", "volumes: [{type: tmpfs, target: /x, tmpfs: {mode: 0755}}]"),
    ("aliases", "networks: {back: {aliases: [x]}}"),
    ("ipv4_address", "networks: {back: {ipv4_address: 10.0.0.1}}"),
    ("ipv6_address", "networks: {back: {ipv6_address: '::1'}}"),
    ("link_local_ips", "networks: {back: {link_local_ips: [x]}}"),
    ("mac_address", "networks: {back: {mac_address: x}}"),
    ("driver_opts", "networks: {back: {driver_opts: {a: b}}}"),
    ("gw_priority", "networks: {back: {gw_priority: 1}}"),
    ("interface_name", "networks: {back: {interface_name: eth1}}"),
    ("priority", "networks: {back: {priority: 1}}"),
    ("uid", "configs: [{source: there, uid: '103'}]"),
    ("gid", "configs: [{source: there, gid: '103'}]"),
    ("mode", "configs: [{source: there, mode: 0440}]"),
    ("options", "logging: {options: {tag: x}}"),
    ("required", "env_file: [{path: a.env, required: true}]"),
    ("format", "env_file: [{path: a.env, format: raw}]"),
];

/// Keys of what is declared beside services.
const DECLARED: &[(&str, &str)] = &[
    ("version", "version: '3.8'"),
    ("models", "models: {m: {model: x}}"),
    ("networks.back.attachable", "networks: {back: {attachable: true}}"),
    ("networks.back.driver", "networks: {back: {driver: overlay}}"),
    ("networks.back.driver_opts", "networks: {back: {driver_opts: {a: b}}}"),
    ("networks.back.enable_ipv6", "networks: {back: {enable_ipv6: true}}"),
    ("networks.back.external", "networks: {back: {external: true}}"),
    ("networks.back.internal", "networks: {back: {internal: true}}"),
    ("networks.back.ipam", "networks: {back: {ipam: {config: [{subnet: 10.0.0.0/8}]}}}"),
    ("networks.back.labels", "networks: {back: {labels: {a: b}}}"),
    ("networks.back.name", "networks: {back: {name: x}}"),
    ("volumes.data.driver", "volumes: {data: {driver: nfs}}"),
    ("volumes.data.driver_opts", "volumes: {data: {driver_opts: {type: nfs}}}"),
    ("volumes.data.external", "volumes: {data: {external: true}}"),
    ("volumes.data.labels", "volumes: {data: {labels: {a: b}}}"),
    ("volumes.data.name", "volumes: {data: {name: x}}"),
    ("configs.c.labels", "configs: {c: {content: x, labels: {a: b}}}"),
    ("configs.c.name", "configs: {c: {content: x, name: y}}"),
    ("configs.c.template_driver", "configs: {c: {content: x, template_driver: golang}}"),
    ("secrets.s.driver", "secrets: {s: {environment: S, driver: x}}"),
    ("secrets.s.driver_opts", "secrets: {s: {environment: S, driver_opts: {a: b}}}"),
    ("secrets.s.labels", "secrets: {s: {environment: S, labels: {a: b}}}"),
    ("secrets.s.name", "secrets: {s: {environment: S, name: y}}"),
    ("secrets.s.template_driver", "secrets: {s: {environment: S, template_driver: golang}}"),
];

fn world() -> World {
    World::default().file("a.env", "FROM_FILE='$x'\n").variable("S", "s")
}

const REST: &str = "  b: {image: 'busybox:2', command: [x]}\nnetworks: {back: {}}\nvolumes: {data: {}}\nconfigs: {there: {content: x}}\nsecrets: {there: {environment: S}}\n";

/// What comes out, as text: the manifests, the warnings or the faults.
fn outcome(text: &str) -> (String, String) {
    match world().bundle(&[text]) {
        Ok(bundle) => {
            let warnings: Vec<String> = bundle
                .warnings
                .iter()
                .filter(|warning| {
                    !warning.path.ends_with(".restart") || !warning.message.starts_with("nothing is said")
                })
                .map(ToString::to_string)
                .collect();
            let resources: Vec<_> = bundle.manifests.into_iter().map(|manifest| manifest.resource).collect();
            (format!("{resources:?}"), warnings.join("\n"))
        }
        Err(errors) => (String::new(), errors.join("\n")),
    }
}

#[test]
fn no_key_of_a_service_is_dropped_in_silence() {
    let (before, said) = outcome(&(one("") + REST));
    assert_eq!(said, "", "nothing is said of what says nothing");
    for (key, lines) in SERVICE.iter().chain(BELOW) {
        let (after, said) = outcome(&(one(lines) + REST));
        assert!(said.contains(key) || !(after.is_empty() || after == before), "{key} was dropped: {said}");
        assert!(!said.contains("Compose knows no such key"), "{key}: {said}");
    }
}

#[test]
fn no_key_beside_services_is_dropped_in_silence() {
    let base = "services:\n  a: {image: 'busybox:1', networks: [default, back], volumes: ['data:/d'], configs: [c], secrets: [s]}\n";
    let declared = |section: &str| match section {
        "networks" => "networks: {back: {}}\n",
        "volumes" => "volumes: {data: {}}\n",
        "configs" => "configs: {c: {content: x}}\n",
        _ => "secrets: {s: {environment: S}}\n",
    };
    for (path, line) in DECLARED {
        let own = path.split('.').next().unwrap_or_default();
        let others: String = ["networks", "volumes", "configs", "secrets"]
            .into_iter()
            .filter(|section| *section != own)
            .map(declared)
            .collect();
        let (_, said) = outcome(&format!("{base}{others}{line}\n"));
        assert!(said.contains(&format!("{path}: ")), "{path} was dropped: {said}");
        assert!(!said.contains("Compose knows no such key"), "{path}: {said}");
    }
}

#[test]
fn a_key_that_is_none_is_refused_with_the_one_that_was_meant() {
    let errors = support::errors_of("imgae: x\nzzz: y\nx-own: fine");
    assert_eq!(
        errors,
        [
            "1.yml:4:5: services.a.imgae: Compose knows no such key; did you mean \"image\"?",
            "1.yml:5:5: services.a.zzz: Compose knows no such key: take it away, or begin it with x- if it is for others"
        ]
    );
    for lines in [
        "deploy: {x: 1}",
        "healthcheck: {test: a, x: 1}",
        "ports: [{target: 1, x: 1}]",
        "volumes: [{type: tmpfs, target: /t, x: 1}]",
        "ulimits: {nproc: {soft: 1, hard: 1, x: 1}}",
        "logging: {x: 1}",
        "devices: [{source: /dev/null, x: 1}]",
    ] {
        assert!(support::errors_of(lines).join("").contains("no such key"), "{lines}");
    }
}

#[test]
fn what_is_the_same_as_nothing_is_taken() {
    let (before, _) = outcome(&(one("") + REST));
    for lines in [
        "annotations: {}",
        "oom_kill_disable: false",
        "external_links: []",
        "uts: ''",
        "gpus:",
        "volumes_from: []",
    ] {
        assert_eq!(outcome(&(one(lines) + REST)), (before.clone(), String::new()), "{lines}");
    }
}
