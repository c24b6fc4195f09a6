//! The desired state of this node, joined: from resources (instances, revisions, configs) to instance specs that a runtime can run.
//!
//! Pure. What cannot be joined is told with its reason and held back alone: the other instances go on. Where the resources are
//! kept is `state`'s matter, when they take effect the reconciler's.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use prost::Message as _;
use skerry_model::app::{AppSpec, Container, MountSource, Program, ServiceSpec, UpdateBounds};
use skerry_model::config::ConfigSpec;
use skerry_model::{
    AppName, ConfigName, ContentHash, GpuBooking, InstanceName, NetworkName, SecretName, ServiceName,
};
use skerry_proto::gateway::v1 as pb;
use skerry_proto::scheduler::v1 as scheduler;
use skerry_sync::desired::secret_resource_name;

use crate::ahead::Image;
use crate::fingerprint::fingerprint;
use crate::good::Bundle;
use crate::peers::Peers;
use crate::runtime::{Needs, Wanted, environment};
use crate::secrets::SealedContent;
use crate::update::{Content, TakenBack};

/// The content of a config.
#[derive(Debug, PartialEq, Eq)]
pub struct ConfigContent {
    /// Hash of its encoded spec.
    pub hash: ContentHash,
    /// Contents by file name.
    pub files: BTreeMap<String, Vec<u8>>,
}

/// One instance as it shall run.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct InstanceSpec {
    /// Which instance.
    pub name: InstanceName,
    /// Revision of its app.
    pub revision: ContentHash,
    /// What is run.
    pub service: Arc<ServiceSpec>,
    /// The configs that it uses.
    pub configs: BTreeMap<ConfigName, Arc<ConfigContent>>,
    /// The secrets that it uses, sealed.
    pub secrets: BTreeMap<SecretName, Arc<SealedContent>>,
    /// What is booked for it of the machine's GPUs.
    pub gpus: Vec<GpuBooking>,
    /// Hash over all of it that a running copy depends on: same fingerprint, same copy, nothing to restart. A change of another service
    /// of the app, of health checks, dependencies or restart policy does not alter it.
    pub fingerprint: String,
}

/// Why a resource cannot be taken.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Refusal {
    /// Name of the resource.
    pub resource: String,
    /// Its content version.
    pub version: String,
    /// One CamelCase word.
    pub reason: &'static str,
    /// A sentence for people.
    pub message: String,
}

/// An instance that shall run and cannot be made out. What runs of it is left alone.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Blocked {
    /// Revision of its app, as it was named.
    pub revision: String,
    /// One CamelCase word.
    pub reason: &'static str,
    /// A sentence for people.
    pub message: String,
}

/// An app as a whole.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Whole {
    /// What it is made of here.
    pub(crate) content: Content,
    /// All services that its revision has, here or elsewhere.
    pub(crate) services: BTreeSet<ServiceName>,
    /// By what an update of it is taken back.
    pub(crate) bounds: UpdateBounds,
}

/// All that this node shall run.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Desired {
    /// W3C trace context of the update that brought it. Empty: nobody traces it.
    pub trace_parent: String,
    /// What can be run.
    pub instances: BTreeMap<InstanceName, Arc<InstanceSpec>>,
    /// What is wanted and cannot be run as it was sent.
    pub blocked: BTreeMap<InstanceName, Blocked>,
    /// What apps have on other members of the cluster. It changes nothing that runs.
    pub peers: BTreeMap<AppName, Arc<Peers>>,
    /// Images that are fetched ahead, by id.
    pub images: BTreeMap<String, Arc<Image>>,
    /// What was run last of instances whose wanted copy was not started yet: run on until that one can take its place.
    pub formers: BTreeMap<InstanceName, Arc<InstanceSpec>>,
    /// Each app that has something here, as a whole.
    pub(crate) apps: BTreeMap<AppName, Whole>,
    /// The last good revision of apps whose wanted one is another.
    pub(crate) goods: BTreeMap<AppName, Arc<Bundle>>,
    /// Apps of which that one is run instead.
    pub(crate) taken_back: BTreeMap<AppName, TakenBack>,
    /// Whether this is known to be what the control plane wants. Otherwise (no state yet, or a state file that was lost) nothing that
    /// runs is stopped or replaced on its account.
    pub authoritative: bool,
}

