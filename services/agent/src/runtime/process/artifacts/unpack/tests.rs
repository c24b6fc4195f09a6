//! What is refused of archives, and what comes out of those that are not.

use std::io::{Seek as _, Write as _};
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;

use flate2::Compression;
use flate2::write::GzEncoder;
use proptest::prelude::*;
use tar::{Builder, Header};

use super::*;

/// Kind, path, target and content.
type Row<'r> = (EntryType, &'r str, &'r str, &'r [u8]);

/// One entry, its path as it is, which the library itself would not write.
fn entry(builder: &mut Builder<Vec<u8>>, kind: EntryType, path: &str, link: &str, content: &[u8]) {
    let mut header = Header::new_gnu();
    header.set_entry_type(kind);
    header.set_size(content.len() as u64);
    header.set_mode(if path.ends_with("run") { 0o4755 } else { 0o666 });
    let raw = header.as_old_mut();
    raw.name[..path.len()].copy_from_slice(path.as_bytes());
    raw.linkname[..link.len()].copy_from_slice(link.as_bytes());
    header.set_cksum();
    builder.append(&header, content).unwrap();
}

fn archive(of: &[Row<'_>]) -> Vec<u8> {
    let mut builder = Builder::new(Vec::new());
    for (kind, path, link, content) in of {
        entry(&mut builder, *kind, path, link, content);
    }
    builder.into_inner().unwrap()
}

fn file(bytes: &[u8]) -> File {
    let mut file = tempfile::tempfile().unwrap();
    file.write_all(bytes).unwrap();
    file.rewind().unwrap();
    file
}

fn unpack_in(dir: &Path, bytes: &[u8], form: Unpack) -> Result<(), Failure> {
    let owner = (rustix::process::geteuid(), rustix::process::getegid());
    unpack(file(bytes), form, &Tree::open(&dir.join("state"), owner).unwrap(), "a/b")
}

#[test]
fn files_directories_and_links_come_out() {
    let long = format!("long/{}", "n".repeat(180));
    let mut builder = Builder::new(archive(&[]));
    builder.get_mut().clear();
    entry(&mut builder, EntryType::Directory, "./", "", b"");
    entry(&mut builder, EntryType::Directory, "bin/", "", b"");
    entry(&mut builder, EntryType::Regular, "bin/run", "", b"#!");
    entry(&mut builder, EntryType::Regular, "lib/data", "", b"data");
    entry(&mut builder, EntryType::Symlink, "bin/up", "../lib/data", b"");
    entry(&mut builder, EntryType::Link, "lib/same", "lib/data", b"");
    let mut header = Header::new_gnu();
    header.set_size(4);
    header.set_mode(0o644);
    builder.append_data(&mut header, &long, &b"long"[..]).unwrap();
    let bytes = builder.into_inner().unwrap();
    let mut packed = GzEncoder::new(Vec::new(), Compression::fast());
    packed.write_all(&bytes).unwrap();
    let packed = packed.finish().unwrap();
    for (bytes, form) in [(bytes, Unpack::Tar), (packed, Unpack::TarGz)] {
        let dir = tempfile::tempdir().unwrap();
        check(file(&bytes), form).unwrap();
        unpack_in(dir.path(), &bytes, form).unwrap();
        let root = dir.path().join("state/a/b");
        let mode = |path: &str| std::fs::metadata(root.join(path)).unwrap().permissions().mode() & 0o7777;
        assert_eq!((mode("bin/run"), mode("lib/data"), mode("bin")), (0o500, 0o400, 0o700));
        for (path, text) in [("bin/up", "data"), ("lib/same", "data"), (long.as_str(), "long")] {
            assert_eq!(std::fs::read_to_string(root.join(path)).unwrap(), text, "{path}");
        }
    }
}

#[test]
fn what_leads_out_or_is_no_file_is_refused() {
    let file = (EntryType::Regular, "x", "", &b"x"[..]);
    let rows: Vec<Vec<Row<'_>>> = vec![
        vec![(EntryType::Regular, "../x", "", b"x")],
        vec![(EntryType::Regular, "a/../../x", "", b"x")],
        vec![(EntryType::Regular, "/x", "", b"x")],
        vec![(EntryType::Directory, "a/..", "", b"")],
        vec![(EntryType::Symlink, "l", "/etc/passwd", b"")],
        vec![(EntryType::Symlink, "l", "..", b"")],
        vec![(EntryType::Symlink, "a/l", "../../x", b"")],
        vec![(EntryType::Symlink, "a/l", "b/../../x", b"")],
        vec![(EntryType::Symlink, "l", "", b"")],
        vec![file, (EntryType::Link, "l", "../x", b"")],
        vec![file, (EntryType::Link, "l", "/x", b"")],
        vec![(EntryType::Fifo, "p", "", b"")],
        vec![(EntryType::Char, "c", "", b"")],
        vec![(EntryType::Block, "b", "", b"")],
        vec![(EntryType::GNUSparse, "s", "", b"")],
    ];
    for row in rows {
        let bytes = archive(&row);
        let refused = check(super::tests::file(&bytes), Unpack::Tar);
        assert!(matches!(refused, Err(Failure::Refused(_))), "{:?}: {refused:?}", row.last());
        let dir = tempfile::tempdir().unwrap();
        assert!(unpack_in(dir.path(), &bytes, Unpack::Tar).is_err());
        assert!(!dir.path().join("x").exists() && !dir.path().join("state/x").exists());
    }
    assert!(matches!(check(super::tests::file(b"no archive"), Unpack::TarGz), Err(Failure::Refused(_))));
}

