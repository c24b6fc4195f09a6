//! The library as programs see it: loaded by its path through `nvml-wrapper`, and steered by its control file.

mod events;
mod faults;
mod machine;
mod partitions;
mod processes;
mod profiles;
