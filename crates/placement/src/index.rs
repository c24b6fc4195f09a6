//! What finds clusters for an app, and apps for a cluster, without holding each against each: both by the labels that selectors ask for. What is found
//! may still not match; what is not found does not.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use skerry_model::meta::{is_system_app_label, system_app_label};
use skerry_model::{AppName, AppSpec, ClusterName, Requirement, Selector};

use crate::state::App;

type Label = (Arc<str>, Arc<str>);
type ByValue = BTreeMap<Arc<str>, BTreeSet<ClusterName>>;

/// Which clusters have a label.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Clusters {
    /// By key and value.
    having: BTreeMap<Arc<str>, ByValue>,
    /// The labels of each.
    labels: BTreeMap<ClusterName, Vec<Label>>,
}

impl Clusters {
    /// Notes the labels of a cluster, and of its members those that choose them for a system app. None: it is no place.
    pub(crate) fn set<'a>(
        &mut self,
        cluster: &ClusterName,
        labels: &'a BTreeMap<String, String>,
        members: impl Iterator<Item = &'a BTreeMap<String, String>>,
    ) {
        let chosen = members.flatten().filter(|(key, _)| is_system_app_label(key));
        let all: BTreeSet<(&str, &str)> =
            labels.iter().chain(chosen).map(|(key, value)| (key.as_str(), value.as_str())).collect();
        let known = self.labels.get(cluster).map(Vec::as_slice).unwrap_or_default();
        if known.iter().map(|(key, value)| (&**key, &**value)).eq(all.iter().copied()) {
            return;
        }
        self.forget(cluster);
        if !all.is_empty() {
            let noted = all.into_iter().map(|(key, value)| self.note(cluster, key, value)).collect();
            self.labels.insert(cluster.clone(), noted);
        }
    }

    fn note(&mut self, cluster: &ClusterName, key: &str, value: &str) -> Label {
        let key = shared(&self.having, key);
        let values = self.having.entry(key.clone()).or_default();
        let value = shared(values, value);
        values.entry(value.clone()).or_default().insert(cluster.clone());
        (key, value)
    }

    /// There is no such cluster any more.
    pub(crate) fn forget(&mut self, cluster: &ClusterName) {
        for (key, value) in self.labels.remove(cluster).unwrap_or_default() {
            let Some(values) = self.having.get_mut(&key) else { continue };
            if let Some(clusters) = values.get_mut(&value) {
                clusters.remove(cluster);
                if clusters.is_empty() {
                    values.remove(&value);
                }
            }
            if values.is_empty() {
                self.having.remove(&key);
            }
        }
    }

    /// Those that an app of this spec may go to. Absent: any.
    pub(crate) fn within_reach<'a>(
        &'a self,
        app: &AppName,
        spec: &AppSpec,
    ) -> Option<BTreeSet<&'a ClusterName>> {
        if !spec.system {
            return self.matching(&spec.selector);
        }
        let chosen = self.having.get(system_app_label(app).as_str()).into_iter();
        let mut found: BTreeSet<&ClusterName> = chosen.flat_map(BTreeMap::values).flatten().collect();
        if !spec.selector.is_empty() {
            found.extend(self.matching(&spec.selector)?);
        }
        Some(found)
    }

    /// By the requirement that fewest meet.
    fn matching(&self, selector: &Selector) -> Option<BTreeSet<&ClusterName>> {
        let sets = |requirement: &Requirement| -> Option<Vec<&BTreeSet<ClusterName>>> {
            let of = |key: &String| self.having.get(key.as_str());
            match requirement {
                Requirement::In(key, values) => Some(of(key).map_or_else(Vec::new, |of| {
                    values.iter().filter_map(|value| of.get(value.as_str())).collect()
                })),
                Requirement::Exists(key) => Some(of(key).into_iter().flat_map(BTreeMap::values).collect()),
                Requirement::NotIn(..) | Requirement::Absent(_) => None,
            }
        };
        let fewest = selector.requirements().iter().filter_map(sets);
        let fewest = fewest.min_by_key(|sets| sets.iter().map(|set| set.len()).sum::<usize>())?;
        Some(fewest.into_iter().flatten().collect())
    }
}

/// A key of a map as the map has it.
fn shared<V>(map: &BTreeMap<Arc<str>, V>, key: &str) -> Arc<str> {
    map.get_key_value(key).map_or_else(|| key.into(), |(key, _)| key.clone())
}

/// Apps by what they ask for of a cluster.
#[derive(Debug, Default)]
pub(crate) struct Apps<'a> {
    /// By key and value.
    by_value: BTreeMap<&'a str, BTreeMap<&'a str, Vec<Named<'a>>>>,
    /// By key.
    by_key: BTreeMap<&'a str, Vec<Named<'a>>>,
    /// What asks for nothing by which it could be found, or may be chosen for a single member.
    others: Vec<Named<'a>>,
}

/// An app and its name.
pub(crate) type Named<'a> = (&'a AppName, &'a App);

impl<'a> Apps<'a> {
    /// Of all there are.
    pub(crate) fn new(apps: &'a BTreeMap<AppName, App>) -> Self {
        let mut found = Self::default();
        for app in apps {
            for wanted in app.1.all() {
                found.add(app, &wanted.spec);
            }
        }
        found
    }

    fn add(&mut self, app: Named<'a>, spec: &'a AppSpec) {
        let value = spec.selector.requirements().iter().find_map(|requirement| match requirement {
            Requirement::In(key, values) => Some((key, values)),
            _ => None,
        });
        let key = spec.selector.requirements().iter().find_map(|requirement| match requirement {
            Requirement::Exists(key) => Some(key),
            _ => None,
        });
        match (value, key) {
            _ if spec.system => self.others.push(app),
            (Some((key, values)), _) => {
                let of = self.by_value.entry(key).or_default();
                for value in values {
                    of.entry(value).or_default().push(app);
                }
            }
            (None, Some(key)) => self.by_key.entry(key).or_default().push(app),
            (None, None) => self.others.push(app),
        }
    }

    /// Those that may go to a cluster of these labels, by name.
    pub(crate) fn within_reach(&self, labels: &BTreeMap<String, String>) -> Vec<Named<'a>> {
        let mut found = self.others.clone();
        for (key, value) in labels {
            let by_value = self.by_value.get(key.as_str()).and_then(|of| of.get(value.as_str()));
            found.extend(by_value.into_iter().chain(self.by_key.get(key.as_str())).flatten());
        }
        found.sort_unstable_by_key(|(name, _)| *name);
        found.dedup_by_key(|(name, _)| *name);
        found
    }
}
