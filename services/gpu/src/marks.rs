//! What is kept of nodes beside their history, in one small file: which events were counted, how many of each, the last ones, and of which times nothing is
//! known. Without it an error would count twice after a restart, or not at all.

use std::collections::HashMap;
use std::fs::{self, File};
use std::io::{self, Write as _};
use std::path::{Path, PathBuf};

use prost::Message;
use skerry_gpu_model::Event;
use skerry_gpu_model::decode::{EventMark, Happened};
use skerry_proto::gpu::v1 as pb;

/// Events that are kept of a node: the last ones.
const EVENTS_MAX: usize = 64;
/// Gaps likewise.
const GAPS_MAX: usize = 256;
/// What may be added to the file before it is written anew, where it is shorter than this.
const ADDED_BYTES_MIN: u64 = 1 << 20;
/// Before each node's marks in the file: what protobuf has before a message that is field 1.
const NODE_KEY: u8 = 0x0a;
/// Counters of a node. There are a few hundred numbers of errors, and at most 64 devices.
const COUNTS_MAX: usize = 4096;

/// Of one node.
#[derive(Clone, PartialEq, Message)]
pub(crate) struct Marks {
    /// `projects/<project>/nodes/<node>`.
    #[prost(string, tag = "1")]
    pub(crate) node: String,
    #[prost(string, tag = "2")]
    boot_id: String,
    #[prost(uint64, tag = "3")]
    sequence: u64,
    /// When it was last sampled, in milliseconds since 1970, by its clock. 0: never.
    #[prost(int64, tag = "4")]
    pub(crate) last: i64,
    /// By device and number.
    #[prost(message, repeated, tag = "5")]
    pub(crate) xids: Vec<XidCount>,
    #[prost(message, repeated, tag = "6")]
    pub(crate) ecc: Vec<EccCount>,
    /// The last events, the oldest first.
    #[prost(message, repeated, tag = "7")]
    pub(crate) events: Vec<pb::GpuEvent>,
    /// The last gaps that have ended, the oldest first.
    #[prost(message, repeated, tag = "8")]
    pub(crate) gaps: Vec<pb::Gap>,
}

/// How often a device's driver reported an error, as far as it was told.
#[derive(Clone, PartialEq, Eq, Message)]
pub(crate) struct XidCount {
    #[prost(string, tag = "1")]
    pub(crate) uuid: String,
    #[prost(uint32, tag = "2")]
    pub(crate) code: u32,
    #[prost(uint64, tag = "3")]
    pub(crate) count: u64,
}

/// How many errors of memory were told of as events.
#[derive(Clone, PartialEq, Eq, Message)]
pub(crate) struct EccCount {
    #[prost(string, tag = "1")]
    pub(crate) uuid: String,
    #[prost(uint64, tag = "2")]
    pub(crate) corrected: u64,
    #[prost(uint64, tag = "3")]
    pub(crate) uncorrected: u64,
}

impl Marks {
    /// Of a node of which nothing is known.
    pub(crate) fn new(node: &str) -> Self {
        Self { node: node.to_owned(), ..Self::default() }
    }

    /// Up to where its events are known.
    pub(crate) fn events_known(&self) -> Option<EventMark> {
        (!self.boot_id.is_empty())
            .then(|| EventMark { boot_id: self.boot_id.clone(), sequence: self.sequence })
    }

    /// Notes up to where they are known now.
    pub(crate) fn know_events(&mut self, mark: Option<&EventMark>) {
        if let Some(EventMark { boot_id, sequence }) = mark {
            self.boot_id.clone_from(boot_id);
            self.sequence = *sequence;
        }
    }

    /// Counts an event, and keeps it.
    pub(crate) fn count(&mut self, happened: &Happened) -> pb::GpuEvent {
        let Happened { boot_id, sequence, time, uuid, event } = happened;
        match event {
            Event::Xid { code, .. } => {
                let known = self.xids.len();
                let found = self.xids.iter_mut().find(|one| one.code == *code && one.uuid == *uuid);
                if let Some(one) = found {
                    one.count += 1;
                } else if known < COUNTS_MAX {
                    self.xids.push(XidCount { uuid: uuid.clone(), code: *code, count: 1 });
                }
            }
            Event::Ecc { corrected, count } => {
                let at = self.ecc.iter().position(|one| one.uuid == *uuid);
                let at = at.or_else(|| {
                    let is_new = self.ecc.len() < COUNTS_MAX;
                    is_new.then(|| self.ecc.push(EccCount { uuid: uuid.clone(), ..EccCount::default() }));
                    is_new.then(|| self.ecc.len() - 1)
                });
                if let Some(one) = at.and_then(|at| self.ecc.get_mut(at)) {
                    let counter = if *corrected { &mut one.corrected } else { &mut one.uncorrected };
                    *counter = counter.saturating_add((*count).into());
                }
            }
            Event::Lost | Event::Reset => {}
        }
        let event = pb::GpuEvent {
            uuid: uuid.clone(),
            boot_id: boot_id.clone(),
            sequence: *sequence,
            time: Some(crate::convert::timestamp(*time)),
            kind: Some(crate::convert::event(event)),
        };
        keep(&mut self.events, event.clone(), EVENTS_MAX);
        event
    }

