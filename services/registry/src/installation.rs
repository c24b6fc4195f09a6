//! `InstallationService`: how the installation itself is, and what somebody should look at.

use std::sync::Arc;

use skerry_api::{Resource as _, known_project, reply};
use skerry_model::{Fault, ProjectName, few};
use skerry_proto::registry::v1 as pb;
use skerry_proto::registry::v1::installation_service_server::InstallationService;
use skerry_proto::store::v1 as stored;
use skerry_store::{Inspection, Prefix, ReadError, Snapshot, Store};
use tonic::{Request, Response, Status};

use crate::follow::Shared;

/// Nodes that are named one by one; the others are counted.
const NAMED_MAX: usize = 5;
/// A store that takes longer for one read is told as slow.
const SLOW_MILLIS: u128 = 250;
/// A store that is filled so far is told as nearly full, in percent.
const FULL_PERCENT: i64 = 80;
/// The services that an installation must have, and which of them has a leader.
const SERVICES: [(&str, bool); 3] = [("registry", false), ("scheduler", true), ("gateway", false)];

/// The handlers.
#[derive(Clone)]
pub(crate) struct Installations {
    shared: Arc<Shared>,
    store: Store,
}

impl Installations {
    pub(crate) fn new(shared: Arc<Shared>, store: Store) -> Self {
        Self { shared, store }
    }

    async fn get(&self, request: &pb::GetInstallationRequest) -> Result<pb::GetInstallationResponse, Fault> {
        let project =
            ProjectName::parse_parent(&request.parent).map_err(|e| Fault::invalid_field("parent", e))?;
        known_project(&self.store, &self.shared.mirror, &project).await?;
        // One that is away is told as a problem: what is known besides it is known from the mirrors.
        let store = self.store.inspect().await;
        let members = members(&self.shared.mirror.snapshot());
        let mut nodes = pb::NodeCounts::default();
        let mut away = Vec::new();
        let prefix = format!("{}/nodes/", project.parent());
        let all = self.shared.nodes.snapshot();
        for (_, node) in all.range(prefix.clone()..).take_while(|(name, _)| name.starts_with(&prefix)) {
            nodes.total += 1;
            let connection = node.status.as_ref().and_then(|status| status.connection.as_ref());
            if connection.is_some_and(|connection| connection.connected) {
                nodes.connected += 1;
            } else if let Some(metadata) = node.metadata() {
                away.push(metadata.name.rsplit('/').next().unwrap_or_default().to_owned());
            }
        }
        let problems = problems(&members, store.as_ref(), &away);
        let store = store.ok().map(store_state);
        let installation = pb::Installation { problems, members, store, nodes: Some(nodes) };
        Ok(pb::GetInstallationResponse { installation: Some(installation) })
    }
}

/// The replicas that are alive, by service and start.
fn members(snapshot: &Snapshot) -> Vec<pb::Member> {
    let leaders = Prefix::<stored::LeaderRecord>::all();
    let leaders: Vec<String> =
        snapshot.iter(&leaders).filter_map(Result::ok).map(|leader| leader.value.member).collect();
    let all = Prefix::<stored::MemberRecord>::all();
    let mut members: Vec<pb::Member> = snapshot
        .iter(&all)
        .filter_map(Result::ok)
        .map(|member| {
            let id = member.key.name().to_string();
            let leader = leaders.contains(&id);
            let stored::MemberRecord { service, version, address, metrics_address, start_time } =
                member.value;
            pb::Member { service, id, version, address, metrics_address, start_time, leader }
        })
        .collect();
    members.sort_by(|a, b| {
        let key = |member: &pb::Member| member.start_time.map_or((0, 0), |time| (time.seconds, time.nanos));
        (&a.service, key(a), &a.id).cmp(&(&b.service, key(b), &b.id))
    });
    members
}

fn store_state(store: Inspection) -> pb::StoreState {
    pb::StoreState {
        kind: if store.embedded { "embedded" } else { "etcd" }.to_owned(),
        version: store.version,
        size_bytes: store.size_bytes,
        used_bytes: store.used_bytes,
        quota_bytes: store.quota_bytes,
        latency: prost_types::Duration::try_from(store.latency).ok(),
        members: store.members,
        members_healthy: store.members_healthy,
    }
}

