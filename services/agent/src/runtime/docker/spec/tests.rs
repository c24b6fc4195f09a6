//! Tables: each field of a spec, and what Docker is asked for because of it.

use std::collections::BTreeMap;
use std::sync::Arc;

use bollard::models::MountType;
use skerry_model::app::{
    Amounts, ConfigMount, Isolation, Kernel, Kind, Log, Mount, MountSource, Network, Process, PullPolicy,
    RestartPolicy as Restart, RestartWhen, ServiceSpec, StopPolicy, UpdateOrder,
};
use skerry_model::{AppName, ContentHash, InstanceName, ServiceName, VolumeName};

use super::names::LABEL_VOLUME;
use super::*;
use crate::desired::ConfigContent;

const CONFIGS: &str = "/data/configs";

pub(super) fn plain() -> Container {
    Container {
        image: "web:1".into(),
        pull_policy: PullPolicy::IfNotPresent,
        image_credentials: None,
        entrypoint: vec![],
        command: vec![],
        ports: vec![],
        mounts: vec![],
        hostname: None,
        platform: None,
        network: Network::default(),
        isolation: Isolation::default(),
        kernel: Kernel::default(),
        log: Log::default(),
        tty: false,
        stdin_open: false,
        labels: BTreeMap::new(),
    }
}

fn instance(container: Container, change: impl FnOnce(&mut ServiceSpec)) -> InstanceSpec {
    let mut service = ServiceSpec {
        name: ServiceName::parse("web").unwrap(),
        kind: Kind::DaemonSet,
        program: Program::Container(container),
        gpu: None,
        env_from: Vec::new(),
        env: BTreeMap::new(),
        working_directory: None,
        user: None,
        configs: vec![],
        secrets: vec![],
        requests: Amounts::default(),
        limits: Amounts::default(),
        health_check: None,
        depends_on: vec![],
        restart: Restart {
            when: RestartWhen::Always,
            backoff: Duration::from_secs(1),
            backoff_max: Duration::from_secs(60),
        },
        stop: StopPolicy { signal: None, grace_period: Duration::from_secs(10) },
        restart_time: None,
        update: UpdateOrder::StopFirst,
        placing: skerry_model::app::Placing::default(),
    };
    change(&mut service);
    InstanceSpec {
        name: InstanceName::parse("shop/web/n1/0").unwrap(),
        revision: ContentHash::of(b"r"),
        service: Arc::new(service),
        configs: BTreeMap::new(),
        secrets: BTreeMap::new(),
        gpus: Vec::new(),
        fingerprint: "f1".into(),
    }
}

fn body(instance: &InstanceSpec) -> ContainerCreateBody {
    create_body(instance, &Owner::new("o"), Path::new(CONFIGS), &instance.service.env).unwrap()
}

fn host(instance: &InstanceSpec) -> HostConfig {
    body(instance).host_config.unwrap()
}

#[test]
fn a_plain_service_asks_for_its_network_and_no_restarts() {
    let plain = instance(plain(), |_| ());
    let body = body(&plain);
    assert_eq!(body.image.as_deref(), Some("web:1"));
    assert_eq!((body.entrypoint, body.cmd, body.working_dir, body.user), (None, None, None, None));
    assert_eq!(body.hostname.as_deref(), Some("web"));
    assert_eq!(body.healthcheck, None, "the image's own stays");
    assert_eq!((body.stop_signal, body.stop_timeout), (None, Some(10)));
    let host = body.host_config.unwrap();
    assert_eq!(host.restart_policy.unwrap().name, Some(RestartPolicyNameEnum::NO));
    assert_eq!((host.nano_cpus, host.memory, host.memory_swap), (None, None, None));
    let network = Owner::new("o").network(&plain.name.app, None);
    assert_eq!(host.network_mode.as_ref(), Some(&network));
    let endpoints = body.networking_config.unwrap().endpoints_config.unwrap();
    assert_eq!(endpoints[&network].aliases, Some(vec!["web".to_owned()]));
}

#[test]
fn who_is_only_in_further_networks_is_made_in_the_first_of_them() {
    let further = |name: &str| skerry_model::NetworkName::parse(name).unwrap();
    let network = Network {
        further: [(further("back"), vec!["store".to_owned()]), (further("more"), vec![])].into(),
        only_further: true,
        ..Network::default()
    };
    let instance = instance(Container { network, ..plain() }, |_| ());
    let body = body(&instance);
    let owner = Owner::new("o");
    let (back, more) = (further("back"), further("more"));
    let names: Vec<String> =
        [&back, &more].iter().map(|name| owner.network(&instance.name.app, Some(name))).collect();
    assert_eq!(body.host_config.unwrap().network_mode.as_ref(), Some(&names[0]));
    let endpoints = body.networking_config.unwrap().endpoints_config.unwrap();
    assert_eq!(endpoints.keys().collect::<Vec<_>>(), [&names[0]]);
    assert_eq!(endpoints[&names[0]].aliases, Some(vec!["web".to_owned(), "store".to_owned()]));
    assert_eq!(body.labels.unwrap()["skerry.io/networks"], names.join(","), "and in no other");
}

