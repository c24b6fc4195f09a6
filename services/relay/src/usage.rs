//! `StreamUsage`: what nodes and their instances use, for as long as somebody looks. One channel to each node; a node that is away is told so and
//! tried again, and the others go on.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use skerry_model::fault::Violations;
use skerry_model::{AppRef, Code, Fault, NodeRef, ProjectName, time};
use skerry_proto::relay::v1 as pb;
use skerry_proto::relay::v1::channel_start::Verb as Start;
use skerry_proto::relay::v1::open_request::Body;
use skerry_proto::relay::v1::stream_usage_response::Body as News;
use skerry_proto::types::v1::{AuditCaller, AuditOutcome};
use skerry_rpc::status_of;
use tokio::sync::{Semaphore, mpsc};
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep, sleep_until};
use tokio_util::sync::CancellationToken;
use tonic::Status;

use crate::caller::Caller;
use crate::channels::{About, Open};
use crate::words::{fault_of_end, link_lost, was_cut};
use crate::{Shared, answers, records};

/// The method, as the audit log has it.
const METHOD: &str = "skerry.relay.v1.RelayService/StreamUsage";
/// Most nodes of one call.
const NODES_MAX: usize = 500;
/// Channels that are being opened at once.
const OPENING_MAX: usize = 16;
/// Between two samples, at least and at most.
const INTERVALS: (Duration, Duration) = (Duration::from_secs(1), Duration::from_secs(60));
/// Where nothing is said of it.
const INTERVAL: Duration = Duration::from_secs(2);
/// Before a node is tried again, first and at most.
const WAIT: (Duration, Duration) = (Duration::from_secs(1), Duration::from_secs(10));
/// A call ends after this: who looks has forgotten it.
const TOTAL_MAX: Duration = Duration::from_secs(24 * 3600);

/// The answers of a call.
pub(crate) type Answers = mpsc::Receiver<Result<pb::StreamUsageResponse, Status>>;

/// What is asked for.
#[derive(Debug, Clone, PartialEq)]
struct Ask {
    project: ProjectName,
    nodes: Vec<NodeRef>,
    start: pb::UsageStart,
}

impl Ask {
    fn parse(request: &pb::StreamUsageRequest) -> Result<Self, Fault> {
        let mut wrong = Violations::new();
        let project = wrong.check("parent", ProjectName::parse_parent(&request.parent));
        if request.nodes.is_empty() || request.nodes.len() > NODES_MAX {
            wrong.add("nodes", format!("name from 1 to {NODES_MAX} nodes, as projects/default/nodes/n1"));
        }
        let (mut nodes, mut seen) = (Vec::new(), BTreeSet::new());
        for (index, name) in request.nodes.iter().enumerate().take(NODES_MAX) {
            let field = format!("nodes[{index}]");
            let Some(node) = wrong.check(&field, NodeRef::parse(name)) else { continue };
            if project.as_ref().is_some_and(|project| *project != node.project) {
                wrong.add(field, "of another project than `parent`");
            } else if !seen.insert(name) {
                wrong.add(field, "named twice");
            } else {
                nodes.push(node);
            }
        }
        let app = match request.app.as_str() {
            "" => None,
            name => wrong.check("app", AppRef::parse(name)),
        };
        if let (Some(project), Some(app)) = (&project, &app)
            && *project != app.project
        {
            wrong.add("app", "of another project than `parent`");
        }
        if app.is_some() && !request.with_instances {
            wrong.add("app", "leave it out, or ask for instances with `with_instances`");
        }
        let interval = match &request.interval {
            None => Some(INTERVAL),
            Some(interval) => time::from_proto_duration(interval),
        };
        let interval = interval.filter(|interval| (INTERVALS.0..=INTERVALS.1).contains(interval));
        if interval.is_none() {
            let message = format!("from {} s to {} s", INTERVALS.0.as_secs(), INTERVALS.1.as_secs());
            wrong.add("interval", message);
        }
        let start = pb::UsageStart {
            with_instances: request.with_instances,
            app: app.map(|app| app.app.to_string()).unwrap_or_default(),
            interval: interval.map(time::to_proto_duration),
            once: request.once,
        };
        wrong.finish(project).map(|project| Self { project, nodes, start })
    }

