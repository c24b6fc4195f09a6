//! Docker's event stream, as one bell: something of ours may have changed.
//!
//! The stream outlives each wait, so that nothing is missed between two of them, and is dialled again with backoff when Docker
//! restarts. Its end rings, since Docker may be away now; and a new stream rings, since what happened meanwhile is unknown.

use std::collections::{BTreeSet, HashMap, VecDeque};
use std::hash::{BuildHasher as _, Hasher as _, RandomState};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use bollard::errors::Error;
use bollard::models::EventMessage;
use bollard::query_parameters::EventsOptionsBuilder;
use futures_util::stream::BoxStream;
use futures_util::{FutureExt as _, StreamExt as _};
use tokio::time::Instant;
use tracing::debug;

use super::client::{Client, LOOK_DEADLINE};
use super::error::Failure;
use super::observe::Observer;

/// What can happen to a container by itself, or by other hands. Not the events of health checks run by `exec`.
const ACTIONS: [&str; 6] = ["die", "oom", "destroy", "health_status", "pause", "rename"];
/// First and longest wait before Docker is asked for events again, before jitter.
const BACKOFF_FIRST: Duration = Duration::from_millis(500);
const BACKOFF_MAX: Duration = Duration::from_secs(30);
/// Docker tells that a container ended before its own list shows it: so after an event it is looked at again, and once more.
const SETTLES: [Duration; 2] = [Duration::from_millis(200), Duration::from_secs(2)];
/// Events that are taken together at most.
const BURST_MAX: usize = 256;

/// The stream, across waits.
#[derive(Default)]
pub(super) struct Events {
    state: tokio::sync::Mutex<State>,
}

#[derive(Default)]
struct State {
    stream: Option<BoxStream<'static, Result<EventMessage, Error>>>,
    /// Failures in a row.
    failures: u32,
    retry_at: Option<Instant>,
    /// When the bell rings again for what happened, and to whom that was.
    settling: VecDeque<Instant>,
    stirred: BTreeSet<String>,
}

impl Events {
    /// Returns when something may have changed.
    pub(super) async fn next(&self, client: &Client, filter: &str, observer: &Observer) {
        let mut state = self.state.lock().await;
        let state = &mut *state;
        loop {
            let Some(stream) = &mut state.stream else {
                if state.dial(client, filter).await {
                    return;
                }
                continue;
            };
            let again = state.settling.front().copied();
            let came = tokio::select! {
                came = stream.next() => came,
                () = tokio::time::sleep_until(again.unwrap_or_else(Instant::now)), if again.is_some() => {
                    state.settling.pop_front();
                    state.stirred.iter().for_each(|id| observer.forget(id));
                    if state.settling.is_empty() {
                        state.stirred.clear();
                    }
                    return;
                }
            };
            match came {
                Some(Ok(event)) => {
                    // The rest of a burst rings once with it.
                    let rest = (0..BURST_MAX).map_while(|_| stream.next().now_or_never()??.ok());
                    for id in std::iter::once(event).chain(rest).filter_map(|event| event.actor?.id) {
                        observer.forget(&id);
                        state.stirred.insert(id);
                    }
                    let now = Instant::now();
                    state.settling = SETTLES.iter().map(|after| now + *after).collect();
                    state.failures = 0;
                    return;
                }
                // Most likely Docker ended: whether it still answers is seen by looking.
                ended => {
                    let why = ended.and_then(Result::err).map(|error| error.to_string());
                    state.failed(why.as_deref().unwrap_or("stream ended"));
                    return;
                }
            }
        }
    }
}

impl State {
    /// Waits out the backoff and dials. May be dropped anywhere: the time to retry is kept.
    async fn dial(&mut self, client: &Client, filter: &str) -> bool {
        if let Some(at) = self.retry_at {
            tokio::time::sleep_until(at).await;
        }
        // Events from here on, although the stream opens later.
        let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        match ping(client).await {
            Ok(docker) => {
                let filters: HashMap<String, Vec<String>> = HashMap::from([
                    ("type".to_owned(), vec!["container".to_owned()]),
                    ("label".to_owned(), vec![filter.to_owned()]),
                    ("event".to_owned(), ACTIONS.map(str::to_owned).to_vec()),
                ]);
                let since = format!("{}.{:09}", since.as_secs(), since.subsec_nanos());
                let options = EventsOptionsBuilder::new().since(&since).filters(&filters).build();
                self.stream = Some(docker.events(Some(options)).boxed());
                true
            }
            Err(failure) => {
                self.failed(&failure.message);
                false
            }
        }
    }

    fn failed(&mut self, why: &str) {
        debug!(why, failures = self.failures, "no events from Docker");
        self.stream = None;
        self.retry_at = Some(Instant::now() + backoff(self.failures, random()));
        self.failures = self.failures.saturating_add(1);
    }
}

async fn ping(client: &Client) -> Result<bollard::Docker, Failure> {
    let docker = client.docker().await?;
    client.within(LOOK_DEADLINE, docker.ping()).await?;
    Ok(docker)
}

/// Doubles, at most `BACKOFF_MAX`, with half of it as jitter; never nothing, or an absent Docker would be asked without pause.
fn backoff(failures: u32, random: u64) -> Duration {
    let most = BACKOFF_FIRST.saturating_mul(1 << failures.min(16)).min(BACKOFF_MAX);
    let half = most / 2;
    let spread = u64::try_from(half.as_nanos()).unwrap_or(u64::MAX).max(1);
    half + Duration::from_nanos(random % spread)
}

/// Enough for jitter: the standard library seeds each hasher at random.
fn random() -> u64 {
    RandomState::new().build_hasher().finish()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn waits_grow_are_spread_and_capped() {
        for random in [0, 1, u64::MAX / 3, u64::MAX] {
            let waits: Vec<_> = (0..20).map(|failures| backoff(failures, random)).collect();
            assert!(waits[0] >= BACKOFF_FIRST / 2 && waits[0] <= BACKOFF_FIRST);
            assert!(waits.iter().all(|wait| *wait <= BACKOFF_MAX));
            assert!(waits[19] >= BACKOFF_MAX / 2);
        }
    }

    #[tokio::test(start_paused = true)]
    async fn an_absent_docker_is_waited_for_without_ringing() {
        let client = Client::new("/nosuch/docker.sock".into());
        let (events, observer) = (Events::default(), Observer::default());
        let waited =
            tokio::time::timeout(Duration::from_secs(600), events.next(&client, "l=v", &observer)).await;
        assert!(waited.is_err());
        let failures = events.state.lock().await.failures;
        assert!((20..=60).contains(&failures), "{failures} dials in ten minutes");
    }
}
