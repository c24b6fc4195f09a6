//! Images that nodes fetch ahead: those that a rollout brings to services that a node has in another revision, and those that a task asks for.
//!
//! Pure. What each app's rollout brings, and what tasks ask for, is kept; what one node is assigned of it is read off. What an instance there uses already is not
//! fetched ahead of a rollout, so where no image changes no assignment does.

use std::collections::{BTreeMap, BTreeSet};
use std::time::SystemTime;

use prost::Message as _;
use skerry_model::app::{Container, Program, PullPolicy};
use skerry_model::{
    AppName, ContentHash, IMAGES_MAX, NodeName, SecretName, SecretVersion, Selector, ServiceName, TaskRef,
    image_id, time,
};
use skerry_placement::Placed;
use skerry_proto::store::v1 as stored;
use skerry_rollout::Phase;
use skerry_store::Entry;
use tracing::warn;

use super::peers::ASSIGNMENT_BYTES_MAX;
use super::{Project, World, read};
use crate::writes;

/// What a rollout that is under way brings.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Coming {
    pub(super) to: ContentHash,
    services: BTreeMap<ServiceName, Sought>,
}

impl Coming {
    /// Whether an image of it is fetched with the credentials in a secret.
    pub(super) fn uses(&self, secret: &SecretName) -> bool {
        let mut secrets = self.services.values().filter_map(|one| one.secret.as_ref());
        secrets.any(|(name, _)| name == secret)
    }
}

/// An image, and how it is fetched.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Sought {
    image: String,
    platform: String,
    /// With its present values, where these can be sealed.
    secret: Option<(SecretName, Option<SecretVersion>)>,
    round: u32,
}

/// What a task asks for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Asked {
    pub(super) selector: Selector,
    pub(super) images: Vec<String>,
    pub(super) secret: Option<SecretName>,
    pub(super) round: u32,
    end: Option<SystemTime>,
    mod_revision: i64,
}

impl World {
    pub(super) fn take_prefetch(&mut self, key: &str, entry: Option<&Entry>) {
        let Some((name, record)) = read::<stored::PrefetchRecord>(key, entry) else { return };
        let TaskRef { project, task } = name;
        let project = self.project_mut(&project);
        let asked = record.and_then(|record| {
            let stored::PrefetchRecord { label_selector, images, secret, end_time, round, .. } = record.value;
            let selector = Selector::parse(&label_selector)
                .inspect_err(|error| warn!(%task, %error, "images of a task are passed over"));
            let end = end_time.as_ref().and_then(time::from_timestamp);
            let secret = SecretName::parse(&secret).ok();
            let mod_revision = record.mod_revision;
            Some(Asked { selector: selector.ok()?, images, secret, round, end, mod_revision })
        });
        let before = match &asked {
            Some(asked) => project.asked.insert(task, asked.clone()),
            None => project.asked.remove(&task),
        };
        project.settle_chosen(|selector| before.iter().chain(&asked).any(selector));
    }

    /// What tasks asked for that is over by now, with how it was seen.
    pub(crate) fn asked_until(&self, now: SystemTime) -> Vec<(TaskRef, i64)> {
        let over = |asked: &Asked| asked.end.is_none_or(|end| end <= now);
        let of = self.projects.iter().flat_map(|(project, one)| {
            let asked = one.asked.iter().filter(|(_, asked)| over(asked));
            asked.map(|(task, asked)| {
                (TaskRef { project: project.clone(), task: task.clone() }, asked.mod_revision)
            })
        });
        of.collect()
    }
}

impl Project {
    /// Settles the nodes that something is asked of, by their labels.
    fn settle_chosen(&mut self, any: impl Fn(&dyn Fn(&Asked) -> bool) -> bool) {
        let chosen = self
            .state
            .nodes
            .iter()
            .filter(|(_, node)| any(&|asked: &Asked| asked.selector.matches(&node.labels)));
        let chosen: Vec<NodeName> = chosen.map(|(name, _)| name.clone()).collect();
        for node in chosen {
            self.settle(&node);
        }
    }

    /// A secret is another one: what tasks ask for with it may be too.
    pub(super) fn refresh_asked_with(&mut self, secret: &SecretName) {
        let with: Vec<Asked> =
            self.asked.values().filter(|asked| asked.secret.as_ref() == Some(secret)).cloned().collect();
        if !with.is_empty() {
            self.settle_chosen(|selector| with.iter().any(selector));
        }
    }

    /// Looks anew at what a rollout of an app brings, and settles the nodes that have the app where it is something else.
    pub(super) fn look_ahead(&mut self, app: &AppName) {
        let coming = self.coming_of(app);
        if self.coming.get(app) == coming.as_ref() {
            return;
        }
        match coming {
            Some(coming) => self.coming.insert(app.clone(), coming),
            None => self.coming.remove(app),
        };
        let has = |placed: &[Placed]| placed.iter().any(|placed| placed.instance.app == *app);
        let nodes = self.solution.values().flat_map(|plan| &plan.nodes);
        let nodes: Vec<NodeName> =
            nodes.filter(|(_, placed)| has(placed)).map(|(node, _)| node.clone()).collect();
        for node in nodes {
            self.settle(&node);
        }
    }

