//! `healthcheck`: what is tried, and how often.

use std::time::Duration;

use skerry_proto::types::v1::{self as pb, health_check::Probe};

use crate::context::{Context, Field};
use crate::{keys, units};

/// What Compose takes where a file says nothing.
const INTERVAL: Duration = Duration::from_secs(30);
const TIMEOUT: Duration = Duration::from_secs(30);
const RETRIES: u32 = 3;
/// The shortest that Skerry has.
const SHORTEST: Duration = Duration::from_secs(1);

/// What a service says of its health.
#[derive(Debug, Clone)]
pub(crate) enum Health {
    /// Nothing: the image decides.
    Unsaid,
    /// That nothing is tried.
    Off,
    /// What is tried.
    Check(Box<pb::HealthCheck>),
}

pub(crate) fn read(cx: &mut Context<'_>, service: &Field) -> Health {
    let Some(field) = service.get("healthcheck") else { return Health::Unsaid };
    keys::HEALTHCHECK.check(cx, &field);
    if field.get("disable").is_some_and(|disable| disable.boolean(cx) == Some(true)) {
        return Health::Off;
    }
    let probe = match field.get("test") {
        None => Probe::Image(pb::health_check::Image {}),
        Some(test) => match probe(cx, &test) {
            Some(Some(probe)) => probe,
            Some(None) => return Health::Off,
            None => return Health::Unsaid,
        },
    };
    let mut time = |key: &str, usual: Duration| {
        let Some(field) = field.get(key) else { return Some(usual) };
        let time = field.parsed(cx, units::duration)?;
        if time.is_zero() {
            return Some(usual);
        }
        if time < SHORTEST {
            cx.warn(&field, "it is 1 s: Skerry has nothing shorter");
        }
        Some(time.max(SHORTEST))
    };
    let (interval, timeout) = (time("interval", INTERVAL), time("timeout", TIMEOUT));
    let start_period = field.get("start_period").and_then(|field| field.parsed(cx, units::duration));
    let retries =
        field.get("retries").and_then(|field| field.integer(cx)).map_or(RETRIES, |number| match number {
            0 => RETRIES,
            // The model says what is wrong with it.
            number => u32::try_from(number).unwrap_or(u32::MAX),
        });
    Health::Check(Box::new(pb::HealthCheck {
        probe: Some(probe),
        interval: interval.map(units::wire),
        timeout: timeout.map(units::wire),
        start_period: start_period.map(units::wire),
        retries: Some(retries),
    }))
}

/// What a dependency on its health waits for, where a service says nothing itself: the image's own check.
pub(crate) fn of_image() -> pb::HealthCheck {
    pb::HealthCheck { probe: Some(Probe::Image(pb::health_check::Image {})), ..Default::default() }
}

/// The command; none inside where nothing is tried.
#[expect(clippy::option_option, reason = "not readable, nothing tried, and a probe are three things")]
fn probe(cx: &mut Context<'_>, test: &Field) -> Option<Option<Probe>> {
    let exec = |command: Vec<String>| Some(Some(Probe::Exec(pb::health_check::Exec { command })));
    let shell = |text: String| exec(vec!["/bin/sh".to_owned(), "-c".to_owned(), text]);
    if let Some(text) = test.scalar() {
        return if text == "NONE" { Some(None) } else { shell(text.to_owned()) };
    }
    let mut words: Vec<String> = test.texts(cx).into_iter().map(|(_, text)| text).collect();
    if words.is_empty() {
        cx.error(test, "write [CMD, PROGRAM, ...], [CMD-SHELL, TEXT] or [NONE]");
        return None;
    }
    let kind = words.remove(0);
    match (kind.as_str(), words.len()) {
        ("NONE", 0) => Some(None),
        ("CMD", 1..) => exec(words),
        ("CMD-SHELL", 1) => shell(words.remove(0)),
        _ => {
            cx.error(test, "write [CMD, PROGRAM, ...], [CMD-SHELL, TEXT] or [NONE]");
            None
        }
    }
}
