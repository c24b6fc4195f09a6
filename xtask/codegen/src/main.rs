//! `cargo xtask codegen`: from `proto/` to `crates/proto` and the reference in `docs/`, with no protoc.
//!
//! A program of its own beside xtask, because its dependencies take longer to compile than all the rest of xtask. It plans
//! every file in memory, then either writes them or, with `--check`, compares them with the tree. What a change of the contract
//! may be is decided in `lock`; the answer for etcd-client's build script is made in `etcd`.
#![allow(clippy::print_stdout, reason = "a command line tool")]

mod contract;
mod etcd;
mod lock;
mod reference;

use std::{
    collections::BTreeMap,
    env, fs,
    path::{Path, PathBuf},
    process::{Command, ExitCode},
};

use anyhow::{Context, Result, bail};
use clap::Parser;
use prost_types::FileDescriptorSet;

const GEN_DIR: &str = "crates/proto/src/gen";
const DESCRIPTORS: &str = "crates/proto/descriptors/skerry.bin";
const DESCRIPTORS_WITH_COMMENTS: &str = "crates/proto/descriptors/skerry-comments.bin";
const LOCK: &str = "crates/proto/compat.lock";
/// Messages that hold values of secrets: how they are shown is written by hand in `crates/proto/src/redacted.rs`.
const SECRET: [&str; 3] =
    [".skerry.scheduler.v1.SecretSpec", ".skerry.type.v1.ImageCredentials", ".skerry.type.v1.SecretContent"];
const HEAD: &str = "// Made by `cargo xtask codegen` from proto/. Do not edit.\n";

/// Generate crates/proto from proto/, and hold the compatibility lock
#[derive(Parser)]
#[command(bin_name = "cargo xtask codegen", disable_version_flag = true)]
struct Args {
    /// Write nothing; fail when a generated file is stale or the contract breaks the lock
    #[arg(long, conflicts_with_all = ["accept_additions", "break_reason"])]
    check: bool,
    /// Write what the contract gained into the compatibility lock
    #[arg(long)]
    accept_additions: bool,
    /// Accept a breaking change, before 1.0 only; the reason is kept in the lock
    #[arg(long = "break", value_name = "REASON")]
    break_reason: Option<String>,
}

/// Files by path from the root of the checkout.
type Files = BTreeMap<PathBuf, Vec<u8>>;

fn main() -> ExitCode {
    match run(&Args::parse()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::FAILURE
        }
    }
}

/// The root of the checkout.
fn root() -> PathBuf {
    let here = env::var_os("CARGO_MANIFEST_DIR")
        .map_or_else(|| PathBuf::from(env!("CARGO_MANIFEST_DIR")), PathBuf::from);
    here.ancestors().nth(2).expect("this lies in xtask/codegen").to_path_buf()
}

/// Runs a command to its end and returns what it printed.
fn output(command: &mut Command) -> Result<String> {
    let output = command.output().with_context(|| format!("starting {command:?}"))?;
    if !output.status.success() {
        bail!(
            "{command:?} failed: {}\n{}",
            output.status,
            String::from_utf8_lossy(&output.stderr).trim_end()
        );
    }
    String::from_utf8(output.stdout).with_context(|| format!("reading the output of {command:?}"))
}

fn run(args: &Args) -> Result<()> {
    let root = root();
    let protos = Protos::compile(&root.join("proto"))?;
    let mut files = protos.generate()?;
    files.extend(etcd::generate(&root)?);
    files.extend(reference::generate(&protos.commented));

    let lock_file = root.join(LOCK);
    let now = contract::Contract::of(&protos.plain);
    let old = match fs::read_to_string(&lock_file) {
        Ok(text) => lock::Lock::parse(&text).with_context(|| format!("reading {LOCK}"))?,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound && !args.check => {
            lock::Lock::new(now.clone())
        }
        Err(error) => return Err(error).with_context(|| format!("reading {LOCK}")),
    };
    let changes = lock::compare(&old.contract, &now);
    let new_lock = match (&args.break_reason, changes.breaks.is_empty()) {
        (Some(reason), false) => old.broken(now, reason)?,
        (None, false) => bail!(
            "the contract breaks {LOCK}:\n  {}\nAdd beside what is there (removed fields are `reserved`), or make a v2 package. Before 1.0 a break may be \
             accepted: cargo xtask codegen --break \"why\"",
            changes.breaks.join("\n  ")
        ),
        (_, true) if args.accept_additions || old.contract == now => old.extended(now),
        (_, true) => {
            let gained = format!("{} additions are not in {LOCK} yet", changes.additions.len());
            if args.check {
                bail!(
                    "{gained}: run `cargo xtask codegen --accept-additions`\n  {}",
                    changes.additions.join("\n  ")
                );
            }
            println!("{gained}: accept them with `cargo xtask codegen --accept-additions`");
            old
        }
    };
    files.insert(LOCK.into(), new_lock.to_string().into_bytes());

    if args.check { check(&root, &files) } else { write(&root, &files) }
}

