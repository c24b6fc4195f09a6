//! Clusters from outside: nodes join and leave, copies are spread over them, and those of a member that is lost run elsewhere until it is back.

use std::collections::BTreeMap;

use anyhow::{Context as _, Result, ensure};
use skerry_integration::Stack;
use skerry_integration::apps::{app, app_on, container, replicas, script};
use skerry_integration::stack::PATIENCE;
use skerry_proto::types::v1::{AppSpec, DaemonSet, InstancePhase, Port, ServiceSpec, service_spec};
use skerry_testing::eventually;

use crate::operator::{done, said, skerry};

const IDLE: &str = "trap 'exit 0' TERM; while :; do sleep 0.1; done";

fn on_each(service: ServiceSpec) -> ServiceSpec {
    ServiceSpec { kind: Some(service_spec::Kind::DaemonSet(DaemonSet {})), ..service }
}

/// Three copies somewhere, and one on each.
fn both(site: &str) -> AppSpec {
    app_on(("site", site), [replicas(3, script("copies", IDLE)), on_each(script("each", IDLE))])
}

async fn refused(stack: &Stack, words: &[&str], why: &str) -> Result<()> {
    let output = skerry(stack, words).await?;
    ensure!(!output.status.success() && said(&output).contains(why), "{words:?}: {}", said(&output));
    Ok(())
}

/// How many instances of a service run on each node.
async fn spread(stack: &Stack, app: &str, service: &str) -> Result<BTreeMap<String, usize>> {
    let below = format!("{app}/{service}/");
    let mut nodes = BTreeMap::new();
    for one in stack.instances(app).await? {
        if one.instance.starts_with(&below) && one.phase() == InstancePhase::Running {
            let node = one.node.rsplit('/').next().context("a node")?.to_owned();
            *nodes.entry(node).or_default() += 1;
        }
    }
    Ok(nodes)
}

async fn wait_spread(stack: &Stack, app: &str, service: &str, expected: &[(&str, usize)]) {
    let expected: BTreeMap<String, usize> =
        expected.iter().map(|(node, count)| ((*node).to_owned(), *count)).collect();
    eventually(&format!("{app}/{service} runs on {expected:?}"), PATIENCE, async || {
        let seen = spread(stack, app, service).await?;
        ensure!(seen == expected, "{seen:?}");
        Ok(())
    })
    .await;
}

async fn stack_of(nodes: &[&str]) -> Result<Stack> {
    let mut stack = Stack::start().await?;
    for node in nodes {
        stack.add_agent(node, &[])?;
    }
    for node in nodes {
        stack.wait_connected(node).await;
    }
    Ok(stack)
}

#[tokio::test]
async fn nodes_join_and_leave_and_apps_follow() -> Result<()> {
    let stack = stack_of(&["n1", "n2", "n3"]).await?;
    done(&stack, &["create", "cluster", "plant", "--labels", "site=oslo", "--failover-after", "1m"]).await?;
    let said = done(&stack, &["cluster", "join", "plant", "n1", "n2"]).await?;
    assert_eq!(said, "node/n1 joined cluster/plant\nnode/n2 joined cluster/plant\n");
    stack.apply("web", both("oslo")).await?;
    wait_spread(&stack, "web", "each", &[("n1", 1), ("n2", 1)]).await;
    eventually("three copies run on both", PATIENCE, async || {
        let copies = spread(&stack, "web", "copies").await?;
        ensure!(copies.len() == 2 && copies.values().sum::<usize>() == 3, "{copies:?}");
        Ok(())
    })
    .await;
    let copies = spread(&stack, "web", "copies").await?;

    // By its label; what runs already stays where it is.
    done(&stack, &["label", "node/n3", "skerry.dev/cluster=plant"]).await?;
    wait_spread(&stack, "web", "each", &[("n1", 1), ("n2", 1), ("n3", 1)]).await;
    assert_eq!(spread(&stack, "web", "copies").await?, copies, "nobody moves without need");
    let names: Vec<String> = stack.instances("web").await?.into_iter().map(|one| one.instance).collect();
    ensure!(names.iter().all(|name| name.split('/').nth(2) == Some("plant")), "{names:?}");
    let table = done(&stack, &["get", "clusters"]).await?;
    let row = table.lines().nth(1).context("a row")?;
    ensure!(row.split_whitespace().take(4).eq(["plant", "3/3", "6/6", "1"]), "{table}");
    let told = done(&stack, &["describe", "cluster", "plant"]).await?;
    ensure!(told.contains("after 1m") && told.contains("n3"), "{told}");
    let wide = done(&stack, &["get", "nodes", "-o", "wide"]).await?;
    ensure!(wide.contains("CLUSTER") && wide.matches("plant").count() >= 3, "{wide}");

    refused(&stack, &["create", "cluster", "n1"], "projects/default/nodes/n1 has that name").await?;
    refused(&stack, &["create", "cluster", "plant"], "exists already").await?;
    refused(&stack, &["cluster", "join", "none", "n1"], "there is no projects/default/clusters/none").await?;
    refused(&stack, &["delete", "cluster/plant"], "has members").await?;
    refused(&stack, &["create", "cluster", "other", "--failover-after", "1s"], "10s to 24h").await?;

    // Cordoned, it gets nothing new; out of the cluster, what it had of it runs elsewhere.
    done(&stack, &["cluster", "leave", "n1"]).await?;
    wait_spread(&stack, "web", "each", &[("n2", 1), ("n3", 1)]).await;
    eventually("all copies are on the others", PATIENCE, async || {
        let seen = spread(&stack, "web", "copies").await?;
        ensure!(!seen.contains_key("n1") && seen.values().sum::<usize>() == 3, "{seen:?}");
        Ok(())
    })
    .await;
    stack.finish(None).await
}

