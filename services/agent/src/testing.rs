//! What this crate's tests share: small specs and resources. (A runtime in memory is in `testing/runtime.rs`.)

pub(crate) mod runtime;

use prost::Message as _;
use skerry_model::ContentHash;
use skerry_proto::gateway::v1 as pb;
use skerry_proto::scheduler::v1 as scheduler;
use skerry_proto::types::v1 as types;

/// A container service.
pub(crate) fn service(name: &str) -> types::ServiceSpec {
    types::ServiceSpec {
        name: name.to_owned(),
        program: Some(types::service_spec::Program::Container(types::Container {
            image: "hello:1".to_owned(),
            ..types::Container::default()
        })),
        ..types::ServiceSpec::default()
    }
}

/// An app of these services.
pub(crate) fn app(services: Vec<types::ServiceSpec>) -> types::AppSpec {
    types::AppSpec { services, ..Default::default() }
}

/// The resource of a revision.
pub(crate) fn revision_resource(app: &str, spec: &types::AppSpec) -> pb::Resource {
    let bytes = spec.encode_to_vec();
    let hash = ContentHash::of(&bytes).to_string();
    pb::Resource {
        name: format!("revisions/{app}/{hash}"),
        version: hash,
        requires: Vec::new(),
        body: Some(pb::resource::Body::Revision(bytes.into())),
    }
}

/// The resource of a config.
pub(crate) fn config_resource(config: &str, files: &[(&str, &str)]) -> pb::Resource {
    let spec = scheduler::ConfigSpec {
        data: files.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned())).collect(),
        ..scheduler::ConfigSpec::default()
    };
    let bytes = spec.encode_to_vec();
    let hash = ContentHash::of(&bytes).to_string();
    pb::Resource {
        name: format!("configs/{config}/{hash}"),
        version: hash,
        requires: Vec::new(),
        body: Some(pb::resource::Body::Config(bytes.into())),
    }
}

/// The resource of an instance of `revision` with `configs`.
pub(crate) fn instance_resource(
    name: &str,
    revision: &pb::Resource,
    configs: &[&pb::Resource],
) -> pb::Resource {
    let last = |resource: &pb::Resource| resource.name.rsplit('/').next().unwrap().to_owned();
    let instance = pb::Instance {
        instance: name.to_owned(),
        revision: last(revision),
        configs: configs
            .iter()
            .map(|config| pb::ConfigReference {
                config: config.name.split('/').nth(1).unwrap().to_owned(),
                hash: last(config),
            })
            .collect(),
        ..Default::default()
    };
    pb::Resource {
        name: format!("instances/{name}"),
        version: ContentHash::of(&instance.encode_to_vec()).to_string(),
        requires: Vec::new(),
        body: Some(pb::resource::Body::Instance(instance)),
    }
}

/// A process service.
pub(crate) fn process(name: &str) -> types::ServiceSpec {
    types::ServiceSpec {
        program: Some(types::service_spec::Program::Process(types::Process {
            program: "/bin/hello".to_owned(),
            ..types::Process::default()
        })),
        ..service(name)
    }
}
