//! Random operations on both stores in lockstep: every answer, every refusal and every watch event is the same.
//!
//! Both stores begin empty and are told the same, so their revisions are the same too, and nothing but the
//! identity in the headers is left out of the comparison. Where etcd's own answer is a matter of chance, the
//! operation is not generated: previous values in a watch that races a compaction, a watch that begins exactly
//! at a compacted delete (3.4 forgets it, this store does not).

use std::fmt::Debug;
use std::time::Duration;

use etcd_client::{
    Client, Compare, CompareOp, DeleteOptions, Error, GetOptions, LeaseGrantOptions, LeaseTimeToLiveOptions,
    PutOptions, ResponseHeader, SortOrder, SortTarget, Txn, TxnOp, WatchOptions, WatchStream,
};
use proptest::collection::vec;
use proptest::prelude::*;
use proptest::test_runner::{TestCaseError, TestError, TestRunner};

use crate::Store;

/// Unless the environment's `CASES` says otherwise.
const CASES: u32 = 40;
const STEPS: usize = 40;
const PATIENCE: Duration = Duration::from_secs(15);
/// Put at the end of each case, so that a watch knows that it has seen everything.
const SENTINEL: &str = "d/~";

#[derive(Debug, Clone, Copy)]
enum Keys {
    One(u8),
    FromTo(u8, u8),
    From(u8),
    All,
}

#[derive(Debug, Clone)]
struct Get {
    keys: Keys,
    limit: i64,
    /// How far back from now; below 0 is the future.
    back: Option<i64>,
    sort: Option<(u8, u8)>,
    keys_only: bool,
    count_only: bool,
    /// Filters, as how far back from now: least and greatest mod revision, least and greatest create revision.
    filters: [Option<i64>; 4],
}

#[derive(Debug, Clone)]
enum Op {
    Get(Get),
    Put { key: u8, value: u8, lease: u8, prev: bool, ignore: u8 },
    Delete { keys: Keys, prev: bool },
    Txn(Box<Branches>),
}

#[derive(Debug, Clone)]
struct Branches {
    compare: Vec<(Keys, u8, u8, i64)>,
    then: Vec<Op>,
    or_else: Vec<Op>,
}

#[derive(Debug, Clone)]
enum Step {
    Op(Op),
    Compact(i64),
    Grant(u8),
    Revoke(u8),
    TimeToLive(u8),
    Leases,
}

fn keys() -> impl Strategy<Value = Keys> {
    prop_oneof![
        4 => (0_u8..6).prop_map(Keys::One),
        2 => (0_u8..6, 0_u8..6).prop_map(|(from, to)| Keys::FromTo(from, to)),
        1 => (0_u8..6).prop_map(Keys::From),
        1 => Just(Keys::All),
    ]
}

fn get() -> impl Strategy<Value = Get> {
    let back = || proptest::option::weighted(0.2, 0_i64..12);
    (
        keys(),
        prop_oneof![3 => Just(0_i64), 1 => 0_i64..4],
        proptest::option::weighted(0.4, -2_i64..12),
        proptest::option::weighted(0.3, (0_u8..5, 0_u8..3)),
        proptest::bool::weighted(0.2),
        proptest::bool::weighted(0.2),
        [back(), back(), back(), back()],
    )
        .prop_map(|(keys, limit, back, sort, keys_only, count_only, filters)| Get {
            keys,
            limit,
            back,
            sort,
            keys_only,
            count_only,
            filters,
        })
}

fn op() -> impl Strategy<Value = Op> {
    let leaf = prop_oneof![
        3 => get().prop_map(Op::Get),
        5 => (0_u8..6, 0_u8..4, 0_u8..8, any::<bool>(), 0_u8..10)
            .prop_map(|(key, value, lease, prev, ignore)| Op::Put { key, value, lease, prev, ignore }),
        2 => (keys(), any::<bool>()).prop_map(|(keys, prev)| Op::Delete { keys, prev }),
    ];
    leaf.prop_recursive(2, 12, 4, |inner| {
        let compare = (keys(), 0_u8..5, 0_u8..4, 0_i64..6);
        (vec(compare, 0..3), vec(inner.clone(), 0..4), vec(inner, 0..4))
            .prop_map(|(compare, then, or_else)| Op::Txn(Box::new(Branches { compare, then, or_else })))
    })
}

