//! Who somebody is: identities as URI names, as certificates will carry them.
//!
//! Form: SPIFFE ID, `spiffe://<trust domain>/project/<project>/node/<node>` (or `/service/<service>`, `/user/<user>`), after
//! <https://github.com/spiffe/spiffe/blob/main/standards/SPIFFE-ID.md>. A name that does not parse is nobody: there is no partial identity.
//! Keys and certificates come with enrolment; nothing here issues or checks them yet.

use std::fmt;

use skerry_model::{NodeName, NodeRef, ProjectName, ServiceName};

/// Longest trust domain, in bytes (SPIFFE ID, section 2.1).
const TRUST_DOMAIN_BYTES_MAX: usize = 255;

/// Who a peer is.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Identity {
    /// Under whose authority.
    pub trust_domain: String,
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

impl Identity {
    /// Parses a URI name; anything unexpected is refused.
    pub fn parse(uri: &str) -> Result<Self, InvalidIdentity> {
        let rest = uri.strip_prefix("spiffe://").ok_or(InvalidIdentity)?;
        let mut parts = rest.split('/');
        let (Some(domain), Some("project"), Some(project), Some(kind), Some(name), None) =
            (parts.next(), parts.next(), parts.next(), parts.next(), parts.next(), parts.next())
        else {
            return Err(InvalidIdentity);
        };
        let fine = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit() || matches!(b, b'.' | b'-' | b'_');
        if domain.is_empty() || domain.len() > TRUST_DOMAIN_BYTES_MAX || !domain.bytes().all(fine) {
            return Err(InvalidIdentity);
        }
        let principal = match kind {
            "node" => Principal::Node(NodeName::parse(name).map_err(|_| InvalidIdentity)?),
            "service" => Principal::Service(ServiceName::parse(name).map_err(|_| InvalidIdentity)?),
            "user" => Principal::User(ServiceName::parse(name).map_err(|_| InvalidIdentity)?),
            _ => return Err(InvalidIdentity),
        };
        let project = ProjectName::parse(project).map_err(|_| InvalidIdentity)?;
        Ok(Self { trust_domain: domain.to_owned(), project, principal })
    }

    /// The node that it is, if it is one.
    pub fn node(&self) -> Option<NodeRef> {
        match &self.principal {
            Principal::Node(node) => Some(NodeRef { project: self.project.clone(), node: node.clone() }),
            Principal::Service(_) | Principal::User(_) => None,
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
}