/// What is wrong, worst first. Pure.
fn problems(
    members: &[pb::Member],
    store: Result<&Inspection, &ReadError>,
    away: &[String],
) -> Vec<pb::InstallationProblem> {
    let mut problems = Vec::new();
    let mut tell = |subject: &str, reason: &str, message: String, remedy: &str| {
        let (subject, reason, remedy) = (subject.to_owned(), reason.to_owned(), remedy.to_owned());
        problems.push(pb::InstallationProblem { subject, reason, message, remedy });
    };
    match store {
        Err(error) => tell(
            "store",
            "Unavailable",
            Fault::from(error.clone()).message,
            "look at its machine and its log; until it answers nothing changes, and all else here is as it was known last",
        ),
        Ok(store) => store_problems(store, &mut tell),
    }
    for (service, led) in SERVICES {
        let replicas = members.iter().filter(|member| member.service == service);
        if replicas.clone().count() == 0 {
            let message = format!("no {service} is alive");
            tell(service, "NoReplica", message, "start one, or look at the log of the one that should run");
        } else if led && !replicas.clone().any(|member| member.leader) {
            let message = format!("no {service} leads: nothing new is assigned to nodes");
            tell(service, "NoLeader", message, "wait some seconds; if it stays so, look at its log");
        }
    }
    if let Some(millis) = store.ok().map(|store| store.latency.as_millis()).filter(|ms| *ms > SLOW_MILLIS) {
        let message = format!("one read took {millis} ms");
        tell("store", "Slow", message, "look at the load and the disk of its machine");
    }
    let mut versions: Vec<&str> = members.iter().map(|member| member.version.as_str()).collect();
    versions.sort_unstable();
    versions.dedup();
    if versions.len() > 1 {
        let message = format!("replicas are of versions {}", versions.join(" and "));
        tell("services", "MixedVersions", message, "finish the update of the others");
    }
    if !away.is_empty() {
        let message = format!("not connected: {}", few(away, NAMED_MAX));
        let remedy = format!(
            "skerry describe node/{} says since when; look whether its machine and agent run",
            away[0]
        );
        tell("nodes", "NotConnected", message, &remedy);
    }
    problems
}

/// What is wrong with a store that answers, and must be said before all else.
fn store_problems(store: &Inspection, tell: &mut impl FnMut(&str, &str, String, &str)) {
    if store.members_healthy < store.members {
        let message = format!("{} of {} members are healthy", store.members_healthy, store.members);
        tell(
            "store",
            "MembersUnhealthy",
            message,
            "look at etcd on the others: etcdctl endpoint status --cluster",
        );
    }
    if store.quota_bytes > 0 && store.size_bytes >= store.quota_bytes / 100 * FULL_PERCENT {
        let message = format!("it takes {} of the {} bytes that it may", store.size_bytes, store.quota_bytes);
        tell("store", "NearlyFull", message, "defragment it (etcdctl defrag), or raise its quota");
    }
}

#[tonic::async_trait]
impl InstallationService for Installations {
    async fn get_installation(
        &self,
        request: Request<pb::GetInstallationRequest>,
    ) -> Result<Response<pb::GetInstallationResponse>, Status> {
        reply(self.get(request.get_ref()).await)
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    fn member(service: &str, leader: bool) -> pb::Member {
        pb::Member { service: service.into(), version: "1".into(), leader, ..Default::default() }
    }

    fn healthy() -> Inspection {
        Inspection {
            embedded: false,
            version: "3.5".into(),
            size_bytes: 1000,
            used_bytes: 500,
            quota_bytes: 0,
            latency: Duration::from_millis(1),
            members: 3,
            members_healthy: 3,
        }
    }

    fn reasons(members: &[pb::Member], store: &Inspection, away: &[String]) -> Vec<String> {
        problems(members, Ok(store), away)
            .into_iter()
            .map(|p| format!("{}/{}", p.subject, p.reason))
            .collect()
    }

    #[test]
    fn a_whole_installation_has_no_problem_and_each_lack_is_told() {
        let all = [member("registry", false), member("scheduler", true), member("gateway", false)];
        assert_eq!(reasons(&all, &healthy(), &[]), [""; 0]);
        let leaderless = [member("registry", false), member("scheduler", false)];
        assert_eq!(reasons(&leaderless, &healthy(), &[]), ["scheduler/NoLeader", "gateway/NoReplica"]);
        let ill = Inspection {
            members_healthy: 2,
            quota_bytes: 1100,
            latency: Duration::from_secs(1),
            ..healthy()
        };
        let away: Vec<String> = (1..8).map(|n| format!("n{n}")).collect();
        assert_eq!(
            reasons(&all, &ill, &away),
            ["store/MembersUnhealthy", "store/NearlyFull", "store/Slow", "nodes/NotConnected"]
        );
        let told = problems(&all, Ok(&healthy()), &away);
        assert_eq!(told[0].message, "not connected: n1, n2, n3, n4, n5 and 2 more");
        let other = pb::Member { version: "2".into(), ..member("gateway", false) };
        assert_eq!(
            reasons(&[all[0].clone(), all[1].clone(), other], &healthy(), &[]),
            ["services/MixedVersions"]
        );
    }

    #[test]
    fn a_store_that_does_not_answer_is_told_first_and_the_rest_is_told_too() {
        let all = [member("registry", false), member("scheduler", true)];
        let error = ReadError::Refused { what: "the state of the store".into(), reason: "no".into() };
        let told = problems(&all, Err(&error), &["n1".to_owned()]);
        let reasons: Vec<String> = told.iter().map(|p| format!("{}/{}", p.subject, p.reason)).collect();
        assert_eq!(reasons, ["store/Unavailable", "gateway/NoReplica", "nodes/NotConnected"]);
        assert_eq!(told[0].message, "reading the state of the store: no");
    }
}
