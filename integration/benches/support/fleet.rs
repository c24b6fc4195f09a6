//! A fleet as placement sees it, made up but the same each time: nodes of sites in regions, half of them in clusters, and the apps that go there.
//!
//! A site has 40 nodes: 20 alone and 20 in five clusters. Of the apps a few go everywhere, some to a region or to one tier of it, and most to as many
//! sites as are a hundredth of all, at least one and at most four, which are a hundred clusters.

use std::collections::BTreeMap;
use std::sync::Arc;

use anyhow::{Result, ensure};
use prost::Message as _;
use skerry_model::meta::CLUSTER_LABEL;
use skerry_model::{AppName, AppSpec, ClusterName, ConfigName, ContentHash, NodeName, Selector};
use skerry_placement::{App, Cluster, Node, Solution, State, Wanted};
use skerry_proto::types::v1 as pb;

/// How many apps there are.
pub(crate) const APPS: usize = 200;
/// Most clusters that a local app goes to.
pub(crate) const LOCAL_CLUSTERS_MAX: usize = CLUSTERS_OF_SITE * SITES_OF_APP;
/// Apps that go everywhere; those that go to a region come next, and the rest is local.
const EVERYWHERE: usize = 4;
const REGIONAL: usize = 40;
const REGIONS: usize = 10;
const TIERS: [&str; 3] = ["gold", "silver", "bronze"];
const NODES_OF_SITE: usize = 40;
/// Clusters of a site, those of one node too.
const CLUSTERS_OF_SITE: usize = 25;
/// Members of each of the others.
const MEMBERS: usize = 4;
/// Most sites that a local app goes to.
const SITES_OF_APP: usize = 4;
const GIB: u64 = 1 << 30;

/// The fleet, with nothing assigned yet.
pub(crate) struct Fleet {
    /// What placement takes.
    pub(crate) state: State,
    /// The nodes in the order in which they were made.
    pub(crate) nodes: Vec<NodeName>,
    sites: usize,
}

impl Fleet {
    /// So many nodes, and all apps.
    pub(crate) fn new(nodes: usize) -> Result<Self> {
        ensure!(
            nodes > 0 && nodes.is_multiple_of(NODES_OF_SITE),
            "a fleet has sites of {NODES_OF_SITE} nodes"
        );
        let sites = nodes / NODES_OF_SITE;
        let mut fleet = Self { state: State::default(), nodes: Vec::with_capacity(nodes), sites };
        for site in 0..sites {
            fleet.add_site(site)?;
        }
        for app in 0..APPS {
            fleet.state.apps.insert(app_name(app)?, fleet.app(app, 0)?);
        }
        Ok(fleet)
    }

    fn add_site(&mut self, site: usize) -> Result<()> {
        for at in 0..NODES_OF_SITE {
            let tier = TIERS[(site + at / MEMBERS) % TIERS.len()];
            let mut labels: BTreeMap<String, String> = [
                ("site", site_name(site)),
                ("region", region_name(site % REGIONS)),
                ("tier", tier.to_owned()),
                ("disk", if at.is_multiple_of(3) { "hdd" } else { "ssd" }.to_owned()),
            ]
            .map(|(key, value)| (key.to_owned(), value))
            .into();
            let mut joins = None;
            if at < NODES_OF_SITE / 2 {
                let cluster = ClusterName::parse(&format!("{}-c{}", site_name(site), at / MEMBERS))?;
                self.state.clusters.insert(cluster.clone(), Cluster { labels: labels.clone() });
                labels.insert(CLUSTER_LABEL.to_owned(), cluster.to_string());
                joins = Some(cluster);
            }
            let node = Node {
                labels,
                joins,
                architecture: Some(if at.is_multiple_of(4) { "arm64" } else { "amd64" }.to_owned()),
                cpu_millis: Some(8000),
                memory_bytes: Some(16 * GIB),
                ..Node::default()
            };
            let name = NodeName::parse(&format!("{}-n{at:02}", site_name(site)))?;
            self.state.nodes.insert(name.clone(), node);
            self.nodes.push(name);
        }
        Ok(())
    }

