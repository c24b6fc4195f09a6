//! Names of Compose as names of Skerry: DNS labels.

/// RFC 1123.
const LABEL_BYTES_MAX: usize = 63;

/// The DNS label nearest to `text`: small letters, `-` for all else that is no letter or digit, at most 63 characters. None where nothing is left.
pub(crate) fn label(text: &str) -> Option<String> {
    let mut label = String::with_capacity(text.len());
    for c in text.chars() {
        let c = if c.is_ascii_alphanumeric() { c.to_ascii_lowercase() } else { '-' };
        if !(c == '-' && (label.is_empty() || label.ends_with('-'))) {
            label.push(c);
        }
        if label.len() == LABEL_BYTES_MAX {
            break;
        }
    }
    let label = label.trim_end_matches('-');
    (!label.is_empty()).then(|| label.to_owned())
}

/// Whether it is one already.
pub(crate) fn is_label(text: &str) -> bool {
    skerry_model::ServiceName::parse(text).is_ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn labels_are_the_nearest() {
        for (text, expected) in [("web", "web"), ("My_db.1", "my-db-1"), ("__a__", "a"), ("a//b", "a-b")] {
            assert_eq!(label(text).as_deref(), Some(expected));
        }
        assert_eq!(label("___"), None);
        let long = label(&"ab-".repeat(40)).expect("something is left");
        assert!(is_label(&long));
    }
}
