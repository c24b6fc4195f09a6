//! From the wire to `Program`: containers and processes.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use skerry_proto::types::v1 as pb;

use crate::name::InvalidName;
use crate::{SecretName, ServiceName, Violations, VolumeName};

use super::parse::{absent_if_empty, bound, is_absolute};
use super::{
    ConfigMount, Container, Mount, MountSource, NetworkMode, Port, Program, Protocol, PullPolicy,
    SecretMount, image, normal_path, process, settings,
};

/// Most bytes of the name that a container has for itself: `HOST_NAME_MAX` of Linux, sethostname(2).
const HOSTNAME_BYTES_MAX: usize = 64;
/// How mounts spread, in Docker's words.
const PROPAGATIONS: [&str; 6] = ["private", "rprivate", "shared", "rshared", "slave", "rslave"];

pub(super) fn parse(
    at: &str,
    program: Option<&pb::service_spec::Program>,
    v: &mut Violations,
) -> Option<Program> {
    use pb::service_spec::Program as Wire;
    match program {
        None => {
            v.add(at, "name what to run: container or process");
            None
        }
        Some(Wire::Container(container)) => {
            Some(Program::Container(parse_container(&format!("{at}.container"), container, v)))
        }
        Some(Wire::Process(wire)) => {
            Some(Program::Process(process::parse(&format!("{at}.process"), wire, v)))
        }
    }
}

fn parse_container(at: &str, container: &pb::Container, v: &mut Violations) -> Container {
    use pb::container::PullPolicy as Wire;
    image::check_image(&format!("{at}.image"), &container.image, v);
    let pull_policy = match Wire::try_from(container.pull_policy) {
        Ok(Wire::Unspecified) if image::is_latest(&container.image) => PullPolicy::Always,
        Ok(Wire::Unspecified | Wire::IfNotPresent) => PullPolicy::IfNotPresent,
        Ok(Wire::Always) => PullPolicy::Always,
        Ok(Wire::Never) => PullPolicy::Never,
        Err(_) => {
            v.add(format!("{at}.pull_policy"), "use always, if-not-present or never");
            PullPolicy::IfNotPresent
        }
    };
    check_argv(&format!("{at}.entrypoint"), &container.entrypoint, v);
    check_argv(&format!("{at}.command"), &container.command, v);
    bound(&format!("{at}.ports"), container.ports.len(), v);
    let ports = container
        .ports
        .iter()
        .enumerate()
        .filter_map(|(n, port)| parse_port(&format!("{at}.ports[{n}]"), port, v))
        .collect();
    let mounts = parse_mounts(at, &container.mounts, v);
    let network = settings::network(at, container, v);
    if network.mode != NetworkMode::App && !container.ports.is_empty() {
        v.add(
            format!("{at}.ports"),
            "only from the app's own network are ports published: leave ports or networkMode out",
        );
    }
    let hostname = absent_if_empty(&container.hostname);
    if let Some(name) = &hostname
        && (name.len() > HOSTNAME_BYTES_MAX || name.split('.').any(|part| ServiceName::parse(part).is_err()))
    {
        v.add(
            format!("{at}.hostname"),
            format!("use DNS labels separated by dots, {HOSTNAME_BYTES_MAX} bytes together at most"),
        );
    }
    if network.mode == NetworkMode::Host && hostname.is_some() {
        v.add(
            format!("{at}.hostname"),
            "with the machine's network the host name is the machine's: leave it out",
        );
    }
    let platform = absent_if_empty(&container.platform);
    if platform.as_ref().is_some_and(|platform| !is_platform(platform)) {
        v.add(format!("{at}.platform"), "write os[/architecture[/variant]], as linux/arm64");
    }
    let image_credentials = absent_if_empty(&container.image_credentials)
        .and_then(|name| v.check(format!("{at}.image_credentials"), SecretName::parse(&name)));
    if !container.gpus.is_empty() {
        v.add(format!("{at}.gpus"), "write what the service needs beside container instead: gpu: {count: 1}");
    }
    Container {
        image: container.image.clone(),
        pull_policy,
        image_credentials,
        platform,
        entrypoint: container.entrypoint.clone(),
        command: container.command.clone(),
        ports,
        mounts,
        hostname,
        isolation: settings::isolation(at, container, v),
        kernel: settings::kernel(at, container, network.mode, v),
        network,
        log: settings::log(at, container.log.as_ref(), v),
        tty: container.tty,
        stdin_open: container.stdin_open,
        labels: settings::labels(at, container, v),
    }
}

/// One to three words of small letters, digits, `_`, `.` and `-` between slashes.
fn is_platform(text: &str) -> bool {
    let fine = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit() || matches!(b, b'_' | b'.' | b'-');
    let parts: Vec<&str> = text.split('/').collect();
    parts.len() <= 3
        && text.len() <= 64
        && parts.iter().all(|part| !part.is_empty() && part.bytes().all(fine))
}

