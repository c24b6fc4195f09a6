//! One node as the store tells of it: session, status, assignment, and what of that it has acknowledged.
//!
//! Where it is joined with apps and placement is `world`'s matter.

use std::sync::Arc;

use skerry_model::InstanceName;
use skerry_proto::store::v1 as stored;
use skerry_proto::types::v1::MachineStatus;

/// What is known of a node beyond what placement needs.
#[derive(Debug, Default)]
pub(crate) struct NodeView {
    /// Its last session.
    pub(crate) session: Option<stored::SessionRecord>,
    /// What it reported.
    pub(crate) status: Option<Arc<stored::StatusRecord>>,
    /// What it is assigned, and the modification revision of that.
    pub(crate) assignment: Option<(stored::AssignmentRecord, i64)>,
    /// What it was assigned when it last had acknowledged all of it, as far as this replica saw. Kept only until it has again.
    acknowledged_before: Vec<stored::AssignedInstance>,
}

impl NodeView {
    /// Takes in what it is assigned now.
    pub(crate) fn take_assignment(&mut self, assignment: Option<(stored::AssignmentRecord, i64)>) {
        let acknowledged = self.has_acknowledged_all();
        let before = std::mem::replace(&mut self.assignment, assignment);
        if acknowledged {
            self.acknowledged_before = before.map(|(record, _)| record.instances).unwrap_or_default();
        }
        self.forget_before();
    }

    /// Takes in what it reports now.
    pub(crate) fn take_status(&mut self, status: Option<Arc<stored::StatusRecord>>) {
        self.status = status;
        self.forget_before();
    }

    fn forget_before(&mut self) {
        if self.assignment.is_none() || self.status.is_none() || self.has_acknowledged_all() {
            self.acknowledged_before = Vec::new();
        }
    }

    /// Whether the node acknowledged all that it is assigned now. Terms only rise, and an acknowledgement names the one that it is of.
    fn has_acknowledged_all(&self) -> bool {
        let assigned = self.assignment.as_ref().map(|(_, revision)| *revision);
        let acknowledged = self.status.as_ref().map(|status| status.acknowledged_revision);
        matches!((assigned, acknowledged), (Some(assigned), Some(acknowledged)) if acknowledged >= assigned)
    }

    /// Whether the node acknowledged an instance as it is assigned now: a change of others, which it may not be able to take, does not
    /// make what it holds unknown.
    pub(crate) fn has_acknowledged(&self, instance: &InstanceName) -> bool {
        let name = instance.to_string();
        let of = |instances: &[stored::AssignedInstance]| {
            instances.iter().find(|one| one.instance == name).cloned()
        };
        let assigned = self.assignment.as_ref().and_then(|(record, _)| of(&record.instances));
        self.has_acknowledged_all() || (assigned.is_some() && assigned == of(&self.acknowledged_before))
    }

    /// What it reported of its machine.
    pub(crate) fn machine(&self) -> Option<&MachineStatus> {
        self.status.as_ref()?.machine.as_ref()
    }

    /// Whether nothing is known of it any more.
    pub(crate) fn is_bare(&self) -> bool {
        self.session.is_none() && self.status.is_none() && self.assignment.is_none()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn assignment(instances: &[(&str, &str)], revision: i64) -> (stored::AssignmentRecord, i64) {
        let one = |(instance, revision): &(&str, &str)| stored::AssignedInstance {
            instance: (*instance).to_owned(),
            revision: (*revision).to_owned(),
            ..Default::default()
        };
        let instances = instances.iter().map(one).collect();
        (stored::AssignmentRecord { instances, ..Default::default() }, revision)
    }

    fn acknowledged(revision: i64) -> Arc<stored::StatusRecord> {
        Arc::new(stored::StatusRecord { acknowledged_revision: revision, ..Default::default() })
    }

    #[test]
    fn what_a_node_holds_stays_acknowledged_while_it_cannot_take_a_change_of_others() {
        let name = |text| InstanceName::parse(text).unwrap();
        let (kept, changed) = (name("kept/a/n1/0"), name("changed/a/n1/0"));
        let mut view = NodeView::default();
        view.take_assignment(Some(assignment(&[("kept/a/n1/0", "r1"), ("changed/a/n1/0", "r1")], 5)));
        assert!(!view.has_acknowledged(&kept));
        view.take_status(Some(acknowledged(5)));
        assert!(view.has_acknowledged(&kept) && view.has_acknowledged(&changed));
        for (revision, of_changed) in [(6, "r2"), (7, "r3")] {
            view.take_assignment(Some(assignment(
                &[("kept/a/n1/0", "r1"), ("changed/a/n1/0", of_changed)],
                revision,
            )));
            assert!(view.has_acknowledged(&kept) && !view.has_acknowledged(&changed), "{revision}");
        }
        view.take_status(Some(acknowledged(7)));
        assert!(view.has_acknowledged(&changed));
        assert_eq!(view.acknowledged_before, [], "kept only as long as it is needed");
        // What was taken away and comes again is not held.
        view.take_assignment(Some(assignment(&[("changed/a/n1/0", "r3")], 8)));
        view.take_status(Some(acknowledged(8)));
        view.take_assignment(Some(assignment(&[("kept/a/n1/0", "r1"), ("changed/a/n1/0", "r3")], 9)));
        assert!(!view.has_acknowledged(&kept) && view.has_acknowledged(&changed));
    }
}
