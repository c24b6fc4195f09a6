//! Several apps on one card.

use anyhow::{Result, ensure};
use skerry_integration::apps::{app, script};
use skerry_integration::gpus::{share, with_gpu};
use skerry_integration::stack::PATIENCE;
use skerry_proto::gpu::v1::allocation::Isolation;
use skerry_proto::types::v1::{GpuIsolation, GpuRequest};
use skerry_testing::eventually;

use super::{instance, node, stack};

const SLEEPS: &str = "exec sleep 1000000";

#[tokio::test]
async fn three_apps_share_a_card_and_who_does_not_fit_is_told_why() -> Result<()> {
    let mut stack = stack(0).await?;
    let _gpus = node(&mut stack, "n1", "t4").await?;
    let part = GpuRequest { compute_percent: Some(30), ..share(5) };
    for name in ["one", "two", "three"] {
        stack.apply(name, app([with_gpu(part.clone(), script("infer", SLEEPS))])).await?;
        stack.wait_ready(name, 1).await;
    }
    let mut cards = Vec::new();
    for name in ["one", "two", "three"] {
        let gpus = instance(&stack, name).await?.gpus;
        ensure!(gpus.len() == 1 && gpus[0].isolation() == Isolation::Accounted, "{name}: {gpus:?}");
        cards.push(gpus[0].gpu.clone());
    }
    cards.dedup();
    ensure!(cards.len() == 1, "one card: {cards:?}");
    let refused = [
        ("memory", share(2), "GpuMemory"),
        ("compute", GpuRequest { compute_percent: Some(20), ..GpuRequest::default() }, "GpuCompute"),
        ("whole", GpuRequest { count: Some(1), ..GpuRequest::default() }, "GpuTaken"),
        ("mps", GpuRequest { isolation_min: GpuIsolation::Mps.into(), ..share(0) }, "GpuIsolation"),
        ("model", GpuRequest { model_selector: "*A100*".into(), ..share(1) }, "GpuModel"),
        ("part", GpuRequest { mig_profile: "1g.10gb".into(), ..GpuRequest::default() }, "GpuProfile"),
    ];
    for (name, gpu, reason) in refused {
        let gpu = if name == "mps" { GpuRequest { memory_bytes: Some(1 << 20), ..gpu } } else { gpu };
        stack.apply(name, app([with_gpu(gpu, script("infer", SLEEPS))])).await?;
        eventually(&format!("{name} is told why"), PATIENCE, async || {
            let problems = format!("{:?}", stack.app(name).await?.status);
            ensure!(problems.contains(reason), "{problems}");
            Ok(())
        })
        .await;
    }
    // Room that one leaves is another's.
    stack.delete_app("two").await?;
    stack.wait_ready("memory", 1).await;
    Ok(())
}
