//! Whatever dies, at whatever point: afterwards what runs is what is wanted, and nothing ever runs twice.

use std::time::Duration;

use anyhow::{Result, ensure};
use skerry_integration::apps::{app, replicas};
use skerry_integration::stack::PATIENCE;
use skerry_integration::{Stack, StackConfig, Witness};
use skerry_testing::eventually;

/// Rounds of killing: every part falls at least once.
const ROUNDS: usize = 14;

/// A small generator of repeatable choices (xorshift64).
struct Dice(u64);

impl Dice {
    fn roll(&mut self, sides: u64) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0 % sides
    }
}

fn all_run(witness: &Witness, version: &str, count: usize) -> Result<()> {
    let running = witness.running();
    let current = running.iter().filter(|start| start.version == version).count();
    ensure!(current == count && running.len() == count, "{current} of {count} run {version}: {running:?}");
    Ok(())
}

#[tokio::test]
async fn kill_nine_of_any_part_at_any_point_converges_and_runs_nothing_twice() -> Result<()> {
    let witness = Witness::new()?;
    let mut stack =
        Stack::start_with(StackConfig { gateways: 2, schedulers: 2, ..StackConfig::default() }).await?;
    stack.add_agent("n1", &[])?;
    stack.add_agent("n2", &[])?;
    stack.wait_connected("n1").await;
    stack.wait_connected("n2").await;
    let spec =
        |version: &str| app([replicas(2, witness.service("a", version)), witness.service("b", version)]);
    stack.apply("web", spec("v0")).await?;
    stack.wait_ready("web", 6).await;

    let parts = [
        "scheduler-0",
        "gateway-0",
        "agent:n1",
        "etcd",
        "registry-0",
        "agent:n2",
        "scheduler-1",
        "gateway-1",
    ];
    let mut dice = Dice(0x5eed_0001);
    for round in 0..ROUNDS {
        let version = format!("v{}", round + 1);
        let part = parts[round % parts.len()];
        let (before, down) = (Duration::from_millis(dice.roll(150)), Duration::from_millis(dice.roll(1500)));
        // The change is under way when the part falls.
        let change = async {
            eventually("the change is taken", PATIENCE, async || {
                stack.apply("web", spec(&version)).await.map(drop)
            })
            .await;
        };
        let _ = tokio::time::timeout(before, change).await;
        fell(&mut stack, part)?;
        tokio::time::sleep(down).await;
        rise(&mut stack, part).await?;
        eventually("the change is taken", PATIENCE, async || {
            stack.apply("web", spec(&version)).await.map(drop)
        })
        .await;
        eventually(&format!("round {round}, {part}: all run {version}"), PATIENCE, async || {
            all_run(&witness, &version, 6)
        })
        .await;
        stack.wait_ready("web", 6).await;
        witness.check();
    }
    stack.finish(Some(&witness)).await?;
    witness.check();
    Ok(())
}

fn fell(stack: &mut Stack, part: &str) -> Result<()> {
    match part.strip_prefix("agent:") {
        Some(node) => stack.kill_agent(node),
        None if part == "etcd" => stack.etcd.kill(),
        None => stack.kill_service(part),
    }
}

async fn rise(stack: &mut Stack, part: &str) -> Result<()> {
    match part.strip_prefix("agent:") {
        Some(node) => stack.start_agent(node),
        None if part == "etcd" => stack.etcd.restart().await,
        None => {
            stack.start_service(part)?;
            stack.wait_service(part).await
        }
    }
}

#[tokio::test]
async fn a_node_without_a_link_runs_on_starts_again_and_takes_what_changed_in_one_step() -> Result<()> {
    let witness = Witness::new()?;
    let mut stack = Stack::start().await?;
    stack.add_agent("n1", &[])?;
    stack.wait_connected("n1").await;
    stack.apply("kept", app([witness.service("a", "v1"), witness.service("b", "v1")])).await?;
    stack.apply("gone", app([witness.service("a", "v1")])).await?;
    stack.wait_ready("kept", 2).await;
    stack.wait_ready("gone", 1).await;
    witness.wait_running(3).await;

    // The link is cut: nothing stops.
    stack.kill_service("gateway-0")?;
    stack.wait_disconnected("n1").await;
    let before = witness.running();
    assert_eq!(before.len(), 3);

    // The agent dies and comes back without a link: it adopts what runs.
    stack.kill_agent("n1")?;
    stack.start_agent("n1")?;
    tokio::time::sleep(Duration::from_secs(3)).await;
    assert_eq!(witness.running(), before);

    // All programs die with the agent (as in a power loss): without a link all start again.
    stack.kill_agent("n1")?;
    for start in &before {
        let pid = i32::try_from(start.pid).ok().and_then(rustix::process::Pid::from_raw).expect("a pid");
        rustix::process::kill_process(pid, rustix::process::Signal::KILL)?;
    }
    stack.start_agent("n1")?;
    eventually("all start without a link", PATIENCE, async || {
        // One that was killed is seen a moment longer.
        ensure!(!witness.running().iter().any(|start| before.contains(start)), "a killed one is there still");
        all_run(&witness, "v1", 3)
    })
    .await;

    // Changes meanwhile arrive as one difference.
    stack.apply("kept", app([witness.service("a", "v2"), witness.service("b", "v1")])).await?;
    stack.apply("kept", app([witness.service("a", "v3"), witness.service("b", "v1")])).await?;
    stack.apply("new", app([witness.service("a", "v1")])).await?;
    stack.delete_app("gone").await?;
    let (starts, survivor) = (witness.starts().len(), running_of(&witness, "kept_b"));
    stack.start_service("gateway-0")?;
    stack.wait_connected("n1").await;
    stack.wait_ready("kept", 2).await;
    stack.wait_ready("new", 1).await;
    witness.wait_running(3).await;
    eventually("the deleted app is gone", PATIENCE, async || {
        ensure!(running_of(&witness, "gone_").is_empty(), "it still runs");
        Ok(())
    })
    .await;
    assert_eq!(
        witness.starts().len(),
        starts + 2,
        "one start of what changed, one of what is new: {:?}",
        witness.starts()
    );
    assert_eq!(running_of(&witness, "kept_b"), survivor, "what did not change was not touched");
    stack.finish(Some(&witness)).await?;
    witness.check();
    Ok(())
}

fn running_of(witness: &Witness, prefix: &str) -> Vec<skerry_integration::witness::Start> {
    witness.running().into_iter().filter(|start| start.instance.starts_with(prefix)).collect()
}
