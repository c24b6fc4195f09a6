//! The client commands of `skerry`, as `args` lists them.
//!
//! The binary in `skerry/` embeds them beside `up` and `etcd`. Everything that prints is split in two: `render` makes text from
//! resources and is pure; `commands` call servers and write what was rendered.

mod allocations;
pub mod args;
mod client;
mod clusters;
mod commands;
mod complete;
mod compose_files;
mod config_file;
mod error;
mod files;
pub mod foreign;
mod gpus;
mod interrupt;
mod item;
#[doc(hidden)]
pub mod jsonpath;
mod own_context;
mod patience;
mod print;
mod projects;
mod render;
mod renewal;
mod settings;
mod target;
mod tasks;
mod terminal;
mod tls;
mod watch;

use std::process::ExitCode;

use args::{AuditArgs, AuditCommand, VerifyArgs};
pub use args::{ClientCommand, GlobalArgs, TlsFlags};
use args::{SecretCommand, UserCommand};
pub use error::EXIT_CODES_HELP;
pub use own_context::{OwnContext, OwnServer, keep_own_context, without_context};

/// Exit code of `exec` and `debug` where it is no command's.
pub const EXEC_FAILED: u8 = commands::exec::OWN_FAILURE;

use client::Client;
use commands::label::Field;
use error::CliError;
use print::Printer;
use settings::Settings;

/// Runs one client command. Errors are printed to stderr; the exit code says which kind (see
/// [`EXIT_CODES_HELP`]).
pub async fn run(global: &GlobalArgs, command: &ClientCommand) -> ExitCode {
    // Signals are its command's, and so is the exit code.
    if let Some(asked) = commands::exec::Asked::of(command) {
        return Box::pin(commands::exec::run(global, asked)).await;
    }
    let interrupted = interrupt::interrupted();
    let outcome = tokio::select! {
        outcome = execute(global, command) => outcome,
        () = interrupted => match command {
            // It has no other end.
            ClientCommand::PortForward(_) => Ok(()),
            _ => Err(CliError::Interrupted),
        },
    };
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => finish(&error),
    }
}

async fn execute(global: &GlobalArgs, command: &ClientCommand) -> Result<(), CliError> {
    let mut printer = Printer::stdout(global.color);
    let printer = &mut printer;
    // These ask no server, and must work where the configuration names none that is there.
    match command {
        ClientCommand::Config(command) => return commands::contexts::run(global, command, printer),
        ClientCommand::Secret(SecretCommand::RotateKey(args)) => {
            return commands::secret::rotate_key(args, printer);
        }
        ClientCommand::User(UserCommand::Request(args)) => {
            return commands::access::request::run(args, printer);
        }
        ClientCommand::Audit(AuditArgs {
            command: Some(AuditCommand::Verify(args @ VerifyArgs { from_file: Some(path), .. })),
            ..
        }) => return commands::audit::verify_file(path, args, printer),
        ClientCommand::Convert(args) => return commands::convert::run(global, args, printer),
        ClientCommand::Explain(args) if !commands::explain::is_resource(args) => {
            return commands::explain::fields(args, printer);
        }
        ClientCommand::Version(args) => return commands::version::run(args, printer),
        _ => {}
    }
    let client = &Client::new(Settings::of(global)?, global.request_timeout)?;
    // On the heap: it has room for the largest of all commands.
    renewal::beside(client, global.verbose, Box::pin(dispatch(client, command, printer))).await
}

/// Does what asks servers.
async fn dispatch(client: &Client, command: &ClientCommand, printer: &mut Printer) -> Result<(), CliError> {
    match command {
        ClientCommand::Apply(args) => commands::apply::run(client, args, printer).await,
        ClientCommand::Diff(args) => commands::diff::run(client, args, printer).await,
        ClientCommand::Plan(args) => commands::plan::run(client, args, printer).await,
        ClientCommand::Explain(args) => commands::explain::instances(client, args, printer).await,
        ClientCommand::Edit(args) => commands::edit::run(client, args, printer).await,
        ClientCommand::Create(command) => commands::create::run(client, command, printer).await,
        ClientCommand::Delete(args) => commands::delete::run(client, args, printer).await,
        ClientCommand::Get(args) if commands::node::are_enrollments(args) => {
            commands::node::list(client, args, printer).await
        }
        ClientCommand::Get(args) => commands::get::run(client, args, printer).await,
        ClientCommand::Describe(args) => commands::describe::run(client, args, printer).await,
        ClientCommand::Label(args) if args.selector.is_some() => {
            commands::task::relabel(client, args, printer).await
        }
        ClientCommand::Label(args) => {
            commands::label::run(client, Field::Labels, &args.words, args.overwrite, printer).await
        }
        ClientCommand::Annotate(args) => {
            commands::label::run(client, Field::Annotations, &args.words, args.overwrite, printer).await
        }
        ClientCommand::Cordon(args) => commands::cordon::run(client, args, true, printer).await,
        ClientCommand::Uncordon(args) => commands::cordon::run(client, args, false, printer).await,
        ClientCommand::Drain(args) => commands::drain::run(client, args, printer).await,
        ClientCommand::Prefetch(args) => commands::task::prefetch(client, args, printer).await,
        ClientCommand::Task(command) => commands::task::run(client, command, printer).await,
        ClientCommand::Taint(args) => commands::taint::run(client, args, printer).await,
        ClientCommand::Cluster(command) => commands::cluster::run(client, command, printer).await,
        ClientCommand::Token(command) => commands::token::run(client, command, printer).await,
        ClientCommand::Node(command) => commands::node::run(client, command, printer).await,
        ClientCommand::Rollout(command) => commands::rollout::run(client, command, printer).await,
        ClientCommand::Secret(command) => commands::secret::run(client, command, printer).await,
        ClientCommand::Restart(args) => commands::restart::run(client, args, printer).await,
        ClientCommand::Stop(args) => commands::act::stop(client, args, printer).await,
        ClientCommand::Start(args) => commands::act::start(client, args, printer).await,
        ClientCommand::Bundle(args) => commands::bundle::run(client, args, printer).await,
        ClientCommand::Logs(args) => commands::logs::run(client, args, printer).await,
        ClientCommand::PortForward(args) => commands::forward::run(client, args, printer).await,
        ClientCommand::Cp(args) => commands::copy::run(client, args, printer).await,
        ClientCommand::Channel(command) => commands::channel::run(client, command, printer).await,
        ClientCommand::Top(command) => commands::top::run(client, command, printer).await,
        ClientCommand::Events(args) => commands::events::run(client, args, printer).await,
        ClientCommand::Audit(args) => commands::audit::run(client, args, printer).await,
        ClientCommand::Wait(args) => commands::wait::run(client, args, printer).await,
        ClientCommand::Status(args) => commands::status::run(client, args, printer).await,
        ClientCommand::User(command) => commands::access::user::run(client, command, printer).await,
        ClientCommand::Group(command) => commands::access::group::run(client, command, printer).await,
        ClientCommand::Grant(args) => commands::grant::run(client, args, printer).await,
        ClientCommand::Role(command) => commands::access::role::run(client, command, printer).await,
        ClientCommand::Auth(command) => commands::access::auth::run(client, command, printer).await,
        ClientCommand::Config(_)
        | ClientCommand::Convert(_)
        | ClientCommand::Version(_)
        | ClientCommand::Exec(_)
        | ClientCommand::Debug(_) => {
            unreachable!("done above")
        }
    }
}

fn finish(error: &CliError) -> ExitCode {
    print::complain(error);
    error.exit_code()
}
