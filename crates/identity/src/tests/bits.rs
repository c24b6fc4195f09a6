//! Arbitrary bytes and single flipped bits: no parser panics, and none makes somebody else of a peer.

use proptest::prelude::*;
use proptest::sample::Index;

use super::*;
use crate::bundle;
use crate::certificate::PeerCertificate;
use crate::path::{Side, When, verify};

fn flip(bytes: &mut [u8], position: Index, bit: u8) {
    let position = position.index(bytes.len());
    bytes[position] ^= 1 << bit;
}

/// What a server would make of a chain.
fn admitted(trust: &Trust, chain: &[CertificateDer<'_>]) -> Option<PeerCertificate> {
    let peer = trust.server(chain).ok()?;
    let when = When::AnyTimeFrom(UNIX_EPOCH);
    verify(&chain[0], &chain[1..], trust.current().anchors(), Side::Client, when).ok()?;
    Some(peer)
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 2_000, ..ProptestConfig::default() })]

    #[test]
    fn arbitrary_bytes_are_nobody(bytes in any::<Vec<u8>>()) {
        let domain = TrustDomain::parse("example.org").unwrap();
        prop_assert!(PeerCertificate::parse(&bytes, &domain).is_err());
        prop_assert!(bundle::Root::parse(&CertificateDer::from(bytes.as_slice())).is_err());
        prop_assert!(TrustBundle::parse_pem(&bytes).is_err());
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 16, ..ProptestConfig::default() })]

    #[test]
    fn a_changed_certificate_is_nobody_or_at_least_not_signed(changes in prop::collection::vec((any::<Index>(), 0u8..8, any::<Index>()), 100)) {
        let (world, key) = (World::new(), key());
        let trust = world.trust();
        let chain = world.issue(NODE, Usage::Client, life(today(), DAY), &*key).chain;
        prop_assert!(admitted(&trust, &chain).is_some());
        for (position, bit, cut) in changes {
            for which in 0..chain.len() {
                let mut changed = chain.clone();
                let mut der = changed[which].to_vec();
                flip(&mut der, position, bit);
                changed[which] = der.into();
                // A flipped bit in the intermediate's signature or names leaves no path; nothing of it is ever admitted.
                prop_assert_eq!(admitted(&trust, &changed), None);
                let cut = cut.index(chain[which].len());
                changed[which] = chain[which][..cut].to_vec().into();
                prop_assert_eq!(admitted(&trust, &changed), None);
            }
        }
    }

    #[test]
    fn a_changed_root_is_no_root(changes in prop::collection::vec((any::<Index>(), 0u8..8), 100)) {
        let world = World::new();
        for (position, bit) in changes {
            let mut der = world.root.trusted().certificate().to_vec();
            flip(&mut der, position, bit);
            prop_assert!(bundle::Root::parse(&der.into()).is_err());
        }
    }

    #[test]
    fn a_changed_bundle_is_the_same_or_none(changes in prop::collection::vec((any::<Index>(), 0u8..8), 100)) {
        let (one, two) = (World::new(), World::new());
        let bundle = one.bundle().with(two.root.trusted().clone()).unwrap();
        for (position, bit) in changes {
            let mut pem = bundle.to_pem().into_bytes();
            flip(&mut pem, position, bit);
            if let Ok(read) = TrustBundle::parse_pem(&pem) {
                // A flipped bit in a label may hide a root; it never makes one.
                prop_assert!(read.roots().iter().all(|root| bundle.roots().contains(root)));
            }
        }
    }

    #[test]
    fn a_changed_authority_is_refused_or_the_same(changes in prop::collection::vec((any::<Index>(), 0u8..8), 100)) {
        let domain = TrustDomain::parse("example.org").unwrap();
        let key = key();
        let root = RootAuthority::create(&domain, key.clone(), life(today(), YEAR)).unwrap();
        for (position, bit) in changes {
            let mut pem = root.to_pem().into_bytes();
            flip(&mut pem, position, bit);
            if let Ok(read) = RootAuthority::load(&pem, key.clone()) {
                prop_assert_eq!(read.trusted(), root.trusted());
            }
        }
    }
}
