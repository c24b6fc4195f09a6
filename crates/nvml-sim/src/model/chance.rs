//! Numbers that look like chance and are always the same for the same seed, and what is named by them: UUIDs and serial numbers.

/// Mixes well enough for noise: the finaliser of SplitMix64 (Steele, Lea, Flood: "Fast splittable pseudorandom number generators", 2014).
pub(crate) fn mix(number: u64) -> u64 {
    let number = number.wrapping_add(0x9e37_79b9_7f4a_7c15);
    let number = (number ^ (number >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let number = (number ^ (number >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    number ^ (number >> 31)
}

/// Of a text: FNV-1a, mixed.
pub(crate) fn seed(text: &str) -> u64 {
    let fnv = text.bytes().fold(0xcbf2_9ce4_8422_2325_u64, |hash, byte| {
        (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3)
    });
    mix(fnv)
}

/// Another seed, of a seed and a number.
pub(crate) fn derive(seed: u64, number: u64) -> u64 {
    mix(seed ^ mix(number))
}

/// From 0 to below 1.
pub(crate) fn unit(seed: u64, number: u64) -> f64 {
    (derive(seed, number) >> 11) as f64 / (1_u64 << 53) as f64
}

/// From -1 to 1, without jumps: a new value every `step_ms`, and a smooth way between.
pub(crate) fn noise(seed: u64, at_ms: u64, step_ms: u64) -> f64 {
    let (slot, into) = (at_ms / step_ms, (at_ms % step_ms) as f64 / step_ms as f64);
    let (from, to) = (unit(seed, slot), unit(seed, slot + 1));
    let smooth = into * into * (3.0 - 2.0 * into);
    2.0 * (from + (to - from) * smooth) - 1.0
}

/// A UUID of version 4 in its form, of a seed.
pub(crate) fn uuid(seed: u64) -> String {
    let (high, low) = (derive(seed, 1), derive(seed, 2));
    format!(
        "{:08x}-{:04x}-4{:03x}-{:04x}-{:012x}",
        high >> 32,
        (high >> 16) & 0xffff,
        high & 0xfff,
        0x8000 | (low >> 50),
        low & 0xffff_ffff_ffff
    )
}

/// Thirteen digits.
pub(crate) fn serial(seed: u64) -> String {
    format!("1{:012}", derive(seed, 3) % 1_000_000_000_000)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn noise_stays_in_bounds_and_does_not_jump(seed: u64, at in 0..u64::MAX / 2, step in 100..100_000_u64) {
            let (now, next) = (noise(seed, at, step), noise(seed, at + 1, step));
            prop_assert!((-1.0..=1.0).contains(&now));
            prop_assert!((now - next).abs() <= 4.0 / step as f64, "{now} {next}");
        }

        #[test]
        fn uuids_have_their_form(seed: u64) {
            let uuid = uuid(seed);
            let lengths: Vec<_> = uuid.split('-').map(str::len).collect();
            prop_assert_eq!(lengths, [8, 4, 4, 4, 12], "{}", uuid);
            prop_assert_eq!(uuid.as_bytes()[14], b'4');
            prop_assert!(b"89ab".contains(&uuid.as_bytes()[19]));
            prop_assert_eq!(serial(seed).len(), 13);
        }
    }

    #[test]
    fn a_seed_names_the_same_for_ever() {
        assert_eq!(uuid(derive(seed("edge-17"), 0)), uuid(derive(seed("edge-17"), 0)));
        assert_ne!(uuid(derive(seed("edge-17"), 0)), uuid(derive(seed("edge-17"), 1)));
        assert_ne!(uuid(derive(seed("edge-17"), 0)), uuid(derive(seed("edge-18"), 0)));
    }
}
