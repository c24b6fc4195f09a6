//! Requests from their bytes to the core's types, as the services do it, for who feeds them without a listener.

use etcd_client::proto::{
    PbCompactionRequest, PbDeleteRequest, PbLeaseGrantRequest, PbLeaseRevokeRequest, PbPutRequest,
    PbRangeRequest, PbTxnRequest,
};
use prost::Message;

use crate::mvcc::{Command, Fault, Range};
use crate::server::convert;

/// A read. `None`: the bytes are no such message.
pub fn range(bytes: &[u8]) -> Option<Result<Range, Fault>> {
    Some(convert::range(read::<PbRangeRequest>(bytes)?))
}

/// A command of one of the kinds 0 to 5. `None`: the bytes are no such message, or there is no such kind.
pub fn command(kind: u8, bytes: &[u8]) -> Option<Result<Command, Fault>> {
    Some(match kind {
        0 => Ok(Command::Put(convert::put(read::<PbPutRequest>(bytes)?))),
        1 => Ok(Command::Delete(convert::delete(read::<PbDeleteRequest>(bytes)?))),
        2 => convert::txn(read::<PbTxnRequest>(bytes)?).map(|(txn, _)| Command::Txn(txn)),
        3 => Ok(Command::Compact { revision: read::<PbCompactionRequest>(bytes)?.revision }),
        4 => {
            let request = read::<PbLeaseGrantRequest>(bytes)?;
            // The service chooses an id where none is asked for.
            Ok(Command::LeaseGrant { id: if request.id == 0 { 1 } else { request.id }, ttl_s: request.ttl })
        }
        5 => Ok(Command::LeaseRevoke { id: read::<PbLeaseRevokeRequest>(bytes)?.id }),
        _ => return None,
    })
}

fn read<M: Message + Default>(bytes: &[u8]) -> Option<M> {
    M::decode(bytes).ok()
}
