//! Pages of a listing and the token that leads from one to the next.

use std::fmt;
use std::sync::Arc;

use crate::keys::{ROOT, Record};
use crate::record::Versioned;

/// Which page is wanted.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PageRequest {
    /// How many records at most. At least 1.
    pub size: usize,
    /// Where the page before ended. Absent: the first page.
    pub token: Option<PageToken>,
}

impl PageRequest {
    /// The first page.
    pub fn first(size: usize) -> Self {
        Self { size, token: None }
    }

    /// A later page.
    pub fn after(size: usize, token: PageToken) -> Self {
        Self { size, token: Some(token) }
    }
}

/// One page of a listing.
#[derive(Debug, Clone, PartialEq)]
pub struct Page<R: Record> {
    /// The records, by key.
    pub items: Vec<Versioned<R>>,
    /// The revision at which the whole listing is made. A watch continues from the next one.
    pub revision: i64,
    /// Where the next page begins. Absent: there is none.
    pub next: Option<PageToken>,
}

/// Where a page ended, and at which revision the listing is made. Written as text it means nothing to a client.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PageToken {
    /// The revision of the listing.
    pub revision: i64,
    /// The last key of the page.
    pub after: Arc<str>,
}

/// A text that is not a page token.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("not a page token of this service")]
pub struct InvalidToken;

impl PageToken {
    /// Reads what `Display` wrote.
    pub fn parse(text: &str) -> Result<Self, InvalidToken> {
        let (revision, path) = text.split_once('.').ok_or(InvalidToken)?;
        let revision = revision.parse().ok().filter(|revision| *revision > 0).ok_or(InvalidToken)?;
        if path.is_empty() || path.len() > 512 {
            return Err(InvalidToken);
        }
        Ok(Self { revision, after: format!("{ROOT}{path}").into() })
    }
}

impl fmt::Display for PageToken {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{}", self.revision, self.after.strip_prefix(ROOT).unwrap_or(&self.after))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_token_round_trips_and_others_are_refused() {
        let token = PageToken { revision: 7, after: "/skerry/v1/nodes/p/n1".into() };
        assert_eq!(PageToken::parse(&token.to_string()), Ok(token));
        for bad in ["", "7", "x.nodes/p/n1", "-1.nodes/p/n1", "7.", "0.a"] {
            assert_eq!(PageToken::parse(bad), Err(InvalidToken), "{bad}");
        }
    }
}
