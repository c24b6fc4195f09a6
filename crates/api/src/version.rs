//! The `resource_version` of lists and watches: opaque text to clients.

use std::fmt;

use skerry_model::Fault;
use skerry_store::StoreVersion;

/// Up to where a list or a watch has seen. Within the replica that gave it, `seq` continues exactly. In another replica `complete` does: all
/// changes up to it were seen, some later ones perhaps too, and those are told again.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct ResourceVersion {
    /// The store's version up to which everything was seen.
    pub complete: StoreVersion,
    /// The replica's hub, random.
    pub hub: u32,
    /// Changes of that hub that were seen.
    pub seq: u64,
}

impl ResourceVersion {
    /// Reads what `Display` wrote.
    pub fn parse(text: &str) -> Result<Self, Fault> {
        Self::read(text).ok_or_else(|| {
            let text: String = text.chars().take(60).collect();
            Fault::invalid_field(
                "resource_version",
                format!("`{text}` is not a version that a list or a watch gave"),
            )
        })
    }

    fn read(text: &str) -> Option<Self> {
        let mut parts = text.split('.');
        let mut next = || parts.next();
        let (term, revision, hub, seq) = (next()?, next()?, next()?, next()?);
        let complete =
            StoreVersion { term: term.parse().ok()?, revision: revision.parse().ok().filter(|r| *r >= 0)? };
        let version = Self { complete, hub: u32::from_str_radix(hub, 16).ok()?, seq: seq.parse().ok()? };
        next().is_none().then_some(version)
    }
}

impl fmt::Display for ResourceVersion {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{:x}.{}", self.complete, self.hub, self.seq)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_version_round_trips_and_other_text_is_refused() {
        let version =
            ResourceVersion { complete: StoreVersion { term: 2, revision: 30 }, hub: 0xabc, seq: 7 };
        assert_eq!(ResourceVersion::parse(&version.to_string()), Ok(version));
        for bad in ["", "1", "1.2", "1.2.g.3", "1.-2.a.3", "1.2.a.3.4"] {
            assert!(ResourceVersion::parse(bad).is_err(), "{bad}");
        }
    }
}
