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
        let peer = world.trust().server(&issued.chain).unwrap();
        assert_eq!((peer.identity, peer.usage), (identity, Usage::Client));
    }
}

/// `openssl req -new -addext basicConstraints=critical,CA:TRUE -addext keyUsage=keyCertSign`, with the gateway's name.
const BY_OPENSSL: &str = "\
-----BEGIN CERTIFICATE REQUEST-----
MIIBUjCB+QIBADAoMRAwDgYDVQQKDAdFeGFtcGxlMRQwEgYDVQQDDAtyb290IG9m
IGFsbDBZMBMGByqGSM49AgEGCCqGSM49AwEHA0IABIXCTVxMQhmmPUurLalmViNZ
+3CPlIDQ6nGt/Ky2s5xdpYGMsBrR9hxY6XCcUg64zaYzGbWFQM4bh0DQ6ZuNsLqg
bzBtBgkqhkiG9w0BCQ4xYDBeMD4GA1UdEQQ3MDWGM3NwaWZmZTovL2V4YW1wbGUu
b3JnL3Byb2plY3Qvc3lzdGVtL3NlcnZpY2UvZ2F0ZXdheTAPBgNVHRMBAf8EBTAD
AQH/MAsGA1UdDwQEAwICBDAKBggqhkjOPQQDAgNIADBFAiEA0/rqxoxwy8TrAGIY
vBI4xMcwLYvmtINBa7GvK+wmVtwCIBXFsuY1tSkUSniTTZCLFJ1tgYTJM4MyNmrG
I7hXTOgS
-----END CERTIFICATE REQUEST-----
";

#[test]
fn a_request_of_openssl_that_asks_to_be_an_authority_yields_its_key_alone() {
    let request = Request::parse(BY_OPENSSL.as_bytes()).unwrap();
    let id = "b00663a139aa5c102dcc9bdc681c886895da3a7d53a67dd3686f2f26d6d97a41";
    assert_eq!(request.public_key().id().to_string(), id);
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
