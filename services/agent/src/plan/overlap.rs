//! Two copies of an instance for a while: the new one is started beside the old one, and takes its place once it is healthy.

use skerry_model::app::UpdateOrder;

use super::{Act, Hold, Inputs};
use crate::desired::InstanceSpec;
use crate::health::HealthState;
use crate::memory::restarts;
use crate::runtime::{Observed, RunState};
use crate::world::{View, is_running};

/// Whether the copy beside is not the one to come: another is wanted by now, or the wanted one has the place already.
pub(super) fn is_left_over(view: &View, spec: &InstanceSpec) -> bool {
    let own = view.instances.get(&spec.name);
    view.beside.get(&spec.name).is_some_and(|beside| {
        beside.fingerprint != spec.fingerprint || own.is_some_and(|own| own.fingerprint == spec.fingerprint)
    })
}

/// How `spec` takes the place of `old`, which has another fingerprint. `beside` is a copy of `spec`, if there is one.
pub(super) fn replace(
    inputs: Inputs<'_>,
    spec: &InstanceSpec,
    old: &Observed,
    beside: Option<&Observed>,
) -> Result<Act, Hold> {
    if spec.service.update == UpdateOrder::StopFirst || !goes_on(inputs, old) {
        return Ok(Act::Replace);
    }
    let Some(beside) = beside else { return Ok(Act::StartBeside) };
    let health = inputs.beside_health.get(&spec.name);
    match (beside.state, &spec.service.health_check, health) {
        (RunState::Running { .. }, None, _)
        | (RunState::Running { .. }, Some(_), Some(HealthState::Healthy)) => Ok(Act::Replace),
        (RunState::Running { .. }, Some(_), Some(HealthState::Unhealthy { .. })) => Ok(Act::Withdraw),
        (RunState::Running { .. }, Some(_), Some(HealthState::Starting) | None) => Err(Hold::Beside),
        (RunState::Exited { code, .. }, ..) if !restarts(spec.service.restart.when, code) => {
            // It has done its work, or never will.
            if code == Some(0) { Ok(Act::Replace) } else { Err(Hold::Ended) }
        }
        (RunState::Created | RunState::Exited { .. }, ..) => Ok(Act::StartBeside),
    }
}

