//! What it does with its input: `skerry_fuzz_targets::archives`.
#![no_main]

libfuzzer_sys::fuzz_target!(|input: &[u8]| skerry_fuzz_targets::archives(input));
