//! Does what the mirror's core says: reads, opens streams, receives, waits. Decides nothing but how long.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use etcd_client::proto::{PbEvent, PbWatchResponse};
use etcd_client::{EventType, WatchOptions, WatchStream};
use tokio::time::{Instant, timeout};
use tokio_util::sync::CancellationToken;

use super::Publisher;
use super::core::{Core, Event, Kind, Message, Source, Step, Target};
use crate::backoff::Backoff;
use crate::client::{Client, Header, entry};
use crate::failure::Failure;
use crate::keys::range_end;
use crate::term::{self, Term};

/// A stream that is silent for so long is asked whether it lives; after as long again it is given up.
const SILENCE: Duration = Duration::from_secs(10);
/// The longest wait after a failure.
const WAIT_MAX: Duration = Duration::from_secs(5);
/// After so long without a failure, waits begin short again.
const CALM: Duration = Duration::from_secs(30);
/// Messages that are applied before a snapshot is published, at most.
const MESSAGES_MAX: usize = 256;
/// Ids of watches are those of targets and this one more; 0 means "choose one" to etcd.
const META_WATCH: i64 = 1;
const FIRST_WATCH: i64 = 2;

pub(super) struct Driver {
    client: Arc<Client>,
    term: Arc<Term>,
    core: Core,
    publisher: Publisher,
    stream: Option<WatchStream>,
    targets: Vec<Target>,
    backoff: Backoff,
    failed: Option<Instant>,
}

impl Driver {
    pub(super) fn new(client: Arc<Client>, term: Arc<Term>, core: Core, publisher: Publisher) -> Self {
        let targets = publisher.shared.targets.to_vec();
        Self {
            client,
            term,
            core,
            publisher,
            stream: None,
            targets,
            backoff: Backoff::up_to(WAIT_MAX),
            failed: None,
        }
    }

    pub(super) async fn run(mut self, stop: CancellationToken) {
        tokio::select! {
            () = stop.cancelled() => {}
            () = self.drive() => {}
        }
    }

    async fn drive(&mut self) {
        loop {
            let step = self.core.step();
            if matches!(step, Step::ReadMeta | Step::Raise(_) | Step::Wait) {
                self.stream = None;
            }
            if let Err(failure) = self.perform(step).await {
                tracing::info!(%failure, "the mirror of the store is interrupted");
                self.core.on_failure(&failure);
            }
            if let Some(publication) = self.core.take() {
                self.publisher.publish(publication);
            }
            self.publisher.live(self.core.is_live());
        }
    }

    async fn perform(&mut self, step: Step) -> Result<(), Failure> {
        match step {
            Step::ReadMeta | Step::CheckMeta => {
                let (header, meta) = term::read(&self.client).await.map_err(|error| passing(&error))?;
                self.core.on_meta(header, meta.map(|meta| (meta.value.term, meta.value.cluster_id)));
            }
            Step::Raise(evidence) => {
                let known = term::settle(&self.client, Some(self.term.known()), evidence)
                    .await
                    .map_err(|error| passing(&error))?;
                self.term.learn(known);
                self.core.on_raised();
            }
            Step::Read(range) => {
                let found = self.client.range(&range).await?;
                self.core.on_found(found);
            }
            Step::Open { targets, meta } => {
                self.stream = Some(self.open(&targets, meta).await?);
                self.core.on_opened();
            }
            Step::Receive => self.receive().await?,
            Step::Wait => {
                if self.failed.is_none_or(|failed| failed.elapsed() > CALM) {
                    self.backoff.reset();
                }
                tokio::time::sleep(self.backoff.next()).await;
                self.failed = Some(Instant::now());
                self.core.on_waited();
            }
        }
        Ok(())
    }

