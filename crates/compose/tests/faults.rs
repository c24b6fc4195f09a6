//! What cannot be taken is named by file, line and column, with what to do instead.

mod support;

use support::{World, errors_of, one};

#[test]
fn each_fault_has_its_place_and_says_what_to_do() {
    for (lines, expected) in [
        (
            "restart: sometimes",
            "1.yml:4:14: services.a.restart: use \"no\", always, on-failure or unless-stopped",
        ),
        (
            "ports: ['80:80', '99999:80']",
            "1.yml:4:22: services.a.ports[1]: `99999` is not a port: use 1 to 65535",
        ),
        (
            "volumes: ['data:/d']",
            "1.yml:4:15: services.a.volumes[0]: there is no volume \"data\": declare it below volumes, or write ./data for a directory",
        ),
        (
            "networks: [back]",
            "1.yml:4:16: services.a.networks[0]: there is no network \"back\": declare it below networks",
        ),
        ("depends_on: [b]", "1.yml:4:18: services.a.depends_on[0]: there is no service \"b\""),
        ("configs: [c]", "1.yml:4:15: services.a.configs[0]: there is no \"c\": declare it below configs"),
        ("command: echo 'x", "1.yml:4:14: services.a.command: a ' without its end"),
        (
            "user: ${WHO:?say who}",
            "1.yml:4:11: services.a.user: the variable WHO is required and not set: say who",
        ),
        (
            "gpus: all",
            "1.yml:4:11: services.a.gpus: all GPUs of a machine cannot be asked for: write count, or",
        ),
        (
            "gpus: [{}]",
            "1.yml:4:12: services.a.gpus[0]: all GPUs of a machine cannot be asked for: write count, or",
        ),
        (
            "gpus: [{count: 1, driver: amd}]",
            "1.yml:4:31: services.a.gpus[0].driver: GPUs of NVIDIA are given out, and no other devices: use nvidia",
        ),
        (
            "gpus: [{count: 1}, {count: 2}]",
            "1.yml:4:24: services.a.gpus[1]: a service has GPUs of one kind only",
        ),
        ("gpus: [{count: 0}]", "1.yml:4:13: services.a.gpus[0].count: 0 is out of range: 1 to 16"),
        (
            "deploy: {resources: {reservations: {devices: [{count: 1}]}}}",
            "1.yml:4:51: services.a.deploy.resources.reservations.devices[0]: say what kind of device is meant: capabilities: [gpu]",
        ),
        (
            "deploy: {resources: {reservations: {devices: [{capabilities: [tpu], count: 1}]}}}",
            "1.yml:4:67: services.a.deploy.resources.reservations.devices[0].capabilities[0]: only GPUs are given out: use gpu",
        ),
        (
            "deploy: {resources: {reservations: {devices: [{capabilities: [gpu], device_ids: ['0']}]}}}",
            "1.yml:4:73: services.a.deploy.resources.reservations.devices[0].device_ids: which GPU an instance has is decided by placement",
        ),
        (
            "mem_limit: much",
            "1.yml:4:16: services.a.mem_limit: `much` is no amount of bytes: write it as 64m or 2gb",
        ),
        ("cap_add: [FLY]", "1.yml:4:15: services.a.cap_add[0]: `FLY` is no capability: use one of"),
        (
            "network_mode: 'service:b'",
            "1.yml:4:19: services.a.network_mode: a container has a network of its own, the machine's, or none",
        ),
    ] {
        let errors = errors_of(lines);
        assert_eq!(errors.len(), 1, "{errors:#?}");
        assert!(errors[0].starts_with(expected), "{}\n{expected}", errors[0]);
    }
}

#[test]
fn a_fault_in_another_file_is_of_that_file() {
    let errors =
        World::default().errors(&["services: {a: {image: 'x:1'}}", "services:\n  a: {cap_add: [FLY]}\n"]);
    assert!(errors[0].starts_with("2.yml:2:17: services.a.cap_add[0]: "), "{errors:?}");
    let world = World::default().file("base.yml", "services:\n  b:\n    image: x:1\n    tty: perhaps\n");
    let errors = world.errors(&["services: {a: {extends: {file: base.yml, service: b}}}"]);
    assert!(
        errors[0].starts_with("/project/base.yml:4:10: services.a.tty: expected true or false"),
        "{errors:?}"
    );
}

