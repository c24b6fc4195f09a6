//! The thread that owns the history: what comes is handed to it, and nobody waits for its disk.

use std::ops::Range;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, SystemTime};

use skerry_daemon::Shutdown;
use skerry_series::{Config, Field, Group, OpenError, Query, QueryError, Stats, Store, Time};
use tokio::sync::{mpsc, oneshot};

use crate::meters::{self, Lacking};

/// Batches that wait: a batch is what a gateway sends at once.
const WAITING_MAX: usize = 1024;
/// How often the store does what is due.
const MAINTAIN_EVERY: Duration = Duration::from_secs(1);

/// What a sample brings.
pub(crate) type Values = Vec<(Field, Option<i64>)>;

/// Something to be written down.
#[derive(Debug, PartialEq)]
pub(crate) enum Note {
    /// A sample: what changed.
    Sample(Group, Time, Values),
    /// From here on nothing is known.
    Gap(Group, Time),
    /// A sample that is not handed over, since history would not take it. It is only counted.
    Refused,
}

enum Work {
    Batch(Vec<Note>),
    Maintain,
    Prepare {
        groups: Vec<Group>,
        fields: Vec<Field>,
        range: Range<Time>,
        step: Duration,
        to: oneshot::Sender<Prepared>,
    },
    End(oneshot::Sender<()>),
}

/// One question for each group, to be run elsewhere.
pub(crate) type Prepared = Result<Vec<Query>, QueryError>;

/// What hands things to the thread. Cheap to clone.
#[derive(Debug, Clone)]
pub(crate) struct Recorder {
    work: mpsc::Sender<Work>,
    lacking: Arc<Lacking>,
}

/// Room for one batch.
pub(crate) struct Room<'a>(mpsc::Permit<'a, Work>);

impl Room<'_> {
    /// Has a batch written down, in the order of calls.
    pub(crate) fn note(self, batch: Vec<Note>) {
        if !batch.is_empty() {
            self.0.send(Work::Batch(batch));
        }
    }
}

impl Recorder {
    /// Opens the history in `dir`, and begins the thread.
    pub(crate) fn start(dir: &Path, config: Config, shutdown: &Shutdown) -> Result<Self, OpenError> {
        let store = Store::open(dir, config)?;
        let (work, mut rest) = mpsc::channel(WAITING_MAX);
        let ticks = work.downgrade();
        let ending = shutdown.clone();
        shutdown.spawn(async move {
            let mut tick = tokio::time::interval(MAINTAIN_EVERY);
            tick.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
            loop {
                tokio::select! {
                    () = ending.wait() => return,
                    _ = tick.tick() => {}
                }
                let Some(work) = ticks.upgrade() else { return };
                // With a full queue it is due all the more, and done after a batch.
                let _ = work.try_send(Work::Maintain);
            }
        });
        let lacking = Arc::<Lacking>::default();
        meters::lacking(&lacking);
        let thread = Thread { store, failed: false, told: Stats::default(), lacking: Arc::clone(&lacking) };
        tokio::task::spawn_blocking(move || thread.run(&mut rest));
        Ok(Self { work, lacking })
    }

    /// Room for a batch. `None`: too many wait already, or the history is closed; that is counted, so ask only with something to write down.
    pub(crate) fn room(&self) -> Option<Room<'_>> {
        let room = self.work.try_reserve().ok().map(Room);
        if room.is_none() {
            self.lacking.batches.fetch_add(1, Ordering::Relaxed);
        }
        room
    }

    /// Batches that there was no room for, since the start.
    pub(crate) fn batches_left_out(&self) -> u64 {
        self.lacking.batches.load(Ordering::Relaxed)
    }

    /// Samples that history did not take, since the start: of a clock that was set back, of more GPUs than there may be.
    pub(crate) fn samples_refused(&self) -> u64 {
        self.lacking.samples.load(Ordering::Relaxed)
    }

    /// Asks what is known of groups. `None`: the history is closed.
    pub(crate) async fn prepare(
        &self,
        groups: Vec<Group>,
        fields: Vec<Field>,
        range: Range<Time>,
        step: Duration,
    ) -> Option<Prepared> {
        let (to, answer) = oneshot::channel();
        self.work.send(Work::Prepare { groups, fields, range, step, to }).await.ok()?;
        answer.await.ok()
    }

    /// Writes down what is in memory only, and ends.
    pub(crate) async fn end(&self) {
        let (to, ended) = oneshot::channel();
        if self.work.send(Work::End(to)).await.is_ok() {
            let _ = ended.await;
        }
    }
}

struct Thread {
    store: Store,
    failed: bool,
    /// What was told of it last.
    told: Stats,
    lacking: Arc<Lacking>,
}

impl Thread {
    fn run(mut self, rest: &mut mpsc::Receiver<Work>) {
        while let Some(work) = rest.blocking_recv() {
            match work {
                Work::Batch(batch) => batch.into_iter().for_each(|note| self.note(note)),
                Work::Maintain => self.maintain(),
                Work::Prepare { groups, fields, range, step, to } => {
                    let ask = |group| self.store.prepare(group, &fields, range.clone(), step);
                    let _ = to.send(groups.into_iter().map(ask).collect());
                }
                Work::End(to) => {
                    if let Err(error) = self.store.flush() {
                        tracing::warn!(%error, "the last of the history could not be written");
                    }
                    let _ = to.send(());
                    return;
                }
            }
        }
    }

    fn note(&mut self, note: Note) {
        let is_refused = match note {
            Note::Sample(group, time, values) => self.store.append(group, time, &values).is_err(),
            Note::Gap(group, from) => {
                // It is from the newest sample of the group on; after a start it may be from before, but then nothing holds.
                let _ = self.store.gap(group, from);
                false
            }
            Note::Refused => true,
        };
        if is_refused {
            self.lacking.samples.fetch_add(1, Ordering::Relaxed);
        }
    }

    fn maintain(&mut self) {
        let done = self.store.maintain(Time::from(SystemTime::now()));
        let stats = self.store.stats();
        meters::history(&stats, &self.told);
        self.told = stats;
        match done {
            Err(error) if !self.failed => {
                tracing::error!(%error, "the history cannot be written; it is kept in memory as far as there is room");
                self.failed = true;
            }
            Err(_) => {}
            Ok(()) => {
                if std::mem::take(&mut self.failed) {
                    tracing::info!("the history can be written again");
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn what_is_left_out_and_what_is_refused_is_counted() {
        let dir = tempfile::tempdir().unwrap();
        let shutdown = Shutdown::new();
        let recorder = Recorder::start(dir.path(), Config::default(), &shutdown).unwrap();
        let at = |millis| Time::from_unix_ms(millis).unwrap();
        let sample = |millis| Note::Sample(Group(1), at(millis), vec![(Field(7), Some(40))]);
        recorder.room().unwrap().note(vec![sample(2_000), sample(1_000), Note::Refused, sample(3_000)]);
        let all: Vec<Room<'_>> = std::iter::from_fn(|| recorder.room()).collect();
        assert!(all.len() <= WAITING_MAX);
        assert_eq!(recorder.batches_left_out(), 1);
        assert!(recorder.room().is_none());
        assert_eq!(recorder.batches_left_out(), 2);
        drop(all);
        recorder.end().await;
        assert_eq!(recorder.samples_refused(), 2);
        shutdown.finish().await;
    }
}
