//! Whatever is killed: the channel ends with a clear message, nothing stays open, and who follows goes on from where it was.

use std::fs;
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use skerry_integration::Stack;
use skerry_integration::apps::{app, script};
use skerry_integration::stack::PATIENCE;
use skerry_testing::{Process, eventually};

use super::{begin, channels, numbers, stack, wait_channels};

/// Two numbered lines a tenth of a second.
const TICKS: &str = "i=0; while :; do i=$((i+2)); echo \"tick $((i-1))\"; echo \"tick $i\"; sleep 0.1; done";

async fn ticking(nodes: &[&str]) -> Result<Stack> {
    let stack = stack(nodes).await?;
    stack.apply("web", app([script("s", TICKS)])).await?;
    stack.wait_ready("web", nodes.len().try_into()?).await;
    Ok(stack)
}

/// Waits until the follower tells more than it has told by now.
async fn goes_on(follows: &Process) {
    let before = numbers(&follows.output(), "tick ").last().copied();
    eventually("it goes on", PATIENCE, async || {
        let now = numbers(&follows.output(), "tick ").last().copied();
        ensure!(now > before, "{before:?}, {now:?}: {}", end_of(follows));
        Ok(())
    })
    .await;
}

fn end_of(follows: &Process) -> String {
    let output = follows.output();
    let lines: Vec<&str> = output.lines().collect();
    lines[lines.len().saturating_sub(10)..].join("\n")
}

/// Each line once and in order: none is lost, none is told twice.
fn check_whole(follows: &Process) -> Result<()> {
    let told = numbers(&follows.output(), "tick ");
    let wrong = told.windows(2).find(|pair| pair[1] != pair[0] + 1);
    ensure!(told.len() > 10 && wrong.is_none(), "{wrong:?} among {} lines", told.len());
    Ok(())
}

/// Sockets that a process has.
pub(super) fn sockets(pid: u32) -> usize {
    let Ok(entries) = fs::read_dir(format!("/proc/{pid}/fd")) else { return 0 };
    let is_socket = |entry: &fs::DirEntry| {
        fs::read_link(entry.path()).is_ok_and(|target| target.to_string_lossy().starts_with("socket:"))
    };
    entries.flatten().filter(is_socket).count()
}

#[tokio::test]
async fn a_client_that_is_killed_leaves_nothing_behind() -> Result<()> {
    let mut stack = ticking(&["n1"]).await?;
    let pid = stack.agent("n1")?.pid();
    let before = sockets(pid);
    let mut all = Vec::new();
    for n in 0..5 {
        let relay = ["relay-0", "relay-1"][n % 2];
        let mut follows = begin(&stack, relay, &["logs", "app/web", "-f"], &format!("follows-{n}.log"))?;
        follows.wait_for_line("tick 1", PATIENCE).await?;
        all.push(follows);
    }
    assert_eq!(channels(&stack).await?.len(), 5);
    // One connection to each relay that it was sent to, however many channels.
    ensure!(sockets(pid) <= before + 2, "{} sockets, {before} before", sockets(pid));
    for follows in &mut all {
        follows.kill()?;
    }
    wait_channels(&stack, 0).await;
    eventually("the agent has hung up", PATIENCE, async || {
        let now = sockets(pid);
        ensure!(now <= before, "{now} sockets, {before} before");
        Ok(())
    })
    .await;
    stack.finish(None).await
}

#[tokio::test]
async fn an_agent_that_is_killed_is_told_and_its_log_goes_on_when_it_is_back() -> Result<()> {
    let mut stack = ticking(&["n1"]).await?;
    let mut follows = begin(&stack, "relay-0", &["logs", "app/web", "-f"], "follows.log")?;
    follows.wait_for_line("tick 20", PATIENCE).await?;
    stack.kill_agent("n1")?;
    follows.wait_for_line("the link to the agent of projects/default/nodes/n1 was lost", PATIENCE).await?;
    wait_channels(&stack, 0).await;
    stack.start_agent("n1")?;
    stack.wait_connected("n1").await;
    follows.wait_for_line("it goes on", PATIENCE).await?;
    goes_on(&follows).await;
    check_whole(&follows)?;
    follows.kill()?;
    stack.finish(None).await
}

#[tokio::test]
async fn a_gateway_that_is_killed_ends_its_channels_and_they_go_on_by_the_other_one() -> Result<()> {
    let mut stack = ticking(&["n1"]).await?;
    let mut follows = begin(&stack, "relay-1", &["logs", "app/web", "-f"], "follows.log")?;
    follows.wait_for_line("tick 20", PATIENCE).await?;
    let node = stack.node("n1").await?;
    let connection = node.status.and_then(|status| status.connection).context("a connection")?;
    let mut killed = None;
    for name in ["gateway-0", "gateway-1"] {
        let log = fs::read_to_string(stack.log(name))?;
        if log.contains(&connection.gateway) {
            killed = Some(name);
        }
    }
    stack.kill_service(killed.context("no gateway has the node")?)?;
    follows.wait_for_line("the session to its gateway ended", PATIENCE).await?;
    follows.wait_for_line("it goes on", PATIENCE).await?;
    goes_on(&follows).await;
    check_whole(&follows)?;
    follows.kill()?;
    wait_channels(&stack, 0).await;
    stack.finish(None).await
}

#[tokio::test]
async fn a_relay_that_is_killed_is_told_and_the_client_goes_on_when_one_is_back() -> Result<()> {
    let mut stack = ticking(&["n1"]).await?;
    let mut follows = begin(&stack, "relay-0", &["logs", "app/web", "-f"], "follows.log")?;
    follows.wait_for_line("tick 20", PATIENCE).await?;
    // First the one through which the agent comes, then the one that holds the channel.
    for name in ["relay-1", "relay-0"] {
        let said = follows.output().lines().count();
        stack.kill_service(name)?;
        eventually("it is told", PATIENCE, async || {
            let output = follows.output();
            let news: Vec<&str> = output.lines().skip(said).filter(|line| !line.contains("tick")).collect();
            ensure!(!news.is_empty(), "{}", end_of(&follows));
            Ok(())
        })
        .await;
        tokio::time::sleep(Duration::from_millis(200)).await;
        stack.start_service(name)?;
        stack.wait_service(name).await?;
        goes_on(&follows).await;
    }
    check_whole(&follows)?;
    ensure!(follows.try_wait()?.is_none(), "it ended: {}", end_of(&follows));
    follows.kill()?;
    stack.finish(None).await
}
