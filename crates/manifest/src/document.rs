//! The envelope: `apiVersion`, `kind`, `metadata`, `spec`; then the rules of `skerry-model`, each fault at its line.

use prost_reflect::MessageDescriptor;
use skerry_model::{
    AppRef, AppSpec, ClusterRef, ConfigRef, Fault, GroupRef, InvalidName, NodeRef, ProjectName, ProjectRef,
    RoleBindingRef, SecretRef, UserRef, Violations,
};
use skerry_proto::registry::v1 as registry;
use skerry_proto::scheduler::v1::Secret;
use skerry_proto::types::v1::Metadata;

use crate::decode::Decoder;
use crate::descriptors;
use crate::error::{ErrorSink, shorten};
use crate::people;
use crate::position::{Position, Positions};
use crate::resource::{API_VERSION, Kind, Resource};
use crate::suggest::nearest;
use crate::tree::{Content, Entry, Node};
use crate::{DOCUMENTS_MAX, Manifest, Project};

/// Fields of the metadata that the server sets: accepted and passed over, so that what `get -o yaml` prints can be applied.
const SERVER_SET: [&str; 6] = ["uid", "createTime", "create_time", "generation", "etag", "resourceVersion"];
const ENVELOPE: [&str; 5] = ["apiVersion", "kind", "metadata", "spec", "status"];

/// Reads one document, or the items of a `List`.
pub(crate) fn read(node: &Node, project: &Project, errors: &mut ErrorSink, manifests: &mut Vec<Manifest>) {
    let entry = |name: &str| match &node.content {
        Content::Map(entries) => entries.iter().find(|entry| &*entry.key == name),
        _ => None,
    };
    let is_list = entry("kind")
        .is_some_and(|kind| matches!(&kind.value.content, Content::Scalar(s) if s.text == "List"));
    match entry("items").map(|items| (&items.value, &items.value.content)) {
        Some((_, Content::List(items))) if is_list => {
            for item in items {
                if manifests.len() >= DOCUMENTS_MAX {
                    errors.add(item.at, "items", format!("more than {DOCUMENTS_MAX} resources in one file"));
                    return;
                }
                manifests.extend(read_one(item, project, errors));
            }
        }
        _ => manifests.extend(read_one(node, project, errors)),
    }
}

/// Said of a manifest that is for Kubernetes or Compose.
const NOT_OURS: &str = "; Compose files are applied with --as-app NAME, and manifests of Kubernetes are not read: `skerry explain app` says what is written here";

fn read_one(node: &Node, project: &Project, errors: &mut ErrorSink) -> Option<Manifest> {
    let errors_before = errors.count();
    let mut decoder = Decoder::new(errors, node.at);
    let entries = decoder.entries(node)?;
    let find = |name: &str| entries.iter().find(|entry| &*entry.key == name);
    let kind = header(&mut decoder, node.at, find("apiVersion"), find("kind"));
    for entry in entries.iter().filter(|entry| !ENVELOPE.contains(&&*entry.key)) {
        let hint = match nearest(&entry.key, ENVELOPE) {
            None if *entry.key == *"services" && find("apiVersion").is_none() => {
                format!("unknown field{NOT_OURS}")
            }
            Some(near) => format!("unknown field; did you mean {near:?}?"),
            None => "unknown field; known here: apiVersion, kind, metadata, spec".to_owned(),
        };
        decoder.within(&entry.key, &entry.key, entry.at, |decoder| decoder.error(entry.at, hint));
    }
    let kind = kind?;
    let metadata = if let Some(entry) = find("metadata") {
        decoder.within("metadata", "metadata", entry.at, |decoder| metadata(decoder, kind, entry, project))
    } else {
        decoder.error(node.at, format!("metadata: missing; name the {}", kind.as_str()));
        None
    };
    let resource = decode_spec(&mut decoder, kind, node.at, find("spec"), metadata);
    let positions = decoder.positions;
    // Rules on meaning are checked on what was read whole: else they would blame what is only mistyped.
    let resource = resource.filter(|_| errors.count() == errors_before)?;
    check(&resource, &positions, errors);
    Some(Manifest { resource, positions })
}

/// Reads `apiVersion` and `kind`.
fn header(
    decoder: &mut Decoder<'_>,
    at: Position,
    version: Option<&Entry>,
    kind: Option<&Entry>,
) -> Option<Kind> {
    match version {
        None => decoder
            .error(at, format!("apiVersion: missing; a manifest begins with \"apiVersion: {API_VERSION}\"")),
        Some(entry) => decoder.within("apiVersion", "apiVersion", entry.at, |decoder| {
            if let Some(version) = decoder.text(&entry.value).filter(|version| version != API_VERSION) {
                let found = shorten(&version, 40);
                let hint = if version.starts_with("skerry/") { "" } else { NOT_OURS };
                decoder.error(entry.value.at, format!("expected {API_VERSION:?}, found {found:?}{hint}"));
            }
        }),
    }
    let Some(entry) = kind else {
        decoder.error(at, format!("kind: missing; one of {}", Kind::words()));
        return None;
    };
    decoder.within("kind", "kind", entry.at, |decoder| {
        let text = decoder.text(&entry.value)?;
        if let Some(kind) = Kind::ALL.into_iter().find(|kind| kind.as_str() == text) {
            return Some(kind);
        }
        let hint = match nearest(&text, Kind::ALL.map(Kind::as_str)) {
            Some(near) => format!("; did you mean {near:?}?"),
            None => String::new(),
        };
        let found = shorten(&text, 40);
        decoder.error(entry.value.at, format!("expected {}, found {found:?}{hint}", Kind::words()));
        None
    })
}

