//! A tree as a message of the protocol: canonical proto JSON, driven by the descriptors, with the forms that people write.
//!
//! Collects every fault with its place, and the place of every field. Knows no kind of resource.

use std::collections::HashMap;

use prost_reflect::{
    DynamicMessage, FieldDescriptor, Kind, MapKey, MessageDescriptor, OneofDescriptor, Value,
};

use crate::descriptors::{Unit, unit_form};
use crate::error::ErrorSink;
use crate::position::{Position, Positions};
use crate::scalar;
use crate::suggest;
use crate::tree::{Content, Entry, Node};

/// Decodes the parts of one resource.
pub(crate) struct Decoder<'a> {
    pub(crate) errors: &'a mut ErrorSink,
    pub(crate) positions: Positions,
    /// The path of the field being decoded, as written.
    path: String,
    /// What is found may be secret: faults do not quote it.
    pub(crate) is_secret: bool,
}

/// What is said instead of what was found in a secret.
const NOT_SHOWN: &str = "not what is expected here (it is not shown, as it may be secret): write text in quotes, and bytes in Base64";

/// A field as it was named: with its unit in the name, or without.
struct Named {
    field: FieldDescriptor,
    human: Option<Unit>,
}

impl<'a> Decoder<'a> {
    pub(crate) fn new(errors: &'a mut ErrorSink, root: Position) -> Self {
        Self { errors, positions: Positions::new(root), path: String::new(), is_secret: false }
    }

    pub(crate) fn error(&mut self, at: Position, message: impl Into<String>) {
        self.errors.add(at, &self.path, message);
    }

    /// A fault that quotes what was found, where it may.
    fn mismatch(&mut self, node: &Node, message: String) {
        let message = if self.is_secret { NOT_SHOWN.to_owned() } else { message };
        self.error(node.at, message);
    }

    /// Runs `work` one step further down: in the field `written`, known to others as `name`.
    pub(crate) fn within<T>(
        &mut self,
        name: &str,
        written: &str,
        at: Position,
        work: impl FnOnce(&mut Self) -> T,
    ) -> T {
        let outer = self.path.len();
        if outer > 0 && !written.starts_with('[') {
            self.path.push('.');
        }
        let start = self.path.len();
        self.path.push_str(name);
        let known_as = self.path.clone();
        self.path.truncate(start);
        self.path.push_str(written);
        self.positions.record(&known_as, &self.path, at);
        let done = work(self);
        self.path.truncate(outer);
        done
    }

