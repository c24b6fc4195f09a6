//! Several apps on one card.

use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use skerry_integration::Stack;
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

/// The process of an instance, as its runtime names it.
async fn pid(stack: &Stack, app: &str) -> Result<u32> {
    let file = stack.dir().join("pids").join(app);
    let read = || std::fs::read_to_string(&file).ok().and_then(|text| text.trim().parse().ok());
    eventually(&format!("the process of {app}"), PATIENCE, async || {
        let pid: Option<u32> = read();
        ensure!(pid.is_some(), "none yet");
        Ok(())
    })
    .await;
    read().context("a pid")
}

#[tokio::test]
async fn who_uses_more_memory_than_booked_is_stopped_and_the_others_are_not_touched() -> Result<()> {
    let mut stack = stack(0).await?;
    let mut gpus = node(&mut stack, "n1", "t4").await?;
    std::fs::create_dir_all(stack.dir().join("pids"))?;
    for name in ["good", "greedy"] {
        let file = stack.dir().join("pids").join(name);
        let says = format!("echo $$ > {}; {SLEEPS}", file.display());
        stack.apply(name, app([with_gpu(share(4), script("infer", &says))])).await?;
        stack.wait_ready(name, 1).await;
    }
    let (good, greedy) = (pid(&stack, "good").await?, pid(&stack, "greedy").await?);
    gpus.processes(0, &[(good, 4000), (greedy, 4000)])?;
    // Within what is booked nothing happens, for longer than it would take.
    tokio::time::sleep(Duration::from_secs(5)).await;
    for name in ["good", "greedy"] {
        let status = instance(&stack, name).await?;
        ensure!(status.ready && status.restarts == 0, "{status:?}");
    }
    gpus.processes(0, &[(good, 4000), (greedy, 5000)])?;
    eventually("the greedy one is stopped", PATIENCE, async || {
        let events = stack.events().await?;
        let told =
            events.iter().find(|event| event.reason == "GpuOveruse" && event.regarding.contains("greedy"));
        ensure!(told.is_some(), "{events:?}");
        let status = instance(&stack, "greedy").await?;
        ensure!(status.restarts > 0, "{status:?}");
        ensure!(!std::path::Path::new(&format!("/proc/{greedy}")).exists(), "it runs");
        Ok(())
    })
    .await;
    let status = instance(&stack, "good").await?;
    ensure!(status.ready && status.restarts == 0 && pid(&stack, "good").await? == good, "{status:?}");
    Ok(())
}
