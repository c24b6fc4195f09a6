//! The authority over real etcd: made, renewed, rotated, retired, and issuing meanwhile.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on panics")]

use std::os::unix::fs::PermissionsExt as _;
use std::sync::Arc;
use std::time::SystemTime;

use skerry_identity::bundle::Trust;
use skerry_identity::key_file::KeyFile;
use skerry_identity::key_ring::KeyRing;
use skerry_identity::{Client, KeyPair, SigningKey as _, TrustDomain};
use skerry_model::{Code, NodeRef};
use skerry_registry::authority::{
    AuthorityDir, AuthorityError, Force, Issuer, authority_key, init, renew, reseal, retire, rotate,
};
use skerry_store::{Store, StoreConfig, Target};
use skerry_testing::Etcd;
use tempfile::TempDir;

struct Stage {
    etcd: Etcd,
    store: Store,
    place: TempDir,
    keys: Arc<KeyRing>,
}

impl Stage {
    async fn start() -> Self {
        let etcd = Etcd::start().await.unwrap();
        let store = connect(&etcd).await;
        let keys = Arc::new(KeyRing::generate().unwrap());
        Self { etcd, store, place: tempfile::tempdir().unwrap(), keys }
    }

    fn dir(&self) -> AuthorityDir {
        AuthorityDir::new(self.place.path().join("authority"))
    }

    fn issuer(&self) -> Issuer {
        Issuer::new(&self.store, Some(self.keys.clone()))
    }
}

async fn connect(etcd: &Etcd) -> Store {
    Store::connect(StoreConfig::new(Target::parse(&etcd.endpoint()).unwrap())).await.unwrap()
}

fn domain() -> TrustDomain {
    TrustDomain::parse("example.org").unwrap()
}

fn node() -> NodeRef {
    NodeRef::parse("projects/default/nodes/n1").unwrap()
}

/// Waits until the issuer knows the store as it is now.
async fn known(issuer: &Issuer, roots: usize) {
    let patience = std::time::Duration::from_secs(20);
    skerry_testing::eventually("the issuer follows", patience, || async {
        match issuer.roots().map(|bundle| bundle.roots().len()) {
            Ok(known) if known == roots => Ok(()),
            other => Err(format!("{other:?}")),
        }
    })
    .await;
}

#[tokio::test]
async fn an_authority_is_made_once_and_its_keys_are_nowhere_in_the_clear() {
    let stage = Stage::start().await;
    let made = init(&stage.store, &stage.dir(), &*stage.keys, &domain()).await.unwrap();
    assert!(made.changed);
    let again = init(&stage.store, &stage.dir(), &*stage.keys, &domain()).await.unwrap();
    assert_eq!((again.changed, &again.record), (false, &made.record));
    // Another machine without the root's key may ask too.
    let elsewhere = AuthorityDir::new(stage.place.path().join("elsewhere"));
    assert!(!init(&stage.store, &elsewhere, &*stage.keys, &domain()).await.unwrap().changed);

    let directory = stage.dir();
    assert_eq!(std::fs::metadata(directory.path()).unwrap().permissions().mode() & 0o7777, 0o700);
    let mut files = 0;
    for entry in std::fs::read_dir(directory.path()).unwrap() {
        let path = entry.unwrap().path();
        assert_eq!(std::fs::metadata(&path).unwrap().permissions().mode() & 0o7777, 0o600);
        let bytes = std::fs::read(&path).unwrap();
        assert!(!bytes.windows(11).any(|window| window == b"PRIVATE KEY"), "{}", path.display());
        files += 1;
    }
    assert_eq!(files, 2);
    let stored = stage.store.get(&authority_key()).await.unwrap().unwrap();
    assert!(!stored.bytes.windows(11).any(|window| window == b"PRIVATE KEY"));

    let other = TrustDomain::parse("example.com").unwrap();
    let refused = init(&stage.store, &stage.dir(), &*stage.keys, &other).await;
    assert!(matches!(refused, Err(AuthorityError::Domain { .. })), "{refused:?}");
    let other_keys = KeyRing::generate().unwrap();
    let refused = init(&stage.store, &stage.dir(), &other_keys, &domain()).await.unwrap_err();
    assert!(refused.to_string().contains("--key-file"), "{refused}");
}

#[tokio::test]
async fn of_several_who_make_it_at_once_one_does_and_all_agree() {
    let stage = Stage::start().await;
    let dirs: Vec<_> =
        (0..4).map(|n| AuthorityDir::new(stage.place.path().join(format!("authority-{n}")))).collect();
    let domain = domain();
    let all = dirs.iter().map(|dir| init(&stage.store, dir, &*stage.keys, &domain));
    let done: Vec<_> = futures_util::future::join_all(all).await.into_iter().map(Result::unwrap).collect();
    assert_eq!(done.iter().filter(|done| done.changed).count(), 1);
    assert!(done.iter().all(|other| other.record == done[0].record));
}

#[tokio::test]
async fn a_root_that_a_crash_left_behind_is_taken_and_not_made_anew() {
    let stage = Stage::start().await;
    let made = init(&stage.store, &stage.dir(), &*stage.keys, &domain()).await.unwrap();
    // As if the process had ended between the files and the record.
    stage.store.commit(skerry_store::Txn::new().delete(&authority_key())).await.unwrap();
    let again = init(&stage.store, &stage.dir(), &*stage.keys, &domain()).await.unwrap();
    assert!(again.changed);
    assert_eq!(again.roots, made.roots);
}

