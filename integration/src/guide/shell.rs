//! The terminals of a reader: one shell whose commands follow each other, and programs that run on in terminals of their own.

use std::collections::BTreeMap;
use std::fs;
use std::path::PathBuf;
use std::process::Command;
use std::time::Duration;

use anyhow::{Context as _, Result, bail, ensure};
use rustix::process::Signal;
use skerry_testing::Process;
use tempfile::TempDir;

use super::page::Step;
use super::shown::{fits, line_fits, passes};

/// Longest that a command may take, and that a line may be waited for.
const PATIENCE: Duration = Duration::from_mins(2);
/// Time between two looks at what a terminal shows.
const POLL_PERIOD: Duration = Duration::from_millis(20);
/// What is typed to end a program.
const INTERRUPT: &str = "^C";
/// Variables that would change what commands do.
const FOREIGN: [&str; 4] = ["SKERRY_", "DOCKER_", "COMPOSE_", "XDG_"];

/// Where a page is run.
#[derive(Debug, Default)]
pub struct Setting {
    /// What the page says, and what stands for it here: a port, an image, a name of this run's own. Whole words only.
    pub instead: Vec<(String, String)>,
    /// Variables of every command.
    pub env: BTreeMap<String, String>,
    /// Scripts that stand before all other programs, by name.
    pub programs: BTreeMap<String, String>,
    /// Run at the end while everything is still there, whatever happened.
    pub farewell: Option<String>,
}

/// A shell in a directory of its own.
#[derive(Debug)]
pub struct Shell {
    setting: Setting,
    dir: TempDir,
    commands: u32,
    exit_code: i32,
    terminals: Vec<Terminal>,
}

/// A program in the background, and how many of its lines were seen.
#[derive(Debug)]
struct Terminal {
    process: Process,
    seen: usize,
}

impl Shell {
    pub(super) fn open(setting: Setting) -> Result<Self> {
        let dir = tempfile::Builder::new().prefix("skerry-guide-").tempdir()?;
        for name in ["here", "home", "bin", "logs"] {
            fs::create_dir(dir.path().join(name))?;
        }
        for (name, text) in &setting.programs {
            use std::os::unix::fs::PermissionsExt as _;
            let file = dir.path().join("bin").join(name);
            fs::write(&file, text)?;
            fs::set_permissions(&file, fs::Permissions::from_mode(0o755))?;
        }
        Ok(Self { setting, dir, commands: 0, exit_code: 0, terminals: Vec::new() })
    }

    /// Writes a file of the page.
    pub(super) fn write(&self, name: &str, text: &str) -> Result<()> {
        let file = self.here().join(name);
        if let Some(parent) = file.parent() {
            fs::create_dir_all(parent)?;
        }
        fs::write(&file, self.really(text)).with_context(|| format!("writing {name}"))
    }

    /// Runs commands of which only their success matters.
    pub(super) async fn script(&mut self, script: &str) -> Result<()> {
        let printed = self.run(&format!("set -e\n{script}")).await?;
        ensure!(self.exit_code == 0, "it fails with exit code {}:\n{printed}", self.exit_code);
        Ok(())
    }

    /// Runs a command and compares its output.
    pub(super) async fn step(&mut self, step: &Step, may_fail: bool) -> Result<()> {
        let printed = self.run(&step.command).await?;
        ensure!(may_fail || self.exit_code == 0, "it fails with exit code {}:\n{printed}", self.exit_code);
        let lines: Vec<&str> = printed.lines().filter(|line| !passes(line)).collect();
        if fits(&step.shown, &lines) {
            return Ok(());
        }
        bail!("it is shown to print:\n{}\nand prints:\n{printed}", step.shown.join("\n"))
    }

    /// Starts a command in a terminal of its own.
    pub(super) fn start(&mut self, command: &str) -> Result<()> {
        let file = self.save(command)?;
        let log = self.dir.path().join(format!("logs/{}", self.commands));
        // In the shell's place, so that ^C reaches the program.
        let mut bash = self.bash();
        bash.arg("-c").arg(format!("eval \"exec $(cat {})\"", file.display()));
        self.terminals.push(Terminal { process: Process::spawn_command(&mut bash, log)?, seen: 0 });
        Ok(())
    }

    /// Waits for the lines of the last terminal, in their order; others may come between only where `...` says so.
    pub(super) async fn watch(&mut self, shown: &[String]) -> Result<()> {
        let terminal = self.terminals.last_mut().context("no terminal is open")?;
        terminal.watch(shown, &self.setting.instead).await
    }

    /// Ends everything, the last that was started first.
    pub(super) async fn close(mut self) -> Result<()> {
        let farewell = match self.setting.farewell.take() {
            Some(script) => self.script(&script).await.context("clearing up"),
            None => Ok(()),
        };
        while let Some(mut terminal) = self.terminals.pop() {
            terminal.process.terminate(PATIENCE).await?;
        }
        farewell
    }

