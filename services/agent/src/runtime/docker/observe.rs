//! What runs: one list of our containers, and an inspection only of those whose state is new.
//!
//! A list tells state, health and address; when it began or ended, and of what, takes an inspection, whose answer is kept until the
//! container changes. So an idle agent asks Docker one question a period.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::net::{IpAddr, Ipv4Addr};
use std::path::PathBuf;
use std::sync::Mutex;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use bollard::models::{
    ContainerState, ContainerSummary, ContainerSummaryHealthStatusEnum as Health,
    ContainerSummaryStateEnum as State, EndpointSettings,
};
use bollard::query_parameters::ListContainersOptionsBuilder;
use futures_util::StreamExt as _;
use skerry_model::InstanceName;
use skerry_model::time::from_timestamp;
use tracing::{debug, warn};

use super::client::{Client, LOOK_DEADLINE};
use super::error::{Failure, Kind};
use super::foreign::Foreign;
use super::hosts::{self, Networked};
use super::spec::{
    LABEL_FINGERPRINT, LABEL_GPU_BOOKINGS, LABEL_GPU_WARNINGS, LABEL_INSTANCE, LABEL_NETWORKS,
    LABEL_REVISION, Owner,
};
use crate::gpu::read_noted;
use crate::lock::lock;
use crate::runtime::{Observed, Place, RunState};

/// For one inspection. Short: Docker can list a container that it cannot inspect, and the others must not wait for it.
const INSPECT_DEADLINE: Duration = Duration::from_secs(5);
/// Inspections at one time, after a start of the agent.
const INSPECTIONS_AT_ONCE: usize = 8;

/// What an inspection said, and of which state.
#[derive(Debug, Clone, Copy, Default)]
struct Detail {
    state: Option<State>,
    code: Option<i32>,
    started: Option<SystemTime>,
    finished: Option<SystemTime>,
    out_of_memory: bool,
    /// Something happened to the container since.
    stale: bool,
}

impl Detail {
    /// Whether it is about the state that a list shows.
    fn is_of(&self, one: &ContainerSummary) -> bool {
        self.state == one.state && (is_running(one.state) || self.code == exit_code_in(one.status.as_deref()))
    }
}

/// Kept answers, by container id. Bounded by the containers that the last list had.
#[derive(Default)]
pub(super) struct Observer {
    details: Mutex<HashMap<String, Detail>>,
    /// Ids by instance, as last listed.
    ids: Mutex<BTreeMap<(InstanceName, Place), String>>,
    /// Those that run, as last listed, with their addresses.
    networked: Mutex<Vec<Networked>>,
}

impl Observer {
    /// All containers of the owner.
    pub(super) async fn observe(
        &self,
        client: &Client,
        owner: &Owner,
        foreign: &Foreign,
    ) -> Result<Vec<Observed>, Failure> {
        let listed = list(client, vec![owner.filter()]).await?;
        foreign.retain(&listed);
        let listed = foreign.without(client, owner, listed).await?;
        let new: Vec<String> =
            listed.iter().filter(|one| !self.is_known(one)).filter_map(|one| one.id.clone()).collect();
        let inspections = futures_util::stream::iter(new).map(|id| inspect(client, id));
        let mut inspections = inspections.buffer_unordered(INSPECTIONS_AT_ONCE);
        while let Some((id, inspected)) = inspections.next().await {
            match inspected {
                Ok(Some(detail)) => {
                    lock(&self.details).insert(id, detail);
                }
                // Told from the list alone; asked again next time.
                Ok(None) => self.forget(&id),
                Err(failure) => {
                    warn!(container = id, error = failure.message, "container cannot be inspected");
                    if failure.kind == Kind::TimedOut {
                        self.make_do(&id, &listed);
                    } else {
                        self.forget(&id);
                    }
                }
            }
        }
        drop(inspections);
        let present: BTreeSet<&str> = listed.iter().filter_map(|one| one.id.as_deref()).collect();
        let mut details = lock(&self.details);
        details.retain(|id, _| present.contains(id.as_str()));
        let observed = listed
            .iter()
            .filter_map(|one| {
                // Where nothing new could be learnt, what is known of this state still counts: other times would mean another start.
                let kept = one.id.as_ref().and_then(|id| details.get(id)).filter(|kept| kept.is_of(one));
                observed(owner, one, kept.copied().unwrap_or_default())
            })
            .collect();
        let observed = placed(observed);
        let ids = observed.iter().map(|one| ((one.instance.clone(), one.place), one.runtime_id.clone()));
        *lock(&self.ids) = ids.collect();
        *lock(&self.networked) = listed.iter().filter_map(networked).collect();
        Ok(observed)
    }