#[test]
fn nothing_is_written_through_a_link() {
    let dir = tempfile::tempdir().unwrap();
    let through = archive(&[
        (EntryType::Directory, "d/", "", b""),
        (EntryType::Symlink, "l", "d", b""),
        (EntryType::Regular, "l/x", "", b"x"),
    ]);
    assert!(matches!(unpack_in(dir.path(), &through, Unpack::Tar), Err(Failure::Refused(_))));
    assert!(!dir.path().join("state/a/b/d/x").exists());
}

#[test]
fn what_cannot_be_put_where_it_says_is_refused_when_it_is_looked_through() {
    let name = "n".repeat(244);
    let mut long = Builder::new(Vec::new());
    let mut header = Header::new_gnu();
    header.set_size(1);
    header.set_mode(0o644);
    long.append_data(&mut header, &name, &b"x"[..]).unwrap();
    let regular = |path| (EntryType::Regular, path, "", &b"x"[..]);
    let rows: [(Vec<Row<'_>>, &str); 9] = [
        (vec![(EntryType::Link, "l", "none", b"")], "no file before it"),
        (vec![(EntryType::Directory, "d/", "", b""), (EntryType::Link, "l", "d", b"")], "no file before it"),
        (vec![(EntryType::Link, "l", "", b""), regular("x")], "no file before it"),
        (vec![(EntryType::Symlink, "s", "x", b""), (EntryType::Link, "d/l", "s", b"")], "second name"),
        (vec![(EntryType::Symlink, "s", "d", b""), regular("s/x")], "through a link"),
        (vec![regular("x"), regular("x/y")], "through a file"),
        (vec![regular("d/x"), regular("d")], "directory and something else"),
        (vec![regular("d"), (EntryType::Directory, "d/", "", b"")], "directory and something else"),
        (vec![regular("d/.x.skerry-new")], "unfinished"),
    ];
    let archives = rows.iter().map(|(row, why)| (archive(row), *why));
    for (bytes, why) in archives.chain([(long.into_inner().unwrap(), "more than 243 bytes")]) {
        match check(file(&bytes), Unpack::Tar) {
            Err(Failure::Refused(said)) => assert!(said.contains(why), "{why}: {said}"),
            passed => panic!("{why}: {passed:?}"),
        }
        let dir = tempfile::tempdir().unwrap();
        assert!(matches!(unpack_in(dir.path(), &bytes, Unpack::Tar), Err(Failure::Refused(_))), "{why}");
    }
}

#[test]
fn more_than_the_bounds_is_refused() {
    let mut large = Header::new_gnu();
    large.set_entry_type(EntryType::Regular);
    large.set_path("large").unwrap();
    large.set_mode(0o644);
    large.set_size(UNPACKED_MAX + 1);
    large.set_cksum();
    let mut note = Header::new_gnu();
    note.set_entry_type(EntryType::GNULongName);
    note.set_size(NOTE_BYTES_MAX + 1);
    note.set_cksum();
    let many: Vec<_> = (0..=ENTRIES_MAX).map(|_| (EntryType::Directory, "d", "", &b""[..])).collect();
    for bytes in [large.as_bytes().to_vec(), note.as_bytes().to_vec(), archive(&many)] {
        assert!(matches!(check(file(&bytes), Unpack::Tar), Err(Failure::Refused(_))));
    }
    // Whatever the bytes are of: to pass them over they are decompressed.
    for kind in [EntryType::Directory, EntryType::Symlink, EntryType::XGlobalHeader, EntryType::Regular] {
        large.set_entry_type(kind);
        large.set_cksum();
        match check(file(large.as_bytes()), Unpack::Tar) {
            Err(Failure::Refused(said)) => assert!(said.contains("unpacks to more"), "{kind:?}: {said}"),
            passed => panic!("{kind:?}: {passed:?}"),
        }
    }
}

/// Entries whose paths meet: over, below and by links to each other.
fn meeting() -> impl Strategy<Value = Vec<(EntryType, String, String)>> {
    let kind = prop::sample::select(vec![
        EntryType::Regular,
        EntryType::Directory,
        EntryType::Symlink,
        EntryType::Link,
    ]);
    let path = "[ab](/[ab]){0,2}";
    proptest::collection::vec((kind, path, path), 1..8)
}

proptest! {
    /// Nothing is stopped for an archive that is refused only then.
    #[test]
    fn what_was_looked_through_is_unpacked_and_what_is_refused_is_so_at_both_times(entries in meeting()) {
        let rows: Vec<Row<'_>> = entries
            .iter()
            .map(|(kind, path, link)| match kind {
                EntryType::Regular => (*kind, path.as_str(), "", &b"x"[..]),
                EntryType::Directory => (*kind, path.as_str(), "", &b""[..]),
                _ => (*kind, path.as_str(), link.as_str(), &b""[..]),
            })
            .collect();
        let bytes = archive(&rows);
        let dir = tempfile::tempdir().unwrap();
        let unpacked = unpack_in(dir.path(), &bytes, Unpack::Tar);
        match check(file(&bytes), Unpack::Tar) {
            Ok(()) => prop_assert!(unpacked.is_ok(), "{unpacked:?}"),
            Err(_) => prop_assert!(matches!(unpacked, Err(Failure::Refused(_))), "{unpacked:?}"),
        }
        // No link leads out, by whatever other name.
        let root = dir.path().join("state/a/b").canonicalize().unwrap();
        for path in ["a", "b", "a/a", "a/b", "b/a", "b/b", "a/a/a", "a/a/b", "b/b/a", "b/b/b"] {
            if let Ok(real) = root.join(path).canonicalize() {
                prop_assert!(real.starts_with(&root), "{path} leads to {}", real.display());
            }
        }
    }

    /// Whatever the bytes are, there is an answer, and nothing beside the directory.
    #[test]
    fn any_bytes_stay_within(mut bytes in proptest::collection::vec(any::<u8>(), 0..2048), flip in 0..1024_usize) {
        let dir = tempfile::tempdir().unwrap();
        let _ = unpack_in(dir.path(), &bytes, Unpack::Tar);
        bytes = archive(&[(EntryType::Regular, "a/x", "", b"x"), (EntryType::Symlink, "a/l", "x", b"")]);
        bytes[flip] = bytes[flip].wrapping_add(1);
        let _ = unpack_in(dir.path(), &bytes, Unpack::Tar);
        let beside: Vec<_> = std::fs::read_dir(dir.path()).unwrap().collect();
        prop_assert_eq!(beside.len(), 1);
    }
}
