//! Who is where: the session of a node and its gateway, schedulers, other relays; and the connections to them. All is read from the store when it
//! is needed: a relay holds nothing of the fleet.

use std::time::Duration;

use skerry_api::{Borrowed, Links, Replica};
use skerry_model::{Code, Fault, NodeRef};
use skerry_proto::gateway::v1 as gateway;
use skerry_proto::gateway::v1::offer_service_client::OfferServiceClient;
use skerry_proto::store::v1 as stored;
use skerry_rpc::{Traced, fault_of};
use skerry_store::keys::GatewayId;
use skerry_store::{Key, Store};

use crate::config::Config;

/// Longest that an offer may take, the agent's answer included.
const OFFER_DEADLINE: Duration = Duration::from_secs(8);

/// See the module.
pub(crate) struct Reach {
    advertised: Vec<String>,
    store: Store,
    links: Links,
}

/// A node's open session.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Session {
    /// Where its gateway is.
    pub(crate) gateway: String,
    pub(crate) epoch: gateway::Version,
}

impl Reach {
    pub(crate) fn new(config: Config, store: Store) -> Self {
        Self { advertised: config.advertise, store, links: Links::new(config.tls) }
    }

    /// Where agents reach the relays.
    pub(crate) fn advertised(&self) -> Vec<String> {
        self.advertised.clone()
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
    pub(crate) async fn members(&self, service: &str) -> Result<Vec<Replica>, Fault> {
        Replica::all(&self.store, service).await
    }

    /// Where the relay of that id is, if it is alive.
    pub(crate) async fn relay(&self, id: &str) -> Result<Option<String>, Fault> {
        Replica::address_of(&self.store, "relay", id).await
    }

    /// A connection to the service at `address`, which is one of `names`.
    pub(crate) async fn connect(&self, address: &str, names: &[&str]) -> Result<Borrowed, Fault> {
        self.links.connect(address, names).await
    }

    /// A call to `address` failed. Where nobody answers there any more, the next call connects anew.
    pub(crate) fn failed(&self, address: &str, status: &tonic::Status) {
        self.links.failed(address, status);
    }
}

fn not_connected(node: &NodeRef) -> Fault {
    let message = format!("{node} is not connected: nothing can be asked of it until it is back");
    Fault::new(Code::Unavailable, "NODE_NOT_CONNECTED", message).with("node", node)
}
