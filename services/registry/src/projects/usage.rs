//! How much each project has, counted from the records: pure. What has no limit is counted nowhere else.

use std::collections::{BTreeMap, BTreeSet};

use skerry_model::ProjectName;
use skerry_proto::registry::v1::ProjectUsage;
use skerry_proto::store::v1 as stored;
use skerry_store::keys::Counted;
use skerry_store::{Entry, Family, Key, Prefix, Record, Snapshot};

/// The counts of all projects that have something.
#[derive(Debug, Default, PartialEq)]
pub(super) struct Usage(BTreeMap<ProjectName, ProjectUsage>);

impl Usage {
    /// Of everything that is there.
    pub(super) fn of(snapshot: &Snapshot) -> Self {
        let mut usage = Self::default();
        let (nodes, apps) = (Prefix::<stored::NodeRecord>::all(), Prefix::<stored::AppRecord>::all());
        let (configs, secrets) =
            (Prefix::<stored::ConfigRecord>::all(), Prefix::<stored::SecretRecord>::all());
        let mut touched = BTreeSet::new();
        let all = snapshot
            .entries(&nodes)
            .chain(snapshot.entries(&apps))
            .chain(snapshot.entries(&configs))
            .chain(snapshot.entries(&secrets));
        for entry in all {
            usage.change(None, Some(entry), &mut touched);
        }
        usage
    }

    /// Takes a change of one record in, and notes whose it was.
    pub(super) fn change(
        &mut self,
        old: Option<&Entry>,
        new: Option<&Entry>,
        touched: &mut BTreeSet<ProjectName>,
    ) {
        for (entry, sign) in [(old, -1), (new, 1)] {
            let Some((project, counted, bytes)) = entry.and_then(taken) else { continue };
            let used = self.0.entry(project.clone()).or_default();
            let number = match counted {
                Counted::Nodes => &mut used.nodes,
                Counted::Apps => &mut used.apps,
                Counted::Secrets => &mut used.secrets,
                Counted::Configs => &mut used.configs,
                Counted::Bytes => continue,
            };
            *number += sign;
            used.size_bytes += sign * bytes;
            if *used == ProjectUsage::default() {
                self.0.remove(&project);
            }
            touched.insert(project);
        }
    }

    /// Of one project.
    pub(super) fn get(&self, project: &ProjectName) -> ProjectUsage {
        self.0.get(project).copied().unwrap_or_default()
    }
}

/// Whose a record is, as what it counts, and how many bytes of it count.
fn taken(entry: &Entry) -> Option<(ProjectName, Counted, i64)> {
    match Family::of_key(&entry.key)? {
        Family::Nodes => {
            let key = Key::<stored::NodeRecord>::parse(&*entry.key).ok()?;
            Some((key.name().project, Counted::Nodes, 0))
        }
        Family::Apps => {
            let (name, app) = read::<stored::AppRecord>(entry)?;
            Some((name.project, Counted::Apps, app.size_bytes))
        }
        Family::Configs => {
            let (name, config) = read::<stored::ConfigRecord>(entry)?;
            Some((name.project, Counted::Configs, config.size_bytes))
        }
        Family::Secrets => {
            let (name, secret) = read::<stored::SecretRecord>(entry)?;
            Some((name.project, Counted::Secrets, secret.size_bytes))
        }
        _ => None,
    }
}

/// A record that does not decode counts with no bytes, as its service has none of it either.
fn read<R: Record>(entry: &Entry) -> Option<(R::Name, R)> {
    let name = Key::<R>::parse(&*entry.key).ok()?.name();
    Some((name, entry.decode::<R>().map(|read| read.value).unwrap_or_default()))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use prost::Message as _;
    use skerry_model::{AppRef, NodeRef};

    use super::*;

    fn app(name: u8, bytes: i64) -> Entry {
        let key = Key::<stored::AppRecord>::of(&AppRef::parse(&format!("projects/p/apps/a{name}")).unwrap());
        let record = stored::AppRecord { size_bytes: bytes, ..Default::default() };
        entry(key.to_shared(), record.encode_to_vec())
    }

    fn entry(key: std::sync::Arc<str>, bytes: Vec<u8>) -> Entry {
        Entry { key, bytes: bytes.into(), create_revision: 1, mod_revision: 1 }
    }

    proptest! {
        #[test]
        fn what_is_counted_change_by_change_is_what_is_there(steps in proptest::collection::vec((0..5_u8, 0..9_i64), 0..40)) {
            let project = ProjectName::parse("p").unwrap();
            let (mut usage, mut there, mut touched) = (Usage::default(), BTreeMap::new(), BTreeSet::new());
            for (name, bytes) in steps {
                let new = (bytes > 0).then(|| app(name, bytes));
                let old = match &new {
                    Some(new) => there.insert(name, new.clone()),
                    None => there.remove(&name),
                };
                usage.change(old.as_ref(), new.as_ref(), &mut touched);
                let apps = i64::try_from(there.len()).unwrap();
                let bytes = there.values().filter_map(taken).map(|(.., bytes)| bytes).sum();
                prop_assert_eq!(usage.get(&project), ProjectUsage { apps, size_bytes: bytes, ..Default::default() });
            }
        }
    }

    #[test]
    fn a_node_counts_by_its_key_alone_and_other_records_do_not() {
        let node = NodeRef::parse("projects/p/nodes/n").unwrap();
        let (mut usage, mut touched) = (Usage::default(), BTreeSet::new());
        let of_node = entry(Key::<stored::NodeRecord>::of(&node).to_shared(), Vec::new());
        let of_session = entry(Key::<stored::SessionRecord>::of(&node).to_shared(), Vec::new());
        usage.change(None, Some(&of_node), &mut touched);
        usage.change(None, Some(&of_session), &mut touched);
        assert_eq!((usage.get(&node.project).nodes, touched.len()), (1, 1));
        usage.change(Some(&of_node), None, &mut touched);
        assert_eq!(usage, Usage::default());
    }
}
