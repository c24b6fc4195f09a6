//! What people do with rollouts: begin one by a change of the app, pause, resume, abort.

use std::time::SystemTime;

use skerry_model::ContentHash;

use crate::{Phase, Reason, Rollout};

/// Why something cannot be done with a rollout.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Refused {
    /// It is over.
    #[error("the rollout has ended: apply a change, or go back by `skerry rollout undo`")]
    Ended,
    /// It goes back already.
    #[error("the rollout goes back to the former revision already")]
    GoesBack,
    /// It is not paused.
    #[error("the rollout is not paused")]
    NotPaused,
    /// It is paused already.
    #[error("the rollout is paused already")]
    Paused,
}

/// The rollout of `new` where `current` was the app's revision and `last` its last rollout, if that still says who has what.
///
/// It takes the place of one that has not ended: clusters keep what they have until their turn comes, however many revisions those are, and the revision to go back
/// to stays the one that was rolled out last. If that is applied, it is gone back to.
pub fn begin(last: Option<&Rollout>, current: ContentHash, new: ContentHash, now: SystemTime) -> Rollout {
    let (base, first_move, last_move) =
        last.map_or((current, 1, 0), |last| (last.base, last.first_move, last.last_move));
    let live = last.filter(|last| last.is_live());
    let from = live.map_or(current, |last| last.from);
    let goes_back = new == from;
    Rollout {
        from,
        to: live.filter(|_| goes_back).map_or(new, |last| last.to),
        base,
        phase: if goes_back { Phase::RollingBack } else { Phase::Progressing },
        first_move,
        last_move,
        batch: 0,
        canary_done: false,
        reason: goes_back.then_some(Reason::Superseded),
        message: if goes_back { "the former revision was applied again".to_owned() } else { String::new() },
        start: now,
        batch_start: now,
        healthy: None,
        end: None,
    }
}

/// Nothing more is changed.
pub fn pause(rollout: &Rollout, now: SystemTime) -> Result<Rollout, Refused> {
    match rollout.phase {
        Phase::Progressing => Ok(Rollout {
            phase: Phase::Paused,
            reason: Some(Reason::Requested),
            message: "paused until somebody resumes it".to_owned(),
            end: Some(now),
            ..rollout.clone()
        }),
        Phase::Paused => Err(Refused::Paused),
        Phase::RollingBack => Err(Refused::GoesBack),
        Phase::Done | Phase::RolledBack => Err(Refused::Ended),
    }
}

/// It goes on. What has not become healthy has its time once more.
pub fn resume(rollout: &Rollout, now: SystemTime) -> Result<Rollout, Refused> {
    match rollout.phase {
        Phase::Paused => Ok(Rollout {
            phase: Phase::Progressing,
            reason: None,
            message: String::new(),
            batch_start: now,
            healthy: None,
            end: None,
            ..rollout.clone()
        }),
        Phase::Progressing => Err(Refused::NotPaused),
        Phase::RollingBack => Err(Refused::GoesBack),
        Phase::Done | Phase::RolledBack => Err(Refused::Ended),
    }
}

/// What was changed goes back.
pub fn abort(rollout: &Rollout, now: SystemTime) -> Result<Rollout, Refused> {
    match rollout.phase {
        Phase::Progressing | Phase::Paused => {
            Ok(back(rollout, Reason::Aborted, "somebody aborted it".to_owned(), now))
        }
        Phase::RollingBack => Err(Refused::GoesBack),
        Phase::Done | Phase::RolledBack => Err(Refused::Ended),
    }
}

/// The rollout on its way back.
pub(crate) fn back(rollout: &Rollout, reason: Reason, message: String, now: SystemTime) -> Rollout {
    Rollout {
        phase: Phase::RollingBack,
        reason: Some(reason),
        message,
        batch_start: now,
        healthy: None,
        end: None,
        ..rollout.clone()
    }
}
