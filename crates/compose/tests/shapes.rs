//! Files as people write them, and what they become.

mod support;

use skerry_proto::types::v1::dependency::Condition;
use skerry_proto::types::v1::health_check::{self, Probe};
use skerry_proto::types::v1::{self as pb, mount, restart_policy, service_spec};
use support::{Read, World, one, read_one};

/// A web shop: variables, extension fields, anchors, merge keys, conditions, configs and secrets, two networks.
const SHOP: &str = r#"
name: ignored-for-the-flag
x-usual: &usual
  restart: unless-stopped
  logging: {driver: local, options: {max-size: 5m}}
x-env: &env
  TZ: ${TZ:-UTC}
  LOG: info
services:
  front:
    <<: *usual
    image: example.org/front:${TAG:?which}
    command: serve --port 8080 --title "Our shop"
    ports: ["8080:8080", "127.0.0.1:9000-9001:9000-9001"]
    environment:
      <<: *env
      API: http://api:3000
      WORKERS: 4
      DEBUG: false
      FROM_HERE:
    depends_on:
      api: {condition: service_healthy}
      migrate: {condition: service_completed_successfully}
    networks: [web]
    configs:
      - source: site
        target: /etc/front/site.conf
    read_only: true
    tmpfs: [/run, "/tmp:size=16m,mode=1770"]
  api:
    <<: *usual
    image: example.org/api:${TAG}
    entrypoint: ["/api", "--all"]
    env_file: [common.env, {path: missing.env, required: false}]
    environment: [LOG=debug, discovery.type=single-node]
    healthcheck:
      test: ["CMD", "wget", "-qO-", "http://localhost:3000/health"]
      interval: 1m30s
      timeout: 500ms
      retries: 5
      start_period: 40s
    networks:
      web: {}
      back: {aliases: [backend]}
    secrets:
      - db_password
      - {source: key, target: tls.key, uid: "103", gid: "103", mode: 0440}
    deploy:
      resources:
        limits: {cpus: "0.50", memory: 256M, pids: 100}
        reservations: {memory: 64M}
    ulimits: {nproc: 65535, nofile: {soft: 20000, hard: 40000}}
  migrate:
    image: example.org/api:${TAG}
    command: [migrate, up]
    networks: [back]
    depends_on: [my_db]
  my_db:
    image: postgres
    restart: on-failure:5
    volumes:
      - db_data:/var/lib/postgresql/data
      - type: bind
        source: /srv/init
        target: /docker-entrypoint-initdb.d
        read_only: true
      - /cache
    networks: [back]
    shm_size: 128mb
    stop_signal: INT
    stop_grace_period: 1m
networks: {web: {}, back: {driver: bridge}}
volumes: {db_data: {}}
configs:
  site: {file: ./conf/site.conf}
secrets:
  db_password: {environment: DB_PASSWORD}
  key: {external: true, name: tls, x-skerry: {key: tls.key}}
"#;

fn shop() -> Read {
    World::default()
        .file("conf/site.conf", "listen 8080;\n")
        .file("common.env", "LOG=warn\nREGION=eu # here\n")
        .variable("TAG", "1.2")
        .variable("DB_PASSWORD", "hunter2")
        .read(&[SHOP])
}

fn map(pairs: &[(&str, &str)]) -> std::collections::BTreeMap<String, String> {
    pairs.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned())).collect()
}

