//! Requests as other programs make them: what they ask for beyond a key is not looked at, and other keys than ours are refused.

use rcgen::string::Ia5String;
use rcgen::{CertificateParams, DnType, KeyUsagePurpose, SanType};

use super::*;
use crate::authority::Signs;
use crate::csr::{Request, RequestError};

#[test]
fn what_a_request_asks_for_beyond_its_key_is_not_looked_at() {
    let (world, key) = (World::new(), key());
    let mut params = CertificateParams::default();
    params.distinguished_name.push(DnType::CommonName, "root of all");
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign];
    params.subject_alt_names = vec![SanType::URI(Ia5String::try_from(GATEWAY).unwrap())];
    let csr = params.serialize_request(&Signs(&*key)).unwrap();
    for bytes in [csr.der().to_vec(), csr.pem().unwrap().into_bytes()] {
        let request = Request::parse(&bytes).unwrap();
        assert_eq!(request.public_key(), key.public_key());
        let identity = Identity::parse(NODE).unwrap();
        let issued = world
            .intermediate
            .issue(&Order {
                public_key: request.public_key(),
                identity: &identity,
                usage: Usage::Client,
                dns_names: &[],
                addresses: &[],
                life: life(today(), DAY),
            })
            .unwrap();
        let peer = world.trust().peer(&issued.chain).unwrap();
        assert_eq!((peer.identity, peer.usage), (identity, Usage::Client));
    }
}

#[test]
fn a_request_for_another_kind_of_key_is_refused() {
    for (algorithm, refusal) in [
        (&rcgen::PKCS_ED25519, RequestError::Algorithm),
        (&rcgen::PKCS_ECDSA_P384_SHA384, RequestError::Algorithm),
    ] {
        let key = rcgen::KeyPair::generate_for(algorithm).unwrap();
        let csr = CertificateParams::default().serialize_request(&key).unwrap();
        assert_eq!(Request::parse(csr.der()), Err(refusal));
    }
}

#[test]
fn a_certificate_or_a_key_is_no_request() {
    let (world, pair) = (World::new(), KeyPair::generate().unwrap());
    assert!(matches!(Request::parse(world.root.to_pem().as_bytes()), Err(RequestError::Pem(_))));
    assert!(matches!(Request::parse(pair.to_pem().as_bytes()), Err(RequestError::Pem(_))));
    assert_eq!(Request::parse(world.root.trusted().certificate()), Err(RequestError::Malformed));
}
