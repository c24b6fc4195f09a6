//! What a client may rely on in a descriptor set, as facts that can be compared line by line.
//!
//! A fact is a key that says which thing, and a text that says how it looks. `lock` decides which differences are allowed.

use std::{collections::BTreeMap, fmt};

use prost_types::{
    DescriptorProto, EnumDescriptorProto, FieldDescriptorProto, FileDescriptorSet, MethodDescriptorProto,
    field_descriptor_proto::{Label, Type},
};

/// Only what is ours is locked: imports have their own owners.
const OUR_PACKAGES: &str = "skerry.";
/// A reserved range longer than this (`100 to max`) is one fact, a shorter one is one fact a number.
const RANGE_SPLIT_MAX: i32 = 1000;

/// What a fact is about. The order is the order of the lock's lines.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Key {
    /// Full name of the message, enum or service.
    pub(super) owner: String,
    pub(super) part: Part,
}

/// The part of its owner that a fact is about.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Part {
    Message,
    Enum,
    Service,
    Field(i32),
    Value(i32),
    Method(String),
    ReservedNumber(i32),
    ReservedRange(i32, i32),
    ReservedName(String),
}

/// All facts of a descriptor set.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Contract {
    pub(super) facts: BTreeMap<Key, String>,
}

impl Contract {
    /// The facts of our own packages in `set`.
    pub(super) fn of(set: &FileDescriptorSet) -> Self {
        let mut contract = Self::default();
        for file in &set.file {
            let package = file.package();
            if !format!("{package}.").starts_with(OUR_PACKAGES) {
                continue;
            }
            for message in &file.message_type {
                contract.message(package, message);
            }
            for declared in &file.enum_type {
                contract.enumeration(package, declared);
            }
            for service in &file.service {
                let owner = format!("{package}.{}", service.name());
                contract.add(&owner, Part::Service, String::new());
                for method in &service.method {
                    contract.add(&owner, Part::Method(method.name().to_owned()), describe_method(method));
                }
            }
        }
        contract
    }

    fn add(&mut self, owner: &str, part: Part, text: String) {
        self.facts.insert(Key { owner: owner.to_owned(), part }, text);
    }

    fn message(&mut self, scope: &str, message: &DescriptorProto) {
        let owner = format!("{scope}.{}", message.name());
        self.add(&owner, Part::Message, String::new());
        for field in &message.field {
            self.add(&owner, Part::Field(field.number()), describe_field(message, field));
        }
        // A message's range ends before its end, an enum's with it.
        for range in &message.reserved_range {
            self.reserved(&owner, range.start(), range.end() - 1);
        }
        for name in &message.reserved_name {
            self.add(&owner, Part::ReservedName(name.clone()), String::new());
        }
        for nested in &message.nested_type {
            self.message(&owner, nested);
        }
        for nested in &message.enum_type {
            self.enumeration(&owner, nested);
        }
    }

    fn enumeration(&mut self, scope: &str, declared: &EnumDescriptorProto) {
        let owner = format!("{scope}.{}", declared.name());
        self.add(&owner, Part::Enum, String::new());
        for value in &declared.value {
            self.add(&owner, Part::Value(value.number()), value.name().to_owned());
        }
        for range in &declared.reserved_range {
            self.reserved(&owner, range.start(), range.end());
        }
        for name in &declared.reserved_name {
            self.add(&owner, Part::ReservedName(name.clone()), String::new());
        }
    }

    fn reserved(&mut self, owner: &str, first: i32, last: i32) {
        if last - first >= RANGE_SPLIT_MAX {
            self.add(owner, Part::ReservedRange(first, last), String::new());
            return;
        }
        for number in first..=last {
            self.add(owner, Part::ReservedNumber(number), String::new());
        }
    }

