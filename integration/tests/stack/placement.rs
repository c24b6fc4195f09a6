//! Why instances are, or are not, where they should be; and what a change would change, against what it then does.

use std::collections::BTreeSet;

use anyhow::{Context as _, Result, ensure};
use serde_json::Value;
use skerry_integration::Stack;
use skerry_integration::stack::PATIENCE;
use skerry_testing::eventually;

use crate::operator::{done, said, skerry};

const APP: &str = "
apiVersion: skerry/v1
kind: App
metadata: {name: line}
spec:
  selector: {matchLabels: {site: oslo}}
  services:
    - name: front
      deployment: {replicas: 3}
      resources: {requests: {memory: 1Mi}}
      process: {program: sh, args: [-c, 'exec sleep 1000000']}
    - name: back
      daemonSet: {}
      configs: [{config: settings, path: settings}]
      dependsOn: [{service: front}]
      process: {program: sh, args: [-c, 'exec sleep 1000000']}
";
const CONFIG: &str = "
apiVersion: skerry/v1
kind: Config
metadata: {name: settings}
spec: {data: {a: 'VALUE'}}
";

async fn json(stack: &Stack, words: &[&str]) -> Result<Value> {
    Ok(serde_json::from_str(&done(stack, &[words, &["-o", "json"]].concat()).await?)?)
}

async fn site(nodes: &[&str]) -> Result<Stack> {
    let mut stack = Stack::start().await?;
    for node in nodes {
        stack.add_agent(node, &[])?;
    }
    for node in nodes {
        stack.wait_connected(node).await;
    }
    done(&stack, &["create", "cluster", "plant", "--labels", "site=oslo"]).await?;
    done(&stack, &[&["cluster", "join", "plant"], nodes].concat()).await?;
    Ok(stack)
}

/// Writes a manifest; answers its path.
fn file(stack: &Stack, name: &str, text: &str) -> Result<String> {
    let path = stack.dir().join(name);
    std::fs::write(&path, text)?;
    Ok(path.to_string_lossy().into_owned())
}

/// The step that each way stops at, and its reason, once each.
fn stops(explained: &Value) -> BTreeSet<(String, String)> {
    let ways = explained["explanations"].as_array().cloned().unwrap_or_default();
    let mut stops = BTreeSet::new();
    for way in ways {
        let steps = way["steps"].as_array().cloned().unwrap_or_default();
        let stopped: Vec<&Value> = steps.iter().filter(|step| step["outcome"] == "STOPPED").collect();
        assert!(stopped.len() <= 1, "one thing stops it: {way}");
        let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
        stops.extend(stopped.iter().map(|step| (text(&step["name"]), text(&step["reason"]))));
        // What comes after is not reached, and what comes before is done.
        let at = steps.iter().position(|step| step["outcome"] == "STOPPED").unwrap_or(steps.len());
        assert!(steps[..at].iter().all(|step| step["outcome"] == "PASSED"), "{way}");
        assert!(steps.iter().skip(at + 1).all(|step| step["outcome"] == "NOT_REACHED"), "{way}");
    }
    stops
}

async fn wait_stop(stack: &Stack, words: &[&str], expected: &[(&str, &str)]) {
    let expected: BTreeSet<(String, String)> =
        expected.iter().map(|(step, reason)| ((*step).to_owned(), (*reason).to_owned())).collect();
    eventually(&format!("{words:?} stops at {expected:?}"), PATIENCE, async || {
        let explained = json(stack, &[&["explain", "app/line"], words].concat()).await?;
        ensure!(stops(&explained) == expected, "{explained}");
        Ok(())
    })
    .await;
}

