//! A report into what is stored of a node. Pure; merging the same report twice changes nothing.
//!
//! Nothing that an agent says is believed further than it reaches: texts are clipped, lists are cut, and the node, source and boot of
//! what it says are those of its session. (What it may speak of at all is the session's to say.) An event that says again what the store
//! has takes its place there, and counts it.

use std::collections::BTreeMap;

use bytes::Bytes;
use prost::Message as _;
use skerry_model::ContentHash;
use skerry_proto::gateway::v1 as pb;
use skerry_proto::store::v1::{EventsRecord, StatusRecord};
use skerry_proto::types::v1 as types;

use crate::gateway::{Acknowledged, Change};
use crate::limits;
use crate::repeat::{folded, repeats};

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
        images: status.images.clone(),
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
    merge_images(&mut status.images, report);
    if report.full || report.machine.is_some() {
        status.machine.clone_from(&report.machine);
        if let Some(machine) = &mut status.machine {
            clip_machine(machine);
        }
    }
}

fn merge_images(images: &mut Vec<types::ImageStatus>, report: &pb::Report) {
    let kept = std::mem::take(images).into_iter().filter(|_| !report.full);
    let mut merged: BTreeMap<String, types::ImageStatus> =
        kept.map(|image| (image.id.clone(), image)).collect();
    for id in &report.removed_images {
        merged.remove(id);
    }
    for reported in &report.images {
        let mut image = reported.clone();
        clip_image(&mut image);
        merged.insert(image.id.clone(), image);
    }
    images.extend(merged.into_values().take(limits::IMAGES_MAX));
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

    let mut events = stored.events.clone();
    for event in fresh.into_values() {
        let former = events.iter().rposition(|former| repeats(former, &event));
        let event = match former {
            Some(at) => folded(&events.remove(at), event),
            None => event,
        };
        events.push(event);
    }
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
    for image in &mut status.images {
        image.message.clear();
    }
    while status.encoded_len() > limits::STATUS_BYTES_MAX {
        if status.refused.pop().is_none() && status.images.pop().is_none() && status.instances.pop().is_none()
        {
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
    clip(&mut instance.rejected_revision, limits::REASON_BYTES_MAX);
    clip(&mut instance.reason, limits::REASON_BYTES_MAX);
    clip(&mut instance.message, limits::INSTANCE_MESSAGE_BYTES_MAX);
    clip(&mut instance.runtime_id, limits::NAME_BYTES_MAX);
    if let Some(job) = &mut instance.job {
        clip(&mut job.reason, limits::REASON_BYTES_MAX);
        job.history.truncate(limits::JOB_HISTORY_MAX);
        for run in &mut job.history {
            clip(&mut run.reason, limits::REASON_BYTES_MAX);
        }
    }
}

/// Cuts the texts of an image's status to their bounds.
pub fn clip_image(image: &mut types::ImageStatus) {
    clip(&mut image.id, limits::REASON_BYTES_MAX);
    clip(&mut image.image, limits::IMAGE_BYTES_MAX);
    clip(&mut image.platform, limits::REASON_BYTES_MAX);
    clip(&mut image.reason, limits::REASON_BYTES_MAX);
    clip(&mut image.message, limits::INSTANCE_MESSAGE_BYTES_MAX);
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

#[cfg(test)]
mod tests {
    use super::*;

    const NODE: &str = "projects/p/nodes/n";

    fn change(report: pb::Report) -> Change {
        Change { node: NODE.to_owned(), boot_id: "b".to_owned(), report: Some(report), acknowledged: None }
    }

    fn events(sequences: std::ops::RangeInclusive<u64>) -> pb::Report {
        let event =
            |sequence| types::Event { sequence, reason: format!("E{sequence}"), ..types::Event::default() };
        pb::Report { events: sequences.map(event).collect(), ..pb::Report::default() }
    }

    fn instance(name: usize, message: &str) -> types::InstanceStatus {
        types::InstanceStatus {
            instance: format!("a/s/n/{name:04}"),
            message: message.to_owned(),
            ..types::InstanceStatus::default()
        }
    }

    #[test]
    fn merging_a_report_again_changes_nothing() {
        let report = pb::Report { instances: vec![instance(1, "x")], ..events(1..=3) };
        let once = merge(&StatusRecord::default(), &EventsRecord::default(), &change(report.clone()));
        let (status, events) = (once.status.unwrap(), once.events.unwrap());
        assert_eq!(merge(&status, &events, &change(report)), Merged::default());
    }

    #[test]
    fn a_difference_leaves_what_it_does_not_name_and_a_full_report_does_not() {
        let stored =
            StatusRecord { instances: vec![instance(1, ""), instance(2, "")], ..StatusRecord::default() };
        let names = |status: &StatusRecord| -> Vec<String> {
            status.instances.iter().map(|i| i.instance.clone()).collect()
        };
        let difference = pb::Report {
            instances: vec![instance(0, "")],
            removed_instances: vec!["a/s/n/0002".to_owned()],
            ..pb::Report::default()
        };
        let merged = merge(&stored, &EventsRecord::default(), &change(difference)).status.unwrap();
        assert_eq!(names(&merged), ["a/s/n/0000", "a/s/n/0001"]);
        let full = pb::Report { full: true, instances: vec![instance(5, "")], ..pb::Report::default() };
        let merged = merge(&stored, &EventsRecord::default(), &change(full)).status.unwrap();
        assert_eq!(names(&merged), ["a/s/n/0005"]);
    }

    #[test]
    fn a_gap_in_sequences_counts_as_dropped_once() {
        let first = merge(&StatusRecord::default(), &EventsRecord::default(), &change(events(3..=4)));
        let first = first.events.unwrap();
        assert_eq!((first.dropped, first.sequence), (2, 4));
        let second = merge(&StatusRecord::default(), &first, &change(events(4..=7))).events.unwrap();
        assert_eq!((second.dropped, second.sequence, second.events.len()), (2, 7, 5));
    }

    #[test]
    fn the_ring_keeps_the_newest_64() {
        let mut record = EventsRecord::default();
        for start in [1, 60, 120] {
            let report = events(start..=start + 59);
            record = merge(&StatusRecord::default(), &record, &change(report)).events.unwrap_or(record);
        }
        assert_eq!(record.events.len(), limits::EVENTS_STORED_MAX);
        assert_eq!(record.events.last().unwrap().sequence, 179);
    }

    #[test]
    fn what_happens_again_takes_the_place_of_what_was_told_before_and_counts_it() {
        let event = |sequence: u64, seconds, reason: &str| types::Event {
            sequence,
            reason: reason.to_owned(),
            message: format!("{reason} {sequence}"),
            time: Some(prost_types::Timestamp { seconds, nanos: 0 }),
            ..types::Event::default()
        };
        let loops = |range: std::ops::RangeInclusive<u64>| {
            let pairs = range.flat_map(|n| {
                let at = i64::try_from(n).unwrap() * 60;
                [event(2 * n - 1, at, "Started"), event(2 * n, at, "Exited")]
            });
            pb::Report { events: pairs.collect(), ..pb::Report::default() }
        };
        let mut record = EventsRecord::default();
        for range in [1..=1, 2..=20, 21..=40] {
            let report = change(loops(range));
            record = merge(&StatusRecord::default(), &record, &report).events.unwrap();
            assert_eq!(merge(&StatusRecord::default(), &record, &report).events, None, "counted once");
        }
        assert_eq!(record.dropped, 0);
        let told: Vec<_> = record.events.iter().map(|e| (e.message.as_str(), e.count, e.sequence)).collect();
        assert_eq!(told, [("Started 79", 40, 79), ("Exited 80", 40, 80)]);
        let first = record.events[0].first_time.unwrap().seconds;
        assert_eq!((first, record.events[0].time.unwrap().seconds), (60, 2400));

        // Much later it is news.
        let later = pb::Report { events: vec![event(81, 2400 + 3601, "Exited")], ..pb::Report::default() };
        let record = merge(&StatusRecord::default(), &record, &change(later)).events.unwrap();
        assert_eq!(record.events.iter().map(|e| e.count).collect::<Vec<_>>(), [40, 40, 0]);
    }

    #[test]
    fn nobody_reports_in_the_name_of_another() {
        let foreign = types::Event {
            sequence: 1,
            source: "projects/p/nodes/other".to_owned(),
            boot_id: "other".to_owned(),
            regarding: "projects/q/apps/a".to_owned(),
            ..types::Event::default()
        };
        let mut lie = instance(1, "");
        lie.node = "projects/p/nodes/other".to_owned();
        let report = pb::Report { events: vec![foreign], instances: vec![lie], ..pb::Report::default() };
        let merged = merge(&StatusRecord::default(), &EventsRecord::default(), &change(report));
        let event = &merged.events.unwrap().events[0];
        assert_eq!(
            (event.source.as_str(), event.boot_id.as_str(), event.regarding.as_str()),
            (NODE, "b", NODE)
        );
        assert_eq!(merged.status.unwrap().instances[0].node, NODE);
    }

    #[test]
    fn a_status_always_fits_into_the_store() {
        let long = "€".repeat(2000);
        let mut instances: Vec<_> = (0..limits::INSTANCES_MAX).map(|name| instance(name, &long)).collect();
        for instance in &mut instances {
            instance.runtime_id.clone_from(&long);
            instance.reason.clone_from(&long);
        }
        let report = pb::Report { instances, ..pb::Report::default() };
        let status =
            merge(&StatusRecord::default(), &EventsRecord::default(), &change(report)).status.unwrap();
        assert!(status.encoded_len() <= limits::STATUS_BYTES_MAX);
        assert_eq!(status.instances.len(), limits::INSTANCES_MAX, "sentences go before instances do");
    }

    #[test]
    fn images_are_merged_by_id_and_bounded() {
        let image = |n: usize, state: types::ImageState| types::ImageStatus {
            id: format!("{n:016x}"),
            state: state.into(),
            message: "x".repeat(9999),
            ..types::ImageStatus::default()
        };
        let (fetching, present) = (types::ImageState::Fetching, types::ImageState::Present);
        let told = |report: &pb::Report, status: &StatusRecord| {
            let merged = merge(status, &EventsRecord::default(), &change(report.clone()));
            merged.status.unwrap_or_else(|| status.clone())
        };
        let first = pb::Report { images: vec![image(1, fetching), image(2, present)], ..Default::default() };
        let status = told(&first, &StatusRecord::default());
        assert_eq!(told(&first, &status), status, "told again it changes nothing");
        assert_eq!(status.images[0].message.len(), limits::INSTANCE_MESSAGE_BYTES_MAX);
        let second = pb::Report {
            images: vec![image(1, present)],
            removed_images: vec![image(2, present).id],
            ..Default::default()
        };
        let status = told(&second, &status);
        let ids: Vec<_> = status.images.iter().map(|image| (image.id.as_str(), image.state())).collect();
        assert_eq!(ids, [("0000000000000001", present)]);
        // A report of something else leaves them, a full one does not.
        let other = pb::Report { instances: vec![instance(1, "")], ..Default::default() };
        assert_eq!(told(&other, &status).images, status.images);
        assert_eq!(told(&pb::Report { full: true, ..Default::default() }, &status).images, []);
        let many = (0..99).map(|n| image(n, fetching)).collect();
        assert_eq!(told(&pb::Report { images: many, ..Default::default() }, &status).images.len(), 32);
    }

    #[test]
    fn the_digest_is_of_what_was_reported_only() {
        let status = StatusRecord { instances: vec![instance(1, "")], ..StatusRecord::default() };
        let acknowledged = StatusRecord { acknowledged_revision: 7, ..status.clone() };
        assert_eq!(status_digest(&status), status_digest(&acknowledged));
        assert_ne!(status_digest(&status), status_digest(&StatusRecord::default()));
    }
}
