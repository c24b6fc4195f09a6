//! What a stack tells of its nodes and instances: conditions, reasons, events, and waiting for them.

use anyhow::{Context as _, Result, ensure};
use skerry_proto::types::v1::condition::Status;
use skerry_proto::types::v1::{Condition, InstanceStatus};
use skerry_testing::eventually;

use crate::Stack;
use crate::stack::PATIENCE;

impl Stack {
    /// A condition of a node, if it has one of this kind.
    pub async fn condition(&self, node: &str, kind: &str) -> Result<Condition> {
        let status = self.node(node).await?.status.context("no status")?;
        let conditions = status.machine.context("nothing reported yet")?.conditions;
        let found = conditions.iter().find(|condition| condition.r#type == kind).cloned();
        found.with_context(|| format!("no {kind} in {conditions:?}"))
    }

    /// Waits until a node's condition holds or not, for this reason.
    pub async fn wait_condition(&self, node: &str, kind: &str, holds: bool, reason: &str) -> Condition {
        let status = if holds { Status::True } else { Status::False };
        eventually(&format!("{node}: {kind} {status:?} {reason}"), PATIENCE, async || -> Result<Condition> {
            let condition = self.condition(node, kind).await?;
            ensure!(condition.status() == status && condition.reason == reason, "{condition:?}");
            Ok(condition)
        })
        .await
    }

    /// The instances of an app on a node.
    pub async fn instances_on(&self, app: &str, node: &str) -> Result<Vec<InstanceStatus>> {
        let end = format!("/{node}");
        Ok(self.instances(app).await?.into_iter().filter(|one| one.node.ends_with(&end)).collect())
    }

    /// Waits until the one instance of an app on a node is not ready, for one of these reasons.
    pub async fn wait_reason(&self, app: &str, node: &str, reasons: &[&str]) -> InstanceStatus {
        eventually(&format!("{app} on {node}: {reasons:?}"), PATIENCE, async || -> Result<InstanceStatus> {
            let instances = self.instances_on(app, node).await?;
            let told = |one: &&InstanceStatus| !one.ready && reasons.contains(&one.reason.as_str());
            let found = instances.iter().find(told).cloned();
            found.with_context(|| format!("{instances:?}"))
        })
        .await
    }

    /// Waits until the one instance of an app on a node is ready.
    pub async fn wait_ready_on(&self, app: &str, node: &str) -> InstanceStatus {
        eventually(&format!("{app} ready on {node}"), PATIENCE, async || -> Result<InstanceStatus> {
            let instances = self.instances_on(app, node).await?;
            let ready = instances.iter().find(|one| one.ready).filter(|_| instances.len() == 1).cloned();
            ready.with_context(|| format!("{instances:?}"))
        })
        .await
    }

    /// Waits for an event about something whose name ends so.
    pub async fn wait_event(&self, regarding: &str, reason: &str) {
        eventually(&format!("the event {reason} of {regarding}"), PATIENCE, async || -> Result<()> {
            let events = self.events().await?;
            let found = events.iter().any(|one| one.regarding.ends_with(regarding) && one.reason == reason);
            let told: Vec<_> = events.iter().map(|one| (&one.regarding, &one.reason)).collect();
            ensure!(found, "{told:?}");
            Ok(())
        })
        .await;
    }

    /// Waits until an app has no instance any more, wherever.
    pub async fn wait_gone(&self, app: &str) {
        eventually(&format!("{app} is gone"), PATIENCE, async || -> Result<()> {
            // An app that is gone has no instances to list.
            let left = self.instances(app).await.unwrap_or_default();
            ensure!(left.is_empty(), "{left:?}");
            Ok(())
        })
        .await;
    }
}