#[test]
fn labels_say_whose_what_and_from_where() {
    let labels = body(&instance(plain(), |_| ())).labels.unwrap();
    let expected = [
        ("skerry.io/managed-by", "o"),
        ("skerry.io/instance", "shop/web/n1/0"),
        ("skerry.io/app", "shop"),
        ("skerry.io/service", "web"),
        ("skerry.io/fingerprint", "f1"),
        ("skerry.io/stop-grace-seconds", "10"),
        // Said, so that what the image says does not count.
        ("skerry.io/gpus", ""),
        ("skerry.io/gpu-bookings", ""),
        ("skerry.io/gpu-warnings", ""),
    ];
    for (key, value) in expected {
        assert_eq!(labels[key], value, "{key}");
    }
    assert_eq!(labels["skerry.io/revision"], ContentHash::of(b"r").to_string());
}

#[test]
fn program_and_surroundings_are_taken_over() {
    let container = Container {
        entrypoint: vec!["/init".into()],
        command: vec!["run".into(), "a b".into()],
        hostname: Some("h.example".into()),
        ..plain()
    };
    let body = body(&instance(container, |service| {
        service.env = BTreeMap::from([("A".into(), "1=2".into()), ("B".into(), String::new())]);
        service.working_directory = Some("/srv".into());
        service.user = Some("7:8".into());
        service.stop =
            StopPolicy { signal: Some("SIGINT".into()), grace_period: Duration::from_millis(1500) };
    }));
    assert_eq!(body.entrypoint, Some(vec!["/init".to_owned()]));
    assert_eq!(body.cmd, Some(vec!["run".to_owned(), "a b".to_owned()]));
    assert_eq!(body.env, Some(vec!["A=1=2".to_owned(), "B=".to_owned()]));
    assert_eq!(body.working_dir.as_deref(), Some("/srv"));
    assert_eq!(body.user.as_deref(), Some("7:8"));
    assert_eq!(body.hostname.as_deref(), Some("h.example"));
    assert_eq!(body.stop_signal.as_deref(), Some("SIGINT"));
    assert_eq!(body.stop_timeout, Some(2), "never less grace than asked for");
}

#[test]
fn limits_are_in_dockers_units_and_leave_no_swap() {
    let limits = Amounts { cpu_millis: Some(1500), memory_bytes: Some(64 << 20), ..Amounts::default() };
    let host = host(&instance(plain(), |service| service.limits = limits));
    assert_eq!(host.nano_cpus, Some(1_500_000_000));
    assert_eq!((host.memory, host.memory_swap), (Some(64 << 20), Some(64 << 20)));
    let swap = Amounts { swap_bytes: Some(1 << 20), pids: Some(7), ..limits };
    let host = self::host(&instance(plain(), |service| service.limits = swap));
    assert_eq!((host.memory_swap, host.pids_limit), (Some(65 << 20), Some(7)));
}

#[test]
fn ports_are_published_by_protocol_and_address() {
    let port = |container_port, host_port, protocol, address: Option<&str>| Port {
        container_port,
        host_port,
        protocol,
        host_address: address.map(|a| a.parse().unwrap()),
    };
    let container = Container {
        ports: vec![
            port(80, 8080, Protocol::Tcp, None),
            port(80, 8081, Protocol::Tcp, Some("127.0.0.1")),
            port(53, 5353, Protocol::Udp, Some("::1")),
        ],
        ..plain()
    };
    let body = body(&instance(container, |_| ()));
    assert_eq!(body.exposed_ports, Some(vec!["53/udp".to_owned(), "80/tcp".to_owned()]));
    let bindings = body.host_config.unwrap().port_bindings.unwrap();
    let binding = |ip: Option<&str>, port: &str| PortBinding {
        host_ip: ip.map(str::to_owned),
        host_port: Some(port.to_owned()),
    };
    assert_eq!(bindings["80/tcp"], Some(vec![binding(None, "8080"), binding(Some("127.0.0.1"), "8081")]));
    assert_eq!(bindings["53/udp"], Some(vec![binding(Some("::1"), "5353")]));
}

#[test]
fn the_machines_network_has_no_host_name_and_no_endpoint() {
    let body = body(&instance(
        Container { network: Network { mode: NetworkMode::Host, ..Network::default() }, ..plain() },
        |_| (),
    ));
    assert_eq!((body.hostname, body.networking_config), (None, None));
    assert_eq!(body.host_config.unwrap().network_mode.as_deref(), Some("host"));
}

