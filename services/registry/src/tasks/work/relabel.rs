//! Labels of the nodes that a selector chooses: each node is a step, and one transaction.

use std::collections::{BTreeMap, BTreeSet};

use skerry_api::{Etag, Tries, Update, update_for};
use skerry_model::{Code, Fault, NodeName, NodeRef, ProjectName, Selector};
use skerry_proto::registry::v1::Node;
use skerry_proto::scheduler::v1::update_app_response::Outcome;
use skerry_proto::store::v1 as stored;
use skerry_proto::types::v1::Metadata;
use skerry_store::Key;

use super::{Did, Env, Hands};

/// Labels of which nodes.
pub(in crate::tasks) struct Relabel {
    project: ProjectName,
    selector: Selector,
    wanted: stored::RelabelNodesRecord,
}

/// What is to be changed of a node's labels.
#[derive(Debug, PartialEq, Eq)]
enum Change {
    /// They are as they shall be.
    Nothing,
    /// These are set, and these paths are what is meant.
    Set { labels: BTreeMap<String, String>, paths: Vec<String> },
    /// This key has another value.
    Refused { key: String, value: String },
}

impl Relabel {
    pub(super) fn new(project: &ProjectName, wanted: &stored::RelabelNodesRecord) -> Result<Self, Fault> {
        let field = "task.spec.relabel_nodes.label_selector";
        let selector =
            Selector::parse(&wanted.label_selector).map_err(|error| Fault::invalid_field(field, error))?;
        Ok(Self { project: project.clone(), selector, wanted: wanted.clone() })
    }

    pub(super) fn steps(&self, env: &Env) -> BTreeSet<String> {
        let nodes = env.shared.nodes.snapshot();
        let below = format!("{}/nodes/", self.project.parent());
        let of_project = nodes.range(below.clone()..).take_while(|(name, _)| name.starts_with(&below));
        let chosen = of_project.filter(|(_, node)| {
            node.metadata.as_ref().is_some_and(|metadata| self.selector.matches(&metadata.labels))
        });
        chosen.map(|(name, _)| name[below.len()..].to_owned()).collect()
    }

    pub(super) async fn step(&self, step: &str, hands: &Hands<'_>) -> Result<Did, Fault> {
        let name = NodeRef { project: self.project.clone(), node: NodeName::parse(step)? };
        let key = Key::<stored::NodeRecord>::of(&name);
        let mut tries = Tries::default();
        loop {
            // One that is gone has no labels.
            let Some(read) = hands.env.store.get(&key).await? else {
                return Ok(Did::Done { written: false });
            };
            let labels = read.value.meta.map(|meta| meta.labels).unwrap_or_default();
            if !self.selector.matches(&labels) {
                return Ok(Did::Done { written: false });
            }
            let (labels, paths) = match change(&self.wanted, labels) {
                Change::Nothing => return Ok(Did::Done { written: false }),
                Change::Refused { key, value } => {
                    let message =
                        format!("label {key} is {value:?} already: the task would have to overwrite");
                    return Err(Fault::new(Code::FailedPrecondition, "LABEL_IS_SET", message));
                }
                Change::Set { labels, paths } => (labels, paths),
            };
            let etag = Etag { mod_revision: read.mod_revision }.to_string();
            let metadata = Metadata { name: name.to_string(), etag, labels, ..Metadata::default() };
            let node = Node { metadata: Some(metadata), ..Node::default() };
            let mask = prost_types::FieldMask { paths };
            let update = Update {
                resource: Some(&node),
                mask: Some(&mask),
                allow_missing: false,
                validate_only: false,
            };
            match update_for(&hands.env.nodes, hands.caused.clone(), update, hands.done).await {
                Ok((_, outcome)) => return Ok(Did::Done { written: outcome == Outcome::Updated }),
                // Somebody else changed the node since it was read.
                Err(fault) if fault.code == Code::Aborted => tries.again(&name).await?,
                Err(fault) if fault.code == Code::NotFound => return Ok(Did::Done { written: false }),
                Err(fault) => return Err(fault),
            }
        }
    }
}

fn change(wanted: &stored::RelabelNodesRecord, mut labels: BTreeMap<String, String>) -> Change {
    let mut paths = Vec::new();
    let path = |key: &str| format!("metadata.labels.{key}");
    for (key, value) in &wanted.set {
        match labels.get(key) {
            Some(before) if before == value => {}
            Some(before) if !wanted.overwrite => {
                return Change::Refused { key: key.clone(), value: before.clone() };
            }
            _ => {
                labels.insert(key.clone(), value.clone());
                paths.push(path(key));
            }
        }
    }
    for key in &wanted.remove {
        if labels.remove(key).is_some() {
            paths.push(path(key));
        }
    }
    if paths.is_empty() { Change::Nothing } else { Change::Set { labels, paths } }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn map(pairs: &[(&str, &str)]) -> BTreeMap<String, String> {
        pairs.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned())).collect()
    }

    #[test]
    fn what_is_there_already_is_not_written_and_another_value_needs_overwrite() {
        let wanted = |overwrite| stored::RelabelNodesRecord {
            set: map(&[("zone", "b")]).into_iter().collect(),
            remove: vec!["old".to_owned()],
            overwrite,
            ..Default::default()
        };
        assert_eq!(change(&wanted(false), map(&[("zone", "b"), ("x", "y")])), Change::Nothing);
        let refused = Change::Refused { key: "zone".to_owned(), value: "a".to_owned() };
        assert_eq!(change(&wanted(false), map(&[("zone", "a")])), refused);
        let paths = vec!["metadata.labels.zone".to_owned(), "metadata.labels.old".to_owned()];
        let set = Change::Set { labels: map(&[("x", "y"), ("zone", "b")]), paths };
        assert_eq!(change(&wanted(true), map(&[("zone", "a"), ("old", "1"), ("x", "y")])), set);
    }
}
