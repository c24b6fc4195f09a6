//! Identities as URI names, as certificates carry them.
//!
//! Form: SPIFFE ID, `spiffe://<trust domain>/project/<project>/node/<node>` (or `/service/<service>`, `/user/<user>`), after
//! <https://github.com/spiffe/spiffe/blob/main/standards/SPIFFE-ID.md>. A name that does not parse is nobody: there is no partial identity.

use std::fmt;
use std::str::FromStr;

use skerry_model::{NodeName, NodeRef, ProjectName, ServiceName, UserName, UserRef};

/// Longest trust domain, in bytes (SPIFFE ID, section 2.1).
const TRUST_DOMAIN_BYTES_MAX: usize = 255;

/// Longest URI name, in bytes (SPIFFE ID, section 2.3, allows 2,048; ours are made of labels).
const URI_BYTES_MAX: usize = TRUST_DOMAIN_BYTES_MAX + 2 * skerry_model::name::NAME_BYTES_MAX + 64;

/// Under whose authority a name stands: one installation of Skerry.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct TrustDomain(Box<str>);

/// Who a peer is.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Identity {
    /// Under whose authority.
    pub trust_domain: TrustDomain,
    /// Tenant.
    pub project: ProjectName,
    /// Which of its principals.
    pub principal: Principal,
}

/// A principal of a project.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum Principal {
    /// An edge machine's agent.
    Node(NodeName),
    /// A service of the control plane.
    Service(ServiceName),
    /// A person or a program of theirs.
    User(ServiceName),
}

/// A text that names nobody.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("not an identity: spiffe://<trust domain>/project/<project>/(node|service|user)/<name> is wanted")]
pub struct InvalidIdentity;

/// A text that is no trust domain.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("not a trust domain: 1 to 255 of a-z, 0-9, `.`, `-` and `_` are wanted")]
pub struct InvalidTrustDomain;

impl TrustDomain {
    /// Parses 1 to 255 of `a-z`, `0-9`, `.`, `-`, `_`.
    pub fn parse(text: &str) -> Result<Self, InvalidTrustDomain> {
        let fine = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit() || matches!(b, b'.' | b'-' | b'_');
        if text.is_empty() || text.len() > TRUST_DOMAIN_BYTES_MAX || !text.bytes().all(fine) {
            return Err(InvalidTrustDomain);
        }
        Ok(Self(text.into()))
    }

    /// Parses the name of the domain itself, as a root carries it: `spiffe://<trust domain>`.
    pub fn parse_uri(uri: &str) -> Result<Self, InvalidTrustDomain> {
        Self::parse(uri.strip_prefix("spiffe://").ok_or(InvalidTrustDomain)?)
    }

    /// The name of the domain itself.
    pub fn uri(&self) -> String {
        format!("spiffe://{self}")
    }

    /// The domain as text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for TrustDomain {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl fmt::Debug for TrustDomain {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?}", &*self.0)
    }
}

impl FromStr for TrustDomain {
    type Err = InvalidTrustDomain;
    fn from_str(text: &str) -> Result<Self, InvalidTrustDomain> {
        Self::parse(text)
    }
}

impl Identity {
    /// Parses a URI name; anything unexpected is refused.
    pub fn parse(uri: &str) -> Result<Self, InvalidIdentity> {
        if uri.len() > URI_BYTES_MAX {
            return Err(InvalidIdentity);
        }
        let rest = uri.strip_prefix("spiffe://").ok_or(InvalidIdentity)?;
        let mut parts = rest.split('/');
        let (Some(domain), Some("project"), Some(project), Some(kind), Some(name), None) =
            (parts.next(), parts.next(), parts.next(), parts.next(), parts.next(), parts.next())
        else {
            return Err(InvalidIdentity);
        };
        let principal = match kind {
            "node" => Principal::Node(NodeName::parse(name).map_err(|_| InvalidIdentity)?),
            "service" => Principal::Service(ServiceName::parse(name).map_err(|_| InvalidIdentity)?),
            "user" => Principal::User(ServiceName::parse(name).map_err(|_| InvalidIdentity)?),
            _ => return Err(InvalidIdentity),
        };
        let trust_domain = TrustDomain::parse(domain).map_err(|_| InvalidIdentity)?;
        let project = ProjectName::parse(project).map_err(|_| InvalidIdentity)?;
        Ok(Self { trust_domain, project, principal })
    }

    /// The node that it is, if it is one.
    pub fn node(&self) -> Option<NodeRef> {
        match &self.principal {
            Principal::Node(node) => Some(NodeRef { project: self.project.clone(), node: node.clone() }),
            Principal::Service(_) | Principal::User(_) => None,
        }
    }

    /// The user that it is, if it is one.
    pub fn user(&self) -> Option<UserRef> {
        match &self.principal {
            Principal::User(name) => {
                let user = UserName::parse(name.as_str()).expect("names of services and users have one form");
                Some(UserRef { project: self.project.clone(), user })
            }
            Principal::Node(_) | Principal::Service(_) => None,
        }
    }

    /// The service that it is, if it is one, with its project.
    pub fn service(&self) -> Option<(&ProjectName, &ServiceName)> {
        match &self.principal {
            Principal::Service(service) => Some((&self.project, service)),
            Principal::Node(_) | Principal::User(_) => None,
        }
    }
}

impl fmt::Display for Identity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (kind, name) = match &self.principal {
            Principal::Node(name) => ("node", name.as_str()),
            Principal::Service(name) => ("service", name.as_str()),
            Principal::User(name) => ("user", name.as_str()),
        };
        write!(f, "spiffe://{}/project/{}/{kind}/{name}", self.trust_domain, self.project)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn an_identity_is_parsed_whole_or_not_at_all() {
        let uri = "spiffe://example.org/project/default/node/n1";
        let identity = Identity::parse(uri).unwrap();
        assert_eq!(identity.to_string(), uri);
        assert_eq!(identity.node().unwrap().to_string(), "projects/default/nodes/n1");
        for bad in [
            "",
            "spiffe://",
            "spiffe:///project/p/node/n",
            "spiffe://d/project/p/node/",
            "spiffe://d/project/p/node/n/x",
            "spiffe://d/project/p/root/n",
            "spiffe://D/project/p/node/n",
            "http://d/project/p/node/n",
            "spiffe://d/project/p/node/N",
        ] {
            assert_eq!(Identity::parse(bad), Err(InvalidIdentity), "{bad}");
        }
    }

    #[test]
    fn a_domain_is_no_identity_and_an_identity_no_domain() {
        assert!(Identity::parse("spiffe://example.org").is_err());
        assert!(TrustDomain::parse_uri("spiffe://example.org/project/default/node/n1").is_err());
        assert_eq!(TrustDomain::parse_uri("spiffe://example.org").unwrap().as_str(), "example.org");
    }

    proptest! {
        #[test]
        fn what_parses_is_what_was_said(text in "(spiffe://)?[a-z0-9./_\\-]{0,40}(/project/[a-z\\-]{1,5}/(node|user|service|root)/[a-z\\-]{1,5})?") {
            if let Ok(identity) = Identity::parse(&text) {
                prop_assert_eq!(identity.to_string(), text);
            }
        }

        #[test]
        fn any_text_is_parsed_without_panic(text in any::<String>()) {
            let _ = Identity::parse(&text);
            let _ = TrustDomain::parse_uri(&text);
        }
    }
}