impl Op {
    fn deletes(&self) -> bool {
        match self {
            Self::Get(_) | Self::Put { .. } => false,
            Self::Delete { .. } => true,
            Self::Txn(branches) => branches.then.iter().chain(&branches.or_else).any(Self::deletes),
        }
    }

    fn keep_nothing(&mut self) {
        match self {
            Self::Get(_) | Self::Delete { .. } => {}
            Self::Put { ignore, .. } => *ignore = 0,
            Self::Txn(branches) => {
                branches.then.iter_mut().chain(&mut branches.or_else).for_each(Self::keep_nothing);
            }
        }
    }

    /// Without what ends etcd 3.4 itself: it panics where a transaction first deletes a key and then, in another one within
    /// it, puts that key and keeps its value or lease.
    fn survivable(mut self) -> Self {
        if self.deletes() {
            self.keep_nothing();
        }
        self
    }
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        20 => op().prop_map(|op| Step::Op(op.survivable())),
        1 => (-1_i64..15).prop_map(Step::Compact),
        2 => (1_u8..4).prop_map(Step::Grant),
        1 => (1_u8..4).prop_map(Step::Revoke),
        1 => (1_u8..4).prop_map(Step::TimeToLive),
        1 => Just(Step::Leases),
    ]
}

fn name(key: u8) -> String {
    format!("d/{}", char::from(b'a' + key))
}

impl Keys {
    fn key(self) -> String {
        match self {
            Self::One(key) | Self::FromTo(key, _) | Self::From(key) => name(key),
            Self::All => "d/".to_owned(),
        }
    }

    fn get(self) -> GetOptions {
        match self {
            Self::One(_) => GetOptions::new(),
            Self::FromTo(_, to) => GetOptions::new().with_range(name(to)),
            Self::From(_) => GetOptions::new().with_from_key(),
            Self::All => GetOptions::new().with_prefix(),
        }
    }

    fn delete(self) -> DeleteOptions {
        match self {
            Self::One(_) => DeleteOptions::new(),
            Self::FromTo(_, to) => DeleteOptions::new().with_range(name(to)),
            Self::From(_) => DeleteOptions::new().with_from_key(),
            Self::All => DeleteOptions::new().with_prefix(),
        }
    }
}

/// Builds requests at a revision that both stores have reached.
struct Builder {
    revision: i64,
}

impl Builder {
    fn get(&self, get: &Get) -> GetOptions {
        const TARGETS: [SortTarget; 5] =
            [SortTarget::Key, SortTarget::Version, SortTarget::Create, SortTarget::Mod, SortTarget::Value];
        const ORDERS: [SortOrder; 3] = [SortOrder::None, SortOrder::Ascend, SortOrder::Descend];
        let mut options = get.keys.get().with_limit(get.limit);
        if let Some(back) = get.back {
            options = options.with_revision(self.revision - back);
        }
        if let Some((target, order)) = get.sort {
            options = options.with_sort(TARGETS[usize::from(target)], ORDERS[usize::from(order)]);
        }
        if get.keys_only {
            options = options.with_keys_only();
        }
        if get.count_only {
            options = options.with_count_only();
        }
        let at = |filter: Option<i64>| filter.map(|back| self.revision - back);
        let [min_mod, max_mod, min_create, max_create] = get.filters.map(at);
        options = min_mod.into_iter().fold(options, GetOptions::with_min_mod_revision);
        options = max_mod.into_iter().fold(options, GetOptions::with_max_mod_revision);
        options = min_create.into_iter().fold(options, GetOptions::with_min_create_revision);
        max_create.into_iter().fold(options, GetOptions::with_max_create_revision)
    }

    fn put(value: u8, lease: u8, prev: bool, ignore: u8) -> (Vec<u8>, PutOptions) {
        let mut options = PutOptions::new();
        // Leases 1 to 3 may be there; most puts have none.
        if (1..4).contains(&lease) {
            options = options.with_lease(i64::from(lease));
        }
        if prev {
            options = options.with_prev_key();
        }
        let mut bytes = vec![b'0' + value; usize::from(value)];
        if ignore == 1 || ignore == 3 {
            bytes.clear();
            options = options.with_ignore_value();
        }
        if ignore == 2 || ignore == 3 {
            options = options.with_ignore_lease();
        }
        (bytes, options)
    }

