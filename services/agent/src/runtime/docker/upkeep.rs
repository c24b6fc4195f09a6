//! What takes room and nobody needs any more: images that this agent pulled, and volumes that go with their app.
//!
//! What cannot be seen by looking at Docker is kept in a file of the agent's: which images it pulled, and what was last said of volumes.

use super::DockerRuntime;
use crate::runtime::{Needs, Progress, RuntimeError, VolumeWords};

mod decide;
mod images;
mod kept;
mod volumes;

pub use decide::ImageGc;
pub(super) use images::id_of;
pub(super) use kept::Kept;

impl DockerRuntime {
    /// Keeps in mind what is said of volumes.
    pub(super) async fn note_volumes(&self, said: &VolumeWords) -> Result<(), RuntimeError> {
        volumes::note(&self.owner, &self.kept, said).await
    }

    /// Removes what `needs` does not have. Answers what was removed, and where that does not help, for people. Where one kind cannot be, the other goes all the same: on a
    /// full disk nothing can be kept of volumes until images have gone.
    pub(super) async fn collect_all(&self, needs: &Needs) -> Result<Vec<Progress>, RuntimeError> {
        let volumes = volumes::collect(&self.client, &self.owner, &self.kept, needs).await;
        let volumes = volumes.map(|told| told.into_iter().collect());
        let images = images::collect(&self.client, &self.kept, self.image_gc, needs).await;
        let (mut told, mut failed) = (Vec::new(), None);
        for collected in [volumes, images] {
            match collected {
                Ok(removed) => told.extend(removed),
                Err(error) => failed = failed.or(Some(error)),
            }
        }
        match failed {
            Some(error) if told.is_empty() => Err(error),
            Some(error) => {
                tracing::warn!(%error, "cannot free all room");
                Ok(told)
            }
            None => Ok(told),
        }
    }
}

/// A few names, for a message.
fn names(names: &[String]) -> String {
    /// More than these are only counted.
    const NAMED_MAX: usize = 8;
    skerry_model::few(names, NAMED_MAX)
}