    /// An app in a version: another one is another revision.
    pub(crate) fn app(&self, number: usize, version: u32) -> Result<App> {
        let mut services = vec![service("main", number, version)];
        if number.is_multiple_of(2) {
            let mut second = service("second", number / 2 * 4, version);
            second.depends_on = vec![pb::Dependency { service: "main".to_owned(), condition: 0 }];
            services.push(second);
        }
        let wire = pb::AppSpec { services, ..Default::default() };
        let mut spec = AppSpec::from_proto(&wire)?;
        spec.selector = self.selector(number)?;
        Ok(Wanted {
            revision: ContentHash::of(&wire.encode_to_vec()),
            spec: Arc::new(spec),
            configs: [(ConfigName::parse("settings")?, ContentHash::of(b"settings"))].into(),
            secrets: BTreeMap::new(),
            bounds: None,
        }
        .into())
    }

    fn selector(&self, number: usize) -> Result<Selector> {
        let Some(regional) = number.checked_sub(EVERYWHERE) else { return Ok(Selector::default()) };
        let text = match regional.checked_sub(REGIONAL) {
            None => {
                let region = region_name(regional % REGIONS);
                let tier = TIERS.get(regional / REGIONS).map(|tier| format!(",tier={tier}"));
                format!("region={region}{}", tier.unwrap_or_default())
            }
            Some(local) => {
                let first = local * self.sites / local_apps().len();
                let last = first + (self.sites / 100).clamp(1, SITES_OF_APP);
                let sites = (first..last).map(|site| site_name(site % self.sites));
                format!("site in ({})", sites.collect::<Vec<_>>().join(","))
            }
        };
        Ok(Selector::parse(&text)?)
    }

    /// The store has what the solution says.
    pub(crate) fn commit(&mut self, solution: &Solution) {
        let plans = solution.values().flat_map(|plan| &plan.nodes);
        self.state.previous = plans.map(|(name, placed)| (name.clone(), placed.clone())).collect();
    }
}

/// The apps that go to few clusters each.
pub(crate) fn local_apps() -> std::ops::Range<usize> {
    EVERYWHERE + REGIONAL..APPS
}

/// The name of an app.
pub(crate) fn app_name(number: usize) -> Result<AppName> {
    Ok(AppName::parse(&format!("app-{number:03}"))?)
}

fn site_name(site: usize) -> String {
    format!("site-{site:04}")
}

fn region_name(region: usize) -> String {
    format!("region-{region}")
}

/// One service: of each kind in turn, with what such services ask for.
fn service(name: &str, turn: usize, version: u32) -> pb::ServiceSpec {
    use pb::service_spec::{Kind, Program};
    let copies =
        |replicas| Kind::Deployment(pb::Deployment { replicas: Some(replicas), ..Default::default() });
    let kind = match turn % 4 {
        0 => copies(2),
        1 => copies(1),
        2 => Kind::DaemonSet(pb::DaemonSet {}),
        _ => Kind::Job(pb::Job { completions: Some(2), parallelism: Some(2), ..Default::default() }),
    };
    // One copy takes a port of the machine, and has to be on a fast disk.
    let is_bound = turn % 4 == 1;
    let port = u32::try_from(20_000 + turn).ok();
    let port = pb::Port { container_port: 80, host_port: port, ..Default::default() };
    let container = pb::Container {
        image: "registry.example.org/app:1".to_owned(),
        ports: if is_bound { vec![port] } else { Vec::new() },
        ..Default::default()
    };
    let on_ssd = [("disk".to_owned(), "ssd".to_owned())].into();
    let mount = pb::ConfigMount { config: "settings".into(), path: "/settings".into(), ..Default::default() };
    let requests =
        pb::ResourceList { cpu_millis: Some(100), memory_bytes: Some(128 << 20), ..Default::default() };
    pb::ServiceSpec {
        name: name.to_owned(),
        kind: Some(kind),
        program: Some(Program::Container(container)),
        env: [("VERSION".to_owned(), version.to_string())].into(),
        configs: if turn.is_multiple_of(4) { vec![mount] } else { Vec::new() },
        resources: Some(pb::Resources { requests: Some(requests), limits: None }),
        node_selector: is_bound.then(|| pb::LabelSelector { match_labels: on_ssd, ..Default::default() }),
        ..Default::default()
    }
}
