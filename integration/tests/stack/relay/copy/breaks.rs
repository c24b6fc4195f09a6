//! What breaks in the middle is an error, and leaves nothing.

use std::fs;
use std::path::Path;
use std::process::Command;

use anyhow::{Result, ensure};
use rustix::process::Signal;
use skerry_integration::Stack;
use skerry_integration::stack::PATIENCE;
use skerry_testing::{Process, eventually};

use super::super::begin;
use super::{cp, fails, names, state_of, staying, text};

/// Takes long enough to be stopped in the middle.
const BYTES: u64 = 8 << 30;

/// A file of nothing but zeros, which takes no room.
fn make_large(path: &Path) -> Result<()> {
    Ok(fs::File::create(path)?.set_len(BYTES)?)
}

/// Waits until something of it is there, beside its place.
async fn wait_begun(dir: &Path) {
    eventually("it is being written", PATIENCE, async || {
        let begun = names(dir)?.into_iter().find(|name| name.starts_with(".skerry-cp-"));
        let begun = begun.ok_or_else(|| anyhow::anyhow!("nothing yet"))?;
        let size = fs::metadata(dir.join(begun).join("large")).map_or(0, |meta| meta.len());
        ensure!(size > 1 << 20, "{size} bytes");
        Ok(())
    })
    .await;
}

async fn wait_gone(dir: &Path) {
    eventually("nothing of it is left", PATIENCE, async || {
        ensure!(!names(dir)?.iter().any(|name| name.starts_with(".skerry")), "{:?}", names(dir)?);
        Ok(())
    })
    .await;
}

async fn failed(mut copy: Process, text: &str) -> Result<()> {
    let ended = copy.wait(PATIENCE).await?;
    ensure!(!ended.success() && copy.output().contains(text), "{ended:?}: {}", copy.output());
    Ok(())
}

fn from(stack: &Stack, to: &Path, log: &str) -> Result<Process> {
    begin(stack, "relay-0", &["cp", "app/web:large", text(to)], log)
}

#[tokio::test]
async fn whoever_is_killed_the_user_is_told_and_nothing_is_left_of_it() -> Result<()> {
    let mut stack = staying().await?;
    let (here, state) = (stack.dir().join("here"), state_of(&stack).await?);
    let (source, out) = (here.join("source"), here.join("out"));
    fs::create_dir_all(&source)?;
    fs::create_dir(&out)?;
    make_large(&state.join("large"))?;
    make_large(&source.join("large"))?;
    let into = state.join("into");
    fs::create_dir(&into)?;

    // Ctrl-C here.
    let mut copy = from(&stack, &out, "c1.log")?;
    wait_begun(&out).await;
    copy.signal(Signal::INT)?;
    ensure!(copy.wait(PATIENCE).await?.code() == Some(130), "{}", copy.output());
    assert!(names(&out)?.is_empty(), "{:?}", names(&out)?);
    // The user goes away in the middle of what is sent.
    let to = |log: &str| begin(&stack, "relay-0", &["cp", text(&source.join("large")), "app/web:into"], log);
    let mut copy = to("c2.log")?;
    wait_begun(&into).await;
    copy.kill()?;
    wait_gone(&into).await;
    // The relay.
    let copy = [from(&stack, &out, "c3.log")?, to("c4.log")?];
    wait_begun(&out).await;
    wait_begun(&into).await;
    stack.kill_service("relay-0")?;
    for copy in copy {
        failed(copy, "error").await?;
    }
    wait_gone(&into).await;
    stack.start_service("relay-0")?;
    stack.wait_service("relay-0").await?;
    // The agent.
    let copy = [
        from(&stack, &out, "c5.log")?,
        begin(&stack, "relay-0", &["cp", text(&source.join("large")), "app/web:into"], "c6.log")?,
    ];
    wait_begun(&out).await;
    wait_begun(&into).await;
    stack.kill_agent("n1")?;
    for copy in copy {
        failed(copy, "the link to the agent of projects/default/nodes/n1 was lost").await?;
    }
    wait_gone(&into).await;
    assert!(names(&out)?.is_empty() && names(&into)?.is_empty());
    stack.start_agent("n1")?;
    stack.wait_connected("n1").await;
    // And it works again.
    fs::write(source.join("small"), "small")?;
    eventually("it works again", PATIENCE, async || {
        cp(&stack, text(&source.join("small")), "app/web:into").await
    })
    .await;
    assert_eq!(names(&into)?, ["small"]);
    stack.finish(None).await
}

#[tokio::test]
async fn a_full_disk_is_told_and_nothing_is_left_of_it() -> Result<()> {
    if !rustix::process::geteuid().is_root() {
        return Ok(());
    }
    let stack = staying().await?;
    let small = stack.dir().join("small");
    fs::create_dir(&small)?;
    let mounted =
        Command::new("mount").args(["-t", "tmpfs", "-o", "size=2m", "none"]).arg(&small).status()?;
    ensure!(mounted.success(), "a small disk");
    let _unmounted = Unmount(small.clone());
    let source = stack.dir().join("large");
    fs::write(&source, vec![1; 8 << 20])?;
    cp(&stack, text(&source), "app/web:.").await?;
    fails(&stack, "app/web:large", text(&small), "No space left on device").await?;
    fails(&stack, text(&source), &format!("app/web:{}", small.display()), "No space left on device").await?;
    assert!(names(&small)?.is_empty(), "{:?}", names(&small)?);
    stack.finish(None).await
}

struct Unmount(std::path::PathBuf);

impl Drop for Unmount {
    fn drop(&mut self) {
        let _ = Command::new("umount").arg("-l").arg(&self.0).status();
    }
}
