//! One resource with all that belongs to it, for people.

use std::fmt::Write as _;

use skerry_model::meta::SYSTEM_APP_PREFIX;
use skerry_proto::registry::v1::{Node, Project};
use skerry_proto::scheduler::v1::{App, Config, RolloutStatus, Secret};
use skerry_proto::scheduler::v1::{rollout_status, secret_status};
use skerry_proto::types::v1::service_spec::{Kind, Program};
use skerry_proto::types::v1::{
    Condition, ImageState, ImageStatus, InstanceStatus, LabelSelector, Metadata, ServiceSpec, Taint,
    Termination, taint,
};

use crate::item::Item;
use crate::render::clusters::cluster_of;
use crate::render::jobs;
use crate::render::rows::{
    app_state, cells, headers, is_system, labels, node_state, phase, short_hash, usage,
};
use crate::render::table::{Table, plain};
use crate::render::time::{age, bytes, moment, processors};
use crate::target::Type;

/// Most events that a description shows: the newest.
const EVENTS_SHOWN: usize = 20;
/// Most ends that the description of an app shows: the newest.
const ENDS_SHOWN: usize = 10;

/// A node, what is assigned to it of apps and, apart from that, of system apps, and what happened.
pub(crate) fn node(
    node: &Node,
    (instances, of_system): (&[Item], &[Item]),
    events: &[Item],
    now: i64,
) -> String {
    let mut text = head(node.metadata.as_ref());
    let status = node.status.clone().unwrap_or_default();
    let machine = status.machine.unwrap_or_default();
    field(&mut text, "Status", &node_state(node));
    field(&mut text, "Cluster", cluster_of(node).unwrap_or_default());
    let taints = node.spec.iter().flat_map(|spec| &spec.taints);
    field(&mut text, "Taints", &taints.map(taint_line).collect::<Vec<_>>().join(", "));
    if let Some(connection) = &status.connection {
        let when = if connection.connected { &connection.connect_time } else { &connection.disconnect_time };
        let since = if when.is_some() {
            format!(" since {} ({})", moment(when.as_ref()), age(when.as_ref(), now))
        } else {
            String::new()
        };
        let word = if connection.connected { "connected" } else { "disconnected" };
        field(&mut text, "Connection", &format!("{word}{since}, gateway {}", connection.gateway));
    }
    field(
        &mut text,
        "Machine",
        &format!("{} ({} {}, kernel {})", machine.hostname, machine.os, machine.architecture, machine.kernel),
    );
    if !machine.address.is_empty() {
        field(&mut text, "Address", &machine.address);
    }
    let amount = |count: i64| bytes(u64::try_from(count).unwrap_or_default());
    let capacity = format!(
        "{} processors, {} memory, {} disk",
        processors(machine.cpu_millis),
        amount(machine.memory_bytes),
        amount(machine.disk_bytes)
    );
    field(&mut text, "Capacity", &capacity);
    let runtimes: Vec<String> = machine
        .runtimes
        .iter()
        .map(|r| {
            format!("{} {}", r.kind, if r.available { r.version.as_str() } else { "(away)" })
                .trim_end()
                .to_owned()
        })
        .collect();
    field(&mut text, "Runtimes", &runtimes.join(", "));
    field(&mut text, "Agent", &machine.agent_version);
    conditions(&mut text, &status.conditions, now);
    section(&mut text, "Instances", Type::Instance, instances, now);
    if !status.images.is_empty() {
        let rows: Vec<_> = status.images.iter().map(image_row).collect();
        table(&mut text, "Images fetched ahead", &["IMAGE", "STATE", "MESSAGE"], &rows);
    }
    if !of_system.is_empty() {
        section(&mut text, "System apps", Type::Instance, of_system, now);
    }
    section(&mut text, "Events", Type::Event, newest(events), now);
    text
}

