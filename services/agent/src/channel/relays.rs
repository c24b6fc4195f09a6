//! The connection to relays: the agent's second and last one. All channels share it, and it is gone with the last of them.

use std::sync::{Arc, Weak};
use std::time::Duration;

use skerry_rpc::{ClientTls, ConnectError, Endpoint};
use tokio::sync::Mutex;
use tonic::transport::{Channel, Uri};

/// How long a dial may take.
const DIAL_TIMEOUT: Duration = Duration::from_secs(5);
/// A relay that does not answer a ping for so long is gone. Only asked while a channel is open.
const PING: (Duration, Duration) = (Duration::from_secs(20), Duration::from_secs(10));
/// HTTP/2 windows: what a relay may send ahead. It says little where logs are told.
const WINDOW_BYTES: u32 = 64 * 1024;
/// Header lists beyond this are refused.
const HEADER_BYTES_MAX: u32 = 4 * 1024;
/// Addresses of relays that are remembered as long as they are connected.
const PLACES_MAX: usize = 8;

/// An open connection.
#[derive(Debug)]
pub(super) struct Connection {
    pub(super) channel: Channel,
    place: Uri,
}

/// Those that are open.
#[derive(Debug, Default)]
pub(super) struct Relays {
    /// Held over a dial: two channels that are offered at once dial once.
    open: Mutex<Vec<Weak<Connection>>>,
}

impl Relays {
    /// A connection to the first of `places` that answers.
    pub(super) async fn connect(
        &self,
        places: &[Uri],
        tls: Option<&ClientTls>,
    ) -> Result<Arc<Connection>, String> {
        let mut open = self.open.lock().await;
        open.retain(|connection| connection.strong_count() > 0);
        let kept = open.iter().filter_map(Weak::upgrade).find(|kept| places.contains(&kept.place));
        if let Some(kept) = kept {
            return Ok(kept);
        }
        let mut why = String::from("no relay is named");
        for place in places {
            match dial(place, tls).await {
                Ok(channel) => {
                    let connection = Arc::new(Connection { channel, place: place.clone() });
                    if open.len() < PLACES_MAX {
                        open.push(Arc::downgrade(&connection));
                    }
                    return Ok(connection);
                }
                Err(failed) => why = failed,
            }
        }
        Err(why)
    }

    /// A call on this connection failed: the next channel dials anew.
    pub(super) async fn failed(&self, connection: &Arc<Connection>) {
        let gone = Arc::downgrade(connection);
        self.open.lock().await.retain(|kept| !Weak::ptr_eq(kept, &gone));
    }
}

async fn dial(place: &Uri, tls: Option<&ClientTls>) -> Result<Channel, String> {
    let secured = place.scheme_str() == Some("https");
    if secured != tls.is_some() {
        let meant = if secured { "with TLS, and this agent has none" } else { "without TLS" };
        return Err(format!("{place} would be talked to {meant}"));
    }
    let tuned = |endpoint: Endpoint| {
        endpoint
            .connect_timeout(DIAL_TIMEOUT)
            .initial_stream_window_size(WINDOW_BYTES)
            .initial_connection_window_size(WINDOW_BYTES)
            .http2_max_header_list_size(HEADER_BYTES_MAX)
            .http2_keep_alive_interval(PING.0)
            .keep_alive_timeout(PING.1)
    };
    match tokio::time::timeout(DIAL_TIMEOUT, skerry_rpc::open(place.clone(), tuned, tls)).await {
        Ok(Ok(channel)) => Ok(channel),
        Ok(Err(ConnectError::Unreachable { source, .. })) => Err(format!("cannot reach {place}: {source}")),
        Ok(Err(error)) => Err(error.to_string()),
        Err(_) => Err(format!("{place} does not answer")),
    }
}
