//! What cannot be told is told so, by its name; what is open can be seen and cut, and leaves a record.

use std::fs;

use anyhow::{Context as _, Result, ensure};
use serde_json::Value;
use skerry_integration::apps::{app, app_on, script};
use skerry_integration::stack::PATIENCE;
use skerry_testing::eventually;

use super::{begin, channels, done, ran, stack, wait_channels};

#[tokio::test]
async fn errors_name_what_is_wrong_and_what_to_do() -> Result<()> {
    let mut stack = stack(&["n1"]).await?;
    stack.apply("web", app([script("s", "echo here; exec sleep 1000000")])).await?;
    stack.wait_ready("web", 1).await;
    let refused = async |words: &[&str], code: i32, text: &str| -> Result<()> {
        let (ended, out, err) = ran(&stack, words).await?;
        ensure!(ended == Some(code) && err.contains(text), "{words:?}: {ended:?}: {out}{err}");
        Ok(())
    };
    refused(&["logs", "app/never"], 3, "projects/default/apps/never does not exist").await?;
    refused(&["logs", "app/web", "other"], 1, "app/web has no instance of service other").await?;
    refused(&["logs", "app/web", "--since", "yesterday"], 2, "--since `yesterday`").await?;
    refused(&["logs", "app/web", "-f", "--until", "1h"], 2, "cannot be used with").await?;
    refused(&["logs", "config/web"], 2, "name an app").await?;
    refused(&["logs", "node/never"], 1, "projects/default/nodes/never is not connected").await?;
    refused(&["logs", "node/n1", "s"], 2, "node/n1").await?;
    refused(&["channel", "cut", "nothing"], 3, "does not exist").await?;
    // A service that no node takes.
    stack.apply("far", app_on(("zone", "none"), [script("s", "sleep 1000000")])).await?;
    refused(&["logs", "app/far"], 1, "app/far").await?;
    stack.kill_agent("n1")?;
    stack.wait_disconnected("n1").await;
    let (code, _, err) = ran(&stack, &["logs", "app/web"]).await?;
    ensure!(code == Some(1) && err.contains("nodes/n1 is not connected"), "{code:?}: {err}");
    stack.start_agent("n1")?;
    stack.wait_connected("n1").await;
    eventually("its log is told again", PATIENCE, async || {
        let (out, _) = done(&stack, &["logs", "app/web"]).await?;
        ensure!(out == "here\n", "{out}");
        Ok(())
    })
    .await;
    stack.finish(None).await
}

#[tokio::test]
async fn what_an_agent_says_itself_is_told_and_followed() -> Result<()> {
    let stack = stack(&["n1"]).await?;
    eventually("it says that it is connected", PATIENCE, async || {
        let (out, _) = done(&stack, &["logs", "node/n1", "--grep", "\"connected\""]).await?;
        ensure!(out.lines().count() == 1 && out.contains("projects/default/nodes/n1"), "{out}");
        Ok(())
    })
    .await;
    let mut follows = begin(&stack, "relay-1", &["logs", "node/n1", "-f", "--tail=1"], "follows.log")?;
    wait_channels(&stack, 1).await;
    stack.apply("web", app([script("s", "exec sleep 1000000")])).await?;
    let told = follows.wait_for_line("instances/web/s/n1/0", PATIENCE).await?;
    ensure!(told.contains("Started"), "{told}");
    follows.kill()?;
    wait_channels(&stack, 0).await;
    stack.finish(None).await
}

