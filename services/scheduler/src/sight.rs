//! Which nodes count as lost: nobody has reached them for as long as their cluster's `failoverAfter` says, and it was not the control plane that lost
//! sight of them. Pure: who asks says what time it is.
//!
//! What counts is what this process has seen since it started. Where many go out of sight together, the fault is taken for the control plane's, and none of them
//! counts as lost before it has been back.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::time::{Duration, Instant};

use skerry_model::NodeName;

/// Nodes that go within this time of each other go together. A dead link is noticed within 65 s, at any time in these.
const TOGETHER: Duration = Duration::from_secs(120);
/// So many that go together are no reason to think of the control plane, in however small a project.
const FEW: usize = 3;
/// In a large one, one of so many.
const FEW_OF: usize = 10;

/// What is known of the way to a node.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Contact {
    /// It is connected.
    Connected,
    /// It was, and is not.
    Broken,
    /// It never was.
    Never,
}

/// Which nodes of a project are out of sight.
#[derive(Debug, Clone, Default)]
pub(crate) struct Sight {
    away: BTreeMap<NodeName, Away>,
    /// When nodes went out of sight, whether they are back or not, as far back as it matters.
    went: VecDeque<Instant>,
    lost: BTreeSet<NodeName>,
}

#[derive(Debug, Clone, Copy)]
struct Away {
    since: Instant,
    contact: Contact,
    /// It went with many.
    excused: bool,
}

impl Sight {
    /// Whether a node counted as lost at the last look.
    pub(crate) fn is_lost(&self, node: &NodeName) -> bool {
        self.lost.contains(node)
    }

    /// Looks at every node of the project, with the time after which it counts as lost.
    pub(crate) fn look<'a>(
        &mut self,
        now: Instant,
        nodes: impl Iterator<Item = (&'a NodeName, Contact, Duration)>,
    ) {
        let mut connected = 0;
        let mut patience = BTreeMap::new();
        for (node, contact, after) in nodes {
            if contact == Contact::Connected {
                connected += 1;
                continue;
            }
            patience.insert(node, after);
            let before = self.away.get(node).map(|away| away.contact);
            if before != Some(contact) {
                self.away.insert(node.clone(), Away { since: now, contact, excused: false });
                self.went.extend((contact == Contact::Broken).then_some(now));
            }
        }
        self.away.retain(|node, _| patience.contains_key(node));
        self.excuse(now, connected);
        let is_lost = |(node, away): &(&NodeName, &Away)| {
            let gone = now.saturating_duration_since(away.since);
            !away.excused && patience.get(*node).is_some_and(|after| gone >= *after)
        };
        self.lost = self.away.iter().filter(is_lost).map(|(node, _)| node.clone()).collect();
    }

