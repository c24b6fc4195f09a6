//! `wait`: until resources are in a state. Asks for each resource by name: exact, and cheap for servers however large the project is.

use skerry_proto::scheduler::v1::App;
use skerry_proto::types::v1::Condition;
use skerry_proto::types::v1::condition::Status;
use skerry_proto::types::v1::service_spec::Kind;

use super::Several;
use super::gone::Watcher;
use crate::args::WaitArgs;
use crate::client::Client;
use crate::error::CliError;
use crate::item::Item;
use crate::patience::{Ended, Look, Patience, Seen};
use crate::print::Printer;
use crate::render::rows::{app_state, find, node_state};
use crate::target::{Target, Type, parse_all};

pub(crate) async fn run(client: &Client, args: &WaitArgs, printer: &mut Printer) -> Result<(), CliError> {
    let state = State::parse(&args.state)?;
    let targets = parse_all(&args.targets)?;
    for target in &targets {
        state.check_target(target)?;
        target.full_name(client.project())?;
    }
    let patience = Patience::new(args.timeout);
    let mut several = Several::default();
    for target in &targets {
        let outcome = match until(client, target, &state, &patience).await {
            Ok(()) => printer.line(&format!("{target} {}", state.met())),
            Err(error) => Err(error),
        };
        several.take(outcome)?;
    }
    several.finish()
}

/// What is waited for.
#[derive(Debug, Clone, PartialEq, Eq)]
enum State {
    Healthy,
    Complete,
    Connected,
    Deleted,
    Condition { kind: String, status: Status },
}

impl State {
    fn parse(text: &str) -> Result<Self, CliError> {
        let unknown = || {
            let states = "healthy, complete, connected, deleted, condition=TYPE or condition=TYPE=STATUS";
            CliError::Usage(format!("cannot wait for {text:?}; known: {states}"))
        };
        match text {
            "healthy" | "available" | "ready" => return Ok(Self::Healthy),
            "complete" | "completed" => return Ok(Self::Complete),
            "connected" => return Ok(Self::Connected),
            "deleted" | "delete" => return Ok(Self::Deleted),
            _ => {}
        }
        let condition = text.strip_prefix("condition=").ok_or_else(unknown)?;
        let (kind, status) = condition.split_once('=').unwrap_or((condition, "True"));
        let status = match status.to_ascii_lowercase().as_str() {
            "true" => Status::True,
            "false" => Status::False,
            "unknown" => Status::Unknown,
            _ => {
                return Err(CliError::Usage(format!(
                    "a condition is True, False or Unknown, not {status:?}"
                )));
            }
        };
        if kind.is_empty() {
            return Err(unknown());
        }
        Ok(Self::Condition { kind: kind.to_owned(), status })
    }

    fn check_target(&self, target: &Target) -> Result<(), CliError> {
        let allowed = match (self, target.kind) {
            (_, Type::Gpu) => {
                let message = "GPUs are not waited for: `skerry get gpus --watch` shows how they are";
                return Err(CliError::Usage(message.to_owned()));
            }
            (_, Type::Instance | Type::Revision | Type::Event | Type::Allocation) => false,
            (Self::Complete, kind) => matches!(kind, Type::App | Type::Task),
            (Self::Deleted, _) | (_, Type::Node) => true,
            (Self::Connected, _)
            | (
                _,
                Type::Config
                | Type::Secret
                | Type::User
                | Type::Group
                | Type::RoleBinding
                | Type::Grant
                | Type::Project
                | Type::Cluster
                | Type::Task,
            ) => false,
            (_, Type::App) => true,
        };
        if allowed { Ok(()) } else { Err(CliError::Usage(format!("{target} is never {}", self.met()))) }
    }

    /// As in "app/hello is healthy".
    fn met(&self) -> String {
        match self {
            Self::Healthy => "healthy".into(),
            Self::Complete => "complete".into(),
            Self::Connected => "connected".into(),
            Self::Deleted => "deleted".into(),
            Self::Condition { kind, status } => format!("{kind}={}", word(*status)),
        }
    }

    fn look(&self, item: Option<&Item>) -> Look {
        let Some(item) = item else {
            return Look::NotYet("it does not exist".into());
        };
        match (self, item) {
            (Self::Healthy | Self::Complete, Item::App(app)) if failed_for_good(app).is_some() => {
                Look::Never(format!("is never {}: {}", self.met(), failed_for_good(app).unwrap_or_default()))
            }
            (Self::Complete, Item::App(app)) => match current(app) {
                Some(conditions) if find(conditions, "Complete").is_none() => {
                    Look::Never(format!("is never complete: {}", without_end(app)))
                }
                Some(conditions) => match condition(conditions, "Complete", Status::True) {
                    Look::NotYet(seen) => Look::NotYet(Seen { text: problem(&seen.text, app), ..seen }),
                    look => look,
                },
                None => Look::NotYet("Pending".into()),
            },
            (Self::Complete, Item::Task(task)) => super::task::look(task),
            (Self::Healthy, Item::App(app)) => match app_state(app).as_str() {
                "Available" => Look::Met,
                state => {
                    let counts = app.status.as_ref().and_then(|status| status.counts).unwrap_or_default();
                    let ready = Some((counts.ready, counts.desired));
                    Look::NotYet(Seen { text: problem(state, app), ready })
                }
            },
            (Self::Healthy, Item::Node(node)) => match node_state(node).trim_end_matches(",Cordoned") {
                "Ready" => Look::Met,
                state => Look::NotYet(state.into()),
            },
            (Self::Connected, Item::Node(node)) => {
                let connection = node.status.as_ref().and_then(|status| status.connection.as_ref());
                if connection.is_some_and(|connection| connection.connected) {
                    Look::Met
                } else {
                    Look::NotYet("it is not connected".into())
                }
            }
            (Self::Condition { kind, status }, item) => condition(conditions(item), kind, *status),
            (_, item) => Look::NotYet(format!("{} is never {}", item.target(), self.met()).into()),
        }
    }

