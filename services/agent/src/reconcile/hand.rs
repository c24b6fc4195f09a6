//! What people ask for by hand: taken in, brought about by plans like all else, and answered when it is so, or with the reason why it is not.

use std::collections::BTreeMap;

use skerry_model::InstanceName;
use skerry_proto::types::v1::InstancePhase as Phase;
use skerry_sync::MonoTime;

use super::Reconciler;
use crate::hand::{Answer, Ask, Done, Hand, HandAct, News, Pending, failed};
use crate::plan::Hold;
use crate::runtime::RuntimeError;
use crate::status::STOPPED_BY_HAND;
use crate::world::is_running;

impl Reconciler {
    pub(super) fn take_hand(&mut self, news: News) {
        match news {
            News::Asked(ask) => self.take_ask(ask),
            News::Written => {}
        }
    }

    fn take_ask(&mut self, ask: Ask) {
        let name = &ask.instance;
        if let Err(why) = self.may_act(name) {
            let _ = ask.answer.send(Err(why));
            return;
        }
        let (runs, is_down) = (self.runs(name), self.is_down(name));
        let hand = self.desk.hands().get(name).copied();
        let is_busy = self.memories.get(name).is_some_and(|memory| memory.busy.is_some());
        let hand = match ask.act {
            HandAct::Stop if hand == Some(Hand::Stopped) && is_down && !is_busy => None,
            HandAct::Start if hand.is_none() && runs && !is_busy => None,
            HandAct::Stop => Some(Hand::Stopped),
            // One that is being made may run in a moment.
            HandAct::Restart if runs || is_busy => Some(Hand::Halting),
            HandAct::Start | HandAct::Restart => Some(Hand::Due),
        };
        let Some(hand) = hand else {
            let _ = ask.answer.send(Ok(Done::Unchanged));
            return;
        };
        let now = self.clock.mono();
        if hand != Hand::Stopped {
            self.memories.entry(name.clone()).or_default().begin_anew();
        }
        tracing::info!(instance = %name, act = ?ask.act, "asked for by hand");
        let until = now + ask.patience;
        self.desk.put(ask, hand, until);
    }

    /// Why nothing can be done by hand with an instance.
    fn may_act(&self, name: &InstanceName) -> Result<(), RuntimeError> {
        let Some(spec) = self.desired.instances.get(name) else {
            let why = match self.desired.blocked.get(name) {
                Some(blocked) => format!("{name} cannot be run as it was sent: {}", blocked.message),
                None => format!("{name} is not wanted on this node, or not yet"),
            };
            return Err(failed("NotHere", why));
        };
        if spec.service.is_job() {
            let message = format!(
                "{name} is of a job, which ends by itself: `skerry restart app/{} {}` runs it anew, and a new revision without it, or one that is suspended, ends it",
                name.app, name.service
            );
            return Err(failed("JobInstance", message));
        }
        Ok(())
    }

    /// Whether a copy of it runs, as far as is seen.
    fn runs(&self, name: &InstanceName) -> bool {
        let copies = |view: &crate::world::View| {
            [view.instances.get(name), view.beside.get(name)].into_iter().flatten().any(is_running)
        };
        self.world.values().any(copies)
    }

    /// Whether it is known that no copy of it runs.
    fn is_down(&self, name: &InstanceName) -> bool {
        let kind = self.desired.instances.get(name).map(|spec| crate::world::kind_of(spec));
        let is_seen = kind.is_none_or(|kind| self.world.get(&kind).is_some_and(|view| view.available));
        is_seen && !self.runs(name)
    }

    /// Brings words further, as far as what is seen allows.
    pub(super) fn step_hands(&mut self) {
        if let Some(damage) = self.desk.take_damage() {
            let message = format!("{damage}; what was stopped by hand on this node runs again");
            self.tell_node_event("HandDamaged", message, true);
        }
        if self.desired.authoritative {
            let desired = &self.desired;
            self.desk.retain(|name| desired.wants(name));
        }
        let hands: Vec<(InstanceName, Hand)> =
            self.desk.hands().iter().map(|(name, hand)| (name.clone(), *hand)).collect();
        for (name, hand) in hands {
            if self.memories.get(&name).is_some_and(|memory| memory.busy.is_some()) {
                continue;
            }
            match hand {
                Hand::Stopped => {}
                Hand::Halting => {
                    if self.is_down(&name) {
                        self.desk.halted(&name);
                    }
                }
                // As an agent finds it that was started anew meanwhile.
                Hand::Due => {
                    if self.runs_as_wanted(&name) {
                        self.desk.started(&name);
                    }
                }
            }
        }
    }

