//! The log of one instance: its channel, opened again from where it was when it is lost and the call follows.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use skerry_model::{Code, Fault, NodeRef};
use skerry_proto::relay::v1 as pb;
use skerry_proto::relay::v1::channel_start::Verb;
use skerry_proto::relay::v1::log_notice::Kind;
use skerry_proto::relay::v1::open_request::Body;
use skerry_proto::types::v1::AuditCaller;
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;
use tonic::Status;

use super::ask::Ask;
use crate::Shared;
use crate::channels::{About, Open};
use crate::words::upper;

/// How often a channel that was lost is opened again where the call does not follow.
const TRIES_MAX: u32 = 3;
/// First and longest wait before a channel is opened again.
const WAIT: (Duration, Duration) = (Duration::from_millis(500), Duration::from_secs(5));

/// What a source says, in order.
#[derive(Debug)]
pub(super) enum Said {
    /// The next lines.
    Lines(Vec<pb::LogLine>),
    /// What it had is told, or it is not known when it will be; with where to go on, if that is news.
    Live(Bytes),
    /// For the user.
    Notice(pb::LogNotice),
}

/// See the module.
pub(super) struct Source {
    pub(super) shared: Arc<Shared>,
    pub(super) ask: Arc<Ask>,
    /// Who asks.
    pub(super) caller: AuditCaller,
    pub(super) cut: CancellationToken,
    /// Empty: the agent itself.
    pub(super) instance: String,
    pub(super) node: NodeRef,
    /// How far it was told.
    pub(super) position: Bytes,
    /// It came while the call went on: it is told from its begin.
    pub(super) is_late: bool,
}

/// How a channel ended.
enum End {
    /// All is told, or the copy has ended.
    Done,
    /// Something is in the way.
    Trouble(Trouble),
    /// Nobody listens any more.
    Unheard,
}

struct Trouble {
    reason: String,
    message: String,
    /// Trying again soon may help.
    transient: bool,
}

impl From<Fault> for Trouble {
    fn from(fault: Fault) -> Self {
        let reason = fault.metadata.get("reason").map_or(fault.reason, String::as_str).to_owned();
        // A node that is away stays away for longer than a call without an end waits.
        let away = reason == "NODE_NOT_CONNECTED";
        let transient =
            matches!(fault.code, Code::Unavailable | Code::NotFound | Code::DeadlineExceeded) && !away;
        Self { reason, message: fault.message, transient }
    }
}

impl Source {
    /// Tells the log, until its end or until nobody listens.
    pub(super) async fn run(mut self, out: mpsc::Sender<Said>) {
        let (mut tries, mut wait) = (0, WAIT.0);
        let mut told: Option<String> = None;
        loop {
            let before = self.position.clone();
            let end = self.once(&out, &mut told).await;
            if self.position != before {
                (tries, wait) = (0, WAIT.0);
            }
            let said = match end {
                End::Unheard => return,
                End::Done if !self.ask.follow => return,
                End::Done => None,
                End::Trouble(trouble) if self.ask.follow => {
                    let news = told.as_ref() != Some(&trouble.message);
                    told = Some(trouble.message.clone());
                    news.then(|| notice(Kind::Interrupted, trouble))
                }
                End::Trouble(trouble) if trouble.transient && tries < TRIES_MAX => None,
                End::Trouble(trouble) => {
                    let _ = out.send(Said::Notice(notice(Kind::Failed, trouble))).await;
                    return;
                }
            };
            if let Some(notice) = said
                && out.send(Said::Notice(notice)).await.is_err()
            {
                return;
            }
            if self.ask.follow && out.send(Said::Live(Bytes::new())).await.is_err() {
                return;
            }
            tries += 1;
            tokio::time::sleep(wait).await;
            wait = (wait * 2).min(WAIT.1);
        }
    }

