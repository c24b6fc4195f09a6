//! What black-box tests and benches share: a whole Skerry of real processes on loopback, apps to run on it, and what to look at.
//!
//! Nothing here reaches into a process: it starts binaries, calls the API, and looks at the machine.

pub mod apps;
pub mod cabinet;
pub mod churn;
pub mod compose;
pub mod containers;
pub mod docker_gate;
pub mod dockerd;
pub mod gpus;
pub mod guide;
pub mod lan;
pub mod left;
pub mod otlp;
pub mod registry;
pub mod sim;
pub mod stack;
pub mod terminal;
mod told;
pub mod witness;

pub use cabinet::Cabinet;
pub use compose::Compose;
pub use docker_gate::DockerGate;
pub use dockerd::Dockerd;
pub use lan::Lan;
pub use registry::Registry;
pub use stack::{Stack, StackConfig};
pub use terminal::{Pty, Terminal};
pub use witness::Witness;
