//! Goes on with one task: looks what comes next, does it, writes the journal. Ends when the task has, waits, or is another worker's.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use skerry_api::Caused;
use skerry_daemon::Shutdown;
use skerry_model::{Code, Fault};
use skerry_proto::store::v1 as stored;
use skerry_proto::store::v1::TaskPhase;
use skerry_store::{Key, Lease, Store, Txn, TxnError};
use tokio::time::Instant;
use tracing::{debug, info, warn};

use super::CREATE_METHOD;
use super::claim::{Claim, Held};
use super::journal::{self, Journal, Next, Wanted};
use super::shown::Shown;
use super::work::{Did, Env, Hands, Work};

/// Between two writes of a journal that says nothing but that another step is done.
const WRITE_EVERY: Duration = Duration::from_millis(250);
/// How long the steps that were seen count before they are looked for again.
const STEPS_EVERY: Duration = Duration::from_secs(1);
/// Between two tries to reach the store.
const RETRY_WAIT: Duration = Duration::from_millis(500);

/// Another worker may have it now: nothing more is written.
struct Lost;

/// The journal as it is in the store, and in memory.
struct Pen<'a> {
    store: &'a Store,
    claim: &'a Claim,
    lease: &'a Lease,
    lease_id: Option<i64>,
    journal: Journal,
    written: Journal,
    at: Instant,
}

impl Pen<'_> {
    /// Takes what a transaction wrote, or what is to be written.
    fn take(&mut self, journal: Journal, written: bool) {
        if written {
            self.written.clone_from(&journal);
            self.at = Instant::now();
        }
        self.journal = journal;
    }

    /// Writes it, if there is anything new.
    async fn flush(&mut self) -> Result<(), Lost> {
        if self.journal == self.written {
            return Ok(());
        }
        self.commit(self.claim.write(Txn::new(), &self.journal)).await?;
        self.written.clone_from(&self.journal);
        self.at = Instant::now();
        Ok(())
    }

    /// Writes it with the claim given up.
    async fn give_up(&self) -> Result<(), Lost> {
        self.commit(self.claim.give_up(&self.journal)).await
    }

    fn is_held(&self) -> bool {
        self.lease_id.is_some() && self.lease.id() == self.lease_id
    }

    /// As long as the lease lives: a store that is away may come back.
    async fn commit(&self, txn: Txn) -> Result<(), Lost> {
        loop {
            match self.store.commit(txn.clone()).await {
                Ok(_) => return Ok(()),
                Err(TxnError::Deposed { .. } | TxnError::Conflict(_)) => return Err(Lost),
                Err(error) if !self.is_held() => {
                    debug!(task = %self.claim.task, %error, "the journal is left as it is");
                    return Err(Lost);
                }
                Err(error) => debug!(task = %self.claim.task, %error, "the journal is written again"),
            }
            tokio::time::sleep(RETRY_WAIT).await;
        }
    }
}

/// Goes on with a task that was claimed under `lease`.
pub(super) async fn drive(env: Arc<Env>, shown: Arc<Shown>, held: Held, lease: Lease, shutdown: Shutdown) {
    let Held { claim, record, mod_revision, journal } = held;
    info!(task = %claim.task, run = journal.run, attempt = journal.attempt, "a task is worked on");
    let caller = record.caller.clone().unwrap_or_default();
    let caused = Caused::before(caller, CREATE_METHOD, &record.request_id, claim.task.to_string());
    let pen = Pen {
        store: &env.store,
        claim: &claim,
        lease: &lease,
        lease_id: lease.id(),
        written: journal.clone(),
        journal,
        at: Instant::now(),
    };
    let mut driver = Driver { env: &env, shown: &shown, pen, caused, seen: (mod_revision, &record) };
    let outcome = driver.run(&shutdown).await;
    let phase = driver.pen.journal.phase();
    if outcome.is_ok() {
        info!(task = %claim.task, ?phase, "a task is let go");
    } else {
        info!(task = %claim.task, "a task is another worker's now");
    }
}

struct Driver<'a> {
    env: &'a Env,
    shown: &'a Shown,
    pen: Pen<'a>,
    caused: Caused,
    /// The record as it was when it was claimed.
    seen: (i64, &'a stored::TaskRecord),
}

