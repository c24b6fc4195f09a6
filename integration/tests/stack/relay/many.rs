//! Many channels, and those whom nobody reads: they cost memory that has a bound, and no time.

use std::fs;
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use futures_util::future::try_join_all;
use skerry_integration::apps::{app, script};
use skerry_integration::stack::PATIENCE;
use skerry_proto::relay::v1 as pb;
use skerry_proto::relay::v1::relay_service_client::RelayServiceClient;
use skerry_testing::{anonymous_bytes, eventually};
use tokio::time::timeout;
use tonic::Streaming;

use super::{client, stack, wait_channels};
use crate::projects::World;

/// As many as an agent has channels, but for one that tests look through.
const CALLS: usize = 63;
/// With as many nodes there are a thousand channels.
const NODES: usize = 16;
/// Most memory of a relay for one channel that does little.
const CHANNEL_BYTES_MAX: u64 = 200 * 1024;
/// Most memory for one call whose answers nobody reads: what the windows of HTTP/2 hold, on both sides.
const STUCK_BYTES_MAX: u64 = 4 * 1024 * 1024;

#[tokio::test]
async fn a_thousand_channels_of_one_relay_are_all_told_and_cost_little_memory_each() -> Result<()> {
    let nodes: Vec<String> = (0..NODES).map(|number| format!("n{number}")).collect();
    let names: Vec<&str> = nodes.iter().map(String::as_str).collect();
    let mut stack = stack(&names).await?;
    let ticks = "i=0; while :; do i=$((i+1)); echo \"tick $i\"; sleep 3; done";
    stack.apply("web", app([script("s", ticks)])).await?;
    stack.wait_ready("web", NODES.try_into()?).await;
    let relay = client(&stack, "relay-0").await?;
    let follow = || {
        let mut relay = relay.clone();
        let app = "projects/default/apps/web".to_owned();
        let request = pb::LogsRequest { app, follow: true, tail: Some(1), ..pb::LogsRequest::default() };
        async move { Ok::<_, anyhow::Error>(relay.logs(request).await?.into_inner()) }
    };
    // What the first one costs alone is no channel's.
    let mut first = follow().await?;
    all_told(&mut first).await?;
    let pid = stack.service("relay-0")?.pid();
    let before = anonymous_bytes(pid)?;
    let mut calls: Vec<Streaming<pb::LogsResponse>> = Vec::new();
    for _ in 0..7 {
        calls.extend(try_join_all((0..CALLS / 7 - 1).map(|_| follow())).await?);
    }
    while calls.len() < CALLS - 1 {
        calls.push(follow().await?);
    }
    for call in &mut calls {
        all_told(call).await?;
    }
    wait_channels(&stack, CALLS * NODES).await;
    ensure!(CALLS * NODES >= 1000, "there are too few");
    let grown = anonymous_bytes(pid)?.saturating_sub(before);
    let channels = u64::try_from((CALLS - 1) * NODES)?;
    println!("{channels} channels more take {} KiB each of the relay's memory", grown / channels / 1024);
    ensure!(grown <= channels * CHANNEL_BYTES_MAX, "{grown} bytes for {channels} channels");
    // All are live, not only there.
    for call in &mut calls {
        all_told(call).await?;
    }
    drop((first, calls, relay));
    wait_channels(&stack, 0).await;
    stack.finish(None).await
}

/// Reads until each node has told a line.
async fn all_told(call: &mut Streaming<pb::LogsResponse>) -> Result<()> {
    let mut told = std::collections::BTreeSet::new();
    while told.len() < NODES {
        let answer = timeout(PATIENCE, call.message()).await.context("nothing comes")??;
        let answer = answer.context("the log has ended")?;
        if let Some(notice) = answer.notice {
            anyhow::bail!("{}: {}", answer.instance, notice.message);
        }
        if !answer.lines.is_empty() {
            told.insert(answer.node);
        }
    }
    Ok(())
}

/// How much processor time a process has had, in clock ticks: proc(5), `utime` and `stime`.
fn ticks(pid: u32) -> Result<u64> {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat"))?;
    let after = stat.rsplit_once(')').context("a name")?.1;
    let fields: Vec<&str> = after.split_whitespace().collect();
    Ok(fields[11].parse::<u64>()? + fields[12].parse::<u64>()?)
}

