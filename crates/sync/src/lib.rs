//! Sync: both ends of an agent's stream as state machines without I/O, clock or randomness of their own.
//!
//! ```text
//! agent                                                   gateway (one per stream)
//! AgentMachine::new(AgentConfig)                          GatewaySession::new(SessionConfig, now)
//!   .on(AgentEvent, Now) -> Vec<AgentEffect>                .on(SessionEvent, Now) -> Vec<SessionEffect>
//!   .deadline() -> Option<MonoTime>                         .deadline() -> Option<MonoTime>
//! ```
//! A driver carries out the effects in their order, and feeds `Timer` when `deadline()` has passed; it asks for the deadline anew
//! after each event. The protocol (order, duplicates, staleness) is documented in `skerry/gateway/v1/gateway.proto`.
//!
//! - [`desired`]: what a node shall run as named and versioned resources, and differences of it;
//! - [`merge`]: a report into the stored status and events;
//! - [`limits`]: every bound and period, with its reason.

pub mod agent;
pub mod desired;
pub mod gateway;
pub mod limits;
pub mod merge;
mod repeat;
mod rng;
pub mod time;
mod version;

pub use agent::{AgentConfig, AgentEffect, AgentEvent, AgentIdentity, AgentMachine, Told};
pub use desired::Desired;
pub use gateway::{
    Acknowledged, Assignment, Change, Ending, GatewaySession, OfferRefusal, OpenFailure, Opened, Roots,
    SessionConfig, SessionEffect, SessionEvent,
};
pub use time::{MonoTime, Now, WallTime};
pub use version::Version;
