//! A collector without an agent around it, whose frames go to who holds it: for `cargo xtask bench gpu`. Not for others: nothing here is promised.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use bytes::Bytes;
use skerry_proto::gateway::v1::GpuFeedback;
use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use super::{Collector, GpuAccess, Mps, SampleLink, sample_stream, sharing};

/// A collector that runs until this is dropped.
pub struct Recording {
    link: SampleLink,
    _collecting: JoinSet<()>,
}

impl Recording {
    /// Collects from this library, on the caller's runtime, and keeps what is to be remembered in `data_dir`. Frames are wanted from the start.
    pub fn begin(library: PathBuf, data_dir: &Path) -> Self {
        let (told, gpus) = watch::channel(Arc::default());
        let (shares, _) = sharing(gpus, watch::channel(Mps::default()).1);
        let (samples, link) = sample_stream("recording");
        let access = GpuAccess::Nvml { library: Some(library), mps: false };
        let containers = Arc::new(watch::Sender::new(Arc::default()));
        let mut collecting = JoinSet::new();
        if let Some(collector) = Collector::new(&access, data_dir, containers, told, samples, shares) {
            collecting.spawn(collector.run(CancellationToken::new()));
        }
        link.said(&GpuFeedback { wanted: true, ..GpuFeedback::default() });
        Self { link, _collecting: collecting }
    }

    /// The next frame, encoded: once a second.
    pub async fn next(&mut self) -> Bytes {
        self.link.next().await
    }
}
