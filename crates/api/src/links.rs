//! From one service to the replicas of another: which are alive, and connections to them. What is alive is read from the store when it is needed.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use skerry_model::Fault;
use skerry_proto::store::v1 as stored;
use skerry_rpc::TlsFiles;
use skerry_store::keys::MemberId;
use skerry_store::{Key, PageRequest, Prefix, Store};
use tonic::transport::Channel;

/// Calls on one connection: fewer than the 256 that a server takes, since each may be a stream that lasts.
const CALLS_PER_CONNECTION_MAX: usize = 200;
/// Addresses that connections are kept to. Beyond it all are forgotten: those in use stay open as long as they are.
const ADDRESSES_MAX: usize = 256;
/// Replicas of all services that are looked through.
const MEMBERS_MAX: usize = 1000;

/// Connections of a service to others, kept for the next call.
#[derive(Debug)]
pub struct Links {
    tls: Option<Arc<TlsFiles>>,
    links: Mutex<HashMap<String, Vec<Link>>>,
}

/// One connection.
#[derive(Debug)]
struct Link {
    channel: Channel,
    uses: Arc<()>,
}

/// A connection as long as it is used for one call.
#[derive(Debug, Clone)]
pub struct Borrowed {
    /// To call on.
    pub channel: Channel,
    _use: Arc<()>,
}

/// One replica of a service that is alive.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Replica {
    /// The last part of `members/<id>`: random for each start.
    pub id: String,
    /// `host:port`.
    pub address: String,
}

impl Replica {
    /// The replicas of a service that are alive, or were until some seconds ago; by id.
    ///
    /// # Errors
    ///
    /// Those of the store.
    pub async fn all(store: &Store, service: &str) -> Result<Vec<Self>, Fault> {
        let all = Prefix::<stored::MemberRecord>::all();
        let page = store.list(&all, &PageRequest::first(MEMBERS_MAX)).await?;
        let ours = page.items.into_iter().filter(|member| member.value.service == service);
        Ok(ours
            .map(|member| Self { id: member.key.name().to_string(), address: member.value.address })
            .collect())
    }

    /// Where the replica of that id of a service is, if it is alive.
    ///
    /// # Errors
    ///
    /// Those of the store.
    pub async fn address_of(store: &Store, service: &str, id: &str) -> Result<Option<String>, Fault> {
        let Ok(id) = MemberId::parse(id) else { return Ok(None) };
        let member = store.get(&Key::<stored::MemberRecord>::of(&id)).await?;
        Ok(member.filter(|member| member.value.service == service).map(|member| member.value.address))
    }
}

impl Links {
    /// None yet. `tls`: by what the service proves who it is; absent: without TLS.
    pub fn new(tls: Option<Arc<TlsFiles>>) -> Self {
        Self { tls, links: Mutex::default() }
    }

    /// A connection to the service at `address`, which must prove to be one of `names`.
    ///
    /// # Errors
    ///
    /// `UNAVAILABLE`: nobody answers there, or somebody else does.
    pub async fn connect(&self, address: &str, names: &[&str]) -> Result<Borrowed, Fault> {
        if let Some(kept) = self.kept(address) {
            return Ok(kept);
        }
        let tls = self.tls.as_ref().map(|files| files.client_of_services(names));
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
    pub fn failed(&self, address: &str, status: &tonic::Status) {
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
