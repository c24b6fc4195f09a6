//! `ActOnInstances`: instances that are started anew, stopped and started by hand, each with its own outcome.
//!
//! What is to be done is in the audit log before an agent is asked for it, what came of it afterwards; each instance has records of its own.

use std::sync::Arc;
use std::time::Duration;

use futures_util::{StreamExt as _, stream};
use skerry_model::fault::Violations;
use skerry_model::{Code, Fault, InstanceName, NodeRef, time};
use skerry_proto::relay::v1 as pb;
use skerry_proto::relay::v1::channel_start::Verb as Start;
use skerry_proto::relay::v1::open_request::Body;
use skerry_proto::types::v1::{AuditCaller, AuditOutcome};
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;
use tonic::Status;

use crate::channels::{About, Open};
use crate::instances::{self, Which};
use crate::words::{fault_of_end, link_lost, was_cut};
use crate::{Shared, records};

/// Instances that are seen to at once.
const AT_ONCE: usize = 16;
/// Answers that gRPC has not taken yet.
const ANSWERS_MAX: usize = 2;
/// How long an outcome is waited for where nothing is said of it.
const WAIT: Duration = Duration::from_secs(5 * 60);
/// The same at most.
const WAIT_MAX: Duration = Duration::from_secs(3600);
/// So much longer than the agent the relay waits.
const MARGIN: Duration = Duration::from_secs(15);
/// Instances that are named where one is to be chosen.
const SHOWN_MAX: usize = 5;
/// The method, as the audit log has it.
const METHOD: &str = "skerry.relay.v1.RelayService/ActOnInstances";

/// The answers of a call.
pub(crate) type Answers = mpsc::Receiver<Result<pb::ActOnInstancesResponse, Status>>;

/// What is asked for.
#[derive(Debug, Clone)]
struct Ask {
    which: Which,
    act: pb::InstanceAct,
    all: bool,
    wait: Duration,
}

impl Ask {
    fn parse(request: &pb::ActOnInstancesRequest) -> Result<Self, Fault> {
        let mut wrong = Violations::new();
        let pb::ActOnInstancesRequest { app, service, node, cluster, instance, all, wait, .. } = request;
        let which = Which::parse(&mut wrong, "", [app, service, node, cluster, instance]);
        let act = match request.act() {
            pb::InstanceAct::Unspecified => {
                wrong.add("act", "say what to do: RESTART, STOP or START");
                None
            }
            act => Some(act),
        };
        let wait = match wait {
            None => Some(WAIT),
            Some(wait) => time::from_proto_duration(wait),
        };
        let wait = wait.filter(|wait| (Duration::from_secs(1)..=WAIT_MAX).contains(wait));
        if wait.is_none() {
            wrong.add("wait", format!("from 1 s to {} s", WAIT_MAX.as_secs()));
        }
        let parts = which.zip(act).zip(wait);
        let ((which, act), wait) = wrong.finish(parts)?;
        Ok(Self { which, act, all: *all, wait })
    }

    fn word(&self) -> &'static str {
        match self.act {
            pb::InstanceAct::Restart => "restart",
            pb::InstanceAct::Stop => "stop",
            pb::InstanceAct::Start | pb::InstanceAct::Unspecified => "start",
        }
    }

    /// Refuses several, unless all are meant.
    fn choose(
        &self,
        mut placed: Vec<(InstanceName, NodeRef)>,
    ) -> Result<Vec<(InstanceName, NodeRef)>, Fault> {
        placed.sort();
        if placed.len() <= 1 || self.all {
            return Ok(placed);
        }
        let names = placed.iter().map(|(name, node)| format!("{name} on {}", node.node));
        let mut shown = names.take(SHOWN_MAX).collect::<Vec<_>>().join(", ");
        if placed.len() > SHOWN_MAX {
            shown.push_str(", ...");
        }
        let message = format!(
            "these are {} instances: {shown}; name a service, a node, a cluster or one of them, or all with --all",
            placed.len()
        );
        Err(Fault::new(Code::FailedPrecondition, "SEVERAL_INSTANCES", message))
    }
}

/// Begins to do what is asked for.
pub(crate) async fn begin(
    shared: &Arc<Shared>,
    caller: AuditCaller,
    request: &pb::ActOnInstancesRequest,
) -> Result<Answers, Fault> {
    let ask = Ask::parse(request)?;
    let found = instances::find(&shared.reach, &ask.which).await?;
    let placed = ask.choose(ask.which.check(found)?)?;
    let (out, answers) = mpsc::channel(ANSWERS_MAX);
    let call = Arc::new(Call { shared: Arc::clone(shared), caller, ask });
    shared.shutdown.spawn(async move {
        let each = placed.into_iter().map(|(name, node)| {
            let call = Arc::clone(&call);
            async move { call.one(name, node).await }
        });
        let mut outcomes = stream::iter(each).buffer_unordered(AT_ONCE);
        while let Some(outcome) = outcomes.next().await {
            // Nobody hears it: what was not begun is left as it is.
            if out.send(Ok(outcome)).await.is_err() {
                return;
            }
        }
    });
    Ok(answers)
}

struct Call {
    shared: Arc<Shared>,
    caller: AuditCaller,
    ask: Ask,
}

