//! Secrets under instances that run: exchanged where a mount says so, and removed where nobody has them any more.
//!
//! Level-triggered as all of the loop: each time something changed, what is laid out is held against what is wanted.

use std::sync::Arc;

use tokio::task::JoinSet;

use crate::desired::{Desired, InstanceSpec};
use crate::secrets::Secrets;

/// Keeps the files of secrets in step, one task at a time.
#[derive(Default)]
pub(super) struct Keeper {
    secrets: Arc<Secrets>,
    tasks: JoinSet<()>,
    refresh_due: bool,
}

impl Keeper {
    pub(super) fn new(secrets: Arc<Secrets>) -> Self {
        Self { secrets, refresh_due: true, ..Self::default() }
    }

    /// What is laid out may be old.
    pub(super) fn changed(&mut self) {
        self.refresh_due = true;
    }

    /// Exchanges the files of what runs on with other values.
    pub(super) fn refresh(&mut self, desired: &Desired) {
        if !self.refresh_due || !self.tasks.is_empty() {
            return;
        }
        self.refresh_due = false;
        let specs: Vec<Arc<InstanceSpec>> =
            desired.instances.values().filter(|spec| Secrets::may_change(spec)).cloned().collect();
        if specs.is_empty() {
            return;
        }
        let secrets = Arc::clone(&self.secrets);
        self.tasks.spawn_blocking(move || {
            for spec in specs {
                if let Err(error) = secrets.refresh(&spec) {
                    tracing::warn!(instance = %spec.name, %error, "its secrets stay as they were");
                }
            }
        });
    }

    /// Removes what no instance of `desired` has. Only where nothing else runs or is on its way.
    pub(super) fn sweep(&mut self, desired: &Desired) {
        let secrets = Arc::clone(&self.secrets);
        let specs: Vec<Arc<InstanceSpec>> = desired.instances.values().cloned().collect();
        self.tasks.spawn_blocking(move || {
            if let Err(error) = secrets.sweep(specs.iter().map(AsRef::as_ref)) {
                tracing::warn!(%error, "secrets that nobody needs cannot be removed");
            }
        });
    }

    /// Returns when something that was begun has ended.
    pub(super) async fn next(&mut self) {
        if self.tasks.join_next().await.is_none() {
            std::future::pending::<()>().await;
        }
    }
}
