//! Who uses more of a shared card than is booked for it.

use anyhow::{Context as _, Result, ensure};
use skerry_integration::apps::{app, script};
use skerry_integration::gpus::{share, with_gpu};
use skerry_integration::stack::PATIENCE;
use skerry_proto::types::v1::gpu_request::OnOveruse;
use skerry_proto::types::v1::{GpuRequest, InstanceStatus, ServiceSpec};
use skerry_testing::eventually;

use super::{an_hour, instance, node, stack};

const SLEEPS: &str = "exec sleep 1000000";
/// Who is asked to end does not.
const STAYS: &str = "trap '' TERM; exec sleep 1000000";

fn pid(status: &InstanceStatus) -> Result<u32> {
    status.runtime_id.parse().with_context(|| format!("{status:?}"))
}

#[tokio::test]
async fn who_has_more_memory_than_is_booked_is_stopped_and_nobody_else_is() -> Result<()> {
    let mut stack = stack(0).await?;
    let mut gpus = node(&mut stack, "n1", "t4").await?;
    let reported = GpuRequest { on_overuse: OnOveruse::Report.into(), ..share(2) };
    for (name, gpu, sleeps) in
        [("greedy", share(2), STAYS), ("reported", reported, SLEEPS), ("modest", share(2), SLEEPS)]
    {
        let service = ServiceSpec { stop: Some(an_hour()), ..script("infer", sleeps) };
        stack.apply(name, app([with_gpu(gpu, service)])).await?;
        stack.wait_ready(name, 1).await;
    }
    let before = [instance(&stack, "reported").await?, instance(&stack, "modest").await?];
    let greedy = instance(&stack, "greedy").await?;
    let used = [(pid(&greedy)?, 3000), (pid(&before[0])?, 3000), (pid(&before[1])?, 1900)];
    gpus.processes(0, &used)?;
    eventually("it is stopped, and started again", PATIENCE, async || {
        let status = instance(&stack, "greedy").await?;
        let why: Vec<&str> = status.terminations.iter().map(|end| end.reason.as_str()).collect();
        ensure!(why == ["GpuOveruse"] && status.ready && status.restarts == 1, "{status:?}");
        Ok(())
    })
    .await;
    ensure!(instance(&stack, "greedy").await?.runtime_id != greedy.runtime_id);
    eventually("the other is only warned of", PATIENCE, async || {
        let status = instance(&stack, "reported").await?;
        ensure!(status.warnings.len() == 1 && status.warnings[0].contains("more memory"), "{status:?}");
        Ok(())
    })
    .await;
    for (status, name) in before.iter().zip(["reported", "modest"]) {
        let now = instance(&stack, name).await?;
        ensure!(now.runtime_id == status.runtime_id && now.restarts == 0 && now.ready, "{now:?}");
    }
    ensure!(instance(&stack, "modest").await?.warnings.is_empty());
    Ok(())
}
