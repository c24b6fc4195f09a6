//! The identity of its own: what the agent presents and trusts, and what may take its place.
//!
//! What a server sends is held against the connection that it came by. Roots are taken only if the server itself fits under them: else the
//! next dial could reach nobody, and a node that trusts the wrong roots is lost for good. They take the place of those that were, so that a
//! root that was retired is trusted no longer. A certificate is taken only if it is for this node and this key.

use std::sync::Arc;
use std::time::{SystemTime, UNIX_EPOCH};

use prost::bytes::Bytes;
use skerry_identity::csr::Request;
use skerry_identity::key_store::KeyStore as _;
use skerry_identity::tls::Credentials;
use skerry_identity::verify::{Expected, Time, check_client_chain, check_server_chain};
use skerry_identity::{PeerCertificate, SigningKey, Trust, TrustBundle, clock::TimeFloor};
use skerry_model::NodeRef;
use skerry_proto::gateway::v1 as pb;
use skerry_rpc::ClientTls;
use skerry_sync::{AgentIdentity, WallTime};
use tokio_rustls::rustls::pki_types::CertificateDer;

use super::kept::{Generation, Kept, Record};

/// An identity that is used.
#[derive(Debug)]
pub(crate) struct Own {
    generation: Generation,
    record: Record,
    /// Who it says that this is.
    node: NodeRef,
    key: Arc<dyn SigningKey>,
    request: Bytes,
    credentials: Arc<Credentials>,
    trust: Arc<Trust>,
    contents: Contents,
}

/// What a certificate and roots say.
#[derive(Debug, Clone)]
struct Contents {
    chain: Vec<CertificateDer<'static>>,
    peer: PeerCertificate,
    bundle: TrustBundle,
    /// Whether the chain leads to a root that is trusted. Where the last such one was retired, only a new certificate helps.
    rooted: bool,
}

/// What is to take the place of what is used, checked and not yet written.
#[derive(Debug)]
pub(super) struct Prepared {
    generation: Generation,
    record: Record,
    contents: Contents,
}

impl Prepared {
    /// Writes it. Blocks.
    pub(super) fn write(&self) -> Result<(), String> {
        self.generation.write(&self.record)
    }
}

/// An identity that is on disk and cannot be used.
#[derive(Debug)]
pub(crate) struct Broken {
    /// Which node it is of, as far as that is known.
    pub(crate) node: Option<NodeRef>,
    /// What is wrong.
    pub(crate) why: String,
}

impl Own {
    /// What is on disk; nothing before the first enrolment.
    pub(crate) fn open(kept: &Kept) -> Result<Option<Self>, Broken> {
        let Some((generation, record)) = kept.current() else { return Ok(None) };
        let record = record.map_err(|why| Broken { node: None, why })?;
        let node = record.enrolled.as_ref().and_then(|enrolled| NodeRef::parse(&enrolled.node).ok());
        Self::of(generation, record).map(Some).map_err(|why| Broken { node, why })
    }

