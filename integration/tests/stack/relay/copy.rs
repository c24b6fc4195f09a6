//! Files into instances and out of them: whole, where they belong, and nothing of them where they are not.

mod breaks;
mod places;

use std::collections::BTreeMap;
use std::ffi::OsStr;
use std::fs;
use std::os::unix::ffi::OsStrExt as _;
use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _, symlink};
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result, ensure};
use skerry_integration::Stack;
use skerry_integration::apps::{app, script};
use skerry_testing::{bin, eventually};

use super::{done, ran, stack};

/// What stays, for its files.
const STAYS: &str = "exec sleep 1000000";

/// A node with an app `web` of one process, whose state directory is its working directory.
async fn staying() -> Result<Stack> {
    let stack = stack(&["n1"]).await?;
    stack.apply("web", app([script("s", STAYS)])).await?;
    stack.wait_ready("web", 1).await;
    Ok(stack)
}

/// What the process of `web` sees as its working directory.
async fn state_of(stack: &Stack) -> Result<PathBuf> {
    let instance = stack.instances("web").await?.into_iter().next().context("an instance")?;
    let pid = instance.runtime_id;
    fs::read_link(format!("/proc/{pid}/cwd")).context("its directory")
}

/// Copies, and is to succeed.
async fn cp(stack: &Stack, from: &str, to: &str) -> Result<()> {
    done(stack, &["cp", from, to]).await.map(drop)
}

/// Copies, and is to fail with this text.
async fn fails(stack: &Stack, from: &str, to: &str, text: &str) -> Result<()> {
    let (code, out, err) = ran(stack, &["cp", from, to]).await?;
    ensure!(code != Some(0) && err.contains(text), "cp {from} {to}: {code:?}: {out}{err}");
    Ok(())
}

fn text(path: &Path) -> &str {
    path.to_str().expect("a path of this test is text")
}

/// A tree with what trees have: odd names, an empty directory, links, permissions.
fn make_tree(at: &Path) -> Result<()> {
    fs::create_dir_all(at.join("deep/er/and er"))?;
    fs::create_dir(at.join("empty"))?;
    fs::write(at.join("plain"), "plain\n")?;
    fs::write(at.join("nothing"), "")?;
    fs::write(at.join("deep/er/and er/a file\nof two lines"), vec![7; 100_000])?;
    fs::write(at.join(OsStr::from_bytes(b"not \xff\xfe utf-8")), "odd")?;
    fs::write(at.join("n".repeat(200)), "long")?;
    fs::write(at.join("run"), "#!/bin/sh\n")?;
    fs::set_permissions(at.join("run"), fs::Permissions::from_mode(0o751))?;
    fs::set_permissions(at.join("plain"), fs::Permissions::from_mode(0o400))?;
    fs::set_permissions(at.join("empty"), fs::Permissions::from_mode(0o500))?;
    symlink("plain", at.join("link"))?;
    symlink("../plain", at.join("deep/up"))?;
    let old = std::time::UNIX_EPOCH + std::time::Duration::from_secs(1_000_000_000);
    fs::File::open(at.join("run"))?.set_modified(old)?;
    Ok(())
}

/// Of each path its kind and permissions, its time and its content.
type Tree = BTreeMap<PathBuf, (u32, i64, Vec<u8>)>;

/// What can be seen of a tree: of each path its kind, permissions, time and content.
fn seen(at: &Path) -> Result<Tree> {
    fn walk(at: &Path, path: &Path, seen: &mut Tree) -> Result<()> {
        let whole = if path.as_os_str().is_empty() { at.to_owned() } else { at.join(path) };
        let meta = fs::symlink_metadata(&whole).with_context(|| format!("{}", whole.display()))?;
        let (time, content) = if meta.is_symlink() {
            (0, fs::read_link(&whole)?.as_os_str().as_bytes().to_vec())
        } else if meta.is_dir() {
            (0, Vec::new())
        } else {
            (meta.mtime(), fs::read(&whole)?)
        };
        seen.insert(path.to_owned(), (meta.mode(), time, content));
        if meta.is_dir() {
            for entry in fs::read_dir(&whole)? {
                walk(at, &path.join(entry?.file_name()), seen)?;
            }
        }
        Ok(())
    }
    let mut all = BTreeMap::new();
    walk(at, Path::new(""), &mut all)?;
    Ok(all)
}

