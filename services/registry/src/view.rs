//! A node as clients see it: pure, from what the store holds about it.

use std::time::SystemTime;

use skerry_api::{Etag, metadata_of};
use skerry_model::{NodeRef, time};
use skerry_proto::registry::v1::{Connection, Node, NodeSpec, NodeStatus};
use skerry_proto::store::v1 as stored;
use skerry_proto::types::v1::{Condition, ImageState, ImageStatus, InstancePhase, InstanceStatus, condition};
use skerry_store::{Key, Snapshot, Versioned};
use tracing::warn;

/// The node of that name, if there is one. `before` is how it was seen last, for times of transitions.
pub(crate) fn node_of(
    snapshot: &Snapshot,
    name: &NodeRef,
    before: Option<&Node>,
    now: SystemTime,
) -> Option<Node> {
    let record: Versioned<stored::NodeRecord> = read(snapshot, name)?;
    let session: Option<Versioned<stored::SessionRecord>> = read(snapshot, name);
    let status: Option<Versioned<stored::StatusRecord>> = read(snapshot, name);
    let assignment: Option<Versioned<stored::AssignmentRecord>> = read(snapshot, name);
    let session = session.map(|session| session.value);
    let is_alive = |id: &str| {
        let id = skerry_store::keys::GatewayId::parse(id).ok();
        id.is_some_and(|id| snapshot.entry(&Key::<stored::GatewayRecord>::of(&id)).is_some())
    };
    let connection = connection(session.as_ref(), is_alive);
    let machine = status.as_ref().and_then(|status| status.value.machine.clone());
    let mut conditions = vec![connected(&connection)];
    conditions.extend(machine.iter().flat_map(|machine| machine.conditions.iter().cloned()));
    for condition in conditions.iter_mut().filter(|condition| condition.last_transition_time.is_none()) {
        let before =
            before.and_then(|node| node.status.as_ref()).into_iter().flat_map(|status| &status.conditions);
        let same = before.into_iter().find(|c| c.r#type == condition.r#type && c.status == condition.status);
        condition.last_transition_time =
            same.map_or_else(|| Some(time::to_timestamp(now)), |c| c.last_transition_time);
    }
    let assigned = assignment.as_ref().map_or(&[][..], |assignment| assignment.value.instances.as_slice());
    let reported = status.as_ref().map_or(&[][..], |status| status.value.instances.as_slice());
    // What ended well and stays so counts as for its app.
    let is_done = |status: &InstanceStatus| status.ready || status.phase() == InstancePhase::Completed;
    let is_ready = |name: &str| reported.iter().any(|status| status.instance == name && is_done(status));
    let ready = assigned.iter().filter(|assigned| is_ready(&assigned.instance)).count();
    Some(Node {
        metadata: Some(metadata_of(
            name,
            record.value.meta.as_ref(),
            Etag { mod_revision: record.mod_revision },
        )),
        spec: Some(NodeSpec {
            cordoned: record.value.cordoned,
            taints: record.value.taints.clone(),
            drain: record.value.drain,
        }),
        status: Some(NodeStatus {
            connection: Some(connection),
            machine,
            conditions,
            instances_assigned: u32::try_from(assigned.len()).unwrap_or(u32::MAX),
            instances_ready: u32::try_from(ready).unwrap_or(u32::MAX),
            images: images(assignment.as_ref(), status.as_ref()),
        }),
    })
}

/// The images that a node is to fetch ahead, as far as it has said; the others wait.
fn images(
    assignment: Option<&Versioned<stored::AssignmentRecord>>,
    status: Option<&Versioned<stored::StatusRecord>>,
) -> Vec<ImageStatus> {
    let assigned = assignment.map_or(&[][..], |assignment| assignment.value.images.as_slice());
    let reported = status.map_or(&[][..], |status| status.value.images.as_slice());
    let shown = |one: &stored::AssignedImage| {
        let said = reported.iter().find(|said| said.id == one.id && said.round >= one.round);
        said.cloned().unwrap_or_else(|| ImageStatus {
            id: one.id.clone(),
            image: one.image.clone(),
            platform: one.platform.clone(),
            state: ImageState::Waiting.into(),
            round: one.round,
            ..ImageStatus::default()
        })
    };
    assigned.iter().map(shown).collect()
}

fn read<R: skerry_store::Record<Name = NodeRef>>(
    snapshot: &Snapshot,
    name: &NodeRef,
) -> Option<Versioned<R>> {
    snapshot.get(&Key::of(name)).unwrap_or_else(|error| {
        warn!(%error, "a record that does not decode is passed over");
        None
    })
}

fn connection(session: Option<&stored::SessionRecord>, is_alive: impl Fn(&str) -> bool) -> Connection {
    let Some(session) = session else { return Connection::default() };
    Connection {
        connected: session.close_time.is_none() && is_alive(&session.gateway),
        gateway: session.gateway.clone(),
        connect_time: session.open_time,
        disconnect_time: session.close_time,
    }
}

fn connected(connection: &Connection) -> Condition {
    let (status, reason, message) = match connection {
        Connection { connected: true, gateway, .. } => {
            (condition::Status::True, "SessionOpen", format!("connected to gateway {gateway}"))
        }
        Connection { connect_time: None, .. } => {
            (condition::Status::False, "NeverConnected", "no agent has connected yet".to_owned())
        }
        Connection { disconnect_time: Some(_), .. } => {
            (condition::Status::False, "SessionClosed", "the agent's session has ended".to_owned())
        }
        Connection { gateway, .. } => (
            condition::Status::False,
            "GatewayLost",
            format!("gateway {gateway}, which had the session, is gone"),
        ),
    };
    Condition {
        r#type: "Connected".to_owned(),
        status: status.into(),
        reason: reason.to_owned(),
        message,
        last_transition_time: None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn session(closed: bool) -> stored::SessionRecord {
        let at = Some(time::to_timestamp(SystemTime::UNIX_EPOCH));
        stored::SessionRecord {
            gateway: "g".into(),
            open_time: at,
            close_time: at.filter(|_| closed),
            ..Default::default()
        }
    }

    #[test]
    fn connected_means_that_the_session_is_open_and_its_gateway_alive() {
        assert!(connection(Some(&session(false)), |id| id == "g").connected);
        assert!(!connection(Some(&session(false)), |_| false).connected);
        assert!(!connection(Some(&session(true)), |_| true).connected);
        assert!(!connection(None, |_| true).connected);
    }

    #[test]
    fn who_is_not_connected_is_told_why() {
        let reason = |session: Option<&stored::SessionRecord>, alive| {
            connected(&connection(session, |_| alive)).reason
        };
        assert_eq!(reason(None, false), "NeverConnected");
        assert_eq!(reason(Some(&session(true)), true), "SessionClosed");
        assert_eq!(reason(Some(&session(false)), false), "GatewayLost");
        assert_eq!(reason(Some(&session(false)), true), "SessionOpen");
    }
}
