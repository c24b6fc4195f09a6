//! The desired state on disk: what lets an agent without a network start everything at boot.
//!
//! Two files, `desired.0` and `desired.1`, hold the newest state and the one before it. Each is written to a temporary file, synced, renamed over the
//! older of the two, and the directory is synced: so a power loss at any point leaves both files whole, and a file that does not
//! read is a fault of the disk. Then the other one is used, and said not to be the newest; the gateway sends what is missing.
//!
//! A file is: 8 bytes of magic; 32 bytes of BLAKE3 over the rest; the number of the writing (u64, little endian; the higher is the newer);
//! then length-delimited messages of `skerry.gateway.v1`: a `Hello` (node, uid, version), and each `Resource`.
//!
//! Two more files of the same form, `formers` and `good`, hold what `former` and `good` keep. They are written before the state that makes them needed.
//! One that does not read is told and forgotten: that costs a restart of an old copy without a network, or a way back, and nothing else.

use std::collections::BTreeMap;
use std::io;
use std::sync::Arc;

use prost::Message as _;
use prost::bytes::Bytes;
use skerry_proto::gateway::v1 as pb;
use skerry_sync::{Desired, Version};

use crate::former::Resources;

mod checksum;
mod disk;

pub(crate) use checksum::{checked, messages, read_messages, sealed};
pub(crate) use disk::{Directory, Disk};

const MAGIC: &[u8; 8] = b"SKRYDES1";
const HEAD_BYTES: usize = MAGIC.len() + blake3::OUT_LEN + 8;
const SLOTS: [&str; 2] = ["desired.0", "desired.1"];
const TEMPORARY: &str = "desired.new";
const FORMERS: &str = "formers";
const GOOD: &str = "good";
/// The files of what came before, each with its temporary one.
const KEPT: [(&str, &str); 2] = [(FORMERS, "formers.new"), (GOOD, "good.new")];
/// Files larger than this are not ours: `skerry_sync` bounds a desired state to 64 MiB.
const FILE_BYTES_MAX: u64 = 96 * 1024 * 1024;

/// What was read at the start.
#[derive(Debug, Clone, Default, PartialEq)]
pub(crate) struct Loaded {
    /// The desired state. Without a version where it is not known to be the newest.
    pub(crate) desired: Desired,
    /// The node's uid as the control plane gave it, if it did.
    pub(crate) node_uid: String,
    /// What was wrong with the files, for people. Absent: nothing.
    pub(crate) damage: Option<String>,
    /// What was kept of what came before.
    pub(crate) kept: Before,
    /// What was wrong with the files of that. Absent: nothing.
    pub(crate) kept_damage: Option<String>,
}

/// What is kept of what came before.
#[derive(Debug, Clone, Default, PartialEq)]
pub(crate) struct Before {
    /// Former specs of single instances.
    pub(crate) formers: Resources,
    /// Apps as they were good last.
    pub(crate) good: Resources,
}

