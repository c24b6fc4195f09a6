//! Whole files: what is read, what is refused and where, and that output comes back.

use proptest::prelude::*;
use skerry_model::ProjectName;
use skerry_proto::scheduler::v1 as scheduler;
use skerry_proto::types::v1 as pb;

mod unknown;

use crate::{FILE_BYTES_MAX, Manifest, Project, Resource, output, parse};

fn project() -> Project {
    Project::Default(ProjectName::parse("default").expect("valid"))
}

fn read(text: &str) -> Vec<Manifest> {
    match parse("f.yaml", text.as_bytes(), &project()) {
        Ok(manifests) => manifests,
        Err(errors) => panic!("{errors}"),
    }
}

fn refused(text: &str) -> Vec<String> {
    let errors = parse("f.yaml", text.as_bytes(), &project()).expect_err("refused");
    errors.to_string().lines().map(str::to_owned).collect()
}

fn app(manifest: &Manifest) -> &scheduler::App {
    match &manifest.resource {
        Resource::App(app) => app,
        other => panic!("{other:?}"),
    }
}

const HELLO: &str = r#"apiVersion: skerry/v1
kind: App
metadata:
  name: hello
  labels: {tier: web}
spec:
  selector:
    matchLabels: {site: oslo}
    matchExpressions:
      - {key: gpu, operator: does-not-exist}
  services:
    - name: web
      deployment: {replicas: 2}
      container:
        image: nginx:1.27
        pullPolicy: if-not-present
        network_mode: app
        command: [nginx, -g, "daemon off;"]
        mounts:
          - target: /data
            volume: {name: data}
      env:
        PORT: "8080"
        TEXT: |
          one
          two
      configs:
        - {config: site, path: /etc/site}
      resources:
        requests: {cpu: 500m, memory: 512Mi}
        limits: {cpu: 1.5, memoryBytes: 1073741824}
      healthCheck:
        http: {path: /healthz, port: 8080}
        interval: 1m30s
        timeout: 2s
        retries: 5
      dependsOn:
        - {service: db, condition: Healthy}
      restart: {policy: OnFailure, backoff: 500ms}
      stop: {signal: SIGINT, gracePeriod: 5s}
    - name: db
      daemonSet: {}
      process: {program: /usr/bin/db, args: ["-x"]}
"#;

#[test]
fn an_app_is_read_with_the_forms_that_people_write() {
    let manifests = read(HELLO);
    let app = app(&manifests[0]);
    let metadata = app.metadata.as_ref().expect("metadata");
    assert_eq!(metadata.name, "projects/default/apps/hello");
    assert_eq!(metadata.labels["tier"], "web");
    let spec = app.spec.as_ref().expect("spec");
    let web = &spec.services[0];
    assert_eq!(
        web.kind,
        Some(pb::service_spec::Kind::Deployment(pb::Deployment { replicas: Some(2), ..Default::default() }))
    );
    let Some(pb::service_spec::Program::Container(container)) = &web.program else { panic!("{web:?}") };
    assert_eq!(container.pull_policy(), pb::container::PullPolicy::IfNotPresent);
    assert_eq!(container.network_mode(), pb::NetworkMode::App);
    assert_eq!(container.command, ["nginx", "-g", "daemon off;"]);
    assert_eq!(web.env["TEXT"], "one\ntwo\n");
    let resources = web.resources.as_ref().expect("resources");
    assert_eq!(
        resources.requests,
        Some(pb::ResourceList { cpu_millis: Some(500), memory_bytes: Some(512 << 20), ..Default::default() })
    );
    assert_eq!(
        resources.limits,
        Some(pb::ResourceList { cpu_millis: Some(1500), memory_bytes: Some(1 << 30), ..Default::default() })
    );
    let health = web.health_check.as_ref().expect("health check");
    assert_eq!(health.interval.map(|d| (d.seconds, d.nanos)), Some((90, 0)));
    assert_eq!(web.depends_on[0].condition(), pb::dependency::Condition::Healthy);
    let restart = web.restart.as_ref().expect("restart");
    assert_eq!(restart.policy(), pb::restart_policy::Policy::OnFailure);
    assert_eq!(restart.backoff.map(|d| (d.seconds, d.nanos)), Some((0, 500_000_000)));
    assert_eq!(spec.services[1].kind, Some(pb::service_spec::Kind::DaemonSet(pb::DaemonSet {})));
}

