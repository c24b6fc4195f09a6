//! `etcdctl` works on both stores, and prints the same.

use std::io::Write as _;
use std::process::{Command, Stdio};

use crate::Store;

/// Runs etcdctl and returns what it printed, with what it was asked on standard input.
async fn ctl(store: &Store, args: &[&str], input: &str) -> String {
    let program = skerry_testing::find_program("etcdctl").expect("etcdctl: apt-get install etcd-client");
    let mut command = Command::new(program);
    command.env("ETCDCTL_API", "3").args(["--endpoints", &address(store)]).args(args);
    command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let input = input.to_owned();
    let run = move || {
        let mut child = command.spawn().unwrap();
        child.stdin.take().unwrap().write_all(input.as_bytes()).unwrap();
        child.wait_with_output().unwrap()
    };
    // The store is served by this process too: its threads are not to be blocked.
    let output = tokio::task::spawn_blocking(run).await.unwrap();
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    assert!(output.status.success(), "{args:?}: {}{}", text(&output.stdout), text(&output.stderr));
    text(&output.stdout) + &text(&output.stderr)
}

/// Without a scheme: etcdctl 3.4 puts one into the `:authority` of some calls, which HTTP/2 servers refuse.
fn address(store: &Store) -> String {
    store.endpoint().trim_start_matches("http://").to_owned()
}

async fn session(store: &Store) -> Vec<String> {
    let mut printed = Vec::new();
    let steps: [(&[&str], &str); 14] = [
        (&["put", "a", "1"], ""),
        (&["put", "a", "2", "--prev-kv"], ""),
        (&["put", "b/1", "x"], ""),
        (&["put", "b/2", "y"], ""),
        (&["get", "a"], ""),
        (&["get", "--prefix", "b/", "--keys-only"], ""),
        (&["get", "--prefix", "", "--order=DESCEND", "--sort-by=MODIFY", "--limit=2"], ""),
        (&["get", "a", "--rev=2", "--print-value-only"], ""),
        (&["txn"], "value(\"a\") = \"2\"\nmod(\"b/1\") > \"1\"\n\nput c 3\nget b/1\n\nget a\n\n"),
        (&["txn"], "version(\"c\") = \"0\"\n\nput c 3\n\ndel c\n\n"),
        (&["del", "--prefix", "b/", "--prev-kv"], ""),
        (&["compaction", "5", "--physical"], ""),
        (&["get", "", "--from-key"], ""),
        (&["endpoint", "health"], ""),
    ];
    for (args, input) in steps {
        printed.push(ctl(store, args, input).await);
    }
    // It says how long it took, and where.
    assert!(printed.pop().unwrap().contains("is healthy"));

    let granted = ctl(store, &["lease", "grant", "500"], "").await;
    let lease = granted.split_whitespace().nth(1).unwrap().to_owned();
    assert!(granted.contains("granted with TTL(500s)"), "{granted}");
    ctl(store, &["put", "held", "1", &format!("--lease={lease}")], "").await;
    let left = ctl(store, &["lease", "timetolive", &lease, "--keys"], "").await;
    assert!(left.contains("attached keys([held])"), "{left}");
    assert!(ctl(store, &["lease", "list"], "").await.contains(&lease));
    assert!(
        ctl(store, &["lease", "keep-alive", "--once", &lease], "").await.contains("keepalived with TTL(500)")
    );
    ctl(store, &["lease", "revoke", &lease], "").await;
    printed.push(ctl(store, &["get", "held"], "").await);

    assert!(ctl(store, &["endpoint", "status", "-w", "json"], "").await.contains("\"leader\":"));
    assert!(ctl(store, &["member", "list"], "").await.contains("started"));
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("snapshot");
    ctl(store, &["snapshot", "save", file.to_str().unwrap()], "").await;
    // Whole blocks and a SHA-256: by this etcdctl knows a snapshot from a copied file.
    assert_eq!(std::fs::metadata(&file).unwrap().len() % 512, 32);
    printed
}

async fn watch(store: &Store) -> String {
    let program = skerry_testing::find_program("etcdctl").expect("etcdctl: apt-get install etcd-client");
    let mut child = tokio::process::Command::new(program)
        .env("ETCDCTL_API", "3")
        .args(["--endpoints", &address(store), "watch", "--prefix", "w/", "--rev=1"])
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .kill_on_drop(true)
        .spawn()
        .unwrap();
    ctl(store, &["put", "w/1", "one"], "").await;
    ctl(store, &["del", "w/1"], "").await;
    let mut lines = tokio::io::BufReader::new(child.stdout.take().unwrap());
    let mut printed = String::new();
    let read = async {
        use tokio::io::AsyncBufReadExt as _;
        for _ in 0..6 {
            lines.read_line(&mut printed).await.unwrap();
        }
    };
    tokio::time::timeout(std::time::Duration::from_secs(15), read)
        .await
        .expect("etcdctl watch printed too little");
    printed
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn etcdctl_prints_the_same_on_both() {
    let (real, embedded) = (Store::real().await, Store::embedded().await);
    assert_eq!(watch(&embedded).await, watch(&real).await);
    assert_eq!(session(&embedded).await, session(&real).await);
}
