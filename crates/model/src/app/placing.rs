//! From the wire to `Placing`: which nodes of a cluster a service may be on, and which of them is taken.

use skerry_proto::types::v1 as pb;

use crate::taint::{Taint, TaintEffect, Toleration};
use crate::{Selector, Violations};

use super::parse::bound;
use super::rollout::{Share, share};

/// Most architectures that are named.
const ARCHITECTURES_MAX: usize = 16;
/// The highest priority, and below zero the lowest.
const PRIORITY_MAX: i32 = 1000;

/// Which nodes of a cluster a service may be on, and which of them is taken.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Placing {
    /// Nodes that it may be on, by their labels.
    pub node_selector: Selector,
    /// Taints that it bears.
    pub tolerations: Vec<Toleration>,
    /// Architectures that it may be on, as Docker names them. Empty: any.
    pub architectures: Vec<String>,
    /// Where the next copy of a `Deployment` goes.
    pub spread: Spread,
    /// What becomes of copies of a `Deployment` on a node that cannot be reached.
    pub failover: Failover,
    /// Copies of a `Deployment` that a drain may make unready at once. Absent: all.
    pub max_unavailable: Option<Share>,
    /// Of what is new, what has more comes first: -1000 to 1000.
    pub priority: i32,
}

/// Where the next copy goes.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Spread {
    /// Where fewest copies are, of these where most is free.
    #[default]
    Spread,
    /// Where least is free.
    Pack,
}

/// What becomes of copies on a node that cannot be reached.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Failover {
    /// They go to other nodes of the cluster.
    #[default]
    Always,
    /// They stay.
    Never,
}

impl Placing {
    /// The first taint of these with the effect that is not borne.
    pub fn unborne<'a>(&self, taints: &'a [Taint], effect: TaintEffect) -> Option<&'a Taint> {
        let of_effect = |taint: &&Taint| taint.effect == effect;
        let borne = |taint: &&Taint| self.tolerations.iter().any(|toleration| toleration.bears(taint));
        taints.iter().filter(of_effect).find(|taint| !borne(taint))
    }
}

/// `at` is the service's path.
pub(super) fn parse(at: &str, service: &pb::ServiceSpec, v: &mut Violations) -> Placing {
    let node_selector =
        Selector::from_proto(&format!("{at}.node_selector"), service.node_selector.as_ref(), v);
    bound(&format!("{at}.tolerations"), service.tolerations.len(), v);
    let tolerations = service.tolerations.iter().enumerate();
    let tolerations = tolerations
        .map(|(n, one)| Toleration::from_proto(&format!("{at}.tolerations[{n}]"), one, v))
        .collect();
    check_architectures(&format!("{at}.architectures"), &service.architectures, v);
    let priority = service.priority;
    if !(-PRIORITY_MAX..=PRIORITY_MAX).contains(&priority) {
        v.add(
            format!("{at}.priority"),
            format!("{priority} is out of range: -{PRIORITY_MAX} to {PRIORITY_MAX}"),
        );
    }
    let failover = match pb::Failover::try_from(service.failover) {
        Ok(pb::Failover::Unspecified | pb::Failover::Always) => Failover::Always,
        Ok(pb::Failover::Never) => Failover::Never,
        Err(_) => {
            v.add(format!("{at}.failover"), "use always or never");
            Failover::Never
        }
    };
    let spread = parse_spread(at, service.kind.as_ref(), v);
    Placing {
        node_selector,
        tolerations,
        architectures: service.architectures.clone(),
        spread,
        failover,
        max_unavailable: parse_max_unavailable(at, service.kind.as_ref(), v),
        priority,
    }
}

fn parse_spread(at: &str, kind: Option<&pb::service_spec::Kind>, v: &mut Violations) -> Spread {
    use pb::deployment::Spread as Wire;
    let Some(pb::service_spec::Kind::Deployment(deployment)) = kind else { return Spread::default() };
    match Wire::try_from(deployment.spread) {
        Ok(Wire::Unspecified | Wire::Spread) => Spread::Spread,
        Ok(Wire::Pack) => Spread::Pack,
        Err(_) => {
            v.add(format!("{at}.deployment.spread"), "use spread or pack");
            Spread::default()
        }
    }
}

fn parse_max_unavailable(
    at: &str,
    kind: Option<&pb::service_spec::Kind>,
    v: &mut Violations,
) -> Option<Share> {
    let Some(pb::service_spec::Kind::Deployment(deployment)) = kind else { return None };
    share(&format!("{at}.deployment.max_unavailable"), &deployment.max_unavailable, 1, v)
}

fn check_architectures(at: &str, names: &[String], v: &mut Violations) {
    if names.len() > ARCHITECTURES_MAX {
        v.add(at, format!("{} are too many: at most {ARCHITECTURES_MAX}", names.len()));
        return;
    }
    let fine = |name: &str| {
        let known = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit();
        (1..=16).contains(&name.len()) && name.bytes().all(known)
    };
    for (n, name) in names.iter().enumerate() {
        match name.as_str() {
            "x86_64" | "x86-64" => v.add(format!("{at}[{n}]"), "Docker's name of it is meant: write amd64"),
            "aarch64" => v.add(format!("{at}[{n}]"), "Docker's name of it is meant: write arm64"),
            name if !fine(name) => {
                v.add(
                    format!("{at}[{n}]"),
                    "name an architecture as Docker does: amd64, arm64, arm, riscv64",
                );
            }
            _ if names[..n].contains(name) => v.add(format!("{at}[{n}]"), format!("`{name}` is there twice")),
            _ => {}
        }
    }
}
