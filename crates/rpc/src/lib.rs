//! What every gRPC server and client of Skerry shares: builders with limits, TLS, the peer's identity, health, reflection, errors.
//!
//! Services bring their handlers; which of them share a listener is decided by whoever hosts them.

pub mod access;
mod channel;
mod client;
mod door;
mod error;
mod forwarded;
mod health;
mod limit;
mod observe;
mod peer;
mod rate;
mod refuse;
mod server;
mod tls;
pub mod trace;

pub use channel::{ConnectError, Endpoint, check_address, connect, open, open_lazy};
pub use client::Traced;
pub use error::{fault_of, is_too_large, status_of};
pub use forwarded::{InvalidNetwork, Network};
pub use health::{HealthError, check_health};
pub use peer::{Access, Peer};
pub use rate::Rate;
pub use refuse::refuse_all;
pub use server::{LIVENESS, ServeError, Server};
pub use tls::{
    ClientTls, Presented, SPEAKS_TLS, ServerTls, TlsFailure, TlsFile, TlsFiles, TlsFilesError, TlsPaths,
    bounded,
};

/// What decodes untrusted bytes here, for those who fuzz it.
#[doc(hidden)]
pub mod untrusted {
    pub use crate::access::name_at;
    pub use crate::forwarded::named;
}

/// The error domain of `google.rpc.ErrorInfo`.
pub const ERROR_DOMAIN: &str = "skerry.dev";

/// Most bytes of one message that a server takes or a client accepts.
pub const MESSAGE_BYTES_MAX: usize = 4 * 1024 * 1024;
