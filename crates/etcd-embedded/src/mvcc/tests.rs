//! The core's laws, on random histories: reads equal a model at every revision, watches replay exactly the
//! history, compaction changes no answer at or after it, and a crash leaves a prefix of what was done.

use std::collections::BTreeMap;
use std::time::Duration;

use proptest::prelude::*;

use super::*;

const NOW: Duration = Duration::ZERO;

fn new_core() -> (Core, MemDisk) {
    let mut disk = MemDisk::default();
    disk.write(Core::format(Identity { cluster_id: u64::MAX, member_id: 2 }));
    disk.sync();
    (Core::open(disk.rows(), NOW).unwrap(), disk)
}

/// Applies, makes durable, and commits, as a driver does.
fn apply(core: &mut Core, disk: &mut MemDisk, command: Command) -> Result<Answer, Fault> {
    let (answer, effects) = core.apply(command, NOW);
    disk.write(effects.writes);
    disk.sync();
    core.commit(core.revision());
    answer
}

#[derive(Debug, Clone)]
enum Step {
    Put(u8, u8, bool),
    Delete(u8, u8),
    Txn(Vec<(u8, u8)>, u8),
    Compact(u8),
    Grant,
    Revoke,
    Scrub,
}

const LEASE: i64 = 77;

fn key(name: u8) -> Vec<u8> {
    vec![b'k', b'a' + name % 6]
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let step = prop_oneof![
        6 => (any::<u8>(), any::<u8>(), any::<bool>()).prop_map(|(k, v, l)| Step::Put(k, v, l)),
        2 => (any::<u8>(), any::<u8>()).prop_map(|(from, to)| Step::Delete(from, to)),
        2 => (proptest::collection::vec((any::<u8>(), any::<u8>()), 0..4), any::<u8>())
            .prop_map(|(puts, delete)| Step::Txn(puts, delete)),
        1 => any::<u8>().prop_map(Step::Compact),
        1 => Just(Step::Grant),
        1 => Just(Step::Revoke),
        1 => Just(Step::Scrub),
    ];
    proptest::collection::vec(step, 1..60)
}

fn command(step: &Step, core: &Core) -> Option<Command> {
    Some(match step {
        Step::Put(name, value, leased) => {
            let lease = if *leased && core.leases.contains(LEASE) { LEASE } else { 0 };
            Command::Put(Put { lease, ..Put::new(key(*name), vec![*value]) })
        }
        Step::Delete(from, to) => Command::Delete(Delete {
            keys: KeyRange { key: key(*from), range_end: key(*to) },
            prev_kv: false,
        }),
        Step::Txn(puts, delete) => {
            // The delete comes first, and of a key that no put touches: the rest is refused.
            let mut taken: Vec<Vec<u8>> = vec![key(*delete)];
            let mut success = vec![Op::Delete(Delete { keys: KeyRange::one(key(*delete)), prev_kv: true })];
            for (name, value) in puts {
                if !taken.contains(&key(*name)) {
                    taken.push(key(*name));
                    success.push(Op::Put(Put::new(key(*name), vec![*value])));
                }
            }
            Command::Txn(Txn { success, ..Txn::default() })
        }
        Step::Compact(share) => Command::Compact { revision: core.revision() * i64::from(*share) / 255 },
        Step::Grant => Command::LeaseGrant { id: LEASE, ttl_s: 10 },
        Step::Revoke => Command::LeaseRevoke { id: LEASE },
        Step::Scrub => return None,
    })
}

type Live = BTreeMap<Vec<u8>, (Vec<u8>, i64, i64, i64)>;

/// What a store is, written down naively: every state at every revision, from the events alone.
struct Model {
    states: BTreeMap<i64, Live>,
    events: Vec<Arc<Entry>>,
}

impl Model {
    fn new() -> Self {
        Self { states: BTreeMap::from([(1, Live::new())]), events: Vec::new() }
    }

    fn take(&mut self, events: &[Arc<Entry>]) {
        for event in events {
            let mut live = self.states.last_key_value().unwrap().1.clone();
            let main = event.revision.main;
            if event.is_tombstone() {
                assert!(live.remove(&*event.key).is_some(), "a delete of a key that does not live");
            } else {
                let (create, version) =
                    live.get(&*event.key).map_or((main, 1), |(_, create, version, _)| (*create, version + 1));
                assert_eq!((event.create_revision, event.version), (create, version));
                live.insert(event.key.to_vec(), (event.value.to_vec(), create, version, event.lease));
            }
            self.states.insert(main, live);
        }
        self.events.extend(events.iter().cloned());
    }
}