    fn txn_op(&self, op: &Op) -> TxnOp {
        match op {
            Op::Get(get) => TxnOp::get(get.keys.key(), Some(self.get(get))),
            Op::Put { key, value, lease, prev, ignore } => {
                let (bytes, options) = Self::put(*value, *lease, *prev, *ignore);
                TxnOp::put(name(*key), bytes, Some(options))
            }
            Op::Delete { keys, prev } => TxnOp::delete(keys.key(), Some(delete(*keys, *prev))),
            Op::Txn(branches) => TxnOp::txn(self.txn(branches)),
        }
    }

    fn txn(&self, branches: &Branches) -> Txn {
        let compare: Vec<Compare> = branches.compare.iter().map(|compare| self.compare(*compare)).collect();
        let ops = |ops: &[Op]| ops.iter().map(|op| self.txn_op(op)).collect::<Vec<_>>();
        Txn::new().when(compare).and_then(ops(&branches.then)).or_else(ops(&branches.or_else))
    }

    fn compare(&self, (keys, target, relation, operand): (Keys, u8, u8, i64)) -> Compare {
        const RELATIONS: [CompareOp; 4] =
            [CompareOp::Equal, CompareOp::Greater, CompareOp::Less, CompareOp::NotEqual];
        let relation = RELATIONS[usize::from(relation)];
        let compare = match target {
            0 => Compare::version(keys.key(), relation, operand),
            1 => Compare::create_revision(keys.key(), relation, self.revision - operand),
            2 => Compare::mod_revision(keys.key(), relation, self.revision - operand),
            3 => {
                let value = u8::try_from(operand).unwrap() % 4;
                Compare::value(keys.key(), relation, vec![b'0' + value; usize::from(value)])
            }
            _ => Compare::lease(keys.key(), relation, operand % 4),
        };
        match keys {
            Keys::One(_) => compare,
            Keys::FromTo(_, to) => compare.with_range(name(to)),
            Keys::From(_) => compare.with_range([0]),
            Keys::All => compare.with_prefix(),
        }
    }
}

fn delete(keys: Keys, prev: bool) -> DeleteOptions {
    if prev { keys.delete().with_prev_key() } else { keys.delete() }
}

/// An answer without the identity in its header, or the refusal, as text to compare.
fn shown<T: Debug>(result: Result<(Option<ResponseHeader>, T), Error>) -> String {
    match result {
        Ok((header, body)) => format!("at {:?}: {body:?}", header.map(|header| header.revision())),
        Err(Error::GRpcStatus(status)) => format!("{:?}: {}", status.code(), status.message()),
        Err(other) => panic!("{other}"),
    }
}

macro_rules! headless {
    ($call:expr) => {
        $call.await.map(|mut response| (response.take_header(), response))
    };
}

async fn run(client: &mut Client, step: &Step, revision: i64) -> String {
    let builder = Builder { revision };
    match step {
        Step::Op(Op::Get(get)) => shown(headless!(client.get(get.keys.key(), Some(builder.get(get))))),
        Step::Op(Op::Put { key, value, lease, prev, ignore }) => {
            let (bytes, options) = Builder::put(*value, *lease, *prev, *ignore);
            shown(headless!(client.put(name(*key), bytes, Some(options))))
        }
        Step::Op(Op::Delete { keys, prev }) => {
            shown(headless!(client.delete(keys.key(), Some(delete(*keys, *prev)))))
        }
        Step::Op(Op::Txn(branches)) => shown(headless!(client.txn(builder.txn(branches)))),
        Step::Compact(back) => shown(headless!(client.compact(revision - back, None))),
        Step::Grant(id) => {
            let options = LeaseGrantOptions::new().with_id(i64::from(*id));
            shown(headless!(client.lease_grant(10_000, Some(options))))
        }
        Step::Revoke(id) => shown(headless!(client.lease_revoke(i64::from(*id)))),
        Step::TimeToLive(id) => {
            let options = LeaseTimeToLiveOptions::new().with_keys();
            shown(client.lease_time_to_live(i64::from(*id), Some(options)).await.map(|mut response| {
                let mut keys = response.keys().to_vec();
                keys.sort();
                // What remains depends on the moment.
                (response.take_header(), (response.granted_ttl(), response.ttl() < 0, keys))
            }))
        }
        Step::Leases => shown(client.leases().await.map(|mut response| {
            let mut ids: Vec<i64> = response.leases().iter().map(etcd_client::LeaseStatus::id).collect();
            ids.sort_unstable();
            (response.take_header(), ids)
        })),
    }
}