#[test]
fn yaml_and_json_say_the_same() {
    let json = output::resource(&read(HELLO)[0].resource).to_json_pretty();
    let from_json =
        parse("f.json", json.as_bytes(), &project()).unwrap_or_else(|errors| panic!("{errors}\n{json}"));
    assert_eq!(from_json[0].resource, read(HELLO)[0].resource);
}

#[test]
fn output_is_what_a_person_would_write_and_comes_back() {
    let resource = &read(HELLO)[0].resource;
    let yaml = output::resource(resource).to_yaml();
    assert!(
        yaml.starts_with("apiVersion: skerry/v1\nkind: App\nmetadata:\n  name: hello\n  project: default\n"),
        "{yaml}"
    );
    assert!(yaml.contains("          memoryBytes: 536870912\n"), "{yaml}");
    assert!(yaml.contains("        TEXT: |\n          one\n          two\n"), "{yaml}");
    assert_eq!(&read(&yaml)[0].resource, resource);
}

#[test]
fn what_the_server_sets_is_passed_over() {
    let text = "apiVersion: skerry/v1\nkind: Node\nmetadata: {name: n1, project: default, uid: u, createTime: x, generation: '4', etag: e}\n\
                spec: {cordoned: true}\nstatus: {anything: [1]}\n";
    let Resource::Node(node) = &read(text)[0].resource else { panic!() };
    assert_eq!(node.metadata.as_ref().map(|m| (m.uid.as_str(), m.generation)), Some(("", 0)));
    assert_eq!(node.spec.as_ref().map(|spec| spec.cordoned), Some(true));
}

#[test]
fn streams_and_lists_hold_several() {
    let one = "apiVersion: skerry/v1\nkind: Config\nmetadata: {name: NAME}\nspec: {data: {a.conf: x}, binaryData: {b: aGk=}}\n";
    let stream = [one.replace("NAME", "a"), one.replace("NAME", "b")].join("---\n");
    let manifests = read(&stream);
    assert_eq!(
        manifests.iter().map(|m| m.resource.name()).collect::<Vec<_>>(),
        ["projects/default/configs/a", "projects/default/configs/b"]
    );
    let list = output::list(manifests.iter().map(|m| output::resource(&m.resource)).collect());
    for text in [list.to_yaml(), list.to_json()] {
        let again: Vec<_> = read(&text).into_iter().map(|m| m.resource).collect();
        assert_eq!(again, manifests.iter().map(|m| m.resource.clone()).collect::<Vec<_>>());
    }
    let Resource::Config(config) = &manifests[0].resource else { panic!() };
    assert_eq!(&config.spec.as_ref().expect("spec").binary_data["b"][..], b"hi");
}

#[test]
fn faults_name_line_column_and_field_and_come_all_at_once() {
    let text = r"apiVersion: skerry/v1
kind: App
metadata:
  name: hello
spec:
  services:
    - name: web
      replicas: 2
      container:
        imge: nginx
        ports:
          - containerPort: web
      env:
        DEBUG: true
      resources:
        limits:
          memory: lots
          memoryBytes: 12
      healthCheck:
        interval: 30
      restart: {policy: sometimes}
      daemonSet:
      process: {program: x}
";
    assert_eq!(
        refused(text),
        [
            "f.yaml:8:7: spec.services[0].replicas: unknown field; it belongs in \"deployment\"",
            "f.yaml:10:9: spec.services[0].container.imge: unknown field; did you mean \"image\"?",
            "f.yaml:12:28: spec.services[0].container.ports[0].containerPort: expected an integer, found the string \"web\"",
            "f.yaml:14:16: spec.services[0].env.DEBUG: expected a string, found true: put it in quotes: \"true\"",
            "f.yaml:17:19: spec.services[0].resources.limits.memory: `lots` is not a number of bytes: write for example 512Mi, 1.5Gi, 100M or 1048576",
            "f.yaml:18:11: spec.services[0].resources.limits.memoryBytes: means the same as \"memory\": keep one",
            "f.yaml:20:19: spec.services[0].healthCheck.interval: expected a duration with its unit, such as 30s, 1m30s or 500ms, found the number 30",
            "f.yaml:21:25: spec.services[0].restart.policy: expected always, on-failure or never, found \"sometimes\"",
            "f.yaml:22:16: spec.services[0].daemonSet: has no value: write its fields below it, or \"daemonSet: {}\"",
            "f.yaml:23:7: spec.services[0].process: excludes \"container\": keep one of them",
        ]
    );
}

