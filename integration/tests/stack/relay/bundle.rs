//! Support archives: what is known of a node, whole or not at all, and nothing in it that is not for others.

use std::fs;
use std::path::Path;
use std::process::Command;

use anyhow::{Context as _, Result, ensure};
use skerry_integration::apps::{app, script, with_env};
use skerry_proto::types::v1::ConfigMount;

use super::{done, ran, stack};

/// What is planted, and found in no archive.
const PLANTED: [&str; 3] = ["planted-in-env", "planted-in-config", "planted-in-args"];

/// Unpacks an archive: its files with what is in them.
fn unpacked(archive: &Path, into: &Path) -> Result<Vec<(String, String)>> {
    fs::create_dir_all(into)?;
    let done = Command::new("tar").arg("-xzf").arg(archive).arg("-C").arg(into).status()?;
    ensure!(done.success(), "it does not unpack: {done:?}");
    let (mut files, mut left) = (Vec::new(), vec![into.to_owned()]);
    while let Some(dir) = left.pop() {
        for entry in fs::read_dir(&dir)? {
            let path = entry?.path();
            if path.is_dir() {
                left.push(path);
            } else {
                let name = path.strip_prefix(into)?.display().to_string();
                files.push((name, String::from_utf8_lossy(&fs::read(&path)?).into_owned()));
            }
        }
    }
    files.sort();
    Ok(files)
}

#[tokio::test]
async fn a_bundle_has_what_is_known_of_a_node_and_no_secrets() -> Result<()> {
    let mut stack = stack(&["n1"]).await?;
    stack.apply_config("site", &[("site.conf", "key = planted-in-config")]).await?;
    let mut service =
        with_env("PASSWORD", "planted-in-env", script("s", "exec sleep 1000000 # planted-in-args"));
    service.configs =
        vec![ConfigMount { config: "site".into(), path: "site".into(), ..ConfigMount::default() }];
    stack.apply("web", app([service])).await?;
    stack.wait_ready("web", 1).await;

    let file = stack.dir().join("n1.tar.gz");
    let shown = file.display().to_string();
    let (out, err) = done(&stack, &["bundle", "node/n1", "-o", &shown]).await?;
    ensure!(out == format!("{shown} written\n") && err.is_empty(), "{out}{err}");
    let files = unpacked(&file, &stack.dir().join("unpacked"))?;
    let text = |name: &str| -> Result<&str> {
        let found = files.iter().find(|(one, _)| one == &format!("skerry-n1/{name}"));
        found
            .map(|(_, text)| text.as_str())
            .with_context(|| format!("no {name} in {:?}", files.iter().map(|one| &one.0).collect::<Vec<_>>()))
    };
    for (name, has) in [
        ("agent/agent.txt", "node: projects/default/nodes/n1"),
        ("agent/plan.txt", "hold web/s/n1/0 Runs"),
        ("agent/wanted.txt", "web/s/n1/0 process"),
        ("agent/observed.txt", "web/s/n1/0 Running"),
        ("agent/statuses.txt", "web/s/n1/0"),
        ("agent/log.txt", "connected"),
        ("agent/disk.txt", "desired.0"),
        ("agent/proc/meminfo", "MemTotal"),
        ("agent/runtimes/process-instances.txt", "web/s/n1/0"),
        ("cloud/node.json", "\"n1\""),
        ("cloud/events.json", "Started"),
        ("cloud/instances.json", "web/s/n1/0"),
        ("cloud/apps/web.json", "Available"),
        ("cloud/installation.json", "gateway"),
    ] {
        let text = text(name)?;
        ensure!(text.contains(has), "{name}: {text}");
    }
    for (name, text) in &files {
        for planted in PLANTED {
            ensure!(!text.contains(planted), "{planted} in {name}");
        }
        ensure!(!text.contains("PRIVATE KEY"), "{name}");
    }

    // What cannot be written leaves nothing behind, and what is not reached is told.
    let (code, _, err) = ran(&stack, &["bundle", "node/n1", "-o", "/proc/none/n1.tar.gz"]).await?;
    ensure!(code == Some(1) && err.contains("/proc/none/n1.tar.gz"), "{code:?}: {err}");
    let (code, _, err) = ran(&stack, &["bundle", "app/web"]).await?;
    ensure!(code == Some(2) && err.contains("name a node"), "{code:?}: {err}");
    let (code, _, err) = ran(&stack, &["bundle", "node/never", "-o", &shown]).await?;
    ensure!(code == Some(3), "{code:?}: {err}");
    stack.kill_agent("n1")?;
    stack.wait_disconnected("n1").await;
    let (_, err) = done(&stack, &["bundle", "node/n1", "-o", &shown]).await?;
    ensure!(err.contains("nodes/n1 is not connected"), "{err}");
    let files = unpacked(&file, &stack.dir().join("without"))?;
    let names: Vec<&str> = files.iter().map(|(name, _)| name.as_str()).collect();
    ensure!(names.contains(&"skerry-n1/agent/MISSING.txt"), "{names:?}");
    ensure!(names.contains(&"skerry-n1/cloud/node.json"), "{names:?}");
    let left: Vec<String> = fs::read_dir(stack.dir())?
        .flatten()
        .map(|entry| entry.file_name().to_string_lossy().into_owned())
        .filter(|name| name.starts_with(".skerry-bundle"))
        .collect();
    ensure!(left.is_empty(), "{left:?}");
    stack.start_agent("n1")?;
    stack.wait_connected("n1").await;
    stack.delete_apps().await?;
    stack.finish(None).await
}
