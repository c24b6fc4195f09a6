//! Ending what runs: asked, or not.

use skerry_model::InstanceName;

use super::Copy;
use crate::runtime::RuntimeError;
use crate::runtime::docker::DockerRuntime;
use crate::runtime::docker::client::STOP_MARGIN;
use crate::runtime::docker::error::{Failure, Kind};
use crate::runtime::docker::observe::is_running;

impl DockerRuntime {
    /// Stops all copies, and leaves them there.
    pub(in crate::runtime::docker) async fn stop_all(
        &self,
        instance: &InstanceName,
    ) -> Result<(), RuntimeError> {
        for copy in self.copies(instance).await? {
            self.stop_one(instance, &copy).await?;
        }
        Ok(())
    }

    /// Kills all copies, and leaves them there.
    pub(in crate::runtime::docker) async fn kill_all(
        &self,
        instance: &InstanceName,
    ) -> Result<(), RuntimeError> {
        for copy in self.copies(instance).await?.iter().filter(|copy| is_running(copy.state)) {
            let failed = |failure: Failure| failure.while_doing(&format!("killing {instance}"), "StopFailed");
            let docker = self.client.docker().await.map_err(failed)?;
            ended(self.client.within(STOP_MARGIN, docker.kill_container(&copy.id, None)).await)
                .map_err(failed)?;
        }
        Ok(())
    }

    /// Stops one copy, if it runs.
    pub(super) async fn stop_one(&self, instance: &InstanceName, copy: &Copy) -> Result<(), RuntimeError> {
        if !is_running(copy.state) {
            return Ok(());
        }
        let failed = |failure: Failure| failure.while_doing(&format!("stopping {instance}"), "StopFailed");
        let docker = self.client.docker().await.map_err(failed)?;
        // Signal and grace are the container's own.
        let stopped = docker.stop_container(&copy.id, None);
        ended(self.client.within(copy.grace + STOP_MARGIN, stopped).await).map_err(failed)
    }
}

/// What is gone, or does not run, has ended.
fn ended(answer: Result<(), Failure>) -> Result<(), Failure> {
    match answer {
        Err(Failure { kind: Kind::NotFound | Kind::NotRunning | Kind::BeingRemoved, .. }) => Ok(()),
        answer => answer,
    }
}
