//! Many apps on one node, changed at random while Docker dies and comes back: what runs must end as what is wanted, with nothing left behind
//! and the agent no larger than before.
//!
//! The daemon is of the test's own, so that it may be killed. Changes come by the API (a new version, a deletion, a creation) and by other
//! hands (a container killed, stopped or removed behind the agent's back). The choice is by a seed, which is told.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use anyhow::{Context as _, Result, bail, ensure};
use serde_json::Value;
use skerry_proto::types::v1::{Event, NetworkMode, ServiceSpec, StopPolicy, service_spec};
use skerry_testing::Docker;
use tokio::time::{Instant, MissedTickBehavior, interval, sleep, timeout};

use crate::apps::{app, container};
use crate::containers::unique;
use crate::{Dockerd, Stack};

/// Apps at the beginning, and names that there can be.
const APPS: u32 = 50;
/// Of so many apps one has a network of its own; the others have none, since the daemon's address ranges are few.
const NETWORK_EACH: u32 = 8;
/// Between two changes.
const PACE: Duration = Duration::from_millis(200);
/// Between two looks.
const POLL: Duration = Duration::from_millis(250);
/// Starting fifty containers on a small machine that does much else.
const PATIENCE: Duration = Duration::from_secs(300);
/// Of the agent's log, where it fails.
const LOG_LINES: usize = 100;
const LABEL_INSTANCE: &str = "skerry.io/instance";
const LABEL_OWNER: &str = "skerry.io/managed-by";
const LABEL_VERSION: &str = "churn.version";

/// How it is done.
#[derive(Debug, Clone, Copy)]
pub struct Plan {
    /// How long changes come.
    pub length: Duration,
    /// How often Docker dies meanwhile.
    pub restarts: u32,
    /// Of the choices.
    pub seed: u64,
}

/// What came of it, beside that it held.
#[derive(Debug, Clone, Copy)]
pub struct Outcome {
    /// Changes by the API and by other hands.
    pub changes: u32,
    /// Bytes of the agent's memory that are in no file when fifty apps had come to rest, before the changes.
    pub memory_before: u64,
    /// The same when they had come to rest after them.
    pub memory_after: u64,
    /// From the last change until what ran was what was wanted.
    pub settled_in: Duration,
}

/// Runs it.
///
/// # Errors
/// When what runs does not become what is wanted, or something is left behind.
pub async fn churn(plan: Plan) -> Result<Outcome> {
    let mut world = World::start(plan.seed).await?;
    for number in 0..APPS {
        world.put(number).await?;
    }
    world.settle().await?;
    let memory_before = world.memory()?;

    let deadline = Instant::now() + plan.length;
    let between = plan.length / (plan.restarts + 1);
    let mut restart_at: Vec<Instant> = (1..=plan.restarts).map(|n| Instant::now() + between * n).collect();
    let mut pace = interval(PACE);
    pace.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut changes = 0;
    while Instant::now() < deadline || !restart_at.is_empty() {
        pace.tick().await;
        if restart_at.first().is_some_and(|at| *at <= Instant::now()) {
            restart_at.remove(0);
            world.dockerd.kill().await?;
            // Not only what is known to run can be changed while it is away.
            for _ in 0..5 {
                world.change_by_api().await?;
                changes += 1;
            }
            world.dockerd.restart().await?;
        }
        world.change().await?;
        changes += 1;
    }
    // As many as before, for the memory to be compared.
    for number in 0..APPS {
        if !world.wanted.contains_key(&number) {
            world.put(number).await?;
        }
    }
    let last_change = Instant::now();
    world.settle().await?;
    let settled_in = last_change.elapsed();
    let memory_after = world.memory()?;
    world.end().await?;
    Ok(Outcome { changes, memory_before, memory_after, settled_in })
}

/// One node, and what is wanted of it.
struct World {
    // Ends after the agent that would start what it stopped.
    stack: Stack,
    dockerd: Dockerd,
    docker: Docker,
    node: String,
    /// The version of each app.
    wanted: BTreeMap<u32, u32>,
    versions: u32,
    random: u64,
}

impl World {
    async fn start(seed: u64) -> Result<Self> {
        let dockerd = Dockerd::start().await?;
        let docker = dockerd.docker();
        docker.busybox()?;
        let mut stack = Stack::start().await?;
        let node = unique("churn");
        stack.add_agent(&node, &[&format!("--docker-host=unix://{}", docker.socket().display())])?;
        stack.wait_connected(&node).await;
        // Zero would stay zero.
        let random = seed | 1;
        Ok(Self { stack, dockerd, docker, node, wanted: BTreeMap::new(), versions: 0, random })
    }

    /// xorshift64: enough to choose by.
    fn random(&mut self, below: u32) -> u32 {
        self.random ^= self.random << 13;
        self.random ^= self.random >> 7;
        self.random ^= self.random << 17;
        u32::try_from(self.random % u64::from(below.max(1))).unwrap_or(0)
    }

    /// One change, by the API or by other hands.
    async fn change(&mut self) -> Result<()> {
        if self.random(3) > 0 {
            return self.change_by_api().await;
        }
        let containers = self.containers()?;
        let count = u32::try_from(containers.len()).unwrap_or(u32::MAX);
        let at = self.random(count) as usize;
        let Some(id) = containers.get(at).and_then(|one| one["Id"].as_str()) else { return Ok(()) };
        let (method, path) = match self.random(3) {
            0 => ("POST", format!("/containers/{id}/kill")),
            1 => ("POST", format!("/containers/{id}/stop?t=0")),
            _ => ("DELETE", format!("/containers/{id}?force=1")),
        };
        // The agent may have been quicker: then there is nothing left to kill.
        self.docker.request(method, &path, &[]).map(drop)
    }

