//! How instances ended and how often they were restarted, on disk, so that counts and waits outlive the agent's process, and an end is told
//! once.
//!
//! One small file, `restarts`, written whole when an instance ends, and when one that is in it goes: never more often than that, so the wait
//! before restarts bounds it. A file that is lost or does not read costs counts and waits, and has ends told again; nothing else.
//! What is counted, and what an entry means at the next start, is `memory`'s.
//!
//! The file is: 8 bytes of magic; 32 bytes of BLAKE3 over the rest; then length-delimited messages, one for each instance.

use std::collections::BTreeMap;

use prost_types::Timestamp;
use skerry_model::InstanceName;
use skerry_proto::types::v1::Termination;
use skerry_sync::limits::INSTANCES_MAX;
use tokio::task::JoinSet;

use crate::state::{Directory, Disk, messages, read_messages};

const MAGIC: &[u8; 8] = b"SKRYRST1";
const FILE: &str = "restarts";
const TEMPORARY: &str = "restarts.new";
/// Of 400 entries of less than 1,000 bytes.
const FILE_BYTES_MAX: u64 = 512 * 1024;

/// The last end of one instance, and what came before it.
#[derive(Clone, PartialEq, prost::Message)]
pub(crate) struct Entry {
    /// Which instance.
    #[prost(string, tag = "1")]
    pub(crate) instance: String,
    /// Restarts before this end.
    #[prost(uint32, tag = "2")]
    pub(crate) restarts: u32,
    /// Exit code.
    #[prost(int32, optional, tag = "3")]
    pub(crate) code: Option<i32>,
    /// Whether memory was used up.
    #[prost(bool, tag = "4")]
    pub(crate) out_of_memory: bool,
    /// Ends in a row that came soon, this one among them.
    #[prost(uint32, tag = "5")]
    pub(crate) quick_ends: u32,
    /// When it ended, as the runtime says.
    #[prost(message, optional, tag = "6")]
    pub(crate) ended_at: Option<Timestamp>,
    /// Which copy ended.
    #[prost(string, tag = "7")]
    pub(crate) runtime_id: String,
    /// The wait before it is started again.
    #[prost(uint64, tag = "8")]
    pub(crate) wait_ms: u64,
    /// When that is over, by the wall clock.
    #[prost(message, optional, tag = "9")]
    pub(crate) until: Option<Timestamp>,
    /// How it ended before, this end among them.
    #[prost(message, repeated, tag = "10")]
    pub(crate) terminations: Vec<Termination>,
}

/// All entries, and their file.
#[derive(Default)]
pub(crate) struct Ledger {
    entries: BTreeMap<InstanceName, Entry>,
    /// Absent: nothing is kept.
    disk: Option<Directory>,
    /// What is on disk is not what is here.
    due: bool,
    /// At most one.
    writing: JoinSet<()>,
}

impl Ledger {
    /// Reads what is there.
    pub(crate) fn open(disk: Directory) -> Self {
        let entries = read(&disk).unwrap_or_else(|why| {
            tracing::warn!(why, "the counts of restarts begin anew");
            BTreeMap::new()
        });
        Self { entries, disk: Some(disk), ..Self::default() }
    }

    pub(crate) fn get(&self, name: &InstanceName) -> Option<&Entry> {
        self.entries.get(name)
    }

    pub(crate) fn put(&mut self, name: &InstanceName, entry: Entry) {
        if self.entries.len() < INSTANCES_MAX || self.entries.contains_key(name) {
            self.entries.insert(name.clone(), entry);
            self.due = true;
        }
    }

    pub(crate) fn retain(&mut self, keep: impl Fn(&InstanceName) -> bool) {
        let before = self.entries.len();
        self.entries.retain(|name, _| keep(name));
        self.due |= self.entries.len() < before;
    }

