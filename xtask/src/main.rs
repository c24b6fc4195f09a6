//! `cargo xtask`: everything that one does to this repository apart from writing it.
//!
//! Only the command line is here; each command has a module of its own. Knows none of Skerry's crates, so that it still
//! builds when they do not.
#![allow(clippy::print_stdout, reason = "a command line tool")]

mod bench;
mod demo;
mod fuzz;
mod gpu_check;
mod hello;
mod order;
mod reference;
mod sh;
mod test;
mod tidy;
mod up;

use std::process::ExitCode;

use clap::{Parser, Subcommand};

/// Builds, shows, tests and measures Skerry.
#[derive(Parser)]
#[command(name = "cargo xtask", bin_name = "cargo xtask", disable_version_flag = true)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Build Skerry, run it with a hello app and show what there is to see
    Demo(demo::Args),
    /// Install what the tests need, then check everything that CI checks
    Test(test::Args),
    /// Measure something and print it beside its budget
    Bench(bench::Args),
    /// Fuzz what decodes untrusted bytes
    Fuzz(fuzz::Args),
    /// On a machine with a GPU: hold what the agent reads of it against what its driver's own tool says
    GpuCheck(gpu_check::Args),
    /// Generate crates/proto and the reference of API and manifests from proto/, and hold the compatibility lock
    #[command(disable_help_flag = true)]
    Codegen {
        /// See `cargo xtask codegen --help`
        #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
        args: Vec<String>,
    },
    /// Write the reference of the command line from the programs' help
    Reference(reference::Args),
    /// Find which functions the agent uses, and write the order in which the linker lays them
    Order(order::Args),
    /// Hold the rules that the compiler does not: crate walls, file heads and sizes
    Tidy,
}

fn main() -> ExitCode {
    let outcome = match Cli::parse().command {
        Command::Demo(args) => demo::run(&args),
        Command::Test(args) => test::run(&args),
        Command::Bench(args) => bench::run(&args),
        Command::Fuzz(args) => fuzz::run(&args),
        Command::GpuCheck(args) => gpu_check::run(&args),
        Command::Codegen { args } => {
            sh::run(sh::cargo().args(["run", "--quiet", "--package=skerry-codegen", "--"]).args(args))
        }
        Command::Reference(args) => reference::run(&args),
        Command::Order(args) => order::run(&args),
        Command::Tidy => tidy::run(),
    };
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::FAILURE
        }
    }
}