/// The compiled `proto/`: once as it is served by reflection, once with the comments.
struct Protos {
    plain: FileDescriptorSet,
    plain_bytes: Vec<u8>,
    commented: FileDescriptorSet,
    commented_bytes: Vec<u8>,
}

impl Protos {
    fn compile(dir: &Path) -> Result<Self> {
        let mut inputs = Vec::new();
        find_protos(dir, Path::new(""), &mut inputs)?;
        inputs.sort();
        if inputs.is_empty() {
            bail!("no .proto file under {}", dir.display());
        }
        let compile = |comments: bool| -> Result<(FileDescriptorSet, Vec<u8>)> {
            let mut compiler = protox::Compiler::new([dir])?;
            compiler.include_imports(true).include_source_info(comments);
            for input in &inputs {
                compiler.open_file(input).map_err(|error| readable(&error))?;
            }
            Ok((compiler.file_descriptor_set(), compiler.encode_file_descriptor_set()))
        };
        let (plain, plain_bytes) = compile(false)?;
        let (commented, commented_bytes) = compile(true)?;
        Ok(Self { plain, plain_bytes, commented, commented_bytes })
    }

    fn generate(&self) -> Result<Files> {
        let mut config = prost_build::Config::new();
        config.btree_map(["."]).bytes(["."]).enable_type_names().skip_debug(SECRET);
        config.service_generator(tonic_prost_build::configure().service_generator());
        let requests = self
            .commented
            .file
            .iter()
            .map(|file| (prost_build::Module::from_protobuf_package_name(file.package()), file.clone()));
        let modules = config.generate(requests.collect()).context("generating Rust from proto/")?;
        let mut files = Files::new();
        for (module, code) in modules {
            let name = module.to_file_name_or("root").replace("r#", "");
            let path = Path::new(GEN_DIR).join(name);
            files.insert(path, format!("{HEAD}{code}").into_bytes());
        }
        files.insert(DESCRIPTORS.into(), self.plain_bytes.clone());
        files.insert(DESCRIPTORS_WITH_COMMENTS.into(), self.commented_bytes.clone());
        Ok(files)
    }
}

/// protox says in its `Display` only which file; line, column and cause are in the chain and the labels.
fn readable(error: &protox::Error) -> anyhow::Error {
    anyhow::anyhow!("{error:?}")
}

fn find_protos(root: &Path, dir: &Path, found: &mut Vec<PathBuf>) -> Result<()> {
    let full = root.join(dir);
    for entry in fs::read_dir(&full).with_context(|| format!("reading {}", full.display()))? {
        let entry = entry?;
        let path = dir.join(entry.file_name());
        if entry.file_type()?.is_dir() {
            find_protos(root, &path, found)?;
        } else if path.extension().is_some_and(|extension| extension == "proto") {
            found.push(path);
        }
    }
    Ok(())
}

/// What lies in a directory that only codegen writes, but is not planned: left over from a package that is gone.
fn leftovers(root: &Path, files: &Files) -> Result<Vec<PathBuf>> {
    let mut found = Vec::new();
    for dir in [GEN_DIR, "crates/proto/descriptors", "xtask/etcd-protos"] {
        let Ok(entries) = fs::read_dir(root.join(dir)) else { continue };
        for entry in entries {
            let path = Path::new(dir).join(entry?.file_name());
            if !files.contains_key(&path) {
                found.push(path);
            }
        }
    }
    found.sort();
    Ok(found)
}

fn check(root: &Path, files: &Files) -> Result<()> {
    let stale = files.iter().filter(|(path, bytes)| fs::read(root.join(path)).ok().as_ref() != Some(bytes));
    let mut stale: Vec<String> = stale.map(|(path, _)| path.display().to_string()).collect();
    stale.extend(
        leftovers(root, files)?.iter().map(|path| format!("{} (belongs to no package)", path.display())),
    );
    if !stale.is_empty() {
        bail!("stale, run `cargo xtask codegen`:\n  {}", stale.join("\n  "));
    }
    println!("{} generated files are up to date, and the contract holds its lock", files.len());
    Ok(())
}

fn write(root: &Path, files: &Files) -> Result<()> {
    for (path, bytes) in files {
        let full = root.join(path);
        // An unchanged file keeps its time, so that cargo builds nothing again.
        if fs::read(&full).ok().as_ref() == Some(bytes) {
            continue;
        }
        let dir = full.parent().expect("a planned file lies in a directory");
        fs::create_dir_all(dir).with_context(|| format!("creating {}", dir.display()))?;
        fs::write(&full, bytes).with_context(|| format!("writing {}", full.display()))?;
        println!("wrote {}", path.display());
    }
    for path in leftovers(root, files)? {
        fs::remove_file(root.join(&path)).with_context(|| format!("removing {}", path.display()))?;
        println!("removed {}", path.display());
    }
    Ok(())
}
