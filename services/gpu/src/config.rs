//! What a gpu service is started with.

use std::path::PathBuf;
use std::sync::Arc;

use skerry_daemon::ServiceArgs;
use skerry_rpc::TlsFiles;

/// Flags of the `skerry-gpu` process.
#[derive(Debug, Clone, clap::Args)]
pub struct Args {
    #[command(flatten)]
    #[allow(missing_docs, reason = "a comment here would become the title of all flags in --help")]
    pub service: ServiceArgs<7775>,

    /// Where history is kept. Each replica has its own
    #[arg(long, env = "SKERRY_DATA_DIR", default_value = "/var/lib/skerry-gpu", value_name = "DIR")]
    pub data_dir: PathBuf,
}

/// How a gpu service behaves.
#[derive(Debug, Clone)]
pub struct Config {
    /// Where history is kept: made where it is not there.
    pub data_dir: PathBuf,
    /// How much history is kept, and for how long.
    pub history: skerry_series::Config,
    /// By what it talks to its other replicas. Absent: without TLS.
    pub tls: Option<Arc<TlsFiles>>,
}

impl Config {
    /// With the usual bounds of history.
    pub fn new(data_dir: impl Into<PathBuf>, tls: Option<Arc<TlsFiles>>) -> Self {
        Self { data_dir: data_dir.into(), history: skerry_series::Config::default(), tls }
    }
}
