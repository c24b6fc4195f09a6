//! Who is where: the session of a node and its gateway, schedulers, other relays; and the connections to them. All is read from the store when it
//! is needed: a relay holds nothing of the fleet.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use skerry_model::{Code, Fault, NodeRef};
use skerry_proto::gateway::v1 as gateway;
use skerry_proto::gateway::v1::offer_service_client::OfferServiceClient;
use skerry_proto::store::v1 as stored;
use skerry_rpc::{Traced, fault_of};
use skerry_store::keys::{GatewayId, MemberId};
use skerry_store::{Key, PageRequest, Prefix, Store};
use tonic::transport::Channel;

use crate::config::Config;

/// Calls on one connection: fewer than the 256 that a server takes, since each may be a channel that lasts.
const CALLS_PER_CONNECTION_MAX: usize = 200;
/// Addresses that connections are kept to. Beyond it all are forgotten: those in use stay open as long as they are.
const ADDRESSES_MAX: usize = 256;
/// Replicas of a service that are looked through.
const MEMBERS_MAX: usize = 1000;
/// Longest that an offer may take, the agent's answer included.
const OFFER_DEADLINE: Duration = Duration::from_secs(8);

/// See the module.
pub(crate) struct Reach {
    config: Config,
    store: Store,
    links: Mutex<HashMap<String, Vec<Link>>>,
}

/// One connection.
struct Link {
    channel: Channel,
    uses: Arc<()>,
}

/// A connection as long as it is used for one call.
#[derive(Debug, Clone)]
pub(crate) struct Borrowed {
    pub(crate) channel: Channel,
    _use: Arc<()>,
}

/// A node's open session.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Session {
    /// Where its gateway is.
    pub(crate) gateway: String,
    pub(crate) epoch: gateway::Version,
}

/// One replica of a service.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Member {
    pub(crate) id: String,
    pub(crate) address: String,
}

impl Reach {
    pub(crate) fn new(config: Config, store: Store) -> Self {
        Self { config, store, links: Mutex::default() }
    }

    /// Where agents reach the relays.
    pub(crate) fn advertised(&self) -> Vec<String> {
        self.config.advertise.clone()
    }

    /// The open session of `node`. Error: `NODE_NOT_CONNECTED`.
    pub(crate) async fn session(&self, node: &NodeRef) -> Result<Session, Fault> {
        let record = self.store.get(&Key::<stored::SessionRecord>::of(node)).await?;
        let open = record.filter(|record| record.value.close_time.is_none());
        let Some(record) = open else { return Err(not_connected(node)) };
        let Ok(id) = GatewayId::parse(&record.value.gateway) else { return Err(not_connected(node)) };
        let Some(gateway) = self.store.get(&Key::<stored::GatewayRecord>::of(&id)).await? else {
            return Err(not_connected(node));
        };
        let epoch = gateway::Version { store_term: self.store.term(), revision: record.mod_revision };
        Ok(Session { gateway: gateway.value.address, epoch })
    }

    /// Has the gateway of a session offer a channel to its agent.
    pub(crate) async fn offer(
        &self,
        node: &NodeRef,
        session: Session,
        offer: gateway::ChannelOffer,
    ) -> Result<(), Fault> {
        let connection = self.connect(&session.gateway, &["gateway", "skerry"]).await?;
        let mut client = OfferServiceClient::new(Traced::new(connection.channel.clone()));
        let request = gateway::OfferChannelRequest {
            node: node.to_string(),
            epoch: Some(session.epoch),
            offer: Some(offer),
        };
        let answer = tokio::time::timeout(OFFER_DEADLINE, client.offer_channel(request)).await;
        match answer {
            Ok(Ok(_)) => Ok(()),
            Ok(Err(status)) => {
                self.failed(&session.gateway, &status);
                Err(fault_of(&status))
            }
            Err(_) => Err(Fault::unavailable(format!("the gateway of {node} did not answer in time"))),
        }
    }

    /// The replicas of a service that are alive.
    pub(crate) async fn members(&self, service: &str) -> Result<Vec<Member>, Fault> {
        let all = Prefix::<stored::MemberRecord>::all();
        let page = self.store.list(&all, &PageRequest::first(MEMBERS_MAX)).await?;
        let ours = page.items.into_iter().filter(|member| member.value.service == service);
        Ok(ours
            .map(|member| Member { id: member.key.name().to_string(), address: member.value.address })
            .collect())
    }

    /// Where the relay of that id is, if it is alive.
    pub(crate) async fn relay(&self, id: &str) -> Result<Option<String>, Fault> {
        let Ok(id) = MemberId::parse(id) else { return Ok(None) };
        let member = self.store.get(&Key::<stored::MemberRecord>::of(&id)).await?;
        Ok(member.filter(|member| member.value.service == "relay").map(|member| member.value.address))
    }

    /// A connection to the service at `address`, which is one of `names`.
    pub(crate) async fn connect(&self, address: &str, names: &[&str]) -> Result<Borrowed, Fault> {
        if let Some(kept) = self.kept(address) {
            return Ok(kept);
        }
        let tls = self.config.tls.as_ref().map(|files| files.client_of_services(names));
        let channel = skerry_rpc::connect(address, tls.as_ref())
            .await
            .map_err(|error| Fault::unavailable(format!("{error}: try again")))?;
        let uses = Arc::new(());
        let borrowed = Borrowed { channel: channel.clone(), _use: Arc::clone(&uses) };
        let mut links = self.links();
        if links.len() >= ADDRESSES_MAX {
            links.clear();
        }
        links.entry(address.to_owned()).or_default().push(Link { channel, uses });
        Ok(borrowed)
    }

    /// A call to `address` failed. Where nobody answers there any more, the next call connects anew.
    pub(crate) fn failed(&self, address: &str, status: &tonic::Status) {
        if status.code() == tonic::Code::Unavailable {
            self.links().remove(address);
        }
    }

    fn kept(&self, address: &str) -> Option<Borrowed> {
        let links = self.links();
        let free = |link: &&Link| Arc::strong_count(&link.uses) <= CALLS_PER_CONNECTION_MAX;
        let link = links.get(address)?.iter().find(free)?;
        Some(Borrowed { channel: link.channel.clone(), _use: Arc::clone(&link.uses) })
    }

    fn links(&self) -> MutexGuard<'_, HashMap<String, Vec<Link>>> {
        self.links.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn not_connected(node: &NodeRef) -> Fault {
    let message = format!("{node} is not connected: nothing can be asked of it until it is back");
    Fault::new(Code::Unavailable, "NODE_NOT_CONNECTED", message).with("node", node)
}
