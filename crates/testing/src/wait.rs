//! Waiting for something to become true, and free ports.

use std::{
    fmt::Display,
    net::{Ipv4Addr, TcpListener},
    time::{Duration, Instant},
};

/// Time between two looks: short beside what is waited for, long beside one look.
const POLL_PERIOD: Duration = Duration::from_millis(20);

/// Asks again and again until `probe` answers `Ok`, and returns its value.
///
/// A probe that hangs is cut off at the deadline too. Works on paused time.
///
/// # Panics
/// After `deadline`, with `what`, how often it was tried, and the last error.
#[track_caller]
pub fn eventually<T, E, F, Fut>(what: &str, deadline: Duration, mut probe: F) -> impl Future<Output = T>
where
    E: Display,
    F: FnMut() -> Fut,
    Fut: Future<Output = Result<T, E>>,
{
    let caller = std::panic::Location::caller();
    async move {
        let start = Instant::now();
        let mut tries = 0_u32;
        let mut last = String::from("the first try has not ended");
        let tried = tokio::time::timeout(deadline, async {
            loop {
                tries += 1;
                match probe().await {
                    Ok(value) => return value,
                    Err(error) => last = format!("{error:#}"),
                }
                tokio::time::sleep(POLL_PERIOD).await;
            }
        });
        tried.await.unwrap_or_else(|_elapsed| {
            let after = start.elapsed();
            panic!("{caller}: {what}: not within {deadline:?} ({tries} tries in {after:?}); last: {last}")
        })
    }
}

/// A TCP port of 127.0.0.1 that was free a moment ago. Where a program can bind port 0 itself, let it.
///
/// # Panics
/// When the machine has no port left.
#[must_use]
pub fn free_port() -> u16 {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).expect("binding port 0");
    listener.local_addr().expect("a bound listener has an address").port()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn returns_the_first_ok() {
        let mut left = 3;
        let value = eventually("counting down", Duration::from_secs(1), || {
            left -= 1;
            let now = left;
            async move { if now == 0 { Ok("done") } else { Err(format!("{now} left")) } }
        });
        assert_eq!(value.await, "done");
    }

    #[tokio::test(start_paused = true)]
    #[should_panic(expected = "the moon: not within 1s")]
    async fn names_what_never_came() {
        eventually("the moon", Duration::from_secs(1), || async { Err::<(), _>("still cheese") }).await;
    }

    #[tokio::test(start_paused = true)]
    #[should_panic(expected = "the first try has not ended")]
    async fn cuts_off_a_probe_that_hangs() {
        eventually("it", Duration::from_secs(1), std::future::pending::<Result<(), String>>).await;
    }

    #[test]
    fn a_free_port_can_be_bound() {
        TcpListener::bind((Ipv4Addr::LOCALHOST, free_port())).expect("the port is free");
    }
}
