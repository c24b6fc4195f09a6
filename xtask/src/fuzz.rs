//! `cargo xtask fuzz [TARGET]`: libFuzzer on what decodes untrusted bytes. Needs a nightly compiler and cargo-fuzz, and is no part of `test`.
//!
//! What it starts from is `fuzz/corpus/`, which it leaves as it is: what it finds on the way lies in the target directory, and what breaks a
//! law in `fuzz/artifacts/`. Such an input is copied into the corpus with its mending, where the tests replay it.

use std::fs;

use anyhow::{Context, Result, bail};

use crate::sh;

/// Largest input: as large as one in the corpus may be.
const INPUT_BYTES_MAX: u32 = 8 * 1024;

#[derive(clap::Args)]
pub(crate) struct Args {
    /// What to fuzz; without it, each in turn
    target: Option<String>,
    /// How long each is fuzzed
    #[arg(long, default_value_t = 60)]
    seconds: u32,
}

pub(crate) fn run(args: &Args) -> Result<()> {
    let known = known()?;
    let targets = match &args.target {
        None => known,
        Some(name) if known.contains(name) => vec![name.clone()],
        Some(name) => bail!("there is no target {name}; there are: {}", known.join(", ")),
    };
    for target in targets {
        println!("== {target}");
        let found = sh::target_dir()?.join("fuzz-corpus").join(&target);
        fs::create_dir_all(&found).with_context(|| format!("making {}", found.display()))?;
        let mut fuzz = sh::command("cargo");
        // There is no unsafe code to be watched: what counts is panics, overflows among them.
        fuzz.args(["+nightly", "fuzz", "run", "--sanitizer=none", "--debug-assertions"]);
        fuzz.arg(&target).arg(found).arg(format!("fuzz/corpus/{target}")).arg("--");
        fuzz.arg(format!("-max_total_time={}", args.seconds)).arg(format!("-max_len={INPUT_BYTES_MAX}"));
        sh::run(&mut fuzz)
            .context("`rustup toolchain install nightly` and `cargo install cargo-fuzz` are needed once")?;
    }
    Ok(())
}

fn known() -> Result<Vec<String>> {
    let dir = sh::root().join("fuzz/corpus");
    let mut names = Vec::new();
    for entry in fs::read_dir(&dir).with_context(|| format!("reading {}", dir.display()))? {
        names.push(entry?.file_name().to_string_lossy().into_owned());
    }
    names.sort();
    Ok(names)
}
