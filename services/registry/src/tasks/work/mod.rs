//! The kinds of tasks: which steps each has, and how one is done. To add a kind: a message in the protocol and in the store, its rules in
//! `spec`, a module here, and its arms in this file.
//!
//! A step is done again when a worker died over it, so it looks first at what is there, and says that it is done where nothing is left to do.

mod drain;
mod prefetch;
mod project;
mod relabel;

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use skerry_api::{Beside, Caused};
use skerry_model::{Fault, TaskRef};
use skerry_proto::store::v1 as stored;
use skerry_proto::store::v1::task_record::Work as StoredWork;
use skerry_store::Store;

use self::drain::Drain;
use self::prefetch::Prefetch;
pub(super) use self::prefetch::named_secret;
use self::project::Deletion;
use self::relabel::Relabel;
use crate::follow::Shared;
use crate::nodes::Nodes;
use crate::projects::Projects;

/// How long images are kept where nobody says.
pub(super) const KEEP_DEFAULT: Duration = Duration::from_secs(24 * 3600);

/// What tasks work on.
pub(super) struct Env {
    pub(super) store: Store,
    pub(super) shared: Arc<Shared>,
    pub(super) nodes: Nodes,
    pub(super) projects: Projects,
}

/// What a step is done with.
pub(super) struct Hands<'a> {
    pub(super) env: &'a Env,
    /// Who is said to change what it changes.
    pub(super) caused: &'a Caused,
    /// In each transaction: the claim is compared.
    pub(super) held: Beside<'a>,
    /// In the transaction that ends the step: the journal says that it is done.
    pub(super) done: Beside<'a>,
    /// In the transaction that begins a step whose end is waited for: the journal says that it is begun.
    pub(super) begun: Beside<'a>,
}

/// What came of a step.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Did {
    /// It is done. `written`: the journal says so already.
    Done {
        /// By the transaction that did it.
        written: bool,
    },
    /// It is begun, and its end is waited for. `written`: the journal says so already.
    Begun {
        /// By the transaction that began it.
        written: bool,
    },
    /// It goes on; with what it waits for.
    Waits(String, Duration),
}

/// One task's work.
pub(super) enum Work {
    /// A cluster is drained.
    Drain(Drain),
    /// A project is deleted.
    Delete(Deletion),
    /// Nodes are labelled.
    Relabel(Relabel),
    /// Images are fetched ahead.
    Prefetch(Prefetch),
}

impl Work {
    /// The work of a record. Nothing for what a newer version stored.
    pub(super) fn of(task: &TaskRef, record: &stored::TaskRecord) -> Result<Option<Self>, Fault> {
        Ok(match &record.work {
            Some(StoredWork::DrainCluster(drain)) => Some(Self::Drain(Drain::new(&task.project, drain))),
            Some(StoredWork::DeleteProject(delete)) => Some(Self::Delete(Deletion::new(delete)?)),
            Some(StoredWork::RelabelNodes(relabel)) => {
                Some(Self::Relabel(Relabel::new(&task.project, relabel)?))
            }
            Some(StoredWork::PrefetchImages(prefetch)) => {
                Some(Self::Prefetch(Prefetch::new(task, record.run, prefetch)?))
            }
            None => None,
        })
    }

    /// The steps that there are now. Those that are done may be among them.
    pub(super) fn steps(&self, env: &Env) -> BTreeSet<String> {
        match self {
            Self::Drain(drain) => drain.steps(env),
            Self::Delete(deletion) => deletion.steps(),
            Self::Relabel(relabel) => relabel.steps(env),
            Self::Prefetch(prefetch) => prefetch.steps(env),
        }
    }

    /// What is done ahead of the steps that are left, whenever a worker begins. It may fail: what matters of it is done by the steps again.
    pub(super) async fn prepare(&mut self, left: &[String], hands: &Hands<'_>) -> Result<(), Fault> {
        match self {
            Self::Drain(drain) => drain.cordon(left, hands).await,
            Self::Prefetch(prefetch) => prefetch.ask(hands).await,
            Self::Delete(_) | Self::Relabel(_) => Ok(()),
        }
    }

    /// Does a step, or looks how it comes along. `begun`: as the journal says.
    pub(super) async fn step(&mut self, step: &str, begun: bool, hands: &Hands<'_>) -> Result<Did, Fault> {
        match self {
            Self::Drain(drain) => drain.step(step, begun, hands).await,
            Self::Delete(deletion) => deletion.step(hands).await,
            Self::Relabel(relabel) => relabel.step(step, hands).await,
            Self::Prefetch(prefetch) => prefetch.step(step, hands).await,
        }
    }

    /// What is done when all has ended otherwise than well. Again changes nothing.
    pub(super) async fn give_up(&self, hands: &Hands<'_>) -> Result<(), Fault> {
        match self {
            Self::Prefetch(prefetch) => prefetch.end(hands).await,
            Self::Drain(_) | Self::Delete(_) | Self::Relabel(_) => Ok(()),
        }
    }

    /// What came of so many steps, as "3 of 5 members drained".
    pub(super) fn summary(&self, env: &Env, done: u64, total: u64) -> String {
        let counted = match self {
            Self::Drain(_) => "members drained",
            Self::Delete(_) => "projects deleted",
            Self::Relabel(_) => "nodes labelled",
            Self::Prefetch(prefetch) => return prefetch.summary(env),
        };
        format!("{done} of {total} {counted}")
    }
}
