//! Images that the agent pulled and nothing uses any more: looks, asks `decide`, and removes.
//!
//! In use is an image of any container on the machine, whoever's, and one that a wanted or former spec names. What the agent did not pull is never
//! removed, nor what somebody gave a name of their own since.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::time::Duration;

use bollard::query_parameters::{ListContainersOptionsBuilder, RemoveImageOptionsBuilder};
use tokio::time::Instant;
use tracing::debug;

use super::decide::{Candidate, ImageGc, Room, Told, decide};
use super::kept::{Content, Image, Kept, settle};
use crate::runtime::docker::client::{Client, LOOK_DEADLINE, REMOVE_DEADLINE};
use crate::runtime::docker::error::{Failure, Kind};
use crate::runtime::docker::pull::split_reference;
use crate::runtime::{DISK_NEARLY_FULL, Needs, Progress, RuntimeError, mebibytes};

/// The file is written when the time for which an image is unused has grown by so much: less than that is lost with the agent's process.
const KEEP_EVERY: Duration = Duration::from_secs(3600);

/// An image of the agent's that is there.
struct Found {
    image: Image,
    /// What is removed: the reference, or the id of one that has no name any more.
    target: String,
    bytes: u64,
    used: bool,
}

/// How long images have been unused since the file was last written, and when that was last counted.
#[derive(Default)]
pub(in crate::runtime::docker) struct Counted {
    at: Option<Instant>,
    content: Content,
    full: Told,
}

pub(super) async fn collect(
    client: &Client,
    kept: &Kept,
    gc: ImageGc,
    needs: &Needs,
) -> Result<Vec<Progress>, RuntimeError> {
    // Where nothing is kept no image is known to be the agent's, and room is not its business.
    if kept.directory().is_none() {
        return Ok(Vec::new());
    }
    let failed = |failure: Failure| failure.while_doing("looking for unused images", "ImageGcFailed");
    let found = if kept.content().await.images.is_empty() {
        Vec::new()
    } else {
        look(client, kept, needs).await.map_err(failed)?
    };
    let now = Instant::now();
    let mut counted = kept.counted().await;
    let since = counted.at.replace(now).map_or(Duration::ZERO, |before| now - before);
    let candidates: Vec<Candidate> = found
        .iter()
        .map(|one| {
            let before = counted.content.images.iter().find(|known| is_same(known, &one.image));
            let unused = before.map_or(one.image.unused_seconds, |before| before.unused_seconds);
            // Seen unused for the first time it counts one second: 0 means in use.
            let unused = if unused == 0 { 1 } else { unused.saturating_add(since.as_secs()) };
            Candidate { unused: (!one.used).then(|| Duration::from_secs(unused)), bytes: one.bytes }
        })
        .collect();
    let room = room(client, kept.directory()).await;
    let mut removed = BTreeSet::new();
    for at in decide(&candidates, room, gc) {
        if remove(client, &found[at]).await.map_err(failed)? {
            removed.insert(at);
        }
    }
    let images: Vec<Image> = found
        .iter()
        .zip(&candidates)
        .enumerate()
        .filter(|(at, _)| !removed.contains(at))
        .map(|(_, (one, candidate))| {
            let unused_seconds = candidate.unused.map_or(0, |unused| unused.as_secs());
            Image { unused_seconds, ..one.image.clone() }
        })
        .collect();
    keep(kept, &found, &images).await;
    counted.content.images = images;
    let told = if removed.is_empty() {
        room.filter(|room| counted.full.is_due(&candidates, Some(*room), gc))
            .map(|room| Progress { reason: DISK_NEARLY_FULL, message: nothing_goes(&candidates, room, gc) })
    } else {
        let bytes: u64 = removed.iter().map(|at| found[*at].bytes).sum();
        let names: Vec<String> =
            removed.iter().map(|at| format!("`{}`", found[*at].image.reference)).collect();
        let message = format!(
            "removed what nothing uses, {} with shared layers: {}",
            mebibytes(bytes),
            super::names(&names)
        );
        Some(Progress { reason: "ImagesRemoved", message })
    };
    Ok(told.into_iter().collect())
}

/// That the disk is nearly full and that removing images does not help, for people.
fn nothing_goes(images: &[Candidate], room: Room, gc: ImageGc) -> String {
    let gibibytes = |bytes: u64| bytes as f64 / f64::from(1 << 30);
    let percent = u128::from(room.used_bytes) * 100 / u128::from(room.total_bytes).max(1);
    let unused = images.iter().filter(|image| image.unused.is_some()).count();
    let why = match (images.len(), unused) {
        (0, _) => "nothing here was pulled by this agent".to_owned(),
        (all, 0) => format!("all that this agent pulled are in use, {all}"),
        (all, unused) => {
            format!("of {all} that this agent pulled {unused} cannot be removed, the others are in use")
        }
    };
    format!(
        "the disk that Docker keeps images on is used to {percent} %, {:.1} of {:.1} GiB, and images go from {} % on, but none can: {why}",
        gibibytes(room.used_bytes),
        gibibytes(room.total_bytes),
        gc.high_percent.unwrap_or(100)
    )
}

