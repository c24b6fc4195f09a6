//! What tests of the agent as a process share: an app that shows that it runs, and waiting.

use std::path::Path;
use std::time::Duration;

use prost::Message as _;
use skerry_model::ContentHash;
use skerry_proto::gateway::v1 as pb;
use skerry_proto::types::v1 as types;

/// Longest that anything here may take.
pub(crate) const PATIENCE: Duration = Duration::from_secs(20);

pub(crate) async fn in_time<T>(what: &str, work: impl Future<Output = T>) -> T {
    tokio::time::timeout(PATIENCE, work).await.unwrap_or_else(|_| panic!("{what} did not come in time"))
}

/// An app of one process that writes its process id to `file` and sleeps.
pub(crate) fn sleeper(file: &Path, value: &str) -> Vec<pb::Resource> {
    let script = format!("echo $$ >> {}; exec sleep 600", file.display());
    let service = types::ServiceSpec {
        name: "sleeper".into(),
        program: Some(types::service_spec::Program::Process(types::Process {
            program: "/bin/sh".into(),
            args: vec!["-c".into(), script],
            ..types::Process::default()
        })),
        env: [("VALUE".to_owned(), value.to_owned())].into(),
        stop: Some(types::StopPolicy {
            grace_period: Some(prost_types::Duration { seconds: 1, nanos: 0 }),
            ..types::StopPolicy::default()
        }),
        ..types::ServiceSpec::default()
    };
    resources(vec![service])
}

/// The resources of an app `app` of these services, one instance each.
pub(crate) fn resources(services: Vec<types::ServiceSpec>) -> Vec<pb::Resource> {
    let names: Vec<String> = services.iter().map(|service| service.name.clone()).collect();
    let bytes = types::AppSpec { services, ..Default::default() }.encode_to_vec();
    let hash = ContentHash::of(&bytes).to_string();
    let instance = |service: &String| {
        let name = format!("app/{service}/n1/0");
        let instance = pb::Instance { instance: name.clone(), revision: hash.clone(), ..Default::default() };
        pb::Resource {
            name: format!("instances/{name}"),
            version: ContentHash::of(&instance.encode_to_vec()).to_string(),
            requires: Vec::new(),
            body: Some(pb::resource::Body::Instance(instance)),
        }
    };
    let revision = pb::Resource {
        name: format!("revisions/app/{hash}"),
        version: hash.clone(),
        requires: Vec::new(),
        body: Some(pb::resource::Body::Revision(bytes.into())),
    };
    names.iter().map(instance).chain([revision]).collect()
}

/// The process ids that the sleeper wrote, one for each start.
pub(crate) fn starts(file: &Path) -> Vec<i32> {
    let text = std::fs::read_to_string(file).unwrap_or_default();
    text.lines().filter_map(|line| line.parse().ok()).collect()
}

pub(crate) fn is_alive(pid: i32) -> bool {
    std::fs::read_to_string(format!("/proc/{pid}/stat")).is_ok_and(|stat| !stat.contains(") Z "))
}

pub(crate) async fn until(what: &str, check: impl Fn() -> bool) {
    in_time(what, async {
        while !check() {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    })
    .await;
}
