//! Resources and messages as text: canonical JSON, and YAML as a person would write it.
//!
//! Field order is the protocol's. A resource is `apiVersion`, `kind`, `metadata` (the short name and its project), `spec`, `status`.

mod value;
mod yaml;

use prost::Message;
use prost_reflect::DynamicMessage;
use skerry_proto::registry::v1::User;
use skerry_proto::scheduler::v1::Secret;

use crate::descriptors;
use crate::resource::{API_VERSION, Resource};

pub use value::Value;

/// A resource as a tree that [`crate::parse`] reads back.
pub fn resource(resource: &Resource) -> Value {
    let kind = resource.kind();
    let mut body = match resource {
        Resource::App(app) => message(kind.message(), app.as_ref()),
        Resource::Config(config) => message(kind.message(), config.as_ref()),
        // Whoever has values prints none.
        Resource::Secret(secret) => {
            message(kind.message(), &Secret { spec: None, ..secret.as_ref().clone() })
        }
        Resource::Node(node) => message(kind.message(), node.as_ref()),
        // A spec without keys takes out those that come later, when it is applied again.
        Resource::User(user) => {
            let spec = user.spec.clone().filter(|spec| !spec.keys.is_empty());
            message(kind.message(), &User { spec, ..user.as_ref().clone() })
        }
        Resource::Group(group) => message(kind.message(), group.as_ref()),
        Resource::RoleBinding(binding) => message(kind.message(), binding.as_ref()),
        Resource::Project(project) => message(kind.message(), project.as_ref()),
        Resource::Cluster(cluster) => message(kind.message(), cluster.as_ref()),
    };
    shorten(&mut body);
    with_header(kind.as_str(), body)
}

/// A message that has metadata and is in no manifest (`Task`), as a tree under a kind.
pub fn named(kind: &str, message_name: &str, message: &impl Message) -> Value {
    let mut body = self::message(message_name, message);
    shorten(&mut body);
    with_header(kind, body)
}

/// The name in the metadata becomes the short one.
fn shorten(body: &mut Value) {
    if let Value::Map(entries) = body
        && let Some((_, Value::Map(metadata))) = entries.iter_mut().find(|(key, _)| key == "metadata")
    {
        short_name(metadata);
    }
}

/// A message that is no resource of its own (`Instance`, `Event`, `Revision`), as a tree under a kind.
pub fn other(kind: &str, message_name: &str, message: &impl Message) -> Value {
    with_header(kind, self::message(message_name, message))
}

/// Several trees as one `List`.
pub fn list(items: Vec<Value>) -> Value {
    Value::Map(vec![
        ("apiVersion".into(), Value::String(API_VERSION.into())),
        ("kind".into(), Value::String("List".into())),
        ("items".into(), Value::List(items)),
    ])
}

/// `message` by the descriptor of `name`, as `skerry.type.v1.Event`.
fn message(name: &str, message: &impl Message) -> Value {
    let descriptor = descriptors::message(name).expect("callers name messages of the protocol");
    let bytes = message.encode_to_vec();
    let dynamic = DynamicMessage::decode(descriptor, bytes.as_slice())
        .expect("an encoded message of this type decodes");
    value::of_message(&dynamic)
}

fn with_header(kind: &str, body: Value) -> Value {
    let mut entries = vec![
        ("apiVersion".to_owned(), Value::String(API_VERSION.into())),
        ("kind".to_owned(), Value::String(kind.into())),
    ];
    if let Value::Map(fields) = body {
        entries.extend(fields);
    }
    Value::Map(entries)
}

/// `projects/p/apps/a` becomes `name: a`, `project: p`; `projects/p` just `name: p`.
fn short_name(metadata: &mut Vec<(String, Value)>) {
    let Some(at) = metadata.iter().position(|(key, _)| key == "name") else { return };
    let Value::String(full) = &metadata[at].1 else { return };
    let parts: Vec<&str> = full.split('/').collect();
    if let ["projects", project] = parts.as_slice() {
        metadata[at].1 = Value::String((*project).to_owned());
    } else if let ["projects", project, _, name] = parts.as_slice() {
        let (name, project) = (Value::String((*name).to_owned()), Value::String((*project).to_owned()));
        metadata[at].1 = name;
        metadata.insert(at + 1, ("project".into(), project));
    }
}
