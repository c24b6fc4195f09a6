//! A rollout to its record and back.

use std::time::SystemTime;

use prost_types::Timestamp;
use skerry_model::{ContentHash, time};
use skerry_proto::store::v1 as stored;
use skerry_proto::store::v1::rollout_record::Phase as Stored;
use skerry_rollout::{Phase, Reason, Rollout};

/// Longest message that is kept.
const MESSAGE_BYTES_MAX: usize = 1024;

/// What a record means. Absent: it cannot be read, and decides nothing.
pub fn read(record: &stored::RolloutRecord) -> Option<Rollout> {
    let hash = |text: &str| ContentHash::parse(text).ok();
    let at = |time: Option<&Timestamp>| time.and_then(time::from_timestamp);
    let phase = match record.phase() {
        Stored::Progressing => Phase::Progressing,
        Stored::Paused => Phase::Paused,
        Stored::RollingBack => Phase::RollingBack,
        Stored::Done => Phase::Done,
        Stored::RolledBack => Phase::RolledBack,
        Stored::Unspecified => return None,
    };
    let start = at(record.start_time.as_ref())?;
    Some(Rollout {
        from: hash(&record.from_revision)?,
        to: hash(&record.to_revision)?,
        base: hash(&record.base_revision)?,
        phase,
        first_move: record.first_move,
        last_move: record.last_move,
        batch: record.batch,
        canary_done: record.canary_done,
        reason: Reason::parse(&record.reason),
        message: record.message.clone(),
        start,
        batch_start: at(record.batch_time.as_ref()).unwrap_or(start),
        healthy: at(record.healthy_time.as_ref()),
        end: at(record.end_time.as_ref()),
    })
}

/// The record of a rollout.
pub fn write(id: &str, rollout: &Rollout) -> stored::RolloutRecord {
    let phase = match rollout.phase {
        Phase::Progressing => Stored::Progressing,
        Phase::Paused => Stored::Paused,
        Phase::RollingBack => Stored::RollingBack,
        Phase::Done => Stored::Done,
        Phase::RolledBack => Stored::RolledBack,
    };
    let at = |time: SystemTime| Some(time::to_timestamp(time));
    // What failed says itself how, at any length.
    let cut = rollout.message.floor_char_boundary(MESSAGE_BYTES_MAX);
    stored::RolloutRecord {
        id: id.to_owned(),
        from_revision: rollout.from.to_string(),
        to_revision: rollout.to.to_string(),
        base_revision: rollout.base.to_string(),
        phase: phase.into(),
        first_move: rollout.first_move,
        last_move: rollout.last_move,
        batch: rollout.batch,
        canary_done: rollout.canary_done,
        reason: rollout.reason.map_or("", Reason::word).to_owned(),
        message: rollout.message[..cut].to_owned(),
        start_time: at(rollout.start),
        batch_time: at(rollout.batch_start),
        healthy_time: rollout.healthy.and_then(at),
        end_time: rollout.end.and_then(at),
    }
}
