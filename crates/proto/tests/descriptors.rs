//! What is checked in fits together: the descriptors are those of the generated code, and reflection takes them.

use prost::{Message as _, Name as _};
use prost_types::FileDescriptorSet;
use skerry_proto::{FILE_DESCRIPTOR_SET, FILE_DESCRIPTOR_SET_WITH_COMMENTS, registry, scheduler};

#[test]
fn the_descriptors_name_the_generated_messages_and_services() {
    let set = FileDescriptorSet::decode(FILE_DESCRIPTOR_SET).expect("a descriptor set");
    let services: Vec<String> = set
        .file
        .iter()
        .flat_map(|file| file.service.iter().map(|service| format!("{}.{}", file.package(), service.name())))
        .collect();
    for service in
        [registry::v1::node_service_server::SERVICE_NAME, scheduler::v1::app_service_server::SERVICE_NAME]
    {
        assert!(services.iter().any(|name| name == service), "{service} is not among {services:?}");
    }
    assert_eq!(registry::v1::Node::full_name(), "skerry.registry.v1.Node");
}

#[test]
fn imports_come_before_what_imports_them() {
    let set = FileDescriptorSet::decode(FILE_DESCRIPTOR_SET).expect("a descriptor set");
    for (index, file) in set.file.iter().enumerate() {
        for import in &file.dependency {
            let at = set.file.iter().position(|other| other.name() == import);
            assert!(
                at.is_some_and(|at| at < index),
                "{} imports {import}, which is not before it",
                file.name()
            );
        }
    }
}

#[test]
fn comments_are_kept_in_one_set_only() {
    let has_comments = |bytes: &[u8]| {
        let set = FileDescriptorSet::decode(bytes).expect("a descriptor set");
        set.file.iter().any(|file| file.source_code_info.is_some())
    };
    assert!(!has_comments(FILE_DESCRIPTOR_SET));
    assert!(has_comments(FILE_DESCRIPTOR_SET_WITH_COMMENTS));
}

#[test]
fn reflection_takes_the_descriptors() {
    let service = tonic_reflection::server::Builder::configure()
        .register_encoded_file_descriptor_set(FILE_DESCRIPTOR_SET)
        .build_v1();
    assert!(service.is_ok(), "{:?}", service.err());
}
