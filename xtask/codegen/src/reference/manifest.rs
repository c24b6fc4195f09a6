//! The reference of manifests: each field by the path that people write, as `crates/manifest` reads it.

use std::{collections::BTreeMap, fmt::Write as _};

use prost_types::FieldDescriptorProto;

use super::{HEAD, Protos, is_repeated, markdown, scalar, type_name};

const KINDS: [(&str, &str); 7] = [
    ("App", "skerry.scheduler.v1.App"),
    ("Config", "skerry.scheduler.v1.Config"),
    ("Node", "skerry.registry.v1.Node"),
    ("User", "skerry.registry.v1.User"),
    ("Group", "skerry.registry.v1.Group"),
    ("RoleBinding", "skerry.registry.v1.RoleBinding"),
    ("Project", "skerry.registry.v1.Project"),
];
/// What people write of the metadata; the rest is the server's.
const METADATA: &str = "skerry.type.v1.Metadata";
const METADATA_WRITTEN: [&str; 3] = ["name", "labels", "annotations"];
/// The last words of fields that people may leave away, with how the quantity is then written. As `unit_form` in `crates/manifest`.
const UNITS: [(&str, &str); 2] = [("_bytes", "bytes, as `512Mi`"), ("_millis", "as `500m` or `1.5`")];
const INTRODUCTION: &str = "\
# Reference: manifests

A manifest is YAML or JSON, several in a file or a `List`:

```text
apiVersion: skerry/v1
kind: App | Config | Node | User | Group | RoleBinding | Project
metadata: {name: ..., labels: {...}}
spec: ...
```

Words of a choice are written in any case, with `-`, `_` or neither. Durations are written as `30s`, `1m30s` or `500ms`, quantities as `512Mi`, `1.5Gi`, `500m`. What is unknown, misspelt or not available is refused, with
file, line, column and field. `metadata.project` may name the project; `status` and what the server sets are passed over, so that what `skerry get -o yaml` prints can be applied again.

Examples, all of them run by a test: the [guide](../guide/README.md).
";

pub(super) fn document(protos: &Protos<'_>) -> String {
    let mut writer = Writer { protos, out: format!("{HEAD}{INTRODUCTION}"), places: BTreeMap::new() };
    for (kind, name) in KINDS {
        let _ = write!(writer.out, "\n- [{kind}](#{})", kind.to_lowercase());
        debug_assert!(protos.messages.contains_key(name), "{name} is in proto/");
    }
    writer.out.push('\n');
    for (kind, name) in KINDS {
        let Some(message) = protos.messages.get(name) else { continue };
        let _ = write!(writer.out, "\n## {kind}\n\n{}\n", markdown(&message.comment));
        let _ = write!(writer.out, "\n### {kind}: metadata\n\n| field | type | |\n|---|---|---|\n");
        for field in protos.messages.get(METADATA).into_iter().flat_map(|metadata| &metadata.fields) {
            if METADATA_WRITTEN.contains(&field.descriptor.name()) {
                writer.row(field.descriptor, &field.comment, None);
            }
        }
        if let Some(spec) = message.fields.iter().find(|field| field.descriptor.name() == "spec") {
            writer.section(kind, "spec", type_name(spec.descriptor));
        }
    }
    writer.out
}

struct Writer<'a> {
    protos: &'a Protos<'a>,
    out: String,
    /// Where a message has been described: the heading of its first place.
    places: BTreeMap<String, String>,
}

