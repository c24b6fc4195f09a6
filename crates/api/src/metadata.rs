//! Metadata of resources: from the stored form, to the API's; etags.

use std::fmt;
use std::time::SystemTime;

use skerry_model::meta::{check_annotations, check_labels};
use skerry_model::{Fault, Violations, time};
use skerry_proto::store::v1 as stored;
use skerry_proto::types::v1::Metadata;

/// The version of one stored record, as opaque text to clients.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Etag {
    /// The record's modification revision.
    pub mod_revision: i64,
}

impl Etag {
    /// The etag that a caller sent, if any. An unreadable one is stale.
    pub(crate) fn check(sent: &str, name: &impl fmt::Display, mod_revision: i64) -> Result<(), Fault> {
        if sent.is_empty() || sent == (Self { mod_revision }).to_string() {
            return Ok(());
        }
        Err(Fault::stale_etag(name))
    }
}

impl fmt::Display for Etag {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:x}", self.mod_revision)
    }
}

/// Metadata as it is told.
pub fn metadata_of(name: &impl fmt::Display, meta: Option<&stored::Meta>, etag: Etag) -> Metadata {
    let meta = meta.cloned().unwrap_or_default();
    Metadata {
        name: name.to_string(),
        uid: meta.uid,
        create_time: meta.create_time,
        generation: meta.generation,
        etag: etag.to_string(),
        labels: meta.labels,
        annotations: meta.annotations,
    }
}

/// The common part of a record that is new; nothing of it is a user's yet.
pub fn new_meta(now: SystemTime) -> stored::Meta {
    stored::Meta {
        uid: uuid::Uuid::new_v4().to_string(),
        create_time: Some(time::to_timestamp(now)),
        ..stored::Meta::default()
    }
}

/// Checks what users may set.
pub(crate) fn check_metadata(meta: &stored::Meta) -> Result<(), Fault> {
    let mut violations = Violations::new();
    check_labels("metadata.labels", &meta.labels, &mut violations);
    check_annotations("metadata.annotations", &meta.annotations, &mut violations);
    violations.finish(Some(()))
}
