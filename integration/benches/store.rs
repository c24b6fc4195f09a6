//! Embedded etcd (`skerry etcd`, release build) beside real etcd: reads, writes, transactions and watch events a second.
//!
//! Method: both servers run all the time, each with 1,000 keys of 256 bytes, on the same disk, each with its own durability (both sync
//! each write, or each group of writes, to disk). Each measurement is taken in rounds that alternate between the two, the first of a
//! pair in turn, so that what else the machine does hits both; while one is measured the other is idle. A figure is the median of its
//! rounds, a ratio the median of the ratios of the pairs (above 1: embedded is faster). A client has a connection and one request under
//! way at a time; the clients share this process and two threads. Watch events: watchers on one prefix, each a stream of its own on a
//! connection of its own, and one writer that puts 2,000 keys in transactions of 100; counted is every delivery, from the first
//! transaction's start until the last watcher has all.
//!
//! `--quick`: two short rounds. `--seconds=N`, `--rounds=N`.

mod support;

use std::collections::BTreeMap;
use std::process::Command;
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use etcd_client::{Client, Compare, CompareOp, GetOptions, PutOptions, Txn, TxnOp, WatchOptions};
use skerry_testing::{Etcd, Figures, Process, bin, percentile};
use support::{median, ms, note_load, option, quick};
use tempfile::TempDir;
use tokio::task::JoinSet;

/// Keys that there are before anything is measured.
const KEYS: usize = 1_000;
/// Bytes of each value.
const VALUE_BYTES: usize = 256;
/// Puts of the watched batch, and of each of its transactions: etcd takes 128 by default.
const WATCHED_PUTS: usize = 2_000;
const BATCH_PUTS: usize = 100;
/// How long a server may take to serve.
const START_DEADLINE: Duration = Duration::from_secs(30);
/// How long a round may take beyond its time.
const ROUND_DEADLINE: Duration = Duration::from_secs(60);

#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Work {
    ReadSerializable,
    ReadLinearizable,
    Write,
    Txn,
}

impl Work {
    fn name(self) -> &'static str {
        match self {
            Self::ReadSerializable => "read.serializable",
            Self::ReadLinearizable => "read.linearizable",
            Self::Write => "write",
            Self::Txn => "txn",
        }
    }
}

/// What one round on one server gave.
struct Round {
    per_second: f64,
    /// Of each request, in ms; empty where nobody waits for single ones.
    waits: Vec<f64>,
}

/// The rounds on both servers.
#[derive(Default)]
struct Pair {
    embedded: Vec<f64>,
    etcd: Vec<f64>,
    waits: BTreeMap<&'static str, Vec<f64>>,
}

#[tokio::main(flavor = "multi_thread", worker_threads = 2)]
async fn main() -> Result<()> {
    let figures = Figures::from_args();
    let seconds = option("--seconds")?.unwrap_or(if quick() { 0.5 } else { 2.0 });
    let rounds = option("--rounds")?.unwrap_or(if quick() { 2 } else { 5 });
    ensure!(rounds > 0 && seconds > 0.0, "there is nothing to measure");
    let round_time = Duration::from_secs_f64(seconds);

    let etcd = Etcd::start().await?;
    let (_embedded, embedded_endpoint) = start_embedded().await?;
    let servers = [("embedded", embedded_endpoint), ("etcd", etcd.endpoint())];
    for (_, endpoint) in &servers {
        fill(endpoint).await?;
    }
    note_load(&figures);

    for work in [Work::ReadSerializable, Work::ReadLinearizable, Work::Write, Work::Txn] {
        for clients in [1, 64] {
            let mut pair = Pair::default();
            for round in 0..rounds {
                for (name, endpoint) in in_turn(&servers, round) {
                    let done = requests(endpoint, work, clients, round_time);
                    pair.add(name, within(round_time, done).await?);
                }
            }
            pair.show(&figures, &format!("store.{}.c{clients}", work.name()), "1/s");
        }
    }
    for watchers in [1, 10, 100] {
        let mut pair = Pair::default();
        for round in 0..rounds {
            for (name, endpoint) in in_turn(&servers, round) {
                let done = Box::pin(watch_events(endpoint, watchers, round));
                pair.add(name, within(Duration::ZERO, done).await?);
            }
        }
        pair.show(&figures, &format!("store.watch.w{watchers}"), "events/s");
    }
    note_load(&figures);
    Ok(())
}

async fn start_embedded() -> Result<((Process, TempDir), String)> {
    let dir = tempfile::Builder::new().prefix("skerry-bench-").tempdir()?;
    let mut command = Command::new(bin("skerry"));
    command.arg("etcd").arg("--data-dir").arg(dir.path().join("data")).arg("--listen=127.0.0.1:0");
    let mut process = Process::spawn_command(&mut command, dir.path().join("log"))?;
    let line = process.wait_for_line("ready: etcd on", START_DEADLINE).await?;
    let address = line.split("http://").nth(1).and_then(|rest| rest.split(',').next());
    let endpoint = format!("http://{}", address.with_context(|| format!("no address in `{line}`"))?);
    Ok(((process, dir), endpoint))
}