#[tokio::test]
async fn what_is_issued_before_and_after_a_rollover_is_good_until_the_old_root_goes() {
    let stage = Stage::start().await;
    let (store, dir, keys) = (&stage.store, stage.dir(), &*stage.keys);
    let before_all = renew(store, &dir, keys, Force::Yes).await.unwrap_err();
    assert!(before_all.to_string().contains("skerry authority init"), "{before_all}");
    let made = init(store, &dir, keys, &domain()).await.unwrap();
    let issuer = stage.issuer();
    known(&issuer, 1).await;
    let key = KeyPair::generate().unwrap();
    let first = issuer.issue_node(&node(), key.public_key()).unwrap();

    assert!(!renew(store, &dir, keys, Force::No).await.unwrap().changed);
    let renewed = renew(store, &dir, keys, Force::Yes).await.unwrap();
    assert_eq!(renewed.roots, made.roots);
    assert_eq!(renewed.record.former_chains, [made.record.chain]);

    let rotated = rotate(store, &dir, keys).await.unwrap();
    assert_eq!((rotated.roots.len(), rotated.roots[1]), (2, made.roots[0]));
    assert!(!rotate(store, &dir, keys).await.unwrap().changed);
    known(&issuer, 2).await;
    let second = issuer.issue_node(&node(), key.public_key()).unwrap();
    assert_eq!(second.roots.len(), 2);
    let trust = Trust::new(issuer.roots().unwrap());
    for granted in [&first, &second] {
        let client = trust.client(&granted.issued.chain, SystemTime::now()).unwrap();
        assert!(matches!(client, Client::Valid(_)), "{client:?}");
    }
    // A renewal in between keeps the link in what servers present.
    let renewed = renew(store, &dir, keys, Force::Yes).await.unwrap();
    assert_eq!(renewed.record.chain.matches("BEGIN CERTIFICATE").count(), 4);

    let early = retire(store, Force::No).await;
    assert!(matches!(early, Err(AuthorityError::TooEarly(_))), "{early:?}");
    let retired = retire(store, Force::Yes).await.unwrap();
    assert_eq!(retired.roots, rotated.roots[..1]);
    assert_eq!(retired.record.chain.matches("BEGIN CERTIFICATE").count(), 2);
    assert!(!retire(store, Force::Yes).await.unwrap().changed);
    known(&issuer, 1).await;
    let issued = issuer.issue_node(&node(), key.public_key()).unwrap();
    assert_eq!(issued.roots.len(), 1);
}

#[tokio::test]
async fn once_all_is_sealed_anew_the_old_key_can_go_and_who_had_it_open_reads_the_file_again() {
    let stage = Stage::start().await;
    let (store, dir, path) = (&stage.store, stage.dir(), stage.place.path().join("keys"));
    let early = Arc::new(KeyFile::load_or_make(&path).unwrap());
    let made = init(store, &dir, &*early, &domain()).await.unwrap();
    assert!(!reseal(store, &dir, &*early).await.unwrap().changed);
    let issuer = Issuer::new(store, Some(early));
    known(&issuer, 1).await;
    let key = KeyPair::generate().unwrap();
    issuer.issue_node(&node(), key.public_key()).unwrap();

    let ring = KeyRing::rotate(&path).unwrap();
    let resealed = reseal(store, &dir, &ring).await.unwrap();
    assert!(resealed.changed && resealed.roots == made.roots && resealed.record.chain == made.record.chain);
    assert!(!reseal(store, &dir, &ring).await.unwrap().changed, "it may be repeated");
    let newest = ring.reveal().lines().last().unwrap().to_owned();
    std::fs::write(&path, newest).unwrap();
    // The roots' keys and the intermediate's need the newest key alone.
    let alone = KeyFile::load(&path).unwrap();
    assert!(!init(store, &dir, &alone, &domain()).await.unwrap().changed);
    assert!(renew(store, &dir, &alone, Force::Yes).await.unwrap().changed);
    let rotated = rotate(store, &dir, &alone).await.unwrap();
    assert!(rotated.changed);
    // The issuer has the old key open, and the file has the new one.
    known(&issuer, 2).await;
    issuer.issue_node(&node(), key.public_key()).unwrap();
}

#[tokio::test]
async fn who_lacks_the_authority_the_key_file_or_the_root_is_told_what_to_do() {
    let stage = Stage::start().await;
    let key = KeyPair::generate().unwrap();
    let issuer = stage.issuer();
    issuer.ready().await.unwrap();
    let fault = issuer.issue_node(&node(), key.public_key()).unwrap_err();
    assert_eq!((fault.code, fault.reason), (Code::FailedPrecondition, "NO_AUTHORITY"));
    assert!(fault.message.contains("skerry authority init"), "{fault}");

    init(&stage.store, &stage.dir(), &*stage.keys, &domain()).await.unwrap();
    let keyless = Issuer::new(&stage.store, None);
    let stranger = Issuer::new(&stage.store, Some(Arc::new(KeyRing::generate().unwrap())));
    for issuer in [&keyless, &stranger] {
        known(issuer, 1).await;
        let fault = issuer.issue_node(&node(), key.public_key()).unwrap_err();
        assert_eq!(fault.code, Code::FailedPrecondition);
        assert!(fault.message.contains("--key-file"), "{fault}");
    }
    let elsewhere = AuthorityDir::new(stage.place.path().join("elsewhere"));
    let refused = rotate(&stage.store, &elsewhere, &*stage.keys).await.unwrap_err();
    assert!(refused.to_string().contains("--authority-dir"), "{refused}");
    drop(stage.etcd);
}
