//! What an agent may speak of: its node, and what that node is assigned, was assigned in this session, or was known to have before it: instances, by name, and
//! images, by id. No id is the name of an instance.
//!
//! The rest of a report is taken out, or made to speak of the node, before it is committed. An event keeps its number by that, so that
//! counting and acknowledging them goes on. A state that is left out may be a true one of an instance that is about to be assigned:
//! then the agent has to say it again, in a session of its own.

use std::collections::{BTreeSet, VecDeque};

use skerry_proto::gateway::v1 as pb;
use skerry_proto::store::v1 as store;
use skerry_proto::types::v1 as types;

use crate::limits;

/// Names of instances, and ids of images, that were the node's and are not any more.
const FORMER_MAX: usize = 512;

#[derive(Debug, Clone)]
pub(super) struct Known {
    node: String,
    /// Oldest first.
    former: VecDeque<String>,
    /// Reported, and neither assigned nor known. Their states are not stored.
    withheld: BTreeSet<String>,
    /// More are withheld than are named.
    more: bool,
    corrected: u64,
}

impl Known {
    /// `reported`: instances and images in the stored status; each of them was admitted before.
    pub(super) fn new(node: String, reported: Vec<String>) -> Self {
        Self { node, former: reported.into(), withheld: BTreeSet::new(), more: false, corrected: 0 }
    }

    /// The assignment is another one. Answers whether something of what was left out is assigned now.
    pub(super) fn assignment_changed(
        &mut self,
        old: Option<&store::AssignmentRecord>,
        new: &store::AssignmentRecord,
    ) -> bool {
        let assigned = names(Some(new));
        for name in names(old).difference(&assigned) {
            self.former.retain(|former| former != name);
            self.former.push_back((*name).to_owned());
        }
        while self.former.len() > FORMER_MAX {
            self.former.pop_front();
        }
        self.withheld.iter().any(|name| assigned.contains(name.as_str()))
    }

    /// Leaves in `report` what this agent may say.
    pub(super) fn admit(&mut self, report: &mut pb::Report, assignment: Option<&store::AssignmentRecord>) {
        let mut known = names(assignment);
        known.extend(self.former.iter().map(String::as_str));
        if report.full {
            self.withheld.clear();
            self.more = false;
        }
        for name in report.removed_instances.iter().chain(&report.removed_images) {
            self.withheld.remove(name);
        }
        let instances = report.instances.iter().map(|one| &one.instance);
        let named = instances.chain(report.images.iter().map(|one| &one.id));
        for stranger in named.filter(|name| !known.contains(name.as_str())) {
            self.corrected += 1;
            // A longer one is no name of an instance.
            if stranger.len() > limits::NAME_BYTES_MAX {
                continue;
            }
            if self.withheld.len() < limits::INSTANCES_MAX {
                self.withheld.insert(stranger.clone());
            } else {
                self.more = true;
            }
        }
        report.instances.retain(|one| known.contains(one.instance.as_str()));
        report.images.retain(|one| known.contains(one.id.as_str()));
        for event in &mut report.events {
            if !is_about(event, &self.node, &known) {
                self.corrected += 1;
                correct(event, &self.node);
            }
        }
    }

    /// Whether something of what was reported is not stored.
    pub(super) fn is_withholding(&self) -> bool {
        self.more || !self.withheld.is_empty()
    }

    /// How many states were left out, and events made to speak of the node.
    pub(super) fn corrected(&self) -> u64 {
        self.corrected
    }
}

fn names(record: Option<&store::AssignmentRecord>) -> BTreeSet<&str> {
    let instances = record.into_iter().flat_map(|record| &record.instances).map(|one| one.instance.as_str());
    let images = record.into_iter().flat_map(|record| &record.images).map(|one| one.id.as_str());
    instances.chain(images).collect()
}

fn is_about(event: &types::Event, node: &str, known: &BTreeSet<&str>) -> bool {
    // Absent: about the node itself.
    if event.regarding == node || event.regarding.is_empty() {
        return true;
    }
    let project = node.split("/nodes/").next().unwrap_or_default();
    let rest = event.regarding.strip_prefix(project).and_then(|rest| rest.strip_prefix('/'));
    match rest.and_then(|rest| rest.split_once('/')) {
        Some(("instances", name)) => known.contains(name),
        Some(("apps", app)) => known.iter().any(|name| name.split('/').next() == Some(app)),
        _ => false,
    }
}

fn correct(event: &mut types::Event, node: &str) {
    let about = crate::merge::clipped(&event.regarding, limits::NAME_BYTES_MAX);
    event.message = format!("about {about}, which is not this node's: {}", event.message);
    node.clone_into(&mut event.regarding);
}

#[cfg(test)]
mod tests {
    use super::*;

    const NODE: &str = "projects/p/nodes/n";

    fn assignment(names: &[&str]) -> store::AssignmentRecord {
        let assigned = |name: &&str| store::AssignedInstance {
            instance: (*name).to_owned(),
            ..store::AssignedInstance::default()
        };
        let instances = names.iter().map(assigned).collect();
        store::AssignmentRecord { instances, ..Default::default() }
    }