#[tokio::test]
async fn each_step_that_can_stop_an_instance_is_told_and_it_alone() -> Result<()> {
    let stack = site(&["n1", "n2"]).await?;
    let app = file(&stack, "app.yaml", APP)?;
    let config = file(&stack, "config.yaml", CONFIG)?;
    done(&stack, &["apply", "-f", &app]).await?;

    // Resources: what it mounts is not there.
    wait_stop(&stack, &[], &[("resources", "ConfigMissing")]).await;
    done(&stack, &["apply", "-f", &config]).await?;
    stack.wait_ready("line", 5).await;
    wait_stop(&stack, &[], &[]).await;
    let text = done(&stack, &["explain", "app/line", "--all"]).await?;
    ensure!(text.starts_with("app/line has 5 of 5 instances ready\n"), "{text}");
    ensure!(
        text.contains("`site=oslo` matches cluster plant") && text.contains("2 members, 2 connected"),
        "{text}"
    );
    ensure!(text.contains("memory 1Mi booked") && !text.contains("stops"), "{text}");

    // Member: nobody takes another, and it is told of each.
    done(&stack, &["cordon", "n1", "n2"]).await?;
    let more = file(&stack, "more.yaml", &APP.replace("replicas: 3", "replicas: 4"))?;
    done(&stack, &["apply", "-f", &more]).await?;
    wait_stop(&stack, &[], &[("member", "NoMemberFits")]).await;
    let text = done(&stack, &["explain", "app/line"]).await?;
    ensure!(text.contains("n1: the node is cordoned") && text.contains("n2: the node is cordoned"), "{text}");
    done(&stack, &["uncordon", "n1", "n2"]).await?;
    stack.wait_ready("line", 6).await;

    // Runtime and dependency: it ends at once, and what waits for it waits.
    let bad = APP.replace("replicas: 3", "replicas: 1").replacen("exec sleep 1000000", "exit 3", 1);
    let bad = bad.replace("exec sleep 1000000", "exec sleep 2000000");
    let bad = file(&stack, "bad.yaml", &bad)?;
    done(&stack, &["apply", "-f", &bad]).await?;
    eventually("the end of one and the wait of another are told", PATIENCE, async || {
        let seen = stops(&json(&stack, &["explain", "app/line"]).await?);
        let seen: BTreeSet<&str> = seen.iter().map(|(step, _)| step.as_str()).collect();
        ensure!(seen.contains("runtime") && seen.contains("dependency"), "{seen:?}");
        Ok(())
    })
    .await;
    done(&stack, &["apply", "-f", &app]).await?;
    stack.wait_ready("line", 5).await;

    // Selector: of one node, and of the app as a whole.
    done(&stack, &["cluster", "leave", "n2"]).await?;
    wait_stop(&stack, &["--node", "n2"], &[("selector", "SelectorMismatch")]).await;
    let text = done(&stack, &["explain", "app/line", "--node", "n2"]).await?;
    ensure!(text.contains("No instance of service front on node n2"), "{text}");
    done(&stack, &["label", "cluster/plant", "site=bergen", "--overwrite"]).await?;
    eventually("it matches nothing", PATIENCE, async || {
        let text = done(&stack, &["explain", "app/line"]).await?;
        ensure!(text.contains("stops  selector    NoMatchingNode"), "{text}");
        ensure!(text.contains("none of 2 clusters matches the selector"), "{text}");
        Ok(())
    })
    .await;
    for (words, why) in [
        (["explain", "app/none"], "does not exist"),
        (["explain", "node/n1"], "apps are explained"),
        (["explain", "app/"], "app/"),
    ] {
        let output = skerry(&stack, &words).await?;
        ensure!(!output.status.success() && said(&output).contains(why), "{words:?}: {}", said(&output));
    }
    stack.finish(None).await
}

#[tokio::test]
async fn a_link_that_is_away_stops_what_is_new_at_the_assignment() -> Result<()> {
    let mut stack = site(&["n1"]).await?;
    let app = file(&stack, "app.yaml", &APP.replace("replicas: 3", "replicas: 1"))?;
    let config = file(&stack, "config.yaml", CONFIG)?;
    done(&stack, &["apply", "-f", &config, "-f", &app]).await?;
    stack.wait_ready("line", 2).await;
    stack.kill_agent("n1")?;
    stack.wait_disconnected("n1").await;
    wait_stop(&stack, &[], &[("assignment", "NodeDisconnected")]).await;
    stack.start_agent("n1")?;
    stack.wait_ready("line", 2).await;
    wait_stop(&stack, &[], &[]).await;
    stack.finish(None).await
}

/// Which instance is on which node.
async fn places(stack: &Stack) -> Result<BTreeSet<(String, String)>> {
    // Before it is applied first there is no such app.
    let instances = stack.instances("line").await.unwrap_or_default();
    let places = instances.into_iter().filter(|one| !one.node.is_empty());
    Ok(places.map(|one| (one.instance, one.node)).collect())
}

