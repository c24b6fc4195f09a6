//! How the store itself is: for people, and for readiness.

use std::sync::{Arc, PoisonError};
use std::time::Duration;

use skerry_proto::store::v1 as pb;
use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio::time::{Instant, timeout};

use crate::client::Range;
use crate::config::{EtcdTls, Target};
use crate::error::ReadError;
use crate::keys::{Key, TheStore};
use crate::mirror::Liveness;
use crate::observe;
use crate::store::Store;

/// Between two looks whether the store answers.
const PERIOD: Duration = Duration::from_secs(2);
/// The same while it did not: whoever waits for it is told soon.
const PERIOD_UNREADY: Duration = Duration::from_millis(100);
/// Longest that it may take to answer and count as ready.
const DEADLINE: Duration = Duration::from_secs(3);
/// Longest that a member may take to say how it is.
const MEMBER_DEADLINE: Duration = Duration::from_secs(2);
/// Most members that are asked: etcd advises against more than seven.
const MEMBERS_MAX: usize = 9;
/// What the embedded store calls its one member.
const EMBEDDED: &str = "skerry-embedded";

/// How the store is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Inspection {
    /// It is the embedded one.
    pub embedded: bool,
    /// The version of etcd that it is, or whose interface it has.
    pub version: String,
    /// What it takes on disk at the member that was asked.
    pub size_bytes: i64,
    /// What of that is in use.
    pub used_bytes: i64,
    /// The most that it may take. 0: it does not say.
    pub quota_bytes: i64,
    /// How long one linearizable read took.
    pub latency: Duration,
    /// How many members it has.
    pub members: u32,
    /// How many of them answer and know a leader.
    pub members_healthy: u32,
}

impl Store {
    /// Asks the store how it is: one read, and a question to each member.
    pub async fn inspect(&self) -> Result<Inspection, ReadError> {
        let failed = |failure| ReadError::of(&self.client.store, "the state of the store", 0, failure);
        let asked = Instant::now();
        self.client.range(&probe()).await.map_err(failed)?;
        let latency = asked.elapsed();
        let (status, members) = self.client.status().await.map_err(failed)?;
        let embedded = members.iter().any(|member| member.name == EMBEDDED);
        // The one that answered is healthy if it knows a leader. The embedded store is one that is always.
        let others = members.iter().filter(|member| !embedded && member.id != status.member);
        let mut healthy = u32::from(embedded || status.leader != 0);
        let mut asking: JoinSet<bool> = others
            .take(MEMBERS_MAX)
            .map(|member| is_healthy(member.urls.clone(), self.client.tls.clone()))
            .collect();
        while let Some(answer) = asking.join_next().await {
            healthy += u32::from(answer.unwrap_or(false));
        }
        Ok(Inspection {
            embedded,
            version: status.version,
            size_bytes: status.size_bytes,
            used_bytes: status.used_bytes,
            quota_bytes: status.quota_bytes,
            latency,
            members: u32::try_from(members.len()).unwrap_or(u32::MAX).max(1),
            members_healthy: healthy,
        })
    }

    /// Whether the store answers and every mirror of this connection follows it, looked at every two seconds, more often while they do not. The last value stays when the
    /// connection closes.
    pub fn watch_ready(&self) -> watch::Receiver<bool> {
        let (tell, ready) = watch::channel(false);
        let (client, mirrors) = (Arc::clone(&self.client), Arc::clone(&self.mirrors));
        self.spawn(|stop| async move {
            let looking = async {
                loop {
                    let answers = matches!(timeout(DEADLINE, client.range(&probe())).await, Ok(Ok(_)));
                    let live = {
                        let mut mirrors = mirrors.lock().unwrap_or_else(PoisonError::into_inner);
                        mirrors.retain(|mirror| !mirror.has_ended());
                        mirrors.iter().all(Liveness::is_live)
                    };
                    let is_ready = answers && live;
                    observe::ready(is_ready);
                    tell.send_if_modified(|told| std::mem::replace(told, is_ready) != is_ready);
                    tokio::time::sleep(if is_ready { PERIOD } else { PERIOD_UNREADY }).await;
                }
            };
            tokio::select! {
                () = stop.cancelled() => {}
                () = looking => {}
            }
        });
        ready
    }
}

/// The cheapest read that only a store with a leader answers.
fn probe() -> Range {
    Range { key: Key::<pb::StoreMeta>::of(&TheStore).as_str().into(), keys_only: true, ..Range::default() }
}

/// Whether the member at one of these addresses answers and knows a leader.
async fn is_healthy(urls: Vec<String>, tls: Option<EtcdTls>) -> bool {
    let asking = async {
        for url in urls {
            let target = Target::parse_with(&url, tls.clone());
            let Some(channel) = target.ok().and_then(|target| target.channel().ok()) else {
                continue;
            };
            let channel = etcd_client::Channel::Tonic(channel);
            let Ok(client) = etcd_client::Client::from_channel(channel, None).await else { continue };
            if client.maintenance_client().status().await.is_ok_and(|status| status.leader() != 0) {
                return true;
            }
        }
        false
    };
    timeout(MEMBER_DEADLINE, asking).await.unwrap_or(false)
}
