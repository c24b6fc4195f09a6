//! Tasks from outside: they go on by themselves, also when the replica that works on one is killed, and can be cancelled and gone on with.

use std::collections::BTreeMap;

use anyhow::{Context as _, Result, ensure};
use rustix::process::Signal;
use skerry_integration::apps::{app_on, replicas, script};
use skerry_integration::stack::PATIENCE;
use skerry_integration::{Stack, StackConfig};
use skerry_model::{NodeRef, TaskRef};
use skerry_proto::registry::v1::task_service_client::TaskServiceClient;
use skerry_proto::registry::v1::{GetTaskRequest, TaskState, TaskStatus};
use skerry_proto::store::v1 as stored;
use skerry_proto::types::v1::{AppSpec, DaemonSet, InstancePhase, ServiceSpec, service_spec};
use skerry_store::keys::MemberId;
use skerry_store::{Key, Prefix, Store, StoreConfig, Target, Txn};
use skerry_testing::eventually;
use tonic::transport::Channel;

use crate::operator::{begin, done, said, skerry};

const IDLE: &str = "trap 'exit 0' TERM; while :; do sleep 0.1; done";

/// Copies somewhere, and one on each.
fn both(copies: u32, max_unavailable: &str) -> AppSpec {
    let each = script("each", IDLE);
    let each = ServiceSpec { kind: Some(service_spec::Kind::DaemonSet(DaemonSet {})), ..each };
    let mut spec = app_on(("site", "oslo"), [replicas(copies, script("copies", IDLE)), each]);
    if let Some(service_spec::Kind::Deployment(deployment)) = &mut spec.services[0].kind {
        max_unavailable.clone_into(&mut deployment.max_unavailable);
    }
    spec
}

/// A cluster of these nodes.
async fn cluster_of(nodes: &[&str]) -> Result<Stack> {
    let mut stack = Stack::start().await?;
    for node in nodes {
        stack.add_agent(node, &[])?;
    }
    for node in nodes {
        stack.wait_connected(node).await;
    }
    done(&stack, &["create", "cluster", "plant", "--labels", "site=oslo"]).await?;
    done(&stack, &[&["cluster", "join", "plant"], nodes].concat()).await?;
    Ok(stack)
}

/// How many instances of a service run.
async fn running(stack: &Stack, service: &str) -> Result<usize> {
    let below = format!("line/{service}/");
    let instances = stack.instances("line").await?;
    let of_it = instances.iter().filter(|one| one.instance.starts_with(&below));
    Ok(of_it.filter(|one| one.phase() == InstancePhase::Running).count())
}

/// The ids of all tasks.
async fn ids(stack: &Stack) -> Result<Vec<String>> {
    let names = done(stack, &["get", "tasks", "-o", "name"]).await?;
    Ok(names.lines().map(|line| line.trim_start_matches("task/").to_owned()).collect())
}

async fn status(registry: &mut TaskServiceClient<Channel>, id: &str) -> Result<TaskStatus> {
    let request = GetTaskRequest { name: format!("projects/default/tasks/{id}") };
    let task = registry.get_task(request).await?.into_inner().task.context("a task")?;
    task.status.context("a status")
}

async fn registry(stack: &Stack, name: &str) -> Result<TaskServiceClient<Channel>> {
    Ok(TaskServiceClient::connect(format!("http://{}", stack.address(name))).await?)
}

