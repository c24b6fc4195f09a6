//! The whole of Skerry from outside: separate service processes on a real etcd, real agents, real processes. Each test states a promise.

mod api;
mod bounds;
mod outages;
mod restore;
mod sessions;
