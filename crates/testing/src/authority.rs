//! An authority for tests, and the files that it makes for peers.

use std::fs;
use std::net::IpAddr;
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use rustls_pki_types::DnsName;
use skerry_identity::authority::{IntermediateAuthority, Issued, Life, Order, RootAuthority};
use skerry_identity::certificate::Usage;
use skerry_identity::{Identity, KeyPair, Principal, PublicKey, SigningKey, TrustBundle, TrustDomain};

const DAY: Duration = Duration::from_secs(24 * 60 * 60);

/// An installation's authority. It began a year ago.
pub struct Authority {
    root: RootAuthority,
    intermediate: IntermediateAuthority,
}

/// Where a peer's certificate, its key and the authority are.
#[derive(Clone, Debug)]
pub struct TlsFiles {
    /// Chain, leaf first.
    pub certificate: PathBuf,
    /// Its key, mode 0600.
    pub key: PathBuf,
    /// The root.
    pub authority: PathBuf,
}

impl Authority {
    /// A new one of `domain`.
    pub fn new(domain: &str) -> Self {
        Self::at(domain, SystemTime::now())
    }

    /// A new one of `domain`, in a world where it is `now`.
    pub fn at(domain: &str, now: SystemTime) -> Self {
        let life = Life { not_before: now - 365 * DAY, lifetime: 3650 * DAY };
        let domain = TrustDomain::parse(domain).expect("a trust domain");
        let root = RootAuthority::create(&domain, new_key(), life).expect("a root");
        let intermediate = root.intermediate(new_key(), life).expect("an intermediate");
        Self { root, intermediate }
    }

    /// The root, as `--tls-ca` takes it.
    pub fn to_pem(&self) -> String {
        self.root.to_pem()
    }

    /// Who is trusted by those who trust this authority.
    pub fn bundle(&self) -> TrustBundle {
        TrustBundle::new(vec![self.root.trusted().clone()]).expect("one root")
    }

    /// A certificate for `identity` from a day ago on, for a month. A service's is for this machine's loopback addresses too.
    pub fn issue(&self, identity: &str) -> (Issued, Arc<KeyPair>) {
        self.issue_for(identity, Life { not_before: SystemTime::now() - DAY, lifetime: 30 * DAY })
    }

    /// As [`Self::issue`], but it ended an hour ago.
    pub fn issue_expired(&self, identity: &str) -> (Issued, Arc<KeyPair>) {
        let lifetime = Duration::from_secs(23 * 60 * 60);
        self.issue_for(identity, Life { not_before: SystemTime::now() - DAY, lifetime })
    }

    fn issue_for(&self, identity: &str, life: Life) -> (Issued, Arc<KeyPair>) {
        let key = new_key();
        (self.certify(identity, key.public_key(), life), key)
    }

    /// A certificate for a key that somebody else has.
    pub fn certify(&self, identity: &str, public_key: &PublicKey, life: Life) -> Issued {
        let identity = Identity::parse(identity).expect("an identity");
        let is_service = matches!(identity.principal, Principal::Service(_));
        let dns_names = [DnsName::try_from("localhost").expect("a name")];
        let addresses = [IpAddr::from([127, 0, 0, 1]), IpAddr::from([0, 0, 0, 0, 0, 0, 0, 1])];
        let order = Order {
            public_key,
            identity: &identity,
            usage: if is_service { Usage::Both } else { Usage::Client },
            dns_names: if is_service { &dns_names } else { &[] },
            addresses: if is_service { &addresses } else { &[] },
            life,
        };
        self.intermediate.issue(&order).expect("issued")
    }

    /// Issues for `identity` and writes its files into `directory`, named after `name`, in the place of what was there.
    pub fn write(&self, directory: &Path, name: &str, identity: &str) -> TlsFiles {
        let (issued, key) = self.issue(identity);
        self.write_issued(directory, name, &issued, &key)
    }

    /// Writes what was issued.
    pub fn write_issued(&self, directory: &Path, name: &str, issued: &Issued, key: &KeyPair) -> TlsFiles {
        let at = |suffix: &str| directory.join(format!("{name}{suffix}"));
        let files = TlsFiles { certificate: at(".crt"), key: at(".key"), authority: at("-ca.crt") };
        for (path, text) in [
            (&files.certificate, issued.to_pem().as_str()),
            (&files.key, key.to_pem().as_str()),
            (&files.authority, self.to_pem().as_str()),
        ] {
            // Removed first: the mode counts only where a file is made, and one that is written anew is another file.
            let _ = fs::remove_file(path);
            let file = fs::OpenOptions::new().create_new(true).write(true).mode(0o600).open(path);
            std::io::Write::write_all(&mut file.expect("made"), text.as_bytes()).expect("written");
        }
        files
    }
}

impl TlsFiles {
    /// The flags that name them.
    pub fn flags(&self) -> [String; 6] {
        let text = |path: &Path| path.display().to_string();
        [
            "--tls-cert".to_owned(),
            text(&self.certificate),
            "--tls-key".to_owned(),
            text(&self.key),
            "--tls-ca".to_owned(),
            text(&self.authority),
        ]
    }
}

fn new_key() -> Arc<KeyPair> {
    Arc::new(KeyPair::generate().expect("a key"))
}
