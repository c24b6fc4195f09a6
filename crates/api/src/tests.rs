//! Laws of lists and watches: what a watcher builds from what it is told is what the hub has.

use std::collections::BTreeMap;
use std::sync::Arc;

use proptest::prelude::*;
use skerry_model::{Code, Selector};
use skerry_proto::registry::v1::Node;
use skerry_proto::types::v1::Metadata;
use skerry_store::{Snapshot, StoreVersion};

use crate::request::page_args;
use crate::{Hub, PageArgs, Told, Watcher};

fn node(name: u8, site: u8) -> (String, Node) {
    let name = format!("projects/p/nodes/n{name:03}");
    let labels = BTreeMap::from([("site".to_owned(), site.to_string())]);
    (
        name.clone(),
        Node { metadata: Some(Metadata { name, labels, ..Default::default() }), ..Default::default() },
    )
}

fn at(revision: i64) -> Snapshot {
    Snapshot::at(StoreVersion { term: 1, revision })
}

/// What all names of the project begin with.
const PREFIX: &str = "projects/p/";

/// Takes in what a watcher is told until it is quiet.
async fn drain(watcher: &mut Watcher<Node>, known: &mut BTreeMap<String, Node>) -> String {
    let mut version = String::new();
    while let Ok(told) = tokio::time::timeout(std::time::Duration::from_millis(1), watcher.next()).await {
        let told = told.unwrap();
        let (item, at) = told.parts();
        version = at;
        let name = item.map(|item| item.metadata.as_ref().unwrap().name.clone());
        match (&told, name) {
            (Told::Added(item, _) | Told::Modified(item, _), Some(name)) => {
                known.insert(name, Node::clone(item));
            }
            (Told::Deleted(..), Some(name)) => {
                assert!(known.remove(&name).is_some(), "a deletion of what was never told");
            }
            _ => {}
        }
    }
    version
}

fn paused() -> tokio::runtime::Runtime {
    tokio::runtime::Builder::new_current_thread().enable_time().start_paused(true).build().unwrap()
}

proptest! {
    #[test]
    fn a_watcher_that_resumes_anywhere_ends_with_what_matches(
        batches in proptest::collection::vec(proptest::collection::vec((0_u8..6, proptest::option::of(0_u8..2)), 0..4), 1..12),
        cuts in proptest::collection::vec(any::<bool>(), 12),
    ) {
        paused().block_on(async {
            let hub: Arc<Hub<Node>> = Arc::default();
            hub.reset(BTreeMap::new(), &at(1));
            let selector = Selector::parse("site=1").unwrap();
            let mut watcher = Watcher::start(Arc::clone(&hub), PREFIX.to_owned(), selector.clone(), "").await.unwrap();
            let mut known = BTreeMap::new();
            let mut version = drain(&mut watcher, &mut known).await;
            for (index, batch) in batches.into_iter().enumerate() {
                let updates = batch.into_iter().map(|(name, site)| (node(name, 0).0, site.map(|site| node(name, site).1)));
                hub.publish(updates, &at(index as i64 + 2));
                if cuts[index] {
                    watcher = Watcher::start(Arc::clone(&hub), PREFIX.to_owned(), selector.clone(), &version).await.unwrap();
                }
                let told = drain(&mut watcher, &mut known).await;
                if !told.is_empty() {
                    version = told;
                }
            }
            let matching: BTreeMap<String, Node> = hub.snapshot().iter()
                .filter(|(_, item)| selector.matches(&item.metadata.as_ref().unwrap().labels))
                .map(|(name, item)| (name.clone(), Node::clone(item))).collect();
            assert_eq!(known, matching);
        });
    }

    #[test]
    fn pages_join_to_the_whole_of_one_version(count in 0_u8..40, size in 1_i32..15) {
        let hub: Hub<Node> = Hub::default();
        hub.reset((0..count).map(|n| node(n, 1)).map(|(name, node)| (name, Arc::new(node))).collect(), &at(1));
        let (mut names, mut token, mut version) = (Vec::new(), String::new(), None);
        loop {
            let args = page_args(size, &token).unwrap();
            let page = hub.list(PREFIX, &Selector::default(), &args, usize::MAX).unwrap();
            assert!(page.items.len() <= usize::try_from(size).unwrap());
            assert_eq!(*version.get_or_insert(page.resource_version.clone()), page.resource_version);
            names.extend(page.items.into_iter().map(|node| node.metadata.unwrap().name));
            // What changes between two pages is not in the listing.
            hub.publish([node(200, 1)].map(|(name, node)| (name, Some(node))), &at(2));
            token = page.next_page_token;
            if token.is_empty() { break; }
        }
        prop_assert_eq!(names, (0..count).map(|n| node(n, 1).0).collect::<Vec<_>>());
    }
}

