//! Where the store is and how patient we are with it.

use std::fmt;
use std::path::PathBuf;
use std::time::Duration;

use tonic::transport::{Certificate, Channel, ClientTlsConfig, Endpoint, Identity};

/// How long one call may take.
pub const DEADLINE: Duration = Duration::from_secs(5);
/// How long [`crate::Store::connect`] keeps trying.
pub const CONNECT_DEADLINE: Duration = Duration::from_secs(30);

/// How long one TCP connection may take to open.
const DIAL_DEADLINE: Duration = Duration::from_secs(3);
/// etcd closes connections that ping more often than every 5 s.
const PING_PERIOD: Duration = Duration::from_secs(10);
/// A connection whose ping is not answered for so long is dead.
const PING_DEADLINE: Duration = Duration::from_secs(10);
/// What one stream may have in flight, so that a list fills the link.
const STREAM_WINDOW_BYTES: u32 = 1024 * 1024;
/// Room for a slow stream of each kind beside the others: mirrors, leases, watches of single keys.
const CONNECTION_WINDOW_BYTES: u32 = 16 * 1024 * 1024;

/// What TLS to an etcd takes.
#[derive(Clone)]
pub struct EtcdTls {
    config: ClientTlsConfig,
}

impl fmt::Debug for EtcdTls {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("EtcdTls").finish_non_exhaustive()
    }
}

impl EtcdTls {
    /// Of the authorities whose certificates etcd may have, and a certificate of our own with its key, where etcd asks for one: all as PEM. The
    /// name in etcd's certificate has to be that of the URL.
    pub fn new(authorities: &[u8], identity: Option<&(Vec<u8>, Vec<u8>)>) -> Self {
        let config = ClientTlsConfig::new().ca_certificate(Certificate::from_pem(authorities));
        let with = |(certificate, key): &(Vec<u8>, Vec<u8>)| Identity::from_pem(certificate, key);
        Self {
            config: match identity.map(with) {
                Some(identity) => config.identity(identity),
                None => config,
            },
        }
    }
}

/// Where the store is.
#[derive(Clone)]
pub enum Target {
    /// One or several members of an etcd cluster: `http://host:port`, or `https://host:port` with TLS.
    Endpoints {
        /// Where.
        urls: Vec<String>,
        /// For `https`.
        tls: Option<EtcdTls>,
    },
    /// A unix socket: the embedded store of the same machine.
    Unix(PathBuf),
    /// A channel that the caller made.
    Channel(Channel),
}

/// What does not say where the store is, or how to talk to it.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum InvalidTarget {
    /// The text says no place.
    #[error(
        "`{text}` does not say where the store is: use `http://host:port` or `https://host:port`, several of them with commas, or `unix:/path`"
    )]
    Text {
        /// The text.
        text: String,
    },
    /// There is nothing to hold etcd's certificate against.
    #[error("`{url}` has TLS: name the authority of its certificate with --etcd-ca")]
    NoAuthority {
        /// The address.
        url: String,
    },
    /// TLS was asked for, and the address has none.
    #[error("`{url}` has no TLS, which --etcd-ca asks for: write https://")]
    NoTls {
        /// The address.
        url: String,
    },
    /// A file does not hold what it should.
    #[error("--etcd-ca, --etcd-cert or --etcd-key is not as TLS wants it: {reason}")]
    Files {
        /// Why.
        reason: String,
    },
}

impl Target {
    /// Parses `http://host:port[,http://host:port...]`, or `unix:/path`.
    pub fn parse(text: &str) -> Result<Self, InvalidTarget> {
        Self::parse_with(text, None)
    }

    /// The same where addresses with TLS (`https://host:port`) are reached by `tls`.
    pub fn parse_with(text: &str, tls: Option<EtcdTls>) -> Result<Self, InvalidTarget> {
        let invalid = || InvalidTarget::Text { text: text.to_owned() };
        if let Some(path) = text.strip_prefix("unix:") {
            let path = path.strip_prefix("//").unwrap_or(path);
            if !path.starts_with('/') {
                return Err(invalid());
            }
            return if tls.is_some() {
                Err(InvalidTarget::NoTls { url: text.to_owned() })
            } else {
                Ok(Self::Unix(path.into()))
            };
        }
        let urls: Vec<String> = text.split(',').map(|part| part.trim().to_owned()).collect();
        for url in &urls {
            let (host, secured) = match (url.strip_prefix("http://"), url.strip_prefix("https://")) {
                (Some(host), _) => (host, false),
                (_, Some(host)) => (host, true),
                (None, None) => return Err(invalid()),
            };
            if host.is_empty() {
                return Err(invalid());
            }
            match (secured, &tls) {
                (true, None) => return Err(InvalidTarget::NoAuthority { url: url.clone() }),
                (false, Some(_)) => return Err(InvalidTarget::NoTls { url: url.clone() }),
                _ => drop(endpoint(url, tls.as_ref())?),
            }
        }
        Ok(Self::Endpoints { urls, tls })
    }