    fn detail(&self) -> String {
        let what = match (self.start.with_instances, self.start.app.as_str()) {
            (false, _) => "machines".to_owned(),
            (true, "") => "machines and instances".to_owned(),
            (true, app) => format!("machines and instances of {app}"),
        };
        format!("usage of {what}, nodes: {}", self.nodes.len())
    }
}

/// Begins to tell.
pub(crate) fn begin(
    shared: &Arc<Shared>,
    caller: Caller,
    request: &pb::StreamUsageRequest,
) -> Result<Answers, Fault> {
    let ask = Arc::new(Ask::parse(request)?);
    let (out, last, answers) = answers::channel()?;
    shared.shutdown.spawn(run(Arc::clone(shared), ask, caller, out, last));
    Ok(answers)
}

type Out = mpsc::Sender<Result<pb::StreamUsageResponse, Status>>;
type Last = mpsc::OwnedPermit<Result<pb::StreamUsageResponse, Status>>;

/// The call, to its end; with it ends all that it holds.
async fn run(shared: Arc<Shared>, ask: Arc<Ask>, caller: Caller, out: Out, last: Last) {
    let (began, cut) = (Instant::now(), CancellationToken::new());
    let (opening, mut tasks) = (Arc::new(Semaphore::new(OPENING_MAX)), JoinSet::new());
    for node in &ask.nodes {
        let source = Source {
            shared: Arc::clone(&shared),
            ask: Arc::clone(&ask),
            node: node.clone(),
            caller: caller.audit.clone(),
            cut: cut.clone(),
            opening: Arc::clone(&opening),
            out: out.clone(),
        };
        tasks.spawn(source.run());
    }
    let shutdown = shared.shutdown.token();
    let end = tokio::select! {
        () = async { while tasks.join_next().await.is_some() {} } => None,
        () = out.closed() => None,
        () = cut.cancelled() => Some(was_cut()),
        fault = caller.lost() => Some(fault),
        () = shutdown.cancelled() => Some(Fault::unavailable("this relay stops: ask again, another one answers")),
        () = sleep_until(began + TOTAL_MAX) => Some(Fault::new(
            Code::DeadlineExceeded,
            "CHANNEL_TOO_OLD",
            format!("a call ends after {} hours: ask again", TOTAL_MAX.as_secs() / 3600),
        )),
    };
    tasks.shutdown().await;
    if let Some(fault) = &end {
        last.send(Err(status_of(fault)));
    }
    let detail = format!("{}, seconds: {}", ask.detail(), began.elapsed().as_secs());
    let about = (ask.project.clone(), ask.project.parent(), AuditOutcome::Read);
    records::note(&shared, caller.audit, METHOD, about, detail);
}

/// What one node tells.
struct Source {
    shared: Arc<Shared>,
    ask: Arc<Ask>,
    node: NodeRef,
    caller: AuditCaller,
    cut: CancellationToken,
    opening: Arc<Semaphore>,
    out: Out,
}

impl Source {
    /// Ends when all is told, or when nobody listens.
    async fn run(self) {
        let (mut wait, mut told) = (WAIT.0, None);
        loop {
            let mut samples = 0_u64;
            let end = self.once(&mut samples).await;
            if samples > 0 {
                (wait, told) = (WAIT.0, None);
            }
            match end {
                Ok(()) if self.ask.start.once => return,
                // An agent that ends by itself, as no one does that is asked to go on.
                Ok(()) => {}
                Err(fault) => {
                    let news = told.as_ref() != Some(&fault.message);
                    told = Some(fault.message.clone());
                    if news && self.say(News::Problem(problem(fault))).await.is_err() {
                        return;
                    }
                    if self.ask.start.once {
                        return;
                    }
                }
            }
            sleep(wait).await;
            wait = (wait * 2).min(WAIT.1);
        }
    }

