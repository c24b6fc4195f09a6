//! Which columns each type has, and what is in them.

use skerry_proto::registry::v1::{Node, Project};
use skerry_proto::scheduler::v1::{App, Config, Revision, Secret};
use skerry_proto::types::v1::condition::Status;
use skerry_proto::types::v1::{Condition, Event, InstancePhase, InstanceStatus, Metadata};

use crate::item::{ChangeKind, Item};
use crate::render::clusters::{self, cluster_of};
use crate::render::time::{self, age, moment};
use crate::render::{allocations, gpus, grants, people, tasks};
use crate::target::Type;

/// Digits of a hash that are shown.
const HASH_DIGITS: usize = 12;

/// The columns of a type.
pub(crate) fn headers(kind: Type, wide: bool) -> Vec<&'static str> {
    let (narrow, more): (&[&str], &[&str]) = match kind {
        Type::Node => (
            &["NAME", "STATUS", "INSTANCES", "ARCH", "VERSION", "AGE"],
            &["CLUSTER", "ADDRESS", "RUNTIMES", "KERNEL", "GATEWAY", "LABELS"],
        ),
        Type::App => {
            (&["NAME", "READY", "UP-TO-DATE", "STATUS", "REVISION", "AGE"], &["SYSTEM", "SERVICES", "LABELS"])
        }
        Type::Config => (&["NAME", "KEYS", "SIZE", "AGE"], &["LABELS"]),
        Type::Secret => (&["NAME", "KIND", "KEYS", "VERSION", "AGE"], &["LABELS"]),
        Type::Instance => (
            &["INSTANCE", "NODE", "PHASE", "READY", "RESTARTS", "REASON", "AGE"],
            &["REVISION", "EXIT", "RUNTIME-ID", "MESSAGE"],
        ),
        Type::Revision => (&["REVISION", "NUMBER", "SERVICES", "AGE"], &["IMAGES"]),
        Type::Cluster => {
            (&["NAME", "MEMBERS", "INSTANCES", "APPS", "CPU", "MEMORY", "AGE"], &["FAILOVER-AFTER", "LABELS"])
        }
        Type::Project => (
            &["NAME", "STATUS", "NODES", "APPS", "SECRETS", "CONFIGS", "SIZE", "AGE"],
            &["DESCRIPTION", "LABELS"],
        ),
        Type::Event => (&["TIME", "SEVERITY", "REASON", "REGARDING", "MESSAGE"], &["SOURCE"]),
        Type::User => (&["NAME", "KEYS", "AGE"], &["LABELS"]),
        Type::Group => (&["NAME", "MEMBERS", "AGE"], &["WHO", "LABELS"]),
        Type::Task => tasks::HEADERS,
        Type::Gpu => gpus::HEADERS,
        Type::Allocation => allocations::HEADERS,
        Type::Grant => grants::HEADERS,
        Type::RoleBinding => (&["NAME", "ROLE", "USERS", "GROUPS", "AGE"], &["WHO", "LABELS"]),
    };
    narrow.iter().chain(more.iter().filter(|_| wide)).copied().collect()
}

/// How wide the columns of a type usually are, for rows that come one at a time.
pub(crate) fn usual_widths(kind: Type) -> &'static [usize] {
    match kind {
        Type::Node => &[12, 16],
        Type::App => &[12, 0, 0, 28, HASH_DIGITS],
        Type::Instance => &[24, 12, 9, 0, 0, 20],
        Type::Event => &[20, 0, 18, 28],
        Type::Config
        | Type::Secret
        | Type::Revision
        | Type::User
        | Type::Group
        | Type::RoleBinding
        | Type::Grant
        | Type::Project
        | Type::Cluster => &[12],
        Type::Task => &[18, 12, 9],
        Type::Gpu => &[12, 0, 24, 12, 9, 24],
        Type::Allocation => &[12, 12, 24, 9, 9],
    }
}

