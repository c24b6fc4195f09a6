//! Raw calls to etcd: each with a deadline, reads retried, every answer's header looked at. What a failure means for a record or a
//! transaction is decided above.

use std::sync::Arc;
use std::sync::atomic::{AtomicI64, AtomicU64, Ordering};
use std::time::Duration;

use bytes::Bytes;
use etcd_client::proto::{PbKeyValue, PbResponseHeader, PbTxnOpResponse};
use etcd_client::{
    ClusterClient, ConnectOptions, GetOptions, KvClient, LeaseClient, MaintenanceClient, SortOrder,
    SortTarget, WatchClient, WatchOptions, WatchStream,
};
use tokio::sync::Notify;
use tokio::time::{Instant, timeout, timeout_at};
use tonic::transport::Channel;

use crate::backoff::Backoff;
use crate::config::EtcdTls;
use crate::failure::Failure;
use crate::observe;
use crate::record::Entry;

/// The largest answer that is taken; a larger one is asked for in smaller parts.
const ANSWER_BYTES_MAX: usize = 16 * 1024 * 1024;
/// The largest watch message that is taken. etcd sends fragments of about 2 MiB.
const WATCH_BYTES_MAX: usize = 16 * 1024 * 1024;
/// The longest wait between two tries of one call.
const RETRY_WAIT_MAX: Duration = Duration::from_secs(1);
/// A watch of a single key that is silent for so long is asked whether it lives, and given up after as long again.
pub(crate) const WATCH_SILENCE: Duration = Duration::from_secs(10);

/// The store at the time of an answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Header {
    /// Names the data.
    pub cluster_id: u64,
    /// Its newest revision.
    pub revision: i64,
}

/// Which keys to read.
#[derive(Debug, Clone, Default)]
pub struct Range {
    /// The first key.
    pub key: Vec<u8>,
    /// The first key that is no longer meant. Absent: only `key`.
    pub end: Option<Vec<u8>>,
    /// At which revision. 0: now.
    pub revision: i64,
    /// How many at most. 0: all.
    pub limit: i64,
    /// Leave out the values.
    pub keys_only: bool,
    /// Leave out all but the count.
    pub count_only: bool,
    /// The one that was written last comes first.
    pub newest_first: bool,
}

/// What was read.
#[derive(Debug)]
pub struct Found {
    /// Of the answer.
    pub header: Header,
    /// By key.
    pub entries: Vec<Entry>,
    /// There are more than the limit.
    pub more: bool,
    /// How many there are without the limit.
    pub count: i64,
}

/// How one member is.
#[derive(Debug)]
pub(crate) struct MemberStatus {
    pub(crate) member: u64,
    /// 0: it knows none.
    pub(crate) leader: u64,
    pub(crate) version: String,
    pub(crate) size_bytes: i64,
    pub(crate) used_bytes: i64,
    /// 0: it does not say.
    pub(crate) quota_bytes: i64,
}

/// One member of the store's cluster.
#[derive(Debug)]
pub(crate) struct Member {
    pub(crate) id: u64,
    pub(crate) name: String,
    /// Where it serves clients.
    pub(crate) urls: Vec<String>,
}

/// The connection.
#[derive(Debug)]
pub(crate) struct Client {
    kv: Parts,
    /// What people call the store, as `etcd at http://127.0.0.1:2379`.
    pub(crate) store: Arc<str>,
    pub(crate) deadline: Duration,
    /// By which its other members are reached too.
    pub(crate) tls: Option<EtcdTls>,
    /// The newest revision that any answer told of.
    seen: AtomicI64,
    /// The cluster that the store's term is of. 0: not known yet.
    cluster_id: AtomicU64,
    /// An answer was older than what was seen before, or of another cluster.
    pub(crate) suspicion: Notify,
}

#[derive(Clone)]
struct Parts {
    kv: KvClient,
    watch: WatchClient,
    lease: LeaseClient,
    maintenance: MaintenanceClient,
    cluster: ClusterClient,
}

impl std::fmt::Debug for Parts {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Parts").finish_non_exhaustive()
    }
}

impl Client {
    pub(crate) async fn new(
        store: Arc<str>,
        channel: Channel,
        tls: Option<EtcdTls>,
        deadline: Duration,
    ) -> Result<Self, Failure> {
        // A member that has lost its leader says so instead of letting us wait.
        let options = ConnectOptions::new().with_require_leader(true);
        let client =
            etcd_client::Client::from_channel(etcd_client::Channel::Tonic(channel), Some(options)).await?;
        Ok(Self {
            kv: Parts {
                kv: client.kv_client().max_decoding_message_size(ANSWER_BYTES_MAX),
                watch: client.watch_client().max_decoding_message_size(WATCH_BYTES_MAX),
                lease: client.lease_client(),
                maintenance: client.maintenance_client(),
                cluster: client.cluster_client(),
            },
            store,
            deadline,
            tls,
            seen: AtomicI64::new(0),
            cluster_id: AtomicU64::new(0),
            suspicion: Notify::new(),
        })
    }

