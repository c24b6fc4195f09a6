//! The agent's Docker runtime against a real daemon: each field of a spec, convergence from anywhere, and failures by their reasons.
//!
//! Each test has an owner of its own, so that tests see nothing of each other, and removes what carries it.

use std::collections::BTreeMap;
use std::net::TcpListener;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use skerry_agent::desired::ConfigContent;
use skerry_agent::runtime::docker::DockerRuntime;
use skerry_agent::runtime::{Observed, Progress, RunState, Runtime, RuntimeDirs, Wanted};
use skerry_model::app::{
    Amounts, ConfigMount, Container, HealthCheck, Mount, MountSource, Port, Probe, Protocol, PullPolicy,
    StopPolicy,
};
use skerry_model::{ConfigName, ContentHash, VolumeName};
use skerry_testing::{BUSYBOX_IMAGE, eventually, free_port};

use self::world::{IDLE, SOON, World, idle, idle_with_env, is_running, runtime, shell, spec};

#[path = "docker_runtime/drift.rs"]
mod drift;
#[path = "docker_runtime/environment.rs"]
mod environment;
#[path = "docker_runtime/fields.rs"]
mod fields;
#[path = "docker_runtime/gpus.rs"]
mod gpus;
#[path = "docker_runtime/images.rs"]
mod images;
#[path = "docker_runtime/networks.rs"]
mod networks;
#[path = "docker_runtime/registry.rs"]
mod registry;
#[path = "docker_runtime/replacement.rs"]
mod replacement;
#[path = "docker_runtime/volumes.rs"]
mod volumes;
#[path = "docker_runtime/world.rs"]
mod world;