    fn states(names: &[&str]) -> pb::Report {
        let state = |name: &&str| types::InstanceStatus {
            instance: (*name).to_owned(),
            ..types::InstanceStatus::default()
        };
        pb::Report { instances: names.iter().map(state).collect(), ..pb::Report::default() }
    }

    fn admitted(known: &mut Known, names: &[&str], assignment: &store::AssignmentRecord) -> Vec<String> {
        let mut report = states(names);
        known.admit(&mut report, Some(assignment));
        report.instances.into_iter().map(|state| state.instance).collect()
    }

    #[test]
    fn only_instances_that_are_or_were_the_node_s_are_believed() {
        let mut known = Known::new(NODE.to_owned(), vec!["old/s/n/0".to_owned()]);
        let first = assignment(&["a/s/n/0"]);
        assert_eq!(admitted(&mut known, &["a/s/n/0", "old/s/n/0"], &first), ["a/s/n/0", "old/s/n/0"]);
        assert!(!known.is_withholding());
        assert_eq!(admitted(&mut known, &["a/s/n/0", "b/s/n/0"], &first), ["a/s/n/0"]);
        assert!(known.is_withholding());

        // What was assigned in this session is still heard of while it ends.
        let second = assignment(&["c/s/n/0"]);
        assert!(!known.assignment_changed(Some(&first), &second));
        assert_eq!(admitted(&mut known, &["a/s/n/0"], &second), ["a/s/n/0"]);
        // What was left out has to be said again once it is assigned.
        assert!(known.assignment_changed(Some(&second), &assignment(&["b/s/n/0"])));
    }

    #[test]
    fn only_images_that_are_assigned_are_believed() {
        let image = |id: &str| types::ImageStatus { id: id.to_owned(), ..types::ImageStatus::default() };
        let assigned = |ids: &[&str]| {
            let one = |id: &&str| store::AssignedImage { id: (*id).to_owned(), ..Default::default() };
            store::AssignmentRecord { images: ids.iter().map(one).collect(), ..Default::default() }
        };
        let mut known = Known::new(NODE.to_owned(), Vec::new());
        let said = pb::Report { images: vec![image("a"), image("b")], ..Default::default() };
        let mut report = said.clone();
        known.admit(&mut report, Some(&assigned(&["a"])));
        assert_eq!(report.images, [image("a")]);
        assert!(known.is_withholding());
        assert!(known.assignment_changed(Some(&assigned(&["a"])), &assigned(&["b"])), "say it again");
        let mut report = said.clone();
        known.admit(&mut report, Some(&assigned(&["b"])));
        assert_eq!(report.images, said.images, "what was assigned is heard of while it ends");
    }

    #[test]
    fn what_is_left_out_is_forgotten_when_the_agent_takes_it_back() {
        let mut known = Known::new(NODE.to_owned(), Vec::new());
        let none = assignment(&[]);
        assert!(admitted(&mut known, &["b/s/n/0"], &none).is_empty());
        let gone = pb::Report { removed_instances: vec!["b/s/n/0".to_owned()], ..pb::Report::default() };
        known.admit(&mut gone.clone(), Some(&none));
        assert!(!known.is_withholding());
    }

    #[test]
    fn names_are_bounded_whatever_an_agent_says() {
        let mut known = Known::new(NODE.to_owned(), Vec::new());
        let none = assignment(&[]);
        for name in 0..3 * limits::INSTANCES_MAX {
            known.admit(&mut states(&[&format!("a/s/n/{name}"), &"x".repeat(100_000)]), Some(&none));
        }
        assert_eq!(known.withheld.len(), limits::INSTANCES_MAX);
        assert!(known.more);
        for name in 0..3 * FORMER_MAX {
            known.assignment_changed(Some(&assignment(&[&format!("a/s/n/{name}")])), &none);
        }
        assert_eq!(known.former.len(), FORMER_MAX);
        known.admit(&mut pb::Report { full: true, ..pb::Report::default() }, Some(&none));
        assert!(!known.is_withholding(), "a full report says it all anew");
    }

    #[test]
    fn an_event_about_what_is_not_the_node_s_becomes_one_about_the_node_and_keeps_its_number() {
        let mut known = Known::new(NODE.to_owned(), Vec::new());
        let mine = assignment(&["a/s/n/0"]);
        let regarding = |regarding: &str| {
            let event = types::Event {
                regarding: regarding.to_owned(),
                message: "it ended".to_owned(),
                sequence: 7,
                ..types::Event::default()
            };
            let mut report = pb::Report { events: vec![event], ..pb::Report::default() };
            known.admit(&mut report, Some(&mine));
            let event = report.events.remove(0);
            assert_eq!(event.sequence, 7);
            (event.regarding, event.message)
        };
        let mut regarding = regarding;
        for own in [NODE, "projects/p/instances/a/s/n/0", "projects/p/apps/a"] {
            assert_eq!(regarding(own), (own.to_owned(), "it ended".to_owned()));
        }
        let foreign = [
            "projects/p/nodes/other",
            "projects/p/instances/b/s/n/0",
            "projects/p/apps/b",
            "projects/q/apps/a",
            "projects/p/instances/a/s/n",
        ];
        for foreign in foreign {
            let message = format!("about {foreign}, which is not this node's: it ended");
            assert_eq!(regarding(foreign), (NODE.to_owned(), message));
        }
        assert_eq!(known.corrected(), 5);
    }
}
