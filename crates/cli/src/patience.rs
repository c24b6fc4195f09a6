//! Waiting for what must become true: looks again and again, through servers that are away, until the time is over.

use std::fmt;
use std::time::Duration;

use skerry_model::quantity::format_duration;
use tokio::time::{Instant, timeout_at};

use crate::client::jittered;
use crate::error::CliError;
use crate::print::{Progress, note};

/// First time between two looks; grows to [`PERIOD_MAX`].
const PERIOD: Duration = Duration::from_millis(50);
const PERIOD_MAX: Duration = Duration::from_millis(500);
/// A look takes at least so long before it is given up, however little time is left: so that no time at all means one look.
const LOOK_MIN: Duration = Duration::from_secs(1);

/// How long one command waits, for all that it waits for together.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Patience {
    deadline: Instant,
    timeout: Duration,
}

/// How a look turned out.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Look {
    Met,
    /// With what is there instead.
    NotYet(Seen),
    /// It never will be, for this reason.
    Never(String),
}

/// What is there instead of what is waited for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Seen {
    /// For people.
    pub(crate) text: String,
    /// How many instances are ready, of how many, where that is what is waited for.
    pub(crate) ready: Option<(u32, u32)>,
}

impl<T: Into<String>> From<T> for Seen {
    fn from(text: T) -> Self {
        Self { text: text.into(), ready: None }
    }
}

/// Why a wait ended without what was waited for.
#[derive(Debug)]
pub(crate) enum Ended {
    /// The time is over; with what was seen last.
    Over(String),
    /// The server is away at the end, or it makes no sense to go on.
    Failed(CliError),
}

impl Patience {
    /// From now on.
    pub(crate) fn new(timeout: Duration) -> Self {
        Self { deadline: Instant::now() + timeout, timeout }
    }

    /// As in "after 30s".
    pub(crate) fn shown(&self) -> String {
        format_duration(self.timeout)
    }

    /// Looks until it is met. What is there instead is shown on a terminal, after `subject`. A server that is away may be restarting:
    /// it is asked again until the time is over.
    pub(crate) async fn until(
        self,
        subject: impl fmt::Display,
        mut look: impl AsyncFnMut() -> Result<Look, CliError>,
    ) -> Result<(), Ended> {
        let mut progress = Progress::stderr();
        let subject = subject.to_string();
        let mut lost = Lost::default();
        let mut period = PERIOD;
        let mut failures = 0;
        loop {
            let limit = self.deadline.max(Instant::now() + LOOK_MIN);
            let Ok(seen) = timeout_at(limit, look()).await else {
                return Err(Ended::Over("the server did not answer".to_owned()));
            };
            let (wait, ended) = match seen {
                Ok(Look::Met) => return Ok(()),
                Ok(Look::NotYet(instead)) => {
                    lost.over();
                    failures = 0;
                    progress.show(&subject, &instead);
                    let wait = period;
                    period = (period * 2).min(PERIOD_MAX);
                    (wait, Ended::Over(instead.text))
                }
                Ok(Look::Never(why)) => {
                    return Err(Ended::Failed(CliError::Failed(format!("{subject} {why}"))));
                }
                Err(error @ CliError::Unreachable { .. }) => {
                    progress.clear();
                    lost.say(&error.summary());
                    failures += 1;
                    (jittered(failures), Ended::Failed(error))
                }
                Err(error) => return Err(Ended::Failed(error)),
            };
            if Instant::now() >= self.deadline {
                return Err(ended);
            }
            tokio::time::sleep_until(self.deadline.min(Instant::now() + wait)).await;
        }
    }
}

/// Says once that the server is away, and once that it is back.
#[derive(Debug, Default)]
pub(crate) struct Lost {
    said: bool,
}

impl Lost {
    pub(crate) fn say(&mut self, why: &str) {
        if !std::mem::replace(&mut self.said, true) {
            note(&format!("{why}; trying again"));
        }
    }

    pub(crate) fn over(&mut self) {
        if std::mem::take(&mut self.said) {
            note("the server answers again");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::error::Away;

    fn away() -> CliError {
        CliError::Unreachable {
            address: "http://x".into(),
            how: Away::Unavailable,
            detail: "no store".into(),
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_server_that_is_away_is_asked_until_it_is_back() {
        let mut looks = 0;
        let met = Patience::new(Duration::from_secs(600)).until("app/a", async || {
            looks += 1;
            match looks {
                1 => Ok(Look::NotYet("1/2".into())),
                2..50 => Err(away()),
                _ => Ok(Look::Met),
            }
        });
        assert!(met.await.is_ok());
        assert_eq!(looks, 50);
    }

    #[tokio::test(start_paused = true)]
    async fn when_the_time_is_over_the_last_thing_seen_is_told() {
        let begun = Instant::now();
        let patience = Patience::new(Duration::from_secs(30));
        let over = patience.until("app/a", async || Ok(Look::NotYet("1/2".into()))).await;
        assert!(matches!(over, Err(Ended::Over(instead)) if instead == "1/2"));
        assert_eq!(begun.elapsed(), Duration::from_secs(30), "virtual time: a last look at the very end");
        let failed = Patience::new(Duration::from_secs(30)).until("app/a", async || Err(away())).await;
        assert!(matches!(failed, Err(Ended::Failed(CliError::Unreachable { .. }))));
        let silent =
            Patience::new(Duration::ZERO).until("app/a", async || std::future::pending().await).await;
        assert!(matches!(silent, Err(Ended::Over(_))));
    }

    #[tokio::test(start_paused = true)]
    async fn a_refusal_ends_it_at_once() {
        let mut looks = 0;
        let refused = Patience::new(Duration::from_secs(30)).until("app/a", async || {
            looks += 1;
            Err(CliError::Failed("no".into()))
        });
        assert!(matches!(refused.await, Err(Ended::Failed(CliError::Failed(_)))));
        assert_eq!(looks, 1);
    }
}
