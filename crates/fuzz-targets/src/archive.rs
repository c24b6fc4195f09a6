//! Archives of files that are copied.

use skerry_archive::{Bounds, Check, Entry, Error, Kind, Reader, Sink, Writer};

/// What was read of an archive.
#[derive(Default, PartialEq, Eq, Debug)]
struct Seen {
    entries: Vec<(Entry, u64)>,
}

impl Sink for Seen {
    fn begin(&mut self, entry: &Entry) -> Result<(), Error> {
        self.entries.push((entry.clone(), 0));
        Ok(())
    }

    fn data(&mut self, bytes: &[u8]) -> Result<(), Error> {
        let (entry, read) = self.entries.last_mut().expect("content is of an entry");
        *read += bytes.len() as u64;
        assert!(*read <= entry.size && entry.kind == Kind::File, "more content than there is of {entry:?}");
        Ok(())
    }
}

/// Archives, in pieces. How they come makes no difference; no path leads out, and what is read is written and read again as the same.
pub fn archives(input: &[u8]) {
    let [piece, archive @ ..] = input else { return };
    let read = |piece: usize| {
        let (mut reader, mut seen) = (Reader::default(), Seen::default());
        let mut pieces = archive.chunks(piece);
        let done = pieces.try_for_each(|bytes| reader.feed(bytes, &mut seen)).and_then(|()| reader.finish());
        (done.map_err(|error| error.to_string()), seen)
    };
    let (done, seen) = read(archive.len().max(1));
    let again = read(usize::from(*piece) + 1);
    assert_eq!((&done, &seen), (&again.0, &again.1));
    for (entry, _) in &seen.entries {
        let out = |path: &[u8]| {
            path.starts_with(b"/")
                || path.contains(&0)
                || path.split(|byte| *byte == b'/').any(|name| name == b"..")
        };
        assert!(!out(&entry.path), "{entry:?} leads out");
        if let Kind::Hardlink(other) = &entry.kind {
            assert!(!out(other), "{entry:?} leads out");
        }
        // Where a link leads is looked at apart.
        let is_within = Check { bounds: Some(Bounds::Archive) }.begin(entry).is_ok();
        if let Kind::Symlink(target) = &entry.kind {
            assert!(!is_within || !target.starts_with(b"/"), "{entry:?} leads out");
        }
    }
    let mut writer = Writer::new(Vec::new());
    for (entry, _) in &seen.entries {
        // Without content, which is not kept here.
        writer.entry(&Entry { size: 0, ..entry.clone() }).expect("it is written to memory");
    }
    let written = writer.finish().expect("it is written to memory");
    let (mut reader, mut again) = (Reader::default(), Seen::default());
    // A path may be empty: it is that of the archive's own directory.
    reader.feed(&written, &mut again).expect("what was read is read again");
    reader.finish().expect("it is whole");
    let wanted = seen.entries.iter().map(|(entry, _)| Entry { size: 0, ..entry.clone() });
    assert!(wanted.eq(again.entries.into_iter().map(|(entry, _)| entry)), "it is another one");
}
