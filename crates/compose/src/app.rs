//! A whole file as an app, with the configs and secrets that it brings.

use std::collections::{BTreeMap, BTreeSet};
use std::rc::Rc;

use prost::Message;
use skerry_manifest::{Manifest, Positions, Project, Resource, fragment};
use skerry_model::config::ConfigSpec;
use skerry_model::{AppName, AppRef, AppSpec, ConfigRef, Fault, SecretRef};
use skerry_proto::scheduler::v1 as scheduler;
use skerry_proto::types::v1::{self as pb, Metadata, dependency::Condition};

use crate::contents::Contents;
use crate::context::{Context, Field};
use crate::networks::{self, Attachments};
use crate::service::{self, Around};
use crate::{keys, names};

/// A service of the file that its profiles let through.
struct Chosen {
    name: String,
    field: Field,
}

/// Makes the resources of the tree. `app` is what `--as-app` says.
pub(crate) fn build(
    cx: &mut Context<'_>,
    root: &Field,
    app: Option<&str>,
    project: &Project,
    profiles: &[String],
) -> Vec<Manifest> {
    keys::TOP.check(cx, root);
    let Some(app) = app_name(cx, root, app, project) else { return Vec::new() };
    let Some(section) = root.get("services") else {
        cx.error(root, "there are no services: a Compose file has them below services");
        return Vec::new();
    };
    let (services, off) = choose(cx, &section, profiles);
    if services.is_empty() {
        cx.error(&section, "no service is left: name one, or choose a profile by --profile");
        return Vec::new();
    }
    let files = cx.errors.files().to_vec();
    let mut positions = Positions::of_files(section.at, files.clone());
    let mut contents = Contents::new(app.app.as_str(), root);
    let spec = app_spec(cx, root, &services, &off, &mut contents, &mut positions);
    if cx.errors.count() > 0 {
        return Vec::new();
    }
    check(cx, &positions, AppSpec::from_proto(&spec).map(drop));
    let mut manifests = Vec::new();
    let metadata = |name: String| Metadata { name, ..Metadata::default() };
    for (name, made) in contents.configs {
        check(cx, &of(&made.field, &files), ConfigSpec::from_proto(&made.spec).map(drop));
        let Ok(full) = ConfigRef::parse_in(&app.project, &name) else { continue };
        let config = scheduler::Config { metadata: Some(metadata(full.to_string())), spec: Some(made.spec) };
        manifests.push(Manifest {
            resource: Resource::Config(Box::new(config)),
            positions: of(&made.field, &files),
        });
    }
    for (name, made) in contents.secrets {
        check(cx, &of(&made.field, &files), skerry_model::secret::content(&made.spec).map(drop));
        let Ok(full) = SecretRef::parse_in(&app.project, &name) else { continue };
        let secret = scheduler::Secret {
            metadata: Some(metadata(full.to_string())),
            spec: Some(made.spec),
            status: None,
        };
        manifests.push(Manifest {
            resource: Resource::Secret(Box::new(secret)),
            positions: of(&made.field, &files),
        });
    }
    let app = scheduler::App { metadata: Some(metadata(app.to_string())), spec: Some(spec), status: None };
    manifests.push(Manifest { resource: Resource::App(Box::new(app)), positions });
    manifests
}

/// The places of a resource that one field makes.
fn of(field: &Field, files: &[String]) -> Positions {
    let mut positions = Positions::of_files(field.at, files.to_vec());
    for path in ["metadata", "spec"] {
        positions.record(path, &field.path, field.at);
    }
    positions
}

fn check(cx: &mut Context<'_>, positions: &Positions, parsed: Result<(), Fault>) {
    for violation in parsed.err().map(|fault| fault.violations).unwrap_or_default() {
        let found = positions.locate(&violation.field);
        cx.errors.add(found.position, &found.path, violation.description);
    }
}

fn app_name(cx: &mut Context<'_>, root: &Field, given: Option<&str>, project: &Project) -> Option<AppRef> {
    let (Project::Default(project) | Project::Required(project)) = project;
    let named = root.get("name");
    let text = match (given, &named) {
        (Some(given), _) => given.to_owned(),
        (None, Some(named)) => named.text(cx)?,
        (None, None) => {
            cx.error(root, "the app has no name: --as-app NAME, or name: NAME at the head of the file");
            return None;
        }
    };
    match AppName::parse(&text) {
        Ok(app) => Some(AppRef { project: project.clone(), app }),
        Err(error) => {
            cx.error(named.as_ref().filter(|_| given.is_none()).unwrap_or(root), error.to_string());
            None
        }
    }
}

