//! Every message of a manifest, by the descriptors: what it does not know is refused with its path, and a slip with the name that was meant.

use prost_reflect::{Kind, MessageDescriptor};

use super::refused;
use crate::descriptors;
use crate::suggest::field_names;

/// No field is near to it.
const UNKNOWN: &str = "xqzv";

/// A way down to a message: names of fields, and which of them are lists.
type Path = Vec<(String, bool)>;

/// All messages below `message`, each with its path.
fn messages(message: &MessageDescriptor, path: &Path, found: &mut Vec<(Path, MessageDescriptor)>) {
    found.push((path.clone(), message.clone()));
    for field in message.fields().filter(|field| !field.is_map()) {
        if let Kind::Message(inner) = field.kind()
            && !inner.full_name().starts_with("google.")
        {
            let step = (field.json_name().to_owned(), field.is_list());
            messages(&inner, &[path.as_slice(), &[step]].concat(), found);
        }
    }
}

/// A manifest with `field` at the end of `path`, and that place as errors name it.
fn manifest(path: &Path, field: &str) -> (String, String) {
    let mut text = format!("{{\"{field}\": 1}}");
    for (name, is_list) in path.iter().rev() {
        text = if *is_list { format!("{{\"{name}\": [{text}]}}") } else { format!("{{\"{name}\": {text}}}") };
    }
    let text = format!(
        "{{\"apiVersion\": \"skerry/v1\", \"kind\": \"App\", \"metadata\": {{\"name\": \"a\"}}, \"spec\": {text}}}"
    );
    let steps = path.iter().map(|(name, is_list)| format!("{name}{}", if *is_list { "[0]" } else { "" }));
    let place: Vec<String> =
        std::iter::once("spec".to_owned()).chain(steps).chain([field.to_owned()]).collect();
    (text, place.join("."))
}

#[test]
fn an_unknown_field_is_refused_with_its_path_at_every_level_of_an_app() {
    let app = descriptors::message("skerry.type.v1.AppSpec").expect("it is in the protocol");
    let mut all = Vec::new();
    messages(&app, &Path::new(), &mut all);
    assert!(all.len() > 30, "{} messages", all.len());
    for (path, message) in &all {
        let (text, place) = manifest(path, UNKNOWN);
        let errors = refused(&text);
        let told = format!(" {place}: unknown field");
        assert_eq!(errors.iter().filter(|line| line.contains(&told)).count(), 1, "{place}: {errors:?}");
        for name in field_names(message) {
            let slip = format!("{name}q");
            let (text, place) = manifest(path, &slip);
            let told = format!(" {place}: unknown field; did you mean {name:?}?");
            let errors = refused(&text);
            assert!(errors.iter().any(|line| line.contains(&told)), "{place}: {errors:?}");
        }
    }
}
