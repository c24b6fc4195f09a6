//! The Watch service: one task for each stream, with all of the stream's watchers.
//!
//! A watcher is a position in the history. When the committed revision moves, or while a watcher is behind,
//! the task reads a page of the history and hands each watcher what concerns it. So nothing queues up for a
//! slow client: its stream stops reading, and goes on from its position later, unless compaction overtook it;
//! then the watcher is cancelled with the compacted revision, as in etcd.

use std::collections::BTreeMap;
use std::ops::ControlFlow;

use etcd_client::proto::{
    PbEvent, PbResponseHeader, PbWatchRequest, PbWatchRequestUnion, PbWatchResponse, PbWatchService,
};
use prost::Message as _;
use tokio::sync::mpsc;
use tokio::time::{MissedTickBehavior, interval};
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Request, Response, Status, Streaming, async_trait};

use super::fault::stopped;
use super::{Face, convert};
use crate::mvcc::{Fault, HistoryItem, HistoryPage, KeyRange};

/// Responses that wait for the client on one stream. Each is a page at most.
const RESPONSES: usize = 4;
/// Changes in one page of the history, as in etcd.
const PAGE_ENTRIES: usize = 1000;
/// Bytes in one page of the history; a single transaction may be larger.
const PAGE_BYTES: usize = 1 << 20;
/// A response above this is sent in fragments to a watcher that asked for them.
const FRAGMENT_BYTES: usize = 3 << 19;
/// Watchers on one stream.
const WATCHERS_MAX: usize = 65_536;
/// The id that stands for no watcher, or for all of a stream.
const NO_WATCHER: i64 = -1;

type Out = mpsc::Sender<Result<PbWatchResponse, Status>>;

#[async_trait]
impl PbWatchService for Face {
    type WatchStream = ReceiverStream<Result<PbWatchResponse, Status>>;

    async fn watch(
        &self,
        request: Request<Streaming<PbWatchRequest>>,
    ) -> Result<Response<Self::WatchStream>, Status> {
        let (out, responses) = mpsc::channel(RESPONSES);
        let requests = request.into_inner();
        let stream = Stream {
            face: self.clone(),
            out: out.clone(),
            watchers: BTreeMap::new(),
            next_id: 0,
            progress_asked: false,
        };
        let stop = self.stop.clone();
        self.engine.shared.tasks.spawn(async move {
            if stop.run_until_cancelled(stream.run(requests)).await.is_none() {
                // The client may have gone, or read too slowly to hear the reason.
                let _ = out.try_send(Err(stopped()));
            }
        });
        Ok(Response::new(ReceiverStream::new(responses)))
    }
}

#[allow(clippy::struct_excessive_bools, reason = "the request's own switches, and one of ours")]
struct Watcher {
    keys: KeyRange,
    /// First main revision that it has not been shown.
    next: i64,
    prev_kv: bool,
    no_put: bool,
    no_delete: bool,
    progress_notify: bool,
    fragment: bool,
    /// Whether it was sent an event since the last progress tick.
    active: bool,
}

impl Watcher {
    fn wants(&self, item: &HistoryItem) -> bool {
        let entry = &item.entry;
        let filtered = if entry.is_tombstone() { self.no_delete } else { self.no_put };
        entry.revision.main >= self.next && !filtered && self.keys.contains(&entry.key)
    }
}

struct Stream {
    face: Face,
    out: Out,
    watchers: BTreeMap<i64, Watcher>,
    next_id: i64,
    progress_asked: bool,
}

impl Stream {
    async fn run(mut self, mut requests: Streaming<PbWatchRequest>) {
        let mut revisions = self.face.engine.shared.revisions();
        let mut ticks = interval(self.face.engine.shared.config.watch_progress_interval);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        ticks.reset();
        let mut committed = *revisions.borrow_and_update();
        loop {
            let behind = self.behind(committed);
            let flow = tokio::select! {
                biased;
                request = requests.message() => match request {
                    Ok(Some(request)) => self.on_request(request).await,
                    // Closed or broken by the client; either way nobody listens any more.
                    Ok(None) | Err(_) => ControlFlow::Break(()),
                },
                changed = revisions.changed() => match changed {
                    Ok(()) => {
                        committed = *revisions.borrow_and_update();
                        ControlFlow::Continue(())
                    }
                    Err(_) => ControlFlow::Break(()),
                },
                _ = ticks.tick() => self.notify_progress(committed).await,
                () = self.out.closed() => ControlFlow::Break(()),
                () = std::future::ready(()), if behind => self.pump().await,
            };
            let flow = match flow {
                ControlFlow::Continue(()) => self.answer_progress(committed).await,
                stop @ ControlFlow::Break(()) => stop,
            };
            if flow.is_break() {
                return;
            }
        }
    }

