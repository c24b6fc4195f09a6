//! What makes two copies of an instance the same: a hash over the values that a running copy depends on.
//!
//! Over values in one fixed order, each with its length, never over encoded protobuf (which is not canonical). Left out is what the agent
//! can change its mind about while a copy runs: replicas, requests, health check, dependencies, restart policy, pull policy.

use std::collections::BTreeMap;
use std::sync::Arc;

use skerry_model::ConfigName;
use skerry_model::app::{Container, MountSource, Program, Protocol, ServiceSpec};

use crate::desired::ConfigContent;

/// Changes with the meaning of the hash; raising it restarts every instance, so it is raised for nothing less.
const FORMAT: &str = "skerry-fingerprint-1";

/// BLAKE3 over all that a running copy of `service` depends on, 64 hexadecimal digits.
pub(crate) fn fingerprint(
    service: &ServiceSpec,
    configs: &BTreeMap<ConfigName, Arc<ConfigContent>>,
) -> String {
    let mut hash = Canon::default();
    hash.text(FORMAT);
    match &service.program {
        Program::Container(container) => hash.container(container),
        Program::Process(process) => {
            hash.text("process");
            hash.text(&process.program);
            hash.texts(&process.args);
        }
    }
    hash.count(service.env.len());
    for (key, value) in &service.env {
        hash.text(key);
        hash.text(value);
    }
    hash.option(service.working_directory.as_deref());
    hash.option(service.user.as_deref());
    hash.count(service.configs.len());
    for mount in &service.configs {
        hash.text(mount.config.as_str());
        hash.text(&mount.path);
        hash.option(mount.key.as_deref());
        let content = configs.get(&mount.config).map(|content| content.hash.to_string());
        hash.option(content.as_deref());
    }
    hash.number(service.limits.cpu_millis.unwrap_or(0));
    hash.number(service.limits.memory_bytes.unwrap_or(0));
    hash.option(service.stop.signal.as_deref());
    hash.number(u64::try_from(service.stop.grace_period.as_millis()).unwrap_or(u64::MAX));
    hash.0.finalize().to_hex().to_string()
}

/// Feeds values to a hash so that no two different sequences of values feed the same bytes.
#[derive(Default)]
struct Canon(blake3::Hasher);

impl Canon {
    fn number(&mut self, number: u64) {
        self.0.update(&number.to_le_bytes());
    }

    fn count(&mut self, count: usize) {
        self.number(count as u64);
    }

    fn text(&mut self, text: &str) {
        self.count(text.len());
        self.0.update(text.as_bytes());
    }

    fn texts(&mut self, texts: &[String]) {
        self.count(texts.len());
        for text in texts {
            self.text(text);
        }
    }

    fn option(&mut self, text: Option<&str>) {
        self.number(u64::from(text.is_some()));
        self.text(text.unwrap_or_default());
    }

    fn container(&mut self, container: &Container) {
        self.text("container");
        self.text(&container.image);
        self.texts(&container.entrypoint);
        self.texts(&container.command);
        self.count(container.ports.len());
        for port in &container.ports {
            self.number(u64::from(port.container_port));
            self.number(u64::from(port.host_port));
            self.number(match port.protocol {
                Protocol::Tcp => 0,
                Protocol::Udp => 1,
            });
            self.option(port.host_address.map(|address| address.to_string()).as_deref());
        }
        self.count(container.mounts.len());
        for mount in &container.mounts {
            self.text(&mount.target);
            match &mount.source {
                MountSource::Bind(path) => {
                    self.text("bind");
                    self.text(path);
                }
                MountSource::Volume(volume) => {
                    self.text("volume");
                    self.text(volume.as_str());
                }
            }
            self.number(u64::from(mount.read_only));
        }
        self.number(u64::from(container.host_network));
        self.option(container.hostname.as_deref());
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::testing::{app, service};
    use skerry_model::AppSpec;
    use skerry_model::app::{Dependency, DependencyCondition, HealthCheck, Probe, RestartWhen};
    use skerry_model::{ContentHash, ServiceName};

    fn base() -> ServiceSpec {
        AppSpec::from_proto(&app(vec![service("web")])).unwrap().services.remove(0)
    }

    fn of(service: &ServiceSpec) -> String {
        fingerprint(service, &BTreeMap::new())
    }

    #[test]
    fn only_what_a_running_copy_depends_on_counts() {
        let mut same = base();
        same.restart.when = RestartWhen::Never;
        same.health_check = Some(HealthCheck {
            probe: Probe::Tcp { port: 1 },
            interval: Duration::from_secs(1),
            timeout: Duration::from_secs(1),
            start_period: Duration::ZERO,
            retries: 1,
        });
        same.depends_on = vec![Dependency {
            service: ServiceName::parse("db").unwrap(),
            condition: DependencyCondition::Started,
        }];
        same.requests.cpu_millis = Some(5);
        assert_eq!(of(&same), of(&base()));
    }

    #[test]
    fn each_thing_that_a_running_copy_depends_on_counts() {
        let changes: Vec<fn(&mut ServiceSpec)> = vec![
            |s| drop(s.env.insert("A".into(), "1".into())),
            |s| drop(s.env.insert("A".into(), "2".into())),
            |s| s.working_directory = Some("/".into()),
            |s| s.user = Some("/".into()),
            |s| s.limits.cpu_millis = Some(1),
            |s| s.limits.memory_bytes = Some(1),
            |s| s.stop.signal = Some("SIGINT".into()),
            |s| s.stop.grace_period = Duration::from_secs(1),
            |s| container(s).image = "other".into(),
            |s| container(s).entrypoint = vec!["a".into()],
            |s| container(s).command = vec!["a".into()],
            |s| container(s).command = vec!["a".into(), String::new()],
            |s| container(s).host_network = true,
            |s| container(s).hostname = Some("a".into()),
        ];
        let mut seen = std::collections::BTreeSet::from([of(&base())]);
        for (n, change) in changes.iter().enumerate() {
            let mut changed = base();
            change(&mut changed);
            assert!(seen.insert(of(&changed)), "change {n} is not seen");
        }
    }

    #[test]
    fn new_content_of_a_config_counts() {
        let mut web = base();
        let config = ConfigName::parse("motd").unwrap();
        web.configs.push(skerry_model::app::ConfigMount {
            config: config.clone(),
            path: "/a".into(),
            key: None,
        });
        let with = |bytes: &[u8]| {
            let content = ConfigContent { hash: ContentHash::of(bytes), files: BTreeMap::new() };
            fingerprint(&web, &BTreeMap::from([(config.clone(), Arc::new(content))]))
        };
        assert_ne!(with(b"a"), with(b"b"));
        assert_eq!(with(b"a"), with(b"a"));
    }

    fn container(service: &mut ServiceSpec) -> &mut Container {
        match &mut service.program {
            Program::Container(container) => container,
            Program::Process(_) => panic!("the base is a container"),
        }
    }
}
