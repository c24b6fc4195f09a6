//! What the stack tells of itself: one trace from the command to the instance, metrics by OTLP and for Prometheus, health that means
//! something, `skerry status`.

use std::process::{Command, Output, Stdio};

use anyhow::{Context as _, Result, ensure};
use serde_json::Value;
use skerry_integration::apps::{app, script};
use skerry_integration::otlp::{Collector, Span};
use skerry_integration::stack::PATIENCE;
use skerry_integration::{Stack, StackConfig};
use skerry_testing::{Process, bin, eventually, find_program, free_port, http_get};

const RUNS: &str = "trap 'exit 0' TERM; while :; do sleep 0.1; done";
const MANIFEST: &str = "\
apiVersion: skerry/v1
kind: App
metadata: {name: web}
spec:
  services:
    - name: s
      process: {program: /bin/sh, args: [-c, \"trap 'exit 0' TERM; while :; do sleep 0.1; done\"]}
";

async fn skerry(stack: &Stack, words: &[&str], env: &[(&str, &str)]) -> Result<Output> {
    let mut command = Command::new(bin("skerry"));
    command
        .args(words)
        .env("SKERRY_REGISTRY", format!("http://{}", stack.address("registry-0")))
        .env("SKERRY_SCHEDULER", format!("http://{}", stack.address("scheduler-0")))
        .envs(env.iter().copied())
        .stdin(Stdio::null());
    let output = tokio::task::spawn_blocking(move || command.output());
    tokio::time::timeout(PATIENCE, output).await.context("skerry did not end")??.context("running skerry")
}

/// The span of this service and name, in the trace of `of`.
fn find<'a>(spans: &'a [Span], of: &Span, service: &str, name: &str) -> Result<&'a Span> {
    let found =
        spans.iter().find(|span| span.trace == of.trace && span.service == service && span.name == name);
    found.with_context(|| format!("no span {name} of {service} in {spans:#?}"))
}

#[tokio::test]
async fn an_apply_is_one_trace_from_the_command_to_the_instance() -> Result<()> {
    let collector = Collector::start().await?;
    let otlp = format!("--otlp-endpoint={}", collector.endpoint());
    let config = StackConfig { service_args: vec![otlp.clone()], ..StackConfig::default() };
    let mut stack = Stack::start_with(config).await?;
    stack.add_agent("n1", &["--no-docker", &otlp])?;
    stack.wait_connected("n1").await;

    let manifest = stack.dir().join("web.yaml");
    std::fs::write(&manifest, MANIFEST)?;
    let path = manifest.display().to_string();
    let endpoint = collector.endpoint();
    let applied =
        skerry(&stack, &["apply", "-f", &path], &[("OTEL_EXPORTER_OTLP_ENDPOINT", endpoint.as_str())])
            .await?;
    ensure!(applied.status.success(), "{}", String::from_utf8_lossy(&applied.stderr));
    stack.wait_ready("web", 1).await;

    eventually("the whole trace", PATIENCE, async || -> Result<()> {
        let spans = collector.spans();
        let root = spans.iter().find(|span| span.name == "skerry apply").context("no root yet")?;
        ensure!(root.parent.is_empty() && root.service == "skerry-cli", "{root:?}");
        let update = "skerry.scheduler.v1.AppService/UpdateApp";
        let call = find(&spans, root, "skerry-cli", update)?;
        ensure!(call.parent == root.id, "the call is the command's");
        let handled = find(&spans, root, "skerry-scheduler", update)?;
        ensure!(handled.parent == call.id, "the server's span is the call's");
        let stored = find(&spans, root, "skerry-scheduler", "txn")?;
        ensure!(stored.parent == handled.id, "the store's write is the handler's");
        let assigned = find(&spans, root, "skerry-scheduler", "assign")?;
        ensure!(assigned.parent == handled.id, "the leader goes on with what the handler stored");
        let sent = find(&spans, root, "skerry-gateway", "send update")?;
        ensure!(sent.parent == assigned.id, "the gateway goes on with the assignment");
        let taken = find(&spans, root, "skerry-agent", "take update")?;
        ensure!(taken.parent == sent.id, "the agent goes on with the update");
        let started = find(&spans, root, "skerry-agent", "start")?;
        ensure!(started.parent == taken.id, "the instance is started for the update");
        Ok(())
    })
    .await;
    for service in ["skerry-registry", "skerry-scheduler", "skerry-gateway", "skerry-agent"] {
        eventually(&format!("metrics of {service}"), PATIENCE, async || {
            let names = collector.metrics(service);
            ensure!(names.iter().any(|name| name == "process.resident_memory"), "{names:?}");
            Ok(())
        })
        .await;
    }
    stack.finish(None).await
}

