//! Whether what was deleted is gone: an app only with the last of its instances, which nodes stop in their own time.

use skerry_model::few;
use skerry_proto::types::v1::InstanceStatus;

use crate::client::Client;
use crate::error::CliError;
use crate::item::{Item, Query};
use crate::patience::Look;
use crate::print::note;
use crate::target::{Target, Type};

/// Instances that are named one by one; the others are counted.
const NAMED_MAX: usize = 5;
/// What the scheduler says of an instance whose node is away.
const AWAY: &str = "NodeDisconnected";

/// Looks at one target. An instance of [`Watcher`] goes with one wait.
pub(super) struct Watcher {
    target: Target,
    /// Nodes that are away were named.
    warned: bool,
}

impl Watcher {
    pub(super) fn new(target: &Target) -> Self {
        Self { target: target.clone(), warned: false }
    }

    /// Met when there is no such resource and, for an app, none of its instances.
    pub(super) async fn resource(&mut self, client: &Client) -> Result<Look, CliError> {
        match client.get(&self.target).await {
            Ok(_) => Ok(Look::NotYet("it still exists".into())),
            Err(error) if error.is_not_found() => self.instances(client).await,
            Err(error) => Err(error.into()),
        }
    }

    /// Met when no instance of the app is left that belongs to none.
    pub(super) async fn instances(&mut self, client: &Client) -> Result<Look, CliError> {
        if self.target.kind != Type::App {
            return Ok(Look::Met);
        }
        let query = Query { app: Some(self.target.name.clone()), ..Query::all(Type::Instance) };
        let (items, more) = match client.first_page(&query).await {
            Ok(page) => page,
            Err(CliError::NotFound(_)) => return Ok(Look::Met),
            Err(error) => return Err(error),
        };
        let left: Vec<&InstanceStatus> = items
            .iter()
            .filter_map(|item| match item {
                Item::Instance(instance) => Some(instance.as_ref()),
                _ => None,
            })
            .collect();
        let away = away(&left);
        if !self.warned && !away.is_empty() {
            self.warned = true;
            note(&format!(
                "{}: {} not connected; what runs there stops when the agent is back",
                self.target,
                if away.len() == 1 {
                    format!("node {} is", away[0])
                } else {
                    format!("nodes {} are", away.join(", "))
                }
            ));
        }
        Ok(if left.is_empty() { Look::Met } else { Look::NotYet(described(&left, more).into()) })
    }
}

/// The nodes that are not connected, each once.
fn away<'a>(left: &[&'a InstanceStatus]) -> Vec<&'a str> {
    let mut nodes: Vec<&str> =
        left.iter().filter(|instance| instance.reason == AWAY).map(|instance| node(instance)).collect();
    nodes.sort_unstable();
    nodes.dedup();
    nodes
}

fn node(instance: &InstanceStatus) -> &str {
    instance.node.rsplit('/').next().unwrap_or_default()
}

/// As in "2 instances are not gone yet: a/s/n1/0 on n1, a/s/n2/0 on n2 (not connected)".
fn described(left: &[&InstanceStatus], more: bool) -> String {
    // Those on nodes that are away first: they are what takes longest.
    let mut sorted = left.to_vec();
    sorted.sort_by_key(|instance| instance.reason != AWAY);
    let named: Vec<String> = sorted
        .iter()
        .map(|instance| {
            let note = if instance.reason == AWAY { " (not connected)" } else { "" };
            format!("{} on {}{note}", instance.instance, node(instance))
        })
        .collect();
    let count = match (left.len(), more) {
        (1, false) => "1 instance is".to_owned(),
        (count, false) => format!("{count} instances are"),
        (count, true) => format!("{count} and more instances are"),
    };
    format!("{count} not gone yet: {}", few(&named, NAMED_MAX))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn instance(name: &str, node: &str, reason: &str) -> InstanceStatus {
        InstanceStatus {
            instance: name.into(),
            node: format!("projects/p/nodes/{node}"),
            reason: reason.into(),
            ..Default::default()
        }
    }

    #[test]
    fn what_is_left_is_named_with_the_nodes_that_are_away_first() {
        let (here, away_one) = (instance("a/s/n1/0", "n1", "Removing"), instance("a/s/n2/0", "n2", AWAY));
        assert_eq!(described(&[&here], false), "1 instance is not gone yet: a/s/n1/0 on n1");
        assert_eq!(
            described(&[&here, &away_one], false),
            "2 instances are not gone yet: a/s/n2/0 on n2 (not connected), a/s/n1/0 on n1"
        );
        assert_eq!(away(&[&here, &away_one, &away_one]), ["n2"]);
        let many = vec![&here; 7];
        assert!(described(&many, true).starts_with("7 and more instances are not gone yet: "));
        assert!(described(&many, true).ends_with(" and 2 more"));
    }
}
