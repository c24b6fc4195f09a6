//! Laws of schedules. Time zones are those of this machine.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use proptest::prelude::*;

use super::*;

fn schedule(text: &str) -> Schedule {
    Schedule::parse(text).unwrap_or_else(|error| panic!("{text}: {error}"))
}

fn refused(text: &str) -> String {
    Schedule::parse(text).expect_err(text).to_string()
}

/// The data of Europe/Berlin from 2020 on, as a TZif file with nothing but the rule in its footer.
fn berlin() -> Zone {
    let mut bytes = Vec::new();
    for version in [1, 2] {
        bytes.extend(b"TZif2");
        bytes.extend([0; 15]);
        // No leap seconds and transitions, one type of time with one name.
        for count in [0u32, 0, 0, 0, 1, 4] {
            bytes.extend(count.to_be_bytes());
        }
        bytes.extend(3600i32.to_be_bytes());
        bytes.extend([0, 0]);
        bytes.extend(b"CET\0");
        if version == 2 {
            bytes.extend(b"\nCET-1CEST,M3.5.0,M10.5.0/3\n");
        }
    }
    Zone::from_tzif(&ZoneName::parse("Europe/Berlin").unwrap(), &bytes).unwrap()
}

fn at(text: &str) -> SystemTime {
    SystemTime::try_from(text.parse::<jiff::Timestamp>().unwrap()).unwrap()
}

fn shown(time: SystemTime) -> String {
    jiff::Timestamp::try_from(time).unwrap().to_string()
}

/// The next `count` times after `after`.
fn times(text: &str, after: &str, count: usize, zone: &Zone) -> Vec<String> {
    let schedule = schedule(text);
    let mut now = at(after);
    let next = std::iter::from_fn(|| {
        now = schedule.next(now, zone)?;
        Some(shown(now))
    });
    next.take(count).collect()
}

#[test]
fn each_form_comes_when_it_says() {
    let utc = |text: &str, count| times(text, "2026-01-30T23:59:30Z", count, &Zone::utc());
    assert_eq!(
        utc("*/30 0 * * *", 3),
        ["2026-01-31T00:00:00Z", "2026-01-31T00:30:00Z", "2026-02-01T00:00:00Z"]
    );
    assert_eq!(utc("@hourly", 2), ["2026-01-31T00:00:00Z", "2026-01-31T01:00:00Z"]);
    assert_eq!(utc("0 0 31 * *", 2), ["2026-01-31T00:00:00Z", "2026-03-31T00:00:00Z"]);
    assert_eq!(utc("15 6-8/2,20 * feb,DEC *", 3)[2], "2026-02-01T20:15:00Z");
    assert_eq!(utc("0 12 * * FRI-SUN", 3)[1..], ["2026-02-01T12:00:00Z", "2026-02-06T12:00:00Z"]);
    assert_eq!(utc("0 12 * * 7", 1), utc("0 12 * * 0", 1));
    assert_eq!(
        utc("5/20 9 1 1 *", 3),
        ["2027-01-01T09:05:00Z", "2027-01-01T09:25:00Z", "2027-01-01T09:45:00Z"]
    );
    // Both day fields: either. One that begins with a star restricts the other.
    assert_eq!(
        utc("0 0 2 * MON", 3),
        ["2026-02-02T00:00:00Z", "2026-02-09T00:00:00Z", "2026-02-16T00:00:00Z"]
    );
    assert_eq!(utc("0 0 2 */2 *", 1), ["2026-03-02T00:00:00Z"]);
    assert_eq!(utc("0 0 29 2 *", 2), ["2028-02-29T00:00:00Z", "2032-02-29T00:00:00Z"]);
    assert_eq!(utc("@Yearly", 1), ["2027-01-01T00:00:00Z"]);
}

