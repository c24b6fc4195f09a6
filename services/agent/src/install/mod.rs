//! `skerry-agent install` and `uninstall`: a machine gets the agent as a service of systemd, or is rid of it, in one step.
//!
//! | file | job |
//! |---|---|
//! | `check` | what a machine must have, looked at before anything is changed |
//! | `settings` | the agent's flags as the file that the service reads |
//! | `unit` | the service |
//! | `step` | what is done to the machine, one by one: told by `--dry-run`, done otherwise, and nothing where it is so already |

mod check;
mod settings;
mod step;
mod unit;

use std::io::{self, Write};
use std::path::{Path, PathBuf};

use self::check::Finding;
use self::step::{Source, Step};
use crate::config::{AgentArgs, ConfigError, DockerAccess, Means, NodeTls};

const BINARY: &str = "/usr/local/bin/skerry-agent";
const SETTINGS_DIR: &str = "/etc/skerry";
const SETTINGS: &str = "/etc/skerry/agent.env";
const TOKEN: &str = "/etc/skerry/token";
const UNIT: &str = "/etc/systemd/system/skerry-agent.service";
const SERVICE: &str = "skerry-agent.service";

/// Flags of `skerry-agent install`: the agent's own, which it will be started with, and these.
#[derive(Debug, Clone, clap::Args)]
pub struct InstallArgs {
    #[command(flatten)]
    #[expect(missing_docs, reason = "clap would take them for the program's own description")]
    pub agent: AgentArgs,

    /// Do not start it, nor have it started at boot
    #[arg(long)]
    pub no_start: bool,
    #[command(flatten)]
    #[expect(missing_docs, reason = "clap would take them for the program's own description")]
    pub place: PlaceArgs,
}

/// Flags of `skerry-agent uninstall`.
#[derive(Debug, Clone, clap::Args)]
pub struct UninstallArgs {
    /// Remove what the agent knows, too: its identity and what it shall run
    #[arg(long)]
    pub purge: bool,

    /// Directory of the agent's state, for --purge
    #[arg(long, env = "SKERRY_AGENT_DATA_DIR", value_name = "DIR", default_value = crate::config::DATA_DIR_DEFAULT)]
    pub data_dir: PathBuf,
    #[command(flatten)]
    #[expect(missing_docs, reason = "clap would take them for the program's own description")]
    pub place: PlaceArgs,
}

/// Where, and whether at all.
#[derive(Debug, Clone, clap::Args)]
pub struct PlaceArgs {
    /// Say what would be done, and do nothing
    #[arg(long)]
    pub dry_run: bool,

    /// Treat this directory as the machine's root, as when an image is built: nothing is started
    #[arg(long, value_name = "DIR", default_value = "/")]
    pub root: PathBuf,
}

