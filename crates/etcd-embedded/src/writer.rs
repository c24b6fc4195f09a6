//! The one writer: takes commands off the queue in batches, applies them to the core, makes them durable in
//! one transaction, and only then lets the answers and the new revision out.
//!
//! It runs on a thread of its own, since a commit blocks. Readers never wait for it: they look at the core
//! between two applications, at the revision that is committed.

use std::sync::Arc;
use std::time::{Duration, Instant};

use redb::ReadTransaction;
use thiserror::Error;
use tokio::sync::{mpsc, oneshot};
use tracing::{error, info, warn};

use crate::disk::{Disk, DiskError};
use crate::mvcc::{Answer, Command, Fault, Write};
use crate::shared::Shared;

/// Commands that wait for the writer. A caller beyond it waits to be queued.
pub(crate) const QUEUE_COMMANDS: usize = 1024;
/// Commands in one transaction, so that the first of a batch does not wait for ever longer ones.
const BATCH_COMMANDS: usize = 1024;
/// Bytes of rows after which a batch is closed.
const BATCH_BYTES: usize = 8 << 20;
/// Useless rows that are removed along with a batch.
const SCRUB_ROWS: usize = 1000;
/// Leases that one tick ends, as in etcd.
const LEASES_PER_TICK: usize = 1000;
/// Waits between attempts to open the data file again after a failed write: from, to.
const REOPEN_BACKOFF: (Duration, Duration) = (Duration::from_millis(100), Duration::from_secs(5));

/// How long a command waits for its refusal while the data file is closed.
const REFUSE_PERIOD: Duration = Duration::from_millis(50);

/// What the writer is asked to do.
#[derive(Debug)]
pub(crate) enum Work {
    /// Apply a command.
    Command(Command),
    /// Compact, and answer when the rows are gone from the disk too.
    CompactPhysically { revision: i64 },
    /// End the leases that are due.
    Tick,
    /// Shrink the data file.
    Shrink,
    /// Give a view of what is durable.
    View(oneshot::Sender<Result<ReadTransaction, DiskError>>),
    /// Finish what is begun, close the file and stop.
    Stop,
}

/// Why a command was not done, or is not known to be done.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub(crate) enum Refusal {
    /// The core refused it.
    #[error(transparent)]
    Fault(#[from] Fault),
    /// The disk did. The command may come back after a restart, as with any write that was not answered.
    #[error("etcdserver: cannot write to disk: {0}")]
    Disk(String),
    /// The store is being closed.
    #[error("etcdserver: server stopped")]
    Stopped,
}

pub(crate) type Reply = oneshot::Sender<Result<Answer, Refusal>>;

/// One entry of the queue.
#[derive(Debug)]
pub(crate) struct Request {
    pub(crate) work: Work,
    pub(crate) reply: Reply,
}

/// Owns the disk, and with it the order of all changes.
pub(crate) struct Writer {
    shared: Arc<Shared>,
    /// None only between a failed commit and the next opening.
    disk: Option<Disk>,
    /// Compactions that are done and whose rows are not all gone yet.
    physical: Vec<(Reply, Answer)>,
}

/// What came of one batch before it is durable.
#[derive(Default)]
struct Batch {
    writes: Vec<Write>,
    replies: Vec<(Reply, Result<Answer, Refusal>)>,
    physical: Vec<(Reply, Answer)>,
    stop: Option<Reply>,
    bytes: usize,
}

impl Writer {
    pub(crate) fn new(shared: Arc<Shared>, disk: Disk) -> Self {
        Self { shared, disk: Some(disk), physical: Vec::new() }
    }

    /// Works until it is told to stop, or until nobody is left who could ask for anything.
    pub(crate) fn run(mut self, mut queue: mpsc::Receiver<Request>) {
        loop {
            let idle = self.shared.read().garbage_rows() == 0;
            let first = if idle {
                match queue.blocking_recv() {
                    Some(request) => Some(request),
                    None => break,
                }
            } else {
                queue.try_recv().ok()
            };
            let stop = self.turn(first, &mut queue);
            if stop {
                break;
            }
            if self.disk.is_none() {
                self.disk = self.reopen(&mut queue);
                if self.disk.is_none() {
                    break;
                }
            }
        }
        // What is still queued was not begun, and nobody may wait for it for ever.
        queue.close();
        while let Ok(request) = queue.try_recv() {
            let _ = request.reply.send(Err(Refusal::Stopped));
        }
    }

    /// One batch, from the queue to its answers. Says whether it held the word to stop.
    fn turn(&mut self, first: Option<Request>, queue: &mut mpsc::Receiver<Request>) -> bool {
        let mut batch = Batch::default();
        let mut next = first;
        let mut commands = 0;
        while let Some(request) = next {
            commands += 1;
            self.take(request, &mut batch);
            if batch.stop.is_some() || commands >= BATCH_COMMANDS || batch.bytes >= BATCH_BYTES {
                break;
            }
            next = queue.try_recv().ok();
        }
        let revision = {
            let mut core = self.shared.write();
            batch.writes.extend(core.scrub(SCRUB_ROWS).writes);
            core.revision()
        };
        let durable = match &self.disk {
            Some(disk) if !batch.writes.is_empty() => disk.commit(&batch.writes).map(|()| disk.file_bytes()),
            Some(disk) => Ok(disk.file_bytes()),
            None => return false,
        };
        match durable {
            Ok(file_bytes) => self.finish(batch, revision, file_bytes),
            Err(error) => {
                error!(%error, commands, "a batch of commands could not be made durable");
                self.disk = None;
                self.fail(batch, &error);
                false
            }
        }
    }

