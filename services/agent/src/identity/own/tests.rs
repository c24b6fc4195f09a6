//! Tests of `own`: what a server may make of a node's identity, and what not.

use std::time::Duration;

use skerry_identity::authority::{IntermediateAuthority, Life, Order, RootAuthority};
use skerry_identity::certificate::Usage;
use skerry_identity::{Identity, KeyPair, TrustDomain};
use tempfile::TempDir;

use super::*;

const DAY: Duration = Duration::from_secs(24 * 60 * 60);
const NODE: &str = "projects/default/nodes/n1";

/// An authority with a gateway of its.
struct World {
    root: RootAuthority,
    intermediate: IntermediateAuthority,
}

fn key() -> Arc<dyn SigningKey> {
    Arc::new(KeyPair::generate().unwrap())
}

fn life(days: u32) -> Life {
    Life { not_before: SystemTime::now() - DAY, lifetime: days * DAY }
}

impl World {
    fn new() -> Self {
        let root = RootAuthority::create(&TrustDomain::parse("example.org").unwrap(), key(), life(3650));
        let root = root.unwrap();
        let intermediate = root.intermediate(key(), life(365)).unwrap();
        Self { root, intermediate }
    }

    fn roots(&self) -> Vec<Bytes> {
        vec![Bytes::copy_from_slice(self.root.trusted().certificate())]
    }

    fn chain(
        &self,
        path: &str,
        usage: Usage,
        days: u32,
        key: &dyn SigningKey,
    ) -> Vec<CertificateDer<'static>> {
        let identity = Identity::parse(&format!("spiffe://example.org/project/{path}")).unwrap();
        let public_key = key.public_key();
        let (dns_names, addresses) = (&[][..], &[][..]);
        let order = Order { public_key, identity: &identity, usage, dns_names, addresses, life: life(days) };
        self.intermediate.issue(&order).unwrap().chain
    }

    fn gateway(&self) -> Vec<CertificateDer<'static>> {
        self.chain("system/service/gateway", Usage::Both, 30, &*key())
    }

    fn sent(&self, node: &str, days: u32, key: &dyn SigningKey) -> pb::IssuedCertificate {
        let chain = self.chain(&format!("default/node/{node}"), Usage::Client, days, key);
        let chain = chain.iter().map(|der| Bytes::copy_from_slice(der)).collect();
        pb::IssuedCertificate { chain, roots: self.roots(), server_time: None }
    }
}

/// Node n1 of `world`, enrolled.
fn enrolled(dir: &TempDir, world: &World) -> Own {
    let generation = Kept::new(dir.path()).next();
    let key = generation.keys().signing_key().unwrap();
    let certificate = Some(world.sent("n1", 30, &*key));
    let enrolled = pb::Enrolled { node: NODE.to_owned(), node_uid: "uid".to_owned(), certificate };
    let record = Record { enrolled: Some(enrolled), token_id: "id".to_owned() };
    let own = Own::enrolled(generation.clone(), record.clone(), &world.gateway()).unwrap();
    generation.write(&record).unwrap();
    own
}

/// Writes and uses it, and holds that the same is there after a restart.
fn take(own: &mut Own, dir: &TempDir, prepared: Prepared) {
    prepared.write().unwrap();
    own.install(prepared).unwrap();
    let again = Own::open(&Kept::new(dir.path())).unwrap().unwrap();
    assert_eq!(again.agent_identity().roots_digest, own.agent_identity().roots_digest);
    assert_eq!(again.agent_identity().not_after, own.agent_identity().not_after);
    assert_eq!((again.node_uid(), again.token_id()), ("uid", "id"));
}