    /// Whether a resource that is not there may come into being by itself.
    fn waits_for_creation(&self) -> bool {
        *self == Self::Connected
    }
}

/// Why nothing of the app ends by itself and for good.
fn without_end(app: &App) -> &'static str {
    let services = app.spec.iter().flat_map(|spec| &spec.services);
    if services.into_iter().any(|service| matches!(service.kind, Some(Kind::CronJob(_)))) {
        "its cron jobs start again on their schedule"
    } else {
        "it has no job"
    }
}

/// The conditions of an app that speak of its present generation.
fn current(app: &App) -> Option<&[Condition]> {
    let status = app.status.as_ref()?;
    let generation = app.metadata.as_ref().map_or(0, |metadata| metadata.generation);
    (status.observed_generation >= generation).then_some(status.conditions.as_slice())
}

/// What is told of a job of the app that has failed and is not tried again.
fn failed_for_good(app: &App) -> Option<&str> {
    let failed = find(current(app)?, "Failed")?;
    (failed.status() == Status::True).then_some(failed.message.as_str())
}

fn problem(state: &str, app: &App) -> String {
    let problems = app.status.as_ref().map(|status| status.problems.as_slice()).unwrap_or_default();
    match problems.first() {
        Some(problem) => {
            let message =
                if problem.message.is_empty() { String::new() } else { format!(": {}", problem.message) };
            format!("{state}; {} {}{message}", problem.instance, problem.reason)
        }
        None => state.to_owned(),
    }
}

fn conditions(item: &Item) -> &[Condition] {
    match item {
        Item::Node(node) => {
            node.status.as_ref().map(|status| status.conditions.as_slice()).unwrap_or_default()
        }
        Item::App(app) => app.status.as_ref().map(|status| status.conditions.as_slice()).unwrap_or_default(),
        Item::Config(_)
        | Item::Secret(_)
        | Item::Instance(_)
        | Item::Revision(_)
        | Item::Event(_)
        | Item::User(_)
        | Item::Group(_)
        | Item::RoleBinding(_)
        | Item::Grant(_)
        | Item::Project(_)
        | Item::Cluster(_)
        | Item::Task(_)
        | Item::Gpu(_)
        | Item::Allocation(_) => &[],
    }
}

fn condition(conditions: &[Condition], kind: &str, wanted: Status) -> Look {
    match find(conditions, kind) {
        Some(condition) if condition.status() == wanted => Look::Met,
        Some(condition) => Look::NotYet(
            format!("{kind} is {} ({} {})", word(condition.status()), condition.reason, condition.message)
                .into(),
        ),
        None => Look::NotYet(format!("it has no condition {kind}").into()),
    }
}

fn word(status: Status) -> &'static str {
    match status {
        Status::True => "True",
        Status::False => "False",
        Status::Unknown | Status::Unspecified => "Unknown",
    }
}

/// Until an app runs its current revision, every instance ready.
pub(super) async fn until_healthy(
    client: &Client,
    target: &Target,
    patience: Patience,
) -> Result<(), CliError> {
    until(client, target, &State::Healthy, &patience).await
}

/// Whether an app is healthy, else what is missing.
pub(super) fn health(item: &Item) -> Look {
    State::Healthy.look(Some(item))
}

async fn until(client: &Client, target: &Target, state: &State, patience: &Patience) -> Result<(), CliError> {
    let mut gone = Watcher::new(target);
    let waited = patience.until(target, async || {
        if *state == State::Deleted {
            return gone.resource(client).await;
        }
        match client.get(target).await {
            Ok(item) => Ok(state.look(Some(&item))),
            Err(error) if error.is_not_found() && state.waits_for_creation() => Ok(state.look(None)),
            Err(error) => Err(error.into()),
        }
    });
    waited.await.map_err(|ended| match ended {
        Ended::Failed(error) => error,
        Ended::Over(instead) => CliError::TimedOut(format!(
            "{target} is not {} after {}: {instead}",
            state.met(),
            patience.shown()
        )),
    })
}

