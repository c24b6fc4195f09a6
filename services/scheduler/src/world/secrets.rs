//! Secrets as the world knows them: which values there are, whether they open, to what they are sealed, and who uses them.

use skerry_model::{AppName, NodeName, NodeRef, SecretName, SecretRef, SecretVersion};
use skerry_placement::{Delta, Node, Secret};
use skerry_proto::store::v1 as stored;
use skerry_store::Entry;
use skerry_store::keys::SecretRevisionRef;

use super::{Project, Touched, World, read};
use crate::sealing::Sealing;

impl World {
    pub(super) fn take_secret(&mut self, key: &str, entry: Option<&Entry>, touched: &mut Touched) {
        let Some((name, record)) = read::<stored::SecretRecord>(key, entry) else { return };
        let project = self.project_mut(&name.project);
        match record {
            Some(record) => project.secrets.insert(name.secret.clone(), record),
            None => project.secrets.remove(&name.secret),
        };
        project.refresh_users_of(&name, touched);
        touched.secrets.insert(name);
    }

    /// Whether values open is known before anything is placed that needs them: what does not open is sealed to nobody, and holds up nothing else.
    pub(super) fn take_values(&mut self, key: &str, entry: Option<&Entry>, touched: &mut Touched) {
        let Some((name, record)) = read::<stored::SecretRevisionRecord>(key, entry) else { return };
        let readable = record.map(|record| self.keys.open(&record.key, &record.value.sealed).map(drop));
        let SecretRevisionRef { secret: name, version } = name;
        let project = self.project_mut(&name.project);
        let id = (name.secret.clone(), version);
        match readable {
            Some(readable) => project.values.insert(id, readable),
            None => project.values.remove(&id),
        };
        project.refresh_users_of(&name, touched);
        touched.secrets.insert(name);
    }

    /// To what secrets of a node are sealed, if it has a key.
    pub(crate) fn sealing(&self, node: &NodeRef) -> Option<Sealing> {
        self.project(&node.project)?.sealings.get(&node.node).cloned()
    }

    /// Nothing can be sealed to the key that a node gave: it counts as having none.
    pub(crate) fn refuse_sealing(&mut self, node: &NodeRef, touched: &mut Touched) {
        let project = self.project_mut(&node.project);
        project.sealings.remove(&node.node);
        if let Some(known) = project.state.nodes.get(&node.node).cloned() {
            let delta = Delta::Node(node.node.clone(), Some(Node { seal: None, ..known }));
            project.change(&node.project, delta, Some(&node.node), touched);
        }
    }
}

impl Project {
    /// Apps of which a service uses the secret.
    pub(crate) fn apps_with_secret<'a>(
        &'a self,
        secret: &'a SecretName,
    ) -> impl Iterator<Item = &'a AppName> {
        let uses = |app: &AppName| {
            let placed = self.state.apps.get(app);
            let mut specs = placed
                .into_iter()
                .flat_map(|app| std::iter::once(&app.base).chain(app.others.values()))
                .map(|wanted| &wanted.spec)
                .chain(self.current(app).map(|(_, spec)| spec));
            specs.any(|spec| spec.secret_names().contains(secret))
                || self.coming.get(app).is_some_and(|coming| coming.uses(secret))
        };
        self.apps.keys().filter(move |app| uses(app))
    }

    /// Whether any node is assigned, or shall be, these values of a secret.
    pub(crate) fn has_secret(&self, secret: &SecretName, version: &SecretVersion) -> bool {
        let stored = self.state.previous.values().flatten();
        let planned = self.planned();
        let is_used = stored
            .chain(planned)
            .any(|placed| placed.secrets.get(secret).is_some_and(|one| one.version == *version));
        is_used || self.nodes.keys().any(|node| self.fetches_with(node, secret, version))
    }

    /// Whether a node is assigned, or shall be, these values of a secret.
    pub(crate) fn has_secret_on(
        &self,
        node: &NodeName,
        secret: &SecretName,
        version: &SecretVersion,
    ) -> bool {
        let stored = self.state.previous.get(node).into_iter().flatten();
        let planned = self.plan_of(node).into_iter().flatten();
        let is_used = stored
            .chain(planned)
            .any(|placed| placed.secrets.get(secret).is_some_and(|one| one.version == *version));
        is_used || self.fetches_with(node, secret, version)
    }

    /// A secret as it is now, for placement.
    pub(super) fn secret(&self, name: &SecretName) -> Option<Secret> {
        let version = SecretVersion::parse(&self.secrets.get(name)?.value.version).ok()?;
        let unreadable = match self.values.get(&(name.clone(), version)) {
            Some(readable) => readable.clone().err(),
            None => Some("its values are not in the store".to_owned()),
        };
        Some(Secret { version, unreadable })
    }

    fn refresh_users_of(&mut self, name: &SecretRef, touched: &mut Touched) {
        let users: Vec<AppName> = self.apps_with_secret(&name.secret).cloned().collect();
        for app in users {
            self.refresh_app(&name.project, &app, touched);
        }
        self.refresh_asked_with(&name.secret);
    }
}