#[test]
fn a_shop_becomes_an_app_with_what_it_mounts() {
    let read = shop();
    let front = read.service("front");
    assert_eq!(read.container("front").image, "example.org/front:1.2");
    assert_eq!(read.container("front").command, ["serve", "--port", "8080", "--title", "Our shop"]);
    let expected = map(&[
        ("API", "http://api:3000"),
        ("DEBUG", "false"),
        ("LOG", "info"),
        ("TZ", "UTC"),
        ("WORKERS", "4"),
    ]);
    assert_eq!(front.env, expected);
    let waits: Vec<_> = front.depends_on.iter().map(|on| (on.service.as_str(), on.condition())).collect();
    assert_eq!(waits, [("api", Condition::Healthy), ("migrate", Condition::Completed)]);
    let ports: Vec<_> = read
        .container("front")
        .ports
        .iter()
        .map(|port| (port.container_port, port.host_address.as_str()))
        .collect();
    assert_eq!(ports, [(8080, ""), (9000, "127.0.0.1"), (9001, "127.0.0.1")]);
    assert_eq!(front.configs[0].path, "/etc/front/site.conf");
    assert_eq!((front.configs[0].config.as_str(), front.configs[0].key.as_str()), ("shop-site", "site.conf"));
    assert_eq!(read.configs["shop-site"].data, map(&[("site.conf", "listen 8080;\n")]));
    assert!(read.container("front").read_only_root);
    let tmpfs: Vec<_> = read
        .container("front")
        .mounts
        .iter()
        .map(|mount| (mount.target.as_str(), mount.source.clone()))
        .collect();
    let memory = |size_bytes, mode: &str| {
        Some(mount::Source::Tmpfs(mount::Tmpfs { size_bytes, mode: mode.to_owned() }))
    };
    assert_eq!(tmpfs, [("/run", memory(None, "")), ("/tmp", memory(Some(16 << 20), "1770"))]);
    assert_eq!(read.container("front").log.as_ref().expect("a log").driver, "local");

    let api = read.service("api");
    assert_eq!(read.container("api").entrypoint, ["/api", "--all"]);
    assert_eq!(api.env, map(&[("LOG", "debug"), ("REGION", "eu"), ("discovery.type", "single-node")]));
    let check = api.health_check.as_ref().expect("a check");
    let command = ["wget", "-qO-", "http://localhost:3000/health"].map(str::to_owned).to_vec();
    assert_eq!(check.probe, Some(Probe::Exec(health_check::Exec { command })));
    let seconds =
        |duration: &Option<prost_types::Duration>| duration.as_ref().map(|duration| duration.seconds);
    assert_eq!(
        (seconds(&check.interval), seconds(&check.timeout), seconds(&check.start_period)),
        (Some(90), Some(1), Some(40))
    );
    assert_eq!(check.retries, Some(5));
    let [password, key] = api.secrets.as_slice() else { panic!("{:?}", api.secrets) };
    assert_eq!(
        (password.secret.as_str(), password.key.as_str(), password.path.as_str()),
        ("shop-db-password", "db_password", "/run/secrets/db_password")
    );
    assert_eq!(
        (key.secret.as_str(), key.key.as_str(), key.path.as_str()),
        ("tls", "tls.key", "/run/secrets/tls.key")
    );
    assert_eq!((key.mode.as_str(), key.owner.as_str()), ("0440", "103:103"));
    assert_eq!(read.secrets["shop-db-password"].data["db_password"].as_ref(), b"hunter2");
    assert_eq!(read.secrets.len(), 1, "an external one is there already");
    let resources = api.resources.expect("resources");
    let limits = resources.limits.expect("limits");
    assert_eq!(
        (limits.cpu_millis, limits.memory_bytes, limits.pids),
        (Some(500), Some(256 << 20), Some(100))
    );
    assert_eq!(resources.requests.expect("requests").memory_bytes, Some(64 << 20));
    let ulimits: Vec<_> =
        read.container("api").ulimits.iter().map(|one| (one.name.as_str(), one.soft, one.hard)).collect();
    assert_eq!(ulimits, [("nproc", 65_535, None), ("nofile", 20_000, Some(40_000))]);

    assert_eq!(read.service("migrate").restart.expect("a policy").policy(), restart_policy::Policy::Never);
    let db = read.service("my-db");
    assert_eq!(db.restart.expect("a policy").policy(), restart_policy::Policy::OnFailure);
    let stop = db.stop.as_ref().expect("a stop");
    assert_eq!((stop.signal.as_str(), seconds(&stop.grace_period)), ("SIGINT", Some(60)));
    assert_eq!(read.container("my-db").shm_size_bytes, Some(128 << 20));
    let volume = |name: &str, remove_with_app| {
        Some(mount::Source::Volume(mount::Volume { name: name.to_owned(), remove_with_app }))
    };
    let sources: Vec<_> = read.container("my-db").mounts.iter().map(|mount| mount.source.clone()).collect();
    assert_eq!(sources[0], volume("db-data", false));
    assert!(matches!(&sources[1], Some(mount::Source::Bind(bind)) if bind.path == "/srv/init"));
    assert_eq!(sources[2], volume("my-db-cache", true));
}

