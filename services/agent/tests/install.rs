//! `skerry-agent install` and `uninstall`, into a root of their own.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on panics")]

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::process::Command;

use skerry_identity::KeyId;
use skerry_identity::token::Token;

const BINARY: &str = env!("CARGO_BIN_EXE_skerry-agent");

/// Runs the program; exit code and what it said.
fn agent(root: &Path, words: &[&str]) -> (Option<i32>, String) {
    let mut command = Command::new(BINARY);
    command.arg(words[0]).arg("--root").arg(root).args(&words[1..]);
    for (name, _) in std::env::vars().filter(|(name, _)| name.starts_with("SKERRY_") || name == "DOCKER_HOST")
    {
        command.env_remove(name);
    }
    let output = command.output().unwrap();
    (output.status.code(), String::from_utf8([output.stdout, output.stderr].concat()).unwrap())
}

/// Each file under `root`, with its mode.
fn files(root: &Path) -> BTreeMap<PathBuf, u32> {
    let mut found = BTreeMap::new();
    let mut left = vec![root.to_owned()];
    while let Some(dir) = left.pop() {
        for entry in fs::read_dir(dir).unwrap().map(Result::unwrap) {
            let metadata = entry.metadata().unwrap();
            if metadata.is_dir() {
                left.push(entry.path());
            } else {
                let path = entry.path().strip_prefix(root).unwrap().to_owned();
                found.insert(path, metadata.permissions().mode() & 0o7777);
            }
        }
    }
    found
}

fn token() -> String {
    Token::generate(KeyId::from_bytes([7; 32])).unwrap().reveal().to_string()
}

#[test]
fn what_is_installed_is_the_program_its_settings_and_the_service_and_again_it_is_as_it_is() {
    let (root, token) = (tempfile::tempdir().unwrap(), token());
    let words =
        ["install", "--gateway", "https://a:1,https://b:2", "--token", &token, "--node", "n1", "--no-docker"];
    let (code, said) = agent(root.path(), &words);
    assert_eq!(code, Some(0), "{said}");
    assert!(!said.contains(&token), "the token is printed");
    let wanted = [
        ("etc/skerry/agent.env", 0o600),
        ("etc/skerry/token", 0o600),
        ("etc/systemd/system/skerry-agent.service", 0o644),
        ("usr/local/bin/skerry-agent", 0o755),
    ];
    assert_eq!(files(root.path()), wanted.map(|(path, mode)| (path.into(), mode)).into());
    let settings = fs::read_to_string(root.path().join("etc/skerry/agent.env")).unwrap();
    let settings: Vec<&str> = settings.lines().skip(1).collect();
    assert_eq!(
        settings,
        [
            "SKERRY_GATEWAY=https://a:1,https://b:2",
            "SKERRY_NODE=n1",
            "SKERRY_TOKEN_FILE=/etc/skerry/token",
            "SKERRY_NO_DOCKER=true",
        ]
    );
    assert_eq!(fs::read_to_string(root.path().join("etc/skerry/token")).unwrap(), token);
    assert!(root.path().join("var/lib/skerry/agent").is_dir());
    // What was copied is the program.
    let copied = root.path().join("usr/local/bin/skerry-agent");
    assert_eq!(fs::metadata(copied).unwrap().len(), fs::metadata(BINARY).unwrap().len());

    let (code, said) = agent(root.path(), &words);
    assert_eq!(code, Some(0), "{said}");
    assert!(!said.contains(": done") && said.contains(": as it is"), "{said}");

    // Uninstalled, all is gone but what the agent knows, and again nothing is left to do.
    let data = root.path().join("var/lib/skerry/agent");
    fs::write(data.join("lock"), "").unwrap();
    let (code, said) = agent(root.path(), &["uninstall"]);
    assert_eq!(code, Some(0), "{said}");
    assert_eq!(files(root.path()).len(), 1);
    let (code, said) = agent(root.path(), &["uninstall"]);
    assert!(code == Some(0) && !said.contains(": done"), "{said}");
    let (code, said) = agent(root.path(), &["uninstall", "--purge"]);
    assert!(code == Some(0) && !data.exists(), "{said}");
}

#[test]
fn a_dry_run_says_everything_and_does_nothing() {
    let (root, token) = (tempfile::tempdir().unwrap(), token());
    let words = ["install", "--dry-run", "--gateway", "https://a:1", "--token", &token];
    let (code, said) = agent(root.path(), &words);
    assert_eq!(code, Some(0), "{said}");
    assert!(said.contains("would write /etc/systemd/system/skerry-agent.service (mode 0644)"), "{said}");
    assert!(files(root.path()).is_empty());
}

