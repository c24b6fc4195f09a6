//! What the agent keeps of Docker on its own disk, because Docker does not tell: which images the agent pulled, and what was last said of
//! volumes, whose labels never change.
//!
//! One small file, `upkeep`, written whole when something in it changes. One that is lost or does not read costs this: images that were
//! pulled before stay, and of a volume counts what was said when it was made.
//!
//! The file is: 8 bytes of magic; 32 bytes of BLAKE3 over the rest; one message.

use std::collections::BTreeMap;
use std::io;
use std::path::Path;

use prost::Message as _;

use super::images::Counted;
use crate::state::{Directory, Disk, checked, sealed};

const MAGIC: &[u8; 8] = b"SKRYUPK1";
const FILE: &str = "upkeep";
const TEMPORARY: &str = "upkeep.new";
const FILE_BYTES_MAX: u64 = 2 * 1024 * 1024;
/// Images that are kept in mind; beyond it the oldest is forgotten, and stays on the machine.
const IMAGES_MAX: usize = 512;
/// Volumes that are kept in mind; of more counts what was said when they were made.
const VOLUMES_MAX: usize = 4096;

/// An image that the agent pulled, or began to pull.
#[derive(Clone, PartialEq, prost::Message)]
pub(super) struct Image {
    /// As the spec names it.
    #[prost(string, tag = "1")]
    pub(super) reference: String,
    /// Docker's id of it. Empty: the pull was begun, and its end was not seen.
    #[prost(string, tag = "2")]
    pub(super) id: String,
    /// The id that the reference had before: that one was there already and is nobody's to remove.
    #[prost(string, tag = "3")]
    pub(super) before: String,
    /// For how long nothing has used it, as far as was seen. By the monotonic clock while the agent ran: a wrong clock makes nothing old. 0:
    /// it was in use.
    #[prost(uint64, tag = "4")]
    pub(super) unused_seconds: u64,
}

#[derive(Clone, PartialEq, prost::Message)]
pub(super) struct Content {
    #[prost(message, repeated, tag = "1")]
    pub(super) images: Vec<Image>,
    /// By their names in Docker, whether they are removed with their app, where that was ever said.
    #[prost(btree_map = "string, bool", tag = "2")]
    pub(super) volumes: BTreeMap<String, bool>,
}

/// The file.
pub(in crate::runtime::docker) struct Kept {
    content: tokio::sync::Mutex<Content>,
    /// Absent: nothing is kept, and so no image is removed.
    disk: Option<Directory>,
    counted: tokio::sync::Mutex<Counted>,
}

impl Kept {
    /// Keeps nothing.
    pub(in crate::runtime::docker) fn nothing() -> Self {
        Self { content: tokio::sync::Mutex::default(), disk: None, counted: tokio::sync::Mutex::default() }
    }

    /// Reads what is there.
    pub(in crate::runtime::docker) fn open(directory: &Path) -> Self {
        let disk = Directory::new(directory);
        let content = read(&disk).unwrap_or_else(|why| {
            tracing::warn!(why, "which images this agent pulled is forgotten: they stay");
            Content::default()
        });
        Self { content: content.into(), disk: Some(disk), counted: tokio::sync::Mutex::default() }
    }

    /// Where the file is.
    pub(super) fn directory(&self) -> Option<&Path> {
        self.disk.as_ref().map(Directory::path)
    }

    /// What was counted since it was written.
    pub(super) async fn counted(&self) -> tokio::sync::MutexGuard<'_, Counted> {
        self.counted.lock().await
    }

    pub(super) async fn content(&self) -> Content {
        self.content.lock().await.clone()
    }

    /// Changes it, on disk first. What cannot be written is not changed.
    pub(super) async fn change(&self, change: impl FnOnce(&mut Content)) -> io::Result<()> {
        let Some(disk) = self.disk.clone() else { return Ok(()) };
        let mut content = self.content.lock().await;
        let mut new = content.clone();
        change(&mut new);
        let surplus = new.images.len().saturating_sub(IMAGES_MAX);
        new.images.drain(..surplus);
        while new.volumes.len() > VOLUMES_MAX {
            new.volumes.pop_last();
        }
        if new != *content {
            let body = new.encode_to_vec();
            let bytes = sealed(*MAGIC, &body);
            let written = tokio::task::spawn_blocking(move || {
                disk.write(TEMPORARY, &bytes).and_then(|()| disk.rename(TEMPORARY, FILE))
            });
            written.await.map_err(io::Error::other).flatten()?;
            *content = new;
        }
        Ok(())
    }

    /// A pull begins, while the reference has the id `before`.
    pub(in crate::runtime::docker) async fn pulling(&self, reference: &str, before: Option<&str>) {
        let begun = self.change(|content| begin(content, reference, before.unwrap_or_default()));
        if let Err(error) = begun.await {
            tracing::warn!(%error, reference, "that it was pulled cannot be kept: it will stay on this machine");
        }
    }

    /// A pull has failed, or ended: the reference has this id now, if it has one. What somebody brings by other ways after that is not ours.
    pub(in crate::runtime::docker) async fn pulled(
        &self,
        reference: &str,
        before: Option<&str>,
        id: Option<&str>,
    ) {
        let (before, id) = (before.unwrap_or_default(), id.unwrap_or_default());
        let ended = self.change(|content| settle(content, reference, before, id));
        if let Err(error) = ended.await {
            tracing::warn!(%error, reference, "that it was pulled cannot be kept yet");
        }
    }
}

