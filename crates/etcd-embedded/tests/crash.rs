//! What the store promises when things go wrong around it: killed at any moment, its file damaged, its directory
//! taken, its disk full, its clients slow to leave.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::io::{BufRead as _, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};
use std::time::{Duration, Instant};

use etcd_client::{Client, GetOptions, PutOptions, Txn, TxnOp, WatchOptions};
use skerry_etcd_embedded::{Config, EmbeddedEtcd, OpenError};
use tokio::net::TcpListener;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

/// The example of this crate, which cargo builds along with its tests.
fn program() -> PathBuf {
    let exe = std::env::current_exe().unwrap();
    exe.parent().unwrap().parent().unwrap().join("examples/etcd-embedded")
}

/// A store in a process of its own. Dropping it is `kill -9`.
struct Server {
    child: Child,
    address: String,
}

impl Server {
    fn start(dir: &Path) -> Self {
        Self::spawn(Command::new(program()).arg(dir).arg("127.0.0.1:0"))
    }

    fn spawn(command: &mut Command) -> Self {
        let mut child = command.stdout(Stdio::piped()).stderr(Stdio::null()).spawn().unwrap();
        let mut address = String::new();
        BufReader::new(child.stdout.take().unwrap()).read_line(&mut address).unwrap();
        Self { child, address: format!("http://{}", address.trim()) }
    }

