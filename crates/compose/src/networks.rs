//! Networks of Compose as networks of an app.
//!
//! An app has a network of its own, which each of its services is in, and further ones. A network that every service is in is the app's own; so is
//! `default`. Who is not in it is in further ones alone, so that what Compose keeps apart stays apart.

use std::collections::{BTreeMap, BTreeSet};

use skerry_proto::types::v1 as pb;

use crate::context::{Context, Field};
use crate::{keys, names};

/// The network of services that name none.
const DEFAULT: &str = "default";

/// One service's part in a network.
#[derive(Debug, Clone)]
pub(crate) struct Attachment {
    /// Where it is named; none for the default one.
    pub(crate) field: Option<Field>,
    aliases: Vec<String>,
}

/// The networks of a service by name. None where it is in none of the app's: on the machine's, or alone.
pub(crate) type Attachments = Option<BTreeMap<String, Attachment>>;

pub(crate) fn attachments(cx: &mut Context<'_>, service: &Field) -> Attachments {
    let networks = service.get("networks");
    if let Some(mode) = service.get("network_mode") {
        match mode.scalar() {
            Some("host" | "none") if networks.is_some() => {
                cx.error(&mode, "it excludes networks: keep one of them");
                return None;
            }
            Some("host" | "none") => return None,
            Some("bridge") => {
                cx.warn(
                    &mode,
                    "it is the app's own network, where services have names, and not Docker's default one",
                );
            }
            Some(text) if text.starts_with("service:") || text.starts_with("container:") => {
                cx.error(&mode, "a container has a network of its own, the machine's, or none: use networks, host or none");
            }
            _ => cx.error(&mode, "use host or none, or take it away"),
        }
    }
    let Some(networks) = networks else {
        return Some(BTreeMap::from([(DEFAULT.to_owned(), Attachment { field: None, aliases: Vec::new() })]));
    };
    let mut found = BTreeMap::new();
    if networks.is_list() {
        for (item, name) in networks.texts(cx) {
            found.insert(name, Attachment { field: Some(item), aliases: Vec::new() });
        }
    } else {
        for (name, field) in networks.entries_all(cx) {
            let mut aliases = Vec::new();
            if !field.is_null() {
                keys::ATTACHMENT.check(cx, &field);
                if let Some(list) = field.get("aliases") {
                    aliases = list.texts(cx).into_iter().map(|(_, text)| text).collect();
                }
            }
            found.insert(name.to_string(), Attachment { field: Some(field), aliases });
        }
    }
    Some(found)
}

/// Which network is the app's own.
pub(crate) fn own(services: &BTreeMap<String, Attachments>) -> Option<String> {
    let of: Vec<BTreeSet<&String>> =
        services.values().flatten().map(|attachments| attachments.keys().collect()).collect();
    let all: BTreeSet<&String> = of.iter().flatten().copied().collect();
    if let Some(default) = all.iter().find(|name| name.as_str() == DEFAULT) {
        return Some((*default).clone());
    }
    all.into_iter().find(|name| of.iter().all(|some| some.contains(*name))).cloned()
}

/// Holds a declared network against what can be taken.
pub(crate) fn check(cx: &mut Context<'_>, name: &str, used_at: Option<&Field>, declared: Option<&Field>) {
    let Some(section) = declared else {
        if name != DEFAULT
            && let Some(field) = used_at
        {
            cx.error(field, format!("there is no network {name:?}: declare it below networks"));
        }
        return;
    };
    let Some(field) = section.get(name) else {
        let is_declared = section.entries_all(cx).iter().any(|(key, _)| &**key == name);
        if !is_declared
            && name != DEFAULT
            && let Some(field) = used_at
        {
            cx.error(field, format!("there is no network {name:?}: declare it below networks"));
        }
        return;
    };
    keys::NETWORK.check(cx, &field);
    if let Some(driver) = field.get("driver")
        && !matches!(driver.scalar(), Some("bridge" | "default" | ""))
    {
        cx.error(&driver, "networks of apps are Docker's bridges: take it away, or use network_mode: host");
    }
}

/// Puts a service in its networks. `more` are names that it has in each of them.
pub(crate) fn attach(
    cx: &mut Context<'_>,
    container: &mut pb::Container,
    attachments: &BTreeMap<String, Attachment>,
    own: Option<&str>,
    more: &BTreeSet<String>,
) {
    for (name, attachment) in attachments {
        let aliases: BTreeSet<&String> = attachment.aliases.iter().chain(more).collect();
        let aliases: Vec<String> = aliases.into_iter().cloned().collect();
        if own == Some(name.as_str()) {
            container.network_aliases = aliases;
            continue;
        }
        match names::label(name) {
            Some(name) => container.networks.push(pb::NetworkAttachment { name, aliases }),
            None => {
                if let Some(field) = &attachment.field {
                    cx.error(field, format!("{name:?} is no name of a network: use letters and digits"));
                }
            }
        }
    }
    container.only_networks = !attachments.is_empty() && own.is_none_or(|own| !attachments.contains_key(own));
}
