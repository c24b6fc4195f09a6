//! The GPUs of a node, from what the store has of it: pure.

use std::collections::BTreeMap;

use skerry_gpu_model::DEVICES_MAX;
use skerry_model::gpu::granted;
use skerry_model::{GpuBooking, InstanceName, NodeRef};
use skerry_proto::gpu::v1 as pb;
use skerry_proto::gpu::v1::health::State;
use skerry_proto::gpu::v1::{Health, HealthReason};
use skerry_proto::store::v1 as stored;
use skerry_proto::types::v1::{InstanceStatus, machine_status};
use skerry_store::keys::GatewayId;
use skerry_store::{Key, Record, Snapshot};

use super::Held;
use crate::group::{gpu_name, is_uuid};

/// Of a GPU whose node is away nobody knows how it is.
const DISCONNECTED: &str = "NodeDisconnected";

/// All that its agent told of last. Of a node that was deleted, none.
pub(super) fn gpus_of(snapshot: &Snapshot, node: &NodeRef) -> Vec<Held> {
    let Some(record) = read::<stored::NodeRecord>(snapshot, node) else { return Vec::new() };
    let Some(status) = read::<stored::StatusRecord>(snapshot, node) else { return Vec::new() };
    let gpus = status.machine.as_ref().map_or(&[][..], |machine| machine.gpus.as_slice());
    if gpus.is_empty() {
        return Vec::new();
    }
    let assignment = read::<stored::AssignmentRecord>(snapshot, node).unwrap_or_default();
    let session = read::<stored::SessionRecord>(snapshot, node);
    let is_alive = |id: &str| {
        GatewayId::parse(id).is_ok_and(|id| snapshot.entry(&Key::<stored::GatewayRecord>::of(&id)).is_some())
    };
    let away = away(session.as_ref(), is_alive);
    let bookings = bookings(node, &assignment, &status);
    let labels = record.meta.unwrap_or_default().labels;
    let held = |told: &machine_status::Gpu| {
        let device = told.device.clone()?;
        let health = away.clone().or_else(|| told.health.clone());
        let name = gpu_name(&node.to_string(), &device.uuid);
        let allocations = bookings.get(device.uuid.as_str()).cloned().unwrap_or_default();
        let status = pb::GpuStatus { health, allocations };
        let gpu = pb::Gpu { name, device: Some(device), status: Some(status) };
        Some(Held { gpu, node: node.to_string(), labels: labels.clone() })
    };
    nameable(gpus).filter_map(held).collect()
}

/// The GPUs of a report that can be resources, and no more than a node may have: who reports may be anybody.
fn nameable(gpus: &[machine_status::Gpu]) -> impl Iterator<Item = &machine_status::Gpu> {
    let has_name =
        |gpu: &&machine_status::Gpu| gpu.device.as_ref().is_some_and(|device| is_uuid(&device.uuid));
    gpus.iter().filter(has_name).take(DEVICES_MAX)
}

fn read<R: Record<Name = NodeRef>>(snapshot: &Snapshot, node: &NodeRef) -> Option<R> {
    let record = snapshot.get(&Key::<R>::of(node)).unwrap_or_else(|error| {
        tracing::warn!(%error, "a record that does not decode is passed over");
        None
    });
    Some(record?.value)
}

/// What is said of GPUs whose node has no session.
fn away(session: Option<&stored::SessionRecord>, is_alive: impl Fn(&str) -> bool) -> Option<Health> {
    let is_there =
        |session: &stored::SessionRecord| session.close_time.is_none() && is_alive(&session.gateway);
    if session.is_some_and(is_there) {
        return None;
    }
    let reason = HealthReason {
        reason: DISCONNECTED.to_owned(),
        state: State::Unknown.into(),
        message: "the node is not connected: this is what it told last".to_owned(),
        since: session.and_then(|session| session.close_time),
        effect: 0,
    };
    Some(Health { state: State::Unknown.into(), reasons: vec![reason] })
}

/// Who has what, by UUID, in the order of instances: what copies that run have, and what is booked where none has it. Its agent may grant less than was booked.
fn bookings(
    node: &NodeRef,
    assignment: &stored::AssignmentRecord,
    status: &stored::StatusRecord,
) -> BTreeMap<String, Vec<pb::Allocation>> {
    let assigned = assignment.instances.iter().map(|one| (one.instance.as_str(), (&one.gpus[..], None)));
    let mut instances: BTreeMap<&str, (&[pb::Booking], Option<&InstanceStatus>)> = assigned.collect();
    let is_one =
        |told: &&InstanceStatus| !told.gpus.is_empty() && InstanceName::parse(&told.instance).is_ok();
    for told in status.instances.iter().filter(is_one) {
        instances.entry(&told.instance).or_default().1 = Some(told);
    }
    let mut all: BTreeMap<String, Vec<pb::Allocation>> = BTreeMap::new();
    for (instance, (assigned, told)) in instances {
        let booked: Vec<GpuBooking> = assigned.iter().filter_map(GpuBooking::from_proto).collect();
        let gpus = told.map_or(&[][..], |told| &told.gpus);
        let held = granted(&booked, gpus, told.is_some_and(|told| told.start_time.is_some()));
        let coming = booked.iter().filter(|one| held.iter().all(|held| held.gpu != one.gpu));
        for booking in held.iter().chain(coming).map(GpuBooking::to_proto) {
            let gpu = gpu_name(&node.to_string(), &booking.gpu);
            let pb::Booking { gpu: uuid, mig_device, share, isolation } = booking;
            let instance = instance.to_owned();
            let allocation = pb::Allocation { gpu, instance, share, mig_device, isolation };
            all.entry(uuid).or_default().push(allocation);
        }
    }
    all
}

