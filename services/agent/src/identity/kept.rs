//! The identity on disk.
//!
//! ```text
//! identity/            mode 0700, as all below
//!   time               the floor
//!   1/                 one enrolment; the highest number that has `enrolled` counts
//!     tls.key hpke.key mode 0600, made here, never sent
//!     enrolled         node, uid, chain, roots
//! ```
//! An enrolment is made in a directory of its own and counts from the moment when its `enrolled` is there, written whole and synced: so keys
//! and certificate never belong to two of them, whatever ends the agent in between. One that is not complete keeps its keys, so that a
//! machine which waits for approval shows the same fingerprint after a restart.
//!
//! `enrolled` is: 8 bytes of magic; 32 bytes of BLAKE3 over the rest; one message.

use std::fs::{self, File};
use std::path::{Path, PathBuf};

use prost::Message as _;
use skerry_identity::key_store::FileKeyStore;
use skerry_identity::private_file;
use skerry_proto::gateway::v1 as pb;

use crate::state::{checked, sealed};

const MAGIC: &[u8; 8] = b"SKRYIDN1";
const RECORD: &str = "enrolled";

/// What an enrolment gave.
#[derive(Clone, PartialEq, prost::Message)]
pub(super) struct Record {
    /// As the gateway answered, with what renewals brought since.
    #[prost(message, optional, tag = "1")]
    pub(super) enrolled: Option<pb::Enrolled>,
    /// Id of the token that it was had by; no secret. Empty: by approval.
    #[prost(string, tag = "2")]
    pub(super) token_id: String,
}

/// The directory.
#[derive(Debug, Clone, Default)]
pub(crate) struct Kept {
    dir: PathBuf,
}

/// The directory of one enrolment.
#[derive(Debug, Clone)]
pub(super) struct Generation {
    pub(super) number: u64,
    path: PathBuf,
}

impl Kept {
    /// Under this data directory. Nothing is made yet.
    pub(crate) fn new(data_dir: &Path) -> Self {
        Self { dir: data_dir.join("identity") }
    }

    /// Where the floor is.
    pub(super) fn time(&self) -> PathBuf {
        self.dir.join("time")
    }

    fn generation(&self, number: u64) -> Generation {
        Generation { number, path: self.dir.join(number.to_string()) }
    }

    /// The enrolments that there are, the newest first.
    fn generations(&self) -> Vec<Generation> {
        let entries = fs::read_dir(&self.dir).into_iter().flatten().flatten();
        let mut numbers: Vec<u64> =
            entries.filter_map(|entry| entry.file_name().to_str()?.parse().ok()).collect();
        numbers.sort_unstable_by(|a, b| b.cmp(a));
        numbers.into_iter().map(|number| self.generation(number)).collect()
    }

    /// The enrolment that counts, if it can be read or not; nothing where there is none.
    pub(super) fn current(&self) -> Option<(Generation, Result<Record, String>)> {
        self.generations().into_iter().find_map(|generation| {
            let read = generation.read().transpose()?;
            Some((generation, read))
        })
    }

    /// The keys by which what is sealed to this machine opens: those of the enrolment that counts. Where there is none, those in the directory
    /// itself: of the machine of `skerry up`, and of one that was given its certificate by hand.
    pub(crate) fn opening_keys(&self) -> FileKeyStore {
        self.current().map_or_else(|| FileKeyStore::new(&self.dir), |(generation, _)| generation.keys())
    }

    /// Where the next enrolment is made: one that was begun goes on.
    pub(super) fn next(&self) -> Generation {
        let newest = self.generations().into_iter().next();
        match newest {
            None => self.generation(1),
            Some(newest) if matches!(newest.read(), Ok(None)) => newest,
            Some(newest) => self.generation(newest.number + 1),
        }
    }