    fn behind(&self, committed: i64) -> bool {
        self.watchers.values().any(|watcher| watcher.next <= committed)
    }

    async fn send(&self, response: PbWatchResponse) -> ControlFlow<()> {
        match self.out.send(Ok(response)).await {
            Ok(()) => ControlFlow::Continue(()),
            Err(_) => ControlFlow::Break(()),
        }
    }

    fn header(&self, revision: i64) -> PbResponseHeader {
        self.face.header(revision)
    }

    async fn on_request(&mut self, request: PbWatchRequest) -> ControlFlow<()> {
        match request.request_union {
            Some(PbWatchRequestUnion::CreateRequest(create)) => {
                let committed = self.face.engine.shared.read().committed();
                let keys = KeyRange {
                    key: if create.key.is_empty() { vec![0] } else { create.key },
                    range_end: create.range_end,
                };
                let next = if create.start_revision == 0 { committed + 1 } else { create.start_revision };
                let watcher = Watcher {
                    keys,
                    next,
                    prev_kv: create.prev_kv,
                    no_put: create.filters.contains(&0),
                    no_delete: create.filters.contains(&1),
                    progress_notify: create.progress_notify,
                    fragment: create.fragment,
                    active: false,
                };
                self.create(create.watch_id, watcher, committed).await
            }
            Some(PbWatchRequestUnion::CancelRequest(cancel)) => {
                if self.watchers.remove(&cancel.watch_id).is_none() {
                    return ControlFlow::Continue(());
                }
                let committed = self.face.engine.shared.read().committed();
                self.send(PbWatchResponse {
                    header: Some(self.header(committed)),
                    watch_id: cancel.watch_id,
                    canceled: true,
                    ..PbWatchResponse::default()
                })
                .await
            }
            Some(PbWatchRequestUnion::ProgressRequest(_)) => {
                self.progress_asked = true;
                ControlFlow::Continue(())
            }
            None => ControlFlow::Continue(()),
        }
    }

    async fn create(&mut self, wanted_id: i64, watcher: Watcher, committed: i64) -> ControlFlow<()> {
        let keys = &watcher.keys;
        let refused = if !keys.is_one() && !keys.is_open() && keys.key >= keys.range_end {
            Some("mvcc: watcher range is empty")
        } else if wanted_id != 0 && self.watchers.contains_key(&wanted_id) {
            Some("mvcc: duplicate watch ID provided on the WatchStream")
        } else if self.watchers.len() >= WATCHERS_MAX {
            Some("etcdserver: too many watchers on one stream")
        } else {
            None
        };
        let compacted = watcher.next < self.face.engine.shared.read().compacted();
        let watch_id = if refused.is_some() {
            NO_WATCHER
        } else {
            let id = if wanted_id == 0 { self.free_id() } else { wanted_id };
            self.watchers.insert(id, watcher);
            id
        };
        self.send(PbWatchResponse {
            header: Some(self.header(committed)),
            watch_id,
            created: true,
            canceled: refused.is_some(),
            cancel_reason: refused.unwrap_or_default().to_owned(),
            ..PbWatchResponse::default()
        })
        .await?;
        if compacted && self.watchers.remove(&watch_id).is_some() {
            // Told in two responses, as by etcd: the watch was made, and its beginning is gone.
            return self.cancel_compacted(watch_id).await;
        }
        ControlFlow::Continue(())
    }

    fn free_id(&mut self) -> i64 {
        while self.watchers.contains_key(&self.next_id) {
            self.next_id += 1;
        }
        self.next_id += 1;
        self.next_id - 1
    }

    /// Reads one page for those furthest behind, and sends what it holds to everybody whom it concerns.
    async fn pump(&mut self) -> ControlFlow<()> {
        let (start, page) = {
            let core = self.face.engine.shared.read();
            let start = core.history_start();
            let from = self.watchers.values().map(|watcher| watcher.next).filter(|next| *next >= start).min();
            let page = from.map(|from| core.history(from, PAGE_ENTRIES, PAGE_BYTES));
            (start, page)
        };
        self.cancel_below(start).await?;
        match page {
            Some(Ok(page)) => self.deliver(&page).await,
            // Not so: the position was looked up under the same lock. Nothing is lost by trying again.
            Some(Err(_)) | None => ControlFlow::Continue(()),
        }
    }

