//! `TYPE/NAME` as people type it.

use std::fmt;

use skerry_manifest::nearest;
use skerry_model::{
    AppRef, ClusterRef, ConfigRef, GrantRef, GroupRef, NodeRef, ProjectName, ProjectRef, RoleBindingRef,
    SecretRef, TaskRef, UserRef,
};

use crate::error::CliError;
use crate::foreign;

/// What can be asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Type {
    Node,
    Cluster,
    App,
    Config,
    Secret,
    Instance,
    Revision,
    Event,
    User,
    Group,
    RoleBinding,
    Grant,
    Project,
    Task,
    Gpu,
    Allocation,
}

impl Type {
    /// All of them, in the order in which they are told.
    pub(crate) const ALL: [Self; 16] = [
        Self::Node,
        Self::Cluster,
        Self::App,
        Self::Config,
        Self::Secret,
        Self::Instance,
        Self::Revision,
        Self::Event,
        Self::User,
        Self::Group,
        Self::RoleBinding,
        Self::Grant,
        Self::Project,
        Self::Task,
        Self::Gpu,
        Self::Allocation,
    ];

    pub(crate) fn parse(text: &str) -> Result<Self, CliError> {
        Ok(match text.to_ascii_lowercase().as_str() {
            "nodes" | "node" | "no" => Self::Node,
            "clusters" | "cluster" => Self::Cluster,
            "apps" | "app" => Self::App,
            "configs" | "config" | "cfg" => Self::Config,
            "secrets" | "secret" => Self::Secret,
            "instances" | "instance" | "inst" => Self::Instance,
            "revisions" | "revision" | "rev" => Self::Revision,
            "events" | "event" | "ev" => Self::Event,
            "users" | "user" => Self::User,
            "groups" | "group" => Self::Group,
            "rolebindings" | "rolebinding" | "rb" => Self::RoleBinding,
            "grants" | "grant" => Self::Grant,
            "projects" | "project" | "proj" => Self::Project,
            "tasks" | "task" => Self::Task,
            "gpus" | "gpu" => Self::Gpu,
            "allocations" | "allocation" | "alloc" => Self::Allocation,
            _ => {
                let known = Self::ALL.map(Self::plural);
                let hint = match (foreign::listed_by(text), foreign::type_of(text)) {
                    (Some(command), _) => format!("`{command}` shows these"),
                    (None, Some(near)) => format!("did you mean {near}?"),
                    (None, None) => match nearest(text, known) {
                        Some(near) => format!("did you mean {near}?"),
                        None => format!("known: {}", known.join(", ")),
                    },
                };
                return Err(CliError::Usage(format!("there is no type {text:?}; {hint}")));
            }
        })
    }

    /// Whether servers stream its changes. What they do not is asked for again and again.
    pub(crate) fn is_streamed(self) -> bool {
        match self {
            Self::Node
            | Self::Cluster
            | Self::App
            | Self::Config
            | Self::Secret
            | Self::Event
            | Self::Project
            | Self::Task
            | Self::Gpu => true,
            Self::Instance
            | Self::Revision
            | Self::User
            | Self::Group
            | Self::RoleBinding
            | Self::Grant
            | Self::Allocation => false,
        }
    }

    /// As in `app/hello`.
    pub(crate) fn singular(self) -> &'static str {
        match self {
            Self::Node => "node",
            Self::Cluster => "cluster",
            Self::App => "app",
            Self::Config => "config",
            Self::Secret => "secret",
            Self::Instance => "instance",
            Self::Revision => "revision",
            Self::Event => "event",
            Self::User => "user",
            Self::Group => "group",
            Self::RoleBinding => "rolebinding",
            Self::Grant => "grant",
            Self::Project => "project",
            Self::Task => "task",
            Self::Gpu => "gpu",
            Self::Allocation => "allocation",
        }
    }

    /// As in "no apps".
    pub(crate) fn plural(self) -> &'static str {
        match self {
            Self::Node => "nodes",
            Self::Cluster => "clusters",
            Self::App => "apps",
            Self::Config => "configs",
            Self::Secret => "secrets",
            Self::Instance => "instances",
            Self::Revision => "revisions",
            Self::Event => "events",
            Self::User => "users",
            Self::Group => "groups",
            Self::RoleBinding => "rolebindings",
            Self::Grant => "grants",
            Self::Project => "projects",
            Self::Task => "tasks",
            Self::Gpu => "gpus",
            Self::Allocation => "allocations",
        }
    }
}

