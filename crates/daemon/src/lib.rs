//! What every long-lived process shares: telemetry, signals, an ordered shutdown; and the listener of a cloud service.
//!
//! `main` of a service is: parse arguments, [`run`]: bind, connect the store, start, serve, close the store.

mod denied;
mod etcd_tls;
mod memory;
mod monitor;
mod open_files;
mod service;
mod shutdown;
mod telemetry;
mod tls;

use std::future::Future;
use std::net::SocketAddr;
use std::process::ExitCode;

pub use denied::keep_denied;
pub use etcd_tls::{EtcdPem, EtcdTlsArgs};
pub use monitor::Monitor;
pub use open_files::open_files_before;
pub use service::{Listening, ServiceArgs, local_url, reachable};
pub use shutdown::{Shutdown, signals};
pub use telemetry::prometheus::{HARDWARE_SCOPE, also_tell};
pub use telemetry::{LogArgs, LogFormat, OtlpError, OwnLine, OwnLog, Telemetry};
pub use tls::{TlsArgs, access, access_for_enrolment, follow};

/// Runs the service `name` on a runtime of its own, with as many open files as the hard limit allows, until it ends by itself or a signal
/// ends it in order. A second signal ends it at once (exit code 130). Errors are printed to stderr as one line; the exit code is then 1.
/// `scraped`: its metrics will be served to who asks.
pub fn run<F, Fut>(name: &'static str, log: &LogArgs, scraped: bool, serve: F) -> ExitCode
where
    F: FnOnce(Shutdown) -> Fut,
    Fut: Future<Output = anyhow::Result<()>>,
{
    let telemetry = match log.init(name, scraped) {
        Ok(telemetry) => telemetry,
        Err(error) => return fail(&error.into()),
    };
    open_files::raise();
    let runtime = match tokio::runtime::Builder::new_multi_thread().enable_all().build() {
        Ok(runtime) => runtime,
        Err(error) => return fail(&anyhow::Error::from(error).context("starting the runtime")),
    };
    runtime.block_on(telemetry.during(async {
        tokio::select! {
            code = run_until_shutdown(serve) => code,
            never = memory::keep_small() => match never {},
        }
    }))
}

/// As [`run`], on the runtime that it is called in.
pub async fn run_until_shutdown<F, Fut>(serve: F) -> ExitCode
where
    F: FnOnce(Shutdown) -> Fut,
    Fut: Future<Output = anyhow::Result<()>>,
{
    let shutdown = Shutdown::new();
    let token = shutdown.token();
    let result = tokio::select! {
        result = async { let result = serve(shutdown.clone()).await; shutdown.finish().await; result } => result,
        code = signals(token) => return code,
    };
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => fail(&error),
    }
}

fn fail(error: &anyhow::Error) -> ExitCode {
    eprintln!("error: {}", told(error));
    ExitCode::FAILURE
}

/// An error with its causes on one line, each said once: many say in their own words what their cause was.
pub fn told(error: &anyhow::Error) -> String {
    error.chain().map(ToString::to_string).fold(String::new(), |text, cause| match text.as_str() {
        "" => cause,
        said if said.contains(&cause) => text,
        said => format!("{said}: {cause}"),
    })
}

/// An address to listen on, for `clap`.
pub fn listen_address(text: &str) -> Result<SocketAddr, String> {
    text.parse().map_err(|_| {
        "write an IP address and a port, as 127.0.0.1:7770 or [::1]:7770, or 0.0.0.0:7770 for all addresses".into()
    })
}

#[cfg(test)]
mod tests {
    use anyhow::{Context as _, anyhow};

    use super::*;

    #[test]
    fn a_cause_is_said_once() {
        let error = anyhow!("line 1 is wrong").context("keys: line 1 is wrong").context("--key-file keys");
        assert_eq!(told(&error), "--key-file keys: keys: line 1 is wrong");
        let error = Err::<(), _>(std::io::Error::other("full")).context("writing").expect_err("an error");
        assert_eq!(told(&error), "writing: full");
    }

    #[test]
    fn what_is_no_address_is_told_how_one_is_written() {
        assert!(listen_address("0.0.0.0:1").is_ok() && listen_address("[::1]:1").is_ok());
        for text in ["7770", ":7770", "localhost:7770", "127.0.0.1"] {
            assert!(listen_address(text).is_err_and(|why| why.contains("127.0.0.1:7770")), "{text}");
        }
    }
}
