//! The shim that stands between the agent and a process instance.
