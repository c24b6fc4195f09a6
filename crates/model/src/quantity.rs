//! Quantities as people write them: `512Mi`, `500m`, `30s`. One parser each, used by manifests and by the command line.

use std::time::Duration;

/// Why a text is not the quantity that it should be.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum InvalidQuantity {
    /// Not bytes.
    #[error("`{0}` is not a number of bytes: write for example 512Mi, 1.5Gi, 100M or 1048576")]
    Bytes(String),
    /// Not processors.
    #[error("`{0}` is not a number of processors: write for example 500m, 2 or 1.5")]
    Cpu(String),
    /// Not a duration.
    #[error("`{0}` is not a duration: write for example 30s, 1m30s, 500ms or 2h")]
    Duration(String),
}

/// Parses a decimal number times a power of ten, exactly: `1.5` with 3 digits is 1500. Rejects more digits than fit.
fn decimal(text: &str, multiplier: u128) -> Option<u128> {
    let (whole, fraction) = text.split_once('.').unwrap_or((text, ""));
    let digits = |s: &str| s.bytes().all(|b| b.is_ascii_digit());
    if whole.is_empty() || !digits(whole) || !digits(fraction) || text.ends_with('.') || fraction.len() > 12 {
        return None;
    }
    let scale = 10_u128.pow(u32::try_from(fraction.len()).ok()?);
    let number: u128 = whole.parse().ok()?;
    let part: u128 = if fraction.is_empty() { 0 } else { fraction.parse().ok()? };
    let scaled = number.checked_mul(scale)?.checked_add(part)?.checked_mul(multiplier)?;
    (scaled % scale == 0).then_some(scaled / scale)
}

/// Parses bytes, as Kubernetes does: a plain number, or one with `k M G T P` (powers of 1000) or `Ki Mi Gi Ti Pi` (powers of 1024).
pub fn parse_bytes(text: &str) -> Result<i64, InvalidQuantity> {
    let error = || InvalidQuantity::Bytes(text.chars().take(40).collect());
    let split = text.find(|c: char| c.is_ascii_alphabetic()).unwrap_or(text.len());
    let (number, unit) = text.split_at(split);
    let multiplier: u128 = match unit {
        "" | "B" => 1,
        "k" | "K" | "kB" | "KB" => 1_000,
        "M" | "MB" => 1_000_000,
        "G" | "GB" => 1_000_000_000,
        "T" | "TB" => 1_000_000_000_000,
        "P" | "PB" => 1_000_000_000_000_000,
        "Ki" | "KiB" => 1 << 10,
        "Mi" | "MiB" => 1 << 20,
        "Gi" | "GiB" => 1 << 30,
        "Ti" | "TiB" => 1 << 40,
        "Pi" | "PiB" => 1 << 50,
        _ => return Err(error()),
    };
    decimal(number, multiplier).and_then(|bytes| i64::try_from(bytes).ok()).ok_or_else(error)
}

/// Parses processors into thousandths: `500m`, `2`, `1.5`.
pub fn parse_cpu_millis(text: &str) -> Result<i64, InvalidQuantity> {
    let millis = match text.strip_suffix('m') {
        Some(number) => decimal(number, 1),
        None => decimal(text, 1000),
    };
    millis
        .and_then(|millis| i64::try_from(millis).ok())
        .ok_or_else(|| InvalidQuantity::Cpu(text.chars().take(40).collect()))
}

/// Units of durations with their nanoseconds, in falling order.
const UNITS: [(&str, u128); 7] = [
    ("d", 86_400_000_000_000),
    ("h", 3_600_000_000_000),
    ("m", 60_000_000_000),
    ("s", 1_000_000_000),
    ("ms", 1_000_000),
    ("us", 1_000),
    ("ns", 1),
];