fn parse_port(at: &str, wire: &pb::Port, v: &mut Violations) -> Option<Port> {
    use pb::port::Protocol as Wire;
    let container_port = port(&format!("{at}.container_port"), wire.container_port, v);
    let host_port = match wire.host_port {
        None => container_port,
        Some(number) => port(&format!("{at}.host_port"), number, v),
    };
    let protocol = match Wire::try_from(wire.protocol) {
        Ok(Wire::Unspecified | Wire::Tcp) => Protocol::Tcp,
        Ok(Wire::Udp) => Protocol::Udp,
        Err(_) => {
            v.add(format!("{at}.protocol"), "use tcp or udp");
            return None;
        }
    };
    let host_address = absent_if_empty(&wire.host_address).and_then(|text| {
        v.check(
            format!("{at}.host_address"),
            text.parse::<IpAddr>().map_err(|_| format!("`{text}` is not an IP address")),
        )
    });
    Some(Port { container_port: container_port?, host_port: host_port?, protocol, host_address })
}

/// A port number: 1 to 65535.
pub(super) fn port(at: &str, number: u32, v: &mut Violations) -> Option<u16> {
    match u16::try_from(number) {
        Ok(port) if port > 0 => Some(port),
        _ => {
            v.add(at, format!("{number} is not a port: use 1 to 65535"));
            None
        }
    }
}

fn parse_mounts(at: &str, mounts: &[pb::Mount], v: &mut Violations) -> Vec<Mount> {
    use pb::mount::Source as Wire;
    bound(&format!("{at}.mounts"), mounts.len(), v);
    let mut targets = BTreeSet::new();
    let mut parsed = Vec::with_capacity(mounts.len());
    for (n, mount) in mounts.iter().enumerate() {
        let at = format!("{at}.mounts[{n}]");
        if !is_absolute(&mount.target) || normal_path(&mount.target).is_empty() {
            v.add(format!("{at}.target"), "use an absolute path other than /, without `..`");
        }
        if !targets.insert(normal_path(&mount.target)) {
            v.add(format!("{at}.target"), format!("`{}` is mounted twice", mount.target));
        }
        let source = match &mount.source {
            None => {
                v.add(&at, "name what to mount: bind, volume or tmpfs");
                continue;
            }
            Some(Wire::Bind(bind)) if !is_absolute(&bind.path) => {
                v.add(format!("{at}.bind.path"), "use an absolute path of the machine, without `..`");
                continue;
            }
            Some(Wire::Bind(bind)) => {
                let propagation = absent_if_empty(&bind.propagation);
                if propagation.as_ref().is_some_and(|word| !PROPAGATIONS.contains(&word.as_str())) {
                    v.add(
                        format!("{at}.bind.propagation"),
                        format!("use one of {}", PROPAGATIONS.join(", ")),
                    );
                }
                MountSource::Bind { path: bind.path.clone(), propagation }
            }
            Some(Wire::Volume(volume)) => {
                let name: Result<_, InvalidName> = VolumeName::parse(&volume.name);
                match v.check(format!("{at}.volume.name"), name) {
                    Some(name) => MountSource::Volume { name, remove_with_app: volume.remove_with_app },
                    None => continue,
                }
            }
            Some(Wire::Tmpfs(tmpfs)) => parse_tmpfs(&format!("{at}.tmpfs"), tmpfs, v),
        };
        parsed.push(Mount { target: mount.target.clone(), source, read_only: mount.read_only });
    }
    parsed
}

/// Refuses what a container would have at a path where something else is: Docker mounts one thing at each.
pub(super) fn check_places(
    at: &str,
    mounts: &[Mount],
    configs: &[ConfigMount],
    secrets: &[SecretMount],
    v: &mut Violations,
) {
    // Mounts among themselves are told where they are read.
    let mut taken: BTreeMap<String, &str> =
        mounts.iter().map(|mount| (normal_path(&mount.target), "a mount")).collect();
    for (n, config) in configs.iter().enumerate() {
        if let Some(other) = taken.insert(normal_path(&config.path), "another config") {
            v.add(format!("{at}.configs[{n}].path"), format!("{other} is at `{}` already", config.path));
        }
    }
    for (n, secret) in secrets.iter().enumerate() {
        if let Some(other) = taken.get(&normal_path(&secret.path)) {
            let other = other.trim_start_matches("another ");
            v.add(format!("{at}.secrets[{n}].path"), format!("{other} is at `{}` already", secret.path));
        }
    }
}

fn parse_tmpfs(at: &str, tmpfs: &pb::mount::Tmpfs, v: &mut Violations) -> MountSource {
    let size_bytes = tmpfs.size_bytes.and_then(|bytes| u64::try_from(bytes).ok().filter(|bytes| *bytes > 0));
    if tmpfs.size_bytes.is_some() && size_bytes.is_none() {
        v.add(format!("{at}.size_bytes"), "use at least one byte, as 64Mi");
    }
    let mode = absent_if_empty(&tmpfs.mode).and_then(|text| {
        let mode =
            u32::from_str_radix(&text, 8).ok().filter(|mode| *mode <= 0o7777 && !text.starts_with('+'));
        if mode.is_none() {
            v.add(format!("{at}.mode"), "use octal digits in quotes, \"0\" to \"7777\", as \"1777\"");
        }
        mode
    });
    MountSource::Tmpfs { size_bytes, mode }
}

pub(super) fn check_argv(at: &str, argv: &[String], v: &mut Violations) {
    bound(at, argv.len(), v);
    for (n, argument) in argv.iter().enumerate() {
        if argument.contains('\0') {
            v.add(format!("{at}[{n}]"), "an argument cannot hold a NUL character");
        }
    }
}
