//! The last good revision of each app whose wanted one has not been healthy yet, whole: what the node goes back to.
//!
//! Pure, as `former`, which keeps single instances: which apps are kept when a desired state supersedes another, and which are no longer
//! needed. They are kept as the resources that they came as: specs, configs and secrets. Writing them is `state`'s; what was found good, and when
//! one of these is gone back to, is `update`'s.

use std::collections::BTreeMap;
use std::sync::Arc;

use prost::Message as _;
use skerry_model::{AppName, InstanceName};
use skerry_proto::gateway::v1 as pb;
use skerry_sync::desired::{instance_resource_name, references};
use skerry_sync::limits::UPDATE_BYTES_MAX;

use crate::desired::{Desired, InstanceSpec, join};
use crate::former::{Resources, from_what_is_here};
use crate::update::{Content, Contents};

/// At most as much as a desired state may hold. An app that does not fit whole is not kept.
const BYTES_MAX: usize = UPDATE_BYTES_MAX;

/// An app as it was good.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Bundle {
    /// What it is made of.
    pub(crate) content: Content,
    /// All that ran of it here.
    pub(crate) instances: BTreeMap<InstanceName, Arc<InstanceSpec>>,
}

/// The good revisions that are kept.
#[derive(Debug, Clone, Default, PartialEq)]
pub(crate) struct Goods {
    resources: Resources,
    bundles: BTreeMap<AppName, Arc<Bundle>>,
}

impl Goods {
    /// Those that `resources` hold. An app of which something cannot be joined is left out: half of it is nothing to go back to.
    pub(crate) fn new(resources: Resources) -> Self {
        let (joined, _) = join(resources.values().map(AsRef::as_ref), false);
        let mut apps: BTreeMap<AppName, BTreeMap<InstanceName, Arc<InstanceSpec>>> = BTreeMap::new();
        for (name, mut spec) in joined.instances {
            from_what_is_here(Arc::make_mut(&mut spec));
            apps.entry(name.app.clone()).or_default().insert(name, spec);
        }
        apps.retain(|app, _| joined.blocked.keys().all(|name| name.app != *app));
        let bundle = |instances: BTreeMap<InstanceName, Arc<InstanceSpec>>| {
            Arc::new(Bundle { content: Content::of(instances.values().map(AsRef::as_ref), []), instances })
        };
        let bundles = apps.into_iter().map(|(app, instances)| (app, bundle(instances))).collect();
        Self { resources, bundles }
    }

    /// What is to be written.
    pub(crate) fn resources(&self) -> &Resources {
        &self.resources
    }

    /// Those that `desired` may go back to.
    pub(crate) fn of(&self, desired: &Desired) -> BTreeMap<AppName, Arc<Bundle>> {
        let differs = |(app, bundle): &(&AppName, &Arc<Bundle>)| {
            desired.apps.get(*app).is_some_and(|here| !here.content.is_same(&bundle.content))
        };
        let bundles = self.bundles.iter().filter(differs);
        bundles.map(|(app, bundle)| (app.clone(), Arc::clone(bundle))).collect()
    }

    /// What is kept once `next` takes the place of `held`, which was joined from `resources`. Nothing is dropped yet, since `next` may
    /// never come to be.
    pub(crate) fn supersede(
        &self,
        (resources, held): (&Resources, &Desired),
        next: &Desired,
        good: &Contents,
    ) -> Self {
        let mut kept: BTreeMap<AppName, (Vec<&InstanceName>, &Resources)> = BTreeMap::new();
        for (app, bundle) in &self.bundles {
            kept.insert(app.clone(), (bundle.instances.keys().collect(), &self.resources));
        }
        for (app, here) in &held.apps {
            let changes = next.apps.get(app).is_some_and(|next| !next.content.is_same(&here.content));
            let was_good = good.get(app).is_some_and(|good| good.is_same(&here.content));
            let is_whole = held.blocked.keys().all(|name| name.app != *app);
            if changes && was_good && is_whole {
                let names = held.instances.keys().filter(|name| name.app == *app).collect();
                kept.insert(app.clone(), (names, resources));
            }
        }
        collect(kept)
    }

    /// What is left once those are dropped that `desired` needs no more, if any are: nobody wants the app, or what is wanted of it is good.
    /// While it is not known what the control plane wants, nothing is dropped.
    pub(crate) fn prune(&self, desired: &Desired, good: &Contents) -> Option<Self> {
        let needed = |app: &AppName| {
            let found_good = |content: &Content| good.get(app).is_some_and(|good| good.is_same(content));
            desired.apps.get(app).is_some_and(|here| !found_good(&here.content))
        };
        if !desired.authoritative || self.bundles.keys().all(needed) {
            return None;
        }
        let left = self.bundles.iter().filter(|(app, _)| needed(app));
        let kept =
            left.map(|(app, bundle)| (app.clone(), (bundle.instances.keys().collect(), &self.resources)));
        Some(collect(kept.collect()))
    }
}

