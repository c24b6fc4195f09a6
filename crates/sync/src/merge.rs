//! A report into what is stored of a node. Pure; merging the same report twice changes nothing.
//!
//! Nothing that an agent says is believed further than it reaches: texts are clipped, lists are cut, and the node, source and boot of
//! what it says are those of its session.

use std::collections::BTreeMap;

use bytes::Bytes;
use prost::Message as _;
use skerry_model::ContentHash;
use skerry_proto::gateway::v1 as pb;
use skerry_proto::store::v1::{EventsRecord, StatusRecord};
use skerry_proto::types::v1 as types;

use crate::gateway::{Acknowledged, Change};
use crate::limits;

/// What a change makes of the stored records. Absent: nothing changed, and nothing is to be written.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Merged {
    /// The new status.
    pub status: Option<StatusRecord>,
    /// The new events.
    pub events: Option<EventsRecord>,
}

/// `change` merged into what is stored; defaults stand for records that are not there.
pub fn merge(status: &StatusRecord, events: &EventsRecord, change: &Change) -> Merged {
    let mut new_status = status.clone();
    let mut new_events = None;
    if let Some(report) = &change.report {
        merge_state(&mut new_status, report, &change.node);
        new_events = merge_events(events, report, change);
    }
    if let Some(acknowledged) = &change.acknowledged {
        merge_acknowledged(&mut new_status, acknowledged);
    }
    shrink(&mut new_status);
    Merged { status: (new_status != *status).then_some(new_status), events: new_events }
}

/// Digest of the state that an agent reported, as it is stored: equal digests need no full report.
pub fn status_digest(status: &StatusRecord) -> Bytes {
    let reported = StatusRecord {
        machine: status.machine.clone(),
        instances: status.instances.clone(),
        ..StatusRecord::default()
    };
    Bytes::copy_from_slice(ContentHash::of(&reported.encode_to_vec()).as_bytes())
}

/// What a stored status says that was acknowledged last.
pub fn acknowledged_version(status: &StatusRecord) -> Option<crate::Version> {
    let version = crate::Version::new(status.acknowledged_term, status.acknowledged_revision);
    (version != crate::Version::default()).then_some(version)
}

fn merge_state(status: &mut StatusRecord, report: &pb::Report, node: &str) {
    let mut instances: BTreeMap<String, types::InstanceStatus> = BTreeMap::new();
    if !report.full {
        instances.extend(status.instances.drain(..).map(|instance| (instance.instance.clone(), instance)));
    }
    for name in &report.removed_instances {
        instances.remove(name);
    }
    for reported in &report.instances {
        let mut instance = reported.clone();
        clip_instance(&mut instance);
        node.clone_into(&mut instance.node);
        instances.insert(instance.instance.clone(), instance);
    }
    status.instances = instances.into_values().take(limits::INSTANCES_MAX).collect();
    if report.full || report.machine.is_some() {
        status.machine.clone_from(&report.machine);
        if let Some(machine) = &mut status.machine {
            clip_machine(machine);
        }
    }
}

fn merge_acknowledged(status: &mut StatusRecord, acknowledged: &Acknowledged) {
    status.acknowledged_term = acknowledged.version.term;
    status.acknowledged_revision = acknowledged.version.revision;
    status.refused = acknowledged.refused.iter().take(limits::INSTANCES_MAX).cloned().collect();
    for refused in &mut status.refused {
        clip(&mut refused.name, limits::NAME_BYTES_MAX);
        clip(&mut refused.version, limits::NAME_BYTES_MAX);
        clip(&mut refused.reason, limits::REASON_BYTES_MAX);
        clip(&mut refused.message, limits::INSTANCE_MESSAGE_BYTES_MAX);
    }
}

/// The events that are new, by boot and sequence, at the end of the ring.
fn merge_events(stored: &EventsRecord, report: &pb::Report, change: &Change) -> Option<EventsRecord> {
    let same_boot = stored.boot_id == change.boot_id;
    // Of an earlier boot that is heard again (two machines with one name) only the ring itself knows what is stored.
    let is_stored = |sequence: u64| {
        same_boot && sequence <= stored.sequence
            || stored.events.iter().any(|event| event.boot_id == change.boot_id && event.sequence == sequence)
    };
    let mut fresh: BTreeMap<u64, types::Event> = BTreeMap::new();
    for event in report.events.iter().take(limits::EVENTS_PER_REPORT_MAX) {
        if event.sequence > 0 && !is_stored(event.sequence) {
            fresh.insert(event.sequence, attributed(event, change));
        }
    }
    let (&last, _) = fresh.last_key_value()?;
    // Sequences have no gaps, so what is missing between was dropped by the agent's ring.
    let before = if same_boot { stored.sequence } else { 0 };
    let arrived = u64::try_from(fresh.len()).unwrap_or(u64::MAX);
    let dropped = last.saturating_sub(before).saturating_sub(arrived);

    let mut events: Vec<types::Event> = stored.events.iter().cloned().chain(fresh.into_values()).collect();
    let excess = events.len().saturating_sub(limits::EVENTS_STORED_MAX);
    events.drain(..excess);
    Some(EventsRecord {
        events,
        boot_id: change.boot_id.clone(),
        sequence: last,
        dropped: stored.dropped.saturating_add(dropped),
    })
}

