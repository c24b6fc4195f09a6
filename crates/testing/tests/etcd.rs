//! The etcd helper against an installed etcd: what happens to it is what its names say.

use std::time::Duration;

use skerry_testing::{Etcd, http_get};

#[tokio::test]
async fn data_survives_a_kill_and_a_snapshot_turns_it_back() {
    let mut etcd = Etcd::start().await.expect("etcd starts");
    etcd.ctl(&["put", "k", "old"]).expect("a put");
    let dir = tempfile::tempdir().expect("a directory");
    let file = dir.path().join("snapshot");
    etcd.snapshot(&file).expect("a snapshot");
    etcd.ctl(&["put", "k", "new"]).expect("a put");

    etcd.kill().expect("it is killed");
    assert!(http_get(&etcd.address(), "/health").await.is_err());
    etcd.restart().await.expect("it starts again");
    assert_eq!(etcd.ctl(&["get", "k", "--print-value-only"]).expect("a get"), "new\n");

    etcd.restore(&file).await.expect("it is restored");
    assert_eq!(etcd.ctl(&["get", "k", "--print-value-only"]).expect("a get"), "old\n");
}

#[tokio::test]
async fn a_paused_etcd_is_silent_until_it_is_resumed() {
    let mut etcd = Etcd::start().await.expect("etcd starts");
    etcd.pause().expect("it is paused");
    let address = etcd.address();
    let silent = tokio::time::timeout(Duration::from_millis(300), http_get(&address, "/health")).await;
    assert!(silent.is_err(), "{silent:?}");
    etcd.resume().expect("it is resumed");
    assert_eq!(http_get(&address, "/health").await.expect("an answer").status, 200);
}
