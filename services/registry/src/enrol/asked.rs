//! What a machine asked, checked once. Each refusal names the field.

use skerry_identity::csr::Request;
use skerry_identity::fingerprint::Fingerprint;
use skerry_identity::hpke::HpkePublicKey;
use skerry_identity::token::Token;
use skerry_identity::{KeyId, PublicKey};
use skerry_model::{Fault, NodeName, ProjectName, Violations};
use skerry_proto::gateway::v1 as pb;

/// Longest machine id: 32 characters where it is systemd's.
const MACHINE_ID_BYTES_MAX: usize = 64;
/// Longest serial number.
const SERIAL_BYTES_MAX: usize = 128;
/// Longest host name (RFC 1035, section 2.3.4).
const HOST_NAME_BYTES_MAX: usize = 253;
/// Longest version, and longest address.
const SHORT_BYTES_MAX: usize = 64;

/// What a machine asked.
#[derive(Debug, Clone)]
pub(crate) struct Asked {
    pub(crate) public_key: PublicKey,
    pub(crate) sealing_key: HpkePublicKey,
    pub(crate) token: Option<Token>,
    pub(crate) project: Option<ProjectName>,
    pub(crate) node: Option<NodeName>,
    pub(crate) machine: Machine,
    /// Where from, as the gateway saw it.
    pub(crate) address: String,
}

/// What a machine says of itself.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(crate) struct Machine {
    /// `/etc/machine-id`.
    pub(crate) id: String,
    pub(crate) serial: String,
    pub(crate) host_name: String,
}

impl Asked {
    /// Checks a request.
    pub(crate) fn parse(request: &pb::EnrollRequest, address: &str) -> Result<Self, Fault> {
        let mut wrong = Violations::new();
        let csr = wrong.check("certificate_request", Request::parse(&request.certificate_request));
        let sealing_key = HpkePublicKey::from_bytes(&request.sealing_key);
        let sealing_key = wrong.check("sealing_key", sealing_key);
        let token = request.token.trim();
        let token = match token {
            "" => None,
            token => wrong.check("token", Token::parse(token)),
        };
        let project = match request.parent.as_str() {
            "" => None,
            parent => wrong.check("parent", ProjectName::parse_parent(parent)),
        };
        if request.parent.is_empty() && request.token.trim().is_empty() {
            wrong.add("parent", "name the project (projects/<project>), or give a token, which has one");
        }
        let node = match request.node.as_str() {
            "" => None,
            node => wrong.check("node", NodeName::parse(node)),
        };
        let sent = request.machine.clone().unwrap_or_default();
        text("machine.machine_id", &sent.machine_id, MACHINE_ID_BYTES_MAX, &mut wrong);
        text("machine.serial", &sent.serial, SERIAL_BYTES_MAX, &mut wrong);
        text("machine.host_name", &sent.host_name, HOST_NAME_BYTES_MAX, &mut wrong);
        text("agent_version", &request.agent_version, SHORT_BYTES_MAX, &mut wrong);
        text("address", address, SHORT_BYTES_MAX, &mut wrong);
        let (id, serial) = (sent.machine_id.trim().to_owned(), sent.serial.trim().to_owned());
        let machine = Machine { id, serial, host_name: sent.host_name };
        let asked = csr.zip(sealing_key).map(|(csr, sealing_key)| Self {
            public_key: csr.public_key().clone(),
            sealing_key,
            token,
            project,
            node,
            machine,
            address: address.to_owned(),
        });
        wrong.finish(asked)
    }

    pub(crate) fn key_id(&self) -> KeyId {
        self.public_key.id()
    }

    pub(crate) fn fingerprint(&self) -> Fingerprint {
        Fingerprint::of(&self.key_id())
    }

    /// The name that it asks for: its own choice, else its host name made a label.
    pub(crate) fn wanted_name(&self) -> Result<NodeName, Fault> {
        match &self.node {
            Some(node) => Ok(node.clone()),
            None => name_of_host(&self.machine.host_name),
        }
    }
}

/// A node's name from a host name.
pub(crate) fn name_of_host(host_name: &str) -> Result<NodeName, Fault> {
    let label = to_label(host_name.split('.').next().unwrap_or_default());
    NodeName::parse(&label).map_err(|_| {
        Fault::invalid_field("node", "the machine's host name makes no node's name: name the node (--node)")
    })
}

/// `text` as far as it can stand in a DNS label: in lower case, other characters as hyphens, none of them at the ends.
pub(crate) fn to_label(text: &str) -> String {
    let plain = |c: char| match c.to_ascii_lowercase() {
        c if c.is_ascii_alphanumeric() => c,
        _ => '-',
    };
    let label: String = text.chars().map(plain).collect();
    label.trim_matches('-').to_owned()
}

fn text(field: &str, text: &str, bytes_max: usize, wrong: &mut Violations) {
    if text.len() > bytes_max {
        wrong.add(field, format!("{} bytes are too many: at most {bytes_max}", text.len()));
    } else if text.chars().any(char::is_control) {
        wrong.add(field, "control characters are not taken");
    }
}
