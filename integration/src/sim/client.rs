//! A process's way to the store: calls that are lost before or after they were done, each with a deadline; the suspicion that the store
//! is an older one; its term. As `skerry_store`'s client does it, with the real rule of what a term becomes.

use std::cell::Cell;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use skerry_etcd_embedded::mvcc::{self, Answer, Command, KeyRange};
use skerry_proto::store::v1 as stored;
use skerry_store::keys::TheStore;
use skerry_store::sans_io::{Evidence, Failure, Found, Header, Known, Range, next_term};
use skerry_store::{Entry, Key, Record, Versioned};
use tokio::sync::Notify;

use super::check::Origin;
use super::faults::Fault;
use super::sim::Process;
use super::store::{Live, StoreHost};

/// How long one call may take.
pub(super) const DEADLINE: Duration = Duration::from_secs(5);
/// How often a lost race for `meta/store` is tried again.
const SETTLES_MAX: u32 = 10;

/// One process's connection. Cheap to clone.
#[derive(Clone)]
pub(super) struct Client(Rc<Inner>);

struct Inner {
    process: Process,
    host: StoreHost,
    seen: Cell<i64>,
    cluster_id: Cell<u64>,
    suspicion: Notify,
    known: super::signal::Sender<Known>,
}

impl Client {
    pub(super) fn new(process: &Process, host: &StoreHost) -> Self {
        Self(Rc::new(Inner {
            process: process.clone(),
            host: host.clone(),
            seen: Cell::default(),
            cluster_id: Cell::default(),
            suspicion: Notify::new(),
            known: super::signal::Sender::new(Known { term: 0, mod_revision: 0, read_at: 0 }),
        }))
    }

    /// Connects: settles the term, and follows it from then on.
    pub(super) async fn connect(&self) {
        let mut attempt = 0;
        while self.settle(Evidence::None).await.is_err() {
            self.process().sleep(self.process().backoff(attempt, 2_000)).await;
            attempt += 1;
        }
        let client = self.clone();
        self.process().spawn(async move { client.follow_term().await });
    }

    pub(super) fn process(&self) -> &Process {
        &self.0.process
    }

    pub(super) fn host(&self) -> &StoreHost {
        &self.0.host
    }

    /// The store's term, as this process knows it.
    pub(super) fn term(&self) -> u64 {
        self.0.known.borrow().term
    }

    /// Tells each term.
    pub(super) fn watch_term(&self) -> super::signal::Receiver<Known> {
        self.0.known.subscribe()
    }

    /// A watch told of this revision.
    pub(super) fn saw(&self, revision: i64) {
        self.0.seen.set(self.0.seen.get().max(revision));
    }

    /// One way of one message. Down: nobody is there.
    async fn reach(&self) -> Result<Rc<Live>, Failure> {
        let process = self.process();
        process.boundary().await;
        process.sleep(process.sim.between_ms(0, 8)).await;
        self.0.host.live().ok_or_else(|| Failure::NotSent("the store is away".to_owned()))
    }

    async fn lost<T>(&self) -> Result<T, Failure> {
        self.process().sleep(DEADLINE).await;
        Err(Failure::Unclear("no answer in time".to_owned()))
    }

    /// Does a command, perhaps: only the answer tells.
    pub(super) async fn command(&self, command: Command, origin: Origin) -> Result<Answer, Failure> {
        let process = self.process();
        let work = async {
            let live = self.reach().await?;
            if process.sim.strikes(2_000) {
                process.sim.count(Fault::StoreRequestLost);
                return self.lost().await;
            }
            let seen = self.0.seen.get();
            let reply = live.submit(command, origin);
            let answer = reply.await.map_err(|_| Failure::Unclear("the store went away".to_owned()))?;
            if process.sim.strikes(3_000) {
                process.sim.count(Fault::StoreAnswerLost);
                return self.lost().await;
            }
            process.sleep(process.sim.between_ms(0, 8)).await;
            let answer = answer.map_err(refused)?;
            let revision = revision_of(&answer);
            let cluster_id = live.core(|core| core.identity().cluster_id);
            self.look(Header { cluster_id, revision }, seen);
            Ok(answer)
        };
        let done = process.timeout(DEADLINE, work).await;
        let done = done.unwrap_or_else(|| Err(Failure::Unclear("no answer in time".to_owned())));
        process.boundary().await;
        done
    }