impl Desired {
    /// What a copy with this fingerprint was made from, if it is known.
    pub fn spec_of(&self, name: &InstanceName, fingerprint: &str) -> Option<&Arc<InstanceSpec>> {
        let specs = [self.instances.get(name), self.formers.get(name)];
        specs.into_iter().flatten().find(|spec| spec.fingerprint == fingerprint)
    }

    /// Whether `name` is wanted, runnable or not.
    pub fn wants(&self, name: &InstanceName) -> bool {
        self.instances.contains_key(name) || self.blocked.contains_key(name)
    }

    /// What runtimes must keep.
    pub fn wanted(&self) -> Wanted {
        let names = || self.instances.keys().chain(self.blocked.keys());
        Wanted {
            apps: names().map(|name| name.app.clone()).collect(),
            networks: self.instances.values().flat_map(|spec| networks(spec)).collect(),
            instances: names().cloned().collect(),
            configs: self
                .instances
                .values()
                .flat_map(|spec| &spec.configs)
                .map(|(name, content)| (name.clone(), content.hash.to_string()))
                .collect(),
        }
    }
}

impl Desired {
    /// What takes room and must stay.
    pub fn needs(&self) -> Needs {
        let containers = |specs: &'_ BTreeMap<InstanceName, Arc<InstanceSpec>>| -> Vec<(AppName, Container)> {
            let of = |spec: &Arc<InstanceSpec>| match &spec.service.program {
                Program::Container(container) => Some((spec.name.app.clone(), container.clone())),
                Program::Process(_) => None,
            };
            specs.values().filter_map(of).collect()
        };
        let (wanted, former) = (containers(&self.instances), containers(&self.formers));
        let downloaded = |spec: &'_ Arc<InstanceSpec>| match &spec.service.program {
            Program::Container(_) => Vec::new(),
            Program::Process(process) => process.artifacts.iter().map(|one| one.sha256.clone()).collect(),
        };
        let mut volumes = BTreeMap::new();
        for (app, container) in &wanted {
            for mount in &container.mounts {
                if let MountSource::Volume { name, remove_with_app } = &mount.source {
                    volumes.insert((app.clone(), name.clone()), *remove_with_app);
                }
            }
        }
        Needs {
            apps: self.instances.keys().chain(self.blocked.keys()).map(|name| name.app.clone()).collect(),
            images: wanted
                .into_iter()
                .chain(former)
                .map(|(_, container)| container.image)
                .chain(self.images.values().map(|image| image.image.clone()))
                .collect(),
            volumes,
            artifacts: self.instances.values().chain(self.formers.values()).flat_map(downloaded).collect(),
        }
    }
}

/// Joins all `resources` of the desired state. The refusals are told to the control plane; an instance that needs a refused resource
/// is refused with it and found in [`Desired::blocked`].
pub fn join<'a>(
    resources: impl IntoIterator<Item = &'a pb::Resource>,
    authoritative: bool,
) -> (Desired, Vec<Refusal>) {
    let mut parts = Parts::default();
    for resource in resources {
        parts.take(resource);
    }
    let (peers, images) = (parts.peers(), parts.images());
    let mut desired = Desired { peers, images, authoritative, ..Desired::default() };
    for (resource, wire) in std::mem::take(&mut parts.instances) {
        if let (Ok(name), Some(bounds)) = (InstanceName::parse(&wire.instance), &wire.bounds) {
            desired.apps.entry(name.app).or_default().bounds = UpdateBounds::from_proto(bounds);
        }
        let Ok(name) = InstanceName::parse(&wire.instance) else {
            let message = format!("`{}` is not the name of an instance", wire.instance);
            parts.refuse(resource, "InvalidName", message);
            continue;
        };
        match parts.instance(&name, wire) {
            Ok(spec) => {
                desired.instances.insert(name, Arc::new(spec));
            }
            Err((reason, message)) => {
                parts.refuse(resource, reason, message.clone());
                desired.blocked.insert(name, Blocked { revision: wire.revision.clone(), reason, message });
            }
        }
    }
    desired.apps = wholes(&desired, &parts);
    (desired, parts.refusals)
}

