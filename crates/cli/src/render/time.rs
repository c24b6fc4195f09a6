//! Times and amounts as people read them.

use prost_types::Timestamp;

/// How long ago `time` was at `now` (seconds since 1970): `45s`, `5m`, `3h`, `2d`. `-` when it is not known.
pub(crate) fn age(time: Option<&Timestamp>, now: i64) -> String {
    let Some(time) = time else { return "-".into() };
    let seconds = now.saturating_sub(time.seconds).max(0);
    match seconds {
        0..120 => format!("{seconds}s"),
        120..7_200 => format!("{}m", seconds / 60),
        7_200..172_800 => format!("{}h", seconds / 3_600),
        _ => format!("{}d", seconds / 86_400),
    }
}

/// `2026-11-24T00:29:07Z`, or `-`.
pub(crate) fn moment(time: Option<&Timestamp>) -> String {
    time.and_then(|time| jiff::Timestamp::from_second(time.seconds).ok())
        .map_or("-".into(), |time| time.to_string())
}

/// Seconds since 1970.
pub(crate) fn now() -> i64 {
    jiff::Timestamp::now().as_second()
}

/// `512 B`, `1.5 KiB`, `7.7 GiB`.
pub(crate) fn bytes(count: u64) -> String {
    const UNITS: [&str; 5] = ["KiB", "MiB", "GiB", "TiB", "PiB"];
    if count < 1024 {
        return format!("{count} B");
    }
    let exponent = (count.ilog2() / 10).min(5);
    let tenths = u128::from(count) * 10 / (1_u128 << (10 * exponent));
    let unit = UNITS[usize::try_from(exponent).unwrap_or(1) - 1];
    format!("{}.{} {unit}", tenths / 10, tenths % 10)
}

/// `4`, `0.5`, `1.25` processors.
pub(crate) fn processors(millis: i64) -> String {
    let text = format!("{}.{:03}", millis / 1000, millis % 1000);
    text.trim_end_matches('0').trim_end_matches('.').to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ages_have_one_unit() {
        let at = |seconds: i64| age(Some(&Timestamp { seconds: 1_000_000 - seconds, nanos: 0 }), 1_000_000);
        let ages: Vec<_> =
            [0, 45, 119, 120, 300, 7_199, 7_200, 172_799, 172_800].into_iter().map(at).collect();
        assert_eq!(ages, ["0s", "45s", "119s", "2m", "5m", "119m", "2h", "47h", "2d"]);
        assert_eq!(at(-5), "0s");
        assert_eq!(age(None, 0), "-");
    }

    #[test]
    fn amounts_are_short() {
        assert_eq!(
            [bytes(0), bytes(1023), bytes(1024), bytes(1536), bytes(8_267_386_880)],
            ["0 B", "1023 B", "1.0 KiB", "1.5 KiB", "7.6 GiB"]
        );
        assert_eq!([processors(4000), processors(500), processors(1250)], ["4", "0.5", "1.25"]);
        assert_eq!(moment(Some(&Timestamp { seconds: 0, nanos: 5 })), "1970-01-01T00:00:00Z");
    }
}
