//! Drives the real core of the store's mirror, and holds what it publishes.

use std::cell::{Cell, RefCell};
use std::rc::Rc;
use std::sync::Arc;

use bytes::Bytes;
use skerry_etcd_embedded::mvcc::KeyRange;
use skerry_proto::store::v1 as stored;
use skerry_store::keys::TheStore;
use skerry_store::sans_io::{Core, Failure, Message, Range, Sorted, Source, Step, Target};
use skerry_store::{Entry, Key, Prefix, Record};
use tokio::sync::Notify;

use super::client::Client;
use super::watch::{self, Watch, WatchStream};

/// Families of the store in memory. Cheap to clone.
#[derive(Clone)]
pub(super) struct Mirror(Rc<Inner>);

struct Inner {
    map: RefCell<Sorted>,
    term: Cell<u64>,
    positions: RefCell<Vec<i64>>,
    published: super::signal::Sender<u64>,
    /// Keys that changed since somebody took them; `None`: all may have.
    changed: RefCell<Option<Vec<Arc<str>>>>,
    wake: Notify,
}

/// A target of it.
pub(super) fn target<R: Record>(keys_only: bool) -> Target {
    Target { prefix: Prefix::<R>::all().to_shared(), keys_only }
}

impl Mirror {
    /// Begins to mirror.
    pub(super) fn start(client: &Client, targets: Vec<Target>) -> Self {
        let mirror = Self(Rc::new(Inner {
            map: RefCell::default(),
            term: Cell::default(),
            positions: RefCell::default(),
            published: super::signal::Sender::new(0),
            changed: RefCell::new(None),
            wake: Notify::new(),
        }));
        let driver =
            Driver { client: client.clone(), core: Core::new(targets.clone()), targets, stream: None };
        client.process().spawn(driver.run(mirror.clone()));
        mirror
    }

    /// Waits for the first listing.
    pub(super) async fn ready(&self) {
        let mut published = self.0.published.subscribe();
        // It cannot end before the process does.
        let _ = published.wait_for(|count| *count > 0).await;
    }

    pub(super) fn subscribe(&self) -> super::signal::Receiver<u64> {
        self.0.published.subscribe()
    }

    pub(super) fn map(&self) -> Sorted {
        self.0.map.borrow().clone()
    }

    pub(super) fn term(&self) -> u64 {
        self.0.term.get()
    }

    /// The newest revision that it shows.
    pub(super) fn revision(&self) -> i64 {
        self.0.positions.borrow().iter().copied().max().unwrap_or(0)
    }

    /// The modification revision of a key.
    pub(super) fn mod_revision<R>(&self, key: &Key<R>) -> Option<i64> {
        self.0.map.borrow().get(key.as_str()).map(|entry| entry.mod_revision)
    }

    /// Waits for changes, and takes the keys; `None`: all may have changed.
    pub(super) async fn changed(&self) -> Option<Vec<Arc<str>>> {
        self.0.wake.notified().await;
        self.0.changed.borrow_mut().replace(Vec::new())
    }
}

struct Driver {
    client: Client,
    core: Core,
    targets: Vec<Target>,
    stream: Option<WatchStream>,
}

impl Driver {
    async fn run(mut self, mirror: Mirror) {
        let mut attempt = 0;
        loop {
            let step = self.core.step();
            if matches!(step, Step::ReadMeta | Step::Raise(_) | Step::Wait) {
                self.stream = None;
            }
            if matches!(step, Step::Wait) {
                self.client.process().sleep(self.client.process().backoff(attempt, 5_000)).await;
                attempt += 1;
                self.core.on_waited();
                continue;
            }
            match self.perform(step).await {
                Ok(()) => {
                    if self.core.is_live() {
                        attempt = 0;
                    }
                }
                Err(failure) => {
                    self.client.process().trace(format_args!("its mirror is interrupted: {failure}"));
                    self.core.on_failure(&failure);
                }
            }
            self.publish(&mirror);
        }
    }

    fn publish(&mut self, mirror: &Mirror) {
        let Some(publication) = self.core.take() else { return };
        let inner = &mirror.0;
        *inner.map.borrow_mut() = publication.map;
        inner.term.set(publication.term);
        *inner.positions.borrow_mut() = publication.positions;
        {
            let mut changed = inner.changed.borrow_mut();
            if publication.resync {
                *changed = None;
            } else if let Some(keys) = changed.as_mut() {
                keys.extend(publication.changes.iter().map(|change| Arc::from(change.key())));
            }
        }
        let count = *inner.published.borrow();
        inner.published.set(count + 1);
        inner.wake.notify_one();
    }

    async fn perform(&mut self, step: Step) -> Result<(), Failure> {
        match step {
            Step::ReadMeta | Step::CheckMeta => {
                let key = Key::<stored::StoreMeta>::of(&TheStore);
                let found =
                    self.client.range(&Range { key: key.as_str().into(), ..Range::default() }).await?;
                let meta = found.entries.first().map(Entry::decode::<stored::StoreMeta>).transpose();
                let meta = meta.map_err(|error| Failure::Unclear(error.to_string()))?;
                self.core.on_meta(found.header, meta.map(|meta| (meta.value.term, meta.value.cluster_id)));
            }
            Step::Raise(evidence) => {
                self.client.settle(evidence).await.map_err(|f| Failure::Unclear(f.to_string()))?;
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
            Step::Receive => {
                let stream = self.stream.as_mut();
                let stream = stream.ok_or_else(|| Failure::Unclear("there is no stream".to_owned()))?;
                let message = stream.next(&self.client).await?;
                let message = self.without_values(message);
                self.core.on_message(message);
            }
            Step::Wait => {}
        }
        Ok(())
    }

    async fn open(&self, from: &[i64], meta: i64) -> Result<WatchStream, Failure> {
        let key = Key::<stored::StoreMeta>::of(&TheStore);
        let keys = KeyRange { key: key.as_str().into(), range_end: Vec::new() };
        let mut watches = vec![Watch { keys, from: meta, source: Source::Meta }];
        watches.extend(self.targets.iter().zip(from).enumerate().map(|(index, (target, from))| Watch {
            keys: KeyRange::prefix(target.prefix.as_bytes()),
            from: *from,
            source: Source::Target(index),
        }));
        watch::open(&self.client, watches).await
    }

    fn without_values(&self, mut message: Message) -> Message {
        if matches!(message.source, Source::Target(index) if self.targets[index].keys_only) {
            for entry in message.events.iter_mut().filter_map(|event| event.put.as_mut()) {
                entry.bytes = Bytes::new();
            }
        }
        message
    }
}
