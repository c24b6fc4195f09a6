//! However a command's call ends, the command is gone, and nobody is told an exit that was none.

use std::time::Duration;

use anyhow::{Result, ensure};
use futures_util::{StreamExt as _, stream};
use rustix::process::Signal;
use serde_json::Value;
use skerry_integration::Stack;
use skerry_integration::containers::{Containers, unique};
use skerry_integration::stack::PATIENCE;
use skerry_proto::relay::v1 as pb;
use skerry_testing::{Docker, Process, eventually};

use super::super::{begin, done, wait_channels};
use super::{contained, sh, staying, wait_gone, with_words};

/// A command that goes on, with a child of its own, found by this number; and its client.
async fn goes_on(stack: &Stack, relay: &str, number: u32) -> Result<Process> {
    let script = format!("sleep {number} & echo begun; wait; echo over");
    let name = format!("exec-{number}.log");
    let mut client = begin(stack, relay, &["exec", "app/web", "--", "sh", "-c", &script], &name)?;
    client.wait_for_line("begun", PATIENCE).await?;
    // It may be told before its child is what it will be.
    eventually("it runs", PATIENCE, async || {
        ensure!(!with_words(&format!("sleep {number}")).is_empty(), "not yet");
        Ok(())
    })
    .await;
    Ok(client)
}

/// Whoever is gone: the client of a command ends with 125 and a word, and the command ends.
async fn nothing_stays(stack: &mut Stack, node: &str, numbers: std::ops::Range<u32>) -> Result<()> {
    let mut numbers = numbers.into_iter();
    let mut next = || numbers.next().expect("there are enough");

    let number = next();
    let mut client = goes_on(stack, "relay-0", number).await?;
    client.kill()?;
    wait_gone(&format!("sleep {number}")).await;
    wait_channels(stack, 0).await;

    for service in ["relay-0", "relay-1"] {
        let number = next();
        let mut client = goes_on(stack, "relay-0", number).await?;
        stack.kill_service(service)?;
        let ended = client.wait(PATIENCE).await?;
        let told = client.output();
        ensure!(ended.code() == Some(125) && told.contains("error: "), "{service}: {ended:?}: {told}");
        wait_gone(&format!("sleep {number}")).await;
        stack.start_service(service)?;
        stack.wait_service(service).await?;
        let works = format!("a relay after {service}");
        eventually(&works, PATIENCE, async || {
            let (ended, _, err) = sh(stack, &[], "exit 0").await?;
            ensure!(ended == Some(0), "{ended:?}: {err}");
            Ok(())
        })
        .await;
    }

    let number = next();
    let mut client = goes_on(stack, "relay-1", number).await?;
    stack.kill_agent(node)?;
    let ended = client.wait(PATIENCE).await?;
    let told = client.output();
    ensure!(ended.code() == Some(125) && told.contains("link to the agent"), "{ended:?}: {told}");
    // Before it is there again: nobody has to clear up.
    wait_gone(&format!("sleep {number}")).await;
    stack.start_agent(node)?;
    stack.wait_connected(node).await;
    stack.wait_ready("web", 1).await;

    // The instance ends under it.
    let number = next();
    let mut client = goes_on(stack, "relay-1", number).await?;
    stack.delete_app("web").await?;
    let ended = client.wait(PATIENCE).await?;
    ensure!(ended.code() != Some(0), "{ended:?}: {}", client.output());
    wait_gone(&format!("sleep {number}")).await;
    wait_channels(stack, 0).await;
    Ok(())
}

#[tokio::test]
async fn whoever_is_killed_a_command_beside_a_process_is_gone_and_no_exit_is_invented() -> Result<()> {
    let mut stack = staying(&[]).await?;
    nothing_stays(&mut stack, "n1", 881_000..881_100).await?;
    stack.finish(None).await
}

#[tokio::test]
async fn whoever_is_killed_a_command_in_a_container_is_gone_and_no_exit_is_invented() -> Result<()> {
    let Some(docker) = Docker::required() else { return Ok(()) };
    let node = unique("exec-ends");
    let containers = Containers::of(&docker, &node);
    let mut stack = contained(&docker, &node).await?;
    nothing_stays(&mut stack, &node, 882_000..882_100).await?;
    containers.wait_none().await;
    stack.finish(None).await
}

