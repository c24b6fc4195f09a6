//! Commands from afar: their output whole, their exit code their own, and nothing left of them whoever is gone.

mod ends;
mod terminal;

use std::fs::{self, File};
use std::process::Stdio;

use anyhow::{Context as _, Result, ensure};
use skerry_integration::apps::{app, container, script, with_env};
use skerry_integration::containers::{Containers, local, unique};
use skerry_integration::stack::PATIENCE;
use skerry_integration::{Stack, StackConfig};
use skerry_testing::{BUSYBOX_IMAGE, Docker, eventually};

use super::{command, ran, stack, wait_channels};

/// What stays, for commands beside it.
const STAYS: &str = "exec sleep 1000000";
/// What no command's exit code is.
const OWN_FAILURE: Option<i32> = Some(125);

/// A node with an app `web` of one process, and agent's flags.
async fn staying(flags: &[&str]) -> Result<Stack> {
    let mut stack = stack(&[]).await?;
    stack.add_agent("n1", &[&["--no-docker"], flags].concat())?;
    stack.wait_connected("n1").await;
    stack.apply("web", app([with_env("OF_THE_APP", "yes", script("s", STAYS))])).await?;
    stack.wait_ready("web", 1).await;
    Ok(stack)
}

/// The same as a container, of the test's image.
async fn contained(docker: &Docker, node: &str) -> Result<Stack> {
    docker.busybox()?;
    let config = StackConfig { gateways: 2, relays: 2, crossed_relays: true, ..StackConfig::default() };
    let mut stack = Stack::start_with(config).await?;
    stack.add_agent(node, &[&format!("--docker-host=unix://{}", docker.socket().display())])?;
    stack.wait_connected(node).await;
    // A shell that hears SIGTERM, though it is the first of its container.
    let stays = "trap exit TERM; while :; do sleep 1000000 & wait; done";
    stack.apply("web", app([with_env("OF_THE_APP", "yes", local(container("s", stays)))])).await?;
    stack.wait_ready("web", 1).await;
    Ok(stack)
}

/// What a command in `web` comes to.
async fn exec(stack: &Stack, flags: &[&str], command: &[&str]) -> Result<(Option<i32>, String, String)> {
    let words = [&["exec", "app/web"], flags, &["--"], command].concat();
    ran(stack, &words).await
}

/// The same of a shell's script.
async fn sh(stack: &Stack, flags: &[&str], script: &str) -> Result<(Option<i32>, String, String)> {
    exec(stack, flags, &["sh", "-c", script]).await
}

/// Processes of this machine that have these words in their command line, but for clients.
fn with_words(words: &str) -> Vec<String> {
    let entries = fs::read_dir("/proc").into_iter().flatten().flatten();
    let lines = entries.filter_map(|entry| {
        let line = fs::read(entry.path().join("cmdline")).ok()?;
        let line = String::from_utf8_lossy(&line).replace('\0', " ");
        (line.contains(words) && !line.contains("skerry exec") && !line.contains("skerry debug"))
            .then_some(line)
    });
    lines.collect()
}

async fn wait_gone(words: &str) {
    eventually("the command is gone", PATIENCE, async || {
        let left = with_words(words);
        ensure!(left.is_empty(), "{left:?}");
        Ok(())
    })
    .await;
}

