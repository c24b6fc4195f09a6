//! `cargo xtask bench gpu`: what watching GPUs costs, on the node, on the wire and in the cloud.
//!
//! Method. GPUs are simulated (`crates/nvml-sim`), with noisy loads. Programs are release builds; the agent is `skerry-agent` as it is shipped (profile
//! `edge`).
//!
//! - `gpu.collector`: an agent with eight GPUs, all of whose samples go to the gpu service over mutual TLS, less one without any: processor time over two
//!   minutes, and memory. `cpu` is our own: calls of the driver return at once; what the simulated driver computes is in it still. In `cpu_with_driver` calls take
//!   as long as on a machine with a driver, and of short ones the driver itself computes that long.
//! - `gpu.wire`: what the agent's own collector and encoder make of nodes of four GPUs. A sample is one GPU's at one second. `framed` is what went over the
//!   connection of `gpu.collector` for one, in both directions, as the kernel counted: with gRPC, HTTP/2 and TLS, without TCP.
//! - `gpu.ingest`: these frames for 10,000 nodes at once, each with a frame a second, into one `skerry-gpu` that has one core and real files. They come as
//!   four gateways would send them. `asked` are frames that it did not follow, `gaps` times of which its history then lacks something, `metrics` what
//!   `/metrics` takes of all these GPUs at once, and how long that is waited for.
//! - `gpu.history`: a day of one node, made of these frames, in a `skerry-gpu`; and how long it takes to answer what all of that day was of one GPU, as a client
//!   sees it: its load in steps of 10 s, and all that it measures in steps of 300 s and of 60 s.
//!
//! `--quick`: little of each. `--only=collector`, `wire`, `ingest`, `history`: one part.

#[path = "gpu/collector.rs"]
mod collector;
#[path = "gpu/history.rs"]
mod history;
#[path = "gpu/ingest.rs"]
mod ingest;
#[path = "gpu/recorded.rs"]
mod recorded;
#[path = "gpu/service.rs"]
mod service;
mod support;

use anyhow::{Result, ensure};
use recorded::Recorded;
use skerry_testing::Figures;
use support::{note_load, option};

const PARTS: [&str; 4] = ["collector", "wire", "ingest", "history"];

#[tokio::main(flavor = "multi_thread", worker_threads = 2)]
async fn main() -> Result<()> {
    let figures = Figures::from_args();
    let only = option::<String>("--only")?;
    ensure!(only.as_deref().is_none_or(|only| PARTS.contains(&only)), "--only takes one of {PARTS:?}");
    let does = |part: &str| only.as_ref().is_none_or(|only| only == part);
    note_load(&figures);
    if does("collector") {
        collector::run(&figures).await?;
    }
    if !(does("wire") || does("ingest") || does("history")) {
        return Ok(());
    }
    let recorded = Recorded::make().await?;
    if does("wire") {
        recorded.show(&figures)?;
    }
    if does("ingest") {
        ingest::run(&figures, &recorded).await?;
    }
    if does("history") {
        history::run(&figures, &recorded).await?;
    }
    Ok(())
}