#[tokio::test]
async fn a_collector_that_is_away_holds_nothing_up_and_is_told_once() -> Result<()> {
    let otlp = format!("--otlp-endpoint=http://127.0.0.1:{}", free_port());
    let mut stack =
        Stack::start_with(StackConfig { service_args: vec![otlp.clone()], ..StackConfig::default() }).await?;
    stack.add_agent("n1", &["--no-docker", &otlp])?;
    stack.wait_connected("n1").await;
    stack.apply("web", app([script("s", RUNS)])).await?;
    stack.wait_ready("web", 1).await;
    eventually("it is told", PATIENCE, async || -> Result<()> {
        let log = std::fs::read_to_string(stack.log("scheduler-0"))?;
        let told = log.matches("the collector takes no traces and metrics; this is said once").count();
        ensure!(told == 1, "{told} times");
        Ok(())
    })
    .await;
    stack.finish(None).await
}

#[tokio::test]
async fn every_call_of_a_short_command_is_in_its_trace() -> Result<()> {
    let collector = Collector::start().await?;
    let stack = Stack::start().await?;
    stack.apply("web", app([script("s", RUNS)])).await?;
    let endpoint = collector.endpoint();
    let restarted =
        skerry(&stack, &["restart", "app/web"], &[("OTEL_EXPORTER_OTLP_ENDPOINT", endpoint.as_str())])
            .await?;
    ensure!(restarted.status.success(), "{}", String::from_utf8_lossy(&restarted.stderr));
    // What was exported was exported before the command ended.
    let spans = collector.spans();
    let root = spans.iter().find(|span| span.name == "skerry restart").context("no root")?;
    for call in ["GetApp", "UpdateApp"] {
        let name = format!("skerry.scheduler.v1.AppService/{call}");
        ensure!(find(&spans, root, "skerry-cli", &name)?.parent == root.id, "{call} is the command's");
    }
    stack.finish(None).await
}

#[tokio::test]
async fn a_collector_that_others_use_and_skerry_cannot_is_noted_and_holds_nothing_up() -> Result<()> {
    const FOREIGN: (&str, &str) = ("OTEL_EXPORTER_OTLP_ENDPOINT", "https://otel.example:4317");
    let stack = Stack::start().await?;
    let nodes = skerry(&stack, &["get", "nodes"], &[FOREIGN]).await?;
    let said = String::from_utf8_lossy(&nodes.stderr).into_owned();
    ensure!(nodes.status.success(), "{said}");
    assert_eq!(said.matches(FOREIGN.1).count(), 1, "{said}");

    let gateway = format!("--gateway=http://{}", stack.address("gateway-0"));
    let data = format!("--data-dir={}", stack.agent_dir("n1").display());
    let agent = |more: &[&str]| {
        let mut command = Command::new(bin("skerry-agent"));
        command
            .args(["--insecure", "--node=n1", "--no-docker", &gateway, &data])
            .args(more)
            .env(FOREIGN.0, FOREIGN.1);
        command
    };
    let asked = format!("--otlp-endpoint={}", FOREIGN.1);
    let mut refused = Process::spawn_command(&mut agent(&[&asked]), stack.log("refused"))?;
    ensure!(refused.wait(PATIENCE).await?.code() == Some(1), "a flag is meant: {}", refused.output());
    let mut running = Process::spawn_command(&mut agent(&[]), stack.log("agent"))?;
    running.wait_for_line(FOREIGN.1, PATIENCE).await?;
    stack.wait_connected("n1").await;
    running.terminate(PATIENCE).await?;
    stack.finish(None).await
}

