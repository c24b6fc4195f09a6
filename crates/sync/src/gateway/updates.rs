//! What goes down: one Update at a time, the difference between what the agent holds and what it shall hold, newer ones gathered
//! while it is under way.

use std::collections::BTreeMap;
use std::sync::Arc;

use prost::Message as _;
use skerry_proto::gateway::v1 as pb;
use skerry_proto::gateway::v1::sync_response::Body as Down;
use skerry_proto::store::v1 as store;

use super::api::{Acknowledged, Assignment, SessionEffect};
use crate::desired::{
    Difference, ResourceVersions, assigned_resources, difference, is_assigned, resources_of,
};
use crate::rng::{Backoff, Rng};
use crate::time::MonoTime;
use crate::{Version, limits};

/// Name under which a refusal of a whole Update is stored.
pub const DESIRED_STATE: &str = "desired-state";

/// Reason under which a content that the store does not have is stored.
pub const NOT_FOUND: &str = "NotFound";

#[derive(Debug, Clone)]
pub(super) struct Updates {
    assignment: Option<Assignment>,
    /// Of what the agent holds.
    version: Option<Version>,
    /// What the agent holds.
    held: Arc<ResourceVersions>,
    /// What it refused, or the store does not have: not sent again before its version changes.
    refused: BTreeMap<String, store::RefusedResource>,
    /// The version that it refused as a whole.
    rejected: Option<Version>,
    state: State,
    nonce: u64,
    token: u64,
    backoff: Backoff,
}

#[derive(Debug, Clone)]
enum State {
    Idle,
    /// Contents are being read.
    Loading {
        token: u64,
        planned: Box<Planned>,
    },
    /// They could not be read.
    Retry {
        at: MonoTime,
    },
    /// Sent, and not acknowledged.
    Sent {
        nonce: u64,
        planned: Box<Planned>,
    },
}

/// An Update that is being made or is under way.
#[derive(Debug, Clone)]
struct Planned {
    assignment: Assignment,
    /// All resources of the assignment.
    wanted: ResourceVersions,
    difference: Difference,
    /// Names of contents that the store does not have.
    missing: Vec<String>,
}

impl Updates {
    pub(super) fn new(version: Option<Version>, held: Vec<pb::HeldResource>) -> Self {
        let (base, cap) = limits::STORE_RETRY;
        Self {
            assignment: None,
            version,
            held: Arc::new(held.into_iter().map(|held| (held.name, held.version)).collect()),
            refused: BTreeMap::new(),
            rejected: None,
            state: State::Idle,
            nonce: 0,
            token: 0,
            backoff: Backoff::new(base, cap),
        }
    }

    /// Takes a newer assignment. Whether it is one.
    pub(super) fn assignment_changed(&mut self, assignment: Assignment) -> bool {
        let newer = self.assignment.as_ref().is_none_or(|known| known.version < assignment.version);
        if newer {
            self.assignment = Some(assignment);
        }
        newer
    }

    /// The newest assignment.
    pub(super) fn assignment(&self) -> Option<&store::AssignmentRecord> {
        self.assignment.as_ref().map(|assignment| assignment.record.as_ref())
    }

    /// What is to be stored as acknowledged if the agent holds the assignment whole already.
    pub(super) fn in_step(&self) -> Option<Acknowledged> {
        let assignment =
            self.assignment.as_ref().filter(|assignment| self.version == Some(assignment.version))?;
        let same = *self.held == resources_of(&assignment.record);
        same.then(|| Acknowledged { version: assignment.version, refused: Vec::new() })
    }

    /// Whether the agent has acknowledged the newest assignment.
    pub(super) fn is_converged(&self) -> bool {
        matches!(self.state, State::Idle)
            && self.assignment.as_ref().is_none_or(|assignment| self.version == Some(assignment.version))
    }

    /// When `advance` has something to do, if ever by itself.
    pub(super) fn due(&self) -> Option<MonoTime> {
        match &self.state {
            State::Retry { at } => Some(*at),
            State::Idle | State::Loading { .. } | State::Sent { .. } => None,
        }
    }

