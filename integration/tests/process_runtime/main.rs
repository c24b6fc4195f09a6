//! The agent's process runtime with real processes, and the real agent's binary as their shim: convergence from anywhere, and never two
//! copies, whoever is killed.
//!
//! "The agent" here is the runtime object: dropping it and making another is what a killed and restarted agent is to its instances.

use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Result, ensure};
use skerry_agent::desired::ConfigContent;
use skerry_agent::runtime::process::ProcessRuntime;
use skerry_agent::runtime::{RunState, Runtime, Wanted};
use skerry_model::app::ConfigMount;
use skerry_model::{ConfigName, ContentHash};
use skerry_testing::eventually;

mod artifacts;
mod gpus;
mod settings;
mod support;

use support::{IDLE, SOON, World, change, gone, is_alive, kill, processes_with, shell, shim_of, spec_of};

#[tokio::test]
async fn it_runs_with_its_own_environment_directory_and_config_files_and_keeps_what_it_writes() {
    let world = World::new();
    let config = ConfigName::parse("settings").expect("a name");
    let files = [("a", "alpha"), ("b", "beta")].map(|(key, text)| (key.to_owned(), text.as_bytes().to_vec()));
    let content = ConfigContent { hash: ContentHash::of(b"settings"), files: files.into_iter().collect() };
    let script = "pwd; env; cat configs/settings/a sub/only; echo wrong >&2; echo x > configs/settings/a; exec sleep 1000";
    let mut spec = change(&shell(script), "one", |service| {
        service.env.insert("COLOUR".into(), "two words\nand a line".into());
        let mount = |path: &str, key: Option<&str>| ConfigMount {
            config: config.clone(),
            path: path.into(),
            key: key.map(str::to_owned),
            executable: false,
        };
        service.configs = vec![mount("configs/settings", None), mount("sub/only", Some("b"))];
    });
    spec.configs.insert(config, Arc::new(content));
    world.runtime.prepare(&spec, &|_| {}).await.expect("prepared");
    world.start(&spec).await.expect("started");
    let seen = world.seen(&spec).await.expect("it is there");
    assert_eq!((seen.fingerprint.as_str(), seen.revision), ("one", spec.revision.to_string()));
    assert_eq!(seen.address.map(|address| address.to_string()).as_deref(), Some("127.0.0.1"));
    world.has_written(&spec, "stderr.log", "wrong\n").await;
    world.has_written(&spec, "stdout.log", "alphabeta").await;
    let (out, state) = (world.read(&spec, "stdout.log"), world.path(&spec, "state"));
    let state_text = state.display();
    for line in [
        format!("{state_text}\n"),
        format!("HOME={state_text}\n"),
        format!("SKERRY_STATE_DIR={state_text}\n"),
        "SKERRY_INSTANCE=app/web/n1/0\n".into(),
        "SKERRY_APP=app\n".into(),
        "SKERRY_SERVICE=web\n".into(),
        "COLOUR=two words\nand a line\n".into(),
    ] {
        assert!(out.contains(&line), "{line:?} is not in {out}");
    }
    assert!(!out.contains("CARGO"), "nothing of the agent's environment: {out}");
    let mode = |path: PathBuf| fs::metadata(path).expect("it is there").permissions().mode() & 0o777;
    assert_eq!((mode(world.path(&spec, "")), mode(state.clone())), (0o700, 0o700));
    assert_eq!(mode(state.join("configs/settings/a")), 0o400);
    world.runtime.remove(&spec.name).await.expect("removed");
    assert!(!world.dir.path().join("instances/app").exists(), "no trace is left");
    world.runtime.remove(&spec.name).await.expect("nothing to remove");
}

#[tokio::test]
async fn a_new_agent_adopts_what_runs() {
    let mut world = World::new();
    let spec = shell(IDLE);
    world.start(&spec).await.expect("started");
    let (pid, before) = (world.pid(&spec).await, world.seen(&spec).await);
    for _ in 0..3 {
        world.another_agent();
        assert_eq!(world.seen(&spec).await, before);
        world.start(&spec).await.expect("nothing to do");
        assert_eq!(world.pid(&spec).await, pid);
    }
    kill(pid);
    assert_eq!(world.exited(&spec).await, Some(137));
    world.runtime.remove(&spec.name).await.expect("removed");
}

