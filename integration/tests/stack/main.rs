//! The whole of Skerry from outside: separate service processes on a real etcd, real agents, real processes. Each test states a promise.

mod agent_identity;
mod api;
mod audit;
mod authority;
mod bounds;
mod churn;
mod cli;
mod degraded;
mod directories;
mod docker_outages;
mod docker_restart;
mod ends;
mod enrolment;
mod guide;
mod hostile;
mod mesh;
mod observed;
mod operator;
mod outages;
mod refusals;
mod restore;
mod secrets;
mod sessions;
mod slow_watchers;
mod start_first;
mod tls;