fn image_row(image: &ImageStatus) -> Vec<String> {
    let state = match image.state() {
        ImageState::Unspecified | ImageState::Waiting => "Waiting",
        ImageState::Fetching => "Fetching",
        ImageState::Present => "Present",
        ImageState::Failed => "Failed",
    };
    let platform = if image.platform.is_empty() { String::new() } else { format!(" ({})", image.platform) };
    let message = if image.message.is_empty() { "-" } else { image.message.as_str() };
    vec![format!("{}{platform}", image.image), state.to_owned(), message.to_owned()]
}

/// An app, its instances, and what happened.
pub(crate) fn app(app: &App, instances: &[Item], events: &[Item], now: i64) -> String {
    let mut text = head(app.metadata.as_ref());
    let status = app.status.clone().unwrap_or_default();
    let counts = status.counts.unwrap_or_default();
    field(&mut text, "Status", &app_state(app));
    field(&mut text, "Revision", &short_hash(&status.revision));
    let line = format!(
        "{} desired, {} up to date, {} running, {} ready",
        counts.desired, counts.updated, counts.running, counts.ready
    );
    field(&mut text, "Instances", &line);
    let label_selector = app.spec.as_ref().and_then(|spec| spec.selector.as_ref());
    if is_system(app) {
        let name = app.metadata.as_ref().and_then(|metadata| metadata.name.rsplit('/').next());
        let chosen = format!("yes; chosen by the label {SYSTEM_APP_PREFIX}{}", name.unwrap_or_default());
        field(&mut text, "System app", &chosen);
        field(&mut text, "Selector", &selector(label_selector, ""));
    } else {
        field(&mut text, "Selector", &selector(label_selector, "every node"));
    }
    if let Some(rollout) = &status.rollout {
        field(&mut text, "Rollout", &rollout_line(rollout));
    }
    conditions(&mut text, &status.conditions, now);
    let rows: Vec<Vec<String>> = app
        .spec
        .iter()
        .flat_map(|spec| &spec.services)
        .map(|service| {
            let counts = status
                .services
                .iter()
                .find(|s| s.service == service.name)
                .and_then(|s| s.counts)
                .unwrap_or_default();
            vec![
                service.name.clone(),
                kind(service),
                format!("{}/{}", counts.ready, counts.desired),
                program(service),
            ]
        })
        .collect();
    table(&mut text, "Services", &["NAME", "KIND", "READY", "PROGRAM"], &rows);
    section(&mut text, "Instances", Type::Instance, instances, now);
    text.push_str(&jobs::of_app(instances, now));
    let ends = last_ends(instances, now);
    if !ends.is_empty() {
        table(&mut text, "Ended before", &["INSTANCE", "FINISHED", "RAN", "REASON", "EXIT"], &ends);
    }
    section(&mut text, "Events", Type::Event, newest(events), now);
    text
}

/// As in `Progressing, batch 2: 3 of 8 clusters changed, 2 healthy, 1 away; ...`.
fn rollout_line(rollout: &RolloutStatus) -> String {
    let RolloutStatus { batch, moved, clusters, healthy, away, message, .. } = rollout;
    let phase = match rollout.phase() {
        rollout_status::Phase::Progressing => "Progressing",
        rollout_status::Phase::Paused => "Paused",
        rollout_status::Phase::RollingBack => "RollingBack",
        rollout_status::Phase::Done => "Done",
        rollout_status::Phase::RolledBack => "RolledBack",
        rollout_status::Phase::Unspecified => "-",
    };
    let message = if message.is_empty() { String::new() } else { format!("; {message}") };
    format!(
        "{phase}, batch {batch}: {moved} of {clusters} clusters changed, {healthy} healthy, {away} away{message}"
    )
}

