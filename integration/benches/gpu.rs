//! `cargo xtask bench gpu`: what watching GPUs costs, on the node and in the cloud.
//!
//! Method. The control plane is `skerry up --no-agent` (release build), the agent is `skerry-agent` as it is shipped (profile `edge`), over mutual TLS. The
//! GPUs are simulated (`crates/nvml-sim`), with noisy loads.
//!
//! - `gpu.collector`: an agent with eight GPUs, all of whose samples go to the gpu service, less one without any: processor time over a minute or more, and
//!   memory. `cpu` is our own: calls of the driver return at once. In `cpu_with_driver` they take as long as recorded ones, and of short ones the driver
//!   itself computes that long.
//!
//! `--quick`: little of each. `--only=collector`: one part.

#[path = "gpu/collector.rs"]
mod collector;
mod support;

use anyhow::{Result, ensure};
use skerry_testing::Figures;
use support::{note_load, option};

#[tokio::main(flavor = "multi_thread", worker_threads = 2)]
async fn main() -> Result<()> {
    let figures = Figures::from_args();
    let only = option::<String>("--only")?;
    let parts = ["collector"];
    ensure!(only.as_deref().is_none_or(|only| parts.contains(&only)), "--only takes one of {parts:?}");
    let does = |part: &str| only.as_ref().is_none_or(|only| only == part);
    note_load(&figures);
    if does("collector") {
        collector::run(&figures).await?;
    }
    Ok(())
}
