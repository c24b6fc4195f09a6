//! The `skerry` binary: the client commands, `up` (everything in one process), `etcd` (the embedded store alone) and `authority`.
//!
//! What each command does is in `skerry-cli`, [`up`], [`etcd`] and [`mod@authority`].

mod authority;
mod etcd;
mod files;
mod store;
mod up;

use std::io::Write as _;
use std::path::PathBuf;
use std::process::ExitCode;

use clap::error::{ContextKind, ContextValue};
use clap::{Args, CommandFactory, FromArgMatches, Parser, Subcommand, ValueEnum};
use clap_complete::env::{Bash, CompleteEnv, EnvCompleter, Fish, Shells, Zsh};
use skerry_cli::{ClientCommand, EXIT_CODES_HELP, GlobalArgs, TlsFlags};
use skerry_daemon::{Telemetry, TlsArgs};
use skerry_model::ProjectName;
use tracing::Instrument as _;

const EXAMPLES: &str = "\
Examples:
  skerry up                                     everything in one process, on this machine
  skerry apply -f app.yaml                      run an app on every node that matches
  skerry wait app/hello --for=healthy
  skerry get nodes -w
  skerry describe app/hello
  skerry explain app.spec.services              what can be written in a manifest
  source <(skerry completion bash)              completions for this shell";

/// Programs on edge machines, managed from the cloud
#[derive(Debug, Parser)]
#[command(name = "skerry", version, after_help = format!("{EXAMPLES}\n\n{EXIT_CODES_HELP}"))]
struct Cli {
    #[command(flatten)]
    global: GlobalArgs,
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    #[command(flatten)]
    Client(ClientCommand),
    /// Run everything in one process: control plane, embedded etcd, and an agent for this machine
    Up(Box<up::UpArgs>),
    /// Run the embedded etcd alone
    Etcd(etcd::EtcdArgs),
    /// Make the installation's own authority and care for it, and issue certificates for services and users
    Authority(Box<authority::AuthorityArgs>),
    /// Print what makes a shell complete commands, flags and the names of resources
    Completion(CompletionArgs),
}

/// `completion`
#[derive(Debug, Args)]
#[command(after_help = "\
The shell then asks this very program at each Tab; names come from the server that the typed line means.

Examples:
  echo 'source <(skerry completion bash)' >> ~/.bashrc
  echo 'source <(skerry completion zsh)' >> ~/.zshrc
  skerry completion fish > ~/.config/fish/completions/skerry.fish")]
struct CompletionArgs {
    /// Which shell
    #[arg(value_enum)]
    shell: Shell,
}

/// The shells that are completed for.
#[derive(Debug, Clone, Copy, ValueEnum)]
enum Shell {
    Bash,
    Zsh,
    Fish,
}

/// Set by the scripts of `completion` for each question. Not `COMPLETE`, which other programs listen to as well.
const COMPLETE_VARIABLE: &str = "SKERRY_COMPLETE";

fn main() -> ExitCode {
    // First of all: processes that the agent runs are held by this binary again, without a runtime.
    skerry_agent::run_shim_if_asked();
    CompleteEnv::with_factory(command)
        .var(COMPLETE_VARIABLE)
        .shells(Shells(&[&Bash, &Zsh, &Fish]))
        .complete();
    let matches = command().try_get_matches().unwrap_or_else(|error| {
        match foreign(&error) {
            Some(text) => eprintln!("{text}"),
            None => {
                let _ = error.print();
            }
        }
        std::process::exit(exit_code(&error, std::env::args()));
    });
    let name = matches.subcommand_name().unwrap_or_default().to_owned();
    let cli = Cli::from_arg_matches(&matches).unwrap_or_else(|error| error.exit());
    match cli.command {
        Command::Client(command) => client(&name, &cli.global, &command),
        Command::Up(args) => {
            let tls = up_tls(&cli.global.tls);
            let project = cli.global.project;
            let log = args.log.clone();
            let scraped = args.metrics_listen.is_some();
            skerry_daemon::run("skerry", &log, scraped, |shutdown| up::run(*args, project, tls, shutdown))
        }
        // It would be a listener that looks guarded and is not.
        Command::Etcd(_) if cli.global.tls != TlsFlags::default() => {
            eprintln!("error: skerry etcd has no TLS: --tls-cert, --tls-key and --tls-ca are not for it");
            ExitCode::from(2)
        }
        Command::Etcd(args) => {
            let log = args.log.clone();
            skerry_daemon::run("skerry-etcd", &log, false, |shutdown| etcd::run(args, shutdown))
        }
        Command::Authority(args) => authority(*args, cli.global.project),
        Command::Completion(args) => completion(args.shell),
    }
}

