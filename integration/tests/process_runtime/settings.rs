//! Fields of a process, each set, seen in effect, and removed again: user, limits, log, environment, executable configs.
//!
//! Those on users and limits need root and cgroups that can be written, as CI and the machines of developers in containers have them; where
//! they are not, the test shows that this is said.

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _};
use std::sync::Arc;

use skerry_agent::desired::{ConfigContent, InstanceSpec};
use skerry_agent::runtime::{RunState, Runtime};
use skerry_model::app::{Amounts, ConfigMount, EnvSource, LogBounds, Program};
use skerry_model::{ConfigName, ContentHash};

use super::support::{IDLE, SOON, World, change, gone, is_alive, kill, processes_with, shell};

fn is_root() -> bool {
    fs::metadata("/proc/self").expect("/proc").uid() == 0
}

fn config(spec: &mut InstanceSpec, name: &str, files: &[(&str, &str)]) -> ConfigName {
    let config = ConfigName::parse(name).expect("a name");
    let files = files.iter().map(|(key, text)| ((*key).to_owned(), text.as_bytes().to_vec()));
    let content =
        ConfigContent { hash: ContentHash::of(name.as_bytes()), files: files.collect::<BTreeMap<_, _>>() };
    spec.configs.insert(config.clone(), Arc::new(content));
    config
}

const WHO: &str = "id -u; id -g; id -G; cat configs/c/k && echo x > own && echo done; exec sleep 1000";

#[tokio::test]
async fn a_process_runs_as_the_user_that_it_names_and_sees_its_own_files_only() {
    let world = World::new();
    let mut spec = change(&shell(WHO), "one", |service| service.user = Some("nobody".into()));
    let name = config(&mut spec, "c", &[("k", "secret\n")]);
    let mounted = |service: &mut skerry_model::app::ServiceSpec| {
        service.configs = vec![ConfigMount {
            config: name.clone(),
            path: "configs/c".into(),
            key: None,
            executable: false,
        }];
    };
    let spec = change(&spec, "one", mounted);
    if !is_root() {
        let error = world.start(&spec).await.expect_err("only root may");
        assert_eq!(error.reason, "UserNotAllowed");
        return;
    }
    world.start(&spec).await.expect("started");
    world.has_written(&spec, "stdout.log", "secret\ndone\n").await;
    let nobody = world.read(&spec, "stdout.log");
    assert!(nobody.starts_with("65534\n65534\n65534\n"), "no other groups: {nobody}");
    let owner = |path: &str| fs::metadata(world.path(&spec, path)).expect("there").uid();
    assert_eq!((owner("state"), owner("state/configs/c/k"), owner("launch")), (65534, 65534, 0));
    let mode =
        |path: &str| fs::metadata(world.path(&spec, path)).expect("there").permissions().mode() & 0o777;
    assert_eq!(
        (mode("state"), mode("state/configs/c/k"), mode("launch"), mode("stdout.log")),
        (0o700, 0o400, 0o600, 0o600)
    );
    // What it wrote stays usable when the user is another one, and when none is named any more.
    let numbers = change(&spec, "two", |service| service.user = Some("1234:5678".into()));
    world.start(&numbers).await.expect("started");
    world.has_written(&spec, "stdout.log", "1234\n5678\n5678\nsecret\ndone\n").await;
    assert_eq!((owner("state"), owner("state/own")), (1234, 1234));
    let without = change(&spec, "three", |service| service.user = None);
    world.start(&without).await.expect("started");
    world.has_written(&spec, "stdout.log", "\n0\n0\n").await;
    world.has_written(&spec, "stdout.log", "5678\nsecret\ndone\n0\n").await;
    assert_eq!((owner("state"), owner("state/own")), (0, 0));
    let code = ["sh", "-c", "test $(id -u) = 0"].map(str::to_owned);
    assert_eq!(world.runtime.exec(&spec.name, &code).await, Ok(0));
    let error =
        world.start(&change(&spec, "four", |service| service.user = Some("no-such-user".into()))).await;
    assert_eq!(error.expect_err("refused").reason, "UserNotFound");
}

#[tokio::test]
async fn a_command_beside_a_process_has_its_user_and_directory() {
    if !is_root() {
        return;
    }
    let world = World::new();
    let spec =
        change(&shell("echo begun; exec sleep 1000"), "one", |service| service.user = Some("nobody".into()));
    world.start(&spec).await.expect("started");
    let command = ["sh", "-c", "test $(id -u) = 65534 && test $PWD = $SKERRY_STATE_DIR && touch from-exec"];
    assert_eq!(world.runtime.exec(&spec.name, &command.map(str::to_owned)).await, Ok(0));
    assert!(world.path(&spec, "state/from-exec").exists());
    assert_eq!(
        world.runtime.exec(&spec.name, &["/etc/passwd".to_owned()]).await.map_err(|e| e.reason),
        Err("ProgramNotExecutable")
    );
}