    /// The entries of a mapping, or an error.
    pub(crate) fn entries<'n>(&mut self, node: &'n Node) -> Option<&'n [Entry]> {
        if let Content::Map(entries) = &node.content {
            return Some(entries);
        }
        self.mismatch(node, format!("expected a mapping, found {}", node.describe()));
        None
    }

    /// The text of a string field, or an error.
    pub(crate) fn text(&mut self, node: &Node) -> Option<String> {
        match self.scalar(&Kind::String, node)? {
            Value::String(text) => Some(text),
            _ => None,
        }
    }

    /// Decodes `node` as `message`. What is wrong is left out and told.
    pub(crate) fn message(&mut self, message: &MessageDescriptor, node: &Node) -> Option<DynamicMessage> {
        let mut decoded = DynamicMessage::new(message.clone());
        let mut given: HashMap<u32, String> = HashMap::new();
        let mut chosen: HashMap<String, String> = HashMap::new();
        for entry in self.entries(node)? {
            let Some(named) = find_field(message, &entry.key) else {
                let hint = suggest::unknown_field(message, &entry.key);
                self.within(&entry.key, &entry.key, entry.at, |this| this.error(entry.at, hint));
                continue;
            };
            let number = named.field.number();
            let conflict = match given.insert(number, entry.key.to_string()) {
                Some(other) => Some(format!("means the same as {other:?}: keep one")),
                None => exclusive(&named.field).and_then(|oneof| {
                    let other = chosen.insert(oneof.full_name().to_owned(), entry.key.to_string())?;
                    Some(format!("excludes {other:?}: keep one of them"))
                }),
            };
            let value = self.within(named.field.name(), &entry.key, entry.at, |this| match conflict {
                Some(message) => {
                    this.error(entry.at, message);
                    None
                }
                None => this.field(&named, &entry.value),
            });
            if let Some(value) = value {
                decoded.set_field(&named.field, value);
            }
        }
        Some(decoded)
    }

    fn field(&mut self, named: &Named, node: &Node) -> Option<Value> {
        let field = &named.field;
        if field.is_map() {
            return self.map(field, node);
        }
        if field.is_list() {
            return self.list(&field.kind(), node);
        }
        if node.is_null() {
            let mend = match field.kind() {
                Kind::Message(message) if !message.full_name().starts_with("google.") => {
                    format!("has no value: write its fields below it, or \"{}: {{}}\"", field.json_name())
                }
                _ => "has no value: write one, or take the line away".to_owned(),
            };
            self.error(node.at, mend);
            return None;
        }
        match (named.human, field.kind()) {
            (Some(unit), _) => self.value_or_error(node, scalar::quantity(unit, node)),
            (None, Kind::Message(message)) if message.full_name() == "google.protobuf.Duration" => {
                self.value_or_error(node, scalar::duration(&message, node))
            }
            (None, Kind::Message(message)) if message.full_name() == "google.protobuf.Timestamp" => {
                self.value_or_error(node, scalar::timestamp(&message, node))
            }
            (None, Kind::Message(message)) if message.full_name().starts_with("google.") => {
                self.error(node.at, "cannot be written in a manifest");
                None
            }
            (None, Kind::Message(message)) => self.message(&message, node).map(Value::Message),
            (None, kind) => match scalar::scalar(&kind, node) {
                Ok(value) => match no_empty_text(field, &value) {
                    Some(message) => {
                        self.error(node.at, message);
                        None
                    }
                    None => Some(value),
                },
                Err(message) => {
                    let message = out_of_bounds(field, node).unwrap_or(message);
                    let mend = unit_form(field)
                        .map(|(name, unit)| format!("; or write \"{name}: {}\"", scalar::example(unit)));
                    self.mismatch(node, message + mend.as_deref().unwrap_or_default());
                    None
                }
            },
        }
    }

    fn list(&mut self, kind: &Kind, node: &Node) -> Option<Value> {
        let items = match &node.content {
            Content::List(items) => items.as_slice(),
            _ if node.is_null() => &[],
            _ => {
                self.mismatch(node, format!("expected a list, found {}", node.describe()));
                return None;
            }
        };
        let mut values = Vec::with_capacity(items.len());
        for (index, item) in items.iter().enumerate() {
            let step = format!("[{index}]");
            let value = self.within(&step, &step, item.at, |this| match kind {
                Kind::Message(message) => this.message(message, item).map(Value::Message),
                kind => this.scalar(kind, item),
            });
            values.extend(value);
        }
        Some(Value::List(values))
    }

    fn map(&mut self, field: &FieldDescriptor, node: &Node) -> Option<Value> {
        let Kind::Message(entry_message) = field.kind() else { return None };
        let kind = entry_message.map_entry_value_field().kind();
        let entries = if node.is_null() { &[] } else { self.entries(node)? };
        let mut values = HashMap::with_capacity(entries.len());
        for entry in entries {
            let value = self.within(&entry.key, &entry.key, entry.at, |this| match &kind {
                Kind::Message(message) => this.message(message, &entry.value).map(Value::Message),
                kind => this.scalar(kind, &entry.value),
            });
            if let Some(value) = value {
                values.insert(MapKey::String(entry.key.to_string()), value);
            }
        }
        Some(Value::Map(values))
    }

    fn scalar(&mut self, kind: &Kind, node: &Node) -> Option<Value> {
        self.value_or_error(node, scalar::scalar(kind, node))
    }

    fn value_or_error(&mut self, node: &Node, value: Result<Value, String>) -> Option<Value> {
        value.map_err(|message| self.mismatch(node, message)).ok()
    }
}

/// Finds the field that `key` names: lowerCamelCase, snake_case, or without its unit.
fn find_field(message: &MessageDescriptor, key: &str) -> Option<Named> {
    if let Some(field) = message.get_field_by_json_name(key).or_else(|| message.get_field_by_name(key)) {
        return Some(Named { field, human: None });
    }
    message.fields().find_map(|field| {
        let (name, unit) = unit_form(&field)?;
        // Also as the protocol spells it.
        let rest = field.name().strip_prefix(key);
        if name != key && rest.is_none_or(|rest| rest.rfind('_') != Some(0)) {
            return None;
        }
        Some(Named { field, human: Some(unit) })
    })
}

/// The real oneof that `field` is in: those behind `optional` exclude nothing.
fn exclusive(field: &FieldDescriptor) -> Option<OneofDescriptor> {
    field.containing_oneof().filter(|oneof| !oneof.is_synthetic())
}

/// What is wrong with a number that its type cannot hold, where the field has narrower bounds than that.
fn out_of_bounds(field: &FieldDescriptor, node: &Node) -> Option<String> {
    let most = match field.full_name() {
        "skerry.type.v1.Deployment.replicas" => skerry_model::app::REPLICAS_MAX,
        _ => return None,
    };
    let Content::Scalar(found) = &node.content else { return None };
    Some(format!("{} is out of range: 0 to {most}", found.integer()?))
}

/// What is wrong with an empty text, where the protocol cannot tell it from an absent one and that one means something else: one whole GPU.
fn no_empty_text(field: &FieldDescriptor, value: &Value) -> Option<&'static str> {
    match (field.full_name(), value) {
        ("skerry.type.v1.GpuRequest.mig_profile", Value::String(text)) if text.is_empty() => {
            Some("is empty: name the size of the part, for example 1g.10gb, or take the line away")
        }
        _ => None,
    }
}
