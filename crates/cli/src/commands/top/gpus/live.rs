//! The live view of GPUs: a screen that is drawn anew as samples come in.

use std::io;
use std::pin::Pin;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use prost_types::Timestamp;
use skerry_proto::gpu::v1 as pb;
use tokio::signal::unix::{SignalKind, signal};
use tokio::time::{Instant, MissedTickBehavior, interval_at};
use tonic::Streaming;

use super::super::live::{DRAW_PERIOD, Keys, LOOK_PERIOD, QUIT, at, cut, next};
use super::{SHOWN, View};
use crate::args::{TopGpuSort, TopGpusArgs};
use crate::client::{Client, jittered};
use crate::error::{CliError, is_transport_failure};
use crate::render::top_gpus::{self, Cards, Style};
use crate::terminal::{self, Raw, Screen};
use crate::watch::is_version_gone;

/// What is shown before there was anything to see.
const HISTORY: Duration = Duration::from_secs(60);
/// Most GPUs whose last minute is asked for.
const HISTORY_GPUS_MAX: usize = 200;
/// Events that are shown: the newest.
const EVENTS_SHOWN: usize = 3;

/// Shows it until somebody ends it.
pub(super) async fn run(client: &Client, view: &View, args: &TopGpusArgs) -> Result<(), CliError> {
    let failed = |error: io::Error| CliError::Failed(format!("setting the terminal up: {error}"));
    // Who may not see it, or names what is not there, is told so before there is a screen.
    let cards = view.cards(client).await?;
    let mut answers = Some(client.gpu_samples(view.request(client, &SHOWN)).await?);
    let mut ends = signal(SignalKind::terminate()).map_err(failed)?;
    let mut resized = signal(SignalKind::window_change()).map_err(failed)?;
    let screen = Screen::enter().map_err(failed)?;
    let raw = if terminal::is_there() { Some(Raw::set().map_err(failed)?) } else { None };
    let mut keys = Keys::read(raw.is_some()).map_err(failed)?;
    let mut looks = interval_at(Instant::now() + LOOK_PERIOD, LOOK_PERIOD);
    looks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    // What is asked meanwhile: keys are heard though a server is away.
    let mut asking: Option<Asking<'_>> = (1..=HISTORY_GPUS_MAX)
        .contains(&cards.len())
        .then(|| Box::pin(async { Asked::History(history(client, view).await) }) as Asking<'_>);
    let mut shown = Shown { view, cards, sort: args.sort, trouble: None, events: Vec::new() };
    let (mut tries, mut again) = (0, None);
    let mut due = Some(Instant::now());
    loop {
        tokio::select! {
            () = at(due) => {
                due = None;
                screen.show(&shown.lines(client)).map_err(failed)?;
                continue;
            }
            answer = next(&mut answers) => match answer {
                Ok(Some(answer)) => {
                    tries = 0;
                    shown.take(answer);
                }
                // Nobody has asked for the end: it is begun anew.
                Ok(None) => (answers, again) = (None, Some(Instant::now() + jittered(tries))),
                Err(status) if is_transport_failure(&status) || is_version_gone(&status) => {
                    (answers, again) = (None, Some(Instant::now() + jittered(tries)));
                }
                Err(status) => return Err(CliError::of_status(&status, client.gpu_address())),
            },
            () = at(again), if asking.is_none() => {
                again = None;
                tries += 1;
                let request = view.request(client, &SHOWN);
                asking = Some(Box::pin(async move {
                    Asked::Begun(client.gpu_samples(request).await.map_err(CliError::from))
                }));
            }
            _ = looks.tick(), if asking.is_none() => {
                asking = Some(Box::pin(async move { Asked::Cards(view.cards(client).await) }));
            }
            asked = wait(&mut asking) => {
                asking = None;
                match asked {
                    Asked::Begun(Ok(begun)) => (answers, shown.trouble) = (Some(begun), None),
                    Asked::Cards(Ok(cards)) => shown.take_cards(cards),
                    // It is only more to see.
                    Asked::History(history) => shown.take_history(&history.unwrap_or_default()),
                    Asked::Begun(Err(error)) => {
                        shown.trouble = Some(error.summary());
                        again = Some(Instant::now() + jittered(tries));
                    }
                    Asked::Cards(Err(error)) => shown.trouble = Some(error.summary()),
                }
            }
            key = keys.typed.recv() => match key {
                Some(key) if QUIT.contains(&key) => return Ok(()),
                Some(b'n' | b'N') => shown.sort = TopGpuSort::Name,
                Some(b'u' | b'U') => shown.sort = TopGpuSort::Utilization,
                Some(b'm' | b'M') => shown.sort = TopGpuSort::Memory,
                Some(_) => continue,
                // The terminal is gone.
                None => return Ok(()),
            },
            _ = resized.recv() => {}
            _ = ends.recv() => return Ok(()),
        }
        due.get_or_insert(Instant::now() + DRAW_PERIOD);
    }
}

type Asking<'a> = Pin<Box<dyn Future<Output = Asked> + 'a>>;

/// What came of a question.
enum Asked {
    Begun(Result<Streaming<pb::StreamSamplesResponse>, CliError>),
    Cards(Result<Cards, CliError>),
    History(Option<pb::QueryHistoryResponse>),
}

async fn wait(asking: &mut Option<Asking<'_>>) -> Asked {
    match asking {
        Some(asking) => asking.await,
        None => std::future::pending().await,
    }
}

/// How busy they were in the last minute, as far as that is kept.
async fn history(client: &Client, view: &View) -> Option<pb::QueryHistoryResponse> {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).ok()?;
    let from = i64::try_from(now.saturating_sub(HISTORY).as_secs()).ok()?;
    let request = pb::QueryHistoryRequest {
        parent: client.project().parent(),
        selector: Some(view.selector.clone()),
        fields: vec![pb::Field::GpuUtilizationPercent.into()],
        start_time: Some(Timestamp { seconds: from, nanos: 0 }),
        end_time: None,
        step: Some(prost_types::Duration { seconds: 1, nanos: 0 }),
    };
    client.gpu_history(request).await.ok()
}

