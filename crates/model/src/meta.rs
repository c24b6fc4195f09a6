//! Labels and annotations: what may be in them.

use std::collections::BTreeMap;

use crate::{AppName, Violations};

/// The label of a node that names the cluster that it is in.
pub const CLUSTER_LABEL: &str = "skerry.dev/cluster";
/// What labels of nodes and clusters begin with that choose system apps for them: the app's name follows.
pub const SYSTEM_APP_PREFIX: &str = "system.skerry.dev/";
/// Most labels, and most annotations, of one resource.
pub const LABELS_MAX: usize = 64;
/// Most bytes of all annotations of one resource, keys and values together.
pub const ANNOTATIONS_BYTES_MAX: usize = 64 * 1024;

/// The label by which nodes and clusters are chosen for a system app. Every name of an app makes one.
pub fn system_app_label(app: &AppName) -> String {
    format!("{SYSTEM_APP_PREFIX}{app}")
}

/// Whether a label chooses who has it for a system app.
pub fn is_system_app_label(key: &str) -> bool {
    key.starts_with(SYSTEM_APP_PREFIX)
}

/// Whether `text` may be a label value, as in Kubernetes: empty, or up to 63 of letters, digits, `-`, `_`, `.`, beginning and ending
/// with a letter or digit.
pub fn is_label_value(text: &str) -> bool {
    let bytes = text.as_bytes();
    let inner = |b: &u8| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_' | b'.');
    bytes.is_empty()
        || (bytes.len() <= 63
            && bytes.iter().all(inner)
            && bytes[0].is_ascii_alphanumeric()
            && bytes[bytes.len() - 1].is_ascii_alphanumeric())
}

/// Whether `text` may be a key of a label or an annotation, as in Kubernetes: a name (as a label value, not empty), after an optional DNS
/// prefix of up to 253 characters and `/`.
pub fn is_label_key(text: &str) -> bool {
    let (prefix, name) = match text.split_once('/') {
        Some((prefix, name)) => (Some(prefix), name),
        None => (None, text),
    };
    let dns = |prefix: &str| {
        prefix.len() <= 253
            && prefix.split('.').all(|part| {
                !part.is_empty()
                    && part.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-')
                    && !part.starts_with('-')
                    && !part.ends_with('-')
            })
    };
    !name.is_empty() && is_label_value(name) && prefix.is_none_or(dns)
}

/// Checks labels found at `path`.
pub fn check_labels(path: &str, labels: &BTreeMap<String, String>, violations: &mut Violations) {
    if labels.len() > LABELS_MAX {
        violations.add(path, format!("{} labels are too many: at most {LABELS_MAX}", labels.len()));
    }
    for (key, value) in labels {
        check_key(path, key, violations);
        if !is_label_value(value) {
            violations.add(
                format!("{path}.{key}"),
                format!("`{value}` is not a label value: use up to 63 of letters, digits, -, _ and ., beginning and ending with a letter or digit"),
            );
        }
    }
}

/// Checks annotations found at `path`.
pub fn check_annotations(path: &str, annotations: &BTreeMap<String, String>, violations: &mut Violations) {
    if annotations.len() > LABELS_MAX {
        violations.add(path, format!("{} annotations are too many: at most {LABELS_MAX}", annotations.len()));
    }
    let bytes: usize = annotations.iter().map(|(key, value)| key.len() + value.len()).sum();
    if bytes > ANNOTATIONS_BYTES_MAX {
        violations
            .add(path, format!("{bytes} bytes of annotations are too many: at most {ANNOTATIONS_BYTES_MAX}"));
    }
    for key in annotations.keys() {
        check_key(path, key, violations);
    }
}

fn check_key(path: &str, key: &str, violations: &mut Violations) {
    if !is_label_key(key) {
        violations.add(
            format!("{path}.{key}"),
            format!("`{key}` is not a label key: use up to 63 of letters, digits, -, _ and ., with an optional DNS prefix and /"),
        );
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_and_values_keep_to_what_kubernetes_allows() {
        for good in ["site", "a.b/c", "example.com/Site_1", "x-y.z"] {
            assert!(is_label_key(good), "{good}");
        }
        for bad in ["", "/a", "a/", "A.b/c", "-a", "a b", &"a".repeat(64), "a/b/c"] {
            assert!(!is_label_key(bad), "{bad}");
        }
        assert!(is_label_value(""));
        assert!(!is_label_value("a b"));
    }

    #[test]
    fn every_name_of_an_app_makes_a_label() {
        for name in ["a", "mqtt-broker", "0", &"a".repeat(crate::name::NAME_BYTES_MAX)] {
            let label = system_app_label(&AppName::parse(name).unwrap());
            assert!(is_label_key(&label), "{label}");
        }
    }
}