fn live_at(core: &Core, revision: i64) -> Live {
    let range = Range { revision, ..Range::new(KeyRange::all()) };
    let answer = core.range(&range).unwrap();
    assert_eq!(answer.count, i64::try_from(answer.entries.len()).unwrap());
    let fields =
        |entry: &Arc<Entry>| (entry.value.to_vec(), entry.create_revision, entry.version, entry.lease);
    answer.entries.iter().map(|entry| (entry.key.to_vec(), fields(entry))).collect()
}

fn check(core: &Core, model: &Model) {
    assert_eq!(core.committed(), *model.states.last_key_value().unwrap().0);
    for (revision, live) in &model.states {
        let range = Range { revision: *revision, ..Range::new(KeyRange::all()) };
        if *revision < core.compacted() {
            assert_eq!(core.range(&range), Err(Fault::Compacted));
        } else {
            assert_eq!(&live_at(core, *revision), live, "at revision {revision}");
        }
    }
    for from in core.history_start().max(1)..=core.committed() + 1 {
        let expected: Vec<_> =
            model.events.iter().filter(|event| event.revision.main >= from).cloned().collect();
        let mut seen = Vec::new();
        let mut next = from;
        while next <= core.committed() {
            let page = core.history(next, 3, usize::MAX).unwrap();
            for item in &page.items {
                let before = item.entry.revision.main - 1;
                if let Some(prev) = &item.prev {
                    assert!(before >= core.compacted());
                    assert_eq!(
                        model.states.range(..=before).next_back().unwrap().1[&*prev.key].0,
                        *prev.value
                    );
                }
            }
            seen.extend(page.items.into_iter().map(|item| item.entry));
            assert!(page.next > next);
            next = page.next;
        }
        assert_eq!(seen, expected, "history from {from}");
    }
    assert!(core.history_start() <= core.compacted());
    assert_eq!(core.history(core.history_start() - 1, 1, 1), Err(Fault::Compacted));
    let leased: Vec<Vec<u8>> = model
        .states
        .last_key_value()
        .unwrap()
        .1
        .iter()
        .filter(|(_, fields)| fields.3 == LEASE)
        .map(|(key, _)| key.clone())
        .collect();
    let held: Option<Vec<Vec<u8>>> =
        core.leases.state(LEASE, NOW).map(|state| state.keys.iter().map(|key| key.to_vec()).collect());
    assert_eq!(held.unwrap_or_default(), leased);
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 200, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn reads_and_watches_equal_a_model_at_every_revision_that_is_kept(steps in steps()) {
        let (mut core, mut disk) = new_core();
        let mut model = Model::new();
        for step in &steps {
            if let Some(command) = command(step, &core) {
                let (answer, effects) = core.apply(command, NOW);
                prop_assert!(answer.is_ok() || effects == Effects::default());
                disk.write(effects.writes);
                model.take(&effects.events);
            } else {
                disk.write(core.scrub(2).writes);
            }
            disk.sync();
            core.commit(core.revision());
        }
        check(&core, &model);
        let reopened = Core::open(disk.rows(), NOW).unwrap();
        check(&reopened, &model);
        prop_assert_eq!(reopened.size_bytes(), core.size_bytes());
        prop_assert_eq!(reopened.garbage_rows(), core.garbage_rows());
    }

    #[test]
    fn a_crash_leaves_the_state_after_some_command_and_at_least_what_was_synced(
        steps in steps(), synced in 0_usize..60, kept in 0_usize..60,
    ) {
        let (mut core, mut disk) = new_core();
        // For every batch written: the committed state that it makes.
        let mut states = vec![(core.revision(), Live::new())];
        let mut batches_synced = 0;
        for (at, step) in steps.iter().enumerate() {
            let before = disk.pending();
            match command(step, &core) {
                Some(command) => disk.write(core.apply(command, NOW).1.writes),
                None => disk.write(core.scrub(2).writes),
            }
            // The model may look at what is applied; what a reader sees is the driver's business.
            core.commit(core.revision());
            if disk.pending() > before {
                states.push((core.revision(), live_at(&core, core.revision())));
            }
            if at + 1 == synced {
                batches_synced = states.len() - 1;
                disk.sync();
            }
        }
        let kept = kept.min(disk.pending());
        disk.crash(kept);
        let reopened = Core::open(disk.rows(), NOW).unwrap();
        let (revision, live) = &states[batches_synced + kept];
        prop_assert_eq!(reopened.committed(), *revision);
        prop_assert_eq!(&live_at(&reopened, *revision), live);
    }

    #[test]
    fn scrubbing_leaves_on_disk_exactly_what_the_index_holds(steps in steps()) {
        let (mut core, mut disk) = new_core();
        for step in &steps {
            if let Some(command) = command(step, &core) {
                let _ = apply(&mut core, &mut disk, command);
            }
        }
        while core.garbage_rows() > 0 {
            disk.write(core.scrub(1).writes);
        }
        disk.sync();
        let entries = disk.rows().filter(|row| row.table == Table::Revisions).count();
        let reopened = Core::open(disk.rows(), NOW).unwrap();
        prop_assert_eq!(reopened.garbage_rows(), 0);
        let in_index: usize = core.index.all_keys().map(|key| core.index.changes(key)).sum();
        prop_assert_eq!(entries, in_index);
    }
}

