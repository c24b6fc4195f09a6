//! Clients that watch and do not read: they are told to list again, hold nobody up, and make no service buffer without bound.

use anyhow::{Context as _, Result, ensure};
use skerry_integration::Stack;
use skerry_integration::apps::{app_on, script, with_env};
use skerry_integration::stack::PATIENCE;
use skerry_proto::scheduler::v1::{ListAppsRequest, WatchAppsRequest, WatchAppsResponse};
use skerry_proto::types::v1::AppSpec;
use skerry_testing::anonymous_bytes;
use tonic::{Code, Streaming};

/// How large the app is.
const SPEC_BYTES: usize = 200 * 1024;
/// How often it changes: in all more than the scheduler keeps of changes.
const CHANGES: usize = 240;
/// How many specs take turns, so that the revisions themselves stay few.
const SPECS: usize = 8;
/// Those who do not read.
const SLOW: usize = 6;
/// What all of it may make the scheduler grow by. A buffer for each of the slow ones alone would be `SLOW * CHANGES * SPEC_BYTES`, 281 MiB.
const GROWTH_BYTES_MAX: u64 = 192 << 20;

fn large(version: usize) -> AppSpec {
    let filler = with_env("FILLER", &"x".repeat(SPEC_BYTES), script("s", "true"));
    // On no node: only watchers are concerned.
    app_on(("site", "nowhere"), [with_env("VERSION", &(version % SPECS).to_string(), filler)])
}

fn generation_of(change: &WatchAppsResponse) -> Option<i64> {
    Some(change.app.as_ref()?.metadata.as_ref()?.generation)
}

/// Changes the app; its generation.
async fn change(stack: &Stack, version: usize) -> Result<i64> {
    let app = stack.apply("large", large(version)).await?;
    Ok(app.metadata.context("no metadata")?.generation)
}

async fn watch(stack: &Stack, version: &str) -> Result<Streaming<WatchAppsResponse>> {
    let request = WatchAppsRequest {
        parent: "projects/default".into(),
        resource_version: version.to_owned(),
        ..Default::default()
    };
    // Each on a connection of its own.
    Ok(stack.apps().await?.watch_apps(request).await?.into_inner())
}

async fn now(stack: &Stack) -> Result<String> {
    let request = ListAppsRequest { parent: "projects/default".into(), page_size: 1, ..Default::default() };
    Ok(stack.apps().await?.list_apps(request).await?.into_inner().resource_version)
}

/// Reads until the change to `generation` comes.
async fn read_until(changes: &mut Streaming<WatchAppsResponse>, generation: i64) -> Result<()> {
    let reading = async {
        while generation_of(&changes.message().await?.context("the watch ended")?) != Some(generation) {}
        anyhow::Ok(())
    };
    tokio::time::timeout(PATIENCE, reading).await.context("the change did not come")?
}

#[tokio::test]
async fn who_watches_and_does_not_read_is_told_to_list_again_and_disturbs_nobody() -> Result<()> {
    let mut stack = Stack::start().await?;
    let first = change(&stack, 0).await?;
    let start = now(&stack).await?;
    let mut slow = Vec::new();
    for _ in 0..SLOW {
        slow.push(watch(&stack, &start).await?);
    }
    let mut quick = watch(&stack, &start).await?;
    let before = anonymous_bytes(stack.service("scheduler-0")?.pid())?;

    let mut newest = first;
    for version in 1..=CHANGES {
        newest = change(&stack, version).await?;
        // Who reads sees each change at once, whatever the others do.
        read_until(&mut quick, newest).await?;
    }
    assert_eq!(newest, first + i64::try_from(CHANGES)?);
    let grown = anonymous_bytes(stack.service("scheduler-0")?.pid())?.saturating_sub(before);
    println!("the scheduler grew by {} MiB", grown >> 20);
    assert!(grown < GROWTH_BYTES_MAX, "the scheduler grew by {} MiB", grown >> 20);

    for mut changes in slow {
        let read = async {
            let mut last = 0;
            loop {
                match changes.message().await {
                    Ok(change) => {
                        let generation = generation_of(&change.context("the watch ended without a word")?);
                        ensure!(generation.is_none_or(|generation| generation >= last), "out of order");
                        last = generation.unwrap_or(last);
                        ensure!(last < newest, "all {CHANGES} changes were kept for one who does not read");
                    }
                    Err(status) => return Ok(status),
                }
            }
        };
        let status = tokio::time::timeout(PATIENCE, read).await.context("not told in time")??;
        assert_eq!(status.code(), Code::OutOfRange, "{status:?}");
    }
    // They list again, and go on from there.
    let mut again = watch(&stack, &now(&stack).await?).await?;
    newest = change(&stack, CHANGES + 1).await?;
    read_until(&mut again, newest).await?;
    read_until(&mut quick, newest).await?;
    stack.finish(None).await
}
