//! Programs that want a terminal have one: a person types here, and sees there.

use anyhow::{Context as _, Result, ensure};
use skerry_integration::containers::{Containers, unique};
use skerry_integration::stack::PATIENCE;
use skerry_integration::{Stack, Terminal};
use skerry_testing::{Docker, eventually};

use super::super::{command, wait_channels};
use super::{contained, sh, staying, wait_gone, with_words};

/// `skerry` in a terminal of 100 by 30.
fn open(stack: &Stack, words: &[&str]) -> Result<Terminal> {
    Terminal::run(&command(stack, "relay-0", words), 100, 30)
}

/// A shell, vi and top, driven and read back.
async fn is_driven(stack: &Stack) -> Result<()> {
    let mut terminal = open(stack, &["exec", "-it", "app/web", "--", "env", "PS1=prompt> ", "sh"])?;
    terminal.wait("a prompt", PATIENCE, |text| text.contains("prompt>")).await?;
    terminal.press("tty && stty size; echo $TERM\r")?;
    terminal.wait("its size", PATIENCE, |text| text.contains("30 100")).await?;
    terminal.resize(90, 25)?;
    terminal.press("sleep 0.2; clear; stty size\r")?;
    terminal.wait("its new size", PATIENCE, |text| text.contains("25 90")).await?;

    // What is typed is the program's, Ctrl-C too.
    terminal.press("sleep 884000\r")?;
    tokio::time::sleep(std::time::Duration::from_millis(300)).await;
    terminal.press("\x03")?;
    terminal.press("echo still $((40+2))\r")?;
    terminal.wait("the shell after Ctrl-C", PATIENCE, |text| text.contains("still 42")).await?;

    // A program that draws: typed into, moved about in, written, and read back.
    terminal.press("cd /tmp && busybox vi drawn.txt\r")?;
    terminal.wait("vi", PATIENCE, |text| text.lines().filter(|line| line.trim() == "~").count() > 10).await?;
    terminal.press("ifirst line\rsecnd line\x1b")?;
    terminal.wait("two lines", PATIENCE, |text| text.contains("secnd line")).await?;
    terminal.press("0lllio\x1b")?;
    terminal.wait("the mended line", PATIENCE, |text| text.contains("second line")).await?;
    terminal.press(":wq\r")?;
    terminal.wait("the shell again", PATIENCE, |text| text.trim_end().ends_with("prompt>")).await?;
    let (_, out, err) = sh(stack, &[], "cat /tmp/drawn.txt; rm /tmp/drawn.txt").await?;
    ensure!(out == "first line\nsecond line\n", "{out}{err}");

    // The end of input is typed too.
    terminal.press("exit 33\r")?;
    let ended = terminal.ended(PATIENCE).await?;
    ensure!(ended.code() == Some(33), "{ended:?}: {}", terminal.text());
    wait_channels(stack, 0).await;
    Ok(())
}

#[tokio::test]
async fn a_shell_and_an_editor_beside_a_process_are_driven_from_a_terminal() -> Result<()> {
    let stack = staying(&[]).await?;
    is_driven(&stack).await?;
    stack.finish(None).await
}

#[tokio::test]
async fn a_shell_an_editor_and_top_in_a_container_are_driven_from_a_terminal() -> Result<()> {
    let Some(docker) = Docker::required() else { return Ok(()) };
    let node = unique("tty");
    let containers = Containers::of(&docker, &node);
    let stack = contained(&docker, &node).await?;
    is_driven(&stack).await?;

    let mut terminal = open(&stack, &["exec", "-it", "app/web", "--", "top", "-d", "1"])?;
    terminal.wait("top", PATIENCE, |text| text.contains("Mem:") && text.contains("PID")).await?;
    terminal.press("q")?;
    let ended = terminal.ended(PATIENCE).await?;
    ensure!(ended.code() == Some(0), "{ended:?}: {}", terminal.text());

    // With the tools of another image.
    let words = ["debug", "app/web", "--image", skerry_testing::BUSYBOX_IMAGE];
    let mut terminal = open(&stack, &words)?;
    terminal.wait("a prompt", PATIENCE, |text| text.contains('#')).await?;
    terminal.press("ps\r")?;
    terminal.wait("the processes of the instance", PATIENCE, |text| text.contains("sleep 1000000")).await?;
    terminal.press("exit 3\r")?;
    let ended = terminal.ended(PATIENCE).await?;
    ensure!(ended.code() == Some(3), "{ended:?}: {}", terminal.text());
    stack.delete_apps().await?;
    containers.wait_none().await;
    stack.finish(None).await
}

#[tokio::test]
async fn a_terminal_that_is_closed_ends_its_shell_and_one_that_is_kept_is_in_order_afterwards() -> Result<()>
{
    let mut stack = staying(&["--allow-node-shell"]).await?;
    // Closed in the middle of it.
    let mut terminal = open(&stack, &["exec", "-it", "app/web", "--", "sh"])?;
    terminal.press("sleep 885000\r")?;
    eventually("it runs", PATIENCE, async || {
        ensure!(!with_words("sleep 885000").is_empty(), "not yet");
        Ok(())
    })
    .await;
    terminal.kill()?;
    drop(terminal);
    wait_gone("sleep 885000").await;
    wait_channels(&stack, 0).await;

    // A shell on the machine, in a terminal that a shell here goes on with: lost in the middle, it is put back.
    let skerry = skerry_testing::bin("skerry");
    let script = format!("{} exec -it node/n1; echo ended $?; stty -a", skerry.display());
    let mut shell = command(&stack, "relay-0", &[]);
    let env: Vec<_> =
        shell.get_envs().map(|(name, value)| (name.to_owned(), value.map(ToOwned::to_owned))).collect();
    shell = std::process::Command::new("sh");
    shell.args(["-c", &script]);
    for (name, value) in env {
        shell.env(name, value.context("a value")?);
    }
    let mut terminal = Terminal::run(&shell, 100, 30)?;
    terminal.press("echo on $((1+1)) the machine\r")?;
    terminal.wait("a shell", PATIENCE, |text| text.contains("on 2 the machine")).await?;
    stack.kill_agent("n1")?;
    terminal.wait("its end", PATIENCE, |text| text.contains("ended 125")).await?;
    terminal
        .wait("a terminal in order", PATIENCE, |text| {
            text.contains(" icanon") && text.contains(" echo ") && !text.contains("-icanon")
        })
        .await?;
    terminal.ended(PATIENCE).await?;
    stack.start_agent("n1")?;
    stack.wait_connected("n1").await;
    stack.finish(None).await
}