#[test]
fn what_the_shop_is_not_as_it_says_is_told() {
    let read = shop();
    let warned = read.warned().join("\n");
    for part in [
        "services.front.environment.FROM_HERE: left out: the variable FROM_HERE is not set here",
        "services.api.healthcheck.timeout: it is 1 s",
        "services.my_db: it is called \"my-db\" here",
        "services.my_db.restart: how often is left out",
    ] {
        assert!(warned.contains(part), "{part}\n{warned}");
    }
    assert_eq!(read.warned().len(), 4, "{warned}");
}

#[test]
fn networks_that_are_apart_stay_apart() {
    let read = shop();
    // None is of all: each service is in those that it names, and not in one with everybody.
    for service in ["front", "api", "migrate", "my-db"] {
        assert!(read.container(service).only_networks, "{service}");
    }
    let of = |service: &str| -> Vec<(String, Vec<String>)> {
        read.container(service).networks.iter().map(|one| (one.name.clone(), one.aliases.clone())).collect()
    };
    assert_eq!(of("front"), [("web".to_owned(), vec![])]);
    assert_eq!(of("api"), [("back".to_owned(), vec!["backend".to_owned()]), ("web".to_owned(), vec![])]);
    assert_eq!(of("my-db"), [("back".to_owned(), vec!["my_db".to_owned()])]);
}

#[test]
fn a_network_of_all_is_the_apps_own() {
    let text = "services:\n  a: {image: 'x:1', networks: {all: {aliases: [z]}, more: {}}}\n  b: {image: 'x:1', networks: [all]}\nnetworks: {all: {}, more: {}}\n";
    let read = World::default().read(&[text]);
    let a = read.container("a");
    assert_eq!((a.only_networks, a.network_aliases.as_slice()), (false, ["z".to_owned()].as_slice()));
    assert_eq!(a.networks.iter().map(|one| one.name.as_str()).collect::<Vec<_>>(), ["more"]);
    assert!(read.container("b").networks.is_empty());
}

#[test]
fn names_by_which_others_know_a_service_are_kept() {
    let read = read_one("container_name: the-one\nhostname: box.example.org");
    let container = read.container("a");
    assert_eq!(container.network_aliases, ["box.example.org", "the-one"]);
    assert_eq!(container.hostname, "box.example.org");
    let linked =
        World::default().read(&["services:\n  a: {image: 'x:1', links: ['b:store']}\n  b: {image: 'x:1'}\n"]);
    assert_eq!(linked.container("b").network_aliases, ["store"]);
    assert_eq!(linked.service("a").depends_on[0].service, "b");
}