    /// Begins the next Update, if there is something to send.
    pub(super) fn advance(&mut self, now: MonoTime, out: &mut Vec<SessionEffect>) {
        match &self.state {
            State::Idle => {}
            State::Retry { at } if *at <= now => self.state = State::Idle,
            State::Retry { .. } | State::Loading { .. } | State::Sent { .. } => return,
        }
        let Some(planned) = self.plan() else { return };
        let contents: Vec<String> =
            planned.difference.changed.iter().filter(|name| !is_assigned(name)).cloned().collect();
        if contents.is_empty() {
            self.send(planned, Vec::new(), out);
        } else {
            self.token += 1;
            out.push(SessionEffect::Load { token: self.token, names: contents });
            self.state = State::Loading { token: self.token, planned };
        }
    }

    fn plan(&self) -> Option<Box<Planned>> {
        let assignment = self.assignment.as_ref()?;
        // The agent holds a newer one: our view is behind, and the agent would refuse it.
        if self.version.is_some_and(|held| assignment.version < held) {
            return None;
        }
        if self.rejected == Some(assignment.version) {
            return None;
        }
        let wanted = resources_of(&assignment.record);
        let mut difference = difference(&self.held, &wanted);
        difference.changed.retain(|name| {
            self.refused.get(name).is_none_or(|refused| Some(&refused.version) != wanted.get(name))
        });
        if self.version == Some(assignment.version) && difference.is_empty() {
            return None;
        }
        let assignment = assignment.clone();
        Some(Box::new(Planned { assignment, wanted, difference, missing: Vec::new() }))
    }

    pub(super) fn loaded(
        &mut self,
        loaded: u64,
        resources: Vec<pb::Resource>,
        missing: &[String],
        out: &mut Vec<SessionEffect>,
    ) {
        let mut planned = match std::mem::replace(&mut self.state, State::Idle) {
            State::Loading { token, planned } if token == loaded => planned,
            other => {
                self.state = other;
                return;
            }
        };
        self.backoff.reset();
        // Contents that an older assignment names may be gone: look at the newer one instead.
        let newest = self.assignment.as_ref().map(|assignment| assignment.version);
        if !missing.is_empty() && newest != Some(planned.assignment.version) {
            return;
        }
        planned.missing = missing.to_vec();
        planned.difference.changed.retain(|name| !missing.contains(name));
        self.send(planned, resources, out);
    }

    pub(super) fn load_failed(&mut self, failed: u64, now: MonoTime, rng: &mut Rng) {
        if matches!(&self.state, State::Loading { token, .. } if *token == failed) {
            self.state = State::Retry { at: now + self.backoff.next(rng) };
        }
    }

    fn send(&mut self, planned: Box<Planned>, contents: Vec<pb::Resource>, out: &mut Vec<SessionEffect>) {
        self.nonce += 1;
        let changed = &planned.difference.changed;
        let record = &planned.assignment.record;
        let assigned = assigned_resources(record);
        let assigned = assigned.filter(|resource| changed.binary_search(&resource.name).is_ok());
        let removed = planned.difference.removed.clone();
        for update in
            parts(self.nonce, planned.assignment.version, contents.into_iter().chain(assigned), removed)
        {
            let trace_parent = planned.assignment.record.trace_parent.clone();
            out.push(SessionEffect::Send(pb::SyncResponse {
                body: Some(Down::Update(update)),
                trace_parent,
            }));
        }
        self.state = State::Sent { nonce: self.nonce, planned };
    }