    /// Excuses who went with many. Of what went longer ago nothing is learnt any more.
    fn excuse(&mut self, now: Instant, connected: usize) {
        let age = |at: Instant| now.saturating_duration_since(at);
        while self.went.front().is_some_and(|at| age(*at) > 2 * TOGETHER) {
            self.went.pop_front();
        }
        let recent = self.away.values_mut().filter(|away| age(away.since) <= TOGETHER);
        for away in recent.filter(|away| away.contact == Contact::Broken) {
            let until = self.went.partition_point(|at| *at <= away.since + TOGETHER);
            let group = until - self.went.partition_point(|at| *at + TOGETHER < away.since);
            let in_sight = connected + group;
            away.excused |= 2 * group > in_sight || group > FEW.max(in_sight / FEW_OF);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const AFTER: Duration = Duration::from_secs(300);

    struct Fleet {
        sight: Sight,
        now: Instant,
        nodes: BTreeMap<NodeName, Contact>,
    }

    impl Fleet {
        fn new(count: usize) -> Self {
            let nodes = (0..count).map(|n| (name(n), Contact::Connected)).collect();
            let mut fleet = Self { sight: Sight::default(), now: Instant::now(), nodes };
            fleet.later(0);
            fleet
        }

        /// So many seconds pass, with a look every five.
        fn later(&mut self, seconds: u64) -> Vec<String> {
            for _ in 0..seconds / 5 {
                self.now += Duration::from_secs(5);
                self.look();
            }
            self.look();
            self.sight.lost.iter().map(ToString::to_string).collect()
        }

        fn look(&mut self) {
            self.sight.look(self.now, self.nodes.iter().map(|(name, contact)| (name, *contact, AFTER)));
        }

        fn set(&mut self, numbers: std::ops::Range<usize>, contact: Contact) {
            for n in numbers {
                self.nodes.insert(name(n), contact);
            }
        }
    }

    fn name(n: usize) -> NodeName {
        NodeName::parse(&format!("n{n:03}")).unwrap()
    }

    #[test]
    fn one_that_stays_away_is_lost_and_found_when_it_is_back() {
        for count in [2, 3, 50] {
            let mut fleet = Fleet::new(count);
            fleet.set(0..1, Contact::Broken);
            assert!(fleet.later(295).is_empty());
            assert_eq!(fleet.later(10), ["n000"], "of {count}");
            fleet.set(0..1, Contact::Connected);
            assert!(fleet.later(0).is_empty());
            // Its time begins anew.
            fleet.set(0..1, Contact::Broken);
            assert!(fleet.later(295).is_empty());
        }
    }

    #[test]
    fn none_is_lost_when_many_vanish_together() {
        for (count, vanish) in [(1, 1), (2, 2), (3, 2), (5, 3), (20, 4), (100, 11), (100, 100)] {
            let mut fleet = Fleet::new(count);
            // Not in one moment: links are found dead one after another.
            for n in 0..vanish {
                fleet.set(n..n + 1, Contact::Broken);
                fleet.later(60 / vanish as u64);
            }
            assert!(fleet.later(24 * 3600).is_empty(), "{vanish} of {count}");
        }
        for (count, vanish) in [(3, 1), (5, 2), (20, 3), (100, 10)] {
            let mut fleet = Fleet::new(count);
            fleet.set(0..vanish, Contact::Broken);
            assert_eq!(fleet.later(400).len(), vanish, "{vanish} of {count}");
        }
    }

    #[test]
    fn those_that_are_back_first_do_not_make_the_others_lost() {
        let mut fleet = Fleet::new(100);
        fleet.set(0..50, Contact::Broken);
        fleet.later(60);
        fleet.set(2..50, Contact::Connected);
        assert!(fleet.later(3600).is_empty());
        // Once one of them was back, it can be lost like any other.
        fleet.set(0..1, Contact::Connected);
        fleet.later(600);
        fleet.set(0..1, Contact::Broken);
        assert_eq!(fleet.later(400), ["n000"]);
    }

    #[test]
    fn those_that_went_long_before_count_for_nothing() {
        let mut fleet = Fleet::new(20);
        for n in 0..8 {
            fleet.set(n..n + 1, Contact::Broken);
            fleet.later(600);
        }
        assert_eq!(fleet.later(0).len(), 8);
        // With those alone there is nobody in sight.
        let mut fleet = Fleet::new(4);
        fleet.set(0..2, Contact::Broken);
        fleet.later(600);
        fleet.set(2..4, Contact::Broken);
        assert_eq!(fleet.later(600), ["n000", "n001"]);
    }

    #[test]
    fn at_the_start_many_that_are_away_are_nobodys_loss_and_one_that_never_came_is_one() {
        let mut fleet = Fleet { nodes: BTreeMap::new(), sight: Sight::default(), now: Instant::now() };
        fleet.set(0..10, Contact::Connected);
        fleet.set(10..14, Contact::Broken);
        fleet.set(20..40, Contact::Never);
        let lost = fleet.later(600);
        assert_eq!((lost.len(), lost[0].as_str()), (20, "n020"));
        fleet.nodes.clear();
        assert!(fleet.later(0).is_empty());
    }
}
