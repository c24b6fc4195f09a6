//! Amounts as Compose writes them: bytes, durations, parts of a processor.

use std::time::Duration;

/// `64m`, `1.5gb`, `300000`: units of 1024, `b`, `k`, `m`, `g` and `t`, each also with `b` or `ib` after it.
///
/// # Errors
/// What is expected.
pub(crate) fn bytes(text: &str) -> Result<i64, String> {
    let wrong = || format!("`{text}` is no amount of bytes: write it as 64m or 2gb");
    let lower = text.trim().to_ascii_lowercase();
    let end = lower.find(|c: char| !(c.is_ascii_digit() || c == '.')).unwrap_or(lower.len());
    let (number, unit) = lower.split_at(end);
    let shift = match unit.trim_start() {
        "" | "b" => 0,
        "k" | "kb" | "kib" => 10,
        "m" | "mb" | "mib" => 20,
        "g" | "gb" | "gib" => 30,
        "t" | "tb" | "tib" => 40,
        _ => return Err(wrong()),
    };
    let scale = 1_i64 << shift;
    if let Ok(whole) = number.parse::<i64>() {
        return whole.checked_mul(scale).ok_or_else(wrong);
    }
    let parts: f64 = number.parse().map_err(|_| wrong())?;
    let bytes = parts * scale as f64;
    if !(0.0..=1e18).contains(&bytes) {
        return Err(wrong());
    }
    #[allow(
        clippy::cast_possible_truncation,
        reason = "whole bytes are meant, and it was held against the range"
    )]
    let bytes = bytes as i64;
    Ok(bytes)
}

/// `0.5` processors as thousandths, rounded up.
///
/// # Errors
/// What is expected.
pub(crate) fn cpu_millis(text: &str) -> Result<i64, String> {
    let wrong = || format!("`{text}` is no number of processors: write it as 0.5");
    let processors: f64 = text.trim().parse().map_err(|_| wrong())?;
    if !(0.0..=1_000_000.0).contains(&processors) {
        return Err(wrong());
    }
    #[allow(clippy::cast_possible_truncation, reason = "it was held against the range")]
    let millis = (processors * 1000.0).ceil() as i64;
    Ok(millis)
}

/// `1m30s`, `250ms`, `1h5m30s20ms`; a number alone is seconds, as for `stop_grace_period`.
///
/// # Errors
/// What is expected.
pub(crate) fn duration(text: &str) -> Result<Duration, String> {
    let wrong = || format!("`{text}` is no duration: write it as 1m30s");
    let mut rest = text.trim();
    if let Ok(seconds) = rest.parse::<u64>() {
        return if seconds > 1_000_000_000 { Err(wrong()) } else { Ok(Duration::from_secs(seconds)) };
    }
    if rest.is_empty() {
        return Err(wrong());
    }
    let mut total = 0.0;
    while !rest.is_empty() {
        let end = rest.find(|c: char| !(c.is_ascii_digit() || c == '.')).unwrap_or(rest.len());
        let number: f64 = rest[..end].parse().map_err(|_| wrong())?;
        let after = &rest[end..];
        let unit_end = after.find(|c: char| c.is_ascii_digit() || c == '.').unwrap_or(after.len());
        total += number
            * match &after[..unit_end] {
                "us" | "µs" => 1e-6,
                "ms" => 1e-3,
                "s" => 1.0,
                "m" => 60.0,
                "h" => 3600.0,
                "d" => 86_400.0,
                "w" => 604_800.0,
                _ => return Err(wrong()),
            };
        rest = &after[unit_end..];
    }
    if total > 1e9 {
        return Err(wrong());
    }
    Duration::try_from_secs_f64(total).map_err(|_| wrong())
}

/// As it travels.
pub(crate) fn wire(duration: Duration) -> prost_types::Duration {
    skerry_model::time::to_proto_duration(duration)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn units_are_of_1024() {
        for (text, expected) in [
            ("0", 0),
            ("300", 300),
            ("64m", 64 << 20),
            ("2gb", 2 << 30),
            ("1.5k", 1536),
            ("10KB", 10 << 10),
            ("1 GiB", 1 << 30),
        ] {
            assert_eq!(bytes(text), Ok(expected), "{text}");
        }
        for text in ["", "m", "-1", "1x", "1.2.3", "99999999999g", "9e9"] {
            assert!(bytes(text).is_err(), "{text}");
        }
    }

    #[test]
    fn durations_are_sums() {
        for (text, ms) in [
            ("5s", 5_000),
            ("1m30s", 90_000),
            ("250ms", 250),
            ("1h5m30s20ms", 3_930_020),
            ("1.5s", 1_500),
            ("0", 0),
            ("10", 10_000),
        ] {
            assert_eq!(duration(text), Ok(Duration::from_millis(ms)), "{text}");
        }
        for text in ["", "s", "5x", "5s3", "-5s", "99999999999h"] {
            assert!(duration(text).is_err(), "{text}");
        }
    }

    #[test]
    fn processors_are_thousandths_rounded_up() {
        assert_eq!(cpu_millis("0.5"), Ok(500));
        assert_eq!(cpu_millis("2"), Ok(2000));
        assert_eq!(cpu_millis("0.0001"), Ok(1));
        assert!(cpu_millis("-1").is_err() && cpu_millis("x").is_err() && cpu_millis("nan").is_err());
    }
}
