//! The kinds of faults and how often each happened. Who injects them is `chaos`; where they take effect is each part's.

/// What can go wrong in a simulation.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Fault {
    /// A stream between agent and gateway broke; both ends are told, at different times.
    StreamBroken,
    /// An agent's network was cut: nothing arrives, nobody is told.
    Partition,
    /// A stream stood still for a while, and went on in order.
    StreamStalled,
    /// A request to the store was lost.
    StoreRequestLost,
    /// The store did what was asked, and its answer was lost.
    StoreAnswerLost,
    /// A watch stream of the store broke.
    WatchBroken,
    /// A watch was slow to deliver.
    WatchSlow,
    /// A watch ended because what it had still to send was compacted.
    WatchCompacted,
    /// The store's history was compacted.
    Compaction,
    /// An agent's process was killed at an effect boundary.
    AgentCrash,
    /// An agent's machine lost power.
    PowerLoss,
    /// A power loss took something that was written and not synced.
    UnsyncedForgotten,
    /// A write of the desired state failed.
    WriteFailed,
    /// A gateway was killed at an effect boundary.
    GatewayCrash,
    /// A gateway was stopped in order.
    GatewayDrain,
    /// A scheduler was killed at an effect boundary.
    SchedulerCrash,
    /// The store was killed at an effect boundary.
    StoreCrash,
    /// A crash of the store took writes that were not synced.
    StoreTailForgotten,
    /// The store stood still.
    StoreStall,
    /// The store was replaced by an older snapshot of itself.
    StoreRestored,
    /// The same, under another cluster id.
    StoreRestoredAsAnother,
    /// A gateway's lease ended in the store.
    GatewayLeaseExpired,
    /// A leader's lease ended in the store.
    LeaderLeaseExpired,
    /// A wall clock jumped.
    ClockJump,
    /// A node was deleted.
    NodeDeleted,
    /// An agent left for a while and said farewell.
    AgentLeft,
    /// A second machine appeared under a node's name.
    Twin,
    /// An instance ended by itself.
    InstanceExit,
    /// More events happened at once than an agent's ring holds.
    EventStorm,
}

impl Fault {
    /// All of them.
    pub const ALL: [Self; 29] = [
        Self::StreamBroken,
        Self::Partition,
        Self::StreamStalled,
        Self::StoreRequestLost,
        Self::StoreAnswerLost,
        Self::WatchBroken,
        Self::WatchSlow,
        Self::WatchCompacted,
        Self::Compaction,
        Self::AgentCrash,
        Self::PowerLoss,
        Self::UnsyncedForgotten,
        Self::WriteFailed,
        Self::GatewayCrash,
        Self::GatewayDrain,
        Self::SchedulerCrash,
        Self::StoreCrash,
        Self::StoreTailForgotten,
        Self::StoreStall,
        Self::StoreRestored,
        Self::StoreRestoredAsAnother,
        Self::GatewayLeaseExpired,
        Self::LeaderLeaseExpired,
        Self::ClockJump,
        Self::NodeDeleted,
        Self::AgentLeft,
        Self::Twin,
        Self::InstanceExit,
        Self::EventStorm,
    ];
}

/// How often each happened, in the order of [`Fault::ALL`].
pub type Counts = [u64; Fault::ALL.len()];
