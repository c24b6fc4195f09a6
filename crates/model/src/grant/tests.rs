//! The law of grants, held against a model that is written the other way round.

use std::time::Duration;

use proptest::prelude::*;
use proptest::sample::subsequence;

use super::*;

const NAMES: [&str; 2] = ["a", "ab"];

/// What can be named, in two projects with names of which one begins the other.
fn named() -> impl Strategy<Value = (String, Option<(String, String)>)> {
    let part = || (0..NAMES.len()).prop_map(|index| NAMES[index].to_owned());
    let of = (part(), prop_oneof![Just("apps"), Just("nodes")], part());
    of.prop_map(|(project, collection, name)| (project, Some((collection.to_owned(), name))))
}

fn text((project, part): &(String, Option<(String, String)>)) -> String {
    match part {
        Some((collection, name)) => format!("projects/{project}/{collection}/{name}"),
        None => format!("projects/{project}"),
    }
}

fn verbs() -> impl Strategy<Value = Vec<Verb>> {
    subsequence(Verb::ALL.to_vec(), 1..=Verb::ALL.len())
}

fn at(seconds: u64) -> SystemTime {
    SystemTime::UNIX_EPOCH + Duration::from_secs(seconds)
}

fn grant(target: &str, verbs: Vec<Verb>, not_after: u64) -> Grant {
    Grant {
        name: GrantRef::parse("projects/a/grants/g").unwrap(),
        verbs,
        target: GrantTarget::parse(target).unwrap(),
        not_after: at(not_after),
    }
}

proptest! {
    #[test]
    fn a_grant_allows_its_verbs_on_its_target_until_its_time_and_nothing_else(
        target in named(),
        whole in any::<bool>(),
        asked in named(),
        verbs in verbs(),
        verb in 0..Verb::ALL.len(),
        not_after in 0_u64..4,
        now in 0_u64..4,
    ) {
        let verb = Verb::ALL[verb];
        let target = if whole { (target.0, None) } else { target };
        let allows = grant(&text(&target), verbs.clone(), not_after).allows(verb, &text(&asked), at(now));
        let same_place = asked.0 == target.0 && (target.1.is_none() || target.1 == asked.1);
        prop_assert_eq!(allows, same_place && verbs.contains(&verb) && now < not_after);
    }

    #[test]
    fn of_several_the_one_that_lasts_is_taken_and_none_that_does_not_allow_it(
        grants in prop::collection::vec((named(), verbs(), 0_u64..9), 0..6),
        asked in named(),
        verb in 0..Verb::ALL.len(),
        now in 0_u64..9,
    ) {
        let grants: Vec<Grant> =
            grants.into_iter().map(|(target, verbs, until)| grant(&text(&target), verbs, until)).collect();
        let (verb, asked, now) = (Verb::ALL[verb], text(&asked), at(now));
        match Grant::longest(&grants, verb, &asked, now) {
            Some(found) => {
                prop_assert!(found.allows(verb, &asked, now));
                for other in grants.iter().filter(|other| other.allows(verb, &asked, now)) {
                    prop_assert!(other.not_after <= found.not_after);
                }
            }
            None => prop_assert!(!grants.iter().any(|other| other.allows(verb, &asked, now))),
        }
    }

    #[test]
    fn a_target_is_read_as_it_is_shown(target in named(), whole in any::<bool>()) {
        let target = text(&if whole { (target.0, None) } else { target });
        prop_assert_eq!(GrantTarget::parse(&target).unwrap().to_string(), target);
    }
}

#[test]
fn what_is_no_target_is_refused_and_covers_nothing() {
    for wrong in [
        "",
        "a",
        "apps/a",
        "projects/",
        "projects/A",
        "projects/a/apps/",
        "projects/a/secrets/s",
        "projects/a/apps/a/b",
    ] {
        assert!(GrantTarget::parse(wrong).is_err(), "{wrong}");
    }
    let all = grant("projects/a", Verb::ALL.to_vec(), 9);
    assert!(!all.allows(Verb::Exec, "", at(0)) && !all.allows(Verb::Exec, "apps/a", at(0)));
    // A name that no handler takes is in the project all the same: handlers are behind this.
    assert!(all.allows(Verb::Exec, "projects/a/apps/", at(0)));
}

#[test]
fn a_node_has_a_shell_and_a_log_and_an_app_has_all_but_a_shell() {
    let of = |target: &str| {
        let target = GrantTarget::parse(target).unwrap();
        Verb::ALL.into_iter().filter(|verb| verb.is_of(&target)).map(Verb::as_str).collect::<Vec<_>>()
    };
    assert_eq!(of("projects/a/nodes/n"), ["logs", "node-shell"]);
    assert_eq!(of("projects/a/apps/x"), ["logs", "exec", "port-forward", "copy"]);
    assert_eq!(of("projects/a").len(), Verb::ALL.len());
    for verb in Verb::ALL {
        assert_eq!(Verb::parse(verb.as_str()), Some(verb));
    }
    assert_eq!(Verb::parse("shell"), None);
}
