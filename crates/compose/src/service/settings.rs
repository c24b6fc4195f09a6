//! What a service says as `docker run` does: lists of capabilities, devices, limits, hosts; flags and modes.

use skerry_proto::types::v1 as pb;

use super::Reader;
use crate::context::{Context, Field};
use crate::{keys, mounts, units};

impl Reader<'_, '_, '_> {
    pub(super) fn lists(&mut self) {
        self.container.cap_add = self.texts("cap_add", "container.cap_add");
        self.container.cap_drop = self.texts("cap_drop", "container.cap_drop");
        self.container.group_add = self.texts("group_add", "container.group_add");
        self.container.device_cgroup_rules =
            self.texts("device_cgroup_rules", "container.device_cgroup_rules");
        self.security_opts();
        if let Some(field) = self.get("devices") {
            for (n, (item, device)) in mounts::devices(self.cx, &field).into_iter().enumerate() {
                self.record(&format!("container.devices[{n}]"), &item);
                self.container.devices.push(device);
            }
        }
        if let Some(field) = self.get("ulimits") {
            for (name, item) in field.entries_all(self.cx) {
                self.ulimit(&name, &item);
            }
        }
        if let Some(field) = self.get("sysctls") {
            for (item, key, value) in field.pairs(self.cx) {
                self.record(&format!("container.sysctls.{key}"), &item);
                self.container.sysctls.insert(key, value.unwrap_or_default());
            }
        }
        self.labels();
        let dns = pb::Dns {
            servers: self.texts("dns", "container.dns.servers"),
            search: self.texts("dns_search", "container.dns.search"),
            options: self.texts("dns_opt", "container.dns.options"),
        };
        self.container.dns = (dns != pb::Dns::default()).then_some(dns);
        if let Some(field) = self.get("extra_hosts") {
            for (item, hostname, address) in extra_hosts(self.cx, &field) {
                self.record(&format!("container.extra_hosts[{}]", self.container.extra_hosts.len()), &item);
                self.container.extra_hosts.push(pb::ExtraHost { hostname, address });
            }
        }
        if let Some(field) = self.get("logging") {
            self.record("container.log", &field);
            keys::Keys { taken: &["driver", "options"], named: &[] }.check(self.cx, &field);
            let driver = field.get("driver").and_then(|driver| driver.text(self.cx)).unwrap_or_default();
            let mut log = pb::Log { driver, ..Default::default() };
            if let Some(options) = field.get("options") {
                let pairs = options.pairs(self.cx);
                log.options =
                    pairs.into_iter().map(|(_, key, value)| (key, value.unwrap_or_default())).collect();
            }
            self.container.log = Some(log);
        }
    }

    /// Docker's client reads profiles of seccomp from files, and so is it done here.
    fn security_opts(&mut self) {
        let Some(field) = self.get("security_opt") else { return };
        for (n, (item, text)) in field.texts(self.cx).into_iter().enumerate() {
            self.record(&format!("container.security_opts[{n}]"), &item);
            let profile = text.strip_prefix("seccomp").and_then(|rest| rest.strip_prefix([':', '=']));
            let text = match profile {
                Some(path) if path != "unconfined" && !path.trim_start().starts_with('{') => {
                    let Some((resolved, bytes)) = self.cx.read(&item, path) else { continue };
                    let Ok(profile) = String::from_utf8(bytes) else {
                        self.cx.error(&item, format!("{} is not UTF-8 text", resolved.display()));
                        continue;
                    };
                    format!("seccomp={profile}")
                }
                _ => text,
            };
            self.container.security_opts.push(text);
        }
    }

    fn ulimit(&mut self, name: &str, item: &Field) {
        self.record(&format!("container.ulimits[{}]", self.container.ulimits.len()), item);
        let ulimit = if item.is_map() {
            keys::Keys { taken: &["soft", "hard"], named: &[] }.check(self.cx, item);
            let hard = item.get("hard").and_then(|field| field.integer(self.cx));
            let soft = item.get("soft").and_then(|field| field.integer(self.cx)).or(hard);
            soft.map(|soft| (soft, hard))
        } else {
            item.integer(self.cx).map(|limit| (limit, None))
        };
        match ulimit {
            Some((soft, hard)) => {
                self.container.ulimits.push(pb::Ulimit { name: name.to_owned(), soft, hard });
            }
            None if item.is_map() => self.cx.error(item, "name soft and hard"),
            None => {}
        }
    }

    pub(super) fn flags(&mut self) {
        self.container.read_only_root = self.flag("read_only", "container.read_only_root");
        self.container.privileged = self.flag("privileged", "container.privileged");
        self.container.init = self.flag("init", "container.init");
        self.container.tty = self.flag("tty", "container.tty");
        self.container.stdin_open = self.flag("stdin_open", "container.stdin_open");
        self.container.cpuset_cpus = self.text("cpuset", "container.cpuset_cpus").unwrap_or_default();
        self.container.runtime = self.text("runtime", "container.runtime").unwrap_or_default();
        self.spec.working_directory = self.text("working_dir", "working_directory").unwrap_or_default();
        self.spec.user = self.text("user", "user").unwrap_or_default();
        if let Some(field) = self.get("shm_size") {
            self.record("container.shm_size_bytes", &field);
            self.container.shm_size_bytes = field.parsed(self.cx, units::bytes);
        }
        if let Some(field) = self.get("oom_score_adj") {
            self.record("container.oom_score_adj", &field);
            let score = field.integer(self.cx).map(|score| i32::try_from(score).unwrap_or(i32::MAX));
            self.container.oom_score_adj = score;
        }
        if let Some(field) = self.get("ipc") {
            self.record("container.ipc_mode", &field);
            let mode = match field.scalar() {
                Some("private") => pb::IpcMode::Private,
                Some("shareable") => pb::IpcMode::Shareable,
                Some("host") => pb::IpcMode::Host,
                _ => {
                    self.cx.error(&field, "memory segments are private, shareable, or the machine's: host");
                    pb::IpcMode::Unspecified
                }
            };
            self.container.ipc_mode = mode.into();
        }
        if let Some(field) = self.get("pid") {
            self.record("container.pid_mode", &field);
            match field.scalar() {
                Some("host") => self.container.pid_mode = pb::PidMode::Host.into(),
                Some("") => {}
                _ => self.cx.error(&field, "a container sees its own processes, or the machine's: host"),
            }
        }
    }
}

/// `HOST:ADDRESS` or `HOST=ADDRESS`, or a mapping of them.
fn extra_hosts(cx: &mut Context<'_>, field: &Field) -> Vec<(Field, String, String)> {
    let bare = |address: &str| address.trim_start_matches('[').trim_end_matches(']').to_owned();
    let mut hosts = Vec::new();
    if field.is_map() {
        for (host, item) in field.entries_all(cx) {
            for (item, address) in item.texts(cx) {
                hosts.push((item, host.to_string(), bare(&address)));
            }
        }
        return hosts;
    }
    for (item, text) in field.texts(cx) {
        match text.split_once('=').or_else(|| text.split_once(':')) {
            Some((host, address)) => hosts.push((item, host.to_owned(), bare(address))),
            None => cx.error(&item, "write HOST:ADDRESS"),
        }
    }
    hosts
}