#[test]
fn what_is_applied_but_not_committed_is_not_read() {
    let (mut core, _disk) = new_core();
    let (answer, _) = core.apply(Command::Put(Put::new("a", "1")), NOW);
    assert!(answer.is_ok());
    assert_eq!(core.range(&Range::new(KeyRange::one("a"))).unwrap().count, 0);
    assert_eq!(core.history(1, 10, 1000).unwrap().items, vec![]);
    assert_eq!(core.apply(Command::Compact { revision: 2 }, NOW).0, Err(Fault::FutureRevision));
    core.commit(core.revision());
    assert_eq!(core.range(&Range::new(KeyRange::one("a"))).unwrap().count, 1);
    assert_eq!(core.history(1, 10, 1000).unwrap().items.len(), 1);
}

#[test]
fn compaction_leaves_the_newest_of_the_history_to_watchers_and_no_half_transaction() {
    let (mut core, mut disk) = new_core();
    let value = vec![0; LOG_GRACE_BYTES / 10];
    for at in 0..20 {
        let success = ["a", "b"].map(|key| Op::Put(Put::new(format!("{key}{at}"), value.clone()))).to_vec();
        apply(&mut core, &mut disk, Command::Txn(Txn { success, ..Txn::default() })).unwrap();
    }
    let newest = core.revision();
    apply(&mut core, &mut disk, Command::Compact { revision: newest }).unwrap();
    let start = core.history_start();
    assert!(start > 10 && start < core.compacted(), "{start}");
    let page = core.history(start, usize::MAX, usize::MAX).unwrap();
    assert_eq!(i64::try_from(page.items.len()).unwrap(), 2 * (core.revision() + 1 - start));
}

#[test]
fn a_lease_that_nobody_keeps_ends_and_takes_its_keys_along_in_one_revision() {
    let (mut core, _disk) = new_core();
    let second = Duration::from_secs(1);
    core.apply(Command::LeaseGrant { id: 5, ttl_s: 10 }, NOW).0.unwrap();
    for name in ["a", "b"] {
        core.apply(Command::Put(Put { lease: 5, ..Put::new(name, "") }), NOW).0.unwrap();
    }
    core.apply(Command::LeaseKeepAlive { id: 5 }, second * 9).0.unwrap();
    assert_eq!(core.next_expiry(), Some(second * 19));
    assert_eq!(core.tick(second * 18, 100), Effects::default());
    let effects = core.tick(second * 19, 100);
    let ended: Vec<_> = effects.events.iter().map(|event| (&*event.key, event.revision.main)).collect();
    assert_eq!(ended, vec![(b"a".as_slice(), 4), (b"b".as_slice(), 4)]);
    assert_eq!(core.apply(Command::LeaseKeepAlive { id: 5 }, second * 19).0, Err(Fault::LeaseNotFound));
}

#[test]
fn after_a_stall_every_lease_lives_for_its_whole_time_again() {
    let (mut core, _disk) = new_core();
    let second = Duration::from_secs(1);
    core.apply(Command::LeaseGrant { id: 5, ttl_s: 10 }, NOW).0.unwrap();
    core.apply(Command::LeaseKeepAll, second * 100).0.unwrap();
    assert_eq!(core.tick(second * 109, 100), Effects::default());
    assert_eq!(core.tick(second * 110, 100).writes.len(), 1);
}

