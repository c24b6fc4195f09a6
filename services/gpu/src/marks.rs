//! What is kept of nodes beside their history, in one small file: which events were counted, how many of each, the last ones, and of which times nothing is
//! known. Without it an error would count twice after a restart, or not at all.

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

#[derive(Clone, PartialEq, Message)]
struct Contents {
    #[prost(message, repeated, tag = "1")]
    nodes: Vec<Marks>,
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

/// The file.
#[derive(Debug, Clone)]
pub(crate) struct MarksFile {
    path: PathBuf,
}

impl MarksFile {
    /// In this directory.
    pub(crate) fn new(dir: &Path) -> Self {
        Self { path: dir.join("nodes") }
    }

    /// What it has. Nothing, where it is not there yet.
    pub(crate) fn read(&self) -> io::Result<Vec<Marks>> {
        let bytes = match fs::read(&self.path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
            bytes => bytes?,
        };
        let contents = Contents::decode(bytes.as_slice());
        contents
            .map(|contents| contents.nodes)
            .map_err(|error| io::Error::new(io::ErrorKind::InvalidData, error))
    }

    /// Writes all anew: what was there before, or this, is there whatever happens meanwhile.
    pub(crate) fn write(&self, nodes: Vec<Marks>) -> io::Result<()> {
        let new = self.path.with_extension("new");
        let mut file = File::create(&new)?;
        file.write_all(&Contents { nodes }.encode_to_vec())?;
        file.sync_all()?;
        fs::rename(&new, &self.path)?;
        File::open(self.path.parent().unwrap_or(Path::new(".")))?.sync_all()
    }
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
        let file = MarksFile::new(dir.path());
        assert!(file.read().unwrap().is_empty());
        file.write(vec![marks.clone()]).unwrap();
        let read = file.read().unwrap().remove(0);
        assert_eq!(read, marks);
        let counts: Vec<(u32, u64)> = read.xids.iter().map(|one| (one.code, one.count)).collect();
        assert_eq!(counts, [(31, 150), (32, 50)]);
        assert_eq!((read.ecc[0].corrected, read.ecc[0].uncorrected), (7, 0));
        assert_eq!((read.events.len(), read.events[63].sequence), (64, 201));
        assert_eq!(read.events_known().unwrap().sequence, 201);
    }

    #[test]
    fn a_file_that_is_none_is_told() {
        let dir = tempfile::tempdir().unwrap();
        fs::write(dir.path().join("nodes"), [0xff, 0xff, 0xff]).unwrap();
        assert!(MarksFile::new(dir.path()).read().is_err());
    }
}
