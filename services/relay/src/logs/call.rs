//! One call for logs: an actor that asks its sources for more as the merge wants it, and tells the user at the user's pace. What it holds ends
//! with it.

use std::collections::VecDeque;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use futures_util::StreamExt as _;
use futures_util::stream::FuturesUnordered;
use skerry_model::{Code, Fault, NodeRef};
use skerry_proto::relay::v1 as pb;
use skerry_proto::types::v1::AuditOutcome;
use skerry_rpc::status_of;
use tokio::sync::mpsc::{self, OwnedPermit};
use tokio::task::{AbortHandle, JoinSet};
use tokio::time::{Instant, MissedTickBehavior, interval_at, sleep_until};
use tokio_util::sync::CancellationToken;
use tonic::Status;

use super::ask::{Ask, Whose};
use super::merge::Merge;
use super::source::{Said, Source};
use crate::caller::Caller;
use crate::instances::{self, Found, names};
use crate::words::was_cut;
use crate::{Shared, answers, records};

/// The method, as the audit log has it.
const METHOD: &str = "skerry.relay.v1.RelayService/Logs";
/// Most bytes of the lines of one answer.
const ANSWER_BYTES_MAX: usize = 64 * 1024;
/// Between two looks for instances that came or went.
const LOOK_PERIOD: Duration = Duration::from_secs(3);
/// A call on which nothing moves for so long ends: who follows has forgotten it.
const IDLE_MAX: Duration = Duration::from_secs(4 * 3600);
/// A call ends after this, whatever moves.
const TOTAL_MAX: Duration = Duration::from_secs(24 * 3600);

type Received = (usize, mpsc::Receiver<Said>, Option<Said>);
type Looking = Pin<Box<dyn Future<Output = Result<Found, Fault>> + Send>>;

/// See the module.
pub(crate) struct Call {
    shared: Arc<Shared>,
    ask: Arc<Ask>,
    caller: Caller,
    out: mpsc::Sender<Result<pb::LogsResponse, Status>>,
    last: OwnedPermit<Result<pb::LogsResponse, Status>>,
    cut: CancellationToken,
    merge: Merge,
    feeds: Vec<Feed>,
    /// What is to be told before any further line. One of each source at most is new at a time.
    notices: VecDeque<pb::LogsResponse>,
    tasks: JoinSet<()>,
    told: Told,
}

/// The log of one instance on one node.
struct Feed {
    /// Empty: of the agent itself.
    instance: String,
    node: NodeRef,
    /// Absent: it is being received from, or has ended.
    said: Option<mpsc::Receiver<Said>>,
    task: AbortHandle,
    /// It is no longer listed.
    gone: bool,
}

/// What was told.
#[derive(Debug, Default)]
struct Told {
    lines: u64,
    bytes: u64,
}

/// How a call ends.
enum Ended {
    /// All is told.
    Done,
    /// The user has gone.
    Unheard,
    /// With this word.
    With(Fault),
}

impl Call {
    /// The call, and its answers.
    pub(crate) fn new(
        shared: Arc<Shared>,
        ask: Ask,
        caller: Caller,
    ) -> Result<(Self, mpsc::Receiver<Result<pb::LogsResponse, Status>>), Fault> {
        let (out, last, answers) = answers::channel()?;
        let call = Self {
            shared,
            ask: Arc::new(ask),
            caller,
            out,
            last,
            cut: CancellationToken::new(),
            merge: Merge::default(),
            feeds: Vec::new(),
            notices: VecDeque::new(),
            tasks: JoinSet::new(),
            told: Told::default(),
        };
        Ok((call, answers))
    }

    /// Tells the logs of these instances, and of those that come later where the call follows.
    pub(crate) async fn run(mut self, placed: Vec<(String, NodeRef)>) {
        let began = Instant::now();
        for (instance, node) in placed {
            self.add(instance, node, false);
        }
        let ended = self.drive(began).await;
        self.tasks.shutdown().await;
        if let Ended::With(fault) = &ended {
            self.last.send(Err(status_of(fault)));
        }
        let Told { lines, bytes } = self.told;
        let detail = format!(
            "instances: {}, lines: {lines}, bytes: {bytes}, seconds: {}",
            self.feeds.len(),
            began.elapsed().as_secs()
        );
        let whose = &self.ask.whose;
        let about = (whose.project().clone(), whose.resource(), AuditOutcome::Read);
        records::note(&self.shared, self.caller.audit, METHOD, about, detail);
    }

    fn add(&mut self, instance: String, node: NodeRef, is_late: bool) {
        self.merge.add();
        // One: what a source has beyond it stays with the agent.
        let (out, said) = mpsc::channel(1);
        let source = Source {
            shared: Arc::clone(&self.shared),
            ask: Arc::clone(&self.ask),
            caller: self.caller.audit.clone(),
            cut: self.cut.clone(),
            position: self.ask.position(&instance, &node),
            is_late,
            instance: instance.clone(),
            node: node.clone(),
        };
        let task = self.tasks.spawn(source.run(out));
        self.feeds.push(Feed { instance, node, said: Some(said), task, gone: false });
    }