#[test]
fn a_refused_transaction_changes_nothing() {
    let (mut core, mut disk) = new_core();
    let put = |key: &str, lease| Op::Put(Put { lease, ..Put::new(key, "v") });
    let cases = [
        (vec![put("a", 0), put("a", 0)], Fault::DuplicateKey),
        (vec![put("a", 0), put("b", 9)], Fault::LeaseNotFound),
        (vec![put("a", 0), Op::Empty], Fault::KeyNotFound),
        (vec![put("a", 0), put("", 0)], Fault::EmptyKey),
        (
            vec![put("a", 0), Op::Range(Range { revision: 9, ..Range::new(KeyRange::all()) })],
            Fault::FutureRevision,
        ),
        (
            vec![Op::Delete(Delete { keys: KeyRange::prefix("a"), prev_kv: false }), put("ab", 0)],
            Fault::DuplicateKey,
        ),
        ((0..129).map(|at| put(&format!("{at}"), 0)).collect(), Fault::TooManyOps),
    ];
    for (success, fault) in cases {
        let command = Command::Txn(Txn { success, ..Txn::default() });
        assert_eq!(apply(&mut core, &mut disk, command), Err(fault));
    }
    assert_eq!(core.revision(), 1);
}

#[test]
fn nested_comparisons_see_the_state_before_the_transaction() {
    let (mut core, mut disk) = new_core();
    let missing = |key: &str| Compare {
        keys: KeyRange::one(key),
        relation: Relation::Equal,
        operand: Operand::Version(0),
    };
    let within = Txn {
        compare: vec![missing("a")],
        success: vec![Op::Put(Put::new("then", ""))],
        failure: vec![Op::Put(Put::new("else", ""))],
    };
    let txn = Txn {
        compare: vec![missing("a")],
        success: vec![Op::Put(Put::new("a", "")), Op::Txn(within), Op::Range(Range::new(KeyRange::all()))],
        failure: vec![],
    };
    let Ok(Answer::Txn(answer)) = apply(&mut core, &mut disk, Command::Txn(txn)) else { panic!() };
    assert_eq!(answer.revision, 2);
    let OpAnswer::Range(range) = &answer.answers[2] else { panic!() };
    let keys: Vec<_> = range.entries.iter().map(|entry| &*entry.key).collect();
    assert_eq!(keys, vec![b"a".as_slice(), b"then"]);
}

#[test]
fn above_the_quota_only_what_adds_is_refused() {
    let (mut core, mut disk) = new_core();
    core.set_quota(1000);
    apply(&mut core, &mut disk, Command::Put(Put::new("a", vec![0; 2000]))).unwrap();
    assert_eq!(apply(&mut core, &mut disk, Command::Put(Put::new("b", ""))), Err(Fault::NoSpace));
    // What takes away more than it adds is taken, and a removal that finds nothing takes nothing away.
    let both = |removed: &str| {
        let delete = Delete { keys: KeyRange::one(removed), prev_kv: false };
        Command::Txn(Txn { success: vec![Op::Delete(delete), Op::Put(Put::new("c", "1"))], ..Txn::default() })
    };
    assert_eq!(apply(&mut core, &mut disk, both("none")), Err(Fault::NoSpace));
    apply(&mut core, &mut disk, both("a")).unwrap();
    apply(&mut core, &mut disk, Command::Compact { revision: 3 }).unwrap();
    apply(&mut core, &mut disk, Command::Put(Put::new("b", ""))).unwrap();
}

#[test]
fn leases_count_against_the_quota_until_they_end() {
    let (mut core, mut disk) = new_core();
    core.set_quota(1000);
    let grant = |id| Command::LeaseGrant { id, ttl_s: 60 };
    let refused = (1..100).find(|id| apply(&mut core, &mut disk, grant(*id)) == Err(Fault::NoSpace)).unwrap();
    assert_eq!(Core::open(disk.rows(), NOW).unwrap().size_bytes(), core.size_bytes());
    for id in 1..refused {
        apply(&mut core, &mut disk, Command::LeaseRevoke { id }).unwrap();
    }
    assert_eq!(core.size_bytes(), 0);
    apply(&mut core, &mut disk, grant(refused)).unwrap();
}

#[test]
fn opening_counts_a_term_and_keeps_the_identity() {
    let (mut core, mut disk) = new_core();
    disk.write(core.begin_term());
    disk.sync();
    let reopened = Core::open(disk.rows(), NOW).unwrap();
    assert_eq!((reopened.term(), reopened.identity()), (2, core.identity()));
}

#[test]
fn rows_that_make_no_store_are_an_error() {
    assert!(matches!(Core::open([], NOW), Err(CorruptState::Missing { .. })));
    let (_, disk) = new_core();
    let stray = Row { table: Table::Revisions, key: vec![1], value: vec![] };
    assert!(Core::open(disk.rows().chain([stray]), NOW).is_err());
}