#[test]
fn files_are_merged_as_compose_merges_them() {
    let base = "services:\n  a:\n    image: x:1\n    command: [one, two]\n    environment: [A=1, B=2]\n    ports: ['80:80']\n    volumes: ['data:/d', '/srv:/s']\n    \
                labels: {k: v}\n    cap_add: [NET_ADMIN]\n    dns: 9.9.9.9\n    depends_on: [b]\n    healthcheck: {test: [CMD, x], retries: 9}\n    logging: {driver: local, options: {a: b}}\n  b: {image: 'y:1'}\nvolumes: {data: {}}\n";
    let over = "services:\n  a:\n    image: x:2\n    command: [three]\n    environment: {B: 3, C: 4}\n    ports: ['81:81', '80:80']\n    volumes: ['/other:/d']\n    \
                labels: [l=w]\n    cap_add: [NET_ADMIN, SYS_TIME]\n    dns: [8.8.8.8]\n    depends_on: {b: {condition: service_healthy}}\n    healthcheck: {test: [CMD, y]}\n    logging: {driver: journald}\n";
    let read = World::default().read(&[base, over]);
    let (service, container) = (read.service("a"), read.container("a"));
    assert_eq!(
        (container.image.as_str(), container.command.as_slice()),
        ("x:2", ["three".to_owned()].as_slice())
    );
    assert_eq!(service.env, map(&[("A", "1"), ("B", "3"), ("C", "4")]));
    assert_eq!(container.ports.iter().map(|port| port.container_port).collect::<Vec<_>>(), [81, 80]);
    assert_eq!(container.mounts.iter().map(|mount| mount.target.as_str()).collect::<Vec<_>>(), ["/s", "/d"]);
    assert!(matches!(&container.mounts[1].source, Some(mount::Source::Bind(bind)) if bind.path == "/other"));
    assert_eq!(container.labels, map(&[("k", "v"), ("l", "w")]));
    assert_eq!(container.cap_add, ["NET_ADMIN", "SYS_TIME"]);
    assert_eq!(container.dns.as_ref().expect("dns").servers, ["9.9.9.9", "8.8.8.8"]);
    assert_eq!(service.depends_on[0].condition(), Condition::Healthy);
    let check = service.health_check.as_ref().expect("a check");
    assert_eq!(check.probe, Some(Probe::Exec(health_check::Exec { command: vec!["y".to_owned()] })));
    assert_eq!(check.retries, Some(9));
    let log = container.log.as_ref().expect("a log");
    assert_eq!((log.driver.as_str(), log.options.len()), ("journald", 0));
    // Who is waited for says nothing of its health: its image does.
    assert_eq!(
        read.service("b").health_check.as_ref().and_then(|check| check.probe.clone()),
        Some(Probe::Image(health_check::Image {}))
    );
}

#[test]
fn marks_take_away_what_was_there() {
    let base = "services:\n  a:\n    image: x:1\n    ports: ['80:80']\n    environment: {A: 1, B: 2}\n    cap_add: [NET_ADMIN]\n    user: nobody\n";
    let over = "services:\n  a:\n    ports: !override ['90:90']\n    environment: {A: !reset null}\n    cap_add: !reset []\n    user: !reset ''\n";
    let read = World::default().read(&[base, over]);
    let container = read.container("a");
    assert_eq!(container.ports.iter().map(|port| port.container_port).collect::<Vec<_>>(), [90]);
    assert_eq!(read.service("a").env, map(&[("B", "2")]));
    assert_eq!((container.cap_add.len(), read.service("a").user.as_str()), (0, ""));
}

#[test]
fn services_extend_one_another_and_those_of_other_files() {
    let world = World::default().file(
        "base/common.yml",
        "services:\n  root: {image: 'x:1', environment: {A: 1, B: 1}, env_file: near.env}\n  mid: {extends: root, environment: {B: 2, C: 2}}\n",
    );
    let world = world.file("base/near.env", "NEAR=yes\n");
    let text = "services:\n  a:\n    extends: {file: base/common.yml, service: mid}\n    environment: {C: 3}\n  b: {extends: {service: a}, command: [run]}\n";
    let read = world.read(&[text]);
    assert_eq!(read.service("a").env, map(&[("A", "1"), ("B", "2"), ("C", "3"), ("NEAR", "yes")]));
    assert_eq!(read.service("b").env, read.service("a").env);
    assert_eq!(read.container("b").image, "x:1");
    for (text, part) in [
        ("services: {a: {extends: b}, b: {extends: a}}", "extends goes round in a circle"),
        ("services: {a: {extends: a}}", "extends goes round in a circle"),
        ("services: {a: {extends: nobody}}", "there is no service \"nobody\" to extend"),
        ("services: {a: {extends: {file: none.yml, service: a}}}", "cannot read /project/none.yml"),
    ] {
        let errors = world.errors(&[text]);
        assert!(errors[0].contains(part), "{errors:?}");
    }
}

