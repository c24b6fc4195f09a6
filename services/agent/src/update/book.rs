//! What is known of updates, on disk: what of each app was found good here, and what was taken back.
//!
//! One file, `updates`, written whole and synced, its directory too. What it says counts once it is there ([`Book::kept`]): nothing is taken back
//! and nothing is told to be good before, so that a crash at any point leads to the same end. One that is lost or does not read costs what was
//! rejected, which may then be tried again, and is told.
//!
//! The file is: 8 bytes of magic; 32 bytes of BLAKE3 over the rest; then length-delimited messages, one for each app.

use std::collections::BTreeMap;
use std::time::Duration;

use prost_types::Timestamp;
use skerry_model::AppName;
use skerry_sync::MonoTime;
use tokio::task::JoinSet;

use super::Content;
use crate::state::{Directory, Disk, messages, read_messages};

const MAGIC: &[u8; 8] = b"SKRYUPD1";
const FILE: &str = "updates";
const TEMPORARY: &str = "updates.new";
/// Of 400 apps, twice a hundred configs and secrets each, with names of 63 bytes and hashes of 64.
const FILE_BYTES_MAX: u64 = 16 * 1024 * 1024;
/// A disk that cannot be written is tried again after this.
const RETRY: Duration = Duration::from_secs(5);

/// All that is known of one app.
#[derive(Clone, PartialEq, prost::Message)]
pub(crate) struct Entry {
    /// Which app.
    #[prost(string, tag = "1")]
    pub(crate) app: String,
    /// What was found good here last.
    #[prost(message, optional, tag = "2")]
    pub(crate) good: Option<Content>,
    /// What was taken back. It is not tried again while it is what is wanted.
    #[prost(message, optional, tag = "3")]
    pub(crate) rejected: Option<Rejected>,
    /// `projects/<project>/nodes/<node>`: what another node found is not ours.
    #[prost(string, tag = "4")]
    pub(crate) node: String,
}

/// An update that was taken back.
#[derive(Clone, PartialEq, Eq, prost::Message)]
pub(crate) struct Rejected {
    /// What it was.
    #[prost(message, required, tag = "1")]
    pub(crate) content: Content,
    /// What is run instead.
    #[prost(message, required, tag = "2")]
    pub(crate) runs: Content,
    /// Why, for people.
    #[prost(string, tag = "3")]
    pub(crate) why: String,
    /// When.
    #[prost(message, optional, tag = "4")]
    pub(crate) time: Option<Timestamp>,
    /// The instance that was not healthy.
    #[prost(string, tag = "5")]
    pub(crate) instance: String,
}

/// The entries, by app.
pub(crate) type Entries = BTreeMap<AppName, Entry>;

/// The file.
#[derive(Default)]
pub(crate) struct Book {
    /// Absent: what is written counts at once, and is nowhere.
    disk: Option<Directory>,
    /// What is on disk, for certain.
    kept: Entries,
    /// That is other than when it was last asked.
    news: bool,
    /// Not before, after a write that failed.
    retry: Option<MonoTime>,
    /// At most one. What was written, if it was.
    writing: JoinSet<Option<Entries>>,
}

impl Book {
    /// Reads what is there of this node. With what is wrong with it, if something is.
    pub(crate) fn open(disk: Directory, node: &str) -> (Self, Option<String>) {
        let (kept, damage) = match read(&disk, node) {
            Ok(entries) => (entries, None),
            Err(why) => (Entries::new(), Some(why)),
        };
        (Self { disk: Some(disk), kept, news: true, ..Self::default() }, damage)
    }

    /// What counts.
    pub(crate) fn kept(&self) -> &Entries {
        &self.kept
    }

    /// Whether what counts is other than when this was last asked.
    pub(crate) fn take_news(&mut self) -> bool {
        std::mem::take(&mut self.news)
    }