#[test]
fn rules_on_meaning_are_told_at_their_line() {
    let text = "apiVersion: skerry/v1\nkind: App\nmetadata:\n  name: hello\n  labels:\n    site: not/valid\nspec:\n  services:\n    - name: Web\n      \
                container: {image: nginx}\n      dependsOn: [{service: nobody}]\n    - name: two\n";
    let errors = refused(text);
    assert!(
        errors[0].starts_with("f.yaml:6:5: metadata.labels.site: `not/valid` is not a label value"),
        "{errors:?}"
    );
    assert!(
        errors[1].starts_with("f.yaml:9:7: spec.services[0].name: `Web` is not a valid service name"),
        "{errors:?}"
    );
    assert!(errors[2].starts_with("f.yaml:12:7: spec.services[1]: name what to run"), "{errors:?}");
}

#[test]
fn units_in_names_take_plain_numbers_and_say_the_other_way() {
    let text = HELLO.replace("memoryBytes: 1073741824", "memoryBytes: 1Gi");
    assert_eq!(
        refused(&text),
        [
            "f.yaml:31:41: spec.services[0].resources.limits.memoryBytes: expected an integer, found the string \"1Gi\"; or write \"memory: 512Mi\""
        ]
    );
}

#[test]
fn no_fault_in_a_secret_quotes_a_value() {
    let head = "apiVersion: skerry/v1\nkind: Secret\nmetadata: {name: a}\nspec:";
    let wrong = [
        " {stringData: {k: 4711}}",
        " {data: {k: 4711}}",
        " {data: {k: 'not Base64, 4711'}}",
        " {data: 4711}",
        " 4711",
    ];
    for spec in wrong {
        let errors = refused(&format!("{head}{spec}\n")).join("\n");
        assert!(errors.contains("f.yaml:4:") && !errors.contains("4711"), "{spec}: {errors}");
    }
}

#[test]
fn the_envelope_is_checked() {
    for (text, error) in [
        (
            "services: {}\n",
            "f.yaml:1:1: apiVersion: missing; a manifest begins with \"apiVersion: skerry/v1\"",
        ),
        (
            "apiVersion: v1\nkind: App\nmetadata: {name: a}\nspec: {services: []}\n",
            "f.yaml:1:13: apiVersion: expected \"skerry/v1\", found \"v1\"; Compose files are applied with --as-app NAME, and manifests of Kubernetes are not read: `skerry explain app` says what is written here",
        ),
        (
            "apiVersion: skerry/v1\nkind: Ap\n",
            "f.yaml:2:7: kind: expected App, Config, Secret, Node, User, Group, RoleBinding, Project or Cluster, found \"Ap\"; did you mean \"App\"?",
        ),
        (
            "apiVersion: skerry/v1\nkind: App\nmetadata: {}\nspec: {}\n",
            "f.yaml:3:1: metadata: name: missing; name the App",
        ),
        (
            "apiVersion: skerry/v1\nkind: App\nmetadata: {name: A}\nspec: {}\n",
            "f.yaml:3:18: metadata.name: `A` is not a valid app name: use 1 to 63 of a-z, 0-9 and -, beginning and ending with a letter or digit",
        ),
        (
            "apiVersion: skerry/v1\nkind: App\nmetadata: {name: a}\n",
            "f.yaml:1:1: spec: missing; it says what the App is",
        ),
        (
            "apiVersion: skerry/v1\nkind: Node\nmetadata: {name: a}\nsepc: {}\n",
            "f.yaml:4:1: sepc: unknown field; did you mean \"spec\"?",
        ),
        (
            "apiVersion: skerry/v1\nkind: Node\nmetadata: {name: projects/x/nodes/a, project: y}\n",
            "f.yaml:3:18: metadata.name: is in project x, but \"project\" says y",
        ),
        ("- a\n", "f.yaml:1:1: expected a mapping, found a list"),
    ] {
        assert_eq!(refused(text)[0], error, "{text}");
    }
}

#[test]
fn a_required_project_is_kept_to() {
    let required = Project::Required(ProjectName::parse("p").expect("valid"));
    let text = |project: &str| {
        format!("apiVersion: skerry/v1\nkind: Node\nmetadata: {{name: a, project: {project}}}\n")
    };
    assert_eq!(
        parse("f", text("p").as_bytes(), &required).expect("taken")[0].resource.name(),
        "projects/p/nodes/a"
    );
    let errors = parse("f", text("q").as_bytes(), &required).expect_err("refused");
    assert_eq!(errors.to_string(), "f:3:30: metadata.project: is in project q, but p was asked for");
}

