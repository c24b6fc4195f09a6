//! The name of a job: a service in a cluster.

use std::fmt;

use skerry_model::{AppName, ClusterName, InstanceName, ServiceName};

/// A service that is a job, in a cluster.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct JobName {
    app: AppName,
    service: ServiceName,
    cluster: ClusterName,
}

impl JobName {
    pub(crate) fn of(instance: &InstanceName) -> Self {
        let InstanceName { app, service, cluster, ordinal: _ } = instance.clone();
        Self { app, service, cluster }
    }

    pub(super) fn parse(text: &str) -> Option<Self> {
        InstanceName::parse(&format!("{text}/0")).ok().map(|first| Self::of(&first))
    }

    pub(super) fn instance(&self, ordinal: u32) -> InstanceName {
        let Self { app, service, cluster } = self.clone();
        InstanceName { app, service, cluster, ordinal }
    }
}

impl fmt::Display for JobName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}/{}", self.app, self.service, self.cluster)
    }
}