    /// Keeps a gap that has ended.
    pub(crate) fn gap(&mut self, gap: pb::Gap) {
        keep(&mut self.gaps, gap, GAPS_MAX);
    }
}

fn keep<T>(all: &mut Vec<T>, one: T, most: usize) {
    if all.len() >= most {
        all.remove(0);
    }
    all.push(one);
}

/// The file: marks of nodes, one after the other, and of a node that is there more than once the last count. So a node's are added at the end, and now and then
/// all is written anew.
#[derive(Debug, Clone)]
pub(crate) struct MarksFile {
    path: PathBuf,
    /// How long it was when it was written anew. `None`: it is not known to end with whole marks.
    whole_bytes: Option<u64>,
    /// How much was added since.
    added_bytes: u64,
}

impl MarksFile {
    /// In this directory.
    pub(crate) fn new(dir: &Path) -> Self {
        Self { path: dir.join("nodes"), whole_bytes: None, added_bytes: 0 }
    }

    /// What it has. Nothing, where it is not there yet.
    pub(crate) fn read(&self) -> io::Result<Vec<Marks>> {
        let bytes = match fs::read(&self.path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
            bytes => bytes?,
        };
        let damaged = |why: String| io::Error::new(io::ErrorKind::InvalidData, why);
        let (mut nodes, mut rest) = (HashMap::new(), bytes.as_slice());
        while let Some((key, marks)) = rest.split_first() {
            // A machine that lost its power may have made room for what was being added, and no more.
            if rest.iter().all(|byte| *byte == 0) {
                self.left_out(rest);
                break;
            }
            if *key != NODE_KEY {
                return Err(damaged(format!("at byte {} no node begins", bytes.len() - rest.len())));
            }
            // A process that was killed has left a part of what it was adding, and acknowledged nothing of it.
            let Some(end) = end_of(marks) else {
                self.left_out(rest);
                break;
            };
            let (marks, behind) = marks.split_at_checked(end).unwrap_or_default();
            let marks = match Marks::decode_length_delimited(marks) {
                Err(_) if behind.is_empty() => {
                    self.left_out(rest);
                    break;
                }
                marks => marks.map_err(|error| damaged(error.to_string()))?,
            };
            nodes.insert(marks.node.clone(), marks);
            rest = behind;
        }
        Ok(nodes.into_values().collect())
    }

    fn left_out(&self, rest: &[u8]) {
        let path = self.path.display();
        tracing::warn!(%path, bytes = rest.len(), "what was written last is not whole, and left out");
    }

    /// Whether marks may be added to it: else it is to be written anew.
    pub(crate) fn can_grow(&self) -> bool {
        self.whole_bytes.is_some_and(|whole| self.added_bytes < whole.max(ADDED_BYTES_MIN))
    }

    /// Writes all anew: what was there before, or this, is there whatever happens meanwhile.
    pub(crate) fn write(&mut self, nodes: &[Marks]) -> io::Result<()> {
        let bytes = encoded(nodes)?;
        let new = self.path.with_extension("new");
        let mut file = File::create(&new)?;
        file.write_all(&bytes)?;
        file.sync_all()?;
        fs::rename(&new, &self.path)?;
        File::open(self.path.parent().unwrap_or(Path::new(".")))?.sync_all()?;
        (self.whole_bytes, self.added_bytes) = (Some(bytes.len() as u64), 0);
        Ok(())
    }

    /// Adds marks that have changed. Where that fails it is to be written anew.
    pub(crate) fn add(&mut self, nodes: &[Marks]) -> io::Result<()> {
        let whole = self.whole_bytes.take();
        let bytes = encoded(nodes)?;
        let mut file = File::options().append(true).open(&self.path)?;
        file.write_all(&bytes)?;
        file.sync_data()?;
        self.whole_bytes = whole;
        self.added_bytes += bytes.len() as u64;
        Ok(())
    }
}

fn encoded(nodes: &[Marks]) -> io::Result<Vec<u8>> {
    let mut bytes = Vec::new();
    for marks in nodes {
        bytes.push(NODE_KEY);
        marks.encode_length_delimited(&mut bytes)?;
    }
    Ok(bytes)
}

