//! Watches: positions in the store's history, read page by page at the store and sent over a stream that may be slow or break.

use std::rc::Rc;
use std::time::Duration;

use skerry_etcd_embedded::mvcc::{Core, HistoryPage, KeyRange};
use skerry_store::sans_io::{Event, Failure, Header, Kind, Message, Source};

use super::client::{Client, entry_of};
use super::faults::Fault;
use super::net::{self, End};
use super::store::Live;

/// A stream that is silent for so long is asked whether it lives; after as long again it is given up.
const SILENCE: Duration = Duration::from_secs(10);
/// Of one page of history.
const PAGE_ENTRIES: usize = 40;
const PAGE_BYTES: usize = 64 * 1024;

/// What is watched.
pub(super) struct Watch {
    pub(super) keys: KeyRange,
    /// The first revision that is wanted.
    pub(super) from: i64,
    pub(super) source: Source,
}

/// The client asks for a sign of life.
struct AskProgress;

/// The client's end of a watch stream.
pub(super) struct WatchStream {
    end: End<AskProgress, Message>,
}

/// Opens a stream with these watches.
pub(super) async fn open(client: &Client, watches: Vec<Watch>) -> Result<WatchStream, Failure> {
    let process = client.process();
    process.boundary().await;
    process.sleep(process.sim.between_ms(0, 15)).await;
    let live = client.host().live().ok_or_else(|| Failure::NotSent("the store is away".to_owned()))?;
    let (ours, theirs, link) = net::stream(&process.sim);
    let server = Server { live: Rc::clone(&live), end: theirs, watches };
    live.process.spawn(server.run(link));
    Ok(WatchStream { end: ours })
}

impl WatchStream {
    /// The next message.
    pub(super) async fn next(&mut self, client: &Client) -> Result<Message, Failure> {
        let ended = || Failure::Unclear("the watch stream ended".to_owned());
        let process = client.process();
        let first = process.timeout(SILENCE, self.end.inn.next()).await;
        let message = if let Some(message) = first {
            message.ok_or_else(ended)?
        } else {
            self.end.out.send(AskProgress);
            let second = process.timeout(SILENCE, self.end.inn.next()).await;
            second
                .ok_or_else(|| Failure::Unclear("the watch stream is silent".to_owned()))?
                .ok_or_else(ended)?
        };
        process.boundary().await;
        if let Some(event) = message.events.last() {
            client.saw(event.mod_revision);
        }
        Ok(message)
    }
}

/// The store's end.
struct Server {
    live: Rc<Live>,
    end: End<Message, AskProgress>,
    watches: Vec<Watch>,
}

impl Server {
    async fn run(mut self, link: Rc<net::Link>) {
        let sim = self.live.process.sim.clone();
        let mut committed = self.live.committed.subscribe();
        self.create();
        loop {
            committed.take();
            if sim.strikes(1_500) {
                sim.count(Fault::WatchBroken);
                link.cut();
                return;
            }
            if sim.strikes(2_000) {
                sim.count(Fault::WatchSlow);
                link.stall(sim.between_ms(100, 20_000));
            }
            self.live.wait_out_stall().await;
            self.pump();
            if self.end.out.is_gone() {
                return;
            }
            tokio::select! {
                biased;
                changed = committed.changed() => if changed.is_err() { return },
                asked = self.end.inn.next() => match asked {
                    Some(AskProgress) => self.say(Source::Stream, self.live.core(Core::committed), Kind::Whole, Vec::new()),
                    None => return,
                },
            }
        }
    }

    fn say(&self, source: Source, revision: i64, kind: Kind, events: Vec<Event>) {
        let cluster_id = self.live.core(|core| core.identity().cluster_id);
        self.end.out.send(Message { source, header: Header { cluster_id, revision }, kind, events });
    }

    fn create(&mut self) {
        let (committed, compacted) = self.live.core(|core| (core.committed(), core.compacted()));
        for watch in &self.watches {
            self.say(watch.source, committed, Kind::Created, Vec::new());
        }
        self.cancel_below(compacted);
    }

    fn cancel_below(&mut self, start: i64) {
        let (gone, stay) =
            std::mem::take(&mut self.watches).into_iter().partition(|watch| watch.from < start);
        self.watches = stay;
        let gone: Vec<Watch> = gone;
        for watch in gone {
            self.live.process.sim.count(Fault::WatchCompacted);
            self.say(watch.source, self.live.core(Core::committed), Kind::Compacted, Vec::new());
        }
    }

    /// Sends all that is there.
    fn pump(&mut self) {
        loop {
            let start = self.live.core(Core::history_start);
            self.cancel_below(start);
            let committed = self.live.core(Core::committed);
            let from = self.watches.iter().map(|watch| watch.from).filter(|from| *from <= committed).min();
            let Some(from) = from else { return };
            let page = self.live.core(|core| core.history(from, PAGE_ENTRIES, PAGE_BYTES));
            let Ok(page) = page else { continue };
            self.deliver(&page);
        }
    }

    fn deliver(&mut self, page: &HistoryPage) {
        for index in 0..self.watches.len() {
            let watch = &mut self.watches[index];
            if watch.from >= page.next {
                continue;
            }
            let from = std::mem::replace(&mut watch.from, page.next);
            let wanted = page.items.iter().map(|item| &item.entry);
            let wanted = wanted.filter(|e| e.revision.main >= from && watch.keys.contains(&e.key));
            let mut events: Vec<Event> = wanted
                .map(|entry| {
                    let put = entry_of(entry, false);
                    Event {
                        key: std::sync::Arc::clone(&put.key),
                        mod_revision: put.mod_revision,
                        put: (!entry.is_tombstone()).then_some(put),
                    }
                })
                .collect();
            let (source, next) = (watch.source, page.next - 1);
            if events.is_empty() {
                continue;
            }
            if events.len() > 1 && self.live.process.sim.rng(|rng| rng.chance(200_000)) {
                let rest = events.split_off(events.len() / 2);
                self.say(source, next, Kind::Fragment, std::mem::replace(&mut events, rest));
            }
            self.say(source, next, Kind::Whole, events);
        }
    }
}
