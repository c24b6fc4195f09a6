//! Images that are fetched ahead, before an instance here uses them: which one is next, and what is told of each.
//!
//! A machine without I/O, as `memory` is of instances: it is told what is wanted and how attempts ended, with the time. One image at a time is fetched, and that one
//! gives way to what instances wait for; how is the loop's (`reconcile/ahead.rs`). Nothing of it is kept on disk but what is wanted: whether an image is here is
//! asked anew after a restart.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use skerry_model::SecretName;
use skerry_proto::types::v1 as types;
use skerry_sync::MonoTime;

use crate::memory::{Jitter, retry_wait};
use crate::runtime::RuntimeError;
use crate::secrets::SealedContent;

/// One that is here is looked for again after this time: other hands may remove it.
const LOOK_AGAIN: Duration = Duration::from_secs(600);
/// How often a fetch gives way before it goes on beside others: what fails over and over must not hold it up for ever.
const YIELDS_MAX: u32 = 3;

/// An image that shall be here.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Image {
    /// Its reference.
    pub image: String,
    /// Its `os/architecture[/variant]`; absent: the machine's.
    pub platform: Option<String>,
    /// The secret with credentials for its registry, sealed, if it came. Absent: the machine's own are used.
    pub credentials: Option<(SecretName, Option<Arc<SealedContent>>)>,
    /// Raised when somebody asks for it again.
    pub round: u32,
}

/// Where an image stands.
#[derive(Debug, Clone, PartialEq, Eq)]
enum State {
    Waiting,
    /// It was here when it was last looked for.
    Present {
        at: MonoTime,
    },
    Failed {
        error: RuntimeError,
        until: MonoTime,
        failures: u32,
    },
}

#[derive(Debug)]
struct Entry {
    wanted: Arc<Image>,
    state: State,
    /// How often its fetch gave way since it last ended.
    yields: u32,
}

/// All of them.
#[derive(Debug, Default)]
pub(crate) struct Ahead {
    /// By id.
    entries: BTreeMap<String, Entry>,
    /// The one that is being fetched, and what is said of that; empty until there is something.
    running: Option<(String, String)>,
}

/// What came of a fetch that is worth an event.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum News {
    /// Nothing.
    None,
    /// It is here now, and was not known to be.
    Present,
    /// It failed for something new.
    Failed(RuntimeError),
}

impl Ahead {
    /// Takes over what is wanted. Answers whether the fetch that is under way is of something else and has to end.
    pub(crate) fn want(&mut self, images: &BTreeMap<String, Arc<Image>>) -> bool {
        self.entries.retain(|id, _| images.contains_key(id));
        for (id, wanted) in images {
            match self.entries.get_mut(id) {
                Some(entry) if entry.wanted == *wanted => {}
                Some(entry) => {
                    // What is here is not fetched with other credentials.
                    if matches!(entry.state, State::Failed { .. }) {
                        entry.state = State::Waiting;
                    }
                    entry.wanted = Arc::clone(wanted);
                    entry.yields = 0;
                }
                None => {
                    let entry = Entry { wanted: Arc::clone(wanted), state: State::Waiting, yields: 0 };
                    self.entries.insert(id.clone(), entry);
                }
            }
        }
        self.running.as_ref().is_some_and(|(id, _)| !self.entries.contains_key(id))
    }

    /// Whether one is being fetched.
    pub(crate) fn is_fetching(&self) -> bool {
        self.running.is_some()
    }

    /// Whether the fetch that is under way ends for one that an instance waits for.
    pub(crate) fn gives_way(&self) -> bool {
        let running = self.running.as_ref().and_then(|(id, _)| self.entries.get(id));
        running.is_some_and(|entry| entry.yields < YIELDS_MAX)
    }

    /// When there is next something to do, if ever by itself; not while one is being fetched.
    pub(crate) fn due(&self) -> Option<MonoTime> {
        if self.is_fetching() {
            return None;
        }
        self.entries.values().map(Entry::due).min()
    }

    /// Begins with the one that is due for longest; of several that of the first id.
    pub(crate) fn begin(&mut self, now: MonoTime) -> Option<(String, Arc<Image>)> {
        if self.is_fetching() {
            return None;
        }
        let (id, entry) = self.entries.iter().min_by_key(|(_, entry)| entry.due())?;
        if entry.due() > now {
            return None;
        }
        self.running = Some((id.clone(), String::new()));
        Some((id.clone(), Arc::clone(&entry.wanted)))
    }

