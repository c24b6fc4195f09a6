//! Images are fetched ahead: each node that the selector chooses is a step. A record says which images; the scheduler assigns them to the nodes as long as it is
//! there, and here it is seen what the nodes report.
//!
//! The record is written by whoever begins, for the run that it works on: what failed in an earlier run is tried at once. It stays until its time is over, but goes
//! with a task that is cancelled or given up.

use std::collections::BTreeSet;
use std::time::{Duration, SystemTime};

use skerry_model::{
    Code, Fault, NodeName, NodeRef, SecretName, SecretRef, Selector, TaskRef, few, image_id, time,
};
use skerry_proto::store::v1 as stored;
use skerry_proto::types::v1::{ImageState, ImageStatus};
use skerry_store::{Key, Store, Txn};
use tokio::time::Instant;

use super::{Did, Env, Hands};

/// Between two looks at a node that fetches.
const LOOK_AGAIN: Duration = Duration::from_millis(500);
/// How long the scheduler has to assign the images: longer than another one takes to lead.
const ASSIGNED_WITHIN: Duration = Duration::from_secs(60);
/// Nodes that are named one by one; the others are counted.
const NAMED_MAX: usize = 5;

/// Which images, on which nodes.
pub(in crate::tasks) struct Prefetch {
    task: TaskRef,
    run: u32,
    selector: Selector,
    wanted: stored::PrefetchImagesRecord,
    keep: Duration,
    /// The round of the record of this run, once it was seen.
    round: Option<u32>,
    /// Since when a node is looked at that is not assigned all of them.
    unassigned: Option<(String, Instant)>,
}

/// How far a node is with the images: pure.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Stand {
    /// All are there.
    Present,
    /// This one is not assigned yet.
    Unassigned(String),
    /// It waits for this.
    Waits(String),
    /// This one failed.
    Failed { why: String, lasting: bool },
}

impl Prefetch {
    pub(super) fn new(
        task: &TaskRef,
        run: u32,
        wanted: &stored::PrefetchImagesRecord,
    ) -> Result<Self, Fault> {
        let field = "task.spec.prefetch_images.label_selector";
        let selector =
            Selector::parse(&wanted.label_selector).map_err(|error| Fault::invalid_field(field, error))?;
        let keep = wanted.keep.as_ref().and_then(time::from_proto_duration).unwrap_or(super::KEEP_DEFAULT);
        let (task, wanted) = (task.clone(), wanted.clone());
        Ok(Self { task, run, selector, wanted, keep, round: None, unassigned: None })
    }

    pub(super) fn steps(&self, env: &Env) -> BTreeSet<String> {
        let nodes = env.shared.nodes.snapshot();
        let below = format!("{}/nodes/", self.task.project.parent());
        let of_project = nodes.range(below.clone()..).take_while(|(name, _)| name.starts_with(&below));
        let chosen = of_project.filter(|(_, node)| {
            node.metadata.as_ref().is_some_and(|metadata| self.selector.matches(&metadata.labels))
        });
        chosen.map(|(name, _)| name[below.len()..].to_owned()).collect()
    }

    /// Writes the record of this run, if it is not there: all nodes begin at the same time.
    pub(super) async fn ask(&mut self, hands: &Hands<'_>) -> Result<(), Fault> {
        let key = Key::<stored::PrefetchRecord>::of(&self.task);
        let read = hands.env.store.get(&key).await?;
        if let Some(read) = read.as_ref().filter(|read| read.value.run == self.run) {
            self.round = Some(read.value.round);
            return Ok(());
        }
        if self.round.is_some() {
            let message = "the time for which the images are kept is over (or somebody ended it)";
            return Err(Fault::new(Code::FailedPrecondition, "EXPIRED", message));
        }
        let stored::PrefetchImagesRecord { label_selector, images, secret, .. } = self.wanted.clone();
        let now = SystemTime::now();
        let end_time = Some(time::to_timestamp(now + self.keep));
        let seconds = now.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default().as_secs();
        let round = u32::try_from(seconds).unwrap_or(u32::MAX);
        let record =
            stored::PrefetchRecord { label_selector, images, secret, end_time, run: self.run, round };
        let at = read.map_or(0, |read| read.mod_revision);
        let txn = Txn::new().when_unchanged(&key, at).put(&key, &record);
        hands.env.store.commit((hands.held)(txn)).await?;
        self.round = Some(round);
        Ok(())
    }