#[tokio::test]
async fn every_field_reaches_docker() {
    let Some(world) = World::new("fields") else { return };
    let shared = world.dir.path().join("shared");
    std::fs::create_dir(&shared).unwrap();
    std::fs::write(shared.join("seen"), "from outside").unwrap();
    let port = free_port();
    let config = ConfigName::parse("site").unwrap();
    let container = Container {
        entrypoint: vec!["sh".into(), "-c".into()],
        command: vec![IDLE.into()],
        hostname: Some("box.example".into()),
        ports: vec![Port {
            container_port: 53,
            host_port: port,
            protocol: Protocol::Udp,
            host_address: Some("127.0.0.1".parse().unwrap()),
        }],
        mounts: vec![
            Mount {
                target: "/shared".into(),
                source: MountSource::Bind { path: shared.display().to_string(), propagation: None },
                read_only: true,
            },
            Mount {
                target: "/data".into(),
                source: MountSource::Volume {
                    name: VolumeName::parse("db").unwrap(),
                    remove_with_app: false,
                },
                read_only: false,
            },
        ],
        ..shell("")
    };
    let mut all = spec("web", container, |service| {
        service.env.insert("GREETING".into(), "hello = world".into());
        service.working_directory = Some("/tmp".into());
        service.user = Some("65534:65534".into());
        service.limits =
            Amounts { cpu_millis: Some(250), memory_bytes: Some(64 << 20), ..Amounts::default() };
        service.stop = StopPolicy { signal: Some("SIGINT".into()), grace_period: Duration::from_secs(7) };
        service.configs = vec![
            ConfigMount { config: config.clone(), path: "/etc/site".into(), key: None, executable: false },
            ConfigMount {
                config: config.clone(),
                path: "/etc/one.conf".into(),
                key: Some("a".into()),
                executable: false,
            },
        ];
    });
    let files = BTreeMap::from([("a".to_owned(), b"one".to_vec()), ("b".to_owned(), b"two".to_vec())]);
    all.configs.insert(config, Arc::new(ConfigContent { hash: ContentHash::of(b"site"), files }));
    world.ensure(&all).await.expect("it runs");

    let seen = world.inspect(&all);
    assert_eq!(seen["Config"]["Image"], BUSYBOX_IMAGE);
    assert_eq!(seen["Config"]["Entrypoint"], serde_json::json!(["sh", "-c"]));
    assert_eq!(seen["Config"]["Cmd"], serde_json::json!([IDLE]));
    assert_eq!(seen["Config"]["Hostname"], "box.example");
    assert_eq!(seen["Config"]["User"], "65534:65534");
    assert_eq!(seen["Config"]["WorkingDir"], "/tmp");
    assert_eq!(seen["Config"]["StopSignal"], "SIGINT");
    assert_eq!(seen["Config"]["StopTimeout"], 7);
    assert!(seen["Config"]["Env"].as_array().unwrap().contains(&"GREETING=hello = world".into()));
    assert_eq!(seen["Config"]["Labels"]["skerry.io/fingerprint"], all.fingerprint);
    assert_eq!(seen["HostConfig"]["NanoCpus"], 250_000_000);
    assert_eq!(seen["HostConfig"]["Memory"], 64 << 20);
    assert_eq!(seen["HostConfig"]["RestartPolicy"]["Name"], "no");
    let binding = serde_json::json!([{"HostIp": "127.0.0.1", "HostPort": port.to_string()}]);
    assert_eq!(seen["NetworkSettings"]["Ports"]["53/udp"], binding);

    // What the program sees, which counts in the end.
    for script in [
        "test \"$GREETING\" = 'hello = world'",
        "test \"$(pwd)\" = /tmp && test \"$(id -u)\" = 65534 && test \"$(hostname)\" = box.example",
        "test \"$(cat /shared/seen)\" = 'from outside' && ! touch /shared/x",
        "test \"$(cat /etc/site/a)$(cat /etc/site/b)\" = onetwo && ! touch /etc/site/c",
        "test \"$(cat /etc/one.conf)\" = one && test -d /data",
    ] {
        assert_eq!(world.exec(&all, script).await, 0, "{script}");
    }
    let volumes = world.listed("volumes");
    assert_eq!(volumes.len(), 1);
    assert_eq!(volumes[0]["Labels"]["skerry.io/volume"], "db");

    let observed = world.observe(&all).await.expect("it is observed");
    assert!(is_running(Some(&observed)) && observed.address.is_some());
    assert_eq!(
        (observed.fingerprint, observed.revision),
        (all.fingerprint.clone(), all.revision.to_string())
    );

    world.runtime.remove(&all.name).await.expect("it is removed");
    world.runtime.remove(&all.name).await.expect("removing nothing is fine");
    assert_eq!(world.containers(), [""; 0]);
    assert_eq!(world.listed("volumes").len(), 1, "volumes are kept");
}

#[tokio::test]
async fn what_runs_already_is_left_alone_and_what_ended_is_started_again() {
    let Some(world) = World::new("again") else { return };
    let web = idle("web");
    world.ensure(&web).await.expect("it runs");
    let first = world.inspect(&web);
    world.ensure(&web).await.expect("it still runs");
    // An agent that starts anew knows nothing.
    runtime(&world.docker, &world.owner, &world.dir).ensure(&web, &|_| ()).await.expect("it is adopted");
    let second = world.inspect(&web);
    assert_eq!((&first["Id"], &first["State"]["StartedAt"]), (&second["Id"], &second["State"]["StartedAt"]));

    let before = world.observe(&web).await.expect("it is observed");
    let container = first["Id"].as_str().unwrap();
    world.post(&format!("/containers/{container}/kill"));
    eventually("its end is seen", SOON, async || match world.observe(&web).await {
        Some(Observed { state: RunState::Exited { code: Some(137), .. }, .. }) => Ok(()),
        other => Err(format!("{other:?}")),
    })
    .await;
    world.ensure(&web).await.expect("it is started");
    let after = world.observe(&web).await.expect("it is observed");
    assert_eq!(after.runtime_id, before.runtime_id, "the same container");
    assert!(is_running(Some(&after)) && after.state != before.state, "since later than before");
}