    /// Applies one command, or does one of the few things that are none.
    fn take(&mut self, Request { work, reply }: Request, batch: &mut Batch) {
        let now = self.shared.now();
        let command = match work {
            Work::Command(command) => command,
            Work::CompactPhysically { revision } => {
                let (answer, effects) = self.shared.write().apply(Command::Compact { revision }, now);
                batch.writes.extend(effects.writes);
                match answer {
                    Ok(answer) => batch.physical.push((reply, answer)),
                    Err(fault) => batch.replies.push((reply, Err(fault.into()))),
                }
                return;
            }
            Work::Tick => {
                let mut core = self.shared.write();
                batch.writes.extend(core.tick(now, LEASES_PER_TICK).writes);
                batch.replies.push((reply, Ok(Answer::Done { revision: core.revision() })));
                return;
            }
            Work::Shrink => {
                let shrunk = self.disk.as_mut().map(Disk::shrink);
                let answer = match shrunk {
                    Some(Err(error)) => Err(Refusal::Disk(error.to_string())),
                    Some(Ok(())) | None => Ok(Answer::Done { revision: self.shared.read().committed() }),
                };
                batch.replies.push((reply, answer));
                return;
            }
            Work::View(view) => {
                if let Some(disk) = &self.disk {
                    let _ = view.send(disk.view());
                }
                return;
            }
            Work::Stop => {
                batch.stop = Some(reply);
                return;
            }
        };
        let (answer, effects) = self.shared.write().apply(command, now);
        batch.bytes +=
            effects.writes.iter().map(|write| write.value.as_ref().map_or(0, Vec::len)).sum::<usize>();
        batch.writes.extend(effects.writes);
        batch.replies.push((reply, answer.map_err(Refusal::from)));
    }

    /// Lets out what is durable now.
    fn finish(&mut self, batch: Batch, revision: i64, file_bytes: u64) -> bool {
        let clean = {
            let mut core = self.shared.write();
            core.commit(revision);
            core.garbage_rows() == 0
        };
        self.shared.publish(revision, file_bytes);
        for (reply, answer) in batch.replies {
            // A caller that has gone away does not want its answer.
            let _ = reply.send(answer);
        }
        self.physical.extend(batch.physical);
        if clean {
            for (reply, answer) in self.physical.drain(..) {
                let _ = reply.send(Ok(answer));
            }
        }
        match batch.stop {
            Some(reply) => {
                self.disk = None;
                let _ = reply.send(Ok(Answer::Done { revision }));
                true
            }
            None => false,
        }
    }

    fn fail(&mut self, batch: Batch, error: &DiskError) {
        let refusal = Refusal::Disk(error.to_string());
        let physical = self.physical.drain(..).chain(batch.physical).map(|(reply, _)| reply);
        let replies = batch.replies.into_iter().map(|(reply, _)| reply).chain(physical).chain(batch.stop);
        for reply in replies {
            let _ = reply.send(Err(refusal.clone()));
        }
    }

    /// After a failed commit the core is ahead of the disk, and the database trusts its file no more. Reads go
    /// on, on what was durable; this opens the file again until it works, and goes on from what it holds.
    fn reopen(&self, queue: &mut mpsc::Receiver<Request>) -> Option<Disk> {
        let mut backoff = REOPEN_BACKOFF.0;
        loop {
            let reason = match self.shared.load() {
                Ok((disk, core)) => {
                    info!(revision = core.revision(), "the data file is open again");
                    let revision = core.revision();
                    *self.shared.write() = core;
                    self.shared.publish(revision, disk.file_bytes());
                    return Some(disk);
                }
                Err(error) => error.to_string(),
            };
            warn!(reason, "the data file cannot be opened again yet");
            let until = Instant::now() + backoff.mul_f64(rand::random_range(0.5..1.0));
            backoff = (backoff * 2).min(REOPEN_BACKOFF.1);
            while let Some(left) = until.checked_duration_since(Instant::now()) {
                if !refuse_waiting(queue, &reason) {
                    return None;
                }
                std::thread::park_timeout(left.min(REFUSE_PERIOD));
            }
        }
    }
}

/// Nobody waits for a disk that is not there: refuses all that is queued. False when it is time to stop.
fn refuse_waiting(queue: &mut mpsc::Receiver<Request>, reason: &str) -> bool {
    loop {
        match queue.try_recv() {
            Ok(Request { work, reply }) => {
                let _ = reply.send(Err(Refusal::Disk(reason.to_owned())));
                if matches!(work, Work::Stop) {
                    return false;
                }
            }
            Err(mpsc::error::TryRecvError::Empty) => return true,
            Err(mpsc::error::TryRecvError::Disconnected) => return false,
        }
    }
}
