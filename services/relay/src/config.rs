//! What a relay is started with.

use std::sync::Arc;

use skerry_daemon::ServiceArgs;
use skerry_rpc::TlsFiles;

/// Flags of the `skerry-relay` process.
#[derive(Debug, Clone, clap::Args)]
pub struct Args {
    #[command(flatten)]
    #[allow(missing_docs, reason = "a comment here would become the title of all flags in --help")]
    pub service: ServiceArgs<7774>,

    /// Where agents reach the relays, as https://relay:7774; several with commas, tried in turn. Any relay will do: it passes
    /// on to the one that is meant. Absent: where this one listens
    #[arg(long, env = "SKERRY_ADVERTISE", value_delimiter = ',', value_name = "URL")]
    pub advertise: Vec<String>,
}

/// How a relay behaves.
#[derive(Debug, Clone, Default)]
pub struct Config {
    /// Where agents reach the relays. Empty: where they reach their gateway.
    pub advertise: Vec<String>,
    /// By what it talks to gateways, schedulers and other relays. Absent: without TLS.
    pub tls: Option<Arc<TlsFiles>>,
}
