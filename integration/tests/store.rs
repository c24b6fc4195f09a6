//! `skerry-store` against real etcd and against the embedded one, from outside: races, request ids, fencing, paging, mirrors; and, on real
//! etcd, what operators and machines do to it: kill, compaction, restore from backup, a stall past every lease.
#![allow(clippy::disallowed_methods, reason = "a test's tasks end with its runtime")]

use std::collections::BTreeMap;
use std::time::Duration;

use anyhow::{Result, anyhow, bail, ensure};
use skerry_etcd_embedded::{Config, EmbeddedEtcd};
use skerry_model::{ContentHash, NodeRef, ProjectName};
use skerry_proto::store::v1 as pb;
use skerry_store::keys::{LeaderName, RequestId};
use skerry_store::{
    Changes, Key, Lease, LeaseState, Mirror, MirrorConfig, PageRequest, PageToken, Prefix, ReadError,
    RequestError, RequestMark, Store, StoreConfig, StoreVersion, Target, Txn, TxnError, campaign,
};
use skerry_testing::{Etcd, eventually};

/// Long enough for a machine that does much else.
const PATIENCE: Duration = Duration::from_secs(60);

type NodeKey = Key<pb::NodeRecord>;

fn node(name: &str) -> NodeRef {
    NodeRef::parse(&format!("projects/p/nodes/{name}")).expect("a valid node name")
}

fn key(name: &str) -> NodeKey {
    Key::of(&node(name))
}

fn project() -> ProjectName {
    ProjectName::parse("p").expect("a valid project name")
}

fn record(generation: i64) -> pb::NodeRecord {
    pb::NodeRecord { meta: Some(pb::Meta { generation, ..pb::Meta::default() }), ..pb::NodeRecord::default() }
}

fn generation(record: &pb::NodeRecord) -> i64 {
    record.meta.as_ref().map_or(0, |meta| meta.generation)
}

async fn connect(target: &Target) -> Store {
    Store::connect(StoreConfig::new(target.clone())).await.expect("the store answers")
}

/// Everything under the nodes' prefix, by pages.
async fn listed(store: &Store) -> Result<BTreeMap<String, i64>> {
    let prefix = Prefix::<pb::NodeRecord>::all();
    let mut all = BTreeMap::new();
    let mut request = PageRequest::first(100);
    loop {
        let page = store.list(&prefix, &request).await?;
        all.extend(page.items.iter().map(|item| (item.key.to_string(), item.mod_revision)));
        match page.next {
            Some(token) => request = PageRequest::after(100, token),
            None => return Ok(all),
        }
    }
}

fn mirrored(mirror: &Mirror) -> BTreeMap<String, i64> {
    let snapshot = mirror.snapshot();
    let prefix = Prefix::<pb::NodeRecord>::all();
    snapshot.entries(&prefix).map(|entry| (entry.key.to_string(), entry.mod_revision)).collect()
}

async fn becomes_the_store(mirror: &Mirror, store: &Store) {
    eventually("the mirror is the store", PATIENCE, || async {
        let (ours, theirs) = (mirrored(mirror), listed(store).await?);
        ensure!(mirror.is_live(), "it does not follow the store");
        ensure!(ours == theirs, "{} entries, the store has {}", ours.len(), theirs.len());
        Ok(())
    })
    .await;
}

async fn nodes_mirror(store: &Store) -> Mirror {
    let mirror = Mirror::start(store, MirrorConfig::new().family::<pb::NodeRecord>());
    mirror.ready().await.expect("the mirror has a first snapshot");
    mirror
}

/// What holds on every store.
mod laws {
    use super::*;

    pub(super) async fn of_a_race_each_write_counts(target: &Target) -> Result<()> {
        let first = connect(target).await;
        first.commit(Txn::new().when_absent(&key("race")).put(&key("race"), &record(0))).await?;
        let mut tasks = tokio::task::JoinSet::new();
        for _ in 0..4 {
            let store = connect(target).await;
            tasks.spawn(async move {
                for _ in 0..15 {
                    loop {
                        let read = store.get(&key("race")).await?.ok_or_else(|| anyhow!("it is there"))?;
                        let next = record(generation(&read.value) + 1);
                        match store.commit(Txn::new().when_same(&read).put(&read.key, &next)).await {
                            Ok(_) => break,
                            Err(TxnError::Conflict(conflict)) => {
                                let found = conflict
                                    .found(&read.key)?
                                    .ok_or_else(|| anyhow!("it was not deleted"))?;
                                ensure!(
                                    found.mod_revision > read.mod_revision,
                                    "the conflict shows what was written meanwhile"
                                );
                            }
                            Err(error) => return Err(error.into()),
                        }
                    }
                }
                Ok(())
            });
        }
        while let Some(done) = tasks.join_next().await {
            done??;
        }
        let read = first.get(&key("race")).await?.ok_or_else(|| anyhow!("it is there"))?;
        ensure!(generation(&read.value) == 60, "60 increments made {}", generation(&read.value));
        Ok(())
    }

