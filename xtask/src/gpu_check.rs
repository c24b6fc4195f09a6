//! `cargo xtask gpu-check`: builds the program that looks at a real GPU, and runs it here or says where it is.

use anyhow::Result;

use crate::sh;

const PACKAGE: &str = "skerry-gpu-check";

#[derive(clap::Args)]
pub(crate) struct Args {
    /// Do not run it: print its path. It needs only the C library and the driver, and may be copied to the machine with the GPU
    #[arg(long)]
    build_only: bool,
    /// Build it without optimisation: faster to build, and latencies are the driver's all the same
    #[arg(long)]
    debug: bool,
    /// Go to the program: see `-- --help`
    #[arg(last = true)]
    rest: Vec<String>,
}

pub(crate) fn run(args: &Args) -> Result<()> {
    let mut build = sh::cargo();
    build.args(["build", "--package", PACKAGE]);
    if !args.debug {
        build.arg("--release");
    }
    sh::run(&mut build)?;
    let program = sh::target_dir()?.join(if args.debug { "debug" } else { "release" }).join(PACKAGE);
    if args.build_only {
        println!("{}", program.display());
        return Ok(());
    }
    sh::run(sh::command(program).args(&args.rest))
}