/// Each app of which there is something, as a whole. What is said of bounds is there already.
fn wholes(desired: &Desired, parts: &Parts<'_>) -> BTreeMap<AppName, Whole> {
    let names = desired.instances.keys().chain(desired.blocked.keys());
    let apps: BTreeSet<&AppName> = names.map(|name| &name.app).collect();
    let whole = |app: &AppName| {
        let specs = desired.instances.values().filter(|spec| spec.name.app == *app).map(AsRef::as_ref);
        let blocked = desired.blocked.iter().filter(|(name, _)| name.app == *app).map(|(_, why)| why);
        let content = Content::of(specs, blocked);
        let revisions = content.revisions.iter().filter_map(|hash| ContentHash::parse(hash).ok());
        let services = revisions.filter_map(|hash| parts.revisions.get(&hash)?.as_ref().ok());
        let services = services.flat_map(|services| services.values().map(|one| one.name.clone())).collect();
        let bounds = desired.apps.get(app).map(|said| said.bounds).unwrap_or_default();
        Whole { content, services, bounds }
    };
    apps.into_iter().map(|app| (app.clone(), whole(app))).collect()
}

/// The further networks that an instance is in.
fn networks(spec: &InstanceSpec) -> impl Iterator<Item = (AppName, NetworkName)> {
    let further = match &spec.service.program {
        Program::Container(container) => Some(&container.network.further),
        Program::Process(_) => None,
    };
    further.into_iter().flat_map(BTreeMap::keys).map(|network| (spec.name.app.clone(), network.clone()))
}

