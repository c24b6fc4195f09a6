//! Samples on their way out: once a second what the board has becomes a frame, where the control plane wants any.
//!
//! Nothing waits for them. A frame that the link has no room for is dropped, and the next one begins anew, so that the loss shows. Events are kept until they
//! are acknowledged, wanted or not.

use std::time::{Duration, Instant};

use bytes::Bytes;
use prost::Message as _;
use skerry_gpu_model::Encoder;
use skerry_proto::gateway::v1::GpuFeedback;
use skerry_proto::gpu::v1 as pb;
use skerry_proto::gpu::v1::keyframe::Reason;
use tokio::sync::{mpsc, watch};

use super::board::Board;
use super::worker::now;
use crate::clock::random;

/// Frames that wait for the link: so many seconds of it.
const FRAMES_MAX: usize = 4;
/// What is said of samples, and waits for the collector.
const SAID_MAX: usize = 16;

/// Whether frames are wanted.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
struct Wanted {
    now: bool,
    /// How often they have become so: each time begins with a keyframe.
    times: u32,
}

/// The link's end of samples.
pub(crate) struct SampleLink {
    /// Frames that are to be sent. `None`: nobody collects anything here.
    frames: Option<mpsc::Receiver<Bytes>>,
    wanted: watch::Sender<Wanted>,
    said: mpsc::Sender<pb::Feedback>,
}

/// The collector's end of samples.
pub(crate) struct SampleStream {
    frames: mpsc::Sender<Bytes>,
    wanted: watch::Receiver<Wanted>,
    said: mpsc::Receiver<pb::Feedback>,
    boot_id: String,
    /// Made with the first device.
    encoder: Option<Box<Encoder>>,
    /// Since which time of wanting frames were sent.
    times: u32,
    due: Instant,
}

/// Both ends. `boot_id`: the scope of event numbers, random for each start of the agent.
pub(crate) fn sample_stream(boot_id: &str) -> (SampleStream, SampleLink) {
    let (frames_in, frames) = mpsc::channel(FRAMES_MAX);
    let (wanted_in, wanted) = watch::channel(Wanted::default());
    let (said_in, said) = mpsc::channel(SAID_MAX);
    let stream = SampleStream {
        frames: frames_in,
        wanted,
        said,
        boot_id: boot_id.to_owned(),
        encoder: None,
        times: 0,
        due: Instant::now(),
    };
    (stream, SampleLink { frames: Some(frames), wanted: wanted_in, said: said_in })
}

impl SampleLink {
    /// The next frame to be sent; never, if nobody collects anything. May be dropped and called again.
    pub(crate) async fn next(&mut self) -> Bytes {
        loop {
            let Some(frames) = &mut self.frames else { return std::future::pending().await };
            if let Some(frame) = frames.recv().await {
                return frame;
            }
            self.frames = None;
        }
    }

    /// What the control plane says of samples.
    pub(crate) fn said(&self, feedback: &GpuFeedback) {
        self.want(feedback.wanted);
        // What cannot be read is of a newer service; what finds no room is said again.
        if !feedback.feedback.is_empty()
            && let Ok(said) = pb::Feedback::decode(feedback.feedback.as_ref())
        {
            let _ = self.said.try_send(said);
        }
    }

    /// A session ended, or begins: in it nothing was asked for yet.
    pub(crate) fn unlinked(&self) {
        self.want(false);
    }

    fn want(&self, wanted: bool) {
        self.wanted.send_if_modified(|is| {
            let is_news = is.now != wanted;
            is.now = wanted;
            is.times = is.times.wrapping_add(u32::from(is_news && wanted));
            is_news
        });
    }
}

impl SampleStream {
    /// Does what was asked for, and sends a frame where one is due. Answers how long nothing is to be done; `None`: for as long as there are no devices.
    pub(super) fn pass(&mut self, board: &mut Board, period: Duration) -> Option<Duration> {
        let events = board.take_events();
        if self.encoder.is_none() {
            if board.is_empty() {
                return None;
            }
            let stream = u32::try_from(random() & u64::from(u32::MAX)).unwrap_or_default();
            self.encoder = Some(Box::new(Encoder::new(stream, &self.boot_id)));
        }
        let encoder = self.encoder.as_mut()?;
        for (time, uuid, event) in events {
            encoder.event(time, &uuid, &event);
        }
        while let Ok(said) = self.said.try_recv() {
            encoder.feedback(&said);
        }
        let left = self.due.saturating_duration_since(Instant::now());
        if !left.is_zero() {
            return Some(left);
        }
        self.due = Instant::now() + period;
        let wanted = *self.wanted.borrow();
        if !wanted.now {
            return Some(period);
        }
        if std::mem::replace(&mut self.times, wanted.times) != wanted.times {
            encoder.begin_anew(Reason::LinkRestored);
        }
        let Ok(room) = self.frames.try_reserve() else {
            encoder.begin_anew(Reason::Dropped);
            return Some(period);
        };
        if let Err(error) = encoder.set_devices(board.described()) {
            // A driver that says what cannot be told is one of which nothing is.
            tracing::debug!(%error, "these GPUs cannot be told of");
            return Some(period);
        }
        for (place, health) in board.healths().enumerate() {
            encoder.set_health(place, health);
        }
        let samples = board.samples(&encoder.places());
        if let Some(frame) = encoder.encode(now(), &samples) {
            room.send(frame.encode_to_vec().into());
        }
        Some(period)
    }
}
