//! The workload: someone who changes apps, configs and labels, and deletes nodes, through the transactions that registry and scheduler
//! make of such calls.

use std::collections::BTreeMap;
use std::rc::Rc;
use std::time::Duration;

use prost::Message as _;
use skerry_model::meta::CLUSTER_LABEL;
use skerry_model::{AppRef, ClusterRef, ConfigRef, ContentHash, NodeRef, ProjectName, RevisionRef};
use skerry_proto::scheduler::v1::ConfigSpec;
use skerry_proto::store::v1 as stored;
use skerry_proto::types::v1 as types;
use skerry_store::Key;
use skerry_store::keys::{ConfigRevisionRef, EventSource};

use super::check::Origin;
use super::client::Client;
use super::faults::Fault;
use super::sim::{Crash, Process, Sim, WallClock};
use super::store::StoreHost;
use super::txn::{Txn, TxnError};

const APPS: [&str; 3] = ["shop", "till", "sign"];
const CONFIGS: [&str; 2] = ["prices", "texts"];
const LABELS: [&str; 4] = ["site", "floor", "kind", CLUSTER_LABEL];
/// Those that choose for two of the apps, which are system apps at times.
const CHOICES: [&str; 2] = ["system.skerry.dev/shop", "system.skerry.dev/till"];
/// The one cluster that nodes are in, or not.
const CLUSTER: &str = "place";

/// The one project.
pub(super) fn project() -> ProjectName {
    ProjectName::parse("p").expect("a plain word is a project's name")
}

/// Changes things at random until it is calm.
pub(super) fn start(sim: &Sim, store: &StoreHost, nodes: usize) {
    let crash = Crash { per_million: 0, fault: Fault::SchedulerCrash };
    let process = sim.process("operator", crash, &Rc::<WallClock>::default());
    let client = Client::new(&process, store);
    process.spawn(async move {
        client.connect().await;
        let operator = Operator { process: client.process().clone(), client, nodes };
        // Something to run from the beginning.
        operator.cluster().await;
        operator.config(CONFIGS[0]).await;
        operator.app(APPS[0]).await;
        while !operator.process.sim.is_calm() {
            let wait = operator.process.sim.between_ms(200, 25_000);
            operator.process.sleep(wait).await;
            operator.change().await;
        }
    });
}

struct Operator {
    process: Process,
    client: Client,
    nodes: usize,
}

impl Operator {
    async fn change(&self) {
        let sim = &self.process.sim;
        let choice = sim.rng(|rng| rng.below(100));
        match choice {
            0..45 => self.app(sim.rng(|rng| *rng.pick(&APPS))).await,
            45..62 => self.config(sim.rng(|rng| *rng.pick(&CONFIGS))).await,
            62..82 => self.label().await,
            82..86 => self.cordon().await,
            86..88 => self.cluster().await,
            88..94 => self.delete_app(sim.rng(|rng| *rng.pick(&APPS))).await,
            94..97 => self.delete_config(sim.rng(|rng| *rng.pick(&CONFIGS))).await,
            _ if !sim.is_calm() => self.delete_node().await,
            _ => {}
        }
    }

    /// Whoever does not hear whether it happened does it again; a failed compare begins anew from what is there.
    async fn commit(&self, what: &str, txn: Txn) {
        match self.client.commit(txn.clone(), Origin::Other).await {
            Ok(revision) => self.process.trace(format_args!("{what} at {revision}")),
            Err(TxnError::Indeterminate) => {
                let again = self.client.commit(txn, Origin::Other).await;
                self.process.trace(format_args!("{what}, perhaps, and again: {}", again.is_ok()));
            }
            Err(_) => {}
        }
    }

