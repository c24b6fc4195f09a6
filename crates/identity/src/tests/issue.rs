//! What an authority issues, and what it refuses to.

use super::*;
use crate::authority::{IssueError, LoadError};
use crate::bundle::BundleError;
use crate::certificate::{Nobody, PeerCertificate, Standing};
use crate::chain::InvalidChain;

#[test]
fn what_is_issued_is_read_as_it_was_ordered() {
    let world = World::new();
    let key = key();
    let issued = world.issue(NODE, Usage::Client, life(today(), 30 * DAY), &*key);
    let peer = world.trust().server(&issued.chain).unwrap();
    assert_eq!(peer.identity.to_string(), NODE);
    assert_eq!(peer.key_id, key.public_key().id());
    assert_eq!(peer.serial, issued.serial);
    assert_eq!(peer.usage, Usage::Client);
    assert_eq!((peer.not_before, peer.not_after), (today(), today() + 30 * DAY));
    assert_eq!(peer.renew_at(), today() + 20 * DAY);
    assert_eq!(issued.chain.len(), 2, "a client presents no root");
    let service = world.issue(GATEWAY, Usage::Both, life(today(), DAY), &*key);
    assert_eq!(service.chain.len(), 3, "a server presents its root to those who only have its pin");
}

#[test]
fn a_life_has_its_first_and_its_last_second() {
    let world = World::new();
    let issued = world.issue(NODE, Usage::Client, life(today(), DAY), &*key());
    let peer = world.trust().server(&issued.chain).unwrap();
    let second = Duration::from_secs(1);
    for (now, standing) in [
        (UNIX_EPOCH, Standing::NotYetValid),
        (today() - second, Standing::NotYetValid),
        (today(), Standing::Valid),
        (today() + DAY, Standing::Valid),
        (today() + DAY + second, Standing::Expired),
        (today() + 73 * YEAR, Standing::Expired),
    ] {
        assert_eq!(peer.standing(now), standing, "{now:?}");
    }
}

#[test]
fn nobody_outlives_the_issuer() {
    let world = World::new();
    let made = today() - YEAR;
    let issued = world.issue(NODE, Usage::Client, life(made - DAY, 99 * YEAR), &*key());
    assert_eq!((issued.not_before, issued.not_after), (made, made + 5 * YEAR));
    assert_eq!(world.intermediate.not_after(), made + 5 * YEAR);
    let late = world.root.intermediate(key(), life(today() + 30 * YEAR, YEAR));
    assert!(matches!(late, Err(IssueError::Life)));
}

#[test]
fn times_that_no_certificate_can_name_are_refused() {
    let domain = TrustDomain::parse("example.org").unwrap();
    for life in [
        life(UNIX_EPOCH - DAY, YEAR),
        life(today(), 9_000 * YEAR),
        life(today(), Duration::MAX),
        life(today(), Duration::ZERO),
    ] {
        assert!(matches!(RootAuthority::create(&domain, key(), life), Err(IssueError::Life)), "{life:?}");
    }
}

#[test]
fn an_authority_issues_in_its_own_domain_only_and_to_services_alone_as_servers() {
    let world = World::new();
    let key = key();
    let order = |identity, usage| Order {
        public_key: key.public_key(),
        identity,
        usage,
        dns_names: &[],
        addresses: &[],
        life: life(today(), DAY),
    };
    let foreign = Identity::parse("spiffe://example.com/project/default/node/n1").unwrap();
    let refused = world.intermediate.issue(&order(&foreign, Usage::Client));
    assert!(matches!(refused, Err(IssueError::OtherDomain { .. })));
    let node = Identity::parse(NODE).unwrap();
    let refused = world.intermediate.issue(&order(&node, Usage::Both));
    assert!(matches!(refused, Err(IssueError::NotAService(_))));
    let named = Order { addresses: &[IpAddr::from([127, 0, 0, 1])], ..order(&node, Usage::Client) };
    assert!(matches!(world.intermediate.issue(&named), Err(IssueError::NotAService(_))));
    let service = Identity::parse(GATEWAY).unwrap();
    let many = [IpAddr::from([127, 0, 0, 1]); 33];
    let refused = world.intermediate.issue(&Order { addresses: &many, ..order(&service, Usage::Both) });
    assert!(matches!(refused, Err(IssueError::Names(33))));
}

#[test]
fn serial_numbers_do_not_repeat() {
    let world = World::new();
    let key = key();
    let mut serials: Vec<_> =
        (0..64).map(|_| world.issue(NODE, Usage::Client, life(today(), DAY), &*key).serial).collect();
    serials.sort();
    serials.dedup();
    assert_eq!(serials.len(), 64);
    assert!(serials.iter().all(|serial| serial.as_bytes().len() <= 16));
}

