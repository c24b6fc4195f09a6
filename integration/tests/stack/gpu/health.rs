//! What a sick card does to who is on it.

use anyhow::{Result, ensure};
use skerry_integration::apps::{app, replicas, script};
use skerry_integration::gpus::with_gpu;
use skerry_integration::stack::PATIENCE;
use skerry_proto::gpu::v1::health::State;
use skerry_proto::types::v1::{Failover, GpuRequest, ServiceSpec, condition};
use skerry_testing::eventually;

use super::{instance, node, stack, told};

const SLEEPS: &str = "exec sleep 1000000";

#[tokio::test]
async fn who_may_leaves_a_card_that_is_lost_and_the_others_stay() -> Result<()> {
    let mut stack = stack(0).await?;
    let mut gpus = node(&mut stack, "n1", "t4x3").await?;
    let whole = GpuRequest { count: Some(1), ..GpuRequest::default() };
    let service = with_gpu(whole, replicas(1, script("infer", SLEEPS)));
    for (name, failover) in [("moves", Failover::Always), ("stays", Failover::Never)] {
        stack.apply(name, app([ServiceSpec { failover: failover.into(), ..service.clone() }])).await?;
        stack.wait_ready(name, 1).await;
    }
    let of = async |name: &str| -> Result<String> {
        let gpus = instance(&stack, name).await?.gpus;
        ensure!(gpus.len() == 1, "{gpus:?}");
        Ok(gpus[0].gpu.clone())
    };
    let (first, other) = (of("moves").await?, of("stays").await?);
    ensure!(first != other, "each has its own");
    let known = told(&stack, "n1").await?;
    let index = |uuid: &str| {
        let devices = known.iter().filter_map(|gpu| gpu.device.as_ref());
        devices.clone().find(|device| device.uuid == uuid).map_or(0, |device| device.index)
    };
    gpus.change(|control| {
        control.device_mut(index(&first)).lost = true;
        control.device_mut(index(&other)).lost = true;
    })?;
    eventually("it has the third card", PATIENCE, async || {
        let now = of("moves").await?;
        ensure!(now != first && now != other, "{now}");
        stack.check_ready("moves", 1).await
    })
    .await;
    ensure!(of("stays").await? == other, "nobody asked for it to move");
    let sick: Vec<State> = told(&stack, "n1")
        .await?
        .iter()
        .filter_map(|gpu| gpu.health.as_ref().map(skerry_proto::gpu::v1::Health::state))
        .filter(|state| *state == State::Critical)
        .collect();
    ensure!(sick.len() == 2, "{sick:?}");
    let status = stack.node("n1").await?.status.unwrap_or_default();
    let healthy = status.conditions.iter().find(|condition| condition.r#type == "GpuHealthy");
    ensure!(healthy.is_some_and(|one| one.status() == condition::Status::False), "{healthy:?}");
    Ok(())
}