#[tokio::test]
async fn another_fingerprint_ends_the_old_copy_by_its_own_stop_policy_and_keeps_the_state() {
    let world = World::new();
    let old = change(
        &shell(
            "trap 'echo hup; exit 0' HUP; trap '' TERM; echo begun; touch kept; while :; do sleep 0.05; done",
        ),
        "one",
        |service| {
            service.stop.signal = Some("SIGHUP".into());
        },
    );
    world.start(&old).await.expect("started");
    world.has_written(&old, "stdout.log", "begun").await;
    let pid = world.pid(&old).await;
    let new = change(&shell("ls; exec sleep 1000"), "two", |_| {});
    world.start(&new).await.expect("replaced");
    assert!(!is_alive(pid));
    assert_eq!(world.seen(&new).await.expect("it is there").fingerprint, "two");
    world.has_written(&new, "stdout.log", "hup\nkept\n").await;
    world.runtime.remove(&new.name).await.expect("removed");
}

#[tokio::test]
async fn what_is_stopped_stays_with_its_output_and_can_be_started_again() {
    let world = World::new();
    let spec = shell(IDLE);
    world.runtime.stop(&spec.name).await.expect("nothing to stop");
    world.start(&spec).await.expect("started");
    world.has_written(&spec, "stdout.log", "begun").await;
    for _ in 0..2 {
        world.runtime.stop(&spec.name).await.expect("stopped");
        let seen = world.seen(&spec).await.expect("it is still there");
        assert!(matches!(seen.state, RunState::Exited { code: Some(0), .. }), "{seen:?}");
    }
    assert!(world.read(&spec, "stdout.log").contains("asked"), "by its own stop policy");
    world.start(&spec).await.expect("started again");
    world.pid(&spec).await;
    world.runtime.remove(&spec.name).await.expect("removed");
}

#[tokio::test]
async fn exit_codes_are_kept_while_the_agent_is_away() {
    let mut world = World::new();
    for (n, (script, code)) in
        [("exit 0", 0), ("exit 3", 3), ("kill -TERM $$", 143), ("kill -9 $$", 137)].into_iter().enumerate()
    {
        let spec = change(&shell(&format!("sleep 0.2; {script}")), &format!("{n}"), |_| {});
        world.start(&spec).await.expect("started");
        world.another_agent();
        assert_eq!(world.exited(&spec).await, Some(code), "{script}");
        world.another_agent();
        let seen = world.seen(&spec).await.expect("it is there");
        assert!(matches!(seen.state, RunState::Exited { code: Some(seen), .. } if seen == code), "{seen:?}");
    }
    let again = change(&shell("exit 7"), "7", |_| {});
    for _ in 0..3 {
        world.start(&again).await.expect("started again after it has exited");
        assert_eq!(world.exited(&again).await, Some(7));
    }
}

#[tokio::test]
async fn who_does_not_end_in_its_grace_is_killed_also_when_the_call_was_repeated() {
    let world = World::new();
    let script = "trap '' TERM; echo begun; while :; do sleep 0.05; done";
    let grace = Duration::from_secs(2);
    let spec = change(&shell(script), "one", |service| service.stop.grace_period = grace);
    world.start(&spec).await.expect("started");
    world.has_written(&spec, "stdout.log", "begun").await;
    let (pid, begun) = (world.pid(&spec).await, Instant::now());
    // Each call is dropped long before the grace is over: the grace goes on all the same.
    while tokio::time::timeout(Duration::from_millis(300), world.runtime.remove(&spec.name)).await.is_err() {
        assert!(begun.elapsed() < SOON, "removed in the end");
    }
    assert!(begun.elapsed() >= grace && !is_alive(pid), "{:?}", begun.elapsed());
    assert!(world.seen(&spec).await.is_none());
}

#[tokio::test]
async fn what_the_program_started_ends_with_it_though_it_left_group_and_session() {
    let world = World::new();
    let script = "setsid sh -c 'setsid sleep 4711 & exec sleep 4711' & sh -c 'sleep 4711 & exec sleep 4711' & sleep 0.3; exit 5";
    let spec = shell(script);
    world.start(&spec).await.expect("started");
    let mark = format!("SKERRY_STATE_DIR={}", world.path(&spec, "state").display());
    eventually(
        "all are there",
        SOON,
        async || {
            if processes_with(&mark).len() >= 5 { Ok(()) } else { Err("not yet") }
        },
    )
    .await;
    assert_eq!(world.exited(&spec).await, Some(5));
    eventually(
        "all are gone",
        SOON,
        async || {
            if processes_with(&mark).is_empty() { Ok(()) } else { Err("not yet") }
        },
    )
    .await;
}

