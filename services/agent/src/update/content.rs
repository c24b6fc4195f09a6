//! What an app is made of on this node: its revision, with the configs and secrets that its instances here have.
//!
//! Whether an app was changed is asked of this and of nothing else. Where its instances go is no change of it: one that comes to the node, or
//! leaves it, brings no other content.

use std::collections::{BTreeMap, BTreeSet};

use skerry_model::AppName;

use crate::desired::{Blocked, InstanceSpec};

/// A content, as it stands in the file too.
#[derive(Clone, PartialEq, Eq, prost::Message)]
pub(crate) struct Content {
    /// Hashes of revisions: one, unless the control plane moves single instances. In order.
    #[prost(string, repeated, tag = "1")]
    pub(crate) revisions: Vec<String>,
    /// Hash of each config that an instance here has, by name.
    #[prost(btree_map = "string, string", tag = "2")]
    pub(crate) configs: BTreeMap<String, String>,
    /// Version of each secret that an instance here has, by name.
    #[prost(btree_map = "string, string", tag = "3")]
    pub(crate) secrets: BTreeMap<String, String>,
}

impl Content {
    /// Of these instances of one app.
    pub(crate) fn of<'a>(
        specs: impl IntoIterator<Item = &'a InstanceSpec>,
        blocked: impl IntoIterator<Item = &'a Blocked>,
    ) -> Self {
        let mut content = Self::default();
        let mut revisions: BTreeSet<String> = BTreeSet::new();
        for spec in specs {
            revisions.insert(spec.revision.to_string());
            let configs = spec.configs.iter().map(|(name, one)| (name.to_string(), one.hash.to_string()));
            content.configs.extend(configs);
            let secrets = spec.secrets.iter().map(|(name, one)| (name.to_string(), one.version.clone()));
            content.secrets.extend(secrets);
        }
        revisions.extend(blocked.into_iter().map(|blocked| blocked.revision.clone()));
        content.revisions = revisions.into_iter().collect();
        content
    }

    /// Whether nothing was changed from this one to the other. What only one of them has came or went with an instance.
    pub(crate) fn is_same(&self, other: &Self) -> bool {
        let agree = |one: &BTreeMap<String, String>, other: &BTreeMap<String, String>| {
            one.iter().all(|(name, version)| other.get(name).is_none_or(|there| there == version))
        };
        self.revisions == other.revisions
            && agree(&self.configs, &other.configs)
            && agree(&self.secrets, &other.secrets)
    }

    /// Its revision, as text.
    pub(crate) fn revision(&self) -> &str {
        self.revisions.last().map_or("", String::as_str)
    }
}

/// The contents of apps that were found good here.
pub(crate) type Contents = BTreeMap<AppName, Content>;

#[cfg(test)]
mod tests {
    use super::*;

    fn content(revision: &str, configs: &[(&str, &str)]) -> Content {
        let pair = |(name, hash): &(&str, &str)| ((*name).to_owned(), (*hash).to_owned());
        Content {
            revisions: vec![revision.to_owned()],
            configs: configs.iter().map(pair).collect(),
            secrets: BTreeMap::new(),
        }
    }

    #[test]
    fn only_another_revision_config_or_secret_is_a_change() {
        let one = content("r", &[("a", "1")]);
        assert!(one.is_same(&one));
        assert!(one.is_same(&content("r", &[("a", "1"), ("b", "1")])), "an instance more, with its config");
        assert!(one.is_same(&content("r", &[])), "one less");
        assert!(!one.is_same(&content("r", &[("a", "2")])));
        assert!(!one.is_same(&content("s", &[("a", "1")])));
        let secret = |version: &str| Content {
            secrets: [("s".to_owned(), version.to_owned())].into(),
            ..content("r", &[])
        };
        assert!(!secret("1").is_same(&secret("2")) && secret("1").is_same(&content("r", &[])));
    }
}