/// The C library's linker writes into files of this name which programs it loads.
const LINKER_SAYS: &str = "linker";

#[tokio::test]
async fn only_the_program_itself_is_loaded_by_what_its_environment_says() {
    let world = World::new();
    let told = world.dir.path().join("told");
    fs::create_dir(&told).expect("made");
    let spec = change(&shell("echo begun; exec sleep 1000"), "one", |service| {
        service.env.insert("LD_DEBUG".into(), "libs".into());
        service.env.insert("LD_DEBUG_OUTPUT".into(), told.join(LINKER_SAYS).display().to_string());
    });
    world.start(&spec).await.expect("started");
    world.has_written(&spec, "stdout.log", "begun").await;
    assert_eq!(world.runtime.exec(&spec.name, &["true".to_owned()]).await, Ok(0));
    let mut said = String::new();
    for entry in fs::read_dir(&told).expect("read") {
        said += &fs::read_to_string(entry.expect("an entry").path()).expect("text");
    }
    for program in ["sh", "true"] {
        assert!(said.contains(&format!("transferring control: {program}\n")), "the linker is heard: {said}");
    }
    assert!(!said.contains("skerry"), "the step before it has the agent's rights: {said}");
}

#[tokio::test]
async fn limits_hold_or_are_said_not_to_and_go_with_the_instance() {
    let world = World::new();
    let limits =
        Amounts { memory_bytes: Some(64 << 20), cpu_millis: Some(500), pids: Some(50), swap_bytes: None };
    // The list of a shell's arguments grows until memory is used up.
    let hog = "x=x; while :; do x=$x$x; done";
    let spec = change(&shell(hog), "one", |service| service.limits = limits);
    world.start(&spec).await.expect("started");
    let seen = world.seen(&spec).await.expect("it is there");
    if !seen.warnings.is_empty() {
        assert!(seen.warnings.iter().any(|warning| warning.contains("memory")), "{seen:?}");
        world.runtime.remove(&spec.name).await.expect("removed");
        return;
    }
    world.exited(&spec).await;
    let seen = world.seen(&spec).await.expect("it is there");
    let RunState::Exited { code, out_of_memory, .. } = seen.state else { panic!("{seen:?}") };
    assert_eq!((code, out_of_memory), (Some(137), true));
    // Another program, held to its number of processes. A shell that cannot fork ends, so that it is not the one that forks.
    let forks = "(n=0; while [ $n -lt 100 ]; do sleep 1000 & n=$((n+1)); done; echo all); exec sleep 1000";
    let spec = change(&shell(forks), "two", |service| service.limits = limits);
    world.start(&spec).await.expect("started");
    world.has_written(&spec, "stderr.log", "ork").await;
    let launch = world.read(&spec, "launch");
    let dirs: Vec<&str> = launch.lines().filter_map(|line| line.strip_prefix("cgroup ")).collect();
    assert!(!dirs.is_empty() && dirs.iter().all(|dir| fs::metadata(dir).is_ok()), "{dirs:?}");
    let unlimited = change(&shell(IDLE), "three", |service| service.limits = Amounts::default());
    world.start(&unlimited).await.expect("started");
    world.has_written(&spec, "stdout.log", "begun").await;
    world.runtime.remove(&spec.name).await.expect("removed");
    let left: Vec<&&str> = dirs.iter().filter(|dir| fs::metadata(dir).is_ok()).collect();
    assert!(left.is_empty(), "{left:?}");
}

#[tokio::test]
async fn grandchildren_end_with_the_process_though_their_shim_was_killed() {
    let world = World::new();
    // A child that closed all that it was given, in a session of its own, without a mark in its environment.
    let script = "env -i setsid sh -c 'exec 0<&- 1>&- 2>&- 3>&- 4>&- 5>&- 6>&- 7>&- 8>&- 9>&-; exec sleep 7654.321' & echo begun; sleep 1000";
    let spec = shell(script);
    world.start(&spec).await.expect("started");
    world.has_written(&spec, "stdout.log", "begun").await;
    let launch = world.read(&spec, "launch");
    let Some(dir) = launch.lines().find_map(|line| line.strip_prefix("cgroup ")) else { return };
    let inside = || -> Vec<i32> {
        let text = fs::read_to_string(format!("{dir}/cgroup.procs")).unwrap_or_default();
        text.lines().filter_map(|line| line.parse().ok()).collect()
    };
    skerry_testing::eventually("all are in the cgroup", SOON, async || {
        let count = inside().len();
        if count >= 3 { Ok(()) } else { Err(count) }
    })
    .await;
    let all = inside();
    let shim = world.shim(&spec).await;
    kill(shim);
    gone(shim).await;
    world.runtime.remove(&spec.name).await.expect("removed");
    assert!(all.iter().all(|pid| !is_alive(*pid)), "{all:?}");
    assert!(processes_with(&format!("SKERRY_STATE_DIR={}", world.path(&spec, "state").display())).is_empty());
}

