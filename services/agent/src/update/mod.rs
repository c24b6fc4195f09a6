//! Updates of apps, each as one thing: what was found good, and what is taken back while no control plane is there to decide.
//!
//! Stands between what came and what is made of it: of an app whose update was taken back, the last good revision is what is wanted, whole. When that
//! is so `trial` decides, purely; how an app is says `health`; what is known of it outlives the agent and the machine (`book`). The specs of good
//! revisions are kept by `good`. See docs/adr/0022-node-rollback.md.
//!
//! Laws (`tests`): of an app that came to rest nothing runs but one revision; what was taken back never runs again while it is what is wanted; what
//! was found good is not taken back; after a crash at any point it ends the same way.

mod book;
mod content;
mod health;
#[cfg(test)]
mod tests;
mod trial;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::SystemTime;

use skerry_model::app::ROLLED_BACK;
use skerry_model::quantity::format_duration;
use skerry_model::time::to_timestamp;
use skerry_model::{AppName, InstanceName, NodeRef};
use skerry_sync::MonoTime;

use self::book::{Book, Entries, Entry, Rejected};
pub(crate) use self::content::{Content, Contents};
use self::trial::{Look, Trial, Verdict};
use crate::desired::{Blocked, Desired, InstanceSpec, Whole};
use crate::hand::Hands;
use crate::health::HealthState;
use crate::jobs::{Gate, Happening};
use crate::memory::Memory;
use crate::plan::is_missing;
use crate::state::Directory;
use crate::world::World;

/// What is seen, and when.
#[derive(Clone, Copy)]
pub(crate) struct Seen<'a> {
    /// As it came.
    pub(crate) wanted: &'a Arc<Desired>,
    pub(crate) world: &'a World,
    pub(crate) memories: &'a BTreeMap<InstanceName, Memory>,
    pub(crate) hands: &'a Hands,
    pub(crate) gates: &'a BTreeMap<InstanceName, Gate>,
    pub(crate) health: &'a BTreeMap<InstanceName, HealthState>,
    /// Whether a session is open.
    pub(crate) link: bool,
    pub(crate) now: MonoTime,
    pub(crate) wall: SystemTime,
}

/// What comes of a look.
#[derive(Debug, Default)]
pub(crate) struct Step {
    /// What is to run.
    pub(crate) desired: Arc<Desired>,
    /// When to look again, if nothing happens before.
    pub(crate) wake: Option<MonoTime>,
    /// What is worth an event.
    pub(crate) happenings: Vec<Happening>,
}

/// An app of which the last good revision is run instead of the wanted one.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct TakenBack {
    /// The revision that was taken back.
    pub(crate) rejected: String,
    /// The same in a sentence, for people.
    pub(crate) message: String,
    /// Wanted, and not run: what is run has none of it.
    pub(crate) withheld: BTreeSet<InstanceName>,
    /// What is to be run instead is lost: what runs is left alone.
    pub(crate) is_lost: bool,
}

/// What becomes of an app that is not simply run as it came.
#[derive(Debug, Clone, PartialEq)]
enum Course {
    /// Its update is on trial.
    Trial,
    /// The update was taken back.
    TakenBack(Box<Rejected>),
}

/// What was wanted, what became of it, and what is to run then.
type Shaped = (Arc<Desired>, BTreeMap<AppName, Course>, Arc<Desired>);

/// All updates.
#[derive(Default)]
pub(crate) struct Updates {
    node: String,
    entries: Entries,
    book: Book,
    trials: BTreeMap<AppName, Trial>,
    /// Apps of which it was told in this life of the agent that they were taken back: an event may go with the agent that raised it.
    told: BTreeSet<AppName>,
    /// What was wrong with the file, until it was told.
    damage: Option<String>,
    /// What the last look came to, and of what: the same comes to the same.
    shaped: Option<Shaped>,
}

impl Updates {
    /// Goes on from what an earlier process of the agent knew, as this node.
    pub(crate) fn open(disk: Directory, node: &NodeRef) -> Self {
        let node = node.to_string();
        let (book, damage) = Book::open(disk, &node);
        if let Some(damage) = &damage {
            tracing::error!(damage, "what is known of updates is damaged; it is forgotten");
        }
        Self { node, entries: book.kept().clone(), book, damage, ..Self::default() }
    }

    /// What was found good, where that was written since it was last asked for.
    pub(crate) fn take_good(&mut self) -> Option<Contents> {
        self.book.take_news().then(|| self.good())
    }

    /// What was found good, as far as that is on disk.
    pub(crate) fn good(&self) -> Contents {
        let good = |(app, entry): (&AppName, &Entry)| Some((app.clone(), entry.good.clone()?));
        self.book.kept().iter().filter_map(good).collect()
    }

    /// What was wrong with the file, once.
    pub(crate) fn take_damage(&mut self) -> Option<String> {
        self.damage.take()
    }