#[tokio::test]
async fn what_is_stopped_stays_with_its_output_and_can_be_started_again() {
    let Some(world) = World::new("stop") else { return };
    let instance = idle("web");
    world.runtime.stop(&instance.name).await.expect("nothing to stop");
    world.ensure(&instance).await.expect("it runs");
    let id = world.observe(&instance).await.expect("it is there").runtime_id;
    for _ in 0..2 {
        world.runtime.stop(&instance.name).await.expect("stopped");
        let seen = world.observe(&instance).await.expect("it is still there");
        assert!(matches!(seen.state, RunState::Exited { .. }), "{seen:?}");
        assert_eq!(seen.runtime_id, id);
    }
    world.ensure(&instance).await.expect("it runs again");
    let seen = world.observe(&instance).await;
    assert!(is_running(seen.as_ref()) && seen.is_some_and(|seen| seen.runtime_id == id));
}

#[tokio::test]
async fn another_fingerprint_replaces_after_the_old_ones_own_stop() {
    let Some(world) = World::new("replace") else { return };
    let out = world.dir.path().join("out");
    std::fs::create_dir(&out).unwrap();
    let mut old = shell("trap 'echo bye > /out/bye; exit 0' USR1; while :; do sleep 0.05; done");
    old.mounts.push(Mount {
        target: "/out".into(),
        source: MountSource::Bind { path: out.display().to_string(), propagation: None },
        read_only: false,
    });
    let old = spec("web", old, |service| {
        service.stop = StopPolicy { signal: Some("SIGUSR1".into()), grace_period: Duration::from_secs(10) };
    });
    world.ensure(&old).await.expect("the old one runs");
    let new = idle("web");
    world.ensure(&new).await.expect("the new one runs");
    assert_eq!(std::fs::read_to_string(out.join("bye")).unwrap(), "bye\n");
    assert_eq!(world.containers().len(), 1);
    let observed = world.observe(&new).await.expect("it is observed");
    assert!(is_running(Some(&observed)));
    assert_eq!(observed.fingerprint, new.fingerprint);
}

#[tokio::test]
async fn a_replacement_waits_for_its_image() {
    let Some(world) = World::new("image-first") else { return };
    let old = idle("web");
    world.ensure(&old).await.expect("the old one runs");
    let mut absent = shell(IDLE);
    absent.image = "skerry-test/nosuch:1".into();
    absent.pull_policy = PullPolicy::Never;
    let new = spec("web", absent, |_| ());
    let error = world.ensure(&new).await.expect_err("its image is not there");
    assert_eq!((error.reason, error.transient), ("ImageMissing", false));
    assert_eq!(world.runtime.prepare(&new, &|_| ()).await.unwrap_err().reason, "ImageMissing");
    let observed = world.observe(&old).await;
    assert!(is_running(observed.as_ref()) && observed.unwrap().fingerprint == old.fingerprint);
}

#[tokio::test]
async fn dropped_anywhere_the_next_call_ends_at_exactly_one() {
    let Some(world) = World::new("dropped") else { return };
    let specs = [idle_with_env("one"), idle_with_env("two")];
    for round in 0..24_u64 {
        let spec = &specs[usize::from(round % 2 == 1)];
        // From before the first answer to well after the last.
        let patience = Duration::from_millis(round * round);
        let _ = tokio::time::timeout(patience, world.ensure(spec)).await;
        assert!(world.containers().len() <= 1, "round {round}");
        if round % 6 == 5 {
            let _ = tokio::time::timeout(patience / 2, world.runtime.remove(&spec.name)).await;
        }
    }
    for last in &specs {
        world.ensure(last).await.expect("it converges");
        assert_eq!(world.containers().len(), 1);
        let observed = world.observe(last).await.expect("it is observed");
        assert!(is_running(Some(&observed)));
        assert_eq!(observed.fingerprint, last.fingerprint);
    }
    assert_eq!(world.listed("networks").len(), 1, "one network, too");
}

