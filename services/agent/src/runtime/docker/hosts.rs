//! The hosts files of containers: in a cluster of several machines they know services on other members by name.
//!
//! One file for each copy, `<hosts>/<instance>/<fingerprint>`, mounted at `/etc/hosts`: what Docker would write there, and the services of the app that other
//! members have. It is rewritten in place, so that a container that runs sees it. What runs on this machine Docker's own resolver knows. Docker writes
//! nothing into a file that is mounted there.

use std::collections::BTreeSet;
use std::fmt::Write as _;
use std::fs::{self, OpenOptions};
use std::io::{self, Read as _};
use std::net::IpAddr;
use std::os::unix::fs::{FileExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard};

use skerry_model::app::{Container, NetworkMode, Program};
use skerry_model::{InstanceName, NodeName};
use tokio::sync::OnceCell;
use tracing::debug;

use super::client::LOOK_DEADLINE;
use super::layout::{entries, make_dirs};
use super::{DockerRuntime, spec};
use crate::desired::InstanceSpec;
use crate::jobs::unmark;
use crate::lock::lock;
use crate::runtime::{Names, Observed, RuntimeError};

/// Where a container has the file.
pub(super) const TARGET: &str = "/etc/hosts";
/// Anybody may read it, whoever a container runs as; the agent alone writes.
const FILE_MODE: u32 = 0o644;
/// What every hosts file of Docker begins with.
const HEAD: &str = "# Kept by skerry-agent.
127.0.0.1\tlocalhost
::1\tlocalhost ip6-localhost ip6-loopback
fe00::\tip6-localnet
ff00::\tip6-mcastprefix
ff02::1\tip6-allnodes
ff02::2\tip6-allrouters
";

/// The files, and what goes into them.
#[derive(Default)]
pub(super) struct Hosts {
    /// Where they are, and on which node. Absent: there are none.
    place: Option<(PathBuf, NodeName)>,
    /// Held while a file is written, so that the last write is of the newest names.
    names: Mutex<Arc<Names>>,
    /// The machine, as containers reach it: the gateway of Docker's own bridge.
    gateway: OnceCell<IpAddr>,
}

/// A container, as far as names go.
#[derive(Debug, Clone)]
pub(super) struct Networked {
    pub(super) instance: InstanceName,
    pub(super) fingerprint: String,
    /// What it has in its networks.
    pub(super) addresses: Vec<IpAddr>,
    /// Whether something of the machine is mounted at `/etc/hosts`.
    pub(super) mounts_hosts: bool,
}

impl Hosts {
    pub(super) fn new(dir: PathBuf, node: NodeName) -> Self {
        Self { place: Some((dir, node)), ..Self::default() }
    }

    /// From now on these are the names. What runs is told by [`DockerRuntime::rewrite_hosts`].
    pub(super) fn take(&self, names: Arc<Names>) {
        *self.names() = names;
    }

    fn names(&self) -> MutexGuard<'_, Arc<Names>> {
        lock(&self.names)
    }

    /// The file of a copy, if it has one: in a cluster that is not this node alone, on a network of its own, and where the spec mounts nothing itself.
    fn file(&self, instance: &InstanceSpec) -> Option<PathBuf> {
        let (dir, node) = self.place.as_ref()?;
        let name = &instance.name;
        let is_shared = name.cluster.as_str() != node.as_str() || self.names().peers.contains_key(&name.app);
        (is_shared && takes_file(instance)).then(|| dir.join(name.to_string()).join(&instance.fingerprint))
    }

    /// The spec that a copy was made from, as far as it is known.
    fn spec_of(&self, copy: &Networked) -> Option<InstanceSpec> {
        let base = |fingerprint: &str| unmark(fingerprint).0.to_owned();
        let names = self.names();
        let of_copy = |spec: &&Arc<InstanceSpec>| {
            spec.name == copy.instance && base(&spec.fingerprint) == base(&copy.fingerprint)
        };
        let spec = names.specs.iter().find(of_copy)?;
        Some(InstanceSpec { fingerprint: copy.fingerprint.clone(), ..InstanceSpec::clone(spec) })
    }

    /// Writes the file of a copy, if that is not what it says. Blocks.
    fn write(
        &self,
        path: &Path,
        instance: &InstanceSpec,
        own: &[IpAddr],
        gateway: Option<IpAddr>,
    ) -> io::Result<()> {
        let names = self.names();
        let Program::Container(container) = &instance.service.program else { return Ok(()) };
        write_in_place(path, &render(instance, container, own, gateway, &names))
    }

    /// Says of copies that were made without a file, and whose apps are elsewhere too, that they reach nobody there by name.
    pub(super) fn warn(&self, observed: &mut [Observed], copies: &[Networked]) {
        if self.place.is_none() || self.names().peers.is_empty() {
            return;
        }
        for one in observed {
            let is_copy =
                |copy: &&Networked| copy.instance == one.instance && copy.fingerprint == one.fingerprint;
            let Some(copy) = copies.iter().find(is_copy).filter(|copy| !copy.mounts_hosts) else { continue };
            let lacks = |peers: &Arc<crate::peers::Peers>| peers.lines().next().is_some();
            let any = self.names().peers.get(&one.instance.app).is_some_and(lacks);
            if any && self.spec_of(copy).is_some_and(|spec| takes_file(&spec)) {
                one.warnings.push(
                    "it was made before its cluster knew services by name, and reaches none on other members so until it is made anew: `skerry rollout restart` does that"
                        .to_owned(),
                );
            }
        }
    }
}