    /// Whether `number` may never be used again in `owner`.
    pub(super) fn reserves_number(&self, owner: &str, number: i32) -> bool {
        let of_owner = self.facts.keys().filter(|key| key.owner == owner);
        of_owner.into_iter().any(|key| match key.part {
            Part::ReservedNumber(reserved) => reserved == number,
            Part::ReservedRange(first, last) => (first..=last).contains(&number),
            _ => false,
        })
    }

    /// Whether `name` may never be used again in `owner`.
    pub(super) fn reserves_name(&self, owner: &str, name: &str) -> bool {
        let key = Key { owner: owner.to_owned(), part: Part::ReservedName(name.to_owned()) };
        self.facts.contains_key(&key)
    }
}

/// Name first (the comparer cuts it off), then what the wire, JSON and generated code see.
fn describe_field(message: &DescriptorProto, field: &FieldDescriptorProto) -> String {
    let kind = match field.r#type() {
        Type::Message | Type::Enum | Type::Group => field.type_name().trim_start_matches('.').to_owned(),
        scalar => scalar.as_str_name().trim_start_matches("TYPE_").to_lowercase(),
    };
    let label = match field.label() {
        Label::Repeated => "repeated ",
        Label::Required => "required ",
        Label::Optional if field.proto3_optional() => "optional ",
        Label::Optional => "",
    };
    let mut text = format!("{} {label}{kind} json={}", field.name(), field.json_name());
    // proto3's `optional` is stored as a oneof of its own, which no one sees.
    if let Some(index) = field.oneof_index.filter(|_| !field.proto3_optional()) {
        let name = message.oneof_decl.get(usize::try_from(index).unwrap_or(usize::MAX));
        text += " oneof=";
        text += name.map_or("?", |oneof| oneof.name());
    }
    text
}

fn describe_method(method: &MethodDescriptorProto) -> String {
    let side = |streaming: bool, name: &str| {
        format!("{}{}", if streaming { "stream " } else { "" }, name.trim_start_matches('.'))
    };
    let request = side(method.client_streaming(), method.input_type());
    let answer = side(method.server_streaming(), method.output_type());
    format!("{request} -> {answer}")
}

impl fmt::Display for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let owner = &self.owner;
        match &self.part {
            Part::Message => write!(f, "{owner} message"),
            Part::Enum => write!(f, "{owner} enum"),
            Part::Service => write!(f, "{owner} service"),
            Part::Field(number) => write!(f, "{owner} field {number}"),
            Part::Value(number) => write!(f, "{owner} value {number}"),
            Part::Method(name) => write!(f, "{owner} method {name}"),
            Part::ReservedNumber(number) => write!(f, "{owner} reserved {number}"),
            Part::ReservedRange(first, last) => write!(f, "{owner} reserved-range {first}-{last}"),
            Part::ReservedName(name) => write!(f, "{owner} reserved-name {name}"),
        }
    }
}

impl Key {
    /// Reads what `Display` wrote. `None` where the line is none of ours.
    pub(super) fn parse(text: &str) -> Option<Self> {
        let mut words = text.split(' ');
        let (owner, kind, rest) = (words.next()?, words.next()?, words.next());
        let part = match (kind, rest) {
            ("message", None) => Part::Message,
            ("enum", None) => Part::Enum,
            ("service", None) => Part::Service,
            ("field", Some(number)) => Part::Field(number.parse().ok()?),
            ("value", Some(number)) => Part::Value(number.parse().ok()?),
            ("method", Some(name)) => Part::Method(name.to_owned()),
            ("reserved", Some(number)) => Part::ReservedNumber(number.parse().ok()?),
            ("reserved-range", Some(range)) => {
                let (first, last) = range.split_once('-')?;
                Part::ReservedRange(first.parse().ok()?, last.parse().ok()?)
            }
            ("reserved-name", Some(name)) => Part::ReservedName(name.to_owned()),
            _ => return None,
        };
        let complete = words.next().is_none();
        complete.then(|| Self { owner: owner.to_owned(), part })
    }
}