#[tokio::test]
async fn a_foreign_container_of_the_same_name_is_refused_and_untouched() {
    let Some(world) = World::new("foreign") else { return };
    let web = idle("web");
    let body = serde_json::json!({"Image": BUSYBOX_IMAGE, "Cmd": ["true"], "Labels": {"theirs": "yes"}});
    let theirs = world.docker.create_container(&body).unwrap();
    world.post(&format!("/containers/{theirs}/rename?name={}", world.runtime.container_name(&web.name)));
    let refused = world.ensure(&web).await;
    let removed = world.runtime.remove(&web.name).await;
    let still = world.docker.inspect(&theirs);
    world.docker.request("DELETE", &format!("/containers/{theirs}?force=1"), &[]).unwrap();
    let error = refused.expect_err("the name is taken");
    assert_eq!((error.reason, error.transient), ("NameTaken", false));
    removed.expect("there is nothing of ours");
    assert_eq!(still.expect("it is still there")["State"]["Status"], "created");
}

#[tokio::test]
async fn two_agents_on_one_machine_do_not_touch_each_other() {
    let Some(one) = World::new("agent-one") else { return };
    let Some(two) = World::new("agent-two") else { return };
    let web = idle("web");
    one.ensure(&web).await.expect("the first runs");
    two.ensure(&web).await.expect("the second runs beside it");
    one.runtime.remove(&web.name).await.expect("the first is removed");
    one.runtime.sweep(&Wanted::default()).await.expect("the first sweeps");
    assert!(one.observe(&web).await.is_none());
    assert!(is_running(two.observe(&web).await.as_ref()));
    assert_eq!((one.listed("networks").len(), two.listed("networks").len()), (0, 1));
}

#[tokio::test]
async fn an_image_says_how_it_is() {
    let Some(world) = World::new("health") else { return };
    let base = world.docker.create_container(&serde_json::json!({"Image": BUSYBOX_IMAGE})).unwrap();
    let files = world.docker.request("GET", &format!("/containers/{base}/export"), &[]).unwrap().body;
    world.docker.request("DELETE", &format!("/containers/{base}"), &[]).unwrap();
    let image = format!("skerry-test/health:{}", std::process::id());
    let changes = ["ENV PATH=/bin", "HEALTHCHECK --interval=1s CMD test -e /tmp/well"];
    world.docker.import(&image, &files, &changes).expect("an image with a health check is made");
    let relying = |image: &str| {
        let image = image.to_owned();
        spec("web", Container { image, ..shell(&format!("touch /tmp/well; {IDLE}")) }, |service| {
            service.health_check = Some(HealthCheck {
                probe: Probe::Image,
                interval: Duration::from_secs(1),
                timeout: Duration::from_secs(1),
                start_period: Duration::ZERO,
                retries: 1,
            });
        })
    };
    let web = relying(&image);
    world.ensure(&web).await.expect("it runs");
    let health = async |expected: bool| {
        eventually("the image's health", SOON, async || match world.observe(&web).await {
            Some(Observed { image_health, .. }) if image_health == Some(expected) => Ok(()),
            other => Err(format!("{other:?}")),
        })
        .await;
    };
    health(true).await;
    world.exec(&web, "rm /tmp/well").await;
    health(false).await;
    world.runtime.remove(&web.name).await.unwrap();
    world.docker.request("DELETE", &format!("/images/{image}"), &[]).unwrap();
    let error = world.ensure(&relying(BUSYBOX_IMAGE)).await.expect_err("there is no check to rely on");
    assert_eq!(error.reason, "HealthCheckMissing");
}

#[tokio::test]
async fn what_happens_by_other_hands_rings() {
    let Some(world) = World::new("changed") else { return };
    let web = idle("web");
    world.ensure(&web).await.expect("it runs");
    // The first time something may have changed before anybody listened.
    tokio::time::timeout(SOON, world.runtime.changed()).await.expect("a new stream rings");
    while tokio::time::timeout(Duration::from_millis(300), world.runtime.changed()).await.is_ok() {}
    world.post(&format!("/containers/{}/stop", world.runtime.container_name(&web.name)));
    tokio::time::timeout(SOON, world.runtime.changed()).await.expect("the stop rings");
    let observed = world.observe(&web).await.expect("it is observed");
    assert!(
        matches!(observed.state, RunState::Exited { code: Some(0), out_of_memory: false, .. }),
        "{observed:?}"
    );
}