/// Of what cannot be read. Where a command was to run in an instance, it is not mistaken for that one's.
fn exit_code(error: &clap::Error, words: impl Iterator<Item = String>) -> i32 {
    let all = command();
    let known = |word: &String| all.find_subcommand(word).is_some();
    let meant = words.skip(1).take_while(|word| word != "--").find(known);
    match (error.exit_code(), meant.as_deref()) {
        (0, _) => 0,
        (_, Some("exec" | "debug")) => i32::from(skerry_cli::EXEC_FAILED),
        (code, _) => code,
    }
}

/// What to say of a word that is another program's, as `skerry attach` or `-n`.
fn foreign(error: &clap::Error) -> Option<String> {
    let given = |kind| match error.get(kind) {
        Some(ContextValue::String(text)) => Some(text.as_str()),
        _ => None,
    };
    if let Some(word) = given(ContextKind::InvalidSubcommand) {
        return skerry_cli::foreign::command(word)
            .map(|hint| format!("error: there is no command {word:?}; {hint}"));
    }
    let flag = given(ContextKind::InvalidArg)?;
    skerry_cli::foreign::flag(flag).map(|hint| format!("error: there is no flag {flag} here; {hint}"))
}

/// Works on the store, and asks no server.
fn authority(args: authority::AuthorityArgs, project: Option<String>) -> ExitCode {
    let done = project_of(project).and_then(|project| {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        runtime.block_on(authority::run(args, &project))
    });
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {}", skerry_daemon::told(&error));
            ExitCode::FAILURE
        }
    }
}

/// The project that a flag or the environment names, else the usual one.
pub(crate) fn project_of(flag: Option<String>) -> anyhow::Result<ProjectName> {
    let from_environment = || std::env::var("SKERRY_PROJECT").ok().filter(|name| !name.is_empty());
    Ok(ProjectName::parse(&flag.or_else(from_environment).unwrap_or_else(|| "default".to_owned()))?)
}

/// The TLS files of `up`: the flags are those of every command, the variables those of every service.
fn up_tls(flags: &TlsFlags) -> TlsArgs {
    let given = |flag: &Option<PathBuf>, name: &str| {
        let variable = || std::env::var_os(name).filter(|value| !value.is_empty()).map(PathBuf::from);
        flag.clone().or_else(variable)
    };
    TlsArgs {
        tls_cert: given(&flags.tls_cert, "SKERRY_TLS_CERT"),
        tls_key: given(&flags.tls_key, "SKERRY_TLS_KEY"),
        tls_ca: given(&flags.tls_ca, "SKERRY_TLS_CA"),
    }
}

/// Runs a client command; where the environment names a collector, as the first span of its trace.
fn client(name: &str, global: &GlobalArgs, command: &ClientCommand) -> ExitCode {
    let failed = |error: &dyn std::fmt::Display| {
        eprintln!("error: {error}");
        ExitCode::FAILURE
    };
    let runtime = match tokio::runtime::Builder::new_current_thread().enable_all().build() {
        Ok(runtime) => runtime,
        Err(error) => return failed(&format!("cannot start: {error}")),
    };
    // The variable may be meant for other programs.
    let telemetry = Telemetry::of_client("skerry-cli").unwrap_or_else(|error| {
        eprintln!("{error}; this command is not traced, and with OTEL_SDK_DISABLED=true it does not say so");
        Telemetry::default()
    });
    let span = tracing::info_span!("command", otel.name = format!("skerry {name}"), otel.kind = "client");
    runtime.block_on(telemetry.during(skerry_cli::run(global, command).instrument(span)))
}