    /// What an enrolment gave: checked, not yet written.
    pub(super) fn enrolled(
        generation: Generation,
        record: Record,
        presented: &[CertificateDer<'_>],
    ) -> Result<Self, String> {
        let own = Self::of(generation, record)?;
        if !own.contents.rooted {
            return Err("the certificate that was issued leads to none of the roots beside it".to_owned());
        }
        fits(presented, &own.contents.bundle, UNIX_EPOCH)?;
        Ok(own)
    }

    fn of(generation: Generation, record: Record) -> Result<Self, String> {
        let key = generation.keys().signing_key().map_err(|error| error.to_string())?;
        let enrolled = record.enrolled.as_ref().ok_or("the enrolment names no node")?;
        let node = NodeRef::parse(&enrolled.node).map_err(|error| error.to_string())?;
        let certificate = enrolled.certificate.clone().unwrap_or_default();
        let bundle = TrustBundle::from_der(&certificate.roots).map_err(|error| error.to_string())?;
        let contents = Contents::of(&certificate.chain, bundle, &node, key.as_ref())?;
        let request = Request::make(key.as_ref()).map_err(|error| error.to_string())?;
        let credentials =
            Credentials::new(contents.chain.clone(), Arc::clone(&key)).map_err(|error| error.to_string())?;
        let trust = Trust::new(contents.bundle.clone());
        let request = Bytes::copy_from_slice(&request);
        Ok(Self { generation, record, node, key, request, credentials, trust, contents })
    }

    /// Which node it is.
    pub(crate) fn node(&self) -> &NodeRef {
        &self.node
    }

    /// The node's uid.
    pub(super) fn node_uid(&self) -> &str {
        self.record.enrolled.as_ref().map_or("", |enrolled| &enrolled.node_uid)
    }

    /// Id of the token that it was had by. Empty: by approval.
    pub(super) fn token_id(&self) -> &str {
        &self.record.token_id
    }

    pub(super) fn trust(&self) -> &Arc<Trust> {
        &self.trust
    }

    /// It is not before this: a server wrote it into the certificate.
    pub(super) fn not_before(&self) -> SystemTime {
        self.contents.peer.not_before
    }

    pub(super) fn client(&self, floor: &Arc<TimeFloor>) -> ClientTls {
        let time = Time::Floor(Arc::clone(floor));
        ClientTls::new(Arc::clone(&self.credentials), Arc::clone(&self.trust), Expected::Dialled, time)
    }

    /// What the machine of sync must know of it.
    pub(super) fn agent_identity(&self) -> AgentIdentity {
        let Contents { peer, bundle, rooted, .. } = &self.contents;
        AgentIdentity {
            certificate_request: self.request.clone(),
            renew_at: WallTime::from(if *rooted { peer.renew_at() } else { UNIX_EPOCH }),
            not_after: WallTime::from(peer.not_after),
            roots_digest: Bytes::copy_from_slice(&bundle.digest()),
        }
    }

    /// What is used once `sent`, which came from who `presented` this chain, is taken.
    pub(super) fn prepare(
        &self,
        sent: pb::IssuedCertificate,
        presented: &[CertificateDer<'_>],
        floor: SystemTime,
    ) -> Result<Prepared, String> {
        let mut record = self.record.clone();
        let enrolled = record.enrolled.as_mut().ok_or("the enrolment names no node")?;
        let mut certificate = enrolled.certificate.take().unwrap_or_default();
        let is_chain = !sent.chain.is_empty();
        if is_chain {
            certificate.chain = sent.chain;
        }
        if !sent.roots.is_empty() {
            certificate.roots = sent.roots;
        }
        let bundle = TrustBundle::from_der(&certificate.roots).map_err(|error| error.to_string())?;
        let ours = self.contents.bundle.domain();
        if bundle.domain() != ours {
            return Err(format!("roots of the trust domain {}, where {ours} is trusted", bundle.domain()));
        }
        fits(presented, &bundle, floor)?;
        let contents = Contents::of(&certificate.chain, bundle, &self.node, self.key.as_ref())?;
        if is_chain && !contents.rooted {
            return Err("a certificate that leads to none of the trusted roots".to_owned());
        }
        enrolled.certificate = Some(certificate);
        Ok(Prepared { generation: self.generation.clone(), record, contents })
    }

    /// Uses what was prepared and written, from the next handshake on.
    pub(super) fn install(&mut self, prepared: Prepared) -> Result<(), String> {
        let Prepared { record, contents, .. } = prepared;
        self.credentials
            .replace(contents.chain.clone(), Arc::clone(&self.key))
            .map_err(|error| error.to_string())?;
        self.trust.replace(contents.bundle.clone());
        (self.record, self.contents) = (record, contents);
        Ok(())
    }
}

impl Contents {
    fn of(
        chain: &[Bytes],
        bundle: TrustBundle,
        node: &NodeRef,
        key: &dyn SigningKey,
    ) -> Result<Self, String> {
        let chain: Vec<CertificateDer<'static>> =
            chain.iter().map(|der| CertificateDer::from(der.to_vec())).collect();
        let peer = PeerCertificate::of_chain(&chain, bundle.domain()).map_err(|nobody| nobody.to_string())?;
        if peer.identity.node().as_ref() != Some(node) {
            return Err(format!("a certificate of {}, where {node} is meant", peer.identity));
        }
        let ours = key.public_key().id();
        if peer.key_id != ours {
            return Err(format!("a certificate for the key {}, where the key is {ours}", peer.key_id));
        }
        let rooted = check_client_chain(&chain, &bundle).is_ok();
        Ok(Self { chain, peer, bundle, rooted })
    }
}

/// Whether the server of a connection would be let through under `bundle` too.
fn fits(presented: &[CertificateDer<'_>], bundle: &TrustBundle, floor: SystemTime) -> Result<(), String> {
    check_server_chain(presented, bundle, floor)
        .map_err(|why| format!("roots under which the server that sent them would be refused: {why}"))
}

#[cfg(test)]
mod tests;
