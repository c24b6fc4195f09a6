//! What was run last of instances whose wanted copy was not started yet, so that it can be run again with no network.
//!
//! Pure: which specs are kept when a desired state supersedes another, and which are no longer needed. They are kept as the resources that
//! they came as. Writing them is `state`'s, when they are run the plan's.

use std::collections::BTreeMap;
use std::sync::Arc;

use prost::Message as _;
use skerry_model::InstanceName;
use skerry_model::app::{Program, PullPolicy};
use skerry_proto::gateway::v1 as pb;
use skerry_sync::desired::{instance_resource_name, references};
use skerry_sync::limits::UPDATE_BYTES_MAX;

use crate::desired::{Desired, InstanceSpec, join};
use crate::reconcile::Copies;
use crate::world::kind_of;

/// Resources by name.
pub(crate) type Resources = BTreeMap<String, Arc<pb::Resource>>;

/// At most as much as a desired state may hold. What does not fit is not kept.
const BYTES_MAX: usize = UPDATE_BYTES_MAX;

/// The former specs.
#[derive(Debug, Clone, Default, PartialEq)]
pub(crate) struct Formers {
    resources: Resources,
    specs: BTreeMap<InstanceName, Arc<InstanceSpec>>,
}

impl Formers {
    /// Those that `resources` hold. What cannot be joined is left out.
    pub(crate) fn new(resources: Resources) -> Self {
        let (mut joined, _) = join(resources.values().map(AsRef::as_ref), false);
        for spec in joined.instances.values_mut() {
            from_what_is_here(Arc::make_mut(spec));
        }
        Self { resources, specs: joined.instances }
    }

    /// What is to be written.
    pub(crate) fn resources(&self) -> &Resources {
        &self.resources
    }

    /// Those that `desired` may need.
    pub(crate) fn of(&self, desired: &Desired) -> BTreeMap<InstanceName, Arc<InstanceSpec>> {
        let current = |name| desired.instances.get(name).map(|spec| &spec.fingerprint);
        self.specs
            .iter()
            .filter(|(name, former)| desired.wants(name) && current(name) != Some(&former.fingerprint))
            .map(|(name, former)| (name.clone(), Arc::clone(former)))
            .collect()
    }

    /// What is kept once `next` takes the place of `held`, which was joined from `resources`. Nothing is dropped yet, since `next` may
    /// never come to be: until then `held` may need it.
    pub(crate) fn supersede(
        &self,
        (resources, held): (&Resources, &Desired),
        next: &Desired,
        copies: &Copies,
    ) -> Self {
        let mut kept: BTreeMap<&InstanceName, &Resources> =
            self.specs.keys().map(|name| (name, &self.resources)).collect();
        for (name, spec) in &held.instances {
            let goes_on = next.instances.get(name).is_some_and(|next| next.fingerprint == spec.fingerprint);
            if goes_on || !next.wants(name) {
                continue;
            }
            let was_run = match copies.made.get(name) {
                Some(copy) => copy.fingerprint == spec.fingerprint,
                // Not looked at yet: it may well run, unless a former one is known to be what ran.
                None => !copies.looked.contains(&kind_of(spec)) && !self.specs.contains_key(name),
            };
            if was_run {
                kept.insert(name, resources);
            }
        }
        collect(kept)
    }

    /// What is left once those are dropped that `desired` needs no more, if any are: nobody wants the instance, or the wanted copy ran.
    /// While it is not known what the control plane wants, nothing is dropped.
    pub(crate) fn prune(&self, desired: &Desired, copies: &Copies) -> Option<Self> {
        let needed = |name: &InstanceName| {
            let ran = desired.instances.get(name).is_some_and(|spec| {
                copies.made.get(name).is_some_and(|copy| copy.ran && copy.fingerprint == spec.fingerprint)
            });
            desired.wants(name) && !ran
        };
        if !desired.authoritative || self.specs.keys().all(needed) {
            return None;
        }
        let left = self.specs.keys().filter(|name| needed(name)).map(|name| (name, &self.resources));
        Some(collect(left))
    }
}

/// Lets a former copy do with the image that it ran from: a pull each time is for what is wanted. Its fingerprint is the same.
pub(crate) fn from_what_is_here(spec: &mut InstanceSpec) {
    if let Program::Container(container) = &mut Arc::make_mut(&mut spec.service).program
        && container.pull_policy == PullPolicy::Always
    {
        container.pull_policy = PullPolicy::IfNotPresent;
    }
}

