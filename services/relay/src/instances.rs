//! Which instances a call is about: asked of a scheduler, which knows what is placed where.

use std::fmt::Display;

use skerry_model::fault::Violations;
use skerry_model::{AppRef, ClusterName, Code, Fault, InstanceName, NodeRef, ServiceName};
use skerry_proto::scheduler::v1::ListInstancesRequest;
use skerry_proto::scheduler::v1::app_service_client::AppServiceClient;
use skerry_proto::types::v1::{InstancePhase, InstanceStatus};
use skerry_rpc::{MESSAGE_BYTES_MAX, Traced, fault_of};
use tonic::Status;

use crate::reach::Reach;
use skerry_api::Replica;

/// Most instances of one call.
pub(crate) const INSTANCES_MAX: usize = 500;
/// Instances of one page.
const PAGE: i32 = 1000;
/// Instances that are named where none will do.
const SHOWN_MAX: usize = 3;
/// How long a scheduler may take.
const DEADLINE: std::time::Duration = std::time::Duration::from_secs(10);

/// Which instances of an app.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Which {
    pub(crate) app: AppRef,
    pub(crate) service: String,
    pub(crate) node: String,
    pub(crate) cluster: String,
    pub(crate) instance: String,
}

/// What there is of them.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Found {
    /// Those that are on nodes.
    pub(crate) placed: Vec<(InstanceName, NodeRef)>,
    /// How many are not.
    pub(crate) unplaced: usize,
}

impl Which {
    /// Of the fields `app`, `service`, `node`, `cluster` and `instance` of a request, below `prefix`; what is wrong is added to `wrong`.
    pub(crate) fn parse(wrong: &mut Violations, prefix: &str, fields: [&String; 5]) -> Option<Self> {
        let [app, service, node, cluster, instance] = fields;
        let at = |field: &str| format!("{prefix}{field}");
        let parsed = wrong.check(at("app"), AppRef::parse(app));
        optional(wrong, at("service"), service, ServiceName::parse);
        optional(wrong, at("cluster"), cluster, ClusterName::parse);
        let on = optional(wrong, at("node"), node, NodeRef::parse);
        let of = optional(wrong, at("instance"), instance, InstanceName::parse);
        let app = parsed?;
        if on.is_some_and(|node| node.project != app.project) {
            wrong.add(at("node"), format!("it is in another project than `{app}`"));
        }
        if of.is_some_and(|instance| instance.app != app.app) {
            wrong.add(at("instance"), format!("it is of another app than `{app}`"));
        }
        let [service, node, cluster, instance] = [service, node, cluster, instance].map(Clone::clone);
        Some(Self { app, service, node, cluster, instance })
    }

    fn matches(&self, name: &InstanceName, node: &str) -> bool {
        let is = |wanted: &str, found: &str| wanted.is_empty() || wanted == found;
        is(&self.service, name.service.as_str())
            && is(&self.cluster, name.cluster.as_str())
            && is(&self.node, node)
            && (self.instance.is_empty() || self.instance == name.to_string())
    }

    /// As in "app/x has no instance of service web on node n1".
    fn shown(&self) -> String {
        let words = [
            ("of service", self.service.as_str()),
            ("in cluster", &self.cluster),
            ("on node", self.node.rsplit('/').next().unwrap_or_default()),
            ("of the name", &self.instance),
        ];
        let told = words.iter().filter(|(_, value)| !value.is_empty());
        told.flat_map(|(word, value)| [" ", word, " ", value]).collect()
    }