/// Whether a container may have a file of ours: it is on a network of its app, and its spec mounts nothing there.
fn takes_file(instance: &InstanceSpec) -> bool {
    let service = &instance.service;
    let Program::Container(container) = &service.program else { return false };
    let mounts = container.mounts.iter().map(|mount| mount.target.as_str());
    let configs = service.configs.iter().map(|mount| mount.path.as_str());
    let secrets = service.secrets.iter().map(|mount| mount.path.as_str());
    container.network.mode == NetworkMode::App
        && !mounts.chain(configs).chain(secrets).any(|target| target.trim_end_matches('/') == TARGET)
}

/// The whole file. `own`: the container's addresses, as far as it has any yet.
fn render(
    instance: &InstanceSpec,
    container: &Container,
    own: &[IpAddr],
    gateway: Option<IpAddr>,
    names: &Names,
) -> String {
    let mut text = HEAD.to_owned();
    let mut line = |address: &IpAddr, names: &str| {
        let _ = writeln!(text, "{address}\t{names}");
    };
    for host in &container.network.extra_hosts {
        if let Some(address) = host.address.or(gateway) {
            line(&address, &host.hostname);
        }
    }
    let hostname = container.hostname.as_deref().unwrap_or(instance.service.name.as_str());
    for address in own {
        line(address, hostname);
    }
    for (address, names) in names.peers.get(&instance.name.app).into_iter().flat_map(|peers| peers.lines()) {
        line(&address, &names.join(" "));
    }
    text
}

/// Makes a file say `text`, in the inode that it has: who has it mounted sees no other. One write holds all, and what was longer is blank lines until it
/// is cut: whoever reads meanwhile finds whole lines.
fn write_in_place(path: &Path, text: &str) -> io::Result<()> {
    let open = |create: bool| {
        OpenOptions::new().read(true).write(true).create(create).truncate(false).mode(FILE_MODE).open(path)
    };
    let mut file = match open(false) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            path.parent().map_or(Ok(()), make_dirs)?;
            let file = open(true)?;
            // Not left to the mode at creation, which the umask narrows.
            file.set_permissions(std::os::unix::fs::PermissionsExt::from_mode(FILE_MODE))?;
            file
        }
        opened => opened?,
    };
    let mut before = Vec::new();
    file.read_to_end(&mut before)?;
    if before == text.as_bytes() {
        return Ok(());
    }
    let mut padded = text.as_bytes().to_vec();
    padded.resize(padded.len().max(before.len()), b'\n');
    file.write_all_at(&padded, 0)?;
    file.set_len(text.len() as u64)
}

/// Removes the files that no container mounts. Answers whether the directory is empty then. Blocks.
fn sweep(dir: &Path, in_use: &BTreeSet<PathBuf>) -> io::Result<()> {
    for inner in entries(dir)? {
        sweep(&inner, in_use)?;
        // Stays where something is in it.
        let _ = fs::remove_dir(&inner);
    }
    let files = match fs::read_dir(dir) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        files => files?,
    };
    for file in files {
        let path = file?.path();
        if path.is_file() && !in_use.contains(&path) {
            fs::remove_file(path)?;
        }
    }
    Ok(())
}

impl DockerRuntime {
    /// Writes the hosts file of a copy that is about to start, or has these addresses; answers where it is, if it has one.
    pub(super) async fn lay_out_hosts(
        &self,
        instance: &InstanceSpec,
        own: &[IpAddr],
    ) -> Result<Option<PathBuf>, RuntimeError> {
        let Some(path) = self.hosts.file(instance) else { return Ok(None) };
        let gateway = self.machine_for(spec::container(instance)?).await;
        let (hosts, spec, own, file) =
            (Arc::clone(&self.hosts), instance.clone(), own.to_vec(), path.clone());
        let written = tokio::task::spawn_blocking(move || hosts.write(&file, &spec, &own, gateway)).await;
        written.map_err(io::Error::other).flatten().map_err(|error| RuntimeError {
            reason: if error.kind() == io::ErrorKind::StorageFull { "DiskFull" } else { "HostsFailed" },
            message: format!("writing the hosts file of {}: {error}", instance.name),
            transient: true,
        })?;
        Ok(Some(path))
    }