impl Call {
    /// Sees to one instance, and says what came of it.
    async fn one(&self, name: InstanceName, node: NodeRef) -> pb::ActOnInstancesResponse {
        let resource = format!("{}/instances/{name}", node.project.parent());
        let word = self.ask.word();
        let act = |outcome, detail: String| {
            let project = node.project.clone();
            skerry_store::Act::new(self.caller.clone(), METHOD, project, resource.clone(), outcome)
                .detail(detail)
        };
        let outcome = match records::must(&self.shared, act(AuditOutcome::Opened, word.to_owned())).await {
            Ok(()) => {
                let outcome = self.ask_agent(&name, &node, &resource).await;
                let detail = match &outcome {
                    Ok(pb::ActDone { unchanged: true }) => format!("{word}: there was nothing to do"),
                    Ok(pb::ActDone { unchanged: false }) => format!("{word}: done"),
                    Err(fault) => format!("{word}: {}", fault.message),
                };
                records::note_act(&self.shared, act(AuditOutcome::Closed, detail));
                outcome
            }
            Err(fault) => Err(fault),
        };
        let (unchanged, reason, message) = match outcome {
            Ok(done) => (done.unchanged, String::new(), String::new()),
            Err(fault) => {
                let reason =
                    fault.metadata.get("reason").cloned().unwrap_or_else(|| fault.reason.to_string());
                (false, reason, fault.message)
            }
        };
        pb::ActOnInstancesResponse {
            instance: name.to_string(),
            node: node.to_string(),
            unchanged,
            reason,
            message,
        }
    }

    async fn ask_agent(
        &self,
        name: &InstanceName,
        node: &NodeRef,
        resource: &str,
    ) -> Result<pb::ActDone, Fault> {
        let cut = CancellationToken::new();
        let about = About {
            node: node.clone(),
            verb: "act",
            resource: resource.to_owned(),
            caller: self.caller.name.clone(),
            grant: self.caller.grant.clone(),
            cut: cut.clone(),
        };
        let start = pb::ActStart {
            instance: name.to_string(),
            act: self.ask.act.into(),
            wait: Some(time::to_proto_duration(self.ask.wait)),
        };
        let mut channel = Open::to(&self.shared, about, Start::Act(start)).await?;
        let shutdown = self.shared.shutdown.token();
        let heard = tokio::time::timeout(self.ask.wait + MARGIN, hear(&mut channel, node));
        tokio::select! {
            heard = heard => heard.unwrap_or_else(|_| {
                let message = format!("{node} did not say in time what came of it");
                Err(Fault::new(Code::DeadlineExceeded, "NO_OUTCOME", message))
            }),
            () = cut.cancelled() => Err(was_cut()),
            () = shutdown.cancelled() => {
                Err(Fault::unavailable("this relay stops, and what came of it is not known: ask again, another one answers"))
            }
        }
    }
}

/// What the agent says came of it.
async fn hear(channel: &mut Open, node: &NodeRef) -> Result<pb::ActDone, Fault> {
    while let Some(Ok(frame)) = channel.next().await {
        match frame.body {
            Some(Body::Act(done)) => return Ok(done),
            Some(Body::End(end)) => return Err(fault_of_end(node, &end).unwrap_or_else(|| link_lost(node))),
            _ => {}
        }
    }
    Err(link_lost(node))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn request(act: pb::InstanceAct) -> pb::ActOnInstancesRequest {
        pb::ActOnInstancesRequest {
            app: "projects/p/apps/a".to_owned(),
            act: act.into(),
            ..pb::ActOnInstancesRequest::default()
        }
    }

    #[test]
    fn every_field_that_is_wrong_is_named() {
        let mut wrong = request(pb::InstanceAct::Unspecified);
        wrong.wait = Some(prost_types::Duration { seconds: 3601, nanos: 0 });
        wrong.service = "No".to_owned();
        let fault = Ask::parse(&wrong).unwrap_err();
        let fields: Vec<&str> = fault.violations.iter().map(|one| one.field.as_str()).collect();
        assert_eq!(fields, ["service", "act", "wait"]);
    }

    #[test]
    fn several_are_refused_by_name_unless_all_are_meant() {
        let on = |name: &str, node: &str| {
            (InstanceName::parse(name).unwrap(), NodeRef::parse(&format!("projects/p/nodes/{node}")).unwrap())
        };
        let placed = vec![on("a/web/n2/0", "n2"), on("a/web/n1/0", "n1")];
        let one = request(pb::InstanceAct::Stop);
        let fault = Ask::parse(&one).unwrap().choose(placed.clone()).unwrap_err();
        assert_eq!(fault.reason, "SEVERAL_INSTANCES");
        assert!(fault.message.contains("a/web/n1/0 on n1, a/web/n2/0 on n2;"), "{fault}");
        let all = pb::ActOnInstancesRequest { all: true, ..one.clone() };
        assert_eq!(Ask::parse(&all).unwrap().choose(placed).unwrap().len(), 2);
        assert_eq!(Ask::parse(&one).unwrap().choose(vec![on("a/web/n1/0", "n1")]).unwrap().len(), 1);
    }
}