#[test]
fn projects_include_others() {
    let world = World::default()
        .file(
            "db/compose.yml",
            "services: {db: {image: 'pg:${V}', volumes: ['data:/d']}}\nvolumes: {data: {}}\n",
        )
        .file("db/.env", "V=16\n");
    let read = world.read(&["include: [db/compose.yml]\nservices: {a: {image: 'x:1', depends_on: [db]}}\n"]);
    assert_eq!(read.container("db").image, "pg:16");
    let errors = world.errors(&["include: [{path: db/compose.yml}]\nservices: {db: {image: 'x:1'}}\n"]);
    assert!(errors[0].contains("keep one"), "{errors:?}");
    let round = World::default().file("a.yml", "include: [a.yml]\nservices: {}\n");
    assert!(
        round.errors(&["include: [a.yml]\nservices: {a: {image: 'x:1'}}\n"])[0].contains("round in a circle")
    );
}

#[test]
fn profiles_choose_among_the_services() {
    let text = "services:\n  a: {image: 'x:1'}\n  debug: {image: 'x:1', profiles: [dev, test]}\n";
    let names = |world: World| {
        world.read(&[text]).app.services.into_iter().map(|service| service.name).collect::<Vec<_>>()
    };
    assert_eq!(names(World::default()), ["a"]);
    assert_eq!(names(World::default().profile("test")), ["a", "debug"]);
    assert_eq!(names(World::default().profile("*")), ["a", "debug"]);
    assert_eq!(names(World::default().variable("COMPOSE_PROFILES", "x,dev")), ["a", "debug"]);
    let needs = "services:\n  a: {image: 'x:1', depends_on: [b]}\n  b: {image: 'x:1', profiles: [p]}\n";
    assert!(World::default().errors(&[needs])[0].contains("choose it by --profile"));
    let may = "services:\n  a: {image: 'x:1', depends_on: {b: {condition: service_started, required: false}}}\n  b: {image: 'x:1', profiles: [p]}\n";
    assert!(World::default().read(&[may]).service("a").depends_on.is_empty());
}

#[test]
fn the_environment_counts_before_the_file_and_unset_variables_are_told() {
    let world = World::default().env_file("TAG=1\nNAME=file\nBOTH=${NAME}-${TAG}\n").variable("NAME", "mine");
    let read =
        world.read(&["services: {a: {image: 'x:$TAG', environment: {N: $NAME, B: $BOTH, U: $UNSET}}}"]);
    assert_eq!(read.service("a").env, map(&[("B", "mine-1"), ("N", "mine"), ("U", "")]));
    assert_eq!(
        read.warned(),
        ["1.yml:1:70: services.a.environment.U: the variable UNSET is not set: it stands for nothing"]
    );
    let errors = World::default().env_file("A=1\nB='x\n").errors(&["services: {a: {image: 'x:1'}}"]);
    assert!(errors[0].starts_with(".env:2:1: "), "{errors:?}");
}

#[test]
fn older_keys_say_the_same_as_deploy() {
    let limits = |lines: &str| {
        read_one(lines).service("a").resources.and_then(|resources| resources.limits).unwrap_or_default()
    };
    assert_eq!(
        limits("cpus: 1.5\nmem_limit: 1g\nmemswap_limit: 1536m\npids_limit: 5").swap_bytes,
        Some(512 << 20)
    );
    assert_eq!(limits("cpu_quota: 50000").cpu_millis, Some(500));
    assert_eq!(limits("cpu_period: 10000\ncpu_quota: 5000").cpu_millis, Some(500));
    assert_eq!(limits("pids_limit: -1").pids, None);
    assert_eq!(
        limits("mem_limit: 64m\ndeploy: {resources: {limits: {memory: 32m}}}").memory_bytes,
        Some(32 << 20)
    );
    let kind = |lines: &str| read_one(lines).service("a").kind.clone();
    assert_eq!(
        kind("scale: 3"),
        Some(service_spec::Kind::Deployment(pb::Deployment { replicas: Some(3), ..Default::default() }))
    );
    assert_eq!(kind("deploy: {mode: global}"), Some(service_spec::Kind::DaemonSet(pb::DaemonSet {})));
}

