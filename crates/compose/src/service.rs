//! One service of a file as a service of an app.

mod settings;
mod variables;

use std::collections::{BTreeMap, BTreeSet};

use skerry_manifest::Positions;
use skerry_proto::types::v1::{
    self as pb, container::PullPolicy, mount, restart_policy::Policy, service_spec,
};

use crate::contents::Contents;
use crate::context::{Context, Field};
use crate::health::{self, Health};
use crate::networks::{self, Attachments};
use crate::{deploy, gpus, keys, mounts, ports, units, words};

/// Compose leaves what ends alone, where nothing is said. A machine that nobody sits at needs the opposite.
const RESTARTED: &str =
    "nothing is said, so it is always started again; write restart: \"no\" for what is to end";

/// What is known of an app while its services are read.
pub(crate) struct Around<'a> {
    pub(crate) contents: &'a mut Contents,
    pub(crate) positions: &'a mut Positions,
    /// What the services are called here, by what the file calls them.
    pub(crate) names: &'a BTreeMap<String, String>,
    pub(crate) attachments: &'a BTreeMap<String, Attachments>,
    pub(crate) own_network: Option<&'a str>,
    /// Names that others link a service by, by service.
    pub(crate) links: &'a BTreeMap<String, BTreeSet<String>>,
    /// Who is waited for, and how.
    pub(crate) waited_for: &'a BTreeMap<String, BTreeSet<i32>>,
    /// The file's volumes.
    pub(crate) volumes: Option<&'a Field>,
}

/// Reads the service `name`, which is the one at `at` of the app (`spec.services[0]`).
pub(crate) fn read(
    cx: &mut Context<'_>,
    around: &mut Around<'_>,
    at: &str,
    name: &str,
    field: &Field,
    depends_on: Vec<(Field, pb::Dependency)>,
) -> pb::ServiceSpec {
    keys::SERVICE.check(cx, field);
    if let Some(deploy) = field.get("deploy") {
        keys::DEPLOY.check(cx, &deploy);
    }
    let mut reader = Reader {
        cx,
        around,
        at,
        name,
        field,
        spec: pb::ServiceSpec::default(),
        container: pb::Container::default(),
    };
    reader.record("", field);
    reader.spec.name = reader.around.names.get(name).cloned().unwrap_or_default();
    reader.program();
    reader.environment();
    reader.networks();
    reader.files();
    reader.lists();
    reader.flags();
    reader.policies();
    for (n, (field, dependency)) in depends_on.into_iter().enumerate() {
        reader.record(&format!("depends_on[{n}]"), &field);
        reader.spec.depends_on.push(dependency);
    }
    reader.finish()
}

struct Reader<'r, 'c, 'a> {
    cx: &'r mut Context<'c>,
    around: &'r mut Around<'a>,
    at: &'r str,
    name: &'r str,
    field: &'r Field,
    spec: pb::ServiceSpec,
    container: pb::Container,
}

