//! A real Prometheus scrapes the gpu service, and answers.

use std::process::Command;

use anyhow::{Context as _, Result, ensure};
use serde_json::Value;
use skerry_integration::apps::{app, script};
use skerry_integration::gpus::{share, with_gpu};
use skerry_integration::stack::PATIENCE;
use skerry_testing::{Process, eventually, find_program, free_port, http_get};

use super::{node, stack};

async fn ask(port: u16, query: &str) -> Result<Option<f64>> {
    let escaped: Vec<String> = query.bytes().map(|byte| format!("%{byte:02X}")).collect();
    let path = format!("/api/v1/query?query={}", escaped.concat());
    let answer: Value = serde_json::from_slice(&http_get(&format!("127.0.0.1:{port}"), &path).await?.body)?;
    let value = answer["data"]["result"][0]["value"][1].as_str().map(str::parse);
    Ok(value.transpose()?)
}

#[tokio::test]
async fn prometheus_answers_under_dcgm_s_names_and_promtool_faults_nothing_but_these() -> Result<()> {
    let prometheus = find_program("prometheus").context("install Debian's prometheus")?;
    let promtool = find_program("promtool").context("install Debian's prometheus")?;
    let mut stack = stack(1).await?;
    let mut cards = node(&mut stack, "n1", "a100+a4000").await?;
    stack.apply("web", app([with_gpu(share(4), script("infer", "exec sleep 1000000"))])).await?;
    stack.wait_ready("web", 1).await;
    cards.xid(0, 31)?;
    cards.xid(0, 31)?;
    let target = stack.metrics("gpu-0").to_owned();
    let file = stack.dir().join("metrics.txt");
    eventually("all is told", PATIENCE, async || {
        let metrics = http_get(&target, "/metrics").await?;
        std::fs::write(&file, &metrics.body)?;
        let text = metrics.text();
        ensure!(
            text.contains("skerry_gpu_xid_errors_total") && text.contains("DCGM_FI_DEV_FAN_SPEED"),
            "{text}"
        );
        Ok(())
    })
    .await;

    let mut check = Command::new(&promtool);
    check.args(["check", "metrics"]).stdin(std::fs::File::open(&file)?);
    let checked = tokio::task::spawn_blocking(move || check.output()).await??;
    let said = String::from_utf8_lossy(&checked.stderr).into_owned();
    // 1: it could not be read; 3: faults of style.
    ensure!(matches!(checked.status.code(), Some(0 | 3)), "{:?}: {said}", checked.status);
    ensure!(said.lines().all(|line| line.is_empty() || line.starts_with("DCGM_")), "{said}");

    let port = free_port();
    let config = stack.dir().join("prometheus.yml");
    std::fs::write(
        &config,
        format!(
            "global: {{scrape_interval: 1s, scrape_timeout: 1s}}\nscrape_configs:\n- job_name: gpus\n  honor_labels: true\n  static_configs:\n  - targets: [\"{target}\"]\n"
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
        ("count(DCGM_FI_DEV_GPU_TEMP{Hostname=\"n1\"} > 0)", 2.0),
        ("count(DCGM_FI_DEV_FB_USED + DCGM_FI_DEV_FB_FREE > 1000)", 2.0),
        ("sum(DCGM_FI_DEV_POWER_USAGE)", 1.0),
        // The A100 has none.
        ("count(DCGM_FI_DEV_FAN_SPEED)", 1.0),
        ("sum(skerry_gpu_xid_errors_total{xid=\"31\"})", 2.0),
        ("skerry_gpu_booked_memory_bytes{app=\"web\"}", 4_294_967_296.0),
        ("count(DCGM_FI_DEV_GPU_UTIL{app=\"web\"})", 1.0),
        ("count(skerry_gpu_health == 1)", 1.0),
    ] {
        eventually(asked, PATIENCE, async || -> Result<()> {
            let value = ask(port, asked).await?;
            ensure!(value.is_some_and(|value| value >= least), "{value:?}");
            Ok(())
        })
        .await;
    }
    running.kill()?;
    stack.finish(None).await
}
