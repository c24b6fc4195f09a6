//! What a call for logs asks for, checked.

use std::collections::HashMap;

use bytes::Bytes;
use skerry_model::fault::Violations;
use skerry_model::{Fault, NodeRef, ProjectName};
use skerry_proto::relay::v1 as pb;

use crate::instances::{INSTANCES_MAX, Which};

/// Longest text that is looked for.
const GREP_BYTES_MAX: usize = 1024;
/// Longest position: some numbers.
const POSITION_BYTES_MAX: usize = 256;

/// See the module.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Ask {
    pub(crate) whose: Whose,
    pub(crate) follow: bool,
    since: Option<prost_types::Timestamp>,
    until: Option<prost_types::Timestamp>,
    tail: Option<u32>,
    previous: bool,
    grep: String,
    positions: HashMap<(String, String), Bytes>,
}

/// Whose log.
#[derive(Debug, Clone, PartialEq)]
pub(crate) enum Whose {
    /// Of instances.
    Instances(Which),
    /// Of a node's agent.
    Agent(NodeRef),
}

impl Whose {
    fn parse(wrong: &mut Violations, [app, narrow @ ..]: [&String; 5]) -> Option<Self> {
        let Ok(node) = NodeRef::parse(app) else {
            let [service, node, cluster, instance] = narrow;
            return Which::parse(wrong, "", [app, service, node, cluster, instance]).map(Self::Instances);
        };
        for (field, value) in ["service", "node", "cluster", "instance"].into_iter().zip(narrow) {
            if !value.is_empty() {
                wrong.add(field, "leave it out: `app` names a node");
            }
        }
        Some(Self::Agent(node))
    }

    /// Where the resource is that was asked for.
    pub(crate) fn project(&self) -> &ProjectName {
        match self {
            Self::Instances(which) => &which.app.project,
            Self::Agent(node) => &node.project,
        }
    }

    /// Its full name.
    pub(crate) fn resource(&self) -> String {
        match self {
            Self::Instances(which) => which.app.to_string(),
            Self::Agent(node) => node.to_string(),
        }
    }
}

impl Ask {
    /// Names each field that is wrong.
    pub(crate) fn parse(request: pb::LogsRequest) -> Result<Self, Fault> {
        let pb::LogsRequest { app, service, node, cluster, instance, .. } = &request;
        let mut wrong = Violations::new();
        let whose = Whose::parse(&mut wrong, [app, service, node, cluster, instance]);
        if request.previous && matches!(whose, Some(Whose::Agent(_))) {
            wrong.add("previous", "leave it out: an agent has what it says in memory only");
        }
        if request.follow && request.until.is_some() {
            wrong.add("until", "leave it out, or do not follow: what is followed has no end");
        }
        if request.follow && request.previous {
            wrong.add("previous", "leave it out, or do not follow: what was written before is over");
        }
        for (field, time) in [("since", &request.since), ("until", &request.until)] {
            if time.as_ref().is_some_and(|time| !is_fit(time)) {
                wrong.add(field, "a time from 1970 to 2262");
            }
        }
        if request.grep.len() > GREP_BYTES_MAX {
            wrong.add("grep", format!("at most {GREP_BYTES_MAX} bytes"));
        }
        if request.positions.len() > INSTANCES_MAX {
            wrong.add("positions", format!("at most {INSTANCES_MAX}"));
        }
        let mut positions = HashMap::new();
        for (index, position) in request.positions.into_iter().enumerate().take(INSTANCES_MAX) {
            if position.position.len() > POSITION_BYTES_MAX {
                wrong.add(format!("positions[{index}].position"), "not one that an answer gave");
            }
            positions.insert((position.instance, position.node), position.position);
        }
        wrong.finish(whose).map(|whose| Self {
            whose,
            follow: request.follow,
            since: request.since,
            until: request.until,
            tail: request.tail,
            previous: request.previous,
            grep: request.grep,
            positions,
        })
    }

