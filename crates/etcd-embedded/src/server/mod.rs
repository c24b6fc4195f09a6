//! etcd's gRPC services over the core and the writer. Each call is decode, ask, encode; what is decided is
//! decided in `mvcc`.

pub(crate) mod convert;
mod fault;
mod kv;
mod lease;
mod maintenance;
mod watch;

use etcd_client::proto::{
    PbClusterServer, PbKvServer, PbLeaseServer, PbMaintenanceServer, PbResponseHeader, PbWatchServer,
};
use tokio_util::sync::CancellationToken;
use tonic::Status;
use tonic::service::Routes;

use crate::mvcc::{Answer, Identity};
use crate::shared::Engine;

/// Bytes of a message that a client may send: the largest request and what wraps it, as in etcd.
const MESSAGE_BYTES_MAX: usize = fault::REQUEST_BYTES_MAX + (512 << 10);

/// Every service that is served; calls of others answer `UNIMPLEMENTED`.
/// Streams end when `stop` is cancelled.
pub(crate) fn routes(engine: Engine, stop: CancellationToken) -> Routes {
    let face = Face::new(engine, stop);
    let mut routes = Routes::builder();
    routes
        .add_service(PbKvServer::new(face.clone()).max_decoding_message_size(MESSAGE_BYTES_MAX))
        .add_service(PbWatchServer::new(face.clone()).max_decoding_message_size(MESSAGE_BYTES_MAX))
        .add_service(PbLeaseServer::new(face.clone()))
        .add_service(PbMaintenanceServer::new(face.clone()))
        .add_service(PbClusterServer::new(face));
    routes.routes()
}

/// What all services are implemented on.
#[derive(Clone)]
struct Face {
    engine: Engine,
    /// Ends the streams: the whole store's word, or that of the listener that these services are on.
    stop: CancellationToken,
    identity: Identity,
    term: i64,
}

impl Face {
    fn new(engine: Engine, stop: CancellationToken) -> Self {
        let (identity, term) = {
            let core = engine.shared.read();
            (core.identity(), core.term())
        };
        Self { engine, stop, identity, term }
    }

    fn header(&self, revision: i64) -> PbResponseHeader {
        PbResponseHeader {
            cluster_id: self.identity.cluster_id,
            member_id: self.identity.member_id,
            revision,
            raft_term: self.term.cast_unsigned(),
        }
    }

    fn current_header(&self) -> PbResponseHeader {
        self.header(self.engine.shared.read().committed())
    }
}

/// The core gave an answer of another kind than the command asks for: a fault in this crate.
fn unexpected(answer: &Answer) -> Status {
    Status::internal(format!("the core gave an answer of another kind: {answer:?}"))
}