#[tokio::test]
async fn an_orphan_is_ended_gracefully_before_its_successor_starts() {
    let mut world = World::new();
    // The second closes every file that it was given, the lock too.
    let closing = format!("for n in 3 4 5 6 7 8 9; do eval \"exec $n>&-\"; done; {IDLE}");
    for script in [IDLE, &closing] {
        // Its pipes have lost their reader: what it does when it is asked goes to a file.
        let spec = shell(&script.replace("echo asked", "touch asked"));
        world.start(&spec).await.expect("started");
        world.has_written(&spec, "stdout.log", "begun").await;
        let (pid, shim) = (world.pid(&spec).await, world.shim(&spec).await);
        kill(shim);
        gone(shim).await;
        for _ in 0..2 {
            eventually("it runs, and not as it should", SOON, async || {
                let seen = world.seen(&spec).await.expect("it is there");
                assert!(matches!(seen.state, RunState::Running { .. }), "{seen:?}");
                assert_eq!(seen.runtime_id, pid.to_string());
                if seen.fingerprint.is_empty() { Ok(()) } else { Err(seen.fingerprint) }
            })
            .await;
            world.another_agent();
        }
        world.start(&spec).await.expect("replaced");
        assert!(!is_alive(pid) && world.path(&spec, "state/asked").exists());
        assert_ne!(world.pid(&spec).await, pid);
        world.runtime.remove(&spec.name).await.expect("removed");
    }
}

#[tokio::test]
async fn an_orphan_that_ends_by_itself_is_told_and_what_it_left_does_not_outlive_it() {
    let world = World::new();
    let spec = shell("sleep 4711 & echo begun; while ! test -e stop; do sleep 0.05; done; exit 3");
    world.start(&spec).await.expect("started");
    world.has_written(&spec, "stdout.log", "begun").await;
    let shim = world.shim(&spec).await;
    kill(shim);
    gone(shim).await;
    assert!(world.seen(&spec).await.is_some());
    fs::write(world.path(&spec, "state/stop"), "").expect("written");
    assert_eq!(world.exited(&spec).await, None, "nobody saw its exit code");
    let mark = format!("SKERRY_STATE_DIR={}", world.path(&spec, "state").display());
    assert_eq!(processes_with(&mark).len(), 1, "its sleep goes on");
    world.runtime.remove(&spec.name).await.expect("removed");
    assert!(processes_with(&mark).is_empty());
}

#[tokio::test]
async fn a_reboot_leaves_exited_instances_without_a_code() {
    let mut world = World::new();
    let spec = shell(IDLE);
    world.start(&spec).await.expect("started");
    let (pid, shim) = (world.pid(&spec).await, world.shim(&spec).await);
    kill(shim);
    kill(pid);
    gone(pid).await;
    fs::write(&world.config.boot_id, "boot-2\n").expect("written");
    world.another_agent();
    let first = world.seen(&spec).await.expect("it is there");
    assert!(matches!(first.state, RunState::Exited { code: None, .. }), "{first:?}");
    assert_eq!(first.fingerprint, "one");
    assert_eq!(world.seen(&spec).await, Some(first));
    world.start(&spec).await.expect("started");
    assert_ne!(world.pid(&spec).await, pid);
    world.runtime.remove(&spec.name).await.expect("removed");
}

#[tokio::test]
async fn what_cannot_start_says_why_and_leaves_nothing_running() {
    let world = World::new();
    let plain = world.dir.path().join("plain");
    fs::write(&plain, "no program").expect("written");
    let garbage = world.dir.path().join("garbage");
    fs::write(&garbage, [0x7f, b'E', b'L', b'F', 9, 9]).expect("written");
    fs::set_permissions(&garbage, fs::Permissions::from_mode(0o755)).expect("set");
    let script = world.dir.path().join("script");
    fs::write(&script, "#!/no/such/interpreter\n").expect("written");
    fs::set_permissions(&script, fs::Permissions::from_mode(0o755)).expect("set");
    let of = |program: &str| spec_of("app/web/n1/0", program, &[]);
    let elsewhere =
        change(&shell("true"), "one", |service| service.working_directory = Some("/no/such".into()));
    let unmounted = change(&shell("true"), "one", |service| {
        let config = ConfigName::parse("none").expect("a name");
        service.configs = vec![ConfigMount { config, path: "c".into(), key: None, executable: false }];
    });
    for (spec, reason) in [
        (of("no-such-program-anywhere"), "ProgramNotFound"),
        (of("/no/such/program"), "ProgramNotFound"),
        (of(script.to_str().expect("text")), "ProgramNotFound"),
        (of(plain.to_str().expect("text")), "ProgramNotExecutable"),
        (of(garbage.to_str().expect("text")), "ProgramNotExecutable"),
        (elsewhere, "WorkingDirectoryMissing"),
        (unmounted, "MountMissing"),
    ] {
        for _ in 0..2 {
            let error = world.start(&spec).await.expect_err(reason);
            assert_eq!(error.reason, reason, "{error}");
        }
        if let Some(seen) = world.seen(&spec).await {
            assert_eq!(seen.state, RunState::Created, "{reason}");
        }
        world.runtime.remove(&spec.name).await.expect("removed");
        assert!(world.seen(&spec).await.is_none());
    }
    let error = world.runtime.prepare(&of("no-such-program-anywhere"), &|_| {}).await.expect_err("not there");
    assert_eq!((error.reason, error.transient), ("ProgramNotFound", false));
}

