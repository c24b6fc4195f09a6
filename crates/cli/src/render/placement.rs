//! Placement for people: the way to instances, and what a change would change.

use std::fmt::Write as _;

use skerry_proto::scheduler::v1::instance_change::Change;
use skerry_proto::scheduler::v1::step::Outcome;
use skerry_proto::scheduler::v1::{ExplainAppResponse, PlanChangeResponse, Step};

use crate::render::colour::outcome;

/// As wide as the longest name of a step.
const NAME: usize = 10;
/// As wide as the longest word of an outcome.
const WORD: usize = 5;

/// The way to each instance, with what stops it first.
pub(crate) fn explained(app: &str, answer: &ExplainAppResponse, colour: bool) -> String {
    let counts = answer.counts.unwrap_or_default();
    let mut text = format!("{app} has {} of {} instances ready\n", counts.ready, counts.desired);
    for step in &answer.steps {
        line(&mut text, step, colour);
        if step.outcome() == Outcome::Stopped {
            let _ = writeln!(text, "         {:NAME$}  {}", "", step.message);
        }
    }
    for one in &answer.explanations {
        let node = one.node.rsplit('/').next().unwrap_or_default();
        text.push('\n');
        match (one.instance.as_str(), node) {
            ("", node) => _ = writeln!(text, "No instance of service {} on node {node}", one.service),
            (instance, "") => _ = writeln!(text, "{instance}, on no node"),
            (instance, node) => _ = writeln!(text, "{instance}, on node {node}"),
        }
        if let Some(step) = one.steps.iter().find(|step| step.outcome() == Outcome::Stopped) {
            let _ = writeln!(text, "  {}: {}", step.reason, step.message);
        }
        for step in &one.steps {
            line(&mut text, step, colour);
        }
    }
    if !answer.next_page_token.is_empty() {
        text.push_str("\nThere are more: --all shows every instance, -o json for programs.\n");
    }
    text
}

fn line(text: &mut String, step: &Step, colour: bool) {
    let (word, good) = match step.outcome() {
        Outcome::Passed => ("ok", Some(true)),
        Outcome::Stopped => ("stops", Some(false)),
        Outcome::NotReached | Outcome::Unspecified => ("-", None),
    };
    let shown = outcome(&format!("{word:WORD$}"), good.filter(|_| colour));
    let said = match step.outcome() {
        Outcome::Stopped => step.reason.as_str(),
        _ => step.message.as_str(),
    };
    let _ = writeln!(text, "{}", format!("  {shown}  {:NAME$}  {said}", step.name).trim_end());
    for detail in &step.details {
        let _ = writeln!(text, "         {:NAME$}  {detail}", "");
    }
}

/// What would change, cluster by cluster and node by node.
pub(crate) fn planned(answer: &PlanChangeResponse, passed_over: &[String], colour: bool) -> String {
    let mut text = String::new();
    let mut cluster = "";
    for node in &answer.nodes {
        let name = node.node.rsplit('/').next().unwrap_or_default();
        if node.cluster == name {
            let _ = writeln!(text, "node {name}");
        } else {
            if node.cluster != cluster {
                let _ = writeln!(text, "cluster {}", node.cluster);
            }
            let _ = writeln!(text, "  node {name}");
        }
        cluster = &node.cluster;
        for one in &node.instances {
            let (sign, good) = match one.change() {
                Change::Added => ("+", Some(true)),
                Change::Removed => ("-", Some(false)),
                Change::Replaced | Change::Unspecified => ("~", None),
            };
            let why = one.because.join(", ");
            let why = if why.is_empty() { why } else { format!("   ({why})") };
            let _ = writeln!(text, "    {} {}{why}", outcome(sign, good.filter(|_| colour)), one.instance);
        }
    }
    let told = answer.nodes.len();
    let changed = answer.changed_nodes as usize;
    if changed > told {
        let _ = writeln!(text, "... and {} nodes more", changed - told);
    }
    if !answer.pending.is_empty() {
        text.push_str("without a place\n");
    }
    for one in &answer.pending {
        let already = if one.already { " (as now)" } else { "" };
        let _ = writeln!(text, "    ! {}{already}   {}: {}", one.instance, one.reason, one.message);
    }
    let told = answer.pending.len();
    let pending = answer.pending_instances as usize;
    if pending > told {
        let _ = writeln!(text, "    ... and {} more", pending - told);
    }
    let PlanChangeResponse { added, replaced, removed, changed_nodes, changed_clusters, .. } = answer;
    if *changed_nodes == 0 {
        text.push_str("Nothing changes on any node.\n");
    } else {
        let nodes = counted(*changed_nodes, "node");
        let clusters = counted(*changed_clusters, "cluster");
        let _ = writeln!(
            text,
            "{added} to add, {replaced} to replace, {removed} to remove, on {nodes} of {clusters}."
        );
    }
    for app in &answer.nowhere {
        let _ =
            writeln!(text, "app/{app} would run nowhere: no cluster matches it, or no instance is wanted.");
    }
    for app in &answer.rolled_out {
        let _ =
            writeln!(text, "app/{app} has a rollout: its clusters change in batches, and not all at once.");
    }
    if !passed_over.is_empty() {
        let _ =
            writeln!(text, "Not reckoned with, since only apps and configs are: {}.", passed_over.join(", "));
    }
    text
}

