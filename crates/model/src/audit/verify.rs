//! Whether chains are whole: each record follows the one before, the first and the last are those that the head names, and what chains say of
//! each other is true.

use std::collections::BTreeMap;
use std::fmt;

use prost::Message as _;
use skerry_proto::registry::v1::{AuditChain, AuditRecord};
use skerry_proto::types::v1::{AuditEntry, AuditStart, AuditTip};

use super::{AuditHash, BEGINNING};

/// Something that is not as it was written.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Finding {
    /// In which chain.
    pub chain: String,
    /// At which record.
    pub sequence: u64,
    /// What.
    pub wrong: Wrong,
}

/// What is wrong with a chain.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Wrong {
    /// A record is not there.
    #[error("it is missing")]
    Missing,
    /// A record stands where another belongs.
    #[error("record {0} stands in its place")]
    OutOfOrder(u64),
    /// It does not follow what is before it.
    #[error("it does not follow the record before it: that was changed or replaced")]
    NotLinked,
    /// Its hash is not that of its bytes.
    #[error("it was changed: its hash is not that of its bytes")]
    Changed,
    /// Its bytes are no entry.
    #[error("it cannot be decoded")]
    Unreadable,
    /// Its bytes are of another chain or another place.
    #[error("it says that it is record {sequence} of the chain `{chain}`")]
    Displaced {
        /// The chain that it names.
        chain: String,
        /// The place that it names.
        sequence: u64,
    },
    /// The first record says nothing of its beginning, or another one does.
    #[error("a chain begins here, or what is before it was taken away")]
    Start,
    /// It is older than the record before.
    #[error("it is older than the record before it")]
    Older,
    /// The head names another hash.
    #[error("the head of the chain names another record: the end was cut, or the head changed")]
    Head,
    /// There are records behind the one that the head names.
    #[error("the head of the chain stands before it: the head is not the newest")]
    BehindHead,
    /// The head is not to be understood.
    #[error("the head of the chain cannot be read")]
    BadHead,
    /// Another chain knows another record here.
    #[error("the chain `{witness}` knows another record here: this one was replaced, or the end was cut")]
    Contradicted {
        /// Which chain.
        witness: String,
    },
    /// Who wrote it went on as another chain, since it was gone.
    #[error(
        "its writer knew it and went on as the chain `{successor}`: the store was restored, or the end was cut"
    )]
    CutShort {
        /// Which chain.
        successor: String,
    },
    /// Another chain knows it, and it is not there.
    #[error("the chain `{witness}` knows it, and the whole chain is gone")]
    Gone {
        /// Which chain.
        witness: String,
    },
}

impl fmt::Display for Finding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "chain {}, record {}: {}", self.chain, self.sequence, self.wrong)
    }
}

/// Holds the records of one chain against each other, one after the other, and at the end against the head.
#[derive(Debug)]
pub struct ChainCheck {
    chain: String,
    removed: u64,
    last: AuditHash,
    time: (i64, i32),
    hashes: Vec<AuditHash>,
    start: Option<AuditStart>,
}

/// A chain that is whole.
#[derive(Debug)]
pub struct Checked {
    /// Its name.
    pub chain: String,
    /// Its records up to here were removed for age or number. 0: none was.
    pub removed: u64,
    /// Hashes of those that are left, by place. 32 bytes for each record that a chain may have.
    hashes: Vec<AuditHash>,
    /// How it says that it began, if its first record is left.
    pub start: Option<AuditStart>,
}

impl Checked {
    /// How many records were held against each other.
    pub fn records(&self) -> usize {
        self.hashes.len()
    }

    /// Whether this is its record at that place, or was before it was removed.
    fn has(&self, tip: &AuditTip) -> bool {
        let Some(behind) = tip.sequence.checked_sub(self.removed + 1) else { return true };
        let hash = usize::try_from(behind).ok().and_then(|index| self.hashes.get(index).copied());
        hash.is_some() && hash == AuditHash::from_bytes(&tip.hash)
    }

    /// The place of the newest record.
    pub fn sequence(&self) -> u64 {
        self.removed + count(self.hashes.len())
    }
}

