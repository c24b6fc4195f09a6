//! A machine that enrolled by a token: what is sealed to it opens there, with nobody's help, also when it has enrolled once more.

use std::fs;
use std::path::Path;
use std::process::{Command, Stdio};

use anyhow::{Context as _, Result, ensure};
use skerry_identity::private_file;
use skerry_integration::stack::PATIENCE;
use skerry_testing::{Process, bin, free_port};

/// An app that ends well only where the secret is in its environment.
const APP: &str = "\
apiVersion: skerry/v1
kind: App
metadata: {name: db}
spec:
  services:
    - name: main
      envFrom: [{secret: database}]
      process: {program: sh, args: [-c, '[ \"$password\" = correct-horse ] && exec sleep 1000000']}
";

/// `skerry` with these words, by the context that `up` keeps.
async fn skerry(dir: &Path, words: &str) -> Result<String> {
    let mut command = Command::new(bin("skerry"));
    command.args(words.split(' ')).env("SKERRY_CONFIG", dir.join("config.yaml")).stdin(Stdio::null());
    let output = tokio::task::spawn_blocking(move || command.output()).await??;
    let said = String::from_utf8_lossy(&output.stdout).into_owned();
    ensure!(output.status.success(), "{words}: {said}{}", String::from_utf8_lossy(&output.stderr));
    Ok(said)
}

/// An agent that enrols by a token of its own.
async fn agent(dir: &Path, port: u16, memory: &Path) -> Result<Process> {
    let token = skerry(dir, "token create --quiet").await?;
    private_file::replace(&dir.join("token"), token.as_bytes())?;
    let mut command = Command::new(bin("skerry-agent"));
    command.arg(format!("--gateway=https://127.0.0.1:{port}")).args(["--node=n2", "--no-docker"]);
    command.arg("--token-file").arg(dir.join("token")).arg("--data-dir").arg(dir.join("n2"));
    command.arg("--secrets-dir").arg(memory).stdin(Stdio::null());
    Process::spawn_command(&mut command, dir.join("agent.log"))
}

#[tokio::test]
async fn a_node_that_enrolled_by_a_token_opens_its_secrets_and_does_so_when_it_enrols_anew() -> Result<()> {
    let dir = tempfile::tempdir()?;
    let dir = dir.path();
    let memory = tempfile::tempdir_in("/dev/shm")?;
    let port = free_port();
    let mut command = Command::new(bin("skerry"));
    command.args(["up", "--no-agent", "--listen"]).arg(format!("127.0.0.1:{port}"));
    command.arg("--data-dir").arg(dir.join("up")).env("SKERRY_CONFIG", dir.join("config.yaml"));
    let mut up = Process::spawn_command(command.stdin(Stdio::null()), dir.join("up.log"))?;
    up.wait_for_line("ready after", PATIENCE).await?;

    private_file::replace(&dir.join("password"), b"correct-horse")?;
    skerry(dir, &format!("secret set database password=@{}", dir.join("password").display())).await?;
    fs::write(dir.join("db.yaml"), APP)?;
    let mut enrolled = agent(dir, port, memory.path()).await?;
    skerry(dir, "wait node/n2 --for=connected --timeout 60s").await?;
    skerry(dir, &format!("apply -f {}", dir.join("db.yaml").display())).await?;
    skerry(dir, "wait app/db --for=healthy --timeout 60s").await?;

    // Struck out, and let in again with keys of a new enrolment: what was sealed to the old ones is sealed anew.
    skerry(dir, "delete app/db").await?;
    enrolled.terminate(PATIENCE).await?;
    skerry(dir, "node revoke n2").await?;
    let mut enrolled = agent(dir, port, memory.path()).await?;
    skerry(dir, "wait node/n2 --for=connected --timeout 60s").await?;
    let keys = fs::read_dir(dir.join("n2/identity"))?.filter_map(Result::ok).map(|entry| entry.file_name());
    let keys: Vec<_> = keys.filter_map(|name| name.into_string().ok()).collect();
    ensure!(keys.iter().any(|name| name == "2"), "it enrolled anew: {keys:?}");
    skerry(dir, &format!("apply -f {}", dir.join("db.yaml").display())).await?;
    skerry(dir, "wait app/db --for=healthy --timeout 60s").await.context(enrolled.output())?;
    skerry(dir, "delete app/db").await?;
    enrolled.terminate(PATIENCE).await?;
    up.terminate(PATIENCE).await?;
    Ok(())
}
