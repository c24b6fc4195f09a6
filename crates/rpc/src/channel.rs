//! Channels to Skerry's servers: deadlines, keep-alive, bounded windows.

use std::time::Duration;

use tonic::transport::Channel;
pub use tonic::transport::Endpoint;

/// Longest that connecting may take.
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
    /// Nobody answers there.
    #[error("cannot reach {address}: {source}")]
    Unreachable {
        /// As it was given.
        address: String,
        /// What the transport says.
        source: tonic::transport::Error,
    },
}

/// Connects to `address` (`http://host:port`; a bare `host:port` is taken as such).
pub async fn connect(address: &str) -> Result<Channel, ConnectError> {
    endpoint(address)?
        .connect()
        .await
        .map_err(|source| ConnectError::Unreachable { address: address.to_owned(), source })
}

/// Whether [`connect`] could take `address`: it asks nobody.
pub fn check_address(address: &str) -> Result<(), ConnectError> {
    endpoint(address).map(drop)
}

fn endpoint(address: &str) -> Result<Endpoint, ConnectError> {
    let invalid = || ConnectError::Address { address: address.to_owned() };
    let uri = if address.contains("://") { address.to_owned() } else { format!("http://{address}") };
    if !uri.starts_with("http://") {
        return Err(invalid());
    }
    let endpoint = Endpoint::from_shared(uri).map_err(|_| invalid())?;
    if endpoint.uri().port().is_none() {
        return Err(invalid());
    }
    Ok(endpoint
        .connect_timeout(CONNECT_TIMEOUT)
        .tcp_nodelay(true)
        .http2_keep_alive_interval(Duration::from_secs(30))
        .keep_alive_timeout(Duration::from_secs(20)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_is_a_host_and_a_port() {
        for good in ["http://127.0.0.1:7770", "localhost:7770", "http://[::1]:1"] {
            assert!(endpoint(good).is_ok(), "{good}");
        }
        for bad in ["", "ftp://a:1", "https://a:1", "http://a", "a b:1"] {
            assert!(endpoint(bad).is_err(), "{bad}");
        }
    }
}