#[test]
fn gpus_are_whole_ones_unless_x_skerry_says_otherwise() {
    let gpu = |lines: &str| read_one(lines).service("a").gpu.clone();
    let two = Some(pb::GpuRequest { count: Some(2), ..Default::default() });
    let devices = "deploy: {resources: {reservations: {devices: [{driver: nvidia, count: 2, capabilities: [gpu, utility]}]}}}";
    assert_eq!(gpu(devices), two);
    assert_eq!(gpu("gpus: [{count: 2}]"), two);
    let share =
        pb::GpuRequest { memory_bytes: Some(8 << 30), compute_percent: Some(25), ..Default::default() };
    assert_eq!(gpu("x-skerry: {gpu: {memory: 8Gi, computePercent: 25}}"), Some(share));
    assert_eq!(gpu("tty: true"), None);
}

#[test]
fn health_checks_are_what_docker_makes_of_them() {
    let probe = |lines: &str| {
        read_one(lines).service("a").health_check.as_ref().and_then(|check| check.probe.clone())
    };
    let exec = |words: &[&str]| {
        Some(Probe::Exec(health_check::Exec { command: words.iter().map(ToString::to_string).collect() }))
    };
    assert_eq!(
        probe("healthcheck: {test: curl -f x || exit 1}"),
        exec(&["/bin/sh", "-c", "curl -f x || exit 1"])
    );
    assert_eq!(probe("healthcheck: {test: [CMD-SHELL, a b]}"), exec(&["/bin/sh", "-c", "a b"]));
    assert_eq!(probe("healthcheck: {interval: 5s}"), Some(Probe::Image(health_check::Image {})));
    assert_eq!(probe("healthcheck: {test: [NONE]}"), None);
    assert_eq!(probe("healthcheck: {disable: true}"), None);
    assert!(support::errors_of("healthcheck: {test: [curl, x]}")[0].contains("write [CMD, PROGRAM, ...]"));
}

#[test]
fn a_file_that_is_only_read_is_brought_as_a_config() {
    let world = World::default().file("nginx.conf", "worker_processes 1;\n");
    let read = world.read(&[&one("volumes: ['./nginx.conf:/etc/nginx/nginx.conf:ro']")]);
    let mount = &read.service("a").configs[0];
    assert_eq!(
        (mount.config.as_str(), mount.key.as_str(), mount.path.as_str()),
        ("shop-nginx-conf", "nginx.conf", "/etc/nginx/nginx.conf")
    );
    assert_eq!(read.configs["shop-nginx-conf"].data["nginx.conf"], "worker_processes 1;\n");
    assert!(read.warned()[0].contains("is brought as a config"));
    assert!(
        world.errors(&[&one("volumes: ['./nginx.conf:/etc/nginx/nginx.conf']")])[0]
            .contains("nodes do not have it")
    );
    let twice = "services:\n  a: {image: 'x:1', volumes: ['./nginx.conf:/a:ro']}\n  b: {image: 'x:1', volumes: ['./nginx.conf:/b:ro']}\n";
    assert_eq!(world.read(&[twice]).configs.len(), 1);
}

#[test]
fn what_compose_has_no_word_for_is_said_in_skerrys() {
    let text = "x-skerry: {selector: {matchLabels: {site: oslo}}}\nservices:\n  a:\n    image: x:1\n    environment: {A: 1}\n    x-skerry:\n      healthCheck: {http: {port: 80, path: /up}, interval: 5s}\n      container: {imageCredentials: registry}\n      env: {B: \"2\"}\n";
    let read = World::default().read(&[text]);
    assert_eq!(read.app.selector.as_ref().expect("a selector").match_labels, map(&[("site", "oslo")]));
    assert!(
        matches!(&read.service("a").health_check.as_ref().expect("a check").probe, Some(Probe::Http(http)) if http.port == 80)
    );
    assert_eq!(read.container("a").image_credentials, "registry");
    assert_eq!(read.container("a").image, "x:1");
    assert_eq!(read.service("a").env, map(&[("A", "1"), ("B", "2")]));
    let wrong = "services:\n  a:\n    image: x:1\n    x-skerry: {helthCheck: {}}\n";
    assert_eq!(
        World::default().errors(&[wrong]),
        ["1.yml:4:16: services.a.x-skerry.helthCheck: unknown field; did you mean \"healthCheck\"?"]
    );
    assert!(
        World::default().errors(&["services: {a: {image: 'x:1', x-skerry: {name: b}}}"])[0]
            .contains("the file itself says it")
    );
}