/// The services that `profiles` let through, and the names of the others.
fn choose(cx: &mut Context<'_>, section: &Field, profiles: &[String]) -> (Vec<Chosen>, BTreeSet<String>) {
    let (mut on, mut off) = (Vec::new(), BTreeSet::new());
    for (name, field) in section.entries_all(cx) {
        if !field.is_map() {
            cx.error(&field, format!("expected a mapping, found {}", field.node.describe()));
            continue;
        }
        let own = field.get("profiles").map(|profiles| profiles.texts(cx)).unwrap_or_default();
        let active = own.is_empty()
            || own
                .iter()
                .any(|(_, profile)| profiles.iter().any(|chosen| chosen == profile || chosen == "*"));
        if active {
            on.push(Chosen { name: name.to_string(), field });
        } else {
            off.insert(name.to_string());
        }
    }
    (on, off)
}

fn app_spec(
    cx: &mut Context<'_>,
    root: &Field,
    services: &[Chosen],
    off: &BTreeSet<String>,
    contents: &mut Contents,
    positions: &mut Positions,
) -> pb::AppSpec {
    let names = service_names(cx, services);
    let attachments: BTreeMap<String, Attachments> =
        services.iter().map(|one| (one.name.clone(), networks::attachments(cx, &one.field))).collect();
    check_networks(cx, root, &attachments);
    let own_network = networks::own(&attachments);
    let links = links(cx, services, &names);
    let dependencies: Vec<_> = services.iter().map(|one| dependencies(cx, one, &names, off)).collect();
    let mut waited_for: BTreeMap<String, BTreeSet<i32>> = BTreeMap::new();
    for (on, _, dependency) in dependencies.iter().flatten() {
        waited_for.entry(on.clone()).or_default().insert(dependency.condition);
    }
    let volumes = root.get("volumes");
    let mut around = Around {
        contents,
        positions,
        names: &names,
        attachments: &attachments,
        own_network: own_network.as_deref(),
        links: &links,
        waited_for: &waited_for,
        volumes: volumes.as_ref(),
    };
    let mut spec = pb::AppSpec::default();
    for (index, (one, dependencies)) in services.iter().zip(dependencies).enumerate() {
        let at = format!("spec.services[{index}]");
        let dependencies =
            dependencies.into_iter().map(|(_, field, dependency)| (field, dependency)).collect();
        spec.services.push(service::read(cx, &mut around, &at, &one.name, &one.field, dependencies));
    }
    if let Some(own) = root.get("x-skerry") {
        overlay(cx, positions, &own, "skerry.type.v1.AppSpec", "spec", &["services"], &mut spec);
    }
    spec
}

/// What the services are called here.
fn service_names(cx: &mut Context<'_>, services: &[Chosen]) -> BTreeMap<String, String> {
    let mut all: BTreeMap<String, String> = BTreeMap::new();
    let mut taken: BTreeMap<String, &str> = BTreeMap::new();
    for one in services {
        let label = if names::is_label(&one.name) { Some(one.name.clone()) } else { names::label(&one.name) };
        let Some(label) = label else {
            cx.errors.add(one.field.at, &one.field.path, "use letters and digits in the name of a service");
            continue;
        };
        if let Some(other) = taken.insert(label.clone(), &one.name) {
            let message = format!("it and {other:?} would both be called {label:?}: rename one of them");
            cx.errors.add(one.field.at, &one.field.path, message);
        } else if label != one.name {
            let message = format!(
                "it is called {label:?} here, as names are small letters, digits and -; the others find it by its old name too"
            );
            cx.warn_at(one.field.at, &one.field.path, message);
        }
        all.insert(one.name.clone(), label);
    }
    all
}

fn check_networks(cx: &mut Context<'_>, root: &Field, attachments: &BTreeMap<String, Attachments>) {
    let declared = root.get("networks");
    let mut seen = BTreeSet::new();
    for attachments in attachments.values().flatten() {
        for (name, attachment) in attachments {
            if seen.insert(name) {
                networks::check(cx, name, attachment.field.as_ref(), declared.as_ref());
            }
        }
    }
}

