//! The store goes back in time, or stands still: nothing is moved, nobody is locked out.

use std::time::Duration;

use anyhow::{Result, ensure};
use skerry_integration::apps::app;
use skerry_integration::stack::PATIENCE;
use skerry_integration::{Stack, Witness};
use skerry_testing::eventually;

/// Longer than every lease that Skerry holds.
const PAST_EVERY_LEASE: Duration = Duration::from_secs(25);

#[tokio::test]
async fn an_older_snapshot_restored_brings_its_state_and_locks_nobody_out() -> Result<()> {
    let witness = Witness::new()?;
    let mut stack = Stack::start().await?;
    stack.add_agent("n1", &[])?;
    stack.wait_connected("n1").await;
    stack.apply("steady", app([witness.service("a", "s1")])).await?;
    stack.apply("web", app([witness.service("a", "v1")])).await?;
    stack.wait_ready("steady", 1).await;
    stack.wait_ready("web", 1).await;
    let snapshot = stack.dir().join("etcd.snapshot");
    stack.etcd.snapshot(&snapshot)?;
    for version in ["v2", "v3", "v4"] {
        stack.apply("web", app([witness.service("a", version)])).await?;
        stack.wait_ready("web", 1).await;
    }
    witness.wait_running(2).await;
    let steady = pids(&witness, "steady");

    stack.etcd.restore(&snapshot).await?;

    eventually("the restored revision runs", PATIENCE, async || {
        let running = witness.running();
        ensure!(running.iter().any(|start| start.version == "v1"), "{running:?}");
        Ok(())
    })
    .await;
    stack.wait_connected("n1").await;
    stack.wait_ready("web", 1).await;
    assert_eq!(pids(&witness, "steady"), steady, "what the restore did not change was not touched");

    // And the fleet can be changed as before.
    eventually("a change after the restore", PATIENCE, async || {
        stack.apply("web", app([witness.service("a", "v5")])).await.map(drop)
    })
    .await;
    eventually("the change after the restore runs", PATIENCE, async || {
        let running = witness.running();
        ensure!(running.iter().any(|start| start.version == "v5"), "{running:?}");
        Ok(())
    })
    .await;
    stack.wait_ready("web", 1).await;
    stack.finish(Some(&witness)).await?;
    witness.check();
    Ok(())
}

#[tokio::test]
async fn an_etcd_that_stalls_past_every_lease_moves_nothing_and_locks_nobody_out() -> Result<()> {
    let witness = Witness::new()?;
    let mut stack = Stack::start().await?;
    stack.add_agent("n1", &[])?;
    stack.add_agent("n2", &[])?;
    stack.wait_connected("n1").await;
    stack.wait_connected("n2").await;
    stack.apply("web", app([witness.service("a", "v1")])).await?;
    stack.wait_ready("web", 2).await;
    witness.wait_running(2).await;
    let before = witness.starts();

    stack.etcd.pause()?;
    tokio::time::sleep(PAST_EVERY_LEASE).await;
    assert_eq!(witness.running().len(), 2, "nothing stopped while the store stood still");
    stack.etcd.resume()?;

    stack.wait_connected("n1").await;
    stack.wait_connected("n2").await;
    stack.wait_ready("web", 2).await;
    assert_eq!(witness.starts(), before, "nothing was started again");
    eventually("a change after the stall", PATIENCE, async || {
        stack.apply("web", app([witness.service("a", "v2")])).await.map(drop)
    })
    .await;
    stack.wait_ready("web", 2).await;
    stack.finish(Some(&witness)).await?;
    witness.check();
    Ok(())
}

fn pids(witness: &Witness, prefix: &str) -> Vec<u32> {
    witness
        .running()
        .into_iter()
        .filter(|start| start.instance.starts_with(prefix))
        .map(|start| start.pid)
        .collect()
}