#[tokio::test]
async fn a_cluster_is_drained_member_by_member_while_somebody_looks_on() -> Result<()> {
    let stack = cluster_of(&["n1", "n2", "n3"]).await?;
    stack.apply("line", both(3, "")).await?;
    stack.wait_ready("line", 6).await;
    let output = skerry(&stack, &["drain", "cluster/plant", "--timeout", "2m"]).await?;
    ensure!(output.status.success(), "{}", said(&output));
    assert_eq!(String::from_utf8_lossy(&output.stdout), "cluster/plant drained: 3 of 3 members drained\n");
    assert_eq!((running(&stack, "copies").await?, running(&stack, "each").await?), (0, 3));
    let nodes = done(&stack, &["get", "nodes", "--no-headers"]).await?;
    assert_eq!(nodes.matches("Ready,Draining").count(), 3, "{nodes}");

    // What is left of it to look at.
    let ids = ids(&stack).await?;
    let [id] = ids.as_slice() else { anyhow::bail!("one task, not {ids:?}") };
    ensure!(id.starts_with("drain-"), "{id}");
    let table = done(&stack, &["get", "tasks"]).await?;
    let words: Vec<&str> = table.lines().nth(1).context("a row")?.split_whitespace().collect();
    assert_eq!(words[..5], [id, "drain", "cluster/plant", "Succeeded", "3/3"], "{table}");
    let text = done(&stack, &["describe", &format!("task/{id}")]).await?;
    for line in ["Work:        drain cluster/plant", "Progress:    3 of 3 steps", "Failures: none"] {
        ensure!(text.lines().any(|one| one == line), "{line:?} in\n{text}");
    }
    let watched = done(&stack, &["task", "watch", id]).await?;
    assert_eq!(watched, format!("task/{id} succeeded: 3 of 3 members drained\n"));
    done(&stack, &["wait", &format!("task/{id}"), "--for=complete", "--timeout=1s"]).await?;
    let json = done(&stack, &["get", "task", id, "-o", "jsonpath={.status.state} {.metadata.name}"]).await?;
    assert_eq!(json.trim(), format!("TASK_STATE_SUCCEEDED {id}"));
    done(&stack, &["delete", &format!("task/{id}")]).await?;
    let output = skerry(&stack, &["task", "watch", id]).await?;
    ensure!(!output.status.success() && said(&output).contains("does not exist"), "{}", said(&output));

    let output = skerry(&stack, &["drain", "cluster/none"]).await?;
    ensure!(said(&output).contains("skerry create cluster none"), "{}", said(&output));
    let output = skerry(&stack, &["drain", "cluster/plant", "n1"]).await?;
    ensure!(said(&output).contains("drained apart"), "{}", said(&output));
    done(&stack, &["uncordon", "n1", "n2", "n3"]).await?;
    stack.wait_ready("line", 6).await;
    stack.finish(None).await
}

#[tokio::test]
async fn what_is_cancelled_in_the_middle_is_gone_on_with_where_it_stands() -> Result<()> {
    let mut stack = cluster_of(&["n1", "n2"]).await?;
    // Of two copies one may leave: the other one keeps its member from being empty.
    stack.apply("line", both(2, "1")).await?;
    stack.wait_ready("line", 4).await;
    // Who follows it and is interrupted leaves it running.
    let mut follows = begin(&stack, &["drain", "cluster/plant"], "drain.log")?;
    let mut tasks = registry(&stack, "registry-0").await?;
    eventually("it waits for the second member", PATIENCE, async || {
        let id = ids(&stack).await?.into_iter().next().context("no task yet")?;
        let status = status(&mut tasks.clone(), &id).await?;
        ensure!(status.message.contains("1 instance has not left yet: line/copies/"), "{status:?}");
        ensure!(status.steps_done == 1 && status.steps_total == 2, "{status:?}");
        Ok(())
    })
    .await;
    let ids = ids(&stack).await?;
    let id = ids.first().context("the task")?;
    follows.signal(Signal::INT)?;
    assert_eq!(follows.wait(PATIENCE).await?.code(), Some(130));
    let told = follows.output();
    ensure!(told.contains(&format!("task/{id} goes on: `skerry task watch {id}`")), "{told}");
    let output = skerry(&stack, &["task", "watch", id, "--timeout", "1s"]).await?;
    assert_eq!(output.status.code(), Some(5), "{}", said(&output));
    ensure!(said(&output).contains("it goes on"), "{}", said(&output));
    let output = skerry(&stack, &["delete", &format!("task/{id}")]).await?;
    ensure!(said(&output).contains("cancel it first"), "{}", said(&output));

    done(&stack, &["task", "cancel", id]).await?;
    let output = skerry(&stack, &["task", "watch", id, "--timeout", "1m"]).await?;
    assert_eq!(output.status.code(), Some(1), "{}", said(&output));
    ensure!(said(&output).contains("was cancelled: 1 of 2 members drained"), "{}", said(&output));

    // What was in its way goes, and the registry that goes on with it is another process.
    stack.delete_app("line").await?;
    stack.kill_service("registry-0")?;
    stack.start_service("registry-0")?;
    stack.wait_service("registry-0").await?;
    let retried = done(&stack, &["task", "retry", &format!("task/{id}")]).await?;
    assert_eq!(retried, format!("task/{id} goes on: 1 of 2 steps are done\n"));
    let watched = done(&stack, &["task", "watch", id, "--timeout", "2m"]).await?;
    assert_eq!(watched, format!("task/{id} succeeded: 2 of 2 members drained\n"));
    let output = skerry(&stack, &["task", "retry", id]).await?;
    ensure!(said(&output).contains("nothing to retry"), "{}", said(&output));
    tasks = registry(&stack, "registry-0").await?;
    assert_eq!(status(&mut tasks, id).await?.run, 2);
    stack.finish(None).await
}

