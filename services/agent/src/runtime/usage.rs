//! What instances have used, as runtimes count it. A rate is the difference of two counts: [`crate::channel`] makes it.

use skerry_model::InstanceName;

/// What one copy has used. What is absent its runtime does not say.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Counts {
    /// Processor time since it was started, in nanoseconds.
    pub cpu_nanos: Option<u64>,
    /// Memory that it has now.
    pub memory_bytes: Option<u64>,
    /// The most that it may have.
    pub memory_limit_bytes: Option<u64>,
    /// Processes, or threads where that is what is counted.
    pub processes: Option<u64>,
    /// Bytes on its own network since it was started: received and sent.
    pub network: Option<(u64, u64)>,
}

/// What a copy that runs has used.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Used {
    /// Of which instance.
    pub instance: InstanceName,
    /// Which copy: a container id, or a process id.
    pub runtime_id: String,
    /// The counts.
    pub counts: Counts,
}
