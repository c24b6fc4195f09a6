//! Freeing room: what is needed no more is collected now and then, and soon after something went.
//!
//! What is said of volumes is noted before that, as soon as it is said: it counts also for an app that has left since.

use std::sync::Arc;
use std::time::Duration;

use skerry_sync::MonoTime;
use tokio::task::JoinSet;

use super::Reconciler;
use crate::desired::Desired;
use crate::runtime::{Progress, RuntimeKind, VolumeWords};

/// How often it is looked for. More often would only cost: images are unused for days before they go.
const PERIOD: Duration = Duration::from_secs(300);
/// Shortest time between two looks, however much changes.
const SPACING: Duration = Duration::from_secs(5);
/// Longest that one may take: many images on a slow disk.
const DEADLINE: Duration = Duration::from_secs(600);
/// Longest that noting what is said of volumes may take.
const NOTE_DEADLINE: Duration = Duration::from_secs(15);
/// Volumes of which what was said is held while it cannot be noted.
const SAID_MAX: usize = 4096;

/// What came of it.
pub(super) enum End {
    /// What a runtime tells of it.
    Collected(Vec<Progress>),
    /// This could not be noted.
    Noted(VolumeWords),
}

/// When room is freed. One at a time.
#[derive(Default)]
pub(super) struct Collector {
    tasks: JoinSet<Vec<Progress>>,
    began: Option<MonoTime>,
    hurries: bool,
    /// What was said of volumes and is not noted yet.
    said: VolumeWords,
    /// Whether some of it was said since noting was last tried.
    says_more: bool,
    /// Notes one time after the other: what a runtime did not note comes back.
    noting: JoinSet<VolumeWords>,
}

impl Collector {
    /// Something changed, or a runtime answers that was away: looks again soon.
    pub(super) fn hurry(&mut self) {
        self.hurries = true;
    }

    pub(super) async fn next(&mut self) -> Option<End> {
        tokio::select! {
            Some(Ok(removed)) = self.tasks.join_next() => Some(End::Collected(removed)),
            Some(Ok(not_noted)) = self.noting.join_next() => Some(End::Noted(not_noted)),
            else => None,
        }
    }

    /// This is said of volumes now.
    fn say(&mut self, volumes: VolumeWords) {
        self.says_more |= !volumes.is_empty();
        self.said.extend(volumes);
        while self.said.len() > SAID_MAX {
            self.said.pop_last();
        }
    }

    /// This could not be noted. It is tried again when more is said, and goes along when room is freed.
    fn take_back(&mut self, not_noted: VolumeWords) {
        let newer = std::mem::replace(&mut self.said, not_noted);
        self.said.extend(newer);
    }
}

impl Reconciler {
    /// Takes in what is wanted from now on: what is removed as unneeded by what was wanted before may be needed now.
    pub(super) fn collect_for(&mut self, desired: &Desired) {
        let needs = desired.needs();
        if !self.desired.needs().cover(&needs) {
            self.collector.tasks.abort_all();
        }
        self.collector.say(needs.volumes);
        self.note();
        self.collector.hurry();
    }

    /// Notes what was said of volumes.
    fn note(&mut self) {
        if !self.collector.says_more || !self.collector.noting.is_empty() {
            return;
        }
        self.collector.says_more = false;
        let said = std::mem::take(&mut self.collector.said);
        let runtimes: Vec<_> = self.runtimes.values().cloned().collect();
        self.collector.noting.spawn(async move {
            for runtime in runtimes {
                let noted = tokio::time::timeout(NOTE_DEADLINE, runtime.note(&said)).await;
                if !matches!(noted, Ok(Ok(()))) {
                    tracing::warn!(?noted, "what is said of volumes cannot be kept");
                    return said;
                }
            }
            VolumeWords::new()
        });
    }

    /// Frees room, if that is due; answers when it is next. Not before it is known what is wanted.
    pub(super) fn collect(&mut self, now: MonoTime) -> MonoTime {
        let wait = if self.collector.hurries { SPACING } else { PERIOD };
        let due = self.collector.began.map_or(now, |began| began + wait);
        let busy = !self.collector.tasks.is_empty() || !self.collector.noting.is_empty();
        if due > now || busy || !self.desired.authoritative {
            return due.max(now + SPACING);
        }
        self.collector.began = Some(now);
        self.collector.hurries = false;
        for (kind, runtime) in &self.runtimes {
            if self.world.get(kind).is_some_and(|view| view.available) {
                let (kind, runtime, mut needs) = (*kind, Arc::clone(runtime), self.desired.needs());
                let now_said = std::mem::replace(&mut needs.volumes, self.collector.said.clone());
                needs.volumes.extend(now_said);
                self.collector.tasks.spawn(async move {
                    let collected = tokio::time::timeout(DEADLINE, runtime.collect(&needs)).await;
                    collected.map_or_else(
                        |_| Vec::new(),
                        |collected| {
                            collected.unwrap_or_else(|error| {
                                warn(kind, &error.message);
                                Vec::new()
                            })
                        },
                    )
                });
            }
        }
        now + SPACING
    }

    /// Tells what was removed, and where that is not enough; goes on noting.
    pub(super) fn take_collector(&mut self, end: End) {
        match end {
            End::Collected(told) => {
                for progress in told {
                    let warning = progress.is_warning();
                    self.tell_node_event(progress.reason, progress.message, warning);
                }
            }
            End::Noted(not_noted) => {
                self.collector.take_back(not_noted);
                self.note();
            }
        }
    }
}

fn warn(kind: RuntimeKind, message: &str) {
    tracing::warn!(runtime = kind.as_str(), message, "cannot free room");
}