impl Reader<'_, '_, '_> {
    /// Remembers where a field of the spec was written.
    fn record(&mut self, path: &str, field: &Field) {
        let dot = if path.is_empty() { "" } else { "." };
        self.around.positions.record(&format!("{}{dot}{path}", self.at), &field.path, field.at);
    }

    fn get(&self, key: &str) -> Option<Field> {
        self.field.get(key)
    }

    /// The text of a key, remembered as `path`.
    fn text(&mut self, key: &str, path: &str) -> Option<String> {
        let field = self.get(key)?;
        self.record(path, &field);
        field.text(self.cx)
    }

    fn flag(&mut self, key: &str, path: &str) -> bool {
        let Some(field) = self.get(key) else { return false };
        self.record(path, &field);
        field.boolean(self.cx).unwrap_or_default()
    }

    /// The texts of a key, each remembered as an item of `path`.
    fn texts(&mut self, key: &str, path: &str) -> Vec<String> {
        let Some(field) = self.get(key) else { return Vec::new() };
        let texts = field.texts(self.cx);
        for (n, (item, _)) in texts.iter().enumerate() {
            self.record(&format!("{path}[{n}]"), item);
        }
        texts.into_iter().map(|(_, text)| text).collect()
    }

    fn program(&mut self) {
        let build = self.get("build");
        match (self.text("image", "container.image"), build) {
            (Some(image), build) => {
                self.container.image = image;
                if let Some(build) = build {
                    self.cx.warn(
                        &build,
                        "left out: Skerry builds nothing; build the image and push it to its registry before",
                    );
                }
            }
            (None, Some(build)) => {
                let name = self.name;
                self.cx.errors.add(
                    build.at,
                    &build.path,
                    format!("Skerry builds nothing: build it by `docker compose build`, push it to a registry, and name it here as image: REGISTRY/{name}:TAG"),
                );
            }
            (None, None) => self.cx.error(self.field, "name an image"),
        }
        self.container.entrypoint = self.command("entrypoint");
        self.container.command = self.command("command");
        if let Some(field) = self.get("pull_policy") {
            self.record("container.pull_policy", &field);
            let policy = match field.scalar() {
                Some("always") => PullPolicy::Always,
                Some("missing" | "if_not_present") => PullPolicy::IfNotPresent,
                Some("never") => PullPolicy::Never,
                Some("build") => {
                    self.cx.error(&field, "Skerry builds nothing: use always, missing or never");
                    PullPolicy::Unspecified
                }
                _ => {
                    self.cx.error(&field, "use always, missing or never: Skerry pulls when a container is made, and not by the calendar");
                    PullPolicy::Unspecified
                }
            };
            self.container.pull_policy = policy.into();
        } else if is_latest(&self.container.image) {
            // Compose pulls what is not there, whatever its tag; Skerry pulls this one always.
            self.container.pull_policy = PullPolicy::IfNotPresent.into();
        }
        self.container.platform = self.text("platform", "container.platform").unwrap_or_default();
    }

    fn command(&mut self, key: &str) -> Vec<String> {
        let Some(field) = self.get(key) else { return Vec::new() };
        self.record(&format!("container.{key}"), &field);
        let words = if field.is_list() {
            field.texts(self.cx).into_iter().map(|(_, text)| text).collect()
        } else {
            field.parsed(self.cx, words::split).unwrap_or_default()
        };
        if words.is_empty() && (field.is_empty() || field.scalar() == Some("")) {
            self.cx
                .error(&field, "the image's own cannot be taken away: name a program, or take the line away");
        }
        words
    }

    fn networks(&mut self) {
        let mut more = self.around.links.get(self.name).cloned().unwrap_or_default();
        if self.spec.name != self.name {
            more.insert(self.name.to_owned());
        }
        let container_name = self.get("container_name");
        let hostname = self.text("hostname", "container.hostname");
        if let Some(field) = &container_name
            && let Some(text) = field.text(self.cx)
        {
            self.cx.warn(
                field,
                "containers are named by the agent; the name is one of the service's in its networks",
            );
            more.insert(text);
        }
        if let Some(hostname) = hostname {
            // Docker answers for it too, where it is no other service's.
            if !self.around.names.contains_key(&hostname)
                && self.around.attachments.get(self.name).is_some_and(Option::is_some)
            {
                more.insert(hostname.clone());
            }
            self.container.hostname = hostname;
        }
        more.remove(&self.spec.name);
        if let Some(attachments) = self.around.attachments.get(self.name).and_then(Option::as_ref) {
            networks::attach(self.cx, &mut self.container, attachments, self.around.own_network, &more);
        } else if let Some(mode) = self.get("network_mode") {
            let host = mode.scalar() == Some("host");
            let wire = if host { pb::NetworkMode::Host } else { pb::NetworkMode::None };
            self.container.network_mode = wire.into();
            self.record("container.network_mode", &mode);
        }
        if let Some(field) = self.get("expose") {
            ports::check_exposed(self.cx, &field);
        }
        let Some(field) = self.get("ports") else { return };
        self.record("container.ports", &field);
        if self.container.network_mode == i32::from(pb::NetworkMode::Host) {
            self.cx.warn(&field, "left out: on the machine's network every port is the machine's");
            return;
        }
        for (n, (item, port)) in ports::read(self.cx, &field).into_iter().enumerate() {
            self.record(&format!("container.ports[{n}]"), &item);
            self.container.ports.push(port);
        }
    }

    /// What is mounted.
    fn files(&mut self) {
        let mut written = Vec::new();
        if let Some(field) = self.get("volumes") {
            written.extend(mounts::read(self.cx, &field));
        }
        if let Some(field) = self.get("tmpfs") {
            written.extend(mounts::tmpfs(self.cx, &field));
        }
        for one in written {
            if let Some(mount) = self.mount(one) {
                self.container.mounts.push(mount);
            }
        }
        if let Some(field) = self.get("configs") {
            for item in field.items(self.cx) {
                if let Some(mount) = self.around.contents.config_mount(self.cx, &item) {
                    self.record(&format!("configs[{}]", self.spec.configs.len()), &item);
                    self.spec.configs.push(mount);
                }
            }
        }
        if let Some(field) = self.get("secrets") {
            for item in field.items(self.cx) {
                if let Some(mount) = self.around.contents.secret_mount(self.cx, &item) {
                    self.record(&format!("secrets[{}]", self.spec.secrets.len()), &item);
                    self.spec.secrets.push(mount);
                }
            }
        }
    }

    fn mount(&mut self, written: mounts::Written) -> Option<pb::Mount> {
        let mounts::Written { field, source, target, read_only } = written;
        let source = match source {
            mounts::Source::Tmpfs(tmpfs) => mount::Source::Tmpfs(tmpfs),
            mounts::Source::Anonymous => {
                let name = mounts::anonymous(&self.spec.name, &target);
                mount::Source::Volume(mount::Volume { name, remove_with_app: true })
            }
            mounts::Source::Volume(name) => {
                let remove_with_app = crate::app::volume(self.cx, self.around.volumes, &field, &name);
                let name = crate::names::label(&name).unwrap_or(name);
                mount::Source::Volume(mount::Volume { name, remove_with_app })
            }
            mounts::Source::Bind { path, propagation } if path.starts_with('/') => {
                mount::Source::Bind(mount::Bind { path, propagation })
            }
            mounts::Source::Bind { path, .. } => {
                if !read_only || path.starts_with('~') {
                    self.cx.error(
                        &field,
                        format!("{path} is of the machine where this is applied, and nodes do not have it: bind an absolute path of theirs, use a volume, or add :ro to a file, which is brought as a config"),
                    );
                    return None;
                }
                let mount = self.around.contents.bound_file(self.cx, &field, &path, &target)?;
                self.record(&format!("configs[{}]", self.spec.configs.len()), &field);
                self.spec.configs.push(mount);
                return None;
            }
        };
        self.record(&format!("container.mounts[{}]", self.container.mounts.len()), &field);
        Some(pb::Mount { target, source: Some(source), read_only })
    }

    fn policies(&mut self) {
        if let Some((field, kind)) = deploy::kind(self.cx, self.field) {
            self.record("deployment", &field);
            self.spec.kind = Some(kind);
        }
        for (path, field, amount) in deploy::resources(self.cx, self.field) {
            self.record(&format!("resources.{path}"), &field);
            let resources = self.spec.resources.get_or_insert_default();
            let (list, amount_name) = path.split_once('.').unwrap_or_default();
            let list = if list == "limits" { &mut resources.limits } else { &mut resources.requests };
            let list = list.get_or_insert_default();
            let place = match amount_name {
                "cpu_millis" => &mut list.cpu_millis,
                "memory_bytes" => &mut list.memory_bytes,
                "pids" => &mut list.pids,
                _ => &mut list.swap_bytes,
            };
            *place = Some(amount);
        }
        if let Some((field, gpu)) = gpus::read(self.cx, self.field) {
            self.record("gpu.count", &field);
            self.spec.gpu = Some(gpu);
        }
        let conditions = self.around.waited_for.get(self.name);
        let waited = |condition: pb::dependency::Condition| {
            conditions.is_some_and(|conditions| conditions.contains(&condition.into()))
        };
        let (healthy, completed) =
            (waited(pb::dependency::Condition::Healthy), waited(pb::dependency::Condition::Completed));
        self.spec.health_check = match health::read(self.cx, self.field) {
            Health::Check(check) => Some(*check),
            Health::Unsaid if healthy => Some(health::of_image()),
            Health::Unsaid | Health::Off => None,
        };
        if let Some(field) = self.get("healthcheck") {
            self.record("health_check", &field);
        }
        match deploy::restart(self.cx, self.field) {
            Some((field, restart)) => {
                self.record("restart", &field);
                self.spec.restart = Some(restart);
            }
            // Who waits for its end does not want it again.
            None if completed => {
                self.spec.restart =
                    Some(pb::RestartPolicy { policy: Policy::Never.into(), ..Default::default() });
            }
            None => {
                let path = format!("{}.restart", self.field.path);
                self.cx.warn_at(self.field.at, &path, RESTARTED);
            }
        }
        self.stop();
        if let Some((field, update)) = deploy::update(self.cx, self.field) {
            self.record("update.order", &field);
            self.spec.update = Some(update);
        }
    }

    fn stop(&mut self) {
        let signal = self.text("stop_signal", "stop.signal").map(|text| signal(&text)).unwrap_or_default();
        let grace_period = self.get("stop_grace_period").and_then(|field| {
            self.record("stop.grace_period", &field);
            field.parsed(self.cx, units::duration).map(units::wire)
        });
        if !signal.is_empty() || grace_period.is_some() {
            self.spec.stop = Some(pb::StopPolicy { signal, grace_period });
        }
    }

    /// The service, with what `x-skerry` says of it.
    fn finish(mut self) -> pb::ServiceSpec {
        self.spec.program = Some(service_spec::Program::Container(self.container));
        if let Some(own) = self.field.get("x-skerry") {
            crate::app::overlay(
                self.cx,
                self.around.positions,
                &own,
                "skerry.type.v1.ServiceSpec",
                self.at,
                &["name"],
                &mut self.spec,
            );
        }
        self.spec
    }
}

/// Whether an image has the tag `latest`, or none.
fn is_latest(image: &str) -> bool {
    let last = image.rsplit('/').next().unwrap_or(image);
    !last.contains('@') && (!last.contains(':') || last.ends_with(":latest"))
}

/// A signal by its whole name: `TERM` and `15` are `SIGTERM`.
fn signal(text: &str) -> String {
    let numbers = [
        ("1", "SIGHUP"),
        ("2", "SIGINT"),
        ("3", "SIGQUIT"),
        ("6", "SIGABRT"),
        ("9", "SIGKILL"),
        ("10", "SIGUSR1"),
        ("12", "SIGUSR2"),
        ("14", "SIGALRM"),
        ("15", "SIGTERM"),
        ("28", "SIGWINCH"),
    ];
    if let Some((_, name)) = numbers.iter().find(|(number, _)| *number == text) {
        return (*name).to_owned();
    }
    let upper = text.to_ascii_uppercase();
    if upper.starts_with("SIG") { upper } else { format!("SIG{upper}") }
}
