//! Names: parsed once, valid ever after.
//!
//! Every simple name is a DNS label (RFC 1123: 1 to 63 of `a-z`, `0-9`, `-`, beginning and ending with a letter or digit), so that it
//! can be a host name, a path segment and a store key without any escaping.

use std::fmt;
use std::str::FromStr;
use std::sync::Arc;

/// The longest simple name, in bytes.
pub const NAME_BYTES_MAX: usize = 63;

/// Why a text is not the name that it should be.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum InvalidName {
    /// A simple name that is no DNS label.
    #[error(
        "`{text}` is not a valid {what} name: use 1 to 63 of a-z, 0-9 and -, beginning and ending with a letter or digit"
    )]
    Label {
        /// What was being named.
        what: &'static str,
        /// The text, cut to 80 characters.
        text: String,
    },
    /// A compound name of the wrong form.
    #[error("`{text}` is not of the form `{form}`")]
    Form {
        /// The form that is wanted.
        form: &'static str,
        /// The text, cut to 160 characters.
        text: String,
    },
}

fn is_label(text: &str) -> bool {
    let bytes = text.as_bytes();
    let alnum = |b: &u8| b.is_ascii_lowercase() || b.is_ascii_digit();
    !bytes.is_empty()
        && bytes.len() <= NAME_BYTES_MAX
        && bytes.iter().all(|b| alnum(b) || *b == b'-')
        && bytes.first().is_some_and(alnum)
        && bytes.last().is_some_and(alnum)
}

fn cut(text: &str, chars: usize) -> String {
    text.chars().take(chars).collect()
}

macro_rules! label {
    ($(#[$doc:meta])* $name:ident, $what:literal) => {
        $(#[$doc])*
        #[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub struct $name(Arc<str>);

        impl $name {
            /// Parses a DNS label.
            pub fn parse(text: &str) -> Result<Self, InvalidName> {
                if is_label(text) {
                    Ok(Self(text.into()))
                } else {
                    Err(InvalidName::Label { what: $what, text: cut(text, 80) })
                }
            }

            /// The name as text.
            pub fn as_str(&self) -> &str {
                &self.0
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(&self.0)
            }
        }

        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, "{:?}", &*self.0)
            }
        }

        impl FromStr for $name {
            type Err = InvalidName;
            fn from_str(text: &str) -> Result<Self, InvalidName> {
                Self::parse(text)
            }
        }
    };
}

label!(
    /// A tenant.
    ProjectName,
    "project"
);
label!(
    /// A node, within its project.
    NodeName,
    "node"
);
label!(
    /// A cluster, within its project. A node that joined none is a cluster of one, with the node's name.
    ClusterName,
    "cluster"
);
label!(
    /// A task, within its project.
    TaskName,
    "task"
);
label!(
    /// An app, within its project.
    AppName,
    "app"
);
label!(
    /// A service, within its app.
    ServiceName,
    "service"
);
label!(
    /// A config, within its project.
    ConfigName,
    "config"
);
label!(
    /// A user, within its project.
    UserName,
    "user"
);
label!(
    /// A group of users, within its project.
    GroupName,
    "group"
);
label!(
    /// A binding of a role, within its project.
    RoleBindingName,
    "role binding"
);
label!(
    /// A time-boxed grant, within its project.
    GrantName,
    "grant"
);
label!(
    /// A secret, within its project.
    SecretName,
    "secret"
);
label!(
    /// A further network of an app, within its app and node.
    NetworkName,
    "network"
);
label!(
    /// A volume, within its app and node.
    VolumeName,
    "volume"
);

impl From<NodeName> for ClusterName {
    /// The cluster of one that a lone node makes.
    fn from(node: NodeName) -> Self {
        Self(node.0)
    }
}

macro_rules! reference {
    ($(#[$doc:meta])* $name:ident, $field:ident: $part:ident, $collection:literal, $form:literal) => {
        $(#[$doc])*
        #[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub struct $name {
            /// The tenant.
            pub project: ProjectName,
            /// The last part.
            pub $field: $part,
        }

        impl $name {
            /// Parses the full resource name.
            pub fn parse(text: &str) -> Result<Self, InvalidName> {
                let form = || InvalidName::Form { form: $form, text: cut(text, 160) };
                let mut parts = text.split('/');
                match (parts.next(), parts.next(), parts.next(), parts.next(), parts.next()) {
                    (Some("projects"), Some(project), Some($collection), Some(name), None) => {
                        Ok(Self { project: ProjectName::parse(project)?, $field: $part::parse(name)? })
                    }
                    _ => Err(form()),
                }
            }

            /// Parses the full resource name, or just its last part within `project`.
            pub fn parse_in(project: &ProjectName, text: &str) -> Result<Self, InvalidName> {
                if text.contains('/') {
                    Self::parse(text)
                } else {
                    Ok(Self { project: project.clone(), $field: $part::parse(text)? })
                }
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, concat!("projects/{}/", $collection, "/{}"), self.project, self.$field)
            }
        }
    };
}