    /// Reads, trying again within the deadline.
    pub(crate) async fn range(&self, range: &Range) -> Result<Found, Failure> {
        observe::call("range", self.retried(|| self.range_once(range))).await
    }

    async fn range_once(&self, range: &Range) -> Result<Found, Failure> {
        let mut options = GetOptions::new().with_revision(range.revision).with_limit(range.limit);
        if let Some(end) = &range.end {
            options = options.with_range(end.clone());
        }
        if range.keys_only {
            options = options.with_keys_only();
        }
        if range.count_only {
            options = options.with_count_only();
        }
        if range.newest_first {
            options = options.with_sort(SortTarget::Mod, SortOrder::Descend);
        }
        let seen = self.seen();
        let mut kv = self.kv.kv.clone();
        let answer = kv.get(range.key.clone(), Some(options)).await?.0;
        let header = self.look(answer.header.as_ref(), seen)?;
        let entries = answer.kvs.into_iter().map(entry).collect::<Result<_, _>>()?;
        Ok(Found { header, entries, more: answer.more, count: answer.count })
    }

    /// Runs a transaction. Tried again only while it is certain that it was never sent.
    pub(crate) async fn txn(
        &self,
        txn: etcd_client::Txn,
    ) -> Result<(Header, etcd_client::TxnResponse), Failure> {
        observe::call("txn", self.txn_unobserved(txn)).await
    }

    async fn txn_unobserved(
        &self,
        txn: etcd_client::Txn,
    ) -> Result<(Header, etcd_client::TxnResponse), Failure> {
        let deadline = Instant::now() + self.deadline;
        let mut backoff = Backoff::up_to(RETRY_WAIT_MAX);
        loop {
            let seen = self.seen();
            let mut kv = self.kv.kv.clone();
            let answer = match timeout_at(deadline, kv.txn(txn.clone())).await {
                Ok(answer) => answer.map_err(Failure::from),
                Err(_) => Err(Failure::Unclear(format!("none within {:?}", self.deadline))),
            };
            match answer {
                Ok(answer) => return Ok((self.look(answer.0.header.as_ref(), seen)?, answer)),
                Err(failure @ (Failure::NotSent(_) | Failure::Overloaded(_))) => {
                    let wait = backoff.next();
                    if Instant::now() + wait >= deadline {
                        return Err(failure);
                    }
                    tokio::time::sleep(wait).await;
                }
                Err(failure) => return Err(failure),
            }
        }
    }

    /// Runs a transaction that only reads: tried again within the deadline.
    pub(crate) async fn read_txn(
        &self,
        txn: etcd_client::Txn,
    ) -> Result<(Header, etcd_client::TxnResponse), Failure> {
        let reading = self.retried(|| async {
            let seen = self.seen();
            let mut kv = self.kv.kv.clone();
            let answer = kv.txn(txn.clone()).await?;
            Ok((self.look(answer.0.header.as_ref(), seen)?, answer))
        });
        observe::call("range", reading).await
    }

    /// A new lease. Answers its id and the seconds that the server gave it.
    pub(crate) async fn grant(&self, ttl: Duration) -> Result<(i64, Duration), Failure> {
        let seconds = i64::try_from(ttl.as_secs()).unwrap_or(i64::MAX);
        self.retried(|| async {
            let mut lease = self.kv.lease.clone();
            let answer = lease.grant(seconds, None).await?;
            Ok((answer.id(), Duration::from_secs(u64::try_from(answer.ttl()).unwrap_or(0))))
        })
        .await
    }

    /// How the member that answers is, and who the members are.
    pub(crate) async fn status(&self) -> Result<(MemberStatus, Vec<Member>), Failure> {
        self.retried(|| async {
            let (mut maintenance, mut cluster) = (self.kv.maintenance.clone(), self.kv.cluster.clone());
            let status = maintenance.status().await?.0;
            let members = cluster.member_list().await?;
            let members = members.members().iter().map(|member| Member {
                id: member.id(),
                name: member.name().to_owned(),
                urls: member.client_urls().to_vec(),
            });
            let status = MemberStatus {
                member: status.header.map_or(0, |header| header.member_id),
                leader: status.leader,
                version: status.version,
                size_bytes: status.db_size,
                used_bytes: status.db_size_in_use,
                quota_bytes: status.db_size_quota,
            };
            Ok((status, members.collect()))
        })
        .await
    }

    /// Renews a lease once.
    pub(crate) async fn keep_alive(&self, id: i64, deadline: Duration) -> Result<(), Failure> {
        let mut lease = self.kv.lease.clone();
        match timeout(deadline, lease.keep_alive(id)).await {
            Ok(answer) => Ok(answer.map(|_| ())?),
            Err(_) => Err(Failure::Unclear(format!("none within {deadline:?}"))),
        }
    }

    /// Ends a lease. One that is gone already counts as ended.
    pub(crate) async fn revoke(&self, id: i64) -> Result<(), Failure> {
        let ended = self
            .retried(|| async {
                let mut lease = self.kv.lease.clone();
                Ok(lease.revoke(id).await.map(|_| ())?)
            })
            .await;
        match ended {
            Ok(()) | Err(Failure::LeaseGone) => Ok(()),
            Err(failure) => Err(failure),
        }
    }

