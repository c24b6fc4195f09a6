//! The desired state of a node as named, versioned resources: what an agent holds, what an assignment asks for, and what is between
//! two of them. Pure. Loading contents is the gateway's, storing them the agent's.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use bytes::Bytes;
use prost::Message as _;
use skerry_model::{AppName, ConfigName, ContentHash, InstanceName, SecretName, SecretVersion};
use skerry_proto::gateway::v1 as pb;
use skerry_proto::store::v1 as store;

use crate::Version;

/// Content versions by resource name.
pub type ResourceVersions = BTreeMap<String, String>;

/// What a resource is, by its name.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum ResourceName {
    /// `instances/<app>/<service>/<cluster>/<ordinal>`.
    Instance(InstanceName),
    /// `revisions/<app>/<hash>`.
    Revision {
        /// Of which app.
        app: AppName,
        /// Of its encoded spec.
        hash: ContentHash,
    },
    /// `configs/<config>/<hash>`.
    Config {
        /// Which config.
        config: ConfigName,
        /// Of its encoded spec.
        hash: ContentHash,
    },
    /// `secrets/<secret>/<version>`.
    Secret {
        /// Which secret.
        secret: SecretName,
        /// Which values.
        version: SecretVersion,
    },
    /// `peers/<app>`.
    Peers(AppName),
    /// `images/<id>`.
    Image(String),
}

impl ResourceName {
    /// Parses a resource name. Nothing where it is of no kind that we know.
    pub fn parse(text: &str) -> Option<Self> {
        let (kind, rest) = text.split_once('/')?;
        let hashed =
            || rest.split_once('/').and_then(|(name, hash)| Some((name, ContentHash::parse(hash).ok()?)));
        match kind {
            "instances" => InstanceName::parse(rest).ok().map(Self::Instance),
            "revisions" => {
                hashed().and_then(|(app, hash)| Some(Self::Revision { app: AppName::parse(app).ok()?, hash }))
            }
            "configs" => hashed().and_then(|(config, hash)| {
                Some(Self::Config { config: ConfigName::parse(config).ok()?, hash })
            }),
            "secrets" => {
                let (secret, version) = rest.split_once('/')?;
                let secret = SecretName::parse(secret).ok()?;
                Some(Self::Secret { secret, version: SecretVersion::parse(version).ok()? })
            }
            "peers" => AppName::parse(rest).ok().map(Self::Peers),
            "images" if is_image_id(rest) => Some(Self::Image(rest.to_owned())),
            _ => None,
        }
    }
}

/// Name of the resource of an instance.
pub fn instance_resource_name(instance: &str) -> String {
    format!("instances/{instance}")
}

/// Name of the resource of a revision.
pub fn revision_resource_name(app: &str, hash: &str) -> String {
    format!("revisions/{app}/{hash}")
}

/// Name of the resource of a config at a content version.
pub fn config_resource_name(config: &str, hash: &str) -> String {
    format!("configs/{config}/{hash}")
}

/// Name of the resource of a secret at a version.
pub fn secret_resource_name(secret: &str, version: &str) -> String {
    format!("secrets/{secret}/{version}")
}

/// Name of the resource of what an app has on other members.
pub fn peers_resource_name(app: &str) -> String {
    format!("peers/{app}")
}

/// Name of the resource of an image that is fetched ahead.
pub fn image_resource_name(id: &str) -> String {
    format!("images/{id}")
}

/// Whether an image that is fetched ahead is named so.
fn is_image_id(id: &str) -> bool {
    id.len() == 16 && id.bytes().all(|b| b.is_ascii_digit() || (b'a'..=b'f').contains(&b))
}

/// Whether a resource is in the assignment itself: the others are contents, which are loaded.
pub(crate) fn is_assigned(name: &str) -> bool {
    ["instances/", "peers/", "images/"].into_iter().any(|kind| name.starts_with(kind))
}

/// Version of the resource of a secret: another key makes another ciphertext of the same values.
fn sealed_version(version: &str, seal: &str) -> String {
    format!("{version}.{seal}")
}

/// The names of the contents that an instance needs: its revision, its configs and its secrets.
pub fn references(instance: &pb::Instance) -> impl Iterator<Item = String> {
    let app = instance.instance.split('/').next().unwrap_or_default();
    std::iter::once(revision_resource_name(app, &instance.revision))
        .chain(instance.configs.iter().map(|config| config_resource_name(&config.config, &config.hash)))
        .chain(instance.secrets.iter().map(|one| secret_resource_name(&one.secret, &one.version)))
}

