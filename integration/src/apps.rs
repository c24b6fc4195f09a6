//! Apps to run in tests.

use std::collections::BTreeMap;

use skerry_proto::types::v1::{
    AppSpec, Container, Deployment, LabelSelector, Process, RestartPolicy, ServiceSpec, StopPolicy,
    restart_policy, service_spec,
};

/// An app of these services, on every node.
pub fn app(services: impl IntoIterator<Item = ServiceSpec>) -> AppSpec {
    AppSpec { services: services.into_iter().collect(), ..Default::default() }
}

/// The same, on nodes with a label.
pub fn app_on(label: (&str, &str), services: impl IntoIterator<Item = ServiceSpec>) -> AppSpec {
    let match_labels = BTreeMap::from([(label.0.to_owned(), label.1.to_owned())]);
    AppSpec { selector: Some(LabelSelector { match_labels, match_expressions: Vec::new() }), ..app(services) }
}

/// A shell script as a process, stopped within two seconds.
pub fn script(name: &str, script: &str) -> ServiceSpec {
    let program = Process {
        program: "/bin/sh".to_owned(),
        args: vec!["-c".to_owned(), script.to_owned()],
        ..Process::default()
    };
    service(name, service_spec::Program::Process(program))
}

/// A shell script in a container of the test image.
pub fn container(name: &str, script: &str) -> ServiceSpec {
    let container = Container {
        image: skerry_testing::BUSYBOX_IMAGE.to_owned(),
        command: vec!["sh".to_owned(), "-c".to_owned(), script.to_owned()],
        ..Default::default()
    };
    service(name, service_spec::Program::Container(container))
}

fn service(name: &str, program: service_spec::Program) -> ServiceSpec {
    let grace_period = Some(prost_types::Duration { seconds: 2, nanos: 0 });
    ServiceSpec {
        name: name.to_owned(),
        program: Some(program),
        stop: Some(StopPolicy { grace_period, ..Default::default() }),
        ..Default::default()
    }
}

/// With so many replicas.
pub fn replicas(count: u32, service: ServiceSpec) -> ServiceSpec {
    let deployment = Deployment { replicas: Some(count), ..Default::default() };
    ServiceSpec { kind: Some(service_spec::Kind::Deployment(deployment)), ..service }
}

/// Run once, not started again.
pub fn once(service: ServiceSpec) -> ServiceSpec {
    let restart = RestartPolicy { policy: restart_policy::Policy::Never.into(), ..Default::default() };
    ServiceSpec { restart: Some(restart), ..service }
}

/// With an environment variable.
pub fn with_env(name: &str, value: &str, mut service: ServiceSpec) -> ServiceSpec {
    service.env.insert(name.to_owned(), value.to_owned());
    service
}
