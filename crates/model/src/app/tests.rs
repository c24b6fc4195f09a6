//! Rules on specs, each by the field that it names.

use std::time::Duration;

use proptest::prelude::*;
use prost::Message as _;
use skerry_proto::types::v1 as pb;

use super::*;

fn container(name: &str) -> pb::ServiceSpec {
    pb::ServiceSpec {
        name: name.to_owned(),
        program: Some(pb::service_spec::Program::Container(pb::Container {
            image: "web:1".to_owned(),
            ..Default::default()
        })),
        ..Default::default()
    }
}

fn inner(service: &mut pb::ServiceSpec) -> &mut pb::Container {
    match service.program.as_mut() {
        Some(pb::service_spec::Program::Container(container)) => container,
        other => panic!("not a container: {other:?}"),
    }
}

fn app(services: Vec<pb::ServiceSpec>) -> pb::AppSpec {
    pb::AppSpec { services, ..Default::default() }
}

/// Fields that are refused.
fn refused(spec: &pb::AppSpec) -> Vec<String> {
    match AppSpec::from_proto(spec) {
        Ok(_) => Vec::new(),
        Err(fault) => fault.violations.into_iter().map(|violation| violation.field).collect(),
    }
}

fn refused_with(change: impl FnOnce(&mut pb::ServiceSpec)) -> Vec<String> {
    let mut service = container("a");
    change(&mut service);
    refused(&app(vec![service]))
}

#[test]
fn defaults_are_those_that_the_proto_documents() {
    let spec = AppSpec::from_proto(&app(vec![container("a")])).unwrap();
    let service = &spec.services[0];
    assert_eq!(service.kind, Kind::Deployment { replicas: 1 });
    assert_eq!(service.restart.when, RestartWhen::Always);
    assert_eq!(service.restart.backoff, Duration::from_secs(1));
    assert_eq!(service.stop.grace_period, Duration::from_secs(10));
    assert!(spec.selector.is_empty() && !spec.system);
    let Program::Container(container) = &service.program else { panic!("a container") };
    assert_eq!(container.pull_policy, PullPolicy::IfNotPresent);
}

#[test]
fn a_moving_tag_is_pulled_always_and_a_fixed_one_when_missing() {
    for (image, policy) in [
        ("web", PullPolicy::Always),
        ("web:latest", PullPolicy::Always),
        ("host:5000/web", PullPolicy::Always),
        ("host:5000/web:2", PullPolicy::IfNotPresent),
        (&format!("web@sha256:{}", "0".repeat(64)), PullPolicy::IfNotPresent),
    ] {
        let mut service = container("a");
        inner(&mut service).image = image.to_owned();
        let spec = AppSpec::from_proto(&app(vec![service])).unwrap();
        let Program::Container(container) = &spec.services[0].program else { panic!("a container") };
        assert_eq!(container.pull_policy, policy, "{image}");
    }
}

