//! Rows as people see them.

use prost_types::Timestamp;
use skerry_proto::registry::v1::{Connection, NodeSpec, NodeStatus};
use skerry_proto::scheduler::v1::{AppStatus, Counts};
use skerry_proto::types::v1::MachineStatus;
use skerry_proto::types::v1::machine_status::Runtime;

use super::*;
use crate::render::table::Table;

const NOW: i64 = 1_000_000;

fn metadata(name: &str) -> Metadata {
    Metadata {
        name: name.into(),
        create_time: Some(Timestamp { seconds: NOW - 300, nanos: 0 }),
        generation: 2,
        labels: [("site".to_owned(), "oslo".to_owned())].into(),
        ..Default::default()
    }
}

fn condition(kind: &str, status: Status, reason: &str) -> Condition {
    Condition { r#type: kind.into(), status: status.into(), reason: reason.into(), ..Default::default() }
}

fn node(connected: bool, conditions: Vec<Condition>, cordoned: bool) -> Item {
    let machine = MachineStatus {
        agent_version: "0.1.0".into(),
        architecture: "amd64".into(),
        kernel: "6.1".into(),
        address: "192.0.2.10".into(),
        runtimes: vec![
            Runtime { kind: "docker".into(), version: "20.10".into(), available: false },
            Runtime { kind: "process".into(), version: String::new(), available: true },
        ],
        ..Default::default()
    };
    let status = NodeStatus {
        connection: Some(Connection { connected, gateway: "gw".into(), ..Default::default() }),
        machine: Some(machine),
        conditions,
        instances_assigned: 3,
        instances_ready: 2,
        ..NodeStatus::default()
    };
    Item::Node(Box::new(Node {
        metadata: Some(metadata("projects/p/nodes/n1")),
        spec: Some(NodeSpec { cordoned, ..NodeSpec::default() }),
        status: Some(status),
    }))
}

fn app(observed: i64, conditions: Vec<Condition>, problem: &str) -> Item {
    let problems = if problem.is_empty() {
        vec![]
    } else {
        vec![InstanceStatus { reason: problem.into(), ..Default::default() }]
    };
    let status = AppStatus {
        revision: "0123456789abcdef".into(),
        observed_generation: observed,
        counts: Some(Counts { desired: 3, updated: 2, running: 2, ready: 1 }),
        conditions,
        problems,
        ..Default::default()
    };
    Item::App(Box::new(App {
        metadata: Some(metadata("projects/p/apps/hello")),
        spec: None,
        status: Some(status),
    }))
}

fn table(kind: Type, items: &[Item], wide: bool) -> String {
    let rows: Vec<_> = items.iter().map(|item| cells(item, wide, NOW)).collect();
    Table::new(&headers(kind, wide), None, true).rows(&rows)
}

#[test]
fn nodes() {
    let items = [
        node(true, vec![], false),
        node(true, vec![condition("Ready", Status::False, "StateCorrupt")], true),
        node(false, vec![], false),
    ];
    assert_eq!(
        table(Type::Node, &items, false),
        "\
NAME   STATUS                             INSTANCES   ARCH    VERSION   AGE
n1     Ready                              2/3         amd64   0.1.0     5m
n1     NotReady (StateCorrupt),Cordoned   2/3         amd64   0.1.0     5m
n1     Disconnected                       2/3         amd64   0.1.0     5m
"
    );
    assert_eq!(
            table(Type::Node, &items[..1], true),
            "\
NAME   STATUS   INSTANCES   ARCH    VERSION   AGE   CLUSTER   ADDRESS      RUNTIMES                       KERNEL   GATEWAY   LABELS
n1     Ready    2/3         amd64   0.1.0     5m    -         192.0.2.10   docker 20.10 (away), process   6.1      gw        site=oslo
"
        );
}

#[test]
fn apps_say_why_they_are_not_available() {
    let yes = |kind| condition(kind, Status::True, "");
    let no = |kind, reason| condition(kind, Status::False, reason);
    let items = [
        app(2, vec![yes("Available")], ""),
        app(1, vec![yes("Available")], ""),
        app(2, vec![no("Available", "InstancesNotReady"), yes("Progressing")], "ImagePullFailed"),
        app(2, vec![no("Available", "NoMatchingNode")], ""),
    ];
    assert_eq!(
        table(Type::App, &items, false),
        "\
NAME    READY   UP-TO-DATE   STATUS                          REVISION       AGE
hello   1/3     2            Available                       0123456789ab   5m
hello   1/3     2            Pending                         0123456789ab   5m
hello   1/3     2            Progressing (ImagePullFailed)   0123456789ab   5m
hello   1/3     2            Unavailable (NoMatchingNode)    0123456789ab   5m
"
    );
}

#[test]
fn instances() {
    let instance = InstanceStatus {
        instance: "hello/web/n1/0".into(),
        node: "projects/p/nodes/n1".into(),
        revision: "0123456789abcdef".into(),
        phase: InstancePhase::Backoff.into(),
        reason: "ProgramEnded".into(),
        message: "exit code 3".into(),
        restarts: 4,
        exit_code: Some(3),
        start_time: Some(Timestamp { seconds: NOW - 30, nanos: 0 }),
        ..Default::default()
    };
    let items = [
        Item::Instance(Box::new(instance)),
        Item::Instance(Box::new(InstanceStatus { instance: "a/b/c/0".into(), ..Default::default() })),
    ];
    assert_eq!(
            table(Type::Instance, &items, true),
            "\
INSTANCE         NODE   PHASE     READY   RESTARTS   REASON         AGE   REVISION       EXIT   RUNTIME-ID   MESSAGE
hello/web/n1/0   n1     Backoff   no      4          ProgramEnded   30s   0123456789ab   3      -            exit code 3
a/b/c/0          -      Unknown   no      0          -              -     -              -      -            -
"
        );
}

#[test]
fn configs_revisions_and_events() {
    use skerry_proto::scheduler::v1::ConfigSpec;
    use skerry_proto::types::v1::{AppSpec, ServiceSpec};
    let spec = ConfigSpec { data: [("a".to_owned(), "x".repeat(2048))].into(), ..Default::default() };
    let config = Config { metadata: Some(metadata("projects/p/configs/c")), spec: Some(spec) };
    assert_eq!(
        table(Type::Config, &[Item::Config(Box::new(config))], false),
        "NAME   KEYS   SIZE      AGE\nc      1      2.0 KiB   5m\n"
    );
    let services = vec![ServiceSpec { name: "web".into(), ..Default::default() }];
    let revision = Revision {
        name: "projects/p/apps/hello/revisions/0123456789abcdef".into(),
        number: 7,
        create_time: None,
        spec: Some(AppSpec { services, ..Default::default() }),
        ..Default::default()
    };
    assert_eq!(
        table(Type::Revision, &[Item::Revision(Box::new(revision))], false),
        "REVISION       NUMBER   SERVICES   AGE\n0123456789ab   7        web        -\n"
    );
    let event = Event {
        time: Some(Timestamp { seconds: 3600, nanos: 0 }),
        count: 12,
        first_time: Some(Timestamp { seconds: 0, nanos: 0 }),
        severity: 2,
        reason: "ImagePullFailed".into(),
        message: "no such image".into(),
        regarding: "projects/p/instances/hello/web/n1/0".into(),
        source: "projects/p/nodes/n1".into(),
        ..Default::default()
    };
    assert_eq!(
            table(Type::Event, &[Item::Event(Box::new(event))], true),
            "\
TIME                   SEVERITY   REASON            REGARDING                 MESSAGE                                               SOURCE
1970-01-01T01:00:00Z   Warning    ImagePullFailed   instance/hello/web/n1/0   no such image (12 times since 1970-01-01T00:00:00Z)   node/n1
"
        );
}

#[test]
fn what_is_gone_says_so() {
    let cells = change_cells(ChangeKind::Deleted, &node(true, vec![], false), false, NOW);
    assert_eq!(cells[..2], ["n1", "Deleted"]);
}
