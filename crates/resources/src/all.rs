//! The rules of all kinds, and changes of several resources of any of them.

use skerry_api::{Several, Update};
use skerry_model::Fault;
use skerry_proto::scheduler::v1::any_resource::Kind;
use skerry_proto::scheduler::v1::{AnyResource, ApplyRequest, ResourceChange};
use skerry_rpc::Peer;
use skerry_store::Store;

use crate::keys::SecretKeys;
use crate::secrets::shown::redacted;
use crate::{
    AppRules, ClusterRules, ConfigRules, GroupRules, NodeRules, ProjectRules, RoleBindingRules, SecretRules,
    UserRules,
};

/// The rules of all kinds, over one store.
#[derive(Debug, Clone)]
pub struct AllRules {
    store: Store,
    apps: AppRules,
    configs: ConfigRules,
    secrets: SecretRules,
    nodes: NodeRules,
    clusters: ClusterRules,
    projects: ProjectRules,
    users: UserRules,
    groups: GroupRules,
    role_bindings: RoleBindingRules,
}

impl AllRules {
    /// Those over this store, with the keys that open and seal values of secrets.
    pub fn new(store: Store, keys: SecretKeys) -> Self {
        Self {
            apps: AppRules::new(store.clone()),
            configs: ConfigRules::new(store.clone()),
            secrets: SecretRules::new(store.clone(), keys),
            nodes: NodeRules::new(store.clone()),
            clusters: ClusterRules::new(store.clone()),
            projects: ProjectRules::new(store.clone()),
            users: UserRules::new(store.clone()),
            groups: GroupRules::new(store.clone()),
            role_bindings: RoleBindingRules::new(store.clone()),
            store,
        }
    }

    /// Where all of them are stored.
    pub fn store(&self) -> &Store {
        &self.store
    }

    /// The changes of a request, to be made together. What is wrong with one of them says which.
    pub fn several<'a>(
        &'a self,
        peer: &'a Peer,
        request: &'a ApplyRequest,
    ) -> Result<Several<'a, AnyResource>, Fault> {
        let mut several = Several::new(peer);
        for (index, change) in request.resources.iter().enumerate() {
            self.add(&mut several, index, change)?;
        }
        Ok(several)
    }

    fn add<'a>(
        &'a self,
        several: &mut Several<'a, AnyResource>,
        index: usize,
        change: &'a ResourceChange,
    ) -> Result<(), Fault> {
        let Some(kind) = change.resource.as_ref().and_then(|resource| resource.kind.as_ref()) else {
            let field = format!("resources[{index}].resource");
            return Err(Fault::invalid_field(field, "name a resource of a kind that this server knows")
                .with("index", index));
        };
        match kind {
            Kind::App(app) => several.add(&self.apps, &of(change, app), |app| any(Kind::App(app))),
            Kind::Config(config) => {
                several.add(&self.configs, &of(change, config), |config| any(Kind::Config(config)))
            }
            Kind::Secret(secret) => {
                several.add(&self.secrets, &of(change, secret), |secret| any(Kind::Secret(secret)))
            }
            Kind::Node(node) if change.allow_missing => {
                let name = node.metadata.as_ref().map_or("", |metadata| metadata.name.as_str());
                let why = format!("{name} is not made so: nodes come into being when their agent connects");
                let field = format!("resources[{index}].allow_missing");
                Err(Fault::invalid_field(field, why).with("index", index).with("kind", "Node"))
            }
            Kind::Node(node) => several.add(&self.nodes, &of(change, node), |node| any(Kind::Node(node))),
            Kind::Cluster(cluster) => {
                several.add(&self.clusters, &of(change, cluster), |cluster| any(Kind::Cluster(cluster)))
            }
            Kind::Project(project) => {
                several.add(&self.projects, &of(change, project), |project| any(Kind::Project(project)))
            }
            Kind::User(user) => several.add(&self.users, &of(change, user), |user| any(Kind::User(user))),
            Kind::Group(group) => {
                several.add(&self.groups, &of(change, group), |group| any(Kind::Group(group)))
            }
            Kind::RoleBinding(binding) => several
                .add(&self.role_bindings, &of(change, binding), |binding| any(Kind::RoleBinding(binding))),
        }
    }
}

/// The same request with nothing but the lengths of secrets' values: what may be hashed, and the hash kept.
pub(crate) fn remembered(request: &ApplyRequest) -> ApplyRequest {
    let mut request = request.clone();
    for change in &mut request.resources {
        if let Some(Kind::Secret(secret)) =
            change.resource.as_mut().and_then(|resource| resource.kind.as_mut())
            && let Some(blank) = redacted(Some(secret))
        {
            *secret = blank;
        }
    }
    request
}

fn any(kind: Kind) -> AnyResource {
    AnyResource { kind: Some(kind) }
}

fn of<'a, R>(change: &'a ResourceChange, resource: &'a R) -> Update<'a, R> {
    Update {
        resource: Some(resource),
        mask: change.update_mask.as_ref(),
        allow_missing: change.allow_missing,
        validate_only: false,
    }
}

#[cfg(test)]
mod tests;
