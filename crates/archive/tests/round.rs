//! Whatever is packed comes out as it was, in whichever pieces it comes.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on panics")]

use std::collections::BTreeMap;
use std::ffi::OsStr;
use std::fs;
use std::os::unix::ffi::OsStrExt as _;
use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _, symlink};
use std::path::Path;
use std::time::{Duration, UNIX_EPOCH};

use proptest::prelude::*;
use skerry_archive::{Bounds, Check, Entry, Error, Kind, Reader, Sink, Stage, Writer, pack};

/// A tree on a disk, by what can be seen of it.
#[derive(Debug, Clone)]
enum Node {
    Dir { mode: u32, inner: BTreeMap<Vec<u8>, Node> },
    File { mode: u32, mtime: u64, content: Vec<u8> },
    Link(Vec<u8>),
}

fn name() -> impl Strategy<Value = Vec<u8>> {
    let byte = any::<u8>().prop_map(|byte| if matches!(byte, 0 | b'/') { b'_' } else { byte });
    let odd = proptest::collection::vec(byte, 1..255);
    let dull = "[a-z .\n-]{1,12}".prop_map(String::into_bytes);
    prop_oneof![odd, dull].prop_filter("a name", |name| !matches!(&name[..], b"." | b".."))
}

fn node() -> impl Strategy<Value = Node> {
    let content = prop_oneof![
        proptest::collection::vec(any::<u8>(), 0..2000),
        (60_000_usize..140_000).prop_map(|size| vec![b'x'; size]),
        Just(Vec::new()),
    ];
    let file = (0_u32..0o1000, 0_u64..4_000_000_000, content);
    let leaf = prop_oneof![
        4 => file.prop_map(|(mode, mtime, content)| Node::File { mode: mode | 0o400, mtime, content }),
        1 => name().prop_map(Node::Link),
    ];
    leaf.prop_recursive(4, 24, 6, |inner| {
        let all = proptest::collection::btree_map(name(), inner, 0..6);
        (0_u32..0o1000, all).prop_map(|(mode, inner)| Node::Dir { mode: mode | 0o500, inner })
    })
}

fn put(at: &Path, node: &Node) {
    match node {
        Node::Dir { mode, inner } => {
            fs::create_dir(at).unwrap();
            for (name, node) in inner {
                put(&at.join(OsStr::from_bytes(name)), node);
            }
            fs::set_permissions(at, fs::Permissions::from_mode(*mode)).unwrap();
        }
        Node::File { mode, mtime, content } => {
            fs::write(at, content).unwrap();
            let file = fs::File::options().write(true).open(at).unwrap();
            file.set_modified(UNIX_EPOCH + Duration::from_secs(*mtime)).unwrap();
            fs::set_permissions(at, fs::Permissions::from_mode(*mode)).unwrap();
        }
        Node::Link(target) => symlink(OsStr::from_bytes(target), at).unwrap(),
    }
}

fn check(at: &Path, node: &Node) -> Result<(), TestCaseError> {
    let meta = fs::symlink_metadata(at).unwrap();
    match node {
        Node::Dir { mode, inner } => {
            prop_assert!(meta.is_dir());
            prop_assert_eq!(meta.mode() & 0o7777, *mode);
            prop_assert_eq!(fs::read_dir(at).unwrap().count(), inner.len());
            for (name, node) in inner {
                check(&at.join(OsStr::from_bytes(name)), node)?;
            }
        }
        Node::File { mode, mtime, content } => {
            prop_assert_eq!((meta.mode() & 0o7777, meta.mtime()), (*mode, i64::try_from(*mtime).unwrap()));
            prop_assert!(fs::read(at).unwrap() == *content);
        }
        Node::Link(target) => {
            let leads = fs::read_link(at).unwrap();
            prop_assert_eq!(leads.as_os_str().as_bytes(), &target[..]);
        }
    }
    Ok(())
}

/// What a reader says of an archive.
#[derive(Debug, Default, PartialEq, Eq)]
struct Seen(Vec<(Entry, Vec<u8>, bool)>);

impl Sink for Seen {
    fn begin(&mut self, entry: &Entry) -> Result<(), Error> {
        self.0.push((entry.clone(), Vec::new(), false));
        Ok(())
    }

    fn data(&mut self, bytes: &[u8]) -> Result<(), Error> {
        self.0.last_mut().unwrap().1.extend_from_slice(bytes);
        Ok(())
    }

    fn end(&mut self) -> Result<(), Error> {
        self.0.last_mut().unwrap().2 = true;
        Ok(())
    }
}