#[tokio::test]
async fn torn_files_do_not_stop_it() {
    let mut world = World::new();
    let spec = shell("exit 4");
    for torn in ["launch", "shim", "exit"] {
        world.start(&spec).await.expect("started");
        assert_eq!(world.exited(&spec).await, Some(4));
        let path = world.path(&spec, torn);
        let bytes = fs::read(&path).expect("it is there");
        fs::write(&path, &bytes[..bytes.len() / 2]).expect("written");
        world.another_agent();
        assert!(world.seen(&spec).await.is_some(), "{torn}");
    }
    world.start(&spec).await.expect("started");
    assert_eq!(world.exited(&spec).await, Some(4));

    // A running one whose records are all lost: it holds the lock, and is ended before another starts.
    let idle = change(&shell(&IDLE.replace("echo asked", "touch asked")), "two", |_| {});
    world.start(&idle).await.expect("started");
    world.has_written(&idle, "stdout.log", "begun").await;
    let pid = world.pid(&idle).await;
    for lost in ["launch", "shim"] {
        fs::write(world.path(&idle, lost), "").expect("written");
    }
    world.another_agent();
    world.start(&idle).await.expect("replaced");
    assert!(!is_alive(pid), "the first copy is gone");
    assert!(world.path(&idle, "state/asked").exists(), "and was asked to go");
    world.runtime.remove(&idle.name).await.expect("removed");
}

#[tokio::test]
async fn commands_run_beside_it_and_end_when_they_are_dropped() {
    let world = World::new();
    let spec = change(&shell(IDLE), "one", |service| {
        service.env.insert("COLOUR".into(), "red".into());
    });
    let run = |script: &str| {
        let command = ["sh", "-c", script].map(str::to_owned);
        let (runtime, name) = (&world.runtime, spec.name.clone());
        async move { runtime.exec(&name, &command).await }
    };
    assert_eq!(run("exit 0").await.expect_err("does not run yet").reason, "NotRunning");
    world.start(&spec).await.expect("started");
    assert_eq!(run("exit 4").await, Ok(4));
    assert_eq!(run("kill -9 $$").await, Ok(137));
    assert_eq!(run("test \"$COLOUR\" = red && test \"$(pwd)\" = \"$SKERRY_STATE_DIR\"").await, Ok(0));
    let missing = world.runtime.exec(&spec.name, &["no-such-program-anywhere".to_owned()]).await;
    assert_eq!(missing.expect_err("not there").reason, "ProgramNotFound");
    let hanging = tokio::time::timeout(
        Duration::from_millis(500),
        run("MARK=hanging; export MARK; sleep 4711 & exec sleep 4711"),
    );
    assert!(hanging.await.is_err());
    let mark = "MARK=hanging";
    eventually("they are gone", SOON, async || {
        if processes_with(mark).iter().any(|pid| is_alive(*pid)) { Err("not yet") } else { Ok(()) }
    })
    .await;
    assert!(matches!(world.seen(&spec).await.expect("it is there").state, RunState::Running { .. }));
    world.runtime.remove(&spec.name).await.expect("removed");
}