    /// The one of `all` that a command goes to: the first by name that runs.
    fn one(&self, all: &[InstanceStatus]) -> Result<(InstanceName, NodeRef), Fault> {
        let placed = self.check(self.of(all))?;
        let phase = |name: &InstanceName| {
            let found = all.iter().find(|status| status.instance == name.to_string());
            found.map(InstanceStatus::phase).unwrap_or_default()
        };
        let mut running: Vec<_> =
            placed.iter().filter(|(name, _)| phase(name) == InstancePhase::Running).collect();
        running.sort_by(|(a, _), (b, _)| a.cmp(b));
        if let Some((name, node)) = running.first() {
            return Ok((name.clone(), node.clone()));
        }
        let stands = placed.iter().map(|(name, _)| format!("{name} is {}", phase(name).as_str_name()));
        let stands = stands.take(SHOWN_MAX).collect::<Vec<_>>().join(", ");
        let message = format!("none runs: {stands}; `skerry explain app/{}` says why", self.app.app);
        Err(Fault::new(Code::FailedPrecondition, "NOT_RUNNING", message))
    }

    /// What `all` has of these.
    pub(crate) fn of(&self, all: &[InstanceStatus]) -> Found {
        let mut found = Found::default();
        for status in all {
            let Ok(name) = InstanceName::parse(&status.instance) else { continue };
            if !self.matches(&name, &status.node) {
                continue;
            }
            match NodeRef::parse(&status.node) {
                Ok(node) => found.placed.push((name, node)),
                Err(_) => found.unplaced += 1,
            }
        }
        found
    }

    /// Those that are on nodes; refuses none, and too many.
    pub(crate) fn check(&self, found: Found) -> Result<Vec<(InstanceName, NodeRef)>, Fault> {
        let none = |message: String| Err(Fault::new(Code::FailedPrecondition, "NO_INSTANCE", message));
        let app = &self.app.app;
        match found {
            Found { placed, .. } if placed.len() > INSTANCES_MAX => Err(Fault::new(
                Code::ResourceExhausted,
                "TOO_MANY_INSTANCES",
                format!(
                    "these are {} instances, and at most {INSTANCES_MAX} are told at once: name a service, a node or a cluster",
                    placed.len()
                ),
            )),
            Found { placed, .. } if !placed.is_empty() => Ok(placed),
            Found { unplaced: 0, .. } => none(format!(
                "app/{app} has no instance{}: `skerry get instances` shows what it has",
                self.shown()
            )),
            Found { .. } => none(format!(
                "no instance{} of app/{app} is on a node yet: `skerry explain app/{app}` says why",
                self.shown()
            )),
        }
    }
}

fn optional<T, E: Display>(
    wrong: &mut Violations,
    field: String,
    text: &str,
    parse: impl FnOnce(&str) -> Result<T, E>,
) -> Option<T> {
    if text.is_empty() { None } else { wrong.check(field, parse(text)) }
}

/// As logs name those whose they are.
pub(crate) fn names(placed: Vec<(InstanceName, NodeRef)>) -> Vec<(String, NodeRef)> {
    placed.into_iter().map(|(instance, node)| (instance.to_string(), node)).collect()
}

/// What there is of the instances, as the first scheduler says that answers. NOT_FOUND: there is no such app.
pub(crate) async fn find(reach: &Reach, which: &Which) -> Result<Found, Fault> {
    Ok(which.of(&all(reach, which).await?))
}

/// The instance that a command goes to. FAILED_PRECONDITION: there is none, or none runs.
pub(crate) async fn find_one(reach: &Reach, which: &Which) -> Result<(InstanceName, NodeRef), Fault> {
    which.one(&all(reach, which).await?)
}

async fn all(reach: &Reach, which: &Which) -> Result<Vec<InstanceStatus>, Fault> {
    let mut last = Fault::unavailable("no scheduler is alive that could say where instances are: try again");
    for member in reach.members("scheduler").await? {
        match tokio::time::timeout(DEADLINE, list(reach, &member, which)).await {
            Ok(Ok(all)) => return Ok(all),
            Ok(Err(fault)) if fault.code == Code::Unavailable => last = fault,
            Ok(Err(fault)) => return Err(fault),
            Err(_) => last = Fault::unavailable("the scheduler did not answer in time: try again"),
        }
    }
    Err(last)
}

