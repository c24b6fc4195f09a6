//! Clients in Python, against a real `skerry up`: one made from the protos alone, one that knows nothing but reflection.
//!
//! What is here is their surroundings (an environment for their packages, generated code, a server); what they do is in
//! `integration/clients/`.

use std::{
    fs,
    path::{Path, PathBuf},
};

use anyhow::{Context, Result};

use crate::{
    sh,
    up::{Interrupt, Up, free_port, fresh_dir},
};

const SOURCES: &str = "integration/clients";

pub(super) fn run(interrupt: &Interrupt) -> Result<()> {
    let python = environment()?;
    let root = sh::root();
    let generated = fresh_dir("clients-generated")?;
    sh::run(
        sh::command(&python)
            .arg(root.join(SOURCES).join("generate.py"))
            .arg(root.join("proto"))
            .arg(&generated),
    )?;

    let data_dir = fresh_dir("clients")?;
    let skerry = sh::target_dir()?.join("debug/skerry");
    let up = Up::start(&skerry, &data_dir, free_port()?, interrupt)?;
    let address = up.url().trim_start_matches("http://").to_owned();
    let client = |name: &str| {
        let mut command = sh::command(&python);
        command.arg(root.join(SOURCES).join(name)).arg(&address).env("PYTHONDONTWRITEBYTECODE", "1");
        command
    };
    let tried = sh::run(client("from_protos.py").env("PYTHONPATH", &generated))
        .and_then(|()| sh::run(&mut client("from_reflection.py")));
    if tried.is_err() {
        println!("the last lines of skerry up:\n{}\n", up.tail());
    }
    let stopped = up.stop();
    tried?;
    stopped?;
    for dir in [generated, data_dir] {
        fs::remove_dir_all(&dir).with_context(|| format!("removing {}", dir.display()))?;
    }
    Ok(())
}

/// The Python of a virtual environment with the pinned requirements; made anew when they change.
fn environment() -> Result<PathBuf> {
    let requirements = sh::root().join(SOURCES).join("requirements.txt");
    let wanted =
        fs::read_to_string(&requirements).with_context(|| format!("reading {}", requirements.display()))?;
    let dir = sh::target_dir()?.join("xtask/clients-venv");
    let (python, stamp) = (dir.join("bin/python"), dir.join("requirements.installed"));
    if fs::read_to_string(&stamp).is_ok_and(|installed| installed == wanted) && works(&python) {
        return Ok(python);
    }
    sh::run(sh::command("python3").args(["-m", "venv", "--clear"]).arg(&dir))?;
    let mut pip = sh::command(&python);
    pip.args(["-m", "pip", "install", "--quiet", "--disable-pip-version-check", "--requirement"])
        .arg(&requirements);
    sh::run(&mut pip)?;
    fs::write(&stamp, wanted).with_context(|| format!("writing {}", stamp.display()))?;
    Ok(python)
}

/// An environment outlives the Python that it was made with as a heap of dead links.
fn works(python: &Path) -> bool {
    sh::output(sh::command(python).args(["-c", "import grpc"])).is_ok()
}