    /// An inspection hung. What the list tells has to do until the container changes: asked at each look, it would hold up all others each
    /// time.
    fn make_do(&self, id: &str, listed: &[ContainerSummary]) {
        let Some(one) = listed.iter().find(|one| one.id.as_deref() == Some(id)) else { return };
        let code = exit_code_in(one.status.as_deref());
        let mut details = lock(&self.details);
        let known = details.get(id).filter(|kept| kept.is_of(one)).copied();
        let known = known.unwrap_or(Detail { state: one.state, code, ..Detail::default() });
        details.insert(id.to_owned(), Detail { stale: false, ..known });
    }

    /// The container changed: what is kept of it is to be asked again.
    pub(super) fn forget(&self, id: &str) {
        if let Some(kept) = lock(&self.details).get_mut(id) {
            kept.stale = true;
        }
    }

    /// The container is no more: commands do not go to it.
    pub(super) fn gone(&self, id: &str) {
        lock(&self.details).remove(id);
        lock(&self.ids).retain(|_, of| of != id);
    }

    /// A container of an instance, as last listed.
    pub(super) fn id(&self, place: Place, instance: &InstanceName) -> Option<String> {
        lock(&self.ids).get(&(instance.clone(), place)).cloned()
    }

    /// The containers that run, as last listed.
    pub(super) fn networked(&self) -> Vec<Networked> {
        lock(&self.networked).clone()
    }

    /// The containers of an instance are others now, or none.
    pub(super) fn forget_instance(&self, instance: &InstanceName) {
        lock(&self.ids).retain(|(of, _), _| of != instance);
    }

    /// Whether nothing is to be learnt from an inspection. One that was only created has nothing to tell.
    fn is_known(&self, one: &ContainerSummary) -> bool {
        let Some(id) = &one.id else { return true };
        one.state == Some(State::CREATED)
            || lock(&self.details).get(id).is_some_and(|kept| !kept.stale && kept.is_of(one))
    }
}

/// Containers, running or not, that carry all of these labels.
pub(super) async fn list(client: &Client, labels: Vec<String>) -> Result<Vec<ContainerSummary>, Failure> {
    let docker = client.docker().await?;
    let filters = HashMap::from([("label".to_owned(), labels)]);
    let options = ListContainersOptionsBuilder::new().all(true).filters(&filters).build();
    client.within(LOOK_DEADLINE, docker.list_containers(Some(options))).await
}

/// What the containers of a list mount from the machine.
pub(super) fn mounted_paths(listed: &[ContainerSummary]) -> BTreeSet<PathBuf> {
    let mounts = listed.iter().filter_map(|one| one.mounts.as_ref()).flatten();
    mounts.filter_map(|mount| mount.source.as_ref()).map(PathBuf::from).collect()
}

/// Whether its program runs. One that somebody paused counts: it is there, and would continue.
pub(super) fn is_running(state: Option<State>) -> bool {
    matches!(state, Some(State::RUNNING | State::PAUSED | State::RESTARTING | State::STOPPING))
}

