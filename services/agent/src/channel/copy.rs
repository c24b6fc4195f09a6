//! The verb `copy`: an archive into an instance, or out of one. That it is whole is said by its digest: without one that is right nothing counts.

use std::sync::Arc;

use bytes::Bytes;
use futures_util::{Stream, StreamExt as _};
use skerry_model::InstanceName;
use skerry_proto::relay::v1 as pb;
use skerry_proto::relay::v1::copy_frame::Body;
use skerry_proto::relay::v1::open_request::Body as Up;
use skerry_proto::relay::v1::open_response::Body as Down;
use tokio::sync::mpsc;
use tonic::{Status, Streaming};

use super::logs::find;
use crate::runtime::copy::{PART_BYTES_MAX, truncated};
use crate::runtime::{CopyPart, CopySource, Runtime, RuntimeError};

/// Parts that wait for who takes them.
const PARTS_MAX: usize = 1;

/// Unpacks what comes, and says what it was.
pub(super) async fn to(
    runtimes: &[Arc<dyn Runtime>],
    start: &pb::CopyStart,
    out: &mpsc::Sender<pb::OpenRequest>,
    frames: &mut Streaming<pb::OpenResponse>,
) -> Result<(), RuntimeError> {
    let (runtime, copy) = find(runtimes, &instance(start)?).await?;
    let (parts, archive) = mpsc::channel(PARTS_MAX);
    let taking = take(frames, parts);
    let (taken, unpacked) = tokio::join!(taking, runtime.copy_to(&copy, &start.path, archive));
    let digest = match (taken, unpacked) {
        // Why nothing more came is the cause, where that is so.
        (Err(Some(error)), _) | (_, Err(error)) => return Err(error),
        (Err(None), Ok(())) => return Err(truncated()),
        (Ok(digest), Ok(())) => digest,
    };
    send(out, Body::End(digest)).await;
    Ok(())
}

/// Packs what is asked for, and says at the end what was sent.
pub(super) async fn from(
    runtimes: &[Arc<dyn Runtime>],
    start: &pb::CopyStart,
    out: &mpsc::Sender<pb::OpenRequest>,
) -> Result<(), RuntimeError> {
    let (runtime, copy) = find(runtimes, &instance(start)?).await?;
    let source = CopySource { path: start.path.clone(), bare: start.bare };
    let (parts, mut packed) = mpsc::channel::<Bytes>(PARTS_MAX);
    let packing = async {
        let done = runtime.copy_from(&copy, &source, &parts).await;
        drop(parts);
        done
    };
    let sending = async {
        let mut sum = Sum::default();
        while let Some(part) = packed.recv().await {
            sum.add(&part);
            if !send(out, Body::Data(part)).await {
                return None;
            }
        }
        Some(sum.digest())
    };
    let (packed, sent) = tokio::join!(packing, sending);
    packed?;
    if let Some(digest) = sent {
        send(out, Body::End(digest)).await;
    }
    Ok(())
}

fn instance(start: &pb::CopyStart) -> Result<InstanceName, RuntimeError> {
    let failed = |reason, message| RuntimeError { reason, message, transient: false };
    if start.path.is_empty() || start.path.contains('\0') {
        return Err(failed("PathMissing", "no path is named".to_owned()));
    }
    InstanceName::parse(&start.instance).map_err(|error| failed("InstanceUnknown", error.to_string()))
}

/// Whether anybody hears it.
async fn send(out: &mpsc::Sender<pb::OpenRequest>, body: Body) -> bool {
    let frame = pb::OpenRequest { body: Some(Up::Copy(pb::CopyFrame { body: Some(body) })) };
    out.send(frame).await.is_ok()
}