async fn list(reach: &Reach, member: &Replica, which: &Which) -> Result<Vec<InstanceStatus>, Fault> {
    let connection = reach.connect(&member.address, &["scheduler", "skerry"]).await?;
    let mut client = AppServiceClient::new(Traced::new(connection.channel.clone()))
        .max_decoding_message_size(MESSAGE_BYTES_MAX);
    let failed = |status: Status| {
        reach.failed(&member.address, &status);
        fault_of(&status)
    };
    let mut request = ListInstancesRequest {
        parent: which.app.to_string(),
        page_size: PAGE,
        page_token: String::new(),
        node: which.node.clone(),
    };
    let mut all = Vec::new();
    loop {
        let page = client.list_instances(request.clone()).await.map_err(failed)?.into_inner();
        all.extend(page.instances);
        if page.next_page_token.is_empty() {
            return Ok(all);
        }
        request.page_token = page.next_page_token;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn status(instance: &str, node: &str) -> InstanceStatus {
        let node = if node.is_empty() { String::new() } else { format!("projects/p/nodes/{node}") };
        InstanceStatus { instance: instance.to_owned(), node, ..InstanceStatus::default() }
    }

    fn which() -> Which {
        let app = AppRef::parse("projects/p/apps/a").unwrap();
        let (service, node, cluster, instance) = Default::default();
        Which { app, service, node, cluster, instance }
    }

    #[test]
    fn instances_are_found_by_all_that_is_said_of_them() {
        let all = [
            status("a/web/n1/0", "n1"),
            status("a/web/n2/0", "n2"),
            status("a/db/n1/0", "n1"),
            status("a/db/n3/0", ""),
        ];
        let names = |which: Which| {
            let found = which.of(&all);
            found.placed.iter().map(|(name, _)| name.to_string()).collect::<Vec<_>>()
        };
        assert_eq!(names(which()).len(), 3);
        assert_eq!(which().of(&all).unplaced, 1);
        assert_eq!(names(Which { service: "db".into(), ..which() }), ["a/db/n1/0"]);
        assert_eq!(names(Which { cluster: "n2".into(), ..which() }), ["a/web/n2/0"]);
        assert_eq!(names(Which { node: "projects/p/nodes/n1".into(), ..which() }).len(), 2);
        assert_eq!(names(Which { instance: "a/web/n1/0".into(), ..which() }), ["a/web/n1/0"]);
    }

    #[test]
    fn a_command_goes_to_the_first_that_runs() {
        let status = |instance: &str, phase: InstancePhase| InstanceStatus {
            phase: phase.into(),
            ..status(instance, "n1")
        };
        let mut all = vec![
            status("a/web/n3/0", InstancePhase::Running),
            status("a/web/n2/0", InstancePhase::Running),
            status("a/web/n1/0", InstancePhase::Backoff),
        ];
        assert_eq!(which().one(&all).unwrap().0.to_string(), "a/web/n2/0");
        all.drain(..2);
        let none = which().one(&all).unwrap_err();
        assert_eq!(none.reason, "NOT_RUNNING");
        assert!(none.message.contains("a/web/n1/0 is BACKOFF"), "{none}");
        assert_eq!(which().one(&[]).unwrap_err().reason, "NO_INSTANCE");
    }

    #[test]
    fn who_asks_for_nothing_that_is_placed_is_told_what_to_do() {
        let web = Which { service: "web".into(), ..which() };
        let none = web.check(Found::default()).unwrap_err();
        assert!(none.message.contains("app/a has no instance of service web"), "{none}");
        let waiting = web.check(Found { placed: Vec::new(), unplaced: 2 }).unwrap_err();
        assert!(waiting.message.contains("skerry explain app/a"), "{waiting}");
        assert_eq!((none.reason, waiting.reason), ("NO_INSTANCE", "NO_INSTANCE"));
    }
}
