//! Published ports, in short and in long.

use std::net::IpAddr;

use skerry_proto::types::v1 as pb;

use crate::context::{Context, Field};
use crate::keys;

/// Most ports of one range.
const RANGE_MAX: u16 = 256;

/// One port, as it was written.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Written {
    address: Option<IpAddr>,
    /// None: any that is free.
    published: Option<u16>,
    target: u16,
    udp: bool,
}

/// The ports of a field, each with what it was written as.
pub(crate) fn read(cx: &mut Context<'_>, field: &Field) -> Vec<(Field, pb::Port)> {
    let mut ports = Vec::new();
    for item in field.items(cx) {
        let written = if item.is_map() { long(cx, &item) } else { item.parsed(cx, short) };
        for one in written.unwrap_or_default() {
            if one.published.is_none() {
                cx.warn(&item, "no port of the machine is named, and Skerry looks for no free one: it is the same as the container's");
            }
            let protocol = if one.udp { pb::port::Protocol::Udp } else { pb::port::Protocol::Unspecified };
            let host_port = one.published.filter(|published| *published != one.target).map(u32::from);
            let port = pb::Port {
                container_port: one.target.into(),
                host_port,
                protocol: protocol.into(),
                host_address: one.address.map(|address| address.to_string()).unwrap_or_default(),
            };
            if !ports.iter().any(|(_, before)| *before == port) {
                ports.push((item.clone(), port));
            }
        }
    }
    ports
}

/// `[ADDRESS:][HOST:]CONTAINER[/PROTOCOL]`; both may be ranges.
fn short(text: &str) -> Result<Vec<Written>, String> {
    let (text, protocol) = text.split_once('/').unwrap_or((text, "tcp"));
    let udp = is_udp(protocol)?;
    let mut parts = text.rsplitn(3, ':');
    let target = range(parts.next().unwrap_or_default())?;
    let published = parts.next().filter(|text| !text.is_empty()).map(range).transpose()?;
    let address = parts.next().map(address).transpose()?;
    combine(address, published, target, udp)
}

fn long(cx: &mut Context<'_>, item: &Field) -> Option<Vec<Written>> {
    keys::PORT.check(cx, item);
    let Some(target) = item.get("target") else {
        cx.error(item, "name the port inside the container: target");
        return None;
    };
    let target = target.parsed(cx, range)?;
    let published = match item.get("published") {
        Some(field) if field.scalar() != Some("") => Some(field.parsed(cx, range)?),
        _ => None,
    };
    let address = match item.get("host_ip") {
        Some(field) => Some(field.parsed(cx, address)?),
        None => None,
    };
    let udp = match item.get("protocol") {
        Some(field) => field.parsed(cx, is_udp)?,
        None => false,
    };
    if let Some(mode) = item.get("mode")
        && !matches!(mode.scalar(), Some("host" | "ingress"))
    {
        cx.error(&mode, "use host or ingress");
    }
    item.parsed_with(cx, combine(address, published, target, udp))
}

fn combine(
    address: Option<IpAddr>,
    published: Option<(u16, u16)>,
    target: (u16, u16),
    udp: bool,
) -> Result<Vec<Written>, String> {
    let count = target.1 - target.0;
    if let Some(published) = published
        && published.1 - published.0 != count
    {
        return Err(
            "the ranges of machine and container differ in length, and Skerry looks for no free port: name as many of each".to_owned(),
        );
    }
    Ok((0..=count)
        .map(|n| Written {
            address,
            published: published.map(|published| published.0 + n),
            target: target.0 + n,
            udp,
        })
        .collect())
}

fn address(text: &str) -> Result<IpAddr, String> {
    let bare = text.strip_prefix('[').and_then(|text| text.strip_suffix(']')).unwrap_or(text);
    bare.parse().map_err(|_| format!("`{text}` is not an IP address of the machine"))
}

fn is_udp(protocol: &str) -> Result<bool, String> {
    match protocol.to_ascii_lowercase().as_str() {
        "tcp" => Ok(false),
        "udp" => Ok(true),
        _ => Err(format!("{protocol} is not published: use tcp or udp")),
    }
}

/// `80` or `8000-8010`: the first and the last.
fn range(text: &str) -> Result<(u16, u16), String> {
    let port = |text: &str| {
        let port = text.trim().parse::<u16>().ok().filter(|port| *port > 0);
        port.ok_or_else(|| format!("`{text}` is not a port: use 1 to 65535"))
    };
    let (first, last) = match text.split_once('-') {
        Some((first, last)) => (port(first)?, port(last)?),
        None => (port(text)?, port(text)?),
    };
    if last < first || last - first >= RANGE_MAX {
        return Err(format!("`{text}` is no range of at most {RANGE_MAX} ports"));
    }
    Ok((first, last))
}

/// Holds `expose` against its form. It needs nothing: in a network of the app every port is open.
pub(crate) fn check_exposed(cx: &mut Context<'_>, field: &Field) {
    for item in field.items(cx) {
        item.parsed(cx, |text| {
            let (ports, protocol) = text.split_once('/').unwrap_or((text, "tcp"));
            is_udp(protocol).and_then(|_| range(ports))
        });
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Address, published port, port inside, UDP or not.
    type Read = (Option<String>, Option<u16>, u16, bool);

    fn read(text: &str) -> Result<Vec<Read>, String> {
        let ports = short(text)?;
        Ok(ports
            .into_iter()
            .map(|p| (p.address.map(|a| a.to_string()), p.published, p.target, p.udp))
            .collect())
    }

    #[test]
    fn the_short_form_is_read() {
        let one = |address: Option<&str>, published, target, udp| {
            Ok(vec![(address.map(str::to_owned), published, target, udp)])
        };
        assert_eq!(read("3000"), one(None, None, 3000, false));
        assert_eq!(read("8000:80"), one(None, Some(8000), 80, false));
        assert_eq!(read("53:53/udp"), one(None, Some(53), 53, true));
        assert_eq!(read("127.0.0.1:8001:80/tcp"), one(Some("127.0.0.1"), Some(8001), 80, false));
        assert_eq!(read("127.0.0.1::80"), one(Some("127.0.0.1"), None, 80, false));
        assert_eq!(read("[::1]:8001:80"), one(Some("::1"), Some(8001), 80, false));
        assert_eq!(read("::1:8001:80"), one(Some("::1"), Some(8001), 80, false));
        let pairs: Vec<_> =
            short("9090-9092:80-82").expect("ranges").iter().map(|p| (p.published, p.target)).collect();
        assert_eq!(pairs, [(Some(9090), 80), (Some(9091), 81), (Some(9092), 82)]);
        assert_eq!(short("3000-3002").map(|ports| ports.len()), Ok(3));
    }

    #[test]
    fn what_is_no_port_is_refused() {
        for text in [
            "",
            "0",
            "65536",
            "a",
            "80:a",
            "1-2:3",
            "3000-2000",
            "1-60000",
            "80/sctp",
            "host:80:80",
            "1:2:3:4",
            "-",
        ] {
            assert!(short(text).is_err(), "{text}");
        }
    }
}
