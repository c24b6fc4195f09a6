//! What can be said of a command without looking at the state: missing keys, too many operations, one key
//! twice in a transaction. The rules, and the order in which they are looked at, are etcd's.

use std::collections::HashSet;

use super::fault::Fault;
use super::types::{Command, Compare, Delete, Op, Put, Range, Txn};

/// Operations, or comparisons, in one transaction with those around it. etcd's default.
pub const MAX_TXN_OPS: usize = 128;

pub(super) fn check_command(command: &Command) -> Result<(), Fault> {
    match command {
        Command::Put(put) => check_put(put),
        Command::Delete(delete) => check_delete(delete),
        Command::Txn(txn) => check_txn(txn),
        Command::Compact { .. }
        | Command::LeaseGrant { .. }
        | Command::LeaseRevoke { .. }
        | Command::LeaseKeepAlive { .. }
        | Command::LeaseKeepAll
        | Command::LeaseTimeToLive { .. }
        | Command::LeaseList => Ok(()),
    }
}

pub(super) fn check_range(range: &Range) -> Result<(), Fault> {
    non_empty(&range.keys.key)
}

pub(super) fn check_txn(txn: &Txn) -> Result<(), Fault> {
    check_ops(txn, MAX_TXN_OPS)?;
    // Looked at only now: the sizes are known to be small.
    check_overlaps(&txn.success)?;
    check_overlaps(&txn.failure)?;
    Ok(())
}

fn non_empty(key: &[u8]) -> Result<(), Fault> {
    if key.is_empty() { Err(Fault::EmptyKey) } else { Ok(()) }
}

fn check_put(put: &Put) -> Result<(), Fault> {
    non_empty(&put.key)?;
    if put.ignore_value && !put.value.is_empty() {
        return Err(Fault::ValueProvided);
    }
    if put.ignore_lease && put.lease != 0 {
        return Err(Fault::LeaseProvided);
    }
    Ok(())
}

fn check_delete(delete: &Delete) -> Result<(), Fault> {
    non_empty(&delete.keys.key)
}

fn check_ops(txn: &Txn, ops_max: usize) -> Result<(), Fault> {
    let ops = txn.compare.len().max(txn.success.len()).max(txn.failure.len());
    let rest = ops_max.checked_sub(ops).ok_or(Fault::TooManyOps)?;
    for Compare { keys, .. } in &txn.compare {
        non_empty(&keys.key)?;
    }
    for op in txn.success.iter().chain(&txn.failure) {
        match op {
            Op::Range(range) => check_range(range)?,
            Op::Put(put) => check_put(put)?,
            Op::Delete(delete) => check_delete(delete)?,
            Op::Txn(txn) => check_ops(txn, rest)?,
            Op::Empty => return Err(Fault::KeyNotFound),
        }
    }
    Ok(())
}

/// The keys that some operations put, and the ranges that they delete.
type Touched<'a> = (HashSet<&'a [u8]>, Vec<&'a Delete>);

fn check_overlaps(ops: &[Op]) -> Result<Touched<'_>, Fault> {
    let mut deletes: Vec<&Delete> = Vec::new();
    for op in ops {
        if let Op::Delete(delete) = op {
            deletes.push(delete);
        }
    }
    let mut puts: HashSet<&[u8]> = HashSet::new();
    for op in ops {
        let Op::Txn(txn) = op else { continue };
        let (then_puts, then_deletes) = check_overlaps(&txn.success)?;
        let (else_puts, else_deletes) = check_overlaps(&txn.failure)?;
        for key in &then_puts {
            if deleted(&deletes, key) || !puts.insert(key) {
                return Err(Fault::DuplicateKey);
            }
        }
        for key in &else_puts {
            // Only one of the two branches is done, so they may put the same key.
            let again = !puts.insert(key) && !then_puts.contains(key);
            if again || deleted(&deletes, key) {
                return Err(Fault::DuplicateKey);
            }
        }
        deletes.extend(then_deletes);
        deletes.extend(else_deletes);
    }
    for op in ops {
        let Op::Put(put) = op else { continue };
        if deleted(&deletes, &put.key) || !puts.insert(&put.key) {
            return Err(Fault::DuplicateKey);
        }
    }
    Ok((puts, deletes))
}

fn deleted(deletes: &[&Delete], key: &[u8]) -> bool {
    deletes.iter().any(|delete| {
        let keys = &delete.keys;
        // etcd takes the range's end literally here: a delete without upper end overlaps nothing.
        if keys.is_one() {
            key == keys.key
        } else {
            key >= keys.key.as_slice() && key < keys.range_end.as_slice()
        }
    })
}
