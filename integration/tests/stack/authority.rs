//! The installation's own authority: `skerry up` makes and keeps it, `skerry authority` for services apart; and plain HTTP/2 is only where
//! somebody said so.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};

use anyhow::{Context as _, Result, ensure};
use skerry_integration::stack::PATIENCE;
use skerry_testing::{Etcd, Process, bin, eventually, free_port};
use tempfile::TempDir;

/// A user with a home, and data directories of `skerry up`.
struct World {
    dir: TempDir,
}

impl World {
    fn new() -> Result<Self> {
        Ok(Self { dir: tempfile::tempdir()? })
    }

    /// A program with a home of its own and none of the test's settings.
    fn command(&self, program: &str) -> Command {
        let mut command = Command::new(bin(program));
        command.current_dir(self.dir.path()).env("HOME", self.dir.path()).stdin(Stdio::null());
        for (name, _) in std::env::vars().filter(|(name, _)| name.starts_with("SKERRY_")) {
            command.env_remove(name);
        }
        command.env_remove("XDG_CONFIG_HOME");
        command
    }

    /// Starts `skerry up` on the data directory `data`; the line that says that it is ready.
    async fn up(&self, data: &str, port: u16, more: &[&str]) -> Result<(Process, String)> {
        let mut command = self.command("skerry");
        command.args(["up", "--listen"]).arg(format!("127.0.0.1:{port}"));
        command.arg("--data-dir").arg(self.data(data)).args(more);
        if !more.contains(&"--no-agent") {
            command.args(["--no-docker", "--node-name=n1"]);
        }
        let log = self.dir.path().join(format!("{data}.log"));
        // A start of before has left its lines there.
        let _ = fs::remove_file(&log);
        let mut up = Process::spawn_command(&mut command, log)?;
        let ready = up.wait_for_line("ready after", PATIENCE).await?;
        ensure!(!ready.contains("has not connected"), "{ready}");
        Ok((up, ready))
    }

