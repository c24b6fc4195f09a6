//! Asking a server for its health by `grpc.health.v1`, as load balancers do. What its health is, is said by `server`.

use std::time::Duration;

use tonic_health::pb::HealthCheckRequest;
use tonic_health::pb::health_check_response::ServingStatus;
use tonic_health::pb::health_client::HealthClient;

use crate::channel::{ConnectError, connect};
use crate::tls::ClientTls;

/// Why a server does not count as healthy.
#[derive(Debug, thiserror::Error)]
pub enum HealthError {
    /// It cannot be reached.
    #[error(transparent)]
    Connect(#[from] ConnectError),
    /// It does not say how it is.
    #[error("{address} does not tell its health: {source}")]
    Call {
        /// Who was asked.
        address: String,
        /// What came back.
        source: Box<tonic::Status>,
    },
    /// It says that it does not serve: it is starting or ending.
    #[error("{address} says {status}")]
    NotServing {
        /// Who was asked.
        address: String,
        /// As in the protocol: `NOT_SERVING` for one.
        status: &'static str,
    },
    /// It is silent.
    #[error("{address} has not answered within {deadline:?}")]
    Deadline {
        /// Who was asked.
        address: String,
        /// How long was waited.
        deadline: Duration,
    },
}

/// Asks the server at `address` (as [`connect`] takes it) whether it serves at all, and waits at most `deadline` for all of it.
///
/// # Errors
/// Unless it says SERVING.
pub async fn check_health(
    address: &str,
    tls: Option<&ClientTls>,
    deadline: Duration,
) -> Result<(), HealthError> {
    let asking = async {
        let mut client = HealthClient::new(connect(address, tls).await?);
        let answer = client.check(HealthCheckRequest::default()).await;
        let answer = answer
            .map_err(|source| HealthError::Call { address: address.to_owned(), source: Box::new(source) })?;
        match answer.into_inner().status() {
            ServingStatus::Serving => Ok(()),
            other => {
                Err(HealthError::NotServing { address: address.to_owned(), status: other.as_str_name() })
            }
        }
    };
    let silent = || HealthError::Deadline { address: address.to_owned(), deadline };
    tokio::time::timeout(deadline, asking).await.map_err(|_| silent())?
}