#[cfg(test)]
mod tests {
    use skerry_proto::gpu::v1::allocation::Isolation;

    use super::*;

    #[test]
    fn of_a_node_that_is_away_nobody_knows_how_its_gpus_are() {
        let at = Some(prost_types::Timestamp { seconds: 5, nanos: 0 });
        let session =
            |close_time| stored::SessionRecord { gateway: "g".into(), close_time, ..Default::default() };
        assert_eq!(away(Some(&session(None)), |_| true), None);
        let gone = away(Some(&session(None)), |_| false).unwrap();
        assert_eq!((gone.state(), gone.reasons[0].since), (State::Unknown, None));
        assert_eq!(away(Some(&session(at)), |_| true).unwrap().reasons[0].since, at);
        assert_eq!(away(None, |_| true).unwrap().reasons[0].reason, DISCONNECTED);
    }

    #[test]
    fn of_what_a_node_reports_as_gpus_those_are_taken_that_can_be_named_and_no_more_than_it_may_have() {
        let gpu = |uuid: String| machine_status::Gpu {
            device: Some(pb::Device { uuid, ..pb::Device::default() }),
            ..Default::default()
        };
        let wrong =
            ["", "GPU 1\n", "a/gpus/b", "\u{202e}1", &"x".repeat(65)].map(|uuid| gpu(uuid.to_owned()));
        let many = (0..100).map(|at| gpu(format!("GPU-{at}")));
        let told: Vec<_> = wrong.into_iter().chain([machine_status::Gpu::default()]).chain(many).collect();
        let taken: Vec<_> =
            nameable(&told).filter_map(|gpu| Some(gpu.device.as_ref()?.uuid.as_str())).collect();
        assert_eq!((taken.len(), taken[0], taken[63]), (64, "GPU-0", "GPU-63"));
    }

    #[test]
    fn bookings_are_by_gpu_and_instance_and_no_stronger_than_what_the_agent_grants() {
        let booking = |gpu: &str, isolation: Isolation| pb::Booking {
            gpu: gpu.to_owned(),
            isolation: isolation.into(),
            share: Some(pb::GpuShare { memory_bytes: Some(1), ..pb::GpuShare::default() }),
            ..pb::Booking::default()
        };
        let assigned = |instance: &str, gpus| stored::AssignedInstance {
            instance: instance.to_owned(),
            gpus,
            ..Default::default()
        };
        let assignment = stored::AssignmentRecord {
            instances: vec![
                assigned("b/s/n/0", vec![booking("GPU-1", Isolation::Mps)]),
                assigned(
                    "a/s/n/0",
                    vec![booking("GPU-1", Isolation::Mps), booking("GPU-2", Isolation::Exclusive)],
                ),
            ],
            ..Default::default()
        };
        let granted = InstanceStatus {
            instance: "b/s/n/0".into(),
            gpus: vec![booking("GPU-1", Isolation::Accounted)],
            ..Default::default()
        };
        // It is no isolation.
        let nonsense = InstanceStatus {
            instance: "a/s/n/0".into(),
            gpus: vec![pb::Booking { isolation: -1, ..booking("GPU-1", Isolation::Mps) }],
            ..Default::default()
        };
        // Nobody wants it any more; it runs, or has ended.
        let left = |instance: &str, start_time| InstanceStatus {
            instance: instance.to_owned(),
            gpus: vec![booking("GPU-3", Isolation::Exclusive)],
            start_time,
            ..Default::default()
        };
        let (runs, ended) = (left("c/s/n/0", Some(prost_types::Timestamp::default())), left("d/s/n/0", None));
        let instances = vec![granted, nonsense, runs, ended];
        let status = stored::StatusRecord { instances, ..Default::default() };
        let node = NodeRef::parse("projects/p/nodes/n").unwrap();
        let all = bookings(&node, &assignment, &status);
        let one: Vec<_> = all["GPU-1"].iter().map(|one| (one.instance.as_str(), one.isolation())).collect();
        assert_eq!(one, [("a/s/n/0", Isolation::Mps), ("b/s/n/0", Isolation::Accounted)]);
        assert_eq!(all["GPU-2"][0].gpu, "projects/p/nodes/n/gpus/GPU-2");
        let left: Vec<_> = all["GPU-3"].iter().map(|one| one.instance.as_str()).collect();
        assert_eq!(left, ["c/s/n/0"]);
    }
}