/// What can be typed. `up` logs warnings only, unless told otherwise: what it says itself is enough for people.
fn command() -> clap::Command {
    Cli::command().mut_subcommand("up", |up| up.mut_arg("filter", |filter| filter.default_value("warn")))
}

fn completion(shell: Shell) -> ExitCode {
    match std::io::stdout().write_all(&registration(shell)) {
        Err(error) if error.kind() != std::io::ErrorKind::BrokenPipe => ExitCode::FAILURE,
        _ => ExitCode::SUCCESS,
    }
}

/// The script that a shell reads at its start.
fn registration(shell: Shell) -> Vec<u8> {
    let completer: &dyn EnvCompleter = match shell {
        Shell::Bash => &Bash,
        Shell::Zsh => &Zsh,
        Shell::Fish => &Fish,
    };
    let mut script = Vec::new();
    completer
        .write_registration(COMPLETE_VARIABLE, "skerry", "skerry", "skerry", &mut script)
        .expect("writing to memory");
    script
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_commands_are_well_formed() {
        command().debug_assert();
    }

    #[test]
    fn up_logs_warnings_and_its_help_says_so() {
        let filter = |words: &[&str]| {
            let matches = command().try_get_matches_from(words).expect("valid");
            match Cli::from_arg_matches(&matches).expect("valid").command {
                Command::Up(args) => args.log.filter.to_string(),
                other => panic!("{other:?}"),
            }
        };
        assert_eq!(filter(&["skerry", "up"]), "warn");
        assert_eq!(filter(&["skerry", "up", "--log", "info"]), "info");
        let mut all = command();
        let help = all.find_subcommand_mut("up").expect("a command").render_long_help().to_string();
        assert!(help.contains("[default: warn]"), "{help}");
    }

    #[test]
    fn words_of_other_programs_are_told_what_there_is_here() {
        let told = |words: &[&str]| {
            foreign(&command().try_get_matches_from(words).expect_err("refused")).unwrap_or_default()
        };
        assert!(told(&["skerry", "attach", "web"]).starts_with("error: there is no command \"attach\"; "));
        for words in [["skerry", "get", "apps", "-n", "x"], ["skerry", "get", "apps", "--namespace", "x"]] {
            assert!(told(&words).ends_with("--project NAME"), "{words:?}");
        }
        assert_eq!(told(&["skerry", "nonsense"]), "");
        assert_eq!(told(&["skerry", "get", "apps", "--nonsense"]), "");
    }

    #[test]
    fn wrong_usage_of_exec_is_no_exit_code_of_a_command() {
        let code = |words: &[&str]| {
            let error = command().try_get_matches_from(words).expect_err("refused");
            exit_code(&error, words.iter().map(ToString::to_string))
        };
        assert_eq!(code(&["skerry", "exec"]), 125);
        assert_eq!(code(&["skerry", "-p", "x", "exec", "app/a", "--nosuch", "--", "ls"]), 125);
        assert_eq!(code(&["skerry", "exec", "--help"]), 0);
        assert_eq!(code(&["skerry", "get", "--nosuch", "exec"]), 2);
    }

    #[test]
    fn global_flags_stand_before_or_after_the_command() {
        for words in [["skerry", "-p", "x", "get", "nodes"], ["skerry", "get", "nodes", "-p", "x"]] {
            let cli = Cli::try_parse_from(words).expect("valid");
            assert_eq!(cli.global.project.as_deref(), Some("x"));
        }
    }

    #[test]
    fn every_shell_is_told_to_ask_this_program() {
        for shell in [Shell::Bash, Shell::Zsh, Shell::Fish] {
            let script = String::from_utf8(registration(shell)).expect("text");
            assert!(script.contains(COMPLETE_VARIABLE) && script.contains("skerry"), "{shell:?}: {script}");
        }
    }
}
