//! The reference of the API: services, methods, messages, enums.

use std::fmt::Write as _;

use super::{Enum, HEAD, Message, Protos, is_repeated, markdown, scalar, type_name};

/// Bytes in the store are nobody's API.
const NOT_SERVED: &str = "skerry.store.v1";
const INTRODUCTION: &str = "\
# Reference: API

gRPC, in the packages below; `proto/` is the contract, and what is in it stays. Every service answers reflection and `grpc.health.v1.Health`. A call that fails has a canonical code and one
`google.rpc.ErrorInfo`; `INVALID_ARGUMENT` names the fields in `google.rpc.BadRequest`. How programs use it: [clients](../clients.md).
";

pub(super) fn document(protos: &Protos<'_>) -> String {
    let mut out = format!("{HEAD}{INTRODUCTION}");
    let mut packages: Vec<&str> = protos.files.iter().map(|file| file.package()).collect();
    packages.sort_unstable();
    packages.dedup();
    packages.retain(|package| *package != NOT_SERVED);
    for package in &packages {
        let _ = write!(out, "\n- [{package}](#{package})");
        for service in protos.files.iter().filter(|file| file.package() == *package).flat_map(|f| &f.service)
        {
            let _ = write!(out, ", [{0}](#{package}.{0})", service.name());
        }
    }
    out.push('\n');
    for package in packages {
        let _ = write!(out, "\n{}## {package}\n", anchor(package));
        services(protos, package, &mut out);
        let within = |name: &str| name.strip_prefix(package).is_some_and(|rest| rest.starts_with('.'));
        for (name, message) in protos.messages.iter().filter(|(name, _)| within(name)) {
            let entry =
                message.descriptor.options.as_ref().is_some_and(prost_types::MessageOptions::map_entry);
            if !entry {
                messages(protos, package, name, message, &mut out);
            }
        }
        for (name, declared) in protos.enums.iter().filter(|(name, _)| within(name)) {
            enums(package, name, declared, &mut out);
        }
    }
    out
}

/// Where links lead: names have dots and capitals, which headings lose.
fn anchor(name: &str) -> String {
    format!("<a id=\"{name}\"></a>\n\n")
}

fn services(protos: &Protos<'_>, package: &str, out: &mut String) {
    for file in protos.files.iter().filter(|file| file.package() == package) {
        for (index, service) in (0..).zip(&file.service) {
            let name = format!("{package}.{}", service.name());
            let comment = markdown(&protos.service_comment(file, index));
            let _ = write!(out, "\n{}### {}\n\n{comment}\n\n", anchor(&name), service.name());
            out.push_str("| method | request | answer | |\n|---|---|---|---|\n");
            for (number, method) in (0..).zip(&service.method) {
                let side = |streams: bool, name: &str| {
                    let stream = if streams { "stream of " } else { "" };
                    format!("{stream}{}", link(protos, package, name.trim_start_matches('.')))
                };
                let _ = writeln!(
                    out,
                    "| `{}` | {} | {} | {} |",
                    method.name(),
                    side(method.client_streaming(), method.input_type()),
                    side(method.server_streaming(), method.output_type()),
                    markdown(&protos.method_comment(file, index, number)),
                );
            }
        }
    }
}

fn messages(protos: &Protos<'_>, package: &str, name: &str, message: &Message<'_>, out: &mut String) {
    let _ = write!(out, "\n{}### {}\n\n{}\n", anchor(name), short(package, name), markdown(&message.comment));
    if message.fields.is_empty() {
        return;
    }
    out.push_str("\n| field | number | type | |\n|---|---|---|---|\n");
    for field in &message.fields {
        let descriptor = field.descriptor;
        let one = |field| scalar(field).unwrap_or_else(|| link(protos, package, type_name(field)));
        let of = match protos.map(descriptor) {
            Some((key, value)) => format!("map of {} to {}", one(key), one(value)),
            None if is_repeated(descriptor) => format!("repeated {}", one(descriptor)),
            None if descriptor.proto3_optional() => format!("optional {}", one(descriptor)),
            None => one(descriptor),
        };
        let oneof = descriptor.oneof_index.filter(|_| !descriptor.proto3_optional());
        let oneof = oneof.and_then(|index| message.descriptor.oneof_decl.get(usize::try_from(index).ok()?));
        let oneof = oneof.map_or_else(String::new, |oneof| format!(" One of `{}`.", oneof.name()));
        let comment = markdown(&field.comment);
        let _ =
            writeln!(out, "| `{}` | {} | {of} | {comment}{oneof} |", descriptor.name(), descriptor.number());
    }
}

fn enums(package: &str, name: &str, declared: &Enum<'_>, out: &mut String) {
    let _ =
        write!(out, "\n{}### {}\n\n{}\n", anchor(name), short(package, name), markdown(&declared.comment));
    out.push_str("\n| value | number | |\n|---|---|---|\n");
    for (value, number, comment) in &declared.values {
        let _ = writeln!(out, "| `{value}` | {number} | {} |", markdown(comment));
    }
}

fn short<'a>(package: &str, name: &'a str) -> &'a str {
    name.strip_prefix(package).map_or(name, |rest| rest.trim_start_matches('.'))
}

/// A type's name, leading to where it is described. The well-known ones are described elsewhere.
fn link(protos: &Protos<'_>, package: &str, name: &str) -> String {
    if protos.messages.contains_key(name) || protos.enums.contains_key(name) {
        return format!("[{}](#{name})", short(package, name));
    }
    format!("`{name}`")
}