/// The cells of an item, for the columns of its type.
pub(crate) fn cells(item: &Item, wide: bool, now: i64) -> Vec<String> {
    let (mut narrow, more) = match item {
        Item::Node(node) => node_cells(node, now),
        Item::App(app) => app_cells(app, now),
        Item::Config(config) => config_cells(config, now),
        Item::Secret(secret) => secret_cells(secret, now),
        Item::Instance(instance) => instance_cells(instance, now),
        Item::Revision(revision) => revision_cells(revision, now),
        Item::Event(event) => event_cells(event),
        Item::User(user) => people::user_cells(user, now),
        Item::Group(group) => people::group_cells(group, now),
        Item::RoleBinding(binding) => people::binding_cells(binding, now),
        Item::Grant(grant) => grants::cells(grant, now),
        Item::Project(project) => project_cells(project, now),
        Item::Cluster(cluster) => clusters::cells(cluster, now),
        Item::Task(task) => tasks::cells(task, now),
        Item::Gpu(gpu) => gpus::cells(gpu, wide),
        Item::Allocation(allocation) => allocations::cells(allocation, wide),
    };
    if wide {
        narrow.extend(more);
    }
    narrow
}

/// The cells of a change: as `cells`, but what is gone says so where its state would be.
pub(crate) fn change_cells(kind: ChangeKind, item: &Item, wide: bool, now: i64) -> Vec<String> {
    let mut cells = cells(item, wide, now);
    let state = match item {
        Item::App(_) => 3,
        Item::Instance(_) | Item::Task(_) => 2,
        Item::Gpu(_) => 5,
        Item::Allocation(_) => allocations::STATE,
        Item::Node(_)
        | Item::Config(_)
        | Item::Secret(_)
        | Item::Revision(_)
        | Item::Event(_)
        | Item::User(_)
        | Item::Group(_)
        | Item::RoleBinding(_)
        | Item::Grant(_)
        | Item::Project(_)
        | Item::Cluster(_) => 1,
    };
    if kind == ChangeKind::Deleted
        && let Some(cell) = cells.get_mut(state)
    {
        *cell = "Deleted".into();
    }
    cells
}

/// The cells of the narrow columns, and of those that come with `-o wide`.
pub(super) type Cells = (Vec<String>, Vec<String>);

fn node_cells(node: &Node, now: i64) -> Cells {
    let status = node.status.clone().unwrap_or_default();
    let machine = status.machine.unwrap_or_default();
    let runtimes: Vec<String> = machine
        .runtimes
        .iter()
        .map(|runtime| {
            let version =
                if runtime.version.is_empty() { String::new() } else { format!(" {}", runtime.version) };
            format!("{}{version}{}", runtime.kind, if runtime.available { "" } else { " (away)" })
        })
        .collect();
    let narrow = vec![
        short_name(node.metadata.as_ref()),
        node_state(node),
        format!("{}/{}", status.instances_ready, status.instances_assigned),
        or_dash(&machine.architecture),
        or_dash(&machine.agent_version),
        age_of(node.metadata.as_ref(), now),
    ];
    let gateway = status.connection.map(|connection| connection.gateway).unwrap_or_default();
    (
        narrow,
        vec![
            or_dash(cluster_of(node).unwrap_or_default()),
            or_dash(&machine.address),
            or_dash(&runtimes.join(", ")),
            or_dash(&machine.kernel),
            or_dash(&gateway),
            labels(node.metadata.as_ref()),
        ],
    )
}

/// `Ready`, `NotReady (DiskPressure)`, `Disconnected`, with `,Cordoned`.
pub(crate) fn node_state(node: &Node) -> String {
    let status = node.status.clone().unwrap_or_default();
    let connected = status.connection.as_ref().is_some_and(|connection| connection.connected);
    let state = match find(&status.conditions, "Ready") {
        _ if !connected => "Disconnected".to_owned(),
        Some(ready) if ready.status() == Status::False => with_reason("NotReady", &ready.reason),
        _ => "Ready".to_owned(),
    };
    match &node.spec {
        Some(spec) if spec.drain => state + ",Draining",
        Some(spec) if spec.cordoned => state + ",Cordoned",
        Some(_) | None => state,
    }
}

fn app_cells(app: &App, now: i64) -> Cells {
    let status = app.status.clone().unwrap_or_default();
    let counts = status.counts.unwrap_or_default();
    let services: Vec<&str> =
        app.spec.iter().flat_map(|spec| &spec.services).map(|service| service.name.as_str()).collect();
    let narrow = vec![
        short_name(app.metadata.as_ref()),
        format!("{}/{}", counts.ready, counts.desired),
        counts.updated.to_string(),
        app_state(app),
        short_hash(&status.revision),
        age_of(app.metadata.as_ref(), now),
    ];
    let system = if is_system(app) { "yes" } else { "no" };
    (narrow, vec![system.to_owned(), or_dash(&services.join(",")), labels(app.metadata.as_ref())])
}

