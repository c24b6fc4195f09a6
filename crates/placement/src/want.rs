//! A service that a cluster shall have: what its instances need, and which members they may be on.

use std::collections::BTreeMap;

use skerry_model::app::{Failover, Kind, ServiceSpec};
use skerry_model::{
    AppName, ClusterName, ConfigName, ContentHash, InstanceName, SealId, SecretName, TaintEffect,
};

use crate::books::{Placed, SealedSecret};
use crate::gpu;
use crate::reach::Reach;
use crate::reason::Reason;
use crate::state::{Node, Secret, Wanted};

/// A service that a cluster shall have.
pub(crate) struct Want<'a> {
    pub(crate) name: &'a AppName,
    pub(crate) app: &'a Wanted,
    /// How much of the cluster the app goes to.
    pub(crate) reach: Reach,
    pub(crate) service: &'a ServiceSpec,
    /// Its place among the app's services, in which each comes after those that it depends on.
    pub(crate) rank: usize,
    /// The services that it depends on, as indices of all that the cluster shall have.
    pub(crate) needs: Vec<usize>,
}

impl Want<'_> {
    pub(crate) fn instance(&self, cluster: &ClusterName, ordinal: u32) -> InstanceName {
        InstanceName {
            app: self.name.clone(),
            service: self.service.name.clone(),
            cluster: cluster.clone(),
            ordinal,
        }
    }

    /// Whether its instances leave a node that is lost.
    pub(crate) fn fails_over(&self) -> bool {
        matches!(self.service.kind, Kind::Deployment { .. })
            && self.service.placing.failover == Failover::Always
    }

    /// Whether its instances leave a GPU that is sick: what starts anew elsewhere.
    pub(crate) fn leaves_sick_gpus(&self) -> bool {
        !self.service.is_job() && self.service.placing.failover == Failover::Always
    }

    /// Whether its instances may be on a node at all.
    pub(crate) fn may_be_on(&self, node: &Node) -> Result<(), Reason> {
        if let Some(label) = self.reach.lacks(&node.labels) {
            return Err(Reason::NotChosen { label: label.to_owned() });
        }
        let placing = &self.service.placing;
        if !placing.node_selector.matches(&node.labels) {
            return Err(Reason::NodeSelectorMismatch { selector: placing.node_selector.clone() });
        }
        if node.architecture.is_some() {
            self.suits(node)?;
        }
        match placing.unborne(&node.taints, TaintEffect::NoExecute) {
            Some(taint) => Err(Reason::Tainted { taint: taint.clone() }),
            None => Ok(()),
        }
    }

    /// Whether new instances may come to a node: beside [`Self::may_be_on`], what drives nobody out.
    pub(crate) fn may_come_to(&self, node: &Node) -> Result<(), Reason> {
        self.may_be_on(node)?;
        self.suits(node)?;
        if let Some(taint) = self.service.placing.unborne(&node.taints, TaintEffect::NoSchedule) {
            return Err(Reason::Tainted { taint: taint.clone() });
        }
        if node.cordoned { Err(Reason::NodeCordoned) } else { Ok(()) }
    }

    fn suits(&self, node: &Node) -> Result<(), Reason> {
        let wanted = &self.service.placing.architectures;
        if wanted.is_empty() || node.architecture.as_ref().is_some_and(|found| wanted.contains(found)) {
            return Ok(());
        }
        Err(Reason::ArchitectureMismatch { wanted: wanted.clone(), found: node.architecture.clone() })
    }

    /// What of it is wanting wherever it went, if anything is.
    pub(crate) fn lacks(&self) -> Option<Reason> {
        let secret = |name: &SecretName| match self.app.secrets.get(name) {
            None => Some(Reason::SecretMissing { secret: name.clone() }),
            Some(Secret { unreadable: Some(why), .. }) => {
                Some(Reason::SecretUnreadable { secret: name.clone(), why: why.clone() })
            }
            Some(_) => None,
        };
        self.configs().err().or_else(|| self.service.secret_names().into_iter().find_map(secret))
    }

    /// The configs at their current content, or the first that does not exist.
    pub(crate) fn configs(&self) -> Result<BTreeMap<ConfigName, ContentHash>, Reason> {
        self.service
            .config_names()
            .into_iter()
            .map(|name| match self.app.configs.get(name) {
                Some(hash) => Ok((name.clone(), *hash)),
                None => Err(Reason::ConfigMissing { config: name.clone() }),
            })
            .collect()
    }

    /// The secrets at their current values, sealed to a node, or the first that cannot be.
    pub(crate) fn secrets(&self, seal: Option<SealId>) -> Result<BTreeMap<SecretName, SealedSecret>, Reason> {
        let sealed = |name: &SecretName| {
            let secret = name.clone();
            match (self.app.secrets.get(name), seal) {
                (None, _) => Err(Reason::SecretMissing { secret }),
                (Some(_), None) => Err(Reason::NodeHasNoSealingKey { secret }),
                (Some(Secret { unreadable: Some(why), .. }), _) => {
                    Err(Reason::SecretUnreadable { secret, why: why.clone() })
                }
                (Some(Secret { version, .. }), Some(seal)) => {
                    Ok((secret, SealedSecret { version: *version, seal }))
                }
            }
        };
        self.service.secret_names().into_iter().map(sealed).collect()
    }

    pub(crate) fn is_met_by(&self, placed: &Placed, seal: Option<SealId>) -> bool {
        // What cannot be sealed now need not be, where the node has it.
        let has = |secret: &Secret, placed: &SealedSecret| {
            secret.version == placed.version
                && (secret.unreadable.is_some() || seal.is_none_or(|seal| seal == placed.seal))
        };
        let names = self.service.secret_names();
        let has_secrets = names.len() == placed.secrets.len()
            && names.iter().all(|name| {
                self.app.secrets.get(*name).zip(placed.secrets.get(*name)).is_some_and(|(a, b)| has(a, b))
            });
        placed.revision == self.app.revision
            && has_secrets
            && gpu::is_met(self.service.gpu.as_ref(), &placed.gpus)
            && self.configs().is_ok_and(|configs| configs == placed.configs)
    }
}