/// Writes what is worth it: what went, what is used again, and times that have grown by much.
async fn keep(kept: &Kept, found: &[Found], images: &[Image]) {
    let written = kept.change(|content| {
        content.images.retain(|known| {
            let looked_at = found.iter().any(|one| is_same(known, &one.image));
            !looked_at || images.iter().any(|one| is_same(known, one))
        });
        for image in images {
            let Some(known) = content.images.iter_mut().find(|known| is_same(known, image)) else { continue };
            let grown = image.unused_seconds.saturating_sub(known.unused_seconds);
            if image.unused_seconds == 0 || known.unused_seconds == 0 || grown >= KEEP_EVERY.as_secs() {
                known.unused_seconds = image.unused_seconds;
            }
        }
    });
    if let Err(error) = written.await {
        tracing::warn!(%error, "which images are unused cannot be kept");
    }
}

fn is_same(one: &Image, other: &Image) -> bool {
    one.reference == other.reference && one.id == other.id
}

/// The agent's images that are there. Those that are not, or are somebody else's by now, are forgotten.
async fn look(client: &Client, kept: &Kept, needs: &Needs) -> Result<Vec<Found>, Failure> {
    let docker = client.docker().await?;
    let options = ListContainersOptionsBuilder::new().all(true).build();
    let containers = client.within(LOOK_DEADLINE, docker.list_containers(Some(options))).await?;
    let used: BTreeSet<String> = containers.into_iter().filter_map(|one| one.image_id).collect();
    let (mut found, mut gone) = (Vec::new(), Vec::new());
    for image in kept.content().await.images {
        let needed = needs.images.contains(&image.reference);
        if image.id.is_empty() {
            // A pull whose end was not seen; one that is needed may be under way.
            if !needed {
                let id = match id_of(client, &image.reference).await {
                    Ok(id) => id.unwrap_or_else(|| image.before.clone()),
                    Err(failure) => {
                        pass_over(&image, failure)?;
                        continue;
                    }
                };
                let settled = kept.change(|content| settle(content, &image.reference, &image.before, &id));
                if let Err(error) = settled.await {
                    tracing::warn!(%error, "an image that was pulled cannot be kept in mind");
                }
            }
            continue;
        }
        let inspected = match client.within(LOOK_DEADLINE, docker.inspect_image(&image.id)).await {
            Ok(inspected) => inspected,
            Err(Failure { kind: Kind::NoImage | Kind::NotFound, .. }) => {
                gone.push(image);
                continue;
            }
            Err(failure) => {
                pass_over(&image, failure)?;
                continue;
            }
        };
        let tags = inspected.repo_tags.unwrap_or_default();
        let (name, tag) = split_reference(&image.reference);
        let full = format!("{}:{tag}", familiar(name));
        let target = match (tags.contains(&full), tags.is_empty()) {
            (true, _) => full,
            (false, true) => image.id.clone(),
            (false, false) => {
                gone.push(image);
                continue;
            }
        };
        // A tag that has moved on is not what the spec means any more.
        let moved = target == image.id && !image.reference.contains('@');
        found.push(Found {
            used: used.contains(&image.id) || (needed && !moved),
            bytes: inspected.size.and_then(|bytes| u64::try_from(bytes).ok()).unwrap_or(0),
            target,
            image,
        });
    }
    let forgotten =
        kept.change(|content| content.images.retain(|one| !gone.iter().any(|gone| is_same(gone, one))));
    if let Err(error) = forgotten.await {
        tracing::warn!(%error, "which images are gone cannot be kept");
    }
    Ok(found)
}

/// An image that Docker cannot tell of stays, and holds up no other: one that lost its layers is so for ever.
fn pass_over(image: &Image, failure: Failure) -> Result<(), Failure> {
    if matches!(failure.kind, Kind::Unavailable | Kind::TimedOut) {
        return Err(failure);
    }
    debug!(image = image.reference, error = failure.message, "an image cannot be looked at");
    Ok(())
}

/// The id that a reference has now.
pub(in crate::runtime::docker) async fn id_of(
    client: &Client,
    reference: &str,
) -> Result<Option<String>, Failure> {
    let docker = client.docker().await?;
    match client.within(LOOK_DEADLINE, docker.inspect_image(reference)).await {
        Ok(found) => Ok(found.id),
        Err(Failure { kind: Kind::NoImage | Kind::NotFound, .. }) => Ok(None),
        Err(failure) => Err(failure),
    }
}

/// A name as Docker lists it: its own registry is not written out.
fn familiar(name: &str) -> &str {
    let name =
        name.strip_prefix("docker.io/").or_else(|| name.strip_prefix("index.docker.io/")).unwrap_or(name);
    name.strip_prefix("library/").unwrap_or(name)
}

