//! Whether a device can be used: rules over samples and events, pure.
//!
//! | module | job |
//! |---|---|
//! | `reason` | what can be wrong, in stable words, and what follows from each |
//! | `rules` | thresholds and times, with defaults that suit most machines |
//! | `trigger` | the three ways in which something comes to count as wrong: a level held for a time, a rate, an error that stays |
//! | `step` | what is known of a device, and how an input changes it |
//!
//! Two laws hold, and tests show them. Nothing flaps: what counts as wrong goes only after it was clearly better for a while. And worse is never taken for
//! better: of two devices of which the same is read at the same times, the one whose values are each at least as bad has at least as bad a verdict.

mod reason;
mod rules;
mod step;
mod trigger;

pub use reason::{Finding, Health, Reason, Verdict};
pub use rules::{Level, Rate, Rules};
pub use step::{Input, Latch, State, step};
