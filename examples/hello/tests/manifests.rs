//! The example's manifests are good ones: examples are copied.

use skerry_manifest::{Kind, Project, Resource, parse};
use skerry_model::ProjectName;

fn only_app(file: &str, bytes: &[u8]) -> Resource {
    let project = Project::Default(ProjectName::parse("default").expect("a project's name"));
    let mut manifests = parse(file, bytes, &project).unwrap_or_else(|errors| panic!("{errors}"));
    assert_eq!(manifests.len(), 1, "{file}");
    manifests.remove(0).resource
}

#[test]
fn both_are_valid_apps_of_the_same_name() {
    for (file, bytes) in [
        ("app.yaml", &include_bytes!("../app.yaml")[..]),
        ("app-process.yaml", &include_bytes!("../app-process.yaml")[..]),
    ] {
        let app = only_app(file, bytes);
        assert_eq!((app.kind(), app.name()), (Kind::App, "projects/default/apps/hello"), "{file}");
    }
}
