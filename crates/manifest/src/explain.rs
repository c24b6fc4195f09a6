//! What a field of a kind means: the protocol's own comments, under the names that manifests use.
//!
//! Data only; how it looks is the caller's.

use std::sync::LazyLock;

use prost_reflect::{
    DescriptorPool, EnumDescriptor, FieldDescriptor, FileDescriptor, Kind, MessageDescriptor,
};

use crate::descriptors::{Unit, unit_form};
use crate::scalar::human_value;
use crate::suggest::{nearest, unknown_field};

/// Deeper than any kind nests: below it nothing more is told.
const DEPTH_MAX: usize = 32;

/// The protocol with its comments: read only when somebody asks.
static POOL: LazyLock<DescriptorPool> = LazyLock::new(|| {
    DescriptorPool::decode(skerry_proto::FILE_DESCRIPTOR_SET_WITH_COMMENTS)
        .expect("the checked-in descriptors are valid")
});

/// The kinds that can be explained: how manifests and output name them, and their message. Those in [`crate::Kind`] first.
const KINDS: [(&str, &str); 13] = [
    ("App", "skerry.scheduler.v1.App"),
    ("Config", "skerry.scheduler.v1.Config"),
    ("Secret", "skerry.scheduler.v1.Secret"),
    ("Project", "skerry.registry.v1.Project"),
    ("Node", "skerry.registry.v1.Node"),
    ("Cluster", "skerry.registry.v1.Cluster"),
    ("User", "skerry.registry.v1.User"),
    ("Group", "skerry.registry.v1.Group"),
    ("RoleBinding", "skerry.registry.v1.RoleBinding"),
    ("Task", "skerry.registry.v1.Task"),
    ("Instance", "skerry.type.v1.InstanceStatus"),
    ("Revision", "skerry.scheduler.v1.Revision"),
    ("Event", "skerry.type.v1.Event"),
];

/// A kind, or a field of one.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Explained {
    /// The kind, as manifests name it.
    pub kind: &'static str,
    /// The field asked for. Absent: the kind itself.
    pub field: Option<FieldDoc>,
    /// What it means.
    pub text: String,
    /// The fields in it.
    pub fields: Vec<FieldDoc>,
    /// The words that it may be, each with its meaning.
    pub values: Vec<(String, String)>,
}

/// One field.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FieldDoc {
    /// As manifests name it.
    pub name: String,
    /// What its value is, as `list of Port` or `quantity, as 512Mi`.
    pub of: String,
    /// What it means.
    pub text: String,
    /// Other fields, of which at most one may be given.
    pub excludes: Vec<String>,
    /// The fields in it.
    pub fields: Vec<FieldDoc>,
}

/// The kinds that [`explain`] knows.
pub fn kinds() -> impl Iterator<Item = &'static str> {
    KINDS.iter().map(|(kind, _)| *kind)
}

/// Explains `KIND` or `KIND.field.field`. The kind in any case, also in plural; fields as in manifests. Lists and maps are passed through:
/// `app.spec.services.container`.
///
/// # Errors
/// What is not known, and what is near.
pub fn explain(path: &str) -> Result<Explained, String> {
    let mut steps = path.split('.');
    let (kind, message) = find_kind(steps.next().unwrap_or_default())?;
    let mut here = POOL.get_message_by_name(message).expect("the protocol has every kind");
    let text = comment(&here.parent_file(), here.path());
    let mut explained = Explained { kind, field: None, text, fields: vec![], values: vec![] };
    let mut shown = kind.to_ascii_lowercase();
    let mut message = Some(here.clone());
    let mut synthetic = false;
    for step in steps {
        let name = step.split('[').next().unwrap_or_default();
        let Some(inside) = message.filter(|_| !synthetic) else {
            return Err(format!("{shown} is a plain value: there is nothing in it"));
        };
        here = inside;
        if is_project(&here, name) {
            let field = project();
            (explained.text, explained.field) = (field.text.clone(), Some(field));
            synthetic = true;
            message = Some(here.clone());
            shown = format!("{shown}.{name}");
            continue;
        }
        let Some(field) = find_field(&here, name) else {
            return Err(format!("{shown}.{name}: {}", unknown_field(&here, name)));
        };
        shown = format!("{shown}.{}", name_of(&field));
        let doc = document(&field, DEPTH_MAX);
        explained.text.clone_from(&doc.text);
        explained.values = match value_kind(&field) {
            Kind::Enum(values) => words(&values),
            _ => vec![],
        };
        explained.field = Some(doc);
        message = inner(&field);
    }
    if let (Some(message), false) = (message, synthetic) {
        if explained.field.is_some() {
            let more = comment(&message.parent_file(), message.path());
            if more != explained.text && !more.is_empty() {
                explained.text = format!("{}\n\n{more}", explained.text);
            }
        }
        explained.fields = documents(&message, 0);
    }
    Ok(explained)
}

