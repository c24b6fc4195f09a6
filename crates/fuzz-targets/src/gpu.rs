//! Frames of GPU telemetry, which come from machines that may be anybody's.

use prost::Message as _;
use skerry_gpu_model::decode::{Decoder, Outcome};
use skerry_gpu_model::{NODE_PROCESSES_MAX, PLACES_MAX, PROCESSES_MAX};
use skerry_proto::gpu::v1 as pb;

use crate::steps;

/// What a node may send. What is known of it has bounds, and without a keyframe nothing is.
pub fn gpu_frames(input: &[u8]) {
    let mut decoder = Decoder::new();
    for (how, bytes) in steps(input) {
        if how & 1 != 0 {
            decoder = Decoder::resume(decoder.time(), decoder.events().cloned());
        }
        let Ok(frame) = pb::Frame::decode(bytes) else { continue };
        let mark = decoder.events().cloned();
        let taken = decoder.take(&frame);
        match taken.outcome {
            Outcome::Begun => assert!(frame.keyframe.is_some()),
            Outcome::Sampled => assert!(frame.keyframe.is_none() && decoder.stream() == Some(frame.stream)),
            Outcome::Repeated | Outcome::Wanted(_) => assert!(taken.events.is_empty() && taken.gap.is_none()),
        }
        if decoder.stream().is_none() {
            assert!(decoder.places().is_empty() && decoder.devices().is_empty());
        }
        assert!(decoder.places().len() <= PLACES_MAX);
        assert!(decoder.places().iter().all(|place| place.sample().processes.len() <= PROCESSES_MAX));
        let processes: usize = decoder.places().iter().map(|place| place.sample().processes.len()).sum();
        assert!(processes <= NODE_PROCESSES_MAX);
        assert!(taken.gap.is_none_or(|gap| gap.since < gap.until));
        for event in &taken.events {
            let known = mark.as_ref().filter(|mark| mark.boot_id == event.boot_id);
            assert!(known.is_none_or(|mark| mark.sequence < event.sequence), "an event is told twice");
        }
    }
}
