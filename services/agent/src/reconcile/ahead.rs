//! Fetches images ahead, in the background: one at a time, and behind what instances wait for. Which is next is `crate::ahead`'s.

use std::sync::Arc;
use std::time::Duration;

use skerry_sync::MonoTime;
use tokio::sync::watch;
use tokio::task::{JoinError, JoinSet};

use super::act::{PREPARE_DEADLINE, in_time};
use super::{Local, Reconciler};
use crate::ahead::{Ahead, Image, News};
use crate::clock::random_unit;
use crate::desired::Desired;
use crate::runtime::{Progress, Runtime, RuntimeError, RuntimeKind};

/// Between two looks whether instances have all that they wait for.
const BEHIND: Duration = Duration::from_secs(1);

/// What happens while it fetches.
pub(super) enum Happened {
    /// It says something.
    Said,
    /// It has ended; nothing: it was given up.
    Ended(Option<Result<(), RuntimeError>>),
}

/// Fetches.
pub(super) struct Fetcher {
    ahead: Ahead,
    /// What is being fetched.
    running: Option<Arc<Image>>,
    tasks: JoinSet<Result<(), RuntimeError>>,
    /// What the fetch says.
    saying: watch::Sender<Option<Progress>>,
    said: watch::Receiver<Option<Progress>>,
    /// As it was last told.
    told: std::collections::BTreeMap<String, skerry_proto::types::v1::ImageStatus>,
}

impl Default for Fetcher {
    fn default() -> Self {
        let (saying, said) = watch::channel(None);
        Self {
            ahead: Ahead::default(),
            running: None,
            tasks: JoinSet::new(),
            saying,
            said,
            told: std::collections::BTreeMap::new(),
        }
    }
}

impl Fetcher {
    /// There is a new desired state.
    pub(super) fn want(&mut self, desired: &Desired) {
        if self.ahead.want(&desired.images) {
            self.tasks.abort_all();
        }
    }

    /// What happens next.
    pub(super) async fn next(&mut self) -> Happened {
        tokio::select! {
            Some(joined) = self.tasks.join_next() => Happened::Ended(outcome(joined)),
            Ok(()) = self.said.changed() => Happened::Said,
            else => std::future::pending().await,
        }
    }

    fn begin(&mut self, docker: Option<Arc<dyn Runtime>>, now: MonoTime) {
        let Some((_, image)) = self.ahead.begin(now) else { return };
        self.saying.send_replace(None);
        self.said.mark_unchanged();
        self.running = Some(Arc::clone(&image));
        let saying = self.saying.clone();
        self.tasks.spawn(async move {
            let Some(docker) = docker else { return Err(no_docker()) };
            let sink = |progress: Progress| drop(saying.send_replace(Some(progress)));
            in_time(PREPARE_DEADLINE, "fetching the image", docker.fetch_image(&image, &sink)).await
        });
    }
}

fn outcome(joined: Result<Result<(), RuntimeError>, JoinError>) -> Option<Result<(), RuntimeError>> {
    match joined {
        Ok(result) => Some(result),
        Err(error) if error.is_panic() => {
            let message = "a defect of the agent's: see its log".to_owned();
            Some(Err(RuntimeError { reason: "Internal", message, transient: false }))
        }
        Err(_) => None,
    }
}

fn no_docker() -> RuntimeError {
    let message = "images are Docker's, and this agent runs without it (--no-docker)".to_owned();
    RuntimeError { reason: "RuntimeUnavailable", message, transient: false }
}

impl Reconciler {
    /// Goes on with what is fetched ahead; answers when there is more to do. Not before it was looked at what instances there are.
    pub(super) fn fetch_ahead(&mut self, now: MonoTime) -> Option<MonoTime> {
        if !self.looked {
            return None;
        }
        if self.acts.is_fetching() {
            if self.fetcher.ahead.gives_way() {
                self.fetcher.tasks.abort_all();
            }
            return self.fetcher.ahead.due().map(|due| due.max(now + BEHIND));
        }
        self.fetcher.begin(self.runtimes.get(&RuntimeKind::Docker).cloned(), now);
        self.fetcher.ahead.due()
    }

    /// Takes in what happened.
    pub(super) fn take_ahead(&mut self, happened: Happened) {
        let said = self.fetcher.said.borrow_and_update().clone();
        let result = match happened {
            Happened::Said => {
                if let Some(said) = said {
                    self.fetcher.ahead.say(said.message);
                }
                return;
            }
            Happened::Ended(result) => result,
        };
        let Some(image) = self.fetcher.running.take() else { return };
        let now = self.clock.mono();
        match self.fetcher.ahead.ended(&image, result, now, random_unit()) {
            News::None => {}
            News::Present => {
                // One that was here already was not fetched.
                if let Some(said) = said.filter(|said| said.reason == "Pulled") {
                    self.tell_node_event(
                        "ImageFetched",
                        format!("ahead of its use: {}", said.message),
                        false,
                    );
                }
            }
            News::Failed(error) => {
                let message = format!("fetching ahead: {}", error.message);
                self.tell_node_event(error.reason, message, true);
            }
        }
    }

    /// Tells what changed of images.
    pub(super) async fn tell_images(&mut self) {
        let now = self.fetcher.ahead.statuses();
        let before = std::mem::replace(&mut self.fetcher.told, now.clone());
        let mut news: Vec<Local> = before
            .keys()
            .filter(|id| !now.contains_key(*id))
            .map(|id| Local::ImageGone(id.clone()))
            .collect();
        let changed = now.into_iter().filter(|(id, status)| before.get(id) != Some(status));
        news.extend(changed.map(|(_, status)| Local::Image(Box::new(status))));
        for local in news {
            self.send(local).await;
        }
    }
}