    /// Writes into the hosts file of a container that was started a moment ago its own addresses. Where that fails the next look does it.
    pub(super) async fn name_itself(&self, instance: &InstanceSpec, id: &str) {
        if self.hosts.file(instance).is_none() {
            return;
        }
        let inspected = async {
            let docker = self.client.docker().await?;
            self.client.within(LOOK_DEADLINE, docker.inspect_container(id, None)).await
        };
        let Ok(found) = inspected.await else { return };
        let networks = found.network_settings.and_then(|settings| settings.networks).unwrap_or_default();
        let own = super::observe::addresses(&networks);
        if let Err(error) = self.lay_out_hosts(instance, &own).await {
            debug!(instance = %instance.name, %error, "its own address is not in its hosts file yet");
        }
    }

    /// Brings the hosts files of all containers that run in step with the names.
    pub(super) async fn rewrite_hosts(&self) -> Result<(), RuntimeError> {
        let mut last = Ok(());
        for copy in self.observer.networked() {
            let spec = if copy.mounts_hosts { self.hosts.spec_of(&copy) } else { None };
            if let Some(spec) = spec {
                // One that cannot be written keeps no other from it.
                last = last.and(self.lay_out_hosts(&spec, &copy.addresses).await.map(drop));
            }
        }
        last
    }

    /// Removes the hosts files that no container mounts.
    pub(super) async fn sweep_hosts(&self, in_use: BTreeSet<PathBuf>) -> Result<(), RuntimeError> {
        let Some((dir, _)) = self.hosts.place.clone() else { return Ok(()) };
        let swept = tokio::task::spawn_blocking(move || sweep(&dir, &in_use)).await;
        swept.map_err(io::Error::other).flatten().map_err(|error| RuntimeError {
            reason: "SweepFailed",
            message: format!("removing hosts files: {error}"),
            transient: true,
        })
    }

