//! What requests have in common: pages and request ids.

use prost::Message;
use skerry_model::{ContentHash, Fault, ProjectName};
use skerry_store::RequestMark;
use skerry_store::keys::RequestId;

use crate::version::ResourceVersion;

/// Page size where none is named.
const PAGE_DEFAULT: usize = 100;
/// Largest page.
const PAGE_MAX: usize = 1000;

/// Which page of a listing is wanted.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PageArgs {
    /// How many at most.
    pub size: usize,
    /// Of which listing, and after which name.
    pub after: Option<(ResourceVersion, String)>,
}

/// Reads `page_size` and `page_token`.
pub fn page_args(page_size: i32, page_token: &str) -> Result<PageArgs, Fault> {
    let size = match usize::try_from(page_size) {
        Ok(0) => PAGE_DEFAULT,
        Ok(size) => size.min(PAGE_MAX),
        Err(_) => return Err(Fault::invalid_field("page_size", "use 1 to 1000, or leave it out")),
    };
    if page_token.is_empty() {
        return Ok(PageArgs { size, after: None });
    }
    let bad = || Fault::invalid_field("page_token", "not a token that the page before gave");
    let (version, name) = page_token.split_once('|').ok_or_else(bad)?;
    let version = ResourceVersion::parse(version).map_err(|_| bad())?;
    Ok(PageArgs { size, after: Some((version, name.to_owned())) })
}

/// The mark that a mutation leaves in its transaction, if the caller named the request.
pub fn mark(
    project: &ProjectName,
    request_id: &str,
    method: &'static str,
    request: &impl Message,
    resource: &impl std::fmt::Display,
) -> Result<Option<RequestMark>, Fault> {
    if request_id.is_empty() {
        return Ok(None);
    }
    let id = RequestId::parse(request_id).map_err(|error| Fault::invalid_field("request_id", error))?;
    Ok(Some(RequestMark {
        project: project.clone(),
        id,
        method: method.to_owned(),
        hash: ContentHash::of(&request.encode_to_vec()),
        resource: resource.to_string(),
    }))
}
