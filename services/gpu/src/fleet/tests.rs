//! Nodes with real encoders, over links and a history that fail in every order.

use std::collections::BTreeMap;

use proptest::prelude::*;
use skerry_gpu_model::{Encoder, Event};
use skerry_proto::gpu::v1::keyframe::Reason;

use super::*;

const NODE: &str = "projects/p/nodes/n";
const BEGIN: i64 = 1_800_000_000_000;

/// An agent, a gateway's session, and what history was told.
struct Stage {
    fleet: Fleet,
    cell: Arc<Cell>,
    said: mpsc::Receiver<pb::IngestFeedback>,
    session: u64,
    encoder: Encoder,
    now: i64,
    on_disk: Marks,
    /// By field, as history has it.
    history: BTreeMap<u32, i64>,
    /// Time of the last sample that history has.
    last: Option<i64>,
    /// Samples came since that it had no room for.
    owes_gap: bool,
}

fn open(fleet: &Fleet, id: u64, epoch: i64) -> Option<(Arc<Cell>, mpsc::Receiver<pb::IngestFeedback>)> {
    let (to, said) = mpsc::channel(64);
    let session = pb::IngestSession {
        handle: 1,
        node: NODE.into(),
        epoch_term: 1,
        epoch_revision: epoch,
        ..pb::IngestSession::default()
    };
    fleet.open(&session, id, &to).map(|cell| (cell, said))
}

impl Stage {
    fn new() -> Self {
        let fleet = Fleet::default();
        let (cell, said) = open(&fleet, 1, 1).unwrap();
        let mut encoder = Encoder::new(7, "boot");
        encoder.set_devices(vec![pb::Device { uuid: "GPU-1".into(), ..pb::Device::default() }]).unwrap();
        let on_disk = Marks::new(NODE);
        Self {
            fleet,
            cell,
            said,
            session: 1,
            encoder,
            now: BEGIN,
            on_disk,
            history: BTreeMap::new(),
            last: None,
            owes_gap: false,
        }
    }

    /// A second passes, and what was read may reach the service; whether history has room then.
    fn second(&mut self, value: i64, arrives: bool, room: bool) {
        self.now += 1000;
        let mut sample = Sample::absent(skerry_gpu_model::Absent::NotSupported);
        sample.set(Field::GpuUtilization, Ok(value * 10));
        sample.set(Field::Temperature, Ok(40 + value / 4));
        let Some(frame) = self.encoder.encode(self.now, &[sample]).filter(|_| arrives) else { return };
        let (mut notes, frames) = (Vec::new(), self.cell.lock().frames);
        if room {
            self.cell.lock().take(self.session, &frame, self.now, &mut notes);
        } else {
            self.cell.lock().take_without_room(self.session, &frame, self.now);
        }
        if self.cell.lock().frames == frames {
            // It asks at most once a second of real time; here none passes.
            self.encoder.begin_anew(Reason::Asked);
        } else if !room {
            self.owes_gap |= !self.history.is_empty();
        }
        self.note(notes);
        self.hear();
    }

    fn note(&mut self, notes: Vec<Note>) {
        for note in notes {
            match note {
                Note::Gap(_, from) => {
                    let in_time = self.last.is_none_or(|last| from.unix_ms() <= last);
                    assert!(in_time || self.history.is_empty(), "the gap begins too late");
                    self.history.clear();
                    self.owes_gap = false;
                }
                Note::Refused => panic!("the clock goes on, and there are few GPUs"),
                Note::Sample(_, time, values) => {
                    assert!(!self.owes_gap, "history holds what was before samples that it did not get");
                    assert!(self.last.is_none_or(|last| last <= time.unix_ms()), "out of order");
                    self.last = Some(time.unix_ms());
                    for (field, value) in values {
                        match value {
                            Some(value) => drop(self.history.insert(field.0, value)),
                            None => drop(self.history.remove(&field.0)),
                        }
                    }
                    let node = self.cell.lock();
                    let (_, mut places) = node.now().unwrap();
                    let known = places.next().unwrap().2.iter();
                    let known = known.filter_map(|(field, now)| Some((field.to_wire() as u32, now.ok()?)));
                    assert_eq!(known.collect::<BTreeMap<_, _>>(), self.history);
                }
            }
        }
    }

    fn hear(&mut self) {
        while let Ok(feedback) = self.said.try_recv() {
            let feedback = pb::Feedback::decode(feedback.feedback).unwrap();
            assert!(feedback.events_through <= self.on_disk.events_known().map_or(0, |known| known.sequence));
            self.encoder.feedback(&feedback);
        }
    }