    /// When a write has ended; never, if there is none. May be dropped and called again.
    pub(crate) async fn written(&mut self) {
        self.book.written().await;
    }

    /// Writes what is not written yet.
    pub(crate) async fn finish(&mut self) {
        self.book.finish(&self.entries).await;
    }

    /// Takes in what is seen, and decides.
    pub(crate) fn step(&mut self, seen: Seen<'_>) -> Step {
        let mut step = Step::default();
        if seen.wanted.authoritative {
            self.forget(seen.wanted);
            for (app, here) in &seen.wanted.apps {
                self.step_app(seen, app, here, &mut step);
            }
        }
        step.wake = step.wake.into_iter().chain(self.book.write(&self.entries, seen.now)).min();
        step.desired = self.shape(seen.wanted);
        step
    }

    /// Forgets apps that nobody wants any more.
    fn forget(&mut self, wanted: &Desired) {
        self.entries.retain(|app, _| wanted.apps.contains_key(app));
        self.trials.retain(|app, _| wanted.apps.contains_key(app));
        self.told.retain(|app| wanted.apps.contains_key(app));
    }

    fn step_app(&mut self, seen: Seen<'_>, app: &AppName, here: &Whole, step: &mut Step) {
        let blank = Entry { app: app.to_string(), node: self.node.clone(), ..Entry::default() };
        let entry = self.entries.get(app).unwrap_or(&blank);
        if let Some(rejected) = entry.rejected.as_ref().filter(|one| one.content.is_same(&here.content)) {
            self.trials.remove(app);
            if self.told.insert(app.clone())
                && let Ok(instance) = InstanceName::parse(&rejected.instance)
            {
                let message = sentence(rejected);
                step.happenings.push(Happening { instance, reason: ROLLED_BACK, message, warning: true });
            }
            return;
        }
        self.told.remove(app);
        if entry.good.as_ref().is_some_and(|good| good.is_same(&here.content)) {
            self.trials.remove(app);
            // What came with an instance is no change now, and another content of it will be one.
            if entry.rejected.is_some() || entry.good.as_ref() != Some(&here.content) {
                let good = Some(here.content.clone());
                self.entries.insert(app.clone(), Entry { rejected: None, good, ..entry.clone() });
            }
            return;
        }
        // What was rejected is not what is wanted: whoever sent this knows what happened, or need not.
        let entry = Entry { rejected: None, ..entry.clone() };
        let begin = || Trial::new(here.content.clone(), seen.now);
        let trial = self.trials.entry(app.clone()).or_insert_with(begin);
        if !trial.content.is_same(&here.content) {
            *trial = begin();
        }
        let verdict = trial.look(&here.bounds, look(seen, app), seen.now);
        if matches!(verdict, Verdict::Good | Verdict::TakeBack(..)) {
            self.trials.remove(app);
        }
        let limit = format_duration(here.bounds.progress_deadline);
        let mut tell = |instance, reason, message| {
            step.happenings.push(Happening { instance, reason, message, warning: true });
        };
        let entry = match verdict {
            Verdict::Wait(wake) => {
                step.wake = step.wake.into_iter().chain(wake).min();
                entry
            }
            Verdict::Overdue(instance, why) => {
                let message = format!(
                    "its update is not healthy after {limit}: {why}; what becomes of it the control plane decides"
                );
                tell(instance, "UpdateUnhealthy", message);
                entry
            }
            Verdict::Good => Entry { good: Some(here.content.clone()), ..entry },
            Verdict::TakeBack(instance, why) => {
                let good = seen.wanted.goods.get(app);
                let rejected = Rejected {
                    content: here.content.clone(),
                    runs: good.map(|bundle| bundle.content.clone()).unwrap_or_default(),
                    why: format!("not healthy after {limit} without a link: {instance}: {why}"),
                    time: Some(to_timestamp(seen.wall)),
                    instance: instance.to_string(),
                };
                tell(instance, ROLLED_BACK, sentence(&rejected));
                self.told.insert(app.clone());
                Entry { rejected: Some(rejected), ..entry }
            }
        };
        self.entries.insert(app.clone(), entry);
    }

    /// What becomes of each app that is not simply run as it came. Only what is on disk counts.
    fn courses(&self, wanted: &Desired) -> BTreeMap<AppName, Course> {
        let kept = self.book.kept();
        let course = |(app, here): (&AppName, &Whole)| {
            let entry = kept.get(app);
            let rejected = entry.and_then(|entry| entry.rejected.as_ref());
            if let Some(rejected) = rejected.filter(|rejected| rejected.content.is_same(&here.content)) {
                return Some((app.clone(), Course::TakenBack(Box::new(rejected.clone()))));
            }
            wanted.goods.contains_key(app).then(|| (app.clone(), Course::Trial))
        };
        wanted.apps.iter().filter_map(course).collect()
    }

