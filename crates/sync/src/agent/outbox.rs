//! What the gateway is still to be told: keyed state, dirty until acknowledged, and a bounded ring of events.

use std::collections::{BTreeMap, VecDeque};

use skerry_proto::gateway::v1 as pb;
use skerry_proto::types::v1 as types;

use crate::limits;
use crate::merge;
use crate::repeat::{folded, repeats};
use crate::time::{MonoTime, WallTime};

/// What is reported under a key of its own. The last writer wins.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
enum Item {
    Machine,
    Instance(String),
    /// Of an image, by id.
    Image(String),
}

/// A report that was sent and not acknowledged.
#[derive(Debug, Clone)]
struct InFlight {
    sequence: u64,
    /// What it says, and the change that it said.
    items: Vec<(Item, u64)>,
    /// The last event that it carries.
    events_to: u64,
    full: bool,
}

#[derive(Debug, Clone)]
pub(super) struct Outbox {
    boot_id: String,
    node: String,
    machine: Option<types::MachineStatus>,
    instances: BTreeMap<String, types::InstanceStatus>,
    images: BTreeMap<String, types::ImageStatus>,
    /// What is not acknowledged, with the number of its last change. An instance that is dirty and not in `instances` is gone, and so is an
    /// image.
    dirty: BTreeMap<Item, u64>,
    changes: u64,
    /// Not acknowledged, oldest first.
    events: VecDeque<types::Event>,
    event_sequence: u64,
    /// Dropped by a full ring since the start.
    pub(super) dropped: u64,
    /// The last event that was ever sent. What was sent may be stored, and so is not changed any more.
    events_sent_to: u64,
    /// The last event that was acknowledged or dropped, and told as such.
    events_told_to: u64,
    /// The next report replaces all state.
    full: bool,
    open: bool,
    report_sequence: u64,
    in_flight: Option<InFlight>,
    /// When the next report would be due if they came evenly: `limits::REPORTS_BURST` may run ahead of it. (The generic cell rate
    /// algorithm, ITU-T I.371, annex A.)
    even: MonoTime,
}

impl Outbox {
    pub(super) fn new(boot_id: String, node: String) -> Self {
        Self {
            boot_id,
            node,
            machine: None,
            instances: BTreeMap::new(),
            images: BTreeMap::new(),
            dirty: BTreeMap::new(),
            changes: 0,
            events: VecDeque::new(),
            event_sequence: 0,
            dropped: 0,
            events_sent_to: 0,
            events_told_to: 0,
            full: false,
            open: false,
            report_sequence: 0,
            in_flight: None,
            even: MonoTime::default(),
        }
    }

    fn mark(&mut self, item: Item) {
        self.changes += 1;
        self.dirty.insert(item, self.changes);
    }

    pub(super) fn machine_changed(&mut self, mut machine: types::MachineStatus) {
        merge::clip_machine(&mut machine);
        if self.machine.as_ref() != Some(&machine) {
            self.machine = Some(machine);
            self.mark(Item::Machine);
        }
    }

    /// An instance beyond the bound is not reported: the gateway would refuse the whole report.
    pub(super) fn instance_changed(&mut self, mut instance: types::InstanceStatus) {
        merge::clip_instance(&mut instance);
        let known = self.instances.get(&instance.instance);
        if known == Some(&instance) || known.is_none() && self.instances.len() >= limits::INSTANCES_MAX {
            return;
        }
        let name = instance.instance.clone();
        self.instances.insert(name.clone(), instance);
        self.mark(Item::Instance(name));
    }

    pub(super) fn instance_gone(&mut self, name: &str) {
        if self.instances.remove(name).is_some() {
            self.mark(Item::Instance(name.to_owned()));
        }
    }

    /// An image beyond the bound is not reported, as an instance.
    pub(super) fn image_changed(&mut self, mut image: types::ImageStatus) {
        merge::clip_image(&mut image);
        let known = self.images.get(&image.id);
        if known == Some(&image) || known.is_none() && self.images.len() >= limits::IMAGES_MAX {
            return;
        }
        let id = image.id.clone();
        self.images.insert(id.clone(), image);
        self.mark(Item::Image(id));
    }

    pub(super) fn image_gone(&mut self, id: &str) {
        if self.images.remove(id).is_some() {
            self.mark(Item::Image(id.to_owned()));
        }
    }