#[cfg(test)]
mod tests {
    use skerry_proto::registry::v1::{Connection, Node, NodeStatus};
    use skerry_proto::scheduler::v1::AppStatus;
    use skerry_proto::types::v1::{AppSpec, CronJob, InstanceStatus, Metadata, ServiceSpec};

    use super::*;

    fn parse(text: &str) -> Result<State, String> {
        State::parse(text).map_err(|error| error.text().expect("printed"))
    }

    #[test]
    fn states_are_read() {
        assert_eq!(parse("healthy"), Ok(State::Healthy));
        assert_eq!(
            parse("condition=Ready"),
            Ok(State::Condition { kind: "Ready".into(), status: Status::True })
        );
        assert_eq!(
            parse("condition=Ready=false"),
            Ok(State::Condition { kind: "Ready".into(), status: Status::False })
        );
        for bad in ["", "happy", "condition=", "condition=A=B"] {
            assert!(parse(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn a_config_is_only_ever_deleted() {
        let config = Target { kind: Type::Config, name: "c".into() };
        assert!(State::Deleted.check_target(&config).is_ok());
        assert!(State::Healthy.check_target(&config).is_err());
        assert!(State::Connected.check_target(&Target { kind: Type::App, name: "a".into() }).is_err());
    }

    fn app(observed: i64, available: Status, problems: Vec<InstanceStatus>) -> Item {
        let conditions =
            vec![Condition { r#type: "Available".into(), status: available.into(), ..Default::default() }];
        let metadata = Metadata { name: "projects/p/apps/a".into(), generation: 3, ..Default::default() };
        let status = AppStatus { observed_generation: observed, conditions, problems, ..Default::default() };
        Item::App(Box::new(App { metadata: Some(metadata), spec: None, status: Some(status) }))
    }

    #[test]
    fn an_app_is_healthy_only_in_its_present_generation() {
        assert_eq!(State::Healthy.look(Some(&app(3, Status::True, vec![]))), Look::Met);
        let seen = |text: &str| Look::NotYet(Seen { text: text.into(), ready: Some((0, 0)) });
        assert_eq!(State::Healthy.look(Some(&app(2, Status::True, vec![]))), seen("Pending"));
        let problem = InstanceStatus {
            instance: "a/w/n/0".into(),
            reason: "ImagePullFailed".into(),
            message: "no".into(),
            ..Default::default()
        };
        assert_eq!(
            State::Healthy.look(Some(&app(3, Status::False, vec![problem]))),
            seen("Unavailable (ImagePullFailed); a/w/n/0 ImagePullFailed: no")
        );
    }

    #[test]
    fn a_job_that_failed_for_good_is_waited_for_no_longer() {
        let with = |observed, complete: Status, failed: Status| {
            let Item::App(mut app) = app(observed, Status::False, vec![]) else { unreachable!("an app") };
            let status = app.status.get_or_insert_default();
            for (kind, status_of) in [("Complete", complete), ("Failed", failed)] {
                status.conditions.push(Condition {
                    r#type: kind.into(),
                    status: status_of.into(),
                    message: "job a/j/n".into(),
                    ..Default::default()
                });
            }
            Item::App(app)
        };
        let failed = with(3, Status::False, Status::True);
        for state in [State::Healthy, State::Complete] {
            let expected = Look::Never(format!("is never {}: job a/j/n", state.met()));
            assert_eq!(state.look(Some(&failed)), expected);
            assert!(
                matches!(state.look(Some(&with(2, Status::False, Status::True))), Look::NotYet(_)),
                "of before"
            );
        }
        assert_eq!(State::Complete.look(Some(&with(3, Status::True, Status::False))), Look::Met);
        assert!(matches!(
            State::Complete.look(Some(&with(3, Status::False, Status::False))),
            Look::NotYet(_)
        ));
        assert!(
            matches!(State::Complete.look(Some(&app(3, Status::True, vec![]))), Look::Never(_)),
            "no job"
        );
        let Item::App(mut cron) = app(3, Status::True, vec![]) else { unreachable!("an app") };
        let service = ServiceSpec { kind: Some(Kind::CronJob(CronJob::default())), ..Default::default() };
        cron.spec = Some(AppSpec { services: vec![service], ..Default::default() });
        let never = "is never complete: its cron jobs start again on their schedule";
        assert_eq!(State::Complete.look(Some(&Item::App(cron))), Look::Never(never.to_owned()));
        let node = Target { kind: Type::Node, name: "n".into() };
        assert!(State::Complete.check_target(&node).is_err());
    }

    #[test]
    fn a_node_is_connected_when_its_session_is() {
        let node = |connected| {
            let status = NodeStatus {
                connection: Some(Connection { connected, ..Default::default() }),
                ..Default::default()
            };
            Item::Node(Box::new(Node { status: Some(status), ..Default::default() }))
        };
        assert_eq!(State::Connected.look(Some(&node(true))), Look::Met);
        assert_eq!(State::Connected.look(Some(&node(false))), Look::NotYet("it is not connected".into()));
        assert_eq!(State::Connected.look(None), Look::NotYet("it does not exist".into()));
    }
}
