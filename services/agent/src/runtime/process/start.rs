//! Starting an instance: laid out and handed to a shim under its lock, in one step that nothing interrupts.

use std::fs::OpenOptions;
use std::io::PipeReader;
use std::os::fd::OwnedFd;
use std::os::unix::fs::OpenOptionsExt as _;
use std::os::unix::process::CommandExt as _;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use skerry_model::app::{Process, Program, normal_path};
use skerry_model::env_file::VARIABLE_BYTES_MAX;
use tokio::io::AsyncReadExt as _;
use tokio::net::unix::pipe;
use tokio::time::timeout;

use super::cgroup::Hierarchies;
use super::error::{failed, io_failed, shim_failed};
use super::inspect::{Phase, View};
use super::layout::{config_files, lay_out, make_dir, open_state, take_away, try_lock};
use super::{Config, artifacts, user};
use crate::desired::InstanceSpec;
use crate::gpu::{none_visible, noted};
use crate::runtime::RuntimeError;
use crate::runtime::environment::{Environment, Variables};
use crate::secrets::Secrets;
use crate::shim::files::{Launch, SHIM_LOG, forget_run, write_secret_env};
use crate::shim::{FAILED, STARTED, WORD};

/// How long a shim may take to say what came of it.
const START_WAIT: Duration = Duration::from_secs(15);
/// The longest that it says, in bytes.
const ANSWER_BYTES_MAX: u64 = 4096;

/// What came of laying out and spawning.
pub(super) enum Spawned {
    /// A shim is on its way; it answers here.
    Shim { child: Child, answer: PipeReader },
    /// Something of the instance runs or holds its lock: nothing was touched.
    Held,
}

/// The process that `spec` is to run.
pub(super) fn process_of(spec: &InstanceSpec) -> Result<&Process, RuntimeError> {
    match &spec.service.program {
        Program::Process(process) => Ok(process),
        Program::Container(_) => Err(failed("WrongRuntime", "a container cannot run as a process", false)),
    }
}

/// What is written down for the shim. Blocks on the machine's files of users.
pub(super) fn launch_of(
    spec: &InstanceSpec,
    mut variables: Variables,
    config: &Config,
    boot: &str,
) -> Result<Launch, RuntimeError> {
    let process = process_of(spec)?;
    let granted = config.gpus.of(spec)?;
    match &granted {
        Some(granted) => variables.extend(granted.variables(granted.pipe.as_deref())),
        None if config.gpus.has_gpus() => {
            for (name, value) in none_visible() {
                variables.entry(name).or_insert(value);
            }
        }
        None => {}
    }
    if process.args.iter().any(|arg| arg.len() >= VARIABLE_BYTES_MAX) {
        let message = format!("an argument has more than the {VARIABLE_BYTES_MAX} bytes that Linux hands on");
        return Err(failed("StartFailed", message, false));
    }
    let has_path = variables.contains_key("PATH");
    let mut env: Vec<_> = variables.into_iter().collect();
    // Programs are looked up where the agent's are; nothing else of its environment is handed on.
    if let (false, Ok(path)) = (has_path, std::env::var("PATH")) {
        env.push(("PATH".to_owned(), path));
    }
    let mut ours = |name: &str, value: String| env.push((name.to_owned(), value));
    ours("SKERRY_INSTANCE", spec.name.to_string());
    ours("SKERRY_APP", spec.name.app.to_string());
    ours("SKERRY_SERVICE", spec.name.service.to_string());
    if let Some(node) = &config.node {
        ours("SKERRY_NODE", node.to_string());
    }
    Ok(Launch {
        instance: spec.name.to_string(),
        fingerprint: spec.fingerprint.clone(),
        revision: spec.revision.to_string(),
        boot: boot.to_owned(),
        program: process.program.clone(),
        args: process.args.clone(),
        env,
        working_directory: spec.service.working_directory.clone(),
        stop_signal: spec.service.stop.signal.clone().unwrap_or_else(|| "SIGTERM".to_owned()),
        stop_grace: spec.service.stop.grace_period,
        configs: Vec::new(),
        secret_env: None,
        user: user::resolve(spec.service.user.as_deref())?,
        cgroups: Vec::new(),
        gpus: granted.as_ref().map(|granted| noted(&granted.bookings)).unwrap_or_default(),
        warnings: granted.map(|granted| granted.warnings).unwrap_or_default(),
        log: process.log,
    })
}

