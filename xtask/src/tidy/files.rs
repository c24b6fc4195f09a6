//! Rules on files: heads, sizes, what must not be left in, how manifests name versions, how the README opens.

use std::{
    fs,
    path::{Path, PathBuf},
};

use anyhow::{Context, Result};

/// The hard bound; most files are under 400.
const LINES_MAX: usize = 600;
/// Within so many lines the README says how to see it run and how to test it.
const README_OPENING_LINES: usize = 40;
const README_COMMANDS: [&str; 2] = ["cargo xtask demo", "cargo xtask test"];
/// Directories that hold nothing of ours.
const FOREIGN: [&str; 5] = ["target", ".git", ".venv", "__pycache__", "node_modules"];
/// Written by `cargo xtask codegen`.
const GENERATED: &str = "crates/proto/src/gen";

/// What must not be in a Rust file. Spelled apart, so that this file may stand under its own rules.
const LEFT_OVER: [(&str, &str); 4] = [
    (concat!("#[", "ignore"), "a test that is never run"),
    (concat!("to", "do!("), "unfinished"),
    (concat!("unimpl", "emented!("), "unfinished"),
    (concat!("FIX", "ME"), "unfinished"),
];
/// Beginnings of paths that exist on somebody's machine only.
const HOMES: [&str; 4] =
    [concat!("/ro", "ot/"), concat!("/ho", "me/"), concat!("/Us", "ers/"), concat!("/wo", "rk/")];
/// Files that people write, by extension. Others (descriptors, images, locks) are not looked into.
const TEXT: [&str; 12] =
    ["rs", "toml", "md", "proto", "py", "mjs", "sh", "yaml", "yml", "txt", "json", "lock"];

/// The faults of all files under `root`.
pub(super) fn check(root: &Path) -> Result<Vec<String>> {
    let mut faults = Vec::new();
    let mut files = Vec::new();
    find(root, Path::new(""), &mut files)?;
    for path in files {
        let text_extension = path.extension().is_some_and(|end| TEXT.iter().any(|text| end == *text));
        let script = path.extension().is_none() && (path.starts_with(".ci") || path.starts_with("xtask"));
        if !text_extension && !script {
            continue;
        }
        let text =
            fs::read_to_string(root.join(&path)).with_context(|| format!("reading {}", path.display()))?;
        let found = judge(&path, &text);
        faults.extend(found.into_iter().map(|fault| format!("{}{fault}", path.display())));
    }
    if !root.join("README.md").is_file() {
        faults.push("README.md: is missing".to_owned());
    }
    Ok(faults)
}

fn find(root: &Path, dir: &Path, files: &mut Vec<PathBuf>) -> Result<()> {
    let full = root.join(dir);
    for entry in fs::read_dir(&full).with_context(|| format!("reading {}", full.display()))? {
        let entry = entry?;
        let path = dir.join(entry.file_name());
        if entry.file_type()?.is_dir() {
            let foreign = FOREIGN.iter().any(|name| entry.file_name() == *name);
            if !foreign && path != Path::new(GENERATED) {
                find(root, &path, files)?;
            }
        } else {
            files.push(path);
        }
    }
    Ok(())
}

/// Each fault begins with `:line: ` or `: `, to stand behind the file's name.
fn judge(path: &Path, text: &str) -> Vec<String> {
    let mut faults = machine_paths(text);
    if path.extension().is_some_and(|end| end == "rs") {
        faults.extend(rust(text));
    }
    if path.file_name().is_some_and(|name| name == "Cargo.toml") && path != Path::new("Cargo.toml") {
        faults.extend(manifest(text));
    }
    if path == Path::new("README.md") {
        faults.extend(readme(text));
    }
    faults
}

fn rust(text: &str) -> Vec<String> {
    let mut faults = Vec::new();
    if !text.starts_with("//!") {
        faults.push(": opens without `//!` saying its job".to_owned());
    }
    let lines = text.lines().count();
    if lines > LINES_MAX {
        faults.push(format!(": has {lines} lines, more than {LINES_MAX}"));
    }
    for (index, line) in text.lines().enumerate() {
        for (word, why) in LEFT_OVER {
            if line.contains(word) {
                faults.push(format!(":{}: `{word}`: {why}", index + 1));
            }
        }
    }
    faults
}

fn machine_paths(text: &str) -> Vec<String> {
    let mut faults = Vec::new();
    for (index, line) in text.lines().enumerate() {
        for home in HOMES {
            let begins = |at: usize| {
                let before = line[..at].chars().next_back();
                before.is_none_or(|char| !(char.is_alphanumeric() || "/._-~}*".contains(char)))
            };
            if line.match_indices(home).any(|(at, _)| begins(at)) {
                faults.push(format!(":{}: `{home}...` is a path of one machine", index + 1));
            }
        }
    }
    faults
}

