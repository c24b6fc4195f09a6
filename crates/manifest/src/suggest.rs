//! "did you mean": the nearest known word, or the place where the word belongs.

use prost_reflect::{Kind, MessageDescriptor};

use crate::descriptors::unit_form;
use crate::error::shorten;

/// The candidate nearest to `word`, if it is near: a slip of the hand, not another word.
pub fn nearest<'a>(word: &str, candidates: impl IntoIterator<Item = &'a str>) -> Option<&'a str> {
    if word.len() > 64 {
        return None;
    }
    let plain = |text: &str| {
        text.chars().filter(char::is_ascii_alphanumeric).collect::<String>().to_ascii_lowercase()
    };
    let wanted = plain(word);
    let allowed = (wanted.len() / 3).max(1);
    candidates
        .into_iter()
        .map(|candidate| (strsim::osa_distance(&wanted, &plain(candidate)), candidate))
        .filter(|(distance, _)| *distance <= allowed)
        .min_by_key(|(distance, _)| *distance)
        .map(|(_, candidate)| candidate)
}

/// The names under which `message`'s fields are written in manifests.
pub(crate) fn field_names(message: &MessageDescriptor) -> Vec<String> {
    message
        .fields()
        .map(|field| unit_form(&field).map_or(field.json_name().to_owned(), |(name, _)| name.to_owned()))
        .collect()
}

/// What to say of the unknown field `key` of `message`.
pub(crate) fn unknown_field(message: &MessageDescriptor, key: &str) -> String {
    let names = field_names(message);
    if let Some(near) = nearest(key, names.iter().map(String::as_str)) {
        return format!("unknown field; did you mean {near:?}?");
    }
    for field in message.fields().filter(|field| !field.is_map()) {
        if let Kind::Message(inner) = field.kind()
            && inner.get_field_by_json_name(key).is_some()
            && !inner.full_name().starts_with("google.")
        {
            return format!("unknown field; it belongs in {:?}", field.json_name());
        }
    }
    let beside = message.parent_pool().all_messages().find_map(|outer| {
        let field =
            outer.fields().find(|field| !field.is_map() && field.kind() == Kind::Message(message.clone()))?;
        let there =
            outer.get_field_by_json_name(key).is_some() && outer.package_name() == message.package_name();
        there.then(|| field.json_name().to_owned())
    });
    if let Some(field) = beside {
        return format!("unknown field; it belongs beside {field:?}, not in it");
    }
    if names.is_empty() {
        return "unknown field; there are none here: write {}".into();
    }
    format!("unknown field; known here: {}", shorten(&names.join(", "), 300))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn slips_are_mended_and_other_words_are_not() {
        let names = ["image", "ports", "healthCheck", "command"];
        assert_eq!(nearest("imge", names), Some("image"));
        assert_eq!(nearest("health_chekc", names), Some("healthCheck"));
        assert_eq!(nearest("HealthCheck", names), Some("healthCheck"));
        assert_eq!(nearest("replicas", names), None);
        assert_eq!(nearest("", names), None);
        assert_eq!(nearest(&"x".repeat(1000), names), None);
    }

    #[test]
    fn a_field_in_the_wrong_place_is_told_its_place() {
        let service = crate::descriptors::message("skerry.type.v1.ServiceSpec").expect("in the protocol");
        assert_eq!(unknown_field(&service, "image"), "unknown field; it belongs in \"container\"");
        assert_eq!(unknown_field(&service, "replicas"), "unknown field; it belongs in \"deployment\"");
        assert!(
            unknown_field(&service, "zzzzzz")
                .starts_with("unknown field; known here: name, deployment, daemonSet")
        );
        let container = crate::descriptors::message("skerry.type.v1.Container").expect("in the protocol");
        assert_eq!(
            unknown_field(&container, "env"),
            "unknown field; it belongs beside \"container\", not in it"
        );
        let daemon_set = crate::descriptors::message("skerry.type.v1.DaemonSet").expect("in the protocol");
        assert_eq!(unknown_field(&daemon_set, "replicas"), "unknown field; there are none here: write {}");
    }
}
