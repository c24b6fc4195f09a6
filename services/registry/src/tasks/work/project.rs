//! A project is deleted, as by hand, as soon as it is empty: one step.

use std::collections::BTreeSet;
use std::time::Duration;

use skerry_api::{Delete, Etag, Tries, delete_for};
use skerry_model::{Code, Fault, ProjectRef};
use skerry_proto::store::v1 as stored;
use skerry_store::Key;

use super::{Did, Hands};
use crate::projects::NOT_EMPTY;

/// Between two looks whether it is empty.
const LOOK_AGAIN: Duration = Duration::from_secs(1);

/// Which one.
pub(in crate::tasks) struct Deletion {
    name: ProjectRef,
    uid: String,
}

impl Deletion {
    pub(super) fn new(wanted: &stored::DeleteProjectRecord) -> Result<Self, Fault> {
        Ok(Self { name: ProjectRef::parse_short(&wanted.project)?, uid: wanted.uid.clone() })
    }

    pub(super) fn steps(&self) -> BTreeSet<String> {
        [self.name.project.to_string()].into()
    }

    pub(super) async fn step(&self, hands: &Hands<'_>) -> Result<Did, Fault> {
        let key = Key::<stored::ProjectRecord>::of(&self.name);
        let mut tries = Tries::default();
        loop {
            // It is gone, or a namesake came since, which nobody wants deleted.
            let read = hands.env.store.get(&key).await?;
            let is_it = |uid: &str| uid == self.uid;
            let found = read.filter(|read| read.value.meta.as_ref().is_some_and(|meta| is_it(&meta.uid)));
            let Some(read) = found else { return Ok(Did::Done { written: false }) };
            let etag = Etag { mod_revision: read.mod_revision }.to_string();
            let closed = hands.env.projects.close(&self.name, &etag, hands.caused, hands.held).await;
            let outcome = match closed {
                Ok(etag) => {
                    let name = self.name.to_string();
                    let delete = Delete { name: &name, etag: &etag };
                    delete_for(&hands.env.projects, hands.caused, delete, hands.done).await
                }
                Err(fault) if fault.reason == NOT_EMPTY => {
                    return Ok(Did::Waits(fault.message, LOOK_AGAIN));
                }
                Err(fault) => Err(fault),
            };
            match outcome {
                Ok(()) => return Ok(Did::Done { written: true }),
                Err(fault) if matches!(fault.code, Code::Aborted | Code::NotFound) => {
                    tries.again(&self.name).await?;
                }
                Err(fault) => return Err(fault),
            }
        }
    }
}