/// The apps, each with all that its instances need, from the resources beside them.
fn collect(kept: BTreeMap<AppName, (Vec<&InstanceName>, &Resources)>) -> Goods {
    let mut all = Resources::new();
    let mut bytes = 0;
    for (app, (names, resources)) in kept {
        let mut new: BTreeMap<&str, &Arc<pb::Resource>> = BTreeMap::new();
        for name in names {
            let Some(resource) = resources.get(&instance_resource_name(&name.to_string())) else { continue };
            let Some(pb::resource::Body::Instance(instance)) = &resource.body else { continue };
            let contents = references(instance).filter_map(|content| resources.get(&content));
            for one in std::iter::once(resource).chain(contents) {
                if !all.contains_key(&one.name) {
                    new.insert(&one.name, one);
                }
            }
        }
        let more: usize = new.values().map(|resource| resource.encoded_len()).sum();
        if bytes + more > BYTES_MAX {
            tracing::warn!(%app, "its good revision is not kept: there is no room for it");
            continue;
        }
        bytes += more;
        all.extend(new.into_values().map(|resource| (resource.name.clone(), Arc::clone(resource))));
    }
    Goods::new(all)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{app, config_resource, instance_resource, revision_resource, service};

    struct State {
        resources: Resources,
        joined: Desired,
    }

    /// A state of an app of two services, of which one has this config, and another app.
    fn state(content: &str) -> State {
        let mut web = service("web");
        web.configs = vec![skerry_proto::types::v1::ConfigMount {
            config: "motd".into(),
            path: "/etc/motd".into(),
            ..Default::default()
        }];
        let revision = revision_resource("app", &app(vec![web, service("db")]));
        let other = revision_resource("other", &app(vec![service("x")]));
        let config = config_resource("motd", &[("motd", content)]);
        let web = instance_resource("app/web/n1/0", &revision, &[&config]);
        let db = instance_resource("app/db/n1/0", &revision, &[]);
        let x = instance_resource("other/x/n1/0", &other, &[]);
        let resources: Resources =
            [revision, config, web, db, x, other].map(|one| (one.name.clone(), Arc::new(one))).into();
        let (joined, refusals) = join(resources.values().map(AsRef::as_ref), true);
        assert_eq!(refusals, []);
        State { resources, joined }
    }

    fn name() -> AppName {
        AppName::parse("app").unwrap()
    }

    fn good(state: &State) -> Contents {
        state.joined.apps.iter().map(|(app, here)| (app.clone(), here.content.clone())).collect()
    }

    fn supersede(goods: &Goods, held: &State, next: &State, good: &Contents) -> Goods {
        goods.supersede((&held.resources, &held.joined), &next.joined, good)
    }

    fn kept(goods: &Goods) -> Vec<&Content> {
        goods.bundles.values().map(|bundle| &bundle.content).collect()
    }

    #[test]
    fn the_last_good_one_is_kept_whole_until_its_successor_is_good() {
        let (a, b, c) = (state("a"), state("b"), state("c"));
        let content = |state: &State| state.joined.apps[&name()].content.clone();
        let goods = supersede(&Goods::default(), &a, &b, &good(&a));
        assert_eq!(
            goods.resources.len(),
            4,
            "its two instances, its revision and its config; nothing of the other app"
        );
        assert_eq!(Goods::new(goods.resources.clone()), goods, "and is read as it was written");
        assert_eq!(goods.of(&b.joined)[&name()].instances.len(), 2);
        assert!(
            goods.of(&a.joined).is_empty(),
            "a crash before the new state is written leaves nothing to go back to"
        );
        assert_eq!(goods.prune(&b.joined, &good(&a)), None);
        // `b` was never good: its successor goes back to `a` as well.
        let goods = supersede(&goods, &b, &c, &good(&a));
        assert_eq!(kept(&goods), [&content(&a)]);
        // `b` was good, and that was not told before the next one came.
        assert_eq!(kept(&supersede(&goods, &b, &c, &good(&b))), [&content(&b)]);
        assert_eq!(goods.prune(&c.joined, &good(&c)), Some(Goods::default()));
        // The control plane goes back itself.
        assert_eq!(goods.prune(&a.joined, &good(&a)), Some(Goods::default()));
    }

    #[test]
    fn what_was_never_good_is_not_kept_and_a_state_that_was_lost_drops_nothing() {
        let (a, b) = (state("a"), state("b"));
        assert_eq!(supersede(&Goods::default(), &a, &b, &Contents::new()), Goods::default());
        let goods = supersede(&Goods::default(), &a, &b, &good(&a));
        assert_eq!(goods.prune(&Desired::default(), &good(&a)), None);
        let none = Desired { authoritative: true, ..Desired::default() };
        assert_eq!(
            goods.supersede((&b.resources, &b.joined), &none, &good(&a)),
            goods,
            "it may come to nothing"
        );
        assert_eq!(goods.prune(&none, &good(&a)), Some(Goods::default()), "nobody wants the app");
    }

    #[test]
    fn an_app_of_which_something_is_missing_is_nothing_to_go_back_to() {
        let (a, b) = (state("a"), state("b"));
        let mut resources = supersede(&Goods::default(), &a, &b, &good(&a)).resources;
        resources.retain(|name, _| !name.starts_with("configs/"));
        assert!(Goods::new(resources).bundles.is_empty());
    }
}
