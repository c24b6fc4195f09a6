//! Keeps what containers know each other by in step with what other members of the cluster have. Level-triggered: after each look and each new desired state
//! all that runs is told what it is not told yet.

use std::collections::BTreeMap;
use std::sync::Arc;

use tokio::task::JoinSet;

use super::look::DEADLINE;
use crate::desired::Desired;
use crate::runtime::{Names, Runtime, RuntimeKind};

/// Tells the runtimes.
#[derive(Default)]
pub(super) struct Keeper {
    due: bool,
    telling: JoinSet<()>,
}

impl Keeper {
    /// There is a new desired state.
    pub(super) fn take(&mut self, desired: &Desired, runtimes: &BTreeMap<RuntimeKind, Arc<dyn Runtime>>) {
        let specs = desired.instances.values().chain(desired.formers.values()).cloned().collect();
        let names = Arc::new(Names { peers: desired.peers.clone(), specs });
        for runtime in runtimes.values() {
            runtime.take_names(Arc::clone(&names));
        }
        self.due = true;
    }

    /// Something may run that did not before, or at another address.
    pub(super) fn looked(&mut self) {
        self.due = true;
    }

    /// Begins to tell, if it is due and nobody does.
    pub(super) fn keep(&mut self, runtimes: &BTreeMap<RuntimeKind, Arc<dyn Runtime>>) {
        if !self.due || !self.telling.is_empty() {
            return;
        }
        self.due = false;
        for runtime in runtimes.values() {
            let runtime = Arc::clone(runtime);
            self.telling.spawn(async move {
                match tokio::time::timeout(DEADLINE, runtime.keep_names()).await {
                    Ok(Ok(())) => {}
                    Ok(Err(error)) => {
                        tracing::warn!(runtime = runtime.kind().as_str(), %error, "names are not kept");
                    }
                    Err(_) => {
                        tracing::warn!(runtime = runtime.kind().as_str(), "keeping names takes too long");
                    }
                }
            });
        }
    }

    /// When a telling has ended.
    pub(super) async fn next(&mut self) {
        if self.telling.join_next().await.is_none() {
            std::future::pending::<()>().await;
        }
    }
}
