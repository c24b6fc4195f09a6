//! Who the audit log says made a change.

use std::net::SocketAddr;

use skerry_identity::Principal;
use skerry_proto::types::v1::{AuditCaller, AuditCallerKind};
use skerry_rpc::access::Right;
use skerry_rpc::{Peer, trace};
use tonic::Request;
use tracing::Span;

/// Who is said to call on a listener that asks nobody.
const ANONYMOUS: &str = "anonymous (plain HTTP/2)";

/// The caller of a request. One that came by no listener is of this process itself, as a gateway's beside the registry.
pub fn caller_of<T>(request: &Request<T>) -> AuditCaller {
    let grant = request.extensions().get::<Right>().and_then(Right::grant).unwrap_or_default();
    let caller = request.extensions().get::<Peer>().map_or_else(|| itself("skerry"), caller);
    AuditCaller { grant, ..caller }
}

/// The caller that a peer is.
pub fn caller(peer: &Peer) -> AuditCaller {
    let address = peer.address.as_ref().map(SocketAddr::to_string).unwrap_or_default();
    let Some(certificate) = &peer.certificate else {
        let name = ANONYMOUS.to_owned();
        return AuditCaller { name, address, ..of_kind(AuditCallerKind::Anonymous) };
    };
    let kind = match certificate.identity.principal {
        Principal::User(_) => AuditCallerKind::User,
        Principal::Service(_) => AuditCallerKind::Service,
        Principal::Node(_) => AuditCallerKind::Node,
    };
    AuditCaller {
        name: certificate.identity.to_string(),
        key_id: certificate.key_id.as_bytes().to_vec().into(),
        address,
        ..of_kind(kind)
    }
}

/// A service that does something of its own accord.
pub fn itself(service: &str) -> AuditCaller {
    AuditCaller { name: format!("{service} (of its own accord)"), ..of_kind(AuditCallerKind::Service) }
}

/// A command on a machine of the control plane, which works on the store itself.
pub fn command(command: &str) -> AuditCaller {
    AuditCaller { name: command.to_owned(), ..of_kind(AuditCallerKind::Command) }
}

fn of_kind(kind: AuditCallerKind) -> AuditCaller {
    AuditCaller { kind: kind.into(), ..AuditCaller::default() }
}

/// The trace that goes on here, if any.
pub(crate) fn trace_id() -> String {
    let parent = trace::trace_parent(&Span::current());
    parent.split('-').nth(1).unwrap_or_default().to_owned()
}
