//! Where the ports of a container are: on the machine's network, or on its own, which the processes in it have.

use super::client::{Client, LOOK_DEADLINE};
use super::error::{Failure, Kind};
use crate::runtime::{Observed, Reach, RuntimeError};

/// Of a container that runs.
pub(super) async fn of(client: &Client, copy: &Observed) -> Result<Reach, RuntimeError> {
    copy.check_runs()?;
    let failed = |failure: Failure| {
        let reason = if failure.kind == Kind::NotFound { "NotRunning" } else { "InspectFailed" };
        failure.while_doing(&format!("looking where the ports of {} are", copy.instance), reason)
    };
    let docker = client.docker().await.map_err(failed)?;
    let seen = client.within(LOOK_DEADLINE, docker.inspect_container(&copy.runtime_id, None)).await;
    let seen = seen.map_err(failed)?;
    if seen.host_config.and_then(|host| host.network_mode).as_deref() == Some("host") {
        return Ok(Reach::Machine);
    }
    let pid = seen.state.and_then(|state| state.pid).and_then(|pid| i32::try_from(pid).ok());
    Ok(Reach::Own {
        // 0 where it ended meanwhile.
        pid: pid.filter(|pid| *pid > 0),
        cgroup: copy.runtime_id.clone(),
        address: copy.address,
    })
}