    /// What reaches other members of the same etcd.
    pub(crate) fn tls(&self) -> Option<&EtcdTls> {
        match self {
            Self::Endpoints { tls, .. } => tls.as_ref(),
            Self::Unix(_) | Self::Channel(_) => None,
        }
    }

    /// A channel that connects when it is first used, and again whenever it must.
    pub(crate) fn channel(&self) -> Result<Channel, InvalidTarget> {
        match self {
            Self::Channel(channel) => Ok(channel.clone()),
            Self::Unix(path) => Ok(endpoint(&format!("unix://{}", path.display()), None)?.connect_lazy()),
            Self::Endpoints { urls, tls } => match urls.as_slice() {
                [] => Err(InvalidTarget::Text { text: String::new() }),
                [one] => Ok(endpoint(one, tls.as_ref())?.connect_lazy()),
                several => {
                    let several = several.iter().map(|url| endpoint(url, tls.as_ref()));
                    Ok(Channel::balance_list(several.collect::<Result<Vec<_>, _>>()?.into_iter()))
                }
            },
        }
    }
}

fn endpoint(url: &str, tls: Option<&EtcdTls>) -> Result<Endpoint, InvalidTarget> {
    let endpoint = Endpoint::from_shared(url.to_owned())
        .map_err(|_| InvalidTarget::Text { text: url.to_owned() })
        .map(tune)?;
    match tls {
        None => Ok(endpoint),
        Some(tls) => endpoint.tls_config(tls.config.clone()).map_err(|error| {
            let reason =
                std::error::Error::source(&error).map_or_else(|| error.to_string(), ToString::to_string);
            InvalidTarget::Files { reason }
        }),
    }
}

fn tune(endpoint: Endpoint) -> Endpoint {
    endpoint
        .connect_timeout(DIAL_DEADLINE)
        .tcp_nodelay(true)
        .http2_keep_alive_interval(PING_PERIOD)
        .keep_alive_timeout(PING_DEADLINE)
        .keep_alive_while_idle(true)
        .initial_stream_window_size(STREAM_WINDOW_BYTES)
        .initial_connection_window_size(CONNECTION_WINDOW_BYTES)
}

impl Target {
    /// As people call it: `etcd at http://127.0.0.1:2379`, `the embedded etcd`.
    pub fn described(&self) -> String {
        match self {
            Self::Endpoints { .. } | Self::Unix(_) => format!("etcd at {self}"),
            Self::Channel(_) => "the embedded etcd".to_owned(),
        }
    }
}

impl fmt::Display for Target {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Endpoints { urls, .. } => f.write_str(&urls.join(",")),
            Self::Unix(path) => write!(f, "unix:{}", path.display()),
            Self::Channel(_) => f.write_str("a channel in the process"),
        }
    }
}

impl fmt::Debug for Target {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{self}")
    }
}

/// How to reach the store.
#[derive(Debug, Clone)]
pub struct StoreConfig {
    /// Where it is.
    pub target: Target,
    /// How long one call may take, with its retries.
    pub deadline: Duration,
    /// How long connecting may take, with its retries.
    pub connect_deadline: Duration,
    /// What the audit log calls who writes here, as `registry`. Where it is named, nothing that is audited changes without a record.
    pub writer: Option<&'static str>,
}

impl StoreConfig {
    /// The usual deadlines.
    pub fn new(target: Target) -> Self {
        Self { target, deadline: DEADLINE, connect_deadline: CONNECT_DEADLINE, writer: None }
    }

    /// The same for a process that the audit log knows by this name, and which changes nothing without a record.
    #[must_use]
    pub fn written_by(self, writer: &'static str) -> Self {
        Self { writer: Some(writer), ..self }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_target_is_one_of_three_kinds() {
        for good in
            ["http://127.0.0.1:2379", "http://a:1,http://b:2", "unix:/run/skerry/etcd", "unix:///run/etcd"]
        {
            assert!(Target::parse(good).is_ok(), "{good}");
        }
        for bad in ["", "127.0.0.1:2379", "https://a:1", "http://", "unix:etcd", "http://a:1,,http://b:1"] {
            assert!(Target::parse(bad).is_err(), "{bad}");
        }
        assert_eq!(Target::parse("unix:///run/etcd").unwrap().to_string(), "unix:/run/etcd");
    }

    #[test]
    fn tls_is_for_who_names_an_authority_and_for_all_members_alike() {
        let refused =
            |text: &str, tls: Option<EtcdTls>| Target::parse_with(text, tls).unwrap_err().to_string();
        assert!(refused("https://a:1", None).contains("--etcd-ca"));
        let tls = || Some(EtcdTls::new(b"no certificate", None));
        for plain in ["http://a:1", "https://a:1,http://b:1", "unix:/run/etcd"] {
            let text = refused(plain, tls());
            assert!(text.contains("write https://"), "{text}");
        }
    }
}
