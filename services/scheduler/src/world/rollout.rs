//! Which revision of an app each cluster shall have: joined from the app's record, its revisions, its rollout and the moves of that.

use std::collections::BTreeMap;
use std::sync::Arc;

use skerry_model::app::RolloutStrategy;
use skerry_model::{AppName, AppRef, AppSpec, ConfigName, ContentHash, ProjectName};
use skerry_placement::{App, Delta, Wanted};
use skerry_proto::store::v1 as stored;
use skerry_proto::types::v1::AppSpec as WireSpec;
use skerry_store::Entry;
use skerry_store::keys::RolloutMoveName;

use super::{Project, Touched, World, read};
use crate::rollouts::{AppRollout, Head};

impl World {
    pub(super) fn take_rollout(&mut self, key: &str, entry: Option<&Entry>, touched: &mut Touched) {
        let Some((name, record)) = read::<stored::RolloutRecord>(key, entry) else { return };
        self.change_rollout(&name, |rollout| rollout.take_record(record), touched);
    }

    pub(super) fn take_rollout_move(&mut self, key: &str, entry: Option<&Entry>, touched: &mut Touched) {
        let Some((name, record)) = read::<stored::RolloutMoveRecord>(key, entry) else { return };
        let RolloutMoveName { app, number } = name;
        self.change_rollout(&app, |rollout| rollout.take_move(number, record), touched);
    }

    fn change_rollout(&mut self, name: &AppRef, change: impl FnOnce(&mut AppRollout), touched: &mut Touched) {
        let project = self.project_mut(&name.project);
        let rollout = project.rollouts.entry(name.app.clone()).or_default();
        change(rollout);
        if rollout.is_bare() {
            project.rollouts.remove(&name.app);
        }
        if project.apps.contains_key(&name.app) {
            touched.changed.insert(name.clone());
            project.refresh_app(&name.project, &name.app, touched);
        }
    }
}

impl Project {
    /// Whether it is known of each app that is rolled out what its clusters have. After a listing that may come a moment later, and until then nothing is
    /// assigned: what is not known would be taken for what nobody wants.
    pub(super) fn is_seen_whole(&self) -> bool {
        let mut rolled_out = self.apps.iter().filter(|(_, view)| !view.record.value.rollout_id.is_empty());
        rolled_out.all(|(app, _)| self.state.apps.contains_key(app) || self.rollout(app).is_some())
    }

    /// The spec of a revision.
    pub(crate) fn spec_of(&self, app: &AppName, revision: &ContentHash) -> Option<&Arc<AppSpec>> {
        self.revisions.get(&(app.clone(), *revision)).map(|(_, spec)| spec)
    }

    /// The rollout that decides which cluster has which revision of an app, once it is all there.
    pub(crate) fn rollout(&self, app: &AppName) -> Option<&Head> {
        let id = &self.apps.get(app)?.record.value.rollout_id;
        if id.is_empty() { None } else { self.rollouts.get(app)?.named(id) }
    }

    /// What each cluster shall have of an app. Absent: not all of it is there yet.
    fn app(&self, app: &AppName, current: &ContentHash) -> Option<App> {
        if self.apps.get(app)?.record.value.rollout_id.is_empty() {
            return Some(self.wanted(app, current)?.into());
        }
        let base = self.rollout(app)?.rollout.base;
        let elsewhere = Arc::clone(self.rollouts.get(app)?.elsewhere());
        let mut others = BTreeMap::new();
        for revision in elsewhere.values().filter(|revision| **revision != base) {
            if !others.contains_key(revision) {
                others.insert(*revision, self.wanted(app, revision)?);
            }
        }
        Some(App { base: self.wanted(app, &base)?, others, elsewhere })
    }

    /// An app in a revision, with the configs and secrets that it uses as they are now.
    fn wanted(&self, app: &AppName, revision: &ContentHash) -> Option<Wanted> {
        let spec = self.spec_of(app, revision)?;
        let wanted = self.wanted_with(*revision, Arc::clone(spec), &BTreeMap::new());
        let strategy = self.apps.get(app).and_then(|view| view.record.value.rollout.as_ref());
        let strategy = strategy.and_then(|wire| RolloutStrategy::from_proto(wire).ok());
        Some(Wanted { bounds: strategy.map(|strategy| strategy.bounds()), ..wanted })
    }

    /// A spec of that hash, with the configs and secrets that it uses as they are now, but for the contents that are named.
    pub(crate) fn wanted_with(
        &self,
        revision: ContentHash,
        spec: Arc<AppSpec>,
        contents: &BTreeMap<ConfigName, ContentHash>,
    ) -> Wanted {
        let stored = |name: &ConfigName| ContentHash::parse(&self.configs.get(name)?.value.hash).ok();
        let hash_of = |name: &ConfigName| contents.get(name).copied().or_else(|| stored(name));
        let configs =
            spec.config_names().into_iter().filter_map(|name| Some((name.clone(), hash_of(name)?))).collect();
        let secrets = spec.secret_names().into_iter();
        let secrets = secrets.filter_map(|name| Some((name.clone(), self.secret(name)?))).collect();
        let bounds = spec.rollout.as_ref().map(RolloutStrategy::bounds);
        Wanted { revision, spec, configs, secrets, bounds }
    }

    /// Brings an app to placement in the revisions that its clusters shall have, once all is there.
    pub(super) fn refresh_app(&mut self, project: &ProjectName, app: &AppName, touched: &mut Touched) {
        self.look_ahead(app);
        let placed = match self.apps.get(app).map(|view| ContentHash::parse(&view.record.value.revision)) {
            None => None,
            // The record is there, and its revision or its rollout are not yet: what runs stays until they are.
            Some(Err(_)) => return,
            Some(Ok(revision)) => {
                self.show_spec(app, &revision);
                let Some(placed) = self.app(app, &revision) else { return };
                let others = placed.others.keys().chain([&placed.base.revision]);
                let others = others.filter(|one| **one != revision);
                let specs = others.filter_map(|one| self.revisions.get(&(app.clone(), *one)));
                let specs = specs.map(|(wire, _)| Arc::clone(wire)).collect();
                self.apps.get_mut(app).expect("it is looked at").others = specs;
                Some(placed)
            }
        };
        touched.changed.insert(AppRef { project: project.clone(), app: app.clone() });
        if self.state.apps.get(app) != placed.as_ref() {
            self.change(project, Delta::App(app.clone(), placed), None, touched);
        }
    }

    /// Notes the current spec of an app as clients see it, once its revision is there.
    fn show_spec(&mut self, app: &AppName, revision: &ContentHash) {
        let Some((wire, _)) = self.revisions.get(&(app.clone(), *revision)) else { return };
        let Some(view) = self.apps.get_mut(app) else { return };
        let rollout = view.record.value.rollout.clone();
        view.spec = Some(match rollout {
            None => Arc::clone(wire),
            Some(_) => Arc::new(WireSpec { rollout, ..WireSpec::clone(wire) }),
        });
    }
}
