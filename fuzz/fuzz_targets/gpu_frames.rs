//! What it does with its input: `skerry_fuzz_targets::gpu_frames`.
#![no_main]

libfuzzer_sys::fuzz_target!(|input: &[u8]| skerry_fuzz_targets::gpu_frames(input));
