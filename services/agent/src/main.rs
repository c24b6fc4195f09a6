//! `skerry-agent`: the node agent in a process of its own.

use std::process::ExitCode;

use clap::Parser;
use skerry_agent::{AgentArgs, InstallArgs, UninstallArgs};
use skerry_daemon::{LogArgs, Monitor, OwnLog};
use skerry_rpc::Access;

/// Runs on an edge machine what the control plane assigns to it.
#[derive(Debug, Parser)]
#[command(name = "skerry-agent", version, args_conflicts_with_subcommands = true)]
struct Args {
    #[command(subcommand)]
    command: Option<Command>,
    #[command(flatten)]
    agent: AgentArgs,
    #[command(flatten)]
    log: LogArgs,

    /// Say whether an agent runs on this data directory, and end: exit code 0 if one does
    #[arg(long)]
    health: bool,
}

/// What it does instead of running.
#[derive(Debug, clap::Subcommand)]
enum Command {
    /// Install this program as a service of systemd that runs with these flags, and start it; again, it changes what is different
    Install(Box<InstallArgs>),
    /// Undo that; what the agent knows stays, and so does what runs
    Uninstall(UninstallArgs),
}

/// Most threads that wait for disks and names of hosts. More than there are long waits at once (fetches, starts, whole artifacts), so that a look at
/// what runs and the writing of the desired state are not behind them.
const BLOCKING_THREADS_MAX: usize = 16;

fn main() -> ExitCode {
    skerry_agent::run_shim_if_asked();
    let args = Args::parse();
    if let Some(command) = args.command {
        let mut out = std::io::stdout().lock();
        let done = match command {
            Command::Install(args) => skerry_agent::install(*args, &mut out),
            Command::Uninstall(args) => skerry_agent::uninstall(args, &mut out),
        };
        return match done {
            Ok(()) => ExitCode::SUCCESS,
            Err(error) => {
                eprintln!("error: {error}");
                ExitCode::FAILURE
            }
        };
    }
    if args.health {
        return match skerry_agent::check_running(&args.agent.data_dir) {
            Ok(()) => ExitCode::SUCCESS,
            Err(error) => {
                eprintln!("error: {error}");
                ExitCode::FAILURE
            }
        };
    }
    // From its first line on: `skerry logs node/NAME` asks for it.
    OwnLog::of_process();
    let telemetry = match args.log.init("skerry-agent", args.agent.metrics_listen.is_some()) {
        Ok(telemetry) => telemetry,
        Err(error) => {
            eprintln!("error: {error}");
            return ExitCode::FAILURE;
        }
    };
    // One thread: the agent waits most of the time, and each further thread costs memory. Those that wait for disks are made as they are needed.
    let runtime = match tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .max_blocking_threads(BLOCKING_THREADS_MAX)
        .thread_keep_alive(std::time::Duration::from_secs(1))
        .build()
    {
        Ok(runtime) => runtime,
        Err(error) => {
            eprintln!("error: starting the runtime: {error}");
            return ExitCode::FAILURE;
        }
    };
    runtime.block_on(telemetry.during(skerry_daemon::run_until_shutdown(async |shutdown| {
        let metrics = args.agent.metrics_listen;
        let config = args.agent.into_config()?;
        if let Some(address) = metrics {
            let monitor = Monitor::bind(address, &Access::Loopback).await?;
            shutdown.spawn(monitor.serve(None, shutdown.clone()));
        }
        Ok(skerry_agent::serve(config, shutdown.token()).await?)
    })))
}
