//! Clients in Python and Node, against a real `skerry up`: made from the protos alone, by nothing but reflection, and the programs that
//! `docs/clients.md` shows.
//!
//! What is here is their surroundings (environments for their packages, generated code, a server); what they do is in
//! `integration/clients/`.

use std::{
    fs,
    io::Write as _,
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::{Context, Result, ensure};

use crate::{
    sh,
    up::{Interrupt, Up, free_port, fresh_dir},
};

const SOURCES: &str = "integration/clients";
const DOCUMENT: &str = "docs/clients.md";
/// The programs that the document shows, and the language of their block.
const SHOWN: [(&str, &str); 4] =
    [("deploy.py", "python"), ("tail.py", "python"), ("exec.py", "python"), ("deploy.mjs", "js")];
/// What the one that follows a log must have said when it ends.
const TOLD: &str = "from-python/main/";
/// What they print before the version of the nodes that they saw.
const VERSION: &str = "nodes as of ";
/// What each must have said when it ends.
const SAID: [&str; 4] =
    ["is connected", "INVALID_ARGUMENT", "spec.services[0].process.program: name a program", "is healthy"];
/// What is said to a watch that continues from where the server no longer knows.
const RESUMED: &str = "that version is no longer known";

pub(super) fn run(interrupt: &Interrupt) -> Result<()> {
    check_document()?;
    let (python, node_modules) = (python()?, node_modules()?);
    let root = sh::root();
    let generated = fresh_dir("clients-generated")?;
    sh::run(
        sh::command(&python)
            .arg(root.join(SOURCES).join("generate.py"))
            .arg(root.join("proto"))
            .arg(&generated),
    )?;
    let clients = Clients { python, generated, node_modules };

    let data_dir = fresh_dir("clients")?;
    let skerry = sh::target_dir()?.join("debug/skerry");
    let port = free_port()?;
    let first = with_up(&skerry, &data_dir, port, &[], interrupt, |up| {
        sh::run(&mut clients.python("from_protos.py", up))?;
        sh::run(&mut clients.python("from_reflection.py", up))?;
        clients.tail(up)?;
        clients.exec(up)?;
        clients.deploy(up, None)
    })?;
    // Another server has another memory of what changed: what the first one said is too old for it. This one does without TLS.
    let insecure = &["--insecure"];
    with_up(&skerry, &data_dir, port, insecure, interrupt, |up| clients.deploy(up, Some(&first)).map(drop))?;
    for dir in [clients.generated, data_dir] {
        fs::remove_dir_all(&dir).with_context(|| format!("removing {}", dir.display()))?;
    }
    Ok(())
}

fn with_up<T>(
    skerry: &Path,
    data_dir: &Path,
    port: u16,
    args: &[&str],
    interrupt: &Interrupt,
    tried: impl FnOnce(&Up) -> Result<T>,
) -> Result<T> {
    let up = Up::start(skerry, data_dir, port, args, interrupt)?;
    let tried = tried(&up);
    if tried.is_err() {
        println!("the last lines of skerry up:\n{}\n", up.tail());
    }
    let stopped = up.stop();
    let answer = tried?;
    stopped?;
    Ok(answer)
}

/// What the clients need to run.
struct Clients {
    python: PathBuf,
    generated: PathBuf,
    node_modules: PathBuf,
}

impl Clients {
    fn python(&self, name: &str, up: &Up) -> Command {
        let mut command = sh::command(&self.python);
        command.arg(sh::root().join(SOURCES).join(name)).arg(up.address());
        identify(&mut command, up);
        command.env("PYTHONPATH", &self.generated).env("PYTHONDONTWRITEBYTECODE", "1");
        command
    }

    /// Node looks for modules beside the program, so it runs a copy beside them.
    fn node(&self, name: &str, up: &Up) -> Result<Command> {
        let copy = self.node_modules.join(name);
        fs::copy(sh::root().join(SOURCES).join(name), &copy)
            .with_context(|| format!("copying {name} to {}", copy.display()))?;
        let mut command = sh::command("node");
        command.arg(copy).arg(sh::root().join("proto")).arg(up.address());
        identify(&mut command, up);
        Ok(command)
    }

    /// Runs the program that follows a log: it ends once it has been told ten lines, each once.
    fn tail(&self, up: &Up) -> Result<()> {
        let mut command = self.python("tail.py", up);
        let output = sh::output(&mut command)?;
        print!("{output}");
        let told: Vec<&str> = output.lines().filter(|line| line.starts_with(TOLD)).collect();
        let wanted = (1..=10).map(|n| format!(": line {n}"));
        let whole = told.len() == 10 && told.iter().zip(wanted).all(|(line, end)| line.ends_with(&end));
        ensure!(whole, "`{}` does not tell the first ten lines once each", sh::describe(&command));
        Ok(())
    }

    /// Runs the program that runs a command: input, both outputs and the exit code are the command's.
    fn exec(&self, up: &Up) -> Result<()> {
        let mut command = self.python("exec.py", up);
        command.args(["sh", "-c", "tr a-z A-Z; echo none left >&2; exit 7"]);
        let line = sh::describe(&command);
        let (input, mut typed) = std::io::pipe().context("making a pipe")?;
        typed.write_all(b"12 apples\n").context("writing to a pipe")?;
        drop(typed);
        let output = command.stdin(input).output().with_context(|| format!("starting `{line}`"))?;
        let (out, err) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
        print!("{out}{err}");
        let code = output.status.code();
        ensure!(
            code == Some(7) && out == "12 APPLES\n" && err.contains("none left\n"),
            "`{line}` ended with {code:?}"
        );
        Ok(())
    }

    /// Runs the programs that deploy, and returns a version of the nodes that they saw. With one from before, they have to begin anew.
    fn deploy(&self, up: &Up, version: Option<&str>) -> Result<String> {
        let mut seen = String::new();
        for mut command in [self.python("deploy.py", up), self.node("deploy.mjs", up)?] {
            command.args(version);
            let output = sh::output(&mut command)?;
            print!("{output}");
            let resumed = version.map(|_| RESUMED);
            for words in SAID.into_iter().chain(resumed) {
                ensure!(output.contains(words), "`{}` does not say `{words}`", sh::describe(&command));
            }
            let found = output.lines().find_map(|line| line.strip_prefix(VERSION));
            found.context("it names no version of the nodes")?.clone_into(&mut seen);
        }
        Ok(seen)
    }
}

/// Gives a client the certificate of the server's administrator, unless the server does without.
fn identify(command: &mut Command, up: &Up) {
    for (name, file) in ["SKERRY_TLS_CERT", "SKERRY_TLS_KEY", "SKERRY_TLS_CA"].into_iter().zip(up.admin()) {
        command.env_remove(name);
        if !up.is_insecure() {
            command.env(name, file);
        }
    }
}

/// The Python of a virtual environment with the pinned requirements; made anew when they change.
fn python() -> Result<PathBuf> {
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

/// A directory with the pinned packages of Node; made anew when they change.
fn node_modules() -> Result<PathBuf> {
    let source = sh::root().join(SOURCES);
    let dir = sh::target_dir()?.join("xtask/clients-node");
    let names = ["package.json", "package-lock.json"];
    let same = names.iter().all(|name| {
        let read = |dir: &Path| fs::read(dir.join(name)).ok();
        read(&dir).is_some() && read(&dir) == read(&source)
    });
    // Written by npm at the end of an installation.
    if same && dir.join("node_modules/.package-lock.json").is_file() {
        return Ok(dir);
    }
    fs::create_dir_all(&dir).with_context(|| format!("creating {}", dir.display()))?;
    for name in names {
        fs::copy(source.join(name), dir.join(name)).with_context(|| format!("copying {name}"))?;
    }
    let mut npm = sh::command("npm");
    npm.current_dir(&dir).args(["ci", "--no-audit", "--no-fund", "--ignore-scripts", "--silent"]);
    sh::run(&mut npm)?;
    Ok(dir)
}

/// The document shows the programs as they are.
fn check_document() -> Result<()> {
    let read = |path: PathBuf| {
        fs::read_to_string(&path)
            .with_context(|| format!("reading {}", path.display()))
            .map(|text| text.trim_end().to_owned())
    };
    let document = read(sh::root().join(DOCUMENT))?;
    for (name, language) in SHOWN {
        let program = read(sh::root().join(SOURCES).join(name))?;
        let block = format!("```{language}\n{program}\n```");
        ensure!(
            document.contains(&block),
            "{DOCUMENT} does not show {SOURCES}/{name} as it is: paste it again"
        );
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    #[test]
    fn the_document_shows_the_programs_as_they_are() {
        super::check_document().expect("the same text");
    }
}