/// Lays the instance out and hands it to a shim, if nothing of it runs. Blocks on the disk.
pub(super) fn spawn(
    dir: &Path,
    spec: &InstanceSpec,
    variables: Environment,
    config: &Config,
    boot: &str,
) -> Result<Spawned, RuntimeError> {
    let writing = |error| io_failed("writing the instance's state", &error);
    let files = config_files(spec)?;
    let mut launch = launch_of(spec, variables.plain, config, boot)?;
    make_dir(dir).map_err(|error| io_failed("making the instance's directory", &error))?;
    let Some(lock) = try_lock(dir).map_err(|error| io_failed("taking the instance's lock", &error))? else {
        return Ok(Spawned::Held);
    };
    // The lock alone does not tell of a program that closed all files it was given and lost its shim.
    let before = View::of(dir, boot).map_err(|error| io_failed("reading the instance's state", &error))?;
    if before.as_ref().is_some_and(|view| !matches!(view.phase, Phase::Made | Phase::Ended { .. })) {
        return Ok(Spawned::Held);
    }
    let old = before.and_then(|view| view.launch).map(|launch| launch.configs).unwrap_or_default();
    forget_run(dir).map_err(writing)?;
    let state = open_state(&config.instances, dir, launch.user.as_ref())?;
    let artifacts = &process_of(spec)?.artifacts;
    let kept = files.keys().chain(artifacts.iter().map(|artifact| &artifact.path)).cloned();
    let kept = kept.chain(Secrets::paths(spec)).collect();
    take_away(&state, &old, &kept);
    artifacts::lay_out(&config.artifacts, artifacts, &state)?;
    lay_out(&state, &files)?;
    let owner = launch.user.as_ref().map(|user| (user.uid, user.gid));
    config.secrets.lay_out(spec, owner)?;
    for (place, path) in config.secrets.places(spec)? {
        let path = normal_path(path);
        state
            .symlink(&place.to_string_lossy(), &path)
            .map_err(|error| io_failed(&format!("writing the link `{path}` to a secret"), &error))?;
    }
    if !variables.secret.is_empty() {
        let place = config.secrets.dir(spec)?;
        write_secret_env(&place, &variables.secret)
            .map_err(|error| io_failed("writing variables with secrets", &error))?;
        launch.secret_env = Some(place.to_string_lossy().into_owned());
    }
    launch.configs = kept.into_iter().collect();
    let made = Hierarchies::of_machine().make(&config.cgroup_name(), &spec.name, spec.service.limits);
    launch.cgroups = made.dirs;
    launch.warnings.extend(made.warnings);
    launch.write(dir).map_err(writing)?;
    let complaints = OpenOptions::new()
        .write(true)
        .create(true)
        .truncate(true)
        .mode(0o600)
        .open(dir.join(SHIM_LOG))
        .map_err(writing)?;
    let starting = |error| failed("StartFailed", format!("starting a shim: {error}"), true);
    let (answer, say) = std::io::pipe().map_err(starting)?;
    let child = Command::new(&config.shim)
        .arg0("skerry-shim")
        .arg(WORD)
        .arg(dir)
        // Where this process is a server too, it has raised its own.
        .args(skerry_daemon::open_files_before().map(|soft| soft.to_string()))
        .env_clear()
        .current_dir("/")
        .stdin(OwnedFd::from(lock))
        .stdout(OwnedFd::from(say))
        .stderr(Stdio::from(complaints))
        .spawn()
        .map_err(starting)?;
    Ok(Spawned::Shim { child, answer })
}

/// Waits for the shim to say what came of it.
pub(super) async fn answered(answer: PipeReader) -> Result<(), RuntimeError> {
    let reading =
        |error: std::io::Error| failed("StartFailed", format!("listening to a shim: {error}"), true);
    let answer = pipe::Receiver::from_owned_fd(OwnedFd::from(answer)).map_err(reading)?;
    let mut text = String::new();
    let mut limited = answer.take(ANSWER_BYTES_MAX);
    match timeout(START_WAIT, limited.read_to_string(&mut text)).await {
        Ok(Ok(_)) => {}
        Ok(Err(error)) => return Err(reading(error)),
        Err(_) => return Err(failed("TimedOut", format!("no answer of a shim in {START_WAIT:?}"), true)),
    }
    if text.trim_end() == STARTED {
        return Ok(());
    }
    match text.strip_prefix(FAILED) {
        Some(why) => Err(shim_failed(why)),
        None => Err(failed("StartFailed", "the shim ended before the program was started", true)),
    }
}
