//! One step of a rollout: what to write next, and when to look again.

use std::time::{Duration, SystemTime};

use skerry_model::ContentHash;
use skerry_model::app::{BATCH_CLUSTERS_MAX, OnFailure, RolloutStrategy};
use skerry_model::quantity::format_duration;

use crate::change::back;
use crate::{Cluster, MOVE_CLUSTERS_MAX, Move, Phase, Reason, Rollout, Shown};

/// What comes next.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Step {
    /// The rollout afterwards; the same as before where nothing is to be written.
    pub rollout: Rollout,
    /// Moves to be written with it: the last of them is `rollout.last_move`.
    pub moves: Vec<Move>,
    /// The new revision failed: with this the former one becomes the current one again.
    pub rejects: bool,
    /// When to look again at the latest. Absent: when something changes.
    pub wait: Option<Duration>,
}

/// The next step of a rollout whose clusters are as they show themselves.
pub fn step(strategy: &RolloutStrategy, rollout: &Rollout, clusters: &[Cluster], now: SystemTime) -> Step {
    let fleet = Fleet::of(strategy, rollout.target(), clusters);
    let next = Next { strategy, rollout, fleet, now };
    match rollout.phase {
        Phase::Progressing => next.forward(),
        Phase::RollingBack => next.backward(),
        Phase::Done if !rollout.is_at_rest() => next.stragglers(),
        Phase::Paused | Phase::Done | Phase::RolledBack => next.stay(None),
    }
}

/// The clusters, sorted out.
pub(crate) struct Fleet<'a> {
    pub(crate) total: usize,
    /// Connected.
    pub(crate) present: usize,
    /// Connected and not healthy, whatever they have.
    pub(crate) disrupted: Vec<&'a Cluster>,
    /// Have what they shall have, and are not healthy.
    pub(crate) failing: Vec<&'a Cluster>,
    /// Have something else: the canary clusters first, then by name.
    pub(crate) open: Vec<&'a Cluster>,
    /// How many may be disrupted at once.
    pub(crate) budget: usize,
    /// How many may be in a batch.
    batch: usize,
}

impl<'a> Fleet<'a> {
    pub(crate) fn of(strategy: &RolloutStrategy, target: ContentHash, clusters: &'a [Cluster]) -> Self {
        let (mut disrupted, mut failing, mut open) = (Vec::new(), Vec::new(), Vec::new());
        let mut present = 0;
        for cluster in clusters {
            let unhealthy = cluster.shown.is_ill();
            present += usize::from(cluster.shown != Shown::Away);
            if unhealthy {
                disrupted.push(cluster);
            }
            if cluster.at != target {
                open.push(cluster);
            } else if unhealthy {
                failing.push(cluster);
            }
        }
        open.sort_by_key(|cluster| (!cluster.is_canary, &cluster.name));
        let total = clusters.len();
        Self {
            total,
            present,
            disrupted,
            failing,
            open,
            budget: strategy.max_unavailable.at_least_one_of(total),
            batch: strategy.batch_size.at_least_one_of(total).min(BATCH_CLUSTERS_MAX),
        }
    }

    /// Those of `from` that may be changed now, at most `count`. One that is not healthy as it is is disrupted no more than it was.
    fn pick<'c>(&self, from: impl Iterator<Item = &'c Cluster>, count: usize) -> Vec<&'c Cluster> {
        let mut room = self.budget.saturating_sub(self.disrupted.len());
        let fits = from.filter(|cluster| match cluster.shown {
            Shown::Away | Shown::Unhealthy { .. } | Shown::TakenBack { .. } => true,
            Shown::Healthy if room > 0 => {
                room -= 1;
                true
            }
            Shown::Healthy => false,
        });
        fits.take(count).collect()
    }
}

