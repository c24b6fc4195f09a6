//! What is kept on disk is for its owner: directories that `skerry etcd` and `skerry up` make are closed to others.

use std::fs;
use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context as _, Result, ensure};
use skerry_integration::stack::PATIENCE;
use skerry_testing::{Process, bin, eventually, free_port};

fn mode(path: &Path) -> Result<u32> {
    let meta = fs::metadata(path).with_context(|| path.display().to_string())?;
    Ok(meta.permissions().mode() & 0o777)
}

/// All that is below a directory, and itself.
fn all(dir: &Path) -> Result<Vec<PathBuf>> {
    let (mut all, mut next) = (vec![dir.to_owned()], 0);
    while let Some(path) = all.get(next).cloned() {
        next += 1;
        if path.is_dir() {
            for entry in fs::read_dir(&path)? {
                all.push(entry?.path());
            }
        }
    }
    Ok(all)
}

/// Runs `skerry` with these words, which serves on a port of its own, until `done`.
async fn served(words: &[&str], log: &Path, done: &Path) -> Result<()> {
    let address = format!("127.0.0.1:{}", free_port());
    let mut command = Command::new(bin("skerry"));
    command.args(words).args(["--listen", &address]);
    command.env("SKERRY_CONFIG", log.with_extension("yaml"));
    let mut process = Process::spawn_command(&mut command, log)?;
    process.wait_for_port(address.parse()?, PATIENCE).await?;
    eventually("its files are there", PATIENCE, async || {
        ensure!(done.exists(), "no {}: {}", done.display(), process.output());
        Ok(())
    })
    .await;
    process.terminate(PATIENCE).await?;
    Ok(())
}

#[tokio::test]
async fn what_the_embedded_etcd_makes_is_for_its_owner_alone() -> Result<()> {
    let outer = tempfile::tempdir()?;
    let log = outer.path().join("log");
    // Both the directory and the one above it are made.
    let data = outer.path().join("above/data");
    served(&["etcd", "--data-dir", &data.display().to_string()], &log, &data.join("store.redb")).await?;
    assert_eq!((mode(&outer.path().join("above"))?, mode(&data)?), (0o700, 0o700));
    assert_eq!(mode(&data.join("store.redb"))?, 0o600);

    // One of somebody's own keeps its mode, and the data are closed all the same.
    let own = outer.path().join("own");
    fs::create_dir(&own)?;
    fs::set_permissions(&own, fs::Permissions::from_mode(0o755))?;
    served(&["etcd", "--data-dir", &own.display().to_string()], &log, &own.join("store.redb")).await?;
    assert_eq!((mode(&own)?, mode(&own.join("store.redb"))?), (0o755, 0o600));
    Ok(())
}

#[tokio::test]
async fn what_up_makes_is_read_by_nobody_else_and_its_store_not_even_entered() -> Result<()> {
    let outer = tempfile::tempdir()?;
    let data = outer.path().join("skerry");
    let words = ["up", "--node-name", "n1", "--no-docker", "--data-dir"];
    let text = data.display().to_string();
    let words: Vec<&str> = words.into_iter().chain([text.as_str()]).collect();
    // The agent writes its state when it has been sent something: by then all is there.
    served(&words, &outer.path().join("log"), &data.join("agent/desired.0")).await?;
    // Root's may be gone through, by processes that run as other users.
    let through = if fs::metadata("/proc/self")?.uid() == 0 { 0o711 } else { 0o700 };
    assert_eq!((mode(&data)?, mode(&data.join("etcd"))?), (through, 0o700));
    for path in all(&data)?.iter().filter(|path| path.is_dir()) {
        let mode = mode(path)?;
        ensure!(mode & 0o066 == 0, "{} has {mode:o}", path.display());
    }
    // Keys and certificates.
    for secret in
        ["keys", "tls/services.key", "tls/admin.key", "tls/admin.crt", "tls/ca.crt", "agent/identity/tls.key"]
    {
        assert_eq!(mode(&data.join(secret))?, 0o600, "{secret}");
    }
    for closed in ["authority", "tls"] {
        assert_eq!(mode(&data.join(closed))?, 0o700, "{closed}");
    }
    assert_eq!(mode(&data.join("etcd/store.redb"))?, 0o600);
    Ok(())
}