/// What holds of commands wherever they run.
async fn is_as_if_it_ran_here(stack: &Stack) -> Result<()> {
    // Exit codes are the command's.
    for (script, code) in
        [("exit 0", 0), ("exit 7", 7), ("exit 255", 255), ("kill -9 $$", 137), ("kill $$", 143)]
    {
        let (ended, out, err) = sh(stack, &[], script).await?;
        ensure!(ended == Some(code) && out.is_empty() && err.is_empty(), "{script}: {ended:?}: {out}{err}");
    }
    let (ended, _, err) = exec(stack, &[], &["/no/such/program"]).await?;
    ensure!(ended == Some(127) && err.contains("/no/such/program"), "{ended:?}: {err}");
    let (ended, _, err) = exec(stack, &[], &["/etc"]).await?;
    ensure!(ended == Some(126) && err.contains("/etc"), "{ended:?}: {err}");

    // Outputs are apart, and whole.
    let (ended, out, err) = sh(stack, &[], "echo out; echo err >&2; printf 'no newline'").await?;
    assert_eq!((ended, out.as_str(), err.as_str()), (Some(0), "out\nno newline", "err\n"));
    // What is not asked for is not read: standard input is empty.
    let (ended, out, _) = exec(stack, &[], &["cat"]).await?;
    assert_eq!((ended, out.as_str()), (Some(0), ""));

    // Its environment, with more, and its directory.
    let (_, out, err) = sh(stack, &["-e", "MORE=a b", "-w", "/tmp"], "echo $OF_THE_APP,$MORE,$PWD").await?;
    ensure!(out == "yes,a b,/tmp\n", "{out}{err}");
    let (ended, _, err) = sh(stack, &["-w", "/no/where"], "true").await?;
    ensure!(ended != Some(0) && err.contains("/no/where"), "{ended:?}: {err}");

    // Megabytes, both ways, of any bytes.
    let data: Vec<u8> =
        (0..5_000_000_u32).map(|at| (at.wrapping_mul(31) ^ (at >> 9)).to_le_bytes()[0]).collect();
    let file = stack.dir().join("data");
    fs::write(&file, &data)?;
    let mut cat = command(stack, "relay-0", &["exec", "-i", "app/web", "--", "cat"]);
    cat.stdin(File::open(&file)?).stderr(Stdio::inherit());
    let output = tokio::task::spawn_blocking(move || cat.output());
    let output = tokio::time::timeout(PATIENCE, output).await.context("cat does not end")???;
    ensure!(output.status.code() == Some(0), "{:?}", output.status);
    ensure!(output.stdout == data, "{} of {} bytes came back, or others", output.stdout.len(), data.len());
    // One that does not read all of it ends as it likes.
    let mut head =
        command(stack, "relay-1", &["exec", "-i", "app/web", "--", "sh", "-c", "head -c 3; exit 5"]);
    head.stdin(File::open(&file)?);
    let output = tokio::task::spawn_blocking(move || head.output());
    let output = tokio::time::timeout(PATIENCE, output).await.context("head does not end")???;
    assert_eq!((output.status.code(), output.stdout.as_slice()), (Some(5), &data[..3]));

    // What it leaves running does not outlive it, and does not hold it up.
    let (ended, out, _) = sh(stack, &[], "sleep 77701 & echo begun").await?;
    assert_eq!((ended, out.as_str()), (Some(0), "begun\n"));
    wait_gone("sleep 77701").await;
    wait_channels(stack, 0).await;
    Ok(())
}

#[tokio::test]
async fn a_command_beside_a_process_is_as_if_it_ran_here() -> Result<()> {
    let stack = staying(&[]).await?;
    is_as_if_it_ran_here(&stack).await?;
    let (_, out, err) = exec(&stack, &["--user", "65534:65534", "-w", "/"], &["id", "-u"]).await?;
    ensure!(out == "65534\n", "{out}{err}");
    let (ended, _, err) = exec(&stack, &["--user", "nobody-at-all"], &["id"]).await?;
    ensure!(ended == OWN_FAILURE && err.contains("nobody-at-all"), "{ended:?}: {err}");
    stack.finish(None).await
}

#[tokio::test]
async fn a_command_in_a_container_is_as_if_it_ran_here_and_so_is_one_beside_it() -> Result<()> {
    let Some(docker) = Docker::required() else { return Ok(()) };
    let node = unique("exec");
    let containers = Containers::of(&docker, &node);
    let stack = contained(&docker, &node).await?;
    is_as_if_it_ran_here(&stack).await?;
    let (_, out, err) = exec(&stack, &["--user", "1234:4321"], &["sh", "-c", "id -u; id -g"]).await?;
    ensure!(out == "1234\n4321\n", "{out}{err}");

    // A container with the tools, beside it: it sees its processes, its network and its files, and is gone afterwards.
    let debug = ["debug", "app/web", "--image", BUSYBOX_IMAGE, "--"];
    sh(&stack, &[], "echo a mark > /tmp/mark").await?;
    let look =
        "ps | grep -c 'sleep 1000000'; cat /proc/1/root/tmp/mark; cat /tmp/mark; ls /sys/class/net; exit 9";
    let (ended, out, err) = ran(&stack, &[&debug[..], &["sh", "-c", look]].concat()).await?;
    ensure!(ended == Some(9), "{ended:?}: {out}{err}");
    ensure!(out.contains("\na mark\neth0\nlo\n") && err.contains("/tmp/mark"), "{out}{err}");
    let (ended, out, err) =
        ran(&stack, &["debug", "app/web", "--image", "no-such-image:1", "--", "true"]).await?;
    ensure!(ended == OWN_FAILURE && err.contains("no-such-image:1"), "{ended:?}: {out}{err}");
    eventually("no container but its own", PATIENCE, async || {
        let left = docker.containers("skerry.io/debugs")?;
        ensure!(left.is_empty(), "{left:?}");
        Ok(())
    })
    .await;
    stack.delete_apps().await?;
    containers.wait_none().await;
    stack.finish(None).await
}

