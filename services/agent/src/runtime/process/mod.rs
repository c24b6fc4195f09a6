//! Processes of the machine, each under a shim.
