//! An Update applied to what is held: parts gathered, each resource checked, the refused ones left out. Pure.
//!
//! A refused resource leaves the version of that name which is held, if any: an instance whose new revision is refused runs on with
//! its old one. What such an instance needs is kept although the gateway removed it, until the instance no longer needs it.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use prost::Message as _;
use skerry_model::{AppSpec, ContentHash};
use skerry_proto::gateway::v1 as pb;
use skerry_proto::gateway::v1::resource::Body;
use skerry_proto::scheduler::v1::ConfigSpec;

use crate::desired::{ResourceName, references, revision_resource_name};
use crate::{Desired, Version, limits};

/// Reasons for which a resource is refused.
pub mod refusal {
    /// It requires a feature that this agent lacks.
    pub const UNSUPPORTED_FEATURE: &str = "UnsupportedFeature";
    /// It is of a kind that this agent does not know, or it contradicts itself.
    pub const INVALID_RESOURCE: &str = "InvalidResource";
    /// Its bytes are not those that its name is the hash of.
    pub const HASH_MISMATCH: &str = "HashMismatch";
    /// Its bytes are no valid spec.
    pub const INVALID_SPEC: &str = "InvalidSpec";
    /// A revision or config that it names is not held: refused itself, or never sent.
    pub const MISSING_REFERENCE: &str = "MissingReference";
}

/// What an Update is a difference to.
#[derive(Debug, Clone)]
pub struct Base {
    /// What is held.
    pub desired: Arc<Desired>,
    /// Contents of it that the gateway has removed, and that are kept for an instance that still needs them.
    pub kept: BTreeSet<String>,
}

impl Base {
    /// What a hello lists.
    pub fn new(desired: Arc<Desired>) -> Self {
        Self { desired, kept: BTreeSet::new() }
    }
}

/// The parts of one Update.
#[derive(Debug, Clone)]
pub struct Assembly {
    /// Of the Update.
    pub nonce: u64,
    /// Of the Update.
    pub version: Version,
    resources: Vec<pb::Resource>,
    removed: Vec<String>,
    /// All that came, also what was not kept because it is too much.
    bytes: usize,
}

impl Assembly {
    /// Takes the first part.
    pub fn begin(part: pb::Update) -> Result<Self, &'static str> {
        let version = part.version.ok_or("an Update without a version")?.into();
        let start = Self { nonce: part.nonce, version, resources: Vec::new(), removed: Vec::new(), bytes: 0 };
        start.append(part)
    }

    /// Takes a further part.
    pub fn append(mut self, part: pb::Update) -> Result<Self, &'static str> {
        if part.nonce != self.nonce || part.version.map(Version::from) != Some(self.version) {
            return Err("parts of different Updates are mixed");
        }
        self.bytes = self.bytes.saturating_add(part.encoded_len());
        if self.bytes > limits::UPDATE_BYTES_MAX {
            self.resources = Vec::new();
            self.removed = Vec::new();
        } else {
            self.resources.extend(part.resources);
            self.removed.extend(part.removed);
        }
        Ok(self)
    }

    /// Whether it is within bounds; else why not.
    pub(super) fn fits(&self, base: &Base) -> Result<(), String> {
        if self.bytes > limits::UPDATE_BYTES_MAX {
            return Err(format!("{} bytes are too many: at most {}", self.bytes, limits::UPDATE_BYTES_MAX));
        }
        let new = self.resources.iter().filter(|r| !base.desired.resources.contains_key(&r.name)).count();
        let count = (base.desired.resources.len() + new).saturating_sub(self.removed.len());
        if count > limits::RESOURCES_MAX {
            return Err(format!("{count} resources are too many: at most {}", limits::RESOURCES_MAX));
        }
        Ok(())
    }
}

struct Refusal {
    reason: &'static str,
    message: String,
}

fn refuse(reason: &'static str, message: impl Into<String>) -> Refusal {
    Refusal { reason, message: message.into() }
}

/// What is held after `update`, and what was refused of it.
pub fn take(base: &Base, update: Assembly, features: &BTreeSet<String>) -> (Base, Vec<pb::ResourceError>) {
    let mut resources = base.desired.resources.clone();
    let mut kept = base.kept.clone();
    let mut errors = Vec::new();

    for name in update.removed {
        if name.starts_with("instances/") {
            resources.remove(&name);
        } else if resources.contains_key(&name) {
            kept.insert(name);
        }
    }
    // Contents first: instances are checked against them.
    let (instances, contents): (Vec<_>, Vec<_>) =
        update.resources.into_iter().partition(|resource| matches!(resource.body, Some(Body::Instance(_))));
    for resource in contents {
        match check_content(&resource, features) {
            Ok(()) => {
                kept.remove(&resource.name);
                hold(&mut resources, resource);
            }
            Err(refusal) => errors.push(error_of(&resource, &refusal)),
        }
    }
    let mut specs = Specs::default();
    for resource in instances {
        match check_instance(&resource, features, &resources, &mut specs) {
            Ok(()) => hold(&mut resources, resource),
            Err(refusal) => errors.push(error_of(&resource, &refusal)),
        }
    }

    let mut desired = Desired { version: Some(update.version), resources };
    if !kept.is_empty() {
        let needed = desired.referenced();
        kept.retain(|name| {
            let keep = needed.contains(name);
            if !keep {
                desired.resources.remove(name);
            }
            keep
        });
    }
    (Base { desired: Arc::new(desired), kept }, errors)
}

