//! The table is complete, and its paths lead where they should.

use std::collections::{BTreeMap, BTreeSet};

use prost::Message as _;
use prost_types::field_descriptor_proto::{Label, Type};
use prost_types::{DescriptorProto, FileDescriptorSet, MethodDescriptorProto};

use super::*;

struct Contract {
    methods: BTreeMap<String, MethodDescriptorProto>,
    messages: BTreeMap<String, DescriptorProto>,
}

/// All that a listener can serve.
fn contract() -> Contract {
    let (mut methods, mut messages) = (BTreeMap::new(), BTreeMap::new());
    for set in [
        skerry_proto::FILE_DESCRIPTOR_SET,
        tonic_health::pb::FILE_DESCRIPTOR_SET,
        tonic_reflection::pb::v1::FILE_DESCRIPTOR_SET,
        tonic_reflection::pb::v1alpha::FILE_DESCRIPTOR_SET,
    ] {
        for file in FileDescriptorSet::decode(set).expect("the build made it").file {
            for service in &file.service {
                for method in &service.method {
                    let path = format!("/{}.{}/{}", file.package(), service.name(), method.name());
                    methods.insert(path, method.clone());
                }
            }
            for message in &file.message_type {
                messages.insert(format!(".{}.{}", file.package(), message.name()), message.clone());
            }
        }
    }
    Contract { methods, messages }
}

#[test]
fn every_method_of_the_contract_is_in_the_table_once_and_nothing_else_is() {
    let wanted: BTreeSet<String> = contract().methods.into_keys().collect();
    let there: BTreeSet<String> = TABLE.iter().map(|(path, _)| (*path).to_owned()).collect();
    assert_eq!(wanted, there);
    assert_eq!(there.len(), TABLE.len(), "one stands in it twice");
}

#[test]
fn a_path_leads_to_the_text_that_names_the_resource_or_its_project() {
    let Contract { methods, messages } = contract();
    for (path, rule) in TABLE {
        let method = &methods[*path];
        let Rule::Users(users) = rule else { continue };
        let streams = method.client_streaming();
        assert_eq!(users.streams, method.server_streaming(), "{path}: what streams ends with the role");
        if users.path.is_empty() {
            continue;
        }
        let mut message = &messages[method.input_type()];
        let (last, above) = users.path.split_last().expect("a path");
        let field = |message: &DescriptorProto, number: u32| {
            let found = message.field.iter().find(|field| field.number() == number.cast_signed());
            let field = found.unwrap_or_else(|| panic!("{path}: no field {number}")).clone();
            // Merged as the reader takes it: neither repeated nor one of several.
            assert_eq!(field.label(), Label::Optional, "{path}");
            // But of a stream, which is judged by its first message: that is a start, and services take no second one. Of several in one message
            // the reader takes the last word, and prost the last word or none.
            let is_start = streams && field.name() == "start";
            assert!(field.oneof_index.is_none() || is_start, "{path}");
            field
        };
        for number in above {
            let field = field(message, *number);
            assert_eq!(field.r#type(), Type::Message, "{path}");
            message = &messages[field.type_name()];
        }
        let field = field(message, *last);
        assert_eq!(field.r#type(), Type::String, "{path}");
        // `app` is what a call about an app's rollout names.
        assert!(
            ["name", "parent", "app", "node"].contains(&field.name()),
            "{path} is judged by {}",
            field.name()
        );
    }
}

#[test]
fn of_several_each_kind_has_its_field_and_its_own_method() {
    let Contract { methods, messages } = contract();
    for (path, rule) in TABLE {
        let Rule::UsersOfEach(each) = rule else { continue };
        let field = |message: &DescriptorProto, number: u32| {
            let found = message.field.iter().find(|field| field.number() == number.cast_signed());
            found.unwrap_or_else(|| panic!("{path}: no field {number}")).clone()
        };
        let entries = field(&messages[methods[*path].input_type()], each.entries);
        assert_eq!(entries.label(), Label::Repeated, "{path}");
        let resource = field(&messages[entries.type_name()], each.resource);
        let any = &messages[resource.type_name()];
        let there: BTreeSet<u32> = any.field.iter().map(|field| field.number().cast_unsigned()).collect();
        let known: BTreeSet<u32> = each.kinds.iter().map(|(number, _)| *number).collect();
        assert_eq!(there, known, "{path}: every kind is judged");
        for (number, method) in each.kinds {
            let kind = field(any, *number);
            let update = &messages[methods[*method].input_type()];
            assert!(
                update.field.iter().any(|field| field.type_name() == kind.type_name()),
                "{method} changes no {}",
                kind.name()
            );
            let needs = TABLE.iter().find(|(path, _)| path == method).map(|(_, rule)| *rule);
            assert!(
                matches!(needs, Some(Rule::Users(needs)) if needs.role >= each.role && !needs.streams),
                "{method}"
            );
            let metadata = field(&messages[kind.type_name()], NAME[0]);
            assert_eq!(field(&messages[metadata.type_name()], NAME[1]).name(), "name", "{method}");
        }
    }
}

#[test]
fn only_of_projects_it_is_decided_for_the_installation_as_a_whole() {
    for (path, rule) in TABLE {
        let Rule::Users(users) = rule else { continue };
        let of_projects =
            path.starts_with("/skerry.registry.v1.ProjectService/") && !path.ends_with("/GetProject");
        assert_eq!(users.path.is_empty(), of_projects, "{path}");
    }
}

#[test]
fn reading_takes_the_least_role_and_deciding_who_is_in_the_highest() {
    let role = |path: &str| match rule(path) {
        Some(Rule::Users(users)) => users.role,
        other => panic!("{path}: {other:?}"),
    };
    for (path, expected) in [
        ("/skerry.scheduler.v1.AppService/WatchApps", Viewer),
        ("/skerry.scheduler.v1.AppService/DeleteApp", Operator),
        ("/skerry.registry.v1.NodeService/UpdateNode", Operator),
        ("/skerry.registry.v1.NodeService/DeleteNode", Admin),
        ("/skerry.registry.v1.ProjectService/UpdateProject", Admin),
        ("/skerry.registry.v1.RoleBindingService/CreateRoleBinding", Admin),
    ] {
        assert_eq!(role(path), expected, "{path}");
    }
    let anybody: Vec<_> =
        TABLE.iter().filter(|(_, rule)| *rule == Rule::Anybody).map(|(path, _)| *path).collect();
    assert_eq!(anybody, ["/skerry.gateway.v1.EnrollmentService/Enroll"]);
    assert_eq!(rule("/skerry.registry.v1.NodeService/MadeUp"), None);
}