    fn here(&self) -> PathBuf {
        self.dir.path().join("here")
    }

    async fn run(&mut self, command: &str) -> Result<String> {
        let file = self.save(command)?;
        let log = self.dir.path().join(format!("logs/{}", self.commands));
        let state = self.dir.path().join("state");
        // What is kept from one command to the next: what it exported, and its exit code.
        let script = format!(
            "[ ! -f {state} ] || . {state}\ntrap 'code=$?; export -p >{state}; exit $code' EXIT\n(exit {code})\n. {file}",
            state = state.display(),
            code = self.exit_code,
            file = file.display(),
        );
        let mut bash = self.bash();
        let mut process = Process::spawn_command(bash.arg("-c").arg(script), &log)?;
        let status = process.wait(PATIENCE).await?;
        self.exit_code = status.code().context("it was killed")?;
        Ok(as_shown(&self.setting.instead, &process.output()))
    }

    /// A file with the command, to be read by bash.
    fn save(&mut self, command: &str) -> Result<PathBuf> {
        self.commands += 1;
        let file = self.dir.path().join(format!("logs/{}.sh", self.commands));
        fs::write(&file, self.really(command))?;
        Ok(file)
    }

    fn bash(&self) -> Command {
        let mut bash = Command::new("bash");
        for (name, _) in std::env::vars() {
            if FOREIGN.iter().any(|prefix| name.starts_with(prefix)) {
                bash.env_remove(name);
            }
        }
        bash.args(["--noprofile", "--norc"]).current_dir(self.here());
        let path = std::env::var("PATH").unwrap_or_default();
        bash.env("PATH", format!("{}:{path}", self.dir.path().join("bin").display()));
        bash.env("HOME", self.dir.path().join("home")).env("LC_ALL", "C").envs(&self.setting.env);
        bash
    }

    fn really(&self, text: &str) -> String {
        self.setting.instead.iter().fold(text.to_owned(), |text, (shown, real)| replace(&text, shown, real))
    }
}

impl Terminal {
    async fn watch(&mut self, shown: &[String], instead: &[(String, String)]) -> Result<()> {
        let mut skips = false;
        for line in shown {
            match line.trim() {
                INTERRUPT => {
                    self.process.signal(Signal::INT)?;
                    self.process.wait(PATIENCE).await?;
                }
                "..." => skips = true,
                _ => {
                    self.wait_for(line, skips, instead).await?;
                    skips = false;
                }
            }
        }
        Ok(())
    }

    async fn wait_for(&mut self, line: &str, skips: bool, instead: &[(String, String)]) -> Result<()> {
        let deadline = tokio::time::Instant::now() + PATIENCE;
        loop {
            let ended = self.process.try_wait()?;
            let printed = as_shown(instead, &self.process.output());
            // The last line may not be whole yet.
            let whole = printed.rfind('\n').map_or("", |end| &printed[..end]);
            let new: Vec<&str> = whole.lines().skip(self.seen).collect();
            let place = if skips {
                new.iter().position(|one| line_fits(line, one))
            } else {
                match new.first() {
                    Some(first) if !line_fits(line, first) => {
                        bail!("`{line}` is shown where it prints:\n{}", new.join("\n"))
                    }
                    first => first.map(|_| 0),
                }
            };
            if let Some(place) = place {
                self.seen += place + 1;
                return Ok(());
            }
            if let Some(status) = ended {
                bail!("it ended with {status} before `{line}`:\n{printed}");
            }
            ensure!(tokio::time::Instant::now() < deadline, "no `{line}` within {PATIENCE:?}:\n{printed}");
            tokio::time::sleep(POLL_PERIOD).await;
        }
    }
}

fn as_shown(instead: &[(String, String)], text: &str) -> String {
    instead.iter().fold(text.to_owned(), |text, (shown, real)| replace(&text, real, shown))
}

/// Replaces whole words only: `n1` is not in `n10`, nor `80` in `8080`.
fn replace(text: &str, from: &str, to: &str) -> String {
    let part_of_word = |c: Option<char>| c.is_some_and(|c| c.is_alphanumeric() || c == '_' || c == '-');
    let mut out = String::with_capacity(text.len());
    let mut rest = text;
    while let Some(at) = rest.find(from) {
        let (before, after) = (&rest[..at], &rest[at + from.len()..]);
        let whole = !part_of_word(before.chars().next_back().or_else(|| out.chars().next_back()))
            && !part_of_word(after.chars().next());
        out.push_str(before);
        out.push_str(if whole { to } else { from });
        rest = after;
    }
    out + rest
}
