//! What tests share: an authority, real etcd, facts about Docker, processes that end with their test, waiting with a good excuse, and the
//! printer of benchmark figures. A dev-dependency only.
//!
//! Helpers panic where a test would only `expect`; what a test may want to look at is a `Result`.
#![allow(clippy::print_stdout, reason = "tests and benches talk to a terminal")]

mod authority;
mod compose;
mod docker;
mod etcd;
mod figures;
mod http;
mod libraries;
mod paths;
mod ports;
mod process;
mod tar;
mod wait;

pub use self::{
    authority::{Authority, TlsFiles},
    compose::{COMPOSE, NO_COMPOSE, compose_required},
    docker::{BUSYBOX_IMAGE, Docker, NO_DOCKER, busybox_root},
    etcd::{Etcd, ServerFiles},
    figures::{Budget, Figure, Figures, anonymous_bytes, percentile, pss_bytes},
    http::{Response, http_get},
    libraries::shared_libraries,
    paths::{bin, bin_in, find_program, target_dir},
    ports::{free_port, free_ports},
    process::Process,
    tar::TarBuilder,
    wait::eventually,
};