/// Whether it went. One that is used after all stays, since nothing is forced.
async fn remove(client: &Client, found: &Found) -> Result<bool, Failure> {
    let docker = client.docker().await?;
    let options = RemoveImageOptionsBuilder::new().force(false).build();
    match client.within(REMOVE_DEADLINE, docker.remove_image(&found.target, Some(options), None)).await {
        Ok(_) | Err(Failure { kind: Kind::NoImage | Kind::NotFound, .. }) => Ok(true),
        Err(failure) if failure.kind == Kind::Unavailable => Err(failure),
        Err(failure) => {
            debug!(image = found.target, error = failure.message, "an unused image stays");
            Ok(false)
        }
    }
}

/// The file system of Docker's images. An agent in a container may not see it: then that of its own directory, which is the machine's too,
/// has to do.
async fn room(client: &Client, own: Option<&Path>) -> Option<Room> {
    let docker = client.docker().await.ok()?;
    let info = client.within(LOOK_DEADLINE, docker.info()).await.ok()?;
    let root = info.docker_root_dir.map(PathBuf::from);
    let stat = root.as_deref().into_iter().chain(own).find_map(|path| rustix::fs::statvfs(path).ok())?;
    // As `df` counts: of what programs may use.
    let used = stat.f_blocks.saturating_sub(stat.f_bfree).saturating_mul(stat.f_frsize);
    let free = stat.f_bavail.saturating_mul(stat.f_frsize);
    Some(Room { used_bytes: used, total_bytes: used.saturating_add(free) })
}

#[cfg(test)]
mod tests {
    use std::sync::Mutex;

    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
    use tokio::net::UnixListener;

    use super::*;
    use crate::lock::lock;

    /// A Docker that cannot tell of the image `broken` and has `fine`; answers until it is dropped, and notes what it is asked to remove.
    async fn serve(listener: &UnixListener, removed: &Mutex<Vec<String>>) -> std::io::Result<()> {
        loop {
            let (mut stream, _) = listener.accept().await?;
            let mut head = Vec::new();
            while !head.ends_with(b"\r\n\r\n") {
                head.push(stream.read_u8().await?);
            }
            let head = String::from_utf8_lossy(&head).into_owned();
            let path = head.split(' ').nth(1).unwrap_or_default();
            let (status, body) = match path {
                _ if head.starts_with("DELETE ") => {
                    lock(removed).push(path.to_owned());
                    ("200 OK", "[]")
                }
                path if path.contains("/containers/json") => ("200 OK", "[]"),
                path if path.contains("broken") => {
                    ("500 Internal Server Error", r#"{"message":"layer does not exist"}"#)
                }
                path if path.contains("/images/") => {
                    ("200 OK", r#"{"Id":"fine","RepoTags":["fine:1"],"Size":7}"#)
                }
                _ => ("200 OK", r#"{"ApiVersion":"1.41"}"#),
            };
            let answer = format!(
                "HTTP/1.1 {status}\r\nContent-Type: application/json\r\nContent-Length: {}\r\nConnection: close\r\n\r\n{body}",
                body.len()
            );
            stream.write_all(answer.as_bytes()).await?;
        }
    }

    #[tokio::test]
    async fn one_that_docker_cannot_tell_of_stays_and_keeps_no_other() {
        let dir = tempfile::tempdir().unwrap();
        let socket = dir.path().join("docker.sock");
        let (listener, removed) = (UnixListener::bind(&socket).unwrap(), Mutex::default());
        let (client, kept) = (Client::new(socket), Kept::open(dir.path()));
        let image = |reference: &str, id: &str| Image {
            reference: reference.to_owned(),
            id: id.to_owned(),
            ..Image::default()
        };
        let images = vec![image("broken:1", ""), image("broken:2", "broken"), image("fine:1", "fine")];
        kept.change(|content| content.images.clone_from(&images)).await.unwrap();
        let gc = ImageGc { age: Some(Duration::from_secs(1)), high_percent: None, ..ImageGc::default() };
        let needs = Needs::default();
        let collected = tokio::select! {
            ended = serve(&listener, &removed) => panic!("it serves on: {ended:?}"),
            collected = collect(&client, &kept, gc, &needs) => collected,
        };
        let told = collected.expect("what can go goes");
        assert!(told.len() == 1 && told[0].message.contains("`fine:1`"), "{told:?}");
        let removed = lock(&removed).clone();
        assert!(removed.len() == 1 && removed[0].contains("fine"), "{removed:?}");
        assert_eq!(kept.content().await.images, images[..2]);
    }

    #[test]
    fn a_full_disk_is_told_with_figures_and_why_no_image_goes() {
        let room = Room { used_bytes: 91 << 29, total_bytes: 100 << 29 };
        let used = Candidate { unused: None, bytes: 1 };
        let unused = Candidate { unused: Some(Duration::from_secs(1)), bytes: 1 };
        let text = |images: &[Candidate]| nothing_goes(images, room, ImageGc::default());
        assert_eq!(
            text(&[used, used]),
            "the disk that Docker keeps images on is used to 91 %, 45.5 of 50.0 GiB, and images go from 85 % on, but none can: \
             all that this agent pulled are in use, 2"
        );
        assert!(
            text(&[used, unused])
                .ends_with("of 2 that this agent pulled 1 cannot be removed, the others are in use")
        );
        assert!(text(&[]).ends_with("nothing here was pulled by this agent"));
    }
}