/// None: gone in the meantime.
async fn inspect(client: &Client, id: String) -> (String, Result<Option<Detail>, Failure>) {
    let inspected = async {
        let docker = client.docker().await?;
        match client.within(INSPECT_DEADLINE, docker.inspect_container(&id, None)).await {
            Ok(found) => Ok(found.state.map(|state| detail(&state))),
            Err(Failure { kind: Kind::NotFound, .. }) => Ok(None),
            Err(failure) => Err(failure),
        }
    };
    let inspected = inspected.await;
    (id, inspected)
}

fn detail(state: &ContainerState) -> Detail {
    Detail {
        state: state.status.and_then(|status| status.as_ref().parse().ok()),
        code: state.exit_code.and_then(|code| i32::try_from(code).ok()),
        started: state.started_at.as_deref().and_then(time),
        finished: state.finished_at.as_deref().and_then(time),
        out_of_memory: state.oom_killed.unwrap_or(false),
        stale: false,
    }
}

/// A time as Docker writes it. Year 1 means never.
fn time(text: &str) -> Option<SystemTime> {
    from_timestamp(&text.parse().ok()?)
}

/// None: it carries our mark but no instance of ours, which only a person can have done.
fn observed(owner: &Owner, one: &ContainerSummary, detail: Detail) -> Option<Observed> {
    let label =
        |key: &str| one.labels.as_ref().and_then(|labels| labels.get(key)).cloned().unwrap_or_default();
    let instance = match InstanceName::parse(&label(LABEL_INSTANCE)) {
        Ok(instance) => instance,
        Err(error) => {
            debug!(container = one.id, %error, "a container with our mark is no instance");
            return None;
        }
    };
    let created = one.created.and_then(|seconds| u64::try_from(seconds).ok()).map(Duration::from_secs);
    let created = UNIX_EPOCH + created.unwrap_or_default();
    let running = is_running(one.state);
    let state = if one.state == Some(State::CREATED) {
        RunState::Created
    } else if running {
        RunState::Running { since: detail.started.unwrap_or(created) }
    } else {
        RunState::Exited {
            code: exit_code_in(one.status.as_deref()).or(detail.code),
            at: detail.finished.unwrap_or(created),
            out_of_memory: detail.out_of_memory,
        }
    };
    let place = if is_beside(owner, one, &instance) { Place::Beside } else { Place::Own };
    let drift = if running { drift(one, &owner.container(&instance)) } else { None };
    Some(Observed {
        instance,
        fingerprint: label(LABEL_FINGERPRINT),
        revision: label(LABEL_REVISION),
        runtime_id: one.id.clone().unwrap_or_default(),
        state,
        address: running.then(|| address(one)).flatten(),
        image_health: if running { image_health(one) } else { None },
        drift,
        place,
        started: detail.started,
        warnings: label(LABEL_GPU_WARNINGS).lines().map(str::to_owned).collect(),
        gpus: read_noted(&label(LABEL_GPU_BOOKINGS)),
    })
}

/// A container that runs, as far as names go.
fn networked(one: &ContainerSummary) -> Option<Networked> {
    let labels = one.labels.as_ref().filter(|_| is_running(one.state))?;
    let networks = one.network_settings.as_ref().and_then(|settings| settings.networks.as_ref());
    let mut mounts = one.mounts.iter().flatten();
    Some(Networked {
        instance: InstanceName::parse(labels.get(LABEL_INSTANCE)?).ok()?,
        fingerprint: labels.get(LABEL_FINGERPRINT)?.clone(),
        addresses: networks.map(addresses).unwrap_or_default(),
        mounts_hosts: mounts.any(|mount| mount.destination.as_deref() == Some(hosts::TARGET)),
    })
}

/// What a container has in its networks, by their names.
pub(super) fn addresses(networks: &HashMap<String, EndpointSettings>) -> Vec<IpAddr> {
    let by_name: BTreeMap<&String, &EndpointSettings> = networks.iter().collect();
    let of = |one: &EndpointSettings| [one.ip_address.clone(), one.global_ipv6_address.clone()];
    by_name.into_values().flat_map(of).flatten().filter_map(|text| text.parse().ok()).collect()
}