/// Calls dropped at every moment, agents that come and go, shims that are killed: there is never a second copy.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn there_are_never_two_copies() {
    let mut world = World::new();
    let state = world.path(&shell(""), "state");
    // The directory is the witness: whoever finds it there is the second.
    let script = |n: usize| {
        format!(
            "trap 'rmdir held; exit 0' TERM; mkdir held || touch twice; : {n}; while :; do sleep 0.01; done"
        )
    };
    let specs: Vec<_> = (0..2).map(|n| change(&shell(&script(n)), &format!("{n}"), |_| {})).collect();
    let mark = format!("SKERRY_STATE_DIR={}", state.display());
    let (stop, most) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicUsize::new(0)));
    let watcher = std::thread::spawn({
        let (stop, most, mark) = (Arc::clone(&stop), Arc::clone(&most), mark.clone());
        move || {
            while !stop.load(Ordering::SeqCst) {
                let copies = processes_with(&mark).into_iter().filter(|pid| {
                    let line = fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
                    line.starts_with(b"sh\0")
                });
                // A shell between fork and exec of its `sleep` looks like a copy: its parent is one as well.
                let copies: Vec<i32> = copies.collect();
                let count = copies.iter().filter(|pid| {
                    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
                    let parent =
                        stat.rsplit(')').next().and_then(|rest| rest.split_whitespace().nth(1)?.parse().ok());
                    !stat.is_empty() && !parent.is_some_and(|parent: i32| copies.contains(&parent))
                });
                most.fetch_max(count.count(), Ordering::SeqCst);
            }
        }
    });
    for n in 0..100_u64 {
        let spec = &specs[usize::from(n % 3 == 0)];
        let patience = Duration::from_micros((n * 7919) % 12_000);
        let _ = tokio::time::timeout(patience, world.runtime.ensure(spec, &|_| {})).await;
        if n % 10 == 9 {
            let _ = tokio::time::timeout(patience, world.runtime.remove(&spec.name)).await;
        }
        if n % 7 == 3 {
            world.another_agent();
        }
        if n % 25 == 20 {
            // Up, and its shim killed; unless it goes down just now because an agent that is no more had asked it to.
            world.start(spec).await.expect("started");
            if let Some(shim) = world.read(spec, "shim").lines().find_map(shim_of) {
                kill(shim.parse().expect("a process id"));
            }
        }
    }
    let last = &specs[0];
    world.start(last).await.expect("started");
    assert_eq!(world.seen(last).await.expect("it is there").fingerprint, "0");
    assert!(!state.join("twice").exists(), "a second copy ran beside the first");
    world.runtime.remove(&last.name).await.expect("removed");
    stop.store(true, Ordering::SeqCst);
    watcher.join().expect("the watcher ends");
    assert_eq!(most.load(Ordering::SeqCst), 1, "copies at once");
    eventually("nothing is left", SOON, async || {
        if processes_with(&mark).is_empty() { Ok(()) } else { Err("not yet") }
    })
    .await;
    assert!(world.runtime.observe().await.expect("observed").is_empty());
}

/// Two agents on one directory at the same time, as when a new one starts before the old one is gone.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn two_agents_at_once_start_one_copy() {
    let world = World::new();
    let other = ProcessRuntime::new(world.config.clone());
    let spec = shell(&format!("echo copy >> copies; {IDLE}"));
    for _ in 0..5 {
        let (one, two) = tokio::join!(world.start(&spec), other.ensure(&spec, &|_| {}));
        one.expect("started");
        two.expect("started");
        world.has_written(&spec, "state/copies", "copy").await;
        assert_eq!(world.read(&spec, "state/copies"), "copy\n");
        world.runtime.remove(&spec.name).await.expect("removed");
    }
}

#[tokio::test]
async fn ends_of_many_are_told_and_no_dead_shim_is_left_unreaped() -> Result<()> {
    let world = World::new();
    let specs: Vec<_> =
        (0..20).map(|n| spec_of(&format!("app/web/n1/{n}"), "sh", &["-c", "sleep 0.3; exit 9"])).collect();
    for spec in &specs {
        world.start(spec).await?;
    }
    let shims: Vec<String> =
        specs.iter().filter_map(|spec| world.read(spec, "shim").lines().find_map(shim_of)).collect();
    ensure!(shims.len() == specs.len());
    for spec in &specs {
        ensure!(world.exited(spec).await == Some(9));
    }
    world.runtime.probe().await?;
    for spec in &specs {
        world.runtime.remove(&spec.name).await?;
    }
    fs::create_dir_all(world.dir.path().join("instances/left/over"))?;
    world.runtime.sweep(&Wanted::default()).await?;
    ensure!(
        fs::read_dir(world.dir.path().join("instances"))?.next().is_none(),
        "empty directories are swept"
    );
    eventually("no zombie of a shim", SOON, async || {
        world.runtime.observe().await?;
        for pid in &shims {
            let stat = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
            ensure!(!stat.contains("(skerry-shim)"), "{stat}");
        }
        Ok(())
    })
    .await;
    Ok(())
}
