//! What a live view shows of GPUs.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use prost_types::Timestamp;
use skerry_proto::gpu::v1 as pb;
use tonic::Streaming;

use super::super::live::{Asking, Live, Page};
use super::{SHOWN, View};
use crate::args::TopGpuSort;
use crate::client::Client;
use crate::error::CliError;
use crate::render::top_gpus::{self, Cards, Style};

/// What is shown before there was anything to see.
const HISTORY: Duration = Duration::from_secs(60);
/// Most GPUs whose last minute is asked for.
const HISTORY_GPUS_MAX: usize = 200;
/// Events that are shown: the newest.
const EVENTS_SHOWN: usize = 3;

/// What is shown.
pub(super) struct Shown<'a> {
    client: &'a Client,
    view: &'a View,
    cards: Cards,
    sort: TopGpuSort,
    /// The newest last.
    events: Vec<String>,
}

/// What a look finds.
pub(super) enum Found {
    Cards(Cards),
    History(pb::QueryHistoryResponse),
}

impl<'a> Shown<'a> {
    /// Who may not see it, or names what is not there, is told so here.
    pub(super) async fn of(client: &'a Client, view: &'a View, sort: TopGpuSort) -> Result<Self, CliError> {
        Ok(Self { client, view, cards: view.cards(client).await?, sort, events: Vec::new() })
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
}

impl<'a> Live<'a> for Shown<'a> {
    type News = pb::StreamSamplesResponse;
    type Found = Found;

    fn begin(&self) -> Option<Asking<'a, Streaming<Self::News>>> {
        let (client, request) = (self.client, self.view.request(self.client, &SHOWN));
        Some(Box::pin(async move { Ok(client.gpu_samples(request).await?) }))
    }

    fn look(&self) -> Asking<'a, Found> {
        let (client, view) = (self.client, self.view);
        Box::pin(async move { view.cards(client).await.map(Found::Cards) })
    }

    /// How busy they were in the last minute, as far as that is kept.
    fn look_back(&self) -> Option<Asking<'a, Found>> {
        let now = SystemTime::now().duration_since(UNIX_EPOCH).ok()?;
        let from = i64::try_from(now.saturating_sub(HISTORY).as_secs()).ok()?;
        let request = pb::QueryHistoryRequest {
            parent: self.client.project().parent(),
            selector: Some(self.view.selector.clone()),
            fields: vec![pb::Field::GpuUtilizationPercent.into()],
            start_time: Some(Timestamp { seconds: from, nanos: 0 }),
            end_time: None,
            step: Some(prost_types::Duration { seconds: 1, nanos: 0 }),
        };
        let client = self.client;
        // It is only more to see.
        let ask = async move { Ok(Found::History(client.gpu_history(request).await.unwrap_or_default())) };
        (1..=HISTORY_GPUS_MAX).contains(&self.cards.len()).then(|| Box::pin(ask) as _)
    }

    fn take(&mut self, news: Self::News) {
        self.events.extend(top_gpus::take(&mut self.cards, news));
        let old = self.events.len().saturating_sub(EVENTS_SHOWN);
        self.events.drain(..old);
    }

    /// The stream is of all that the selector means, whatever comes or goes.
    fn take_found(&mut self, found: Found) -> bool {
        match found {
            Found::Cards(cards) => self.take_cards(cards),
            Found::History(history) => self.take_history(&history),
        }
        false
    }

    fn sort(&mut self, key: u8) -> bool {
        self.sort = match key {
            b'n' => TopGpuSort::Name,
            b'u' => TopGpuSort::Utilization,
            b'm' => TopGpuSort::Memory,
            _ => return false,
        };
        true
    }

    fn page(&self, columns: usize) -> Page {
        let (told, all) = top_gpus::told(&self.cards);
        let style = Style { sort: self.sort, width: Some(columns), headers: true, live: true };
        Page {
            head: format!("GPUs of project {}, told by {told} of {all}", self.client.project()),
            keys: "q ends, sort by: n name, u utilisation, m memory",
            table: match all {
                0 => self.view.nothing().to_owned(),
                _ => top_gpus::table(&self.cards, style),
            },
            below: top_gpus::troubles(&self.cards).into_iter().chain(self.events.iter().cloned()).collect(),
        }
    }

    fn address(&self) -> &'a str {
        self.client.gpu_address()
    }
}