#[test]
fn a_watcher_that_fell_behind_is_told_to_list_again() {
    paused().block_on(async {
        let hub: Arc<Hub<Node>> = Arc::default();
        hub.reset(BTreeMap::new(), &at(1));
        let version =
            hub.list(PREFIX, &Selector::default(), &page_args(0, "").unwrap(), 1).unwrap().resource_version;
        let mut watcher =
            Watcher::start(Arc::clone(&hub), PREFIX.to_owned(), Selector::default(), &version).await.unwrap();
        for n in 0..10_000_i64 {
            hub.publish([node(1, u8::from(n % 2 == 1))].map(|(name, node)| (name, Some(node))), &at(n + 2));
        }
        assert_eq!(watcher.next().await.unwrap_err().code, Code::OutOfRange);
        let again = Watcher::start(Arc::clone(&hub), PREFIX.to_owned(), Selector::default(), &version).await;
        assert_eq!(again.err().map(|fault| fault.code), Some(Code::OutOfRange));
    });
}

#[test]
fn large_changes_are_kept_and_looked_at_by_their_bytes() {
    const MIB: usize = 1024 * 1024;
    paused().block_on(async {
        let hub: Arc<Hub<Node>> = Arc::default();
        hub.reset(BTreeMap::new(), &at(1));
        let watch =
            async || Watcher::start(Arc::clone(&hub), PREFIX.to_owned(), Selector::default(), "").await;
        let (mut slow, mut quick) = (watch().await.unwrap(), watch().await.unwrap());
        for watcher in [&mut slow, &mut quick] {
            assert!(matches!(watcher.next().await, Ok(Told::Bookmark(_))));
        }
        for n in 0..64 {
            let (name, mut large) = node(1, n);
            let annotations = &mut large.metadata.as_mut().unwrap().annotations;
            annotations.insert("filler".to_owned(), "x".repeat(MIB));
            hub.publish([(name, Some(large))], &at(i64::from(n) + 2));
            assert!(matches!(quick.next().await, Ok(Told::Added(..) | Told::Modified(..))));
        }
        let kept: usize = hub.lock().changes.iter().map(crate::hub::Change::size_bytes).sum();
        assert!((16 * MIB..=32 * MIB).contains(&kept), "{kept} bytes of 64 MiB are kept");
        assert_eq!(slow.next().await.unwrap_err().code, Code::OutOfRange);

        // Smaller than all that is kept: looked at a few at a time.
        let mut later = watch().await.unwrap();
        assert!(matches!(later.next().await, Ok(Told::Added(..))));
        assert!(matches!(later.next().await, Ok(Told::Bookmark(_))));
        for n in 0..20 {
            let (name, mut large) = node(2, n);
            let annotations = &mut large.metadata.as_mut().unwrap().annotations;
            annotations.insert("filler".to_owned(), "x".repeat(MIB));
            hub.publish([(name, Some(large))], &at(i64::from(n) + 100));
        }
        for _ in 0..20 {
            assert!(matches!(later.next().await, Ok(Told::Added(..) | Told::Modified(..))));
            assert!(later.ready_len() <= 1, "{} large changes are held at once", later.ready_len());
        }
    });
}

#[test]
fn another_replica_continues_from_what_was_complete_and_leaves_nothing_out() {
    paused().block_on(async {
        let (here, there): (Arc<Hub<Node>>, Arc<Hub<Node>>) = Default::default();
        for hub in [&here, &there] {
            hub.reset(BTreeMap::new(), &at(1));
            hub.publish([node(1, 1)].map(|(name, node)| (name, Some(node))), &at(5));
        }
        let args = PageArgs { size: 10, after: None };
        let version = here.list(PREFIX, &Selector::default(), &args, 1).unwrap().resource_version;
        there.publish([node(2, 1)].map(|(name, node)| (name, Some(node))), &at(6));
        let mut watcher =
            Watcher::start(there, PREFIX.to_owned(), Selector::default(), &version).await.unwrap();
        let mut known = BTreeMap::new();
        drain(&mut watcher, &mut known).await;
        assert_eq!(known.into_keys().collect::<Vec<_>>(), [node(2, 1).0]);
    });
}