    /// The machine as containers reach it, where this one asks for it.
    async fn machine_for(&self, container: &Container) -> Option<IpAddr> {
        if container.network.extra_hosts.iter().all(|host| host.address.is_some()) {
            return None;
        }
        let asked = self.hosts.gateway.get_or_try_init(async || {
            let docker = self.client.docker().await.map_err(|failure| failure.message)?;
            let bridge = self.client.within(LOOK_DEADLINE, docker.inspect_network("bridge", None)).await;
            let bridge = bridge.map_err(|failure| failure.message)?;
            let configs = bridge.ipam.and_then(|ipam| ipam.config).unwrap_or_default();
            let mut gateways = configs.into_iter().filter_map(|config| config.gateway);
            gateways.find_map(|text| text.parse().ok()).ok_or("its bridge has none".to_owned())
        });
        asked
            .await
            .inspect_err(|why| debug!(why, "the machine's address for containers is not known"))
            .ok()
            .copied()
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::MetadataExt as _;

    use super::*;
    use crate::peers::Peers;
    use crate::testing::{app, instance_resource, revision_resource, service};
    use skerry_proto::gateway::v1 as pb;
    use skerry_proto::types::v1 as types;

    fn instance(name: &str, change: impl FnOnce(&mut types::Container)) -> InstanceSpec {
        let mut web = service("web");
        if let Some(types::service_spec::Program::Container(container)) = &mut web.program {
            change(container);
        }
        let revision = revision_resource("shop", &app(vec![web]));
        let resources = [instance_resource(name, &revision, &[]), revision];
        let (desired, refusals) = crate::desired::join(&resources, true);
        assert_eq!(refusals, []);
        InstanceSpec::clone(desired.instances.values().next().unwrap())
    }

    fn names(members: &[(&str, &str)]) -> Names {
        let member = |(node, address): &(&str, &str)| pb::Peer {
            node: (*node).to_owned(),
            address: (*address).to_owned(),
        };
        let members = members.iter().map(member).collect();
        let services =
            vec![pb::PeerService { service: "db".to_owned(), members, ..pb::PeerService::default() }];
        let wire = pb::Peers { app: "shop".to_owned(), services, ..pb::Peers::default() };
        let (app, peers) = Peers::parse(&wire).unwrap();
        Names { peers: [(app, Arc::new(peers))].into(), specs: Vec::new() }
    }

    fn hosts(dir: &Path) -> Hosts {
        Hosts::new(dir.to_owned(), NodeName::parse("n1").unwrap())
    }

    #[test]
    fn a_file_has_what_docker_writes_and_what_others_have() {
        let web = instance("shop/web/plant/0", |container| {
            container.hostname = "front".to_owned();
            container.extra_hosts = vec![
                types::ExtraHost { hostname: "printer".to_owned(), address: "192.0.2.9".to_owned() },
                types::ExtraHost { hostname: "machine".to_owned(), address: "host-gateway".to_owned() },
            ];
        });
        let Program::Container(container) = &web.service.program else { panic!("a container") };
        let own = ["172.18.0.2".parse().unwrap()];
        let gateway = "172.17.0.1".parse().ok();
        let text = render(&web, container, &own, gateway, &names(&[("n2", "192.0.2.2"), ("n3", "")]));
        let expected = "192.0.2.9\tprinter\n172.17.0.1\tmachine\n172.18.0.2\tfront\n192.0.2.2\tdb\n";
        assert_eq!(text.strip_prefix(HEAD), Some(expected));
    }

    #[test]
    fn who_shares_its_cluster_has_a_file_unless_it_has_its_own_way() {
        let dir = tempfile::tempdir().unwrap();
        let hosts = hosts(dir.path());
        let has =
            |name: &str, change: fn(&mut types::Container)| hosts.file(&instance(name, change)).is_some();
        assert!(has("shop/web/plant/0", |_| ()));
        assert!(!has("shop/web/n1/0", |_| ()), "a node that is a cluster of its own");
        assert!(!has("shop/web/plant/0", |c| c.network_mode = types::NetworkMode::Host.into()));
        assert!(!has("shop/web/plant/0", |c| c.network_mode = types::NetworkMode::None.into()));
        assert!(!has("shop/web/plant/0", |c| {
            let source = types::mount::Bind { path: "/etc/hosts".to_owned(), ..Default::default() };
            c.mounts = vec![types::Mount {
                target: TARGET.to_owned(),
                source: Some(types::mount::Source::Bind(source)),
                read_only: true,
            }];
        }));
        // A cluster that has the name of one of its members.
        hosts.take(Arc::new(names(&[("n2", "192.0.2.2")])));
        assert!(has("shop/web/n1/0", |_| ()));
        assert!(Hosts::default().file(&instance("shop/web/plant/0", |_| ())).is_none());
    }

    #[test]
    fn a_copy_that_was_made_without_a_file_says_so_where_it_would_need_one() {
        let spec = instance("shop/web/plant/0", |_| ());
        let observed = || Observed {
            instance: spec.name.clone(),
            fingerprint: spec.fingerprint.clone(),
            revision: spec.revision.to_string(),
            runtime_id: "id".to_owned(),
            state: crate::runtime::RunState::Created,
            address: None,
            image_health: None,
            drift: None,
            place: crate::runtime::Place::Own,
            started: None,
            warnings: Vec::new(),
            gpus: Vec::new(),
        };
        let dir = tempfile::tempdir().unwrap();
        let warned = |members: &[(&str, &str)], mounts_hosts| {
            let hosts = hosts(dir.path());
            hosts.take(Arc::new(Names { specs: vec![Arc::new(spec.clone())], ..names(members) }));
            let (instance, fingerprint) = (spec.name.clone(), spec.fingerprint.clone());
            let mut all = [observed()];
            hosts.warn(&mut all, &[Networked { instance, fingerprint, addresses: Vec::new(), mounts_hosts }]);
            all[0].warnings.len()
        };
        assert_eq!(warned(&[("n2", "192.0.2.2")], false), 1);
        assert_eq!(warned(&[("n2", "192.0.2.2")], true), 0, "it has one");
        assert_eq!(warned(&[("n2", "")], false), 0, "there is nobody to reach");
    }

    #[test]
    fn a_file_is_rewritten_in_its_inode_and_only_when_it_says_something_else() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("shop/web/plant/0/f1");
        let says = |text: &str| {
            write_in_place(&path, text).unwrap();
            assert_eq!(fs::read_to_string(&path).unwrap(), text);
            let found = fs::metadata(&path).unwrap();
            (found.ino(), found.mode() & 0o777, found.mtime_nsec())
        };
        let (inode, mode, _) = says("1 a\n2 b\n");
        assert_eq!(mode, 0o644);
        for text in ["3 c\n", "3 c\n4 a longer one\n", ""] {
            assert_eq!(says(text).0, inode);
        }
        assert_eq!(says(""), says(""));
    }

    #[test]
    fn files_that_no_container_mounts_are_swept() {
        let dir = tempfile::tempdir().unwrap();
        let file = |name: &str| {
            let path = dir.path().join(name);
            write_in_place(&path, "x").unwrap();
            path
        };
        let (used, old) = (file("shop/web/plant/0/f1"), file("shop/web/plant/0/f0"));
        let gone = file("gone/web/plant/0/f1");
        sweep(dir.path(), &BTreeSet::from([used.clone()])).unwrap();
        assert!(used.exists() && !old.exists() && !gone.exists() && !dir.path().join("gone").exists());
        sweep(&dir.path().join("nosuch"), &BTreeSet::new()).unwrap();
    }
}
