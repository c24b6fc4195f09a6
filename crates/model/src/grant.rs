//! Time-boxed grants: who may use a verb of the relay for a while without the role that it takes. Pure; whose a grant is, is known by who
//! holds them together with users and groups.

use std::fmt;
use std::time::SystemTime;

use crate::{AppRef, GrantRef, InvalidName, NodeRef, ProjectName};

/// What can be granted: a verb of the relay.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Verb {
    /// What instances, or the agent of a node, write.
    Logs,
    /// A command in an instance, or beside it.
    Exec,
    /// Connections to ports of an instance.
    PortForward,
    /// Files into an instance and out of it.
    Copy,
    /// A command on a node itself.
    NodeShell,
}

impl Verb {
    /// All of them.
    pub const ALL: [Self; 5] = [Self::Logs, Self::Exec, Self::PortForward, Self::Copy, Self::NodeShell];

    /// As lists of channels name it.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Logs => "logs",
            Self::Exec => "exec",
            Self::PortForward => "port-forward",
            Self::Copy => "copy",
            Self::NodeShell => "node-shell",
        }
    }

    /// The verb of that name.
    pub fn parse(text: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|verb| verb.as_str() == text)
    }

    /// Whether there is such a verb of what `target` names itself. All there is in a project includes both.
    pub fn is_of(self, target: &GrantTarget) -> bool {
        match target {
            GrantTarget::Project(_) => true,
            GrantTarget::App(_) => self != Self::NodeShell,
            GrantTarget::Node(_) => matches!(self, Self::NodeShell | Self::Logs),
        }
    }
}

impl fmt::Display for Verb {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// What a grant is about.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum GrantTarget {
    /// All that is in a project.
    Project(ProjectName),
    /// The instances of an app.
    App(AppRef),
    /// A node itself, and not what runs there.
    Node(NodeRef),
}

impl GrantTarget {
    /// Parses `projects/<project>`, `projects/<project>/apps/<app>` or `projects/<project>/nodes/<node>`.
    pub fn parse(text: &str) -> Result<Self, InvalidName> {
        let node = || NodeRef::parse(text).map(Self::Node);
        let project = || ProjectName::parse_parent(text).map(Self::Project);
        let form = |_| InvalidName::Form {
            form: "projects/<project>, projects/<project>/apps/<app> or projects/<project>/nodes/<node>",
            text: text.chars().take(160).collect(),
        };
        AppRef::parse(text).map(Self::App).or_else(|_| node()).or_else(|_| project()).map_err(form)
    }

    /// The tenant.
    pub fn project(&self) -> &ProjectName {
        match self {
            Self::Project(project) => project,
            Self::App(app) => &app.project,
            Self::Node(node) => &node.project,
        }
    }

    /// Whether what a request names is this, or in it.
    pub fn covers(&self, named: &str) -> bool {
        match self {
            Self::Project(project) => ProjectName::of_resource(named).is_ok_and(|of| of == *project),
            Self::App(app) => AppRef::parse(named).is_ok_and(|named| named == *app),
            Self::Node(node) => NodeRef::parse(named).is_ok_and(|named| named == *node),
        }
    }
}

impl fmt::Display for GrantTarget {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Project(project) => f.write_str(&project.parent()),
            Self::App(app) => app.fmt(f),
            Self::Node(node) => node.fmt(f),
        }
    }
}

/// A grant, as it is held by each of those whose it is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Grant {
    /// Which.
    pub name: GrantRef,
    /// What it lets them do.
    pub verbs: Vec<Verb>,
    /// Where.
    pub target: GrantTarget,
    /// From when on it does not hold.
    pub not_after: SystemTime,
}

impl Grant {
    /// Whether it still holds.
    pub fn holds(&self, now: SystemTime) -> bool {
        now < self.not_after
    }

    /// Whether it lets them use `verb` on what a request names.
    pub fn allows(&self, verb: Verb, named: &str, now: SystemTime) -> bool {
        self.holds(now) && self.verbs.contains(&verb) && self.target.covers(named)
    }

    /// The one of `grants` that lets them do that for longest.
    pub fn longest<'a>(grants: &'a [Self], verb: Verb, named: &str, now: SystemTime) -> Option<&'a Self> {
        let allowing = grants.iter().filter(|grant| grant.allows(verb, named, now));
        allowing.max_by_key(|grant| grant.not_after)
    }
}

#[cfg(test)]
mod tests;