    /// What the fetch that is under way says.
    pub(crate) fn say(&mut self, message: String) {
        if let Some((_, said)) = &mut self.running {
            *said = message;
        }
    }

    /// The fetch of `image` has ended; nothing: it was given up.
    pub(crate) fn ended(
        &mut self,
        image: &Image,
        result: Option<Result<(), RuntimeError>>,
        now: MonoTime,
        jitter: Jitter,
    ) -> News {
        let Some((id, _)) = self.running.take() else { return News::None };
        // What came of something else than is wanted by now says nothing.
        let Some(entry) = self.entries.get_mut(&id).filter(|entry| *entry.wanted == *image) else {
            return News::None;
        };
        match result {
            None => {
                entry.yields = entry.yields.saturating_add(1);
                News::None
            }
            Some(Ok(())) => {
                entry.yields = 0;
                let was_here = matches!(entry.state, State::Present { .. });
                entry.state = State::Present { at: now };
                if was_here { News::None } else { News::Present }
            }
            Some(Err(error)) => {
                entry.yields = 0;
                let failures = match &entry.state {
                    // Who does not answer does not say that it is gone.
                    State::Present { .. } if error.reason == "RuntimeUnavailable" => {
                        entry.state = State::Present { at: now };
                        return News::None;
                    }
                    State::Failed { failures, .. } => *failures,
                    State::Waiting | State::Present { .. } => 0,
                };
                let is_same = matches!(&entry.state, State::Failed { error: before, .. } if *before == error);
                let until = now + retry_wait(&error, failures, jitter);
                entry.state =
                    State::Failed { error: error.clone(), until, failures: failures.saturating_add(1) };
                if is_same { News::None } else { News::Failed(error) }
            }
        }
    }

    /// What is told of each, by id.
    pub(crate) fn statuses(&self) -> BTreeMap<String, types::ImageStatus> {
        let status = |(id, entry): (&String, &Entry)| {
            let said = self.running.as_ref().filter(|(running, _)| running == id).map(|(_, said)| said);
            let mut status = types::ImageStatus {
                id: id.clone(),
                image: entry.wanted.image.clone(),
                platform: entry.wanted.platform.clone().unwrap_or_default(),
                round: entry.wanted.round,
                ..types::ImageStatus::default()
            };
            match (&entry.state, said) {
                (State::Present { .. }, _) => status.set_state(types::ImageState::Present),
                // What is here already is found so before anything is said.
                (State::Waiting, Some(said)) if !said.is_empty() => {
                    status.set_state(types::ImageState::Fetching);
                    status.message.clone_from(said);
                }
                (State::Waiting, _) => status.set_state(types::ImageState::Waiting),
                (State::Failed { error, .. }, _) => {
                    status.set_state(types::ImageState::Failed);
                    error.reason.clone_into(&mut status.reason);
                    status.message.clone_from(&error.message);
                    status.lasting = !error.transient;
                }
            }
            (id.clone(), status)
        };
        self.entries.iter().map(status).collect()
    }
}

impl Entry {
    fn due(&self) -> MonoTime {
        match &self.state {
            State::Waiting => MonoTime::default(),
            State::Present { at } => *at + LOOK_AGAIN,
            State::Failed { until, .. } => *until,
        }
    }
}

#[cfg(test)]
mod tests {
    use skerry_proto::types::v1::ImageState;

    use super::*;

    fn image(name: &str, round: u32) -> Arc<Image> {
        Arc::new(Image { image: name.to_owned(), platform: None, credentials: None, round })
    }

    fn wanted(images: &[(&str, u32)]) -> BTreeMap<String, Arc<Image>> {
        images.iter().map(|(name, round)| ((*name).to_owned(), image(name, *round))).collect()
    }

    fn at(seconds: u64) -> MonoTime {
        MonoTime::from_origin(Duration::from_secs(seconds))
    }

    fn error(reason: &'static str, transient: bool) -> RuntimeError {
        RuntimeError { reason, message: "no".to_owned(), transient }
    }

    fn state(ahead: &Ahead, id: &str) -> (ImageState, u32) {
        let status = &ahead.statuses()[id];
        (status.state(), status.round)
    }

