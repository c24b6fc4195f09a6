//! Where the store is and how patient we are with it.

use std::fmt;
use std::path::PathBuf;
use std::time::Duration;

use tonic::transport::{Channel, Endpoint};

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

/// Where the store is.
#[derive(Clone)]
pub enum Target {
    /// One or several members of an etcd cluster: `http://host:port`.
    Endpoints(Vec<String>),
    /// A unix socket: the embedded store of the same machine.
    Unix(PathBuf),
    /// A channel that the caller made.
    Channel(Channel),
}

/// A text that does not say where the store is.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error(
    "`{text}` does not say where the store is: use `http://host:port`, several of them with commas, or `unix:/path`"
)]
pub struct InvalidTarget {
    /// The text.
    pub text: String,
}

impl Target {
    /// Parses `http://host:port[,http://host:port...]`, or `unix:/path`.
    pub fn parse(text: &str) -> Result<Self, InvalidTarget> {
        let invalid = || InvalidTarget { text: text.to_owned() };
        if let Some(path) = text.strip_prefix("unix:") {
            let path = path.strip_prefix("//").unwrap_or(path);
            return if path.starts_with('/') { Ok(Self::Unix(path.into())) } else { Err(invalid()) };
        }
        let endpoints: Vec<String> = text.split(',').map(|part| part.trim().to_owned()).collect();
        for endpoint in &endpoints {
            let host = endpoint.strip_prefix("http://").ok_or_else(invalid)?;
            if host.is_empty() || Endpoint::from_shared(endpoint.clone()).is_err() {
                return Err(invalid());
            }
        }
        Ok(Self::Endpoints(endpoints))
    }

    /// A channel that connects when it is first used, and again whenever it must.
    pub(crate) fn channel(&self) -> Result<Channel, InvalidTarget> {
        let endpoint = |uri: String| match Endpoint::from_shared(uri.clone()) {
            Ok(endpoint) => Ok(tune(endpoint)),
            Err(_) => Err(InvalidTarget { text: uri }),
        };
        match self {
            Self::Channel(channel) => Ok(channel.clone()),
            Self::Unix(path) => Ok(endpoint(format!("unix://{}", path.display()))?.connect_lazy()),
            Self::Endpoints(endpoints) => match endpoints.as_slice() {
                [] => Err(InvalidTarget { text: String::new() }),
                [one] => Ok(endpoint(one.clone())?.connect_lazy()),
                several => {
                    let several = several.iter().cloned().map(endpoint).collect::<Result<Vec<_>, _>>()?;
                    Ok(Channel::balance_list(several.into_iter()))
                }
            },
        }
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
            Self::Endpoints(_) | Self::Unix(_) => format!("etcd at {self}"),
            Self::Channel(_) => "the embedded etcd".to_owned(),
        }
    }
}

impl fmt::Display for Target {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Endpoints(endpoints) => f.write_str(&endpoints.join(",")),
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
}