/// One resource: a type and a short name within the project.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Target {
    pub(crate) kind: Type,
    pub(crate) name: String,
}

impl Target {
    /// Of the full resource name: `projects/p/apps/hello`.
    pub(crate) fn of_full_name(kind: Type, full: &str) -> Self {
        Self { kind, name: full.rsplit('/').next().unwrap_or_default().to_owned() }
    }

    /// A node where nothing else can be meant: `n1`, `node/n1` or `nodes/n1`.
    pub(crate) fn node(word: &str) -> Self {
        let name = word.strip_prefix("node/").or(word.strip_prefix("nodes/")).unwrap_or(word);
        Self { kind: Type::Node, name: name.to_owned() }
    }

    /// The full resource name, for the kinds that have one of this form.
    pub(crate) fn full_name(&self, project: &ProjectName) -> Result<String, CliError> {
        let name = match self.kind {
            Type::Node => NodeRef::parse_in(project, &self.name).map(|name| name.to_string()),
            Type::Cluster => ClusterRef::parse_in(project, &self.name).map(|name| name.to_string()),
            Type::App => AppRef::parse_in(project, &self.name).map(|name| name.to_string()),
            Type::Config => ConfigRef::parse_in(project, &self.name).map(|name| name.to_string()),
            Type::Secret => SecretRef::parse_in(project, &self.name).map(|name| name.to_string()),
            Type::User => UserRef::parse_in(project, &self.name).map(|name| name.to_string()),
            Type::Group => GroupRef::parse_in(project, &self.name).map(|name| name.to_string()),
            Type::RoleBinding => RoleBindingRef::parse_in(project, &self.name).map(|name| name.to_string()),
            Type::Grant => GrantRef::parse_in(project, &self.name).map(|name| name.to_string()),
            Type::Task => TaskRef::parse_in(project, &self.name).map(|name| name.to_string()),
            Type::Project => ProjectRef::parse_short(&self.name).map(|name| name.to_string()),
            Type::Instance => return Ok(format!("{}/instances/{}", project.parent(), self.name)),
            Type::Gpu => return crate::gpus::full_name(project, &self.name),
            Type::Allocation => {
                let message = "allocations are of apps, and only listed: skerry get allocations";
                return Err(CliError::Usage(message.to_owned()));
            }
            Type::Revision | Type::Event => {
                return Err(CliError::Usage(format!("{} cannot be named here", self.kind.plural())));
            }
        };
        name.map_err(|error| CliError::Usage(error.to_string()))
    }

    /// `TYPE/NAME` alone.
    pub(crate) fn parse(text: &str) -> Result<Self, CliError> {
        match parse_all(&[text.to_owned()])?.as_slice() {
            [one] => Ok(one.clone()),
            _ => Err(CliError::Usage(format!("write TYPE/NAME, not {text:?}"))),
        }
    }
}

impl fmt::Display for Target {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // A full name says its project, which is the reader's own or was just typed.
        let short = match self.name.strip_prefix("projects/") {
            Some(full) => full.rsplit('/').next().unwrap_or(full),
            None => &self.name,
        };
        write!(f, "{}/{short}", self.kind.singular())
    }
}

/// A type with all its resources, or some by name.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Selection {
    All(Type),
    Named(Vec<Target>),
}

/// Reads `TYPE`, `TYPE NAME...` or `TYPE/NAME...`.
pub(crate) fn parse_selection(words: &[String]) -> Result<Selection, CliError> {
    match words {
        [kind] if !kind.contains('/') => Ok(Selection::All(Type::parse(kind)?)),
        _ => parse_all(words).map(Selection::Named),
    }
}

