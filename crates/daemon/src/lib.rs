//! What every long-lived process shares: telemetry, signals, an ordered shutdown; and the listener of a cloud service.
//!
//! `main` of a service is: parse arguments, [`run`]: bind, connect the store, start, serve, close the store.

mod denied;
mod monitor;
mod service;
mod shutdown;
mod telemetry;
mod tls;

use std::future::Future;
use std::process::ExitCode;

pub use denied::keep_denied;
pub use monitor::Monitor;
pub use service::{Listening, ServiceArgs, local_url};
pub use shutdown::{Shutdown, signals};
pub use telemetry::{LogArgs, LogFormat, OtlpError, Telemetry};
pub use tls::{TlsArgs, access, access_for_enrolment, follow};

/// Runs the service `name` on a runtime of its own until it ends by itself or a signal ends it in order. A second signal ends it at once (exit
/// code 130). Errors are printed to stderr as one line; the exit code is then 1.
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
    let runtime = match tokio::runtime::Builder::new_multi_thread().enable_all().build() {
        Ok(runtime) => runtime,
        Err(error) => return fail(&anyhow::Error::from(error).context("starting the runtime")),
    };
    runtime.block_on(telemetry.during(run_until_shutdown(serve)))
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
    eprintln!("error: {error:#}");
    ExitCode::FAILURE
}
