//! Several apps on one card.

use std::path::Path;

use anyhow::{Result, ensure};
use skerry_integration::apps::{app, script};
use skerry_integration::gpus::{share, with_gpu};
use skerry_integration::stack::{PATIENCE, Stack};
use skerry_proto::gpu::v1::allocation::Isolation;
use skerry_proto::types::v1::{EnvSource, GpuIsolation, GpuRequest, ServiceSpec, env_source};
use skerry_testing::eventually;

use super::{an_hour, instance, node, stack};

/// A service that does not end when it is asked to, and has an hour for it, before this file is there.
fn lasting(name: &str, may_end: &Path) -> ServiceSpec {
    let stays = format!("trap '' TERM; until [ -e {} ]; do sleep 0.1; done", may_end.display());
    ServiceSpec { stop: Some(an_hour()), ..script(name, &stays) }
}

/// The reason that the control plane has for what is not placed, or the node for what does not run.
async fn waits_for(stack: &Stack, app: &str, reason: &str) {
    eventually(&format!("{app} waits: {reason}"), PATIENCE, async || {
        let told = (stack.app(app).await?.status, stack.instances(app).await?);
        ensure!(format!("{told:?}").contains(reason), "{told:?}");
        Ok(())
    })
    .await;
}

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

#[tokio::test]
async fn a_card_is_had_until_its_copy_has_ended_however_long_it_takes() -> Result<()> {
    let mut stack = stack(0).await?;
    let _gpus = node(&mut stack, "n1", "t4").await?;
    let dir = tempfile::tempdir()?;
    let may_end = dir.path().join("may-end");
    let whole = || GpuRequest { count: Some(1), ..GpuRequest::default() };
    stack.apply("old", app([with_gpu(whole(), lasting("train", &may_end))])).await?;
    stack.wait_ready("old", 1).await;
    stack.delete_app("old").await?;
    stack.apply("new", app([with_gpu(whole(), script("train", SLEEPS))])).await?;
    waits_for(&stack, "new", "GpuTaken").await;
    let left = instance(&stack, "old").await?;
    ensure!(left.start_time.is_some() && left.gpus.len() == 1, "it runs, and has the card: {left:?}");
    ensure!(stack.instances("new").await?.iter().all(|one| one.start_time.is_none()), "nobody else has it");
    std::fs::write(&may_end, "")?;
    stack.wait_ready("new", 1).await;
    Ok(())
}

#[tokio::test]
async fn within_an_app_the_node_waits_for_a_card_and_says_for_whom() -> Result<()> {
    let mut stack = stack(0).await?;
    let _gpus = node(&mut stack, "n1", "t4").await?;
    let dir = tempfile::tempdir()?;
    let whole = || GpuRequest { count: Some(1), ..GpuRequest::default() };
    stack.apply("one", app([with_gpu(whole(), lasting("train", &dir.path().join("may-end")))])).await?;
    stack.wait_ready("one", 1).await;
    // Another service has the card from now on, and the one that had it takes its time.
    stack.apply("one", app([with_gpu(whole(), script("serve", SLEEPS))])).await?;
    waits_for(&stack, "one", "GpuBusy").await;
    let all = stack.instances("one").await?;
    let running: Vec<_> = all.iter().filter(|one| one.start_time.is_some()).collect();
    ensure!(running.len() == 1 && running[0].instance == "one/train/n1/0", "{all:?}");
    let message = "still held by one/train/n1/0: it is started once that has ended";
    ensure!(all.iter().any(|one| one.message.contains(message)), "{all:?}");
    std::fs::write(dir.path().join("may-end"), "")?;
    stack.wait_ready("one", 1).await;
    Ok(())
}

#[tokio::test]
async fn an_update_that_cannot_start_keeps_others_off_what_its_former_revision_has() -> Result<()> {
    let mut stack = stack(0).await?;
    let _gpus = node(&mut stack, "n1", "t4").await?;
    let dir = tempfile::tempdir()?;
    let file = dir.path().join("env");
    stack.apply("kept", app([with_gpu(share(12), script("infer", SLEEPS))])).await?;
    stack.wait_ready("kept", 1).await;
    let before = instance(&stack, "kept").await?;
    // Less than before, from a file that is not there.
    let path = file.to_str().unwrap_or_default().to_owned();
    let source = EnvSource { source: Some(env_source::Source::File(path)), ..EnvSource::default() };
    let infer = ServiceSpec { env_from: vec![source], ..script("infer", SLEEPS) };
    stack.apply("kept", app([with_gpu(share(2), infer)])).await?;
    waits_for(&stack, "kept", "the former revision still runs").await;
    stack.apply("next", app([with_gpu(share(5), script("infer", SLEEPS))])).await?;
    waits_for(&stack, "next", "GpuMemory").await;
    let all = stack.instances("kept").await?;
    let running: Vec<_> = all.iter().filter(|one| one.start_time.is_some()).collect();
    ensure!(running.len() == 1 && running[0].runtime_id == before.runtime_id, "{all:?}");
    ensure!(running[0].gpus == before.gpus, "what it has, not what it is to have: {all:?}");
    std::fs::write(&file, "A=1\n")?;
    stack.wait_ready("kept", 1).await;
    stack.wait_ready("next", 1).await;
    Ok(())
}
