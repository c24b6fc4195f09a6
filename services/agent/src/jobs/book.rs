//! What is known of jobs, on disk: what succeeded is not run again, whatever ends the agent or the machine.
//!
//! One file, `jobs`, written whole and synced, its directory too. What has to be in it before something is started is written first
//! ([`Book::is_written`]). One that is lost or does not read is made up for by looking: copies that are still there tell their last end, and
//! which run they are of. What cannot be seen any more is forgotten, and that is told.
//!
//! The file is: 8 bytes of magic; 32 bytes of BLAKE3 over the rest; then length-delimited messages, one for each service that is a job.

use std::collections::BTreeMap;
use std::time::Duration;

use prost_types::Timestamp;
use skerry_sync::MonoTime;
use tokio::task::JoinSet;

use super::JobName;
use super::run::Run;
use crate::state::{Directory, Disk, messages, read_messages};

const MAGIC: &[u8; 8] = b"SKRYJOB1";
const FILE: &str = "jobs";
const TEMPORARY: &str = "jobs.new";
/// Of 400 instances, with 300 bytes for the last end of each, and as many services with ten times 60 bytes of history of either sort.
const FILE_BYTES_MAX: u64 = 1024 * 1024;
/// A disk that cannot be written is tried again after this.
const RETRY: Duration = Duration::from_secs(5);

/// All that is known of one service that is a job.
#[derive(Clone, PartialEq, prost::Message)]
pub(crate) struct Entry {
    /// `<app>/<service>/<cluster>`.
    #[prost(string, tag = "1")]
    pub(crate) job: String,
    /// Up to when it was decided what is run. Only of a cron job.
    #[prost(message, optional, tag = "2")]
    pub(crate) decided: Option<Timestamp>,
    /// At most one for each of those that there may be at once; also those that are over, until another one takes their place.
    #[prost(message, repeated, tag = "3")]
    pub(crate) runs: Vec<Run>,
    /// Runs that ended, the newest last. Only of a cron job.
    #[prost(message, repeated, tag = "4")]
    pub(crate) history: Vec<skerry_proto::types::v1::JobRun>,
}

/// The entries, by job.
pub(crate) type Entries = BTreeMap<JobName, Entry>;

/// The file.
#[derive(Default)]
pub(crate) struct Book {
    /// Absent: nothing is kept.
    disk: Option<Directory>,
    /// What is on disk is not what is here.
    due: bool,
    /// Not before, after a write that failed.
    retry: Option<MonoTime>,
    /// The last write did.
    failed: bool,
    /// At most one.
    writing: JoinSet<bool>,
}

impl Book {
    /// Reads what is there. With what is wrong with it, if something is.
    pub(crate) fn open(disk: Directory) -> (Self, Entries, Option<String>) {
        let (entries, damage) = match read(&disk) {
            Ok(entries) => (entries, None),
            Err(why) => (Entries::new(), Some(why)),
        };
        (Self { disk: Some(disk), ..Self::default() }, entries, damage)
    }

    /// Something changed.
    pub(crate) fn changed(&mut self) {
        self.due = self.disk.is_some();
    }

    /// Whether all that is known is on disk.
    pub(crate) fn is_written(&self) -> bool {
        !self.due && self.writing.is_empty()
    }

    /// Whether the last write failed.
    pub(crate) fn fails(&self) -> bool {
        self.failed
    }

    /// Begins to write, if something is to be written and nothing is being written. Answers when it is to be tried again.
    pub(crate) fn write(&mut self, entries: &Entries, now: MonoTime) -> Option<MonoTime> {
        let disk = self.disk.clone().filter(|_| self.due && self.writing.is_empty())?;
        if let Some(retry) = self.retry.filter(|retry| *retry > now) {
            return Some(retry);
        }
        self.due = false;
        self.retry = Some(now + RETRY);
        let bytes = messages(*MAGIC, entries.values());
        self.writing.spawn_blocking(move || {
            let written = disk.write(TEMPORARY, &bytes).and_then(|()| disk.rename(TEMPORARY, FILE));
            let written = written.and_then(|()| disk.sync_directory());
            if let Err(error) = &written {
                tracing::warn!(%error, "what is known of jobs cannot be written; none is started until it is");
            }
            written.is_ok()
        });
        None
    }

    /// When a write has ended; never, if there is none. May be dropped and called again.
    pub(crate) async fn written(&mut self) {
        match self.writing.join_next().await {
            None => std::future::pending().await,
            Some(written) => self.take(matches!(written, Ok(true))),
        }
    }

    fn take(&mut self, is_written: bool) {
        self.failed = !is_written;
        if is_written {
            self.retry = None;
        } else {
            self.due = true;
        }
    }

    /// Writes what is not written yet.
    pub(crate) async fn finish(&mut self, entries: &Entries) {
        while let Some(written) = self.writing.join_next().await {
            self.take(matches!(written, Ok(true)));
        }
        self.retry = None;
        self.write(entries, MonoTime::default());
        while self.writing.join_next().await.is_some() {}
    }
}

fn read(disk: &impl Disk) -> Result<Entries, String> {
    let entries = read_messages::<Entry>(disk, FILE, FILE_BYTES_MAX, *MAGIC)?;
    let named = |entry: Entry| Some((JobName::parse(&entry.job)?, entry));
    Ok(entries.into_iter().filter_map(named).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn what_was_written_is_read_and_what_is_damaged_is_told() {
        let dir = tempfile::tempdir().unwrap();
        let open = || Book::open(Directory::new(dir.path()));
        let name = JobName::parse("app/load/n1").unwrap();
        let entry = Entry {
            job: name.to_string(),
            decided: Some(Timestamp { seconds: 7, nanos: 0 }),
            runs: vec![Run { failures: 3, ..Run::new("f", 7, 0) }],
            history: Vec::new(),
        };
        let entries = Entries::from([(name, entry)]);
        let (mut book, before, damage) = open();
        assert_eq!((before.len(), damage), (0, None));
        book.changed();
        assert!(!book.is_written());
        assert_eq!(book.write(&entries, MonoTime::default()), None);
        assert!(!book.is_written(), "not before it is on disk");
        book.written().await;
        assert!(book.is_written());
        assert_eq!(open().1, entries);
        let path = dir.path().join(FILE);
        let mut bytes = std::fs::read(&path).unwrap();
        *bytes.last_mut().unwrap() ^= 1;
        std::fs::write(&path, &bytes).unwrap();
        let (_, read, damage) = open();
        assert!(read.is_empty() && damage.unwrap().contains("damaged"));
    }

    #[tokio::test]
    async fn a_disk_that_cannot_be_written_is_tried_again_after_a_while() {
        let dir = tempfile::tempdir().unwrap();
        let (mut book, entries, _) = Book::open(Directory::new(&dir.path().join("none")));
        book.changed();
        let now = MonoTime::default();
        book.write(&entries, now);
        book.written().await;
        assert!(!book.is_written() && book.fails());
        assert_eq!(book.write(&entries, now), Some(now + RETRY));
        std::fs::create_dir(dir.path().join("none")).unwrap();
        book.write(&entries, now + RETRY);
        book.written().await;
        assert!(book.is_written() && !book.fails());
    }
}
