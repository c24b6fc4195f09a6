//! `compose.yaml` with the real Compose and real Docker: what it starts, what it survives, and that nothing of it stays.

mod guide;

use std::process::Command;
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use serde_json::Value;
use skerry_integration::Compose;
use skerry_testing::{BUSYBOX_IMAGE, Docker, bin, compose_required, eventually, free_port, http_get};

/// Long enough for a machine that does much else.
const PATIENCE: Duration = Duration::from_mins(2);
const UP: [&str; 6] = ["up", "--detach", "--wait", "--no-build", "--scale=gateway=2", "--scale=scheduler=2"];
/// With two gateways and two schedulers.
const CONTAINERS: usize = 10;

#[tokio::test]
async fn the_stack_converges_though_a_gateway_and_the_leading_scheduler_are_killed() {
    let (Some(docker), Some(program)) = (Docker::required(), compose_required()) else { return };
    docker.busybox().expect("the apps' image is made");
    let compose =
        Compose::build(program, docker.clone(), |name| Ok(bin(name))).await.expect("images are built");
    compose.run(&UP).await.expect("everything becomes healthy");
    check_containers(&compose.all_containers().expect("containers")).expect("as the file promises");

    let node = format!("node/{}", compose.node());
    compose.cli(&["wait", &node, "--for=connected", "--timeout=60s"], "").await.expect("the node connects");
    let port = free_port();
    apply(&compose, port, "first").await.expect("the app becomes healthy");
    eventually("the first page", PATIENCE, || page(port, "first")).await;
    // Through the relay, whose agent dials it from outside of the project's network.
    let told = compose.cli(&["logs", "app/web", "--tail=5"], "").await;
    told.expect("the app's log is told");
    compose.cli(&["get", "gpus"], "").await.expect("the gpu service answers, though there are none");
    // From the machine, by the published ports.
    let nodes = Command::new(bin("skerry"))
        .args(["get", "nodes", "-o", "name", "--registry", &compose.registry()])
        .args(["--scheduler", &compose.scheduler()])
        .args(compose.admin_flags().await.expect("the administrator's files"))
        .output()
        .expect("skerry runs");
    assert_eq!(String::from_utf8_lossy(&nodes.stdout).trim(), node, "{nodes:?}");

    let gateway = gateway_of_node(&compose, &node).await.expect("the node has a gateway");
    let scheduler = leader(&compose).expect("one scheduler leads");
    for container in [&gateway, &scheduler] {
        post(&docker, container, "kill");
    }
    apply(&compose, port, "second").await.expect("the app becomes healthy without them");
    eventually("the second page", PATIENCE, || page(port, "second")).await;
    let now = gateway_of_node(&compose, &node).await.expect("the node has a gateway again");
    assert_ne!(now["Id"], gateway["Id"], "the node is at the other gateway");

    compose.run(&UP).await.expect("those that were killed come back");
    check_containers(&compose.all_containers().expect("containers")).expect("as before");
    crashed_ones_start_again(&compose).await;

    compose.cli(&["delete", "app/web", "config/page"], "").await.expect("the app is deleted");
    eventually("the app's container and network are gone", PATIENCE, async || {
        let left = compose.app_leftovers()?;
        ensure!(left.is_empty(), "{left:?}");
        Ok(())
    })
    .await;
    compose.run(&["down", "--volumes"]).await.expect("it goes down");
    assert_eq!(compose.leftovers().expect("a look"), [""; 0]);
}

/// What holds of the running project, whatever else does.
fn check_containers(containers: &[Value]) -> Result<()> {
    ensure!(containers.len() == CONTAINERS, "{} containers", containers.len());
    for container in containers {
        let service =
            container["Config"]["Labels"]["com.docker.compose.service"].as_str().unwrap_or_default();
        let state = &container["State"];
        ensure!(state["Health"]["Status"] == "healthy", "{service}: {state}");
        for bindings in container["NetworkSettings"]["Ports"].as_object().into_iter().flatten() {
            for binding in bindings.1.as_array().into_iter().flatten() {
                ensure!(binding["HostIp"] == "127.0.0.1", "{service} is published at {binding}");
            }
        }
        if ["registry", "scheduler", "gateway", "relay", "gpu"].contains(&service) {
            ensure!(
                container["Config"]["User"] == "65532:65532",
                "{service} runs as {}",
                container["Config"]["User"]
            );
            ensure!(container["HostConfig"]["ReadonlyRootfs"] == true, "{service} may write");
            check_mounts(service, &container["Mounts"])?;
        }
    }
    Ok(())
}