#[tokio::test]
async fn failures_have_their_reasons_and_pass_when_mended() {
    let Some(world) = World::new("reasons") else { return };
    let listener = TcpListener::bind("0.0.0.0:0").unwrap();
    let host_port = listener.local_addr().unwrap().port();
    let port = Port { container_port: 80, host_port, protocol: Protocol::Tcp, host_address: None };
    let taken = spec("port", Container { ports: vec![port], ..shell(IDLE) }, |_| ());
    let error = world.ensure(&taken).await.expect_err("the port is taken");
    assert_eq!((error.reason, error.transient), ("PortTaken", true), "{error}");
    assert_eq!(world.observe(&taken).await.unwrap().state, RunState::Created);
    drop(listener);
    world.ensure(&taken).await.expect("the port is free");
    assert!(is_running(world.observe(&taken).await.as_ref()));

    let missing = world.dir.path().join("later");
    let source = MountSource::Bind { path: missing.display().to_string(), propagation: None };
    let mount = Mount { target: "/in".into(), source, read_only: true };
    let bind = spec("bind", Container { mounts: vec![mount], ..shell(IDLE) }, |_| ());
    assert_eq!(world.ensure(&bind).await.unwrap_err().reason, "MountMissing");
    assert!(!missing.exists(), "no directory is made");
    std::fs::create_dir(&missing).unwrap();
    world.ensure(&bind).await.expect("the directory is there");

    let none = spec("program", Container { command: vec!["nosuch".into()], ..shell("") }, |_| ());
    assert_eq!(world.ensure(&none).await.unwrap_err().reason, "ProgramNotFound");
    let none = spec("file", Container { command: vec!["/etc/passwd".into()], ..shell("") }, |_| ());
    assert_eq!(world.ensure(&none).await.unwrap_err().reason, "ProgramNotExecutable");
    let nobody = spec("user", shell(IDLE), |service| service.user = Some("nosuch".into()));
    assert_eq!(world.ensure(&nobody).await.unwrap_err().reason, "UserUnknown");
}

#[tokio::test]
async fn a_pull_that_fails_says_so_soon() {
    let Some(world) = World::new("pull") else { return };
    let told = Mutex::new(Vec::new());
    let sink = |progress: Progress| told.lock().unwrap().push(progress.reason);
    // Nobody listens there.
    let image = format!("127.0.0.1:{}/nosuch:1", free_port());
    for pull_policy in [PullPolicy::IfNotPresent, PullPolicy::Always] {
        let web = spec("web", Container { image: image.clone(), pull_policy, ..shell(IDLE) }, |_| ());
        let before = Instant::now();
        let error = world.runtime.ensure(&web, &sink).await.expect_err("there is no registry");
        assert_eq!((error.reason, error.transient), ("ImagePullFailed", true), "{error}");
        assert!(error.message.contains("refused"), "Docker's own words: {error}");
        assert!(before.elapsed() < Duration::from_secs(60));
    }
    assert_eq!(*told.lock().unwrap(), ["Pulling", "Pulling"]);
    assert_eq!(world.containers(), [""; 0]);
}

#[tokio::test]
async fn without_docker_everything_is_unavailable_for_now() {
    let dir = tempfile::tempdir().unwrap();
    let dirs = RuntimeDirs {
        configs: dir.path().join("c"),
        instances: dir.path().join("i"),
        artifacts: dir.path().join("artifacts"),
    };
    // One is absent, the other refuses.
    let refusing = dir.path().join("refusing.sock");
    drop(std::os::unix::net::UnixListener::bind(&refusing).unwrap());
    for socket in [dir.path().join("absent.sock"), refusing] {
        let runtime = DockerRuntime::at_socket(&socket, "test/none", &dirs);
        let web = idle("web");
        let errors = [
            runtime.probe().await.map(|_| ()).unwrap_err(),
            runtime.ensure(&web, &|_| ()).await.unwrap_err(),
            runtime.remove(&web.name).await.unwrap_err(),
            runtime.observe().await.map(|_| ()).unwrap_err(),
        ];
        for error in errors {
            assert_eq!((error.reason, error.transient), ("RuntimeUnavailable", true), "{error}");
        }
    }
}

