//! What goes into the store: one commit at a time, repeated until it is there.

use std::sync::Arc;

use skerry_proto::gateway::v1 as pb;

use super::api::{Acknowledged, Change};
use crate::limits;
use crate::rng::{Backoff, Rng};
use crate::time::MonoTime;

#[derive(Debug, Clone)]
pub(super) struct Commits {
    node: String,
    boot_id: String,
    /// Not committed yet, nor in flight.
    report: Option<pb::Report>,
    acknowledged: Option<Acknowledged>,
    in_flight: Option<(u64, Arc<Change>)>,
    token: u64,
    sequence: u64,
    not_before: Option<MonoTime>,
    backoff: Backoff,
}

impl Commits {
    pub(super) fn new(node: String, boot_id: String) -> Self {
        let (base, cap) = limits::STORE_RETRY;
        Self {
            node,
            boot_id,
            report: None,
            acknowledged: None,
            in_flight: None,
            token: 0,
            sequence: 0,
            not_before: None,
            backoff: Backoff::new(base, cap),
        }
    }

    /// Takes a report. One at a time, counted from 1.
    pub(super) fn reported(&mut self, report: pb::Report) -> Result<(), String> {
        let waiting = self.report.is_some()
            || self.in_flight.as_ref().is_some_and(|(_, change)| change.report.is_some());
        if waiting {
            return Err("a Report before the acknowledgement of the one before".to_owned());
        }
        if report.sequence != self.sequence + 1 {
            return Err(format!("Report {} after {}", report.sequence, self.sequence));
        }
        self.sequence = report.sequence;
        self.report = Some(report);
        Ok(())
    }

    /// Takes what the agent acknowledged. The last one counts.
    pub(super) fn acknowledged(&mut self, acknowledged: Acknowledged) {
        self.acknowledged = Some(acknowledged);
    }

    /// Begins the next commit, if one is due.
    pub(super) fn begin(&mut self, now: MonoTime) -> Option<(u64, Arc<Change>)> {
        if self.in_flight.is_some() || self.not_before.is_some_and(|at| at > now) {
            return None;
        }
        if self.report.is_none() && self.acknowledged.is_none() {
            return None;
        }
        self.not_before = None;
        self.token += 1;
        let change = Arc::new(Change {
            node: self.node.clone(),
            boot_id: self.boot_id.clone(),
            report: self.report.take(),
            acknowledged: self.acknowledged.take(),
        });
        self.in_flight = Some((self.token, Arc::clone(&change)));
        Some((self.token, change))
    }

    /// When `begin` has something to do, if ever by itself.
    pub(super) fn due(&self) -> Option<MonoTime> {
        if self.in_flight.is_some() { None } else { self.not_before }
    }

    /// The commit that the store has in hand.
    pub(super) fn in_flight(&self) -> Option<u64> {
        self.in_flight.as_ref().map(|(token, _)| *token)
    }

    /// Whether nothing is to be committed.
    pub(super) fn is_idle(&self) -> bool {
        self.in_flight.is_none() && self.report.is_none() && self.acknowledged.is_none()
    }

    /// It is in the store. The number of the report that is to be acknowledged, if it held one.
    pub(super) fn committed(&mut self, token: u64) -> Option<u64> {
        let (_, change) = self.in_flight.take_if(|(in_flight, _)| *in_flight == token)?;
        self.backoff.reset();
        change.report.as_ref().map(|report| report.sequence)
    }

    /// It is not, or nobody knows: it goes again, with what has come since.
    pub(super) fn failed(&mut self, token: u64, now: MonoTime, rng: &mut Rng) {
        let Some((_, change)) = self.in_flight.take_if(|(in_flight, _)| *in_flight == token) else { return };
        let change = Arc::unwrap_or_clone(change);
        // One that came while this was in flight waits already; then there is none in here.
        self.report = self.report.take().or(change.report);
        self.acknowledged = self.acknowledged.take().or(change.acknowledged);
        self.not_before = Some(now + self.backoff.next(rng));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_report_that_comes_while_an_ack_is_committed_survives_the_failure_of_that() {
        let mut commits = Commits::new("projects/p/nodes/n".to_owned(), "b".to_owned());
        let report = |sequence| pb::Report { sequence, ..pb::Report::default() };
        let now = MonoTime::default();
        commits.acknowledged(Acknowledged::default());
        let (token, _) = commits.begin(now).unwrap();
        commits.reported(report(1)).unwrap();
        assert!(commits.reported(report(2)).is_err(), "one report at a time");
        commits.failed(token, now, &mut Rng::new(1));

        let later = commits.due().unwrap();
        let (token, change) = commits.begin(later).unwrap();
        assert_eq!(change.report, Some(report(1)));
        assert_eq!(change.acknowledged, Some(Acknowledged::default()));
        assert_eq!(commits.committed(token), Some(1));
        assert!(commits.is_idle());
    }
}
