//! GPUs, simulated by a driver that the agent loads as it loads NVIDIA's: who has what of them, what is told, and what becomes of who is on a sick one.

mod health;
mod overuse;
mod prometheus;
mod samples;
mod sharing;

use anyhow::{Context as _, Result};
use skerry_integration::gpus::SimulatedGpus;
use skerry_integration::stack::PATIENCE;
use skerry_integration::{Stack, StackConfig};
use skerry_proto::types::v1::{InstanceStatus, StopPolicy, machine_status};
use skerry_testing::eventually;

/// A control plane with gpu services.
async fn stack(gpus: usize) -> Result<Stack> {
    Stack::start_with(StackConfig { gpus, ..StackConfig::default() }).await
}

/// A node with simulated GPUs that are known.
async fn node(stack: &mut Stack, name: &str, machine: &str) -> Result<SimulatedGpus> {
    let gpus = SimulatedGpus::new(machine, name)?;
    stack.add_agent(name, &["--no-docker", &gpus.arg()])?;
    stack.wait_connected(name).await;
    eventually(&format!("the GPUs of {name}"), PATIENCE, async || {
        let known = told(stack, name).await?;
        anyhow::ensure!(!known.is_empty(), "none is known");
        Ok(())
    })
    .await;
    Ok(gpus)
}

/// Who is asked to end has an hour for it.
fn an_hour() -> StopPolicy {
    let grace_period = Some(prost_types::Duration { seconds: 3600, nanos: 0 });
    StopPolicy { grace_period, ..StopPolicy::default() }
}

/// What a node tells of its GPUs.
async fn told(stack: &Stack, node: &str) -> Result<Vec<machine_status::Gpu>> {
    let status = stack.node(node).await?.status.context("a status")?;
    Ok(status.machine.map(|machine| machine.gpus).unwrap_or_default())
}

/// The one instance of an app.
async fn instance(stack: &Stack, app: &str) -> Result<InstanceStatus> {
    stack.instances(app).await?.into_iter().next().with_context(|| format!("{app} has no instance"))
}