/// The names in a directory.
fn names(dir: &Path) -> Result<Vec<String>> {
    let mut names = Vec::new();
    for entry in fs::read_dir(dir)? {
        names.push(entry?.file_name().to_string_lossy().into_owned());
    }
    names.sort();
    Ok(names)
}

/// Most memory that a process had, in bytes.
fn peak(pid: u32) -> Result<u64> {
    let status = fs::read_to_string(format!("/proc/{pid}/status"))?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:")).context("a peak")?;
    Ok(1024 * line.trim().trim_end_matches(" kB").parse::<u64>()?)
}

#[tokio::test]
async fn three_hundred_megabytes_go_both_ways_in_little_memory() -> Result<()> {
    const BYTES: usize = 300 << 20;
    let mut stack = staying().await?;
    let here = stack.dir().join("here");
    fs::create_dir(&here)?;
    // No two parts of it are the same.
    let block: Vec<u8> = (0..1 << 20).map(|n: u32| n.wrapping_mul(2_654_435_761).to_be_bytes()[0]).collect();
    let mut content = Vec::with_capacity(BYTES);
    for n in 0..BYTES >> 20 {
        content.extend_from_slice(&block);
        let at = content.len() - (1 << 20);
        content[at..at + 8].copy_from_slice(&(n as u64).to_be_bytes());
    }
    fs::write(here.join("large"), &content)?;
    cp(&stack, text(&here.join("large")), "app/web:large").await?;
    ensure!(fs::read(state_of(&stack).await?.join("large"))? == content, "it came as it is");
    cp(&stack, "app/web:large", text(&here.join("back"))).await?;
    ensure!(fs::read(here.join("back"))? == content, "it comes back as it is");
    drop(content);
    // What a build without optimisation has, and a fifth of the file.
    let pid = stack.agent("n1")?.pid();
    ensure!(peak(pid)? < 160 << 20, "the agent had {} bytes", peak(pid)?);
    eventually("the call is on record with what moved", skerry_integration::stack::PATIENCE, async || {
        let (out, _) = done(&stack, &["audit", "--limit=0", "-o", "json"]).await?;
        ensure!(out.contains("RelayService/CopyTo") && out.contains("archive bytes: 31457"), "{out}");
        Ok(())
    })
    .await;
    stack.finish(None).await
}

#[tokio::test]
async fn archives_go_through_standard_input_and_output() -> Result<()> {
    let stack = staying().await?;
    let here = stack.dir().join("here");
    fs::create_dir(&here)?;
    make_tree(&here.join("tree"))?;
    let words = |line: &str| {
        let mut command = std::process::Command::new("sh");
        let plain = super::command(&stack, "relay-0", &[]);
        command.args(["-c", line]).current_dir(&here).env("SKERRY", bin("skerry"));
        command.envs(plain.get_envs().filter_map(|(name, value)| Some((name, value?))));
        command
    };
    let run = async |line: &str| -> Result<(bool, String)> {
        let mut command = words(line);
        let output = tokio::task::spawn_blocking(move || command.output()).await??;
        Ok((output.status.success(), String::from_utf8_lossy(&output.stderr).into_owned()))
    };
    let (ok, err) = run("tar cf - tree | $SKERRY cp - app/web:.").await?;
    ensure!(ok, "{err}");
    assert_eq!(seen(&state_of(&stack).await?.join("tree"))?, seen(&here.join("tree"))?);
    let (ok, err) = run("mkdir out && $SKERRY cp app/web:tree - | tar xf - -C out").await?;
    ensure!(ok, "{err}");
    assert_eq!(seen(&here.join("out/tree"))?, seen(&here.join("tree"))?);
    let (ok, err) = run("echo this is no archive, by far | $SKERRY cp - app/web:.").await?;
    ensure!(!ok && err.contains("the archive does not read"), "{err}");
    let (ok, err) = run("tar cf - tree | $SKERRY cp - app/web:nowhere").await?;
    ensure!(!ok && err.contains("nowhere"), "{err}");
    assert_eq!(names(&state_of(&stack).await?)?, ["tree"], "nothing is left of what failed");
    stack.finish(None).await
}
