//! Draining from outside: what a node runs leaves it, and comes back when its node has work again.

use std::collections::BTreeMap;

use anyhow::{Context as _, Result, ensure};
use skerry_integration::Stack;
use skerry_integration::stack::PATIENCE;
use skerry_proto::types::v1::InstancePhase;
use skerry_testing::eventually;

use crate::operator::{done, said, skerry};

const APP: &str = "
apiVersion: skerry/v1
kind: App
metadata: {name: line}
spec:
  selector: {matchLabels: {site: oslo}}
  services:
    - name: copies
      deployment: {replicas: 3, maxUnavailable: '1'}
      process: {program: sh, args: [-c, 'exec sleep 1000000']}
    - name: each
      daemonSet: {}
      process: {program: sh, args: [-c, 'exec sleep 1000000']}
";

/// How many instances of a service run on each node.
async fn running(stack: &Stack, service: &str) -> Result<BTreeMap<String, usize>> {
    let below = format!("line/{service}/");
    let mut nodes = BTreeMap::new();
    for one in stack.instances("line").await? {
        if one.instance.starts_with(&below) && one.phase() == InstancePhase::Running && one.ready {
            *nodes.entry(one.node.rsplit('/').next().context("a node")?.to_owned()).or_default() += 1;
        }
    }
    Ok(nodes)
}

async fn wait_running(stack: &Stack, service: &str, expected: &[(&str, usize)]) {
    let expected: BTreeMap<String, usize> =
        expected.iter().map(|(node, count)| ((*node).to_owned(), *count)).collect();
    eventually(&format!("{service} runs on {expected:?}"), PATIENCE, async || {
        let seen = running(stack, service).await?;
        ensure!(seen == expected, "{seen:?}");
        Ok(())
    })
    .await;
}

#[tokio::test]
async fn copies_leave_one_after_the_other_and_never_more_than_the_budget_are_unready() -> Result<()> {
    let mut stack = Stack::start().await?;
    for node in ["n1", "n2"] {
        stack.add_agent(node, &[])?;
        stack.wait_connected(node).await;
    }
    done(&stack, &["create", "cluster", "plant", "--labels", "site=oslo"]).await?;
    done(&stack, &["cluster", "join", "plant", "n1"]).await?;
    let path = stack.dir().join("app.yaml");
    std::fs::write(&path, APP)?;
    done(&stack, &["apply", "-f", &path.to_string_lossy()]).await?;
    wait_running(&stack, "copies", &[("n1", 3)]).await;
    done(&stack, &["cluster", "join", "plant", "n2"]).await?;
    wait_running(&stack, "each", &[("n1", 1), ("n2", 1)]).await;

    // Somebody else looks all the while.
    let mut least = usize::MAX;
    let output = {
        let draining = skerry(&stack, &["drain", "n1", "--timeout", "2m"]);
        tokio::pin!(draining);
        loop {
            tokio::select! {
                output = &mut draining => break output?,
                () = tokio::time::sleep(std::time::Duration::from_millis(50)) => {
                    least = least.min(running(&stack, "copies").await?.values().sum());
                }
            }
        }
    };
    ensure!(output.status.success(), "{}", said(&output));
    let told = String::from_utf8(output.stdout)?;
    assert_eq!(told, "node/n1 drained: 1 instance that is on each node stays\n");
    ensure!(least >= 2, "{least} of 3 copies were ready at some time");
    wait_running(&stack, "copies", &[("n2", 3)]).await;
    wait_running(&stack, "each", &[("n1", 1), ("n2", 1)]).await;
    let nodes = done(&stack, &["get", "node", "n1"]).await?;
    ensure!(nodes.contains("Ready,Draining"), "{nodes}");

    // Both: nobody takes what is on the second, and that is told, and mended by giving the first work again.
    done(&stack, &["drain", "n2", "--wait=false"]).await?;
    eventually("one of them has left and waits", PATIENCE, async || {
        let text = done(&stack, &["explain", "app/line"]).await?;
        ensure!(text.contains("n1: the node is cordoned"), "{text}");
        Ok(())
    })
    .await;
    let output = skerry(&stack, &["drain", "n2", "--timeout", "1s"]).await?;
    assert_eq!(output.status.code(), Some(5), "{}", said(&output));
    ensure!(said(&output).contains("have not left yet"), "{}", said(&output));
    done(&stack, &["uncordon", "n1"]).await?;
    done(&stack, &["drain", "n2", "--timeout", "2m"]).await?;
    wait_running(&stack, "copies", &[("n1", 3)]).await;
    let output = skerry(&stack, &["drain", "none"]).await?;
    ensure!(!output.status.success() && said(&output).contains("does not exist"), "{}", said(&output));
    stack.finish(None).await
}

#[tokio::test]
async fn a_node_in_no_cluster_is_emptied_and_filled_again() -> Result<()> {
    let mut stack = Stack::start().await?;
    stack.add_agent("n1", &[])?;
    stack.wait_connected("n1").await;
    done(&stack, &["label", "node/n1", "site=oslo"]).await?;
    let path = stack.dir().join("app.yaml");
    std::fs::write(&path, APP.replace(", maxUnavailable: '1'", ""))?;
    done(&stack, &["apply", "-f", &path.to_string_lossy()]).await?;
    stack.wait_ready("line", 4).await;
    done(&stack, &["drain", "node/n1", "--timeout", "1m"]).await?;
    wait_running(&stack, "copies", &[]).await;
    wait_running(&stack, "each", &[("n1", 1)]).await;
    let text = done(&stack, &["explain", "app/line"]).await?;
    ensure!(text.contains("NodeCordoned"), "{text}");
    done(&stack, &["uncordon", "n1"]).await?;
    stack.wait_ready("line", 4).await;

    std::fs::write(&path, APP.replace("'1'", "'0'"))?;
    let output = skerry(&stack, &["apply", "-f", &path.to_string_lossy()]).await?;
    ensure!(
        said(&output).contains("maxUnavailable") && said(&output).contains("from 1"),
        "{}",
        said(&output)
    );
    stack.finish(None).await
}