#[tokio::test]
async fn sweeping_takes_what_nobody_needs_and_never_volumes() {
    let Some(world) = World::new("sweep") else { return };
    let config = ConfigName::parse("site").unwrap();
    let with = |service: &str, text: &str| {
        let mut container = shell(IDLE);
        let source = MountSource::Volume { name: VolumeName::parse("db").unwrap(), remove_with_app: false };
        container.mounts.push(Mount { target: "/data".into(), source, read_only: false });
        let mut spec = spec(service, container, |service| {
            service.configs = vec![ConfigMount {
                config: config.clone(),
                path: "/etc/site".into(),
                key: None,
                executable: false,
            }];
        });
        let files = BTreeMap::from([("a".to_owned(), text.as_bytes().to_vec())]);
        let hash = ContentHash::of(text.as_bytes());
        spec.configs.insert(config.clone(), Arc::new(ConfigContent { hash, files }));
        spec
    };
    let layout =
        |text: &str| world.dir.path().join("configs/site").join(ContentHash::of(text.as_bytes()).to_string());
    let (one, two) = (with("one", "1"), with("two", "2"));
    world.ensure(&one).await.expect("one runs");
    world.ensure(&two).await.expect("two runs");
    world.runtime.remove(&two.name).await.expect("two is gone");
    world.runtime.sweep(&Wanted::default()).await.expect("swept");
    assert!(layout("1").join("a").exists(), "in use");
    assert!(!layout("2").exists());
    assert_eq!(world.listed("networks").len(), 1, "in use");
    assert_eq!(world.exec(&one, "test \"$(cat /etc/site/a)\" = 1").await, 0);

    world.runtime.remove(&one.name).await.expect("one is gone");
    let wanted =
        Wanted { configs: [(config.clone(), ContentHash::of(b"1").to_string())].into(), ..Wanted::default() };
    world.runtime.sweep(&wanted).await.expect("swept");
    assert!(layout("1").exists(), "wanted");
    assert_eq!(world.listed("networks").len(), 0);
    world.runtime.sweep(&Wanted::default()).await.expect("swept");
    assert!(!layout("1").exists());
    assert_eq!(world.listed("volumes").len(), 1, "volumes are kept");
}

#[tokio::test]
async fn commands_tell_their_exit_code_and_do_not_pile_up() {
    let Some(world) = World::new("exec") else { return };
    let web = idle("web");
    world.ensure(&web).await.expect("it runs");
    assert_eq!(world.exec(&web, "exit 3").await, 3);
    assert_eq!(world.exec(&web, "yes | head -c 1000000").await, 0, "output is not kept");
    assert!(matches!(world.runtime.exec(&web.name, &["nosuch".to_owned()]).await, Ok(126 | 127)));

    let sleep = ["sleep".to_owned(), "600".to_owned()];
    for _ in 0..2 {
        let dropped =
            tokio::time::timeout(Duration::from_millis(500), world.runtime.exec(&web.name, &sleep)).await;
        assert!(dropped.is_err(), "it sleeps: {dropped:?}");
    }
    // Seen by looking at Docker, as the agent does all the time: the command is ended, unless this process may not signal it.
    world.observe(&web).await;
    match world.runtime.exec(&web.name, &["true".to_owned()]).await {
        Ok(code) => assert_eq!(code, 0),
        Err(error) => assert_eq!(error.reason, "ExecStillRunning"),
    }
    world.runtime.remove(&web.name).await.expect("it is removed");
    assert_eq!(world.runtime.exec(&web.name, &sleep).await.unwrap_err().reason, "NotRunning");
}
