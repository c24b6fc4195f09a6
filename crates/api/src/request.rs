//! What requests to list and to watch have in common: whose, which, and which page.

use skerry_model::Fault;

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

/// Reads `page_size`: absent (0) means 100, and more than 1,000 means 1,000.
pub fn page_size(page_size: i32) -> Result<usize, Fault> {
    match usize::try_from(page_size) {
        Ok(0) => Ok(PAGE_DEFAULT),
        Ok(size) => Ok(size.min(PAGE_MAX)),
        Err(_) => Err(Fault::invalid_field("page_size", "use 1 to 1000, or leave it out")),
    }
}

/// Reads `page_size` and `page_token`.
pub fn page_args(page_size: i32, page_token: &str) -> Result<PageArgs, Fault> {
    let size = self::page_size(page_size)?;
    if page_token.is_empty() {
        return Ok(PageArgs { size, after: None });
    }
    let bad = || Fault::invalid_field("page_token", "not a token that the page before gave");
    let (version, name) = page_token.split_once('|').ok_or_else(bad)?;
    let version = ResourceVersion::parse(version).map_err(|_| bad())?;
    Ok(PageArgs { size, after: Some((version, name.to_owned())) })
}
