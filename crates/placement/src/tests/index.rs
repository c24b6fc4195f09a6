//! The index never overlooks: whatever a selector asks for, what matches it is found, however labels came and went.

use super::*;
use crate::index::{Apps, Clusters};
use crate::reach::Reach;

/// Labels of a few keys and values, one of which chooses for a system app.
fn labels() -> impl Strategy<Value = BTreeMap<String, String>> {
    let key = prop_oneof!["a", "b", "c", Just(format!("system.skerry.dev/{}", app_name(0)))];
    proptest::collection::btree_map(key, "[xy]", 0..4)
}

fn specs() -> impl Strategy<Value = AppSpec> {
    let requirement = prop_oneof![
        "[abc]=[xyz]",
        "[abc]!=[xy]",
        "[abc] in \\(x,[yz]\\)",
        "[abc] notin \\(x,y\\)",
        "[abc]",
        "![abc]"
    ];
    (proptest::collection::vec(requirement, 0..3), any::<bool>()).prop_map(|(asked, system)| {
        let spec = app(None, &[copies(1)], None).base.spec;
        let selector = Selector::parse(&asked.join(",")).unwrap();
        AppSpec { selector, system, ..AppSpec::clone(&spec) }
    })
}

proptest! {
    #[test]
    fn what_an_app_goes_to_is_found(
        steps in proptest::collection::vec((0_u8..4, proptest::option::of((labels(), labels()))), 0..12),
        spec in specs(),
    ) {
        let mut index = Clusters::default();
        let mut there = BTreeMap::new();
        for (cluster, labels) in steps {
            let cluster = cluster_name(cluster);
            if let Some((own, member)) = labels {
                index.set(&cluster, &own, [&member].into_iter());
                there.insert(cluster, (own, member));
            } else {
                index.forget(&cluster);
                there.remove(&cluster);
            }
        }
        let wanted = Wanted { spec: Arc::new(spec.clone()), ..app(None, &[copies(1)], None).base };
        let apps = BTreeMap::from([(app_name(0), App::from(wanted))]);
        let found = index.within_reach(&app_name(0), &spec);
        for (cluster, (own, member)) in &there {
            if Reach::of(&app_name(0), &spec, own, [member].into_iter()).is_some() {
                assert!(found.as_ref().is_none_or(|found| found.contains(cluster)), "{cluster} is overlooked");
                assert_eq!(Apps::new(&apps).within_reach(own).len(), 1, "the app is overlooked");
            }
        }
        for cluster in found.into_iter().flatten() {
            assert!(there.contains_key(cluster), "{cluster} is gone");
        }
        // As if it had never been otherwise.
        let mut anew = Clusters::default();
        for (cluster, (own, member)) in &there {
            anew.set(cluster, own, [member].into_iter());
        }
        assert_eq!(index, anew);
    }
}