/// Whether it is a system app.
pub(crate) fn is_system(app: &App) -> bool {
    app.spec.as_ref().is_some_and(|spec| spec.system)
}

/// `Available`, or what it is instead and the first reason: `Progressing (ImagePullFailed)`.
pub(crate) fn app_state(app: &App) -> String {
    let status = app.status.clone().unwrap_or_default();
    let generation = app.metadata.as_ref().map_or(0, |metadata| metadata.generation);
    if status.observed_generation < generation {
        return "Pending".into();
    }
    let available = find(&status.conditions, "Available");
    if available.is_some_and(|condition| condition.status() == Status::True) {
        return "Available".into();
    }
    let is =
        |kind| find(&status.conditions, kind).is_some_and(|condition| condition.status() == Status::True);
    let state = if is("Failed") {
        // A job that is not tried again.
        "Failed"
    } else if is("Progressing") {
        "Progressing"
    } else {
        "Unavailable"
    };
    let problem =
        status.problems.iter().map(|problem| problem.reason.as_str()).find(|reason| !reason.is_empty());
    with_reason(state, problem.or(available.map(|condition| condition.reason.as_str())).unwrap_or_default())
}

fn secret_cells(secret: &Secret, now: i64) -> Cells {
    let status = secret.status.clone().unwrap_or_default();
    let narrow = vec![
        short_name(secret.metadata.as_ref()),
        super::describe::secret_kind(status.kind()).to_owned(),
        status.entries.len().to_string(),
        status.version.chars().take(12).collect(),
        age_of(secret.metadata.as_ref(), now),
    ];
    (narrow, vec![labels(secret.metadata.as_ref())])
}

fn config_cells(config: &Config, now: i64) -> Cells {
    let spec = config.spec.clone().unwrap_or_default();
    let text: usize = spec.data.values().map(String::len).sum();
    let binary: usize = spec.binary_data.values().map(bytes::Bytes::len).sum();
    let narrow = vec![
        short_name(config.metadata.as_ref()),
        (spec.data.len() + spec.binary_data.len()).to_string(),
        time::bytes((text + binary) as u64),
        age_of(config.metadata.as_ref(), now),
    ];
    (narrow, vec![labels(config.metadata.as_ref())])
}

fn project_cells(project: &Project, now: i64) -> Cells {
    let used = usage(project).map(|(_, used, limit)| match limit {
        Some(limit) => format!("{used}/{limit}"),
        None => used,
    });
    let deleting = project.status.as_ref().is_some_and(|status| status.deleting);
    let status = if deleting { "Deleting" } else { "Active" };
    let mut narrow = vec![short_name(project.metadata.as_ref()), status.to_owned()];
    narrow.extend(used);
    narrow.push(age_of(project.metadata.as_ref(), now));
    let description = project.spec.as_ref().map_or("", |spec| &spec.description);
    (narrow, vec![or_dash(description), labels(project.metadata.as_ref())])
}

/// What there is of a project, and how much of it there may be, as people read it.
pub(crate) fn usage(project: &Project) -> [(&'static str, String, Option<String>); 5] {
    let used = project.status.and_then(|status| status.used).unwrap_or_default();
    let quota = project.spec.as_ref().and_then(|spec| spec.quota).unwrap_or_default();
    let size = |size: i64| time::bytes(u64::try_from(size).unwrap_or_default());
    let number =
        |what, used: i64, limit: Option<i64>| (what, used.to_string(), limit.map(|limit| limit.to_string()));
    [
        number("nodes", used.nodes, quota.nodes),
        number("apps", used.apps, quota.apps),
        number("secrets", used.secrets, quota.secrets),
        number("configs", used.configs, quota.configs),
        ("size", size(used.size_bytes), quota.size_bytes.map(size)),
    ]
}

fn instance_cells(instance: &InstanceStatus, now: i64) -> Cells {
    let narrow = vec![
        instance.instance.clone(),
        or_dash(instance.node.rsplit('/').next().unwrap_or_default()),
        phase(instance.phase()).to_owned(),
        if instance.ready { "yes" } else { "no" }.to_owned(),
        instance.restarts.to_string(),
        or_dash(&instance.reason),
        age(instance.start_time.as_ref(), now),
    ];
    let exit = instance.exit_code.map_or("-".into(), |code| code.to_string());
    let id: String = instance.runtime_id.chars().take(HASH_DIGITS).collect();
    (narrow, vec![short_hash(&instance.revision), exit, or_dash(&id), or_dash(&instance.message)])
}

/// The phase as a word.
pub(crate) fn phase(phase: InstancePhase) -> &'static str {
    match phase {
        InstancePhase::Unspecified => "Unknown",
        InstancePhase::Pending => "Pending",
        InstancePhase::Preparing => "Preparing",
        InstancePhase::Running => "Running",
        InstancePhase::Backoff => "Backoff",
        InstancePhase::Completed => "Completed",
        InstancePhase::Failed => "Failed",
        InstancePhase::Stopping => "Stopping",
        InstancePhase::Stopped => "Stopped",
    }
}