    /// Begins to write `entries`, if they are others than those that are kept and nothing is being written. Answers when it is to be tried again.
    pub(crate) fn write(&mut self, entries: &Entries, now: MonoTime) -> Option<MonoTime> {
        if *entries == self.kept || !self.writing.is_empty() {
            return None;
        }
        let Some(disk) = self.disk.clone() else {
            self.kept.clone_from(entries);
            self.news = true;
            return None;
        };
        if let Some(retry) = self.retry.filter(|retry| *retry > now) {
            return Some(retry);
        }
        self.retry = Some(now + RETRY);
        let entries = entries.clone();
        self.writing.spawn_blocking(move || {
            let bytes = messages(*MAGIC, entries.values());
            let written = disk.write(TEMPORARY, &bytes).and_then(|()| disk.rename(TEMPORARY, FILE));
            match written.and_then(|()| disk.sync_directory()) {
                Ok(()) => Some(entries),
                Err(error) => {
                    tracing::warn!(%error, "what is known of updates cannot be written; none is taken back until it is");
                    None
                }
            }
        });
        None
    }

    /// Whether nothing is being written.
    #[cfg(test)]
    pub(crate) fn is_idle(&self) -> bool {
        self.writing.is_empty()
    }

    /// When a write has ended; never, if there is none. May be dropped and called again.
    pub(crate) async fn written(&mut self) {
        match self.writing.join_next().await {
            None => std::future::pending().await,
            Some(Ok(Some(entries))) => {
                self.kept = entries;
                self.news = true;
                self.retry = None;
            }
            Some(Ok(None) | Err(_)) => {}
        }
    }

    /// Writes what is not written yet.
    pub(crate) async fn finish(&mut self, entries: &Entries) {
        while !self.writing.is_empty() {
            self.written().await;
        }
        self.retry = None;
        self.write(entries, MonoTime::default());
        while !self.writing.is_empty() {
            self.written().await;
        }
    }
}

fn read(disk: &impl Disk, node: &str) -> Result<Entries, String> {
    let mut entries = read_messages::<Entry>(disk, FILE, FILE_BYTES_MAX, *MAGIC)?;
    entries.retain(|entry| entry.node == node);
    let named = |entry: Entry| Some((AppName::parse(&entry.app).ok()?, entry));
    Ok(entries.into_iter().filter_map(named).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    const NODE: &str = "projects/p/nodes/n";

    fn entries() -> Entries {
        let content = |revision: &str| Content { revisions: vec![revision.to_owned()], ..Content::default() };
        let rejected = Rejected {
            content: content("new"),
            runs: content("old"),
            why: "it failed".to_owned(),
            time: Some(Timestamp { seconds: 7, nanos: 0 }),
            instance: "app/web/n1/0".to_owned(),
        };
        let entry = Entry {
            app: "app".to_owned(),
            good: Some(content("old")),
            rejected: Some(rejected),
            node: NODE.to_owned(),
        };
        [(AppName::parse("app").unwrap(), entry)].into()
    }

    #[tokio::test]
    async fn what_was_written_counts_and_is_read_and_what_is_damaged_is_told() {
        let dir = tempfile::tempdir().unwrap();
        let open = || Book::open(Directory::new(dir.path()), NODE);
        let (mut book, damage) = open();
        assert_eq!((book.kept().len(), damage), (0, None));
        assert_eq!(book.write(&entries(), MonoTime::default()), None);
        assert!(book.kept().is_empty(), "not before it is on disk");
        book.written().await;
        assert_eq!((book.kept(), open().0.kept()), (&entries(), &entries()));
        assert_eq!(book.write(&entries(), MonoTime::default()), None);
        assert!(book.writing.is_empty(), "nothing changed, nothing is written");
        let other = Book::open(Directory::new(dir.path()), "projects/p/nodes/other").0;
        assert!(other.kept().is_empty(), "what another node found is not ours");
        let path = dir.path().join(FILE);
        let mut bytes = std::fs::read(&path).unwrap();
        *bytes.last_mut().unwrap() ^= 1;
        std::fs::write(&path, &bytes).unwrap();
        let (book, damage) = open();
        assert!(book.kept().is_empty() && damage.unwrap().contains("damaged"));
    }

    #[tokio::test]
    async fn a_disk_that_cannot_be_written_is_tried_again_after_a_while() {
        let dir = tempfile::tempdir().unwrap();
        let (mut book, _) = Book::open(Directory::new(&dir.path().join("none")), NODE);
        let now = MonoTime::default();
        book.write(&entries(), now);
        book.written().await;
        assert!(book.kept().is_empty());
        assert_eq!(book.write(&entries(), now), Some(now + RETRY));
        std::fs::create_dir(dir.path().join("none")).unwrap();
        book.write(&entries(), now + RETRY);
        book.written().await;
        assert_eq!(book.kept(), &entries());
    }
}