/// The newest ends of all instances.
fn last_ends(instances: &[Item], now: i64) -> Vec<Vec<String>> {
    let mut ends: Vec<_> = instances
        .iter()
        .filter_map(|item| match item {
            Item::Instance(instance) => Some(instance),
            _ => None,
        })
        .flat_map(|instance| instance.terminations.iter().map(|end| (&instance.instance, end)))
        .collect();
    ends.sort_by_key(|(_, end)| end.finish_time.as_ref().map(|at| (at.seconds, at.nanos)));
    let newest = ends.split_off(ends.len().saturating_sub(ENDS_SHOWN));
    let row = |(name, end): (&String, &Termination)| [vec![name.clone()], ended(end, now)].concat();
    newest.into_iter().map(row).collect()
}

/// When it ended, how long it had run, and how it ended.
fn ended(end: &Termination, now: i64) -> Vec<String> {
    let finished = end.finish_time.as_ref();
    let ran = finished.map_or("-".to_owned(), |at| age(end.start_time.as_ref(), at.seconds));
    let exit = match end.exit_code {
        Some(code @ 129..=192) => format!("{code} (signal {})", code - 128),
        Some(code) => code.to_string(),
        None => "-".to_owned(),
    };
    vec![format!("{} ago", age(finished, now)), ran, end.reason.clone(), exit]
}

/// An instance, and what happened.
pub(crate) fn instance(instance: &InstanceStatus, project: &str, events: &[Item], now: i64) -> String {
    let mut text = String::new();
    field(&mut text, "Name", &instance.instance);
    field(&mut text, "Project", project);
    field(&mut text, "Node", instance.node.rsplit('/').next().unwrap_or_default());
    field(&mut text, "Phase", phase(instance.phase()));
    field(&mut text, "Ready", if instance.ready { "yes" } else { "no" });
    field(&mut text, "Reason", &instance.reason);
    field(&mut text, "Message", &instance.message);
    field(&mut text, "Restarts", &instance.restarts.to_string());
    field(&mut text, "Exit code", &instance.exit_code.map_or(String::new(), |code| code.to_string()));
    let started = instance.start_time.as_ref();
    let since = if started.is_some() {
        format!("{} ({})", moment(started), age(started, now))
    } else {
        String::new()
    };
    field(&mut text, "Started", &since);
    field(&mut text, "Revision", &instance.revision);
    field(&mut text, "Runtime id", &instance.runtime_id);
    for warning in &instance.warnings {
        field(&mut text, "Warning", warning);
    }
    text.push_str(&jobs::of_instance(instance, now));
    let ends: Vec<_> = instance.terminations.iter().map(|end| ended(end, now)).collect();
    table(&mut text, "Ended before", &["FINISHED", "RAN", "REASON", "EXIT"], &ends);
    section(&mut text, "Events", Type::Event, newest(events), now);
    text
}

/// A config and its files.
pub(crate) fn config(config: &Config) -> String {
    let mut text = head(config.metadata.as_ref());
    let spec = config.spec.clone().unwrap_or_default();
    let data =
        spec.data.iter().map(|(key, value)| vec![key.clone(), bytes(value.len() as u64), "text".into()]);
    let binary = spec
        .binary_data
        .iter()
        .map(|(key, value)| vec![key.clone(), bytes(value.len() as u64), "binary".into()]);
    let rows: Vec<_> = data.chain(binary).collect();
    table(&mut text, "Files", &["KEY", "SIZE", "FORM"], &rows);
    text
}

/// A secret and its keys. Nobody has its values to show.
pub(crate) fn secret(secret: &Secret) -> String {
    let mut text = head(secret.metadata.as_ref());
    let status = secret.status.clone().unwrap_or_default();
    field(&mut text, "Kind", secret_kind(status.kind()));
    if !status.registry.is_empty() {
        field(&mut text, "Registry", &status.registry);
    }
    field(&mut text, "Version", &status.version);
    field(&mut text, "Sealed as", &status.sealed_hash);
    field(&mut text, "Changed", &moment(status.update_time.as_ref()));
    let size = |size: i64| bytes(u64::try_from(size).unwrap_or_default());
    let rows: Vec<_> = status.entries.iter().map(|one| vec![one.key.clone(), size(one.size_bytes)]).collect();
    table(&mut text, "Entries", &["KEY", "SIZE"], &rows);
    text
}

