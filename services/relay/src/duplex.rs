//! Verbs of which both halves flow: what a user sends goes to the agent, what the agent answers to the user, each at the pace of who reads it.
//!
//! That it is opened is in the audit log before the agent is told what is wanted, and where that cannot be written it is not done. How it ended
//! and what moved is written afterwards.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;

use futures_util::{Stream, StreamExt as _};
use skerry_model::{Code, Fault, NodeRef, ProjectName};
use skerry_proto::relay::v1 as pb;
use skerry_proto::relay::v1::channel_start::Verb as Start;
use skerry_proto::relay::v1::{open_request, open_response};
use skerry_proto::types::v1::AuditOutcome;
use skerry_rpc::status_of;
use tokio::sync::mpsc::{self, OwnedPermit};
use tokio::time::{Instant, sleep_until};
use tokio_util::sync::CancellationToken;
use tonic::Status;

use crate::caller::Caller;
use crate::channels::{About, FromAgentHalf, Open, ToAgentHalf};
use crate::words::{fault_of_end, link_lost, was_cut};
use crate::{Shared, answers, records};

/// A call on which nothing moves for so long ends: who began it has forgotten it.
const IDLE_MAX: Duration = Duration::from_secs(4 * 3600);
/// A call ends after this, whatever moves.
const TOTAL_MAX: Duration = Duration::from_secs(24 * 3600);

/// What is particular to a verb.
pub(crate) trait Verb: Send + 'static {
    /// A frame of the user's.
    type Request: Send + 'static;
    /// A frame for the user.
    type Answer: Send + 'static;

    /// As lists and offers name it.
    fn name(&self) -> &'static str;

    /// What a frame of the user's is to the agent. Nothing: it means nothing here.
    fn to_agent(&mut self, request: Self::Request) -> Result<Option<open_response::Body>, Fault>;

    /// What a frame of the agent's is to the user. Nothing: it is of a newer agent's, or only for the end.
    fn to_user(&mut self, frame: open_request::Body) -> Option<Self::Answer>;

    /// The agent has said that it is done. Answers what the audit log has of it, or why it is not whole.
    fn finish(&mut self) -> Result<String, Fault>;
}

/// Who asks for what.
#[derive(Debug, Clone)]
pub(crate) struct Asked {
    pub(crate) caller: Caller,
    /// The method, as the audit log has it.
    pub(crate) method: &'static str,
    pub(crate) node: NodeRef,
    /// Full name of what it is to.
    pub(crate) resource: String,
    /// What is done there, for the audit log.
    pub(crate) detail: String,
}

/// The answers of a call.
pub(crate) type Answers<V> = mpsc::Receiver<Result<<V as Verb>::Answer, Status>>;

/// How a call ends.
enum Ended {
    /// As it should; with what the audit log has of it.
    Done(String),
    /// The user has gone.
    Unheard,
    /// With this word.
    With(Fault),
}

/// Opens a channel for a verb and lets it flow until either side ends it, or the answers are dropped.
pub(crate) async fn open<V: Verb>(
    shared: &Arc<Shared>,
    asked: Asked,
    verb: V,
    start: Start,
    first: Option<V::Answer>,
    requests: impl Stream<Item = Result<V::Request, Status>> + Send + 'static,
) -> Result<Answers<V>, Fault> {
    records::must(shared, asked.act(AuditOutcome::Opened, asked.detail.clone())).await?;
    let cut = CancellationToken::new();
    let about = About {
        node: asked.node.clone(),
        verb: verb.name(),
        resource: asked.resource.clone(),
        caller: asked.caller.audit.name.clone(),
        grant: asked.caller.audit.grant.clone(),
        cut: cut.clone(),
    };
    let opened = Instant::now();
    let channel = match Open::to(shared, about, start).await {
        Ok(channel) => channel,
        Err(fault) => {
            let detail = format!("it was not opened: {}", fault.message);
            records::note_act(shared, asked.act(AuditOutcome::Closed, detail));
            return Err(fault);
        }
    };
    let (from_agent, to_agent) = channel.split();
    let (out, last, answers) = answers::channel()?;
    if let Some(first) = first {
        // There is room: nothing was sent before.
        let _ = out.try_send(Ok(first));
    }
    let shutdown = shared.shutdown.token();
    let caller = asked.caller.clone();
    let call = Flow { verb, node: asked.node.clone(), caller, opened, cut, shutdown, from_agent, out, last };
    let shared = Arc::clone(shared);
    shared.shutdown.clone().spawn(async move {
        let (how, (received, sent)) = call.run(to_agent, requests).await;
        let seconds = opened.elapsed().as_secs();
        let detail = format!("{how}, received bytes: {received}, sent bytes: {sent}, seconds: {seconds}");
        records::note_act(&shared, asked.act(AuditOutcome::Closed, detail));
    });
    Ok(answers)
}

impl Asked {
    fn act(&self, outcome: AuditOutcome, detail: String) -> skerry_store::Act {
        let project: ProjectName = self.node.project.clone();
        skerry_store::Act::new(
            self.caller.audit.clone(),
            self.method,
            project,
            self.resource.clone(),
            outcome,
        )
        .detail(detail)
    }
}

