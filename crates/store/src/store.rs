//! The store as services see it: connect, read, list in pages at one revision. Writing is in `txn` and `batch`.

use std::sync::{Arc, Mutex, PoisonError};

use skerry_proto::store::v1 as pb;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::audit::Chains;
use crate::backoff::Backoff;
use crate::client::{Client, Range};
use crate::config::StoreConfig;
use crate::error::{ConnectError, ReadError, TermError};
use crate::failure::Failure;
use crate::keys::{Key, Prefix, Record, range_end};
use crate::mirror::Liveness;
use crate::page::{Page, PageRequest, PageToken};
use crate::record::{Entry, StoreVersion, Versioned};
use crate::request::RequestLease;
use crate::term::{self, Term};

/// The largest page that is asked of etcd at once, in keys.
pub(crate) const PAGE_KEYS_MAX: usize = 1000;
/// How many keys are read by one transaction.
const GET_MANY_MAX: usize = 100;

/// A connection to the store. Cheap to clone; the last clone ends the tasks that belong to it.
#[derive(Debug, Clone)]
pub struct Store {
    pub(crate) client: Arc<Client>,
    pub(crate) term: Arc<Term>,
    pub(crate) request_lease: Arc<RequestLease>,
    pub(crate) audit: Arc<Chains>,
    /// Of this connection, those that have ended perhaps too.
    pub(crate) mirrors: Arc<Mutex<Vec<Liveness>>>,
    tasks: Arc<Tasks>,
}

/// The tasks of one connection: leases, leadership, mirrors, the term.
#[derive(Debug)]
struct Tasks {
    tracker: TaskTracker,
    stop: CancellationToken,
}

impl Drop for Tasks {
    fn drop(&mut self) {
        self.stop.cancel();
    }
}

impl Store {
    /// Connects, and settles which term the store is in: creates `meta/store` in a new store, raises the term of a restored one.
    pub async fn connect(config: StoreConfig) -> Result<Self, ConnectError> {
        let store: Arc<str> = config.target.described().into();
        let unavailable = |failure: Failure| ConnectError::Unavailable {
            store: Arc::clone(&store),
            reason: failure.plain().to_owned(),
        };
        let channel = config.target.channel()?;
        let client = Client::new(Arc::clone(&store), channel, config.target.tls().cloned(), config.deadline)
            .await
            .map_err(unavailable)?;
        let client = Arc::new(client);

        let deadline = Instant::now() + config.connect_deadline;
        let mut backoff = Backoff::up_to(std::time::Duration::from_secs(1));
        let known = loop {
            match term::settle(&client, None, term::Evidence::None).await {
                Ok(known) => break known,
                Err(source @ (TermError::Unavailable { .. } | TermError::Contended)) => {
                    let wait = backoff.next();
                    if Instant::now() + wait >= deadline {
                        let reason = match source {
                            TermError::Unavailable { plain, .. } => plain.to_owned(),
                            source => source.to_string(),
                        };
                        return Err(ConnectError::Unavailable { store, reason });
                    }
                    tracing::info!(%store, "the store does not answer yet");
                    tracing::debug!(%source, "the store does not answer yet");
                    tokio::time::sleep(wait).await;
                }
                Err(source) => return Err(ConnectError::Term { store, source }),
            }
        };

        let term = Arc::new(Term::new(known));
        let tasks = Tasks { tracker: TaskTracker::new(), stop: CancellationToken::new() };
        tasks.tracker.spawn(term::follow(Arc::clone(&client), Arc::clone(&term), tasks.stop.clone()));
        Ok(Self {
            client,
            term,
            request_lease: Arc::default(),
            audit: Arc::new(Chains::new(config.writer)),
            mirrors: Arc::default(),
            tasks: Arc::new(tasks),
        })
    }

    /// Ends all tasks of this connection and waits for them. Leases are left to expire; revoke what shall end at once before.
    pub async fn close(&self) {
        self.tasks.stop.cancel();
        self.tasks.tracker.close();
        self.tasks.tracker.wait().await;
    }

    /// Spawns a task of this connection. It ends when its token does.
    pub(crate) fn spawn<F>(&self, task: impl FnOnce(CancellationToken) -> F) -> CancellationToken
    where
        F: Future<Output = ()> + Send + 'static,
    {
        let stop = self.tasks.stop.child_token();
        self.tasks.tracker.spawn(task(stop.clone()));
        stop
    }

    /// Counts a mirror in for readiness.
    pub(crate) fn follow(&self, mirror: Liveness) {
        self.mirrors.lock().unwrap_or_else(PoisonError::into_inner).push(mirror);
    }

    /// The record at `key`, as it is now.
    pub async fn get<R: Record>(&self, key: &Key<R>) -> Result<Option<Versioned<R>>, ReadError> {
        self.client.get(key).await
    }

    /// The records at `keys`, in their order, all at one revision. Read one by one it is not cheaper than [`Store::get`], but
    /// nothing changes in between.
    pub async fn get_many<R: Record>(&self, keys: &[Key<R>]) -> Result<Vec<Option<Versioned<R>>>, ReadError> {
        let what = || format!("{} keys of {:?}", keys.len(), R::FAMILY);
        let mut records = Vec::with_capacity(keys.len());
        let mut revision = 0;
        let mut size = GET_MANY_MAX;
        while records.len() < keys.len() {
            let batch = &keys[records.len()..keys.len().min(records.len() + size)];
            match self.get_batch(batch, revision).await {
                Ok((at, mut found)) => {
                    // The first answer says at which revision all others are read.
                    revision = if revision == 0 { at } else { revision };
                    records.append(&mut found);
                }
                Err(GetBatchError::Failure(Failure::AnswerTooLarge)) if size > 1 => size /= 2,
                Err(GetBatchError::Failure(failure)) => {
                    return Err(ReadError::of(&self.client.store, &what(), revision, failure));
                }
                Err(GetBatchError::Read(error)) => return Err(error),
            }
        }
        Ok(records)
    }

