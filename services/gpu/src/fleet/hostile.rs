//! Nodes that do all they can: what they have of the service has bounds.

use skerry_gpu_model::{DEVICES_MAX, EVENTS_MAX};
use skerry_proto::gpu::v1::keyframe::Reason;

use super::*;

const NODE: &str = "projects/p/nodes/n";
const BEGIN: i64 = 1_800_000_000_000;

fn open(fleet: &Fleet, node: &str, id: u64, room: usize) -> (Arc<Cell>, mpsc::Receiver<pb::IngestFeedback>) {
    let (to, said) = mpsc::channel(room);
    let session = pb::IngestSession { handle: 1, node: node.into(), ..pb::IngestSession::default() };
    (fleet.open(&session, id, &to).unwrap(), said)
}

/// A keyframe of devices whose UUIDs begin with this.
fn keyframe(sequence: u32, uuid: &str, devices: usize, parts: usize) -> pb::Frame {
    let part = |device: usize, part: usize| pb::MigDevice {
        uuid: format!("MIG-{uuid}-{device}-{part}"),
        ..pb::MigDevice::default()
    };
    let device = |at: usize| pb::Device {
        uuid: format!("{uuid}-{at}"),
        mig_devices: (0..parts).map(|number| part(at, number)).collect(),
        ..pb::Device::default()
    };
    let keyframe = pb::Keyframe {
        reason: Reason::LinkRestored.into(),
        time_unix_millis: BEGIN + i64::from(sequence) * 1000,
        boot_id: "boot".into(),
        devices: (0..devices).map(device).collect(),
    };
    pb::Frame { stream: 7, sequence, keyframe: Some(keyframe), ..pb::Frame::default() }
}

fn events(from: u64, count: usize) -> Vec<pb::FrameEvent> {
    let event = |sequence| pb::FrameEvent {
        sequence,
        time_unix_millis: i64::MAX,
        kind: Some(pb::frame_event::Kind::Xid(pb::XidEvent {
            code: u32::try_from(sequence).unwrap(),
            ..pb::XidEvent::default()
        })),
        ..pb::FrameEvent::default()
    };
    (from..).take(count).map(event).collect()
}

#[test]
fn a_node_whose_gpus_are_others_each_time_has_a_bounded_part_of_history() {
    let fleet = Fleet::default();
    let (cell, _said) = open(&fleet, NODE, 1, 8);
    let mut groups = HashSet::new();
    let (mut sequence, mut refused) = (0, 0);
    let mut take = |uuid: &str| {
        sequence += 1;
        let (mut notes, frame) = (Vec::new(), keyframe(sequence, uuid, DEVICES_MAX, 3));
        cell.lock().take(1, &frame, BEGIN + 1_000_000, &mut notes);
        let before = groups.len();
        for note in notes {
            match note {
                Note::Sample(group, ..) => drop(groups.insert(group)),
                Note::Refused => refused += 1,
                Note::Gap(..) => {}
            }
        }
        groups.len() - before
    };
    for uuid in 0..4 {
        assert_eq!(take(&uuid.to_string()), PLACES_MAX);
    }
    for uuid in 4..10 {
        assert_eq!(take(&uuid.to_string()), 0);
    }
    // Those of before are kept on.
    assert_eq!(take("1"), 0);
    assert_eq!((groups.len(), refused), (GROUPS_MAX, 6 * PLACES_MAX));
}

#[test]
fn a_flood_of_events_is_counted_and_not_all_of_it_is_told() {
    let fleet = Fleet::default();
    let (cell, _said) = open(&fleet, NODE, 1, 8);
    let mut notes = Vec::new();
    let mut begin = keyframe(1, "GPU", 1, 0);
    begin.events = events(1, EVENTS_MAX);
    cell.lock().take(1, &begin, BEGIN, &mut notes);
    assert_eq!(cell.lock().happenings(), EVENTS_MAX as u64, "as many as an agent keeps are told at once");
    for number in 1..40_u32 {
        let events = events(u64::from(number) * 256 + 1, EVENTS_MAX);
        let frame =
            pb::Frame { stream: 7, sequence: number + 1, elapsed_millis: 1, events, ..pb::Frame::default() };
        cell.lock().take(1, &frame, BEGIN, &mut notes);
    }
    let node = cell.lock();
    // It does not take a second, or only a few.
    assert!(node.happenings() < 10 * u64::from(HAPPENINGS_PER_SECOND), "{}", node.happenings());
    assert!(node.happened.len() <= HAPPENED_MAX);
    assert_eq!((node.marks.xids.len(), node.marks.events.len()), (4096, 64));
    // Of a time that cannot be is told that it is now.
    assert!(node.marks.events.iter().all(|event| event.time == Some(timestamp(BEGIN))));
    assert_eq!(node.marks.events_known().unwrap().sequence, 40 * 256);
}

