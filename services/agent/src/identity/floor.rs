//! The latest time that a server proved to have told, kept on disk: an agent that starts without a battery behind its clock knows that it
//! is not before that.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use skerry_identity::clock::TimeFloor;
use skerry_identity::{Trust, private_file};
use skerry_rpc::Presented;
use tokio::task::JoinHandle;

use super::kept::Kept;

/// The floor advances so seldom: each time is a write, and flash wears out.
const STEP: Duration = Duration::from_secs(3600);

pub(super) struct Floor {
    time: Arc<TimeFloor>,
    path: PathBuf,
    writing: Option<JoinHandle<()>>,
}

impl Floor {
    /// As it was kept. One that does not read is none: that makes an agent believe more, and locks nobody out.
    pub(super) fn open(kept: &Kept) -> Self {
        let path = kept.time();
        let seconds = match private_file::read(&path) {
            Ok(Some(text)) => std::str::from_utf8(&text).ok().and_then(|text| text.trim().parse().ok()),
            Ok(None) => None,
            Err(error) => {
                tracing::warn!(%error, "the time that was kept is forgotten");
                None
            }
        };
        let kept = seconds.and_then(|seconds| UNIX_EPOCH.checked_add(Duration::from_secs(seconds)));
        Self { time: Arc::new(TimeFloor::new(kept.unwrap_or(UNIX_EPOCH))), path, writing: None }
    }

    /// As the verifiers of connections take it.
    pub(super) fn shared(&self) -> &Arc<TimeFloor> {
        &self.time
    }

    /// Where nothing was kept: it is not before `not_before`, which a server wrote into the own certificate.
    pub(super) fn begin(&self, not_before: Option<SystemTime>) {
        if let Some(not_before) = not_before.filter(|_| self.time.get() == UNIX_EPOCH) {
            self.time.raise(not_before);
        }
    }

    /// The server that `presented` this chain, and was let through by `trust`, says that it is `told`.
    pub(super) fn hear(&mut self, told: SystemTime, presented: &Presented, trust: &Trust) {
        let due = self.time.get().checked_add(STEP).is_some_and(|due| due <= told);
        if !due || self.writing.as_ref().is_some_and(|writing| !writing.is_finished()) {
            return;
        }
        let Ok(server) = trust.server(presented.chain()) else { return };
        let Some(floor) = self.time.advance(told, &server) else { return };
        let seconds = floor.duration_since(UNIX_EPOCH).unwrap_or_default().as_secs();
        let path = self.path.clone();
        self.writing = Some(tokio::task::spawn_blocking(move || {
            if let Err(error) = private_file::replace(&path, seconds.to_string().as_bytes()) {
                tracing::warn!(%error, "the time that a server told cannot be kept");
            }
        }));
    }
}