#[test]
fn what_docker_would_refuse_on_the_node_is_refused_here() {
    let at = |field: &str| vec![format!("spec.services[0].{field}")];
    let long = format!("{}.{}", "a".repeat(40), "b".repeat(40));
    assert_eq!(refused_with(|s| inner(s).hostname = long), at("container.hostname"));
    let tmpfs = |target: &str| pb::Mount {
        target: target.into(),
        source: Some(pb::mount::Source::Tmpfs(pb::mount::Tmpfs::default())),
        ..Default::default()
    };
    let twice = refused_with(|s| inner(s).mounts = vec![tmpfs("/data"), tmpfs("//data/./")]);
    assert_eq!(twice, at("container.mounts[1].target"));
    assert_eq!(refused_with(|s| inner(s).mounts = vec![tmpfs("/./")]), at("container.mounts[0].target"));
    let config = |path: &str| pb::ConfigMount { config: "c".into(), path: path.into(), ..Default::default() };
    let secret = |path: &str| pb::SecretMount { secret: "s".into(), path: path.into(), ..Default::default() };
    assert_eq!(
        refused_with(|s| s.configs = vec![config("/etc/c"), config("/etc/c/")]),
        at("configs[1].path")
    );
    assert_eq!(refused_with(|s| s.configs = vec![config("/.")]), at("configs[0].path"));
    let beside = |s: &mut pb::ServiceSpec| {
        inner(s).mounts = vec![tmpfs("/etc/c")];
        s.secrets = vec![secret("/etc/c")];
    };
    assert_eq!(refused_with(beside), at("secrets[0].path"));
    let beside = |s: &mut pb::ServiceSpec| {
        s.configs = vec![config("/etc/c")];
        s.secrets = vec![secret("/etc/c")];
    };
    assert_eq!(refused_with(beside), at("secrets[0].path"));
    let log = |driver: &str, key: &str, value: &str| {
        let options = [(key.to_owned(), value.to_owned())].into();
        let log = pb::Log { driver: driver.into(), options };
        let mut service = container("a");
        inner(&mut service).log = Some(log);
        AppSpec::from_proto(&app(vec![service])).is_ok()
    };
    for (driver, key, value) in [
        ("json-file", "max-size", "10m"),
        ("json-file", "max-size", "-1"),
        ("local", "mode", "non-blocking"),
        ("syslog", "x", "y"),
        ("", "x", "y"),
    ] {
        assert!(log(driver, key, value), "{driver} {key}={value}");
    }
    for (driver, key, value) in [
        ("json-file", "max-size", "ten"),
        ("json-file", "max-file", "0"),
        ("json-file", "maxsize", "10m"),
        ("local", "tag", "x"),
        ("none", "max-size", "1m"),
    ] {
        assert!(!log(driver, key, value), "{driver} {key}={value}");
    }
}

#[test]
fn a_container_may_be_stopped_by_a_real_time_signal() {
    let refused = |signal: &str| {
        refused_with(|s| s.stop = Some(pb::StopPolicy { signal: signal.into(), ..Default::default() }))
    };
    for signal in ["SIGRTMIN", "SIGRTMIN+3", "SIGRTMIN+15", "SIGRTMAX-14", "SIGRTMAX"] {
        assert_eq!(refused(signal), [""; 0], "{signal}");
    }
    for signal in ["SIGRTMIN+16", "SIGRTMIN-1", "SIGRTMIN+03", "SIGRTMAX-15", "SIGRTMAX+1", "RTMIN"] {
        assert_eq!(refused(signal), ["spec.services[0].stop.signal"], "{signal}");
    }
}

#[test]
fn each_rule_names_its_field() {
    use pb::service_spec::Kind as K;
    assert_eq!(refused(&app(vec![])), ["spec.services"]);
    assert_eq!(refused_with(|s| s.name = "A".into()), ["spec.services[0].name"]);
    assert_eq!(refused_with(|s| s.program = None), ["spec.services[0]"]);
    assert_eq!(
        refused_with(
            |s| s.kind = Some(K::Deployment(pb::Deployment { replicas: Some(101), ..Default::default() }))
        ),
        ["spec.services[0].deployment.replicas"]
    );
    assert_eq!(refused_with(|s| inner(s).image = "Web".into()), ["spec.services[0].container.image"]);
    assert_eq!(refused_with(|s| inner(s).image = String::new()), ["spec.services[0].container.image"]);
    assert_eq!(
        refused_with(|s| {
            s.env.insert("1A".into(), String::new());
        }),
        ["spec.services[0].env.1A"]
    );
    assert_eq!(refused_with(|s| s.working_directory = "x".into()), ["spec.services[0].working_directory"]);
    let port = |number| pb::Port { container_port: number, ..Default::default() };
    assert!(refused_with(|s| inner(s).ports = vec![port(0)])[0].ends_with("ports[0].container_port"));
    assert!(refused_with(|s| inner(s).ports = vec![port(80), port(80)])[0].ends_with("ports[1].host_port"));
    let up = pb::mount::Source::Bind(pb::mount::Bind { path: "/a/../b".into(), ..Default::default() });
    let mount = pb::Mount { target: "/x".into(), source: Some(up), read_only: false };
    assert!(refused_with(|s| inner(s).mounts = vec![mount])[0].ends_with("mounts[0].bind.path"));
    assert_eq!(
        refused_with(|s| s.health_check = Some(pb::HealthCheck::default())),
        ["spec.services[0].health_check"]
    );
    let signal = pb::StopPolicy { signal: "TERM".into(), ..Default::default() };
    assert_eq!(refused_with(|s| s.stop = Some(signal)), ["spec.services[0].stop.signal"]);
    let limits = pb::ResourceList { memory_bytes: Some(1), ..Default::default() };
    let resources = pb::Resources { requests: None, limits: Some(limits) };
    assert!(refused_with(|s| s.resources = Some(resources))[0].ends_with("limits.memory_bytes"));
}