    fn save(&mut self) {
        self.on_disk = self.cell.lock().kept();
        self.cell.lock().saved(&self.on_disk);
        self.hear();
    }

    fn session_anew(&mut self) {
        self.session += 1;
        let epoch = self.session.cast_signed();
        (self.cell, self.said) = open(&self.fleet, self.session, epoch).unwrap();
    }

    /// The service is killed: it knows what is on disk, and history has what it was told.
    fn killed(&mut self) {
        self.fleet = Fleet::with(vec![self.on_disk.clone()]);
        self.session_anew();
        // History begins a new block after a start: nothing holds over it.
        self.history.clear();
        self.owes_gap = false;
    }
}

#[derive(Debug, Clone)]
enum Step {
    Second { value: i64, arrives: bool, room: bool },
    Xid(u32),
    Save,
    Session,
    Killed,
}

fn step() -> impl Strategy<Value = Step> {
    let chance = |of: f64| proptest::bool::weighted(of);
    prop_oneof![
        12 => (0_i64..10, chance(0.85), chance(0.75))
            .prop_map(|(value, arrives, room)| Step::Second { value, arrives, room }),
        2 => (1_u32..4).prop_map(Step::Xid),
        2 => Just(Step::Save),
        1 => Just(Step::Session),
        1 => Just(Step::Killed),
    ]
}

proptest! {
    #[test]
    fn history_is_as_sampled_or_has_a_gap_and_each_error_counts_once(steps in prop::collection::vec(step(), 1..80)) {
        let mut stage = Stage::new();
        let mut told = BTreeMap::<u32, u64>::new();
        for step in steps {
            match step {
                Step::Second { value, arrives, room } => stage.second(value, arrives, room),
                Step::Xid(code) => {
                    stage.encoder.event(stage.now, "GPU-1", &Event::xid(code));
                    *told.entry(code).or_default() += 1;
                }
                Step::Save => stage.save(),
                Step::Session => stage.session_anew(),
                Step::Killed => stage.killed(),
            }
        }
        // At last all is well for a while.
        for value in 0..3 {
            stage.second(value, true, true);
        }
        stage.save();
        let counts = stage.on_disk.xids.iter().map(|one| (one.code, one.count));
        prop_assert_eq!(counts.collect::<BTreeMap<_, _>>(), told);
        prop_assert_eq!(stage.encoder.events_waiting(), 0);
    }
}

#[test]
fn one_gap_is_kept_of_all_samples_that_history_had_no_room_for() {
    let mut stage = Stage::new();
    stage.second(1, true, true);
    for value in 2..7 {
        stage.second(value, true, false);
    }
    assert!(stage.cell.lock().marks.gaps.is_empty());
    stage.second(7, true, true);
    let gap = pb::Gap {
        start_time: Some(timestamp(BEGIN + 1000)),
        end_time: Some(timestamp(BEGIN + 7000)),
        cause: Cause::Dropped.into(),
    };
    assert_eq!(stage.cell.lock().marks.gaps, [gap]);
    // Who follows samples had them all.
    assert_eq!(stage.cell.lock().happenings(), 0);
}

#[test]
fn an_older_session_is_passed_over_and_a_newer_one_takes_over() {
    let fleet = Fleet::default();
    let (cell, _said) = open(&fleet, 1, 5).unwrap();
    assert!(open(&fleet, 2, 4).is_none());
    let _newer = open(&fleet, 3, 6).unwrap();
    // The end of the first one is not the node's any more.
    cell.lock().close(1);
    assert!(cell.lock().is_ours());
    let mut encoder = Encoder::new(7, "boot");
    encoder.set_devices(vec![pb::Device { uuid: "GPU-1".into(), ..pb::Device::default() }]).unwrap();
    let frame = encoder.encode(BEGIN, &[Sample::new()]).unwrap();
    cell.lock().take(1, &frame, BEGIN, &mut Vec::new());
    assert_eq!(cell.lock().frames, 0);
    cell.lock().take(3, &frame, BEGIN, &mut Vec::new());
    assert_eq!(cell.lock().frames, 1);
    cell.lock().close(3);
    assert!(!cell.lock().is_ours());
}