/// The value of a query, as Prometheus answers it; nothing where there is no such series.
async fn query(port: u16, query: &str) -> Result<Option<f64>> {
    let (address, path) = (format!("127.0.0.1:{port}"), format!("/api/v1/query?query={query}"));
    let answer: Value = serde_json::from_slice(&http_get(&address, &path).await?.body)?;
    let value = answer["data"]["result"][0]["value"][1].as_str().map(str::parse);
    Ok(value.transpose()?)
}

#[tokio::test]
async fn prometheus_scrapes_every_service_and_promtool_finds_no_fault() -> Result<()> {
    let prometheus = find_program("prometheus").context("install Debian's prometheus")?;
    let promtool = find_program("promtool").context("install Debian's prometheus")?;
    let mut stack = Stack::start().await?;
    let agent_metrics = format!("127.0.0.1:{}", free_port());
    stack.add_agent("n1", &["--no-docker", &format!("--metrics-listen={agent_metrics}")])?;
    stack.wait_connected("n1").await;
    stack.apply("web", app([script("s", RUNS)])).await?;
    stack.wait_ready("web", 1).await;

    let names = ["registry-0", "scheduler-0", "gateway-0"];
    let mut targets: Vec<String> = names.iter().map(|name| stack.metrics(name).to_owned()).collect();
    targets.push(agent_metrics);
    for target in &targets {
        let metrics = http_get(target, "/metrics").await?;
        let file = stack.dir().join("metrics.txt");
        std::fs::write(&file, &metrics.body)?;
        let mut check = Command::new(&promtool);
        check.args(["check", "metrics"]).stdin(std::fs::File::open(&file)?);
        let checked = tokio::task::spawn_blocking(move || check.output()).await??;
        let said = String::from_utf8_lossy(&checked.stderr).into_owned();
        ensure!(checked.status.success() && said.is_empty(), "{target}: {said}\n{}", metrics.text());
    }

    let port = free_port();
    let config = stack.dir().join("prometheus.yml");
    std::fs::write(
        &config,
        format!(
            "global: {{scrape_interval: 1s, scrape_timeout: 1s}}\nscrape_configs:\n- job_name: skerry\n  static_configs:\n  - targets: {targets:?}\n"
        ),
    )?;
    let args = [
        format!("--config.file={}", config.display()),
        format!("--storage.tsdb.path={}", stack.dir().join("tsdb").display()),
        format!("--web.listen-address=127.0.0.1:{port}"),
    ];
    let mut running = Process::spawn(&prometheus, &args, stack.log("prometheus"))?;
    running.wait_for_port(format!("127.0.0.1:{port}").parse()?, PATIENCE).await?;
    for (asked, least) in [
        ("sum(up)", 4.0),
        ("sum(grpc_server_handled_total{grpc_code=\"OK\",grpc_method=\"UpdateApp\"})", 1.0),
        ("sum(grpc_server_handling_seconds_count{grpc_method=\"UpdateApp\"})", 1.0),
        ("skerry_scheduler_leader", 1.0),
        ("sum(skerry_scheduler_assignments_written_total)", 1.0),
        ("skerry_gateway_sessions", 1.0),
        ("count(skerry_store_ready==1)", 3.0),
        ("sum(skerry_store_requests_total{outcome=\"ok\"})", 1.0),
        ("sum(skerry_agent_acts_total{act=\"start\",outcome=\"ok\"})", 1.0),
        ("count(process_resident_memory_bytes>0)", 4.0),
    ] {
        let escaped: Vec<String> = asked.bytes().map(|byte| format!("%{byte:02X}")).collect();
        let escaped = escaped.concat();
        eventually(asked, PATIENCE, async || -> Result<()> {
            let value = query(port, &escaped).await?;
            ensure!(value.is_some_and(|value| value >= least), "{value:?}");
            Ok(())
        })
        .await;
    }
    running.kill()?;
    stack.finish(None).await
}

