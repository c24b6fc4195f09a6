//! The trial of an update: whether it is good, or is to be taken back. Pure, of one app.
//!
//! Laws (tested in `tests`): a trial ends good once all has been healthy for the health window; it is taken back only without a link, only where
//! there is something to go back to, and only if it was not healthy after it had as much time without a link as the deadline says, counted from
//! when all that it needs was there. What nobody can see (a runtime that does not answer) uses no time up.

use std::collections::BTreeMap;
use std::time::{Duration, SystemTime};

use skerry_model::InstanceName;
use skerry_model::app::UpdateBounds;
use skerry_sync::MonoTime;

use super::Content;

/// All is healthy for at least so long before it counts as good: one look alone shows nothing that lasts.
const WINDOW_MIN: Duration = Duration::from_secs(1);

/// What identifies the copies that were seen: one that was started anew is another one.
pub(crate) type Signs = BTreeMap<InstanceName, (String, Option<SystemTime>)>;

/// How the app is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Shown {
    /// All that is wanted of it runs and is healthy.
    Healthy(Signs),
    /// Not all does.
    Ill {
        /// The first that does not.
        instance: InstanceName,
        /// What is the matter, for people.
        why: String,
    },
    /// A runtime that it needs does not answer, or all of it is stopped by hand.
    Unseen,
}

/// A trial, as this process of the agent knows it: after another start it begins anew.
#[derive(Debug, Clone)]
pub(crate) struct Trial {
    /// Of what.
    pub(crate) content: Content,
    /// All that it needs has been there.
    ready: bool,
    /// Since then, while it could be seen: all time, and that without a link.
    total: Duration,
    down: Duration,
    /// What the time since the last look counts as.
    counts: Counts,
    last: MonoTime,
    healthy: Option<(MonoTime, Signs)>,
    told: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Counts {
    Nothing,
    Linked,
    Down,
}

/// A look at it.
#[derive(Debug, Clone)]
pub(crate) struct Look {
    /// All that it needs is here.
    pub(crate) staged: bool,
    /// How it is.
    pub(crate) shown: Shown,
    /// A session is open.
    pub(crate) link: bool,
    /// There is something to go back to.
    pub(crate) can_go_back: bool,
}

/// What follows.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Verdict {
    /// Nothing yet. With when to look again, if nothing happens before.
    Wait(Option<MonoTime>),
    /// As before, and its time is over: that is worth saying, once. The control plane decides.
    Overdue(InstanceName, String),
    /// It is good.
    Good,
    /// It is taken back, for this instance was like that.
    TakeBack(InstanceName, String),
}

impl Trial {
    /// It begins.
    pub(crate) fn new(content: Content, now: MonoTime) -> Self {
        Self {
            content,
            ready: false,
            total: Duration::ZERO,
            down: Duration::ZERO,
            counts: Counts::Nothing,
            last: now,
            healthy: None,
            told: false,
        }
    }

    /// Takes a look in.
    pub(crate) fn look(&mut self, bounds: &UpdateBounds, look: Look, now: MonoTime) -> Verdict {
        let passed = now.saturating_since(std::mem::replace(&mut self.last, now));
        if self.counts != Counts::Nothing {
            self.total += passed;
        }
        if self.counts == Counts::Down {
            self.down += passed;
        }
        self.ready |= look.staged;
        self.counts = match (&look.shown, self.ready, look.link) {
            (Shown::Unseen, ..) | (_, false, _) => Counts::Nothing,
            (_, true, true) => Counts::Linked,
            (_, true, false) => Counts::Down,
        };
        match look.shown {
            Shown::Healthy(signs) => {
                let since = self.healthy.take().filter(|(_, seen)| *seen == signs).map(|(since, _)| since);
                let since = since.unwrap_or(now);
                self.healthy = Some((since, signs));
                let until = since + bounds.health_window.max(WINDOW_MIN);
                if until <= now { Verdict::Good } else { Verdict::Wait(Some(until)) }
            }
            Shown::Unseen => {
                self.healthy = None;
                Verdict::Wait(None)
            }
            Shown::Ill { instance, why } => {
                self.healthy = None;
                let may = look.can_go_back && !bounds.stays;
                let deadline = bounds.progress_deadline;
                match self.counts {
                    Counts::Down if may && self.down >= deadline => Verdict::TakeBack(instance, why),
                    Counts::Down if may => Verdict::Wait(Some(now + deadline.saturating_sub(self.down))),
                    Counts::Linked if look.can_go_back && !self.told => {
                        self.told = self.total >= deadline;
                        if self.told {
                            return Verdict::Overdue(instance, why);
                        }
                        Verdict::Wait(Some(now + deadline.saturating_sub(self.total)))
                    }
                    Counts::Nothing | Counts::Linked | Counts::Down => Verdict::Wait(None),
                }
            }
        }
    }
}
