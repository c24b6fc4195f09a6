//! The embedded store alone on a TCP port: `etcd-embedded DATA_DIR LISTEN`. It prints the address that it
//! listens on, serves until it is interrupted, and is what tests kill.

use std::io::Write as _;

use skerry_etcd_embedded::{Config, EmbeddedEtcd};
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;

#[tokio::main(flavor = "multi_thread")]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    let mut args = std::env::args().skip(1);
    let (Some(data_dir), Some(listen)) = (args.next(), args.next()) else {
        return Err("usage: etcd-embedded DATA_DIR LISTEN".into());
    };
    tracing_subscriber::fmt().with_writer(std::io::stderr).init();

    let store = EmbeddedEtcd::open(Config::new(data_dir)).await?;
    let listener = TcpListener::bind(listen).await?;
    let mut out = std::io::stdout();
    writeln!(out, "{}", listener.local_addr()?)?;
    out.flush()?;

    let shutdown = CancellationToken::new();
    let serving = store.clone().serve(listener, shutdown.clone());
    tokio::pin!(serving);
    tokio::select! {
        served = &mut serving => served?,
        interrupted = tokio::signal::ctrl_c() => {
            interrupted?;
            shutdown.cancel();
            serving.await?;
        }
    }
    store.close().await;
    Ok(())
}