    /// Removes what came before `generation`: its keys are good for nothing any more.
    pub(super) fn forget_before(&self, generation: &Generation) {
        for old in self.generations().into_iter().filter(|old| old.number < generation.number) {
            if let Err(error) = fs::remove_dir_all(&old.path) {
                tracing::warn!(path = %old.path.display(), %error, "an identity that was replaced cannot be removed");
            }
        }
    }
}

impl Generation {
    /// Its keys, which are made when they are first asked for.
    pub(super) fn keys(&self) -> FileKeyStore {
        FileKeyStore::new(&self.path)
    }

    fn read(&self) -> Result<Option<Record>, String> {
        let path = self.path.join(RECORD);
        let Some(bytes) = private_file::read(&path).map_err(|error| error.to_string())? else {
            return Ok(None);
        };
        let wrong = |why: &str| format!("{} {why}", path.display());
        let body = checked(*MAGIC, &bytes).map_err(wrong)?;
        Record::decode(body).map(Some).map_err(|error| wrong(&format!("does not decode: {error}")))
    }

    /// Writes it in the place of what was there. Blocks.
    pub(super) fn write(&self, record: &Record) -> Result<(), String> {
        let body = record.encode_to_vec();
        let bytes = sealed(*MAGIC, &body);
        private_file::replace(&self.path.join(RECORD), &bytes).map_err(|error| error.to_string())?;
        // The directories above may be as new as the file.
        let mut above = self.path.ancestors().skip(1).take(2);
        above
            .try_for_each(|dir| File::open(dir).and_then(|dir| dir.sync_all()))
            .map_err(|error| format!("syncing {}: {error}", self.path.display()))
    }
}

#[cfg(test)]
mod tests {
    use skerry_identity::key_store::KeyStore as _;

    use super::*;

    fn record(node: &str) -> Record {
        let enrolled = pb::Enrolled { node: node.to_owned(), ..pb::Enrolled::default() };
        Record { enrolled: Some(enrolled), token_id: String::new() }
    }

    #[test]
    fn an_enrolment_counts_from_the_moment_when_it_is_whole() {
        let dir = tempfile::tempdir().unwrap();
        let kept = Kept::new(dir.path());
        assert!(kept.current().is_none());
        let first = kept.next();
        first.keys().signing_key().unwrap();
        assert!(kept.current().is_none(), "only begun");
        assert_eq!(kept.next().number, first.number, "and goes on");
        let opens = |keys: FileKeyStore| keys.opening_key().unwrap().public_key();
        assert_ne!(opens(kept.opening_keys()), opens(first.keys()), "of none yet");
        first.write(&record("a")).unwrap();
        assert_eq!(kept.current().unwrap().1.unwrap(), record("a"));
        assert_eq!(opens(kept.opening_keys()), opens(first.keys()));

        let second = kept.next();
        assert_eq!(second.number, 2);
        second.keys().signing_key().unwrap();
        assert_eq!(opens(kept.opening_keys()), opens(first.keys()), "the former one still counts");
        assert_eq!(kept.current().unwrap().1.unwrap(), record("a"), "the former one still counts");
        second.write(&record("b")).unwrap();
        kept.forget_before(&second);
        assert_eq!(opens(kept.opening_keys()), opens(second.keys()));
        assert_eq!(kept.current().unwrap().1.unwrap(), record("b"));
        assert_eq!(kept.generations().len(), 1);
    }

    #[test]
    fn a_damaged_enrolment_is_told_and_not_taken_for_none() {
        let dir = tempfile::tempdir().unwrap();
        let kept = Kept::new(dir.path());
        let first = kept.next();
        first.write(&record("a")).unwrap();
        let path = dir.path().join("identity/1/enrolled");
        let whole = fs::read(&path).unwrap();
        for position in [0, 8, whole.len() - 1] {
            let mut bytes = whole.clone();
            bytes[position] ^= 1;
            fs::write(&path, &bytes).unwrap();
            let why = kept.current().unwrap().1.unwrap_err();
            assert!(why.contains("identity/1/enrolled"), "{why}");
            assert_eq!(kept.next().number, 2);
        }
    }
}