/// How many bytes the first marks have, with their length before them. `None`: they are not whole.
fn end_of(bytes: &[u8]) -> Option<usize> {
    let mut rest = bytes;
    let length = prost::decode_length_delimiter(&mut rest).ok()?;
    let end = (bytes.len() - rest.len()).checked_add(length)?;
    (end <= bytes.len()).then_some(end)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn xid(sequence: u64, code: u32) -> Happened {
        Happened { boot_id: "b".into(), sequence, time: 1, uuid: "GPU-1".into(), event: Event::xid(code) }
    }

    #[test]
    fn each_error_counts_and_of_events_the_last_are_kept_over_a_restart() {
        let mut marks = Marks::new("projects/p/nodes/n");
        for sequence in 1..=200 {
            marks.count(&xid(sequence, 31 + u32::from(sequence % 4 == 0)));
        }
        let ecc = Event::Ecc { corrected: true, count: 7 };
        marks.count(&Happened { event: ecc, ..xid(201, 0) });
        marks.know_events(Some(&EventMark { boot_id: "b".into(), sequence: 201 }));
        let dir = tempfile::tempdir().unwrap();
        let mut file = MarksFile::new(dir.path());
        assert!(file.read().unwrap().is_empty());
        file.write(&[marks.clone()]).unwrap();
        let read = file.read().unwrap().remove(0);
        assert_eq!(read, marks);
        let counts: Vec<(u32, u64)> = read.xids.iter().map(|one| (one.code, one.count)).collect();
        assert_eq!(counts, [(31, 150), (32, 50)]);
        assert_eq!((read.ecc[0].corrected, read.ecc[0].uncorrected), (7, 0));
        assert_eq!((read.events.len(), read.events[63].sequence), (64, 201));
        assert_eq!(read.events_known().unwrap().sequence, 201);
    }

    #[test]
    fn of_what_was_added_the_last_counts_and_what_was_cut_off_is_as_before() {
        let dir = tempfile::tempdir().unwrap();
        let mut file = MarksFile::new(dir.path());
        let (mut one, two) = (Marks::new("projects/p/nodes/one"), Marks::new("projects/p/nodes/two"));
        assert!(!file.can_grow(), "it is not there yet");
        file.write(&[one.clone(), two.clone()]).unwrap();
        let known = |file: &MarksFile| {
            let mut all = file.read().unwrap();
            all.sort_by(|a, b| a.node.cmp(&b.node));
            all
        };
        let before = one.clone();
        one.count(&xid(1, 31));
        let whole = fs::read(dir.path().join("nodes")).unwrap();
        file.add(&[one.clone()]).unwrap();
        assert_eq!(known(&file), [one.clone(), two.clone()]);
        let added = fs::read(dir.path().join("nodes")).unwrap();
        assert!(added.starts_with(&whole), "what was there is not written again");
        for end in whole.len()..added.len() {
            fs::write(dir.path().join("nodes"), &added[..end]).unwrap();
            assert_eq!(known(&file), [before.clone(), two.clone()], "cut off at {end}");
            // As a file system may leave it that made room before it wrote.
            let zeros = vec![0; added.len() - end];
            fs::write(dir.path().join("nodes"), [&added[..end], &zeros].concat()).unwrap();
            assert!(known(&file).contains(&two), "zeros from {end}");
        }
        fs::write(dir.path().join("nodes"), [&whole[..], &[0; 100]].concat()).unwrap();
        assert_eq!(known(&file), [before, two]);
        // One that begins with such a file writes it anew first.
        assert!(!MarksFile::new(dir.path()).can_grow());
    }

    #[test]
    fn it_is_written_anew_once_as_much_was_added_or_where_adding_failed() {
        let dir = tempfile::tempdir().unwrap();
        let mut file = MarksFile::new(dir.path());
        let mut marks = Marks::new("projects/p/nodes/n");
        (1..=64).for_each(|sequence| drop(marks.count(&xid(sequence, 31))));
        file.write(&[marks.clone()]).unwrap();
        let mut times = 0_u64;
        while file.can_grow() {
            file.add(&[marks.clone()]).unwrap();
            times += 1;
        }
        let length = fs::metadata(dir.path().join("nodes")).unwrap().len();
        assert!((ADDED_BYTES_MIN..2 * ADDED_BYTES_MIN).contains(&length) && times > 10, "{length} {times}");
        file.write(&[marks.clone()]).unwrap();
        assert!(file.can_grow());
        fs::remove_file(dir.path().join("nodes")).unwrap();
        assert!(file.add(&[marks]).is_err());
        assert!(!file.can_grow());
    }

    #[test]
    fn a_file_that_is_none_is_told() {
        let dir = tempfile::tempdir().unwrap();
        fs::write(dir.path().join("nodes"), [0xff, 0xff, 0xff]).unwrap();
        assert!(MarksFile::new(dir.path()).read().is_err());
        let mut file = MarksFile::new(dir.path());
        file.write(&[Marks::new("projects/p/nodes/n")]).unwrap();
        file.add(&[Marks::new("projects/p/nodes/n")]).unwrap();
        let mut bytes = fs::read(dir.path().join("nodes")).unwrap();
        bytes[2] = 0xff;
        fs::write(dir.path().join("nodes"), bytes).unwrap();
        assert!(file.read().is_err(), "what is not at the end is not left out");
    }
}