/// What a plan says that would be there after it.
fn planned(before: &BTreeSet<(String, String)>, plan: &Value) -> Result<BTreeSet<(String, String)>> {
    let mut after = before.clone();
    for node in plan["nodes"].as_array().cloned().unwrap_or_default() {
        for one in node["instances"].as_array().context("instances")? {
            let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
            let place = (text(&one["instance"]), text(&node["node"]));
            match one["change"].as_str() {
                Some("ADDED") => ensure!(after.insert(place), "{one}"),
                Some("REMOVED") => ensure!(after.remove(&place), "{one}"),
                Some("REPLACED") => ensure!(after.contains(&place), "{one}"),
                other => anyhow::bail!("{other:?} of {one}"),
            }
        }
    }
    Ok(after)
}

#[tokio::test]
async fn a_plan_is_what_apply_then_does_and_changes_nothing_itself() -> Result<()> {
    let stack = site(&["n1", "n2"]).await?;
    let config = file(&stack, "config.yaml", CONFIG)?;
    let first = file(&stack, "first.yaml", APP)?;
    let fewer = file(&stack, "fewer.yaml", &APP.replace("replicas: 3", "replicas: 1"))?;
    let other = file(&stack, "other.yaml", &CONFIG.replace("VALUE", "other"))?;
    for (files, ready) in [([&config, &first], 5), ([&config, &fewer], 3), ([&other, &first], 5)] {
        let words = ["-f", files[0].as_str(), "-f", files[1].as_str()];
        let before = places(&stack).await?;
        let plan = json(&stack, &[&["plan"][..], &words].concat()).await?;
        assert_eq!(places(&stack).await?, before, "a plan changes nothing");
        let expected = planned(&before, &plan)?;
        assert_ne!(plan["changedNodes"], Value::Null, "{plan}");
        done(&stack, &[&["apply"][..], &words].concat()).await?;
        stack.wait_ready("line", ready).await;
        eventually("what was planned is there", PATIENCE, async || {
            let seen = places(&stack).await?;
            ensure!(seen == expected, "{seen:?}, planned {expected:?}");
            Ok(())
        })
        .await;
        let again = done(&stack, &[&["plan"][..], &words].concat()).await?;
        assert_eq!(again, "Nothing changes on any node.\n");
    }

    // Content alone replaces who mounts it, and nobody else.
    let text = done(&stack, &["plan", "-f", &config]).await?;
    ensure!(text.contains("~ line/back/plant/0   (config settings)") && !text.contains("front"), "{text}");
    ensure!(text.contains("0 to add, 2 to replace, 0 to remove, on 2 nodes of 1 cluster."), "{text}");
    let text = done(&stack, &["plan", "--delete", "app/line"]).await?;
    ensure!(text.contains("0 to add, 0 to replace, 5 to remove"), "{text}");

    // What finds no place, or goes nowhere, or comes in batches, is told.
    let big = file(&stack, "big.yaml", &APP.replace("1Mi", "100Ti"))?;
    let text = done(&stack, &["plan", "-f", &big]).await?;
    ensure!(text.contains("! line/front/plant/0") && text.contains("bytes of memory are wanted"), "{text}");
    let nowhere =
        file(&stack, "nowhere.yaml", &APP.replace("oslo", "nowhere").replace("name: line", "name: x"))?;
    let text = done(&stack, &["plan", "-f", &nowhere]).await?;
    ensure!(text.contains("app/x would run nowhere"), "{text}");
    let batches =
        APP.replace("  services:", "  rollout: {batchSize: '1'}\n  services:").replace("1Mi", "2Mi");
    let batches = file(&stack, "batches.yaml", &batches)?;
    let text = done(&stack, &["plan", "-f", &batches]).await?;
    ensure!(text.contains("app/line has a rollout"), "{text}");

    let wrong = file(&stack, "wrong.yaml", &APP.replace("replicas: 3", "replicas: -3"))?;
    for (words, why) in [
        (vec!["plan", "-f", &wrong], "replicas"),
        (vec!["plan", "--delete", "app/none"], "does not exist"),
        (vec!["plan", "--delete", "node/n1"], "name apps"),
        (vec!["plan", "-f", &first, "--delete", "app/line"], "deleted_apps[0]"),
    ] {
        let output = skerry(&stack, &words).await?;
        ensure!(!output.status.success() && said(&output).contains(why), "{words:?}: {}", said(&output));
    }
    stack.finish(None).await
}
