//! Errors of GPUs that are remembered until a reset, on disk, so that an agent that restarts does not take a sick card for a well one.
//!
//! One small file, `gpus`, written whole when what is remembered changes, which is when a card fails or is reset. It holds for one boot of the machine: what
//! was to be remembered until a reset ends with the boot. A file that is lost or does not read costs what was remembered: the driver's own counters tell of
//! the gravest again.
//!
//! The file is: 8 bytes of magic; 32 bytes of BLAKE3 over the rest; then length-delimited messages, one for each error.

use std::collections::BTreeMap;
use std::fs;

use skerry_gpu_model::DEVICES_MAX;
use skerry_gpu_model::health::{Latch, Reason};
use tokio::task::JoinSet;

use crate::state::{Directory, Disk, messages, read_messages};

const MAGIC: &[u8; 8] = b"SKRYGPU1";
const FILE: &str = "gpus";
const TEMPORARY: &str = "gpus.new";
/// Of 64 devices with each reason once, of less than 200 bytes.
const FILE_BYTES_MAX: u64 = 512 * 1024;

/// An error of a device.
#[derive(Clone, PartialEq, prost::Message)]
struct Entry {
    /// UUID of the device.
    #[prost(string, tag = "1")]
    device: String,
    /// The word of the reason.
    #[prost(string, tag = "2")]
    reason: String,
    /// The number of the last such error.
    #[prost(uint32, tag = "3")]
    code: u32,
    /// When the first one was, in milliseconds since 1970.
    #[prost(int64, tag = "4")]
    since: i64,
    /// When it is forgotten. Absent: at a reset.
    #[prost(int64, optional, tag = "5")]
    until: Option<i64>,
    /// The boot of the machine in which it was.
    #[prost(string, tag = "6")]
    boot: String,
}

/// What is remembered, and its file.
pub(super) struct Latches {
    disk: Directory,
    boot: String,
    kept: BTreeMap<String, Vec<Latch>>,
    due: bool,
    /// At most one.
    writing: JoinSet<()>,
}

impl Latches {
    /// Reads what is there.
    pub(super) fn open(disk: Directory) -> Self {
        let boot = fs::read_to_string("/proc/sys/kernel/random/boot_id").unwrap_or_default();
        Self::of_boot(disk, boot.trim())
    }

    fn of_boot(disk: Directory, boot: &str) -> Self {
        let entries = read_messages::<Entry>(&disk, FILE, FILE_BYTES_MAX, *MAGIC).unwrap_or_else(|why| {
            tracing::warn!(why, "errors that GPUs had are forgotten");
            Vec::new()
        });
        let mut kept: BTreeMap<String, Vec<Latch>> = BTreeMap::new();
        for entry in entries {
            let Some(reason) = Reason::from_word(&entry.reason) else { continue };
            let is_new = kept.len() < DEVICES_MAX || kept.contains_key(&entry.device);
            // A reset came between, if the machine was booted since.
            if is_new && (entry.boot == boot || entry.until.is_some()) {
                let latch = Latch { reason, code: entry.code, since: entry.since, until: entry.until };
                kept.entry(entry.device).or_default().push(latch);
            }
        }
        Self { disk, boot: boot.to_owned(), kept, due: false, writing: JoinSet::new() }
    }

    /// What is remembered, by UUID.
    pub(super) fn kept(&self) -> BTreeMap<String, Vec<Latch>> {
        self.kept.clone()
    }

    /// This is to be remembered.
    pub(super) fn put(&mut self, latches: BTreeMap<String, Vec<Latch>>) {
        if self.kept != latches {
            self.kept = latches;
            self.due = true;
        }
        self.write();
    }

    /// Begins to write, if something is to be written and nothing is being written.
    fn write(&mut self) {
        while self.writing.try_join_next().is_some() {}
        if !self.due || !self.writing.is_empty() {
            return;
        }
        self.due = false;
        let entry = |(device, latch): (&String, &Latch)| Entry {
            device: device.clone(),
            reason: latch.reason.word().to_owned(),
            code: latch.code,
            since: latch.since,
            until: latch.until,
            boot: self.boot.clone(),
        };
        let each = self.kept.iter().flat_map(|(device, all)| all.iter().map(move |latch| (device, latch)));
        let entries: Vec<Entry> = each.map(entry).collect();
        let (disk, bytes) = (self.disk.clone(), messages(*MAGIC, entries.iter()));
        self.writing.spawn_blocking(move || {
            if let Err(error) = disk.write(TEMPORARY, &bytes).and_then(|()| disk.rename(TEMPORARY, FILE)) {
                tracing::warn!(%error, "errors that GPUs had cannot be written down");
            }
        });
    }

    /// Writes what is not written yet.
    pub(super) async fn finish(&mut self) {
        while self.writing.join_next().await.is_some() {}
        self.write();
        while self.writing.join_next().await.is_some() {}
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn errors_are_remembered_until_the_machine_boots() {
        let dir = tempfile::tempdir().unwrap();
        let open = |boot: &str| Latches::of_boot(Directory::new(dir.path()), boot);
        let latch = |reason, until| Latch { reason, code: 48, since: 7, until };
        let all = vec![latch(Reason::XidHardware, None), latch(Reason::XidMemory, Some(9))];
        let mut latches = open("one");
        latches.put(BTreeMap::from([("GPU-1".to_owned(), all.clone())]));
        latches.finish().await;
        assert_eq!(open("one").kept()["GPU-1"], all);
        assert_eq!(open("two").kept()["GPU-1"], [latch(Reason::XidMemory, Some(9))]);

        std::fs::write(dir.path().join(FILE), b"x").unwrap();
        assert!(open("one").kept().is_empty(), "what is damaged is forgotten");
    }
}
