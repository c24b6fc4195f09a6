//! How an instance ended before: the last ends are shown, no more of them, and an agent that starts again still knows them.

use anyhow::{Context as _, Result, ensure};
use skerry_integration::Stack;
use skerry_integration::apps::{app, script};
use skerry_integration::stack::PATIENCE;
use skerry_proto::types::v1::{RestartPolicy, ServiceSpec};
use skerry_testing::eventually;

use crate::operator::{said, skerry};

/// What is kept of seven ends with the codes 1, 2, ...
const KEPT: [i32; 5] = [3, 4, 5, 6, 7];
/// And of one more.
const KEPT_THEN: [i32; 5] = [4, 5, 6, 7, 8];

/// The exit codes below `Ended before`, in order.
fn codes(description: &str) -> Result<Vec<i32>> {
    let table = description.split("\nEnded before:\n").nth(1).context("no ends are shown")?;
    let rows = table.lines().skip(1).take_while(|line| !line.is_empty());
    rows.map(|row| row.split_whitespace().next_back().context("a row")?.parse().context("a code")).collect()
}

async fn described(stack: &Stack, target: &str) -> Result<Vec<i32>> {
    let output = skerry(stack, &["describe", target]).await?;
    ensure!(output.status.success(), "{}", said(&output));
    codes(&String::from_utf8_lossy(&output.stdout))
}

/// Waits until these ends are shown of the app and of its instance.
async fn wait_shown(stack: &Stack, ends: &[i32]) {
    eventually(&format!("{ends:?} are shown"), PATIENCE, async || {
        for target in ["app/web", "instance/web/s/n1/0"] {
            let shown = described(stack, target).await?;
            ensure!(shown == ends, "{target}: {shown:?}");
        }
        Ok(())
    })
    .await;
}

#[tokio::test]
async fn the_last_ends_are_shown_and_the_next_agent_knows_them() -> Result<()> {
    let mut stack = Stack::start().await?;
    stack.add_agent("n1", &[])?;
    stack.wait_connected("n1").await;
    // Seven ends at once, the eighth when it is told to, then it stays.
    let (count, go) = (stack.dir().join("count"), stack.dir().join("go"));
    let text = format!(
        "n=$(cat {count} 2>/dev/null || echo 0); n=$((n + 1)); echo $n >{count}; \
         [ $n -gt 7 ] || exit $n; while [ $n = 8 ]; do sleep 0.1; [ ! -e {go} ] || exit 8; done; exec sleep 1000000",
        count = count.display(),
        go = go.display()
    );
    let second = Some(prost_types::Duration { seconds: 1, nanos: 0 });
    let restart = RestartPolicy { backoff: second, backoff_max: second, ..RestartPolicy::default() };
    stack.apply("web", app([ServiceSpec { restart: Some(restart), ..script("s", &text) }])).await?;
    wait_shown(&stack, &KEPT).await;
    stack.wait_ready("web", 1).await;

    stack.kill_agent("n1")?;
    stack.wait_disconnected("n1").await;
    stack.start_agent("n1")?;
    stack.wait_connected("n1").await;
    // It ends once more: told on top of those that only the agent before saw.
    std::fs::write(&go, "")?;
    wait_shown(&stack, &KEPT_THEN).await;
    stack.wait_ready("web", 1).await;
    stack.finish(None).await
}
