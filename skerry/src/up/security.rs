//! How `up` is talked to: by certificates that were given, by those of its own authority, or in plain by `--insecure`.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use anyhow::bail;
use skerry_agent::NodeTls;
use skerry_daemon::TlsArgs;
use skerry_model::NodeRef;
use skerry_rpc::{Access, TlsFile, TlsFiles, TlsPaths};

use super::identity::{OwnFiles, OwnIdentity};

/// What was chosen.
#[derive(Debug, Clone)]
pub(super) enum Choice {
    /// Certificates that somebody gave.
    Given(Secured),
    /// Those of an authority of its own.
    Own(Box<OwnIdentity>),
    /// None: anybody may call.
    Insecure,
}

/// How the listener is served, and what this machine's agent presents.
#[derive(Debug, Clone)]
pub(super) struct Secured {
    pub(super) access: Access,
    /// What the services prove to be and whom they trust. Absent: no TLS.
    pub(super) tls: Option<Arc<TlsFiles>>,
    /// The same of the agent.
    pub(super) node: Option<NodeTls>,
}

impl Choice {
    /// By files that were given, for the node `node` if there is one; nothing where there are none. `enrols`: machines can
    /// enrol, as there is a key file.
    pub(super) fn given(
        args: &TlsArgs,
        node_files: (Option<PathBuf>, Option<PathBuf>),
        node: Option<&NodeRef>,
        insecure: bool,
        enrols: bool,
    ) -> anyhow::Result<Option<Self>> {
        let (Some(tls), Some(authority)) = (args.load()?, &args.tls_ca) else {
            return Ok(insecure.then_some(Self::Insecure));
        };
        // Who enrols has no certificate yet; where nobody can, nobody gets in without.
        let access = if enrols { skerry_daemon::access_for_enrolment } else { skerry_daemon::access };
        let access = access(Some(&tls), insecure)?;
        let node = match node {
            Some(node) => Some(NodeTls::new(node_tls(node_files, authority)?, tls.itself()?, node)?),
            None => None,
        };
        Ok(Some(Self::Given(Secured { access, tls: Some(tls), node })))
    }
}

impl Secured {
    /// In plain.
    pub(super) fn insecure() -> Self {
        Self { access: Access::Insecure, tls: None, node: None }
    }

    /// By the own files, for the node `node` if there is one.
    pub(super) fn own(files: &OwnFiles, node: Option<&NodeRef>) -> anyhow::Result<Self> {
        let tls = &files.services;
        let node = match (&files.node, node) {
            (Some(files), Some(node)) => Some(NodeTls::new(Arc::clone(files), tls.itself()?, node)?),
            _ => None,
        };
        Ok(Self {
            access: skerry_daemon::access_for_enrolment(Some(tls), false)?,
            tls: Some(Arc::clone(tls)),
            node,
        })
    }
}

/// The files of this machine's node, which trusts the authority that the services trust.
fn node_tls(files: (Option<PathBuf>, Option<PathBuf>), authority: &Path) -> anyhow::Result<Arc<TlsFiles>> {
    let (Some(certificate), Some(key)) = files else {
        bail!(
            "with --tls-cert, this machine's node needs a certificate of its own: --node-tls-cert FILE and --node-tls-key FILE, or --no-agent"
        );
    };
    let own = (
        TlsFile { setting: "--node-tls-cert", path: certificate },
        TlsFile { setting: "--node-tls-key", path: key },
    );
    let authority = TlsFile { setting: "--tls-ca", path: authority.to_owned() };
    Ok(Arc::new(TlsFiles::load(TlsPaths { own: Some(own), authority })?))
}
