//! `skerry audit -f`: what comes is shown once, also what came while the registry was away.

use anyhow::{Result, ensure};
use skerry_integration::Stack;
use skerry_integration::stack::PATIENCE;

use crate::operator::begin;

#[tokio::test]
async fn records_are_shown_once_each_as_they_come_and_after_the_registry_was_away() -> Result<()> {
    let mut stack = Stack::start().await?;
    stack.apply_config("before", &[("text", "hello")]).await?;
    let mut follow = begin(&stack, &["audit", "-f"], "follow.log")?;
    follow.wait_for_line("configs/before", PATIENCE).await?;
    stack.apply_config("after", &[("text", "hello")]).await?;
    follow.wait_for_line("configs/after", PATIENCE).await?;

    stack.kill_service("registry-0")?;
    follow.wait_for_line("trying again", PATIENCE).await?;
    // The scheduler goes on.
    stack.apply_config("meanwhile", &[("text", "hello")]).await?;
    stack.start_service("registry-0")?;
    follow.wait_for_line("configs/meanwhile", PATIENCE).await?;
    stack.apply_config("last", &[("text", "hello")]).await?;
    follow.wait_for_line("configs/last", PATIENCE).await?;
    let shown = follow.output();
    for name in ["before", "after", "meanwhile", "last"] {
        let lines = shown.lines().filter(|line| line.contains(&format!("configs/{name} "))).count();
        ensure!(lines == 1, "{name} is shown {lines} times: {shown}");
    }
    follow.kill()
}

#[tokio::test]
async fn who_was_shown_nothing_yet_misses_nothing_when_the_registry_was_away() -> Result<()> {
    let mut stack = Stack::start().await?;
    stack.apply_config("other", &[("text", "hello")]).await?;
    let mut follow = begin(&stack, &["audit", "-f", "--resource", "configs/wanted"], "follow.log")?;
    // The names of the columns come when it has looked at what there is.
    follow.wait_for_line("WHO", PATIENCE).await?;
    stack.kill_service("registry-0")?;
    stack.apply_config("wanted", &[("text", "hello")]).await?;
    follow.wait_for_line("trying again", PATIENCE).await?;
    stack.start_service("registry-0")?;
    follow.wait_for_line("configs/wanted", PATIENCE).await?;
    ensure!(!follow.output().contains("configs/other"), "{}", follow.output());
    follow.kill()
}
