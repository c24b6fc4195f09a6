//! etcd's messages to the core's types and back. No decisions here but on what a number means.

use std::sync::Arc;

use etcd_client::proto::{
    PbCompare, PbDeleteRequest, PbDeleteResponse, PbKeyValue, PbPutRequest, PbPutResponse, PbRangeRequest,
    PbRangeResponse, PbResponseHeader, PbResponseOp, PbTargetUnion, PbTxnOpRequest, PbTxnOpResponse,
    PbTxnRequest, PbTxnRequestOp, PbTxnResponse,
};

use crate::mvcc::{
    Compare, Delete, DeleteAnswer, Entry, Fault, KeyRange, Op, OpAnswer, Operand, Put, PutAnswer, Range,
    RangeAnswer, Relation, SortOrder, SortTarget, Txn, TxnAnswer,
};

pub(crate) fn range(request: PbRangeRequest) -> Result<Range, Fault> {
    let order = match request.sort_order {
        0 => SortOrder::None,
        1 => SortOrder::Ascend,
        2 => SortOrder::Descend,
        _ => return Err(Fault::InvalidSortOption),
    };
    let target = match request.sort_target {
        0 => SortTarget::Key,
        1 => SortTarget::Version,
        2 => SortTarget::Create,
        3 => SortTarget::Mod,
        4 => SortTarget::Value,
        _ => return Err(Fault::InvalidSortOption),
    };
    Ok(Range {
        keys: KeyRange { key: request.key, range_end: request.range_end },
        limit: request.limit,
        revision: request.revision,
        order,
        target,
        count_only: request.count_only,
        min_mod_revision: request.min_mod_revision,
        max_mod_revision: request.max_mod_revision,
        min_create_revision: request.min_create_revision,
        max_create_revision: request.max_create_revision,
    })
}

pub(crate) fn put(request: PbPutRequest) -> Put {
    Put {
        key: request.key,
        value: request.value,
        lease: request.lease,
        prev_kv: request.prev_kv,
        ignore_value: request.ignore_value,
        ignore_lease: request.ignore_lease,
    }
}

pub(crate) fn delete(request: PbDeleteRequest) -> Delete {
    Delete { keys: KeyRange { key: request.key, range_end: request.range_end }, prev_kv: request.prev_kv }
}

/// Which reads of a transaction leave the values out, in the order in which the core answers them: the core
/// knows no such thing, since a value costs it nothing.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(crate) struct Shape {
    success: Vec<OpShape>,
    failure: Vec<OpShape>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
enum OpShape {
    Plain,
    KeysOnly,
    Txn(Shape),
}

pub(crate) fn txn(request: PbTxnRequest) -> Result<(Txn, Shape), Fault> {
    let compare = request.compare.into_iter().map(compare).collect();
    let (success, success_shape) = ops(request.success)?;
    let (failure, failure_shape) = ops(request.failure)?;
    Ok((Txn { compare, success, failure }, Shape { success: success_shape, failure: failure_shape }))
}

fn ops(requests: Vec<PbTxnRequestOp>) -> Result<(Vec<Op>, Vec<OpShape>), Fault> {
    let mut ops = Vec::with_capacity(requests.len());
    let mut shapes = Vec::with_capacity(requests.len());
    for request in requests {
        let (op, shape) = match request.request {
            None => (Op::Empty, OpShape::Plain),
            Some(PbTxnOpRequest::RequestPut(request)) => (Op::Put(put(request)), OpShape::Plain),
            Some(PbTxnOpRequest::RequestDeleteRange(request)) => {
                (Op::Delete(delete(request)), OpShape::Plain)
            }
            Some(PbTxnOpRequest::RequestRange(request)) => {
                let shape = if request.keys_only { OpShape::KeysOnly } else { OpShape::Plain };
                (Op::Range(range(request)?), shape)
            }
            Some(PbTxnOpRequest::RequestTxn(request)) => {
                let (txn, shape) = txn(request)?;
                (Op::Txn(txn), OpShape::Txn(shape))
            }
        };
        ops.push(op);
        shapes.push(shape);
    }
    Ok((ops, shapes))
}

