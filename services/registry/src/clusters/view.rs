//! What is observed of clusters: pure, from the nodes and assignments that are seen now.

use std::collections::{BTreeMap, BTreeSet};

use skerry_api::Listed;
use skerry_model::meta::CLUSTER_LABEL;
use skerry_model::{ClusterRef, InstanceName, NodeRef, ProjectName};
use skerry_proto::registry::v1::{ClusterMember, ClusterStatus, Node};
use skerry_proto::store::v1 as stored;
use skerry_store::{Key, Snapshot};

/// Members that a status names.
const MEMBERS_MAX: usize = 100;

/// The members of the clusters of one project, by the last part of their names.
pub(super) type Members<'a> = BTreeMap<&'a str, Vec<&'a Node>>;

/// Which nodes of a project are in which cluster. One whose label names no cluster that exists is in none; that is for the caller to see.
pub(super) fn members<'a>(nodes: &'a Listed<Node>, project: &ProjectName) -> Members<'a> {
    let mut members = Members::new();
    let below = format!("{}/nodes/", project.parent());
    for (_, node) in nodes.range(below.clone()..).take_while(|(name, _)| name.starts_with(&below)) {
        let label = node.metadata.as_ref().and_then(|metadata| metadata.labels.get(CLUSTER_LABEL));
        if let Some(cluster) = label {
            members.entry(cluster).or_default().push(node);
        }
    }
    members
}

/// How a cluster with these members is.
pub(super) fn status_of(name: &ClusterRef, members: &[&Node], snapshot: &Snapshot) -> ClusterStatus {
    let mut status = ClusterStatus { member_count: count(members.len()), ..ClusterStatus::default() };
    let mut apps = BTreeSet::new();
    for node in members {
        let observed = node.status.clone().unwrap_or_default();
        let connected = observed.connection.as_ref().is_some_and(|connection| connection.connected);
        let machine = observed.machine.unwrap_or_default();
        status.members_connected += u32::from(connected);
        status.cpu_millis = status.cpu_millis.saturating_add(machine.cpu_millis);
        status.memory_bytes = status.memory_bytes.saturating_add(machine.memory_bytes);
        status.instances_assigned += observed.instances_assigned;
        status.instances_ready += observed.instances_ready;
        let full = node.metadata.as_ref().map_or("", |metadata| metadata.name.as_str());
        if let Ok(node) = NodeRef::parse(full) {
            apps.extend(apps_on(&node, name, snapshot));
        }
        if status.members.len() < MEMBERS_MAX {
            status.members.push(ClusterMember {
                node: full.rsplit('/').next().unwrap_or_default().to_owned(),
                connected,
                cordoned: node.spec.as_ref().is_some_and(|spec| spec.cordoned),
                instances_assigned: observed.instances_assigned,
                instances_ready: observed.instances_ready,
            });
        }
    }
    status.apps = count(apps.len());
    status
}

/// The apps of which a node is assigned instances of this cluster.
fn apps_on(node: &NodeRef, cluster: &ClusterRef, snapshot: &Snapshot) -> BTreeSet<String> {
    let assignment = snapshot.get(&Key::<stored::AssignmentRecord>::of(node)).ok().flatten();
    let instances = assignment.map(|assignment| assignment.value.instances).unwrap_or_default();
    let names = instances.iter().filter_map(|one| InstanceName::parse(&one.instance).ok());
    names.filter(|one| one.cluster == cluster.cluster).map(|one| one.app.to_string()).collect()
}

fn count(number: usize) -> u32 {
    u32::try_from(number).unwrap_or(u32::MAX)
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use skerry_proto::types::v1::Metadata;

    use super::*;

    #[test]
    fn nodes_are_where_their_label_says_and_only_in_their_own_project() {
        let node = |name: &str, cluster: Option<&str>| {
            let labels = cluster.map(|cluster| (CLUSTER_LABEL.to_owned(), cluster.to_owned()));
            let metadata = Metadata {
                name: name.to_owned(),
                labels: labels.into_iter().collect(),
                ..Default::default()
            };
            (name.to_owned(), Arc::new(Node { metadata: Some(metadata), ..Default::default() }))
        };
        let nodes = Arc::new(BTreeMap::from([
            node("projects/a/nodes/n1", Some("site")),
            node("projects/a/nodes/n2", Some("site")),
            node("projects/a/nodes/n3", None),
            node("projects/ab/nodes/n4", Some("site")),
        ]));
        let project = ProjectName::parse("a").unwrap();
        let members = members(&nodes, &project);
        let names: Vec<&str> =
            members["site"].iter().map(|node| node.metadata.as_ref().unwrap().name.as_str()).collect();
        assert_eq!(names, ["projects/a/nodes/n1", "projects/a/nodes/n2"]);
        assert_eq!(members.len(), 1);
    }
}
