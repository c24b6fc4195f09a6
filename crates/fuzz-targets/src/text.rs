//! What people write.

use std::sync::LazyLock;

use skerry_cli::jsonpath::Template;
use skerry_manifest::contexts::ClientConfig;
use skerry_manifest::output::Value;
use skerry_manifest::{Manifest, Project, output, parse};
use skerry_model::ProjectName;

/// What templates are held against.
const DOCUMENT: &str = "apiVersion: skerry/v1
kind: App
metadata: {name: web, labels: {site: a}}
spec:
  services:
  - {name: a, container: {image: x}, deployment: {replicas: 2}}
  - {name: b, container: {image: y}, dependsOn: [{service: a}]}
";

static VALUE: LazyLock<Value> = LazyLock::new(|| {
    let manifests = read("document.yaml", DOCUMENT.as_bytes()).expect("it is a good one");
    output::resource(&manifests[0].resource)
});

fn read(file: &str, bytes: &[u8]) -> Option<Vec<Manifest>> {
    let project = ProjectName::parse("default").expect("a name");
    match parse(file, bytes, &Project::Default(project)) {
        Ok(manifests) => Some(manifests),
        Err(errors) => {
            assert!(!errors.to_string().is_empty(), "a refusal says why");
            None
        }
    }
}

/// A manifest, as YAML and as JSON. What is read is written, and read again as the same.
pub fn manifests(input: &[u8]) {
    for file in ["input.yaml", "input.json"] {
        for manifest in read(file, input).unwrap_or_default() {
            let value = output::resource(&manifest.resource);
            for (name, text) in [("again.yaml", value.to_yaml()), ("again.json", value.to_json())] {
                let again = read(name, text.as_bytes()).expect("what is written can be read");
                assert_eq!(again.len(), 1, "{text}");
                assert_eq!(output::resource(&again[0].resource).to_json(), value.to_json(), "{text}");
            }
        }
    }
}

/// A template of `-o jsonpath`, read and held against an app.
pub fn jsonpath(input: &[u8]) {
    let Ok(text) = std::str::from_utf8(input) else { return };
    match Template::parse(text) {
        Ok(template) => drop(template.render(&VALUE)),
        Err(why) => assert!(!why.is_empty()),
    }
}

/// The file of a client's contexts. What is read is written, and read again as the same.
pub fn contexts(input: &[u8]) {
    match ClientConfig::read("contexts.yaml", input) {
        Ok(config) => {
            let text = config.to_value().to_yaml();
            let again =
                ClientConfig::read("again.yaml", text.as_bytes()).expect("what is written can be read");
            assert_eq!(again.to_value().to_yaml(), text);
        }
        Err(errors) => assert!(!errors.to_string().is_empty(), "a refusal says why"),
    }
}