    /// Reads, trying again within the deadline.
    pub(super) async fn range(&self, range: &Range) -> Result<Found, Failure> {
        let process = self.process();
        let until = process.sim.now() + DEADLINE;
        let mut attempt = 0;
        loop {
            let left = until.saturating_sub(process.sim.now());
            let tried = process.timeout(left, self.range_once(range)).await;
            let failure = match tried {
                Some(Ok(found)) => return Ok(found),
                Some(Err(failure)) if !failure.is_passing() => return Err(failure),
                Some(Err(failure)) => failure,
                None => return Err(Failure::Unclear("no answer in time".to_owned())),
            };
            let wait = process.backoff(attempt, 1_000);
            attempt += 1;
            if process.sim.now() + wait >= until {
                return Err(failure);
            }
            process.sleep(wait).await;
        }
    }

    async fn range_once(&self, range: &Range) -> Result<Found, Failure> {
        let process = self.process();
        let live = self.reach().await?;
        if process.sim.strikes(2_000) {
            process.sim.count(Fault::StoreRequestLost);
            return self.lost().await;
        }
        live.wait_out_stall().await;
        let seen = self.0.seen.get();
        let answer = live.range(&mvcc_range(range)).map_err(refused)?;
        let header =
            Header { cluster_id: live.core(|core| core.identity().cluster_id), revision: answer.revision };
        process.sleep(process.sim.between_ms(0, 8)).await;
        self.look(header, seen);
        let entries = answer.entries.iter().map(|entry| entry_of(entry, range.keys_only)).collect();
        Ok(Found { header, entries, more: answer.more, count: answer.count })
    }

    /// One record.
    pub(super) async fn get<R: Record>(&self, key: &Key<R>) -> Result<Option<Versioned<R>>, Failure> {
        let found = self.range(&Range { key: key.as_str().into(), ..Range::default() }).await?;
        let entry = found.entries.first().map(Entry::decode).transpose();
        entry.map_err(|error| Failure::Refused(error.to_string()))
    }

    /// Reads and commands are linearizable: an answer that is older than one that came before is of another store.
    fn look(&self, header: Header, seen: i64) {
        let known = self.0.cluster_id.get();
        if header.revision < seen || (known != 0 && known != header.cluster_id) {
            self.0.suspicion.notify_one();
        } else {
            self.saw(header.revision);
        }
    }

    /// Makes `meta/store` true, by the product's rule. Answers the revision at which it was read.
    pub(super) async fn settle(&self, evidence: Evidence) -> Result<i64, Failure> {
        let key = Key::<stored::StoreMeta>::of(&TheStore);
        let known = *self.0.known.borrow();
        for _ in 0..SETTLES_MAX {
            let found = self.range(&Range { key: key.as_str().into(), ..Range::default() }).await?;
            let stored = found.entries.first().map(Entry::decode::<stored::StoreMeta>).transpose();
            let stored = stored.map_err(|error| Failure::Refused(error.to_string()))?;
            let header = found.header;
            let next = next_term(header, stored.as_ref().map(|meta| &meta.value), Some(known), evidence)
                .map_err(|error| Failure::Refused(error.to_string()))?;
            let (term, mod_revision) = match (next, stored) {
                (None, None) => return Err(Failure::Unclear("contended".to_owned())),
                (None, Some(stored)) => (stored.value.term, stored.mod_revision),
                (Some(term), stored) => {
                    let meta = stored::StoreMeta { term, cluster_id: header.cluster_id };
                    let at = stored.map_or(0, |stored| stored.mod_revision);
                    let txn = super::txn::Txn::new().when_unchanged(&key, at).put(&key, &meta);
                    match self.commit(txn, Origin::Other).await {
                        Ok(revision) => {
                            self.process().trace(format_args!("begins term {term} of the store"));
                            (term, revision)
                        }
                        Err(super::txn::TxnError::Conflict(..) | super::txn::TxnError::Indeterminate) => {
                            continue;
                        }
                        Err(error) => return Err(Failure::Unclear(format!("{error:?}"))),
                    }
                }
            };
            let read_at = header.revision.max(mod_revision);
            self.0.seen.set(read_at);
            self.0.cluster_id.set(header.cluster_id);
            self.learn(Known { term, mod_revision, read_at });
            return Ok(read_at);
        }
        Err(Failure::Unclear("contended".to_owned()))
    }