#[test]
fn containers_take_names_of_variables_that_no_shell_knows_and_processes_do_not() {
    let variable = |s: &mut pb::ServiceSpec| drop(s.env.insert("discovery.type-1".into(), String::new()));
    assert_eq!(refused_with(variable), [""; 0]);
    let of_process = refused_with(|s| {
        variable(s);
        let process = pb::Process { program: "x".to_owned(), ..Default::default() };
        s.program = Some(pb::service_spec::Program::Process(process));
    });
    assert_eq!(of_process, ["spec.services[0].env.discovery.type-1"]);
    for name in ["", "=", "a b", ".a", "1"] {
        assert_eq!(refused_with(|s| drop(s.env.insert(name.into(), String::new()))).len(), 1, "{name}");
    }
}

#[test]
fn dependencies_exist_and_do_not_go_round() {
    let depends = |name: &str, on: &str| {
        let dependency = pb::Dependency { service: on.to_owned(), condition: 0 };
        pb::ServiceSpec { depends_on: vec![dependency], ..container(name) }
    };
    assert_eq!(refused(&app(vec![depends("a", "b")])), ["spec.services[0].depends_on[0].service"]);
    assert_eq!(refused(&app(vec![depends("a", "b"), depends("b", "a")])), ["spec.services"]);
    assert_eq!(refused(&app(vec![depends("a", "a")])), ["spec.services[0].depends_on[0].service"]);
    let spec = AppSpec::from_proto(&app(vec![depends("a", "b"), container("b")])).unwrap();
    assert_eq!(start_order(&spec.services), Ok(vec![1, 0]));
    assert_eq!(refused(&app(vec![container("a"), container("a")])), ["spec.services[1].name"]);
}

#[test]
fn waiting_for_completion_of_what_is_always_restarted_is_refused() {
    let dependency =
        pb::Dependency { service: "b".into(), condition: pb::dependency::Condition::Completed.into() };
    let waits = pb::ServiceSpec { depends_on: vec![dependency], ..container("a") };
    assert_eq!(
        refused(&app(vec![waits.clone(), container("b")])),
        ["spec.services[0].depends_on[0].condition"]
    );
    let restart =
        pb::RestartPolicy { policy: pb::restart_policy::Policy::Never.into(), ..Default::default() };
    let once = pb::ServiceSpec { restart: Some(restart), ..container("b") };
    assert_eq!(refused(&app(vec![waits, once])), Vec::<String>::new());
}

#[test]
fn sizes_are_bounded() {
    let many = (0..=SERVICES_MAX).map(|n| container(&format!("s{n}"))).collect();
    assert_eq!(refused(&app(many)), ["spec.services"]);
    assert_eq!(
        refused_with(|s| {
            s.env.insert("A".into(), "x".repeat(SPEC_BYTES_MAX));
        }),
        ["spec"]
    );
}

proptest! {
    #[test]
    fn no_bytes_panic(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
        let _ = AppSpec::decode(&bytes);
    }

    #[test]
    fn mutated_specs_never_panic(name in ".{0,10}", image in ".{0,20}", port in any::<u32>(), at in 0_usize..100, byte in any::<u8>()) {
        let mut service = container(&name);
        inner(&mut service).image = image;
        inner(&mut service).ports = vec![pb::Port { container_port: port, ..Default::default() }];
        let mut bytes = app(vec![service]).encode_to_vec();
        let length = bytes.len();
        bytes[at % length] = byte;
        let _ = AppSpec::decode(&bytes);
    }
}

