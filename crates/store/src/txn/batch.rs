//! Many small transactions at once: packed into few, of at most 100 operations each. One that fails does not hold up the others.

use std::collections::VecDeque;

use super::commit::Answer;
use super::{Committed, Expect, Guard, TXN_BYTES_MAX, Txn, TxnError};
use crate::leader::Leadership;
use crate::store::Store;

/// Most operations of one packed transaction: room is left below etcd's 128 for compares.
pub const BATCH_OPERATIONS_MAX: usize = 100;
/// Most compares of one packed transaction, beside the fence that all share.
const BATCH_GUARDS_MAX: usize = 100;
/// Most bytes of one packed transaction: a smaller one that fails costs less to repeat.
const BATCH_BYTES_MAX: usize = 1_000_000;

struct Item {
    index: usize,
    txn: Txn,
}

impl Store {
    /// Runs transactions that do not depend on each other, in few round trips. Each happens as a whole or not at all, and its result
    /// stands at its place. `fence` goes with each of them. Transactions that write the same key happen in their order.
    ///
    /// When the store cannot be reached, those not tried yet fail with [`TxnError::Unavailable`] at once.
    pub async fn commit_all(
        &self,
        txns: Vec<Txn>,
        fence: Option<&Leadership>,
    ) -> Vec<Result<Committed, TxnError>> {
        let mut results: Vec<Option<Result<Committed, TxnError>>> = txns.iter().map(|_| None).collect();
        let mut waiting = VecDeque::with_capacity(txns.len());
        for (index, txn) in txns.into_iter().enumerate() {
            let txn = match fence {
                Some(leadership) => txn.fenced(leadership),
                None => txn,
            };
            match self.admit(&txn) {
                Ok(()) => waiting.push_back(Item { index, txn }),
                Err(error) => results[index] = Some(Err(error)),
            }
        }
        let mut operations_max = BATCH_OPERATIONS_MAX;
        while !waiting.is_empty() {
            let group = pack(&mut waiting, operations_max);
            let merged = group.iter().fold(Txn::new(), |merged, item| merged.merge(item.txn.clone()));
            match self.run(&merged).await {
                Ok(Answer::Done { revision, changed }) => {
                    let mut changed = changed.as_slice();
                    for item in group {
                        let (mine, rest) = changed.split_at(item.txn.ops.len().min(changed.len()));
                        changed = rest;
                        results[item.index] = Some(Ok(item.txn.committed(revision, mine)));
                    }
                }
                Ok(Answer::Found { revision, found }) => {
                    // Those whose own compares failed drop out, the others are tried again, before what comes after them.
                    let before = waiting.len() + group.len();
                    for item in group.into_iter().rev() {
                        match item.txn.judge(revision, &found) {
                            Ok(None) => waiting.push_front(item),
                            Ok(Some(error)) | Err(error) => results[item.index] = Some(Err(error)),
                        }
                    }
                    if waiting.len() == before {
                        fail_all(
                            &mut results,
                            waiting.drain(..),
                            &TxnError::Refused {
                                subject: merged.subject(),
                                reason: "a compare failed, but all compared keys are as expected".to_owned(),
                            },
                        );
                    }
                }
                // The server's limits are narrower than ours: smaller parts.
                Err(TxnError::Refused { .. } | TxnError::LeaseLost { .. }) if group.len() > 1 => {
                    operations_max = (operations_max / 2).max(1);
                    for item in group.into_iter().rev() {
                        waiting.push_front(item);
                    }
                }
                Err(error) => {
                    fail_all(&mut results, group.into_iter(), &error);
                    // The rest is not tried: the store is away.
                    if let TxnError::Indeterminate { outage, .. } | TxnError::Unavailable { outage, .. } =
                        error
                    {
                        let error = TxnError::Unavailable { subject: merged.subject(), outage };
                        fail_all(&mut results, waiting.drain(..), &error);
                    }
                }
            }
        }
        results
            .into_iter()
            .map(|result| result.expect("each transaction is in one group at the end"))
            .collect()
    }
}