/// Puts `resource` in place; one of the same version stays, and so does its memory.
fn hold(resources: &mut BTreeMap<String, Arc<pb::Resource>>, resource: pb::Resource) {
    let same = resources.get(&resource.name).is_some_and(|held| held.version == resource.version);
    if !same {
        resources.insert(resource.name.clone(), Arc::new(resource));
    }
}

fn error_of(resource: &pb::Resource, refusal: &Refusal) -> pb::ResourceError {
    pb::ResourceError {
        name: resource.name.clone(),
        version: resource.version.clone(),
        reason: refusal.reason.to_owned(),
        message: crate::merge::clipped(&refusal.message, limits::INSTANCE_MESSAGE_BYTES_MAX).to_owned(),
    }
}

fn check_features(resource: &pb::Resource, features: &BTreeSet<String>) -> Result<(), Refusal> {
    let lacking: Vec<&str> =
        resource.requires.iter().filter(|feature| !features.contains(*feature)).map(String::as_str).collect();
    if lacking.is_empty() {
        return Ok(());
    }
    let text = lacking.join(", ");
    Err(refuse(refusal::UNSUPPORTED_FEATURE, format!("this agent lacks what it requires: {text}")))
}

fn check_content(resource: &pb::Resource, features: &BTreeSet<String>) -> Result<(), Refusal> {
    check_features(resource, features)?;
    let (bytes, hash) = match (&resource.body, ResourceName::parse(&resource.name)) {
        // Whether it opens is seen by who has the key, when it is used.
        (Some(Body::Secret(_)), Some(ResourceName::Secret { version, .. })) => {
            let named = resource.version.strip_prefix(&version.to_string());
            let fits = named.is_some_and(|rest| rest.starts_with('.'));
            let wrong = || refuse(refusal::INVALID_RESOURCE, "its version is not that of its name");
            return if fits { Ok(()) } else { Err(wrong()) };
        }
        // What it says is for who uses it to read: nothing that runs depends on it.
        (Some(Body::Peers(peers)), Some(ResourceName::Peers(app))) if peers.app == app.as_str() => {
            return Ok(());
        }
        (Some(Body::Image(image)), Some(ResourceName::Image(id))) if image.id == id => return Ok(()),
        (Some(Body::Revision(bytes)), Some(ResourceName::Revision { hash, .. }))
        | (Some(Body::Config(bytes)), Some(ResourceName::Config { hash, .. })) => (bytes, hash),
        (None, _) => {
            return Err(refuse(refusal::INVALID_RESOURCE, "of a kind that this agent does not know"));
        }
        (Some(_), _) => return Err(refuse(refusal::INVALID_RESOURCE, "its name does not fit its kind")),
    };
    let found = ContentHash::of(bytes);
    if found != hash || resource.version != hash.to_string() {
        return Err(refuse(
            refusal::HASH_MISMATCH,
            format!("the hash of its {} bytes is {found}", bytes.len()),
        ));
    }
    let invalid = match &resource.body {
        Some(Body::Revision(bytes)) => AppSpec::decode(bytes).err().map(|fault| fault.to_string()),
        _ => ConfigSpec::decode(bytes.clone()).err().map(|error| error.to_string()),
    };
    invalid.map_or(Ok(()), |why| Err(refuse(refusal::INVALID_SPEC, why)))
}

/// Specs that were decoded for one Update: many instances share one.
#[derive(Default)]
struct Specs(BTreeMap<String, Option<AppSpec>>);

fn check_instance(
    resource: &pb::Resource,
    features: &BTreeSet<String>,
    resources: &BTreeMap<String, Arc<pb::Resource>>,
    specs: &mut Specs,
) -> Result<(), Refusal> {
    check_features(resource, features)?;
    let Some(Body::Instance(instance)) = &resource.body else {
        return Err(refuse(refusal::INVALID_RESOURCE, "its name does not fit its kind"));
    };
    let name = match ResourceName::parse(&resource.name) {
        Some(ResourceName::Instance(name)) if name.to_string() == instance.instance => name,
        _ => return Err(refuse(refusal::INVALID_RESOURCE, "its name does not fit its content")),
    };
    if let Some(missing) = references(instance).find(|name| !resources.contains_key(name)) {
        return Err(refuse(refusal::MISSING_REFERENCE, format!("needs `{missing}`, which is not held")));
    }
    let revision = revision_resource_name(name.app.as_str(), &instance.revision);
    let spec = specs.0.entry(revision.clone()).or_insert_with(|| match &resources.get(&revision)?.body {
        Some(Body::Revision(bytes)) => AppSpec::decode(bytes).ok(),
        _ => None,
    });
    let service = spec.as_ref().and_then(|spec| spec.service(&name.service)).ok_or_else(|| {
        refuse(refusal::INVALID_RESOURCE, format!("its revision has no service `{}`", name.service))
    })?;
    let named = |name: &skerry_model::ConfigName| {
        instance.configs.iter().any(|config| config.config == name.as_str())
    };
    match service.config_names().into_iter().find(|name| !named(name)) {
        Some(name) => {
            Err(refuse(refusal::INVALID_RESOURCE, format!("uses config `{name}` and names no version of it")))
        }
        None => Ok(()),
    }
}

#[cfg(test)]
#[path = "update_tests.rs"]
mod tests;
