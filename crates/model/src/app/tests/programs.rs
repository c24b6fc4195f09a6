//! Every field of a service beside each kind of program: it is taken, or refused by its name.

use std::collections::BTreeSet;

use super::*;

/// The protocol, whose fields are counted.
const PROTO: &str = include_str!("../../../../../proto/skerry/type/v1/app.proto");

/// A field of a service, something said in it, and the field that a process is refused by for it; none: it is taken.
type Row = (&'static str, fn(&mut pb::ServiceSpec), Option<&'static str>);

fn process(service: &mut pb::ServiceSpec) {
    let process = pb::Process { program: "/bin/web".into(), args: vec!["-v".into()], ..Default::default() };
    service.program = Some(pb::service_spec::Program::Process(process));
}

fn env_file(path: &str) -> pb::EnvSource {
    pb::EnvSource { source: Some(pb::env_source::Source::File(path.into())), ..Default::default() }
}

fn limits(limits: pb::ResourceList) -> pb::Resources {
    pb::Resources { limits: Some(limits), requests: None }
}

fn rows() -> Vec<Row> {
    vec![
        ("name", |s| s.name = "b".into(), None),
        (
            "deployment",
            |s| s.kind = Some(pb::service_spec::Kind::Deployment(pb::Deployment::default())),
            None,
        ),
        ("daemon_set", |s| s.kind = Some(pb::service_spec::Kind::DaemonSet(pb::DaemonSet {})), None),
        ("job", |s| s.kind = Some(pb::service_spec::Kind::Job(pb::Job::default())), None),
        (
            "cron_job",
            |s| s.kind = Some(pb::service_spec::Kind::CronJob(pb::CronJob::default())),
            Some("cron_job.schedule"),
        ),
        ("process", |_| (), None),
        ("env", |s| drop(s.env.insert("A".into(), "1".into())), None),
        ("env_from", |s| s.env_from = vec![env_file("/etc/default/web")], None),
        ("env_from", |s| s.env_from = vec![env_file("web")], Some("env_from[0].file")),
        ("restart_time", |s| s.restart_time = Some(prost_types::Timestamp::default()), None),
        ("working_directory", |s| s.working_directory = "/srv".into(), None),
        ("user", |s| s.user = "nobody".into(), None),
        (
            "configs",
            |s| s.configs = vec![pb::ConfigMount { config: "site".into(), ..Default::default() }],
            None,
        ),
        (
            "secrets",
            |s| s.secrets = vec![pb::SecretMount { secret: "db".into(), ..Default::default() }],
            None,
        ),
        (
            "resources",
            |s| s.resources = Some(limits(pb::ResourceList { cpu_millis: Some(1), ..Default::default() })),
            None,
        ),
        (
            "resources",
            |s| s.resources = Some(limits(pb::ResourceList { pids: Some(1), ..Default::default() })),
            None,
        ),
        (
            "health_check",
            |s| {
                let probe = Some(pb::health_check::Probe::Tcp(pb::health_check::Tcp { port: 1 }));
                s.health_check = Some(pb::HealthCheck { probe, ..Default::default() });
            },
            None,
        ),
        (
            "health_check",
            |s| {
                let probe = Some(pb::health_check::Probe::Image(pb::health_check::Image {}));
                s.health_check = Some(pb::HealthCheck { probe, ..Default::default() });
            },
            Some("health_check.image"),
        ),
        ("depends_on", |_| (), None),
        ("restart", |s| s.restart = Some(pb::RestartPolicy::default()), None),
        ("stop", |s| s.stop = Some(pb::StopPolicy { signal: "SIGINT".into(), ..Default::default() }), None),
        ("update", |s| s.update = Some(pb::UpdatePolicy::default()), None),
        ("update", start_first, Some("update.order")),
        ("node_selector", |s| s.node_selector = Some(pb::LabelSelector::default()), None),
        ("tolerations", |s| s.tolerations = vec![pb::Toleration::default()], Some("tolerations[0].key")),
        ("architectures", |s| s.architectures = vec!["arm64".into()], None),
        ("architectures", |s| s.architectures = vec!["aarch64".into()], Some("architectures[0]")),
        ("failover", |s| s.failover = pb::Failover::Never.into(), None),
        ("failover", |s| s.failover = 9, Some("failover")),
        ("priority", |s| s.priority = -1000, None),
        ("priority", |s| s.priority = 1001, Some("priority")),
        ("gpu", |s| s.gpu = Some(pb::GpuRequest::default()), None),
        ("gpu", |s| s.gpu = Some(pb::GpuRequest { count: Some(0), ..Default::default() }), Some("gpu.count")),
    ]
}

fn start_first(service: &mut pb::ServiceSpec) {
    service.update = Some(pb::UpdatePolicy { order: pb::update_policy::Order::StartFirst.into() });
}

#[test]
fn what_a_process_cannot_have_is_refused_by_its_field() {
    for (n, (field, change, expected)) in rows().into_iter().enumerate() {
        let mut service = container("a");
        process(&mut service);
        change(&mut service);
        let expected: Vec<String> =
            expected.iter().map(|expected| format!("spec.services[0].{expected}")).collect();
        assert_eq!(refused(&app(vec![service])), expected, "row {n}, {field}");
    }
}

#[test]
fn no_field_of_a_service_is_left_out_of_the_table() {
    let body = PROTO.split("message ServiceSpec {").nth(1).unwrap().split("\n}\n").next().unwrap();
    let fields: BTreeSet<&str> = body
        .lines()
        .filter(|line| line.starts_with("  ") && !line.trim_start().starts_with("//") && line.ends_with(';'))
        .filter_map(|line| line.split(" = ").next()?.split(' ').next_back())
        .collect();
    let known: BTreeSet<&str> = rows().iter().map(|row| row.0).chain(["container"]).collect();
    assert_eq!(fields, known);
}

#[test]
fn starting_first_excludes_what_the_machine_has_only_once() {
    let with = |change: fn(&mut pb::Container)| {
        refused_with(|service| {
            start_first(service);
            change(inner(service));
        })
    };
    assert!(with(|_| ()).is_empty());
    let order = ["spec.services[0].update.order"];
    assert_eq!(with(|c| c.ports = vec![pb::Port { container_port: 80, ..Default::default() }]), order);
    assert_eq!(with(|c| c.network_mode = pb::NetworkMode::Host.into()), order);
    assert!(with(|c| c.network_mode = pb::NetworkMode::None.into()).is_empty());
    assert_eq!(refused_with(|s| s.update = Some(pb::UpdatePolicy { order: 9 })), order);
}

#[test]
fn all_mounts_of_a_volume_say_the_same_about_its_end() {
    let mount = |target: &str, remove_with_app| pb::Mount {
        target: target.into(),
        source: Some(pb::mount::Source::Volume(pb::mount::Volume { name: "db".into(), remove_with_app })),
        read_only: false,
    };
    let (mut one, mut two) = (container("a"), container("b"));
    inner(&mut one).mounts = vec![mount("/a", true)];
    inner(&mut two).mounts = vec![mount("/a", true), mount("/b", true)];
    assert!(refused(&app(vec![one.clone(), two.clone()])).is_empty());
    inner(&mut two).mounts[1] = mount("/b", false);
    let field = "spec.services[1].container.mounts[1].volume.remove_with_app";
    assert_eq!(refused(&app(vec![one, two])), [field]);
}
