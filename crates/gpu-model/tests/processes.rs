//! What is told of processes has a bound of all places of a node together, which both ends hold.

use std::ops::Range;

use skerry_gpu_model::decode::Outcome;
use skerry_gpu_model::{Decoder, Encoder, Field, Process, Sample};
use skerry_proto::gpu::v1 as pb;

/// The same for some seconds.
fn follow(encoder: &mut Encoder, decoder: &mut Decoder, seconds: Range<i64>, samples: &[Sample]) {
    for second in seconds {
        if let Some(frame) = encoder.encode(second * 1_000, samples) {
            let taken = decoder.take(&frame);
            assert!(!matches!(taken.outcome, Outcome::Wanted(_)), "{taken:?}");
        }
    }
}

#[test]
fn of_more_processes_than_a_node_may_have_those_are_told_that_were_already_until_some_go() {
    let (mut encoder, mut decoder) = (Encoder::new(77, "boot"), Decoder::new());
    let device = |at| pb::Device { uuid: format!("GPU-{at}"), ..pb::Device::default() };
    encoder.set_devices((0..6).map(device).collect()).expect("they can be told");
    let with = |pids: Range<u32>| {
        let mut sample = Sample::new();
        sample.set(Field::Processes, Ok(pids.len() as i64));
        sample.processes = pids.map(|pid| Process { pid, ..Process::default() }).collect();
        sample
    };
    let mut samples: Vec<Sample> = (0..6).map(|_| with(0..1_000)).collect();
    let told = |decoder: &Decoder| -> Vec<usize> {
        decoder.places().iter().map(|place| place.sample().processes.len()).collect()
    };
    follow(&mut encoder, &mut decoder, 0..12, &samples);
    assert_eq!(told(&decoder), [1_000, 1_000, 1_000, 1_000, 96, 0]);
    // They go from the first, and those of the others come in their place.
    samples[0] = with(0..10);
    follow(&mut encoder, &mut decoder, 12..20, &samples);
    assert_eq!(told(&decoder), [10, 1_000, 1_000, 1_000, 1_000, 86]);
}