    async fn change_by_api(&mut self) -> Result<()> {
        let number = self.random(APPS);
        if self.wanted.contains_key(&number) && self.random(3) == 0 {
            self.wanted.remove(&number);
            return self.stack.delete_app(&name(number)).await;
        }
        self.put(number).await
    }

    /// A new version of an app, which may not have been there.
    async fn put(&mut self, number: u32) -> Result<()> {
        self.versions += 1;
        self.wanted.insert(number, self.versions);
        self.stack.apply(&name(number), app([service(number, self.versions)])).await.map(drop)
    }

    /// All containers of the node, running or not, in the order of their names.
    fn containers(&self) -> Result<Vec<Value>> {
        let mut list = self.of_node("/containers/json?all=1")?;
        list.sort_by_key(|one| one["Names"].to_string());
        Ok(list)
    }

    /// Of a list of Docker's, what carries the mark of this node's agent.
    fn of_node(&self, path: &str) -> Result<Vec<Value>> {
        let prefix = format!("default/{}/", self.node);
        let ours = |one: &&Value| {
            one["Labels"][LABEL_OWNER].as_str().is_some_and(|owner| owner.starts_with(&prefix))
        };
        let list = self.docker.json("GET", path)?;
        Ok(list.as_array().into_iter().flatten().filter(ours).cloned().collect())
    }

    /// Waits until exactly what is wanted runs, and is told to be so.
    async fn settle(&self) -> Result<()> {
        let mut last = String::new();
        let settled = timeout(PATIENCE, async {
            loop {
                match self.check().await {
                    Ok(()) => return,
                    Err(error) => last = format!("{error:#}"),
                }
                sleep(POLL).await;
            }
        });
        if settled.await.is_ok() {
            return Ok(());
        }
        let why = self.why().await.unwrap_or_else(|error| format!("which cannot be told: {error:#}"));
        bail!("what runs is not what is wanted after {PATIENCE:?}: {last}\n{why}")
    }

    /// What the control plane, the agent and Docker say of the apps that are not ready.
    async fn why(&self) -> Result<String> {
        let events = self.stack.events().await?;
        let mut said = Vec::new();
        for number in self.wanted.keys() {
            let app = name(*number);
            let Err(error) = self.stack.check_ready(&app, 1).await else { continue };
            said.push(format!("{app}: {error:#}"));
            let of_app = |event: &&Event| event.regarding.contains(&format!("/{app}/"));
            said.extend(events.iter().filter(of_app).map(|event| format!("  {event:?}")));
            for one in self.containers()? {
                let instance = one["Labels"][LABEL_INSTANCE].as_str().unwrap_or_default();
                if instance.starts_with(&format!("{app}/")) {
                    let id = one["Id"].as_str().unwrap_or_default();
                    said.push(format!(
                        "  {}",
                        self.docker.json("GET", &format!("/containers/{id}/json"))?["State"]
                    ));
                }
            }
        }
        let log = std::fs::read_to_string(self.stack.log(&format!("agent-{}", self.node)))?;
        let lines: Vec<&str> = log.lines().collect();
        said.extend(lines[lines.len().saturating_sub(LOG_LINES)..].iter().map(|line| (*line).to_owned()));
        Ok(said.join("\n"))
    }

    async fn check(&self) -> Result<()> {
        let mut running = BTreeMap::new();
        for one in self.containers()? {
            let instance = one["Labels"][LABEL_INSTANCE].as_str().unwrap_or_default();
            let version = one["Labels"][LABEL_VERSION].as_str().unwrap_or_default();
            ensure!(one["State"] == "running", "{instance} is {}", one["State"]);
            let app = instance.split('/').next().unwrap_or_default().to_owned();
            if running.insert(app, version.to_owned()).is_some() {
                bail!("{instance} has two containers");
            }
        }
        let wanted: BTreeMap<String, String> =
            self.wanted.iter().map(|(number, version)| (name(*number), version.to_string())).collect();
        let differ: BTreeSet<&String> =
            running.keys().chain(wanted.keys()).filter(|app| running.get(*app) != wanted.get(*app)).collect();
        ensure!(differ.is_empty(), "{} apps differ: {differ:?}", differ.len());
        let networks = self.of_node("/networks")?.len();
        let expected = self.wanted.keys().filter(|number| has_network(**number)).count();
        ensure!(networks == expected, "{networks} networks of {expected}");
        for number in self.wanted.keys() {
            self.stack.check_ready(&name(*number), 1).await?;
        }
        Ok(())
    }

    fn memory(&mut self) -> Result<u64> {
        let pid = self.stack.agent(&self.node)?.pid();
        skerry_testing::anonymous_bytes(pid)
    }

    /// Deletes everything and waits until nothing is left.
    async fn end(mut self) -> Result<()> {
        self.wanted.clear();
        self.stack.delete_apps().await?;
        self.settle().await?;
        self.stack.finish(None).await.context("ending the stack")
    }
}

fn name(number: u32) -> String {
    format!("app-{number}")
}

fn has_network(number: u32) -> bool {
    number.is_multiple_of(NETWORK_EACH)
}

fn service(number: u32, version: u32) -> ServiceSpec {
    let mut service = container("web", "exec sleep 1000000");
    if let Some(service_spec::Program::Container(container)) = &mut service.program {
        container.labels.insert(LABEL_VERSION.to_owned(), version.to_string());
        let mode = if has_network(number) { NetworkMode::App } else { NetworkMode::None };
        container.network_mode = mode.into();
    }
    // Process 1 of a container is deaf to SIGTERM without a handler.
    service.stop = Some(StopPolicy { signal: "SIGKILL".to_owned(), ..StopPolicy::default() });
    service
}
