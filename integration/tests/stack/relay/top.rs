//! What nodes and apps use: of real containers and processes, once, for programs, and as a live view in a terminal.

use anyhow::{Context as _, Result, ensure};
use serde_json::Value;
use skerry_integration::apps::{app, container, script};
use skerry_integration::containers::{Containers, local, unique};
use skerry_integration::stack::PATIENCE;
use skerry_integration::{Stack, StackConfig, Terminal};
use skerry_proto::types::v1::{ResourceList, Resources, ServiceSpec};
use skerry_testing::{Docker, eventually};

use super::{command, done, ran, stack, wait_channels};

const SPINS: &str = "while :; do :; done";
const LIMIT_BYTES: i64 = 64 << 20;

fn limited(service: ServiceSpec) -> ServiceSpec {
    let limits = ResourceList { memory_bytes: Some(LIMIT_BYTES), ..ResourceList::default() };
    ServiceSpec { resources: Some(Resources { limits: Some(limits), ..Resources::default() }), ..service }
}

/// What an instance uses, of one sample for programs.
async fn used(stack: &Stack, words: &[&str], instance: &str) -> Result<Value> {
    let (out, err) = done(stack, &[words, &["-o", "json"]].concat()).await?;
    let told: Value = serde_json::from_str(&out).with_context(|| format!("{out}{err}"))?;
    let nodes = told["items"].as_array().into_iter().flatten();
    let mut all = nodes.flat_map(|node| node["sample"]["instances"].as_array().into_iter().flatten());
    let found = all.find(|one| one["instance"] == instance).cloned();
    found.with_context(|| format!("no {instance}: {out}{err}"))
}

/// A number of canonical JSON, where those of 64 bits are texts.
fn number(value: &Value, field: &str) -> Result<i64> {
    let value = &value[field];
    let text = value.as_str().with_context(|| format!("no {field}: {value}"))?;
    Ok(text.parse()?)
}

#[tokio::test]
async fn what_processes_and_machines_use_is_told_once_and_live() -> Result<()> {
    let mut stack = stack(&["n1", "n2"]).await?;
    // The one that spins is a child of the program.
    let services =
        [script("spins", &format!("sh -c '{SPINS}' & wait")), script("rests", "exec sleep 1000000")];
    stack.apply("web", app(services)).await?;
    stack.wait_ready("web", 4).await;

    let words = ["top", "apps", "web", "--node", "n1"];
    let (spins, rests) =
        (used(&stack, &words, "web/spins/n1/0").await?, used(&stack, &words, "web/rests/n1/0").await?);
    ensure!(number(&spins, "cpuMillis")? > number(&rests, "cpuMillis")?, "{spins} {rests}");
    ensure!(number(&spins, "processes")? == 2 && number(&rests, "processes")? == 1, "{spins} {rests}");
    ensure!(number(&rests, "memoryBytes")? > 10_000 && rests["runtime"] == "process", "{rests}");
    let other = used(&stack, &words, "web/spins/n2/0").await;
    ensure!(other.is_err(), "of another node: {other:?}");

    let (out, err) = done(&stack, &["top", "nodes"]).await?;
    let lines: Vec<&str> = out.lines().collect();
    ensure!(lines.len() == 3 && err.is_empty(), "{out}{err}");
    ensure!(
        lines[0].starts_with("NODE") && lines[1].starts_with("n1 ") && lines[2].starts_with("n2 "),
        "{out}"
    );
    ensure!(lines[1].contains("GiB") && lines[1].matches('%').count() == 3, "{out}");
    let (out, _) = done(&stack, &["top", "apps", "--no-headers"]).await?;
    ensure!(out.starts_with("web   4 "), "{out}");

    // Live: what comes is drawn, keys sort it and end it, and the shell's screen is there again.
    let mut view = Terminal::run(&command(&stack, "relay-1", &["top", "app", "web"]), 110, 20)?;
    let shows = |text: &str| {
        text.contains("told by 2 of 2 nodes")
            && text.matches("web/").count() == 4
            && !text.contains(" -   - ")
    };
    view.wait("the instances", PATIENCE, shows).await?;
    view.press("c")?;
    let first =
        |text: &str| text.lines().find(|line| line.starts_with("web/")).unwrap_or_default().to_owned();
    view.wait("who uses most comes first", PATIENCE, |text| first(text).starts_with("web/spins")).await?;
    view.press("n")?;
    view.wait("by name again", PATIENCE, |text| first(text).starts_with("web/rests")).await?;
    view.resize(110, 5)?;
    view.wait("a smaller one", PATIENCE, |text| text.lines().count() <= 5 && text.contains("web/rests/n1"))
        .await?;
    view.resize(110, 20)?;
    wait_channels(&stack, 2).await;
    // A node that goes away is said to be, and the other goes on; it comes back by itself.
    stack.kill_agent("n2")?;
    view.wait("one is away", PATIENCE, |text| text.contains("n2:")).await?;
    stack.start_agent("n2")?;
    view.wait("it is back", PATIENCE, |text| shows(text) && !text.contains("n2:")).await?;
    view.press("q")?;
    let ended = view.ended(PATIENCE).await?;
    ensure!(ended.success() && !view.text().contains("web/"), "{ended:?}: {}", view.text());
    // Nobody looks any more, so nothing is open.
    wait_channels(&stack, 0).await;

    // What cannot be told.
    stack.kill_agent("n2")?;
    stack.wait_disconnected("n2").await;
    let (out, err) = done(&stack, &["top", "nodes"]).await?;
    ensure!(out.lines().last().is_some_and(|line| line.starts_with("n2     -")), "{out}");
    ensure!(err.contains("n2: ") && err.contains("not connected"), "{err}");
    let (code, _, err) = ran(&stack, &["top", "nodes", "n2"]).await?;
    ensure!(code == Some(1) && err.contains("no node told"), "{code:?}: {err}");
    for (words, code, has) in [
        (&["top", "apps", "never"][..], 3, "never"),
        (&["top", "nodes", "-l", "a=b"][..], 0, "there are no such nodes"),
        (&["top", "nodes", "--interval", "10ms"][..], 2, "from 1s to 60s"),
        (&["top", "nodes", "app/web"][..], 2, "app/web is no node"),
        (&["top", "nodes", "never"][..], 3, "never"),
    ] {
        let (ended, _, err) = ran(&stack, words).await?;
        ensure!(ended == Some(code) && err.contains(has), "{words:?}: {ended:?}: {err}");
    }
    stack.start_agent("n2")?;
    stack.wait_connected("n2").await;
    stack.delete_apps().await?;
    stack.finish(None).await
}