#[test]
fn what_is_no_schedule_is_refused_with_the_field_and_what_would_be_one() {
    for (text, said) in [
        ("", "use five fields"),
        ("* * * *", "found 4"),
        ("0 * * * * *", "there are no seconds"),
        ("60 * * * *", "minute: use 0 to 59, not `60`"),
        ("* 24 * * *", "hour: use 0 to 23"),
        ("* * 0 * *", "day of the month: use 1 to 31"),
        ("* * * 13 *", "month: use 1 to 12 or JAN to DEC"),
        ("* * * * 8", "day of the week: use 0 to 7 or SUN to SAT"),
        ("* * * * MONDAY", "`MONDAY`"),
        ("5-1 * * * *", "ends before it begins"),
        ("*/0 * * * *", "a step is 1 to 60, not `0`"),
        ("*/x * * * *", "a step"),
        ("1,,2 * * * *", "not ``"),
        ("+1 * * * *", "not `+1`"),
        ("-1 * * * *", "not ``"),
        ("* * L * *", "not `L`"),
        ("99999999999 * * * *", "minute"),
        ("0 0 30 2 *", "it never comes"),
        ("0 0 31 4,6 *", "it never comes"),
        ("@reboot", "no schedule is called @reboot"),
        ("@every 5m", "no schedule is called"),
    ] {
        assert!(refused(text).contains(said), "{text}: {}", refused(text));
    }
    assert!(refused(&"1,".repeat(600)).contains("longer"));
}

#[test]
fn what_the_clock_leaps_over_comes_once_when_it_has_leapt() {
    // On 2026-03-29 the clock goes from 02:00 to 03:00, at 01:00 UTC.
    let berlin = berlin();
    let after = "2026-03-28T12:00:00Z";
    assert_eq!(times("30 2 * * *", after, 2, &berlin), ["2026-03-29T01:00:00Z", "2026-03-30T00:30:00Z"]);
    assert_eq!(times("*/20 2 * * *", after, 2, &berlin), ["2026-03-29T01:00:00Z", "2026-03-30T00:00:00Z"]);
    assert_eq!(
        times("0,30 2,3 * * *", after, 3, &berlin),
        ["2026-03-29T01:00:00Z", "2026-03-29T01:30:00Z", "2026-03-30T00:00:00Z"]
    );
}

#[test]
fn what_the_clock_shows_twice_comes_the_first_time() {
    // On 2026-10-25 the clock goes from 03:00 to 02:00, at 01:00 UTC.
    let berlin = berlin();
    let after = "2026-10-24T12:00:00Z";
    assert_eq!(times("30 2 * * *", after, 2, &berlin), ["2026-10-25T00:30:00Z", "2026-10-26T01:30:00Z"]);
    // Also when it is asked in between.
    assert_eq!(times("30 2 * * *", "2026-10-25T01:10:00Z", 1, &berlin), ["2026-10-26T01:30:00Z"]);
}

#[test]
fn a_schedule_of_every_hour_goes_by_elapsed_time() {
    let berlin = berlin();
    for day in ["2026-03-29", "2026-10-25"] {
        let all = times("*/15 * * * *", &format!("{day}T00:00:00Z"), 12, &berlin);
        let expected: Vec<String> = (1..=12)
            .map(|n| shown(at(&format!("{day}T00:00:00Z")) + Duration::from_secs(15 * 60 * n)))
            .collect();
        assert_eq!(all, expected);
    }
    let rare = times("7 * 25 12 *", "2026-03-29T00:00:00Z", 2, &berlin);
    assert_eq!(rare, ["2026-12-24T23:07:00Z", "2026-12-25T00:07:00Z"]);
}

#[test]
fn names_of_zones_stay_in_their_directory() {
    for good in ["UTC", "Europe/Berlin", "America/Argentina/Buenos_Aires", "Etc/GMT+3", "EST5EDT"] {
        assert_eq!(ZoneName::parse(good).unwrap().as_str(), good);
    }
    for bad in ["", "/etc/passwd", "../x", "a/../b", "a//b", "a/", "Europe/Ber lin", &"a".repeat(65)] {
        assert!(ZoneName::parse(bad).is_err(), "{bad}");
    }
    assert!(Zone::from_tzif(&ZoneName::parse("A/B").unwrap(), b"no zone").is_err());
}

