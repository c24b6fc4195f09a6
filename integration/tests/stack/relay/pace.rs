//! Who reads slowly, or not at all, holds up nobody and is told what is missing.

use anyhow::{Context as _, Result, ensure};
use skerry_integration::apps::{app, script};
use skerry_integration::stack::PATIENCE;
use skerry_proto::relay::v1::{LogsRequest, LogsResponse};
use skerry_testing::eventually;
use tonic::Streaming;

use super::{client, done, keeping, stack, wait_channels};

/// Writes as fast as it can.
const CHATTY: &str =
    "i=0; while :; do i=$((i+1)); echo \"number $i of a line that is as long as lines are\"; done";

async fn follow(
    stack: &skerry_integration::Stack,
    relay: &str,
    app: &str,
) -> Result<Streaming<LogsResponse>> {
    let app = format!("projects/default/apps/{app}");
    let request = LogsRequest { app, follow: true, tail: Some(0), ..LogsRequest::default() };
    Ok(client(stack, relay).await?.logs(request).await?.into_inner())
}

/// The number that each line has, and what was skipped before it.
fn lines(answer: &LogsResponse) -> Vec<(u64, u64)> {
    let number = |data: &[u8]| -> Option<u64> {
        let text = std::str::from_utf8(data).ok()?;
        text.strip_prefix("number ")?.split(' ').next()?.parse().ok()
    };
    let whole = answer.lines.iter().filter(|line| !line.partial);
    whole.filter_map(|line| Some((number(&line.data)?, line.skipped_bytes))).collect()
}

#[tokio::test]
async fn who_does_not_read_holds_up_neither_others_nor_sync_and_is_told_what_it_missed() -> Result<()> {
    let stack = stack(&["n1"]).await?;
    stack.apply("loud", app([keeping(65536, 2, script("s", CHATTY))])).await?;
    stack.apply("quiet", app([script("s", "while :; do echo tick; sleep 0.1; done")])).await?;
    stack.wait_ready("loud", 1).await;
    stack.wait_ready("quiet", 1).await;

    let mut slow = follow(&stack, "relay-0", "loud").await?;
    let last_read = loop {
        let answer = slow.message().await?.context("it goes on")?;
        if let Some((last, _)) = lines(&answer).last() {
            break *last;
        }
    };
    // Not read any more. What stands between fills, and then the files of its log go by without it.
    eventually("the log has gone on without the reader", PATIENCE, async || {
        let (out, _) = done(&stack, &["logs", "app/loud", "--tail=1"]).await?;
        let now: u64 = out.split(' ').nth(1).context("a number")?.parse()?;
        ensure!(now > last_read + 200_000, "at {now}, from {last_read}");
        Ok(())
    })
    .await;
    // Another log of the same node is told as it is written, and another app comes to run there.
    let mut quick = follow(&stack, "relay-1", "quiet").await?;
    let mut ticks = 0;
    while ticks < 3 {
        let told = tokio::time::timeout(PATIENCE, quick.message()).await.context("it is held up")??;
        ticks += told.context("it goes on")?.lines.len();
    }
    stack.apply("other", app([script("s", "sleep 1000000")])).await?;
    stack.wait_ready("other", 1).await;

    // Read on: in order, and where something is missing it is said how much.
    let mut before = last_read;
    let mut skipped = 0;
    while skipped == 0 {
        let answer = tokio::time::timeout(PATIENCE, slow.message()).await.context("nothing more comes")??;
        for (number, gap) in lines(&answer.context("it goes on")?) {
            ensure!(number > before, "{number} after {before}");
            ensure!(gap > 0 || number == before + 1, "{before} to {number}, and nothing is said of it");
            (before, skipped) = (number, skipped + gap);
        }
    }
    drop((slow, quick));
    super::wait_channels(&stack, 0).await;
    stack.finish(None).await
}

#[tokio::test]
async fn a_log_that_nobody_reads_holds_nothing_of_an_agent_that_is_gone_and_goes_on_with_it() -> Result<()> {
    let mut stack = stack(&["n1"]).await?;
    stack.apply("loud", app([keeping(65536, 2, script("s", CHATTY))])).await?;
    stack.wait_ready("loud", 1).await;
    let mut slow = follow(&stack, "relay-0", "loud").await?;
    ensure!(slow.message().await?.is_some(), "it goes on");
    wait_channels(&stack, 1).await;
    stack.kill_agent("n1")?;
    // Though what it sent is not taken.
    wait_channels(&stack, 0).await;
    stack.start_agent("n1")?;
    stack.wait_connected("n1").await;
    let (mut before, mut resumed) = (0, false);
    while !resumed || before == 0 {
        let answer = tokio::time::timeout(PATIENCE, slow.message()).await.context("nothing more comes")??;
        let answer = answer.context("it goes on")?;
        resumed |= answer.notice.as_ref().is_some_and(|notice| notice.reason == "RESUMED");
        for (number, gap) in lines(&answer) {
            ensure!(before == 0 || gap > 0 || number == before + 1, "{before} to {number}, gap {gap}");
            before = number;
        }
    }
    drop(slow);
    stack.finish(None).await
}