#[test]
fn who_repeats_events_without_end_leaves_room_for_what_is_said_to_others() {
    let fleet = Fleet::default();
    let (cell, mut said) = open(&fleet, NODE, 1, 4);
    let mut begin = keyframe(1, "GPU", 1, 0);
    begin.events = events(1, 1);
    cell.lock().take(1, &begin, BEGIN, &mut Vec::new());
    let on_disk = cell.lock().kept();
    cell.lock().saved(&on_disk);
    let feedback = said.try_recv().unwrap();
    assert_eq!(pb::Feedback::decode(feedback.feedback).unwrap().events_through, 1);
    for _ in 0..1_000 {
        cell.lock().take(1, &begin, BEGIN, &mut Vec::new());
    }
    assert!(said.len() < 4, "{} wait", said.len());
}

#[test]
fn a_keyframe_that_there_was_no_room_to_ask_for_is_asked_for_again() {
    let fleet = Fleet::default();
    let (cell, mut said) = open(&fleet, NODE, 1, 1);
    cell.lock().session.as_ref().unwrap().to.try_send(pb::IngestFeedback::default()).unwrap();
    let difference = |sequence| pb::Frame { stream: 7, sequence, ..pb::Frame::default() };
    cell.lock().take(1, &difference(2), BEGIN, &mut Vec::new());
    assert_eq!(said.try_recv().unwrap(), pb::IngestFeedback::default());
    cell.lock().take(1, &difference(3), BEGIN, &mut Vec::new());
    let feedback = said.try_recv().expect("it is asked");
    assert!(pb::Feedback::decode(feedback.feedback).unwrap().keyframe);
}

#[test]
fn events_of_a_kind_that_nobody_here_knows_are_acknowledged() {
    let fleet = Fleet::default();
    let (cell, mut said) = open(&fleet, NODE, 1, 4);
    let mut begin = keyframe(1, "GPU", 1, 0);
    begin.events = vec![pb::FrameEvent { sequence: 3, ..pb::FrameEvent::default() }];
    cell.lock().take(1, &begin, BEGIN, &mut Vec::new());
    assert!(cell.lock().unsaved());
    let on_disk = cell.lock().kept();
    cell.lock().saved(&on_disk);
    let feedback = said.try_recv().expect("it is acknowledged");
    assert_eq!(pb::Feedback::decode(feedback.feedback).unwrap().events_through, 3);
}

#[test]
fn of_too_many_nodes_those_give_way_that_are_away_for_longest() {
    let name = |number: usize| format!("projects/p/nodes/n{number}");
    let marks = (0..NODES_MAX).map(|number| {
        let mut marks = Marks::new(&name(number));
        marks.last = BEGIN + i64::try_from(number).unwrap();
        marks
    });
    let fleet = Fleet::with(marks.collect());
    let (_there, _said) = open(&fleet, &name(0), 1, 1);
    let (_new, _said) = open(&fleet, &name(NODES_MAX), 2, 1);
    assert!(fleet.get(&name(0)).is_some(), "it has a session");
    assert!(fleet.get(&name(NODES_MAX)).is_some());
    assert!(fleet.get(&name(1)).is_none());
    assert_eq!(fleet.all().len(), NODES_MAX - NODES_AT_ONCE + 1);
    // Where all have sessions no further one is taken.
    let kept: Vec<_> = fleet.all().iter().map(|cell| cell.lock().name.to_string()).collect();
    for (id, name) in (3..).zip(&kept) {
        open(&fleet, name, id, 1);
    }
    for number in 0..NODES_AT_ONCE {
        let (to, _said) = mpsc::channel(1);
        let node = format!("projects/p/nodes/more{number}");
        let session = pb::IngestSession { node, ..pb::IngestSession::default() };
        assert_eq!(fleet.open(&session, u64::MAX, &to).is_some(), number + 1 < NODES_AT_ONCE);
    }
    assert_eq!(fleet.all().len(), NODES_MAX);
}