fn is_beside(owner: &Owner, one: &ContainerSummary, instance: &InstanceName) -> bool {
    !is_named(one, &owner.container(instance)) && is_named(one, &owner.beside(instance))
}

/// The copies of each instance in their places, its own first. One that is alone is in its own place, whatever it is called, and one that
/// somebody renamed comes after one that has its name. A third is not told: what makes one copy run removes it.
fn placed(mut observed: Vec<Observed>) -> Vec<Observed> {
    observed.sort_by(|a, b| {
        let rank = |one: &Observed| (one.place, one.drift == Some("Renamed"));
        (&a.instance, rank(a)).cmp(&(&b.instance, rank(b)))
    });
    let mut placed: Vec<Observed> = Vec::with_capacity(observed.len());
    for one in observed {
        match placed.last().filter(|last| last.instance == one.instance) {
            None => placed.push(Observed { place: Place::Own, ..one }),
            Some(last) if last.place == Place::Own => placed.push(Observed { place: Place::Beside, ..one }),
            Some(_) => debug!(container = one.runtime_id, instance = %one.instance, "a third copy"),
        }
    }
    placed
}

/// What other hands changed about a container that runs and shall be called `name`.
fn drift(one: &ContainerSummary, name: &str) -> Option<&'static str> {
    if one.state == Some(State::PAUSED) {
        Some("Paused")
    } else if !is_named(one, name) {
        Some("Renamed")
    } else if !missing_networks(one).is_empty() {
        Some("Disconnected")
    } else {
        None
    }
}

/// Whether a container has this name. Links of other containers give it more names, with more slashes. A list without names tells nothing.
pub(super) fn is_named(one: &ContainerSummary, name: &str) -> bool {
    let names = one.names.as_deref().unwrap_or_default();
    names.is_empty() || names.iter().any(|found| found.strip_prefix('/') == Some(name))
}

/// The networks that a container was put in and is not in any more, as Docker calls them.
pub(super) fn missing_networks(one: &ContainerSummary) -> Vec<String> {
    let put_in = one.labels.as_ref().and_then(|labels| labels.get(LABEL_NETWORKS));
    let settings = one.network_settings.as_ref().and_then(|settings| settings.networks.as_ref());
    let (Some(put_in), Some(present)) = (put_in, settings) else { return Vec::new() };
    let put_in = put_in.split(',').filter(|network| !network.is_empty());
    put_in.filter(|network| !present.contains_key(*network)).map(str::to_owned).collect()
}

fn address(one: &ContainerSummary) -> Option<IpAddr> {
    if one.host_config.as_ref().and_then(|host| host.network_mode.as_deref()) == Some("host") {
        return Some(Ipv4Addr::LOCALHOST.into());
    }
    let networks = one.network_settings.as_ref()?.networks.as_ref()?;
    networks.values().find_map(|endpoint| endpoint.ip_address.as_deref()?.parse().ok())
}

/// Docker since API 1.52 has a field for it; before, it is a word in the status. One that is still starting has no answer yet.
fn image_health(one: &ContainerSummary) -> Option<bool> {
    match one.health.as_ref().and_then(|health| health.status) {
        Some(Health::HEALTHY) => return Some(true),
        Some(Health::UNHEALTHY) => return Some(false),
        Some(Health::STARTING | Health::NONE) => return None,
        Some(Health::EMPTY) | None => {}
    }
    let status = one.status.as_deref()?;
    if status.ends_with("(healthy)") {
        Some(true)
    } else if status.ends_with("(unhealthy)") {
        Some(false)
    } else {
        None
    }
}

