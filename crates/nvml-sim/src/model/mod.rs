//! The simulated machine: plain data and functions of time. It reads no file, waits for nothing and knows no pointer.

pub(crate) mod card;
pub(crate) mod chance;
pub(crate) mod curve;
pub(crate) mod driver;
pub(crate) mod events;
pub(crate) mod fields;
pub(crate) mod gpm;
pub(crate) mod latency;
pub(crate) mod view;

use crate::control::Percent;