/// Versions are named once, in the manifest of the workspace (the fuzzers have one of their own).
fn manifest(text: &str) -> Vec<String> {
    let mut faults = Vec::new();
    let mut in_dependencies = false;
    let mut table: Option<(usize, String, bool)> = None;
    let mut close = |table: &mut Option<(usize, String, bool)>| {
        if let Some((line, name, inherited)) = table.take()
            && !inherited
        {
            faults.push(format!(":{line}: {name} does not take its version from the workspace"));
        }
    };
    let mut direct = Vec::new();
    for (index, line) in text.lines().enumerate() {
        let line = line.split('#').next().unwrap_or_default().trim();
        if let Some(header) = line.strip_prefix('[').and_then(|line| line.strip_suffix(']')) {
            close(&mut table);
            let (section, name) =
                header.rsplit_once("dependencies.").map_or((header, None), |(head, name)| (head, Some(name)));
            in_dependencies =
                name.is_none() && section.ends_with("dependencies") && section != "workspace.dependencies";
            table = name.map(|name| (index + 1, name.to_owned(), false));
        } else if let Some((_, _, inherited)) = &mut table {
            *inherited |= line.replace(' ', "") == "workspace=true";
        } else if in_dependencies && line.contains('=') {
            let plain = line.replace(' ', "");
            if !plain.contains(".workspace=true")
                && !plain.contains("workspace=true,")
                && !plain.contains("workspace=true}")
            {
                let name = plain.split(['=', '.']).next().unwrap_or_default().to_owned();
                direct.push(format!(":{}: {name} does not take its version from the workspace", index + 1));
            }
        }
    }
    close(&mut table);
    faults.extend(direct);
    faults
}

fn readme(text: &str) -> Vec<String> {
    let opening: Vec<&str> = text.lines().take(README_OPENING_LINES).collect();
    let missing =
        README_COMMANDS.iter().filter(|command| !opening.iter().any(|line| line.contains(*command)));
    missing
        .map(|command| format!(": its first {README_OPENING_LINES} lines do not show `{command}`"))
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_rust_file_opens_with_its_job() {
        assert!(rust("//! A job.\nfn main() {}\n").is_empty());
        assert_eq!(rust("fn main() {}\n").len(), 1);
        assert_eq!(rust("").len(), 1);
    }

    #[test]
    fn a_rust_file_has_at_most_600_lines() {
        assert!(rust(&"//! x\n".repeat(LINES_MAX)).is_empty());
        assert_eq!(rust(&"//! x\n".repeat(LINES_MAX + 1)).len(), 1);
    }

    #[test]
    fn nothing_unfinished_is_left_in() {
        for (word, _) in LEFT_OVER {
            let found = rust(&format!("//! x\nfn f() {{ {word} }}\n"));
            assert_eq!(found.len(), 1, "{word}: {found:?}");
            assert!(found[0].starts_with(":2: "), "{found:?}");
        }
    }

    #[test]
    fn paths_of_one_machine_are_found_and_others_are_not() {
        for home in HOMES {
            assert_eq!(machine_paths(&format!("see {home}me")).len(), 1);
            assert_eq!(machine_paths(&format!("\"{home}me\"")).len(), 1);
            assert!(machine_paths(&format!("https://example.org{home}me")).is_empty());
            assert!(machine_paths(&format!("$DIR{home}me or x{home}")).is_empty());
        }
        assert!(machine_paths("/var/lib/skerry and /tmp/x").is_empty());
    }

    #[test]
    fn versions_come_from_the_workspace() {
        let good = "[package]\nversion = \"1\"\n[dependencies]\na.workspace = true\nb = { workspace = true, features = [\"x\"] } # why\n\
                    c = { workspace = true }\n[dev-dependencies.d]\nworkspace = true\n[features]\nx = []\n";
        assert!(manifest(good).is_empty(), "{:?}", manifest(good));
        assert_eq!(manifest("[dependencies]\na = \"1\"\n").len(), 1);
        assert_eq!(manifest("[dev-dependencies]\na = { version = \"1\" }\n").len(), 1);
        assert_eq!(manifest("[target.'cfg(unix)'.dependencies]\na = { path = \"../a\" }\n").len(), 1);
        assert_eq!(manifest("[dependencies.a]\nversion = \"1\"\n[features]\n").len(), 1);
        assert!(manifest("[workspace.dependencies]\na = \"1\"\n").is_empty());
        assert_eq!(manifest("[dependencies.a]\ngit = \"x\"\n").len(), 1);
    }

    #[test]
    fn the_readme_opens_with_the_two_commands() {
        assert!(readme("# Skerry\n    cargo xtask demo\n    cargo xtask test\n").is_empty());
        assert_eq!(readme("# Skerry\n    cargo xtask demo\n").len(), 1);
        let late = format!("{}cargo xtask demo\ncargo xtask test\n", "\n".repeat(README_OPENING_LINES));
        assert_eq!(readme(&late).len(), 2);
    }
}