type Problem = (&'static str, String);

/// What was decoded so far. A part that does not decode keeps its reason, for the instances that need it.
#[derive(Default)]
struct Parts<'a> {
    instances: Vec<(&'a pb::Resource, &'a pb::Instance)>,
    revisions: BTreeMap<ContentHash, Result<BTreeMap<String, Arc<ServiceSpec>>, Problem>>,
    configs: BTreeMap<(String, ContentHash), Result<Arc<ConfigContent>, Problem>>,
    /// By name of the resource.
    secrets: BTreeMap<&'a str, Result<Arc<SealedContent>, Problem>>,
    /// With the revision that its cluster shall have.
    peers: Vec<(AppName, Peers, &'a str)>,
    images: Vec<&'a pb::Image>,
    refusals: Vec<Refusal>,
}

impl<'a> Parts<'a> {
    fn take(&mut self, resource: &'a pb::Resource) {
        if let Some(lacking) = crate::features::lacking(resource) {
            return self.lack(resource, lacking);
        }
        let problem = match &resource.body {
            Some(pb::resource::Body::Instance(instance)) => {
                self.instances.push((resource, instance));
                None
            }
            Some(pb::resource::Body::Revision(bytes)) => self.take_revision(resource, bytes),
            Some(pb::resource::Body::Config(bytes)) => self.take_config(resource, bytes),
            Some(pb::resource::Body::Secret(secret)) => {
                // Whether it opens is seen when it is needed: the key may be away just now.
                let content = SealedContent {
                    version: resource.name.rsplit('/').next().unwrap_or_default().to_owned(),
                    sealed: secret.sealed.clone(),
                    node_uid: secret.node_uid.clone(),
                };
                self.secrets.insert(&resource.name, Ok(Arc::new(content)));
                None
            }
            Some(pb::resource::Body::Peers(wire)) => match Peers::parse(wire) {
                Ok((app, peers)) => {
                    self.peers.push((app, peers, &wire.revision));
                    None
                }
                Err(message) => Some(("InvalidPeers", message)),
            },
            Some(pb::resource::Body::Image(image)) => {
                self.images.push(image);
                None
            }
            None => Some(("UnknownResource", "this agent does not know resources of its kind".to_owned())),
        };
        if let Some((reason, message)) = problem {
            self.refuse(resource, reason, message);
        }
    }

    /// What asks for more than this agent can do is not run without it; what needs it says so.
    fn lack(&mut self, resource: &'a pb::Resource, message: String) {
        let problem = ("UnsupportedFeature", message);
        let mut parts = resource.name.rsplitn(2, '/');
        let hash = parts.next().and_then(|hash| ContentHash::parse(hash).ok());
        let name = parts.next().and_then(|rest| rest.split_once('/')).map_or("", |(_, name)| name);
        match (&resource.body, hash) {
            (Some(pb::resource::Body::Revision(_)), Some(hash)) => {
                self.revisions.insert(hash, Err(problem.clone()));
            }
            (Some(pb::resource::Body::Config(_)), Some(hash)) => {
                self.configs.insert((name.to_owned(), hash), Err(problem.clone()));
            }
            (Some(pb::resource::Body::Secret(_)), _) => {
                self.secrets.insert(&resource.name, Err(problem.clone()));
            }
            _ => {}
        }
        self.refuse(resource, problem.0, problem.1);
    }

    fn take_revision(&mut self, resource: &pb::Resource, bytes: &[u8]) -> Option<Problem> {
        let hash = match checked_hash(resource, bytes) {
            Ok((_, hash)) => hash,
            Err(problem) => return Some(problem),
        };
        let decoded = AppSpec::decode(bytes)
            .map(|app| app.services.into_iter().map(|s| (s.name.to_string(), Arc::new(s))).collect())
            .map_err(|fault| ("InvalidSpec", fault.message));
        let problem = decoded.as_ref().err().cloned();
        self.revisions.insert(hash, decoded);
        problem
    }

    fn take_config(&mut self, resource: &pb::Resource, bytes: &[u8]) -> Option<Problem> {
        let (name, hash) = match checked_hash(resource, bytes) {
            Ok(found) => found,
            Err(problem) => return Some(problem),
        };
        let decoded = scheduler::ConfigSpec::decode(bytes)
            .map_err(|error| ("InvalidConfig", format!("not an encoded config: {error}")))
            .and_then(|wire| ConfigSpec::from_proto(&wire).map_err(|fault| ("InvalidConfig", fault.message)))
            .map(|spec| Arc::new(ConfigContent { hash, files: spec.files }));
        let problem = decoded.as_ref().err().cloned();
        self.configs.insert((name.to_owned(), hash), decoded);
        problem
    }

    /// What apps have elsewhere, under all names that it has.
    fn peers(&mut self) -> BTreeMap<AppName, Arc<Peers>> {
        let mut named = BTreeMap::new();
        for (app, mut peers, revision) in std::mem::take(&mut self.peers) {
            let hash = ContentHash::parse(revision).ok();
            if let Some(Ok(services)) = hash.and_then(|hash| self.revisions.get(&hash)) {
                peers.name(|service| services.get(service.as_str()).map(AsRef::as_ref));
            }
            named.insert(app, Arc::new(peers));
        }
        named
    }

    /// Images that are fetched ahead, with the secrets that they need. What did not come is told when it is needed.
    fn images(&self) -> BTreeMap<String, Arc<Image>> {
        let image = |wire: &&pb::Image| {
            let credentials = wire.credentials.as_ref().and_then(|one| {
                let resource = secret_resource_name(&one.secret, &one.version);
                let content = self.secrets.get(resource.as_str()).and_then(|one| one.as_ref().ok());
                Some((SecretName::parse(&one.secret).ok()?, content.cloned()))
            });
            let platform = Some(wire.platform.clone()).filter(|platform| !platform.is_empty());
            let image = Image { image: wire.image.clone(), platform, credentials, round: wire.round };
            (wire.id.clone(), Arc::new(image))
        };
        self.images.iter().map(image).collect()
    }

    fn instance(&self, name: &InstanceName, wire: &pb::Instance) -> Result<InstanceSpec, Problem> {
        let revision = ContentHash::parse(&wire.revision)
            .map_err(|error| ("InvalidName", format!("its revision `{}`: {error}", wire.revision)))?;
        let services = match self.revisions.get(&revision) {
            Some(Ok(services)) => services,
            Some(Err((reason, message))) => return Err((reason, format!("its revision: {message}"))),
            None => return Err(("RevisionMissing", format!("revision {revision} did not come with it"))),
        };
        let service = services
            .get(name.service.as_str())
            .ok_or_else(|| ("ServiceMissing", format!("its revision has no service `{}`", name.service)))?;
        let mut configs = BTreeMap::new();
        for config in service.config_names() {
            configs.insert(config.clone(), self.config(config, wire)?);
        }
        let mut secrets = BTreeMap::new();
        for secret in service.secret_names() {
            secrets.insert(secret.clone(), self.secret(secret, wire)?);
        }
        check_keys(service, &configs)?;
        environment::check_configs(service, &configs).map_err(|why| (environment::INVALID, why))?;
        let gpus = bookings(service, &wire.gpus)?;
        let fingerprint = fingerprint(service, &configs, &secrets, &gpus);
        let (name, service) = (name.clone(), Arc::clone(service));
        Ok(InstanceSpec { name, revision, service, configs, secrets, gpus, fingerprint })
    }

    fn config(&self, config: &ConfigName, wire: &pb::Instance) -> Result<Arc<ConfigContent>, Problem> {
        let missing = || ("ConfigMissing", format!("config `{config}` did not come with it"));
        let named = wire.configs.iter().find(|one| one.config == config.as_str()).ok_or_else(missing)?;
        let hash = ContentHash::parse(&named.hash)
            .map_err(|error| ("InvalidName", format!("its config `{config}`: {error}")))?;
        match self.configs.get(&(named.config.clone(), hash)) {
            Some(Ok(content)) => Ok(Arc::clone(content)),
            Some(Err((reason, message))) => Err((reason, format!("its config `{config}`: {message}"))),
            None => Err(missing()),
        }
    }

    fn secret(&self, secret: &SecretName, wire: &pb::Instance) -> Result<Arc<SealedContent>, Problem> {
        let missing = || ("SecretMissing", format!("secret `{secret}` did not come with it"));
        let named = wire.secrets.iter().find(|one| one.secret == secret.as_str()).ok_or_else(missing)?;
        let resource = secret_resource_name(&named.secret, &named.version);
        match self.secrets.get(resource.as_str()) {
            Some(Ok(content)) => Ok(Arc::clone(content)),
            Some(Err((reason, message))) => Err((reason, format!("its secret `{secret}`: {message}"))),
            None => Err(missing()),
        }
    }

    fn refuse(&mut self, resource: &pb::Resource, reason: &'static str, message: String) {
        self.refusals.push(Refusal {
            resource: resource.name.clone(),
            version: resource.version.clone(),
            reason,
            message,
        });
    }
}

/// Splits `<collection>/<name>/<hash>` and holds the bytes against the hash.
fn checked_hash<'n>(resource: &'n pb::Resource, bytes: &[u8]) -> Result<(&'n str, ContentHash), Problem> {
    let mut parts = resource.name.split('/').skip(1);
    let (Some(name), Some(hash), None) = (parts.next(), parts.next(), parts.next()) else {
        return Err(("InvalidName", format!("`{}` does not name a content", resource.name)));
    };
    let hash = ContentHash::parse(hash).map_err(|error| ("InvalidName", error.to_string()))?;
    if ContentHash::of(bytes) == hash {
        Ok((name, hash))
    } else {
        Err(("HashMismatch", "its bytes are not those that its name tells the hash of".to_owned()))
    }
}