#[tokio::test]
async fn a_log_is_kept_within_its_bounds() {
    let world = World::new();
    let script =
        "i=0; while [ $i -lt 30000 ]; do echo line $i; i=$((i+1)); done; echo end >&2; exec sleep 1000";
    let with = |fingerprint: &str, max_files: u32| {
        change(&shell(script), fingerprint, |service| {
            let Program::Process(process) = &mut service.program else { panic!("a process") };
            process.log = LogBounds { max_size_bytes: 64 << 10, max_files };
        })
    };
    let spec = with("one", 3);
    world.start(&spec).await.expect("started");
    world.has_written(&spec, "stderr.log", "end").await;
    world.has_written(&spec, "stdout.log", "line 29999\n").await;
    let files = ["stdout.log.2", "stdout.log.1", "stdout.log"].map(|name| world.read(&spec, name));
    assert!(files.iter().all(|file| !file.is_empty() && file.len() <= 64 << 10));
    let lines: Vec<String> = files.concat().lines().map(str::to_owned).collect();
    let first: usize = lines[1].trim_start_matches("line ").parse().expect("a number");
    for (n, line) in lines[1..].iter().enumerate() {
        assert_eq!(*line, format!("line {}", first + n), "nothing is lost at a seam");
    }
    assert!(!world.path(&spec, "stdout.log.3").exists());
    let fewer = with("two", 1);
    world.start(&fewer).await.expect("started");
    world.has_written(&spec, "stderr.log", "end\nend").await;
    assert!(!world.path(&spec, "stdout.log.1").exists() && !world.path(&spec, "stdout.log.2").exists());
}

#[tokio::test]
async fn variables_come_from_configs_and_files_in_order_and_env_wins() {
    let world = World::new();
    let file = world.dir.path().join("machine.env");
    fs::write(&file, "FROM=file\nMACHINE='a b'\nOWN=file\n").expect("written");
    let mut spec = shell("echo $FROM-$WHOLE-$ENTRY-$MACHINE-$OWN; exec sleep 1000");
    let whole = config(&mut spec, "whole", &[("FROM", "whole"), ("WHOLE", "w")]);
    let entry = config(&mut spec, "entry", &[("web.env", "# a comment\nFROM=entry\nENTRY=\"e\"\n")]);
    let with = |fingerprint: &str, sources: Vec<EnvSource>| {
        change(&spec, fingerprint, |service| {
            service.env_from = sources;
            service.env.insert("OWN".into(), "own".into());
        })
    };
    let path = file.to_str().expect("UTF-8").to_owned();
    let sources = vec![
        EnvSource::Config { config: whole, key: None },
        EnvSource::Config { config: entry, key: Some("web.env".into()) },
        EnvSource::File { path: path.clone(), optional: false },
        EnvSource::File { path: "/nonexistent/skerry.env".into(), optional: true },
    ];
    world.start(&with("one", sources.clone())).await.expect("started");
    world.has_written(&spec, "stdout.log", "file-w-e-a b-own\n").await;
    world.start(&with("two", sources[..2].to_vec())).await.expect("started");
    world.has_written(&spec, "stdout.log", "entry-w-e--own\n").await;
    world.start(&with("three", Vec::new())).await.expect("started");
    world.has_written(&spec, "stdout.log", "----own\n").await;
    fs::write(&file, "no variable\n").expect("written");
    let broken = with("four", vec![EnvSource::File { path, optional: true }]);
    let error = world.start(&broken).await.expect_err("it does not read");
    assert_eq!(error.reason, "InvalidEnvironment");
    assert!(error.message.contains("machine.env, line 1"), "{error}");
}

#[tokio::test]
async fn a_program_comes_as_a_config() {
    let world = World::new();
    let mut spec = super::support::spec_of("app/web/n1/0", "./bin/serve.sh", &["one"]);
    let name =
        config(&mut spec, "scripts", &[("serve.sh", "#!/bin/sh\necho served $1 $0\nexec sleep 1000\n")]);
    let with = |fingerprint: &str, executable| {
        change(&spec, fingerprint, |service| {
            let (config, key) = (name.clone(), Some("serve.sh".to_owned()));
            service.configs = vec![ConfigMount { config, path: "bin/serve.sh".into(), key, executable }];
        })
    };
    world.runtime.prepare(&with("one", true), &|_| {}).await.expect("prepared");
    world.start(&with("one", true)).await.expect("started");
    world.has_written(&spec, "stdout.log", "served one ").await;
    let error = world.start(&with("two", false)).await.expect_err("it may not be executed");
    assert_eq!(error.reason, "ProgramNotExecutable");
}

#[tokio::test]
async fn a_program_has_its_signals_at_their_defaults() {
    let world = World::new();
    // Where SIGPIPE is ignored, as in this agent, `yes` would end with an error of its own.
    let spec = shell("(yes; echo ended $? >&2) | head -n 1; exec sleep 1000");
    world.start(&spec).await.expect("started");
    world.has_written(&spec, "stderr.log", "ended 141\n").await;
}