fn find_kind(text: &str) -> Result<(&'static str, &'static str), String> {
    let lower = text.to_ascii_lowercase();
    let singular = lower.strip_suffix('s').unwrap_or(&lower);
    if let Some(found) = KINDS.iter().find(|(kind, _)| kind.eq_ignore_ascii_case(singular)) {
        return Ok(*found);
    }
    let names: Vec<String> = kinds().map(str::to_ascii_lowercase).collect();
    let hint = match nearest(&lower, names.iter().map(String::as_str)) {
        Some(near) => format!("did you mean {near}?"),
        None => format!("known: {}", names.join(", ")),
    };
    Err(format!("there is no kind {text:?}; {hint}"))
}

fn find_field(message: &MessageDescriptor, name: &str) -> Option<FieldDescriptor> {
    message
        .get_field_by_json_name(name)
        .or_else(|| message.get_field_by_name(name))
        .or_else(|| message.fields().find(|field| unit_form(field).is_some_and(|(short, _)| short == name)))
}

/// `project` is a field of manifests: in the protocol it is a part of the name.
fn is_project(message: &MessageDescriptor, name: &str) -> bool {
    message.full_name() == "skerry.type.v1.Metadata" && name == "project"
}

fn project() -> FieldDoc {
    FieldDoc {
        name: "project".into(),
        of: "string".into(),
        text: "Its project. Absent: the one that the command works in.".into(),
        excludes: vec![],
        fields: vec![],
    }
}

/// The fields of `message`, each with those in it down to [`DEPTH_MAX`].
fn documents(message: &MessageDescriptor, depth: usize) -> Vec<FieldDoc> {
    let mut docs: Vec<FieldDoc> = message.fields().map(|field| document(&field, depth)).collect();
    if message.full_name() == "skerry.type.v1.Metadata" {
        docs.insert(1.min(docs.len()), project());
    }
    docs
}

fn document(field: &FieldDescriptor, depth: usize) -> FieldDoc {
    let fields = match inner(field) {
        Some(message) if depth < DEPTH_MAX => documents(&message, depth + 1),
        _ => vec![],
    };
    let oneof = field.containing_oneof().filter(|oneof| !oneof.is_synthetic());
    let others = oneof.iter().flat_map(prost_reflect::OneofDescriptor::fields).filter(|other| other != field);
    FieldDoc {
        name: name_of(field),
        of: type_of(field),
        text: comment(&field.parent_message().parent_file(), field.path()),
        excludes: others.map(|other| name_of(&other)).collect(),
        fields,
    }
}

fn name_of(field: &FieldDescriptor) -> String {
    unit_form(field).map_or_else(|| field.json_name().to_owned(), |(name, _)| name.to_owned())
}

/// The kind of a field's values: of a map, those behind its keys.
fn value_kind(field: &FieldDescriptor) -> Kind {
    match field.kind() {
        Kind::Message(entry) if field.is_map() => entry.map_entry_value_field().kind(),
        kind => kind,
    }
}

/// The message whose fields a path goes on with.
fn inner(field: &FieldDescriptor) -> Option<MessageDescriptor> {
    match value_kind(field) {
        Kind::Message(message) if !message.full_name().starts_with("google.") => Some(message),
        _ => None,
    }
}

fn type_of(field: &FieldDescriptor) -> String {
    let one = match (unit_form(field), value_kind(field)) {
        (Some((_, Unit::Bytes)), _) => {
            return format!("quantity, as 512Mi; or {}: a number of bytes", field.json_name());
        }
        (Some((_, Unit::CpuMillis)), _) => {
            return format!("quantity, as 500m or 1.5; or {}: thousandths", field.json_name());
        }
        (None, Kind::Message(message)) => match message.full_name() {
            "google.protobuf.Duration" => "duration, as 1m30s".to_owned(),
            "google.protobuf.Timestamp" => "time, as 2026-01-31T12:00:00Z".to_owned(),
            _ => message.name().to_owned(),
        },
        (None, Kind::Enum(_)) => "word".to_owned(),
        (None, Kind::Bool) => "true or false".to_owned(),
        (None, Kind::String) => "string".to_owned(),
        (None, Kind::Bytes) => "bytes, in Base64".to_owned(),
        (None, Kind::Double | Kind::Float) => "number".to_owned(),
        (None, _) => "integer".to_owned(),
    };
    if field.is_map() {
        format!("map of {one}")
    } else if field.is_list() {
        format!("list of {one}")
    } else {
        one
    }
}

