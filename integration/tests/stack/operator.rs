//! The operator's side: the `skerry` command itself, against services that come and go.

use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::time::Duration;

use anyhow::{Context as _, Result, bail, ensure};
use skerry_integration::apps::{app, script};
use skerry_integration::stack::PATIENCE;
use skerry_integration::{Stack, Witness};
use skerry_proto::types::v1::service_spec::Program;
use skerry_testing::{Etcd, Process, bin, free_port};

/// `skerry` with these words, against the stack.
fn command(stack: &Stack, words: &[&str]) -> Command {
    let mut command = Command::new(bin("skerry"));
    command
        .args(words)
        .env("SKERRY_REGISTRY", format!("http://{}", stack.address("registry-0")))
        .env("SKERRY_SCHEDULER", format!("http://{}", stack.address("scheduler-0")))
        .env("SKERRY_CONFIG", "/dev/null")
        .stdin(Stdio::null());
    command
}

pub(crate) async fn skerry(stack: &Stack, words: &[&str]) -> Result<Output> {
    let mut command = command(stack, words);
    let output = tokio::task::spawn_blocking(move || command.output());
    tokio::time::timeout(PATIENCE, output).await.context("skerry did not end")??.context("running skerry")
}

/// What the command prints; an error unless it succeeds.
pub(crate) async fn done(stack: &Stack, words: &[&str]) -> Result<String> {
    let output = skerry(stack, words).await?;
    ensure!(output.status.success(), "{words:?}: {}", said(&output));
    Ok(String::from_utf8(output.stdout)?)
}

pub(crate) fn said(output: &Output) -> String {
    format!(
        "{:?}: {}{}",
        output.status.code(),
        String::from_utf8_lossy(&output.stdout),
        String::from_utf8_lossy(&output.stderr)
    )
}

/// Begins a command whose output is awaited later.
pub(crate) fn begin(stack: &Stack, words: &[&str], name: &str) -> Result<Process> {
    Process::spawn_command(&mut command(stack, words), stack.dir().join(name))
}

/// A program that ends a while after it is told to: until then it is there.
const LINGERS: &str = "trap 'sleep 1; exit 0' TERM; while :; do sleep 0.1; done";

#[tokio::test]
async fn an_app_is_deleted_when_its_instances_have_stopped() -> Result<()> {
    let mut stack = Stack::start().await?;
    stack.add_agent("n1", &[])?;
    stack.wait_connected("n1").await;
    stack.apply("web", app([script("s", LINGERS)])).await?;
    stack.wait_ready("web", 1).await;

    let deleted = skerry(&stack, &["delete", "app/web"]).await?;
    ensure!(deleted.status.success(), "{}", said(&deleted));
    let left = skerry(&stack, &["get", "instances", "-o", "name"]).await?;
    assert_eq!(String::from_utf8_lossy(&left.stdout), "", "delete came back while instances were there");

    // Without a wait it comes back at once, and wait --for=deleted does what delete left.
    stack.apply("web", app([script("s", LINGERS)])).await?;
    stack.wait_ready("web", 1).await;
    let deleted = skerry(&stack, &["delete", "app/web", "--wait=false"]).await?;
    ensure!(deleted.status.success(), "{}", said(&deleted));
    let waited = skerry(&stack, &["wait", "app/web", "--for=deleted", "--timeout=60s"]).await?;
    ensure!(waited.status.success(), "{}", said(&waited));
    let left = skerry(&stack, &["get", "instances", "-o", "name"]).await?;
    assert_eq!(String::from_utf8_lossy(&left.stdout), "", "wait came back while instances were there");

    // Its events, told by the node, outlive it; of what never was there are none, and that is said.
    let events = skerry(&stack, &["events", "--for", "app/web"]).await?;
    ensure!(events.status.success() && !events.stdout.is_empty(), "{}", said(&events));
    let never = skerry(&stack, &["events", "--for", "app/never"]).await?;
    assert_eq!(never.status.code(), Some(3), "{}", said(&never));
    stack.finish(None).await
}

#[tokio::test]
async fn a_node_that_is_away_is_named_by_whoever_waits_for_it() -> Result<()> {
    let witness = Witness::new()?;
    let mut stack = Stack::start().await?;
    stack.add_agent("n1", &[])?;
    stack.wait_connected("n1").await;
    stack.apply("web", app([witness.service("s", "v1")])).await?;
    stack.wait_ready("web", 1).await;
    stack.kill_agent("n1")?;
    stack.wait_disconnected("n1").await;

    let deleted = skerry(&stack, &["delete", "app/web", "--timeout=1s"]).await?;
    assert_eq!(deleted.status.code(), Some(5), "{}", said(&deleted));
    let stderr = String::from_utf8_lossy(&deleted.stderr).into_owned();
    ensure!(stderr.contains("node n1 is not connected"), "at its start: {stderr}");
    ensure!(stderr.contains("web/s/n1/0 on n1 (not connected)"), "at its end: {stderr}");
    stack.start_agent("n1")?;
    let waited = skerry(&stack, &["wait", "app/web", "--for=deleted", "--timeout=60s"]).await?;
    ensure!(waited.status.success(), "{}", said(&waited));
    stack.finish(Some(&witness)).await
}