/// A project, with what there is of it beside what there may be.
pub(crate) fn project(project: &Project) -> String {
    let mut text = head(project.metadata.as_ref());
    field(&mut text, "Description", project.spec.as_ref().map_or("", |spec| &spec.description));
    let deleting = project.status.as_ref().is_some_and(|status| status.deleting);
    field(&mut text, "Status", if deleting { "Deleting" } else { "Active" });
    let row = |(what, used, limit): (&str, String, Option<String>)| {
        vec![what.to_owned(), used, limit.unwrap_or_else(|| "-".to_owned())]
    };
    let rows: Vec<_> = usage(project).into_iter().map(row).collect();
    table(&mut text, "Quota", &["RESOURCE", "USED", "LIMIT"], &rows);
    text
}

/// `gpu=yes:NoSchedule`
fn taint_line(taint: &Taint) -> String {
    let value = if taint.value.is_empty() { String::new() } else { format!("={}", taint.value) };
    let effect = match taint.effect() {
        taint::Effect::Unspecified => "",
        taint::Effect::NoSchedule => "NoSchedule",
        taint::Effect::NoExecute => "NoExecute",
    };
    format!("{}{value}:{effect}", taint.key)
}

/// What a secret is for, in a word.
pub(crate) fn secret_kind(kind: secret_status::Kind) -> &'static str {
    match kind {
        secret_status::Kind::Unspecified | secret_status::Kind::Opaque => "Opaque",
        secret_status::Kind::ImageCredentials => "ImageCredentials",
    }
}

pub(super) fn head(metadata: Option<&Metadata>) -> String {
    let mut text = String::new();
    let metadata = metadata.cloned().unwrap_or_default();
    let mut parts = metadata.name.split('/').skip(1);
    let project = parts.next().unwrap_or_default().to_owned();
    field(&mut text, "Name", metadata.name.rsplit('/').next().unwrap_or_default());
    // A project is in none.
    if parts.next().is_some() {
        field(&mut text, "Project", &project);
    }
    field(&mut text, "Labels", &labels(Some(&metadata)));
    for (key, value) in &metadata.annotations {
        field(&mut text, "Annotation", &format!("{key}: {value}"));
    }
    field(&mut text, "Created", &moment(metadata.create_time.as_ref()));
    field(&mut text, "Generation", &metadata.generation.to_string());
    text
}

pub(super) fn field(text: &mut String, name: &str, value: &str) {
    let label = format!("{name}:");
    let value = plain(value);
    let value = if value.trim().is_empty() { "-" } else { &value };
    writeln!(text, "{label:<13}{value}").expect("writing to a string");
}

fn conditions(text: &mut String, conditions: &[Condition], now: i64) {
    use skerry_proto::types::v1::condition::Status;
    let rows: Vec<Vec<String>> = conditions
        .iter()
        .map(|condition| {
            let status = match condition.status() {
                Status::True => "True",
                Status::False => "False",
                Status::Unknown | Status::Unspecified => "Unknown",
            };
            vec![
                condition.r#type.clone(),
                status.to_owned(),
                age(condition.last_transition_time.as_ref(), now),
                condition.reason.clone(),
                condition.message.clone(),
            ]
        })
        .collect();
    table(text, "Conditions", &["TYPE", "STATUS", "SINCE", "REASON", "MESSAGE"], &rows);
}

fn section(text: &mut String, title: &str, kind: Type, items: &[Item], now: i64) {
    let wide = kind == Type::Instance;
    let rows: Vec<_> = items.iter().map(|item| cells(item, wide, now)).collect();
    table(text, title, &headers(kind, wide), &rows);
}

