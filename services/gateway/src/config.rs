//! What a gateway is started with.

use std::sync::Arc;
use std::time::Duration;

use skerry_daemon::ServiceArgs;
use skerry_rpc::TlsFiles;
use skerry_sync::limits;

use crate::issuing::Issuing;

/// Flags of the `skerry-gateway` process.
#[derive(Debug, Clone, clap::Args)]
pub struct Args {
    #[command(flatten)]
    #[allow(missing_docs, reason = "a comment here would become the title of all flags in --help")]
    pub service: ServiceArgs<7773>,

    /// Refuse agents whose node is not in the registry, instead of registering it
    #[arg(long, env = "SKERRY_NO_AUTO_REGISTER")]
    pub no_auto_register: bool,

    /// Registry to ask for machines that enrol and nodes that renew their certificates, as http://host:7771; several with commas, the
    /// first that answers is asked; absent: nobody enrols here
    #[arg(long, env = "SKERRY_REGISTRY", value_delimiter = ',', value_name = "URL")]
    pub registry: Vec<String>,
}

/// How a gateway behaves.
#[derive(Debug, Clone)]
pub struct Config {
    /// Where its public listener is, for people who look at the store.
    pub address: String,
    /// Whether an agent's first contact makes its node. Only where callers are trusted as they are.
    pub auto_register: bool,
    /// How often an agent shall be heard: 1 s to 60 s.
    pub heartbeat_interval: Duration,
    /// How long the gateway's lease lives without a renewal: how long after its death its nodes count as connected.
    pub lease_ttl: Duration,
    /// Sessions that may open a second. What the store takes beside its other work.
    pub sessions_per_second: u32,
    /// Most sessions at once. A process may hold 20,000 files where its limits are not raised.
    pub sessions_max: usize,
    /// Who lets machines in and issues certificates. Absent: nobody does here.
    pub issuing: Option<Issuing>,
    /// By what it talks to gpu services. Absent: without TLS.
    pub tls: Option<Arc<TlsFiles>>,
}

impl Config {
    /// The usual behaviour, at `address`.
    pub fn new(address: impl Into<String>) -> Self {
        Self {
            address: address.into(),
            auto_register: true,
            heartbeat_interval: limits::HEARTBEAT_INTERVAL,
            lease_ttl: Duration::from_secs(15),
            sessions_per_second: 1000,
            sessions_max: 18_000,
            issuing: None,
            tls: None,
        }
    }
}