    pub(super) async fn a_request_acts_once(target: &Target) -> Result<()> {
        let store = connect(target).await;
        let mark = RequestMark {
            project: project(),
            id: RequestId::parse("5c3a1f60-0001")?,
            method: "/skerry.registry.v1.NodeService/UpdateNode".to_owned(),
            hash: ContentHash::of(b"the request"),
            resource: "projects/p/nodes/once".to_owned(),
        };
        let txn = |mark: &RequestMark| {
            Txn::new().when_absent(&key("once")).put(&key("once"), &record(1)).request(mark.clone())
        };
        ensure!(store.find_request(&mark).await?.is_none(), "nothing is remembered yet");
        store.commit(txn(&mark)).await?;
        // Its own effect is in the way, and still the answer is the first one's.
        let again = connect(target).await.commit(txn(&mark)).await;
        ensure!(
            matches!(&again, Err(TxnError::Repeated { resource }) if *resource == mark.resource),
            "{again:?}"
        );
        ensure!(store.find_request(&mark).await?.as_ref() == Some(&mark.resource), "it is remembered");
        let other = RequestMark { hash: ContentHash::of(b"another request"), ..mark };
        let reused = store.commit(txn(&other)).await;
        ensure!(matches!(reused, Err(TxnError::RequestIdReused { .. })), "{reused:?}");
        ensure!(
            matches!(store.find_request(&other).await, Err(RequestError::Reused { .. })),
            "another request is told apart"
        );
        Ok(())
    }

    pub(super) async fn a_deposed_leader_writes_nothing(target: &Target) -> Result<()> {
        let (one, two) = (connect(target).await, connect(target).await);
        let name = LeaderName::parse("scheduler")?;
        let lease = Lease::keep(&one, Duration::from_secs(5));
        let leads = campaign(&one, &name, &lease).await?;
        one.commit(Txn::new().fenced(&leads).put(&key("led"), &record(1))).await?;

        let waiting = tokio::spawn({
            let (two, name) = (two.clone(), name.clone());
            async move {
                let lease = Lease::keep(&two, Duration::from_secs(5));
                let leads = campaign(&two, &name, &lease).await;
                (leads, lease)
            }
        });
        tokio::time::sleep(Duration::from_millis(300)).await;
        ensure!(!waiting.is_finished(), "one leads at a time");
        lease.revoke().await?;
        let (successor, _kept) = tokio::time::timeout(PATIENCE, waiting).await??;
        let successor = successor?;
        tokio::time::timeout(PATIENCE, leads.lost()).await?;

        let late = one.commit(Txn::new().fenced(&leads).put(&key("led"), &record(2))).await;
        ensure!(matches!(late, Err(TxnError::Deposed { .. })), "{late:?}");
        let late = one
            .commit_all(
                vec![Txn::new().put(&key("led"), &record(3)), Txn::new().delete(&key("led"))],
                Some(&leads),
            )
            .await;
        ensure!(late.iter().all(|result| matches!(result, Err(TxnError::Deposed { .. }))), "{late:?}");
        two.commit(Txn::new().fenced(&successor).put(&key("led"), &record(4))).await?;
        let read = two.get(&key("led")).await?.ok_or_else(|| anyhow!("it is there"))?;
        ensure!(generation(&read.value) == 4, "only leaders wrote");

        // Resigned, another one leads at once and not after a lease.
        let third = tokio::spawn({
            let one = one.clone();
            async move {
                let lease = Lease::keep(&one, Duration::from_secs(60));
                campaign(&one, &name, &lease).await.map(|leads| (leads, lease))
            }
        });
        successor.resign().await?;
        tokio::time::timeout(Duration::from_secs(20), third).await???;
        Ok(())
    }