    async fn app(&self, name: &str) {
        let Ok(name) = AppRef::parse(&format!("projects/p/apps/{name}")) else { return };
        let key = Key::<stored::AppRecord>::of(&name);
        let Ok(before) = self.client.get(&key).await else { return };
        let bytes = self.spec().encode_to_vec();
        let hash = ContentHash::of(&bytes);
        let at = before.as_ref().map_or(0, |before| before.mod_revision);
        let mut record = before.map(|before| before.value).unwrap_or_default();
        let changed = record.revision != hash.to_string();
        let mut txn = Txn::new().when_unchanged(&key, at);
        if changed {
            record.revision = hash.to_string();
            record.revision_number += 1;
            let revision = stored::RevisionRecord {
                spec: bytes.into(),
                number: record.revision_number,
                ..stored::RevisionRecord::default()
            };
            txn = txn.put(&Key::of(&RevisionRef { app: name.clone(), hash }), &revision);
        }
        self.commit(&format!("applies {} as {}", name.app, hash.short()), txn.put(&key, &record)).await;
    }

    /// One of many apps: selector, system or not, kinds, copies, mounts.
    fn spec(&self) -> types::AppSpec {
        let sim = &self.process.sim;
        let draw = |below: usize| sim.rng(|rng| rng.below(below));
        let selector = (draw(3) > 0).then(|| types::LabelSelector {
            match_labels: [(LABELS[draw(LABELS.len())].to_owned(), draw(2).to_string())].into(),
            ..types::LabelSelector::default()
        });
        let services = (0..=draw(2)).map(|index| {
            let kind = match draw(3) {
                0 => types::service_spec::Kind::DaemonSet(types::DaemonSet {}),
                _ => types::service_spec::Kind::Deployment(types::Deployment {
                    replicas: Some(u32::try_from(draw(4)).unwrap_or(0)),
                    ..types::Deployment::default()
                }),
            };
            let program = types::Process {
                program: "run".to_owned(),
                args: vec![draw(4).to_string()],
                ..types::Process::default()
            };
            let mount = (draw(2) == 0).then(|| types::ConfigMount {
                config: CONFIGS[draw(CONFIGS.len())].to_owned(),
                ..types::ConfigMount::default()
            });
            types::ServiceSpec {
                name: format!("s{index}"),
                kind: Some(kind),
                program: Some(types::service_spec::Program::Process(program)),
                configs: mount.into_iter().collect(),
                ..types::ServiceSpec::default()
            }
        });
        let services = services.collect();
        types::AppSpec { selector, services, system: draw(4) == 0, ..Default::default() }
    }

    async fn delete_app(&self, name: &str) {
        let Ok(name) = AppRef::parse(&format!("projects/p/apps/{name}")) else { return };
        let key = Key::<stored::AppRecord>::of(&name);
        let Ok(Some(before)) = self.client.get(&key).await else { return };
        let txn = Txn::new().when_unchanged(&key, before.mod_revision).delete(&key);
        self.commit(&format!("deletes {}", name.app), txn).await;
    }

    async fn config(&self, name: &str) {
        let Ok(name) = ConfigRef::parse(&format!("projects/p/configs/{name}")) else { return };
        let key = Key::<stored::ConfigRecord>::of(&name);
        let Ok(before) = self.client.get(&key).await else { return };
        let value = self.process.sim.rng(|rng| rng.below(6)).to_string();
        let spec = ConfigSpec { data: [("v".to_owned(), value)].into(), ..ConfigSpec::default() };
        let bytes = spec.encode_to_vec();
        let hash = ContentHash::of(&bytes);
        let record = stored::ConfigRecord { hash: hash.to_string(), ..stored::ConfigRecord::default() };
        let content =
            stored::ConfigRevisionRecord { spec: bytes.into(), ..stored::ConfigRevisionRecord::default() };
        let txn = Txn::new()
            .when_unchanged(&key, before.map_or(0, |before| before.mod_revision))
            .put(&Key::of(&ConfigRevisionRef { config: name.clone(), hash }), &content)
            .put(&key, &record);
        self.commit(&format!("sets {} to {}", name.config, hash.short()), txn).await;
    }