#[tokio::test]
async fn who_cannot_reach_the_store_is_alive_and_not_ready() -> Result<()> {
    let mut stack = Stack::start().await?;
    let health = async |stack: &Stack, name: &str, path: &str| -> Result<u16> {
        Ok(http_get(stack.metrics(name), &format!("/{path}")).await?.status)
    };
    let names = ["registry-0", "scheduler-0", "gateway-0"];
    for (stopped, ready) in [(false, 200), (true, 503), (false, 200)] {
        if stopped {
            stack.etcd.pause()?;
        } else {
            stack.etcd.resume()?;
        }
        for name in names {
            eventually(&format!("{name} is at {ready}"), PATIENCE, async || -> Result<()> {
                let told = health(&stack, name, "readyz").await?;
                ensure!(told == ready, "{told}");
                let grpc = skerry_rpc::check_health(stack.address(name), None, PATIENCE).await;
                ensure!(grpc.is_ok() == (ready == 200), "{grpc:?}");
                Ok(())
            })
            .await;
            assert_eq!(health(&stack, name, "healthz").await?, 200, "{name} lives");
        }
    }
    stack.finish(None).await
}

#[tokio::test]
async fn status_shows_the_installation_and_its_exit_code_tells() -> Result<()> {
    let mut stack = Stack::start_with(StackConfig { schedulers: 2, ..StackConfig::default() }).await?;
    stack.add_agent("n1", &[])?;
    stack.wait_connected("n1").await;
    let status = async |stack: &Stack| -> Result<(Option<i32>, Value)> {
        let output = skerry(stack, &["status", "-o", "json"], &[]).await?;
        let said = serde_json::from_slice(&output.stdout);
        Ok((output.status.code(), said.with_context(|| format!("{output:?}"))?))
    };
    eventually("a whole installation", PATIENCE, async || -> Result<()> {
        let (code, told) = status(&stack).await?;
        ensure!(code == Some(0), "{told:#}");
        let members = told["members"].as_array().context("members")?;
        let of = |service: &str| members.iter().filter(|member| member["service"] == service).count();
        ensure!((of("registry"), of("scheduler"), of("gateway")) == (1, 2, 1), "{told:#}");
        let leaders = members.iter().filter(|member| member["leader"] == true).count();
        ensure!(leaders == 1, "{told:#}");
        ensure!(told["store"]["kind"] == "etcd" && told["store"]["membersHealthy"] == 1, "{told:#}");
        ensure!(told["nodes"]["connected"] == 1, "{told:#}");
        Ok(())
    })
    .await;
    stack.kill_agent("n1")?;
    eventually("the node that is away is told first", PATIENCE, async || -> Result<()> {
        let (code, told) = status(&stack).await?;
        ensure!(code == Some(1) && told["problems"][0]["reason"] == "NotConnected", "{told:#}");
        Ok(())
    })
    .await;
    stack.etcd.kill()?;
    let (code, told) = status(&stack).await?;
    ensure!(code == Some(1) && told["problems"][0]["reason"] == "Unavailable", "{told:#}");
    ensure!(told["problems"][0]["subject"] == "store" && told.get("store").is_none(), "{told:#}");
    ensure!(told["nodes"]["total"] == 1, "what is known is still told: {told:#}");
    stack.etcd.restart().await?;
    eventually("the store is back", PATIENCE, async || -> Result<()> {
        let (_, told) = status(&stack).await?;
        ensure!(
            told["store"]["kind"] == "etcd" && told["problems"][0]["reason"] == "NotConnected",
            "{told:#}"
        );
        Ok(())
    })
    .await;
    let table = skerry(&stack, &["status"], &[]).await?;
    let text = String::from_utf8_lossy(&table.stdout).into_owned();
    ensure!(text.starts_with("PROBLEM  nodes: not connected: n1 (NotConnected)\n"), "{text}");
    stack.finish(None).await
}