fn metadata(decoder: &mut Decoder<'_>, kind: Kind, entry: &Entry, project: &Project) -> Option<Metadata> {
    let mut read = Metadata::default();
    let (mut name, mut own_project) = (None, None);
    for field in decoder.entries(&entry.value)? {
        decoder.within(&field.key, &field.key, field.at, |decoder| match &*field.key {
            "name" => name = decoder.text(&field.value).map(|text| (text, field.value.at)),
            "project" => own_project = decoder.text(&field.value).map(|text| (text, field.value.at)),
            "labels" => read.labels.extend(texts(decoder, &field.value)),
            "annotations" => read.annotations.extend(texts(decoder, &field.value)),
            key if SERVER_SET.contains(&key) => {}
            key => {
                let hint = match nearest(key, ["name", "project", "labels", "annotations"]) {
                    Some(near) => format!("unknown field; did you mean {near:?}?"),
                    None => "unknown field; known here: name, project, labels, annotations".to_owned(),
                };
                decoder.error(field.at, hint);
            }
        });
    }
    let Some((name, name_at)) = name else {
        if !matches!(&entry.value.content, Content::Map(fields) if fields.iter().any(|field| &*field.key == "name"))
        {
            decoder.error(entry.at, format!("name: missing; name the {}", kind.as_str()));
        }
        return None;
    };
    let resolved = resolve_name(kind, &name, own_project.as_ref().map(|(text, _)| text.as_str()), project);
    match resolved {
        Ok(full) => read.name = full,
        Err((field, message)) => {
            let at = if field == "project" { own_project.map_or(name_at, |(_, at)| at) } else { name_at };
            decoder.within(field, field, at, |decoder| decoder.error(at, message));
            return None;
        }
    }
    Some(read)
}

/// A map of strings; empty when nothing is written below its key.
fn texts(decoder: &mut Decoder<'_>, node: &Node) -> Vec<(String, String)> {
    if node.is_null() {
        return Vec::new();
    }
    let Some(entries) = decoder.entries(node) else { return Vec::new() };
    entries
        .iter()
        .filter_map(|entry| {
            let text = decoder.within(&entry.key, &entry.key, entry.at, |decoder| decoder.text(&entry.value));
            text.map(|text| (entry.key.to_string(), text))
        })
        .collect()
}

/// The full name, and whose it is: that of a full name, else that of `metadata.project`, else the caller's. The error names the field.
fn resolve_name(
    kind: Kind,
    name: &str,
    own: Option<&str>,
    given: &Project,
) -> Result<String, (&'static str, String)> {
    let invalid = |field| move |error: InvalidName| (field, error.to_string());
    if kind == Kind::Project {
        let own = own.map(|_| ("project", "a project is in none: its name is all".to_owned()));
        let full = ProjectRef::parse_short(name).map(|name| name.to_string()).map_err(invalid("name"));
        return own.map_or(full, Err);
    }
    let project = match own {
        Some(own) => ProjectName::parse(own).map_err(invalid("project"))?,
        None => given.name().clone(),
    };
    let (found, full) = match kind {
        Kind::App => AppRef::parse_in(&project, name).map(|r| (r.project.clone(), r.to_string())),
        Kind::Config => ConfigRef::parse_in(&project, name).map(|r| (r.project.clone(), r.to_string())),
        Kind::Secret => SecretRef::parse_in(&project, name).map(|r| (r.project.clone(), r.to_string())),
        Kind::Cluster => ClusterRef::parse_in(&project, name).map(|r| (r.project.clone(), r.to_string())),
        Kind::Node => NodeRef::parse_in(&project, name).map(|r| (r.project.clone(), r.to_string())),
        Kind::User => UserRef::parse_in(&project, name).map(|r| (r.project.clone(), r.to_string())),
        Kind::Group => GroupRef::parse_in(&project, name).map(|r| (r.project.clone(), r.to_string())),
        Kind::RoleBinding => {
            RoleBindingRef::parse_in(&project, name).map(|r| (r.project.clone(), r.to_string()))
        }
        Kind::Project => unreachable!("done above"),
    }
    .map_err(invalid("name"))?;
    if own.is_some() && found != project {
        return Err(("name", format!("is in project {found}, but \"project\" says {project}")));
    }
    match given {
        Project::Required(required) if *required != found => {
            let field = if own.is_some() { "project" } else { "name" };
            Err((field, format!("is in project {found}, but {required} was asked for")))
        }
        _ => Ok(full),
    }
}