    /// Cancels the watchers whose next revision is not kept any more.
    async fn cancel_below(&mut self, start: i64) -> ControlFlow<()> {
        let lost: Vec<i64> =
            self.watchers.iter().filter(|(_, watcher)| watcher.next < start).map(|(id, _)| *id).collect();
        for watch_id in lost {
            self.watchers.remove(&watch_id);
            self.cancel_compacted(watch_id).await?;
        }
        ControlFlow::Continue(())
    }

    async fn cancel_compacted(&self, watch_id: i64) -> ControlFlow<()> {
        let (committed, compacted) = {
            let core = self.face.engine.shared.read();
            (core.committed(), core.compacted())
        };
        self.send(PbWatchResponse {
            header: Some(self.header(committed)),
            watch_id,
            canceled: true,
            compact_revision: compacted,
            cancel_reason: Fault::Compacted.to_string(),
            ..PbWatchResponse::default()
        })
        .await
    }

    async fn deliver(&mut self, page: &HistoryPage) -> ControlFlow<()> {
        let ids: Vec<i64> = self.watchers.keys().copied().collect();
        for watch_id in ids {
            let Some(watcher) = self.watchers.get_mut(&watch_id) else { continue };
            if watcher.next >= page.next {
                continue;
            }
            let events: Vec<PbEvent> = page
                .items
                .iter()
                .filter(|item| watcher.wants(item))
                .map(|item| event(item, watcher.prev_kv))
                .collect();
            watcher.next = page.next;
            if events.is_empty() {
                continue;
            }
            watcher.active = true;
            let fragment = watcher.fragment;
            let response = PbWatchResponse {
                header: Some(self.header(page.next - 1)),
                watch_id,
                events,
                ..PbWatchResponse::default()
            };
            for response in fragments(response, fragment) {
                self.send(response).await?;
            }
        }
        ControlFlow::Continue(())
    }

    async fn notify_progress(&mut self, committed: i64) -> ControlFlow<()> {
        let mut idle = Vec::new();
        for (watch_id, watcher) in &mut self.watchers {
            if watcher.progress_notify && !watcher.active && watcher.next == committed + 1 {
                idle.push(*watch_id);
            }
            watcher.active = false;
        }
        for watch_id in idle {
            self.send(PbWatchResponse {
                header: Some(self.header(committed)),
                watch_id,
                ..PbWatchResponse::default()
            })
            .await?;
        }
        ControlFlow::Continue(())
    }

    /// Says how far the stream is, if that was asked, and once no watcher is behind.
    async fn answer_progress(&mut self, committed: i64) -> ControlFlow<()> {
        if !self.progress_asked || self.behind(committed) {
            return ControlFlow::Continue(());
        }
        self.progress_asked = false;
        self.send(PbWatchResponse {
            header: Some(self.header(committed)),
            watch_id: NO_WATCHER,
            ..PbWatchResponse::default()
        })
        .await
    }
}

fn event(item: &HistoryItem, prev_kv: bool) -> PbEvent {
    /// `mvccpb.Event.EventType`.
    const PUT: i32 = 0;
    const DELETE: i32 = 1;
    PbEvent {
        r#type: if item.entry.is_tombstone() { DELETE } else { PUT },
        kv: Some(convert::key_value(&item.entry, false)),
        prev_kv: item.prev.as_ref().filter(|_| prev_kv).map(|prev| convert::key_value(prev, false)),
    }
}

/// Splits a large response, where the watcher can take that.
fn fragments(mut response: PbWatchResponse, allowed: bool) -> Vec<PbWatchResponse> {
    if !allowed || response.encoded_len() <= FRAGMENT_BYTES {
        return vec![response];
    }
    let events = std::mem::take(&mut response.events);
    let mut parts: Vec<PbWatchResponse> = Vec::new();
    let mut bytes = 0;
    for event in events {
        let event_bytes = event.encoded_len();
        if parts.is_empty() || bytes + event_bytes > FRAGMENT_BYTES {
            parts.push(PbWatchResponse { fragment: true, ..response.clone() });
            bytes = 0;
        }
        bytes += event_bytes;
        if let Some(part) = parts.last_mut() {
            part.events.push(event);
        }
    }
    if let Some(last) = parts.last_mut() {
        last.fragment = false;
    }
    parts
}