    async fn client(&self) -> Client {
        Client::connect([&self.address], None).await.unwrap()
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_was_answered_before_kill_9_is_there_after_it_and_no_transaction_is_half_done() {
    const WRITERS: usize = 8;
    let dir = tempfile::tempdir().unwrap();
    let acknowledged: Arc<Vec<AtomicI64>> = Arc::new((0..WRITERS).map(|_| AtomicI64::new(-1)).collect());
    for round in 0_u64..6 {
        let started = Instant::now();
        let server = Server::start(dir.path());
        let mut client = server.client().await;
        let ready = started.elapsed();
        assert!(ready < Duration::from_secs(10), "open after a kill took {ready:?}");

        let all = client.get("w/", Some(GetOptions::new().with_prefix())).await.unwrap();
        let value = |key: String| {
            let kv = all.kvs().iter().find(|kv| kv.key() == key.as_bytes());
            kv.map_or(-1, |kv| kv.value_str().unwrap().parse::<i64>().unwrap())
        };
        for (writer, acknowledged) in acknowledged.iter().enumerate() {
            let (a, b) = (value(format!("w/{writer}/a")), value(format!("w/{writer}/b")));
            assert_eq!(a, b, "writer {writer} in round {round}");
            assert!(a >= acknowledged.load(Ordering::Acquire), "writer {writer} in round {round}: {a}");
            // Later than acknowledged is as good: the answer was lost on its way.
            acknowledged.store(a, Ordering::Release);
        }

        let mut writers = JoinSet::new();
        for writer in 0..WRITERS {
            let mut client = client.clone();
            let acknowledged = Arc::clone(&acknowledged);
            writers.spawn(async move {
                loop {
                    let next = acknowledged[writer].load(Ordering::Acquire) + 1;
                    let put = |half: &str| TxnOp::put(format!("w/{writer}/{half}"), next.to_string(), None);
                    if client.txn(Txn::new().and_then([put("a"), put("b")])).await.is_err() {
                        return;
                    }
                    acknowledged[writer].store(next, Ordering::Release);
                }
            });
        }
        let before: i64 = acknowledged.iter().map(|at| at.load(Ordering::Acquire)).sum();
        let progress = async {
            // A different moment each round, but never before something was written.
            let least = before + 40 + i64::try_from(round).unwrap() * 17;
            while acknowledged.iter().map(|at| at.load(Ordering::Acquire)).sum::<i64>() < least {
                tokio::task::yield_now().await;
            }
        };
        tokio::time::timeout(Duration::from_secs(60), progress).await.unwrap();
        drop(server);
        while writers.join_next().await.is_some() {}
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_disk_that_takes_no_more_refuses_writes_and_serves_reads_until_it_recovers() {
    let dir = tempfile::tempdir().unwrap();
    // A limit on the file's size stands in for a full disk; ignoring the signal turns it into an error.
    let script = "trap '' XFSZ; ulimit -S -f 512; exec \"$@\"";
    let mut command = Command::new("sh");
    command.args(["-c", script, "sh"]).arg(program()).arg(dir.path()).arg("127.0.0.1:0");
    let server = Server::spawn(&mut command);
    let mut client = server.client().await;
    client.put("kept", "here", None).await.unwrap();

    let mut written = 0;
    let refused = loop {
        match client.put(format!("fill/{written}"), vec![7; 16 << 10], None).await {
            Ok(_) => written += 1,
            Err(error) => break error,
        }
        assert!(written < 1000, "the disk took everything");
    };
    assert!(refused.to_string().contains("cannot write to disk"), "{refused}");
    assert_eq!(client.get("kept", None).await.unwrap().kvs()[0].value(), b"here");
    let count = GetOptions::new().with_prefix().with_count_only();
    assert_eq!(client.get("fill/", Some(count.clone())).await.unwrap().count(), written);

    let pid = server.child.id().to_string();
    assert!(Command::new("prlimit").args(["--pid", &pid, "--fsize=unlimited"]).status().unwrap().success());
    let recovered = async {
        while client.put("after", "space", None).await.is_err() {
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    };
    tokio::time::timeout(Duration::from_secs(30), recovered).await.unwrap();
    let found = client.get("fill/", Some(count)).await.unwrap().count();
    assert!(found == written || found == written + 1, "{found} of {written}");
}

#[tokio::test]
async fn a_directory_serves_one_process_at_a_time_and_says_who_has_it() {
    let dir = tempfile::tempdir().unwrap();
    let first = EmbeddedEtcd::open(Config::new(dir.path())).await.unwrap();
    let error = EmbeddedEtcd::open(Config::new(dir.path())).await.unwrap_err();
    assert!(matches!(error, OpenError::InUse { .. }));
    let text = error.to_string();
    assert!(text.contains(&std::process::id().to_string()), "{text}");
    assert!(text.contains(&dir.path().display().to_string()), "{text}");
    first.close().await;
    EmbeddedEtcd::open(Config::new(dir.path())).await.unwrap().close().await;
}

#[tokio::test]
async fn a_damaged_file_is_an_error_or_harmless_and_never_a_panic() {
    let dir = tempfile::tempdir().unwrap();
    let store = EmbeddedEtcd::open(Config::new(dir.path())).await.unwrap();
    let mut client = store.connect().await.unwrap();
    for at in 0..50 {
        client.put(format!("key/{at}"), vec![at; 300], None).await.unwrap();
    }
    store.close().await;
    let file = dir.path().join("store.redb");
    let sound = std::fs::read(&file).unwrap();

    let mut refused = 0;
    for step in 0..60 {
        let mut damaged = sound.clone();
        if step < 40 {
            let at = step * damaged.len() / 40 + 11;
            for byte in &mut damaged[at..at + 64] {
                *byte ^= 0x5a;
            }
        } else {
            damaged.truncate((step - 40) * sound.len() / 20);
        }
        std::fs::write(&file, &damaged).unwrap();
        match EmbeddedEtcd::open(Config::new(dir.path())).await {
            Ok(store) => {
                // What was hit was not in use, or only what a repair can make again.
                let mut client = store.connect().await.unwrap();
                let all = client.get("key/", Some(GetOptions::new().with_prefix())).await.unwrap();
                assert_eq!(all.count(), 50, "step {step}");
                for kv in all.kvs() {
                    let at: u8 = kv.key_str().unwrap()[4..].parse().unwrap();
                    assert_eq!(kv.value(), vec![at; 300], "step {step}");
                }
                store.close().await;
            }
            Err(error) => {
                assert!(error.to_string().contains("store.redb"), "{error}");
                refused += 1;
            }
        }
    }
    assert!(refused > 10, "only {refused} of the damaged files were noticed");
}

#[tokio::test]
async fn closing_ends_watches_and_serving_at_once() {
    let dir = tempfile::tempdir().unwrap();
    let store = EmbeddedEtcd::open(Config::new(dir.path())).await.unwrap();
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = format!("http://{}", listener.local_addr().unwrap());
    let shutdown = CancellationToken::new();
    let mut tasks = JoinSet::new();
    tasks.spawn(store.clone().serve(listener, shutdown.clone()));
    let mut remote = Client::connect([address], None).await.unwrap();
    let mut local = store.connect().await.unwrap();
    let mut over_tcp = remote.watch("a", None).await.unwrap();
    let mut in_process = local.watch("a", None).await.unwrap();

    let begun = Instant::now();
    shutdown.cancel();
    tasks.join_next().await.unwrap().unwrap().unwrap();
    assert!(begun.elapsed() < Duration::from_secs(2), "{:?}", begun.elapsed());
    let _created = over_tcp.message().await.unwrap();
    assert!(over_tcp.message().await.is_err());

    // The listener is gone; the store is not.
    local.put("a", "1", None).await.unwrap();
    let _created = in_process.message().await.unwrap();
    assert_eq!(in_process.message().await.unwrap().unwrap().events().len(), 1);
    let begun = Instant::now();
    store.close().await;
    assert!(begun.elapsed() < Duration::from_secs(2), "{:?}", begun.elapsed());
    assert!(in_process.message().await.is_err());
}

#[tokio::test]
async fn a_slow_watcher_reads_the_history_later_and_memory_does_not_grow_for_it() {
    let dir = tempfile::tempdir().unwrap();
    let store = EmbeddedEtcd::open(Config::new(dir.path())).await.unwrap();
    let mut client = store.connect().await.unwrap();
    let mut slow = client.watch("k", Some(WatchOptions::new().with_prefix())).await.unwrap();
    for at in 0..300 {
        client.put(format!("k{at}"), vec![1; 100 << 10], None).await.unwrap();
    }
    let mut seen = 0;
    while seen < 300 {
        let response = slow.message().await.unwrap().unwrap();
        assert!(!response.canceled());
        for event in response.events() {
            assert_eq!(event.kv().unwrap().key(), format!("k{seen}").as_bytes());
            seen += 1;
        }
    }
    store.close().await;
}

#[tokio::test]
async fn leases_live_on_after_a_restart_and_then_end() {
    let dir = tempfile::tempdir().unwrap();
    let store = EmbeddedEtcd::open(Config::new(dir.path())).await.unwrap();
    let mut client = store.connect().await.unwrap();
    let lease = client.lease_grant(2, None).await.unwrap().id();
    client.put("leased", "", Some(PutOptions::new().with_lease(lease))).await.unwrap();
    store.close().await;

    let store = EmbeddedEtcd::open(Config::new(dir.path())).await.unwrap();
    let mut client = store.connect().await.unwrap();
    let found = client.get("leased", None).await.unwrap();
    assert_eq!(found.kvs()[0].lease(), lease);
    let mut watch = client.watch("leased", None).await.unwrap();
    let _created = watch.message().await.unwrap();
    let ended = tokio::time::timeout(Duration::from_secs(10), watch.message()).await.unwrap();
    assert_eq!(ended.unwrap().unwrap().events()[0].event_type(), etcd_client::EventType::Delete);
    assert!(client.leases().await.unwrap().leases().is_empty());
    store.close().await;
}

#[tokio::test]
async fn a_snapshot_in_the_place_of_the_data_file_is_the_store_as_it_was() {
    let (dir, restored) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let store = EmbeddedEtcd::open(Config::new(dir.path())).await.unwrap();
    let mut client = store.connect().await.unwrap();
    for at in 0..100 {
        client.put("a", at.to_string(), None).await.unwrap();
    }
    let mut parts = client.snapshot().await.unwrap();
    let mut bytes = Vec::new();
    while let Some(part) = parts.message().await.unwrap() {
        bytes.extend_from_slice(part.blob());
    }
    client.put("a", "later", None).await.unwrap();
    store.close().await;

    bytes.truncate(bytes.len() - 32);
    std::fs::write(restored.path().join("store.redb"), bytes).unwrap();
    let store = EmbeddedEtcd::open(Config::new(restored.path())).await.unwrap();
    let mut client = store.connect().await.unwrap();
    let now = client.get("a", None).await.unwrap();
    assert_eq!((now.kvs()[0].value(), now.header().unwrap().revision()), (&b"99"[..], 101));
    let then = client.get("a", Some(GetOptions::new().with_revision(50))).await.unwrap();
    assert_eq!(then.kvs()[0].value(), b"48");
    store.close().await;
}