#[test]
fn what_could_not_work_is_not_installed() {
    let root = tempfile::tempdir().unwrap();
    for (words, told) in [
        (&["install"][..], "name at least one gateway"),
        (&["install", "--gateway", "https://a:1"], "this machine is not enrolled"),
        (&["install", "--gateway", "https://a:1", "--token", "skt1_cut"], "--token: an enrolment token has"),
    ] {
        let (code, said) = agent(root.path(), words);
        assert!(code == Some(1) && said.contains(told), "{words:?}: {said}");
    }
    assert!(files(root.path()).is_empty());

    // And a directory that is no agent's is not purged.
    let data = root.path().join("var/lib/skerry/agent");
    fs::create_dir_all(&data).unwrap();
    fs::write(data.join("precious"), "").unwrap();
    let (code, said) = agent(root.path(), &["uninstall", "--purge"]);
    assert!(code == Some(1) && said.contains("holds no agent's state"), "{said}");
    assert!(data.join("precious").exists());
}

#[test]
fn the_service_lets_programs_survive_and_is_always_started_again() {
    let root = tempfile::tempdir().unwrap();
    let (code, said) = agent(root.path(), &["install", "--gateway", "http://127.0.0.1:1", "--insecure"]);
    assert_eq!(code, Some(0), "{said}");
    let unit = root.path().join("etc/systemd/system/skerry-agent.service");
    let text = fs::read_to_string(&unit).unwrap();
    let mut section = String::new();
    let mut settings = BTreeMap::new();
    for line in text.lines().filter(|line| !line.is_empty() && !line.starts_with('#')) {
        if let Some(name) = line.strip_prefix('[').and_then(|line| line.strip_suffix(']')) {
            section = name.to_owned();
            continue;
        }
        let (key, value) = line.split_once('=').unwrap();
        assert_eq!(settings.insert(format!("{section}.{key}"), value), None, "{key} stands there twice");
    }
    for (key, value) in [
        ("Service.ExecStart", "/usr/local/bin/skerry-agent"),
        ("Service.EnvironmentFile", "/etc/skerry/agent.env"),
        ("Service.KillMode", "process"),
        ("Service.Restart", "always"),
        ("Service.Delegate", "yes"),
        ("Unit.StartLimitIntervalSec", "0"),
        ("Install.WantedBy", "multi-user.target"),
    ] {
        assert_eq!(settings.get(key), Some(&value), "{key}");
    }
    // Where systemd is installed, it says itself what it thinks.
    if let Some(analyze) = skerry_testing::find_program("systemd-analyze") {
        let copy = root.path().join("skerry-agent.service");
        fs::write(&copy, text.replace("/usr/local/bin/skerry-agent", BINARY)).unwrap();
        let output = Command::new(analyze).arg("verify").arg(&copy).output().unwrap();
        let said = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success() && !said.contains("skerry-agent.service"), "{said}");
    }
}

#[test]
fn files_are_named_from_the_root_on_wherever_the_flags_were_typed() {
    let root = tempfile::tempdir().unwrap();
    let words = ["install", "--gateway", "https://a:1", "--token", &token(), "--no-docker"];
    let relative = ["--data-dir", "state", "--docker-config", "./docker.json"];
    let (code, said) = agent(root.path(), &[&words[..], &relative].concat());
    assert_eq!(code, Some(0), "{said}");
    let settings = fs::read_to_string(root.path().join("etc/skerry/agent.env")).unwrap();
    let here = std::env::current_dir().unwrap();
    for line in [
        format!("SKERRY_AGENT_DATA_DIR={}", here.join("state").display()),
        format!("SKERRY_DOCKER_CONFIG={}", here.join("docker.json").display()),
    ] {
        assert!(settings.contains(&line), "{line}: {settings}");
    }
    assert!(root.path().join(here.join("state").strip_prefix("/").unwrap()).is_dir());
}

#[test]
fn a_token_file_that_is_not_there_is_told_before_anything_is_done() {
    let root = tempfile::tempdir().unwrap();
    let words = ["install", "--gateway", "https://a:1", "--token-file", "/nonexistent/token", "--no-docker"];
    let (code, said) = agent(root.path(), &words);
    assert_eq!(code, Some(1), "{said}");
    assert!(
        said.contains("--token-file /nonexistent/token") && said.contains("nothing was changed"),
        "{said}"
    );
    assert!(files(root.path()).is_empty(), "{said}");
}
