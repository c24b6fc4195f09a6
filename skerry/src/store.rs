//! Where the store is, as the flags of a command say.

use skerry_daemon::EtcdTlsArgs;
use skerry_store::{EtcdTls, Target};

/// The etcd at `text`, by TLS where files for it are named.
pub(crate) fn target_of(text: &str, files: &EtcdTlsArgs) -> anyhow::Result<Target> {
    let tls = files.load()?.map(|pem| EtcdTls::new(&pem.authorities, pem.identity.as_ref()));
    Ok(Target::parse_with(text, tls)?)
}