/// The instances named, with all that they need, each from the resources beside it.
fn collect<'a>(kept: impl IntoIterator<Item = (&'a InstanceName, &'a Resources)>) -> Formers {
    let mut all = Resources::new();
    let mut bytes = 0;
    for (name, resources) in kept {
        let Some(resource) = resources.get(&instance_resource_name(&name.to_string())) else { continue };
        let Some(pb::resource::Body::Instance(instance)) = &resource.body else { continue };
        let contents = references(instance).filter_map(|content| resources.get(&content));
        let new: Vec<&Arc<pb::Resource>> = std::iter::once(resource)
            .chain(contents)
            .filter(|resource| !all.contains_key(&resource.name))
            .collect();
        let more: usize = new.iter().map(|resource| resource.encoded_len()).sum();
        if bytes + more > BYTES_MAX {
            tracing::warn!(instance = %name, "its former spec is not kept: there is no room for it");
            continue;
        }
        bytes += more;
        all.extend(new.into_iter().map(|resource| (resource.name.clone(), Arc::clone(resource))));
    }
    Formers::new(all)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::reconcile::Copy;
    use crate::runtime::RuntimeKind;
    use crate::testing::{app, config_resource, instance_resource, revision_resource, service};

    const WEB: &str = "app/web/n1/0";

    struct State {
        resources: Resources,
        joined: Desired,
    }

    /// A state of one instance, whose config has this content. Other content, other fingerprint.
    fn state(content: &str) -> State {
        let mut web = service("web");
        web.configs = vec![skerry_proto::types::v1::ConfigMount {
            config: "motd".into(),
            path: "/etc/motd".into(),
            ..Default::default()
        }];
        let revision = revision_resource("app", &app(vec![web]));
        let config = config_resource("motd", &[("motd", content)]);
        let instance = instance_resource(WEB, &revision, &[&config]);
        let resources: Resources =
            [revision, config, instance].map(|one| (one.name.clone(), Arc::new(one))).into();
        let (joined, refusals) = join(resources.values().map(AsRef::as_ref), true);
        assert_eq!(refusals, []);
        State { resources, joined }
    }

    fn fingerprint(state: &State) -> String {
        state.joined.instances.values().next().unwrap().fingerprint.clone()
    }

    fn ran(state: &State) -> Copies {
        let copy = Copy { fingerprint: fingerprint(state), ran: true };
        Copies {
            looked: [RuntimeKind::Docker].into(),
            made: [(InstanceName::parse(WEB).unwrap(), copy)].into(),
            good: BTreeMap::new(),
        }
    }

    fn supersede(formers: &Formers, held: &State, next: &State, copies: &Copies) -> Formers {
        formers.supersede((&held.resources, &held.joined), &next.joined, copies)
    }

    /// Fingerprints that are kept.
    fn kept(formers: &Formers) -> Vec<&str> {
        formers.specs.values().map(|spec| spec.fingerprint.as_str()).collect()
    }

    #[test]
    fn what_ran_last_is_kept_with_its_configs_until_its_successor_runs() {
        let (a, b, c) = (state("a"), state("b"), state("c"));
        let formers = supersede(&Formers::default(), &a, &b, &ran(&a));
        assert_eq!(formers.resources, a.resources);
        assert_eq!(Formers::new(formers.resources.clone()), formers, "and is read as it was written");
        assert_eq!(formers.of(&b.joined).len(), 1);
        assert_eq!(formers.prune(&b.joined, &ran(&a)), None);
        // `b` never ran: its successor supersedes `a`.
        let formers = supersede(&formers, &b, &c, &ran(&a));
        assert_eq!(kept(&formers), [fingerprint(&a)]);
        // `b` ran, and that was not told before the next one came.
        assert_eq!(kept(&supersede(&formers, &b, &c, &ran(&b))), [fingerprint(&b)]);
        assert_eq!(formers.prune(&c.joined, &ran(&c)), Some(Formers::default()));
    }

    #[test]
    fn a_crash_before_the_new_state_is_written_loses_nothing() {
        let (a, b) = (state("a"), state("b"));
        // What was kept for `b` is read with `a` still being what is wanted: then it is not needed, and not in the way.
        let formers = supersede(&Formers::default(), &a, &b, &ran(&a));
        assert!(formers.of(&a.joined).is_empty());
        // Back to `a`: it is kept until that is certain.
        let back = supersede(&formers, &b, &a, &ran(&a));
        assert_eq!((kept(&back), back.of(&a.joined).len()), (vec![fingerprint(&a).as_str()], 0));
        assert_eq!(back.of(&b.joined).len(), 1);
        // No longer wanted: dropped only once that is certain as well.
        let none = Desired { authoritative: true, ..Desired::default() };
        let none = State { resources: Resources::new(), joined: none };
        let gone = supersede(&formers, &b, &none, &ran(&a));
        assert_eq!(gone, formers);
        assert_eq!(gone.prune(&none.joined, &ran(&a)), Some(Formers::default()));
        assert_eq!(gone.prune(&Desired::default(), &ran(&a)), None, "a state that was lost drops nothing");
    }

    #[test]
    fn what_never_ran_is_not_kept_unless_nobody_looked_yet() {
        let (a, b, c) = (state("a"), state("b"), state("c"));
        let looked = Copies { made: BTreeMap::new(), ..ran(&a) };
        assert_eq!(supersede(&Formers::default(), &a, &b, &looked), Formers::default());
        let kept_blindly = supersede(&Formers::default(), &a, &b, &Copies::default());
        assert_eq!(kept(&kept_blindly), [fingerprint(&a)]);
        assert_eq!(kept(&supersede(&kept_blindly, &b, &c, &Copies::default())), [fingerprint(&a)]);
    }

    #[test]
    fn an_instance_that_goes_on_as_it_is_keeps_nothing() {
        let a = state("a");
        assert_eq!(supersede(&Formers::default(), &a, &a, &ran(&a)), Formers::default());
    }
}