    fn data(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    /// The `skerry` command; exit code and what it said.
    async fn skerry(&self, words: &[&str]) -> Result<(Option<i32>, String)> {
        let mut command = self.command("skerry");
        command.args(words);
        ended(command).await
    }

    /// The same where it must succeed.
    async fn done(&self, words: &[&str]) -> Result<String> {
        let (code, said) = self.skerry(words).await?;
        ensure!(code == Some(0), "skerry {}: {code:?}\n{said}", words.join(" "));
        Ok(said)
    }
}

async fn ended(mut command: Command) -> Result<(Option<i32>, String)> {
    let output = tokio::task::spawn_blocking(move || command.output());
    let output: Output = tokio::time::timeout(PATIENCE, output).await.context("it did not end")???;
    let said = [output.stdout, output.stderr].concat();
    Ok((output.status.code(), String::from_utf8(said)?))
}

/// What a directory of certificates holds.
fn held(dir: &Path) -> Result<Vec<(String, Vec<u8>)>> {
    let mut all = Vec::new();
    for entry in fs::read_dir(dir)? {
        let entry = entry?;
        all.push((entry.file_name().to_string_lossy().into_owned(), fs::read(entry.path())?));
    }
    all.sort();
    Ok(all)
}

#[tokio::test]
async fn up_speaks_mutual_tls_by_itself_and_the_next_command_needs_no_flag() -> Result<()> {
    let world = World::new()?;
    let port = free_port();
    let (mut up, ready) = world.up("data", port, &[]).await?;
    ensure!(ready.ends_with("now type: skerry get nodes"), "{ready}");
    let nodes = world.done(&["get", "nodes", "-o", "name"]).await?;
    assert_eq!(nodes, "node/n1\n");

    // Nobody else gets in: neither in plain nor without a certificate.
    let (plain, secured) =
        (format!("--server=http://127.0.0.1:{port}"), format!("--server=https://127.0.0.1:{port}"));
    let (code, said) = world.skerry(&["get", "nodes", &plain]).await?;
    ensure!(code == Some(4) && said.contains("it speaks TLS"), "{said}");
    let authority = format!("--tls-ca={}", world.data("data/tls/ca.crt").display());
    let (code, said) = world.skerry(&["get", "nodes", &secured, &authority]).await?;
    ensure!(code != Some(0) && said.contains("certificate"), "{said}");

    // The same directory goes on with the same authority and the same certificates.
    let before = held(&world.data("data/tls"))?;
    up.terminate(PATIENCE).await?;
    let (mut up, _) = world.up("data", port, &[]).await?;
    assert_eq!(before, held(&world.data("data/tls"))?);
    assert_eq!(world.done(&["get", "nodes", "-o", "name"]).await?, "node/n1\n");

    // Another one on this machine gets a context of its own, and does not take the first one's place.
    let other = free_port();
    let (mut second, ready) = world.up("other", other, &["--no-agent"]).await?;
    let context = format!("local-{other}");
    ensure!(ready.ends_with(&format!("skerry --context {context} get apps")), "{ready}");
    world.done(&["--context", &context, "get", "nodes"]).await?;
    assert_eq!(world.done(&["config", "current-context"]).await?, "local\n");
    second.terminate(PATIENCE).await?;
    up.terminate(PATIENCE).await?;
    Ok(())
}

#[tokio::test]
async fn a_data_directory_of_before_is_taken_into_tls_without_a_word() -> Result<()> {
    let world = World::new()?;
    let port = free_port();
    let server = format!("--server=http://127.0.0.1:{port}");
    let (mut up, ready) = world.up("data", port, &["--insecure"]).await?;
    ensure!(ready.contains(&server.replace('=', " ")), "{ready}");
    world.done(&["label", "node/n1", "site=oslo", &server]).await?;
    up.terminate(PATIENCE).await?;
    ensure!(!world.data("data/tls").exists(), "certificates that nobody asked for");

    let (mut up, _) = world.up("data", port, &[]).await?;
    let labelled = world.done(&["get", "nodes", "-l", "site=oslo", "-o", "name"]).await?;
    assert_eq!(labelled, "node/n1\n");
    up.terminate(PATIENCE).await?;
    Ok(())
}

#[tokio::test]
async fn a_new_root_is_taken_up_at_the_next_start_and_the_old_one_goes_when_it_is_told_to() -> Result<()> {
    let world = World::new()?;
    let port = free_port();
    let (mut up, _) = world.up("data", port, &[]).await?;
    let (code, said) = world.skerry(&["authority", "show", "--data-dir", "data"]).await?;
    ensure!(code == Some(1) && said.contains("stop it"), "its store is in use: {said}");
    up.terminate(PATIENCE).await?;

    let first = world.done(&["authority", "show", "--data-dir", "data"]).await?;
    let root =
        first.lines().find_map(|line| line.trim().strip_prefix("root ")).context("a root")?.trim().to_owned();
    let rotated = world.done(&["authority", "rotate", "--data-dir", "data"]).await?;
    ensure!(
        rotated.starts_with("authority rotated") && rotated.contains(&format!("former  {root}")),
        "{rotated}"
    );
    let again = world.done(&["authority", "rotate", "--data-dir", "data"]).await?;
    ensure!(again.starts_with("authority unchanged"), "{again}");

    let before = held(&world.data("data/tls"))?;
    let (mut up, _) = world.up("data", port, &[]).await?;
    assert_eq!(world.done(&["get", "nodes", "-o", "name"]).await?, "node/n1\n");
    assert_ne!(before, held(&world.data("data/tls"))?, "certificates under the new root");
    up.terminate(PATIENCE).await?;

    let (code, said) = world.skerry(&["authority", "retire", "--data-dir", "data"]).await?;
    ensure!(code == Some(1) && said.contains("--force"), "{said}");
    let retired = world.done(&["authority", "retire", "--force", "--data-dir", "data"]).await?;
    ensure!(!retired.contains(&root), "{retired}");
    let (mut up, _) = world.up("data", port, &[]).await?;
    assert_eq!(world.done(&["get", "nodes", "-o", "name"]).await?, "node/n1\n");
    up.terminate(PATIENCE).await?;
    Ok(())
}

#[tokio::test]
async fn services_apart_speak_mutual_tls_by_certificates_that_the_authority_issues() -> Result<()> {
    let world = World::new()?;
    let etcd = Etcd::start().await?;
    let (target, keys) = (format!("--etcd={}", etcd.endpoint()), "--key-file=keys");
    let (code, said) = world.skerry(&["authority", "issue", "service", "registry", &target, keys]).await?;
    ensure!(code == Some(1) && said.contains("keys does not exist"), "{said}");
    let init = ["authority", "init", "--authority-dir=authority", "--domain=example.org", &target, keys];
    let made = world.done(&init).await?;
    ensure!(made.starts_with("authority made\n  domain  example.org\n  root    "), "{made}");
    let again = world.done(&init).await?;
    ensure!(again.starts_with("authority unchanged"), "{again}");
    assert_eq!(made.lines().nth(2), again.lines().nth(2), "the same root");
    let (code, said) = world
        .skerry(&["authority", "init", "--authority-dir=authority", "--domain=other.org", &target, keys])
        .await?;
    ensure!(code == Some(1) && said.contains("chosen once"), "{said}");

    let service = |name: &'static str, more: &'static str| {
        ["authority", "issue", "service", name, more, "--out=tls", "--key-file=keys"]
    };
    for name in ["registry", "scheduler"] {
        let issued = world.done(&[&service(name, "--ip=127.0.0.1")[..], &[&target]].concat()).await?;
        ensure!(issued.starts_with(&format!("tls/{name}.crt issued, valid until 2")), "{issued}");
    }
    let before = held(&world.data("tls"))?;
    let kept = world.done(&[&service("registry", "--ip=127.0.0.1")[..], &[&target]].concat()).await?;
    ensure!(kept.contains(" kept, "), "{kept}");
    assert_eq!(before, held(&world.data("tls"))?);
    let more =
        world.done(&[&service("registry", "--ip=127.0.0.1,127.0.0.2")[..], &[&target]].concat()).await?;
    ensure!(more.contains(" issued, "), "another address is another certificate: {more}");
    let user =
        ["authority", "issue", "user", "admin", "-p", "system", "--out=me", "--life=1h", keys, &target];
    world.done(&user).await?;

    // Without certificates, a service starts by an explicit word only, on loopback too.
    let port = free_port();
    let mut registry = world.command("skerry-registry");
    registry.arg(&target).arg(format!("--listen=127.0.0.1:{port}"));
    let (code, said) = ended(registry).await?;
    ensure!(code == Some(1) && said.contains("--tls-cert") && said.contains("--insecure"), "{said}");

    let mut registry = world.command("skerry-registry");
    registry.arg(&target).arg(format!("--listen=127.0.0.1:{port}"));
    registry.args(["--tls-cert=tls/registry.crt", "--tls-key=tls/registry.key", "--tls-ca=tls/ca.crt"]);
    let mut registry = Process::spawn_command(&mut registry, world.data("registry.log"))?;
    let server = format!("--server=https://127.0.0.1:{port}");
    let ask = [
        "get",
        "nodes",
        "-o",
        "name",
        &server,
        "--tls-cert=me/admin.crt",
        "--tls-key=me/admin.key",
        "--tls-ca=me/ca.crt",
    ];
    eventually("the registry answers the administrator", PATIENCE, async || world.done(&ask).await).await;
    registry.terminate(PATIENCE).await?;
    Ok(())
}