#[test]
fn a_clock_that_is_far_ahead_is_not_believed_and_one_that_is_set_back_loses_nothing_for_later() {
    let mut stage = Stage::new();
    let real = stage.now;
    let mut notes = Vec::new();
    let frame = |stage: &mut Stage, at: i64, value: i64| {
        let mut sample = Sample::new();
        sample.set(Field::Temperature, Ok(value));
        stage.encoder.encode(at, &[sample]).unwrap()
    };
    let first = frame(&mut stage, real + 2 * AHEAD_MAX_MILLIS, 40);
    stage.cell.lock().take(1, &first, real, &mut notes);
    assert_eq!(stage.cell.lock().now().unwrap().0, real);
    assert!(matches!(notes[..], [Note::Sample(_, time, _)] if time.unix_ms() == real));
    notes.clear();
    // Set back by more than was right: history takes nothing from before, and then all, with a gap between.
    let second = frame(&mut stage, real - 5000, 50);
    stage.cell.lock().take(1, &second, real + 1000, &mut notes);
    let at = |millis| Time::from_unix_ms(millis).unwrap();
    assert!(
        matches!(notes[..], [Note::Gap(_, from), Note::Refused] if from == at(real)),
        "nothing holds meanwhile: {notes:?}"
    );
    let gap = stage.cell.lock().open_gap_of_history().unwrap();
    assert_eq!((gap.start_time, gap.end_time), (Some(timestamp(real)), None));
    notes.clear();
    let again = frame(&mut stage, real - 4000, 60);
    stage.cell.lock().take(1, &again, real + 1500, &mut notes);
    assert_eq!(notes, [Note::Refused]);
    notes.clear();
    // Also where there is no room meanwhile, and over a restart.
    let again = frame(&mut stage, real - 3000, 70);
    stage.cell.lock().take_without_room(1, &again, real + 1600);
    assert_eq!(stage.cell.lock().kept().last, real);
    let third = frame(&mut stage, real + 2000, 90);
    stage.cell.lock().take(1, &third, real + 2000, &mut notes);
    let temperature = (skerry_series::Field(Field::Temperature.to_wire() as u32), Some(90));
    assert!(
        matches!(&notes[..], [Note::Gap(_, from), Note::Sample(_, _, values)] if *from == at(real) && values.contains(&temperature)),
        "{notes:?}"
    );
    let gap = pb::Gap {
        start_time: Some(timestamp(real)),
        end_time: Some(timestamp(real + 2000)),
        cause: Cause::Dropped.into(),
    };
    let node = stage.cell.lock();
    assert_eq!(node.marks.gaps, [gap]);
    assert_eq!(node.open_gap_of_history(), None);
    assert_eq!(node.happenings(), 0, "who follows samples had them all");
}

#[test]
fn a_link_that_is_lost_leaves_a_gap_also_where_the_clock_is_not_believed() {
    let mut stage = Stage::new();
    let (real, ahead) = (stage.now, 2 * AHEAD_MAX_MILLIS);
    let mut notes = Vec::new();
    let first = stage.encoder.encode(real + ahead, &[Sample::new()]).unwrap();
    stage.cell.lock().take(1, &first, real, &mut notes);
    stage.encoder.begin_anew(Reason::LinkRestored);
    let second = stage.encoder.encode(real + ahead + 60_000, &[Sample::new()]).unwrap();
    stage.cell.lock().take(1, &second, real + 60_000, &mut notes);
    assert!(
        matches!(notes[..], [Note::Sample(..), Note::Gap(_, from), Note::Sample(..)] if from.unix_ms() == real)
    );
    let times = |gap: &pb::Gap| (gap.start_time, gap.end_time);
    let gaps: Vec<_> = stage.cell.lock().marks.gaps.iter().map(times).collect();
    assert_eq!(gaps, [(Some(timestamp(real)), Some(timestamp(real + 60_000)))]);
}

#[test]
fn a_value_that_history_does_not_take_leaves_those_beside_it_alone() {
    let mut stage = Stage::new();
    let mut notes = Vec::new();
    let mut values = |power: i64, temperature: i64| {
        stage.now += 1000;
        let mut sample = Sample::new();
        sample.set(Field::Power, Ok(power));
        sample.set(Field::Temperature, Ok(temperature));
        let frame = stage.encoder.encode(stage.now, &[sample]).unwrap();
        notes.clear();
        stage.cell.lock().take(1, &frame, stage.now, &mut notes);
        let [Note::Sample(_, _, values)] = &notes[..] else { panic!("{notes:?}") };
        values.clone()
    };
    let number = |field: Field| skerry_series::Field(field.to_wire() as u32);
    let (power, temperature) = (number(Field::Power), number(Field::Temperature));
    assert_eq!(values(1000, 40), [(temperature, Some(40)), (power, Some(1000))]);
    assert_eq!(values(i64::MAX, 50), [(temperature, Some(50)), (power, None)]);
    assert_eq!(values(2000, 50), [(power, Some(2000))]);
    assert_eq!(values(i64::MIN, 50), [(power, None)]);
}