fn field(least: u32, most: u32) -> impl Strategy<Value = String> {
    let value = least..=most;
    let item = prop_oneof![
        3 => Just("*".to_owned()),
        1 => (1..=most).prop_map(|step| format!("*/{step}")),
        3 => value.clone().prop_map(|value| value.to_string()),
        1 => (value.clone(), value.clone()).prop_map(|(a, b)| format!("{}-{}", a.min(b), a.max(b))),
        1 => (value.clone(), 1..=most).prop_map(|(a, step)| format!("{a}/{step}")),
    ];
    prop::collection::vec(item, 1..3).prop_map(|items| items.join(","))
}

fn fields() -> impl Strategy<Value = String> {
    (field(0, 59), field(0, 23), field(1, 28), field(1, 12), field(0, 6))
        .prop_map(|(a, b, c, d, e)| [a, b, c, d, e].join(" "))
}

fn instant() -> impl Strategy<Value = SystemTime> {
    // 2024 to 2028, more often about the clock's leaps.
    let leap = prop_oneof![Just("2026-03-29T01:00:00Z"), Just("2026-10-25T01:00:00Z")];
    prop_oneof![
        (1_704_067_200u64..1_830_297_600).prop_map(|seconds| UNIX_EPOCH + Duration::from_secs(seconds)),
        (leap, 0u64..20_000)
            .prop_map(|(leap, off)| at(leap) - Duration::from_secs(10_000) + Duration::from_secs(off)),
    ]
}

proptest! {
    #[test]
    fn no_text_panics(text in ".{0,40}", junk in "[@*/,0-9A-Z -]{0,40}") {
        let _ = (Schedule::parse(&text), Schedule::parse(&junk), ZoneName::parse(&text));
    }

    #[test]
    fn the_next_time_is_later_and_none_lies_between(text in fields(), after in instant(), part in 0.0..1.0f64) {
        let (schedule, zone) = (schedule(&text), berlin());
        if let Some(next) = schedule.next(after, &zone) {
            prop_assert!(next > after);
            prop_assert_eq!(next.duration_since(UNIX_EPOCH).unwrap().as_secs() % 60, 0);
            let between = after + next.duration_since(after).unwrap().mul_f64(part);
            if between < next {
                prop_assert_eq!(schedule.next(between, &zone), Some(next), "asked later, it is the same");
            }
        }
    }

    #[test]
    fn in_utc_it_comes_exactly_at_the_minutes_that_match(text in fields(), after in instant()) {
        let schedule = schedule(&text);
        let start = after.duration_since(UNIX_EPOCH).unwrap().as_secs() / 60 + 1;
        let utc = Zone::utc();
        // A quarter of a day, minute by minute, against the fields by themselves.
        let mut now = after;
        for minute in start..start + 360 {
            let time = UNIX_EPOCH + Duration::from_secs(60 * minute);
            let local = utc.local(jiff::Timestamp::try_from(time).unwrap());
            let bit = |bits: u64, value: i8| bits >> value & 1 == 1;
            let (day, weekday) = (bit(schedule.days, local.day()), bit(schedule.weekdays, local.weekday().to_sunday_zero_offset()));
            let on = if schedule.either_day { day || weekday } else { day && weekday };
            let matches = on
                && bit(schedule.minutes, local.minute())
                && bit(schedule.hours, local.hour())
                && bit(schedule.months, local.month());
            if matches {
                prop_assert_eq!(schedule.next(now, &utc), Some(time));
                now = time;
            }
        }
    }

    #[test]
    fn the_last_time_is_that_after_which_the_next_is_too_late(text in fields(), after in instant(), seconds in 0u64..8_000_000) {
        let (schedule, zone) = (schedule(&text), berlin());
        let until = after + Duration::from_secs(seconds);
        match schedule.last(after, until, &zone) {
            Some(last) => {
                prop_assert!(last > after && last <= until);
                prop_assert!(schedule.next(last, &zone).is_none_or(|next| next > until));
            }
            None => prop_assert!(schedule.next(after, &zone).is_none_or(|next| next > until)),
        }
    }
}
