//! How many bytes a sample takes on the wire.

mod curves;

use curves::{Chip, Curve};
use prost::Message as _;
use skerry_gpu_model::{Decoder, Encoder};
use skerry_proto::gpu::v1 as pb;

/// Of one device at one sample a second, everything that a frame has.
const BYTES_MAX: f64 = 40.0;
const HOUR: i64 = 3600;

struct Cost {
    per_sample: f64,
    keyframe: usize,
    longest: usize,
}

/// Sends an hour of as many devices through an encoder, and the frames as bytes through a decoder.
fn hour(chip: Chip, devices: u32) -> Cost {
    let mut curves: Vec<Curve> = (0..devices).map(|seed| Curve::new(chip, u64::from(seed) + 7)).collect();
    let mut encoder = Encoder::new(0xC0FF_EE11, "0f8b6a52-3b0c-4a55-9d7f-1b2c3d4e5f60");
    let mut decoder = Decoder::new();
    let device = |index: u32| pb::Device {
        uuid: format!("GPU-1c4f0a2e-7f7b-4c1d-9a55-0000000000{index:02}"),
        index,
        vendor: pb::device::Vendor::Nvidia.into(),
        model: "NVIDIA H100 80GB HBM3".to_owned(),
        ..pb::Device::default()
    };
    encoder.set_devices((0..devices).map(device).collect()).expect("they can be told");
    let (mut bytes, mut keyframe, mut longest) = (0, 0, 0);
    for second in 0..HOUR {
        let samples: Vec<_> = curves.iter_mut().map(Curve::next).collect();
        // A timer is never quite on time.
        let now = 1_800_000_000_000 + second * 1000 + second % 7;
        let Some(frame) = encoder.encode(now, &samples) else { continue };
        let encoded = frame.encode_to_vec();
        let back = pb::Frame::decode(&encoded[..]).expect("what was encoded");
        let taken = decoder.take(&back);
        assert_eq!(taken.gap, None, "second {second}");
        assert_eq!(decoder.time(), Some(now), "second {second}: {taken:?}");
        for (seen, sample) in decoder.places().iter().zip(&samples) {
            assert_eq!(seen.sample().processes.len(), sample.processes.len());
        }
        bytes += encoded.len();
        if frame.keyframe.is_some() {
            keyframe = encoded.len();
        } else {
            longest = longest.max(encoded.len());
        }
    }
    Cost { per_sample: bytes as f64 / HOUR as f64 / f64::from(devices), keyframe, longest }
}

#[test]
fn a_sample_takes_forty_bytes_at_most_with_all_that_is_around_it() {
    for (chip, devices) in [(Chip::H100, 1), (Chip::H100, 4), (Chip::H100, 8), (Chip::T4, 1)] {
        let Cost { per_sample, keyframe, longest } = hour(chip, devices);
        println!(
            "{chip:?} x {devices}: {per_sample:.1} bytes a sample; keyframe {keyframe}, longest other frame {longest} bytes"
        );
        assert!(per_sample <= BYTES_MAX, "{chip:?} x {devices}: {per_sample:.1} bytes a sample");
    }
}

#[test]
fn a_device_that_does_nothing_takes_next_to_nothing() {
    let mut encoder = Encoder::new(1, "boot");
    encoder
        .set_devices(vec![pb::Device { uuid: "GPU-1".to_owned(), ..pb::Device::default() }])
        .expect("they can be told");
    let idle = [Curve::new(Chip::T4, 1).next()];
    let frames: Vec<pb::Frame> = (0..540).filter_map(|second| encoder.encode(second * 1000, &idle)).collect();
    let (first, rest) = frames.split_first().expect("a keyframe");
    assert!(first.keyframe.is_some());
    assert_eq!(rest.len(), 53, "one every ten seconds");
    assert!(rest.iter().all(|frame| frame.encoded_len() <= 12), "{rest:?}");
}
