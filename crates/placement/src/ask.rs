//! Questions about a solution: what a node would take, what room it has, what changes would make of it. They change nothing.

use std::collections::BTreeSet;

use skerry_model::{AppName, NodeName, ServiceName};

use crate::books::Books;
use crate::reach::Reach;
use crate::reason::Reason;
use crate::solution::{Solution, apply};
use crate::state::{Delta, State};
use crate::want::Want;

/// What is free on a node once it has all that it shall have. Absent: the machine has not told how much it has.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Room {
    /// Thousandths of a processor.
    pub cpu_millis: Option<u64>,
    /// Bytes.
    pub memory_bytes: Option<u64>,
}

impl State {
    /// Why a node would not take another instance of a service beside all that it shall have, whatever its cluster wants. Absent: it would, or
    /// there is no such node, app or service, or the app does not go to the node's cluster.
    pub fn refusal(
        &self,
        solution: &Solution,
        app: &AppName,
        service: &ServiceName,
        node: &NodeName,
    ) -> Option<Reason> {
        let cluster = self.cluster_of(node);
        let known = self.nodes.get(node)?;
        let wanted = self.apps.get(app)?.wanted(&cluster);
        let service = wanted.spec.service(service)?;
        let members = solution.get(&cluster)?.nodes.keys().filter_map(|member| self.nodes.get(member));
        let labels = self.labels_of(&cluster, node)?;
        let reach = Reach::of(app, &wanted.spec, labels, members.map(|member| &member.labels))?;
        let want = Want { name: app, app: wanted, reach, service, rank: 0, needs: Vec::new() };
        let lost = || known.lost.then_some(Reason::NodeLost);
        let mut books = Books::new(known, 1);
        for placed in self.plan_of(solution, node).into_iter().flatten() {
            books.insert(0, placed.clone());
        }
        let fits = || books.fit(&want.instance(&cluster, 0), &want).err();
        want.may_come_to(known).err().or_else(lost).or_else(|| want.lacks()).or_else(fits)
    }

    /// What is free on a node.
    pub fn room(&self, solution: &Solution, node: &NodeName) -> Room {
        let Some(known) = self.nodes.get(node) else { return Room::default() };
        let placed = || self.plan_of(solution, node).into_iter().flatten();
        let cpu: u64 = placed().filter_map(|placed| placed.booked.cpu_millis).sum();
        let memory: u64 = placed().filter_map(|placed| placed.booked.memory_bytes).sum();
        Room {
            cpu_millis: known.cpu_millis.map(|all| all.saturating_sub(cpu)),
            memory_bytes: known.memory_bytes.map(|all| all.saturating_sub(memory)),
        }
    }
}

/// The state and the solution after some changes, and the nodes whose plan they change.
pub fn preview(
    mut state: State,
    solution: &Solution,
    deltas: impl IntoIterator<Item = Delta>,
) -> (State, Solution, BTreeSet<NodeName>) {
    let mut after = solution.clone();
    let touched: Vec<BTreeSet<NodeName>> =
        deltas.into_iter().map(|delta| apply(&mut state, &mut after, delta).nodes).collect();
    let is_changed = |node: &NodeName| state.plan_of(solution, node) != state.plan_of(&after, node);
    let changed = touched.into_iter().flatten().filter(is_changed).collect();
    (state, after, changed)
}
