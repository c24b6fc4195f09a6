//! What a secret is: its values, sealed under the key file, and what may be known of them.

pub mod shown;

use std::fmt;
use std::time::SystemTime;

use prost::Message as _;
use skerry_api::{Mask, Rules, Takes};
use skerry_model::{Code, Fault, SecretRef, SecretVersion, secret, time};
use skerry_proto::scheduler::v1::{Secret, SecretStatus};
use skerry_proto::store::v1 as stored;
use skerry_proto::types::v1::{Metadata, SecretContent};
use skerry_rpc::trace;
use skerry_store::keys::{Counted, SecretRevisionRef};
use skerry_store::{Key, Store, Txn};
use tracing::Span;
use uuid::Uuid;

use crate::keys::SecretKeys;

/// The rules of secrets.
#[derive(Debug, Clone)]
pub struct SecretRules {
    store: Store,
    keys: SecretKeys,
}

impl SecretRules {
    /// Those over this store, with the keys that open and seal values.
    pub fn new(store: Store, keys: SecretKeys) -> Self {
        Self { store, keys }
    }
}

/// The values of a secret, and what may be known of them. Two are the same whose values are.
#[derive(Clone)]
pub struct Values {
    /// The values; else why they are not readable here.
    content: Result<SecretContent, String>,
    status: SecretStatus,
}

impl PartialEq for Values {
    fn eq(&self, other: &Self) -> bool {
        self.content == other.content
    }
}

impl fmt::Debug for Values {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Values").field("status", &self.status).finish_non_exhaustive()
    }
}

impl Rules for SecretRules {
    type Record = stored::SecretRecord;
    type Spec = Values;
    type Resource = Secret;

    const FIELD: &'static str = "secret";
    const SPEC_PATHS: &'static [&'static str] = &["spec", "spec.data.*"];

    fn takes(secret: &stored::SecretRecord) -> Takes {
        Takes { one_of: Some(Counted::Secrets), bytes: secret.size_bytes }
    }

    fn store(&self) -> &Store {
        &self.store
    }

    fn meta(record: &mut stored::SecretRecord) -> &mut Option<stored::Meta> {
        &mut record.meta
    }

    async fn spec(&self, name: &SecretRef, record: &stored::SecretRecord) -> Result<Values, Fault> {
        let version =
            SecretVersion::parse(&record.version).map_err(|e| Fault::internal(format!("{name}: {e}")))?;
        let key =
            Key::<stored::SecretRevisionRecord>::of(&SecretRevisionRef { secret: name.clone(), version });
        // Gone only when the secret was updated between the two reads, or deleted.
        let values = self.store.get(&key).await?.ok_or_else(|| Fault::contended(name))?.value;
        let status = shown::status(record, &values.sealed);
        let content = self.keys.open(&key, &values.sealed).and_then(|bytes| {
            SecretContent::decode(bytes.expose()).map_err(|_| "they do not decode".to_owned())
        });
        Ok(Values { content, status })
    }

    fn merge(stored: Option<&Values>, sent: &Secret, mask: &Mask) -> Result<Values, Fault> {
        let content = match (mask.covers("spec"), &sent.spec, stored) {
            (true, Some(spec), _) => secret::content(spec)?,
            (true, None, None) => return Err(Fault::invalid_field("spec", "name its values")),
            // What an answer leaves out is not taken away when the answer is sent back.
            (true, None, Some(stored)) => return Ok(stored.clone()),
            (false, _, None) => SecretContent::default(),
            (false, sent, Some(stored)) => {
                let keys: Vec<&str> = mask.keys_of("spec.data").collect();
                if keys.is_empty() {
                    return Ok(stored.clone());
                }
                let sent = sent.clone().unwrap_or_default();
                let mut content = stored.content.clone().map_err(|why| unreadable(&why))?;
                for key in keys {
                    let text = sent.string_data.get(key).map(|text| text.clone().into_bytes().into());
                    match sent.data.get(key).cloned().or(text) {
                        Some(value) => content.data.insert(key.to_owned(), value),
                        None => content.data.remove(key),
                    };
                }
                content
            }
        };
        secret::check_content(&content)?;
        let status = shown::status_of(&content);
        Ok(Values { content: Ok(content), status })
    }

    /// The values get a new version, which is random: see [`SecretVersion`].
    async fn write(
        &self,
        name: &SecretRef,
        record: &mut stored::SecretRecord,
        values: &Values,
        txn: Txn,
    ) -> Result<Txn, Fault> {
        let content = values.content.as_ref().map_err(|why| unreadable(why))?;
        let version = SecretVersion::from_bytes(*Uuid::new_v4().as_bytes());
        let key = Key::of(&SecretRevisionRef { secret: name.clone(), version });
        let sealed = self.keys.seal(&key, content)?.into();
        let now = Some(time::to_timestamp(SystemTime::now()));
        let SecretStatus { kind, entries, registry, .. } = shown::status_of(content);
        record.version = version.to_string();
        record.kind = kind;
        record.entries = entries
            .into_iter()
            .map(|one| stored::SecretEntry { key: one.key, size_bytes: one.size_bytes })
            .collect();
        record.registry = registry;
        record.size_bytes = i64::try_from(content.encoded_len()).unwrap_or(i64::MAX);
        record.update_time = now;
        record.trace_parent = trace::trace_parent(&Span::current());
        record.trace_time = (!record.trace_parent.is_empty()).then_some(now).flatten();
        Ok(txn.put(&key, &stored::SecretRevisionRecord { sealed, create_time: now }))
    }

    fn resource(metadata: Metadata, values: Values) -> Secret {
        Secret { metadata: Some(metadata), spec: None, status: Some(values.status) }
    }
}

fn unreadable(why: &str) -> Fault {
    let message = format!("the present values cannot be opened: {why}; send all of them anew");
    Fault::new(Code::FailedPrecondition, "SECRET_UNREADABLE", message)
}