#[tokio::test]
async fn what_cannot_be_run_is_told_with_the_field_and_is_no_exit_code_of_a_command() -> Result<()> {
    let mut stack = staying(&[]).await?;
    let refused = async |words: &[&str], code: i32, text: &str| -> Result<()> {
        let (ended, out, err) = ran(&stack, words).await?;
        ensure!(
            ended == Some(code) && err.contains(text) && out.is_empty(),
            "{words:?}: {ended:?}: {out}{err}"
        );
        Ok(())
    };
    refused(&["exec", "app/web"], 125, "say what to run, after --").await?;
    refused(&["exec", "app/never", "--", "true"], 125, "projects/default/apps/never does not exist").await?;
    refused(&["exec", "app/web", "other", "--", "true"], 125, "no instance of service other").await?;
    refused(&["exec", "config/web", "--", "true"], 125, "name an app or a node").await?;
    refused(&["exec", "-e", "=x", "app/web", "--", "true"], 125, "write NAME=VALUE").await?;
    refused(&["exec", "-t", "app/web", "--", "true"], 125, "-t wants a terminal").await?;
    refused(&["exec", "node/n1", "--image", "x"], 125, "--image").await?;
    refused(&["debug", "app/web", "--image", BUSYBOX_IMAGE, "--", "true"], 125, "container").await?;
    // A shell on the machine is its owner's word.
    refused(&["exec", "node/n1", "--", "true"], 125, "--allow-node-shell").await?;
    refused(&["exec", "node/never", "--", "true"], 125, "nodes/never").await?;
    stack.kill_agent("n1")?;
    stack.wait_disconnected("n1").await;
    let (ended, _, err) = exec(&stack, &[], &["true"]).await?;
    ensure!(ended == OWN_FAILURE && err.contains("nodes/n1 is not connected"), "{ended:?}: {err}");
    stack.start_agent("n1")?;
    stack.wait_connected("n1").await;
    let (ended, _, err) = exec(&stack, &[], &["true"]).await?;
    ensure!(ended == Some(0), "{ended:?}: {err}");
    stack.finish(None).await
}

#[tokio::test]
async fn what_the_owner_of_a_machine_forbids_nobody_does_there() -> Result<()> {
    let stack = staying(&["--forbid", "exec,copy", "--allow-node-shell"]).await?;
    let (ended, _, err) = exec(&stack, &[], &["true"]).await?;
    ensure!(ended == OWN_FAILURE && err.contains("--forbid"), "{ended:?}: {err}");
    let (ended, _, err) = ran(&stack, &["cp", "app/web:/etc/hostname", "-"]).await?;
    ensure!(ended != Some(0) && err.contains("--forbid"), "{ended:?}: {err}");
    // What is not forbidden goes on.
    let (ended, out, err) = ran(&stack, &["exec", "node/n1", "--", "sh", "-c", "echo $HOME; exit 4"]).await?;
    let home = format!("{}\n", std::env::var("HOME").unwrap_or_default());
    ensure!(ended == Some(4) && (out == home || home == "\n"), "{ended:?}: {out}{err}");
    // The agent's own variables are not for people.
    let (ended, out, err) = ran(&stack, &["exec", "node/n1", "--", "env"]).await?;
    ensure!(ended == Some(0) && !out.contains("SKERRY_"), "{ended:?}: {out}{err}");
    stack.finish(None).await
}