#[test]
fn a_renewed_certificate_is_on_disk_and_presented() {
    let (dir, world) = (tempfile::tempdir().unwrap(), World::new());
    let mut own = enrolled(&dir, &world);
    let before = own.agent_identity();
    let sent = world.sent("n1", 60, &*own.key);
    let prepared = own.prepare(sent.clone(), &world.gateway(), UNIX_EPOCH).unwrap();
    assert_eq!(own.agent_identity(), before, "not before it is written");
    take(&mut own, &dir, prepared);
    assert!(own.agent_identity().not_after > before.not_after);
    assert_eq!(own.credentials.chain()[0].as_ref(), &*sent.chain[0]);
}

#[test]
fn what_is_not_for_this_node_and_this_key_is_not_taken() {
    let (dir, world, other) = (tempfile::tempdir().unwrap(), World::new(), World::new());
    let own = enrolled(&dir, &world);
    let gateway = world.gateway();
    let mine = &*own.key;
    let mut foreign = other.sent("n1", 60, mine);
    foreign.roots = world.roots();
    for (what, sent, words) in [
        ("another node", world.sent("n2", 60, mine), "where projects/default/nodes/n1 is meant"),
        ("another key", world.sent("n1", 60, &*key()), "where the key is"),
        ("another authority", foreign, "leads to none of the trusted roots"),
    ] {
        let why = own.prepare(sent, &gateway, UNIX_EPOCH).unwrap_err();
        assert!(why.contains(words), "{what}: {why}");
    }
}

#[test]
fn roots_under_which_their_sender_does_not_fit_are_not_taken() {
    let (dir, world, other) = (tempfile::tempdir().unwrap(), World::new(), World::new());
    let own = enrolled(&dir, &world);
    let roots_only = |roots| pb::IssuedCertificate { chain: Vec::new(), roots, server_time: None };
    let why = own.prepare(roots_only(other.roots()), &world.gateway(), UNIX_EPOCH).unwrap_err();
    assert!(why.contains("would be refused"), "{why}");
    // And of a connection of which nothing is known, none.
    assert!(own.prepare(roots_only(world.roots()), &[], UNIX_EPOCH).is_err());
}

#[test]
fn a_rollover_that_is_over_before_the_certificate_was_renewed_makes_it_renewed_at_once() {
    let (dir, old, new) = (tempfile::tempdir().unwrap(), World::new(), World::new());
    let mut own = enrolled(&dir, &old);
    let roots_only = |roots| pb::IssuedCertificate { chain: Vec::new(), roots, server_time: None };

    // Both are trusted; the gateway has its certificate of the new one, with a link in its chain.
    let both = [new.roots(), old.roots()].concat();
    let link = old.root.link(new.root.trusted(), life(30)).unwrap();
    let gateway = [new.gateway(), vec![link]].concat();
    let prepared = own.prepare(roots_only(both), &gateway, UNIX_EPOCH).unwrap();
    take(&mut own, &dir, prepared);
    assert_ne!(own.agent_identity().renew_at, WallTime::default(), "in its time");

    // The old one is retired.
    let prepared = own.prepare(roots_only(new.roots()), &gateway, UNIX_EPOCH).unwrap();
    take(&mut own, &dir, prepared);
    assert_eq!(own.agent_identity().renew_at, WallTime::default(), "now");
    let sent = new.sent("n1", 30, &*own.key);
    let prepared = own.prepare(sent, &gateway, UNIX_EPOCH).unwrap();
    take(&mut own, &dir, prepared);
    assert_ne!(own.agent_identity().renew_at, WallTime::default());
}

#[test]
fn an_identity_that_was_tampered_with_is_told_with_its_node_and_none_is_invented() {
    let (dir, world) = (tempfile::tempdir().unwrap(), World::new());
    drop(enrolled(&dir, &world));
    std::fs::remove_file(dir.path().join("identity/1/tls.key")).unwrap();
    let broken = Own::open(&Kept::new(dir.path())).unwrap_err();
    assert_eq!(broken.node.unwrap().to_string(), NODE);
    assert!(broken.why.contains("where the key is"), "{}", broken.why);
}
