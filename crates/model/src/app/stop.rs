//! From the wire to `StopPolicy`: how a program is asked to end.

use std::time::Duration;

use skerry_proto::types::v1 as pb;

use crate::Violations;

use super::StopPolicy;
use super::parse::{absent_if_empty, duration};

/// Signals that a program may be asked by.
const SIGNALS: [&str; 10] = [
    "SIGTERM", "SIGINT", "SIGQUIT", "SIGHUP", "SIGUSR1", "SIGUSR2", "SIGKILL", "SIGABRT", "SIGALRM",
    "SIGWINCH",
];

pub(super) fn parse(
    at: &str,
    stop: Option<&pb::StopPolicy>,
    is_process: bool,
    v: &mut Violations,
) -> StopPolicy {
    let stop = stop.cloned().unwrap_or_default();
    let signal = absent_if_empty(&stop.signal);
    let known = |signal: &String| SIGNALS.contains(&signal.as_str()) || (!is_process && is_real_time(signal));
    if signal.as_ref().is_some_and(|signal| !known(signal)) {
        let real_time = if is_process { "" } else { ", or a real-time signal, as SIGRTMIN+3" };
        v.add(format!("{at}.signal"), format!("use one of {}{real_time}", SIGNALS.join(", ")));
    }
    let range = (Duration::ZERO, Duration::from_secs(3600));
    let grace_period = duration(
        &format!("{at}.grace_period"),
        stop.grace_period.as_ref(),
        Duration::from_secs(10),
        range,
        v,
    );
    StopPolicy { signal, grace_period }
}

/// `SIGRTMIN`, `SIGRTMIN+1` to `SIGRTMIN+15`, `SIGRTMAX-14` to `SIGRTMAX-1` and `SIGRTMAX`: the names that Docker has for them.
fn is_real_time(signal: &str) -> bool {
    let number = |text: &str, most: u8| {
        text.parse::<u8>().is_ok_and(|number| (1..=most).contains(&number) && text == number.to_string())
    };
    match (signal.strip_prefix("SIGRTMIN"), signal.strip_prefix("SIGRTMAX")) {
        (Some(rest), _) => rest.is_empty() || rest.strip_prefix('+').is_some_and(|rest| number(rest, 15)),
        (_, Some(rest)) => rest.is_empty() || rest.strip_prefix('-').is_some_and(|rest| number(rest, 14)),
        (None, None) => false,
    }
}
