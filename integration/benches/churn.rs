//! Fifty apps on one node, changed at random for five minutes with Docker killed twice: that it holds, and what it costs.
//!
//! Method. Separate services on a real etcd, one agent, a Docker daemon of the bench's own, all built for release. `churn.settle`: from the last change until what ran was what was
//! wanted. `churn.growth`: the agent's proportional set size with fifty apps at rest after the changes, less that before them.
//! `--seconds=N`, `--seed=N`; `--quick`: 20 s.

mod support;

use std::time::Duration;

use anyhow::Result;
use skerry_integration::churn::{Plan, churn};
use skerry_testing::{Budget, Figures};
use support::{ms, note_load, option, quick};

const MIB: f64 = 1024.0 * 1024.0;
/// Flat: what the allocator keeps.
const GROWTH_MIB_MAX: f64 = 2.0;

#[tokio::main(flavor = "multi_thread", worker_threads = 2)]
async fn main() -> Result<()> {
    let figures = Figures::from_args();
    let seconds = option("--seconds")?.unwrap_or(if quick() { 20 } else { 300 });
    let seed = option("--seed")?.unwrap_or(7);
    note_load(&figures);
    let outcome = churn(Plan { length: Duration::from_secs(seconds), restarts: 2, seed }).await?;
    figures.note(&format!("{} changes, seed {seed}", outcome.changes));
    figures.show("churn.settle", ms(outcome.settled_in), "ms");
    figures.show("churn.memory_before", outcome.memory_before as f64 / MIB, "MiB");
    let growth = outcome.memory_after as f64 - outcome.memory_before as f64;
    figures.hold("churn.growth", growth / MIB, "MiB", Budget::AtMost(GROWTH_MIB_MAX));
    Ok(())
}
