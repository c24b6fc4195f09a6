//! Identities that a proxy forwards: a service mesh ends TLS in a sidecar and says in `x-forwarded-client-cert` whose certificate it saw.
//!
//! The header is believed on one kind of connection only: a plain one from an address that was configured as a trusted proxy's. On every other
//! connection a request that has it is refused, so that it never passes by mistake. It speaks for services alone. Nodes and users bring their TLS
//! through the proxy to the same listener, where their own certificate counts.
//!
//! The header's form is Envoy's: elements with commas between, one for each proxy that was passed; pairs `key=value` with semicolons between;
//! values may be quoted, with `\"` for a quote. Exactly one element is taken, as the nearest proxy alone is trusted (in Envoy:
//! `forward_client_cert_details: SANITIZE_SET`). Its `Cert` (the certificate, PEM, percent-encoded) says all; without it there must be exactly
//! one `URI`. Field reference: <https://www.envoyproxy.io/docs/envoy/latest/configuration/http/http_conn_man/headers#x-forwarded-client-cert>.

use std::net::IpAddr;
use std::str::FromStr;
use std::sync::Arc;
use std::time::SystemTime;

use http::HeaderMap;
use skerry_identity::chain::chain_from_pem;
use skerry_identity::{Identity, PeerCertificate, Principal, Standing, TrustDomain};
use skerry_model::{Code, Fault};

use crate::tls::Caller;

/// The header.
const HEADER: &str = "x-forwarded-client-cert";
/// Longest value that is read: a certificate of ours has about 600 bytes, and percent-encoding may treble its PEM.
const VALUE_BYTES_MAX: usize = 8 * 1024;

/// Addresses whose last bits do not matter.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Network {
    address: IpAddr,
    prefix: u8,
}

/// A text that is no network.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("`{0}` is no address and no network: write for example 127.0.0.1 or 10.1.0.0/16")]
pub struct InvalidNetwork(String);

impl FromStr for Network {
    type Err = InvalidNetwork;

    fn from_str(text: &str) -> Result<Self, InvalidNetwork> {
        let invalid = || InvalidNetwork(text.to_owned());
        let (address, prefix) = match text.split_once('/') {
            Some((address, prefix)) => (address, Some(prefix)),
            None => (text, None),
        };
        let address: IpAddr = address.parse().map_err(|_| invalid())?;
        let longest = if address.is_ipv4() { 32 } else { 128 };
        let prefix = match prefix {
            Some(prefix) => prefix.parse().ok().filter(|prefix| *prefix <= longest).ok_or_else(invalid)?,
            None => longest,
        };
        Ok(Self { address, prefix })
    }
}

impl Network {
    /// Whether `address` is in it. An IPv4 address counts as itself where it comes as IPv6.
    pub fn contains(&self, address: IpAddr) -> bool {
        match (self.address, address.to_canonical()) {
            (IpAddr::V4(own), IpAddr::V4(other)) => {
                let bits = 32 - u32::from(self.prefix);
                (own.to_bits() ^ other.to_bits()).checked_shr(bits).unwrap_or(0) == 0
            }
            (IpAddr::V6(own), IpAddr::V6(other)) => {
                let bits = 128 - u32::from(self.prefix);
                (own.to_bits() ^ other.to_bits()).checked_shr(bits).unwrap_or(0) == 0
            }
            _ => false,
        }
    }
}

/// Who calls, where a trusted proxy says so; nothing on a connection of somebody else's, where the header must be missing.
pub(crate) fn forwarded(
    caller: Option<&Caller>,
    headers: &HeaderMap,
    now: SystemTime,
) -> Result<Option<Arc<PeerCertificate>>, Fault> {
    let trust = caller.and_then(|caller| caller.forwards.as_ref());
    let mut values = headers.get_all(HEADER).iter();
    let Some(trust) = trust else {
        return match values.next() {
            None => Ok(None),
            Some(_) => Err(Fault::new(
                Code::PermissionDenied,
                "FORWARDED_IDENTITY",
                format!(
                    "{HEADER} is believed from trusted proxies only, and this connection is not one's: --trusted-proxy names them"
                ),
            )),
        };
    };
    let (Some(value), None) = (values.next(), values.next()) else {
        return Err(refused("it must be there exactly once"));
    };
    let value = value.to_str().map_err(|_| refused("it is no text"))?;
    peer(value, trust.current().domain(), now).map(|peer| Some(Arc::new(peer)))
}

