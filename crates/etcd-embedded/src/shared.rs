//! What the writer, the services and the watchers share: the core, the revision that is committed, the queue
//! to the writer, and the word to stop.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard};
use std::time::{Duration, Instant};

use tokio::sync::{mpsc, oneshot, watch};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::config::{Config, OpenError};
use crate::disk::{DirLock, Disk};
use crate::mvcc::{Answer, Command, Core, Identity};
use crate::writer::{Refusal, Request, Work};

/// State that everybody looks at.
pub(crate) struct Shared {
    pub(crate) config: Config,
    pub(crate) stop: CancellationToken,
    pub(crate) tasks: TaskTracker,
    core: RwLock<Core>,
    published: watch::Sender<i64>,
    file_bytes: AtomicU64,
    started: Instant,
    addresses: Mutex<Vec<String>>,
    lock: Mutex<Option<DirLock>>,
}

impl Shared {
    /// Locks the directory, opens the data file (or makes it), and begins a term in it.
    pub(crate) fn open(config: Config) -> Result<(Arc<Self>, Disk), OpenError> {
        let lock = DirLock::acquire(&config.data_dir)?;
        let started = Instant::now();
        let (disk, core) = load(&config, Duration::ZERO)?;
        let (published, _) = watch::channel(core.committed());
        let shared = Self {
            stop: CancellationToken::new(),
            tasks: TaskTracker::new(),
            core: RwLock::new(core),
            published,
            file_bytes: AtomicU64::new(disk.file_bytes()),
            started,
            config,
            addresses: Mutex::default(),
            lock: Mutex::new(Some(lock)),
        };
        Ok((Arc::new(shared), disk))
    }

    /// Opens the data file once more, after it failed.
    pub(crate) fn load(&self) -> Result<(Disk, Core), OpenError> {
        load(&self.config, self.now())
    }

    /// The core's time: since the store was opened, and never set back.
    pub(crate) fn now(&self) -> Duration {
        self.started.elapsed()
    }

    /// The core, for as long as it takes to look something up. Never held across an await.
    pub(crate) fn read(&self) -> RwLockReadGuard<'_, Core> {
        self.core.read().unwrap_or_else(PoisonError::into_inner)
    }

    /// The core, for the writer.
    pub(crate) fn write(&self) -> RwLockWriteGuard<'_, Core> {
        self.core.write().unwrap_or_else(PoisonError::into_inner)
    }

    /// Tells everybody what is committed.
    pub(crate) fn publish(&self, revision: i64, file_bytes: u64) {
        self.file_bytes.store(file_bytes, Ordering::Relaxed);
        self.published.send_if_modified(|published| std::mem::replace(published, revision) != revision);
    }

    /// The committed revision, and when it changes.
    pub(crate) fn revisions(&self) -> watch::Receiver<i64> {
        self.published.subscribe()
    }

    /// Where the store is served, as URLs.
    pub(crate) fn addresses(&self) -> Vec<String> {
        self.addresses.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Notes one more place where the store is served.
    pub(crate) fn add_address(&self, url: String) {
        self.addresses.lock().unwrap_or_else(PoisonError::into_inner).push(url);
    }

    /// Lets another process have the directory. The data file is closed.
    pub(crate) fn unlock(&self) {
        self.lock.lock().unwrap_or_else(PoisonError::into_inner).take();
    }

    /// Size of the data file, in bytes.
    pub(crate) fn file_bytes(&self) -> u64 {
        self.file_bytes.load(Ordering::Relaxed)
    }
}

fn load(config: &Config, now: Duration) -> Result<(Disk, Core), OpenError> {
    let new = Identity { cluster_id: rand::random(), member_id: rand::random() };
    let disk = Disk::open(&config.data_dir, new)?;
    let mut core = disk.load(now)?;
    let term = core.begin_term();
    disk.commit(&term)
        .map_err(|error| OpenError::Io { path: config.data_dir.clone(), reason: error.to_string() })?;
    core.set_quota(config.quota_bytes);
    Ok((disk, core))
}

/// What a service holds: the shared state and a way to the writer.
#[derive(Clone)]
pub(crate) struct Engine {
    pub(crate) shared: Arc<Shared>,
    pub(crate) queue: mpsc::Sender<Request>,
}

impl Engine {
    /// Has the writer do a command, and waits until it is durable.
    pub(crate) async fn command(&self, command: Command) -> Result<Answer, Refusal> {
        self.work(Work::Command(command)).await
    }

    /// Has the writer do something, and waits for it.
    pub(crate) async fn work(&self, work: Work) -> Result<Answer, Refusal> {
        let (reply, answer) = oneshot::channel();
        self.queue.send(Request { work, reply }).await.map_err(|_| Refusal::Stopped)?;
        answer.await.map_err(|_| Refusal::Stopped)?
    }
}