/// What is booked of GPUs for an instance of `service`: as much as that asks for.
fn bookings(
    service: &ServiceSpec,
    wire: &[skerry_proto::gpu::v1::Booking],
) -> Result<Vec<GpuBooking>, Problem> {
    let asked = service.gpu.as_ref().map_or(0, |gpu| gpu.need.count());
    if usize::try_from(asked) != Ok(wire.len()) {
        let message = format!("its service asks for {asked} GPUs, and {} are booked for it", wire.len());
        return Err(("InvalidBooking", message));
    }
    let parse = |(at, one): (usize, &skerry_proto::gpu::v1::Booking)| {
        GpuBooking::from_proto(one).ok_or_else(|| {
            (
                "InvalidBooking",
                format!("booking {at} of GPUs, of `{}`, is none that this agent understands", one.gpu),
            )
        })
    };
    wire.iter().enumerate().map(parse).collect()
}

fn check_keys(
    service: &ServiceSpec,
    configs: &BTreeMap<ConfigName, Arc<ConfigContent>>,
) -> Result<(), Problem> {
    for mount in &service.configs {
        if let (Some(key), Some(content)) = (&mount.key, configs.get(&mount.config))
            && !content.files.contains_key(key)
        {
            return Err(("ConfigKeyMissing", format!("config `{}` has no entry `{key}`", mount.config)));
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{app, config_resource, instance_resource, revision_resource, service};

    #[test]
    fn an_instance_has_the_gpus_that_are_booked_for_it_and_other_ones_make_it_another_copy() {
        use skerry_proto::gpu::v1::allocation::Isolation;
        use skerry_proto::gpu::v1::{Booking, GpuShare};
        let mut web = service("web");
        web.gpu = Some(skerry_proto::types::v1::GpuRequest { memory_bytes: Some(1), ..Default::default() });
        let revision = revision_resource("shop", &app(vec![web]));
        let joined = |gpus: Vec<Booking>| {
            let mut instance = instance_resource("shop/web/n1/0", &revision, &[]);
            let Some(pb::resource::Body::Instance(wire)) = &mut instance.body else { panic!("an instance") };
            wire.gpus = gpus;
            join(&[revision.clone(), instance], true)
        };
        let of = |gpu: &str, memory, isolation: Isolation| Booking {
            gpu: gpu.to_owned(),
            share: Some(GpuShare { memory_bytes: Some(memory), ..GpuShare::default() }),
            isolation: isolation.into(),
            ..Booking::default()
        };
        let fingerprint = |booking: Booking| {
            let (desired, refusals) = joined(vec![booking]);
            assert_eq!(refusals, []);
            let spec = desired.instances.values().next().unwrap();
            assert_eq!(spec.gpus.len(), 1);
            spec.fingerprint.clone()
        };
        let first = fingerprint(of("GPU-1", 1, Isolation::Accounted));
        assert_eq!(fingerprint(of("GPU-1", 1, Isolation::Mps)), first, "daemons come and go");
        assert_ne!(fingerprint(of("GPU-2", 1, Isolation::Accounted)), first);
        assert_ne!(fingerprint(of("GPU-1", 2, Isolation::Accounted)), first);
        let bad = Booking { share: None, ..of("GPU-1", 1, Isolation::Accounted) };
        for gpus in [Vec::new(), vec![of("GPU-1", 1, Isolation::Mps); 2], vec![bad]] {
            let (desired, refusals) = joined(gpus);
            assert_eq!((desired.instances.len(), refusals[0].reason), (0, "InvalidBooking"));
        }
    }

    #[test]
    fn an_instance_is_joined_with_its_service_and_configs() {
        let mut web = service("web");
        web.configs = vec![skerry_proto::types::v1::ConfigMount {
            config: "motd".into(),
            path: "/etc/motd".into(),
            key: "motd".into(),
            ..Default::default()
        }];
        let revision = revision_resource("shop", &app(vec![web, service("db")]));
        let config = config_resource("motd", &[("motd", "hello")]);
        let web = instance_resource("shop/web/n1/0", &revision, &[&config]);
        let (desired, refusals) = join([&revision, &config, &web], true);
        assert_eq!(refusals, []);
        let spec = desired.instances.values().next().unwrap();
        assert_eq!(spec.service.name.as_str(), "web");
        assert_eq!(spec.configs.values().next().unwrap().files["motd"], b"hello");
        let wanted = desired.wanted();
        assert_eq!((wanted.apps.len(), wanted.instances.len(), wanted.configs.len()), (1, 1, 1));
    }

    #[test]
    fn what_an_older_agent_finds_on_disk_and_cannot_run_as_written_is_not_run() {
        let mut needs = revision_resource("shop", &app(vec![service("web")]));
        needs.requires = vec![skerry_model::feature::READ_ONLY_MOUNT.to_owned()];
        let web = instance_resource("shop/web/n1/0", &needs, &[]);
        assert_eq!(join([&needs, &web], true).0.instances.len(), 1);
        needs.requires.push("from-the-future".to_owned());
        let (desired, refusals) = join([&needs, &web], true);
        assert!(desired.instances.is_empty());
        let blocked = desired.blocked.values().next().unwrap();
        assert_eq!((blocked.reason, refusals[0].reason), ("UnsupportedFeature", "UnsupportedFeature"));
        assert!(blocked.message.contains("from-the-future"), "{}", blocked.message);
    }

    #[test]
    fn what_cannot_be_joined_blocks_nothing_else() {
        let good = revision_resource("shop", &app(vec![service("web")]));
        let mut torn = revision_resource("torn", &app(vec![service("web")]));
        if let Some(pb::resource::Body::Revision(bytes)) = &mut torn.body {
            *bytes = [bytes, &[0][..]].concat().into();
        }
        let bad = revision_resource("bad", &app(vec![service("web"), service("web")]));
        let absent = revision_resource("gone", &app(vec![service("api")]));
        let resources = [
            instance_resource("shop/web/n1/0", &good, &[]),
            instance_resource("shop/other/n1/0", &good, &[]),
            instance_resource("torn/web/n1/0", &torn, &[]),
            instance_resource("bad/web/n1/0", &bad, &[]),
            instance_resource("gone/api/n1/0", &absent, &[]),
            good,
            bad,
        ];
        let (desired, refusals) = join(resources.iter().chain([&torn]), true);
        let running: Vec<String> = desired.instances.keys().map(ToString::to_string).collect();
        // `torn` has the revision hash of `shop`, whose bytes came whole.
        assert_eq!(running, ["shop/web/n1/0", "torn/web/n1/0"]);
        let reasons: BTreeMap<&str, &str> =
            refusals.iter().map(|refusal| (refusal.resource.as_str(), refusal.reason)).collect();
        assert_eq!(reasons["instances/shop/other/n1/0"], "ServiceMissing");
        assert_eq!(reasons["instances/bad/web/n1/0"], "InvalidSpec");
        assert_eq!(reasons["instances/gone/api/n1/0"], "RevisionMissing");
        assert!(reasons.values().any(|reason| *reason == "HashMismatch"));
        assert_eq!(desired.blocked.len(), 3);
        assert_eq!(desired.wanted().instances.len(), 5, "what is blocked is kept");
    }
}