    /// How far the caller has the log of an instance already. Empty: not at all.
    pub(crate) fn position(&self, instance: &str, node: &NodeRef) -> Bytes {
        self.positions.get(&(instance.to_string(), node.to_string())).cloned().unwrap_or_default()
    }

    /// What is asked of the agent of an instance. Empty: of itself.
    pub(crate) fn start(&self, instance: &str, position: Bytes) -> pb::LogsStart {
        pb::LogsStart {
            instance: instance.to_string(),
            follow: self.follow,
            since: self.since,
            until: self.until,
            tail: self.tail,
            previous: self.previous,
            grep: self.grep.clone(),
            position,
        }
    }
}

/// Whether it is a time that lines can have: in nanoseconds since 1970, of 64 bits.
fn is_fit(time: &prost_types::Timestamp) -> bool {
    let last = i64::MAX / 1_000_000_000;
    (0..last).contains(&time.seconds) && (0..1_000_000_000).contains(&time.nanos)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn request() -> pb::LogsRequest {
        pb::LogsRequest { app: "projects/p/apps/a".to_owned(), ..pb::LogsRequest::default() }
    }

    fn wrong(request: pb::LogsRequest) -> Vec<String> {
        let fault = Ask::parse(request).expect_err("refused");
        fault.violations.into_iter().map(|violation| violation.field).collect()
    }

    #[test]
    fn every_field_that_is_wrong_is_named() {
        assert!(Ask::parse(request()).is_ok());
        let bad = pb::LogsRequest {
            app: "a".to_owned(),
            service: "No".to_owned(),
            node: "n1".to_owned(),
            cluster: "-".to_owned(),
            instance: "a/b".to_owned(),
            follow: true,
            until: Some(prost_types::Timestamp::default()),
            previous: true,
            grep: "x".repeat(GREP_BYTES_MAX + 1),
            ..pb::LogsRequest::default()
        };
        let fields = wrong(bad);
        assert_eq!(fields, ["app", "service", "cluster", "node", "instance", "until", "previous", "grep"]);
        assert_eq!(wrong(pb::LogsRequest { node: "projects/q/nodes/n".to_owned(), ..request() }), ["node"]);
        assert_eq!(wrong(pb::LogsRequest { instance: "b/s/n/0".to_owned(), ..request() }), ["instance"]);
    }

    #[test]
    fn a_time_that_no_line_can_have_is_refused_and_not_passed_over() {
        for (seconds, nanos) in [(-1, 0), (0, -7), (0, 1_000_000_000), (1 << 62, 0)] {
            let since = Some(prost_types::Timestamp { seconds, nanos });
            assert_eq!(wrong(pb::LogsRequest { since, ..request() }), ["since"], "{seconds}.{nanos}");
        }
    }

    #[test]
    fn the_log_of_an_agent_is_asked_for_by_its_node_alone() {
        let node = pb::LogsRequest { app: "projects/p/nodes/n".to_owned(), ..pb::LogsRequest::default() };
        let ask = Ask::parse(node.clone()).unwrap();
        assert_eq!(ask.whose.resource(), "projects/p/nodes/n");
        let more = pb::LogsRequest { service: "web".to_owned(), previous: true, ..node };
        assert_eq!(wrong(more), ["service", "previous"]);
    }

    #[test]
    fn an_instance_goes_on_where_the_caller_has_it_on_that_node() {
        let position = pb::LogPosition {
            instance: "a/s/n/0".to_owned(),
            node: "projects/p/nodes/n".to_owned(),
            position: Bytes::from_static(b"here"),
        };
        let ask = Ask::parse(pb::LogsRequest { positions: vec![position], ..request() }).unwrap();
        let (instance, node) = ("a/s/n/0", NodeRef::parse("projects/p/nodes/n").unwrap());
        assert_eq!(ask.position(instance, &node), "here");
        assert_eq!(ask.position(instance, &NodeRef::parse("projects/p/nodes/m").unwrap()), "");
    }
}