    pub(super) async fn pages_show_one_revision(target: &Target) -> Result<()> {
        let store = connect(target).await;
        let before = store.count(&Prefix::<pb::NodeRecord>::project(&project())).await?;
        let txns = (0..250).map(|n| Txn::new().put(&key(&format!("page-{n:03}")), &record(n))).collect();
        for result in store.commit_all(txns, None).await {
            result?;
        }
        let prefix = Prefix::<pb::NodeRecord>::project(&project());
        ensure!(store.count(&prefix).await? == before + 250, "all are counted");

        let first = store.list(&prefix, &PageRequest::first(100)).await?;
        store.commit(Txn::new().delete(&key("page-249")).put(&key("page-250"), &record(0))).await?;
        let mut items = first.items.clone();
        let mut next = first.next.clone();
        while let Some(token) = next {
            let token = PageToken::parse(&token.to_string())?;
            let page = store.list(&prefix, &PageRequest::after(100, token)).await?;
            ensure!(page.revision == first.revision, "all pages are of one revision");
            items.extend(page.items);
            next = page.next;
        }
        let names: Vec<String> = items.iter().map(|item| item.key.name().node.to_string()).collect();
        ensure!(
            names.is_sorted() && names.iter().any(|name| name == "page-249"),
            "what was deleted later is still there"
        );
        ensure!(!names.iter().any(|name| name == "page-250"), "what was created later is not");

        let foreign =
            PageRequest::after(10, first.next.clone().ok_or_else(|| anyhow!("there is a next page"))?);
        let foreign = store.list(&Prefix::<pb::AppRecord>::all(), &foreign).await;
        ensure!(matches!(foreign, Err(ReadError::ForeignToken { .. })), "{foreign:?}");

        let keys = [key("page-000"), key("page-249"), key("page-250")];
        let many = store.get_many(&keys).await?;
        let found: Vec<bool> = many.iter().map(Option::is_some).collect();
        ensure!(found == [true, false, true], "{found:?}");
        store.commit(Txn::new().delete_prefix(&prefix)).await?;
        ensure!(store.count(&prefix).await? == 0, "a prefix is deleted as one");
        Ok(())
    }

    pub(super) async fn one_of_a_batch_that_fails_does_not_hold_up_the_others(target: &Target) -> Result<()> {
        let store = connect(target).await;
        store
            .commit(Txn::new().put(&key("batch-007"), &record(7)).put(&key("batch-130"), &record(7)))
            .await?;
        let txns = (0..150)
            .map(|n| key(&format!("batch-{n:03}")))
            .map(|key| Txn::new().when_absent(&key).put(&key, &record(1)));
        let results = store.commit_all(txns.collect(), None).await;
        let failed: Vec<usize> = (0..150).filter(|n| results[*n].is_err()).collect();
        ensure!(failed == [7, 130], "{failed:?}");
        let Err(TxnError::Conflict(conflict)) = &results[7] else { bail!("{:?}", results[7]) };
        let found = conflict.found(&key("batch-007"))?.ok_or_else(|| anyhow!("it is there"))?;
        ensure!(generation(&found.value) == 7, "the conflict shows what is there");
        Ok(())
    }

    pub(super) async fn a_mirror_shows_own_writes_and_tells_what_changed(target: &Target) -> Result<()> {
        let store = connect(target).await;
        let config = MirrorConfig::new().family::<pb::NodeRecord>().keys_only::<pb::AssignmentRecord>();
        let mirror = Mirror::start(&store, config);
        mirror.ready().await?;
        let delta = mirror.changes(None);
        ensure!(
            delta.changes == Changes::Resync && delta.snapshot.term() == store.term(),
            "a consumer begins from the snapshot"
        );

        let assignment = Key::<pb::AssignmentRecord>::of(&node("m1"));
        let instance =
            pb::AssignedInstance { instance: "a/b/m1/0".to_owned(), ..pb::AssignedInstance::default() };
        let assigned = pb::AssignmentRecord { instances: vec![instance], ..Default::default() };
        let mut wake = mirror.subscribe();
        let made = store.commit(Txn::new().put(&key("m1"), &record(1)).put(&assignment, &assigned)).await?;
        let snapshot = mirror.wait_for(&made).await?;
        ensure!(tokio::time::timeout(PATIENCE, wake.changed()).await?, "a change wakes");
        let read = snapshot.get(&key("m1"))?.ok_or_else(|| anyhow!("my own write is there"))?;
        ensure!(generation(&read.value) == 1 && read.mod_revision == made.revision, "as it was written");
        let bare = snapshot.entry(&assignment).ok_or_else(|| anyhow!("the key is there"))?;
        ensure!(bare.bytes.is_empty() && bare.mod_revision == made.revision, "its value is not kept");

        let version = snapshot.version();
        for n in 2..40 {
            store.commit(Txn::new().put(&key("m1"), &record(n))).await?;
        }
        let gone = store.commit(Txn::new().delete(&key("m1"))).await?;
        let snapshot = mirror.wait_for(&gone).await?;
        ensure!(snapshot.get(&key("m1"))?.is_none(), "and so is the deletion");
        let cursor = mirror.cursor_after(version).ok_or_else(|| anyhow!("the version is known"))?;
        let Changes::Since(changes) = mirror.changes(Some(cursor)).changes else {
            bail!("the changes are known")
        };
        let changes: Vec<_> = changes.iter().filter(|change| change.key() == key("m1").as_str()).collect();
        ensure!(changes.len() == 39 && changes[38].new.is_none(), "{} changes", changes.len());
        ensure!(
            changes.windows(2).all(|pair| pair[0].new == pair[1].old),
            "each begins where the one before ended"
        );
        ensure!(
            mirror.cursor_after(StoreVersion { term: version.term + 1, revision: 1 }).is_none(),
            "another term is unknown"
        );
        becomes_the_store(&mirror, &store).await;
        Ok(())
    }