/// Who was first in one round is second in the next.
fn in_turn<'a>(servers: &'a [(&'static str, String); 2], round: usize) -> [(&'static str, &'a str); 2] {
    let [one, two] = servers.each_ref().map(|(name, endpoint)| (*name, endpoint.as_str()));
    if round.is_multiple_of(2) { [one, two] } else { [two, one] }
}

async fn within(round: Duration, done: impl Future<Output = Result<Round>>) -> Result<Round> {
    tokio::time::timeout(round + ROUND_DEADLINE, done).await.context("a round does not end")?
}

fn key(number: usize) -> String {
    format!("bench/{:06}", number % KEYS)
}

fn value() -> Vec<u8> {
    vec![b'x'; VALUE_BYTES]
}

async fn fill(endpoint: &str) -> Result<()> {
    let mut client = Client::connect([endpoint], None).await?;
    for first in (0..KEYS).step_by(BATCH_PUTS) {
        let puts: Vec<TxnOp> =
            (first..first + BATCH_PUTS).map(|number| TxnOp::put(key(number), value(), None)).collect();
        client.txn(Txn::new().and_then(puts)).await?;
    }
    Ok(())
}

/// `clients` clients that do `work`, one request after the other, for `time`.
async fn requests(endpoint: &str, work: Work, clients: usize, time: Duration) -> Result<Round> {
    let mut connected = Vec::new();
    for _ in 0..clients {
        let mut client = Client::connect([endpoint], None).await?;
        client.get(key(0), None).await?;
        connected.push(client);
    }
    let begun = Instant::now();
    let mut tasks = JoinSet::new();
    for (number, mut client) in connected.into_iter().enumerate() {
        tasks.spawn(async move {
            let mut waits = Vec::new();
            while begun.elapsed() < time {
                let asked = Instant::now();
                // Clients start far apart; each walks over all keys, a transaction over keys of its own.
                request(&mut client, work, number, number * 7919 + waits.len()).await?;
                waits.push(ms(asked.elapsed()));
            }
            Ok::<_, etcd_client::Error>(waits)
        });
    }
    let mut waits = Vec::new();
    while let Some(done) = tasks.join_next().await {
        waits.extend(done??);
    }
    Ok(Round { per_second: waits.len() as f64 / begun.elapsed().as_secs_f64(), waits })
}

async fn request(
    client: &mut Client,
    work: Work,
    owner: usize,
    number: usize,
) -> Result<(), etcd_client::Error> {
    match work {
        Work::ReadSerializable => {
            client.get(key(number), Some(GetOptions::new().with_serializable())).await.map(drop)
        }
        Work::ReadLinearizable => client.get(key(number), None).await.map(drop),
        Work::Write => client.put(key(number), value(), None::<PutOptions>).await.map(drop),
        // As the services write: what was read must be there still, then a record and its mark.
        Work::Txn => {
            let there = Compare::create_revision(key(number), CompareOp::Greater, 0);
            let puts = [
                TxnOp::put(key(number), value(), None),
                TxnOp::put(format!("mark/{owner}/{}", number % 100), value(), None),
            ];
            client.txn(Txn::new().when([there]).and_then(puts)).await.map(drop)
        }
    }
}

/// `watchers` watchers of one writer's batch.
async fn watch_events(endpoint: &str, watchers: usize, round: usize) -> Result<Round> {
    let prefix: Arc<str> = format!("watched/{watchers}/{round}/").into();
    let mut tasks = JoinSet::new();
    for _ in 0..watchers {
        let mut client = Client::connect([endpoint], None).await?;
        // It answers when the server has said that the watch is there.
        let mut stream = client.watch(&*prefix, Some(WatchOptions::new().with_prefix())).await?;
        tasks.spawn(async move {
            let _client = client;
            let mut seen = 0;
            while seen < WATCHED_PUTS {
                let answer = stream.message().await?.context("the watch ended")?;
                ensure!(!answer.canceled(), "the watch was cancelled: {}", answer.cancel_reason());
                seen += answer.events().len();
            }
            Ok(())
        });
    }
    let mut writer = Client::connect([endpoint], None).await?;
    writer.get(key(0), None).await?;
    let begun = Instant::now();
    for first in (0..WATCHED_PUTS).step_by(BATCH_PUTS) {
        let puts: Vec<TxnOp> = (first..first + BATCH_PUTS)
            .map(|number| TxnOp::put(format!("{prefix}{number}"), value(), None))
            .collect();
        writer.txn(Txn::new().and_then(puts)).await?;
    }
    while let Some(done) = tasks.join_next().await {
        done??;
    }
    let events = (watchers * WATCHED_PUTS) as f64;
    Ok(Round { per_second: events / begun.elapsed().as_secs_f64(), waits: Vec::new() })
}

impl Pair {
    fn add(&mut self, server: &'static str, round: Round) {
        match server {
            "embedded" => self.embedded.push(round.per_second),
            _ => self.etcd.push(round.per_second),
        }
        self.waits.entry(server).or_default().extend(round.waits);
    }

    fn show(&self, figures: &Figures, name: &str, unit: &'static str) {
        figures.show(&format!("{name}.embedded"), median(&self.embedded), unit);
        figures.show(&format!("{name}.etcd"), median(&self.etcd), unit);
        let ratios: Vec<f64> =
            self.embedded.iter().zip(&self.etcd).map(|(ours, theirs)| ours / theirs).collect();
        figures.show(&format!("{name}.ratio"), median(&ratios), "x");
        for (server, waits) in &self.waits {
            if let Some(p99) = percentile(&mut waits.clone(), 99.0) {
                figures.show(&format!("{name}.{server}.p99"), p99, "ms");
            }
        }
    }
}