/// Hands on what comes, and says that it is whole where it is. An error without a word: nobody takes any more of it.
async fn take(
    frames: &mut (impl Stream<Item = Result<pb::OpenResponse, Status>> + Unpin),
    parts: mpsc::Sender<CopyPart>,
) -> Result<pb::CopyDigest, Option<RuntimeError>> {
    let mut sum = Sum::default();
    loop {
        let frame = tokio::select! {
            frame = frames.next() => frame.and_then(Result::ok).and_then(|frame| frame.body),
            () = parts.closed() => return Err(None),
        };
        match frame {
            Some(Down::Copy(pb::CopyFrame { body: Some(Body::Data(part)) })) => {
                if part.len() > PART_BYTES_MAX {
                    return Err(Some(RuntimeError {
                        reason: "TooLong",
                        message: format!("a part of the archive has more than {PART_BYTES_MAX} bytes"),
                        transient: false,
                    }));
                }
                sum.add(&part);
                parts.send(CopyPart::Data(part)).await.map_err(|_| None)?;
            }
            Some(Down::Copy(pb::CopyFrame { body: Some(Body::End(digest)) })) => {
                let ours = sum.digest();
                if ours != digest {
                    return Err(Some(RuntimeError {
                        reason: "DigestWrong",
                        message: "what came is not what was sent: nothing counts as copied".to_owned(),
                        transient: true,
                    }));
                }
                parts.send(CopyPart::Whole).await.map_err(|_| None)?;
                return Ok(ours);
            }
            // Also where it broke.
            Some(Down::End(_)) | None => return Err(Some(truncated())),
            Some(_) => {}
        }
    }
}

/// Of an archive, as it passes.
#[derive(Default)]
struct Sum {
    bytes: u64,
    hasher: blake3::Hasher,
}

impl Sum {
    fn add(&mut self, part: &[u8]) {
        self.bytes += part.len() as u64;
        self.hasher.update(part);
    }

    fn digest(&self) -> pb::CopyDigest {
        pb::CopyDigest {
            bytes: self.bytes,
            blake3: Bytes::copy_from_slice(self.hasher.finalize().as_bytes()),
        }
    }
}

#[cfg(test)]
mod tests {
    use futures_util::stream;

    use super::*;

    fn data(bytes: &'static [u8]) -> Down {
        Down::Copy(pb::CopyFrame { body: Some(Body::Data(bytes.into())) })
    }

    fn end(of: &[u8]) -> Down {
        let mut sum = Sum::default();
        sum.add(of);
        Down::Copy(pb::CopyFrame { body: Some(Body::End(sum.digest())) })
    }

    async fn taken(frames: Vec<Down>) -> (Result<u64, &'static str>, bool) {
        let (parts, mut archive) = mpsc::channel(10);
        let mut frames =
            stream::iter(frames.into_iter().map(|body| Ok(pb::OpenResponse { body: Some(body) })));
        let taken = take(&mut frames, parts).await;
        let mut is_whole = false;
        while let Some(part) = archive.recv().await {
            is_whole = matches!(part, CopyPart::Whole);
        }
        (taken.map(|digest| digest.bytes).map_err(|error| error.unwrap().reason), is_whole)
    }

    #[tokio::test]
    async fn nothing_counts_without_the_right_digest() {
        assert_eq!(taken(vec![data(b"one"), data(b"two"), end(b"onetwo")]).await, (Ok(6), true));
        assert_eq!(taken(vec![end(b"")]).await, (Ok(0), true));
        for frames in [vec![data(b"one"), end(b"two")], vec![data(b"one"), end(b"onetwo")], vec![end(b"x")]] {
            assert_eq!(taken(frames).await, (Err("DigestWrong"), false));
        }
        for frames in [vec![data(b"one")], vec![], vec![data(b"x"), Down::End(pb::ChannelEnd::default())]] {
            assert_eq!(taken(frames).await, (Err("Truncated"), false));
        }
    }

    #[tokio::test]
    async fn nothing_is_waited_for_that_nobody_takes() {
        let (parts, archive) = mpsc::channel(1);
        drop(archive);
        let taken = take(&mut stream::pending(), parts).await;
        assert_eq!(taken, Err(None));
    }
}
