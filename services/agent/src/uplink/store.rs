//! Writing the desired state, and before it what it makes needed of what came before, without holding up the actor: one write at a time, on a thread of its own since `fsync` blocks.

use std::sync::Arc;
use std::time::Duration;

use skerry_sync::Desired;
use tokio::task::JoinHandle;

use crate::state::{Before, Directory, StateFiles};

/// Longest that the last write may take when the agent ends.
const LAST_WRITE_MAX: Duration = Duration::from_secs(5);

/// A write that ended.
pub(super) struct Written {
    /// Of the `Persist` that asked for it. None: a new uid was written.
    pub(super) token: Option<u64>,
    pub(super) result: Result<(), String>,
}

type Files = StateFiles<Directory>;

struct Writing {
    token: Option<u64>,
    handle: JoinHandle<(Files, Result<(), String>)>,
}

/// The files, and the write under way.
pub(super) struct Store {
    /// Nothing while they are being written, or when a defect ended a write.
    files: Option<Files>,
    writing: Option<Writing>,
    /// One that waits for the write under way: the machine never asks for two at once.
    next: Option<(Option<u64>, Arc<Desired>)>,
    node_uid: String,
    /// What is kept of what came before, which shall be on disk before whatever is written next.
    before: Arc<Before>,
    /// Whether it may differ from what is there.
    before_due: bool,
}

impl Store {
    pub(super) fn new(files: Files, node_uid: String, before: Arc<Before>) -> Self {
        Self { files: Some(files), writing: None, next: None, node_uid, before, before_due: false }
    }

    /// Begins to write `desired`.
    pub(super) fn persist(&mut self, token: u64, desired: Arc<Desired>) {
        self.next = Some((Some(token), desired));
        self.begin();
    }

    /// From now on this is kept of what came before. `now`: it is written also if nothing else is.
    pub(super) fn keep(&mut self, before: Before, now: bool) {
        self.before = Arc::new(before);
        self.before_due |= now;
        if now {
            self.begin();
        }
    }

    /// Keeps the uid, and writes it with what is `held` unless something is about to be written anyway.
    pub(super) fn remember_uid(&mut self, node_uid: String, held: Arc<Desired>) {
        if self.node_uid == node_uid {
            return;
        }
        self.node_uid = node_uid;
        if self.next.is_none() {
            // A write under way is of the state that is offered, and newer than what is held.
            let newer = self.writing.is_some();
            if !newer {
                self.next = Some((None, held));
            }
        }
        self.begin();
    }

    fn begin(&mut self) {
        if self.writing.is_some() {
            return;
        }
        if self.next.is_none() && !self.before_due {
            return;
        }
        self.before_due = false;
        let (token, desired) =
            self.next.take().map_or((None, None), |(token, desired)| (token, Some(desired)));
        let before = Arc::clone(&self.before);
        let Some(mut files) = self.files.take() else {
            tracing::error!("the desired state cannot be written any more: a defect ended the last write");
            return;
        };
        let node_uid = self.node_uid.clone();
        let handle = tokio::task::spawn_blocking(move || {
            let saved = files.keep(&before).and_then(|()| match desired {
                Some(desired) => files.save(&desired, &node_uid),
                None => Ok(()),
            });
            (files, saved.map_err(|error| error.to_string()))
        });
        self.writing = Some(Writing { token, handle });
    }

    /// The next write that ends. May be dropped and called again.
    pub(super) async fn written(&mut self) -> Written {
        let Some(writing) = &mut self.writing else { return std::future::pending().await };
        let joined = (&mut writing.handle).await;
        let token = self.writing.take().and_then(|writing| writing.token);
        let result = match joined {
            Ok((files, result)) => {
                self.files = Some(files);
                result
            }
            Err(error) => Err(format!("a defect ended the write: {error}")),
        };
        self.begin();
        Written { token, result }
    }

    /// Lets the write under way end.
    pub(super) async fn finish(mut self) {
        if self.writing.is_some() && tokio::time::timeout(LAST_WRITE_MAX, self.written()).await.is_err() {
            tracing::warn!("the last write of the desired state did not end in time");
        }
    }
}
