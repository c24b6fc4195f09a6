//! Volumes, binds and tmpfs in short and in long, and devices.

use skerry_manifest::tree::{Content, Node};
use skerry_proto::types::v1::{self as pb, mount};

use crate::context::{Context, Field};
use crate::{keys, names, units};

pub(crate) const SELINUX: &str = "left out: the agent changes no SELinux labels; for a directory of the machine `chcon -Rt container_file_t DIR` does";
pub(crate) const NO_COPY: &str = "left out: Docker fills a new volume with what the image has in its place";
const CONSISTENCY: &str = "left out: on Linux the words cached, delegated and consistent mean nothing";
const PROPAGATIONS: [&str; 6] = ["private", "rprivate", "shared", "rshared", "slave", "rslave"];

/// What is mounted where.
#[derive(Debug, Clone)]
pub(crate) struct Written {
    pub(crate) field: Field,
    pub(crate) source: Source,
    pub(crate) target: String,
    pub(crate) read_only: bool,
}

/// What is mounted.
#[derive(Debug, Clone)]
pub(crate) enum Source {
    /// A named volume.
    Volume(String),
    /// A volume of this mount alone.
    Anonymous,
    /// A path of the machine.
    Bind { path: String, propagation: String },
    /// Memory.
    Tmpfs(mount::Tmpfs),
}

pub(crate) fn read(cx: &mut Context<'_>, field: &Field) -> Vec<Written> {
    let items = field.items(cx);
    items
        .into_iter()
        .filter_map(|item| if item.is_map() { long(cx, item) } else { short(cx, item) })
        .collect()
}

/// `[SOURCE:]TARGET[:OPTION,...]`
fn short(cx: &mut Context<'_>, item: Field) -> Option<Written> {
    let text = item.text(cx)?;
    let parts: Vec<&str> = text.split(':').collect();
    let (source, target, options) = match parts[..] {
        [target] => ("", target, ""),
        [source, target] => (source, target, ""),
        [source, target, options] => (source, target, options),
        _ => {
            cx.error(&item, "write SOURCE:TARGET or SOURCE:TARGET:ro");
            return None;
        }
    };
    let (mut read_only, mut propagation) = (false, String::new());
    for option in options.split(',').filter(|option| !option.is_empty()) {
        match option {
            "ro" => read_only = true,
            "rw" => read_only = false,
            "z" | "Z" => cx.warn(&item, SELINUX),
            "nocopy" => cx.warn(&item, NO_COPY),
            "cached" | "delegated" | "consistent" | "default" => cx.warn(&item, CONSISTENCY),
            word if PROPAGATIONS.contains(&word) => word.clone_into(&mut propagation),
            word => cx.error(&item, format!("`{word}` is no option of a mount: use ro or rw")),
        }
    }
    let source = match source {
        "" => Source::Anonymous,
        path if is_path(path) => Source::Bind { path: path.to_owned(), propagation },
        name => Source::Volume(name.to_owned()),
    };
    Some(Written { source, target: target.to_owned(), read_only, field: item })
}

fn long(cx: &mut Context<'_>, item: Field) -> Option<Written> {
    keys::MOUNT.check(cx, &item);
    let Some(target) = item.get("target") else {
        cx.error(&item, "name where it is mounted: target");
        return None;
    };
    let target = target.text(cx)?;
    let read_only = match item.get("read_only") {
        Some(field) => field.boolean(cx)?,
        None => false,
    };
    let named = match item.get("source") {
        Some(field) => Some(field.text(cx)?),
        None => None,
    };
    let kind = match item.get("type") {
        Some(field) => field.text(cx)?,
        None if named.as_deref().is_some_and(is_path) => "bind".to_owned(),
        None => "volume".to_owned(),
    };
    for (section, keys) in
        [("bind", keys::MOUNT_BIND), ("volume", keys::MOUNT_VOLUME), ("tmpfs", keys::MOUNT_TMPFS)]
    {
        if let Some(field) = item.get(section) {
            keys.check(cx, &field);
        }
    }
    let source = match (kind.as_str(), named) {
        ("volume", Some(name)) => Source::Volume(name),
        ("volume", None) => Source::Anonymous,
        ("bind", Some(path)) => {
            let propagation = item.get("bind").and_then(|bind| bind.get("propagation"));
            let propagation = propagation.and_then(|field| field.text(cx)).unwrap_or_default();
            Source::Bind { path, propagation }
        }
        ("bind", None) => {
            cx.error(&item, "name the path of the machine: source");
            return None;
        }
        ("tmpfs", _) => Source::Tmpfs(long_tmpfs(cx, &item)),
        _ => {
            cx.error(&item.get("type").unwrap_or(item.clone()), "a mount is a bind, a volume or a tmpfs");
            return None;
        }
    };
    Some(Written { source, target, read_only, field: item })
}

