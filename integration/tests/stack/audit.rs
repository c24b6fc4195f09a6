//! The audit log from outside: one record for each change and none for what was refused, whatever is killed; chains that whoever reads them can
//! verify, and that tell what was done to them.

mod changes;
mod follow;
mod refused;

use std::collections::{BTreeMap, BTreeSet};
use std::process::Output;
use std::time::{Duration, SystemTime};

use anyhow::{Context as _, Result, ensure};
use prost::Message as _;
use skerry_integration::stack::PATIENCE;
use skerry_integration::{Stack, StackConfig};
use skerry_model::audit::{ChainCheck, Checked, Finding, Restored, Wrong, compare};
use skerry_model::{ConfigRef, GroupRef, NodeRef, ProjectName};
use skerry_proto::registry::v1::group_service_client::GroupServiceClient;
use skerry_proto::registry::v1::{AuditChain, AuditRecord, CreateGroupRequest, Group, GroupSpec};
use skerry_proto::scheduler::v1::config_service_client::ConfigServiceClient;
use skerry_proto::scheduler::v1::{Config, ConfigSpec, CreateConfigRequest};
use skerry_proto::store::v1 as stored;
use skerry_proto::types::v1::{AuditCaller, AuditEntry, AuditOutcome, Metadata};
use skerry_store::keys::{AuditName, ChainId};
use skerry_store::{Act, AuditKeep, Key, Store, StoreConfig, Target, Txn, TxnError};
use skerry_testing::{Etcd, eventually};
use tokio::task::JoinSet;
use tonic::transport::Channel;
use tonic::{Code, Status};

use crate::operator::{said, skerry};

/// Changes of one caller in the stress.
const CHANGES: usize = 40;
/// Callers at once: more than a process has chains.
const CALLERS: usize = 12;

async fn connect(etcd: &Etcd, writer: Option<&'static str>) -> Result<Store> {
    let config = StoreConfig::new(Target::parse(&etcd.endpoint())?);
    Ok(Store::connect(StoreConfig { writer, ..config }).await?)
}

fn node_key(name: &str) -> Result<Key<stored::NodeRecord>> {
    Ok(Key::of(&NodeRef::parse(&format!("projects/p/nodes/{name}"))?))
}

fn act(name: &str) -> Act {
    let project = ProjectName::parse("p").expect("a name");
    let caller = AuditCaller { name: "test".into(), ..AuditCaller::default() };
    Act::new(caller, "Test/Change", project, format!("projects/p/nodes/{name}"), AuditOutcome::Created)
}

fn record(number: usize) -> stored::NodeRecord {
    let generation = i64::try_from(number).unwrap_or_default();
    let meta = stored::Meta { generation, ..stored::Meta::default() };
    stored::NodeRecord { meta: Some(meta), ..stored::NodeRecord::default() }
}

/// All chains of a store as they are, held against their hashes and each other.
pub(crate) async fn verified(store: &Store) -> Result<(Vec<Checked>, Vec<AuditEntry>)> {
    let (whole, entries) = whole_chains(store).await?;
    let findings = compare(&whole, Restored::No);
    ensure!(findings.is_empty(), "{findings:?}");
    Ok((whole, entries))
}

/// The chains, each whole in itself.
async fn whole_chains(store: &Store) -> Result<(Vec<Checked>, Vec<AuditEntry>)> {
    let (mut whole, mut entries) = (Vec::new(), Vec::new());
    for head in store.audit_heads(1000).await? {
        let stored::AuditHead { sequence, hash, removed_sequence, removed_hash, last_time } = head.value;
        let name = head.key.name();
        let chain =
            AuditChain { name: name.to_string(), sequence, hash, removed_sequence, removed_hash, last_time };
        let mut check = ChainCheck::new(&chain).map_err(|finding| anyhow::anyhow!("{finding}"))?;
        for sequence in removed_sequence + 1..=sequence {
            let key = Key::<stored::AuditRecord>::of(&AuditName { chain: name.clone(), sequence });
            let stored::AuditRecord { entry, previous_hash, hash } =
                store.get(&key).await?.with_context(|| format!("{key} is missing"))?.value;
            entries.push(AuditEntry::decode(entry.clone())?);
            let record =
                AuditRecord { chain: name.to_string(), sequence, entry, previous_hash, hash, content: None };
            check.take(&record).map_err(|finding| anyhow::anyhow!("{finding}"))?;
        }
        whole.push(check.finish(&chain).map_err(|finding| anyhow::anyhow!("{finding}"))?);
    }
    Ok((whole, entries))
}