#[test]
fn what_is_only_built_says_what_to_do() {
    let errors = World::default().errors(&["services:\n  web:\n    build: ./web\n"]);
    assert_eq!(
        errors,
        [
            "1.yml:3:5: services.web.build: Skerry builds nothing: build it by `docker compose build`, push it to a registry, and name it here as image: REGISTRY/web:TAG"
        ]
    );
}

#[test]
fn the_same_of_several_services_is_said_once() {
    let text = "version: '3.7'\nservices:\n  a: {image: 'x:1', container_name: one, restart: always}\n  b: {image: 'x:1', container_name: two, restart: always}\n";
    let read = World::default().read(&[text]);
    assert_eq!(
        read.warnings,
        [
            "1.yml:1:1: version: left out: the keys say what a file means",
            "1.yml:3:21: services.a.container_name: containers are named by the agent; the name is one of the service's in its networks (and in 1 more place)"
        ]
    );
}

#[test]
fn who_says_nothing_of_restarts_is_told_once_what_that_means() {
    let read = World::default().read(&["services: {a: {image: 'x:1'}, b: {image: 'x:1'}}"]);
    assert_eq!(read.warnings.len(), 1, "{:?}", read.warnings);
    assert!(read.warnings[0].contains("services.a.restart: nothing is said, so it is always started again"));
}

#[test]
fn what_is_no_compose_file_is_refused() {
    for (text, part) in [
        ("", "there is nothing in this file"),
        ("[a]", "expected a mapping, found a list"),
        ("apiVersion: skerry/v1\nkind: App\n", "Compose knows no such key"),
        ("services: {}", "no service is left"),
        ("volumes: {}", "there are no services"),
        ("services: [a]", "expected a mapping"),
        ("services: {a: x}", "expected a mapping"),
        ("services: {a: {}}", "name an image"),
        ("services: {'---': {image: 'x:1'}}", "use letters and digits"),
        ("services: {a_b: {image: 'x:1'}, a-b: {image: 'x:1'}}", "would both be called"),
        ("a: !include x", "is not read"),
        ("a: [", "not valid YAML"),
    ] {
        let errors = World::default().errors(&[text]);
        assert!(errors.iter().any(|error| error.contains(part)), "{text}: {errors:?}");
    }
}

#[test]
fn no_value_of_a_secret_is_in_a_fault() {
    let world = World::default().variable("S", "hunter2").file("s.txt", "hunter2");
    let text = "services: {a: {image: 'x:1', secrets: [s, t], cap_add: [X]}}\nsecrets: {s: {environment: S}, t: {file: s.txt}}\n";
    assert!(!world.errors(&[text]).join("").contains("hunter2"));
    let text = text.replace(", cap_add: [X]", "");
    assert!(!format!("{:?}", world.bundle(&[&text])).contains("hunter2"));
}

#[test]
fn files_are_bounded() {
    let laughs: String = (1..12).fold("x-a0: &a0 [x, x, x, x, x, x, x, x, x, x]\n".to_owned(), |text, n| {
        let aliases = vec![format!("*a{}", n - 1); 10].join(", ");
        format!("{text}x-a{n}: &a{n} [{aliases}]\n")
    });
    assert!(World::default().errors(&[&laughs])[0].contains("too much in one file"));
    let deep = format!("x: {}", "[".repeat(100));
    assert!(World::default().errors(&[&deep])[0].contains("nested deeper"));
    let long = World::default().variable("A", &"x".repeat(512 * 1024));
    let text = one(&format!("labels: [{}]", vec!["a=$A"; 20].join(", ")));
    assert!(long.errors(&[&text])[0].contains("with their variables the files are too long"));
    let many: Vec<String> = (0..600).map(|n| format!("  s{n}: {{image: x}}\n")).collect();
    let many = many.concat();
    assert!(World::default().errors(&[&format!("services:\n{many}")])[0].contains("too many for a file"));
    let large = World::default().file("large", &"x".repeat(513 * 1024));
    let text = "services: {a: {image: 'x:1', configs: [c]}}\nconfigs: {c: {file: large}}\n";
    assert!(large.errors(&[text])[0].contains("too many for a config"));
    assert!(
        World::default().errors(&[&format!("x: {}", "y".repeat(1024 * 1024))])[0].contains("longer than")
    );
}

#[test]
fn paths_go_up_and_stay_what_they_are() {
    let world = World::default().file("env/a.env", "A=1\n");
    assert_eq!(world.read(&[&one("env_file: ./x/../env/a.env")]).service("a").env["A"], "1");
    assert!(world.errors(&[&one("env_file: ../../none.env")])[0].contains("cannot read /none.env"));
}