/// A pull of `reference` begins. What was there before an earlier one whose end was not seen is still what was there before: what is there
/// now came by that one.
fn begin(content: &mut Content, reference: &str, before: &str) {
    let before = take_begun(content, reference).unwrap_or_else(|| before.to_owned());
    content.images.push(Image { reference: reference.to_owned(), before, ..Image::default() });
}

/// Forgets a pull of `reference` whose end was not seen: the id that was there before it.
fn take_begun(content: &mut Content, reference: &str) -> Option<String> {
    let is_begun = |one: &Image| one.reference == reference && one.id.is_empty();
    let begun = content.images.iter().find(|one| is_begun(one)).map(|one| one.before.clone());
    content.images.retain(|one| !is_begun(one));
    begun
}

/// The pull of `reference` has ended with `id`: an image of the agent's, if it was not there before.
pub(super) fn settle(content: &mut Content, reference: &str, before: &str, id: &str) {
    let before = take_begun(content, reference).unwrap_or_else(|| before.to_owned());
    let known = content.images.iter().any(|one| one.reference == reference && one.id == id);
    if !id.is_empty() && id != before && !known {
        let (reference, id) = (reference.to_owned(), id.to_owned());
        content.images.push(Image { reference, id, ..Image::default() });
    }
}

fn read(disk: &impl Disk) -> Result<Content, String> {
    let bytes = disk.read(FILE, FILE_BYTES_MAX).map_err(|error| format!("{FILE} cannot be read: {error}"))?;
    let Some(bytes) = bytes else { return Ok(Content::default()) };
    let body = checked(*MAGIC, &bytes).map_err(|why| format!("{FILE} {why}"))?;
    Content::decode(body).map_err(|error| format!("{FILE} does not decode: {error}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    async fn ids(kept: &Kept) -> Vec<String> {
        kept.content().await.images.into_iter().map(|one| one.id).collect()
    }

    #[tokio::test]
    async fn only_what_was_not_there_before_is_the_agents_and_that_is_read_again() {
        let dir = tempfile::tempdir().unwrap();
        let kept = Kept::open(dir.path());
        kept.pulling("web:1", Some("a")).await;
        assert_eq!(ids(&Kept::open(dir.path())).await, [""], "begun");
        kept.pulled("web:1", Some("a"), Some("a")).await;
        assert_eq!(ids(&kept).await, [""; 0], "somebody else had it");
        kept.pulled("web:1", Some("a"), Some("b")).await;
        kept.pulled("web:1", Some("b"), Some("b")).await;
        kept.pulled("web:1", None, Some("c")).await;
        assert_eq!(ids(&Kept::open(dir.path())).await, ["b", "c"]);
        std::fs::write(dir.path().join(FILE), b"x").unwrap();
        assert_eq!(ids(&Kept::open(dir.path())).await, [""; 0], "damaged");
        kept.change(|content| content.images = vec![Image::default(); 2 * IMAGES_MAX]).await.unwrap();
        assert_eq!(ids(&kept).await.len(), IMAGES_MAX);
    }

    #[tokio::test]
    async fn what_a_pull_brought_whose_end_was_not_seen_is_the_agents_at_the_next() {
        let dir = tempfile::tempdir().unwrap();
        let kept = Kept::open(dir.path());
        kept.pulling("web:1", None).await;
        // Killed here, and Docker has it by now.
        let kept = Kept::open(dir.path());
        kept.pulling("web:1", Some("a")).await;
        assert_eq!(ids(&kept).await, [""]);
        kept.pulled("web:1", Some("a"), Some("a")).await;
        assert_eq!(ids(&kept).await, ["a"]);
        // One that brought nothing ends so: what comes later came by other hands.
        kept.pulling("db:1", None).await;
        kept.pulled("db:1", None, None).await;
        kept.pulling("db:1", Some("b")).await;
        kept.pulled("db:1", Some("b"), Some("b")).await;
        assert_eq!(ids(&kept).await, ["a"]);
    }
}