    /// Begins to write, if something is to be written and nothing is being written. On a thread of its own: `fsync` blocks.
    pub(crate) fn write(&mut self) {
        let Some(disk) = self.disk.clone().filter(|_| self.due && self.writing.is_empty()) else { return };
        self.due = false;
        let bytes = encode(&self.entries);
        self.writing.spawn_blocking(move || {
            // The directory is not synced: after a power loss the counts before this one will do.
            if let Err(error) = disk.write(TEMPORARY, &bytes).and_then(|()| disk.rename(TEMPORARY, FILE)) {
                tracing::warn!(%error, "the counts of restarts cannot be written");
            }
        });
    }

    /// When a write has ended; never, if there is none. May be dropped and called again.
    pub(crate) async fn written(&mut self) {
        if self.writing.join_next().await.is_none() {
            std::future::pending::<()>().await;
        }
    }

    /// Writes what is not written yet.
    pub(crate) async fn finish(&mut self) {
        while self.writing.join_next().await.is_some() {}
        self.write();
        while self.writing.join_next().await.is_some() {}
    }
}

fn encode(entries: &BTreeMap<InstanceName, Entry>) -> Vec<u8> {
    messages(*MAGIC, entries.values())
}

fn read(disk: &impl Disk) -> Result<BTreeMap<InstanceName, Entry>, String> {
    let entries = read_messages::<Entry>(disk, FILE, FILE_BYTES_MAX, *MAGIC)?;
    let named = |entry: Entry| Some((InstanceName::parse(&entry.instance).ok()?, entry));
    Ok(entries.into_iter().filter_map(named).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn what_was_written_is_read_and_what_is_damaged_is_forgotten() {
        let dir = tempfile::tempdir().unwrap();
        let open = || Ledger::open(Directory::new(dir.path()));
        let name = |n: u32| InstanceName::parse(&format!("app/web/n1/{n}")).unwrap();
        let entry = |n: u32| Entry { instance: name(n).to_string(), restarts: n, ..Entry::default() };
        let mut ledger = open();
        for n in 1..=3 {
            ledger.put(&name(n), entry(n));
        }
        ledger.retain(|kept| *kept != name(3));
        ledger.finish().await;
        let mut ledger = open();
        assert_eq!((ledger.get(&name(2)), ledger.get(&name(3))), (Some(&entry(2)), None));
        ledger.retain(|_| true);
        ledger.write();
        assert!(ledger.writing.is_empty(), "nothing changed, nothing is written");

        let path = dir.path().join(FILE);
        let mut bytes = std::fs::read(&path).unwrap();
        *bytes.last_mut().unwrap() ^= 1;
        std::fs::write(&path, &bytes).unwrap();
        assert_eq!(open().get(&name(2)), None);
        std::fs::write(&path, b"x").unwrap();
        assert_eq!(open().get(&name(2)), None);
    }

    #[test]
    fn it_is_bounded() {
        let mut ledger = Ledger::default();
        for n in 0..2 * INSTANCES_MAX {
            let name = InstanceName::parse(&format!("a/s/n/{n}")).unwrap();
            ledger.put(&name, Entry::default());
        }
        assert_eq!(ledger.entries.len(), INSTANCES_MAX);
    }

    #[tokio::test]
    async fn the_largest_file_is_read_again() {
        let dir = tempfile::tempdir().unwrap();
        let open = || Ledger::open(Directory::new(dir.path()));
        let long = "x".repeat(63);
        let time = Some(Timestamp { seconds: i64::from(u32::MAX), nanos: 999_999_999 });
        let end = Termination {
            exit_code: Some(-1),
            reason: "OutOfMemory".to_owned(),
            start_time: time,
            finish_time: time,
        };
        let mut ledger = open();
        for n in 0..INSTANCES_MAX {
            let name = InstanceName::parse(&format!("{long}/{long}/{long}/{n}")).unwrap();
            let entry = Entry {
                instance: name.to_string(),
                restarts: u32::MAX,
                code: Some(-1),
                out_of_memory: true,
                quick_ends: u32::MAX,
                ended_at: time,
                runtime_id: "f".repeat(64),
                wait_ms: u64::MAX,
                until: time,
                terminations: vec![end.clone(); 5],
            };
            ledger.put(&name, entry);
        }
        ledger.finish().await;
        assert_eq!(open().entries, ledger.entries);
    }
}
