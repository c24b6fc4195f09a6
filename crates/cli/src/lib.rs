//! The client commands of `skerry`: `apply`, `get`, `describe`, `delete`, `label`, `cordon`, `events`, `wait`, `status`, `version`.
//!
//! The binary in `skerry/` embeds them beside `up` and `etcd`. Everything that prints is split in two: `render` makes text from
//! resources and is pure; `commands` call servers and write what was rendered.

pub mod args;
mod client;
mod commands;
mod error;
mod files;
mod item;
mod patience;
mod print;
mod render;
mod target;
mod watch;

use std::process::ExitCode;

pub use args::{ClientCommand, GlobalArgs};
pub use error::EXIT_CODES_HELP;

use client::Client;
use error::CliError;
use print::Printer;

/// Runs one client command. Errors are printed to stderr; the exit code says which kind (see
/// [`EXIT_CODES_HELP`]).
pub async fn run(global: &GlobalArgs, command: &ClientCommand) -> ExitCode {
    let outcome = tokio::select! {
        outcome = execute(global, command) => outcome,
        _ = tokio::signal::ctrl_c() => Err(CliError::Interrupted),
    };
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => finish(&error),
    }
}

async fn execute(global: &GlobalArgs, command: &ClientCommand) -> Result<(), CliError> {
    let client = Client::new(global)?;
    let mut printer = Printer::stdout();
    match command {
        ClientCommand::Apply(args) => commands::apply::run(&client, args, &mut printer).await,
        ClientCommand::Delete(args) => commands::delete::run(&client, args, &mut printer).await,
        ClientCommand::Get(args) => commands::get::run(&client, args, &mut printer).await,
        ClientCommand::Describe(args) => commands::describe::run(&client, args, &mut printer).await,
        ClientCommand::Label(args) => commands::label::run(&client, args, &mut printer).await,
        ClientCommand::Cordon(args) => commands::cordon::run(&client, args, true, &mut printer).await,
        ClientCommand::Uncordon(args) => commands::cordon::run(&client, args, false, &mut printer).await,
        ClientCommand::Events(args) => commands::events::run(&client, args, &mut printer).await,
        ClientCommand::Wait(args) => commands::wait::run(&client, args, &mut printer).await,
        ClientCommand::Status(args) => commands::status::run(&client, args, &mut printer).await,
        ClientCommand::Version(args) => commands::version::run(args, &mut printer),
    }
}

fn finish(error: &CliError) -> ExitCode {
    print::complain(error);
    error.exit_code()
}