fn refused(why: impl std::fmt::Display) -> Fault {
    Fault::new(
        Code::Unauthenticated,
        "FORWARDED_IDENTITY",
        format!("the proxy's {HEADER} names nobody: {why}"),
    )
}

/// Who the header's value names: a service of `domain`.
fn peer(value: &str, domain: &TrustDomain, now: SystemTime) -> Result<PeerCertificate, Fault> {
    if value.len() > VALUE_BYTES_MAX {
        return Err(refused(format_args!("it has more than {VALUE_BYTES_MAX} bytes")));
    }
    let pairs = element(value).map_err(refused)?;
    let of = |key: &str| -> Vec<&str> {
        let same = pairs.iter().filter(|(other, _)| other.eq_ignore_ascii_case(key));
        same.map(|(_, value)| value.as_str()).filter(|value| !value.is_empty()).collect()
    };
    let peer = match (of("Cert").as_slice(), of("URI").as_slice()) {
        ([certificate], _) => {
            let pem = percent_decoded(certificate).ok_or_else(|| refused("Cert is not percent-encoded"))?;
            let chain = chain_from_pem(&pem).map_err(|error| refused(format_args!("Cert: {error}")))?;
            let leaf = chain.first().ok_or_else(|| refused("Cert is empty"))?;
            let peer = PeerCertificate::parse(leaf, domain).map_err(refused)?;
            if peer.standing(now) != Standing::Valid {
                return Err(refused(format_args!("the certificate of {} is not valid now", peer.identity)));
            }
            peer
        }
        ([], [uri]) => {
            let identity = Identity::parse(uri).map_err(refused)?;
            if identity.trust_domain != *domain {
                let other = &identity.trust_domain;
                return Err(refused(format_args!("{other} is another trust domain than {domain}")));
            }
            PeerCertificate::forwarded(identity, now)
        }
        ([], uris) => {
            return Err(refused(format_args!("it has {} URI, where one says who somebody is", uris.len())));
        }
        _ => return Err(refused("it has more than one Cert")),
    };
    match peer.identity.principal {
        Principal::Service(_) => Ok(peer),
        Principal::Node(_) | Principal::User(_) => Err(Fault::new(
            Code::PermissionDenied,
            "FORWARDED_IDENTITY",
            format!(
                "{} may not be forwarded: nodes and users bring their own TLS, which the proxy passes through",
                peer.identity
            ),
        )),
    }
}

/// Whom the header's value names, if it names a service of `domain`.
#[doc(hidden)]
pub fn named(value: &str, domain: &TrustDomain) -> Option<Identity> {
    peer(value, domain, SystemTime::now()).ok().map(|peer| peer.identity)
}

/// The pairs of the one element of a value.
fn element(value: &str) -> Result<Vec<(String, String)>, &'static str> {
    let mut pairs = Vec::new();
    let mut characters = value.chars().peekable();
    loop {
        let mut key = String::new();
        loop {
            match characters.next() {
                Some('=') => break,
                Some(c) if c.is_ascii_alphanumeric() || c == ' ' => key.push(c),
                _ => return Err("it is not made of key=value"),
            }
        }
        let mut text = String::new();
        if characters.next_if_eq(&'"').is_some() {
            loop {
                match characters.next() {
                    Some('"') => break,
                    Some('\\') => text.push(characters.next().ok_or("a quote has no end")?),
                    Some(c) => text.push(c),
                    None => return Err("a quote has no end"),
                }
            }
        } else {
            while let Some(c) = characters.next_if(|c| !matches!(c, ';' | ',' | '"')) {
                text.push(c);
            }
        }
        pairs.push((key.trim().to_owned(), text));
        match characters.next() {
            None => return Ok(pairs),
            Some(';') => {}
            Some(',') => {
                return Err(
                    "it has passed several proxies, where the nearest must set it anew (SANITIZE_SET)",
                );
            }
            Some(_) => return Err("it is not made of key=value"),
        }
    }
}

