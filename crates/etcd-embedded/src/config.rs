//! What the embedded store can be told, and what goes wrong when it is opened or served.

use std::path::PathBuf;
use std::time::Duration;

use thiserror::Error;

use crate::mvcc::CorruptState;

/// How the store is kept and bounded.
#[derive(Debug, Clone)]
pub struct Config {
    /// The directory that holds the data; it is made if it does not exist. One process at a time.
    pub data_dir: PathBuf,
    /// Which history is forgotten without being asked; `None` keeps all of it.
    pub auto_compaction: Option<AutoCompaction>,
    /// Bytes of memory for keys, values and history. Writes that add something are refused above it, and
    /// above three quarters of it history is forgotten at once.
    pub quota_bytes: usize,
    /// How often a watcher that asked for it and saw no event is told the revision. etcd's is ten minutes.
    pub watch_progress_interval: Duration,
}

/// History is kept while either bound still covers it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct AutoCompaction {
    /// The newest main revisions that always stay readable.
    pub keep_revisions: i64,
    /// What is younger than this always stays readable.
    pub keep_for: Duration,
}

impl Default for AutoCompaction {
    /// Ten thousand revisions and five minutes: a client that reconnects finds its place, and an edge
    /// machine that writes now and then holds a few megabytes.
    fn default() -> Self {
        Self { keep_revisions: 10_000, keep_for: Duration::from_mins(5) }
    }
}

impl Config {
    /// The defaults, in `data_dir`.
    pub fn new(data_dir: impl Into<PathBuf>) -> Self {
        Self {
            data_dir: data_dir.into(),
            auto_compaction: Some(AutoCompaction::default()),
            quota_bytes: 512 << 20,
            watch_progress_interval: Duration::from_mins(10),
        }
    }
}

/// Why a store could not be opened.
#[derive(Debug, Error)]
pub enum OpenError {
    /// The directory, or a file in it, could not be made, read or locked.
    #[error("cannot use the data directory {path}: {source}")]
    Directory {
        /// The directory or file.
        path: PathBuf,
        /// What the system said.
        source: std::io::Error,
    },
    /// Another process, or this one, has the store open.
    #[error("the data directory {path} is in use by another process (pid {holder})")]
    InUse {
        /// The directory.
        path: PathBuf,
        /// The process that holds it, as it wrote itself down, or "unknown".
        holder: String,
    },
    /// The data file is damaged, or is no data file.
    #[error("the data file {path} is corrupt: {reason}")]
    Corrupt {
        /// The file.
        path: PathBuf,
        /// What was found.
        reason: String,
    },
    /// The data file is sound, and what it says is not.
    #[error("the data file {path} does not hold a store: {source}")]
    State {
        /// The file.
        path: PathBuf,
        /// What was found.
        source: CorruptState,
    },
    /// Reading or writing the data file failed.
    #[error("cannot read or write the data file {path}: {reason}")]
    Io {
        /// The file.
        path: PathBuf,
        /// What the database said.
        reason: String,
    },
}

/// Why serving ended other than by its shutdown.
#[derive(Debug, Error)]
pub enum ServeError {
    /// The gRPC server failed.
    #[error("serving etcd: {0}")]
    Transport(#[from] tonic::transport::Error),
    /// A client of this process could not be made.
    #[error("connecting to the store in this process: {0}")]
    Connect(#[from] etcd_client::Error),
    /// The store was closed.
    #[error("the store is closed")]
    Closed,
}