#[tokio::test]
async fn waits_and_watches_outlive_the_services_that_they_ask() -> Result<()> {
    let mut stack = Stack::start().await?;
    stack.add_agent("n1", &[])?;
    stack.wait_connected("n1").await;
    stack.apply("before", app([script("s", "sleep 1000000")])).await?;
    let mut watch = begin(&stack, &["get", "apps", "-w", "-o", "name"], "watch.log")?;
    let mut events = begin(&stack, &["events", "-w"], "events.log")?;
    watch.wait_for_line("app/before", PATIENCE).await?;
    events.wait_for_line("app/before", PATIENCE).await?;
    let mut wait =
        begin(&stack, &["wait", "app/before", "--for=condition=Gone", "--timeout=60s"], "wait.log")?;

    for service in ["scheduler-0", "registry-0"] {
        stack.kill_service(service)?;
    }
    wait.wait_for_line("trying again", PATIENCE).await?;
    watch.wait_for_line("trying again", PATIENCE).await?;
    events.wait_for_line("trying again", PATIENCE).await?;
    for service in ["scheduler-0", "registry-0"] {
        stack.start_service(service)?;
        stack.wait_service(service).await?;
    }
    wait.wait_for_line("the server answers again", PATIENCE).await?;
    stack.apply("after", app([script("s", "sleep 1000000")])).await?;
    watch.wait_for_line("app/after", PATIENCE).await?;
    events.wait_for_line(" app/after ", PATIENCE).await?;
    for mut process in [wait, watch, events] {
        ensure!(process.try_wait()?.is_none(), "it ended: {}", process.output());
        process.kill()?;
    }
    stack.finish(None).await
}

#[tokio::test]
async fn what_the_store_does_not_answer_is_said_without_its_transport() -> Result<()> {
    let mut stack = Stack::start().await?;
    stack.apply("web", app([script("s", "sleep 1")])).await?;
    stack.etcd.kill()?;
    let refused = skerry(&stack, &["label", "app/web", "a=b", "--request-timeout=8s"]).await?;
    let text = said(&refused);
    assert_eq!(refused.status.code(), Some(4), "{text}");
    ensure!(text.contains(&format!("the store (etcd at {})", stack.etcd.endpoint())), "{text}");
    for word in ["transport", "os error", "h2", "Unavailable:", "/skerry/v1"] {
        ensure!(!text.contains(word), "{word:?}: {text}");
    }
    stack.etcd.restart().await?;
    stack.finish(None).await
}

#[tokio::test]
async fn a_dry_run_sees_the_configs_of_its_own_apply() -> Result<()> {
    let stack = Stack::start().await?;
    let file = stack.dir().join("both.yaml");
    std::fs::write(
        &file,
        "apiVersion: skerry/v1\nkind: App\nmetadata: {name: web}\nspec:\n  services:\n    - name: s\n      process: {program: /bin/true}\n      configs: [{config: motd}]\n---\napiVersion: skerry/v1\nkind: Config\nmetadata: {name: motd}\nspec: {data: {text: hello}}\n",
    )?;
    let dry = skerry(&stack, &["apply", "--dry-run", "-f", &file.display().to_string()]).await?;
    assert_eq!(
        String::from_utf8_lossy(&dry.stdout),
        "config/motd created (dry run)\napp/web created (dry run)\n",
        "{}",
        said(&dry)
    );
    stack.finish(None).await
}

/// `skerry up` for one machine, on its own store or on an etcd that may be away.
fn up(dir: &Path, port: u16, etcd: Option<&str>) -> Result<Process> {
    let mut command = Command::new(bin("skerry"));
    command.args(["up", "--no-docker", "--node-name=n1", "--listen"]).arg(format!("127.0.0.1:{port}"));
    command.args(etcd.map(|etcd| format!("--etcd={etcd}"))).arg("--data-dir").arg(dir.join("data"));
    command.stdin(Stdio::null());
    command.env("SKERRY_CONFIG", dir.join("config.yaml"));
    // Each start has a log of its own: what is waited for was said by this one.
    let log =
        tempfile::Builder::new().prefix("up-").suffix(".log").tempfile_in(dir)?.into_temp_path().keep()?;
    Process::spawn_command(&mut command, log)
}

