//! What was written arrives whole, in order, and as it was asked for.

use anyhow::{Context as _, Result, ensure};
use skerry_integration::apps::{app, container, once, replicas, script};
use skerry_integration::containers::{Containers, local, unique};
use skerry_integration::stack::PATIENCE;
use skerry_integration::{Stack, StackConfig};
use skerry_testing::{Docker, eventually};

use super::{begin, done, keeping, numbers, ran, stack};

/// Writes so many numbered lines to both outputs, and stays.
fn writer(count: u32) -> String {
    format!(
        "i=0; while [ $i -lt {count} ]; do i=$((i+1)); echo \"out $i\"; echo \"err $i\" >&2; done; exec sleep 1000000"
    )
}

async fn wait_written(stack: &Stack, app: &str, last: u32) {
    eventually("all is written", PATIENCE, async || {
        // All of it: which of two lines of different outputs was first is known to some milliseconds only.
        let (out, err) = done(stack, &["logs", app]).await?;
        let ends = |text: &str, word: &str| numbers(text, word).last() == Some(&u64::from(last));
        ensure!(ends(&out, "out") && ends(&err, "err"), "{} and {} bytes", out.len(), err.len());
        Ok(())
    })
    .await;
}

#[tokio::test]
async fn logs_of_processes_on_two_nodes_arrive_whole_and_in_order_through_a_relay_that_does_not_hold_them()
-> Result<()> {
    let stack = stack(&["n1", "n2"]).await?;
    stack.apply("web", app([script("s", &writer(3000))])).await?;
    stack.wait_ready("web", 2).await;
    for node in ["n1", "n2"] {
        eventually("all is written", PATIENCE, async || {
            let (out, err) = done(&stack, &["logs", "app/web", "--node", node]).await?;
            ensure!(
                out.contains("out 3000") && err.contains("err 3000"),
                "{} and {} bytes",
                out.len(),
                err.len()
            );
            Ok(())
        })
        .await;
    }
    let (out, err) = done(&stack, &["logs", "app/web"]).await?;
    let wanted: Vec<u64> = (1..=3000).collect();
    for node in ["n1", "n2"] {
        let of = |text: &str| -> String {
            let prefix = format!("s/{node}/0 | ");
            text.split_inclusive('\n').filter(|line| line.starts_with(&prefix)).collect()
        };
        assert_eq!(numbers(&of(&out), "out "), wanted, "{node}");
        assert_eq!(numbers(&of(&err), "err "), wanted, "{node}");
    }
    assert_eq!(out.lines().count() + err.lines().count(), 12_000, "nothing else is told");

    // As it is asked for.
    let only = ["logs", "app/web", "--instance", "web/s/n1/0"];
    let asked = async |more: &[&str]| done(&stack, &[&only[..], more].concat()).await;
    let (out, err) = asked(&["--tail", "3"]).await?;
    assert_eq!(out.lines().count() + err.lines().count(), 3, "{out}{err}");
    // Which of two lines of different outputs was the last is known to some milliseconds only.
    let both = out + &err;
    assert!(both.contains(" 3000\n") && !both.contains(" | "), "one instance needs no name: {both}");
    let (out, err) = asked(&["--grep", "t 2999"]).await?;
    assert_eq!((out.as_str(), err.as_str()), ("out 2999\n", ""));
    let (out, _) = asked(&["--timestamps", "--grep", "out 17"]).await?;
    let line = out.lines().next().context("a line")?;
    assert!(line.starts_with("20") && line.ends_with("Z out 17"), "{line}");
    let (out, err) = asked(&["--since", "1h", "--until", "2000-01-01T00:00:00Z"]).await?;
    assert_eq!((out.as_str(), err.as_str()), ("", ""), "nothing was written then");
    assert_eq!(asked(&["--previous"]).await?, (String::new(), String::new()), "there was no copy before");
    assert_eq!(
        done(&stack, &["logs", "app/web/s", "--node", "n1", "--grep", "out 5", "--tail=0"]).await?.0,
        ""
    );
    stack.finish(None).await
}

#[tokio::test]
async fn what_a_former_copy_wrote_is_told_apart() -> Result<()> {
    let stack = stack(&["n1"]).await?;
    let state = "if [ -e $SKERRY_STATE_DIR/seen ]; then echo second; exec sleep 1000000; fi; touch $SKERRY_STATE_DIR/seen; echo first; exit 1";
    stack.apply("web", app([script("s", state)])).await?;
    eventually("it was started again", PATIENCE, async || {
        let (out, _) = done(&stack, &["logs", "app/web"]).await?;
        ensure!(out == "first\nsecond\n", "{out}");
        Ok(())
    })
    .await;
    assert_eq!(done(&stack, &["logs", "app/web", "--previous"]).await?.0, "first\n");
    stack.finish(None).await
}