fn decode_spec(
    decoder: &mut Decoder<'_>,
    kind: Kind,
    root: Position,
    spec: Option<&Entry>,
    metadata: Option<Metadata>,
) -> Option<Resource> {
    let message = spec_message(kind);
    decoder.is_secret = kind == Kind::Secret;
    let decoded = match spec {
        Some(entry) => {
            decoder.within("spec", "spec", entry.at, |decoder| decoder.message(&message, &entry.value))?
        }
        // Values that are not written stay as they are.
        None if kind == Kind::Secret => {
            let secret = Secret { metadata: Some(metadata?), spec: None, status: None };
            return Some(Resource::Secret(Box::new(secret)));
        }
        // So do the keys of a user, which certificates bring.
        None if kind == Kind::User => {
            let user = registry::User { metadata: Some(metadata?), spec: None };
            return Some(Resource::User(Box::new(user)));
        }
        None if matches!(kind, Kind::Node | Kind::Project | Kind::Cluster) => {
            prost_reflect::DynamicMessage::new(message)
        }
        None => {
            decoder.error(root, format!("spec: missing; it says what the {} is", kind.as_str()));
            return None;
        }
    };
    let metadata = Some(metadata?);
    let transcode = "the message was built from the descriptor of this type";
    Some(match kind {
        Kind::App => {
            let spec = Some(decoded.transcode_to().expect(transcode));
            Resource::App(Box::new(skerry_proto::scheduler::v1::App { metadata, spec, status: None }))
        }
        Kind::Config => {
            let spec = Some(decoded.transcode_to().expect(transcode));
            Resource::Config(Box::new(skerry_proto::scheduler::v1::Config { metadata, spec }))
        }
        Kind::Secret => {
            let spec = Some(decoded.transcode_to().expect(transcode));
            Resource::Secret(Box::new(Secret { metadata, spec, status: None }))
        }
        Kind::Node => {
            let spec = Some(decoded.transcode_to().expect(transcode));
            Resource::Node(Box::new(registry::Node { metadata, spec, status: None }))
        }
        Kind::Cluster => {
            let spec = Some(decoded.transcode_to().expect(transcode));
            Resource::Cluster(Box::new(registry::Cluster { metadata, spec, status: None }))
        }
        Kind::User => {
            let spec = Some(decoded.transcode_to().expect(transcode));
            Resource::User(Box::new(registry::User { metadata, spec }))
        }
        Kind::Group => {
            let spec = decoded.transcode_to().expect(transcode);
            Resource::Group(Box::new(people::group(metadata, spec)))
        }
        Kind::RoleBinding => {
            let spec = decoded.transcode_to().expect(transcode);
            Resource::RoleBinding(Box::new(people::binding(metadata, spec)))
        }
        Kind::Project => {
            let spec = Some(decoded.transcode_to().expect(transcode));
            Resource::Project(Box::new(skerry_proto::registry::v1::Project { metadata, spec, status: None }))
        }
    })
}

fn spec_message(kind: Kind) -> MessageDescriptor {
    let resource = descriptors::message(kind.message()).expect("the protocol has every kind");
    let spec = resource.get_field_by_name("spec").expect("every resource has a spec");
    match spec.kind() {
        prost_reflect::Kind::Message(message) => message,
        other => unreachable!("a spec is a message, not {other:?}"),
    }
}

/// The rules of the model.
fn check(resource: &Resource, positions: &Positions, errors: &mut ErrorSink) {
    let mut violations = Violations::new();
    if let Some(metadata) = resource.metadata() {
        skerry_model::meta::check_labels("metadata.labels", &metadata.labels, &mut violations);
        skerry_model::meta::check_annotations("metadata.annotations", &metadata.annotations, &mut violations);
    }
    let spec: Result<(), Fault> = match resource {
        Resource::App(app) => app.spec.as_ref().map_or(Ok(()), |spec| AppSpec::from_proto(spec).map(drop)),
        Resource::Config(config) => {
            let spec = config.spec.as_ref();
            spec.map_or(Ok(()), |spec| skerry_model::config::ConfigSpec::from_proto(spec).map(drop))
        }
        Resource::Secret(secret) => {
            secret.spec.as_ref().map_or(Ok(()), |spec| skerry_model::secret::content(spec).map(drop))
        }
        // Keys are SHA-256 in hexadecimal: the server says which is none.
        Resource::User(_) => Ok(()),
        Resource::Node(node) => {
            node.spec.as_ref().map_or(Ok(()), |spec| skerry_model::taint::check_taints(&spec.taints))
        }
        Resource::Cluster(cluster) => cluster.spec.as_ref().map_or(Ok(()), skerry_model::cluster::check),
        Resource::Group(group) => people::check_group(group),
        Resource::RoleBinding(binding) => people::check_binding(binding),
        Resource::Project(project) => project.spec.as_ref().map_or(Ok(()), skerry_model::project::check),
    };
    let of_spec = spec.err().map(|fault| fault.violations).unwrap_or_default();
    for violation in violations.into_vec().into_iter().chain(of_spec) {
        let found = positions.locate(&violation.field);
        errors.add(found.position, &found.path, violation.description);
    }
}