fn percent_decoded(text: &str) -> Option<Vec<u8>> {
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.bytes();
    while let Some(byte) = rest.next() {
        if byte != b'%' {
            bytes.push(byte);
            continue;
        }
        let digit = |byte: u8| char::from(byte).to_digit(16);
        let (high, low) = (digit(rest.next()?)?, digit(rest.next()?)?);
        bytes.push(u8::try_from(high * 16 + low).ok()?);
    }
    Some(bytes)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const SERVICE: &str = "spiffe://example.org/project/system/service/gateway";

    fn said(value: &str) -> Result<String, String> {
        let domain = TrustDomain::parse("example.org").expect("a domain");
        let peer = peer(value, &domain, SystemTime::now());
        peer.map(|peer| peer.identity.to_string()).map_err(|fault| fault.message)
    }

    #[test]
    fn one_service_is_named_by_its_uri() {
        for value in [
            format!("URI={SERVICE}"),
            format!("By=spiffe://example.org/x;Hash=00ff;Subject=\"CN=a,b;c=\\\"d\\\"\";URI={SERVICE};DNS=a"),
            format!("uri=\"{SERVICE}\""),
        ] {
            assert_eq!(said(&value).as_deref(), Ok(SERVICE), "{value}");
        }
    }

    #[test]
    fn what_names_nobody_or_more_than_one_is_refused() {
        for (value, why) in [
            (String::new(), "key=value"),
            ("Hash=00".to_owned(), "0 URI"),
            (format!("URI={SERVICE};URI={SERVICE}"), "2 URI"),
            (format!("URI={SERVICE},URI={SERVICE}"), "several proxies"),
            (format!("Subject=\"x;URI={SERVICE}"), "no end"),
            ("URI=spiffe://example.org/project/default/node/n1".to_owned(), "may not be forwarded"),
            ("URI=spiffe://example.org/project/default/user/ada".to_owned(), "may not be forwarded"),
            ("URI=spiffe://other.org/project/system/service/gateway".to_owned(), "another trust domain"),
            ("URI=spiffe://cluster.local/ns/a/sa/b".to_owned(), "not an identity"),
            ("Cert=\"%2\"".to_owned(), "percent"),
            ("Cert=\"x\"".to_owned(), "Cert"),
            (format!("URI={SERVICE};Hash={}", "0".repeat(VALUE_BYTES_MAX)), "more than"),
        ] {
            let told = said(&value).expect_err(&value);
            assert!(told.contains(why), "{value}: {told}");
        }
    }

    #[test]
    fn a_forwarded_certificate_says_all_of_itself() {
        let authority = skerry_testing::Authority::new("example.org");
        let encoded = |identity: &str| -> String {
            let (issued, _) = authority.issue(identity);
            let pem = skerry_identity::chain::chain_to_pem(&issued.chain[..1]);
            pem.bytes().flat_map(|byte| format!("%{byte:02X}").into_bytes()).map(char::from).collect()
        };
        assert_eq!(said(&format!("Hash=0;Cert=\"{}\"", encoded(SERVICE))).as_deref(), Ok(SERVICE));
        let node = encoded("spiffe://example.org/project/default/node/n1");
        // A name beside it does not count.
        let told = said(&format!("URI={SERVICE};Cert=\"{node}\"")).expect_err("a node");
        assert!(told.contains("may not be forwarded"), "{told}");
    }

    #[test]
    fn a_network_is_an_address_or_a_prefix() {
        let within = |network: &str, address: &str| {
            network.parse::<Network>().expect(network).contains(address.parse().expect(address))
        };
        assert!(within("127.0.0.1", "127.0.0.1") && !within("127.0.0.1", "127.0.0.2"));
        assert!(within("10.1.0.0/16", "10.1.2.3") && !within("10.1.0.0/16", "10.2.0.1"));
        assert!(within("0.0.0.0/0", "192.0.2.1") && !within("0.0.0.0/0", "::1"));
        assert!(within("10.0.0.0/8", "::ffff:10.9.9.9"));
        assert!(within("fd00::/8", "fdff::1") && !within("fd00::/8", "fe80::1") && within("::/0", "::1"));
        for bad in ["", "localhost", "10.0.0.0/33", "::/129", "10.0.0.0/-1", "10.0.0.0/"] {
            assert!(bad.parse::<Network>().is_err(), "{bad}");
        }
    }

    proptest! {
        #[test]
        fn any_text_is_read_without_panic_and_names_only_services(text in any::<String>(), rest in "[A-Za-z=;,\"\\\\%0-9:/.]{0,80}") {
            for text in [text, rest.clone(), format!("URI={SERVICE};{rest}")] {
                if let Ok(named) = said(&text) {
                    prop_assert_eq!(named, SERVICE);
                }
            }
        }
    }
}
