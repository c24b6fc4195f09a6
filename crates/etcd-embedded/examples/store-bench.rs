//! Writes a second against any etcd: `store-bench URL WRITERS SECONDS`. For comparing this store with etcd.

use std::io::Write as _;
use std::time::{Duration, Instant};

use etcd_client::Client;
use tokio::task::JoinSet;

#[tokio::main(flavor = "multi_thread", worker_threads = 2)]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    let mut args = std::env::args().skip(1);
    let (Some(url), Some(writers), Some(seconds)) = (args.next(), args.next(), args.next()) else {
        return Err("usage: store-bench URL WRITERS SECONDS".into());
    };
    let (writers, seconds): (usize, u64) = (writers.parse()?, seconds.parse()?);
    let client = Client::connect([url], None).await?;
    let begun = Instant::now();
    let mut tasks = JoinSet::new();
    for writer in 0..writers {
        let mut client = client.clone();
        tasks.spawn(async move {
            let mut waits = Vec::new();
            while begun.elapsed() < Duration::from_secs(seconds) {
                let asked = Instant::now();
                client.put(format!("bench/{writer}/{}", waits.len() % 100), vec![b'x'; 256], None).await?;
                waits.push(asked.elapsed());
            }
            Ok::<_, etcd_client::Error>(waits)
        });
    }
    let mut waits = Vec::new();
    while let Some(done) = tasks.join_next().await {
        waits.extend(done??);
    }
    waits.sort_unstable();
    let rate = u64::try_from(waits.len())? / seconds;
    let at = |share: usize| waits.get(waits.len() * share / 100).copied().unwrap_or_default();
    writeln!(std::io::stdout(), "{rate} writes/s, p50 {:?}, p99 {:?}", at(50), at(99))?;
    Ok(())
}