#[test]
fn what_is_wrong_is_said_in_the_words_of_manifests() {
    let mut late = container("a");
    late.stop = Some(pb::StopPolicy {
        grace_period: Some(prost_types::Duration { seconds: 7200, nanos: 0 }),
        ..Default::default()
    });
    let mut cron = container("b");
    cron.kind = Some(pb::service_spec::Kind::CronJob(pb::CronJob::default()));
    let mut waits = container("c");
    waits.depends_on =
        vec![pb::Dependency { service: "d".into(), condition: pb::dependency::Condition::Completed.into() }];
    let told = |services| {
        let fault = AppSpec::from_proto(&app(services)).unwrap_err();
        fault.violations.into_iter().map(|violation| violation.description).collect::<Vec<_>>().join("; ")
    };
    assert_eq!(
        told(vec![late, cron]),
        "out of range: 0s to 1h; use five fields (minute, hour, day of the month, month, day of the week), as 30 3 * * MON-FRI; found 0"
    );
    let text = told(vec![waits, container("d")]);
    assert!(text.ends_with("set its restart.policy to on-failure or never"), "{text}");
}

mod gpu;
mod jobs;
mod process;
mod programs;
mod secrets;
mod settings;

#[test]
fn copies_may_publish_a_port_since_members_of_a_cluster_have_each_their_own() {
    let mut service = container("a");
    inner(&mut service).ports = vec![pb::Port { container_port: 80, ..Default::default() }];
    let deployment = pb::Deployment { replicas: Some(3), ..Default::default() };
    service.kind = Some(pb::service_spec::Kind::Deployment(deployment));
    let spec = AppSpec::from_proto(&app(vec![service])).unwrap();
    assert!((0..3).all(|ordinal| spec.services[0].ports_of(ordinal).len() == 1));
}

#[test]
fn an_app_that_is_none_of_the_system_has_the_bytes_that_it_had() {
    use prost::Message as _;
    let plain = app(vec![container("a")]);
    let bytes = plain.encode_to_vec();
    let system = pb::AppSpec { system: true, ..plain };
    assert_eq!(system.encode_to_vec().strip_prefix(bytes.as_slice()), Some(&[0x30, 1][..]));
    assert!(AppSpec::from_proto(&system).unwrap().system);
}

#[test]
fn where_a_service_may_be_is_read_as_it_is_written() {
    let mut service = container("a");
    let labels = [("disk".to_owned(), "ssd".to_owned())].into();
    service.node_selector = Some(pb::LabelSelector { match_labels: labels, ..Default::default() });
    service.architectures = vec!["amd64".into(), "arm64".into()];
    service.failover = pb::Failover::Never.into();
    service.priority = 7;
    let spread = pb::deployment::Spread::Pack.into();
    service.kind = Some(pb::service_spec::Kind::Deployment(pb::Deployment {
        replicas: Some(2),
        spread,
        max_unavailable: "25%".to_owned(),
    }));
    let placing = AppSpec::from_proto(&app(vec![service])).unwrap().services.remove(0).placing;
    assert_eq!(placing.node_selector.to_string(), "disk=ssd");
    assert_eq!(placing.architectures, ["amd64", "arm64"]);
    assert_eq!((placing.spread, placing.failover, placing.priority), (Spread::Pack, Failover::Never, 7));
    assert_eq!(placing.max_unavailable, Some(Share::Percent(25)));
    let plain = AppSpec::from_proto(&app(vec![container("a")])).unwrap().services.remove(0).placing;
    assert_eq!(plain, Placing::default());
    let at = |field: &str| vec![format!("spec.services[0].{field}")];
    let arch = |names: &[&str]| {
        refused_with(|s| s.architectures = names.iter().map(|name| (*name).to_owned()).collect())
    };
    assert_eq!(arch(&["amd64", "amd64"]), at("architectures[1]"));
    assert_eq!(arch(&["linux/arm"]), at("architectures[0]"));
    let spread = pb::Deployment { spread: 9, ..Default::default() };
    let bad = refused_with(|s| s.kind = Some(pb::service_spec::Kind::Deployment(spread)));
    assert_eq!(bad, at("deployment.spread"));
}