#[tokio::test]
async fn what_containers_use_is_what_docker_counts() -> Result<()> {
    let Some(docker) = Docker::required() else { return Ok(()) };
    let node = unique("top");
    let containers = Containers::of(&docker, &node);
    docker.busybox()?;
    let mut stack = Stack::start_with(StackConfig { relays: 1, ..StackConfig::default() }).await?;
    stack.add_agent(&node, &[&format!("--docker-host=unix://{}", docker.socket().display())])?;
    stack.wait_connected(&node).await;
    let rests = "trap exit TERM; while :; do sleep 1000000 & wait; done";
    let services = [limited(local(container("spins", SPINS))), local(container("rests", rests))];
    stack.apply("web", app(services)).await?;
    stack.wait_ready("web", 2).await;

    let words = ["top", "apps", "web"];
    let name = |service: &str| format!("web/{service}/{node}/0");
    let (spins, rests) =
        (used(&stack, &words, &name("spins")).await?, used(&stack, &words, &name("rests")).await?);
    ensure!(number(&spins, "cpuMillis")? > number(&rests, "cpuMillis")?, "{spins} {rests}");
    ensure!(number(&spins, "memoryLimitBytes")? == LIMIT_BYTES, "{spins}");
    ensure!(rests["memoryLimitBytes"].is_null() && rests["runtime"] == "docker", "{rests}");
    ensure!(number(&rests, "processes")? == 2, "{rests}");
    // Memory that nobody touches is the same whoever counts it.
    let id = containers.running()?.into_iter().find(|one| one.instance == name("rests"));
    let id = id.context("it runs")?.id;
    eventually("both count the same", PATIENCE, async || {
        let stats = docker.json("GET", &format!("/containers/{id}/stats?stream=false&one-shot=true"))?;
        let stat = |name: &str| stats["memory_stats"]["stats"][name].as_i64();
        let usage = stats["memory_stats"]["usage"].as_i64().context("usage")?;
        let inactive = stat("total_inactive_file").or_else(|| stat("inactive_file")).unwrap_or(0);
        let ours = number(&used(&stack, &words, &name("rests")).await?, "memoryBytes")?;
        ensure!(ours == usage - inactive, "{ours} and {usage} - {inactive}");
        Ok(())
    })
    .await;
    stack.delete_apps().await?;
    containers.wait_none().await;
    stack.finish(None).await
}