#[test]
fn binds_never_make_their_source_and_volumes_are_named_and_labelled() {
    let container = Container {
        mounts: vec![
            Mount {
                target: "/in".into(),
                source: MountSource::Bind { path: "/srv/in".into(), propagation: None },
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
        ..plain()
    };
    let host = host(&instance(container, |_| ()));
    assert_eq!(host.binds, None, "-v would make directories");
    let mounts = host.mounts.unwrap();
    assert_eq!(mounts[0].typ, Some(MountType::BIND));
    assert_eq!(mounts[0].source.as_deref(), Some("/srv/in"));
    assert_eq!((mounts[0].read_only, mounts[0].bind_options.clone()), (Some(true), None));
    assert_eq!(mounts[1].typ, Some(MountType::VOLUME));
    assert!(mounts[1].source.as_ref().unwrap().starts_with("skerry-shop-db-"));
    let labels = mounts[1].volume_options.clone().unwrap().labels.unwrap();
    assert_eq!(labels[LABEL_VOLUME], "db");
    assert_eq!(labels[LABEL_OWNER], "o");
}

#[test]
fn configs_are_mounted_read_only_as_directory_or_file() {
    let config = ConfigName::parse("site").unwrap();
    let mount = |path: &str, key: Option<&str>| ConfigMount {
        config: config.clone(),
        path: path.into(),
        key: key.map(str::to_owned),
        executable: false,
    };
    let with = |mounts: Vec<ConfigMount>| {
        let mut instance = instance(plain(), |service| service.configs = mounts);
        let content = ConfigContent {
            hash: ContentHash::of(b"c"),
            files: BTreeMap::from([("index.html".to_owned(), b"hi".to_vec())]),
        };
        instance.configs.insert(config.clone(), Arc::new(content));
        instance
    };
    let mounts = host(&with(vec![mount("/www", None), mount("/i.html", Some("index.html"))])).mounts.unwrap();
    let dir = format!("{CONFIGS}/site/{}", ContentHash::of(b"c"));
    assert_eq!(mounts[0].source.as_ref(), Some(&dir));
    assert_eq!(mounts[1].source, Some(format!("{dir}/index.html")));
    assert!(mounts.iter().all(|mount| mount.read_only == Some(true)));

    let owner = Owner::new("o");
    let absent =
        create_body(&with(vec![mount("/x", Some("nosuch"))]), &owner, Path::new(CONFIGS), &BTreeMap::new())
            .unwrap_err();
    assert_eq!(absent.reason, "ConfigMissing");
    let mut without = with(vec![mount("/www", None)]);
    without.configs.clear();
    assert_eq!(
        create_body(&without, &owner, Path::new(CONFIGS), &BTreeMap::new()).unwrap_err().reason,
        "ConfigMissing"
    );
}

#[test]
fn names_are_stable_and_no_two_things_share_one() {
    let names = |text: &str| InstanceName::parse(text).unwrap();
    let owner = Owner::new("o");
    let one = owner.container(&names("a-b/c/n/0"));
    assert_eq!(one, owner.container(&names("a-b/c/n/0")));
    assert!(one.starts_with("skerry-a-b-c-0-"), "{one}");
    for other in ["a/b-c/n/0", "a-b/c/m/0", "a-b/c/n/1"] {
        assert_ne!(one, owner.container(&names(other)), "{other}");
    }
    assert_ne!(one, Owner::new("p").container(&names("a-b/c/n/0")), "two agents on one machine");
    let (app, volume) = (AppName::parse("a").unwrap(), VolumeName::parse("b").unwrap());
    assert_ne!(owner.volume(&app, &volume), Owner::new("p").volume(&app, &volume));
    assert_ne!(owner.network(&app, None), Owner::new("p").network(&app, None));
}

#[test]
fn a_process_is_refused() {
    let mut process = instance(plain(), |_| ());
    Arc::get_mut(&mut process.service).unwrap().program =
        Program::Process(Process { program: "x".into(), ..Process::default() });
    let error = create_body(&process, &Owner::new("o"), Path::new(CONFIGS), &BTreeMap::new()).unwrap_err();
    assert_eq!((error.reason, error.transient), ("WrongRuntime", false));
}

#[test]
fn volumes_of_an_earlier_copy_are_mounted_where_the_spec_mounts_nothing() {
    let mut container = plain();
    container.mounts = vec![Mount {
        target: "/data/".into(),
        source: MountSource::Volume { name: VolumeName::parse("db").unwrap(), remove_with_app: false },
        read_only: false,
    }];
    let instance = instance(container, |_| ());
    let owner = Owner::new("o");
    let body = || create_body(&instance, &owner, Path::new(CONFIGS), &BTreeMap::new()).unwrap();
    let own = owner.volume(&instance.name.app, &VolumeName::parse("db").unwrap());
    let volume = |name: &str, target: &str| MountPoint {
        name: Some(name.to_owned()),
        destination: Some(target.to_owned()),
        ..MountPoint::default()
    };
    let earlier = [volume(&own, "/data"), volume("0123", "/var/lib/db"), volume("4567", "/data/")];
    let mounts = with_volumes(body(), &earlier).host_config.unwrap().mounts.unwrap();
    let mounts: Vec<_> =
        mounts.iter().map(|mount| (mount.source.as_deref(), mount.target.as_deref())).collect();
    assert_eq!(mounts, [(Some(own.as_str()), Some("/data/")), (Some("0123"), Some("/var/lib/db"))]);
    assert_eq!(with_volumes(body(), &[]), body());
}