reference!(
    /// `projects/<project>/nodes/<node>`.
    NodeRef, node: NodeName, "nodes", "projects/<project>/nodes/<node>"
);
reference!(
    /// `projects/<project>/clusters/<cluster>`.
    ClusterRef, cluster: ClusterName, "clusters", "projects/<project>/clusters/<cluster>"
);
reference!(
    /// `projects/<project>/apps/<app>`.
    AppRef, app: AppName, "apps", "projects/<project>/apps/<app>"
);
reference!(
    /// `projects/<project>/tasks/<task>`.
    TaskRef, task: TaskName, "tasks", "projects/<project>/tasks/<task>"
);
reference!(
    /// `projects/<project>/configs/<config>`.
    ConfigRef, config: ConfigName, "configs", "projects/<project>/configs/<config>"
);
reference!(
    /// `projects/<project>/users/<user>`.
    UserRef, user: UserName, "users", "projects/<project>/users/<user>"
);
reference!(
    /// `projects/<project>/groups/<group>`.
    GroupRef, group: GroupName, "groups", "projects/<project>/groups/<group>"
);
reference!(
    /// `projects/<project>/roleBindings/<binding>`.
    RoleBindingRef, binding: RoleBindingName, "roleBindings", "projects/<project>/roleBindings/<binding>"
);
reference!(
    /// `projects/<project>/grants/<grant>`.
    GrantRef, grant: GrantName, "grants", "projects/<project>/grants/<grant>"
);

reference!(
    /// `projects/<project>/secrets/<secret>`.
    SecretRef, secret: SecretName, "secrets", "projects/<project>/secrets/<secret>"
);

/// `projects/<project>/apps/<app>/revisions/<hash>`.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct RevisionRef {
    /// Of which app.
    pub app: AppRef,
    /// Which spec.
    pub hash: crate::ContentHash,
}

impl fmt::Display for RevisionRef {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/revisions/{}", self.app, self.hash)
    }
}

/// `projects/<project>`: a tenant as a resource.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ProjectRef {
    /// Which.
    pub project: ProjectName,
}

impl ProjectRef {
    /// Parses the full resource name.
    pub fn parse(text: &str) -> Result<Self, InvalidName> {
        Ok(Self { project: ProjectName::parse_parent(text)? })
    }

    /// Parses the full resource name, or just its last part.
    pub fn parse_short(text: &str) -> Result<Self, InvalidName> {
        if text.contains('/') { Self::parse(text) } else { Ok(Self { project: ProjectName::parse(text)? }) }
    }
}

impl fmt::Display for ProjectRef {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "projects/{}", self.project)
    }
}

impl ProjectName {
    /// The project that is the installation's own: roles in it hold everywhere, and its services are the control plane.
    pub const SYSTEM: &str = "system";

    /// [`Self::SYSTEM`].
    pub fn system() -> Self {
        Self(Self::SYSTEM.into())
    }

    /// Whether it is [`Self::SYSTEM`].
    pub fn is_system(&self) -> bool {
        &*self.0 == Self::SYSTEM
    }

    /// The project that is worked in where none is named.
    pub const DEFAULT: &str = "default";

    /// Whether it is always there, without anybody's doing: [`Self::SYSTEM`] and [`Self::DEFAULT`].
    pub fn is_permanent(&self) -> bool {
        self.is_system() || &*self.0 == Self::DEFAULT
    }

    /// The project of a full resource name, or of `projects/<project>` itself.
    pub fn of_resource(text: &str) -> Result<Self, InvalidName> {
        match text.strip_prefix("projects/") {
            Some(rest) => Self::parse(rest.split_once('/').map_or(rest, |(project, _)| project)),
            None => Err(InvalidName::Form { form: "projects/<project>/...", text: cut(text, 160) }),
        }
    }