/// Parses a duration: `30s`, `1m30s`, `1.5h`, `500ms`, `10us`, `7ns`; units in falling order, each once.
pub fn parse_duration(text: &str) -> Result<Duration, InvalidQuantity> {
    let error = || InvalidQuantity::Duration(text.chars().take(40).collect());
    let mut rest = text;
    let mut nanos: u128 = 0;
    let mut next_unit = 0;
    if rest == "0" {
        return Ok(Duration::ZERO);
    }
    if rest.is_empty() {
        return Err(error());
    }
    while !rest.is_empty() {
        let number_end = rest.find(|c: char| c.is_ascii_alphabetic()).ok_or_else(error)?;
        let (number, tail) = rest.split_at(number_end);
        let unit_end = tail.find(|c: char| !c.is_ascii_alphabetic()).unwrap_or(tail.len());
        let (unit, tail) = tail.split_at(unit_end);
        let at = UNITS
            .iter()
            .position(|(name, _)| *name == unit)
            .filter(|at| *at >= next_unit)
            .ok_or_else(error)?;
        nanos = decimal(number, UNITS[at].1).and_then(|part| nanos.checked_add(part)).ok_or_else(error)?;
        next_unit = at + 1;
        rest = tail;
    }
    let seconds = u64::try_from(nanos / 1_000_000_000).map_err(|_| error())?;
    // google.protobuf.Duration ends at 10,000 years.
    if seconds > 315_576_000_000 {
        return Err(error());
    }
    let nanos = u32::try_from(nanos % 1_000_000_000).expect("a remainder below 10^9 fits u32");
    Ok(Duration::new(seconds, nanos))
}

/// Writes a duration as [`parse_duration`] reads it: `1h`, `1m30s`, `500ms`, `0s`.
pub fn format_duration(duration: Duration) -> String {
    let mut rest = duration.as_nanos();
    let mut text = String::new();
    for (unit, nanos) in UNITS {
        if rest >= nanos {
            text.push_str(&(rest / nanos).to_string());
            text.push_str(unit);
            rest %= nanos;
        }
    }
    if text.is_empty() { "0s".to_owned() } else { text }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn bytes_are_read_as_kubernetes_reads_them() {
        for (text, bytes) in
            [("0", 0), ("512Mi", 512 << 20), ("1.5Gi", 3 << 29), ("100M", 100_000_000), ("7", 7)]
        {
            assert_eq!(parse_bytes(text), Ok(bytes), "{text}");
        }
        for bad in ["", "Mi", "-1", "1.", ".5", "1e3", "1 Mi", "9999999Pi", "1.0000000000001", "1Zi"] {
            assert!(parse_bytes(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn processors_are_read_in_thousandths() {
        for (text, millis) in [("500m", 500), ("2", 2000), ("1.5", 1500), ("0.001", 1)] {
            assert_eq!(parse_cpu_millis(text), Ok(millis), "{text}");
        }
        for bad in ["", "m", "0.0001", "1.5mm", "-1", "0.5m"] {
            assert!(parse_cpu_millis(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn durations_are_written_with_the_largest_units() {
        let shown = |millis| format_duration(Duration::from_millis(millis));
        assert_eq!([shown(0), shown(100), shown(90_000), shown(3_600_000)], ["0s", "100ms", "1m30s", "1h"]);
    }

    #[test]
    fn durations_are_read_as_people_write_them() {
        for (text, millis) in [
            ("30s", 30_000),
            ("1m30s", 90_000),
            ("500ms", 500),
            ("1.5h", 5_400_000),
            ("0", 0),
            ("1d", 86_400_000),
        ] {
            assert_eq!(parse_duration(text), Ok(Duration::from_millis(millis)), "{text}");
        }
        for bad in ["", "30", "s", "1s1m", "1s1s", "-1s", "1x", "99999999999999d"] {
            assert!(parse_duration(bad).is_err(), "{bad}");
        }
    }

    proptest! {
        #[test]
        fn no_text_panics(text in ".{0,30}") {
            let _ = (parse_bytes(&text), parse_cpu_millis(&text), parse_duration(&text));
        }

        #[test]
        fn what_is_written_is_read_back(seconds in 0..1_000_000_u64, nanos in 0..1_000_000_000_u32) {
            let duration = Duration::new(seconds, nanos);
            prop_assert_eq!(parse_duration(&format_duration(duration)), Ok(duration));
        }

        #[test]
        fn plain_numbers_are_themselves(n in 0..i64::MAX) {
            prop_assert_eq!(parse_bytes(&n.to_string()), Ok(n));
        }
    }
}
