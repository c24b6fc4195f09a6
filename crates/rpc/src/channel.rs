//! Channels to Skerry's servers: deadlines, keep-alive, bounded windows, with or without TLS.

use std::error::Error as _;
use std::time::Duration;

use http::uri::Scheme;
pub use tonic::transport::Endpoint;
use tonic::transport::{Channel, Uri};

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

impl ConnectError {
    /// The same about the address as it was given.
    fn of(self, given: &str) -> Self {
        let address = given.to_owned();
        match self {
            Self::Address { .. } => Self::Address { address },
            Self::NoAuthority { .. } => Self::NoAuthority { address },
            Self::Plain { .. } => Self::Plain { address },
            Self::Unreachable { source, .. } => Self::Unreachable { address, source },
            Self::Tls { failure, .. } => Self::Tls { address, failure },
        }
    }
}

/// Connects to `address`: `https://host:port` where there is `tls`, else `http://host:port`. A bare `host:port` is taken as the one that fits.
pub async fn connect(address: &str, tls: Option<&ClientTls>) -> Result<Channel, ConnectError> {
    let uri = uri_of(address, tls.is_some())?;
    match (uri.scheme_str(), tls) {
        (Some("https"), None) => return Err(ConnectError::NoAuthority { address: address.to_owned() }),
        (Some("http"), Some(_)) => return Err(ConnectError::Plain { address: address.to_owned() }),
        _ => {}
    }
    let patient = |endpoint: Endpoint| {
        endpoint
            .connect_timeout(CONNECT_TIMEOUT)
            .http2_keep_alive_interval(Duration::from_secs(30))
            .keep_alive_timeout(Duration::from_secs(20))
    };
    open(uri, patient, tls).await.map_err(|error| error.of(address))
}

/// Connects by an endpoint that the caller tunes, which needs a deadline for it.
pub async fn open(
    uri: Uri,
    tune: impl FnOnce(Endpoint) -> Endpoint,
    tls: Option<&ClientTls>,
) -> Result<Channel, ConnectError> {
    let (address, tls) = (uri.to_string(), tls.cloned());
    // TLS is ours. tonic takes an https address only where TLS is its own (once any crate has that feature), so it is told to dial plainly, and
    // that requests are for the address as it is.
    let mut plain = uri.clone().into_parts();
    plain.scheme = Some(Scheme::HTTP);
    let plain = Uri::from_parts(plain).map_err(|_| ConnectError::Address { address: address.clone() })?;
    let connector = tower::service_fn(move |uri| dial(uri, tls.clone()));
    let endpoint = tune(Endpoint::from(plain).origin(uri));
    endpoint.connect_with_connector(connector).await.map_err(|source| match tls_failure(&source) {
        Some(failure) => ConnectError::Tls { address, failure },
        None => ConnectError::Unreachable { address, source },
    })
}

/// A channel that connects, without TLS, with its first call, and again with the first one after the connection was lost.
pub fn open_lazy(endpoint: &Endpoint) -> Channel {
    endpoint.connect_with_connector_lazy(tower::service_fn(move |uri| dial(uri, None)))
}

/// Whether [`connect`] could take `address`: it asks nobody.
pub fn check_address(address: &str) -> Result<(), ConnectError> {
    uri_of(address, false).map(drop)
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

fn uri_of(address: &str, secured: bool) -> Result<Uri, ConnectError> {
    let invalid = || ConnectError::Address { address: address.to_owned() };
    let scheme = if secured { "https" } else { "http" };
    let uri = if address.contains("://") { address.to_owned() } else { format!("{scheme}://{address}") };
    if !uri.starts_with("http://") && !uri.starts_with("https://") {
        return Err(invalid());
    }
    let uri: Uri = uri.parse().map_err(|_| invalid())?;
    if uri.port().is_none() {
        return Err(invalid());
    }
    Ok(uri)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_is_a_host_and_a_port() {
        for good in ["http://127.0.0.1:7770", "https://127.0.0.1:7770", "localhost:7770", "http://[::1]:1"] {
            assert!(uri_of(good, false).is_ok(), "{good}");
        }
        for bad in ["", "ftp://a:1", "https://a", "http://a", "a b:1"] {
            assert!(uri_of(bad, false).is_err(), "{bad}");
        }
    }

    #[test]
    fn a_bare_address_is_taken_as_what_is_set_up() {
        for (secured, scheme) in [(false, "http"), (true, "https")] {
            let uri = uri_of("localhost:7770", secured).expect("an address");
            assert_eq!(uri.scheme_str(), Some(scheme));
        }
    }
}
