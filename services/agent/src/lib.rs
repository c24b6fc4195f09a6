//! The node agent: makes the machine run what it has been told to run, and says what became of it.

pub mod desired;
pub mod health;
pub mod runtime;
pub mod shim;