fn long_tmpfs(cx: &mut Context<'_>, item: &Field) -> mount::Tmpfs {
    let Some(tmpfs) = item.get("tmpfs") else { return mount::Tmpfs::default() };
    let size_bytes = tmpfs.get("size").and_then(|size| size.parsed(cx, units::bytes));
    let mode = tmpfs.get("mode").and_then(|mode| mode.parsed(cx, octal)).unwrap_or_default();
    mount::Tmpfs { size_bytes, mode }
}

/// Permissions, which YAML may have read as a number: `0o755`, `0755`, `755`.
pub(crate) fn octal(text: &str) -> Result<String, String> {
    let digits = text.strip_prefix("0o").unwrap_or(text);
    match u32::from_str_radix(digits, 8) {
        Ok(mode) if mode <= 0o7777 => Ok(format!("{mode:04o}")),
        _ => Err(format!("`{text}` are no permissions: write octal digits, as 0440")),
    }
}

/// The field `tmpfs`: paths, with options as mount(8) has them.
pub(crate) fn tmpfs(cx: &mut Context<'_>, field: &Field) -> Vec<Written> {
    let mut mounts = Vec::new();
    for (item, text) in field.texts(cx) {
        let (target, options) = text.split_once(':').unwrap_or((&text, ""));
        let (mut read_only, mut tmpfs) = (false, mount::Tmpfs::default());
        for option in options.split(',').filter(|option| !option.is_empty()) {
            match option.split_once('=').unwrap_or((option, "")) {
                ("size", size) => tmpfs.size_bytes = item.parsed(cx, |_| units::bytes(size)),
                ("mode", mode) => tmpfs.mode = item.parsed(cx, |_| octal(mode)).unwrap_or_default(),
                ("ro", "") => read_only = true,
                // As Docker mounts each.
                ("rw" | "noexec" | "nosuid" | "nodev", "") => {}
                (word, _) => cx.error(&item, format!("`{word}` is not set for a tmpfs: use size and mode")),
            }
        }
        mounts.push(Written {
            field: item,
            source: Source::Tmpfs(tmpfs),
            target: target.to_owned(),
            read_only,
        });
    }
    mounts
}

/// Whether a source is a path, and not the name of a volume.
fn is_path(source: &str) -> bool {
    source.starts_with(['/', '.', '~'])
}

/// The name of the volume of a mount that has none.
pub(crate) fn anonymous(service: &str, target: &str) -> String {
    names::label(&format!("{service}-{}", target.trim_matches('/'))).unwrap_or_else(|| service.to_owned())
}

pub(crate) fn devices(cx: &mut Context<'_>, field: &Field) -> Vec<(Field, pb::Device)> {
    let mut devices = Vec::new();
    for item in field.items(cx) {
        if item.is_map() {
            let known = keys::Keys { taken: &["source", "target", "permissions"], named: &[] };
            known.check(cx, &item);
            let mut text = |key: &str| item.get(key).and_then(|field| field.text(cx)).unwrap_or_default();
            let device =
                pb::Device { path: text("source"), target: text("target"), permissions: text("permissions") };
            devices.push((item, device));
        } else if let Some(text) = item.text(cx) {
            if !text.starts_with('/') && text.contains('=') {
                cx.error(&item, "devices of CDI are not available: name the device's own path");
                continue;
            }
            let mut parts = text.splitn(3, ':').map(str::to_owned);
            let mut next = || parts.next().unwrap_or_default();
            let (path, target, permissions) = (next(), next(), next());
            // `/dev/x:rw` names no place inside.
            let is_short =
                permissions.is_empty() && !target.is_empty() && target.bytes().all(|b| b"rwm".contains(&b));
            let (target, permissions) =
                if is_short { (String::new(), target) } else { (target, permissions) };
            devices.push((
                item,
                pb::Device { target: if target == path { String::new() } else { target }, path, permissions },
            ));
        }
    }
    devices
}

fn entry(node: &Node, key: &str) -> Option<String> {
    let Content::Map(entries) = &node.content else { return None };
    let entry = entries.iter().find(|entry| &*entry.key == key)?;
    scalar(&entry.value)
}

fn scalar(node: &Node) -> Option<String> {
    match &node.content {
        Content::Scalar(scalar) => Some(scalar.text.clone()),
        _ => None,
    }
}

/// Where an item of `volumes` is mounted: two of one place are one when files are merged.
pub(crate) fn target_of(node: &Node) -> Option<String> {
    let target = match scalar(node) {
        Some(text) => text.split(':').nth(1).unwrap_or(&text).to_owned(),
        None => entry(node, "target")?,
    };
    Some(target.trim_end_matches('/').to_owned())
}

/// The same of `devices`.
pub(crate) fn device_target_of(node: &Node) -> Option<String> {
    match scalar(node) {
        Some(text) => Some(text.split(':').nth(1).unwrap_or(&text).to_owned()),
        None => entry(node, "target").or_else(|| entry(node, "source")),
    }
}

/// The same of `configs` and `secrets`.
pub(crate) fn file_target_of(node: &Node) -> Option<String> {
    scalar(node).or_else(|| entry(node, "target")).or_else(|| entry(node, "source"))
}