fn counted(number: u32, what: &str) -> String {
    if number == 1 { format!("1 {what}") } else { format!("{number} {what}s") }
}

#[cfg(test)]
mod tests {
    use skerry_proto::scheduler::v1::{Counts, Explanation, InstanceChange, NodeChange, Pending};

    use super::*;

    fn step(name: &str, outcome: Outcome, reason: &str, message: &str) -> Step {
        Step {
            name: name.into(),
            outcome: outcome.into(),
            reason: reason.into(),
            message: message.into(),
            details: Vec::new(),
        }
    }

    #[test]
    fn the_one_thing_that_stops_an_instance_comes_first() {
        let mut member = step("member", Outcome::Stopped, "NoMemberFits", "0/2 members: 2 cordoned");
        member.details = vec!["n1: the node is cordoned".into()];
        let answer = ExplainAppResponse {
            steps: vec![step("selector", Outcome::Passed, "", "goes to 1 of 2 clusters")],
            counts: Some(Counts { desired: 2, ready: 1, ..Counts::default() }),
            explanations: vec![Explanation {
                instance: "web/s/c/1".into(),
                steps: vec![
                    step("cluster", Outcome::Passed, "", "2 members, 2 connected"),
                    member,
                    step("resources", Outcome::NotReached, "", ""),
                ],
                ..Explanation::default()
            }],
            next_page_token: String::new(),
        };
        let expected = "\
app/web has 1 of 2 instances ready
  ok     selector    goes to 1 of 2 clusters

web/s/c/1, on no node
  NoMemberFits: 0/2 members: 2 cordoned
  ok     cluster     2 members, 2 connected
  stops  member      NoMemberFits
                     n1: the node is cordoned
  -      resources
";
        assert_eq!(explained("app/web", &answer, false), expected);
        assert!(explained("app/web", &answer, true).contains("\x1b[31mstops\x1b[0m"));
    }

    #[test]
    fn a_plan_is_told_by_cluster_and_node() {
        let change = |instance: &str, change: Change, because: &[&str]| InstanceChange {
            instance: instance.into(),
            change: change.into(),
            because: because.iter().map(|why| (*why).to_owned()).collect(),
        };
        let node = |cluster: &str, node: &str, instances| NodeChange {
            cluster: cluster.into(),
            node: format!("projects/p/nodes/{node}"),
            instances,
        };
        let answer = PlanChangeResponse {
            nodes: vec![
                node("c", "n1", vec![change("web/s/c/0", Change::Added, &[])]),
                node("c", "n2", vec![change("web/s/c/1", Change::Removed, &[])]),
                node("n3", "n3", vec![change("web/s/n3/0", Change::Replaced, &["revision", "config a"])]),
            ],
            pending: vec![Pending {
                instance: "web/s/c/2".into(),
                reason: "NodeCordoned".into(),
                message: "it is".into(),
                already: true,
            }],
            changed_nodes: 3,
            changed_clusters: 2,
            added: 1,
            replaced: 1,
            removed: 1,
            pending_instances: 1,
            rolled_out: vec!["web".into()],
            nowhere: vec!["lost".into()],
        };
        let expected = "\
cluster c
  node n1
    + web/s/c/0
  node n2
    - web/s/c/1
node n3
    ~ web/s/n3/0   (revision, config a)
without a place
    ! web/s/c/2 (as now)   NodeCordoned: it is
1 to add, 1 to replace, 1 to remove, on 3 nodes of 2 clusters.
app/lost would run nowhere: no cluster matches it, or no instance is wanted.
app/web has a rollout: its clusters change in batches, and not all at once.
Not reckoned with, since only apps and configs are: node/n1.
";
        assert_eq!(planned(&answer, &["node/n1".into()], false), expected);
        assert_eq!(planned(&PlanChangeResponse::default(), &[], false), "Nothing changes on any node.\n");
    }
}