#[tokio::test]
async fn what_is_followed_goes_on_over_rotated_files_and_with_instances_that_come_later() -> Result<()> {
    let stack = stack(&["n1"]).await?;
    let slowly = "i=0; while :; do i=$((i+1)); printf 'line %d\\n' $i; if [ $((i % 200)) = 0 ]; then sleep 0.05; fi; done";
    stack.apply("web", app([keeping(65536, 3, script("s", slowly))])).await?;
    stack.wait_ready("web", 1).await;
    let mut follows = begin(&stack, "relay-1", &["logs", "app/web", "-f", "--tail=1"], "follows.log")?;
    // Some ten files.
    eventually("much is told", PATIENCE, async || {
        let told = numbers(&follows.output(), "line ").len();
        ensure!(told > 60_000, "{told} lines");
        Ok(())
    })
    .await;
    let told = numbers(&follows.output(), "line ");
    assert!(told.windows(2).all(|pair| pair[1] == pair[0] + 1), "a gap, or one twice");
    // Another instance on the same node: it is found while the log is followed.
    stack.apply("web", app([keeping(65536, 3, replicas(2, script("s", slowly)))])).await?;
    eventually("the new one is told from its begin", PATIENCE, async || {
        ensure!(follows.output().lines().any(|line| line == "line 1"), "not yet");
        Ok(())
    })
    .await;
    follows.kill()?;
    super::wait_channels(&stack, 0).await;
    stack.finish(None).await
}

#[tokio::test]
async fn lines_are_any_bytes_and_long_ones_are_whole() -> Result<()> {
    let stack = stack(&["n1"]).await?;
    let text = "head -c 50000 /dev/zero | tr '\\0' x; echo end; printf '\\377\\000\\n'; printf 'unended'; exec sleep 1000000";
    stack.apply("web", app([script("s", text)])).await?;
    stack.wait_ready("web", 1).await;
    eventually("all is told", PATIENCE, async || {
        let (_, out, _) = ran(&stack, &["logs", "app/web"]).await?;
        ensure!(out.ends_with("unended"), "{} bytes", out.len());
        Ok(())
    })
    .await;
    let mut command = super::command(&stack, "relay-1", &["logs", "app/web"]);
    let output = tokio::task::spawn_blocking(move || command.output()).await??;
    let wanted = [vec![b'x'; 50_000], b"end\n\xff\0\nunended".to_vec()].concat();
    assert!(output.stdout == wanted, "{} bytes, where {} are wanted", output.stdout.len(), wanted.len());
    stack.finish(None).await
}

#[tokio::test]
async fn logs_of_containers_arrive_whole_and_are_followed_over_a_restart() -> Result<()> {
    let Some(docker) = Docker::required() else { return Ok(()) };
    docker.busybox()?;
    let node = unique("relay");
    let containers = Containers::of(&docker, &node);
    let config = StackConfig { gateways: 2, relays: 2, crossed_relays: true, ..StackConfig::default() };
    let mut stack = Stack::start_with(config).await?;
    let host = format!("--docker-host=unix://{}", docker.socket().display());
    stack.add_agent(&node, &[&host])?;
    stack.wait_connected(&node).await;
    stack.apply("web", app([local(container("s", &writer(2000)))])).await?;
    stack.wait_ready("web", 1).await;
    wait_written(&stack, "app/web", 2000).await;
    let (out, err) = done(&stack, &["logs", "app/web"]).await?;
    let wanted: Vec<u64> = (1..=2000).collect();
    assert_eq!(numbers(&out, "out "), wanted);
    assert_eq!(numbers(&err, "err "), wanted);
    let (out, err) = done(&stack, &["logs", "app/web", "--tail=3", "--timestamps"]).await?;
    assert_eq!(out.lines().count() + err.lines().count(), 3, "{out}{err}");
    assert!(out.starts_with("20") || err.starts_with("20"), "{out}{err}");

    // Its copy ends, and is started again: whoever follows is told all of it, once.
    let ends =
        "echo \"up $$\"; i=0; while [ $i -lt 5 ]; do i=$((i+1)); echo \"tick $i\"; sleep 0.2; done; exit 3";
    stack.apply("job", app([once(local(container("s", ends)))])).await?;
    let mut follows = begin(&stack, "relay-1", &["logs", "app/web", "-f", "--tail=0"], "follows.log")?;
    eventually("the log is followed", PATIENCE, async || {
        ensure!(super::channels(&stack).await?.len() == 1, "not open yet");
        Ok(())
    })
    .await;
    let running = containers.of_app("web")?.context("it runs")?;
    rustix::process::kill_process(
        rustix::process::Pid::from_raw(running.pid.try_into()?).context("a process")?,
        rustix::process::Signal::KILL,
    )?;
    eventually("what the next run wrote is told", PATIENCE, async || {
        let told = follows.output();
        ensure!(told.contains("out 2000") && told.contains("err 2000"), "{} bytes", told.len());
        Ok(())
    })
    .await;
    assert_eq!(numbers(&follows.output(), "out "), wanted, "each line once");
    follows.kill()?;
    eventually("the job's log is told though it has ended", PATIENCE, async || {
        let (out, _) = done(&stack, &["logs", "app/job"]).await?;
        ensure!(numbers(&out, "tick ") == [1, 2, 3, 4, 5], "{out}");
        Ok(())
    })
    .await;
    stack.delete_apps().await?;
    containers.wait_none().await;
    stack.finish(None).await
}