/// The values that people write, without the one that stands for nothing.
fn words(values: &EnumDescriptor) -> Vec<(String, String)> {
    values
        .values()
        .filter(|value| value.number() != 0)
        .map(|value| (human_value(values, value.name()), comment(&values.parent_file(), value.path())))
        .collect()
}

/// The comment that stands before what `path` names, with field names as manifests have them.
fn comment(file: &FileDescriptor, path: &[i32]) -> String {
    let info = file.file_descriptor_proto().source_code_info.as_ref();
    let location = info.and_then(|info| info.location.iter().find(|location| location.path == path));
    let text = location.and_then(|location| location.leading_comments.as_deref()).unwrap_or_default();
    let paragraphs = text.trim().split("\n\n").map(|paragraph| {
        let words: Vec<&str> = paragraph.split_whitespace().collect();
        words.join(" ")
    });
    paragraphs.map(|paragraph| manifest_names(&paragraph)).collect::<Vec<_>>().join("\n\n")
}

/// `container_port` in backticks becomes `containerPort`.
fn manifest_names(text: &str) -> String {
    let is_field = |quoted: &str| {
        quoted.contains('_')
            && quoted.chars().all(|c| c.is_ascii_lowercase() || c == '_' || c.is_ascii_digit())
    };
    let parts = text
        .split('`')
        .enumerate()
        .map(|(index, part)| if index % 2 == 0 || !is_field(part) { part.to_owned() } else { camel(part) });
    parts.collect::<Vec<_>>().join("`")
}

fn camel(snake: &str) -> String {
    let mut words = snake.split('_');
    let first = words.next().unwrap_or_default().to_owned();
    words.fold(first, |text, word| {
        let mut letters = word.chars();
        let head = letters.next().map(|c| c.to_ascii_uppercase());
        text + &head.into_iter().chain(letters).collect::<String>()
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn names(fields: &[FieldDoc]) -> Vec<&str> {
        fields.iter().map(|field| field.name.as_str()).collect()
    }

    #[test]
    fn a_path_goes_through_lists_and_names_are_those_of_manifests() {
        let app = explain("app").expect("known");
        assert_eq!((app.kind, names(&app.fields)), ("App", vec!["metadata", "spec", "status"]));
        let port = explain("apps.spec.services[0].container.ports.hostPort").expect("known");
        let field = port.field.expect("a field");
        assert_eq!((field.name.as_str(), field.of.as_str()), ("hostPort", "integer"));
        assert!(port.text.contains("the same as `containerPort`"), "{}", port.text);
        let memory =
            explain("App.spec.services.resources.limits.memory").expect("known").field.expect("a field");
        assert_eq!(memory.name, "memory");
        assert!(memory.of.contains("512Mi"), "{}", memory.of);
        let gpu = explain("app.spec.services.gpu.memory").expect("known").field.expect("a field");
        assert!(gpu.of.contains("512Mi") || gpu.of.contains("8Gi"), "{}", gpu.of);
        assert_eq!(explain("node.metadata.project").expect("known").field.expect("a field").name, "project");
    }

    #[test]
    fn words_and_exclusions_are_told() {
        let policy = explain("app.spec.services.restart.policy").expect("known");
        let words: Vec<&str> = policy.values.iter().map(|(word, _)| word.as_str()).collect();
        assert_eq!(words, ["always", "on-failure", "never"]);
        let service = explain("app.spec.services").expect("known");
        let container = service.fields.iter().find(|field| field.name == "container").expect("a field");
        assert_eq!(container.excludes, ["process"]);
        assert!(names(&container.fields).contains(&"image"), "those below it for --recursive");
    }

    #[test]
    fn what_is_unknown_is_told_with_what_is_near() {
        let refused = |path: &str| explain(path).expect_err("refused");
        assert_eq!(refused("ap"), "there is no kind \"ap\"; did you mean app?");
        assert_eq!(
            refused("app.spec.servics"),
            "app.spec.servics: unknown field; did you mean \"services\"?"
        );
        assert_eq!(
            refused("app.spec.services.name.x"),
            "app.spec.services.name is a plain value: there is nothing in it"
        );
        assert!(refused("app.metadata.project.x").contains("plain value"));
    }

    #[test]
    fn every_field_of_every_kind_has_a_comment() {
        fn check(path: &str, fields: &[FieldDoc]) {
            for field in fields {
                let path = format!("{path}.{}", field.name);
                assert!(!field.text.is_empty(), "{path} is not documented");
                check(&path, &field.fields);
            }
        }
        for kind in kinds() {
            check(kind, &explain(kind).expect("known").fields);
        }
    }
}