/// The instance that an assignment asks for, as it travels. Its version is the hash of its encoding.
pub fn instance_resource(assigned: &store::AssignedInstance) -> pb::Resource {
    let instance = pb::Instance {
        instance: assigned.instance.clone(),
        revision: assigned.revision.clone(),
        configs: assigned
            .configs
            .iter()
            .map(|config| pb::ConfigReference { config: config.config.clone(), hash: config.hash.clone() })
            .collect(),
        secrets: assigned
            .secrets
            .iter()
            .map(|one| pb::SecretReference { secret: one.secret.clone(), version: one.version.clone() })
            .collect(),
        bounds: assigned.bounds,
        gpus: assigned.gpus.clone(),
    };
    let requires = (!assigned.gpus.is_empty()).then(|| skerry_model::feature::GPU.to_owned());
    pb::Resource {
        name: instance_resource_name(&assigned.instance),
        version: ContentHash::of(&instance.encode_to_vec()).to_string(),
        requires: requires.into_iter().collect(),
        body: Some(pb::resource::Body::Instance(instance)),
    }
}

/// What an app has on other members, as it travels. An agent that cannot tell its instances refuses it. Its version is the hash of its encoding.
pub fn peers_resource(assigned: &store::AssignedPeers) -> pb::Resource {
    let member =
        |one: &store::AssignedPeer| pb::Peer { node: one.node.clone(), address: one.address.clone() };
    let service = |one: &store::AssignedPeerService| pb::PeerService {
        service: one.service.clone(),
        members: one.members.iter().map(member).collect(),
        met: one.met.clone(),
    };
    let peers = pb::Peers {
        app: assigned.app.clone(),
        revision: assigned.revision.clone(),
        services: assigned.services.iter().map(service).collect(),
    };
    pb::Resource {
        name: peers_resource_name(&assigned.app),
        version: ContentHash::of(&peers.encode_to_vec()).to_string(),
        requires: vec![skerry_model::feature::PEERS.to_owned()],
        body: Some(pb::resource::Body::Peers(peers)),
    }
}

/// An image that is fetched ahead, as it travels. An agent that cannot do that refuses it, so that it is known. Its version is the hash of its encoding.
pub fn image_resource(assigned: &store::AssignedImage) -> pb::Resource {
    let credentials = assigned.credentials.as_ref();
    let image = pb::Image {
        id: assigned.id.clone(),
        image: assigned.image.clone(),
        platform: assigned.platform.clone(),
        credentials: credentials
            .map(|one| pb::SecretReference { secret: one.secret.clone(), version: one.version.clone() }),
        round: assigned.round,
    };
    pb::Resource {
        name: image_resource_name(&assigned.id),
        version: ContentHash::of(&image.encode_to_vec()).to_string(),
        requires: vec![skerry_model::feature::PREFETCH.to_owned()],
        body: Some(pb::resource::Body::Image(image)),
    }
}

/// The resources of an assignment that are in it itself, and not loaded.
pub(crate) fn assigned_resources(record: &store::AssignmentRecord) -> impl Iterator<Item = pb::Resource> {
    let instances = record.instances.iter().map(instance_resource);
    let peers = record.peers.iter().map(peers_resource);
    instances.chain(peers).chain(record.images.iter().map(image_resource))
}

/// A revision or a config as it travels: `bytes` are those that are stored, which `hash` is of.
pub fn content_resource(name: &ResourceName, bytes: Bytes, requires: Vec<String>) -> Option<pb::Resource> {
    let (name, hash, body) = match name {
        ResourceName::Instance(_)
        | ResourceName::Secret { .. }
        | ResourceName::Peers(_)
        | ResourceName::Image(_) => return None,
        ResourceName::Revision { app, hash } => (
            revision_resource_name(app.as_str(), &hash.to_string()),
            hash,
            pb::resource::Body::Revision(bytes),
        ),
        ResourceName::Config { config, hash } => (
            config_resource_name(config.as_str(), &hash.to_string()),
            hash,
            pb::resource::Body::Config(bytes),
        ),
    };
    Some(pb::Resource { name, version: hash.to_string(), requires, body: Some(body) })
}

/// A secret as it travels: sealed to its node, and refused by an agent that cannot open it.
pub fn secret_resource(
    secret: &SecretName,
    version: &SecretVersion,
    record: store::SealedSecretRecord,
) -> pb::Resource {
    let store::SealedSecretRecord { sealed, node_uid, seal } = record;
    let version = version.to_string();
    pb::Resource {
        name: secret_resource_name(secret.as_str(), &version),
        version: sealed_version(&version, &seal),
        requires: vec![skerry_model::feature::SEALED_SECRETS.to_owned()],
        body: Some(pb::resource::Body::Secret(pb::SealedSecret { sealed, node_uid })),
    }
}

