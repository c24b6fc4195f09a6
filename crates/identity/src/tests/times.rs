//! The law of time: which chains pass from a floor on, and who is out of time, for any lives of leaf and intermediate.

use proptest::prelude::*;

use super::*;
use crate::Client;
use crate::chain::chain_from_pem;
use crate::path::{Side, When, verify};

/// A day of the century that these tests know, from 2000 on.
fn on(day: u32) -> SystemTime {
    UNIX_EPOCH + 30 * YEAR + DAY * day
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 300, ..ProptestConfig::default() })]

    #[test]
    fn a_chain_passes_exactly_if_its_lives_meet_and_do_not_end_before_the_floor(
        (upper_from, upper_days) in (0u32..40, 1u32..40),
        (leaf_from, leaf_days) in (0u32..60, 0u32..40),
        floor in 0u32..100,
        now in 0u32..100,
    ) {
        let (domain, key) = (TrustDomain::parse("example.org").unwrap(), key());
        let root = RootAuthority::create(&domain, key.clone(), life(on(0), 50 * YEAR)).unwrap();
        let upper = root.intermediate(key.clone(), life(on(upper_from), DAY * upper_days)).unwrap();
        let identity = Identity::parse(NODE).unwrap();
        let order = Order {
            public_key: key.public_key(),
            identity: &identity,
            usage: Usage::Client,
            dns_names: &[],
            addresses: &[],
            life: life(on(leaf_from), DAY * leaf_days),
        };
        let leaf = upper.forge(&order, |_| {});
        let intermediate = chain_from_pem(upper.to_pem().as_bytes()).unwrap().swap_remove(0);
        let trust = Trust::new(TrustBundle::new(vec![root.trusted().clone()]).unwrap());

        let begins = upper_from.max(leaf_from);
        let ends = (upper_from + upper_days).min(leaf_from + leaf_days);
        let presented = [intermediate];
        let from = |floor| {
            verify(&leaf, &presented, trust.current().anchors(), Side::Client, When::AnyTimeFrom(floor)).is_ok()
        };
        prop_assert_eq!(from(on(floor)), begins <= ends && floor <= ends);
        prop_assert_eq!(from(UNIX_EPOCH), begins <= ends);
        let at = When::At(on(now));
        let exactly = verify(&leaf, &presented, trust.current().anchors(), Side::Client, at).is_ok();
        prop_assert_eq!(exactly, begins <= now && now <= ends);

        let [intermediate] = presented;
        let client = trust.client(&[leaf, intermediate], on(now)).unwrap();
        prop_assert_eq!(matches!(client, Client::Valid(_)), begins <= now && now <= ends);
    }
}