#[test]
fn files_are_bounded_and_text() {
    let big = vec![b'#'; FILE_BYTES_MAX + 1];
    assert!(
        parse("f", &big, &project()).expect_err("refused").to_string().contains("longer than the 1048576")
    );
    assert_eq!(
        parse("f", b"a: b\nc\xff", &project()).expect_err("refused").to_string(),
        "f:2:2: not UTF-8 text"
    );
    let many = "apiVersion: 1\n---\n".repeat(300);
    let errors = parse("f", many.as_bytes(), &project()).expect_err("refused");
    assert_eq!(errors.errors.len(), crate::ERRORS_MAX);
    assert!(errors.to_string().contains("more"), "{errors}");
    assert!(parse("f", b"", &project()).expect("nothing").is_empty());
}

/// Texts that look like manifests, cut and mixed: they get further into the decoder than random ones.
fn scrambled() -> impl Strategy<Value = String> {
    let lines: Vec<String> = HELLO.lines().map(str::to_owned).collect();
    let noise = prop_oneof![
        Just("---".to_owned()),
        Just("  - &a *a".to_owned()),
        Just("  ? [".to_owned()),
        "[ \\-:{}\\[\\],&*!|>'\"%@`#?a-c0-9\n\t]{0,12}"
    ];
    proptest::collection::vec(prop_oneof![4 => proptest::sample::select(lines), 1 => noise], 0..40)
        .prop_map(|lines| lines.join("\n"))
}

proptest! {
    #[test]
    fn no_bytes_panic(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
        let _ = parse("f", &bytes, &project());
        let _ = parse("f.json", &bytes, &project());
    }

    #[test]
    fn no_text_panics(text in "[ \\-:{}\\[\\],&*!|>'\"%@`#?a-c0-9.~<=\n\r\t\\\\é\u{feff}\u{2028}]{0,80}") {
        let _ = parse("f", text.as_bytes(), &project());
        let _ = parse("f.json", text.as_bytes(), &project());
    }

    #[test]
    fn no_scrambled_manifest_panics(text in scrambled()) {
        let _ = parse("f", text.as_bytes(), &project());
    }

    #[test]
    fn a_resource_written_and_read_is_the_same(app in arbitrary_app(), as_json in any::<bool>()) {
        let tree = output::resource(&Resource::App(Box::new(app.clone())));
        let text = if as_json { tree.to_json() } else { tree.to_yaml() };
        match parse(if as_json { "f.json" } else { "f.yaml" }, text.as_bytes(), &project()) {
            Ok(manifests) => prop_assert_eq!(&manifests[0].resource, &Resource::App(Box::new(app))),
            Err(errors) => prop_assert!(false, "{}\n{}", errors, text),
        }
    }
}

fn arbitrary_app() -> impl Strategy<Value = scheduler::App> {
    let service = (
        proptest::option::of(0..100_u32),
        proptest::collection::btree_map("[A-Za-z_][A-Za-z0-9_]{0,8}", "[^\u{0}]{0,40}", 0..4),
        proptest::option::of((0..1_000_000_i64, 1..1_i64 << 50)),
        proptest::option::of((1..3600_i64, 0..1_000_000_000_i32)),
        proptest::collection::vec("[^\u{0}]{0,20}", 0..3),
        0..4_i32,
    );
    (
        proptest::collection::vec(service, 1..4),
        proptest::collection::btree_map("[a-z]{1,8}", "[a-zA-Z0-9]{0,8}", 0..3),
    )
        .prop_map(|(services, labels)| {
            let services = services.into_iter().enumerate().map(
                |(index, (replicas, env, amounts, interval, command, policy))| {
                    let list = amounts.map(|(cpu, memory)| pb::ResourceList {
                        cpu_millis: Some(cpu + 1),
                        memory_bytes: Some(memory.max(64 << 20)),
                        ..Default::default()
                    });
                    let command = command.into_iter().map(|argument| format!("x{argument}")).collect();
                    pb::ServiceSpec {
                        name: format!("s{index}"),
                        kind: replicas.map(|replicas| {
                            pb::service_spec::Kind::Deployment(pb::Deployment {
                                replicas: Some(replicas),
                                ..Default::default()
                            })
                        }),
                        program: Some(pb::service_spec::Program::Container(pb::Container {
                            image: "app:1".into(),
                            pull_policy: policy,
                            command,
                            ..Default::default()
                        })),
                        env,
                        resources: list.map(|list| pb::Resources { requests: None, limits: Some(list) }),
                        health_check: interval.map(|(seconds, nanos)| pb::HealthCheck {
                            probe: Some(pb::health_check::Probe::Tcp(pb::health_check::Tcp { port: 80 })),
                            interval: Some(prost_types::Duration { seconds, nanos }),
                            ..Default::default()
                        }),
                        ..Default::default()
                    }
                },
            );
            let metadata =
                pb::Metadata { name: "projects/default/apps/a".into(), labels, ..Default::default() };
            let spec = pb::AppSpec { services: services.collect(), ..Default::default() };
            scheduler::App { metadata: Some(metadata), spec: Some(spec), status: None }
        })
}