    async fn drive(&mut self, began: Instant) -> Ended {
        let shutdown = self.shared.shutdown.token();
        let (cut, out, caller) = (self.cut.clone(), self.out.clone(), self.caller.clone());
        let lost = caller.lost();
        tokio::pin!(lost);
        let mut receiving = FuturesUnordered::new();
        let mut looks = interval_at(began + LOOK_PERIOD, LOOK_PERIOD);
        looks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut looking: Option<Looking> = None;
        let mut moved = began;
        loop {
            while let Some(answer) = self.next_answer() {
                let sending = out.send(Ok(answer));
                tokio::select! {
                    sent = sending => if sent.is_err() { return Ended::Unheard },
                    () = cut.cancelled() => return Ended::With(was_cut()),
                    fault = &mut lost => return Ended::With(fault),
                    () = shutdown.cancelled() => return Ended::With(stops()),
                    () = sleep_until(began + TOTAL_MAX) => return Ended::With(too_long()),
                }
                moved = Instant::now();
            }
            if !self.ask.follow && self.merge.is_over() {
                return Ended::Done;
            }
            for (index, feed) in self.feeds.iter_mut().enumerate() {
                if self.merge.wants(index)
                    && let Some(mut said) = feed.said.take()
                {
                    receiving.push(async move {
                        let next = said.recv().await;
                        (index, said, next)
                    });
                }
            }
            tokio::select! {
                Some(received) = receiving.next(), if !receiving.is_empty() => {
                    let notice = self.take(received);
                    self.notices.extend(notice);
                }
                () = out.closed() => return Ended::Unheard,
                () = cut.cancelled() => return Ended::With(was_cut()),
                fault = &mut lost => return Ended::With(fault),
                () = shutdown.cancelled() => return Ended::With(stops()),
                () = sleep_until(moved + IDLE_MAX) => return Ended::With(idle()),
                () = sleep_until(began + TOTAL_MAX) => return Ended::With(too_long()),
                _ = looks.tick(), if self.ask.follow && looking.is_none() => {
                    if let Whose::Instances(which) = &self.ask.whose {
                        let (shared, which) = (Arc::clone(&self.shared), which.clone());
                        looking = Some(Box::pin(async move { instances::find(&shared.reach, &which).await }));
                    }
                }
                found = wait(&mut looking) => {
                    looking = None;
                    match found {
                        Ok(found) => self.look(names(found.placed)),
                        Err(fault) if fault.code == Code::NotFound => return Ended::With(fault),
                        // It is looked again; what is open goes on.
                        Err(fault) => tracing::debug!(%fault, "where instances are could not be asked"),
                    }
                }
            }
        }
    }

    /// Takes what a source said; answers what is for the user besides lines.
    fn take(&mut self, (index, receiver, said): Received) -> Option<pb::LogsResponse> {
        let feed = &mut self.feeds[index];
        let Some(said) = said else {
            self.merge.over(index);
            return None;
        };
        feed.said = Some(receiver);
        match said {
            Said::Lines(lines) => self.merge.push(index, lines),
            // All lines before it are told: a source is not heard while any is left.
            Said::Live(position) => {
                self.merge.live(index);
                if !position.is_empty() {
                    return Some(pb::LogsResponse {
                        instance: feed.instance.clone(),
                        node: feed.node.to_string(),
                        position,
                        ..pb::LogsResponse::default()
                    });
                }
            }
            Said::Notice(notice) => {
                return Some(pb::LogsResponse {
                    instance: feed.instance.clone(),
                    node: feed.node.to_string(),
                    notice: Some(notice),
                    ..pb::LogsResponse::default()
                });
            }
        }
        None
    }

    fn next_answer(&mut self) -> Option<pb::LogsResponse> {
        if let Some(notice) = self.notices.pop_front() {
            return Some(notice);
        }
        let (feed, lines) = self.merge.next_run(ANSWER_BYTES_MAX)?;
        Some(self.answer(feed, lines))
    }

    fn answer(&mut self, index: usize, mut lines: Vec<pb::LogLine>) -> pb::LogsResponse {
        let feed = &self.feeds[index];
        let position = lines.last().map(|line| line.position.clone()).unwrap_or_default();
        for line in &mut lines {
            line.position = bytes::Bytes::new();
            self.told.lines += 1;
            self.told.bytes += line.data.len() as u64;
        }
        pb::LogsResponse {
            instance: feed.instance.clone(),
            node: feed.node.to_string(),
            lines,
            position,
            notice: None,
        }
    }

    /// Instances came or went.
    fn look(&mut self, placed: Vec<(String, NodeRef)>) {
        for feed in &mut self.feeds {
            let listed =
                placed.iter().any(|(instance, node)| *instance == feed.instance && *node == feed.node);
            if !listed && !feed.gone {
                feed.gone = true;
                feed.task.abort();
            }
        }
        for (instance, node) in placed {
            let known =
                self.feeds.iter().any(|feed| !feed.gone && feed.instance == instance && feed.node == node);
            let open = self.feeds.iter().filter(|feed| !feed.gone).count();
            if !known && open < instances::INSTANCES_MAX {
                self.add(instance, node, true);
            }
        }
    }
}

async fn wait(looking: &mut Option<Looking>) -> Result<Found, Fault> {
    match looking {
        Some(looking) => looking.await,
        None => std::future::pending().await,
    }
}

fn stops() -> Fault {
    Fault::unavailable("this relay stops: ask again, another one goes on where it was")
}

fn idle() -> Fault {
    let hours = IDLE_MAX.as_secs() / 3600;
    Fault::new(
        Code::DeadlineExceeded,
        "CHANNEL_IDLE",
        format!("nothing was written for {hours} hours: follow again"),
    )
}

fn too_long() -> Fault {
    let hours = TOTAL_MAX.as_secs() / 3600;
    Fault::new(
        Code::DeadlineExceeded,
        "CHANNEL_TOO_OLD",
        format!("a call ends after {hours} hours: follow again"),
    )
}