fn compare(request: PbCompare) -> Compare {
    let relation = match request.result {
        1 => Relation::Greater,
        2 => Relation::Less,
        3 => Relation::NotEqual,
        // etcd ignores a result that it does not know; equality is what an old client means by silence.
        _ => Relation::Equal,
    };
    // The target says which field; an operand that belongs to another field counts as zero, as in etcd.
    let union = request.target_union;
    let operand = match request.target {
        1 => Operand::Create(match union {
            Some(PbTargetUnion::CreateRevision(revision)) => revision,
            _ => 0,
        }),
        2 => Operand::Mod(match union {
            Some(PbTargetUnion::ModRevision(revision)) => revision,
            _ => 0,
        }),
        3 => Operand::Value(match union {
            Some(PbTargetUnion::Value(value)) => value,
            _ => Vec::new(),
        }),
        4 => Operand::Lease(match union {
            Some(PbTargetUnion::Lease(lease)) => lease,
            _ => 0,
        }),
        _ => Operand::Version(match union {
            Some(PbTargetUnion::Version(version)) => version,
            _ => 0,
        }),
    };
    Compare { keys: KeyRange { key: request.key, range_end: request.range_end }, relation, operand }
}

pub(super) fn key_value(entry: &Entry, keys_only: bool) -> PbKeyValue {
    PbKeyValue {
        key: entry.key.to_vec(),
        create_revision: entry.create_revision,
        mod_revision: entry.revision.main,
        version: entry.version,
        value: if keys_only { Vec::new() } else { entry.value.to_vec() },
        lease: entry.lease,
    }
}

pub(super) fn key_values(entries: &[Arc<Entry>], keys_only: bool) -> Vec<PbKeyValue> {
    entries.iter().map(|entry| key_value(entry, keys_only)).collect()
}

pub(super) fn range_response(
    answer: &RangeAnswer,
    keys_only: bool,
    header: PbResponseHeader,
) -> PbRangeResponse {
    PbRangeResponse {
        header: Some(header),
        kvs: key_values(&answer.entries, keys_only),
        more: answer.more,
        count: answer.count,
    }
}

pub(super) fn put_response(answer: &PutAnswer, header: PbResponseHeader) -> PbPutResponse {
    let prev_kv = answer.prev.as_ref().map(|prev| key_value(prev, false));
    PbPutResponse { header: Some(header), prev_kv }
}

pub(super) fn delete_response(answer: &DeleteAnswer, header: PbResponseHeader) -> PbDeleteResponse {
    PbDeleteResponse {
        header: Some(header),
        deleted: answer.deleted,
        prev_kvs: key_values(&answer.prev, false),
    }
}

pub(super) fn txn_response(answer: &TxnAnswer, shape: &Shape, header: PbResponseHeader) -> PbTxnResponse {
    let shapes = if answer.succeeded { &shape.success } else { &shape.failure };
    let responses = answer
        .answers
        .iter()
        .zip(shapes)
        .map(|(answer, shape)| PbResponseOp { response: Some(op_response(answer, shape)) });
    PbTxnResponse { header: Some(header), succeeded: answer.succeeded, responses: responses.collect() }
}

fn op_response(answer: &OpAnswer, shape: &OpShape) -> PbTxnOpResponse {
    // Within a transaction the headers name the revision only, as in etcd.
    let header = |revision| PbResponseHeader { revision, ..PbResponseHeader::default() };
    match answer {
        OpAnswer::Range(answer) => {
            let keys_only = *shape == OpShape::KeysOnly;
            PbTxnOpResponse::ResponseRange(range_response(answer, keys_only, header(answer.revision)))
        }
        OpAnswer::Put(answer) => PbTxnOpResponse::ResponsePut(put_response(answer, header(answer.revision))),
        OpAnswer::Delete(answer) => {
            PbTxnOpResponse::ResponseDeleteRange(delete_response(answer, header(answer.revision)))
        }
        OpAnswer::Txn(answer) => {
            let plain = Shape::default();
            let shape = if let OpShape::Txn(shape) = shape { shape } else { &plain };
            PbTxnOpResponse::ResponseTxn(txn_response(answer, shape, header(answer.revision)))
        }
    }
}
