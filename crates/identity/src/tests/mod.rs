//! Tests across modules: certificates that are issued and read, handshakes in memory, bits that flip.

mod asked;
mod bits;
mod handshake;
mod issue;
mod rollover;
mod times;

use std::net::IpAddr;
use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use rustls_pki_types::{CertificateDer, DnsName};

use crate::authority::{IntermediateAuthority, Issued, Life, Order, RootAuthority};
use crate::bundle::{Trust, TrustBundle};
use crate::certificate::Usage;
use crate::clock::Clock;
use crate::tls::Credentials;
use crate::{Identity, KeyPair, SigningKey, TrustDomain};

const DAY: Duration = Duration::from_secs(24 * 60 * 60);
const YEAR: Duration = Duration::from_secs(365 * 24 * 60 * 60);

const NODE: &str = "spiffe://example.org/project/default/node/n1";
const GATEWAY: &str = "spiffe://example.org/project/system/service/gateway";

/// The day on which these tests play, in 2027.
fn today() -> SystemTime {
    UNIX_EPOCH + Duration::from_secs(1_800_000_000)
}

#[derive(Debug)]
struct Shows(SystemTime);

impl Clock for Shows {
    fn now(&self) -> SystemTime {
        self.0
    }
}

fn key() -> Arc<dyn SigningKey> {
    Arc::new(KeyPair::generate().unwrap())
}

fn life(not_before: SystemTime, lifetime: Duration) -> Life {
    Life { not_before, lifetime }
}

/// An installation: a root and an intermediate that were made a year ago.
struct World {
    root: RootAuthority,
    intermediate: IntermediateAuthority,
}

impl World {
    fn new() -> Self {
        Self::of("example.org")
    }

    fn of(domain: &str) -> Self {
        let made = today() - YEAR;
        let root = RootAuthority::create(&TrustDomain::parse(domain).unwrap(), key(), life(made, 20 * YEAR))
            .unwrap();
        let intermediate = root.intermediate(key(), life(made, 5 * YEAR)).unwrap();
        Self { root, intermediate }
    }

    fn bundle(&self) -> TrustBundle {
        TrustBundle::new(vec![self.root.trusted().clone()]).unwrap()
    }

    fn trust(&self) -> Arc<Trust> {
        Trust::new(self.bundle())
    }

    fn issue(&self, identity: &str, usage: Usage, life: Life, key: &dyn SigningKey) -> Issued {
        let identity = Identity::parse(identity).unwrap();
        let dns_names = [DnsName::try_from("gateway.example.org").unwrap()];
        let addresses = [IpAddr::from([127, 0, 0, 1])];
        let (dns_names, addresses) =
            if usage.is_server() { (&dns_names[..], &addresses[..]) } else { (&[][..], &[][..]) };
        let public_key = key.public_key();
        self.intermediate
            .issue(&Order { public_key, identity: &identity, usage, dns_names, addresses, life })
            .unwrap()
    }

    /// A node's certificate that an honest authority would not issue, with its intermediate.
    fn forge(
        &self,
        edit: impl FnOnce(&mut rcgen::CertificateParams),
        key: &dyn SigningKey,
    ) -> Vec<CertificateDer<'static>> {
        let order = Order {
            public_key: key.public_key(),
            identity: &Identity::parse(NODE).unwrap(),
            usage: Usage::Client,
            dns_names: &[],
            addresses: &[],
            life: life(today() - DAY, 30 * DAY),
        };
        let honest = self.intermediate.issue(&order).unwrap();
        vec![self.intermediate.forge(&order, edit), honest.chain[1].clone()]
    }

    fn node(&self) -> Arc<Credentials> {
        let key = key();
        let issued = self.issue(NODE, Usage::Client, life(today() - DAY, 30 * DAY), &*key);
        Credentials::new(issued.chain, key).unwrap()
    }

    fn gateway(&self) -> Arc<Credentials> {
        self.gateway_for(life(today() - DAY, 30 * DAY))
    }

    fn gateway_for(&self, life: Life) -> Arc<Credentials> {
        let key = key();
        let issued = self.issue(GATEWAY, Usage::Both, life, &*key);
        Credentials::new(issued.chain, key).unwrap()
    }
}