#[tokio::test]
async fn what_is_open_is_seen_cut_and_recorded_at_whichever_relay() -> Result<()> {
    let stack = stack(&["n1"]).await?;
    stack.apply("web", app([script("s", "while :; do echo tick; sleep 0.1; done")])).await?;
    stack.wait_ready("web", 1).await;
    // Held by the relay that is not asked.
    let mut follows = begin(&stack, "relay-1", &["logs", "app/web", "-f"], "follows.log")?;
    follows.wait_for_line("tick", PATIENCE).await?;
    let open = channels(&stack).await?;
    let channel = open.first().context("a channel")?;
    assert_eq!(channel["resource"], "projects/default/instances/web/s/n1/0");
    assert_eq!(
        (&channel["verb"], &channel["node"]),
        (&Value::from("logs"), &Value::from("projects/default/nodes/n1"))
    );
    let name = channel["name"].as_str().context("a name")?.rsplit('/').next().unwrap_or_default().to_owned();
    done(&stack, &["channel", "cut", &name]).await?;
    let ended = follows.wait(PATIENCE).await?;
    ensure!(
        ended.code() == Some(1) && follows.output().contains("has cut this channel"),
        "{ended:?}: {}",
        follows.output()
    );
    wait_channels(&stack, 0).await;
    eventually("both are on record", PATIENCE, async || {
        let (out, _) = done(&stack, &["audit", "--limit=0", "-o", "json"]).await?;
        let records: Value = serde_json::from_str(&out)?;
        let text = records.to_string();
        ensure!(text.contains("RelayService/CutChannel"), "{out}");
        ensure!(text.contains("RelayService/Logs") && text.contains("instances: 1, lines: "), "{out}");
        Ok(())
    })
    .await;
    let (out, _) = done(&stack, &["audit", "verify"]).await?;
    ensure!(!out.is_empty(), "the chains are looked at");
    stack.finish(None).await
}

#[tokio::test]
async fn each_verb_is_on_record_when_it_begins_and_when_it_ends_with_its_bytes() -> Result<()> {
    let mut stack = stack(&[]).await?;
    stack.add_agent("n1", &["--no-docker", "--allow-node-shell"])?;
    stack.wait_connected("n1").await;
    stack.apply("web", app([script("s", "exec sleep 1000000")])).await?;
    stack.wait_ready("web", 1).await;
    let (here, back) = (stack.dir().join("here"), stack.dir().join("back"));
    fs::write(&here, [7; 5000])?;
    let (here, back) = (here.to_str().context("text")?, back.to_str().context("text")?);
    done(&stack, &["exec", "app/web", "--", "head", "-c", "3000", "/dev/zero"]).await?;
    done(&stack, &["exec", "node/n1", "--", "true"]).await?;
    done(&stack, &["cp", here, "app/web:there"]).await?;
    done(&stack, &["cp", "app/web:there", back]).await?;
    let mut forwards = begin(&stack, "relay-1", &["port-forward", "app/web", ":9"], "forwards.log")?;
    forwards.wait_for_line("Forwarding ", PATIENCE).await?;
    forwards.kill()?;
    wait_channels(&stack, 0).await;
    // Of each: the least that went to the node and came from it.
    let moved = [
        ("Exec", 0, 3000),
        ("ExecNode", 0, 0),
        ("CopyTo", 5000, 0),
        ("CopyFrom", 0, 5000),
        ("PortForward", 0, 0),
    ];
    eventually("all are on record", PATIENCE, async || {
        let (out, _) = done(&stack, &["audit", "--limit=0", "-o", "json"]).await?;
        let records: Value = serde_json::from_str(&out)?;
        let records = records["items"].as_array().context("records")?;
        for (method, to, from) in moved {
            let method = format!("skerry.relay.v1.RelayService/{method}");
            let of = |outcome: &str| -> Vec<&str> {
                let contents = records.iter().map(|record| &record["content"]);
                let found =
                    contents.filter(|one| one["method"] == method.as_str() && one["outcome"] == outcome);
                found.map(|one| one["detail"].as_str().unwrap_or_default()).collect()
            };
            let (opened, closed) = (of("AUDIT_OUTCOME_OPENED"), of("AUDIT_OUTCOME_CLOSED"));
            ensure!(!opened.is_empty() && opened.len() == closed.len(), "{method}: {opened:?}, {closed:?}");
            let bytes = |detail: &str, word: &str| -> Option<u64> {
                detail.split_once(word)?.1.split(',').next()?.trim().parse().ok()
            };
            let moved = |detail: &&str| {
                bytes(detail, "received bytes: ").is_some_and(|received| received >= from)
                    && bytes(detail, "sent bytes: ").is_some_and(|sent| sent >= to)
            };
            // A copy to a place looks there first, which is a copy from it.
            ensure!(closed.iter().any(moved), "{method}: {closed:?}");
        }
        Ok(())
    })
    .await;
    stack.finish(None).await
}