impl Writer<'_> {
    /// Describes a message at `path`, then each message below it that has not been.
    fn section(&mut self, kind: &str, path: &str, name: &str) {
        let Some(message) = self.protos.messages.get(name) else { return };
        let heading = format!("{kind}: {path}");
        self.places.insert(name.to_owned(), heading.clone());
        let _ = write!(self.out, "\n### {heading}\n\n{}\n", markdown(&message.comment));
        if message.fields.is_empty() {
            self.out.push_str("\nIt has no fields: write `{}`.\n");
            return;
        }
        self.out.push_str("\n| field | type | |\n|---|---|---|\n");
        let mut below = Vec::new();
        for field in &message.fields {
            let descriptor = field.descriptor;
            let oneof = descriptor.oneof_index.filter(|_| !descriptor.proto3_optional());
            let inner = self.protos.map(descriptor).map_or(descriptor, |(_, value)| value);
            let message_name = type_name(inner);
            let link = if !self.protos.messages.contains_key(message_name) {
                None
            } else if let Some(known) = self.places.get(message_name) {
                Some(known.clone())
            } else {
                let many = if is_repeated(descriptor) { "[]" } else { "" };
                let inside = format!("{path}.{}{many}", descriptor.json_name());
                let known = format!("{kind}: {inside}");
                self.places.insert(message_name.to_owned(), known.clone());
                below.push((inside, message_name.to_owned()));
                Some(known)
            };
            let others = message.fields.iter().filter(|other| {
                oneof.is_some()
                    && other.descriptor.oneof_index == descriptor.oneof_index
                    && other.descriptor.name() != descriptor.name()
            });
            let others: Vec<String> =
                others.map(|other| format!("`{}`", other.descriptor.json_name())).collect();
            let with_oneof = match &others[..] {
                [] => field.comment.clone(),
                others => format!("{} Not with {}.", field.comment, others.join(", ")),
            };
            self.row(descriptor, &with_oneof, link.as_deref());
        }
        for (path, name) in below {
            self.section(kind, &path, &name);
        }
    }

    fn row(&mut self, field: &FieldDescriptorProto, comment: &str, link: Option<&str>) {
        let written =
            unit_form(field.name()).map_or_else(|| field.json_name().to_owned(), |(short, _)| camel(short));
        let of = match self.protos.map(field) {
            Some((_, value)) => format!("map of names to {}", self.one(value, link)),
            None if is_repeated(field) => format!("list of {}", self.one(field, link)),
            None => self.one(field, link),
        };
        let _ = writeln!(self.out, "| `{written}` | {of} | {} |", markdown(comment));
    }

    /// What one value is.
    fn one(&self, field: &FieldDescriptorProto, link: Option<&str>) -> String {
        if let Some(heading) = link {
            let path = heading.split_once(": ").map_or(heading, |(_, path)| path);
            return format!("[{}](#{})", path.replace("[]", ""), slug(heading));
        }
        if let Some((_, form)) = unit_form(field.name()) {
            return form.to_owned();
        }
        if let Some(declared) = self.protos.enums.get(type_name(field)) {
            let enum_name = type_name(field).rsplit('.').next().unwrap_or_default();
            let words =
                declared.values.iter().filter(|(_, number, _)| *number != 0).map(|(value, _, comment)| {
                    format!("`{}`: {}", word(enum_name, value), markdown(comment))
                });
            return format!("one word. {}", words.collect::<Vec<_>>().join(" "));
        }
        match (type_name(field), scalar(field).as_deref()) {
            ("google.protobuf.Duration", _) => "duration".to_owned(),
            (_, Some("string")) => "text".to_owned(),
            (_, Some("bytes")) => "Base64".to_owned(),
            (_, Some("bool")) => "`true` or `false`".to_owned(),
            (_, Some(_)) => "number".to_owned(),
            (other, None) => format!("`{other}`"),
        }
    }
}

/// A field's name without its unit, and how a quantity is written.
fn unit_form(name: &str) -> Option<(&str, &'static str)> {
    UNITS.iter().find_map(|(unit, form)| Some((name.strip_suffix(unit)?, *form)))
}

fn camel(name: &str) -> String {
    let mut words = name.split('_');
    let first = words.next().unwrap_or_default().to_owned();
    words.fold(first, |so_far, word| {
        let mut letters = word.chars();
        let head = letters.next().map(|c| c.to_ascii_uppercase().to_string()).unwrap_or_default();
        so_far + &head + letters.as_str()
    })
}

/// `ON_FAILURE` as people write it: `on-failure`, without the name of its enum before.
fn word(enum_name: &str, value: &str) -> String {
    let mut prefix = String::new();
    for c in enum_name.chars() {
        if c.is_ascii_uppercase() && !prefix.is_empty() {
            prefix.push('_');
        }
        prefix.push(c.to_ascii_uppercase());
    }
    let bare = value.strip_prefix(&prefix).and_then(|rest| rest.strip_prefix('_')).unwrap_or(value);
    bare.to_ascii_lowercase().replace('_', "-")
}

/// The anchor that a heading gets: small letters, no punctuation, `-` for spaces.
fn slug(heading: &str) -> String {
    let kept = heading.chars().filter(|c| c.is_alphanumeric() || *c == ' ' || *c == '-');
    kept.collect::<String>().to_lowercase().replace(' ', "-")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fields_and_words_are_as_people_write_them() {
        assert_eq!(unit_form("shm_size_bytes").map(|(name, _)| camel(name)).as_deref(), Some("shmSize"));
        assert_eq!(unit_form("cpu_millis").map(|(name, _)| name), Some("cpu"));
        assert_eq!(word("NetworkMode", "NETWORK_MODE_HOST"), "host");
        assert_eq!(word("Policy", "ON_FAILURE"), "on-failure");
        assert_eq!(slug("App: spec.services[].container"), "app-specservicescontainer");
    }
}
