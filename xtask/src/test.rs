//! `cargo xtask test`: everything that CI checks, on a machine that has Rust and nothing else of ours.
//!
//! What it needs it installs where it may (`install`, `compose`), a Docker daemon it starts where none answers (`dockerd`). Every step runs
//! even when one before has failed, unless it cannot; nothing is skipped in silence.

mod clients;
pub(crate) mod compose;
mod dockerd;
mod install;

use std::time::{Duration, Instant};

use anyhow::{Result, bail};

use crate::{hello, sh, up::Interrupt};

/// Set to `1`, it lets the tests that need Docker pass without one. Read by `skerry_testing` too.
const NO_DOCKER: &str = "SKERRY_TEST_NO_DOCKER";

#[derive(clap::Args)]
pub(crate) struct Args {
    /// Install nothing; only name what is missing
    #[arg(long)]
    no_install: bool,
    /// Only these steps
    #[arg(value_enum)]
    steps: Vec<Step>,
}

/// The steps, cheap ones first.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
enum Step {
    Fmt,
    Tidy,
    Build,
    Codegen,
    Clippy,
    Doc,
    Deny,
    Unit,
    Integration,
    Compose,
    Clients,
    Demo,
}

const ALL: [Step; 12] = [
    Step::Fmt,
    Step::Tidy,
    Step::Build,
    Step::Codegen,
    Step::Clippy,
    Step::Doc,
    Step::Deny,
    Step::Unit,
    Step::Integration,
    Step::Compose,
    Step::Clients,
    Step::Demo,
];

/// How a step went.
enum Outcome {
    Passed,
    /// With the reason.
    Failed(String),
    /// Could not or need not run; with the reason, which the summary shows.
    NotRun(String),
}

pub(crate) fn run(args: &Args) -> Result<()> {
    let interrupt = Interrupt::listen()?;
    let steps = if args.steps.is_empty() { &ALL[..] } else { &args.steps };
    let needs_programs = steps.iter().any(|step| {
        matches!(step, Step::Unit | Step::Integration | Step::Compose | Step::Clients | Step::Demo)
    });
    let (mut notes, mut daemon) = (Vec::new(), None);
    if needs_programs {
        notes.extend(install::prepare(args.no_install)?);
        match dockerd::ensure(&interrupt) {
            Ok(started) => daemon = started,
            Err(error) => notes.push(no_docker(&error)),
        }
    }

    let mut results: Vec<(Step, Duration, Outcome)> = Vec::new();
    for step in steps {
        interrupt.check()?;
        println!("\n=== {} ===", name(*step));
        let start = Instant::now();
        let built =
            !results.iter().any(|(step, _, how)| *step == Step::Build && matches!(how, Outcome::Failed(_)));
        let outcome = if built || !needs_build(*step) {
            take(*step, args.no_install, &interrupt)
        } else {
            Outcome::NotRun("the build failed".to_owned())
        };
        let time = start.elapsed();
        if let Outcome::Failed(reason) = &outcome {
            println!("{reason}");
        }
        println!("--- {}: {} in {}", name(*step), word(&outcome), seconds(time));
        results.push((*step, time, outcome));
    }
    if let Some(daemon) = daemon {
        daemon.stop()?;
    }
    summary(&results, &notes)
}

/// What is said once where Docker cannot run.
fn no_docker(error: &anyhow::Error) -> String {
    if is_allowed(NO_DOCKER) {
        format!("NOT TESTED: everything that needs Docker, as {NO_DOCKER}=1 allows ({error:#})")
    } else {
        format!("no Docker, so its tests fail ({error:#}); {NO_DOCKER}=1 lets them pass untested")
    }
}

/// Whether a person has set the variable that allows to do without something.
fn is_allowed(name: &str) -> bool {
    std::env::var(name).is_ok_and(|value| value == "1")
}