    /// The agent's answer. What is to be stored of it; nothing where it answers nothing that was asked.
    pub(super) fn acknowledged(&mut self, ack: pb::Ack) -> Option<Acknowledged> {
        let planned = match std::mem::replace(&mut self.state, State::Idle) {
            State::Sent { nonce, planned } if nonce == ack.nonce => planned,
            other => {
                self.state = other;
                return None;
            }
        };
        let version = planned.assignment.version;
        if !ack.refused.is_empty() {
            self.rejected = Some(version);
            let held = ack.version.map(Version::from).or(self.version).unwrap_or_default();
            let refused = store::RefusedResource {
                name: DESIRED_STATE.to_owned(),
                version: version.to_string(),
                reason: "Refused".to_owned(),
                message: ack.refused,
            };
            return Some(Acknowledged { version: held, refused: vec![refused] });
        }
        let Planned { wanted, difference, missing, .. } = *planned;
        self.refused.retain(|name, refused| {
            wanted.get(name) == Some(&refused.version) && difference.changed.binary_search(name).is_err()
        });
        let not_found = missing.into_iter().map(|name| store::RefusedResource {
            version: wanted.get(&name).cloned().unwrap_or_default(),
            name,
            reason: NOT_FOUND.to_owned(),
            message: "the store does not have it".to_owned(),
        });
        let errors = ack
            .errors
            .into_iter()
            .filter(|error| {
                difference.changed.binary_search(&error.name).is_ok()
                    && wanted.get(&error.name) == Some(&error.version)
            })
            .map(|error| store::RefusedResource {
                name: error.name,
                version: error.version,
                reason: error.reason,
                message: error.message,
            });
        self.refused.extend(not_found.chain(errors).map(|refused| (refused.name.clone(), refused)));
        self.held = if self.refused.is_empty() {
            Arc::new(wanted)
        } else {
            let mut held = ResourceVersions::clone(&self.held);
            for name in &difference.removed {
                held.remove(name);
            }
            for name in difference.changed.iter().filter(|name| !self.refused.contains_key(*name)) {
                held.extend(wanted.get(name).map(|version| (name.clone(), version.clone())));
            }
            Arc::new(held)
        };
        self.version = Some(version);
        Some(Acknowledged { version, refused: self.refused.values().cloned().collect() })
    }
}

/// One Update in as few parts as its bytes need.
fn parts(
    nonce: u64,
    version: Version,
    resources: impl Iterator<Item = pb::Resource>,
    removed: Vec<String>,
) -> Vec<pb::Update> {
    // A name of a resource that is gone takes at most 323 bytes, and an agent holds at most 2,048: all fit beside the first ones.
    let mut bytes: usize = removed.iter().map(|name| name.len() + 3).sum();
    let mut part = pb::Update { nonce, version: Some(version.into()), removed, ..pb::Update::default() };
    let mut parts = Vec::new();
    for resource in resources {
        let len = resource.encoded_len() + 5;
        if bytes > 0 && bytes + len > limits::UPDATE_PART_BYTES_MAX {
            let next = pb::Update { nonce, version: Some(version.into()), ..pb::Update::default() };
            let full = std::mem::replace(&mut part, next);
            parts.push(pb::Update { more: true, ..full });
            bytes = 0;
        }
        bytes += len;
        part.resources.push(resource);
    }
    parts.push(part);
    parts
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_update_goes_in_parts_that_say_whether_more_follow() {
        let resource = |n: usize| pb::Resource {
            name: format!("configs/c/{n}"),
            body: Some(pb::resource::Body::Config(vec![0; 50 * 1024].into())),
            ..pb::Resource::default()
        };
        let parts = parts(3, Version::new(1, 7), (0..10).map(resource), vec!["configs/old/1".to_owned()]);
        assert!(parts.len() > 3);
        assert!(parts.iter().all(|part| part.encoded_len() <= limits::UPDATE_PART_BYTES_MAX));
        assert!(parts.iter().all(|part| part.nonce == 3 && part.version.unwrap().revision == 7));
        let (last, before) = parts.split_last().unwrap();
        assert!(before.iter().all(|part| part.more) && !last.more);
        assert_eq!(parts.iter().map(|part| part.removed.len()).sum::<usize>(), 1);
        assert_eq!(parts.iter().map(|part| part.resources.len()).sum::<usize>(), 10);
    }

    #[test]
    fn a_resource_above_a_part_s_size_goes_alone() {
        let large = pb::Resource {
            body: Some(pb::resource::Body::Config(vec![0; 512 * 1024].into())),
            ..pb::Resource::default()
        };
        let parts = parts(1, Version::new(1, 1), vec![large.clone(), large].into_iter(), Vec::new());
        assert_eq!(parts.len(), 2);
        assert!(parts.iter().all(|part| part.encoded_len() <= limits::FRAME_BYTES_MAX));
    }
}