#[tokio::test]
async fn what_happens_has_one_record_and_what_does_not_has_none_whoever_writes_at_once() -> Result<()> {
    let etcd = Etcd::start().await?;
    let stores = [connect(&etcd, Some("one")).await?, connect(&etcd, Some("two")).await?];
    let mut callers = JoinSet::new();
    for caller in 0..CALLERS {
        let store = stores[caller % stores.len()].clone();
        callers.spawn(async move {
            let mut won = Vec::new();
            for number in 0..CHANGES {
                // Each name is wanted by two callers: one of them gets it.
                let name = format!("n{}-{number}", caller / 2);
                let key = node_key(&name)?;
                let txn = Txn::new().when_absent(&key).put(&key, &record(number)).audit(act(&name));
                match store.commit(txn).await {
                    Ok(_) => won.push(format!("projects/p/nodes/{name}")),
                    Err(error) => {
                        let conflict = error.conflict().context("a conflict")?;
                        ensure!(conflict.failed(&key), "a conflict of the caller's own compare");
                        ensure!(conflict.keys().count() == 1, "and of nothing else");
                    }
                }
            }
            anyhow::Ok(won)
        });
    }
    let mut won = Vec::new();
    while let Some(done) = callers.join_next().await {
        won.extend(done??);
    }
    assert_eq!(won.len(), CALLERS / 2 * CHANGES);
    let (chains, entries) = verified(&stores[0]).await?;
    ensure!(chains.len() > 2, "changes at once are in several chains of each process: {}", chains.len());
    let mut told: Vec<_> = entries.into_iter().map(|entry| entry.resource).collect();
    told.sort();
    won.sort();
    assert_eq!(told, won);
    for store in &stores {
        store.close().await;
    }
    Ok(())
}

#[tokio::test]
async fn a_change_without_a_record_is_refused_to_who_is_known_to_the_log() -> Result<()> {
    let etcd = Etcd::start().await?;
    let store = connect(&etcd, Some("registry")).await?;
    let key = node_key("n")?;
    let bare = || Txn::new().put(&key, &record(1));
    ensure!(matches!(store.commit(bare()).await, Err(TxnError::Unaudited { .. })));
    let many = store.commit_all(vec![bare(), bare().audit(act("n"))], None).await;
    ensure!(matches!(many[0], Err(TxnError::Unaudited { .. })), "{:?}", many[0]);
    ensure!(many[1].is_ok(), "{:?}", many[1]);
    assert_eq!(verified(&store).await?.1.len(), 1);
    // What follows by itself has none.
    let session = Key::<stored::SessionRecord>::of(&NodeRef::parse("projects/p/nodes/n")?);
    store.commit(Txn::new().put(&session, &stored::SessionRecord::default())).await?;
    store.close().await;
    Ok(())
}

#[tokio::test]
async fn many_changes_in_one_batch_have_a_record_each() -> Result<()> {
    let etcd = Etcd::start().await?;
    let store = connect(&etcd, Some("scheduler")).await?;
    let taken = node_key("n7")?;
    store.commit(Txn::new().put(&taken, &record(0)).audit(act("n7"))).await?;
    let mut txns = Vec::new();
    for number in 0..130 {
        let name = format!("n{number}");
        let key = node_key(&name)?;
        txns.push(Txn::new().when_absent(&key).put(&key, &record(number)).audit(act(&name)));
    }
    let done = store.commit_all(txns, None).await;
    assert_eq!(done.iter().filter(|done| done.is_ok()).count(), 129);
    let (_, entries) = verified(&store).await?;
    let told: BTreeSet<_> = entries.iter().map(|entry| entry.resource.clone()).collect();
    assert_eq!((entries.len(), told.len()), (130, 130));
    store.close().await;
    Ok(())
}

