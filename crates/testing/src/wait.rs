//! Waiting for something to become true.

use std::{
    fmt::Display,
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
}
