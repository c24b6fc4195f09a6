//! Which clusters an app goes to, and to which of their members.

use std::collections::BTreeMap;

use skerry_model::meta::system_app_label;
use skerry_model::{AppName, AppSpec};

/// How much of a cluster an app goes to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Reach {
    /// All of it.
    Whole,
    /// The members that have this label, of which there are some: it is a system app, and they are chosen for it.
    Members(String),
}

impl Reach {
    /// Of an app of this spec in a cluster with these labels, whose members have those. Absent: it does not go there. The one place that knows.
    pub(crate) fn of<'a>(
        app: &AppName,
        spec: &AppSpec,
        cluster: &BTreeMap<String, String>,
        mut members: impl Iterator<Item = &'a BTreeMap<String, String>>,
    ) -> Option<Self> {
        if !spec.system {
            return spec.selector.matches(cluster).then_some(Self::Whole);
        }
        // What a selector leaves out may still be chosen.
        if !spec.selector.is_empty() && spec.selector.matches(cluster) {
            return Some(Self::Whole);
        }
        let label = system_app_label(app);
        if cluster.contains_key(&label) {
            return Some(Self::Whole);
        }
        members.any(|labels| labels.contains_key(&label)).then_some(Self::Members(label))
    }

    /// Of a member with these labels: the label that it lacks, if the app does not go there.
    pub(crate) fn lacks(&self, member: &BTreeMap<String, String>) -> Option<&str> {
        match self {
            Self::Members(label) if !member.contains_key(label) => Some(label),
            Self::Members(_) | Self::Whole => None,
        }
    }
}
