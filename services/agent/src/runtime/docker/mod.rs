//! Docker: instances as containers.