/// All events of a watch up to the sentinel.
async fn drain(watch: &mut WatchStream) -> Vec<String> {
    let mut seen = Vec::new();
    let read = async {
        loop {
            let response = watch.message().await.unwrap().expect("the watch ended");
            assert!(!response.canceled(), "{response:?}");
            for event in response.events() {
                seen.push(format!("{event:?}"));
                if event.kv().unwrap().key() == SENTINEL.as_bytes() {
                    return;
                }
            }
        }
    };
    tokio::time::timeout(PATIENCE, read).await.expect("the watch did not see the end");
    seen
}

struct Pair {
    real: Client,
    embedded: Client,
}

impl Pair {
    async fn both(&mut self, step: &Step, revision: i64) -> (String, String) {
        (run(&mut self.real, step, revision).await, run(&mut self.embedded, step, revision).await)
    }

    async fn watch(&mut self, options: &WatchOptions) -> (WatchStream, WatchStream) {
        let mut real = self.real.watch("d/", Some(options.clone())).await.unwrap();
        let mut embedded = self.embedded.watch("d/", Some(options.clone())).await.unwrap();
        assert!(real.message().await.unwrap().unwrap().created());
        assert!(embedded.message().await.unwrap().unwrap().created());
        (real, embedded)
    }

    async fn revision(&mut self) -> Result<i64, TestCaseError> {
        let real = self.real.get("-", None).await.unwrap().header().unwrap().revision();
        let embedded = self.embedded.get("-", None).await.unwrap().header().unwrap().revision();
        prop_assert_eq!(embedded, real);
        Ok(real)
    }

    async fn case(&mut self, steps: &[Step]) -> Result<(), TestCaseError> {
        // Cases share two stores: each begins without keys and leases, somewhere in the history.
        let all = Step::Op(Op::Delete { keys: Keys::All, prev: false });
        for step in [all, Step::Revoke(1), Step::Revoke(2), Step::Revoke(3)] {
            let revision = self.revision().await?;
            self.both(&step, revision).await;
        }
        let mut revision = self.revision().await?;
        let mut compacted = revision;
        let (mut real, mut embedded) = self.watch(&WatchOptions::new().with_prefix()).await;
        for (at, step) in steps.iter().enumerate() {
            let (real, embedded) = self.both(step, revision).await;
            prop_assert_eq!(&embedded, &real, "step {} at revision {}: {:?}", at, revision, step);
            if let Step::Compact(back) = step
                && real.starts_with("at")
            {
                compacted = compacted.max(revision - back);
            }
            revision = self.revision().await?;
        }
        self.real.put(SENTINEL, "", None).await.unwrap();
        self.embedded.put(SENTINEL, "", None).await.unwrap();
        prop_assert_eq!(drain(&mut embedded).await, drain(&mut real).await, "events as they came");

        let again = WatchOptions::new().with_prefix().with_prev_key().with_start_revision(compacted + 1);
        let (mut real, mut embedded) = self.watch(&again).await;
        prop_assert_eq!(drain(&mut embedded).await, drain(&mut real).await, "events from {}", compacted + 1);
        Ok(())
    }
}

#[test]
fn both_stores_answer_random_operations_alike() {
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
    let (stores, pair) = runtime.block_on(async {
        let (real, embedded) = (Store::real().await, Store::embedded().await);
        let pair = Pair { real: real.client().await, embedded: embedded.client().await };
        ((real, embedded), std::cell::RefCell::new(pair))
    });
    let cases = std::env::var("CASES").map_or(CASES, |cases| cases.parse().unwrap());
    let config = ProptestConfig {
        cases,
        max_shrink_iters: 200,
        failure_persistence: None,
        ..ProptestConfig::default()
    };
    let mut runner = TestRunner::new(config);
    let result = runner.run(&vec(step(), 1..STEPS), |steps| runtime.block_on(pair.borrow_mut().case(&steps)));
    if let Err(error) = result {
        match error {
            TestError::Fail(reason, steps) => {
                panic!("{reason}\n{steps:#?}\netcd said:\n{}", stores.0.output())
            }
            TestError::Abort(reason) => panic!("{reason}"),
        }
    }
    runtime.block_on(async { drop(stores) });
}