/// `Exited (137) 3 minutes ago` -> 137.
fn exit_code_in(status: Option<&str>) -> Option<i32> {
    status?.strip_prefix("Exited (")?.split(')').next()?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;
    use bollard::models::{ContainerSummaryHostConfig, ContainerSummaryNetworkSettings};

    fn summary(state: State, status: &str) -> ContainerSummary {
        let labels = [(LABEL_INSTANCE, "a/b/n/0"), (LABEL_FINGERPRINT, "f"), (LABEL_REVISION, "r")];
        let endpoint =
            EndpointSettings { ip_address: Some("172.18.0.2".into()), ..EndpointSettings::default() };
        ContainerSummary {
            id: Some("c1".into()),
            state: Some(state),
            status: Some(status.into()),
            created: Some(1000),
            labels: Some(labels.into_iter().map(|(k, v)| (k.to_owned(), v.to_owned())).collect()),
            network_settings: Some(ContainerSummaryNetworkSettings {
                networks: Some(HashMap::from([("n".to_owned(), endpoint)])),
            }),
            ..ContainerSummary::default()
        }
    }

    fn owner() -> Owner {
        Owner::new("o")
    }

    fn at(seconds: u64) -> SystemTime {
        UNIX_EPOCH + Duration::from_secs(seconds)
    }

    #[test]
    fn a_list_and_an_inspection_make_an_observation() {
        let detail = Detail {
            started: Some(at(2000)),
            finished: Some(at(3000)),
            out_of_memory: true,
            ..Detail::default()
        };
        let see = |state, status| observed(&owner(), &summary(state, status), detail).unwrap();
        let up = see(State::RUNNING, "Up 5 minutes");
        assert_eq!(up.state, RunState::Running { since: at(2000) });
        assert_eq!((up.address, up.image_health), (Some("172.18.0.2".parse().unwrap()), None));
        assert_eq!(
            (up.instance.to_string().as_str(), up.fingerprint.as_str(), up.revision.as_str()),
            ("a/b/n/0", "f", "r")
        );
        assert_eq!(see(State::CREATED, "Created").state, RunState::Created);
        let down = see(State::EXITED, "Exited (137) 3 minutes ago");
        assert_eq!(down.state, RunState::Exited { code: Some(137), at: at(3000), out_of_memory: true });
        assert_eq!(down.address, None);
    }

    #[test]
    fn without_an_inspection_the_list_must_do() {
        let up = observed(&owner(), &summary(State::RUNNING, "Up 1 second"), Detail::default()).unwrap();
        assert_eq!(up.state, RunState::Running { since: at(1000) });
        let dead = observed(&owner(), &summary(State::DEAD, "Dead"), Detail::default()).unwrap();
        assert_eq!(dead.state, RunState::Exited { code: None, at: at(1000), out_of_memory: false });
    }

    #[test]
    fn the_images_health_is_read_from_field_or_status() {
        let cases = [
            ("Up 5 minutes (healthy)", Some(true)),
            ("Up 5 minutes (unhealthy)", Some(false)),
            ("Up 5 seconds (health: starting)", None),
            ("Up 5 seconds", None),
        ];
        for (status, expected) in cases {
            assert_eq!(image_health(&summary(State::RUNNING, status)), expected, "{status}");
        }
        let mut new = summary(State::RUNNING, "Up 5 seconds");
        new.health = Some(bollard::models::ContainerSummaryHealth {
            status: Some(Health::UNHEALTHY),
            ..bollard::models::ContainerSummaryHealth::default()
        });
        assert_eq!(image_health(&new), Some(false));
    }

    #[test]
    fn on_the_machines_network_the_address_is_loopback() {
        let mut one = summary(State::RUNNING, "Up");
        one.host_config = Some(ContainerSummaryHostConfig {
            network_mode: Some("host".into()),
            ..ContainerSummaryHostConfig::default()
        });
        assert_eq!(address(&one), Some(Ipv4Addr::LOCALHOST.into()));
    }

    #[test]
    fn only_a_changed_state_is_inspected_again() {
        let observer = Observer::default();
        let up = summary(State::RUNNING, "Up 1 second");
        assert!(!observer.is_known(&up));
        let kept = Detail { state: Some(State::RUNNING), ..Detail::default() };
        lock(&observer.details).insert("c1".into(), kept);
        assert!(
            observer.is_known(&summary(State::RUNNING, "Up 5 minutes (healthy)")),
            "time passing is no change"
        );
        assert!(!observer.is_known(&summary(State::EXITED, "Exited (0) 1 second ago")));
        observer.forget("c1");
        assert!(!observer.is_known(&up));
        assert!(observer.is_known(&summary(State::CREATED, "Created")), "nothing to learn");
    }

    #[test]
    fn a_container_whose_inspection_hung_is_asked_again_only_when_it_changes() {
        let observer = Observer::default();
        let (up, down) =
            (summary(State::RUNNING, "Up 1 second"), summary(State::EXITED, "Exited (3) 1 second ago"));
        observer.make_do("c1", std::slice::from_ref(&up));
        assert!(observer.is_known(&up) && !observer.is_known(&down));
        observer.make_do("c1", std::slice::from_ref(&down));
        assert!(observer.is_known(&down) && !observer.is_known(&up));
        let kept = *lock(&observer.details).get("c1").unwrap();
        assert!(matches!(
            observed(&owner(), &down, kept).unwrap().state,
            RunState::Exited { code: Some(3), .. }
        ));
        observer.forget("c1");
        assert!(!observer.is_known(&down), "an event tells of a change");
    }

    #[test]
    fn one_whose_inspection_hung_did_not_start_again() {
        let observer = Observer::default();
        let (up, paused) =
            (summary(State::RUNNING, "Up 1 hour"), summary(State::PAUSED, "Up 1 hour (Paused)"));
        let kept = Detail { state: Some(State::RUNNING), started: Some(at(2000)), ..Detail::default() };
        lock(&observer.details).insert("c1".into(), kept);
        observer.forget("c1");
        assert!(!observer.is_known(&up), "its health changed, say");
        observer.make_do("c1", std::slice::from_ref(&up));
        assert!(observer.is_known(&up));
        let kept = *lock(&observer.details).get("c1").unwrap();
        assert_eq!(observed(&owner(), &up, kept).unwrap().state, RunState::Running { since: at(2000) });
        assert!(!observer.is_known(&paused));
    }

    #[test]
    fn a_foreign_instance_label_is_passed_over() {
        let mut one = summary(State::RUNNING, "Up");
        one.labels.as_mut().unwrap().insert(LABEL_INSTANCE.into(), "?".into());
        assert!(observed(&owner(), &one, Detail::default()).is_none());
    }

    #[test]
    fn dockers_times_are_read() {
        assert_eq!(time("1970-01-01T00:33:20.5Z"), Some(at(2000) + Duration::from_millis(500)));
        assert_eq!(time("0001-01-01T00:00:00Z"), None);
        assert_eq!(time(""), None);
    }

    #[test]
    fn what_other_hands_changed_is_seen() {
        let name = "skerry-x";
        let with = |change: fn(&mut ContainerSummary)| {
            let mut one = summary(State::RUNNING, "Up");
            one.names = Some(vec!["/skerry-x".into(), "/other/link".into()]);
            one.labels.as_mut().unwrap().insert(LABEL_NETWORKS.into(), "n".into());
            change(&mut one);
            drift(&one, name)
        };
        assert_eq!(with(|_| ()), None);
        assert_eq!(with(|one| one.state = Some(State::PAUSED)), Some("Paused"));
        assert_eq!(with(|one| one.names = Some(vec!["/mine".into()])), Some("Renamed"));
        assert_eq!(with(|one| one.names = None), None, "nothing is known");
        let more = |one: &mut ContainerSummary| {
            one.labels.as_mut().unwrap().insert(LABEL_NETWORKS.into(), "n,back".into());
        };
        assert_eq!(with(more), Some("Disconnected"));
        assert_eq!(with(|one| drop(one.labels.take())), None, "made before it was noted");
    }
}
