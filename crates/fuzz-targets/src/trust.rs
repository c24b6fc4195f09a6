//! What strangers show: tokens, fingerprints, names, requests, certificates.

use rustls_pki_types::CertificateDer;
use skerry_identity::bundle::Root;
use skerry_identity::certificate::PeerCertificate;
use skerry_identity::chain::chain_from_pem;
use skerry_identity::csr::Request;
use skerry_identity::fingerprint::Fingerprint;
use skerry_identity::token::{Token, TokenId};
use skerry_identity::{Identity, PublicKey, TrustBundle, TrustDomain};

/// What a machine shows to enrol. A token that is read is written as it was.
pub fn tokens(input: &[u8]) {
    let Ok(text) = std::str::from_utf8(input) else { return };
    if let Some(id) = TokenId::parse(text) {
        assert_eq!(id.as_str(), text);
    }
    if let Ok(token) = Token::parse(text) {
        assert_eq!(token.reveal().as_str(), text.trim());
        assert!(token.hash().matches(&token));
    }
}

/// What an operator types. It is written in one way only.
pub fn fingerprints(input: &[u8]) {
    let Ok(text) = std::str::from_utf8(input) else { return };
    if let Ok(fingerprint) = Fingerprint::parse(text) {
        assert_eq!(Fingerprint::parse(&fingerprint.to_string()), Ok(fingerprint));
    }
}

/// A URI name. There is one way to write an identity.
pub fn names(input: &[u8]) {
    let Ok(text) = std::str::from_utf8(input) else { return };
    if let Ok(identity) = Identity::parse(text) {
        assert_eq!(identity.to_string(), text);
    }
    if let Ok(domain) = TrustDomain::parse(text) {
        assert_eq!(TrustDomain::parse_uri(&domain.uri()).expect("it is one"), domain);
    }
}

/// PKCS#10, in DER or PEM. Nobody forges one here: what is taken is signed by the key that it names.
pub fn requests(input: &[u8]) {
    if let Ok(request) = Request::parse(input) {
        let spki = request.public_key().to_spki();
        assert_eq!(PublicKey::from_spki(&spki).expect("it is one").to_spki(), spki);
    }
}

/// A certificate, a chain of them as PEM, a bundle of roots. Who is read has a name that can be read.
pub fn certificates(input: &[u8]) {
    let domain = TrustDomain::parse("example.org").expect("a domain");
    if let Ok(peer) = PeerCertificate::parse(input, &domain) {
        let name = peer.identity.to_string();
        assert_eq!(Identity::parse(&name).expect("it was one"), peer.identity);
        assert_eq!(peer.identity.trust_domain, domain);
    }
    if let Ok(root) = Root::parse(&CertificateDer::from(input)) {
        assert_eq!(Root::parse(root.certificate()).expect("it was one").pin(), root.pin());
    }
    if let Ok(chain) = chain_from_pem(input) {
        let _ = PeerCertificate::of_chain(&chain, &domain);
    }
    if let Ok(bundle) = TrustBundle::parse_pem(input) {
        let again = TrustBundle::parse_pem(bundle.to_pem().as_bytes()).expect("it was one");
        assert_eq!(again.roots().len(), bundle.roots().len());
    }
}
