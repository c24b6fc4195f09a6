//! Every field of a service that Docker is told of: set in a manifest, read back with what `docker inspect` shows, removed again.
//!
//! One table. Of a container's fields none may be left out of it (the protocol is read to make sure), but for the few that `inspect` does
//! not show; those have tests of their own.

use std::collections::{BTreeMap, BTreeSet};

use prost::Message as _;
use serde_json::{Value, json};
use skerry_agent::desired::{InstanceSpec, join};
use skerry_agent::runtime::Runtime as _;
use skerry_agent::runtime::docker::DockerRuntime;
use skerry_manifest::{Project, Resource, parse};
use skerry_model::{ContentHash, ProjectName};
use skerry_proto::gateway::v1 as pb;
use skerry_proto::scheduler::v1 as scheduler;
use skerry_testing::BUSYBOX_IMAGE;

use super::world::{IDLE, World};

/// The protocol, whose fields are counted.
const PROTO: &str = include_str!("../../../proto/skerry/type/v1/app.proto");
/// Fields of a container that `inspect` shows nothing of, or that are refused.
const NOT_SHOWN: [&str; 5] = ["image", "image_credentials", "pull_policy", "platform", "gpus"];
/// Fields of a service that Docker is not told of: what there is of it, where and when it runs is not Docker's to know. Variables and files that come
/// from elsewhere, and credentials, have tests of their own.
const NOT_DOCKERS: [&str; 21] = [
    "name",
    "deployment",
    "daemon_set",
    "job",
    "cron_job",
    "container",
    "process",
    "requests",
    "env_from",
    "secrets",
    "health_check",
    "depends_on",
    "restart",
    "restart_time",
    "update",
    "node_selector",
    "tolerations",
    "architectures",
    "failover",
    "priority",
    "gpu",
];
const INSTANCE: &str = "fields/web/n1/0";
const CONFIG: &str = "site";