#[tokio::test]
async fn removal_by_number_and_age_leaves_a_chain_whole_and_its_writer_goes_on() -> Result<()> {
    let etcd = Etcd::start().await?;
    let store = connect(&etcd, Some("registry")).await?;
    let other = connect(&etcd, Some("other")).await?;
    for number in 0..250 {
        let name = format!("n{number}");
        store.commit(Txn::new().put(&node_key(&name)?, &record(number)).audit(act(&name))).await?;
    }
    let keep = AuditKeep { age_max: Duration::from_secs(3600), records_max: 30 };
    let now = SystemTime::now();
    assert_eq!(other.trim_audit(keep, now).await?, 220);
    assert_eq!(other.trim_audit(keep, now).await?, 0);
    store.commit(Txn::new().put(&node_key("more")?, &record(1)).audit(act("more"))).await?;
    let (chains, entries) = verified(&store).await?;
    assert_eq!((chains.len(), chains[0].removed, chains[0].sequence(), entries.len()), (1, 220, 251, 31));
    // By a clock that stands in 2099 nothing is old: it is none to go by.
    let of_2099 = now + Duration::from_secs(73 * 365 * 24 * 3600);
    assert_eq!(other.trim_audit(AuditKeep { records_max: 100, ..keep }, of_2099).await?, 0);
    // Two hours on all are too old, and after three ages the head of what is empty goes too.
    assert_eq!(other.trim_audit(keep, now + Duration::from_secs(7000)).await?, 31);
    let (chains, _) = verified(&store).await?;
    assert_eq!((chains.len(), chains[0].removed, chains[0].records()), (1, 251, 0));
    assert_eq!(other.trim_audit(keep, now + Duration::from_secs(10_000)).await?, 0);
    ensure!(verified(&store).await?.0.len() == 1, "the head stays three ages");
    assert_eq!(other.trim_audit(keep, now + Duration::from_secs(12_000)).await?, 0);
    ensure!(whole_chains(&store).await?.0.is_empty(), "the head is gone");
    // Who wrote there begins anew, and says after what.
    store.commit(Txn::new().put(&node_key("again")?, &record(1)).audit(act("again"))).await?;
    let (chains, _) = whole_chains(&store).await?;
    let former = chains[0].start.as_ref().and_then(|start| start.former.clone()).context("a former chain")?;
    assert_eq!(former.sequence, 251);
    store.close().await;
    other.close().await;
    Ok(())
}

#[tokio::test]
async fn a_head_that_is_older_than_its_writer_knows_begins_a_new_chain_that_says_so() -> Result<()> {
    let etcd = Etcd::start().await?;
    let store = connect(&etcd, Some("registry")).await?;
    let put = |number: usize| {
        let name = format!("n{number}");
        anyhow::Ok(Txn::new().put(&node_key(&name)?, &record(number)).audit(act(&name)))
    };
    store.commit(put(0)?).await?;
    let old = store.audit_heads(10).await?.remove(0);
    store.commit(put(1)?).await?;
    // As a restore leaves it: the head of before, and no record behind it.
    let chain: ChainId = old.key.name();
    let second = Key::<stored::AuditRecord>::of(&AuditName { chain: chain.clone(), sequence: 2 });
    store.commit(Txn::new().put(&old.key, &old.value).delete(&second)).await?;
    store.commit(put(2)?).await?;
    let (chains, entries) = whole_chains(&store).await?;
    assert_eq!((chains.len(), entries.len()), (2, 2));
    assert_eq!(compare(&chains, Restored::Yes), []);
    let found = compare(&chains, Restored::No);
    ensure!(matches!(&found[..], [Finding { sequence: 2, wrong: Wrong::CutShort { .. }, .. }]), "{found:?}");
    let former = chains.iter().find_map(|chain| chain.start.as_ref()?.former.clone());
    let former = former.context("one chain follows another")?;
    assert_eq!((former.chain, former.sequence), (chain.to_string(), 2));
    store.close().await;
    Ok(())
}

/// How a caller of the stress makes things.
#[derive(Clone)]
enum Maker {
    Configs(ConfigServiceClient<Channel>),
    Groups(GroupServiceClient<Channel>),
}

impl Maker {
    async fn make(&self, name: &str) -> Result<(), Status> {
        let metadata = Some(Metadata { name: name.to_owned(), ..Metadata::default() });
        let (parent, request_id) = ("projects/default".to_owned(), name.to_owned());
        match self.clone() {
            Self::Configs(mut configs) => {
                let data = [("k".to_owned(), name.to_owned())].into();
                let spec = Some(ConfigSpec { data, ..ConfigSpec::default() });
                let config = Some(Config { metadata, spec });
                let request = CreateConfigRequest { parent, config, request_id, validate_only: false };
                configs.create_config(request).await.map(drop)
            }
            Self::Groups(mut groups) => {
                let group = Some(Group { metadata, spec: Some(GroupSpec::default()) });
                let request = CreateGroupRequest { parent, group, request_id, validate_only: false };
                groups.create_group(request).await.map(drop)
            }
        }
    }
}