#[tokio::test]
async fn who_reads_nothing_costs_memory_that_has_a_bound_and_no_processor_time() -> Result<()> {
    const STUCK: u64 = 10;
    let mut stack = stack(&["n1"]).await?;
    // More than any window, and then nothing: who asks for it stands still with the most that may be under way.
    let line = "a line of a log that is about as long as lines of logs are";
    let writes = format!("yes '{line}' | head -c 9000000; echo; echo written; exec sleep 1000000");
    stack.apply("web", app([script("s", &writes)])).await?;
    stack.wait_ready("web", 1).await;
    let pids = [stack.service("relay-0")?.pid(), stack.service("relay-1")?.pid(), stack.agent("n1")?.pid()];
    let relay = client(&stack, "relay-0").await?;
    let app = "projects/default/apps/web".to_owned();
    let request = pb::LogsRequest { app, ..pb::LogsRequest::default() };
    eventually("all is written", PATIENCE, async || {
        let mut told =
            relay.clone().logs(pb::LogsRequest { tail: Some(1), ..request.clone() }).await?.into_inner();
        let last =
            told.message().await?.and_then(|answer| answer.lines.into_iter().next()).unwrap_or_default();
        ensure!(last.data == b"written".as_slice(), "not yet");
        Ok::<_, anyhow::Error>(())
    })
    .await;
    let mut before = Vec::new();
    for pid in pids {
        before.push(anonymous_bytes(pid)?);
    }
    let mut stuck = Vec::new();
    for _ in 0..STUCK {
        // Each on a connection of its own, as clients are: one that is not read stands in no other's way.
        let mut relay = client(&stack, "relay-0").await?;
        stuck.push((relay.logs(request.clone()).await?.into_inner(), relay));
    }
    wait_channels(&stack, usize::try_from(STUCK)?).await;
    // What is under way comes to a stand, and from then on nobody does anything about it: of five seconds of a processor a fiftieth, for heartbeats.
    for pid in pids {
        eventually("nothing is done for nobody", PATIENCE, async || {
            let before = ticks(pid)?;
            tokio::time::sleep(Duration::from_secs(5)).await;
            let spent = ticks(pid)? - before;
            ensure!(spent <= 10, "process {pid} had {spent} ticks of the processor in five seconds");
            Ok(())
        })
        .await;
    }
    for (pid, before) in pids.iter().zip(before) {
        let grown = anonymous_bytes(*pid)?.saturating_sub(before);
        println!("process {pid}: {} KiB for each", grown / STUCK / 1024);
        ensure!(
            grown <= STUCK * STUCK_BYTES_MAX,
            "{grown} bytes of process {pid} for {STUCK} that are not read"
        );
    }
    // They are there still, and are told all of it when they read.
    let (mut call, _relay) = stuck.pop().context("one of them")?;
    let mut bytes = 0;
    while let Some(answer) = timeout(PATIENCE, call.message()).await.context("nothing comes")?? {
        bytes += answer.lines.iter().map(|line| line.data.len() + 1).sum::<usize>();
    }
    ensure!(bytes >= 9_000_000, "{bytes} bytes were told");
    drop(stuck);
    wait_channels(&stack, 0).await;
    stack.finish(None).await
}

#[tokio::test]
async fn a_node_that_proves_who_it_is_has_as_many_channels_as_any() -> Result<()> {
    let world = World::start(&["--node-name=n1", "--no-docker"]).await?;
    let spec =
        "{services: [{name: s, process: {program: sh, args: [-c, \"echo told; exec sleep 1000000\"]}}]}";
    let head = "apiVersion: skerry/v1\nkind: App\nmetadata: {name: web}\n";
    world.write("web.yaml", &format!("{head}spec: {spec}\n"))?;
    world.done("apply -f web.yaml --wait").await?;
    world.user("default", "ada", "viewer").await?;
    let relay = RelayServiceClient::new(world.channel(Some("ada"), "ada-ca.crt").await?);
    let mut calls = Vec::new();
    for number in 0..CALLS {
        let mut relay = relay.clone();
        let app = "projects/default/apps/web".to_owned();
        let request = pb::LogsRequest { app, follow: true, ..pb::LogsRequest::default() };
        let mut call = relay.logs(request).await?.into_inner();
        let told = timeout(PATIENCE, call.message()).await.with_context(|| format!("call {number}"))??;
        let told = told.context("it goes on")?;
        ensure!(told.lines.len() == 1 && told.notice.is_none(), "call {number}: {told:?}");
        calls.push(call);
    }
    drop(calls);
    Ok(())
}

#[tokio::test]
async fn more_channels_at_once_than_a_node_has_are_refused_and_its_session_goes_on() -> Result<()> {
    const FLOOD: usize = 200;
    let stack = stack(&["n1"]).await?;
    let ticks = "i=0; while :; do i=$((i+1)); echo \"tick $i\"; sleep 0.1; done";
    stack.apply("web", app([script("s", ticks)])).await?;
    stack.wait_ready("web", 1).await;
    let relay = client(&stack, "relay-0").await?;
    let follow = || {
        let mut relay = relay.clone();
        let app = "projects/default/apps/web".to_owned();
        let request = pb::LogsRequest { app, follow: true, tail: Some(1), ..pb::LogsRequest::default() };
        async move { Ok::<_, anyhow::Error>(relay.logs(request).await?.into_inner()) }
    };
    let mut before = follow().await?;
    let told = timeout(PATIENCE, before.message()).await??.context("it goes on")?;
    ensure!(told.notice.is_none(), "{told:?}");
    let mut flood = try_join_all((0..FLOOD).map(|_| follow())).await?;
    // Each is told something: lines, or why there are none.
    let told = flood.iter_mut().map(|call| async { timeout(PATIENCE, call.message()).await });
    let told = try_join_all(told).await?;
    let refused =
        told.iter().filter(|told| matches!(told, Ok(Some(answer)) if answer.notice.is_some())).count();
    ensure!(refused >= FLOOD - CALLS, "{refused} of {FLOOD} were refused");
    // What was open goes on without a break, since its session does.
    for _ in 0..10 {
        let told = timeout(PATIENCE, before.message()).await??.context("it goes on")?;
        ensure!(told.notice.is_none(), "{told:?}");
    }
    drop((flood, before, relay));
    wait_channels(&stack, 0).await;
    stack.finish(None).await
}