/// What is read back.
enum Shown {
    /// At this pointer into what `inspect` shows there is exactly this.
    Is(&'static str, Value),
    /// The list at this pointer has this.
    Has(&'static str, Value),
}

use Shown::{Has, Is};

/// A field, its lines in a manifest, and what they do.
struct Row {
    /// As the protocol has it.
    field: &'static str,
    yaml: &'static str,
    shown: Vec<Shown>,
}

/// A field of the container.
fn container(field: &'static str, yaml: &'static str, shown: Vec<Shown>) -> Row {
    Row { field, yaml, shown }
}

/// A field of the service, written beside `container`.
fn service(yaml: &'static str, shown: Vec<Shown>) -> Row {
    Row { field: "", yaml, shown }
}

fn rows() -> Vec<Row> {
    vec![
        container("entrypoint", "entrypoint: [env]", vec![Is("/Config/Entrypoint", json!(["env"]))]),
        container(
            "command",
            "command: [sleep, \"1000\"]",
            vec![Is("/Config/Cmd", json!(["sleep", "1000"])), Is("/Path", json!("sleep"))],
        ),
        container(
            "ports",
            "ports: [{containerPort: 8080, hostPort: 47113, protocol: udp, hostAddress: 127.0.0.1}]",
            vec![
                Is(
                    "/HostConfig/PortBindings",
                    json!({"8080/udp": [{"HostIp": "127.0.0.1", "HostPort": "47113"}]}),
                ),
                Is("/Config/ExposedPorts", json!({"8080/udp": {}})),
            ],
        ),
        container(
            "mounts",
            "mounts: [{target: /in, bind: {path: /etc}, readOnly: true}]",
            vec![Is(
                "/HostConfig/Mounts",
                json!([{"Type": "bind", "Source": "/etc", "Target": "/in", "ReadOnly": true}]),
            )],
        ),
        container(
            "mounts",
            "mounts: [{target: /data, volume: {name: db}}]",
            vec![
                Is("/HostConfig/Mounts/0/Type", json!("volume")),
                Is("/HostConfig/Mounts/0/Target", json!("/data")),
                Is("/HostConfig/Mounts/0/VolumeOptions/Labels/skerry.io~1volume", json!("db")),
            ],
        ),
        container(
            "mounts",
            "mounts: [{target: /mem, tmpfs: {size: 1Mi, mode: \"0700\"}}]",
            vec![Is(
                "/HostConfig/Mounts",
                json!([{"Type": "tmpfs", "Target": "/mem", "TmpfsOptions": {"SizeBytes": 1 << 20, "Mode": 0o700}}]),
            )],
        ),
        container("network_mode", "networkMode: host", vec![Is("/HostConfig/NetworkMode", json!("host"))]),
        container("network_mode", "networkMode: none", vec![Is("/HostConfig/NetworkMode", json!("none"))]),
        container(
            "mounts",
            "mounts: [{target: /in, bind: {path: /etc, propagation: private}}]",
            vec![Is("/HostConfig/Mounts/0/BindOptions/Propagation", json!("private"))],
        ),
        container(
            "mounts",
            "mounts: [{target: /cache, volume: {name: cache, removeWithApp: true}}]",
            vec![Is("/HostConfig/Mounts/0/VolumeOptions/Labels/skerry.io~1remove-with-app", json!("true"))],
        ),
        container(
            "runtime",
            "runtime: io.containerd.runc.v2",
            vec![Is("/HostConfig/Runtime", json!("io.containerd.runc.v2"))],
        ),
        container("tty", "tty: true", vec![Is("/Config/Tty", json!(true))]),
        container("stdin_open", "stdinOpen: true", vec![Is("/Config/OpenStdin", json!(true))]),
        container("oom_score_adj", "oomScoreAdj: 500", vec![Is("/HostConfig/OomScoreAdj", json!(500))]),
        container("cpuset_cpus", "cpusetCpus: \"0\"", vec![Is("/HostConfig/CpusetCpus", json!("0"))]),
        container(
            "device_cgroup_rules",
            "deviceCgroupRules: [\"c 188:* rwm\"]",
            vec![Is("/HostConfig/DeviceCgroupRules", json!(["c 188:* rwm"]))],
        ),
        container("hostname", "hostname: box.example", vec![Is("/Config/Hostname", json!("box.example"))]),
        container(
            "read_only_root",
            "readOnlyRoot: true",
            vec![Is("/HostConfig/ReadonlyRootfs", json!(true))],
        ),
        container(
            "cap_add",
            "capAdd: [NET_ADMIN, CAP_SYS_TIME]",
            vec![Is("/HostConfig/CapAdd", json!(["CAP_NET_ADMIN", "CAP_SYS_TIME"]))],
        ),
        container("cap_drop", "capDrop: [ALL]", vec![Is("/HostConfig/CapDrop", json!(["ALL"]))]),
        container("privileged", "privileged: true", vec![Is("/HostConfig/Privileged", json!(true))]),
        container(
            "security_opts",
            "securityOpts: [no-new-privileges, seccomp=unconfined]",
            vec![Is("/HostConfig/SecurityOpt", json!(["no-new-privileges", "seccomp=unconfined"]))],
        ),
        container(
            "devices",
            "devices: [{path: /dev/null, target: /dev/nothing, permissions: rw}]",
            vec![Is(
                "/HostConfig/Devices",
                json!([{"PathOnHost": "/dev/null", "PathInContainer": "/dev/nothing", "CgroupPermissions": "rw"}]),
            )],
        ),
        container(
            "ulimits",
            "ulimits: [{name: nofile, soft: 100, hard: 200}, {name: core, soft: 0}]",
            vec![Is(
                "/HostConfig/Ulimits",
                json!([{"Name": "nofile", "Soft": 100, "Hard": 200}, {"Name": "core", "Soft": 0, "Hard": 0}]),
            )],
        ),
        container(
            "sysctls",
            "sysctls: {net.ipv4.ip_unprivileged_port_start: \"80\"}",
            vec![Is("/HostConfig/Sysctls", json!({"net.ipv4.ip_unprivileged_port_start": "80"}))],
        ),
        container("shm_size_bytes", "shmSize: 8Mi", vec![Is("/HostConfig/ShmSize", json!(8 << 20))]),
        container("init", "init: true", vec![Is("/HostConfig/Init", json!(true))]),
        container(
            "extra_hosts",
            "extraHosts: [{hostname: db.example, address: 192.0.2.7}, {hostname: me, address: host-gateway}]",
            vec![Is("/HostConfig/ExtraHosts", json!(["db.example:192.0.2.7", "me:host-gateway"]))],
        ),
        container(
            "dns",
            "dns: {servers: [192.0.2.1], search: [example.org], options: [\"ndots:2\"]}",
            vec![
                Is("/HostConfig/Dns", json!(["192.0.2.1"])),
                Is("/HostConfig/DnsSearch", json!(["example.org"])),
                Is("/HostConfig/DnsOptions", json!(["ndots:2"])),
            ],
        ),
        container(
            "only_networks",
            "onlyNetworks: true\n        networks: [{name: back}]",
            vec![
                Is("/NetworkSettings/Networks/{own}/NetworkID", Value::Null),
                Has("/NetworkSettings/Networks/{back}/Aliases", json!("web")),
            ],
        ),
        container(
            "network_aliases",
            "networkAliases: [shop.example]",
            vec![Has("/NetworkSettings/Networks/{own}/Aliases", json!("shop.example"))],
        ),
        container(
            "networks",
            "networks: [{name: back, aliases: [inner]}]",
            vec![
                Has("/NetworkSettings/Networks/{back}/Aliases", json!("inner")),
                Has("/NetworkSettings/Networks/{back}/Aliases", json!("web")),
            ],
        ),
        container("ipc_mode", "ipcMode: shareable", vec![Is("/HostConfig/IpcMode", json!("shareable"))]),
        container("ipc_mode", "ipcMode: host", vec![Is("/HostConfig/IpcMode", json!("host"))]),
        container("pid_mode", "pidMode: host", vec![Is("/HostConfig/PidMode", json!("host"))]),
        container(
            "log",
            "log: {options: {max-size: 1m, tag: x}}",
            vec![Is(
                "/HostConfig/LogConfig",
                json!({"Type": "json-file", "Config": {"max-size": "1m", "max-file": "3", "tag": "x"}}),
            )],
        ),
        container(
            "log",
            "log: {driver: none}",
            vec![Is("/HostConfig/LogConfig", json!({"Type": "none", "Config": {}}))],
        ),
        container("labels", "labels: {team: core}", vec![Is("/Config/Labels/team", json!("core"))]),
        container(
            "group_add",
            "groupAdd: [\"29\", nobody]",
            vec![Is("/HostConfig/GroupAdd", json!(["29", "nobody"]))],
        ),
        service("env: {GREETING: hello = world}", vec![Has("/Config/Env", json!("GREETING=hello = world"))]),
        service("workingDirectory: /tmp", vec![Is("/Config/WorkingDir", json!("/tmp"))]),
        service("user: \"65534:65534\"", vec![Is("/Config/User", json!("65534:65534"))]),
        service(
            "configs: [{config: site, path: /etc/site}]",
            vec![
                Is("/HostConfig/Mounts/0/Target", json!("/etc/site")),
                Is("/HostConfig/Mounts/0/ReadOnly", json!(true)),
            ],
        ),
        service("resources: {limits: {cpu: 250m}}", vec![Is("/HostConfig/NanoCpus", json!(250_000_000))]),
        service("resources: {limits: {memory: 64Mi}}", vec![Is("/HostConfig/Memory", json!(64 << 20))]),
        service(
            "resources: {limits: {memory: 64Mi, swap: 16Mi}}",
            vec![Is("/HostConfig/MemorySwap", json!((64 + 16) << 20))],
        ),
        service("resources: {limits: {pids: 77}}", vec![Is("/HostConfig/PidsLimit", json!(77))]),
        service("stop: {signal: SIGINT}", vec![Is("/Config/StopSignal", json!("SIGINT"))]),
        service("stop: {signal: SIGKILL, gracePeriod: 3s}", vec![Is("/Config/StopTimeout", json!(3))]),
    ]
}

/// An app with these lines, as the agent gets it.
fn spec(row: Option<&Row>) -> InstanceSpec {
    let (inside, beside) = match row {
        Some(row) if row.field.is_empty() => ("", row.yaml),
        Some(row) => (row.yaml, ""),
        None => ("", ""),
    };
    let command = if inside.starts_with("command") {
        String::new()
    } else {
        format!("command: [sh, -c, {}]", json!(IDLE))
    };
    // Ends without its grace being waited for, also where it is deaf.
    let stop = if beside.starts_with("stop") { "" } else { "stop: {signal: SIGKILL}" };
    let text = format!(
        "apiVersion: skerry/v1
kind: App
metadata: {{name: fields}}
spec:
  services:
    - name: web
      container:
        image: {BUSYBOX_IMAGE}
        {command}
        {inside}
      {stop}
      {beside}
"
    );
    let project = Project::Default(ProjectName::parse("default").expect("a name"));
    let manifests =
        parse("table.yaml", text.as_bytes(), &project).unwrap_or_else(|error| panic!("{error}{text}"));
    let Resource::App(app) = &manifests[0].resource else { panic!("an app") };
    let revision = app.spec.clone().expect("a spec").encode_to_vec();
    let config = scheduler::ConfigSpec {
        data: BTreeMap::from([("a".to_owned(), "one".to_owned())]),
        ..scheduler::ConfigSpec::default()
    };
    let config = config.encode_to_vec();
    let (revision_hash, config_hash) = (ContentHash::of(&revision), ContentHash::of(&config));
    let instance = pb::Instance {
        instance: INSTANCE.to_owned(),
        revision: revision_hash.to_string(),
        configs: vec![pb::ConfigReference { config: CONFIG.to_owned(), hash: config_hash.to_string() }],
        ..Default::default()
    };
    let resource = |name: String, body| pb::Resource { name, body: Some(body), ..pb::Resource::default() };
    let resources = [
        resource(format!("revisions/fields/{revision_hash}"), pb::resource::Body::Revision(revision.into())),
        resource(format!("configs/{CONFIG}/{config_hash}"), pb::resource::Body::Config(config.into())),
        resource(format!("instances/{INSTANCE}"), pb::resource::Body::Instance(instance)),
    ];
    let (desired, refusals) = join(&resources, true);
    assert_eq!(refusals, []);
    InstanceSpec::clone(desired.instances.values().next().expect("one instance"))
}

/// The pointer with the names that Docker has for the networks.
fn resolve(pointer: &str, runtime: &DockerRuntime, spec: &InstanceSpec) -> String {
    let app = &spec.name.app;
    let further = skerry_model::NetworkName::parse("back").expect("a name");
    pointer
        .replace("{own}", &runtime.network_name(app, None))
        .replace("{back}", &runtime.network_name(app, Some(&further)))
}

#[tokio::test]
async fn each_field_is_set_read_back_and_removed_again() {
    let Some(world) = World::new("table") else { return };
    let plain = spec(None);
    world.ensure(&plain).await.expect("the plain one runs");
    let base = world.inspect(&plain);
    let bounds = json!({"Type": "json-file", "Config": {"max-size": "10m", "max-file": "3"}});
    assert_eq!(base["HostConfig"]["LogConfig"], bounds, "logs have a bound if nothing is said");
    let at = |seen: &Value, pointer: &str| {
        seen.pointer(&resolve(pointer, &world.runtime, &plain)).cloned().unwrap_or(Value::Null)
    };
    let has = |list: &Value, value: &Value| list.as_array().is_some_and(|list| list.contains(value));
    let rows = rows();
    // After each row the next one, which lacks its field; after the last the plain one.
    for (n, row) in rows.iter().map(Some).chain([None]).enumerate() {
        let spec = spec(row);
        let yaml = row.map_or("nothing", |row| row.yaml);
        let confined = match world.ensure(&spec).await {
            Ok(()) => false,
            // Docker may itself be confined, without what it would give. The container is made all the same.
            Err(error)
                if yaml.starts_with("privileged") && error.message.contains("operation not permitted") =>
            {
                eprintln!("NOT STARTED, this machine's Docker may not: {yaml}: {error}");
                true
            }
            Err(error) => panic!("{yaml}: {error}"),
        };
        let seen = world.inspect(&spec);
        assert_eq!(seen["State"]["Running"], !confined, "{yaml}");
        let mut touched = BTreeSet::new();
        for shown in row.iter().flat_map(|row| &row.shown) {
            match shown {
                Is(pointer, value) => {
                    touched.insert(*pointer);
                    assert_ne!(at(&base, pointer), *value, "{yaml}: {pointer} would not show it");
                    assert_eq!(at(&seen, pointer), *value, "{yaml}: {pointer}");
                }
                Has(pointer, value) => {
                    assert!(!has(&at(&base, pointer), value), "{yaml}: {pointer} would not show it");
                    let list = at(&seen, pointer);
                    assert!(has(&list, value), "{yaml}: {pointer} is {list}, without {value}");
                }
            }
        }
        let Some(before) = n.checked_sub(1).map(|before| &rows[before]) else { continue };
        for shown in &before.shown {
            match shown {
                Is(pointer, _)
                    if touched
                        .iter()
                        .any(|other| other.starts_with(pointer) || pointer.starts_with(other)) => {}
                // Of another network mode there is no host name and no endpoint to compare.
                Is(pointer, _) => {
                    assert_eq!(at(&seen, pointer), at(&base, pointer), "after {}: {pointer}", before.yaml);
                }
                Has(pointer, value) => {
                    assert!(!has(&at(&seen, pointer), value), "after {}: {pointer}", before.yaml);
                }
            }
        }
    }
    assert_eq!(world.containers().len(), 1);
    world.runtime.remove(&plain.name).await.expect("it is removed");
}

/// Fields of a message in the protocol, with those of the messages in it and of its choices.
fn fields_of(message: &str) -> BTreeSet<&'static str> {
    let mut body = PROTO.split(&format!("\nmessage {message} {{")).nth(1).expect("a message").split("\n}\n");
    let body = body.next().expect("it ends");
    let fields = body.lines().map(str::trim).filter(|line| line.ends_with(';') && !line.starts_with("//"));
    // Values of an enum have names in capitals.
    let names = fields.filter_map(|line| line.split(" = ").next()?.split(' ').next_back());
    names
        .filter(|name| name.bytes().all(|b| b.is_ascii_lowercase() || b == b'_' || b.is_ascii_digit()))
        .collect()
}

#[test]
fn no_field_of_a_container_is_left_out_of_the_table() {
    let rows = rows();
    let known: BTreeSet<&str> =
        rows.iter().map(|row| row.field).filter(|field| !field.is_empty()).chain(NOT_SHOWN).collect();
    let fields = fields_of("Container");
    assert!(fields.len() > 20, "{fields:?}");
    assert_eq!(fields, known);
}

#[test]
fn no_field_of_what_a_container_is_told_is_left_out_of_the_table() {
    let text = rows().iter().map(|row| row.yaml).collect::<Vec<_>>().join(" ");
    let words: BTreeSet<&str> = text.split(|c: char| !c.is_ascii_alphanumeric()).collect();
    let camel = |field: &str| {
        let mut parts = field.split('_');
        let first = parts.next().unwrap().to_owned();
        parts.fold(first, |name, part| name + &part[..1].to_uppercase() + &part[1..])
    };
    // Quantities have shorter names in manifests.
    let written = |field: &str| camel(field.trim_end_matches("_bytes").trim_end_matches("_millis"));
    for message in [
        "Device",
        "Ulimit",
        "ExtraHost",
        "Dns",
        "NetworkAttachment",
        "Log",
        "Port",
        "Mount",
        "StopPolicy",
        "ResourceList",
        "ServiceSpec",
    ] {
        let fields = fields_of(message);
        assert!(!fields.is_empty(), "{message}");
        for field in fields.into_iter().filter(|field| !NOT_DOCKERS.contains(field)) {
            assert!(words.contains(written(field).as_str()), "{message}.{field} is in no row");
        }
    }
}