fn take(step: Step, no_install: bool, interrupt: &Interrupt) -> Outcome {
    let result = match step {
        Step::Fmt => sh::run(sh::cargo().args(["fmt", "--all", "--check"])),
        Step::Tidy => crate::tidy::run(),
        Step::Build => sh::run(sh::cargo().args(["build", "--workspace", "--all-targets"])),
        Step::Codegen => codegen().and_then(|()| crate::reference::check()),
        Step::Clippy => {
            sh::run(sh::cargo().args(["clippy", "--workspace", "--all-targets", "--", "-D", "warnings"]))
        }
        Step::Doc => {
            sh::run(sh::cargo().env("RUSTDOCFLAGS", "-D warnings").args(["doc", "--workspace", "--no-deps"]))
        }
        Step::Deny => match sh::find("cargo-deny") {
            Some(_) => sh::run(sh::cargo().args(["deny", "--all-features", "check"])),
            None => {
                return Outcome::NotRun("cargo-deny is not installed (cargo install cargo-deny)".to_owned());
            }
        },
        Step::Unit => sh::run(sh::cargo().args([
            "test",
            "--workspace",
            "--exclude=skerry-integration",
            "--no-fail-fast",
        ])),
        // Compose's test has a step of its own.
        Step::Integration => {
            let mut tests = sh::cargo();
            tests.args(["test", "--package=skerry-integration", "--no-fail-fast"]);
            sh::run(tests.env(compose::NO_COMPOSE, "1"))
        }
        Step::Compose if is_allowed(compose::NO_COMPOSE) => {
            return Outcome::NotRun(format!("as {}=1 allows", compose::NO_COMPOSE));
        }
        Step::Compose => match compose::ensure(no_install) {
            Ok(program) => {
                let mut tests = sh::cargo();
                tests.args(["test", "--package=skerry-integration", "--test=compose"]);
                sh::run(compose::name_to(&mut tests, &program))
            }
            Err(error) => return Outcome::NotRun(format!("{error:#}")),
        },
        Step::Clients => clients::run(interrupt),
        Step::Demo => demo(),
    };
    result.map_or_else(|error| Outcome::Failed(format!("{error:#}")), |()| Outcome::Passed)
}

/// The generator as the workspace's build left it: `cargo run` would build its dependencies again with other features.
fn codegen() -> Result<()> {
    let built = sh::target_dir()?.join("debug/skerry-codegen");
    if built.is_file() {
        return sh::run(sh::command(built).arg("--check"));
    }
    sh::run(sh::cargo().args(["run", "--quiet", "--package=skerry-codegen", "--", "--check"]))
}

/// Once with what is there, and where that is Docker, once more without it.
fn demo() -> Result<()> {
    // By its place, not as the program that runs: the build may have replaced that one's file.
    let xtask = sh::target_dir()?.join("debug/xtask");
    let demo = |arguments: &[&str]| {
        sh::run(sh::command(&xtask).args(["demo", "--once", "--no-build"]).args(arguments))
    };
    demo(&[])?;
    if hello::docker_answers().is_ok() { demo(&["--no-docker"]) } else { Ok(()) }
}

fn needs_build(step: Step) -> bool {
    !matches!(step, Step::Fmt | Step::Tidy | Step::Build | Step::Deny)
}

fn name(step: Step) -> &'static str {
    match step {
        Step::Fmt => "formatting",
        Step::Tidy => "tidy",
        Step::Build => "build",
        Step::Codegen => "generated code and documents",
        Step::Clippy => "clippy",
        Step::Doc => "documentation",
        Step::Deny => "licences, bans, advisories",
        Step::Unit => "unit tests",
        Step::Integration => "integration tests",
        Step::Compose => "stack in containers",
        Step::Clients => "Python and Node clients",
        Step::Demo => "demo",
    }
}

fn word(outcome: &Outcome) -> &'static str {
    match outcome {
        Outcome::Passed => "passed",
        Outcome::Failed(_) => "FAILED",
        Outcome::NotRun(_) => "NOT RUN",
    }
}

fn seconds(time: Duration) -> String {
    format!("{:.1} s", time.as_secs_f64())
}

fn summary(results: &[(Step, Duration, Outcome)], notes: &[String]) -> Result<()> {
    println!("\n=== summary ===");
    for (step, time, outcome) in results {
        let reason = match outcome {
            Outcome::Passed => String::new(),
            Outcome::Failed(reason) | Outcome::NotRun(reason) => {
                format!("  {}", reason.lines().next().unwrap_or_default())
            }
        };
        println!("{:<40} {:>8}  {:>8}{reason}", name(*step), word(outcome), seconds(*time));
    }
    for note in notes {
        println!("{note}");
    }
    let failed = results.iter().filter(|(step, _, outcome)| match outcome {
        Outcome::Passed => false,
        Outcome::Failed(_) => true,
        // The walls and licences are held by tidy and by review where cargo-deny is not at hand.
        Outcome::NotRun(_) => {
            *step != Step::Deny && !(*step == Step::Compose && is_allowed(compose::NO_COMPOSE))
        }
    });
    match failed.count() {
        0 => Ok(()),
        count => bail!("{count} of {} steps failed", results.len()),
    }
}
