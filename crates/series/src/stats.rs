//! What a store counts.

/// Counts since the store was opened, and how much it holds now.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Stats {
    /// Groups that there are.
    pub groups: usize,
    /// Series, as a group's field, that samples were of lately.
    pub series: usize,
    /// Memory of blocks that are not full, in bytes.
    pub head_bytes: usize,
    /// Memory of the index of blocks, in bytes.
    pub index_bytes: usize,
    /// Blocks that are full and not written yet, in bytes.
    pub pending_bytes: usize,
    /// Samples taken.
    pub samples: u64,
    /// Values taken.
    pub values: u64,
    /// Values in blocks of samples that became full, and how long these are.
    pub sealed_values: u64,
    /// Bytes of these blocks, with their heads.
    pub sealed_bytes: u64,
    /// What was not taken.
    pub refused: Refused,
    /// Full blocks that were dropped since they could not be written for too long.
    pub unwritten: u64,
    /// By level, from that of samples on.
    pub levels: Vec<LevelStats>,
}

/// Samples and gap marks that were refused, by reason.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Refused {
    /// Older than the newest of the group.
    pub late: u64,
    /// With a value out of range.
    pub values: u64,
    /// Of more fields than a group has at most.
    pub fields: u64,
    /// Of more groups than there are at most.
    pub groups: u64,
}

/// One level.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct LevelStats {
    /// How long its buckets are, in milliseconds; 1 of samples.
    pub width_ms: i64,
    /// Blocks that there are.
    pub blocks: u64,
    /// How long these are, in bytes.
    pub live_bytes: u64,
    /// How long its files are, in bytes.
    pub file_bytes: u64,
    /// How many files it has.
    pub files: usize,
    /// Blocks written, without those that were written again.
    pub written_blocks: u64,
    /// How long these were, in bytes.
    pub written_bytes: u64,
    /// Blocks dropped as they were too old, which is usual.
    pub dropped_old: u64,
    /// Blocks dropped since their group had too many bytes.
    pub dropped_group: u64,
    /// Blocks dropped since the level had too many bytes.
    pub dropped_level: u64,
    /// Places in files that were damaged and are lost.
    pub damaged: u64,
}