#[test]
fn sizes_are_written_as_people_write_them() {
    let with = |lines: &str| {
        format!(
            "apiVersion: skerry/v1\nkind: App\nmetadata: {{name: a}}\nspec: {{services: [{{name: web, container: {{image: a:1, {lines}}}}}]}}\n"
        )
    };
    let container = |lines: &str| {
        let manifests = read(&with(lines));
        match app(&manifests[0]).spec.clone().and_then(|mut spec| spec.services.pop()?.program) {
            Some(pb::service_spec::Program::Container(container)) => container,
            other => panic!("{other:?}"),
        }
    };
    for lines in ["shmSize: 8Mi", "shm_size: 8Mi", "shmSizeBytes: 8388608", "shm_size_bytes: 8388608"] {
        assert_eq!(container(lines).shm_size_bytes, Some(8 << 20), "{lines}");
    }
    let mounts = container("mounts: [{target: /t, tmpfs: {size: 1Mi, mode: \"1777\"}}]").mounts;
    let tmpfs = pb::mount::Tmpfs { size_bytes: Some(1 << 20), mode: "1777".into() };
    assert_eq!(mounts[0].source, Some(pb::mount::Source::Tmpfs(tmpfs)));
    assert!(refused(&with("shm: 8Mi"))[0].contains("unknown field"));
    assert!(refused(&with("gpus: all"))[0].contains("gpu: {count: 1}"));
}

#[test]
fn gpus_are_asked_for_in_peoples_words() {
    use pb::gpu_request::{Policy, Spread};
    let with = |line: &str| {
        let gpu = "apiVersion: skerry/v1\nkind: App\nmetadata: {name: a}\nspec: {services: [{name: a, container: {image: i}, gpu: LINE}]}\n";
        gpu.replace("LINE", line)
    };
    let gpu = |line: &str| {
        let manifests = read(&with(line));
        app(&manifests[0]).spec.clone().and_then(|mut spec| spec.services.pop()?.gpu).expect("a GPU")
    };
    let share = gpu(
        "{memory: 8Gi, computePercent: 25, policy: shared, isolationMin: mps, spread: spread, onOveruse: report}",
    );
    let expected = pb::GpuRequest {
        memory_bytes: Some(8 << 30),
        compute_percent: Some(25),
        policy: Policy::Shared.into(),
        isolation_min: pb::GpuIsolation::Mps.into(),
        spread: Spread::Spread.into(),
        on_overuse: pb::gpu_request::OnOveruse::Report.into(),
        ..Default::default()
    };
    assert_eq!(share, expected);
    let part = gpu("{migProfile: 1g.10gb, modelSelector: \"*A100*\", isolationMin: none}");
    assert_eq!((part.mig_profile.as_str(), part.model_selector.as_str()), ("1g.10gb", "*A100*"));
    assert_eq!(part.isolation_min, i32::from(pb::GpuIsolation::None));
    assert!(
        refused(&with("{memory: lots}"))[0]
            .contains("services[0].gpu.memory: `lots` is not a number of bytes")
    );
    assert!(refused(&with("{isolationMin: full}"))[0].contains("gpu.isolationMin"));
    // It would be one whole GPU.
    let empty = refused(&with("{migProfile: \"\"}"));
    assert!(empty[0].contains("services[0].gpu.migProfile: is empty: name the size"), "{empty:?}");
}

#[test]
fn replicas_below_none_are_told_their_own_bounds() {
    let text = "\
apiVersion: skerry/v1
kind: App
metadata: {name: a}
spec:
  services:
    - name: web
      container: {image: x}
      deployment: {replicas: -1}
";
    assert_eq!(
        refused(text),
        ["f.yaml:8:30: spec.services[0].deployment.replicas: -1 is out of range: 0 to 100"]
    );
}
