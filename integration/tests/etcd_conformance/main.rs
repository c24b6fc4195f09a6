//! One conformance suite for two stores: real etcd, and the embedded one. What is written here as a law holds of
//! both, so whoever depends on a law may run on either.
//!
//! `suite` holds the laws, each a function of a client; `ctl` does the same through `etcdctl`; `differential` feeds
//! both stores the same random operations and compares every answer.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod ctl;
mod differential;
mod suite;

use skerry_etcd_embedded::{Config, EmbeddedEtcd};
use skerry_testing::Etcd;
use tempfile::TempDir;
use tokio::net::TcpListener;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

/// A store on a port, whichever it is. Ends with its test.
enum Store {
    Real(Etcd),
    Embedded { endpoint: String, _dir: TempDir, _store: EmbeddedEtcd, _serving: JoinSet<()> },
}

impl Store {
    async fn real() -> Self {
        Self::Real(Etcd::start().await.unwrap())
    }

    async fn embedded() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let store = EmbeddedEtcd::open(Config::new(dir.path())).await.unwrap();
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let endpoint = format!("http://{}", listener.local_addr().unwrap());
        let mut serving = JoinSet::new();
        let served = store.clone();
        serving.spawn(async move { served.serve(listener, CancellationToken::new()).await.unwrap() });
        Self::Embedded { endpoint, _dir: dir, _store: store, _serving: serving }
    }

    fn endpoint(&self) -> String {
        match self {
            Self::Real(etcd) => etcd.endpoint(),
            Self::Embedded { endpoint, .. } => endpoint.clone(),
        }
    }

    /// What the program itself has printed.
    fn output(&self) -> String {
        match self {
            Self::Real(etcd) => etcd.output(),
            Self::Embedded { .. } => String::new(),
        }
    }

    async fn client(&self) -> etcd_client::Client {
        etcd_client::Client::connect([self.endpoint()], None).await.unwrap()
    }
}