    async fn delete_config(&self, name: &str) {
        let Ok(name) = ConfigRef::parse(&format!("projects/p/configs/{name}")) else { return };
        let key = Key::<stored::ConfigRecord>::of(&name);
        let Ok(Some(before)) = self.client.get(&key).await else { return };
        let txn = Txn::new().when_unchanged(&key, before.mod_revision).delete(&key);
        self.commit(&format!("deletes {}", name.config), txn).await;
    }

    fn some_node(&self) -> Option<NodeRef> {
        let index = self.process.sim.rng(|rng| rng.below(self.nodes));
        NodeRef::parse(&format!("projects/p/nodes/n{index}")).ok()
    }

    async fn label(&self) {
        let Some(name) = self.some_node() else { return };
        let key = Key::<stored::NodeRecord>::of(&name);
        let Ok(Some(before)) = self.client.get(&key).await else { return };
        let mut record = before.value;
        let label = self.process.sim.rng(|rng| *rng.pick(&[&LABELS[..], &CHOICES].concat()));
        let value = self.process.sim.rng(|rng| rng.below(2));
        let labels = &mut record.meta.get_or_insert_default().labels;
        let chooses = CHOICES.contains(&label);
        if label != CLUSTER_LABEL && !chooses {
            labels.insert(label.to_owned(), value.to_string());
        } else if value == 0 {
            labels.insert(label.to_owned(), if chooses { String::new() } else { CLUSTER.to_owned() });
        } else {
            labels.remove(label);
        }
        let txn = Txn::new().when_unchanged(&key, before.mod_revision).put(&key, &record);
        self.commit(&format!("labels {}", name.node), txn).await;
    }

    /// Makes the cluster, gives it another label, or deletes it, whoever is in it.
    async fn cluster(&self) {
        let Ok(name) = ClusterRef::parse(&format!("projects/p/clusters/{CLUSTER}")) else { return };
        let key = Key::<stored::ClusterRecord>::of(&name);
        let Ok(before) = self.client.get(&key).await else { return };
        let at = before.as_ref().map_or(0, |before| before.mod_revision);
        let txn = Txn::new().when_unchanged(&key, at);
        let draw = self.process.sim.rng(|rng| rng.below(5));
        if before.is_some() && draw == 0 {
            return self.commit("deletes the cluster", txn.delete(&key)).await;
        }
        let mut labels: BTreeMap<_, _> = [("site".to_owned(), (draw % 2).to_string())].into();
        if draw > 2 {
            labels.insert(CHOICES[0].to_owned(), String::new());
        }
        let meta = Some(stored::Meta { labels, ..stored::Meta::default() });
        let record = stored::ClusterRecord { meta, ..stored::ClusterRecord::default() };
        self.commit("labels the cluster", txn.put(&key, &record)).await;
    }

    async fn cordon(&self) {
        let Some(name) = self.some_node() else { return };
        let key = Key::<stored::NodeRecord>::of(&name);
        let Ok(Some(before)) = self.client.get(&key).await else { return };
        let mut record = before.value;
        record.cordoned = !record.cordoned;
        let txn = Txn::new().when_unchanged(&key, before.mod_revision).put(&key, &record);
        self.commit(&format!("cordons {}: {}", name.node, record.cordoned), txn).await;
    }

    async fn delete_node(&self) {
        let Some(name) = self.some_node() else { return };
        let key = Key::<stored::NodeRecord>::of(&name);
        let Ok(Some(before)) = self.client.get(&key).await else { return };
        let txn = Txn::new()
            .when_unchanged(&key, before.mod_revision)
            .delete(&key)
            .delete(&Key::<stored::SessionRecord>::of(&name))
            .delete(&Key::<stored::StatusRecord>::of(&name))
            .delete(&Key::<stored::AssignmentRecord>::of(&name))
            .delete(&Key::<stored::EventsRecord>::of(&EventSource::Node(name.clone())));
        self.process.sim.count(Fault::NodeDeleted);
        self.commit(&format!("deletes {}", name.node), txn).await;
    }
}

/// How long the workload and the faults last.
pub(super) fn duration(sim: &Sim) -> Duration {
    sim.between_ms(100_000, 360_000)
}