    /// Ends what was asked for. Again changes nothing.
    pub(super) async fn end(&self, hands: &Hands<'_>) -> Result<(), Fault> {
        let txn = Txn::new().delete(&Key::<stored::PrefetchRecord>::of(&self.task));
        hands.env.store.commit((hands.held)(txn)).await?;
        Ok(())
    }

    pub(super) async fn step(&mut self, step: &str, hands: &Hands<'_>) -> Result<Did, Fault> {
        self.ask(hands).await?;
        let name = NodeRef { project: self.task.project.clone(), node: NodeName::parse(step)? };
        let env = hands.env;
        // One that is gone, or is not meant any more, has nothing to fetch; one that nobody reaches holds up nobody.
        if !self.steps(env).contains(step) || !is_connected(env, &name) {
            return Ok(Did::Done { written: false });
        }
        let stand = self.stand(env, &name);
        match stand {
            Stand::Present => Ok(Did::Done { written: false }),
            Stand::Failed { why, lasting } => {
                let code = if lasting { Code::FailedPrecondition } else { Code::Unavailable };
                Err(Fault::new(code, "NOT_FETCHED", why))
            }
            Stand::Waits(what) => Ok(Did::Waits(format!("{step}: {what}"), LOOK_AGAIN)),
            Stand::Unassigned(image) => {
                let since = match &self.unassigned {
                    Some((node, since)) if node == step => *since,
                    _ => {
                        let now = Instant::now();
                        self.unassigned = Some((step.to_owned(), now));
                        now
                    }
                };
                if since.elapsed() < ASSIGNED_WITHIN {
                    let what = format!("{step}: image `{image}` is not assigned to it yet");
                    return Ok(Did::Waits(what, LOOK_AGAIN));
                }
                self.unassigned = None;
                Err(Fault::new(
                    Code::ResourceExhausted,
                    "NOT_ASSIGNED",
                    self.why_unassigned(env, &name, &image),
                ))
            }
        }
    }

    /// Why a node may not have been assigned an image, for people.
    fn why_unassigned(&self, env: &Env, name: &NodeRef, image: &str) -> String {
        let snapshot = env.shared.mirror.snapshot();
        let node = snapshot.get(&Key::<stored::NodeRecord>::of(name)).ok().flatten();
        let has_key = node.is_some_and(|read| !read.value.sealing_key.is_empty());
        let why = match self.wanted.secret.as_str() {
            "" => "it has as many as it may, or no scheduler leads (skerry status)".to_owned(),
            secret if !has_key => {
                format!("it has no key to seal secret `{secret}` to: only nodes that enrolled have one")
            }
            secret => format!(
                "secret `{secret}` cannot be sealed to it (skerry describe secret/{secret}), or it has as many as it may"
            ),
        };
        format!("image `{image}` was not assigned to it: {why}")
    }

    fn stand(&self, env: &Env, name: &NodeRef) -> Stand {
        let snapshot = env.shared.mirror.snapshot();
        let assignment = snapshot.get(&Key::<stored::AssignmentRecord>::of(name)).ok().flatten();
        let assigned = assignment.map(|read| read.value.images).unwrap_or_default();
        let status = snapshot.get(&Key::<stored::StatusRecord>::of(name)).ok().flatten();
        let status = status.map(|read| read.value).unwrap_or_default();
        stand(&self.wanted, self.round.unwrap_or_default(), &assigned, &status)
    }

