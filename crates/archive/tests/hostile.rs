//! Archives that nobody packs by accident: each is refused by its entry's name, and nothing is anywhere but where it belongs.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on panics")]

use std::fs;
use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _, symlink};
use std::path::Path;

use skerry_archive::{Bounds, Check, Error, Reader, Stage, pack};
use tar::{Builder, EntryType, Header};

/// Kind, path, target and content.
type Row<'r> = (EntryType, &'r str, &'r str, &'r str);

const FILE: EntryType = EntryType::Regular;
const DIR: EntryType = EntryType::Directory;
const LINK: EntryType = EntryType::Symlink;
const HARD: EntryType = EntryType::Link;

/// Paths as they are, which the library itself would not write.
fn archive(rows: &[Row<'_>]) -> Vec<u8> {
    let mut builder = Builder::new(Vec::new());
    for (kind, path, link, content) in rows {
        let mut header = Header::new_gnu();
        header.set_entry_type(*kind);
        header.set_size(content.len() as u64);
        header.set_mode(0o6755);
        header.set_mtime(0);
        let raw = header.as_old_mut();
        raw.name[..path.len()].copy_from_slice(path.as_bytes());
        raw.linkname[..link.len()].copy_from_slice(link.as_bytes());
        header.set_cksum();
        builder.append(&header, content.as_bytes()).unwrap();
    }
    builder.into_inner().unwrap()
}

fn unpack(dir: &Path, bounds: Bounds, bytes: &[u8]) -> Result<(), Error> {
    let mut stage = Stage::within(dir, bounds, b"")?;
    stage.feed(bytes)?;
    let tops = stage.tops()?;
    let places: Vec<_> = tops.into_iter().map(|top| (top.clone(), top)).collect();
    stage.place(&places)
}

/// A directory with nothing in it, in one with a file in it.
fn places() -> (tempfile::TempDir, std::path::PathBuf) {
    let outer = tempfile::tempdir().unwrap();
    let inner = outer.path().join("inner");
    fs::create_dir(&inner).unwrap();
    fs::write(outer.path().join("outside"), "as it was").unwrap();
    (outer, inner)
}

fn count(dir: &Path) -> usize {
    fs::read_dir(dir).unwrap().count()
}

#[test]
fn what_leads_out_or_is_no_file_is_refused_by_its_name() {
    let cases: [&[Row<'_>]; 18] = [
        &[(FILE, "../outside", "", "x")],
        &[(FILE, "a/../../outside", "", "x")],
        &[(FILE, "/outside", "", "x")],
        &[(DIR, "a/..", "", "")],
        &[(LINK, "outside", "/etc/passwd", "")],
        &[(LINK, "outside", "..", "")],
        &[(LINK, "a/outside", "../../x", "")],
        &[(LINK, "a/outside", "b/../../../x", "")],
        &[(LINK, "outside", "", "")],
        &[(FILE, "x", "", "x"), (HARD, "outside", "../outside", "")],
        &[(FILE, "x", "", "x"), (HARD, "outside", "/etc/passwd", "")],
        &[(LINK, "l", "x", ""), (HARD, "d/outside", "l", "")],
        &[(HARD, "outside", "not-there", "")],
        &[(EntryType::Fifo, "outside", "", "")],
        &[(EntryType::Char, "outside", "", "")],
        &[(EntryType::Block, "outside", "", "")],
        &[(EntryType::GNUSparse, "outside", "", "")],
        &[(EntryType::new(b'Z'), "outside", "", "")],
    ];
    for rows in cases {
        let (outer, inner) = places();
        let bytes = archive(rows);
        let error = unpack(&inner, Bounds::Archive, &bytes).unwrap_err();
        assert_eq!(error.reason(), "EntryRefused", "{error}");
        let name = rows.last().unwrap().1;
        assert!(error.to_string().contains(name), "{error}");
        assert_eq!((count(&inner), count(outer.path())), (0, 2), "{rows:?}");
        assert_eq!(fs::read_to_string(outer.path().join("outside")).unwrap(), "as it was");
        // Who only looks sees the same, but for second names.
        let looked = Reader::default().feed(&bytes, &mut Check { bounds: Some(Bounds::Archive) });
        assert!(looked.is_err() || rows.last().unwrap().0 == HARD, "{rows:?}");
    }
}

#[test]
fn long_paths_lead_out_as_little_as_short_ones() {
    for (key, value) in [("path", "../outside"), ("linkpath", "/etc/passwd"), ("size", "-1"), ("size", "x")] {
        let (outer, inner) = places();
        let record = format!("{} {key}={value}\n", key.len() + value.len() + 5);
        let record = if record.len() == key.len() + value.len() + 5 { record } else { format!("0{record}") };
        let mut bytes = archive(&[(EntryType::XHeader, "x", "", &record), (LINK, "l", "file", "")]);
        assert!(unpack(&inner, Bounds::Archive, &bytes).is_err(), "{record}");
        bytes = archive(&[(EntryType::GNULongName, "x", "", "../outside\0"), (FILE, "l", "", "x")]);
        assert!(unpack(&inner, Bounds::Archive, &bytes).is_err());
        assert_eq!((count(&inner), count(outer.path())), (0, 2));
    }
    // What would be kept in memory has a bound.
    let mut header = Header::new_gnu();
    header.set_entry_type(EntryType::GNULongName);
    header.set_size(1 << 40);
    header.set_cksum();
    let error = Reader::default().feed(header.as_bytes(), &mut Check { bounds: None }).unwrap_err();
    assert!(error.to_string().contains("more than 65536 bytes"), "{error}");
}

#[test]
fn nothing_is_written_through_a_link_of_the_archive() {
    // As of CVE-2019-1002101: a link, and then what is below it.
    for target in ["d", ".", "d/d"] {
        let (outer, inner) = places();
        let rows = [(DIR, "d/d/", "", ""), (LINK, "l", target, ""), (FILE, "l/x", "", "x")];
        let error = unpack(&inner, Bounds::Archive, &archive(&rows)).unwrap_err();
        assert!(error.to_string().contains("leads through `l`"), "{error}");
        assert_eq!((count(&inner), count(outer.path())), (0, 2));
    }
    // A file in the place of a link is not written to what the link leads to.
    let (_outer, inner) = places();
    let rows = [(FILE, "x", "", "one"), (LINK, "l", "x", ""), (FILE, "l", "", "two")];
    unpack(&inner, Bounds::Archive, &archive(&rows)).unwrap();
    assert_eq!(fs::read_to_string(inner.join("x")).unwrap(), "one");
    assert!(fs::symlink_metadata(inner.join("l")).unwrap().is_file());
}

#[test]
fn nothing_is_written_through_a_link_that_was_there() {
    let (outer, inner) = places();
    symlink("../outside", inner.join("file")).unwrap();
    symlink("..", inner.join("dir")).unwrap();
    let error =
        unpack(&inner, Bounds::Archive, &archive(&[(FILE, "a", "", "x"), (FILE, "dir/outside", "", "x")]));
    assert_eq!(error.unwrap_err().reason(), "InTheWay");
    assert!(!inner.join("a").exists(), "where not all can be moved nothing is");
    unpack(&inner, Bounds::Archive, &archive(&[(FILE, "file", "", "new")])).unwrap();
    assert_eq!(fs::read_to_string(inner.join("file")).unwrap(), "new");
    assert_eq!(fs::read_to_string(outer.path().join("outside")).unwrap(), "as it was");
}

#[test]
fn links_stay_within_what_is_asked_for() {
    let rows = [(DIR, "top/", "", ""), (LINK, "top/l", "../other", "")];
    let (_outer, inner) = places();
    assert!(unpack(&inner, Bounds::Top, &archive(&rows)).is_err());
    unpack(&inner, Bounds::Archive, &archive(&rows)).unwrap();
    let rows =
        [(FILE, "top/..data/x", "", "x"), (LINK, "top/x", "..data/x", ""), (LINK, "top/d/y", "../x", "")];
    unpack(&inner, Bounds::Top, &archive(&rows)).unwrap();
    assert_eq!(fs::read_to_string(inner.join("top/d/y")).unwrap(), "x");
}

#[test]
fn an_archive_that_ends_early_leaves_nothing() {
    let bytes = archive(&[(FILE, "one", "", "one"), (FILE, "two", "", &"two".repeat(1000))]);
    for end in [1, 511, 513, 1024, 1500, 3000] {
        let (_outer, inner) = places();
        let cut = unpack(&inner, Bounds::Archive, &bytes[..end]);
        assert!(end == 1024 || cut.is_err(), "{end}");
        assert_eq!(count(&inner), usize::from(end == 1024), "{end}");
    }
    let mut wrong = bytes;
    wrong[10] ^= 1;
    let (_outer, inner) = places();
    assert_eq!(unpack(&inner, Bounds::Archive, &wrong).unwrap_err().reason(), "ArchiveDamaged");
}

#[test]
fn rights_of_another_user_are_left_out_and_directories_that_were_there_stay_as_they_are() {
    let (_outer, inner) = places();
    fs::create_dir(inner.join("there")).unwrap();
    fs::set_permissions(inner.join("there"), fs::Permissions::from_mode(0o700)).unwrap();
    let rows = [
        (FILE, "there/run", "", "x"),
        (DIR, "there/", "", ""),
        (DIR, "new/", "", ""),
        (FILE, "implied/x", "", ""),
    ];
    unpack(&inner, Bounds::Archive, &archive(&rows)).unwrap();
    let mode = |path: &str| fs::metadata(inner.join(path)).unwrap().mode() & 0o7777;
    assert_eq!(
        [mode("there"), mode("there/run"), mode("new"), mode("implied")],
        [0o700, 0o755, 0o755, 0o755]
    );
    let error = unpack(&inner, Bounds::Archive, &archive(&[(FILE, "there", "", "x")])).unwrap_err();
    assert!(error.to_string().contains("`there` is there and is a directory"), "{error}");
}

#[test]
fn what_cannot_be_packed_is_refused_by_its_name() {
    let dir = tempfile::tempdir().unwrap();
    let tree = dir.path().join("tree");
    fs::create_dir(&tree).unwrap();
    let _socket = std::os::unix::net::UnixListener::bind(tree.join("socket")).unwrap();
    symlink("/etc/passwd", tree.join("link")).unwrap();
    let bytes = pack(&tree, Some(b"tree"), Vec::new()).unwrap();
    let error = unpack(&dir.path().join("tree"), Bounds::Top, &bytes).unwrap_err();
    assert!(
        error.to_string().contains("`tree/link` is a link to `/etc/passwd`"),
        "not read through: {error}"
    );
    let made = std::process::Command::new("mkfifo").arg(tree.join("pipe")).status().unwrap();
    assert!(made.success());
    let error = pack(&tree, Some(b"tree"), Vec::new()).unwrap_err();
    assert!(error.to_string().contains("`tree/pipe` is a pipe"), "{error}");
    let error = pack(&dir.path().join("none"), Some(b"none"), Vec::new()).unwrap_err();
    assert_eq!(error.reason(), "PathMissing");
}

#[test]
fn all_of_an_archive_can_be_put_below_a_name_that_its_links_stay_below() {
    let (_outer, inner) = places();
    let rows = [(DIR, "./", "", ""), (FILE, "x", "", "x"), (HARD, "y", "x", ""), (LINK, "d/l", "../x", "")];
    let mut stage = Stage::within(&inner, Bounds::Top, b"all").unwrap();
    stage.feed(&archive(&rows)).unwrap();
    assert_eq!(stage.tops().unwrap(), [b"all".to_vec()]);
    assert!(stage.is_directory(b"all"));
    stage.place(&[(b"all".to_vec(), b"new".to_vec())]).unwrap();
    for name in ["x", "y", "d/l"] {
        assert_eq!(fs::read_to_string(inner.join("new").join(name)).unwrap(), "x");
    }
    let mut stage = Stage::within(&inner, Bounds::Top, b"all").unwrap();
    assert!(stage.feed(&archive(&[(LINK, "l", "../x", "")])).is_err());
}