/// The resources that an assignment asks for: each instance, the revisions, configs and secrets that they name, what their apps have on other members, and images
/// that are fetched ahead with the secrets that they name.
pub fn resources_of(assignment: &store::AssignmentRecord) -> ResourceVersions {
    let assigned = assigned_resources(assignment);
    let mut resources: ResourceVersions = assigned.map(|one| (one.name, one.version)).collect();
    for one in assignment.images.iter().filter_map(|image| image.credentials.as_ref()) {
        let name = secret_resource_name(&one.secret, &one.version);
        resources.insert(name, sealed_version(&one.version, &one.seal));
    }
    for assigned in &assignment.instances {
        let app = assigned.instance.split('/').next().unwrap_or_default();
        resources.insert(revision_resource_name(app, &assigned.revision), assigned.revision.clone());
        for config in &assigned.configs {
            resources.insert(config_resource_name(&config.config, &config.hash), config.hash.clone());
        }
        for one in &assigned.secrets {
            let name = secret_resource_name(&one.secret, &one.version);
            resources.insert(name, sealed_version(&one.version, &one.seal));
        }
    }
    resources
}

/// What makes one set of resources into another.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Difference {
    /// Names that are new or have another version.
    pub changed: Vec<String>,
    /// Names that are gone.
    pub removed: Vec<String>,
}

impl Difference {
    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.changed.is_empty() && self.removed.is_empty()
    }
}

/// What makes `old` into `new`, by name.
pub fn difference(old: &ResourceVersions, new: &ResourceVersions) -> Difference {
    Difference {
        changed: new
            .iter()
            .filter(|(name, version)| old.get(*name) != Some(version))
            .map(|(n, _)| n.clone())
            .collect(),
        removed: old.keys().filter(|name| !new.contains_key(*name)).cloned().collect(),
    }
}

/// The whole desired state of a node, as its agent holds it. Cheap to clone: the resources are shared.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Desired {
    /// Its version. Absent: never had one, or it was not read whole.
    pub version: Option<Version>,
    /// Its resources by name. Each name is that of the resource.
    pub resources: BTreeMap<String, Arc<pb::Resource>>,
}

impl Desired {
    /// Content versions by name.
    pub fn versions(&self) -> ResourceVersions {
        self.resources.iter().map(|(name, resource)| (name.clone(), resource.version.clone())).collect()
    }

    /// What a hello says of it.
    pub fn held(&self) -> Vec<pb::HeldResource> {
        self.resources
            .iter()
            .map(|(name, resource)| pb::HeldResource {
                name: name.clone(),
                version: resource.version.clone(),
            })
            .collect()
    }

    /// What makes `old` into this.
    pub fn difference(&self, old: &Self) -> Difference {
        difference(&old.versions(), &self.versions())
    }

    /// The instances, by name.
    pub fn instances(&self) -> impl Iterator<Item = &pb::Instance> {
        self.resources.values().filter_map(|resource| match &resource.body {
            Some(pb::resource::Body::Instance(instance)) => Some(instance),
            _ => None,
        })
    }

    /// The images that are fetched ahead, by id.
    pub fn images(&self) -> impl Iterator<Item = &pb::Image> {
        self.resources.values().filter_map(|resource| match &resource.body {
            Some(pb::resource::Body::Image(image)) => Some(image),
            _ => None,
        })
    }

    /// The encoded `AppSpec` of a revision.
    pub fn revision(&self, app: &str, hash: &str) -> Option<&Bytes> {
        match &self.resources.get(&revision_resource_name(app, hash))?.body {
            Some(pb::resource::Body::Revision(bytes)) => Some(bytes),
            _ => None,
        }
    }

    /// The encoded `ConfigSpec` of a config at a content version.
    pub fn config(&self, config: &str, hash: &str) -> Option<&Bytes> {
        match &self.resources.get(&config_resource_name(config, hash))?.body {
            Some(pb::resource::Body::Config(bytes)) => Some(bytes),
            _ => None,
        }
    }

    /// Names of the contents that its instances need, and its images.
    pub(crate) fn referenced(&self) -> BTreeSet<String> {
        let credentials = self.images().filter_map(|image| image.credentials.as_ref());
        let credentials = credentials.map(|one| secret_resource_name(&one.secret, &one.version));
        self.instances().flat_map(references).chain(credentials).collect()
    }
}
