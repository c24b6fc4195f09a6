//! The thread that owns the history: what comes is handed to it, and nobody waits for its disk.

use std::ops::Range;
use std::path::Path;
use std::time::{Duration, SystemTime};

use skerry_daemon::Shutdown;
use skerry_series::{Config, Field, Group, OpenError, Query, QueryError, Stats, Store, Time};
use tokio::sync::{mpsc, oneshot};

use crate::meters;

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
        tokio::task::spawn_blocking(move || {
            Thread { store, failed: false, told: Stats::default() }.run(&mut rest)
        });
        Ok(Self { work })
    }

    /// Room for a batch. `None`: too many wait already, or the history is closed.
    pub(crate) fn room(&self) -> Option<Room<'_>> {
        self.work.try_reserve().ok().map(Room)
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

    /// What is refused is counted by the store: samples of a clock that was set back, for one.
    fn note(&mut self, note: Note) {
        let _ = match note {
            Note::Sample(group, time, values) => self.store.append(group, time, &values),
            Note::Gap(group, from) => self.store.gap(group, from),
        };
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