fn revision_cells(revision: &Revision, now: i64) -> Cells {
    let services = revision.spec.as_ref().map(|spec| spec.services.as_slice()).unwrap_or_default();
    let names: Vec<&str> = services.iter().map(|service| service.name.as_str()).collect();
    let narrow = vec![
        short_hash(revision.name.rsplit('/').next().unwrap_or_default()),
        revision.number.to_string(),
        or_dash(&names.join(",")),
        age(revision.create_time.as_ref(), now),
    ];
    (narrow, vec![programs(revision)])
}

/// The images and programs of a revision.
pub(crate) fn programs(revision: &Revision) -> String {
    use skerry_proto::types::v1::service_spec::Program;
    let services = revision.spec.as_ref().map(|spec| spec.services.as_slice()).unwrap_or_default();
    let programs: Vec<&str> = services
        .iter()
        .filter_map(|service| match &service.program {
            Some(Program::Container(container)) => Some(container.image.as_str()),
            Some(Program::Process(process)) => Some(process.program.as_str()),
            None => None,
        })
        .collect();
    or_dash(&programs.join(","))
}

fn event_cells(event: &Event) -> Cells {
    use skerry_proto::types::v1::event::Severity;
    let severity = match event.severity() {
        Severity::Warning => "Warning",
        Severity::Normal | Severity::Unspecified => "Normal",
    };
    let narrow = vec![
        moment(event.time.as_ref()),
        severity.to_owned(),
        event.reason.clone(),
        regarding(&event.regarding),
        format!("{}{}", event.message, times(event)),
    ];
    (narrow, vec![regarding(&event.source)])
}

/// How often it happened, if more than once.
fn times(event: &Event) -> String {
    match (event.count, &event.first_time) {
        (0 | 1, _) => String::new(),
        (count, None) => format!(" ({count} times)"),
        (count, first) => format!(" ({count} times since {})", moment(first.as_ref())),
    }
}

/// `projects/p/apps/hello` as `app/hello`; other texts as they are.
pub(crate) fn regarding(name: &str) -> String {
    let mut parts = name.splitn(4, '/');
    match (parts.next(), parts.next(), parts.next(), parts.next()) {
        (Some("projects"), Some(_), Some(collection), Some(rest)) => Type::parse(collection)
            .map_or_else(|_| name.to_owned(), |kind| format!("{}/{rest}", kind.singular())),
        _ => or_dash(name),
    }
}

/// The condition of a type.
pub(crate) fn find<'a>(conditions: &'a [Condition], kind: &str) -> Option<&'a Condition> {
    conditions.iter().find(|condition| condition.r#type == kind)
}

/// The first digits of a hash.
pub(crate) fn short_hash(hash: &str) -> String {
    or_dash(&hash.chars().take(HASH_DIGITS).collect::<String>())
}

/// `a=1,b=2`.
pub(crate) fn labels(metadata: Option<&Metadata>) -> String {
    let all: Vec<String> =
        metadata.iter().flat_map(|m| &m.labels).map(|(key, value)| format!("{key}={value}")).collect();
    or_dash(&all.join(","))
}

fn with_reason(state: &str, reason: &str) -> String {
    if reason.is_empty() { state.to_owned() } else { format!("{state} ({reason})") }
}

pub(super) fn short_name(metadata: Option<&Metadata>) -> String {
    metadata.and_then(|metadata| metadata.name.rsplit('/').next()).unwrap_or_default().to_owned()
}

pub(super) fn age_of(metadata: Option<&Metadata>, now: i64) -> String {
    age(metadata.and_then(|metadata| metadata.create_time.as_ref()), now)
}

pub(super) fn or_dash(text: &str) -> String {
    if text.is_empty() { "-".to_owned() } else { text.to_owned() }
}

#[cfg(test)]
mod tests;