    async fn open(&self, from: &[i64], meta: i64) -> Result<WatchStream, Failure> {
        let key = term::meta_key();
        let options =
            WatchOptions::new().with_watch_id(META_WATCH).with_start_revision(meta).with_progress_notify();
        let mut stream = self.client.watch(key.as_str().into(), options).await?;
        for (id, (target, revision)) in (FIRST_WATCH..).zip(self.targets.iter().zip(from)) {
            let options = WatchOptions::new()
                .with_range(range_end(&target.prefix))
                .with_watch_id(id)
                .with_start_revision(*revision)
                .with_progress_notify()
                .with_fragment();
            timeout(self.client.deadline, stream.watch(&*target.prefix, Some(options)))
                .await
                .map_err(|_| Failure::Unclear("the watch stream takes nothing".to_owned()))??;
        }
        Ok(stream)
    }

    /// Takes one message, and those that have come already.
    async fn receive(&mut self) -> Result<(), Failure> {
        let stream = self.stream.as_mut().ok_or_else(|| Failure::Unclear("there is no stream".to_owned()))?;
        let mut next = Some(Self::next(stream).await?);
        let mut messages = 0;
        while let Some(answer) = next.take() {
            let message = self.message(answer)?;
            self.core.on_message(message);
            messages += 1;
            if messages == MESSAGES_MAX || !self.core.is_live() {
                break;
            }
            let Some(stream) = self.stream.as_mut() else { break };
            next = tokio::select! {
                biased;
                answer = stream.message() => Some(answer?.ok_or_else(ended)?.0),
                () = std::future::ready(()) => None,
            };
        }
        Ok(())
    }

    async fn next(stream: &mut WatchStream) -> Result<PbWatchResponse, Failure> {
        if let Ok(answer) = timeout(SILENCE, stream.message()).await {
            return Ok(answer?.ok_or_else(ended)?.0);
        }
        timeout(SILENCE, stream.request_progress()).await.map_err(|_| silent())??;
        match timeout(SILENCE, stream.message()).await {
            Ok(answer) => Ok(answer?.ok_or_else(ended)?.0),
            Err(_) => Err(silent()),
        }
    }

    /// etcd's message as the core's.
    fn message(&self, answer: PbWatchResponse) -> Result<Message, Failure> {
        let header = answer.header.ok_or_else(|| Failure::Unclear("a message has no header".to_owned()))?;
        let header = Header { cluster_id: header.cluster_id, revision: header.revision };
        let source = match usize::try_from(answer.watch_id - FIRST_WATCH) {
            _ if answer.watch_id == META_WATCH => Source::Meta,
            Ok(target) if target < self.targets.len() => Source::Target(target),
            _ => Source::Stream,
        };
        let keys_only = matches!(source, Source::Target(target) if self.targets[target].keys_only);
        let events =
            answer.events.into_iter().map(|event| read(event, keys_only)).collect::<Result<Vec<_>, _>>()?;
        if let Some(event) = events.last() {
            self.client.saw(event.mod_revision);
        }
        if answer.canceled {
            tracing::info!(reason = %answer.cancel_reason, compacted = answer.compact_revision, "a watch was ended by the store");
        }
        let kind = if answer.compact_revision > 0 {
            Kind::Compacted
        } else if answer.canceled {
            Kind::Canceled
        } else if answer.created {
            Kind::Created
        } else if answer.fragment {
            Kind::Fragment
        } else {
            Kind::Whole
        };
        Ok(Message { source, header, kind, events })
    }
}

fn read(event: PbEvent, keys_only: bool) -> Result<Event, Failure> {
    let deleted = event.r#type == EventType::Delete as i32;
    let mut kv = event.kv.ok_or_else(|| Failure::Unclear("an event has no key".to_owned()))?;
    if keys_only {
        kv.value = Vec::new();
    }
    let mut entry = entry(kv)?;
    if keys_only {
        entry.bytes = Bytes::new();
    }
    Ok(Event {
        key: Arc::clone(&entry.key),
        mod_revision: entry.mod_revision,
        put: (!deleted).then_some(entry),
    })
}

fn ended() -> Failure {
    Failure::Unclear("the watch stream ended".to_owned())
}

fn silent() -> Failure {
    Failure::Unclear("the watch stream is silent".to_owned())
}

/// Whatever kept the term from being settled may pass: the mirror goes on trying.
fn passing(error: &crate::error::TermError) -> Failure {
    Failure::Unclear(error.to_string())
}