/// A service sees its own certificate, the registry and the scheduler the file that opens the authority's key and secrets besides, and nobody can
/// write there.
fn check_mounts(service: &str, mounts: &Value) -> Result<()> {
    let mut seen = Vec::new();
    for mount in mounts.as_array().into_iter().flatten() {
        // Its history is the gpu service's own to write.
        if service == "gpu" && mount["Destination"] == "/var/lib/skerry-gpu" {
            continue;
        }
        ensure!(mount["RW"] == false, "{service} may write: {mount}");
        let name = mount["Name"].as_str().unwrap_or_default();
        seen.push(name.rsplit('_').next().unwrap_or_default().to_owned());
    }
    seen.sort();
    let own = format!("tls-{service}");
    let opens = ["registry", "scheduler"].contains(&service);
    let wanted = if opens { vec!["keys".to_owned(), own] } else { vec![own] };
    ensure!(seen == wanted, "{service} sees {seen:?}");
    Ok(())
}

/// An app with a health check over HTTP and a page from a config file, applied as people do, until it is healthy.
async fn apply(compose: &Compose, port: u16, page: &str) -> Result<()> {
    let manifests = format!(
        "apiVersion: skerry/v1\nkind: Config\nmetadata: {{name: page}}\nspec: {{data: {{index.html: \"{page}\"}}}}\n---\n\
         apiVersion: skerry/v1\nkind: App\nmetadata: {{name: web}}\nspec:\n  services:\n  - name: web\n    container:\n      \
         image: {BUSYBOX_IMAGE}\n      pullPolicy: never\n      command: [httpd, -f, -p, \"8080\", -h, /www]\n      \
         ports: [{{containerPort: 8080, hostPort: {port}, hostAddress: 127.0.0.1}}]\n    \
         configs: [{{config: page, path: /www}}]\n    healthCheck: {{http: {{port: 8080}}, interval: 1s}}\n    \
         stop: {{signal: SIGKILL}}\n"
    );
    // Whom it asks may just have died: a person would type it again.
    eventually("the manifests are applied", PATIENCE, || compose.cli(&["apply", "-f", "-"], &manifests))
        .await;
    compose.cli(&["wait", "app/web", "--for=healthy", "--timeout=100s"], "").await.map(drop)
}

async fn page(port: u16, wanted: &str) -> Result<()> {
    let answer = http_get(&format!("127.0.0.1:{port}"), "/index.html").await?;
    ensure!(answer.text() == wanted, "{}", answer.text());
    Ok(())
}

/// The container of the gateway that has the node's session.
async fn gateway_of_node(compose: &Compose, node: &str) -> Result<Value> {
    let text = compose.cli(&["get", node, "-o", "json"], "").await?;
    let status: Value = serde_json::from_str(&text).context("reading the node")?;
    let id = status["status"]["connection"]["gateway"].as_str().context("a gateway")?.to_owned();
    let gateways = compose.containers("gateway")?;
    let own = |one: &Value| compose.log(one).is_ok_and(|log| log.contains("is known") && log.contains(&id));
    gateways.into_iter().find(own).with_context(|| format!("no container is gateway {id}"))
}

/// The container of the scheduler that leads.
fn leader(compose: &Compose) -> Result<Value> {
    let schedulers = compose.containers("scheduler")?;
    let leads = |one: &Value| compose.log(one).is_ok_and(|log| log.contains("this scheduler leads"));
    let mut leaders: Vec<Value> = schedulers.into_iter().filter(leads).collect();
    ensure!(leaders.len() == 1, "{} have led so far", leaders.len());
    leaders.pop().context("one")
}

/// The services whose process ends by itself: Docker starts them again, and they become healthy.
async fn crashed_ones_start_again(compose: &Compose) {
    for service in ["registry", "agent"] {
        let before = compose.containers(service).expect("containers").remove(0);
        let pid = before["State"]["Pid"]
            .as_i64()
            .and_then(|pid| rustix::process::Pid::from_raw(pid.try_into().ok()?));
        let pid = pid.expect("it runs");
        rustix::process::kill_process(pid, rustix::process::Signal::KILL).expect("it is killed");
        eventually(&format!("{service} runs again"), PATIENCE, async || {
            let now = compose.containers(service)?.remove(0);
            ensure!(now["RestartCount"] != before["RestartCount"], "not restarted");
            ensure!(now["State"]["Health"]["Status"] == "healthy", "{}", now["State"]);
            Ok(())
        })
        .await;
    }
}

fn post(docker: &Docker, container: &Value, what: &str) {
    let id = container["Id"].as_str().expect("a container has an id");
    let answer = docker.request("POST", &format!("/containers/{id}/{what}"), &[]).expect("Docker answers");
    assert_eq!(answer.status, 204, "{}", answer.text());
}