/// Whether there is anything to keep up: `old` runs, or ended and would be run again.
fn goes_on(inputs: Inputs<'_>, old: &Observed) -> bool {
    let former = inputs.desired.formers.get(&old.instance);
    let former = former.filter(|former| former.fingerprint == old.fingerprint);
    is_running(old)
        || former.is_some_and(|former| match old.state {
            RunState::Exited { code, .. } => restarts(former.service.restart.when, code),
            RunState::Created | RunState::Running { .. } => true,
        })
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;
    use std::sync::Arc;
    use std::time::{Duration, SystemTime};

    use skerry_model::app::{HealthCheck, Probe, RestartWhen};
    use skerry_model::{AppSpec, ContentHash, InstanceName};
    use skerry_sync::MonoTime;

    use super::super::{Action, Plan, plan};
    use super::*;
    use crate::desired::Desired;
    use crate::memory::Memory;
    use crate::runtime::{Place, RuntimeKind};
    use crate::testing::{app, service};
    use crate::world::World;

    const RUNNING: RunState = RunState::Running { since: SystemTime::UNIX_EPOCH };
    const EXITED: RunState =
        RunState::Exited { code: Some(1), at: SystemTime::UNIX_EPOCH, out_of_memory: false };

    fn name() -> InstanceName {
        InstanceName::parse("app/web/n1/0").unwrap()
    }

    fn spec(fingerprint: &str) -> InstanceSpec {
        let mut service = AppSpec::from_proto(&app(vec![service("web")])).unwrap().services.remove(0);
        service.update = UpdateOrder::StartFirst;
        service.health_check = Some(HealthCheck {
            probe: Probe::Tcp { port: 1 },
            interval: Duration::from_secs(1),
            timeout: Duration::from_secs(1),
            start_period: Duration::ZERO,
            retries: 1,
        });
        InstanceSpec {
            name: name(),
            revision: ContentHash::of(fingerprint.as_bytes()),
            service: Arc::new(service),
            configs: BTreeMap::new(),
            secrets: BTreeMap::new(),
            gpus: Vec::new(),
            fingerprint: fingerprint.into(),
        }
    }

    fn copy(fingerprint: &str, state: RunState, place: Place) -> Observed {
        Observed {
            instance: name(),
            fingerprint: fingerprint.into(),
            revision: String::new(),
            runtime_id: fingerprint.into(),
            state,
            address: None,
            image_health: None,
            drift: None,
            place,
            started: None,
            warnings: Vec::new(),
            gpus: Vec::new(),
        }
    }

    /// `new` is wanted, and was fetched.
    struct Case {
        desired: Desired,
        world: World,
        memory: Memory,
        health: Option<HealthState>,
    }

    impl Case {
        fn new(own: RunState, beside: Option<RunState>) -> Self {
            let view = View {
                available: true,
                instances: [(name(), copy("old", own, Place::Own))].into(),
                beside: beside.map(|state| (name(), copy("new", state, Place::Beside))).into_iter().collect(),
                ..View::default()
            };
            let desired = Desired {
                instances: [(name(), Arc::new(spec("new")))].into(),
                formers: [(name(), Arc::new(spec("old")))].into(),
                authoritative: true,
                ..Desired::default()
            };
            let mut memory = Memory::default();
            memory.fetched("new");
            Self { desired, world: [(RuntimeKind::Docker, view)].into(), memory, health: None }
        }

        fn plan(&self) -> Plan {
            let health: BTreeMap<_, _> =
                self.health.clone().map(|health| (name(), health)).into_iter().collect();
            plan(Inputs {
                desired: &self.desired,
                world: &self.world,
                memories: &[(name(), self.memory.clone())].into(),
                hands: &BTreeMap::new(),
                gates: &BTreeMap::new(),
                health: &BTreeMap::new(),
                beside_health: &health,
                gpus: &BTreeMap::new(),
                now: MonoTime::default(),
            })
        }

        fn acts(&self) -> Vec<(Act, bool)> {
            let plan = self.plan();
            plan.actions.iter().map(|Action { act, former, .. }| (*act, *former)).collect()
        }
    }

    #[test]
    fn the_old_one_goes_on_until_the_new_one_is_healthy() {
        assert_eq!(Case::new(RUNNING, None).acts(), [(Act::StartBeside, false)]);
        let mut case = Case::new(RUNNING, Some(RUNNING));
        assert_eq!((case.acts(), case.plan().holds.get(&name())), (vec![], Some(&Hold::Beside)));
        case.health = Some(HealthState::Starting);
        assert_eq!(case.acts(), []);
        case.health = Some(HealthState::Healthy);
        assert_eq!(case.acts(), [(Act::Replace, false)]);
        case.health = Some(HealthState::Unhealthy { message: "no".into() });
        assert_eq!(case.acts(), [(Act::Withdraw, false)]);
    }

    #[test]
    fn after_both_ended_the_old_one_is_run_again_first_and_the_new_one_waits_as_restarts_do() {
        // As after a reboot: the one beside is made by an agent that is gone.
        let mut case = Case::new(EXITED, Some(EXITED));
        assert_eq!(case.acts(), [(Act::Restart, true)]);
        case = Case::new(RUNNING, Some(EXITED));
        assert_eq!(case.acts(), [(Act::StartBeside, false)]);
        let policy = case.desired.instances[&name()].service.restart;
        let beside = case.memory.beside_mut("new");
        beside.looked_at();
        let _ =
            beside.look(Some(&copy("new", EXITED, Place::Beside)), Some(&policy), MonoTime::default(), 0.0);
        assert_eq!(case.acts(), []);
        assert_eq!(case.plan().wake, Some(MonoTime::default() + policy.backoff));
    }

    #[test]
    fn where_nothing_would_go_on_the_new_one_takes_the_place_at_once() {
        let mut case = Case::new(EXITED, Some(RUNNING));
        case.desired.formers.clear();
        assert_eq!(case.acts(), [(Act::Replace, false)]);
        case = Case::new(EXITED, None);
        let former = Arc::make_mut(case.desired.formers.get_mut(&name()).unwrap());
        Arc::make_mut(&mut former.service).restart.when = RestartWhen::Never;
        assert_eq!(case.acts(), [(Act::Replace, false)]);
    }

    #[test]
    fn one_beside_that_is_not_the_wanted_one_goes() {
        let mut case = Case::new(RUNNING, Some(RUNNING));
        case.desired.instances.insert(name(), Arc::new(spec("newer")));
        assert_eq!(case.acts(), [(Act::Withdraw, false)]);
        // Back to the old revision.
        case.desired.instances.insert(name(), Arc::new(spec("old")));
        assert_eq!(case.acts(), [(Act::Withdraw, false)]);
        case.desired.authoritative = false;
        assert_eq!(case.acts(), [], "what is wanted is not known for certain");
    }
}
