//! Which user a process runs as: names of the node's files of users and groups, made to numbers.

use std::fs;
use std::io;
use std::path::Path;

use super::error::failed;
use crate::runtime::RuntimeError;
use crate::shim::files::RunAs;

/// Who is meant: `user`, `uid`, `user:group` or `uid:gid`. Nothing: the agent's own.
pub(super) fn resolve(text: Option<&str>) -> Result<Option<RunAs>, RuntimeError> {
    let Some(text) = text else { return Ok(None) };
    let read = |path: &str| match fs::read_to_string(Path::new(path)) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(String::new()),
        read => read.map_err(|error| failed("UserNotFound", format!("reading {path}: {error}"), true)),
    };
    let wanted = find(text, &read("/etc/passwd")?, &read("/etc/group")?)
        .map_err(|why| failed("UserNotFound", format!("user `{text}`: {why}"), false))?;
    let myself = (rustix::process::geteuid(), rustix::process::getegid());
    if !myself.0.is_root() && (wanted.uid, wanted.gid) != (myself.0.as_raw(), myself.1.as_raw()) {
        let message = format!(
            "running as user `{text}` needs an agent that runs as root, and this one runs as uid {}: leave user out, or run the agent as root",
            myself.0.as_raw()
        );
        return Err(failed("UserNotAllowed", message, false));
    }
    Ok(myself.0.is_root().then_some(wanted))
}

/// A line of passwd(5) or group(5).
struct Line<'a> {
    name: &'a str,
    id: u32,
    fields: Vec<&'a str>,
}

fn lines(text: &str) -> impl Iterator<Item = Line<'_>> {
    text.lines().filter(|line| !line.starts_with('#')).filter_map(|line| {
        let fields: Vec<&str> = line.split(':').collect();
        Some(Line { name: fields.first()?, id: fields.get(2)?.parse().ok()?, fields })
    })
}

/// By name, else by number.
fn line_of<'a>(text: &'a str, wanted: &str) -> Option<Line<'a>> {
    let number = number(wanted);
    lines(text).find(|line| line.name == wanted).or_else(|| lines(text).find(|line| Some(line.id) == number))
}

/// Not the one that means "none" to the kernel.
fn number(text: &str) -> Option<u32> {
    text.parse().ok().filter(|number| *number != u32::MAX)
}

fn find(text: &str, passwd: &str, group: &str) -> Result<RunAs, String> {
    let (user, named_group) = match text.split_once(':') {
        Some((user, group)) => (user, Some(group)),
        None => (text, None),
    };
    let entry = line_of(passwd, user);
    let uid = entry.as_ref().map(|entry| entry.id).or_else(|| number(user));
    let uid = uid.ok_or_else(|| format!("/etc/passwd of this machine has no user `{user}`"))?;
    if let Some(named) = named_group {
        let gid = line_of(group, named).map(|entry| entry.id).or_else(|| number(named));
        let gid = gid.ok_or_else(|| format!("/etc/group of this machine has no group `{named}`"))?;
        return Ok(RunAs { uid, gid, groups: Vec::new() });
    }
    let gid = entry.as_ref().and_then(|entry| number(entry.fields.get(3)?));
    let (Some(entry), Some(gid)) = (entry, gid) else {
        return Err(format!(
            "/etc/passwd of this machine has no user of that number: name its group too, as {uid}:{uid}"
        ));
    };
    let member = |line: &Line<'_>| {
        line.fields.get(3).is_some_and(|members| members.split(',').any(|member| member.trim() == entry.name))
    };
    let groups = lines(group).filter(member).map(|line| line.id).filter(|id| *id != gid).collect();
    Ok(RunAs { uid, gid, groups })
}

#[cfg(test)]
mod tests {
    use super::*;

    const PASSWD: &str = "root:x:0:0::/root:/bin/sh\n# a comment\nweb:x:33:34::/:\nbroken\n1000:x:7:8::/:\n";
    const GROUP: &str = "root:x:0:\nweb:x:34:web\naudio:x:29:games,web\nlogs:x:4: web \nother:x:5:webber\n";

    #[test]
    fn names_and_numbers_are_resolved_as_initgroups_would() {
        let run = |uid, gid, groups: &[u32]| Ok(RunAs { uid, gid, groups: groups.to_vec() });
        assert_eq!(find("web", PASSWD, GROUP), run(33, 34, &[29, 4]));
        assert_eq!(find("33", PASSWD, GROUP), run(33, 34, &[29, 4]));
        assert_eq!(find("web:audio", PASSWD, GROUP), run(33, 29, &[]));
        assert_eq!(find("5000:6000", PASSWD, GROUP), run(5000, 6000, &[]));
        assert_eq!(find("1000", PASSWD, GROUP), run(7, 8, &[]), "a name of digits is a name");
    }

    #[test]
    fn who_is_not_known_is_said() {
        for (text, word) in [
            ("nobody", "no user"),
            ("web:none", "no group"),
            ("5000", "5000:5000"),
            ("4294967295:1", "no user"),
        ] {
            let why = find(text, PASSWD, GROUP).unwrap_err();
            assert!(why.contains(word), "{why}");
        }
    }
}