/// Why it was not installed, or not uninstalled.
#[derive(Debug, thiserror::Error)]
pub enum InstallError {
    /// The agent would not take these flags.
    #[error(transparent)]
    Config(#[from] ConfigError),
    /// The machine lacks something; each line names one.
    #[error("nothing was changed: this machine is not ready")]
    NotReady,
    /// A value that cannot stand in a file of settings.
    #[error("{0} has a line break or a zero in it")]
    Setting(&'static str),
    /// A path that was given.
    #[error("making a path absolute: {0}")]
    Path(io::Error),
    /// The program itself.
    #[error("finding this program: {0}")]
    Program(io::Error),
    /// A step.
    #[error("{doing}: {why}")]
    Step {
        /// What was being done.
        doing: String,
        /// Why it failed.
        why: String,
    },
    /// What is to be purged is no agent's.
    #[error("{0} holds no agent's state: name the right directory with --data-dir")]
    NotOurs(PathBuf),
    /// Standard output.
    #[error("writing what was done: {0}")]
    Output(#[from] io::Error),
}

/// Installs the agent, and tells on `out` what was found and done.
pub fn install(args: InstallArgs, out: &mut dyn Write) -> Result<(), InstallError> {
    let InstallArgs { mut agent, no_start, place } = args;
    settings::make_absolute(&mut agent).map_err(InstallError::Path)?;
    let config = agent.clone().into_config()?;
    let is_here = place.root == Path::new("/");
    let starts = is_here && !no_start;
    let findings = check::look(&check::Wanted {
        here: is_here,
        systemd: starts,
        docker: match &config.docker {
            DockerAccess::Socket(socket) => Some(socket.clone()),
            DockerAccess::Off => None,
        },
        data_dir: under(&place.root, &config.data_dir),
        enrolment: match &config.tls {
            Some(NodeTls(Means::Own(enrolment))) => Some((**enrolment).clone()),
            Some(NodeTls(Means::Files(..))) | None => None,
        },
    });
    for finding in &findings {
        writeln!(out, "{finding}")?;
    }
    if findings.iter().any(Finding::is_fatal) && !place.dry_run {
        return Err(InstallError::NotReady);
    }
    let program = std::env::current_exe().map_err(InstallError::Program)?;
    let steps = plan_install(&agent, &config.data_dir, program, starts)?;
    run(&steps, &place, out)
}

/// Undoes it, and tells on `out` what was done.
pub fn uninstall(args: UninstallArgs, out: &mut dyn Write) -> Result<(), InstallError> {
    let UninstallArgs { purge, data_dir, place } = args;
    let data = under(&place.root, &data_dir);
    // Never a directory that somebody named by mistake.
    if purge && data.exists() && !data.join("lock").exists() {
        return Err(InstallError::NotOurs(data));
    }
    let is_here = place.root == Path::new("/");
    let runs = is_here && Path::new(UNIT).exists() && check::has_systemd();
    run(&plan_uninstall(purge.then_some(data_dir.as_path()), runs), &place, out)?;
    writeln!(out, "programs and containers that the agent started run on")?;
    Ok(())
}

fn run(steps: &[Step], place: &PlaceArgs, out: &mut dyn Write) -> Result<(), InstallError> {
    for step in steps {
        if place.dry_run {
            writeln!(out, "would {}", step.text())?;
            continue;
        }
        let done = step.run(&place.root);
        let changed = done.map_err(|why| InstallError::Step { doing: step.text(), why })?;
        writeln!(out, "{}: {}", step.text(), if changed { "done" } else { "as it is" })?;
    }
    Ok(())
}

/// What makes a machine into one with an agent.
fn plan_install(
    agent: &AgentArgs,
    data_dir: &Path,
    program: PathBuf,
    starts: bool,
) -> Result<Vec<Step>, InstallError> {
    let token = match (&agent.enrol.token, &agent.enrol.token_file) {
        (Some(text), _) => Some(Source::Secret(text.clone())),
        (None, Some(path)) => Some(Source::File(path.clone())),
        (None, None) => None,
    };
    let settings = settings::text(agent, token.is_some())?;
    let mut steps = vec![
        Step::Directory { path: "/usr/local/bin".into(), mode: 0o755 },
        Step::Write { path: BINARY.into(), mode: 0o755, source: Source::File(program) },
        Step::Directory { path: SETTINGS_DIR.into(), mode: 0o700 },
    ];
    steps.extend(token.map(|source| Step::Write { path: TOKEN.into(), mode: 0o600, source }));
    steps.extend([
        Step::Write { path: SETTINGS.into(), mode: 0o600, source: Source::Text(settings) },
        Step::Directory { path: data_dir.into(), mode: 0o700 },
        Step::Directory { path: "/etc/systemd/system".into(), mode: 0o755 },
        Step::Write { path: UNIT.into(), mode: 0o644, source: Source::Text(unit::TEXT.to_owned()) },
    ]);
    if starts {
        steps.extend([
            Step::Run(&["systemctl", "daemon-reload"]),
            Step::Run(&["systemctl", "enable", SERVICE]),
            Step::Run(&["systemctl", "restart", SERVICE]),
        ]);
    }
    Ok(steps)
}

/// What undoes it. `purge`: the directory of the state. `runs`: systemd knows the service.
fn plan_uninstall(purge: Option<&Path>, runs: bool) -> Vec<Step> {
    let mut steps = Vec::new();
    if runs {
        steps.push(Step::Run(&["systemctl", "disable", "--now", SERVICE]));
    }
    steps.push(Step::Remove(UNIT.into()));
    if runs {
        steps.push(Step::Run(&["systemctl", "daemon-reload"]));
    }
    steps.extend([SETTINGS, TOKEN, SETTINGS_DIR, BINARY].map(|path| Step::Remove(path.into())));
    steps.extend(purge.map(|path| Step::RemoveTree(path.to_owned())));
    steps
}

/// `path` where `root` is the machine's root.
fn under(root: &Path, path: &Path) -> PathBuf {
    root.join(path.strip_prefix("/").unwrap_or(path))
}