#[tokio::test]
async fn signals_are_the_commands_and_what_was_run_is_on_record_without_its_arguments() -> Result<()> {
    let stack = staying(&[]).await?;
    for (signal, word, code) in
        [(Signal::INT, "INT", 42), (Signal::TERM, "TERM", 43), (Signal::HUP, "HUP", 44)]
    {
        let script =
            format!("trap 'echo heard; exit {code}' {word}; echo ready; while :; do sleep 0.1; done");
        let words = ["exec", "app/web", "--", "sh", "-c", &script];
        let mut client = begin(&stack, "relay-0", &words, &format!("signal-{word}.log"))?;
        client.wait_for_line("ready", PATIENCE).await?;
        client.signal(signal)?;
        let ended = client.wait(PATIENCE).await?;
        ensure!(
            ended.code() == Some(code) && client.output().contains("heard"),
            "{word}: {ended:?}: {}",
            client.output()
        );
    }
    // One that does not hear it is ended by it.
    let mut client = begin(
        &stack,
        "relay-0",
        &["exec", "app/web", "--", "sh", "-c", "echo ready; exec sleep 883000"],
        "plain.log",
    )?;
    client.wait_for_line("ready", PATIENCE).await?;
    client.signal(Signal::INT)?;
    let ended = client.wait(PATIENCE).await?;
    ensure!(ended.code() == Some(130), "{ended:?}: {}", client.output());

    // One that does not end by any is not waited for: the third one is for the client.
    let deaf = "trap '' TERM; echo ready; while :; do sleep 0.1; done";
    let mut client = begin(&stack, "relay-0", &["exec", "app/web", "--", "sh", "-c", deaf], "deaf.log")?;
    client.wait_for_line("ready", PATIENCE).await?;
    for _ in 0..2 {
        client.signal(Signal::TERM)?;
        // Two at once are one.
        tokio::time::sleep(Duration::from_millis(200)).await;
    }
    ensure!(client.try_wait()?.is_none(), "{}", client.output());
    client.signal(Signal::TERM)?;
    let ended = client.wait(PATIENCE).await?;
    ensure!(
        ended.code() == Some(125) && client.output().contains("SIGTERM"),
        "{ended:?}: {}",
        client.output()
    );
    wait_gone("trap '' TERM; echo ready").await;

    let (ended, _, err) = sh(&stack, &[], "echo a-secret-word; exit 6").await?;
    ensure!(ended == Some(6), "{ended:?}: {err}");
    eventually("it is on record", PATIENCE, async || {
        let (out, _) = done(&stack, &["audit", "--limit=0", "-o", "json"]).await?;
        let records: Value = serde_json::from_str(&out)?;
        let text = records.to_string();
        ensure!(text.contains("RelayService/Exec") && text.contains("program: sh, arguments: 2"), "{out}");
        ensure!(text.contains("exit code: 6") && !text.contains("a-secret-word"), "{out}");
        Ok(())
    })
    .await;
    stack.finish(None).await
}

/// A command of somebody who takes nothing of it ends with its agent too, and that is known before anything is taken.
#[tokio::test]
async fn what_nobody_reads_ends_with_its_agent() -> Result<()> {
    let mut stack = staying(&[]).await?;
    let start = pb::ExecStart {
        app: "projects/default/apps/web".to_owned(),
        command: vec!["yes".to_owned()],
        ..pb::ExecStart::default()
    };
    let first = pb::ExecRequest { body: Some(pb::exec_request::Body::Start(start)) };
    let requests = stream::iter([first]).chain(stream::pending());
    let mut answers = super::super::client(&stack, "relay-0").await?.exec(requests).await?.into_inner();
    ensure!(answers.message().await?.is_some(), "it has begun");
    wait_channels(&stack, 1).await;
    stack.kill_agent("n1")?;
    wait_channels(&stack, 0).await;
    let told = loop {
        match answers.message().await {
            Ok(Some(_)) => {}
            Ok(None) => anyhow::bail!("it ended as if all were well"),
            Err(status) => break status,
        }
    };
    ensure!(told.message().contains("link to the agent"), "{told}");
    stack.start_agent("n1")?;
    stack.wait_connected("n1").await;
    stack.finish(None).await
}