/// Holds a volume that a service mounts against what can be taken. Whether it goes with the app, as `x-skerry` says.
pub(crate) fn volume(cx: &mut Context<'_>, section: Option<&Field>, used_at: &Field, name: &str) -> bool {
    let is_declared =
        section.is_some_and(|section| section.entries_all(cx).iter().any(|(key, _)| &**key == name));
    if !is_declared {
        cx.error(
            used_at,
            format!(
                "there is no volume {name:?}: declare it below volumes, or write ./{name} for a directory"
            ),
        );
        return false;
    }
    let Some(field) = section.and_then(|section| section.get(name)) else { return false };
    let before = cx.errors.count();
    keys::VOLUME.check(cx, &field);
    if let Some(driver) = field.get("driver")
        && !matches!(driver.scalar(), Some("local" | "default" | ""))
        && cx.errors.count() == before
    {
        cx.error(
            &driver,
            "volumes are local directories of Docker's: take it away, or bind a directory of the machine",
        );
    }
    let Some(own) = field.get("x-skerry") else { return false };
    keys::Keys { taken: &["removeWithApp"], named: &[] }.check(cx, &own);
    own.get("removeWithApp").and_then(|flag| flag.boolean(cx)).unwrap_or_default()
}

/// Names by which services are linked: `links: [SERVICE:ALIAS]`.
fn links(
    cx: &mut Context<'_>,
    services: &[Chosen],
    names: &BTreeMap<String, String>,
) -> BTreeMap<String, BTreeSet<String>> {
    let mut links: BTreeMap<String, BTreeSet<String>> = BTreeMap::new();
    for one in services {
        let Some(field) = one.field.get("links") else { continue };
        for (item, text) in field.texts(cx) {
            let (service, alias) = text.split_once(':').unwrap_or((&text, &text));
            if !names.contains_key(service) {
                cx.error(&item, format!("there is no service {service:?}"));
            } else if alias != service {
                cx.warn(&item, "the name is the service's for all who share a network with it");
                links.entry(service.to_owned()).or_default().insert(alias.to_owned());
            }
        }
    }
    links
}

/// Whom a service waits for: by the file's name, where that is said, and as it travels.
fn dependencies(
    cx: &mut Context<'_>,
    one: &Chosen,
    names: &BTreeMap<String, String>,
    off: &BTreeSet<String>,
) -> Vec<(String, Field, pb::Dependency)> {
    let mut found: Vec<(String, Field, pb::Dependency)> = Vec::new();
    let mut add = |cx: &mut Context<'_>, field: Field, on: &str, condition: Condition, required: bool| {
        match names.get(on) {
            Some(name) if !found.iter().any(|(before, ..)| before == on) => {
                let dependency = pb::Dependency { service: name.clone(), condition: condition.into() };
                found.push((on.to_owned(), field, dependency));
            }
            Some(_) => {}
            None if !required => {}
            None if off.contains(on) => {
                cx.error(&field, format!("{on:?} is in a profile that was not chosen: choose it by --profile, or say required: false"));
            }
            None => cx.error(&field, format!("there is no service {on:?}")),
        }
    };
    if let Some(field) = one.field.get("depends_on") {
        if field.is_list() {
            for (item, on) in field.texts(cx) {
                add(cx, item, &on, Condition::Started, true);
            }
        } else {
            for (on, item) in field.entries_all(cx) {
                let (mut condition, mut required) = (Condition::Started, true);
                if !item.is_null() {
                    keys::DEPENDENCY.check(cx, &item);
                    required = item.get("required").and_then(|field| field.boolean(cx)).unwrap_or(true);
                    condition = condition_of(cx, &item);
                }
                add(cx, item, &on, condition, required);
            }
        }
    }
    if let Some(field) = one.field.get("links") {
        for (item, text) in field.texts(cx) {
            let on = text.split(':').next().unwrap_or_default().to_owned();
            // That there is none was said.
            add(cx, item, &on, Condition::Started, false);
        }
    }
    found
}

fn condition_of(cx: &mut Context<'_>, item: &Field) -> Condition {
    let Some(field) = item.get("condition") else { return Condition::Started };
    match field.scalar() {
        Some("service_started") => Condition::Started,
        Some("service_healthy") => Condition::Healthy,
        Some("service_completed_successfully") => Condition::Completed,
        _ => {
            cx.error(&field, "use service_started, service_healthy or service_completed_successfully");
            Condition::Started
        }
    }
}

/// What `x-skerry` says in the words of a manifest, over what the file says in Compose's. `message` is what both are.
pub(crate) fn overlay<M: Message + Default>(
    cx: &mut Context<'_>,
    positions: &mut Positions,
    own: &Field,
    message: &str,
    known_as: &str,
    refused: &[&str],
    spec: &mut M,
) {
    for key in refused {
        if let Some(field) = own.get(key) {
            cx.errors.add(field.at, &field.path, "the file itself says it: take it away");
            return;
        }
    }
    let node = Rc::clone(&own.node);
    let Some(bytes) = fragment(message, &node, known_as, &own.path, positions, &mut cx.errors) else {
        return;
    };
    // What it names counts, as when one message is merged into another.
    if let Err(error) = spec.merge(bytes.as_slice()) {
        cx.error(own, error.to_string());
    }
}
