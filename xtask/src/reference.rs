//! `cargo xtask reference`: `docs/reference/cli.md`, from what the built programs say of themselves.
//!
//! clap's definitions are in the programs, and xtask knows none of Skerry's crates: so it asks for the help of each command and of each
//! command below it. The references of the API and of manifests come from `cargo xtask codegen`.

use std::{env, fmt::Write as _, fs, path::Path, process::Command};

use anyhow::{Context, Result, bail, ensure};

use crate::sh;

const DOCUMENT: &str = "docs/reference/cli.md";
/// The programs, each a package of that name.
const PROGRAMS: [&str; 7] = [
    "skerry",
    "skerry-registry",
    "skerry-scheduler",
    "skerry-gateway",
    "skerry-relay",
    "skerry-gpu",
    "skerry-agent",
];
/// Commands below commands below a program.
const DEPTH_MAX: usize = 4;
/// What every client command has is said once, with `skerry` itself.
const SAID_ONCE: &str = "Client options:";
/// Variables whose values help would show.
const FOREIGN: [&str; 3] = ["SKERRY_", "DOCKER_", "CLICOLOR"];
const HEAD: &str = "\
<!-- Made by `cargo xtask reference` from the programs' own help. Do not edit. -->
# Reference: command line

What each program prints for `--help`. The client options of `skerry` are the same for all of its commands, before or after the command, and are said once.
";

#[derive(clap::Args)]
pub(crate) struct Args {
    /// Write nothing; fail when the document is stale
    #[arg(long)]
    check: bool,
}

pub(crate) fn run(args: &Args) -> Result<()> {
    let mut build = sh::cargo();
    build.args(["build", "--quiet"]);
    sh::run(build.args(PROGRAMS.iter().flat_map(|program| ["--package", program])))?;
    if args.check { check() } else { write() }
}

/// With the programs as they lie in the target directory.
pub(crate) fn check() -> Result<()> {
    let current = fs::read_to_string(sh::root().join(DOCUMENT)).unwrap_or_default();
    ensure!(current == document()?, "stale, run `cargo xtask reference`: {DOCUMENT}");
    println!("{DOCUMENT} is up to date");
    Ok(())
}

fn write() -> Result<()> {
    let path = sh::root().join(DOCUMENT);
    let text = document()?;
    if fs::read_to_string(&path).is_ok_and(|current| current == text) {
        return Ok(());
    }
    fs::write(&path, text).with_context(|| format!("writing {DOCUMENT}"))?;
    println!("wrote {DOCUMENT}");
    Ok(())
}

fn document() -> Result<String> {
    let dir = sh::target_dir()?.join("debug");
    let (mut index, mut body) = (String::new(), String::new());
    for program in PROGRAMS {
        command(&dir.join(program), program, &[], &mut index, &mut body)?;
    }
    Ok(format!("{HEAD}\n{index}{body}"))
}

/// One command, then those below it.
fn command(program: &Path, name: &str, words: &[&str], index: &mut String, body: &mut String) -> Result<()> {
    ensure!(words.len() < DEPTH_MAX, "{name}: commands lie deeper than {DEPTH_MAX}");
    let mut asked = Command::new(program);
    for (variable, _) in env::vars_os() {
        if FOREIGN.iter().any(|prefix| variable.to_string_lossy().starts_with(prefix)) {
            asked.env_remove(variable);
        }
    }
    // Without a terminal it is as wide everywhere.
    let help = sh::output(asked.env_remove("COLUMNS").args(words).arg("--help"))?;
    let full = [&[name], words].concat().join(" ");
    let _ = writeln!(index, "{}- [`{full}`](#{})", "  ".repeat(words.len()), full.replace(' ', "-"));
    let _ =
        write!(body, "\n{} {full}\n\n```text\n{}\n```\n", "#".repeat(words.len() + 2), shown(&help, words));
    for below in commands(&help)? {
        command(program, name, &[words, &[below]].concat(), index, body)?;
    }
    Ok(())
}

/// Help as it is shown: without blanks at the ends of lines, and below a program without what is said with the program.
fn shown(help: &str, words: &[&str]) -> String {
    let mut lines: Vec<&str> = Vec::new();
    let mut skipping = false;
    for line in help.lines().map(str::trim_end) {
        if !line.is_empty() && !line.starts_with(' ') {
            skipping = !words.is_empty() && line == SAID_ONCE;
        }
        if !skipping {
            lines.push(line);
        }
    }
    lines.join("\n").trim_end().to_owned()
}

/// The commands that help lists, without `help` itself.
fn commands(help: &str) -> Result<Vec<&str>> {
    let Some((_, listed)) = help.split_once("\nCommands:\n") else { return Ok(Vec::new()) };
    let mut found = Vec::new();
    for line in listed.lines().take_while(|line| !line.is_empty()) {
        match line.strip_prefix("  ").filter(|rest| !rest.starts_with(' ')) {
            Some(rest) => found.extend(rest.split(' ').next().filter(|name| *name != "help")),
            // The second line of what the command before does.
            None if found.is_empty() => bail!("`{line}` is no command"),
            None => {}
        }
    }
    Ok(found)
}

#[cfg(test)]
mod tests {
    use super::*;

    const HELP: &str = "Does things\n\nUsage: x <COMMAND>\n\nCommands:\n  one   First, which is\n        long\n  two   Second\n  \
                        help  Help\n\nOptions:\n  -a  \n\nClient options:\n      --server\n\nExamples:\n  x one\n";

    #[test]
    fn commands_are_found_and_their_long_words_are_not_taken_for_some() {
        assert_eq!(commands(HELP).expect("a list"), ["one", "two"]);
        assert!(commands("Usage: x\n").expect("no list").is_empty());
    }

    #[test]
    fn what_all_have_is_said_once() {
        assert!(shown(HELP, &[]).contains("--server"));
        let below = shown(HELP, &["one"]);
        assert!(
            !below.contains("--server") && below.contains("  -a\n") && below.ends_with("x one"),
            "{below}"
        );
    }
}