/// As many records of nodes, without agents.
async fn make_nodes(store: &Store, count: usize) -> Result<Vec<NodeRef>> {
    let mut nodes = Vec::new();
    for number in 0..count {
        let name = NodeRef::parse(&format!("projects/default/nodes/n{number:03}"))?;
        let labels = BTreeMap::from([("site".to_owned(), "oslo".to_owned())]);
        let meta = stored::Meta { uid: name.to_string(), labels, ..Default::default() };
        let record = stored::NodeRecord { meta: Some(meta), ..Default::default() };
        store.commit(Txn::new().put(&Key::of(&name), &record)).await?;
        nodes.push(name);
    }
    Ok(nodes)
}

/// The replica of that member id.
async fn replica(stack: &Stack, store: &Store, worker: &str) -> Result<String> {
    let key = Key::<stored::MemberRecord>::of(&MemberId::parse(worker)?);
    let address = store.get(&key).await?.context("a member")?.value.address;
    let replicas = ["registry-0", "registry-1"];
    let found = replicas.into_iter().find(|name| stack.address(name) == address);
    Ok(found.context("a replica of ours")?.to_owned())
}

#[tokio::test]
async fn when_the_worker_is_killed_another_replica_completes_the_task() -> Result<()> {
    const NODES: usize = 200;
    let mut stack = Stack::start_with(StackConfig { registries: 2, ..StackConfig::default() }).await?;
    let store = Store::connect(StoreConfig::new(Target::parse(&stack.etcd.endpoint())?)).await?;
    let nodes = make_nodes(&store, NODES).await?;
    eventually("both replicas know all nodes", PATIENCE, async || {
        for name in ["registry-0", "registry-1"] {
            let registry = format!("http://{}", stack.address(name));
            let listed = done(&stack, &["--registry", &registry, "get", "nodes", "-o", "name"]).await?;
            ensure!(listed.lines().count() == NODES, "{name}: {}", listed.lines().count());
        }
        Ok(())
    })
    .await;
    let told = done(&stack, &["label", "nodes", "-l", "site=oslo", "zone=b", "--no-wait"]).await?;
    let (_, rest) = told.split_once("nodes are labelled by task/").context("what was said")?;
    let id = rest.split_whitespace().next().context("an id")?.to_owned();

    // Killed in the middle, whichever of them has it.
    let task = TaskRef::parse(&format!("projects/default/tasks/{id}"))?;
    let progress = Key::<stored::TaskProgressRecord>::of(&task);
    let first = eventually("some nodes are labelled", PATIENCE, async || {
        let read = store.get(&progress).await?.context("not begun")?.value;
        ensure!(read.steps_done >= 10, "{read:?}");
        anyhow::Ok(read.worker)
    })
    .await;
    let killed = replica(&stack, &store, &first).await?;
    stack.kill_service(&killed)?;
    let left = store.get(&progress).await?.context("its journal")?.value;
    ensure!((10..NODES as u64).contains(&left.steps_done), "it was not in the middle: {left:?}");

    let survivor = if killed == "registry-0" { "registry-1" } else { "registry-0" };
    let tasks = registry(&stack, survivor).await?;
    let status = eventually("the other one completes it", PATIENCE, async || {
        let status = status(&mut tasks.clone(), &id).await?;
        ensure!(status.steps_done >= left.steps_done, "it went back: {status:?}");
        ensure!(status.state() == TaskState::Succeeded, "{status:?}");
        Ok(status)
    })
    .await;
    assert_eq!((status.steps_done, status.steps_total), (NODES as u64, NODES as u64));
    assert_eq!((status.message.as_str(), status.attempt), ("200 of 200 nodes labelled", 1));
    assert_ne!(status.worker, first);
    for name in &nodes {
        let record = store.get(&Key::<stored::NodeRecord>::of(name)).await?.context("a node")?.value;
        let zone = record.meta.and_then(|meta| meta.labels.get("zone").cloned());
        assert_eq!(zone.as_deref(), Some("b"), "{name}");
    }
    // Nobody has it any more.
    let claims = store.count(&Prefix::<stored::TaskClaimRecord>::all()).await?;
    assert_eq!(claims, 0);

    // Again it has nothing to do; another value needs its flag, and then each node is told of.
    let registry = format!("http://{}", stack.address(survivor));
    let with = |words: &[&'static str]| [&["--registry", registry.as_str()], words].concat();
    let again = done(&stack, &with(&["label", "nodes", "-l", "site=oslo,zone=b", "zone=b"])).await?;
    assert_eq!(again, "200 of 200 nodes labelled\n");
    let output = skerry(&stack, &with(&["label", "nodes", "-l", "site=oslo", "zone=c"])).await?;
    assert_eq!(output.status.code(), Some(1), "{}", said(&output));
    ensure!(said(&output).contains("zone is \"b\" already"), "{}", said(&output));
    let done_all =
        done(&stack, &with(&["label", "nodes", "-l", "site=oslo", "zone=c", "--overwrite"])).await?;
    assert_eq!(done_all, "200 of 200 nodes labelled\n");
    let output = skerry(&stack, &with(&["label", "app/x", "-l", "site=oslo", "zone=c"])).await?;
    assert_eq!(output.status.code(), Some(2), "{}", said(&output));
    store.close().await;
    stack.finish(None).await
}

#[tokio::test]
async fn a_project_is_deleted_in_the_background_once_it_is_empty() -> Result<()> {
    let stack = Stack::start().await?;
    done(&stack, &["create", "project", "shop"]).await?;
    done(&stack, &["create", "cluster", "plant", "-p", "shop"]).await?;
    let told = done(&stack, &["delete", "project/shop", "--background"]).await?;
    ensure!(told.contains("project/shop is deleted as soon as it is empty, by task/delete-"), "{told}");
    ensure!(told.contains("skerry task watch -p system delete-"), "{told}");
    eventually("it says what is in it", PATIENCE, async || {
        let table = done(&stack, &["get", "tasks", "-p", "system"]).await?;
        ensure!(table.contains("delete project/shop") && table.contains("it has 1 cluster"), "{table}");
        Ok(())
    })
    .await;
    done(&stack, &["delete", "cluster/plant", "-p", "shop"]).await?;
    let id = done(&stack, &["get", "tasks", "-p", "system", "-o", "name"]).await?;
    done(&stack, &["wait", id.trim(), "-p", "system", "--for=complete", "--timeout=1m"]).await?;
    let output = skerry(&stack, &["get", "project", "shop"]).await?;
    ensure!(!output.status.success(), "{}", said(&output));
    let output = skerry(&stack, &["delete", "app/x", "--background"]).await?;
    assert_eq!(output.status.code(), Some(2), "{}", said(&output));
    stack.finish(None).await
}