    /// One channel, from its opening to its end.
    async fn once(&self, samples: &mut u64) -> Result<(), Fault> {
        let about = About {
            node: self.node.clone(),
            verb: "usage",
            resource: self.node.to_string(),
            caller: self.caller.name.clone(),
            grant: self.caller.grant.clone(),
            cut: self.cut.clone(),
        };
        let mut channel = {
            // Held while it is opened: many at once would be an assault on the gateways.
            let _turn = self.opening.acquire().await;
            Open::to(&self.shared, about, Start::Usage(self.ask.start.clone())).await?
        };
        loop {
            match channel.next().await {
                Some(Ok(pb::OpenRequest { body: Some(Body::Usage(sample)) })) => {
                    *samples += 1;
                    tokio::select! {
                        said = self.say(News::Sample(sample)) => if said.is_err() {
                            return Ok(());
                        },
                        // Nobody takes it, and it is of no use any more.
                        () = channel.closed(), if !self.ask.start.once => return Err(link_lost(&self.node)),
                    }
                }
                Some(Ok(pb::OpenRequest { body: Some(Body::End(end)) })) => {
                    return fault_of_end(&self.node, &end).map_or(Ok(()), Err);
                }
                // A frame of a newer agent's.
                Some(Ok(_)) => {}
                Some(Err(_)) | None => return Err(link_lost(&self.node)),
            }
        }
    }

    async fn say(&self, body: News) -> Result<(), ()> {
        let news = pb::StreamUsageResponse { node: self.node.to_string(), body: Some(body) };
        self.out.send(Ok(news)).await.map_err(drop)
    }
}

fn problem(fault: Fault) -> pb::UsageProblem {
    let reason = ["agent_reason", "reason"].iter().find_map(|key| fault.metadata.get(*key));
    pb::UsageProblem { reason: reason.cloned().unwrap_or(fault.reason.to_owned()), message: fault.message }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn request() -> pb::StreamUsageRequest {
        pb::StreamUsageRequest {
            parent: "projects/p".to_owned(),
            nodes: vec!["projects/p/nodes/n".to_owned()],
            ..pb::StreamUsageRequest::default()
        }
    }

    #[test]
    fn every_field_that_is_wrong_is_named() {
        let ask = Ask::parse(&request()).unwrap();
        assert_eq!(ask.start.interval, Some(time::to_proto_duration(INTERVAL)));
        let fields = |request: pb::StreamUsageRequest| {
            let fault = Ask::parse(&request).expect_err("refused");
            fault.violations.into_iter().map(|violation| violation.field).collect::<Vec<_>>()
        };
        assert_eq!(fields(pb::StreamUsageRequest::default()), ["parent", "nodes"]);
        let nodes = ["projects/p/nodes/n", "projects/p/nodes/n", "projects/q/nodes/n", "n"];
        let bad = pb::StreamUsageRequest {
            nodes: nodes.map(str::to_owned).to_vec(),
            app: "projects/q/apps/a".to_owned(),
            interval: Some(time::to_proto_duration(Duration::from_millis(10))),
            ..request()
        };
        assert_eq!(fields(bad), ["nodes[1]", "nodes[2]", "nodes[3]", "app", "app", "interval"]);
        let many = vec!["projects/p/nodes/n".to_owned(); NODES_MAX + 1];
        assert_eq!(fields(pb::StreamUsageRequest { nodes: many, ..request() })[0], "nodes");
    }

    #[test]
    fn what_an_agent_says_is_the_reason() {
        let end = pb::ChannelEnd { reason: "VerbUnknown".to_owned(), message: "update it".to_owned() };
        let fault = fault_of_end(&NodeRef::parse("projects/p/nodes/n").unwrap(), &end).unwrap();
        assert_eq!(problem(fault).reason, "VERB_UNKNOWN");
        assert_eq!(
            problem(Fault::new(Code::Unavailable, "NODE_NOT_CONNECTED", "x")).reason,
            "NODE_NOT_CONNECTED"
        );
    }
}