/// Whether what a caller of the stress wanted is there: configs and groups have names of their own.
async fn is_there(store: &Store, name: &str) -> Result<bool> {
    let config =
        Key::<stored::ConfigRecord>::of(&ConfigRef::parse(&format!("projects/default/configs/{name}"))?);
    let group = Key::<stored::GroupRecord>::of(&GroupRef::parse(&format!("projects/default/groups/{name}"))?);
    Ok(store.get(&config).await?.is_some() || store.get(&group).await?.is_some())
}

#[tokio::test]
async fn each_change_that_was_answered_has_its_record_though_a_registry_and_a_scheduler_are_killed()
-> Result<()> {
    let config = StackConfig { registries: 2, schedulers: 2, ..StackConfig::default() };
    let mut stack = Stack::start_with(config).await?;
    let mut callers = JoinSet::new();
    for caller in 0..CALLERS {
        // Each name is wanted by two callers, of two processes.
        let pair = caller / 2;
        let service = if pair % 2 == 0 { "scheduler" } else { "registry" };
        let address = format!("http://{}", stack.address(&format!("{service}-{}", caller % 2)));
        let channel = skerry_rpc::connect(&address, None).await?;
        let maker = match service {
            "scheduler" => Maker::Configs(ConfigServiceClient::new(channel)),
            _ => Maker::Groups(GroupServiceClient::new(channel)),
        };
        callers.spawn(async move {
            let (mut done, mut lost) = (Vec::new(), 0);
            for number in 0..CHANGES {
                let name = format!("of-{pair}-{number}");
                match maker.make(&name).await {
                    Ok(()) => done.push(name),
                    Err(status) if status.code() == Code::AlreadyExists => {}
                    // Killed: it may have happened or not.
                    Err(_) => lost += 1,
                }
            }
            (done, lost)
        });
    }
    eventually("some changes were made", PATIENCE, || async {
        let store = connect(&stack.etcd, None).await?;
        let heads = store.audit_heads(100).await?;
        store.close().await;
        ensure!(heads.iter().map(|head| head.value.sequence).sum::<u64>() > 20, "not yet");
        Ok(())
    })
    .await;
    for service in ["scheduler-1", "registry-1"] {
        stack.kill_service(service)?;
    }
    let (mut done, mut lost) = (BTreeSet::new(), 0);
    while let Some(outcome) = callers.join_next().await {
        let outcome = outcome?;
        done.extend(outcome.0);
        lost += outcome.1;
    }
    ensure!(lost > 0, "they were killed when all was done already: this shows nothing");
    for service in ["scheduler-1", "registry-1"] {
        stack.start_service(service)?;
        stack.wait_service(service).await?;
    }
    let store = connect(&stack.etcd, None).await?;
    let (chains, entries) = verified(&store).await?;
    let mut told: BTreeMap<String, usize> = BTreeMap::new();
    for entry in entries.into_iter().filter(|entry| !entry.request_id.is_empty()) {
        *told.entry(entry.request_id).or_default() += 1;
    }
    for name in &done {
        assert_eq!(told.get(name), Some(&1), "{name}");
    }
    // What is there has a record, and what has a record is there.
    for (pair, number) in (0..CALLERS / 2).flat_map(|pair| (0..CHANGES).map(move |number| (pair, number))) {
        let name = format!("of-{pair}-{number}");
        let records = told.remove(&name).unwrap_or_default();
        ensure!(records == usize::from(is_there(&store, &name).await?), "{name}: {records} records");
    }
    ensure!(told.is_empty(), "records of what nobody asked for: {told:?}");
    for service in ["scheduler", "registry"] {
        let of = |checked: &&Checked| checked.start.as_ref().is_some_and(|start| start.service == service);
        ensure!(chains.iter().filter(of).count() >= 2, "each {service} writes chains of its own");
    }
    store.close().await;
    let verify = skerry(&stack, &["audit", "verify"]).await?;
    ensure!(verify.status.success(), "{}", said(&verify));
    Ok(())
}

fn text(output: &Output) -> String {
    String::from_utf8_lossy(&output.stdout).into_owned()
}

async fn ok(stack: &Stack, words: &[&str]) -> Result<String> {
    let output = skerry(stack, words).await?;
    ensure!(output.status.success(), "{words:?}: {}", said(&output));
    Ok(text(&output))
}

