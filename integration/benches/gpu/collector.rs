//! What the agent spends on eight GPUs.

use std::time::{Duration, Instant};

use anyhow::{Context as _, Result};
use skerry_nvml_sim::{Control as Simulated, Latencies, MachineSpec, built_library, place};
use skerry_testing::{Budget, Figures, Process};

use crate::support::control::{AgentPlan, Control};
use crate::support::{edge_bin, proc, quick};

const GPUS: u32 = 8;
/// Of a processor, in percent.
const CPU_PERCENT_MAX: f64 = 0.5;
const MEMORY_KIB_MAX: f64 = 1024.0;
/// Before anything is measured: all fields have been read, and memory has come to rest.
const SETTLE: Duration = Duration::from_secs(15);

/// Three agents beside each other: without GPUs, with a driver that answers at once, and with one that takes its time.
pub(crate) async fn run(figures: &Figures) -> Result<()> {
    let control = Control::start().await?;
    let none = start(&control, "none", None).await?;
    let instant = start(&control, "instant", Some(Latencies::Off)).await?;
    let typical = start(&control, "typical", Some(Latencies::Typical)).await?;
    let time = Duration::from_secs(if quick() { 10 } else { 120 });
    tokio::time::sleep(SETTLE).await;
    let all = [&none, &instant, &typical];
    let port = control.address().rsplit_once(':').context("a port")?.1.parse()?;
    let spent =
        || -> Result<Vec<Duration>> { all.iter().map(|agent| proc::processor_time(agent.pid())).collect() };
    let sent = || -> Result<Vec<u64>> {
        all.iter().map(|agent| Ok(proc::traffic(agent.pid(), port)?.1.payload_bytes)).collect()
    };
    let (begun, before, sent_before) = (Instant::now(), spent()?, sent()?);
    tokio::time::sleep(time).await;
    let (took, after, sent_after) = (begun.elapsed(), spent()?, sent()?);
    let percent = |at: usize| after[at].saturating_sub(before[at]).as_secs_f64() / took.as_secs_f64() * 100.0;
    figures.hold(
        "gpu.collector.cpu",
        percent(1) - percent(0),
        "% of a core",
        Budget::AtMost(CPU_PERCENT_MAX),
    );
    figures.show("gpu.collector.cpu_with_driver", percent(2) - percent(0), "% of a core");
    figures.show("gpu.collector.without_gpus", percent(0), "% of a core");
    let bytes = |at: usize| sent_after[at].saturating_sub(sent_before[at]) as f64;
    let samples = took.as_secs_f64() * f64::from(GPUS);
    figures.show("gpu.wire.framed", (bytes(1) - bytes(0)) / samples, "B/sample");
    let memory: Vec<_> = all.iter().map(|agent| proc::memory(agent.pid())).collect::<Result<_>>()?;
    let kib = |bytes: u64| bytes as f64 / 1024.0;
    let more = kib(memory[1].anonymous) - kib(memory[0].anonymous);
    figures.hold("gpu.collector.memory", more, "KiB", Budget::AtMost(MEMORY_KIB_MAX));
    figures.show("gpu.collector.pss", kib(memory[1].pss) - kib(memory[0].pss), "KiB");
    figures.show("gpu.collector.pss_without_gpus", kib(memory[0].pss), "KiB");
    Ok(())
}

async fn start(control: &Control, node: &str, latencies: Option<Latencies>) -> Result<Process> {
    let plan = AgentPlan {
        otlp: None,
        program: edge_bin("skerry-agent")?,
        node: node.to_owned(),
        data_dir: control.dir().join(node),
        gateway: control.address().to_owned(),
        token: control.token().to_owned(),
        docker: false,
        log: control.dir().join(format!("{node}.log")),
    };
    let mut command = plan.command();
    match latencies {
        None => command.arg("--no-gpu"),
        Some(latencies) => {
            let dir = control.dir().join(format!("{node}-gpus"));
            std::fs::create_dir_all(&dir)?;
            let machine = MachineSpec::parse(&format!("a100x{GPUS}")).context("eight GPUs")?;
            let simulated = Simulated { latencies, ..Simulated::of(machine) };
            let placed = place(&built_library()?, &dir, &simulated)?;
            command.arg(format!("--nvml-library={}", placed.library.display()))
        }
    };
    let agent = Process::spawn_command(&mut command, &plan.log)?;
    control.wait_connected(node).await?;
    Ok(agent)
}