    async fn get_batch<R: Record>(
        &self,
        keys: &[Key<R>],
        revision: i64,
    ) -> Result<(i64, Vec<Option<Versioned<R>>>), GetBatchError> {
        let options = || Some(etcd_client::GetOptions::new().with_revision(revision));
        let gets: Vec<_> = keys.iter().map(|key| etcd_client::TxnOp::get(key.as_str(), options())).collect();
        let (header, answer) = self
            .client
            .read_txn(etcd_client::Txn::new().and_then(gets))
            .await
            .map_err(GetBatchError::Failure)?;
        let mut records = Vec::with_capacity(keys.len());
        for entry in crate::client::ranges(answer).map_err(GetBatchError::Failure)? {
            let record = entry.map(|entry| entry.decode()).transpose();
            records.push(record.map_err(|error| GetBatchError::Read(error.into()))?);
        }
        if records.len() != keys.len() {
            return Err(GetBatchError::Failure(Failure::Refused("the answer has another length".to_owned())));
        }
        Ok((header.revision, records))
    }

    /// One page of the records under `prefix`, by key. All pages of one listing show the store at the same revision.
    pub async fn list<R: Record>(
        &self,
        prefix: &Prefix<R>,
        request: &PageRequest,
    ) -> Result<Page<R>, ReadError> {
        let (mut revision, mut after) = match &request.token {
            None => (0, None),
            Some(token) if prefix.contains(&token.after) => (token.revision, Some(Arc::clone(&token.after))),
            Some(_) => return Err(ReadError::ForeignToken { what: prefix.as_str().to_owned() }),
        };
        let wanted = request.size.max(1);
        let mut size = wanted.min(PAGE_KEYS_MAX);
        let mut items = Vec::new();
        loop {
            let range = page_range(
                prefix.as_str(),
                after.as_deref(),
                revision,
                size.min(wanted - items.len()),
                false,
            );
            let found = match self.client.range(&range).await {
                Ok(found) => found,
                Err(Failure::AnswerTooLarge) if size > 1 => {
                    size /= 2;
                    continue;
                }
                Err(failure) => {
                    return Err(ReadError::of(&self.client.store, prefix.as_str(), revision, failure));
                }
            };
            if revision == 0 {
                revision = found.header.revision;
            }
            for entry in &found.entries {
                items.push(entry.decode()?);
            }
            after = found.entries.last().map(|entry| Arc::clone(&entry.key)).or(after);
            if !found.more || items.len() >= wanted {
                let next = after.filter(|_| found.more).map(|after| PageToken { revision, after });
                return Ok(Page { items, revision, next });
            }
        }
    }

    /// How many records there are under `prefix`.
    pub async fn count<R: Record>(&self, prefix: &Prefix<R>) -> Result<u64, ReadError> {
        let range = Range { count_only: true, ..page_range(prefix.as_str(), None, 0, 0, false) };
        let found = self
            .client
            .range(&range)
            .await
            .map_err(|failure| ReadError::of(&self.client.store, prefix.as_str(), 0, failure))?;
        Ok(u64::try_from(found.count).unwrap_or(0))
    }

    /// The version of the store now: what everything that is written from here on is newer than.
    pub async fn version(&self) -> Result<StoreVersion, ReadError> {
        let key = Key::<pb::StoreMeta>::of(&crate::keys::TheStore);
        let range = Range { key: key.as_str().into(), ..Range::default() };
        let found = self
            .client
            .range(&range)
            .await
            .map_err(|failure| ReadError::of(&self.client.store, key.as_str(), 0, failure))?;
        let meta = found.entries.first().map(Entry::decode::<pb::StoreMeta>).transpose()?;
        let term = meta.map_or(self.term(), |meta| meta.value.term);
        Ok(StoreVersion { term, revision: found.header.revision })
    }
}

impl Client {
    pub(crate) async fn get<R: Record>(&self, key: &Key<R>) -> Result<Option<Versioned<R>>, ReadError> {
        let range = Range { key: key.as_str().into(), ..Range::default() };
        let found = self
            .range(&range)
            .await
            .map_err(|failure| ReadError::of(&self.store, key.as_str(), 0, failure))?;
        Ok(found.entries.first().map(Entry::decode).transpose()?)
    }
}

enum GetBatchError {
    Failure(Failure),
    Read(ReadError),
}

/// The range of at most `limit` keys under `prefix` that come after `after`.
pub(crate) fn page_range(
    prefix: &str,
    after: Option<&str>,
    revision: i64,
    limit: usize,
    keys_only: bool,
) -> Range {
    let key = match after {
        None => prefix.as_bytes().to_vec(),
        // The smallest key that is greater.
        Some(after) => [after.as_bytes(), &[0]].concat(),
    };
    let limit = i64::try_from(limit).unwrap_or(i64::MAX);
    Range { key, end: Some(range_end(prefix)), revision, limit, keys_only, ..Range::default() }
}