#[tokio::test]
async fn lines_show_who_did_what_and_filters_choose_among_them() -> Result<()> {
    let mut stack = Stack::start().await?;
    stack.add_agent("n1", &["--no-docker"])?;
    stack.wait_connected("n1").await;
    stack.apply_config("motd", &[("text", "hello")]).await?;
    stack.apply_config("motd", &[("text", "hello again")]).await?;
    ok(&stack, &["delete", "config/motd"]).await?;
    ok(&stack, &["cordon", "n1"]).await?;
    let refused = skerry(&stack, &["delete", "config/motd"]).await?;
    ensure!(!refused.status.success(), "there is nothing left to delete");

    let shown = ok(&stack, &["audit", "--resource", "configs/motd", "--no-headers"]).await?;
    let lines: Vec<Vec<&str>> = shown
        .lines()
        .map(|line| line.split("  ").filter(|s| !s.is_empty()).map(str::trim).collect())
        .collect();
    let outcomes: Vec<_> = lines.iter().map(|line| line[2]).collect();
    assert_eq!(outcomes, ["created", "updated", "deleted"], "{shown}");
    for line in &lines {
        assert_eq!((line[1], line[3]), ("anonymous (plain HTTP/2)", "projects/default/configs/motd"));
    }
    let cordoned = ok(&stack, &["audit", "--method", "UpdateNode", "--no-headers"]).await?;
    assert_eq!(cordoned.lines().count(), 1, "{cordoned}");
    let by_time = ok(&stack, &["audit", "--until", "1h"]).await?;
    assert_eq!(by_time, "", "nothing is an hour old");
    let all = ok(&stack, &["audit", "--project", "system", "-o", "json"]).await?;
    ensure!(all.contains("\"requestHash\""), "{all}");
    Ok(())
}

/// Changes the stored bytes of the scheduler's first record as `etcdctl` would. The registry has a chain too: it made the project.
async fn tamper(store: &Store, resource: &str) -> Result<(String, String)> {
    let heads = store.audit_heads(10).await?;
    let mut of_scheduler =
        heads.into_iter().filter(|head| head.key.name().to_string().starts_with("scheduler-"));
    let head = of_scheduler.next().context("a chain of the scheduler")?;
    let key = Key::<stored::AuditRecord>::of(&AuditName { chain: head.key.name(), sequence: 1 });
    let mut record = store.get(&key).await?.context("a record")?.value;
    let mut entry = AuditEntry::decode(record.entry.clone())?;
    let before = std::mem::replace(&mut entry.resource, resource.to_owned());
    record.entry = entry.encode_to_vec().into();
    store.commit(Txn::new().put(&key, &record)).await?;
    Ok((head.key.name().to_string(), before))
}

#[tokio::test]
async fn a_record_that_was_changed_or_removed_is_found_by_verify_and_in_an_export() -> Result<()> {
    let stack = Stack::start().await?;
    for text in ["one", "two", "three"] {
        stack.apply_config("motd", &[("text", text)]).await?;
    }
    ok(&stack, &["audit", "verify"]).await?;
    let export = stack.dir().join("audit.jsonl");
    let path = export.to_str().context("a path")?;
    std::fs::write(&export, ok(&stack, &["audit", "export"]).await?)?;
    let offline = ok(&stack, &["audit", "verify", "--from-file", path]).await?;
    // Its own three, and that of the project where the registry has not made that yet.
    let whole = |line: &str| {
        line.starts_with("scheduler-") && (line.ends_with(": 3 records") || line.ends_with(": 4 records"))
    };
    ensure!(offline.lines().any(whole) && offline.contains("\nwhole: 2 chains, "), "{offline}");

    let store = connect(&stack.etcd, None).await?;
    let (chain, before) = tamper(&store, "projects/default/configs/other").await?;
    let changed = skerry(&stack, &["audit", "verify"]).await?;
    assert_eq!(changed.status.code(), Some(1), "{}", said(&changed));
    ensure!(
        said(&changed).contains(&format!("chain {chain}, record 1: it was changed")),
        "{}",
        said(&changed)
    );
    std::fs::write(&export, ok(&stack, &["audit", "export"]).await?)?;
    let offline = skerry(&stack, &["audit", "verify", "--from-file", path]).await?;
    assert_eq!(offline.status.code(), Some(1), "{}", said(&offline));

    let second = AuditName { chain: ChainId::parse(&chain)?, sequence: 2 };
    tamper(&store, &before).await?;
    store.commit(Txn::new().delete(&Key::<stored::AuditRecord>::of(&second))).await?;
    let removed = skerry(&stack, &["audit", "verify"]).await?;
    assert_eq!(removed.status.code(), Some(1));
    ensure!(
        said(&removed).contains(&format!("chain {chain}, record 2: it is missing")),
        "{}",
        said(&removed)
    );
    store.close().await;
    Ok(())
}