    #[test]
    fn one_at_a_time_is_fetched_and_what_is_here_is_looked_for_again() {
        let mut ahead = Ahead::default();
        assert!(!ahead.want(&wanted(&[("a", 1), ("b", 1)])));
        let (id, a) = ahead.begin(at(1)).unwrap();
        assert_eq!(id, "a");
        assert_eq!((ahead.begin(at(1)), ahead.due()), (None, None));
        assert_eq!(state(&ahead, "a").0, ImageState::Waiting, "nothing is said yet");
        ahead.say("12 %".to_owned());
        assert_eq!(state(&ahead, "a").0, ImageState::Fetching);
        assert_eq!(ahead.ended(&a, Some(Ok(())), at(2), 0.0), News::Present);
        assert_eq!(state(&ahead, "a").0, ImageState::Present);
        let (id, b) = ahead.begin(at(2)).unwrap();
        assert_eq!(id, "b");
        ahead.ended(&b, Some(Ok(())), at(3), 0.0);
        assert_eq!((ahead.begin(at(3)), ahead.due()), (None, Some(at(2) + LOOK_AGAIN)));
        // Docker is away then, which says nothing of the image.
        let (_, a) = ahead.begin(at(700)).unwrap();
        ahead.say("pulling".to_owned());
        assert_eq!(state(&ahead, "a").0, ImageState::Present);
        assert_eq!(ahead.ended(&a, Some(Err(error("RuntimeUnavailable", true))), at(701), 0.0), News::None);
        assert_eq!(state(&ahead, "a").0, ImageState::Present);
    }

    #[test]
    fn what_fails_is_tried_again_ever_later_and_at_once_when_somebody_asks() {
        let mut ahead = Ahead::default();
        ahead.want(&wanted(&[("a", 1)]));
        let mut now = at(0);
        let mut waits = Vec::new();
        for n in 0..8 {
            let (_, a) = ahead.begin(now).unwrap();
            let lasting = error("ImagePullFailed", false);
            let news = ahead.ended(&a, Some(Err(lasting.clone())), now, 0.0);
            assert_eq!(news, if n == 0 { News::Failed(lasting) } else { News::None });
            let due = ahead.due().unwrap();
            assert_eq!(ahead.begin(now), None);
            waits.push(due.saturating_since(now).as_secs());
            now = due;
        }
        assert_eq!(waits, [10, 20, 40, 80, 160, 300, 300, 300]);
        let status = &ahead.statuses()["a"];
        assert_eq!((status.state(), status.reason.as_str()), (ImageState::Failed, "ImagePullFailed"));
        assert!(status.lasting);
        ahead.want(&wanted(&[("a", 2)]));
        assert_eq!((state(&ahead, "a"), ahead.due()), ((ImageState::Waiting, 2), Some(at(0))));
    }

    #[test]
    fn it_gives_way_a_few_times_and_then_goes_on() {
        let mut ahead = Ahead::default();
        ahead.want(&wanted(&[("a", 1)]));
        for _ in 0..YIELDS_MAX {
            let (_, a) = ahead.begin(at(1)).unwrap();
            assert!(ahead.gives_way());
            ahead.ended(&a, None, at(1), 0.0);
        }
        let (_, a) = ahead.begin(at(1)).unwrap();
        assert!(!ahead.gives_way());
        ahead.ended(&a, Some(Ok(())), at(1), 0.0);
        ahead.begin(at(1000)).unwrap();
        assert!(ahead.gives_way());
    }

    #[test]
    fn what_is_not_wanted_any_more_ends_and_leaves_nothing() {
        let mut ahead = Ahead::default();
        ahead.want(&wanted(&[("a", 1)]));
        let (_, a) = ahead.begin(at(1)).unwrap();
        assert!(ahead.want(&wanted(&[("b", 1)])), "its fetch has to end");
        assert_eq!(ahead.statuses().len(), 1);
        assert_eq!(ahead.ended(&a, Some(Err(error("ImagePullFailed", false))), at(2), 0.0), News::None);
        assert_eq!(ahead.begin(at(2)).unwrap().0, "b");
        // What was asked for anew while it was under way is tried anew.
        ahead.want(&wanted(&[("b", 2)]));
        assert_eq!(ahead.ended(&image("b", 1), Some(Err(error("X", false))), at(2), 0.0), News::None);
        assert_eq!(state(&ahead, "b"), (ImageState::Waiting, 2));
    }
}