/// A call that flows.
struct Flow<V: Verb> {
    verb: V,
    node: NodeRef,
    caller: Caller,
    opened: Instant,
    cut: CancellationToken,
    shutdown: CancellationToken,
    from_agent: FromAgentHalf,
    out: mpsc::Sender<Result<V::Answer, Status>>,
    last: OwnedPermit<Result<V::Answer, Status>>,
}

impl<V: Verb> Flow<V> {
    /// Answers how it ended, in words, and what moved.
    async fn run(
        mut self,
        to_agent: ToAgentHalf,
        requests: impl Stream<Item = Result<V::Request, Status>> + Send,
    ) -> (String, (u64, u64)) {
        let ended = self.drive(&to_agent, requests).await;
        // The agent gives back what the channel held as soon as its half ends.
        drop(to_agent);
        let moved = self.from_agent.moved();
        let how = match &ended {
            Ended::Done(how) => how.clone(),
            // It may have heard the last word, and gone before the agent's own end.
            Ended::Unheard => match self.verb.finish() {
                Ok(how) => format!("{how}, {}", self.caller.gone()),
                Err(_) => self.caller.gone(),
            },
            Ended::With(fault) => fault.message.clone(),
        };
        if let Ended::With(fault) = &ended {
            self.last.send(Err(status_of(fault)));
        }
        (how, moved)
    }

    async fn drive(
        &mut self,
        to_agent: &ToAgentHalf,
        requests: impl Stream<Item = Result<V::Request, Status>> + Send,
    ) -> Ended {
        tokio::pin!(requests);
        let Self { verb, node, caller, opened, cut, shutdown, from_agent, out, .. } = self;
        let lost = caller.lost();
        tokio::pin!(lost);
        // A frame on its way in each direction: nothing more is read of a side before it is taken.
        let mut up: Option<open_response::Body> = None;
        let mut down: Option<V::Answer> = None;
        let (mut has_more, mut is_done) = (true, false);
        // Once the agent's stream is gone, what is left of it is read whether or not the user takes it: at most what windows hold. So it is known
        // whether it has ended or was lost.
        let (mut is_gone, mut ahead) = (false, VecDeque::new());
        loop {
            while down.is_none()
                && let Some(body) = ahead.pop_front()
            {
                match body {
                    open_request::Body::End(end) => match fault_of_end(node, &end) {
                        Some(fault) => return Ended::With(fault),
                        None => is_done = true,
                    },
                    body => down = verb.to_user(body),
                }
            }
            let is_read = is_done || matches!(ahead.back(), Some(open_request::Body::End(_)));
            if is_done && down.is_none() {
                return verb.finish().map_or_else(Ended::With, Ended::Done);
            }
            let idle_until = from_agent.last_moved() + IDLE_MAX;
            tokio::select! {
                request = requests.next(), if has_more && up.is_none() => match request {
                    Some(Ok(request)) => match verb.to_agent(request) {
                        Ok(frame) => up = frame,
                        Err(fault) => return Ended::With(fault),
                    },
                    Some(Err(_)) => return Ended::Unheard,
                    None => {
                        has_more = false;
                        up = Some(open_response::Body::End(pb::ChannelEnd::default()));
                    }
                },
                room = to_agent.room(), if up.is_some() => match (room, up.take()) {
                    (Some(room), Some(frame)) => room.send(frame),
                    // What it said last is still to be heard.
                    _ => has_more = false,
                },
                () = to_agent.closed(), if !is_gone => is_gone = true,
                frame = from_agent.next(), if (down.is_none() || is_gone) && !is_read => match frame {
                    Some(Ok(pb::OpenRequest { body: Some(body) })) => ahead.push_back(body),
                    Some(Ok(_)) => {}
                    Some(Err(status)) => {
                        tracing::debug!(%node, verb = verb.name(), %status, "a channel broke");
                        return Ended::With(link_lost(node));
                    }
                    None => return Ended::With(link_lost(node)),
                },
                room = out.reserve(), if down.is_some() => match (room, down.take()) {
                    (Ok(room), Some(answer)) => room.send(Ok(answer)),
                    _ => return Ended::Unheard,
                },
                () = out.closed(), if down.is_none() => return Ended::Unheard,
                () = cut.cancelled() => return Ended::With(was_cut()),
                fault = &mut lost => return Ended::With(fault),
                () = shutdown.cancelled() => {
                    return Ended::With(Fault::unavailable("this relay stops: ask again, another one answers"));
                }
                // What was sent since moves it on: then it is looked again.
                () = sleep_until(idle_until) => {
                    if from_agent.last_moved() + IDLE_MAX <= Instant::now() {
                        return Ended::With(idle());
                    }
                }
                () = sleep_until(*opened + TOTAL_MAX) => return Ended::With(too_long()),
            }
        }
    }
}

fn idle() -> Fault {
    let hours = IDLE_MAX.as_secs() / 3600;
    Fault::new(Code::DeadlineExceeded, "CHANNEL_IDLE", format!("nothing moved for {hours} hours"))
}

fn too_long() -> Fault {
    let hours = TOTAL_MAX.as_secs() / 3600;
    Fault::new(Code::DeadlineExceeded, "CHANNEL_TOO_OLD", format!("a channel ends after {hours} hours"))
}