pub(super) fn table(text: &mut String, title: &str, headers: &[&'static str], rows: &[Vec<String>]) {
    if rows.is_empty() {
        writeln!(text, "\n{title}: none").expect("writing to a string");
        return;
    }
    writeln!(text, "\n{title}:").expect("writing to a string");
    for line in Table::new(headers, None, true).rows(rows).lines() {
        writeln!(text, "  {line}").expect("writing to a string");
    }
}

fn newest(events: &[Item]) -> &[Item] {
    &events[events.len().saturating_sub(EVENTS_SHOWN)..]
}

fn kind(service: &ServiceSpec) -> String {
    match &service.kind {
        None => "Deployment (1 replica)".into(),
        Some(Kind::Deployment(deployment)) => match deployment.replicas.unwrap_or(1) {
            1 => "Deployment (1 replica)".into(),
            replicas => format!("Deployment ({replicas} replicas)"),
        },
        Some(Kind::DaemonSet(_)) => "DaemonSet".into(),
        Some(Kind::Job(job)) => match job.completions.unwrap_or(1) {
            1 => "Job".into(),
            completions => format!("Job ({completions} completions)"),
        },
        Some(Kind::CronJob(cron)) => format!("CronJob ({})", cron.schedule),
    }
}

fn program(service: &ServiceSpec) -> String {
    match &service.program {
        Some(Program::Container(container)) => format!("container {}", container.image),
        Some(Program::Process(process)) => format!("process {}", process.program),
        None => "-".into(),
    }
}

/// An empty one is told by what it means.
fn selector(selector: Option<&LabelSelector>, empty: &str) -> String {
    use skerry_proto::types::v1::label_requirement::Operator;
    let selector = selector.cloned().unwrap_or_default();
    let mut parts: Vec<String> =
        selector.match_labels.iter().map(|(key, value)| format!("{key}={value}")).collect();
    parts.extend(selector.match_expressions.iter().map(|requirement| {
        let (key, values) = (&requirement.key, requirement.values.join(","));
        match requirement.operator() {
            Operator::In => format!("{key} in ({values})"),
            Operator::NotIn => format!("{key} notin ({values})"),
            Operator::Exists => key.clone(),
            Operator::DoesNotExist => format!("!{key}"),
            Operator::Unspecified => format!("{key} ?"),
        }
    }));
    if parts.is_empty() { empty.to_owned() } else { parts.join(", ") }
}

#[cfg(test)]
mod tests {
    use prost_types::Timestamp;
    use skerry_proto::scheduler::v1::{AppStatus, ConfigSpec, Counts};
    use skerry_proto::types::v1::{AppSpec, Container, Event, InstancePhase};

    use super::*;

    fn metadata(name: &str) -> Metadata {
        let create_time = Some(Timestamp::default());
        Metadata { name: name.into(), create_time, generation: 1, ..Default::default() }
    }

    #[test]
    fn an_app_is_shown_with_services_instances_and_events() {
        let service = ServiceSpec {
            name: "web".into(),
            program: Some(Program::Container(Container { image: "nginx:1".into(), ..Default::default() })),
            ..Default::default()
        };
        let status = AppStatus {
            revision: "0123456789abcdef".into(),
            observed_generation: 1,
            counts: Some(Counts { desired: 1, updated: 1, running: 1, ready: 0 }),
            conditions: vec![Condition {
                r#type: "Available".into(),
                status: 2,
                reason: "NotReady".into(),
                ..Default::default()
            }],
            ..Default::default()
        };
        let app = App {
            metadata: Some(metadata("projects/p/apps/hello")),
            spec: Some(AppSpec {
                selector: Some(LabelSelector {
                    match_labels: [("site".into(), "oslo".into())].into(),
                    ..Default::default()
                }),
                services: vec![service],
                ..Default::default()
            }),
            status: Some(status),
        };
        let instance = Item::Instance(Box::new(InstanceStatus {
            instance: "hello/web/n1/0".into(),
            node: "projects/p/nodes/n1".into(),
            phase: InstancePhase::Running.into(),
            reason: "Unhealthy".into(),
            ..Default::default()
        }));
        let event = Item::Event(Box::new(Event {
            reason: "Started".into(),
            message: "it runs".into(),
            ..Default::default()
        }));
        assert_eq!(
            self::app(&app, &[instance], &[event], 10),
            "\
Name:        hello
Project:     p
Labels:      -
Created:     1970-01-01T00:00:00Z
Generation:  1
Status:      Unavailable (NotReady)
Revision:    0123456789ab
Instances:   1 desired, 1 up to date, 1 running, 0 ready
Selector:    site=oslo

Conditions:
  TYPE        STATUS   SINCE   REASON     MESSAGE
  Available   False    -       NotReady

Services:
  NAME   KIND                     READY   PROGRAM
  web    Deployment (1 replica)   0/0     container nginx:1

Instances:
  INSTANCE         NODE   PHASE     READY   RESTARTS   REASON      AGE   REVISION   EXIT   RUNTIME-ID   MESSAGE
  hello/web/n1/0   n1     Running   no      0          Unhealthy   -     -          -      -            -

Events:
  TIME   SEVERITY   REASON    REGARDING   MESSAGE
  -      Normal     Started   -           it runs
"
        );
    }

    #[test]
    fn what_is_of_the_system_is_told_apart() {
        let spec = AppSpec { system: true, ..Default::default() };
        let metadata = Some(metadata("projects/p/apps/broker"));
        let text = app(&App { metadata, spec: Some(spec), status: None }, &[], &[], 10);
        let expected = "System app:  yes; chosen by the label system.skerry.dev/broker\nSelector:    -\n";
        assert!(text.contains(expected), "{text}");
        let instance = |name: &str| {
            Item::Instance(Box::new(InstanceStatus { instance: name.into(), ..Default::default() }))
        };
        let text = node(&Node::default(), (&[instance("web/w/n1/0")], &[instance("broker/b/n1/0")]), &[], 10);
        let (own, system) = text.split_once("\nSystem apps:\n").expect("two tables");
        assert!(own.contains("\nInstances:\n") && own.contains("web/w/n1/0"), "{text}");
        assert!(system.contains("broker/b/n1/0") && !own.contains("broker"), "{text}");
    }

    #[test]
    fn what_an_agent_says_moves_no_cursor_and_is_one_line() {
        let status = InstanceStatus {
            instance: "a/w/n1/0".into(),
            message: "no\x1b[2J\nReady:       yes".into(),
            warnings: vec!["\u{9b}31m".into()],
            ..Default::default()
        };
        let text = instance(&status, "p", &[], 10);
        assert!(text.contains("Message:     no [2J Ready:       yes\n"), "{text}");
        assert!(text.chars().all(|c| c == '\n' || !c.is_control()), "{text:?}");
    }

    #[test]
    fn a_config_shows_its_files_and_not_what_is_in_them() {
        let spec =
            ConfigSpec { data: [("a.conf".to_owned(), "secret".to_owned())].into(), ..Default::default() };
        let text = config(&Config { metadata: Some(metadata("projects/p/configs/c")), spec: Some(spec) });
        assert!(text.ends_with("\nFiles:\n  KEY      SIZE   FORM\n  a.conf   6 B    text\n"), "{text}");
        assert!(!text.contains("secret"));
    }

    #[test]
    fn a_node_that_never_came_is_shown() {
        let text = node(
            &Node { metadata: Some(metadata("projects/p/nodes/n1")), ..Default::default() },
            (&[], &[]),
            &[],
            10,
        );
        assert!(text.contains("Status:      Disconnected\n"), "{text}");
        assert!(text.ends_with("\nConditions: none\n\nInstances: none\n\nEvents: none\n"), "{text}");
    }
}
