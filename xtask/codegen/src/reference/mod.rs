//! The reference documents that follow from `proto/` and its comments: of the API (`api`) and of the fields of manifests (`manifest`).
//!
//! The one of the command line follows from the built programs: `cargo xtask reference` makes it.

mod api;
mod manifest;

use std::collections::BTreeMap;

use prost_types::{
    DescriptorProto, EnumDescriptorProto, FieldDescriptorProto, FileDescriptorProto, FileDescriptorSet,
    field_descriptor_proto::{Label, Type},
};

use crate::Files;

const API: &str = "docs/reference/api.md";
const MANIFEST: &str = "docs/reference/manifest.md";
const HEAD: &str = "<!-- Made by `cargo xtask codegen` from proto/. Do not edit. -->\n";

/// Field numbers of descriptor.proto, which is how comments name what they are about.
const MESSAGES: i32 = 4;
const ENUMS: i32 = 5;
const SERVICES: i32 = 6;
const NESTED_MESSAGES: i32 = 3;
const NESTED_ENUMS: i32 = 4;
/// Fields of a message, values of an enum, methods of a service: each the second field of its owner.
const MEMBERS: i32 = 2;

/// The documents, by their place.
pub(crate) fn generate(set: &FileDescriptorSet) -> Files {
    let protos = Protos::of(set);
    [(API, api::document(&protos)), (MANIFEST, manifest::document(&protos))]
        .into_iter()
        .map(|(path, text)| (path.into(), text.into_bytes()))
        .collect()
}

/// Everything that is described, by full name.
#[derive(Default)]
pub(super) struct Protos<'a> {
    pub(super) files: Vec<&'a FileDescriptorProto>,
    pub(super) messages: BTreeMap<String, Message<'a>>,
    pub(super) enums: BTreeMap<String, Enum<'a>>,
    /// By file and path.
    comments: BTreeMap<(String, Vec<i32>), String>,
}

pub(super) struct Message<'a> {
    pub(super) descriptor: &'a DescriptorProto,
    pub(super) comment: String,
    pub(super) fields: Vec<Field<'a>>,
}

pub(super) struct Field<'a> {
    pub(super) descriptor: &'a FieldDescriptorProto,
    pub(super) comment: String,
}

pub(super) struct Enum<'a> {
    pub(super) comment: String,
    /// Name and comment, in the order of the proto.
    pub(super) values: Vec<(&'a str, i32, String)>,
}

impl<'a> Protos<'a> {
    fn of(set: &'a FileDescriptorSet) -> Self {
        let mut protos = Self::default();
        for file in set.file.iter().filter(|file| file.package().starts_with("skerry.")) {
            for place in file.source_code_info.iter().flat_map(|info| &info.location) {
                let key = (file.name().to_owned(), place.path.clone());
                protos.comments.insert(key, one_line(place.leading_comments()));
            }
            protos.files.push(file);
            for (index, message) in (0..).zip(&file.message_type) {
                protos.message(file, file.package(), &[MESSAGES, index], message);
            }
            for (index, declared) in (0..).zip(&file.enum_type) {
                protos.enumeration(file, file.package(), &[ENUMS, index], declared);
            }
        }
        protos
    }

    fn message(
        &mut self,
        file: &FileDescriptorProto,
        scope: &str,
        path: &[i32],
        message: &'a DescriptorProto,
    ) {
        let name = format!("{scope}.{}", message.name());
        for (index, nested) in (0..).zip(&message.nested_type) {
            self.message(file, &name, &[path, &[NESTED_MESSAGES, index]].concat(), nested);
        }
        for (index, nested) in (0..).zip(&message.enum_type) {
            self.enumeration(file, &name, &[path, &[NESTED_ENUMS, index]].concat(), nested);
        }
        let fields = (0..).zip(&message.field).map(|(index, descriptor)| Field {
            descriptor,
            comment: self.comment(file, &[path, &[MEMBERS, index]].concat()),
        });
        let fields = fields.collect();
        let comment = self.comment(file, path);
        self.messages.insert(name, Message { descriptor: message, comment, fields });
    }

    fn enumeration(
        &mut self,
        file: &FileDescriptorProto,
        scope: &str,
        path: &[i32],
        declared: &'a EnumDescriptorProto,
    ) {
        let values = (0..).zip(&declared.value).map(|(index, value)| {
            (value.name(), value.number(), self.comment(file, &[path, &[MEMBERS, index]].concat()))
        });
        let values = values.collect();
        let found = Enum { comment: self.comment(file, path), values };
        self.enums.insert(format!("{scope}.{}", declared.name()), found);
    }

    /// What is written above a thing of `file`; empty where nothing is.
    fn comment(&self, file: &FileDescriptorProto, path: &[i32]) -> String {
        self.comments.get(&(file.name().to_owned(), path.to_vec())).cloned().unwrap_or_default()
    }

    pub(super) fn service_comment(&self, file: &FileDescriptorProto, service: i32) -> String {
        self.comment(file, &[SERVICES, service])
    }

    pub(super) fn method_comment(&self, file: &FileDescriptorProto, service: i32, method: i32) -> String {
        self.comment(file, &[SERVICES, service, MEMBERS, method])
    }

    /// The types of key and value, where the field is a map.
    pub(super) fn map(
        &self,
        field: &FieldDescriptorProto,
    ) -> Option<(&'a FieldDescriptorProto, &'a FieldDescriptorProto)> {
        let entry = self.messages.get(type_name(field))?;
        let is_map = entry.descriptor.options.as_ref().is_some_and(prost_types::MessageOptions::map_entry);
        let [key, value] = &entry.fields[..] else { return None };
        is_map.then_some((key.descriptor, value.descriptor))
    }
}

/// Full name of the message or enum that a field is of; empty for scalars.
pub(super) fn type_name(field: &FieldDescriptorProto) -> &str {
    field.type_name().trim_start_matches('.')
}

pub(super) fn is_repeated(field: &FieldDescriptorProto) -> bool {
    field.label() == Label::Repeated
}

pub(super) fn scalar(field: &FieldDescriptorProto) -> Option<String> {
    match field.r#type() {
        Type::Message | Type::Enum | Type::Group => None,
        scalar => Some(scalar.as_str_name().trim_start_matches("TYPE_").to_lowercase()),
    }
}

/// A comment's lines as one, with paragraphs kept apart by a space too.
fn one_line(comment: &str) -> String {
    comment.split_whitespace().collect::<Vec<_>>().join(" ")
}

/// Text of a comment as Markdown: what stands outside of backticks is no HTML, and no column ends in it.
pub(super) fn markdown(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    let mut code = false;
    for c in text.chars() {
        match c {
            '`' => code = !code,
            '|' => out.push('\\'),
            '<' | '*' | '[' if !code => out.push('\\'),
            _ => {}
        }
        out.push(c);
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_comment_becomes_harmless_markdown() {
        assert_eq!(markdown("a <b> | `c <d> | e` *"), "a \\<b> \\| `c <d> \\| e` \\*");
        assert_eq!(one_line(" two\n lines\n"), "two lines");
    }
}