    /// How many nodes have the images, and which were passed over.
    pub(super) fn summary(&self, env: &Env) -> String {
        let (mut present, mut away) = (0, Vec::new());
        let steps = self.steps(env);
        for step in &steps {
            let Ok(node) = NodeName::parse(step) else { continue };
            let name = NodeRef { project: self.task.project.clone(), node };
            if self.stand(env, &name) == Stand::Present {
                present += 1;
            } else if !is_connected(env, &name) {
                away.push(step.clone());
            }
        }
        summary(self.wanted.images.len(), present, steps.len(), &away)
    }
}

fn summary(images: usize, present: usize, all: usize, away: &[String]) -> String {
    let what = if images == 1 { "the image" } else { "the images" };
    let has = if present == 1 { "has" } else { "have" };
    let said = format!("{present} of {all} nodes {has} {what}");
    if away.is_empty() {
        return said;
    }
    let are = if away.len() == 1 { "is" } else { "are" };
    format!("{said}; {} skipped, which {are} not connected: {}", away.len(), few(away, NAMED_MAX))
}

fn is_connected(env: &Env, name: &NodeRef) -> bool {
    let node = env.shared.nodes.get(&name.to_string());
    let connection = node.and_then(|node| node.status.as_ref()?.connection.as_ref().map(|one| one.connected));
    connection == Some(true)
}

/// How far a node is, by what it is assigned and what it reported of that.
fn stand(
    wanted: &stored::PrefetchImagesRecord,
    round: u32,
    assigned: &[stored::AssignedImage],
    status: &stored::StatusRecord,
) -> Stand {
    let (mut unassigned, mut waits, mut passing) = (None, None, None);
    for image in &wanted.images {
        let id = image_id(image, "", &wanted.secret);
        let Some(assigned) = assigned.iter().find(|one| one.id == id && one.round >= round) else {
            unassigned.get_or_insert_with(|| image.clone());
            continue;
        };
        // As it is named in the desired state.
        let resource = format!("images/{id}");
        if let Some(refused) = status.refused.iter().find(|one| one.name == resource) {
            let why = format!("image `{image}`: its agent refuses it: {}", refused.message);
            return Stand::Failed { why, lasting: true };
        }
        // What it says of an earlier round is not of this one; what is there is there.
        let reported = status.images.iter().find(|one| one.id == id);
        let current =
            reported.filter(|one| one.round >= assigned.round || one.state() == ImageState::Present);
        match current.map(ImageStatus::state) {
            Some(ImageState::Present) => {}
            Some(ImageState::Failed) => {
                let said = current.map_or("", |one| one.message.as_str());
                // Docker's answer names it mostly.
                let why = if said.contains(image.as_str()) {
                    said.to_owned()
                } else {
                    format!("image `{image}`: {said}")
                };
                if current.is_some_and(|one| one.lasting) {
                    return Stand::Failed { why, lasting: true };
                }
                passing.get_or_insert(why);
            }
            Some(ImageState::Fetching) => {
                let said = current.map_or("", |one| one.message.as_str());
                waits.get_or_insert_with(|| said.to_owned());
            }
            Some(ImageState::Waiting | ImageState::Unspecified) | None => {
                waits.get_or_insert_with(|| format!("image `{image}` waits for its turn"));
            }
        }
    }
    match (passing, unassigned, waits) {
        (Some(why), _, _) => Stand::Failed { why, lasting: false },
        (None, Some(image), _) => Stand::Unassigned(image),
        (None, None, Some(what)) => Stand::Waits(what),
        (None, None, None) => Stand::Present,
    }
}