    fn learn(&self, new: Known) {
        let known = *self.0.known.borrow();
        if (new.term, new.mod_revision) > (known.term, known.mod_revision) {
            self.0.known.set(new);
        }
    }

    async fn follow_term(&self) {
        let mut evidence = Evidence::None;
        let mut attempt = 0;
        let key = Key::<stored::StoreMeta>::of(&TheStore);
        let mut from = Some(self.0.known.borrow().read_at);
        loop {
            let known = *self.0.known.borrow();
            if evidence == Evidence::None
                && let Some(revision) = from.take()
            {
                tokio::select! {
                    biased;
                    () = self.0.suspicion.notified() => evidence = Evidence::LostHistory { term: known.term },
                    changed = self.wait_change(key.as_str(), revision) => if changed.is_err() {
                        self.process().sleep(self.process().backoff(attempt, 5_000)).await;
                        attempt += 1;
                        continue;
                    },
                }
            }
            if let Ok(read_at) = self.settle(evidence).await {
                from = Some(read_at);
                evidence = Evidence::None;
                attempt = 0;
            } else {
                self.process().sleep(self.process().backoff(attempt, 5_000)).await;
                attempt += 1;
            }
        }
    }

    /// Waits until `key` may have changed after `revision`.
    pub(super) async fn wait_change(&self, key: &str, revision: i64) -> Result<(), Failure> {
        let keys = KeyRange { key: key.as_bytes().to_vec(), range_end: Vec::new() };
        let watch =
            super::watch::Watch { keys, from: revision + 1, source: skerry_store::sans_io::Source::Meta };
        let mut stream = super::watch::open(self, vec![watch]).await?;
        loop {
            let message = stream.next(self).await?;
            if message.kind != skerry_store::sans_io::Kind::Created
                && message.kind != skerry_store::sans_io::Kind::Whole
                || !message.events.is_empty()
            {
                return Ok(());
            }
        }
    }
}

fn mvcc_range(range: &Range) -> mvcc::Range {
    let keys = KeyRange { key: range.key.clone(), range_end: range.end.clone().unwrap_or_default() };
    mvcc::Range {
        limit: range.limit,
        revision: range.revision,
        count_only: range.count_only,
        order: if range.newest_first { mvcc::SortOrder::Descend } else { mvcc::SortOrder::None },
        target: if range.newest_first { mvcc::SortTarget::Mod } else { mvcc::SortTarget::Key },
        ..mvcc::Range::new(keys)
    }
}

/// The core's entry as `skerry_store` has it.
pub(super) fn entry_of(entry: &mvcc::Entry, keys_only: bool) -> Entry {
    Entry {
        key: Arc::from(String::from_utf8_lossy(&entry.key)),
        bytes: if keys_only { Bytes::new() } else { Bytes::copy_from_slice(&entry.value) },
        create_revision: entry.create_revision,
        mod_revision: entry.revision.main,
    }
}

fn revision_of(answer: &Answer) -> i64 {
    match answer {
        Answer::Put(put) => put.revision,
        Answer::Delete(delete) => delete.revision,
        Answer::Txn(txn) => txn.revision,
        Answer::Done { revision }
        | Answer::Lease { revision, .. }
        | Answer::LeaseState { revision, .. }
        | Answer::LeaseList { revision, .. } => *revision,
    }
}

fn refused(fault: mvcc::Fault) -> Failure {
    match fault {
        mvcc::Fault::Compacted => Failure::Compacted,
        mvcc::Fault::FutureRevision => Failure::Future,
        mvcc::Fault::LeaseNotFound => Failure::LeaseGone,
        other => Failure::Refused(other.to_string()),
    }
}

/// The bytes of a record.
pub(super) fn encoded<R: Record>(record: &R) -> Vec<u8> {
    record.encode_to_vec()
}