    pub(super) fn raise(&mut self, mut event: types::Event, wall: WallTime) {
        event.boot_id.clone_from(&self.boot_id);
        event.time.get_or_insert_with(|| wall.to_proto());
        if event.source.is_empty() {
            event.source.clone_from(&self.node);
        }
        merge::clip_event(&mut event);
        let mut unsent = self.events.iter_mut().rev().take_while(|told| told.sequence > self.events_sent_to);
        if let Some(told) = unsent.find(|told| repeats(told, &event)) {
            event.sequence = told.sequence;
            *told = folded(told, event);
            return;
        }
        self.event_sequence += 1;
        event.sequence = self.event_sequence;
        if self.events.len() >= limits::EVENT_RING_MAX {
            self.events.pop_front();
            self.dropped += 1;
        }
        self.events.push_back(event);
    }

    pub(super) fn session_opened(&mut self, full: bool) {
        self.open = true;
        self.full = full;
        self.report_sequence = 0;
        self.in_flight = None;
    }

    /// What was in flight is dirty still.
    pub(super) fn session_lost(&mut self) {
        self.open = false;
        self.in_flight = None;
    }

    pub(super) fn is_empty(&self) -> bool {
        !self.full && self.in_flight.is_none() && self.dirty.is_empty() && self.events.is_empty()
    }

    /// Whether there is something to say that may be said. A full report waits until the machine has been looked at: it would
    /// wipe out what is known of it.
    pub(super) fn can_send(&self) -> bool {
        let something = self.full || !self.dirty.is_empty() || !self.events.is_empty();
        self.open && self.in_flight.is_none() && something && (!self.full || self.machine.is_some())
    }

    /// When the next report is due, if there is one.
    pub(super) fn due(&self) -> Option<MonoTime> {
        let ahead = limits::REPORT_INTERVAL * (limits::REPORTS_BURST - 1);
        self.can_send().then(|| self.even.saturating_sub(ahead))
    }

    /// The next report, which is in flight from now on.
    pub(super) fn report(&mut self, now: MonoTime) -> pb::Report {
        self.report_sequence += 1;
        self.even = self.even.max(now) + limits::REPORT_INTERVAL;
        let mut report =
            pb::Report { sequence: self.report_sequence, full: self.full, ..pb::Report::default() };
        if self.full {
            report.machine.clone_from(&self.machine);
            report.instances = self.instances.values().cloned().collect();
            report.images = self.images.values().cloned().collect();
        } else {
            for item in self.dirty.keys() {
                match item {
                    Item::Machine => report.machine.clone_from(&self.machine),
                    Item::Instance(name) => match self.instances.get(name) {
                        Some(instance) => report.instances.push(instance.clone()),
                        None => report.removed_instances.push(name.clone()),
                    },
                    Item::Image(id) => match self.images.get(id) {
                        Some(image) => report.images.push(image.clone()),
                        None => report.removed_images.push(id.clone()),
                    },
                }
            }
        }
        report.events = self.events.iter().take(limits::EVENTS_PER_REPORT_MAX).cloned().collect();
        self.events_sent_to = report.events.last().map_or(self.events_sent_to, |event| event.sequence);
        if let Some(first) = report.events.first() {
            report.events_dropped = first.sequence.saturating_sub(self.events_told_to + 1);
        }
        self.in_flight = Some(InFlight {
            sequence: report.sequence,
            items: self.dirty.iter().map(|(item, change)| (item.clone(), *change)).collect(),
            events_to: report.events.last().map_or(0, |event| event.sequence),
            full: report.full,
        });
        report
    }

