//! How clusters look to people.

use skerry_proto::registry::v1::{Cluster, ClusterMember, Node};

use crate::render::describe::{field, head, table};
use crate::render::rows::{age_of, labels, short_name};
use crate::render::time::{bytes, processors};

/// The cells of a cluster: always, and where a wide table is asked for.
pub(super) fn cells(cluster: &Cluster, now: i64) -> (Vec<String>, Vec<String>) {
    let status = cluster.status.clone().unwrap_or_default();
    let narrow = vec![
        short_name(cluster.metadata.as_ref()),
        format!("{}/{}", status.members_connected, status.member_count),
        format!("{}/{}", status.instances_ready, status.instances_assigned),
        status.apps.to_string(),
        processors(status.cpu_millis),
        bytes(u64::try_from(status.memory_bytes).unwrap_or_default()),
        age_of(cluster.metadata.as_ref(), now),
    ];
    (narrow, vec![failover_after(cluster), labels(cluster.metadata.as_ref())])
}

/// How long a member of a cluster may be out of reach.
fn failover_after(cluster: &Cluster) -> String {
    let said = cluster.spec.as_ref().and_then(|spec| spec.failover_after.as_ref());
    let said = said.and_then(skerry_model::time::from_proto_duration);
    skerry_model::quantity::format_duration(said.unwrap_or(skerry_model::cluster::FAILOVER_AFTER))
}

/// The cluster that a node is in, if its label names one.
pub(super) fn cluster_of(node: &Node) -> Option<&str> {
    let labels = node.metadata.as_ref().map(|metadata| &metadata.labels)?;
    labels.get(skerry_model::meta::CLUSTER_LABEL).map(String::as_str)
}

/// A cluster and its members.
pub(crate) fn describe(cluster: &Cluster) -> String {
    let mut text = head(cluster.metadata.as_ref());
    let status = cluster.status.clone().unwrap_or_default();
    field(&mut text, "Failover", &format!("after {}", failover_after(cluster)));
    let members = format!("{}, {} connected", status.member_count, status.members_connected);
    field(&mut text, "Members", &members);
    let memory = bytes(u64::try_from(status.memory_bytes).unwrap_or_default());
    field(&mut text, "Capacity", &format!("{} processors, {memory} memory", processors(status.cpu_millis)));
    let instances = format!("{} assigned, {} ready", status.instances_assigned, status.instances_ready);
    let apps = if status.apps == 1 { "app" } else { "apps" };
    field(&mut text, "Instances", &format!("{instances}, of {} {apps}", status.apps));
    let row = |member: &ClusterMember| {
        let state = if member.connected { "Connected" } else { "Disconnected" };
        let state = if member.cordoned { format!("{state},Cordoned") } else { state.to_owned() };
        let instances = format!("{}/{}", member.instances_ready, member.instances_assigned);
        vec![member.node.clone(), state, instances]
    };
    let rows: Vec<_> = status.members.iter().map(row).collect();
    table(&mut text, "Members", &["NODE", "STATUS", "INSTANCES"], &rows);
    text
}
