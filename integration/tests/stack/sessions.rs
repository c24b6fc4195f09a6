//! Sessions: the newest wins, the end of an older one changes nothing, who is superseded is told.

use std::fs;
use std::time::Duration;

use anyhow::{Result, ensure};
use skerry_integration::apps::app;
use skerry_integration::stack::PATIENCE;
use skerry_integration::{Stack, StackConfig, Witness};
use skerry_testing::{Process, bin, eventually};

#[tokio::test]
async fn the_late_end_of_an_old_session_does_not_unregister_the_new_one() -> Result<()> {
    let mut stack = Stack::start_with(StackConfig { gateways: 2, ..StackConfig::default() }).await?;
    stack.add_agent("n1", &[])?;
    stack.wait_connected("n1").await;
    let gateway = connected_gateway(&stack).await?;

    // The gateway of the session stands still, so that it learns late of everything.
    let holder = holder(&stack, &gateway)?;
    stack.service(&holder)?.pause()?;
    stack.kill_agent("n1")?;
    stack.start_agent("n1")?;
    eventually("a session at the other gateway", PATIENCE * 2, async || {
        let now = connected_gateway(&stack).await?;
        ensure!(now != gateway, "still {gateway}");
        Ok(())
    })
    .await;
    stack.service(&holder)?.resume()?;
    tokio::time::sleep(Duration::from_secs(5)).await;
    assert_ne!(connected_gateway(&stack).await?, gateway, "the new session stands");
    let witness = Witness::new()?;
    stack.apply("web", app([witness.service("a", "v1")])).await?;
    stack.wait_ready("web", 1).await;
    stack.finish(Some(&witness)).await
}

/// The id of the gateway that the node is connected to.
async fn connected_gateway(stack: &Stack) -> Result<String> {
    let connection = stack.node("n1").await?.status.and_then(|status| status.connection).unwrap_or_default();
    ensure!(connection.connected, "not connected");
    Ok(connection.gateway)
}

/// Which process has the id: it says so in its log.
fn holder(stack: &Stack, id: &str) -> Result<String> {
    for name in ["gateway-0", "gateway-1"] {
        if fs::read_to_string(stack.log(name))?.contains(id) {
            return Ok(name.to_owned());
        }
    }
    anyhow::bail!("no log names gateway {id}")
}

#[tokio::test]
async fn of_two_agents_with_one_name_the_newer_wins_and_the_older_is_told() -> Result<()> {
    let mut stack = Stack::start().await?;
    stack.add_agent("n1", &[])?;
    stack.wait_connected("n1").await;
    let gateway = format!("--gateway=http://{}", stack.address("gateway-0"));
    let dir = format!("--data-dir={}", stack.dir().join("twin").display());
    let mut twin = Process::spawn(
        bin("skerry-agent"),
        ["--insecure", "--node=n1", "--no-docker", &gateway, &dir],
        stack.log("twin"),
    )?;
    eventually("the older is told", PATIENCE, async || {
        let log = fs::read_to_string(stack.log("agent-n1"))?;
        ensure!(log.contains("another agent uses this node's name"), "{log}");
        Ok(())
    })
    .await;
    // The newer has the name, and keeps it when the older goes.
    let witness = Witness::new()?;
    stack.apply("web", app([witness.service("a", "v1")])).await?;
    stack.wait_ready("web", 1).await;
    stack.kill_agent("n1")?;
    tokio::time::sleep(Duration::from_secs(3)).await;
    stack.wait_connected("n1").await;
    stack.apply("web", app([witness.service("a", "v2")])).await?;
    stack.wait_ready("web", 1).await;
    witness.check();
    stack.delete_app("web").await?;
    eventually("the twin stops what it ran", PATIENCE, async || {
        ensure!(witness.running().is_empty(), "{:?}", witness.running());
        Ok(())
    })
    .await;
    twin.terminate(PATIENCE).await?;
    Ok(())
}

#[tokio::test]
async fn a_deleted_node_loses_its_session_and_comes_back_as_a_new_one() -> Result<()> {
    let mut stack = Stack::start().await?;
    stack.add_agent("n1", &[])?;
    stack.wait_connected("n1").await;
    let uid = |node: &skerry_proto::registry::v1::Node| node.metadata.clone().unwrap_or_default().uid;
    let before = uid(&stack.node("n1").await?);
    stack.delete_node("n1").await?;
    // The agent is told, and stays away for a minute or more.
    eventually("the node is there again", PATIENCE * 4, async || {
        let node = stack.node("n1").await?;
        ensure!(uid(&node) != before, "the same uid");
        ensure!(node.status.and_then(|s| s.connection).is_some_and(|c| c.connected), "not connected");
        Ok(())
    })
    .await;
    stack.finish(None).await
}

#[tokio::test]
async fn a_stopped_agent_counts_as_away_at_once_and_what_it_ran_runs_on() -> Result<()> {
    let witness = Witness::new()?;
    let mut stack = Stack::start().await?;
    stack.add_agent("n1", &[])?;
    stack.wait_connected("n1").await;
    stack.apply("web", app([witness.service("a", "v1")])).await?;
    stack.wait_ready("web", 1).await;
    witness.wait_running(1).await;
    stack.agent("n1")?.terminate(PATIENCE).await?;
    stack.wait_disconnected("n1").await;
    assert_eq!(witness.running().len(), 1);
    let instance = stack.instances("web").await?.remove(0);
    assert_eq!((instance.ready, instance.reason.as_str()), (false, "NodeDisconnected"));
    stack.start_agent("n1")?;
    stack.wait_ready("web", 1).await;
    assert_eq!(witness.starts().len(), 1, "adopted, not started again");
    stack.finish(Some(&witness)).await
}