fn fail_all(
    results: &mut [Option<Result<Committed, TxnError>>],
    items: impl Iterator<Item = Item>,
    error: &TxnError,
) {
    for item in items {
        results[item.index] = Some(Err(error.clone()));
    }
}

/// Takes from the front what fits into one transaction and does not write a key twice. At least one.
fn pack(waiting: &mut VecDeque<Item>, operations_max: usize) -> Vec<Item> {
    let mut group: Vec<Item> = Vec::new();
    let (mut operations, mut guards, mut bytes) = (0, 0, 0);
    while let Some(next) = waiting.front() {
        operations += next.txn.operations();
        // What several compare is compared once.
        let is_new = |guard: &&Guard| !group.iter().any(|item| item.txn.compares(guard));
        let own = next.txn.guards.iter().filter(|guard| !matches!(guard.expect, Expect::Led { .. }));
        guards += own.filter(is_new).count();
        bytes += next.txn.bytes();
        let fits = operations <= operations_max
            && guards <= BATCH_GUARDS_MAX
            && bytes <= BATCH_BYTES_MAX.min(TXN_BYTES_MAX);
        let clashes =
            group.iter().any(|item| item.txn.overlaps(&next.txn) || item.txn.contradicts(&next.txn));
        if !group.is_empty() && (!fits || clashes) {
            break;
        }
        group.extend(waiting.pop_front());
    }
    group
}

impl Txn {
    /// Whether one compares what the other writes: together they would judge the state before both.
    fn contradicts(&self, later: &Self) -> bool {
        let writes = |txn: &Self, key: &str| {
            txn.ops.iter().any(|op| match op {
                super::Op::DeletePrefix { prefix } => key.starts_with(&**prefix),
                super::Op::Put { .. } | super::Op::Delete { .. } => **op.target() == *key,
            })
        };
        later.guards.iter().any(|guard| writes(self, &guard.key))
    }
}

#[cfg(test)]
mod tests {
    use skerry_model::NodeRef;
    use skerry_proto::store::v1 as pb;

    use super::*;
    use crate::keys::Key;

    fn key(name: usize) -> Key<pb::NodeRecord> {
        Key::of(&NodeRef::parse(&format!("projects/p/nodes/n{name}")).unwrap())
    }

    fn items(txns: Vec<Txn>) -> VecDeque<Item> {
        txns.into_iter().enumerate().map(|(index, txn)| Item { index, txn }).collect()
    }

    fn sizes(mut waiting: VecDeque<Item>) -> Vec<usize> {
        let mut sizes = Vec::new();
        while !waiting.is_empty() {
            sizes.push(pack(&mut waiting, BATCH_OPERATIONS_MAX).len());
        }
        sizes
    }

    #[test]
    fn a_group_has_at_most_a_hundred_operations() {
        let txns = (0..250).map(|n| Txn::new().put(&key(n), &pb::NodeRecord::default())).collect();
        assert_eq!(sizes(items(txns)), [100, 100, 50]);
    }

    #[test]
    fn a_group_has_at_most_a_hundred_compares() {
        let txns = (0..60)
            .map(|n| Txn::new().when_exists(&key(n)).when_exists(&key(n + 100)).delete(&key(n)))
            .collect();
        assert_eq!(sizes(items(txns)), [50, 10]);
    }

    #[test]
    fn what_several_compare_counts_once() {
        let one = |n: usize| {
            Txn::new()
                .when_exists(&key(1000))
                .when_exists(&key(n))
                .put(&key(n + 100), &pb::NodeRecord::default())
        };
        assert_eq!(sizes(items((0..100).map(one).collect())), [99, 1]);
    }

    #[test]
    fn writes_of_one_key_keep_their_order_in_separate_groups() {
        let put = || Txn::new().put(&key(1), &pb::NodeRecord::default());
        assert_eq!(sizes(items(vec![put(), put(), put()])), [1, 1, 1]);
        let reads = Txn::new().when_exists(&key(1)).put(&key(2), &pb::NodeRecord::default());
        assert_eq!(sizes(items(vec![put(), reads])), [1, 1]);
    }
}
