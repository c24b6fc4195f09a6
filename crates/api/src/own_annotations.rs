//! Annotations that are the services' own: what they note of a resource themselves, as when a node was revoked. Everybody may read them, and
//! no caller changes them, neither by a word nor by a manifest that leaves them out.

use std::collections::BTreeMap;

/// What their keys begin with.
const PREFIX: &str = "skerry.dev/";

/// Those among `annotations`.
pub(crate) fn of(annotations: &BTreeMap<String, String>) -> BTreeMap<String, String> {
    let own = annotations.iter().filter(|(key, _)| key.starts_with(PREFIX));
    own.map(|(key, value)| (key.clone(), value.clone())).collect()
}

/// Puts `own` in the place of those that a caller has left, changed or added.
pub(crate) fn put_back(annotations: &mut BTreeMap<String, String>, own: BTreeMap<String, String>) {
    annotations.retain(|key, _| !key.starts_with(PREFIX));
    annotations.extend(own);
}

#[cfg(test)]
mod tests {
    use super::*;

    fn map(pairs: &[(&str, &str)]) -> BTreeMap<String, String> {
        pairs.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned())).collect()
    }

    #[test]
    fn what_a_service_noted_stays_whatever_a_caller_says() {
        let before = map(&[("skerry.dev/revoke-time", "7"), ("site", "oslo")]);
        for sent in [
            map(&[("site", "rome")]),
            map(&[("site", "rome"), ("skerry.dev/revoke-time", "1"), ("skerry.dev/cluster", "c")]),
        ] {
            let mut annotations = sent;
            put_back(&mut annotations, of(&before));
            assert_eq!(annotations, map(&[("skerry.dev/revoke-time", "7"), ("site", "rome")]));
        }
    }
}