impl Driver<'_> {
    async fn run(&mut self, shutdown: &Shutdown) -> Result<(), Lost> {
        let mut work = match Work::of(&self.pen.claim.task, self.seen.1) {
            Ok(Some(work)) => work,
            Ok(None) => return self.pen.give_up().await,
            Err(fault) => return self.end(TaskPhase::Failed, &fault.message).await,
        };
        let mut steps = work.steps(self.env);
        let mut looked = Instant::now();
        self.prepare(&mut work, &steps).await;
        loop {
            if shutdown.is_ending() {
                return self.pen.give_up().await;
            }
            if !self.pen.is_held() {
                return Err(Lost);
            }
            let wanted = self.wanted();
            let mut next = journal::next(&self.pen.journal, wanted, &steps);
            if looked.elapsed() >= STEPS_EVERY || !matches!(next, Next::Step(_)) {
                steps = work.steps(self.env);
                looked = Instant::now();
                next = journal::next(&self.pen.journal, wanted, &steps);
            }
            self.pen.journal.steps_total = journal::count(&self.pen.journal, &steps);
            match next {
                Next::Step(step) => self.step(&mut work, &step, shutdown).await?,
                Next::Again => {
                    self.pen.journal = journal::again(&self.pen.journal, SystemTime::now(), chance());
                    return self.pen.give_up().await;
                }
                Next::End(phase) => {
                    let Journal { steps_done, steps_total, .. } = self.pen.journal;
                    let said = work.summary(self.env, steps_done, steps_total);
                    if phase != TaskPhase::Succeeded {
                        self.give_up(&work).await?;
                    }
                    return self.end(phase, &said).await;
                }
            }
            if self.pen.at.elapsed() >= WRITE_EVERY {
                self.pen.flush().await?;
            }
        }
    }

    /// What is wanted now: as the mirror shows, or as it was read when it is behind that.
    fn wanted(&self) -> Wanted {
        let (mod_revision, record) = self.seen;
        let key = Key::<stored::TaskRecord>::of(&self.pen.claim.task);
        let shown = self.shown.mirror.snapshot().get(&key).ok().flatten();
        match shown {
            Some(shown) if shown.mod_revision > mod_revision => Wanted::of(&shown.value),
            _ => Wanted::of(record),
        }
    }

    async fn prepare(&self, work: &mut Work, steps: &BTreeSet<String>) {
        let journal = &self.pen.journal;
        let wanted = self.wanted();
        if wanted.cancel {
            return;
        }
        let ahead = steps.iter().filter(|step| **step > journal.cursor && **step != journal.begun);
        let left: Vec<String> = ahead.cloned().collect();
        let held = |txn: Txn| self.pen.claim.hold(txn);
        let hands = Hands { env: self.env, caused: &self.caused, held: &held, done: &held, begun: &held };
        if let Err(fault) = work.prepare(&left, &hands).await {
            warn!(task = %self.pen.claim.task, %fault, "the steps of a task were not prepared");
        }
    }

    async fn step(&mut self, work: &mut Work, step: &str, shutdown: &Shutdown) -> Result<(), Lost> {
        let journal = &self.pen.journal;
        let (done, begun) = (journal::done(journal, step), journal::begun(journal, step));
        let was_begun = journal.begun == step;
        let claim = self.pen.claim;
        let outcome = {
            let held = |txn: Txn| claim.hold(txn);
            let write_done = |txn: Txn| claim.write(txn, &done);
            let write_begun = |txn: Txn| claim.write(txn, &begun);
            let hands = Hands {
                env: self.env,
                caused: &self.caused,
                held: &held,
                done: &write_done,
                begun: &write_begun,
            };
            work.step(step, was_begun, &hands).await
        };
        match outcome {
            Ok(Did::Done { written }) => self.pen.take(done, written),
            Ok(Did::Begun { written }) => self.pen.take(begun, written),
            Ok(Did::Waits(message, again)) => {
                self.pen.journal.message = message;
                self.pen.flush().await?;
                tokio::select! {
                    () = shutdown.wait() => {}
                    () = tokio::time::sleep(again) => {}
                }
            }
            Err(fault) => self.failed(step, &fault).await?,
        }
        Ok(())
    }

    /// A step has failed; or its answer was lost, and it is done.
    async fn failed(&mut self, step: &str, fault: &Fault) -> Result<(), Lost> {
        let key = Key::<stored::TaskProgressRecord>::of(&self.pen.claim.task);
        let kept = match self.pen.store.get(&key).await {
            Ok(kept) => kept.map(|read| read.value),
            Err(error) => {
                debug!(task = %self.pen.claim.task, %error, "whether the step is done is looked at again");
                tokio::time::sleep(RETRY_WAIT).await;
                return Ok(());
            }
        };
        let journal = &self.pen.journal;
        let is_news = |kept: &Journal| {
            kept.steps_done > journal.steps_done || (kept.begun == step && journal.begun != step)
        };
        if let Some(kept) = kept.filter(is_news) {
            self.pen.take(kept, true);
        } else {
            warn!(task = %self.pen.claim.task, step, %fault, "a step of a task has failed");
            self.pen.journal = journal::failed(journal, step, &fault.message, is_permanent(fault.code));
        }
        Ok(())
    }

    /// Undoes what shall not outlive a task that ends otherwise than well, as long as the claim holds.
    async fn give_up(&self, work: &Work) -> Result<(), Lost> {
        let held = |txn: Txn| self.pen.claim.hold(txn);
        let hands = Hands { env: self.env, caused: &self.caused, held: &held, done: &held, begun: &held };
        while let Err(fault) = work.give_up(&hands).await {
            debug!(task = %self.pen.claim.task, %fault, "what a task asked for is not ended yet");
            if !self.pen.is_held() {
                return Err(Lost);
            }
            tokio::time::sleep(RETRY_WAIT).await;
        }
        Ok(())
    }

    async fn end(&mut self, phase: TaskPhase, message: &str) -> Result<(), Lost> {
        self.pen.journal = journal::end(&self.pen.journal, phase, SystemTime::now());
        message.clone_into(&mut self.pen.journal.message);
        self.pen.give_up().await
    }
}

/// Whether what failed so would fail again as long as nobody changes anything.
fn is_permanent(code: Code) -> bool {
    match code {
        Code::InvalidArgument
        | Code::NotFound
        | Code::AlreadyExists
        | Code::FailedPrecondition
        | Code::OutOfRange
        | Code::PermissionDenied
        | Code::Unauthenticated
        | Code::Unimplemented => true,
        Code::Aborted
        | Code::ResourceExhausted
        | Code::Unavailable
        | Code::DeadlineExceeded
        | Code::Internal => false,
    }
}

/// From 0 to 1, by chance.
fn chance() -> f64 {
    f64::from(uuid::Uuid::new_v4().as_fields().0) / f64::from(u32::MAX)
}