impl ChainCheck {
    /// Begins with what `head` says of where the chain begins now.
    pub fn new(head: &AuditChain) -> Result<Self, Finding> {
        let last = match head.removed_sequence {
            0 => Some(BEGINNING),
            _ => AuditHash::from_bytes(&head.removed_hash),
        };
        let bad =
            || Finding { chain: head.name.clone(), sequence: head.removed_sequence, wrong: Wrong::BadHead };
        Ok(Self {
            chain: head.name.clone(),
            removed: head.removed_sequence,
            last: last.ok_or_else(bad)?,
            time: (i64::MIN, 0),
            hashes: Vec::new(),
            start: None,
        })
    }

    /// The place that the next record has.
    fn next(&self) -> u64 {
        self.removed + count(self.hashes.len()) + 1
    }

    /// Takes the next record.
    pub fn take(&mut self, record: &AuditRecord) -> Result<(), Finding> {
        let place = self.next();
        let wrong = |wrong| Finding { chain: self.chain.clone(), sequence: place, wrong };
        if record.sequence > place {
            return Err(wrong(Wrong::Missing));
        }
        if record.sequence < place {
            return Err(wrong(Wrong::OutOfOrder(record.sequence)));
        }
        if AuditHash::from_bytes(&record.previous_hash) != Some(self.last) {
            return Err(wrong(Wrong::NotLinked));
        }
        let hash = AuditHash::of(&self.last, &record.entry);
        if AuditHash::from_bytes(&record.hash) != Some(hash) {
            return Err(wrong(Wrong::Changed));
        }
        let entry = AuditEntry::decode(record.entry.clone()).map_err(|_| wrong(Wrong::Unreadable))?;
        if entry.chain != self.chain || entry.sequence != place {
            return Err(wrong(Wrong::Displaced { chain: entry.chain, sequence: entry.sequence }));
        }
        if entry.start.is_some() != (place == 1) {
            return Err(wrong(Wrong::Start));
        }
        let time = entry.time.map_or((i64::MIN, 0), |time| (time.seconds, time.nanos));
        if time < self.time {
            return Err(wrong(Wrong::Older));
        }
        self.time = time;
        self.last = hash;
        self.start = self.start.take().or(entry.start);
        self.hashes.push(hash);
        Ok(())
    }

    /// Holds the end against the head.
    pub fn finish(self, head: &AuditChain) -> Result<Checked, Finding> {
        let end = self.next() - 1;
        let wrong = |sequence, wrong| Err(Finding { chain: self.chain.clone(), sequence, wrong });
        if head.sequence > end {
            return wrong(end + 1, Wrong::Missing);
        }
        if head.sequence < end {
            return wrong(head.sequence + 1, Wrong::BehindHead);
        }
        if AuditHash::from_bytes(&head.hash) != Some(self.last) {
            return wrong(end, Wrong::Head);
        }
        let Self { chain, removed, hashes, start, .. } = self;
        Ok(Checked { chain, removed, hashes, start })
    }
}

/// Whether the store is known to have been restored from an older copy.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Restored {
    /// Then chains end before what their writers knew, and that is no finding.
    Yes,
    /// Then nothing may be missing.
    No,
}

/// Holds what chains say of each other against what they are. All chains are given: one that is named and not among them is gone.
pub fn compare(chains: &[Checked], restored: Restored) -> Vec<Finding> {
    let by_name: BTreeMap<&str, &Checked> =
        chains.iter().map(|chain| (chain.chain.as_str(), chain)).collect();
    let mut findings = Vec::new();
    for witness in chains {
        let name = || witness.chain.clone();
        let starts = witness.start.iter();
        for tip in starts.clone().flat_map(|start| &start.others) {
            let wrong = match by_name.get(tip.chain.as_str()) {
                None => Wrong::Gone { witness: name() },
                Some(chain) if chain.has(tip) => continue,
                Some(_) => Wrong::Contradicted { witness: name() },
            };
            findings.push(Finding { chain: tip.chain.clone(), sequence: tip.sequence, wrong });
        }
        for tip in starts.flat_map(|start| &start.former).filter(|_| restored == Restored::No) {
            if !by_name.get(tip.chain.as_str()).is_some_and(|chain| chain.has(tip)) {
                let wrong = Wrong::CutShort { successor: name() };
                findings.push(Finding { chain: tip.chain.clone(), sequence: tip.sequence, wrong });
            }
        }
    }
    findings
}

fn count(records: usize) -> u64 {
    u64::try_from(records).unwrap_or(u64::MAX)
}