/// `skerry` with these words, by the context that `up` keeps.
async fn by_its_context(dir: &Path, words: &str) -> Result<Output> {
    let mut command = Command::new(bin("skerry"));
    command.args(words.split(' ')).env("SKERRY_CONFIG", dir.join("config.yaml")).stdin(Stdio::null());
    tokio::task::spawn_blocking(move || command.output()).await?.context("running skerry")
}

/// A manifest of one app whose instance signs the witness's book.
fn manifest(witness: &Witness, dir: &Path) -> Result<PathBuf> {
    let service = witness.service("s", "v1");
    let Some(Program::Process(process)) = service.program else { bail!("a script is a process") };
    let file = dir.join("web.yaml");
    let (program, args) = (process.program, process.args);
    // What Rust quotes of a script without control characters, YAML reads as it was.
    let text = format!(
        "apiVersion: skerry/v1\nkind: App\nmetadata: {{name: web}}\nspec:\n  services:\n    - name: s\n      \
         process: {{program: {program:?}, args: {args:?}}}\n      env: {{VERSION: v1}}\n      stop: {{gracePeriod: 2s}}\n"
    );
    std::fs::write(&file, text)?;
    Ok(file)
}

#[tokio::test]
async fn up_runs_its_machine_while_etcd_is_away_and_serves_when_it_is_back() -> Result<()> {
    let dir = tempfile::tempdir()?;
    let witness = Witness::new()?;
    let mut etcd = Etcd::start().await?;
    let port = free_port();
    let client = async |words: &str| by_its_context(dir.path(), words).await;

    let mut process = up(dir.path(), port, Some(&etcd.endpoint()))?;
    process.wait_for_line("ready after", PATIENCE).await?;
    let manifest = manifest(&witness, dir.path())?;
    let applied = client(&format!("apply -f {}", manifest.display())).await?;
    ensure!(applied.status.success(), "{}", said(&applied));
    witness.wait_running(1).await;

    // The machine falls, and etcd with it: only the machine comes back.
    process.kill()?;
    etcd.kill()?;
    for start in witness.running() {
        let pid = rustix::process::Pid::from_raw(start.pid.try_into()?).context("a process id")?;
        rustix::process::kill_process(pid, rustix::process::Signal::KILL)?;
    }
    let mut process = up(dir.path(), port, Some(&etcd.endpoint()))?;
    process.wait_for_line("waiting for etcd at", PATIENCE).await?;
    witness.wait_running(1).await;
    let refused = client("get nodes --request-timeout=3s").await?;
    assert_eq!(refused.status.code(), Some(4), "{}", said(&refused));
    ensure!(said(&refused).contains("waits for its store"), "{}", said(&refused));

    etcd.restart().await?;
    process.wait_for_line("ready after", PATIENCE).await?;
    let connected = client("wait node/n1 --for=connected --timeout=60s").await?;
    ensure!(connected.status.success(), "{}", said(&connected));
    let deleted = client("delete app/web").await?;
    ensure!(deleted.status.success(), "{}", said(&deleted));
    witness.wait_running(0).await;
    witness.check();
    process.terminate(Duration::from_secs(30)).await?;
    Ok(())
}

#[tokio::test]
async fn up_that_was_killed_leaves_nothing_behind_that_its_next_start_waits_for() -> Result<()> {
    let dir = tempfile::tempdir()?;
    let witness = Witness::new()?;
    let port = free_port();
    let mut process = up(dir.path(), port, None)?;
    process.wait_for_line("ready after", PATIENCE).await?;
    process.kill()?;

    let mut process = up(dir.path(), port, None)?;
    process.wait_for_line("ready after", PATIENCE).await?;
    // Who leads and who serves is known by leases, and those of the dead one would live for seconds.
    let status = by_its_context(dir.path(), "status -o json").await?;
    ensure!(status.status.success(), "{}", said(&status));
    let status: serde_json::Value = serde_json::from_slice(&status.stdout)?;
    let members = status["members"].as_array().context("members")?;
    let services: Vec<_> = members.iter().filter_map(|member| member["service"].as_str()).collect();
    assert_eq!(services, ["gateway", "gpu", "registry", "relay", "scheduler"], "{status}");
    let leaders = members.iter().filter(|member| member["leader"] == true).count();
    assert_eq!(leaders, 1, "{status}");

    let manifest = manifest(&witness, dir.path())?;
    let words = format!("apply -f {} --wait", manifest.display());
    let applied = by_its_context(dir.path(), &words).await?;
    ensure!(applied.status.success(), "{}", said(&applied));
    let deleted = by_its_context(dir.path(), "delete app/web").await?;
    ensure!(deleted.status.success(), "{}", said(&deleted));
    witness.check();
    process.terminate(Duration::from_secs(30)).await?;
    Ok(())
}
