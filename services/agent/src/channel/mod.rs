//! Channels: what relays ask of this agent while it runs. Each was offered by the gateway, is dialled by the agent, and is one stream on one more
//! connection, which is there only while a channel is.
//!
//! | module | job |
//! |---|---|
//! | `relays` | the connection to relays, shared by all channels, gone with the last one |
//! | `stream` | one channel: hello, what is wanted, the end |
//! | `logs` | the verb `logs` |
//! | `own_log` | the same, of the agent itself |
//! | `exec` | the verbs `exec` and `node-shell` |
//! | `forbidden` | what this machine lets nobody do |
//! | `forward` | the verb `port-forward` |
//! | `netns` | connections as the copies of instances themselves would make them |
//! | `copy` | the verb `copy` |
//! | `act` | the verb `act` |
//! | `bundle` | the verb `bundle` |
//! | `usage` | the verb `usage` |
//!
//! All channels end with the session by which they were offered. Without one this costs nothing.

mod act;
mod bundle;
mod copy;
mod exec;
pub(crate) mod forbidden;
mod forward;
mod logs;
mod netns;
mod own_log;
mod relays;
mod stream;
mod usage;

use std::sync::Arc;
use std::time::Duration;

use skerry_daemon::OwnLog;
use skerry_model::NodeRef;
use skerry_proto::gateway::v1 as pb;
use skerry_rpc::ClientTls;
use tokio::sync::mpsc;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;
use tonic::transport::Uri;

pub(crate) use self::bundle::{BundleFile, Sources, line};
use self::forbidden::Forbidden;
use self::relays::Relays;
use crate::hand::Ask;
use crate::runtime::Runtime;

/// Most channels at once. Each holds some hundred KiB where its reader is slow.
const CHANNELS_MAX: usize = 64;
/// How long channels may take to say their last word when the agent ends.
const LAST_WORDS: Duration = Duration::from_secs(1);
/// The verbs that are served.
const VERBS: [&str; 8] = ["logs", "exec", "node-shell", "port-forward", "copy", "act", "bundle", "usage"];

/// The channels of this agent.
pub(crate) struct Channels {
    node: NodeRef,
    runtimes: Arc<[Arc<dyn Runtime>]>,
    forbidden: Arc<Forbidden>,
    desk: mpsc::Sender<Ask>,
    sources: Arc<Sources>,
    relays: Arc<Relays>,
    open: JoinSet<()>,
    /// Ends those of the present session.
    session: CancellationToken,
}

impl Channels {
    /// None yet; `runtimes` and `desk` are those of the reconciler.
    pub(crate) fn new(
        node: NodeRef,
        runtimes: &[Arc<dyn Runtime>],
        forbidden: Forbidden,
        desk: mpsc::Sender<Ask>,
        sources: Sources,
    ) -> Self {
        OwnLog::of_process();
        Self {
            node,
            runtimes: runtimes.into(),
            forbidden: Arc::new(forbidden),
            desk,
            sources: Arc::new(sources),
            relays: Arc::default(),
            open: JoinSet::new(),
            session: CancellationToken::new(),
        }
    }

    /// Opens a channel that was offered, or says why not. `tls` is by what relays are dialled, `gateway` where the offer came from.
    pub(crate) fn offered(
        &mut self,
        offer: pb::ChannelOffer,
        tls: Result<Option<ClientTls>, String>,
        gateway: &Uri,
    ) -> pb::ChannelAnswer {
        let channel = offer.channel.clone();
        let refused = |reason: &str, message: String| pb::ChannelAnswer {
            channel: channel.clone(),
            refused: reason.to_owned(),
            message,
        };
        if !VERBS.contains(&offer.verb.as_str()) {
            return refused("VerbUnknown", format!("this agent does not know `{}`: update it", offer.verb));
        }
        if let Some(why) = self.forbidden.why(&offer.verb) {
            return refused(forbidden::REASON, why);
        }
        if self.open.len() >= CHANNELS_MAX {
            return refused("TooManyChannels", format!("this agent has its {CHANNELS_MAX} channels already"));
        }
        let tls = match tls {
            Ok(tls) => tls,
            Err(why) => return refused("NoIdentity", why),
        };
        let asked: Result<Vec<Uri>, _> = offer.relays.iter().map(|relay| relay.parse()).collect();
        let places = match asked {
            Ok(places) if places.is_empty() => vec![gateway.clone()],
            Ok(places) => places,
            Err(error) => {
                return refused("NoAddress", format!("a relay has an address that cannot be read: {error}"));
            }
        };
        tracing::debug!(channel, verb = offer.verb, "a channel is opened");
        let parts = stream::Parts {
            node: self.node.to_string(),
            offer,
            places,
            tls,
            relays: Arc::clone(&self.relays),
            runtimes: Arc::clone(&self.runtimes),
            forbidden: Arc::clone(&self.forbidden),
            desk: self.desk.clone(),
            sources: Arc::clone(&self.sources),
            session: self.session.clone(),
        };
        // On the heap, and only as long as it is open.
        self.open.spawn(Box::pin(stream::run(parts)));
        pb::ChannelAnswer { channel, ..pb::ChannelAnswer::default() }
    }

    /// The session is over, and with it its channels.
    pub(crate) fn session_lost(&mut self) {
        if !self.open.is_empty() {
            self.session.cancel();
            self.session = CancellationToken::new();
        }
    }

    /// Clears away a channel that has ended; never, while none has. May be dropped and called again.
    pub(crate) async fn ended(&mut self) {
        if self.open.join_next().await.is_none() {
            std::future::pending::<()>().await;
        }
    }

    /// Ends all of them.
    pub(crate) async fn finish(&mut self) {
        self.session.cancel();
        let ended = async { while self.open.join_next().await.is_some() {} };
        if tokio::time::timeout(LAST_WORDS, ended).await.is_err() {
            self.open.shutdown().await;
        }
    }
}