/// The secret that is named is there, also when the task is created. FAILED_PRECONDITION: it is not.
pub(in crate::tasks) async fn named_secret(
    store: &Store,
    task: &TaskRef,
    wanted: &stored::PrefetchImagesRecord,
    txn: Txn,
) -> Result<Txn, Fault> {
    if wanted.secret.is_empty() {
        return Ok(txn);
    }
    let name = SecretRef { project: task.project.clone(), secret: SecretName::parse(&wanted.secret)? };
    let key = Key::<stored::SecretRecord>::of(&name);
    if store.get(&key).await?.is_none() {
        let secret = &name.secret;
        let message = format!(
            "there is no {name}: make it first (a manifest of kind Secret with imageCredentials, named {secret})"
        );
        return Err(Fault::new(Code::FailedPrecondition, "NO_SECRET", message));
    }
    Ok(txn.when_exists(&key))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn wanted(images: &[&str]) -> stored::PrefetchImagesRecord {
        let images = images.iter().map(ToString::to_string).collect();
        stored::PrefetchImagesRecord { images, secret: "s".to_owned(), ..Default::default() }
    }

    fn assigned(image: &str, round: u32) -> stored::AssignedImage {
        stored::AssignedImage { id: image_id(image, "", "s"), round, ..Default::default() }
    }

    fn reported(image: &str, round: u32, state: ImageState, lasting: bool) -> ImageStatus {
        let mut status = ImageStatus {
            id: image_id(image, "", "s"),
            round,
            lasting,
            message: "no".into(),
            ..Default::default()
        };
        status.set_state(state);
        status
    }

    fn seen(run: u32, given: &[stored::AssignedImage], images: &[ImageStatus]) -> Stand {
        let status = stored::StatusRecord { images: images.to_vec(), ..Default::default() };
        stand(&wanted(&["a", "b"]), run, given, &status)
    }

    #[test]
    fn a_node_has_all_images_once_each_is_there() {
        let both = [assigned("a", 1), assigned("b", 1)];
        assert_eq!(seen(1, &both[..1], &[]), Stand::Unassigned("b".to_owned()));
        assert_eq!(seen(1, &both, &[]), Stand::Waits("image `a` waits for its turn".to_owned()));
        let a = reported("a", 1, ImageState::Present, false);
        let fetching = reported("b", 1, ImageState::Fetching, false);
        assert_eq!(seen(1, &both, &[a.clone(), fetching]), Stand::Waits("no".to_owned()));
        assert_eq!(seen(1, &both, &[a, reported("b", 1, ImageState::Present, false)]), Stand::Present);
    }

    #[test]
    fn one_that_fails_is_told_with_its_name_and_only_of_this_round() {
        let both = |round| [assigned("a", round), assigned("b", round)];
        let failed = |lasting| [reported("b", 1, ImageState::Failed, lasting)];
        for lasting in [true, false] {
            let why = "image `b`: no".to_owned();
            assert_eq!(seen(1, &both(1), &failed(lasting)), Stand::Failed { why, lasting });
        }
        assert!(matches!(seen(2, &both(2), &failed(true)), Stand::Waits(_)), "it was asked for again");
        assert!(matches!(seen(2, &both(1), &failed(true)), Stand::Unassigned(_)));
        let refused = stored::RefusedResource {
            name: format!("images/{}", image_id("a", "", "s")),
            message: "it lacks prefetch-1".to_owned(),
            ..Default::default()
        };
        let status = stored::StatusRecord { refused: vec![refused], ..Default::default() };
        let Stand::Failed { why, lasting: true } = stand(&wanted(&["a"]), 1, &both(1), &status) else {
            panic!("it is refused")
        };
        assert_eq!(why, "image `a`: its agent refuses it: it lacks prefetch-1");
    }

    #[test]
    fn who_was_passed_over_is_named_at_the_end() {
        assert_eq!(summary(1, 2, 2, &[]), "2 of 2 nodes have the image");
        let away = ["n3".to_owned()];
        let said = "1 of 2 nodes has the images; 1 skipped, which is not connected: n3";
        assert_eq!(summary(2, 1, 2, &away), said);
    }
}
