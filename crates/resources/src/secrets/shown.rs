//! What may be known of a secret: keys, lengths, which version. Never a value.

use skerry_api::{Etag, metadata_of};
use skerry_model::{ContentHash, SecretRef};
use skerry_proto::scheduler::v1::secret_status::Kind;
use skerry_proto::scheduler::v1::{Secret, SecretEntry, SecretSpec, SecretStatus};
use skerry_proto::store::v1 as stored;
use skerry_proto::types::v1::{ImageCredentials, SecretContent};

/// Of a record, and of its values as they are sealed.
pub fn status(record: &stored::SecretRecord, sealed: &[u8]) -> SecretStatus {
    let entry = |one: &stored::SecretEntry| SecretEntry { key: one.key.clone(), size_bytes: one.size_bytes };
    SecretStatus {
        version: record.version.clone(),
        kind: record.kind,
        entries: record.entries.iter().map(entry).collect(),
        registry: record.registry.clone(),
        sealed_hash: ContentHash::of(sealed).to_string(),
        update_time: record.update_time,
    }
}

/// Of values that are not stored yet.
pub(super) fn status_of(content: &SecretContent) -> SecretStatus {
    let size = |bytes: usize| i64::try_from(bytes).unwrap_or(i64::MAX);
    let entry = |(key, value): (&String, &bytes::Bytes)| SecretEntry {
        key: key.clone(),
        size_bytes: size(value.len()),
    };
    let credentials = content.image_credentials.as_ref();
    let kind = if credentials.is_some() { Kind::ImageCredentials } else { Kind::Opaque };
    SecretStatus {
        kind: kind.into(),
        entries: content.data.iter().map(entry).collect(),
        registry: credentials.map(|credentials| credentials.registry.clone()).unwrap_or_default(),
        ..SecretStatus::default()
    }
}

/// A secret as clients see it.
pub fn secret(name: &SecretRef, record: &stored::SecretRecord, sealed: &[u8], mod_revision: i64) -> Secret {
    let metadata = metadata_of(name, record.meta.as_ref(), Etag { mod_revision });
    Secret { metadata: Some(metadata), spec: None, status: Some(status(record, sealed)) }
}

/// The same secret with nothing but the lengths of its values: what may be hashed, and the hash kept.
pub fn redacted(secret: Option<&Secret>) -> Option<Secret> {
    let mut secret = secret?.clone();
    let blank = |text: &str| "*".repeat(text.len());
    secret.spec = secret.spec.map(|spec| SecretSpec {
        data: spec.data.into_iter().map(|(key, value)| (key, vec![b'*'; value.len()].into())).collect(),
        string_data: spec.string_data.into_iter().map(|(key, value)| (key, blank(&value))).collect(),
        image_credentials: spec.image_credentials.map(|credentials| ImageCredentials {
            username: blank(&credentials.username),
            password: blank(&credentials.password),
            registry: credentials.registry,
        }),
    });
    Some(secret)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use prost::Message as _;

    use super::*;

    fn contains(bytes: &[u8], what: &[u8]) -> bool {
        bytes.windows(what.len()).any(|window| window == what)
    }

    proptest! {
        /// Letters that stand in nothing else: a key, a name and a hash have none of them.
        #[test]
        fn no_answer_and_nothing_that_is_remembered_has_a_value(
            values in proptest::collection::btree_map("[a-z]{1,8}", "[G-Z]{4,60}", 1..8),
            password in "[G-Z]{4,60}",
        ) {
            let credentials = ImageCredentials {
                registry: "registry.example.org".to_owned(), username: password.clone(), password: password.clone(),
            };
            let data = values.iter().map(|(key, value)| (key.clone(), value.clone().into_bytes().into())).collect();
            let spec = SecretSpec { data, string_data: values.clone(), image_credentials: Some(credentials.clone()) };
            let sent = Secret { spec: Some(spec.clone()), ..Secret::default() };
            let content = SecretContent { data: spec.data.clone(), image_credentials: Some(credentials) };
            let shown = SecretStatus { version: "v".to_owned(), ..status_of(&content) };
            let record = stored::SecretRecord {
                registry: shown.registry.clone(),
                entries: shown.entries.iter().map(|one| stored::SecretEntry { key: one.key.clone(), size_bytes: one.size_bytes }).collect(),
                ..Default::default()
            };
            let name = SecretRef::parse("projects/p/secrets/s").unwrap();
            let answers = [
                shown.encode_to_vec(),
                record.encode_to_vec(),
                secret(&name, &record, b"sealed", 1).encode_to_vec(),
                redacted(Some(&sent)).unwrap().encode_to_vec(),
                format!("{sent:?} {content:?}").into_bytes(),
            ];
            for value in values.values().chain([&password]) {
                for answer in &answers {
                    prop_assert!(!contains(answer, value.as_bytes()));
                }
            }
            prop_assert_eq!(redacted(Some(&sent)).unwrap().encoded_len(), sent.encoded_len());
        }
    }
}