    fn runs_as_wanted(&self, name: &InstanceName) -> bool {
        let Some(spec) = self.desired.instances.get(name) else { return false };
        let view = self.world.get(&crate::world::kind_of(spec)).filter(|view| view.available);
        let observed = view.and_then(|view| view.instances.get(name));
        observed.is_some_and(|seen| is_running(seen) && seen.fingerprint == spec.fingerprint)
    }

    /// The outcomes that are known by now, with an event of each.
    pub(super) fn hand_outcomes(
        &mut self,
        holds: &BTreeMap<InstanceName, Hold>,
        now: MonoTime,
    ) -> Vec<(Pending, Answer)> {
        let known: BTreeMap<InstanceName, Answer> = self
            .desk
            .pending()
            .iter()
            .filter_map(|pending| Some((pending.instance.clone(), self.outcome(pending, holds, now)?)))
            .collect();
        let mut outcomes = Vec::new();
        for pending in self.desk.take_pending(|one| known.contains_key(&one.instance)) {
            let Some(outcome) = known.get(&pending.instance) else { continue };
            if outcome == &Ok(Done::Changed) {
                let (reason, message) = match pending.act {
                    HandAct::Restart => ("RestartedByHand", "somebody started it anew"),
                    HandAct::Stop => (STOPPED_BY_HAND, "somebody stopped it"),
                    HandAct::Start => ("StartedByHand", "somebody started it"),
                };
                self.instance_event(&pending.instance, reason, message.to_owned(), false);
            }
            outcomes.push((pending, outcome.clone()));
        }
        outcomes
    }

    /// Answers. Says when the next one has waited for long enough.
    pub(super) fn answer_hands(&self, outcomes: Vec<(Pending, Answer)>) -> Option<MonoTime> {
        for (pending, outcome) in outcomes {
            // Nobody may be there any more.
            let _ = pending.answer.send(outcome);
        }
        self.desk.pending().iter().map(|pending| pending.until).min()
    }

    fn outcome(
        &self,
        pending: &Pending,
        holds: &BTreeMap<InstanceName, Hold>,
        now: MonoTime,
    ) -> Option<Answer> {
        let name = &pending.instance;
        if let Err(why) = self.may_act(name) {
            return Some(Err(why));
        }
        let blank = crate::memory::Memory::default();
        let memory = self.memories.get(name).unwrap_or(&blank);
        let is_fetched = memory.fetch.is_some() && pending.act != HandAct::Stop;
        let is_under_way = memory.busy.is_some() || is_fetched || !self.desk.is_heard(pending);
        let hand = self.desk.hands().get(name);
        let status = || self.status(name, holds.get(name));
        if !is_under_way {
            let stop_failed = memory.error(None).filter(|_| hand.is_some_and(|hand| hand.is_halt()));
            if let Some(error) = stop_failed {
                return Some(Err(error.clone()));
            }
            match pending.act {
                // As after a start of the agent, when it was not seen yet that it is so.
                HandAct::Stop if self.is_down(name) && pending.is_again => return Some(Ok(Done::Unchanged)),
                HandAct::Stop if self.is_down(name) => return Some(Ok(Done::Changed)),
                HandAct::Stop => {}
                HandAct::Start | HandAct::Restart if hand.is_none() && self.runs_as_wanted(name) => {
                    return Some(Ok(Done::Changed));
                }
                HandAct::Start | HandAct::Restart => {
                    let status = status();
                    // A word that is done, and what was started does not run: it ended, or its end is on its way.
                    let has_ended =
                        hand.is_none() && matches!(status.phase(), Phase::Backoff | Phase::Completed);
                    let is_ill = hand != Some(&Hand::Halting) && status.phase() == Phase::Failed;
                    if has_ended || is_ill {
                        let message = format!("{}: {}", status.reason, status.message);
                        return Some(Err(failed("NotRunning", message)));
                    }
                }
            }
        }
        (now >= pending.until).then(|| {
            let (status, what) = (
                status(),
                match pending.act {
                    HandAct::Stop => "it is not stopped yet",
                    HandAct::Start | HandAct::Restart => "it does not run yet",
                },
            );
            let why = if status.reason.is_empty() {
                String::new()
            } else {
                format!(" ({}: {})", status.reason, status.message)
            };
            Err(failed("NotYet", format!("{what}{why}; the agent goes on with it")))
        })
    }
}
