//! How a rollout is put together again from what the store shows, in whatever order.

use std::time::{Duration, SystemTime};

use proptest::prelude::*;
use skerry_model::AppRef;
use skerry_rollout::{Move, Phase, Reason, begin};
use skerry_store::Key;
use skerry_store::keys::RolloutMoveName;

use super::*;

fn revision(n: u8) -> ContentHash {
    ContentHash::of(&[n])
}

fn cluster(n: u8) -> ClusterName {
    ClusterName::parse(&format!("c{n}")).unwrap()
}

fn app() -> AppRef {
    AppRef::parse("projects/p/apps/a").unwrap()
}

fn versioned<R: skerry_store::Record>(name: &R::Name, value: &R) -> Versioned<R> {
    let key = Key::<R>::of(name);
    let entry = skerry_store::Entry {
        key: key.to_shared(),
        bytes: value.encode_to_vec().into(),
        create_revision: 7,
        mod_revision: 7,
    };
    entry.decode().unwrap()
}

fn head(rollout: &Rollout) -> Versioned<stored::RolloutRecord> {
    versioned(&app(), &rollouts::write("id", rollout))
}

fn moved(number: u64, one: &Move) -> Versioned<stored::RolloutMoveRecord> {
    let clusters = one.clusters.iter().map(ToString::to_string).collect();
    let value = stored::RolloutMoveRecord { revision: one.revision.to_string(), clusters };
    versioned(&RolloutMoveName { app: app(), number }, &value)
}

fn rollout() -> Rollout {
    begin(None, revision(1), revision(2), SystemTime::UNIX_EPOCH + Duration::from_secs(5))
}

proptest! {
    #[test]
    fn what_each_cluster_has_does_not_depend_on_the_order_in_which_it_is_seen(
        moves in proptest::collection::vec((0_u8..3, proptest::collection::vec(0_u8..6, 1..4)), 0..8),
        first in 1_u64..5,
        order in any::<proptest::sample::Index>(),
        backwards in any::<bool>(),
    ) {
        let moves: Vec<(u64, Move)> = moves
            .into_iter()
            .map(|(to, names)| Move { revision: revision(to), clusters: names.into_iter().map(cluster).collect() })
            .zip(1_u64..)
            .map(|(one, number)| (number, one))
            .collect();
        let last_move = moves.len() as u64;
        let rollout = Rollout { first_move: first, last_move, ..rollout() };
        let mut expected = BTreeMap::new();
        for (_, one) in moves.iter().filter(|(number, _)| *number >= first) {
            expected.extend(one.clusters.iter().map(|name| (name.clone(), one.revision)));
        }
        let mut seen: Vec<Option<&(u64, Move)>> = moves.iter().map(Some).chain([None]).collect();
        let middle = order.index(seen.len());
        seen.rotate_left(middle);
        if backwards {
            seen.reverse();
        }
        let mut view = AppRollout::default();
        for one in seen {
            match one {
                Some((number, one)) => view.take_move(*number, Some(moved(*number, one))),
                None => view.take_record(Some(head(&rollout))),
            }
        }
        prop_assert_eq!(view.elsewhere().as_ref(), &expected);
        prop_assert!(view.named("id").is_some() && view.named("other").is_none());
        // What is spent changes nothing when it goes.
        for (number, _) in view.spent_moves() {
            view.take_move(number, None);
        }
        prop_assert_eq!(view.elsewhere().as_ref(), &expected);
        prop_assert!(view.named("id").is_some() && view.spent_moves().is_empty());
    }
}

#[test]
fn a_rollout_whose_last_move_is_not_seen_yet_decides_nothing() {
    let mut view = AppRollout::default();
    view.take_record(Some(head(&Rollout { last_move: 1, ..rollout() })));
    assert!(view.named("id").is_none());
    view.take_move(1, Some(moved(1, &Move { revision: revision(2), clusters: vec![cluster(1)] })));
    assert!(view.named("id").is_some());
    view.take_move(1, None);
    view.take_record(None);
    assert!(view.is_bare());
}

#[test]
fn a_record_is_read_as_it_was_written() {
    let now = SystemTime::UNIX_EPOCH + Duration::from_secs(1_000);
    for phase in [Phase::Progressing, Phase::Paused, Phase::RollingBack, Phase::Done, Phase::RolledBack] {
        let rollout = Rollout {
            phase,
            reason: Some(Reason::AfterCanary),
            message: "why".to_owned(),
            healthy: Some(now),
            end: Some(now),
            batch: 3,
            canary_done: true,
            last_move: 9,
            ..rollout()
        };
        assert_eq!(rollouts::read(&rollouts::write("id", &rollout)), Some(rollout));
    }
    assert_eq!(rollouts::read(&stored::RolloutRecord::default()), None);
}

#[test]
fn moves_are_numbered_up_to_the_last_that_the_record_names() {
    let before = head(&rollout());
    let moves = [1, 2].map(|n| Move { revision: revision(2), clusters: vec![cluster(n)] });
    let next = Rollout { last_move: 2, ..rollout() };
    let (_, ops) = writes::goes_on(&app(), &before, &next, &moves).into_parts().unwrap();
    let keys: Vec<String> = ops.iter().map(|op| format!("{op:?}")).collect();
    for (number, name) in [(1, "c1"), (2, "c2")] {
        let key = Key::<stored::RolloutMoveRecord>::of(&RolloutMoveName { app: app(), number });
        let named = keys.iter().find(|text| text.contains(key.as_str())).unwrap();
        assert!(named.contains(name), "{named}");
    }
}
