//! Rules on processes and on where environment comes from: a table of refusals, each by the field that it names, and what is taken over.

use super::*;

/// A change of a service that is a process and the end of the field that it is refused by; none: it is taken.
type Row = (fn(&mut pb::ServiceSpec), Option<&'static str>);

fn inner(service: &mut pb::ServiceSpec) -> &mut pb::Process {
    match &mut service.program {
        Some(pb::service_spec::Program::Process(process)) => process,
        _ => panic!("a process"),
    }
}

fn process() -> pb::ServiceSpec {
    let process = pb::Process { program: "sh".into(), ..Default::default() };
    pb::ServiceSpec {
        name: "a".into(),
        program: Some(pb::service_spec::Program::Process(process)),
        ..Default::default()
    }
}

fn artifact(url: &str, path: &str) -> pb::Artifact {
    pb::Artifact { url: url.into(), sha256: "aB".repeat(32), path: path.into(), ..Default::default() }
}

fn with(artifact: pb::Artifact, change: fn(&mut pb::Artifact)) -> Vec<pb::Artifact> {
    let mut artifact = artifact;
    change(&mut artifact);
    vec![artifact]
}

fn config(name: &str, key: &str) -> pb::EnvSource {
    let source = Some(pb::env_source::Source::Config(name.into()));
    pb::EnvSource { source, key: key.into(), ..Default::default() }
}

fn file(path: &str) -> pb::EnvSource {
    pb::EnvSource { source: Some(pb::env_source::Source::File(path.into())), ..Default::default() }
}

fn limits(change: fn(&mut pb::ResourceList)) -> pb::Resources {
    let mut limits = pb::ResourceList::default();
    change(&mut limits);
    pb::Resources { requests: None, limits: Some(limits) }
}

const URL: &str = "https://example.org/server";

#[test]
fn what_no_agent_could_run_is_refused_by_its_field() {
    let rows: Vec<Row> = vec![
        (|s| inner(s).program = "./server".into(), None),
        (|s| inner(s).program = "bin/server".into(), None),
        (|s| inner(s).program = "../server".into(), Some("process.program")),
        (|s| inner(s).program = "bin/".into(), Some("process.program")),
        (|s| inner(s).program = String::new(), Some("process.program")),
        (|s| s.user = "nobody".into(), None),
        (|s| s.user = "1000:1000".into(), None),
        (|s| s.user = "a:b:c".into(), Some("user")),
        (|s| s.user = ":b".into(), Some("user")),
        (|s| s.user = "a b".into(), Some("user")),
        (|s| s.resources = Some(limits(|l| l.memory_bytes = Some(1 << 20))), None),
        (|s| s.resources = Some(limits(|l| l.memory_bytes = Some(1))), Some("resources.limits.memory_bytes")),
        (|s| s.resources = Some(limits(|l| l.pids = Some(3))), None),
        (|s| s.resources = Some(limits(|l| l.swap_bytes = Some(3))), Some("resources.limits.swap_bytes")),
        (|s| inner(s).artifacts = vec![artifact(URL, "./bin/server")], None),
        (|s| inner(s).artifacts = vec![artifact("http://192.0.2.1:80/x?y", "x")], None),
        (
            |s| inner(s).artifacts = vec![artifact("ftp://example.org/x", "x")],
            Some("process.artifacts[0].url"),
        ),
        (|s| inner(s).artifacts = vec![artifact("https:///x", "x")], Some("process.artifacts[0].url")),
        (|s| inner(s).artifacts = vec![artifact("https://a:b@c/x", "x")], Some("process.artifacts[0].url")),
        (|s| inner(s).artifacts = vec![artifact("https://c/x y", "x")], Some("process.artifacts[0].url")),
        (|s| inner(s).artifacts = vec![artifact(URL, "/x")], Some("process.artifacts[0].path")),
        (|s| inner(s).artifacts = vec![artifact(URL, "a/../../x")], Some("process.artifacts[0].path")),
        (|s| inner(s).artifacts = vec![artifact(URL, ".")], Some("process.artifacts[0].path")),
        (|s| inner(s).artifacts = vec![artifact(URL, "a"), artifact(URL, "ab")], None),
        (
            |s| inner(s).artifacts = vec![artifact(URL, "a"), artifact(URL, "a/b")],
            Some("process.artifacts[1].path"),
        ),
        (
            |s| inner(s).artifacts = with(artifact(URL, "a"), |a| a.sha256 = String::new()),
            Some("process.artifacts[0].sha256"),
        ),
        (|s| inner(s).artifacts = with(artifact(URL, "a"), |a| a.unpack = 2), None),
        (
            |s| inner(s).artifacts = with(artifact(URL, "a"), |a| a.unpack = 9),
            Some("process.artifacts[0].unpack"),
        ),
        (
            |s| {
                inner(s).artifacts = with(artifact(URL, "a"), |a| {
                    a.unpack = 1;
                    a.executable = true;
                });
            },
            Some("process.artifacts[0].executable"),
        ),
        (
            |s| inner(s).artifacts = (0..17).map(|n| artifact(URL, &n.to_string())).collect(),
            Some("process.artifacts"),
        ),
        (
            |s| {
                inner(s).artifacts = vec![artifact(URL, "b"), artifact(URL, "configs/c")];
                s.configs = vec![pb::ConfigMount { config: "c".into(), ..Default::default() }];
            },
            Some("process.artifacts[1].path"),
        ),
        (|s| inner(s).log = Some(pb::ProcessLog { max_size_bytes: Some(1 << 20), max_files: Some(1) }), None),
        (
            |s| inner(s).log = Some(pb::ProcessLog { max_size_bytes: Some(-1), max_files: None }),
            Some("process.log.max_size_bytes"),
        ),
        (
            |s| inner(s).log = Some(pb::ProcessLog { max_size_bytes: None, max_files: Some(0) }),
            Some("process.log.max_files"),
        ),
        (|s| s.env_from = vec![config("c", ""), config("c", "web.env"), file("/etc/default/x")], None),
        (|s| s.env_from = vec![config("C", "")], Some("env_from[0].config")),
        (|s| s.env_from = vec![config("c", "a/b")], Some("env_from[0].key")),
        (|s| s.env_from = vec![file("etc/x")], Some("env_from[0].file")),
        (|s| s.env_from = vec![pb::EnvSource::default()], Some("env_from[0]")),
        (|s| s.env_from = vec![pb::EnvSource { key: "k".into(), ..file("/x") }], Some("env_from[0].key")),
        (
            |s| s.env_from = vec![pb::EnvSource { optional: true, ..config("c", "") }],
            Some("env_from[0].optional"),
        ),
        (
            |s| {
                let image = Some(pb::health_check::Probe::Image(pb::health_check::Image {}));
                s.health_check = Some(pb::HealthCheck { probe: image, ..Default::default() });
            },
            Some("health_check.image"),
        ),
    ];
    for (n, (change, field)) in rows.into_iter().enumerate() {
        let mut service = process();
        change(&mut service);
        let refused = match AppSpec::from_proto(&app(vec![service])) {
            Ok(_) => Vec::new(),
            Err(fault) => fault.violations.into_iter().map(|violation| violation.field).collect(),
        };
        let expected: Vec<String> = field.iter().map(|field| format!("spec.services[0].{field}")).collect();
        assert_eq!(refused, expected, "row {n}");
    }
}

#[test]
fn an_executable_config_is_for_processes() {
    let mount =
        pb::ConfigMount { config: "c".into(), path: "/c".into(), executable: true, ..Default::default() };
    let refused = refused_with(|service| service.configs = vec![mount]);
    assert_eq!(refused, ["spec.services[0].configs[0].executable"]);
}

#[test]
fn configs_are_used_as_files_and_as_environment() {
    let mut service = process();
    service.configs = vec![pb::ConfigMount { config: "files".into(), ..Default::default() }];
    service.env_from = vec![config("variables", ""), file("/etc/default/x")];
    let spec = AppSpec::from_proto(&app(vec![service])).unwrap();
    let names: Vec<&str> = spec.config_names().into_iter().map(crate::ConfigName::as_str).collect();
    assert_eq!(names, ["files", "variables"]);
    let Program::Process(process) = &spec.services[0].program else { panic!("a process") };
    assert_eq!(process.log, LogBounds { max_size_bytes: 10 << 20, max_files: 3 });
}