    /// What is to run.
    fn shape(&mut self, wanted: &Arc<Desired>) -> Arc<Desired> {
        let courses = self.courses(wanted);
        if let Some((of, with, shaped)) = &self.shaped
            && Arc::ptr_eq(of, wanted)
            && *with == courses
        {
            return Arc::clone(shaped);
        }
        let mut shaped = Arc::clone(wanted);
        for (app, course) in &courses {
            let desired = Arc::make_mut(&mut shaped);
            match course {
                Course::Trial => keep_up(desired, app),
                Course::TakenBack(rejected) => take_back(desired, app, rejected),
            }
        }
        self.shaped = Some((Arc::clone(wanted), courses, Arc::clone(&shaped)));
        shaped
    }
}

/// How an app is whose update is on trial.
fn look(seen: Seen<'_>, app: &AppName) -> Look {
    // What is stopped by hand shows nothing of the update, and needs nothing.
    let goes_on = |name: &InstanceName| !seen.hands.get(name).is_some_and(|hand| hand.is_halt());
    let specs = seen.wanted.instances.values().filter(|spec| spec.name.app == *app).map(AsRef::as_ref);
    let is_all_stopped = specs.clone().count() > 0 && !specs.clone().any(|spec| goes_on(&spec.name));
    let specs = specs.filter(|spec: &&InstanceSpec| goes_on(&spec.name));
    let blocked = seen.wanted.blocked.iter().find(|(name, _)| name.app == *app);
    let is_here = |spec: &InstanceSpec| !is_missing(seen.world, seen.memories, seen.gates, spec);
    Look {
        staged: blocked.is_none() && specs.clone().all(is_here),
        shown: match blocked {
            Some((name, blocked)) => health::ill(name, &blocked.message),
            None if is_all_stopped => trial::Shown::Unseen,
            None => health::shown(seen, specs),
        },
        link: seen.link,
        can_go_back: seen.wanted.goods.contains_key(app),
    }
}

/// What was good is run where its successor cannot take its place yet, and needed as long as the trial lasts.
fn keep_up(desired: &mut Desired, app: &AppName) {
    let Some(bundle) = desired.goods.get(app).cloned() else { return };
    for (name, spec) in &bundle.instances {
        let is_wanted =
            desired.instances.get(name).is_some_and(|wanted| wanted.fingerprint == spec.fingerprint);
        if !is_wanted && !desired.formers.contains_key(name) {
            desired.formers.insert(name.clone(), Arc::clone(spec));
        }
    }
}

/// The last good revision is what is wanted, whole: also of services that the rejected one no longer has. An instance that went elsewhere
/// stays there. Where it is lost nothing is run anew, and what runs is left alone.
fn take_back(desired: &mut Desired, app: &AppName, rejected: &Rejected) {
    let of_app = |name: &InstanceName| name.app == *app;
    let services = desired.apps.get(app).map(|here| here.services.clone()).unwrap_or_default();
    let names = desired.instances.keys().chain(desired.blocked.keys());
    let wanted: BTreeSet<InstanceName> = names.filter(|name| of_app(name)).cloned().collect();
    desired.instances.retain(|name, _| !of_app(name));
    desired.blocked.retain(|name, _| !of_app(name));
    desired.formers.retain(|name, _| !of_app(name));
    let bundle = desired.goods.get(app).cloned();
    if let (Some(bundle), Some(here)) = (&bundle, desired.apps.get_mut(app)) {
        here.services = bundle.instances.keys().map(|name| name.service.clone()).collect();
    }
    let message = sentence(rejected);
    let mut withheld = BTreeSet::new();
    if let Some(bundle) = &bundle {
        let comes_back = |name: &InstanceName| wanted.contains(name) || !services.contains(&name.service);
        let back = bundle.instances.iter().filter(|(name, _)| comes_back(name));
        desired.instances.extend(back.map(|(name, spec)| (name.clone(), Arc::clone(spec))));
        withheld.extend(wanted.iter().filter(|name| !bundle.instances.contains_key(*name)).cloned());
    } else {
        let message = format!(
            "{message}; what ran before is lost, so that it cannot be started: restart the app to try it again"
        );
        let blocked =
            Blocked { revision: rejected.content.revision().to_owned(), reason: ROLLED_BACK, message };
        desired.blocked.extend(wanted.into_iter().map(|name| (name, blocked.clone())));
    }
    let rejected = rejected.content.revision().to_owned();
    desired
        .taken_back
        .insert(app.clone(), TakenBack { rejected, message, withheld, is_lost: bundle.is_none() });
}

/// What was taken back, what runs, and why, for people.
fn sentence(rejected: &Rejected) -> String {
    let Rejected { content, runs, why, .. } = rejected;
    let short = |content: &Content| content.revision().chars().take(12).collect::<String>();
    let (new, old) = (short(content), short(runs));
    if content.revisions == runs.revisions {
        return format!(
            "other configs or secrets of revision {new} were taken back here ({why}); it runs with the former ones"
        );
    }
    format!("revision {new} was taken back here ({why}); revision {old} runs")
}