#[test]
fn an_authority_survives_its_file() {
    let domain = TrustDomain::parse("example.org").unwrap();
    let (root_key, key) = (key(), key());
    let root = RootAuthority::create(&domain, root_key.clone(), life(today(), 20 * YEAR)).unwrap();
    let loaded = RootAuthority::load(root.to_pem().as_bytes(), root_key.clone()).unwrap();
    assert_eq!(loaded.trusted(), root.trusted());
    let intermediate = loaded.intermediate(key.clone(), life(today(), YEAR)).unwrap();
    let pem = intermediate.to_pem();
    let loaded = IntermediateAuthority::load(pem.as_bytes(), key.clone()).unwrap();
    assert_eq!(loaded.to_pem(), pem);
    let world = World { root, intermediate: loaded };
    let issued = world.issue(NODE, Usage::Client, life(today(), DAY), &*key);
    assert!(world.trust().server(&issued.chain).is_ok());

    let other = IntermediateAuthority::load(pem.as_bytes(), root_key);
    assert!(matches!(other, Err(LoadError::OtherKey { .. })));
    let stranger = World::new().root.to_pem();
    let own = pem.split_inclusive("-----END CERTIFICATE-----\n").next().unwrap();
    let under_another = IntermediateAuthority::load(format!("{own}{stranger}").as_bytes(), key.clone());
    assert!(matches!(under_another, Err(LoadError::Foreign(_))));
    assert!(matches!(IntermediateAuthority::load(b"", key), Err(LoadError::Chain(InvalidChain::Empty))));
}

#[test]
fn a_bundle_survives_its_text_and_is_of_one_domain() {
    let (one, two, foreign) = (World::new(), World::new(), World::of("example.com"));
    let bundle = one.bundle().with(two.root.trusted().clone()).unwrap();
    let again = TrustBundle::parse_pem(bundle.to_pem().as_bytes()).unwrap();
    assert_eq!(again, bundle);
    assert_eq!(again.root(two.root.pin()), Some(two.root.trusted()));
    assert_eq!(again.without(one.root.pin()).unwrap(), two.bundle());
    assert_eq!(one.bundle().without(one.root.pin()), Err(BundleError::Empty));
    assert_eq!(bundle.with(one.root.trusted().clone()), Err(BundleError::Twice(one.root.pin())));
    assert!(matches!(bundle.with(foreign.root.trusted().clone()), Err(BundleError::Domains(..))));
    assert_eq!(TrustBundle::parse_pem(b""), Err(BundleError::Pem(InvalidChain::Empty)));
    let many: String = (0..9).map(|_| World::new().root.to_pem()).collect();
    assert_eq!(
        TrustBundle::parse_pem(many.as_bytes()),
        Err(BundleError::Pem(InvalidChain::TooLong { most: 8 }))
    );
}

#[test]
fn only_what_signed_itself_for_a_domain_is_a_root() {
    let world = World::new();
    let intermediate = world.intermediate.to_pem();
    let own = intermediate.split_inclusive("-----END CERTIFICATE-----\n").next().unwrap();
    assert!(matches!(TrustBundle::parse_pem(own.as_bytes()), Err(BundleError::NotARoot(_))));
    let key = key();
    let leaf = world.issue(NODE, Usage::Client, life(today(), DAY), &*key).to_pem();
    assert!(matches!(TrustBundle::parse_pem(leaf.as_bytes()), Err(BundleError::NotARoot(_))));
}

#[test]
fn an_authority_s_certificate_is_no_peer_s() {
    let world = World::new();
    let domain = world.intermediate.domain();
    let root = world.root.trusted().certificate();
    assert_eq!(PeerCertificate::parse(root, domain), Err(Nobody::Authority));
    assert_eq!(world.trust().server(&[]), Err(Nobody::Missing));
}

#[test]
fn a_certificate_for_a_key_of_another_kind_is_nobody_s() {
    let domain = TrustDomain::parse("example.org").unwrap();
    for algorithm in [&rcgen::PKCS_ED25519, &rcgen::PKCS_ECDSA_P384_SHA384] {
        let key = rcgen::KeyPair::generate_for(algorithm).unwrap();
        let certificate = rcgen::CertificateParams::default().self_signed(&key).unwrap();
        assert_eq!(PeerCertificate::parse(certificate.der(), &domain), Err(Nobody::Key));
    }
}