/// The event as one of this session's node: nobody reports in the name of another, or about another project.
fn attributed(event: &types::Event, change: &Change) -> types::Event {
    let mut event = event.clone();
    event.source.clone_from(&change.node);
    event.boot_id.clone_from(&change.boot_id);
    let project = change.node.split("/nodes/").next().unwrap_or_default();
    let rest = event.regarding.strip_prefix(project).and_then(|rest| rest.strip_prefix('/'));
    if project.is_empty() || rest.is_none() {
        event.regarding.clone_from(&change.node);
    }
    clip_event(&mut event);
    event
}

/// Keeps a status within what may be stored: the sentences go first, then what comes last by name.
fn shrink(status: &mut StatusRecord) {
    if status.encoded_len() <= limits::STATUS_BYTES_MAX {
        return;
    }
    for instance in &mut status.instances {
        instance.message.clear();
    }
    for refused in &mut status.refused {
        refused.message.clear();
    }
    while status.encoded_len() > limits::STATUS_BYTES_MAX {
        if status.refused.pop().is_none() && status.instances.pop().is_none() {
            return;
        }
    }
}

/// `text` up to `bytes_max` bytes, at a character's end.
pub fn clipped(text: &str, bytes_max: usize) -> &str {
    &text[..text.floor_char_boundary(bytes_max)]
}

fn clip(text: &mut String, bytes_max: usize) {
    let end = clipped(text, bytes_max).len();
    text.truncate(end);
}

/// Cuts the texts of an instance's status to their bounds.
pub fn clip_instance(instance: &mut types::InstanceStatus) {
    clip(&mut instance.instance, limits::NAME_BYTES_MAX);
    clip(&mut instance.node, limits::NAME_BYTES_MAX);
    clip(&mut instance.revision, limits::REASON_BYTES_MAX);
    clip(&mut instance.reason, limits::REASON_BYTES_MAX);
    clip(&mut instance.message, limits::INSTANCE_MESSAGE_BYTES_MAX);
    clip(&mut instance.runtime_id, limits::NAME_BYTES_MAX);
}

/// Cuts the texts and lists of a machine's status to their bounds.
pub fn clip_machine(machine: &mut types::MachineStatus) {
    for text in [
        &mut machine.agent_version,
        &mut machine.boot_id,
        &mut machine.machine_id,
        &mut machine.hostname,
        &mut machine.os,
        &mut machine.architecture,
        &mut machine.kernel,
    ] {
        clip(text, limits::MACHINE_TEXT_BYTES_MAX);
    }
    machine.runtimes.truncate(limits::MACHINE_ENTRIES_MAX);
    for runtime in &mut machine.runtimes {
        clip(&mut runtime.kind, limits::MACHINE_TEXT_BYTES_MAX);
        clip(&mut runtime.version, limits::MACHINE_TEXT_BYTES_MAX);
    }
    machine.conditions.truncate(limits::MACHINE_ENTRIES_MAX);
    for condition in &mut machine.conditions {
        clip(&mut condition.r#type, limits::REASON_BYTES_MAX);
        clip(&mut condition.reason, limits::REASON_BYTES_MAX);
        clip(&mut condition.message, limits::INSTANCE_MESSAGE_BYTES_MAX);
    }
}

/// Cuts the texts of an event to their bounds.
pub fn clip_event(event: &mut types::Event) {
    clip(&mut event.reason, limits::REASON_BYTES_MAX);
    clip(&mut event.message, limits::EVENT_MESSAGE_BYTES_MAX);
    clip(&mut event.regarding, limits::NAME_BYTES_MAX);
    clip(&mut event.source, limits::NAME_BYTES_MAX);
    clip(&mut event.boot_id, limits::REASON_BYTES_MAX);
}
