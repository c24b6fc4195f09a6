//! Frames of nodes of four GPUs, as the agent's own collector and encoder make them, one a second.

use std::path::Path;
use std::time::Duration;

use anyhow::{Context as _, Result};
use bytes::Bytes;
use prost::Message as _;
use skerry_agent::gpu_recording::Recording;
use skerry_nvml_sim::{Control, MachineSpec, Process, built_library, place};
use skerry_proto::gpu::v1 as pb;
use skerry_testing::{Budget, Figures};
use tempfile::TempDir;
use tokio::task::JoinSet;

use crate::support::quick;

/// Of each node.
pub(crate) const GPUS: usize = 4;
/// Curves that differ.
const NODES: usize = 16;
/// Before this many frames not all fields were read once.
const SETTLED: usize = 15;
/// The driver's number of a process, of which nothing else is known. Above what Linux gives.
const PID: u32 = 5_000_000;
const PAYLOAD_BYTES_MAX: f64 = 40.0;

/// See the module.
pub(crate) struct Recorded {
    /// Frames by node, in order.
    pub(crate) nodes: Vec<Vec<Bytes>>,
    /// Threads of the driver may look there for a while.
    _dirs: Vec<TempDir>,
}

impl Recorded {
    /// Records them, in as many seconds as there are frames of a node.
    pub(crate) async fn make() -> Result<Self> {
        let frames = if quick() { 30 } else { 120 };
        let library = built_library()?;
        let mut nodes = JoinSet::new();
        for node in 0..NODES {
            let dir = TempDir::new()?;
            let machine = MachineSpec::parse(&format!("a100x{GPUS}")).context("four GPUs")?;
            let mut simulated = Control { seed: Some(format!("node-{node}")), ..Control::of(machine) };
            for gpu in 0..GPUS {
                let process = Process { pid: PID, memory_mib: Some(8_192), ..Process::default() };
                simulated.device_mut(u32::try_from(gpu)?).process = vec![process];
            }
            let placed = place(&library, dir.path(), &simulated)?;
            nodes.spawn(async move { Ok((record(&placed.library, &dir, frames).await?, dir)) });
        }
        let all = nodes.join_all().await.into_iter().collect::<Result<Vec<_>>>()?;
        let (nodes, dirs) = all.into_iter().unzip();
        Ok(Self { nodes, _dirs: dirs })
    }

    /// How long they are.
    pub(crate) fn show(&self, figures: &Figures) -> Result<()> {
        let (mut usual, mut bytes, mut values, mut keyframes, mut keyframe_bytes) = (0, 0, 0, 0, 0);
        for frames in &self.nodes {
            for (at, encoded) in frames.iter().enumerate() {
                let frame = pb::Frame::decode(encoded.clone())?;
                if frame.keyframe.is_some() {
                    keyframes += 1;
                    keyframe_bytes += encoded.len();
                } else if at >= SETTLED {
                    usual += 1;
                    bytes += encoded.len();
                    values += frame.changes.iter().map(|changes| changes.steps.len()).sum::<usize>();
                }
            }
        }
        let samples = (usual * GPUS) as f64;
        figures.hold(
            "gpu.wire.payload",
            bytes as f64 / samples,
            "B/sample",
            Budget::AtMost(PAYLOAD_BYTES_MAX),
        );
        figures.show("gpu.wire.values", values as f64 / samples, "/sample");
        figures.show("gpu.wire.keyframe", keyframe_bytes as f64 / (keyframes * GPUS) as f64, "B/GPU");
        Ok(())
    }
}

async fn record(library: &Path, dir: &TempDir, frames: usize) -> Result<Vec<Bytes>> {
    let mut recording = Recording::begin(library.to_owned(), dir.path());
    let all = async {
        let mut all = Vec::with_capacity(frames);
        while all.len() < frames {
            all.push(recording.next().await);
        }
        all
    };
    // The driver is looked for within half a minute.
    let patience = Duration::from_secs(frames as u64 * 2 + 60);
    tokio::time::timeout(patience, all).await.context("a collector that makes a frame a second")
}