    /// The report with this number is in the store. Whether it was the one in flight.
    pub(super) fn acknowledged(&mut self, sequence: u64) -> bool {
        let Some(done) = self.in_flight.take_if(|report| report.sequence == sequence) else { return false };
        for (item, change) in done.items {
            if self.dirty.get(&item) == Some(&change) {
                self.dirty.remove(&item);
            }
        }
        while self.events.front().is_some_and(|event| event.sequence <= done.events_to) {
            self.events.pop_front();
        }
        self.events_told_to = self.events_told_to.max(done.events_to);
        if done.full {
            self.full = false;
        }
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn raise(outbox: &mut Outbox, reason: &str, second: u64) {
        let event = types::Event { reason: reason.to_owned(), ..types::Event::default() };
        outbox.raise(event, WallTime::from_epoch(std::time::Duration::from_secs(second)));
    }

    fn told(report: &pb::Report) -> Vec<(&str, u64, u32)> {
        report.events.iter().map(|event| (event.reason.as_str(), event.sequence, event.count)).collect()
    }

    #[test]
    fn a_crash_loop_takes_two_places_of_the_ring_and_what_was_sent_is_not_changed() {
        let mut outbox = Outbox::new("b".to_owned(), "projects/p/nodes/n".to_owned());
        for second in 0..1000 {
            raise(&mut outbox, "Started", second);
            raise(&mut outbox, "Exited", second);
        }
        assert_eq!(outbox.dropped, 0);
        outbox.session_opened(false);
        let first = outbox.report(MonoTime::default());
        assert_eq!(told(&first), [("Started", 1, 1000), ("Exited", 2, 1000)]);
        assert_eq!(first.events[1].first_time.map(|time| time.seconds), Some(0));
        assert_eq!(first.events[1].time.map(|time| time.seconds), Some(999));

        // The acknowledgement is lost: what it held may be stored, and goes again as it went.
        raise(&mut outbox, "Exited", 1000);
        raise(&mut outbox, "Exited", 1001);
        outbox.session_lost();
        outbox.session_opened(false);
        let second = outbox.report(MonoTime::default());
        assert_eq!(second.events[..2], first.events);
        assert_eq!(told(&second)[2..], [("Exited", 3, 2)]);
        assert!(outbox.acknowledged(1));
        raise(&mut outbox, "Exited", 1002);
        assert_eq!(told(&outbox.report(MonoTime::default())), [("Exited", 4, 0)]);
    }

    #[test]
    fn images_are_told_by_id_until_they_are_acknowledged_and_no_more_of_them_than_the_bound() {
        let image = |n: usize, message: &str| types::ImageStatus {
            id: n.to_string(),
            message: message.to_owned(),
            ..types::ImageStatus::default()
        };
        let said = |report: &pb::Report| {
            let images = report.images.iter().map(|image| format!("{} {}", image.id, image.message));
            (images.collect::<Vec<_>>(), report.removed_images.clone())
        };
        let mut outbox = Outbox::new("b".to_owned(), "projects/p/nodes/n".to_owned());
        outbox.session_opened(false);
        outbox.image_changed(image(1, "a"));
        let first = outbox.report(MonoTime::default());
        assert_eq!(said(&first), (vec!["1 a".to_owned()], vec![]));
        // It changes while that is under way.
        outbox.image_changed(image(1, "b"));
        assert!(outbox.acknowledged(1));
        assert_eq!(said(&outbox.report(MonoTime::default())), (vec!["1 b".to_owned()], vec![]));
        assert!(outbox.acknowledged(2) && outbox.is_empty());
        outbox.image_changed(image(1, "b"));
        assert!(outbox.is_empty(), "that was told");
        outbox.image_gone("1");
        assert_eq!(said(&outbox.report(MonoTime::default())), (vec![], vec!["1".to_owned()]));
        for n in 0..2 * limits::IMAGES_MAX {
            outbox.image_changed(image(n, ""));
        }
        assert_eq!(outbox.images.len(), limits::IMAGES_MAX);
    }

    /// Says something at every moment that it may, and answers when that was.
    fn times_of_reports(outbox: &mut Outbox, from: MonoTime, count: u32) -> Vec<std::time::Duration> {
        let mut now = from;
        let mut times = Vec::new();
        for _ in 0..count {
            raise(outbox, "Started", 0);
            now = now.max(outbox.due().unwrap());
            times.push(now.saturating_since(from));
            let sequence = outbox.report(now).sequence;
            assert_eq!(outbox.due(), None, "one is in flight");
            assert!(outbox.acknowledged(sequence));
        }
        times
    }

    #[test]
    fn a_few_reports_go_at_once_and_then_one_in_each_interval() {
        let mut outbox = Outbox::new("b".to_owned(), "projects/p/nodes/n".to_owned());
        outbox.session_opened(false);
        let burst = limits::REPORTS_BURST;
        let hour = std::time::Duration::from_secs(3600);
        let expected: Vec<_> =
            (0..burst + 5).map(|report| limits::REPORT_INTERVAL * report.saturating_sub(burst - 1)).collect();
        for begin in [hour, hour * 2] {
            assert_eq!(times_of_reports(&mut outbox, MonoTime::from_origin(begin), burst + 5), expected);
        }
        // After a silence of two intervals, two.
        let begin = outbox.even.saturating_sub(limits::REPORT_INTERVAL * (burst - 2));
        let times = times_of_reports(&mut outbox, begin, 4);
        assert_eq!(times[..2], [std::time::Duration::ZERO; 2]);
        assert_eq!(times[2..], [limits::REPORT_INTERVAL, limits::REPORT_INTERVAL * 2]);
    }
}