    fn coming_of(&self, app: &AppName) -> Option<Coming> {
        let rollout = &self.rollout(app)?.rollout;
        match rollout.phase {
            Phase::Progressing | Phase::Paused => {}
            Phase::RollingBack | Phase::Done | Phase::RolledBack => return None,
        }
        let spec = self.spec_of(app, &rollout.to)?;
        let services = spec.services.iter().filter_map(|service| {
            let Program::Container(container) = &service.program else { return None };
            let Container { image, platform, pull_policy, image_credentials, .. } = container;
            // What must never be fetched is not.
            let is_fetched = *pull_policy != PullPolicy::Never;
            let sought = Sought {
                image: image.clone(),
                platform: platform.clone().unwrap_or_default(),
                secret: image_credentials.as_ref().map(|name| self.with_version(name)),
                round: 0,
            };
            is_fetched.then(|| (service.name.clone(), sought))
        });
        let services: BTreeMap<_, _> = services.collect();
        (!services.is_empty()).then_some(Coming { to: rollout.to, services })
    }

    /// The image that a rollout which is under way brings to a service.
    pub(crate) fn coming_image(&self, app: &AppName, service: &ServiceName) -> Option<&str> {
        Some(self.coming.get(app)?.services.get(service)?.image.as_str())
    }

    fn with_version(&self, name: &SecretName) -> (SecretName, Option<SecretVersion>) {
        let secret = self.secret(name).filter(|secret| secret.unreadable.is_none());
        (name.clone(), secret.map(|secret| secret.version))
    }

    /// The images that a node shall fetch ahead, by id: at most [`IMAGES_MAX`], and as many as there is room for in its assignment.
    pub(crate) fn images_of(&self, node: &NodeName) -> Vec<stored::AssignedImage> {
        if self.coming.is_empty() && self.asked.is_empty() {
            return Vec::new();
        }
        let (Some(placed), Some(known)) = (self.plan_of(node), self.state.nodes.get(node)) else {
            return Vec::new();
        };
        let mut images: BTreeMap<String, stored::AssignedImage> = BTreeMap::new();
        // Looked at only where there is something to fetch.
        let mut room = None;
        for sought in self.sought(placed, &known.labels) {
            let secret = match &sought.secret {
                None => None,
                Some((name, version)) => {
                    // Without the credentials that it is to be fetched with it is not.
                    let (Some(version), Some(seal)) = (version, known.seal) else { continue };
                    Some(stored::AssignedSecret {
                        secret: name.to_string(),
                        version: version.to_string(),
                        seal: seal.to_string(),
                    })
                }
            };
            let named = secret.as_ref().map_or("", |secret| secret.secret.as_str());
            let id = image_id(&sought.image, &sought.platform, named);
            if let Some(known) = images.get_mut(&id) {
                known.round = known.round.max(sought.round);
                continue;
            }
            let Sought { image, platform, round, .. } = sought;
            let image = stored::AssignedImage { id: id.clone(), image, platform, credentials: secret, round };
            let room = room.get_or_insert_with(|| self.room_for_images(node, placed));
            let bytes = image.encoded_len() + IMAGE_BYTES_MORE;
            if images.len() < IMAGES_MAX && bytes <= *room {
                *room -= bytes;
                images.insert(id, image);
            }
        }
        images.into_values().collect()
    }

    /// What is to be fetched on a node with these instances and labels: what rollouts bring comes first.
    fn sought(&self, placed: &[Placed], labels: &BTreeMap<String, String>) -> Vec<Sought> {
        let coming = placed.iter().filter_map(|one| {
            let coming = self.coming.get(&one.instance.app).filter(|coming| coming.to != one.revision)?;
            coming.services.get(&one.instance.service)
        });
        let mut sought: Vec<Sought> = coming.cloned().collect();
        if !sought.is_empty() {
            let used: BTreeSet<(&str, &str)> = placed.iter().filter_map(|one| self.image_of(one)).collect();
            sought.retain(|one| !used.contains(&(one.image.as_str(), one.platform.as_str())));
        }
        for asked in self.asked.values().filter(|asked| asked.selector.matches(labels)) {
            let secret = asked.secret.as_ref().map(|name| self.with_version(name));
            sought.extend(asked.images.iter().map(|image| Sought {
                image: image.clone(),
                platform: String::new(),
                secret: secret.clone(),
                round: asked.round,
            }));
        }
        sought
    }

    /// The image that an instance is made from, and its platform.
    pub(super) fn image_of(&self, placed: &Placed) -> Option<(&str, &str)> {
        let spec = self.spec_of(&placed.instance.app, &placed.revision)?;
        match &spec.service(&placed.instance.service)?.program {
            Program::Container(container) => {
                Some((container.image.as_str(), container.platform.as_deref().unwrap_or_default()))
            }
            Program::Process(_) => None,
        }
    }

    fn room_for_images(&self, node: &NodeName, placed: &[Placed]) -> usize {
        let peers = self.peers_of(node);
        let record = stored::AssignmentRecord { peers, ..writes::record(placed) };
        ASSIGNMENT_BYTES_MAX.saturating_sub(record.encoded_len())
    }

    /// The images that a node is assigned.
    pub(super) fn assigned_images(&self, node: &NodeName) -> &[stored::AssignedImage] {
        let record = self.nodes.get(node).and_then(|view| view.assignment.as_ref());
        record.map_or(&[], |(record, _)| record.images.as_slice())
    }

    /// Whether a node is assigned, or shall be, an image to be fetched with these values of a secret.
    pub(super) fn fetches_with(&self, node: &NodeName, secret: &SecretName, version: &SecretVersion) -> bool {
        let is_with = |image: &stored::AssignedImage| {
            let with = writes::credentials(image);
            with.is_some_and(|(name, one)| name == *secret && one.version == *version)
        };
        self.assigned_images(node).iter().any(is_with) || self.images_of(node).iter().any(is_with)
    }
}

/// Beside what a message of an image has.
const IMAGE_BYTES_MORE: usize = 6;