#[tokio::test]
async fn a_taint_keeps_off_who_does_not_bear_it() -> Result<()> {
    let stack = stack_of(&["n1", "n2"]).await?;
    done(&stack, &["taint", "node", "n1", "gpu=yes:NoSchedule"]).await?;
    stack.apply("web", app([script("one", IDLE), on_each(script("each", IDLE))])).await?;
    wait_spread(&stack, "web", "each", &[("n2", 1)]).await;
    wait_spread(&stack, "web", "one", &[("n2", 1)]).await;
    let waits = stack.instances("web").await?;
    let waits = waits.iter().find(|one| one.node.ends_with("/n1")).context("it is told why")?;
    ensure!(waits.instance == "web/one/n1/0", "{waits:?}");
    ensure!(waits.reason == "Tainted" && waits.message.contains("gpu=yes:NoSchedule"), "{waits:?}");
    refused(&stack, &["taint", "node", "n1", "gpu=no:NoSchedule"], "--overwrite").await?;
    let described = done(&stack, &["describe", "node", "n1"]).await?;
    ensure!(described.contains("gpu=yes:NoSchedule"), "{described}");
    done(&stack, &["taint", "node", "n1", "gpu-"]).await?;
    wait_spread(&stack, "web", "each", &[("n1", 1), ("n2", 1)]).await;
    // What is there leaves.
    done(&stack, &["taint", "node", "n2", "down:NoExecute"]).await?;
    wait_spread(&stack, "web", "each", &[("n1", 1)]).await;
    stack.finish(None).await
}

#[tokio::test]
async fn copies_with_a_port_go_to_as_many_members_and_the_rest_wait() -> Result<()> {
    let stack = stack_of(&["n1", "n2"]).await?;
    done(&stack, &["create", "cluster", "plant"]).await?;
    done(&stack, &["cluster", "join", "plant", "n1", "n2"]).await?;
    // These agents have no Docker: where each copy belongs is seen all the same.
    let mut web = replicas(3, container("web", IDLE));
    let Some(service_spec::Program::Container(program)) = &mut web.program else { panic!("a container") };
    program.ports = vec![Port { container_port: 80, host_port: Some(8080), ..Port::default() }];
    stack.apply("web", app([web])).await?;
    eventually("two have their places, and the third says why not", PATIENCE, async || {
        let mut nodes: Vec<String> = Vec::new();
        let mut waits = None;
        for one in stack.instances("web").await? {
            if one.node.is_empty() { waits = Some(one) } else { nodes.push(one.node) }
        }
        nodes.sort();
        ensure!(nodes == ["projects/default/nodes/n1", "projects/default/nodes/n2"], "{nodes:?}");
        let waits = waits.context("nobody waits")?;
        ensure!(waits.reason == "NoMemberFits" && waits.message.contains("2 port 8080 taken"), "{waits:?}");
        Ok(())
    })
    .await;
    stack.finish(None).await
}

#[tokio::test]
async fn copies_of_a_lost_member_run_elsewhere_until_it_is_back() -> Result<()> {
    let mut stack = stack_of(&["n1", "n2", "n3", "n4", "n5"]).await?;
    done(&stack, &["create", "cluster", "plant", "--labels", "site=oslo", "--failover-after", "10s"]).await?;
    done(&stack, &["cluster", "join", "plant", "n1", "n2", "n3"]).await?;
    stack.apply("web", both("oslo")).await?;
    let one_each = [("n1", 1), ("n2", 1), ("n3", 1)];
    wait_spread(&stack, "web", "copies", &one_each).await;
    wait_spread(&stack, "web", "each", &one_each).await;

    // Its programs run on, and nobody knows.
    stack.kill_agent("n1")?;
    eventually("its copy runs elsewhere", PATIENCE, async || {
        let seen = spread(&stack, "web", "copies").await?;
        let elsewhere = seen.get("n2").unwrap_or(&0) + seen.get("n3").unwrap_or(&0);
        ensure!(elsewhere == 3, "{seen:?}");
        Ok(())
    })
    .await;
    // What is one on each stays its own.
    let each = stack.instances("web").await?;
    let of_n1 = each.iter().find(|one| one.instance.contains("/each/") && one.node.ends_with("/n1"));
    ensure!(of_n1.is_some(), "{each:?}");

    stack.start_agent("n1")?;
    stack.wait_connected("n1").await;
    eventually("three copies run, none of them on the one that was away", PATIENCE, async || {
        let seen = spread(&stack, "web", "copies").await?;
        ensure!(seen.values().sum::<usize>() == 3 && !seen.contains_key("n1"), "{seen:?}");
        let node = stack.node("n1").await?.status.context("a status")?;
        ensure!(node.instances_assigned == 1 && node.instances_ready == 1, "{node:?}");
        Ok(())
    })
    .await;
    stack.finish(None).await
}
