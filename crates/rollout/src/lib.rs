//! Rollouts: which clusters an app's new revision comes to next, and what follows from how they take it. Pure: it knows neither clock nor
//! store.
//!
//! A rollout is a small [`Rollout`] and a log of [`Move`]s. A cluster has the revision of the last move that names it, and
//! [`Rollout::base`] if none does. [`step`] looks at what each cluster shows and says what to write next, over and over, by whoever leads. Its laws:
//!
//! - No healthy cluster is changed while as many as may be are unhealthy or under way, whatever fails.
//! - A cluster that is away holds nothing up and does not count as failed. It is passed over, and changed when it is back.
//! - A cluster goes to the new revision once, and back once.
//! - One that took the new revision back by itself has failed, and is not waited for.
//! - Once failures stop, a rollout comes to an end: done, rolled back, or paused.

mod change;
mod step;
mod told;

pub use change::{Refused, abort, begin, pause, resume};
pub use step::{Step, step};
pub use told::told;

use std::time::SystemTime;

use skerry_model::{ClusterName, ContentHash};

#[cfg(test)]
mod tests;

/// Most clusters of one [`Move`].
pub const MOVE_CLUSTERS_MAX: usize = 2_000;

/// The state of a rollout.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Rollout {
    /// The revision that is gone back to.
    pub from: ContentHash,
    /// The new one.
    pub to: ContentHash,
    /// What a cluster has that no move names.
    pub base: ContentHash,
    /// Where it stands.
    pub phase: Phase,
    /// Moves before this one count no more.
    pub first_move: u64,
    /// The last move; one less than `first_move` where there is none.
    pub last_move: u64,
    /// Batches that were begun.
    pub batch: u32,
    /// The canary clusters have been healthy, or there are none.
    pub canary_done: bool,
    /// Why it stands there. Absent: as it was meant.
    pub reason: Option<Reason>,
    /// The same in a sentence.
    pub message: String,
    /// When it began.
    pub start: SystemTime,
    /// When the last batch began.
    pub batch_start: SystemTime,
    /// Since when all that was changed is healthy. Absent: not all is.
    pub healthy: Option<SystemTime>,
    /// When it ended, or was paused.
    pub end: Option<SystemTime>,
}

/// Where a rollout stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Phase {
    /// Clusters go to the new revision.
    Progressing,
    /// Nothing changes.
    Paused,
    /// Clusters go back to the former revision.
    RollingBack,
    /// All that are connected have the new revision; those that come back get it.
    Done,
    /// All have the former revision.
    RolledBack,
}

/// Why a rollout is where it was not meant to be.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Reason {
    /// Somebody paused it.
    Requested,
    /// It pauses after the canary clusters, as its strategy says.
    AfterCanary,
    /// A batch did not become healthy in time.
    ProgressDeadlineExceeded,
    /// Somebody aborted it.
    Aborted,
    /// The former revision was applied again meanwhile.
    Superseded,
    /// A cluster took it back by itself.
    TakenBack,
}

impl Reason {
    /// All of them.
    pub const ALL: [Self; 6] = [
        Self::Requested,
        Self::AfterCanary,
        Self::ProgressDeadlineExceeded,
        Self::Aborted,
        Self::Superseded,
        Self::TakenBack,
    ];

    /// One CamelCase word for programs.
    pub fn word(self) -> &'static str {
        match self {
            Self::Requested => "Requested",
            Self::AfterCanary => "AfterCanary",
            Self::ProgressDeadlineExceeded => "ProgressDeadlineExceeded",
            Self::Aborted => "Aborted",
            Self::Superseded => "Superseded",
            Self::TakenBack => "TakenBack",
        }
    }

    /// What [`Self::word`] said.
    pub fn parse(word: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|reason| reason.word() == word)
    }
}

/// A cluster that the app goes to in the former revision or the new one, as it is now.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Cluster {
    /// Its name.
    pub name: ClusterName,
    /// The revision that it has, by the moves.
    pub at: ContentHash,
    /// It is one of those that go first.
    pub is_canary: bool,
    /// How it is.
    pub shown: Shown,
}

/// What a cluster shows of an app.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Shown {
    /// It is not connected: nobody knows.
    Away,
    /// It runs all that it should, in the revision that it has, and that is healthy.
    Healthy,
    /// It does not, or not yet.
    Unhealthy {
        /// What is the matter.
        why: String,
    },
    /// It took the revision that it has back by itself while nobody saw it: waiting does not help.
    TakenBack {
        /// What was the matter.
        why: String,
    },
}

impl Shown {
    /// It is connected, and not as it should be.
    pub(crate) fn is_ill(&self) -> bool {
        matches!(self, Self::Unhealthy { .. } | Self::TakenBack { .. })
    }
}

/// Clusters get a revision.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Move {
    /// Which revision.
    pub revision: ContentHash,
    /// At most [`MOVE_CLUSTERS_MAX`].
    pub clusters: Vec<ClusterName>,
}

impl Rollout {
    /// The revision that clusters go to now.
    pub fn target(&self) -> ContentHash {
        match self.phase {
            Phase::Progressing | Phase::Paused | Phase::Done => self.to,
            Phase::RollingBack | Phase::RolledBack => self.from,
        }
    }

    /// It has not ended.
    pub fn is_live(&self) -> bool {
        matches!(self.phase, Phase::Progressing | Phase::Paused | Phase::RollingBack)
    }

    /// It has ended, and no cluster has anything but its base.
    pub fn is_at_rest(&self) -> bool {
        !self.is_live() && self.first_move > self.last_move
    }
}
