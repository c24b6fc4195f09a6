//! Transactions: the comparisons choose a path through the nested operations on the state as it was, all
//! checks are made, and only then are the operations done in order. So a refused transaction changes nothing.

use std::sync::Arc;

use super::check::check_txn;
use super::entry::Entry;
use super::fault::Fault;
use super::read::read;
use super::types::{Answer, Compare, Op, OpAnswer, Operand, Relation, Txn, TxnAnswer};
use super::{Change, Core, Effects};

/// Which branch was taken, with those of the transactions within, in the order of the operations.
struct Path {
    succeeded: bool,
    within: Vec<Path>,
}

impl Core {
    /// Evaluates a transaction that cannot write, on committed state, beside the queue of commands.
    ///
    /// The caller has looked at [`Txn::is_read_only`]; a write in it would be refused as an empty operation.
    pub fn read_txn(&self, txn: &Txn) -> Result<TxnAnswer, Fault> {
        check_txn(txn)?;
        let path = self.choose(txn, self.committed);
        self.check_taken_ranges(txn, &path, self.committed)?;
        let mut answer = self.read_ops(txn, &path)?;
        answer.revision = self.committed;
        Ok(answer)
    }

    pub(super) fn apply_txn(&mut self, txn: Txn, effects: &mut Effects) -> Result<Answer, Fault> {
        let path = self.choose(&txn, self.revision);
        self.check_taken_puts(&txn, &path)?;
        self.check_taken_ranges(&txn, &path, self.revision)?;
        let mut change = self.begin();
        let mut answer = self.do_ops(txn, &path, &mut change, effects);
        answer.revision = self.finish(&change);
        Ok(Answer::Txn(answer))
    }

    fn choose(&self, txn: &Txn, at: i64) -> Path {
        let succeeded = txn.compare.iter().all(|compare| self.holds(compare, at));
        let ops = if succeeded { &txn.success } else { &txn.failure };
        let within = ops
            .iter()
            .filter_map(|op| match op {
                Op::Txn(txn) => Some(self.choose(txn, at)),
                Op::Range(_) | Op::Put(_) | Op::Delete(_) | Op::Empty => None,
            })
            .collect();
        Path { succeeded, within }
    }

    fn holds(&self, compare: &Compare, at: i64) -> bool {
        let mut found = self.index.range(&compare.keys, at).peekable();
        if found.peek().is_none() {
            // A key that does not exist has zeros for all fields, and no value at all.
            return !matches!(compare.operand, Operand::Value(_)) && field_holds(compare, None);
        }
        found.all(|entry| field_holds(compare, Some(entry)))
    }

    fn check_taken_puts(&self, txn: &Txn, path: &Path) -> Result<(), Fault> {
        let mut within = path.within.iter();
        for op in taken(txn, path) {
            match op {
                Op::Put(put) => {
                    self.check_kept(put)?;
                    self.check_lease(put)?;
                }
                Op::Txn(txn) => self.check_taken_puts(txn, within.next().expect("one path for each"))?,
                Op::Range(_) | Op::Delete(_) | Op::Empty => {}
            }
        }
        Ok(())
    }

    fn check_taken_ranges(&self, txn: &Txn, path: &Path, now: i64) -> Result<(), Fault> {
        let mut within = path.within.iter();
        for op in taken(txn, path) {
            match op {
                Op::Range(range) if range.revision > now => return Err(Fault::FutureRevision),
                Op::Range(range) if range.revision != 0 && range.revision < self.compacted => {
                    return Err(Fault::Compacted);
                }
                Op::Txn(txn) => {
                    self.check_taken_ranges(txn, within.next().expect("one path for each"), now)?;
                }
                Op::Range(_) | Op::Put(_) | Op::Delete(_) | Op::Empty => {}
            }
        }
        Ok(())
    }

    fn read_ops(&self, txn: &Txn, path: &Path) -> Result<TxnAnswer, Fault> {
        let mut within = path.within.iter();
        let mut answers = Vec::new();
        for op in taken(txn, path) {
            answers.push(match op {
                Op::Range(range) => {
                    OpAnswer::Range(read(&self.index, range, self.committed, self.compacted)?)
                }
                Op::Txn(txn) => OpAnswer::Txn(self.read_ops(txn, within.next().expect("one path for each"))?),
                Op::Put(_) | Op::Delete(_) | Op::Empty => return Err(Fault::KeyNotFound),
            });
        }
        Ok(TxnAnswer { revision: 0, succeeded: path.succeeded, answers })
    }

    fn do_ops(&mut self, txn: Txn, path: &Path, change: &mut Change, effects: &mut Effects) -> TxnAnswer {
        let mut within = path.within.iter();
        let ops = if path.succeeded { txn.success } else { txn.failure };
        let mut answers = Vec::with_capacity(ops.len());
        for op in ops {
            answers.push(match op {
                Op::Range(range) => {
                    let now = if change.is_empty() { self.revision } else { change.main };
                    let answer = read(&self.index, &range, now, self.compacted);
                    OpAnswer::Range(answer.expect("revision in bounds: checked before the first operation"))
                }
                Op::Put(put) => OpAnswer::Put(self.do_put(put, change, effects)),
                Op::Delete(delete) => OpAnswer::Delete(self.do_delete(&delete, change, effects)),
                Op::Txn(txn) => OpAnswer::Txn(self.do_ops(
                    txn,
                    within.next().expect("one path for each"),
                    change,
                    effects,
                )),
                Op::Empty => unreachable!("refused by check_txn"),
            });
        }
        TxnAnswer { revision: 0, succeeded: path.succeeded, answers }
    }
}

fn taken<'a>(txn: &'a Txn, path: &Path) -> &'a [Op] {
    if path.succeeded { &txn.success } else { &txn.failure }
}

fn field_holds(compare: &Compare, entry: Option<&Arc<Entry>>) -> bool {
    let field = |get: fn(&Entry) -> i64| entry.map_or(0, |entry| get(entry));
    let ordering = match &compare.operand {
        Operand::Version(version) => field(|entry| entry.version).cmp(version),
        Operand::Create(revision) => field(|entry| entry.create_revision).cmp(revision),
        Operand::Mod(revision) => field(|entry| entry.revision.main).cmp(revision),
        Operand::Lease(lease) => field(|entry| entry.lease).cmp(lease),
        Operand::Value(value) => entry.map_or(&[][..], |entry| &entry.value).cmp(value.as_slice()),
    };
    match compare.relation {
        Relation::Equal => ordering.is_eq(),
        Relation::Greater => ordering.is_gt(),
        Relation::Less => ordering.is_lt(),
        Relation::NotEqual => ordering.is_ne(),
    }
}