    /// Parses `projects/<project>`.
    pub fn parse_parent(text: &str) -> Result<Self, InvalidName> {
        match text.strip_prefix("projects/") {
            Some(project) if !project.contains('/') => Self::parse(project),
            _ => Err(InvalidName::Form { form: "projects/<project>", text: cut(text, 160) }),
        }
    }

    /// `projects/<project>`.
    pub fn parent(&self) -> String {
        format!("projects/{self}")
    }
}

/// `<app>/<service>/<cluster>/<ordinal>`: one running copy of a service. Its project is the node's.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct InstanceName {
    /// The app.
    pub app: AppName,
    /// The service of the app.
    pub service: ServiceName,
    /// Where it is placed. For a `DaemonSet` on a cluster of several nodes: the node.
    pub cluster: ClusterName,
    /// Which copy, from 0.
    pub ordinal: u32,
}

impl InstanceName {
    /// Parses `<app>/<service>/<cluster>/<ordinal>`.
    pub fn parse(text: &str) -> Result<Self, InvalidName> {
        let form = || InvalidName::Form { form: "<app>/<service>/<cluster>/<ordinal>", text: cut(text, 160) };
        let mut parts = text.split('/');
        match (parts.next(), parts.next(), parts.next(), parts.next(), parts.next()) {
            (Some(app), Some(service), Some(cluster), Some(ordinal), None) => {
                let canonical = ordinal == "0" || !ordinal.starts_with(['0', '+']);
                Ok(Self {
                    app: AppName::parse(app)?,
                    service: ServiceName::parse(service)?,
                    cluster: ClusterName::parse(cluster)?,
                    ordinal: ordinal.parse().ok().filter(|_| canonical).ok_or_else(form)?,
                })
            }
            _ => Err(form()),
        }
    }
}

impl fmt::Display for InstanceName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}/{}/{}", self.app, self.service, self.cluster, self.ordinal)
    }
}

impl FromStr for InstanceName {
    type Err = InvalidName;
    fn from_str(text: &str) -> Result<Self, InvalidName> {
        Self::parse(text)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn a_label_parses_to_itself(text in "[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?") {
            let name = NodeName::parse(&text).unwrap();
            prop_assert_eq!(name.as_str(), text);
        }

        #[test]
        fn any_text_either_parses_to_itself_or_is_refused(text in ".{0,80}") {
            if let Ok(name) = InstanceName::parse(&text) {
                prop_assert_eq!(name.to_string(), text.clone());
            }
            if let Ok(name) = NodeRef::parse(&text) {
                prop_assert_eq!(name.to_string(), text);
            }
        }

        #[test]
        fn an_instance_name_round_trips(app in "[a-z]{1,9}", service in "[a-z]{1,9}", cluster in "[a-z]{1,9}", ordinal in any::<u32>()) {
            let text = format!("{app}/{service}/{cluster}/{ordinal}");
            prop_assert_eq!(InstanceName::parse(&text).unwrap().to_string(), text);
        }
    }

    #[test]
    fn labels_keep_to_rfc_1123() {
        for bad in ["", "-a", "a-", "A", "a_b", "a.b", "a/b", "é", &"a".repeat(64)] {
            assert!(AppName::parse(bad).is_err(), "{bad}");
        }
        assert!(AppName::parse(&"a".repeat(63)).is_ok());
    }

    #[test]
    fn a_project_is_named_in_full_or_in_short_and_never_by_what_is_in_it() {
        for text in ["projects/p", "p"] {
            assert_eq!(ProjectRef::parse_short(text).unwrap().to_string(), "projects/p");
        }
        assert!(ProjectRef::parse("p").is_err());
        assert!(ProjectRef::parse_short("projects/p/apps/web").is_err());
        let permanent = |name: &str| ProjectName::parse(name).unwrap().is_permanent();
        assert!(permanent("default") && permanent("system") && !permanent("shop"));
    }

    #[test]
    fn a_short_name_is_taken_in_its_project() {
        let project = ProjectName::parse("p").unwrap();
        assert_eq!(AppRef::parse_in(&project, "web").unwrap().to_string(), "projects/p/apps/web");
        assert_eq!(
            AppRef::parse_in(&project, "projects/q/apps/web").unwrap().to_string(),
            "projects/q/apps/web"
        );
        assert!(AppRef::parse_in(&project, "projects/q/nodes/web").is_err());
    }
}