    /// One channel, from its opening to its end.
    async fn once(&mut self, out: &mpsc::Sender<Said>, told: &mut Option<String>) -> End {
        let about = About {
            node: self.node.clone(),
            verb: "logs",
            resource: self.resource(),
            caller: self.caller.name.clone(),
            grant: self.caller.grant.clone(),
            cut: self.cut.clone(),
        };
        let mut start = self.ask.start(&self.instance, self.position.clone());
        start.tail = start.tail.filter(|_| !self.is_late);
        let start = Verb::Logs(start);
        let mut channel = match Open::to(&self.shared, about, start).await {
            Ok(channel) => Feed { channel, ahead: VecDeque::new(), is_read: false },
            Err(fault) => return End::Trouble(fault.into()),
        };
        loop {
            match channel.next().await {
                Some(Ok(pb::OpenRequest { body: Some(Body::Logs(batch)) })) => {
                    if let Some(trouble) = told.take() {
                        let resumed = pb::LogNotice {
                            kind: Kind::Resumed.into(),
                            reason: "RESUMED".to_owned(),
                            message: format!("it goes on, after: {trouble}"),
                        };
                        match channel.give(out, Said::Notice(resumed)).await {
                            Given::Taken => {}
                            Given::Unheard => return End::Unheard,
                            Given::Lost => return End::Trouble(self.lost()),
                        }
                    }
                    match self.pass(&mut channel, out, batch).await {
                        Given::Taken => {}
                        Given::Unheard => return End::Unheard,
                        Given::Lost => return End::Trouble(self.lost()),
                    }
                }
                Some(Ok(pb::OpenRequest { body: Some(Body::End(end)) })) if end.reason.is_empty() => {
                    return End::Done;
                }
                Some(Ok(pb::OpenRequest { body: Some(Body::End(pb::ChannelEnd { reason, message })) })) => {
                    let transient = reason == "AgentStops" || reason == "SessionLost";
                    let message = format!("{}: {message}", self.node);
                    return End::Trouble(Trouble { reason: upper(&reason), message, transient });
                }
                // A frame of a newer agent's.
                Some(Ok(_)) => {}
                Some(Err(status)) => {
                    tracing::debug!(node = %self.node, instance = %self.instance, %status, "a channel broke");
                    return End::Trouble(self.lost());
                }
                None => return End::Trouble(self.lost()),
            }
        }
    }

    fn resource(&self) -> String {
        if self.instance.is_empty() {
            return self.node.to_string();
        }
        format!("{}/instances/{}", self.node.project.parent(), self.instance)
    }

    async fn pass(&mut self, feed: &mut Feed, out: &mpsc::Sender<Said>, batch: pb::LogBatch) -> Given {
        let pb::LogBatch { lines, caught_up, position } = batch;
        if let Some(last) = lines.last().map(|line| line.position.clone()) {
            match feed.give(out, Said::Lines(lines)).await {
                // What was not taken is told again from before it.
                Given::Taken => self.position = last,
                other => return other,
            }
        }
        if caught_up {
            match feed.give(out, Said::Live(position.clone())).await {
                Given::Taken if !position.is_empty() => self.position = position,
                Given::Taken => {}
                other => return other,
            }
        }
        Given::Taken
    }

    fn lost(&self) -> Trouble {
        let message = format!("the link to the agent of {} was lost", self.node);
        Trouble { reason: "LINK_LOST".to_owned(), message, transient: true }
    }
}

/// What became of something that was said.
enum Given {
    Taken,
    /// Nobody listens any more.
    Unheard,
    /// The agent is gone without an end.
    Lost,
}

/// The frames of a channel. Once the agent's stream is gone, what is left of it is read whether or not anybody takes it: at most what windows
/// hold. So it is known whether it has ended or was lost.
struct Feed {
    channel: Open,
    ahead: VecDeque<pb::OpenRequest>,
    /// All of it is in `ahead`, its end too.
    is_read: bool,
}

impl Feed {
    async fn next(&mut self) -> Option<Result<pb::OpenRequest, Status>> {
        match self.ahead.pop_front() {
            Some(frame) => Some(Ok(frame)),
            None if self.is_read => None,
            None => self.channel.next().await,
        }
    }

    /// Waits until it is taken, or until the agent is lost.
    async fn give(&mut self, out: &mpsc::Sender<Said>, said: Said) -> Given {
        loop {
            tokio::select! {
                room = out.reserve() => {
                    let Ok(room) = room else { return Given::Unheard };
                    room.send(said);
                    return Given::Taken;
                }
                () = self.channel.closed(), if !self.is_read => {
                    if !self.read_ahead().await {
                        return Given::Lost;
                    }
                }
            }
        }
    }

    /// Whether there is an end.
    async fn read_ahead(&mut self) -> bool {
        while let Some(Ok(frame)) = self.channel.next().await {
            let is_end = matches!(frame.body, Some(Body::End(_)));
            self.ahead.push_back(frame);
            if is_end {
                self.is_read = true;
                return true;
            }
        }
        false
    }
}

fn notice(kind: Kind, trouble: Trouble) -> pb::LogNotice {
    pb::LogNotice { kind: kind.into(), reason: trouble.reason, message: trouble.message }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_node_that_is_away_is_not_waited_for_and_a_session_that_moved_is() {
        let away = Fault::new(Code::Unavailable, "NODE_NOT_CONNECTED", "away");
        assert!(!Trouble::from(away).transient);
        let moved = Fault::new(Code::NotFound, "NOT_FOUND", "no session").with("reason", "NO_SESSION");
        let moved = Trouble::from(moved);
        assert!(moved.transient && moved.reason == "NO_SESSION");
        assert!(!Trouble::from(Fault::new(Code::FailedPrecondition, "OFFER_REFUSED", "no")).transient);
    }
}
