//! Channels to Skerry's servers: deadlines, keep-alive, bounded windows, with or without TLS.

use std::error::Error as _;
use std::time::Duration;

use tonic::transport::Channel;
pub use tonic::transport::Endpoint;

use crate::tls::{ClientTls, DialError, TlsFailure, dial};

/// Longest that connecting may take, the TLS handshake included.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);

/// Why a channel could not be had.
#[derive(Debug, thiserror::Error)]
pub enum ConnectError {
    /// Not an address.
    #[error("`{address}` is not a server address: write for example http://127.0.0.1:7770")]
    Address {
        /// As it was given.
        address: String,
    },
    /// The server shall be checked, and nothing says against what.
    #[error(
        "{address} speaks TLS, and no authority is given that it could be checked against: --tls-ca FILE"
    )]
    NoAuthority {
        /// As it was given.
        address: String,
    },
    /// TLS is set up, and the address does without it.
    #[error("{address} would be talked to without TLS, although TLS files are given: write https://")]
    Plain {
        /// As it was given.
        address: String,
    },
    /// Nobody answers there.
    #[error("cannot reach {address}: {source}")]
    Unreachable {
        /// As it was given.
        address: String,
        /// What the transport says.
        source: tonic::transport::Error,
    },
    /// Somebody answers, and is not the one that is meant, or does not take this client.
    #[error("cannot talk to {address}: {failure}")]
    Tls {
        /// As it was given.
        address: String,
        /// What is wrong.
        failure: TlsFailure,
    },
}

/// Connects to `address`: `https://host:port` where there is `tls`, else `http://host:port`. A bare `host:port` is taken as the one that fits.
pub async fn connect(address: &str, tls: Option<&ClientTls>) -> Result<Channel, ConnectError> {
    let endpoint = endpoint(address, tls.is_some())?;
    match (endpoint.uri().scheme_str(), tls) {
        (Some("https"), None) => return Err(ConnectError::NoAuthority { address: address.to_owned() }),
        (Some("http"), Some(_)) => return Err(ConnectError::Plain { address: address.to_owned() }),
        _ => {}
    }
    open(&endpoint, address, tls).await
}

/// Connects by an endpoint of the caller's making, which has a deadline for it. `address`: how errors name it.
pub async fn open(
    endpoint: &Endpoint,
    address: &str,
    tls: Option<&ClientTls>,
) -> Result<Channel, ConnectError> {
    let tls = tls.cloned();
    let connector = tower::service_fn(move |uri| dial(uri, tls.clone()));
    endpoint.connect_with_connector(connector).await.map_err(|source| {
        let address = address.to_owned();
        match tls_failure(&source) {
            Some(failure) => ConnectError::Tls { address, failure },
            None => ConnectError::Unreachable { address, source },
        }
    })
}

/// A channel that connects, without TLS, with its first call, and again with the first one after the connection was lost.
pub fn open_lazy(endpoint: &Endpoint) -> Channel {
    endpoint.connect_with_connector_lazy(tower::service_fn(move |uri| dial(uri, None)))
}

/// Whether [`connect`] could take `address`: it asks nobody.
pub fn check_address(address: &str) -> Result<(), ConnectError> {
    endpoint(address, false).map(drop)
}

/// The failed handshake behind an error of the transport.
fn tls_failure(error: &tonic::transport::Error) -> Option<TlsFailure> {
    let mut cause = error.source();
    while let Some(error) = cause {
        if let Some(DialError::Tls(failure)) = error.downcast_ref() {
            return Some(failure.clone());
        }
        cause = error.source();
    }
    None
}

fn endpoint(address: &str, secured: bool) -> Result<Endpoint, ConnectError> {
    let invalid = || ConnectError::Address { address: address.to_owned() };
    let scheme = if secured { "https" } else { "http" };
    let uri = if address.contains("://") { address.to_owned() } else { format!("{scheme}://{address}") };
    if !uri.starts_with("http://") && !uri.starts_with("https://") {
        return Err(invalid());
    }
    let endpoint = Endpoint::from_shared(uri).map_err(|_| invalid())?;
    if endpoint.uri().port().is_none() {
        return Err(invalid());
    }
    Ok(endpoint
        .connect_timeout(CONNECT_TIMEOUT)
        .http2_keep_alive_interval(Duration::from_secs(30))
        .keep_alive_timeout(Duration::from_secs(20)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_is_a_host_and_a_port() {
        for good in ["http://127.0.0.1:7770", "https://127.0.0.1:7770", "localhost:7770", "http://[::1]:1"] {
            assert!(endpoint(good, false).is_ok(), "{good}");
        }
        for bad in ["", "ftp://a:1", "https://a", "http://a", "a b:1"] {
            assert!(endpoint(bad, false).is_err(), "{bad}");
        }
    }

    #[test]
    fn a_bare_address_is_taken_as_what_is_set_up() {
        for (secured, scheme) in [(false, "http"), (true, "https")] {
            let endpoint = endpoint("localhost:7770", secured).expect("an address");
            assert_eq!(endpoint.uri().scheme_str(), Some(scheme));
        }
    }
}
