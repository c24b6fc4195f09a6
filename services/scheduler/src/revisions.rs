//! `ListRevisions`: the history of an app.

use prost::Message as _;
use skerry_model::{AppRef, Fault};
use skerry_proto::scheduler::v1::{ListRevisionsRequest, ListRevisionsResponse, Revision};
use skerry_proto::store::v1 as stored;
use skerry_proto::types::v1::AppSpec;
use skerry_store::Prefix;

use crate::follow::Shared;

/// Bytes of one page: below what a message may have.
const PAGE_BYTES_MAX: usize = 2 * 1024 * 1024;

/// One page, newest first. Pages continue by number.
pub(crate) fn list(shared: &Shared, request: &ListRevisionsRequest) -> Result<ListRevisionsResponse, Fault> {
    let name = AppRef::parse(&request.parent).map_err(|e| Fault::invalid_field("parent", e))?;
    let size = skerry_api::page_size(request.page_size)?;
    let below = match request.page_token.as_str() {
        "" => i64::MAX,
        text => text
            .parse()
            .map_err(|_| Fault::invalid_field("page_token", "not a token that the page before gave"))?,
    };
    let app = shared.apps.get(&name.to_string()).ok_or_else(|| Fault::not_found(&name))?;
    let uid = app.metadata.as_ref().map_or("", |metadata| metadata.uid.as_str());
    let snapshot = shared.mirror.snapshot();
    let mut all: Vec<_> =
        snapshot.iter(&Prefix::<stored::RevisionRecord>::app(&name)).filter_map(Result::ok).collect();
    all.retain(|revision| revision.value.number < below && is_of(&revision.value, uid));
    all.sort_by_key(|revision| std::cmp::Reverse(revision.value.number));
    let mut revisions = Vec::new();
    let mut bytes = 0;
    let mut next_page_token = String::new();
    for revision in all {
        bytes += revision.bytes.len();
        if revisions.len() == size || (bytes > PAGE_BYTES_MAX && !revisions.is_empty()) {
            next_page_token =
                revisions.last().map(|last: &Revision| last.number.to_string()).unwrap_or_default();
            break;
        }
        revisions.push(Revision {
            name: revision.key.name().to_string(),
            number: revision.value.number,
            create_time: revision.value.create_time,
            spec: AppSpec::decode(revision.value.spec.clone()).ok(),
            rejected: revision.value.rejected.clone(),
        });
    }
    Ok(ListRevisionsResponse { revisions, next_page_token })
}

/// Whether a revision is of the app with that uid, and not of one that had its name before.
pub(crate) fn is_of(revision: &stored::RevisionRecord, uid: &str) -> bool {
    revision.app_uid.is_empty() || revision.app_uid == uid
}