    pub(super) async fn a_newer_version_in_an_agent_s_hands_raises_the_term(target: &Target) -> Result<()> {
        let (one, two) = (connect(target).await, connect(target).await);
        let mut raised = two.watch_term();
        let mirror = nodes_mirror(&two).await;
        let now = one.version().await?;
        ensure!(one.raise_term(now).await? == now.term, "a version of now changes nothing");
        let term = one.raise_term(StoreVersion { term: now.term, revision: now.revision + 1000 }).await?;
        ensure!(term == now.term + 1, "a version from the future raises the term");
        ensure!(
            one.raise_term(StoreVersion { term: u64::MAX, revision: 1 }).await.is_err(),
            "a lie is refused"
        );
        ensure!(
            tokio::time::timeout(PATIENCE, raised.raised()).await? == Some(term),
            "other processes learn of it"
        );
        eventually("the mirror is of the new term", PATIENCE, || async {
            let of = mirror.snapshot().term();
            ensure!(of == term, "term {of}");
            Ok(())
        })
        .await;
        Ok(())
    }

    pub(super) async fn all(target: &Target) -> Result<()> {
        of_a_race_each_write_counts(target).await?;
        a_request_acts_once(target).await?;
        a_deposed_leader_writes_nothing(target).await?;
        pages_show_one_revision(target).await?;
        one_of_a_batch_that_fails_does_not_hold_up_the_others(target).await?;
        a_mirror_shows_own_writes_and_tells_what_changed(target).await?;
        a_newer_version_in_an_agent_s_hands_raises_the_term(target).await
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_laws_hold_on_real_etcd() -> Result<()> {
    let etcd = Etcd::start().await?;
    laws::all(&Target::parse(&etcd.endpoint())?).await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_laws_hold_on_the_embedded_etcd() -> Result<()> {
    let dir = tempfile::tempdir()?;
    let etcd = EmbeddedEtcd::open(Config::new(dir.path())).await?;
    let laws = laws::all(&Target::Channel(etcd.serve_in_process().await?)).await;
    etcd.close().await;
    laws
}

async fn put(store: &Store, name: &str, generation: i64) {
    eventually("a write succeeds", PATIENCE, || async {
        store.commit(Txn::new().put(&key(name), &record(generation))).await
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_mirror_survives_kill_and_compaction() -> Result<()> {
    let mut etcd = Etcd::start().await?;
    let target = Target::parse(&etcd.endpoint())?;
    let store = connect(&target).await;
    let mirror = nodes_mirror(&store).await;
    for n in 0..20 {
        put(&store, &format!("n{n}"), 1).await;
    }
    becomes_the_store(&mirror, &store).await;
    let (term, seen) = (store.term(), mirror.changes(None).cursor);

    // What happens while the mirror is away, and is compacted before it is back.
    etcd.kill()?;
    eventually("the mirror notices", PATIENCE, || async {
        if mirror.is_live() { Err("it is live") } else { Ok(()) }
    })
    .await;
    ensure!(mirrored(&mirror).len() == 20, "it still serves what it last knew");
    etcd.restart().await?;
    etcd.ctl(&["del", key("n3").as_str()])?;
    put(&store, "n4", 2).await;
    put(&store, "new", 1).await;
    let now = store.version().await?;
    ensure!(now.term == term, "a restart is no restore");
    etcd.ctl(&["compaction", &now.revision.to_string()])?;
    put(&store, "n5", 3).await;

    becomes_the_store(&mirror, &store).await;
    ensure!(mirror.snapshot().term() == term, "nor is a compaction");
    let Changes::Since(changes) = mirror.changes(Some(seen)).changes else {
        bail!("deltas go on over a listing")
    };
    let deleted: Vec<_> =
        changes.iter().filter(|change| change.new.is_none()).map(|change| change.key().to_owned()).collect();
    ensure!(
        deleted == [key("n3").to_string()],
        "what was deleted in the gap comes out of the difference: {deleted:?}"
    );

    let page = store.list(&Prefix::<pb::NodeRecord>::all(), &PageRequest::first(5)).await?;
    put(&store, "n6", 2).await;
    let now = store.version().await?;
    etcd.ctl(&["compaction", &now.revision.to_string()])?;
    let next = PageRequest::after(5, page.next.ok_or_else(|| anyhow!("there is a next page"))?);
    let gone = store.list(&Prefix::<pb::NodeRecord>::all(), &next).await;
    ensure!(matches!(gone, Err(ReadError::RevisionGone { .. })), "{gone:?}");
    Ok(())
}

/// The restored store has the same cluster id, since it has the same name and addresses. `writes` more make its revision pass the one that
/// was seen before.
async fn restored(writes: i64) -> Result<()> {
    let mut etcd = Etcd::start().await?;
    let target = Target::parse(&etcd.endpoint())?;
    let store = connect(&target).await;
    let mirror = nodes_mirror(&store).await;
    put(&store, "kept", 1).await;
    let dir = tempfile::tempdir()?;
    let backup = dir.path().join("backup");
    etcd.snapshot(&backup)?;
    for n in 0..10 {
        put(&store, "kept", 2 + n).await;
    }
    put(&store, "lost", 1).await;
    becomes_the_store(&mirror, &store).await;
    let before = mirror.snapshot().version();
    let cursor = mirror.changes(None).cursor;

    etcd.restore(&backup).await?;
    for n in 0..writes {
        // Not through our store: nobody who knows the old one sees the revision fall.
        etcd.ctl(&["put", key("kept").as_str(), ""])?;
        ensure!(n < 100, "few suffice");
    }
    becomes_the_store(&mirror, &store).await;
    let after = mirror.snapshot();
    ensure!(after.term() > before.term, "a restore raises the term: {} after {before}", after.version());
    ensure!(
        after.entry(&key("lost")).is_none() && after.entry(&key("kept")).is_some(),
        "the mirror is the restored store"
    );
    ensure!(mirror.changes(Some(cursor)).changes == Changes::Resync, "deltas do not reach over a restore");
    eventually("the process knows the term", PATIENCE, || async {
        ensure!(store.term() == after.term(), "term {}", store.term());
        Ok(())
    })
    .await;
    // Writes go on, request ids included although their lease is gone.
    let mark = RequestMark {
        project: project(),
        id: RequestId::parse("after")?,
        method: "m".to_owned(),
        hash: ContentHash::of(b""),
        resource: "r".to_owned(),
    };
    store.commit(Txn::new().put(&key("kept"), &record(99)).request(mark)).await?;
    becomes_the_store(&mirror, &store).await;
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_restore_of_an_older_snapshot_raises_the_term() -> Result<()> {
    restored(0).await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_restored_store_that_has_caught_up_is_told_apart() -> Result<()> {
    restored(40).await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_stall_past_the_lease_loses_leadership_and_it_is_won_again() -> Result<()> {
    let mut etcd = Etcd::start().await?;
    let store = connect(&Target::parse(&etcd.endpoint())?).await;
    let mirror = nodes_mirror(&store).await;
    let lease = Lease::keep(&store, Duration::from_secs(3));
    let name = LeaderName::parse("scheduler")?;
    let leads = campaign(&store, &name, &lease).await?;
    put(&store, "n1", 1).await;

    etcd.pause()?;
    let mut state = lease.state();
    tokio::time::timeout(Duration::from_secs(10), state.wait_for(|state| *state == LeaseState::Lost))
        .await??;
    tokio::time::timeout(PATIENCE, leads.lost()).await?;
    let stalled = store.commit(Txn::new().put(&key("n1"), &record(2))).await;
    let Err(error) = stalled else { bail!("a stalled store answers nothing") };
    ensure!(matches!(error, TxnError::Indeterminate { .. } | TxnError::Unavailable { .. }), "{error:?}");
    etcd.resume()?;

    ensure!(tokio::time::timeout(PATIENCE, lease.alive()).await?.is_some(), "a lease is granted again");
    let again = tokio::time::timeout(PATIENCE, campaign(&store, &name, &lease)).await??;
    let late = store.commit(Txn::new().fenced(&leads).put(&key("n1"), &record(3))).await;
    ensure!(matches!(late, Err(TxnError::Deposed { .. })), "{late:?}");
    store.commit(Txn::new().fenced(&again).put(&key("n1"), &record(4))).await?;
    ensure!(store.term() == 1, "a stall is no restore");
    becomes_the_store(&mirror, &store).await;
    Ok(())
}