    /// Opens a watch stream with a first watch on it.
    pub(crate) async fn watch(&self, key: Vec<u8>, options: WatchOptions) -> Result<WatchStream, Failure> {
        let mut watch = self.kv.watch.clone();
        match timeout(self.deadline, watch.watch(key, Some(options))).await {
            Ok(stream) => Ok(stream?),
            Err(_) => Err(Failure::Unclear(format!("none within {:?}", self.deadline))),
        }
    }

    /// Waits until `key` may have changed after `revision`: it did, or nobody can tell any longer. The caller reads again.
    pub(crate) async fn wait_change(&self, key: &str, revision: i64) -> Result<(), Failure> {
        let options = WatchOptions::new().with_start_revision(revision + 1);
        let mut stream = self.watch(key.as_bytes().to_vec(), options).await?;
        let mut asked = false;
        loop {
            match timeout(WATCH_SILENCE, stream.message()).await {
                Ok(Ok(Some(message))) if message.created() && !message.canceled() => asked = false,
                Ok(Ok(Some(message))) if message.canceled() || !message.events().is_empty() => return Ok(()),
                Ok(Ok(Some(_))) => asked = false,
                Ok(Ok(None)) => return Err(Failure::Unclear("the watch ended".to_owned())),
                Ok(Err(error)) => return Err(error.into()),
                Err(_) if asked => return Err(Failure::Unclear("the watch is silent".to_owned())),
                Err(_) => {
                    asked = true;
                    stream.request_progress().await?;
                }
            }
        }
    }

    /// Tries until it works, fails for good, or the deadline has passed.
    async fn retried<T, F>(&self, call: impl Fn() -> F) -> Result<T, Failure>
    where
        F: Future<Output = Result<T, Failure>>,
    {
        let deadline = Instant::now() + self.deadline;
        let mut backoff = Backoff::up_to(RETRY_WAIT_MAX);
        loop {
            let failure = match timeout_at(deadline, call()).await {
                Ok(Ok(answer)) => return Ok(answer),
                Ok(Err(failure)) if failure.is_passing() => failure,
                Ok(Err(failure)) => return Err(failure),
                Err(_) => return Err(Failure::Unclear(format!("none within {:?}", self.deadline))),
            };
            let wait = backoff.next();
            if Instant::now() + wait >= deadline {
                return Err(failure);
            }
            tokio::time::sleep(wait).await;
        }
    }

    /// The newest revision that any answer told of. Taken before a call, it is what the answer cannot be older than.
    fn seen(&self) -> i64 {
        self.seen.load(Ordering::Acquire)
    }

    /// A watch told of this revision.
    pub(crate) fn saw(&self, revision: i64) {
        self.seen.fetch_max(revision, Ordering::AcqRel);
    }

    /// The store is known to stand here, whatever was seen before.
    pub(crate) fn settle(&self, header: Header) {
        self.seen.store(header.revision, Ordering::Release);
        self.cluster_id.store(header.cluster_id, Ordering::Release);
    }

    /// The cluster that the store's term is of.
    pub(crate) fn cluster_id(&self) -> u64 {
        self.cluster_id.load(Ordering::Acquire)
    }

    /// Reads and transactions are linearizable: an answer that is older than one that had come before the call was of a store that was
    /// restored in between.
    fn look(&self, header: Option<&PbResponseHeader>, seen: i64) -> Result<Header, Failure> {
        let header = header.ok_or_else(|| Failure::Unclear("it has no header".to_owned()))?;
        let header = Header { cluster_id: header.cluster_id, revision: header.revision };
        let known = self.cluster_id();
        if header.revision < seen || (known != 0 && known != header.cluster_id) {
            self.suspicion.notify_one();
        } else {
            self.saw(header.revision);
        }
        Ok(header)
    }
}

/// The first entry of each range of a transaction's answer.
pub(crate) fn ranges(answer: etcd_client::TxnResponse) -> Result<Vec<Option<Entry>>, Failure> {
    let mut entries = Vec::with_capacity(answer.0.responses.len());
    for response in answer.0.responses {
        let Some(PbTxnOpResponse::ResponseRange(range)) = response.response else {
            return Err(Failure::Refused("the answer to a read is none".to_owned()));
        };
        entries.push(range.kvs.into_iter().next().map(entry).transpose()?);
    }
    Ok(entries)
}

/// etcd's form of an entry as ours. The value is moved, not copied.
pub(crate) fn entry(kv: PbKeyValue) -> Result<Entry, Failure> {
    let key = String::from_utf8(kv.key).map_err(|_| Failure::Refused("a key is not UTF-8".to_owned()))?;
    Ok(Entry {
        key: Arc::from(key),
        bytes: Bytes::from(kv.value),
        create_revision: kv.create_revision,
        mod_revision: kv.mod_revision,
    })
}