/// Why the desired state could not be written. The old one is still there.
#[derive(Debug, thiserror::Error)]
#[error("writing the desired state: {0}")]
pub(crate) struct SaveError(#[from] io::Error);

/// The two files. One at a time may be written.
pub(crate) struct StateFiles<D> {
    disk: D,
    /// `projects/<project>/nodes/<node>`: the state of another node is not ours.
    node: String,
    number: u64,
    /// What the files of what came before hold, by resource and version. Absent: not known.
    kept: [Option<BTreeMap<String, String>>; 2],
}

/// One file that was read.
struct Stored {
    number: u64,
    hello: pb::Hello,
    resources: Vec<pb::Resource>,
}

impl<D: Disk> StateFiles<D> {
    /// Reads what is there. Never fails: what cannot be read is told as damage.
    pub(crate) fn open(disk: D, node: String) -> (Self, Loaded) {
        // What is read here is told to the gateway as held: a rename that the last process did not live to sync must not be lost after that.
        if let Err(error) = disk.sync_directory() {
            tracing::warn!(%error, "the data directory cannot be synced");
        }
        let (mut files, mut loaded) = Self::open_desired(disk, node);
        let mut damage = Vec::new();
        for (at, into) in [&mut loaded.kept.formers, &mut loaded.kept.good].into_iter().enumerate() {
            match files.read_kept(KEPT[at].0) {
                Ok(found) => {
                    files.kept[at] = Some(versions(&found));
                    *into = found;
                }
                Err(why) => damage.push(why),
            }
        }
        loaded.kept_damage = joined(&damage);
        (files, loaded)
    }

    /// Whose desired state is on disk, whatever else may be wrong there.
    pub(crate) fn node_of(disk: &D) -> Option<String> {
        let read = |name| decode(&disk.read(name, FILE_BYTES_MAX).ok()??).ok();
        let newest = SLOTS.into_iter().filter_map(read).max_by_key(|stored: &Stored| stored.number);
        newest.map(|stored| stored.hello.node)
    }

    fn read_kept(&self, file: &str) -> Result<Resources, String> {
        let read = self.disk.read(file, FILE_BYTES_MAX);
        let Some(bytes) = read.map_err(|error| format!("{file} cannot be read: {error}"))? else {
            return Ok(Resources::new());
        };
        let stored = decode(&bytes).map_err(|why| format!("{file} {why}"))?;
        // Those of another node are not ours.
        Ok(if stored.hello.node == self.node { by_name(stored.resources) } else { Resources::new() })
    }

    /// Writes what is kept of what came before, unless it is there as it is.
    pub(crate) fn keep(&mut self, before: &Before) -> Result<(), SaveError> {
        for (at, resources) in [&before.formers, &before.good].into_iter().enumerate() {
            let versions = versions(resources);
            if self.kept[at].as_ref() == Some(&versions) {
                continue;
            }
            let (file, temporary) = KEPT[at];
            let hello = pb::Hello { node: self.node.clone(), ..pb::Hello::default() };
            let bytes = encode(0, &hello, resources.values().map(AsRef::as_ref));
            // What is there is not known again until all of it is done.
            self.kept[at] = None;
            self.disk.write(temporary, &bytes)?;
            self.disk.rename(temporary, file)?;
            self.disk.sync_directory()?;
            self.kept[at] = Some(versions);
        }
        Ok(())
    }

    fn open_desired(disk: D, node: String) -> (Self, Loaded) {
        let read = SLOTS.map(|name| match disk.read(name, FILE_BYTES_MAX) {
            Ok(Some(bytes)) => decode(&bytes).map(Some).map_err(|why| format!("{name} {why}")),
            Ok(None) => Ok(None),
            Err(error) => Err(format!("{name} cannot be read: {error}")),
        });
        let mut damage: Vec<String> = read.iter().filter_map(|slot| slot.as_ref().err().cloned()).collect();
        let mut found: Vec<Stored> = read.into_iter().filter_map(|slot| slot.ok().flatten()).collect();
        found.sort_by_key(|stored| stored.number);
        let both = found.len() == SLOTS.len();
        let Some(newest) = found.pop() else {
            let files = Self { disk, node, number: 0, kept: [None, None] };
            return (files, Loaded { damage: joined(&damage), ..Loaded::default() });
        };
        let number = newest.number;
        if !both && number > 1 && damage.is_empty() {
            damage.push("one of its two files is missing".to_owned());
        }
        let loaded = if newest.hello.node == node {
            loaded(newest, joined(&damage))
        } else {
            let other = &newest.hello.node;
            tracing::warn!(%other, "the data directory holds the desired state of another node; it is not used");
            Loaded { damage: joined(&damage), ..Loaded::default() }
        };
        (Self { disk, node, number, kept: [None, None] }, loaded)
    }

    /// Writes `desired` so that it is read at the next start, whatever happens. When this fails, what was there is.
    pub(crate) fn save(&mut self, desired: &Desired, node_uid: &str) -> Result<(), SaveError> {
        let number = self.number + 1;
        let hello = pb::Hello {
            node: self.node.clone(),
            node_uid: node_uid.to_owned(),
            version: desired.version.map(Into::into),
            ..pb::Hello::default()
        };
        let bytes = encode(number, &hello, desired.resources.values().map(AsRef::as_ref));
        self.disk.write(TEMPORARY, &bytes)?;
        self.disk.rename(TEMPORARY, SLOTS[usize::from(number % 2 == 1)])?;
        self.disk.sync_directory()?;
        self.number = number;
        Ok(())
    }
}

fn joined(damage: &[String]) -> Option<String> {
    (!damage.is_empty()).then(|| damage.join("; "))
}

fn loaded(stored: Stored, damage: Option<String>) -> Loaded {
    // A state that may not be the newest goes without its version, so that the gateway sends what is missing.
    let version = stored.hello.version.filter(|_| damage.is_none()).map(Version::from);
    let desired = Desired { version, resources: by_name(stored.resources) };
    Loaded { desired, node_uid: stored.hello.node_uid, damage, ..Loaded::default() }
}

fn by_name(resources: Vec<pb::Resource>) -> Resources {
    resources.into_iter().map(|resource| (resource.name.clone(), Arc::new(resource))).collect()
}

fn versions(resources: &Resources) -> BTreeMap<String, String> {
    resources.iter().map(|(name, resource)| (name.clone(), resource.version.clone())).collect()
}

fn encode<'a>(number: u64, hello: &pb::Hello, resources: impl Iterator<Item = &'a pb::Resource>) -> Vec<u8> {
    let mut bytes = vec![0; HEAD_BYTES];
    bytes[HEAD_BYTES - 8..].copy_from_slice(&number.to_le_bytes());
    bytes.extend(hello.encode_length_delimited_to_vec());
    for resource in resources {
        bytes.extend(resource.encode_length_delimited_to_vec());
    }
    let hash = blake3::hash(&bytes[HEAD_BYTES - 8..]);
    bytes[..MAGIC.len()].copy_from_slice(MAGIC);
    bytes[MAGIC.len()..HEAD_BYTES - 8].copy_from_slice(hash.as_bytes());
    bytes
}

fn decode(bytes: &[u8]) -> Result<Stored, String> {
    let body = checked(*MAGIC, bytes)?;
    let (number, messages) = body.split_at_checked(8).ok_or("is too short")?;
    let number = u64::from_le_bytes(number.try_into().map_err(|_| "is too short")?);
    // One allocation that all contents share.
    let mut messages = Bytes::copy_from_slice(messages);
    let undecodable = |error: prost::DecodeError| format!("does not decode: {error}");
    let hello = pb::Hello::decode_length_delimited(&mut messages).map_err(undecodable)?;
    let mut resources = Vec::new();
    while !messages.is_empty() {
        resources.push(pb::Resource::decode_length_delimited(&mut messages).map_err(undecodable)?);
    }
    Ok(Stored { number, hello, resources })
}

#[cfg(test)]
mod tests;
