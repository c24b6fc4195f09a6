//! Freeing room: what is needed no more is collected now and then, and soon after something went.

use std::sync::Arc;
use std::time::Duration;

use skerry_sync::MonoTime;
use tokio::task::JoinSet;

use super::Reconciler;
use crate::runtime::{Progress, RuntimeKind};

/// How often it is looked for. More often would only cost: images are unused for days before they go.
const PERIOD: Duration = Duration::from_secs(300);
/// Shortest time between two looks, however much changes.
const SPACING: Duration = Duration::from_secs(5);
/// Longest that one may take: many images on a slow disk.
const DEADLINE: Duration = Duration::from_secs(600);

/// What a runtime has to tell of it.
pub(super) struct Told(Vec<Progress>);

/// When room is freed. One at a time.
#[derive(Default)]
pub(super) struct Collector {
    tasks: JoinSet<Told>,
    began: Option<MonoTime>,
    hurries: bool,
}

impl Collector {
    /// Something changed: looks again soon.
    pub(super) fn hurry(&mut self) {
        self.hurries = true;
    }

    pub(super) async fn next(&mut self) -> Option<Told> {
        self.tasks.join_next().await?.ok()
    }
}

impl Reconciler {
    /// Frees room, if that is due; answers when it is next. Not before it is known what is wanted.
    pub(super) fn collect(&mut self, now: MonoTime) -> MonoTime {
        let wait = if self.collector.hurries { SPACING } else { PERIOD };
        let due = self.collector.began.map_or(now, |began| began + wait);
        if due > now || !self.collector.tasks.is_empty() || !self.desired.authoritative {
            return due.max(now + SPACING);
        }
        self.collector.began = Some(now);
        self.collector.hurries = false;
        for (kind, runtime) in &self.runtimes {
            if self.world.get(kind).is_some_and(|view| view.available) {
                let (kind, runtime, needs) = (*kind, Arc::clone(runtime), self.desired.needs());
                self.collector.tasks.spawn(async move {
                    let collected = tokio::time::timeout(DEADLINE, runtime.collect(&needs)).await;
                    Told(collected.map_or_else(
                        |_| Vec::new(),
                        |collected| {
                            collected.unwrap_or_else(|error| {
                                warn(kind, &error.message);
                                Vec::new()
                            })
                        },
                    ))
                });
            } else {
                // It is looked for again as soon as that one answers.
                self.collector.hurries = true;
            }
        }
        now + SPACING
    }

    /// Tells what was removed, and where that is not enough.
    pub(super) fn take_collected(&mut self, told: Told) {
        for progress in told.0 {
            let warning = progress.is_warning();
            self.tell_node_event(progress.reason, progress.message, warning);
        }
    }
}

fn warn(kind: RuntimeKind, message: &str) {
    tracing::warn!(runtime = kind.as_str(), message, "cannot free room");
}