/// Reads `TYPE NAME...` or `TYPE/NAME...`; at least one.
pub(crate) fn parse_all(words: &[String]) -> Result<Vec<Target>, CliError> {
    let Some((first, rest)) = words.split_first() else {
        return Err(CliError::Usage("name what is meant: TYPE/NAME".into()));
    };
    let named = |kind: Type, name: &str| {
        if name.is_empty() {
            return Err(CliError::Usage(format!("name the {}: {}/NAME", kind.singular(), kind.singular())));
        }
        Ok(Target { kind, name: name.to_owned() })
    };
    if first.contains('/') {
        return words
            .iter()
            .map(|word| match word.split_once('/') {
                Some((kind, name)) => named(Type::parse(kind)?, name),
                None => Err(CliError::Usage(format!("write TYPE/NAME, not {word:?}, after {first:?}"))),
            })
            .collect();
    }
    let kind = Type::parse(first)?;
    if rest.is_empty() {
        return Err(CliError::Usage(format!("name the {}: {}/NAME", kind.singular(), kind.singular())));
    }
    // `instance hello/web/n1/0` has slashes in its name; `node node/n1` would be a slip.
    rest.iter().map(|name| named(kind, name)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn words(text: &str) -> Vec<String> {
        text.split_whitespace().map(str::to_owned).collect()
    }

    fn shown(text: &str) -> String {
        match parse_selection(&words(text)) {
            Ok(Selection::All(kind)) => format!("all {}", kind.plural()),
            Ok(Selection::Named(targets)) => {
                targets.iter().map(ToString::to_string).collect::<Vec<_>>().join(" ")
            }
            Err(error) => error.text().expect("printed").trim().to_owned(),
        }
    }

    #[test]
    fn types_and_names_are_read_as_kubectl_reads_them() {
        assert_eq!(shown("no"), "all nodes");
        assert_eq!(shown("app/hello node/n1"), "app/hello node/n1");
        assert_eq!(shown("cfg a b"), "config/a config/b");
        assert_eq!(shown("instance/hello/web/n1/0"), "instance/hello/web/n1/0");
        assert_eq!(shown("instances hello/web"), "instance/hello/web");
        assert_eq!(
            shown("nonsense"),
            "error: there is no type \"nonsense\"; known: nodes, clusters, apps, configs, secrets, instances, revisions, events, users, groups, rolebindings, grants, projects, tasks, gpus, allocations"
        );
        assert_eq!(shown("tokens"), "error: there is no type \"tokens\"; `skerry token list` shows these");
        assert_eq!(shown("pods"), "error: there is no type \"pods\"; did you mean instances?");
        assert_eq!(shown("proj a"), "project/a");
        assert_eq!(shown("nods"), "error: there is no type \"nods\"; did you mean nodes?");
        assert_eq!(shown("app/"), "error: name the app: app/NAME");
        assert_eq!(shown("app/a b"), "error: write TYPE/NAME, not \"b\", after \"app/a\"");
    }

    #[test]
    fn names_are_checked_before_anything_is_sent() {
        let project = ProjectName::parse("p").expect("valid");
        let target = |name: &str| Target { kind: Type::App, name: name.into() };
        assert_eq!(target("hello").full_name(&project).expect("valid"), "projects/p/apps/hello");
        assert!(target("Hello").full_name(&project).is_err());
        let full = target("projects/q/apps/hello");
        assert_eq!(full.full_name(&project).expect("valid"), "projects/q/apps/hello");
        assert_eq!(full.to_string(), "app/hello");
        let of_project = |name: &str| Target { kind: Type::Project, name: name.into() };
        for name in ["shop", "projects/shop"] {
            let target = of_project(name);
            assert_eq!(target.full_name(&project).expect("valid"), "projects/shop");
            assert_eq!(target.to_string(), "project/shop");
        }
    }
}