/// What is shown.
struct Shown<'a> {
    view: &'a View,
    cards: Cards,
    sort: TopGpuSort,
    /// What is in the way of news.
    trouble: Option<String>,
    /// The newest last.
    events: Vec<String>,
}

impl Shown<'_> {
    fn take(&mut self, answer: pb::StreamSamplesResponse) {
        self.trouble = None;
        self.events.extend(top_gpus::take(&mut self.cards, answer));
        let old = self.events.len().saturating_sub(EVENTS_SHOWN);
        self.events.drain(..old);
    }

    /// What is known of those that stay, stays.
    fn take_cards(&mut self, cards: Cards) {
        let mut before = std::mem::replace(&mut self.cards, cards);
        for (name, card) in &mut self.cards {
            if let Some(mut known) = before.remove(name) {
                std::mem::swap(&mut known.gpu, &mut card.gpu);
                *card = known;
            }
        }
    }

    fn take_history(&mut self, history: &pb::QueryHistoryResponse) {
        for series in history.series.iter().filter(|series| series.mig_device.is_empty()) {
            if let Some(card) = self.cards.get_mut(&series.gpu) {
                card.take_history(&series.points);
            }
        }
    }

    fn lines(&self, client: &Client) -> Vec<String> {
        let (columns, rows) = terminal::shown_size();
        let (columns, rows) = (usize::from(columns), usize::from(rows));
        let (told, all) = top_gpus::told(&self.cards);
        let head = format!("GPUs of project {}, told by {told} of {all}", client.project());
        let keys = "q ends, sort by: n name, u utilisation, m memory";
        let mut lines = vec![cut(&head, columns), cut(keys, columns), String::new()];
        if self.cards.is_empty() {
            lines.push(cut(self.view.nothing(), columns));
        } else {
            let style = Style { sort: self.sort, width: Some(columns), headers: true, live: true };
            lines.extend(top_gpus::table(&self.cards, style).lines().map(|line| cut(line, columns)));
        }
        let troubles = self.trouble.iter().cloned().chain(top_gpus::troubles(&self.cards));
        let below: Vec<String> = troubles.chain(self.events.iter().cloned()).collect();
        if !below.is_empty() {
            // They have a place of their own, however long the table is.
            let kept = rows.saturating_sub(below.len().min(rows / 3) + 1);
            lines.truncate(kept);
            lines.push(String::new());
            lines.extend(below.iter().take(rows / 3).map(|line| cut(line, columns)));
        }
        lines
    }
}