fn seen(archive: &[u8], piece: usize) -> Seen {
    let (mut reader, mut seen) = (Reader::default(), Seen::default());
    for bytes in archive.chunks(piece) {
        reader.feed(bytes, &mut seen).unwrap();
    }
    reader.finish().unwrap();
    seen
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn any_tree_comes_out_as_it_went_in(node in node(), top in name(), piece in 1_usize..5000) {
        let (from, to) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        let path = from.path().join(OsStr::from_bytes(&top));
        put(&path, &node);
        let archive = pack(&path, Some(&top), Vec::new()).unwrap();
        let mut stage = Stage::within(to.path(), Bounds::Archive, b"").unwrap();
        for bytes in archive.chunks(piece) {
            stage.feed(bytes).unwrap();
        }
        prop_assert_eq!(stage.tops().unwrap(), vec![top.clone()]);
        stage.place(&[(top.clone(), top.clone())]).unwrap();
        prop_assert_eq!(fs::read_dir(to.path()).unwrap().count(), 1, "the stage is gone");
        check(&to.path().join(OsStr::from_bytes(&top)), &node)?;
        let mut reader = Reader::default();
        for bytes in archive.chunks(piece) {
            reader.feed(bytes, &mut Check { bounds: Some(Bounds::Archive) }).unwrap();
        }
        let whole = seen(&archive, archive.len());
        prop_assert!(whole == seen(&archive, piece) && whole.0.iter().all(|(.., is_whole)| *is_whole));
        // The library reads it as this reader does, but for paths with newlines, which it cuts.
        let read: Vec<_> = whole.0.iter().map(|(entry, ..)| entry.path.clone()).collect();
        if read.iter().all(|path| !path.contains(&b'\n')) {
            let mut library = tar::Archive::new(&archive[..]);
            let paths = library.entries().unwrap().map(|entry| entry.unwrap().path_bytes().into_owned());
            let plain = paths.map(|path| path.strip_suffix(b"/").map(<[u8]>::to_vec).unwrap_or(path));
            prop_assert_eq!(plain.collect::<Vec<_>>(), read);
        }
    }

    #[test]
    fn no_bytes_make_it_do_more_than_refuse(archive in proptest::collection::vec(any::<u8>(), 0..4000), at in 0_usize..4000, byte: u8) {
        let to = tempfile::tempdir().unwrap();
        let inner = to.path().join("inner");
        fs::create_dir(&inner).unwrap();
        let _ = Stage::within(&inner, Bounds::Archive, b"").unwrap().feed(&archive);
        // One that is right but for a byte.
        fs::write(to.path().join("file"), "content").unwrap();
        let mut right = pack(&to.path().join("file"), Some(b"file"), Vec::new()).unwrap();
        let at = at % right.len();
        right[at] = byte;
        let mut stage = Stage::within(&inner, Bounds::Archive, b"").unwrap();
        let _ = stage.feed(&right);
        drop(stage);
        prop_assert_eq!(fs::read_dir(&inner).unwrap().count(), 0);
        prop_assert_eq!(fs::read_dir(to.path()).unwrap().count(), 2);
    }
}

#[test]
fn what_does_not_fit_into_a_header_is_said_before_it() {
    let path = [vec![0xff; 200], vec![b'/'], vec![b'\n'; 200]].concat();
    let entries = [
        Entry { path, kind: Kind::Symlink(vec![b't'; 300]), mode: 0o777, mtime: -7, size: 0 },
        Entry { path: vec![b'd'; 100], kind: Kind::Directory, mode: 0o755, mtime: 5, size: 0 },
        Entry { path: Vec::new(), kind: Kind::Directory, mode: 0o755, mtime: 5, size: 0 },
        Entry { path: b"h".to_vec(), kind: Kind::Hardlink(vec![b'd'; 150]), mode: 0o644, mtime: 5, size: 0 },
        Entry { path: b"huge".to_vec(), kind: Kind::File, mode: 0o644, mtime: 5, size: 20 << 30 },
    ];
    let mut writer = Writer::new(Vec::new());
    for entry in &entries {
        writer.entry(entry).unwrap();
    }
    let archive = writer.finish().unwrap();
    let (mut reader, mut seen) = (Reader::default(), Seen::default());
    reader.feed(&archive, &mut seen).unwrap();
    assert!(reader.finish().is_err(), "the content of the last one is missing");
    assert_eq!(seen.0.into_iter().map(|(entry, ..)| entry).collect::<Vec<_>>(), entries);
}

#[test]
fn archives_of_gnu_and_of_the_library_are_read() {
    let long = "n/".repeat(90) + "file";
    let mut builder = tar::Builder::new(Vec::new());
    for (path, size) in [("plain", 3_usize), (long.as_str(), 700)] {
        let mut header = tar::Header::new_gnu();
        header.set_size(size as u64);
        header.set_mode(0o640);
        header.set_mtime(9);
        builder.append_data(&mut header, path, &vec![b'c'; size][..]).unwrap();
    }
    let archive = builder.into_inner().unwrap();
    for piece in [1, 511, 512, 513, 4096] {
        let seen = seen(&archive, piece);
        assert_eq!(seen.0.len(), 2);
        assert_eq!((&seen.0[1].0.path[..], seen.0[1].1.len()), (long.as_bytes(), 700));
    }
}