/// The first of some clusters with what is the matter with it, and how many more there are, for people.
pub(crate) fn first_of(clusters: &[&Cluster]) -> String {
    let Some(first) = clusters.first() else { return "none".to_owned() };
    let why = match &first.shown {
        Shown::Unhealthy { why } | Shown::TakenBack { why } => why.as_str(),
        Shown::Away | Shown::Healthy => "",
    };
    match clusters.len() - 1 {
        0 => format!("{}: {why}", first.name),
        more => format!("{} ({more} more): {why}", first.name),
    }
}

struct Next<'a> {
    strategy: &'a RolloutStrategy,
    rollout: &'a Rollout,
    fleet: Fleet<'a>,
    now: SystemTime,
}

impl Next<'_> {
    fn stay(&self, wait: Option<Duration>) -> Step {
        Self::becomes(self.rollout.clone(), wait)
    }

    fn becomes(rollout: Rollout, wait: Option<Duration>) -> Step {
        Step { rollout, moves: Vec::new(), rejects: false, wait }
    }

    /// How much of `time` is left since a moment. A clock that went back lets it begin anew.
    fn left(&self, since: SystemTime, time: Duration) -> Duration {
        time.saturating_sub(self.now.duration_since(since).unwrap_or_default())
    }

    fn forward(&self) -> Step {
        let Self { strategy, rollout, fleet, now } = self;
        let left = self.left(rollout.batch_start, strategy.progress_deadline);
        let tolerated = strategy.max_failures.at_most_of(fleet.total);
        let late = left.is_zero();
        let borne = late && fleet.failing.len() <= tolerated;
        let is_taken_back = |cluster: &&Cluster| matches!(cluster.shown, Shown::TakenBack { .. });
        let taken_back: Vec<&Cluster> = fleet.failing.iter().copied().filter(is_taken_back).collect();
        if taken_back.len() > tolerated {
            return self.fails(Reason::TakenBack, format!("taken back by {}", first_of(&taken_back)));
        }
        if !fleet.failing.is_empty() && !borne {
            if late {
                let limit = format_duration(strategy.progress_deadline);
                let message = format!("not healthy after {limit}: {}", first_of(&fleet.failing));
                return self.fails(Reason::ProgressDeadlineExceeded, message);
            }
            return Self::becomes(Rollout { healthy: None, ..(*rollout).clone() }, Some(left));
        }
        let since = rollout.healthy.unwrap_or(*now);
        let mut next = Rollout { healthy: Some(since), ..(*rollout).clone() };
        let window = self.left(since, strategy.health_window);
        if rollout.batch > 0 && !window.is_zero() {
            return Self::becomes(next, Some(window));
        }
        let here = || fleet.open.iter().copied().filter(|cluster| cluster.shown != Shown::Away);
        let canaries_first = !rollout.canary_done && here().any(|cluster| cluster.is_canary);
        if !rollout.canary_done && !canaries_first {
            next.canary_done = true;
            if strategy.pause_after_canary {
                return Self::becomes(self.after_canary(&next), None);
            }
        }
        let candidates = here().filter(|cluster| cluster.is_canary || !canaries_first);
        let picked = fleet.pick(candidates, fleet.batch);
        if !picked.is_empty() {
            next.batch += 1;
            next.batch_start = *now;
            next.healthy = None;
            return self.moves(next, &picked, strategy.progress_deadline);
        }
        if here().next().is_some() {
            // What failed and is let through, or has become unhealthy since, uses up what may be disrupted.
            if late {
                let (budget, first) = (fleet.budget, first_of(&fleet.disrupted));
                let message = format!("no more than {budget} clusters may be unhealthy at once: {first}");
                return self.fails(Reason::ProgressDeadlineExceeded, message);
            }
            return Self::becomes(next, Some(left));
        }
        if fleet.present == 0 && fleet.total > 0 {
            // Whoever sees nobody at all has lost sight of them rather than brought it to an end.
            return Self::becomes(next, None);
        }
        self.done(next)
    }

    /// It pauses as it was told to.
    fn after_canary(&self, next: &Rollout) -> Rollout {
        let message = match self.rollout.batch {
            0 => "no canary cluster is connected: resume to go on without",
            _ => "the canary clusters are healthy: resume to go on",
        };
        Rollout {
            phase: Phase::Paused,
            reason: Some(Reason::AfterCanary),
            message: message.to_owned(),
            end: Some(self.now),
            ..next.clone()
        }
    }

    fn fails(&self, reason: Reason, message: String) -> Step {
        match self.strategy.on_failure {
            OnFailure::RollBack => {
                let rollout = back(self.rollout, reason, message, self.now);
                Step { rollout, moves: Vec::new(), rejects: true, wait: Some(Duration::ZERO) }
            }
            OnFailure::Pause => {
                let rollout = Rollout {
                    phase: Phase::Paused,
                    reason: Some(reason),
                    message,
                    end: Some(self.now),
                    ..self.rollout.clone()
                };
                Self::becomes(rollout, None)
            }
        }
    }

    /// Writes that clusters get what they shall have.
    fn moves(&self, mut next: Rollout, clusters: &[&Cluster], wait: Duration) -> Step {
        let moves = moves_to(self.rollout.target(), clusters);
        next.last_move += moves.len() as u64;
        Step { rollout: next, moves, rejects: false, wait: Some(wait) }
    }

    /// All that are connected have it. Those that are away keep what they have until they are back, by moves of their own.
    fn done(&self, mut next: Rollout) -> Step {
        next.phase = Phase::Done;
        next.end = Some(self.now);
        let mut moves = Vec::new();
        if self.fleet.open.len() <= BATCH_CLUSTERS_MAX {
            next.base = next.to;
            next.first_move = next.last_move + 1;
            let mut revisions: Vec<ContentHash> = self.fleet.open.iter().map(|cluster| cluster.at).collect();
            revisions.sort_unstable();
            revisions.dedup();
            for revision in revisions {
                let kept: Vec<&Cluster> =
                    self.fleet.open.iter().copied().filter(|cluster| cluster.at == revision).collect();
                moves.extend(moves_to(revision, &kept));
            }
            next.last_move += moves.len() as u64;
        }
        Step { rollout: next, moves, rejects: false, wait: None }
    }

    /// After the end: who is back gets it, no more at once than may be disrupted.
    fn stragglers(&self) -> Step {
        let Self { rollout, fleet, .. } = self;
        if fleet.open.is_empty() {
            let rest = Rollout { base: rollout.to, first_move: rollout.last_move + 1, ..(*rollout).clone() };
            return Self::becomes(rest, None);
        }
        let back = fleet.open.iter().copied().filter(|cluster| cluster.shown != Shown::Away);
        let picked = fleet.pick(back, fleet.batch);
        if picked.is_empty() {
            return self.stay(None);
        }
        Step { wait: None, ..self.moves((*rollout).clone(), &picked, Duration::ZERO) }
    }

    /// Back as fast as the budget allows: what is away or broken costs nothing.
    fn backward(&self) -> Step {
        let Self { strategy, rollout, fleet, now } = self;
        let picked = fleet.pick(fleet.open.iter().copied(), BATCH_CLUSTERS_MAX);
        if !picked.is_empty() {
            let next = Rollout { batch_start: *now, ..(*rollout).clone() };
            return self.moves(next, &picked, strategy.progress_deadline);
        }
        let left = self.left(rollout.batch_start, strategy.progress_deadline);
        // One that was broken before keeps the others from going back no longer than a batch may take.
        if fleet.open.is_empty() && (fleet.disrupted.is_empty() || left.is_zero()) {
            let over = Rollout {
                phase: Phase::RolledBack,
                base: rollout.from,
                first_move: rollout.last_move + 1,
                end: Some(*now),
                ..(*rollout).clone()
            };
            return Self::becomes(over, None);
        }
        self.stay(Some(left).filter(|left| !left.is_zero()))
    }
}

fn moves_to(revision: ContentHash, clusters: &[&Cluster]) -> Vec<Move> {
    clusters
        .chunks(MOVE_CLUSTERS_MAX)
        .map(|chunk| Move { revision, clusters: chunk.iter().map(|cluster| cluster.name.clone()).collect() })
        .collect()
}
