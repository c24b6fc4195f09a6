//! The flags that name TLS files, and what a listener does with them.

use std::path::PathBuf;
use std::sync::Arc;

use anyhow::bail;
use skerry_rpc::{Access, TlsFile, TlsFiles, TlsPaths};

use crate::shutdown::Shutdown;

/// Flags of a program that has a certificate. All three, or none: then it needs `--insecure`.
#[derive(Debug, Clone, Default, PartialEq, Eq, clap::Args)]
pub struct TlsArgs {
    /// Certificate of this program (PEM: its own first, then the intermediates), for mutual TLS with --tls-key and --tls-ca; files
    /// that change are read again within a minute and count from the next handshake on
    #[arg(long, env = "SKERRY_TLS_CERT", value_name = "FILE")]
    pub tls_cert: Option<PathBuf>,

    /// Key of --tls-cert (PEM, PKCS#8, P-256), readable by its owner only
    #[arg(long, env = "SKERRY_TLS_KEY", value_name = "FILE")]
    pub tls_key: Option<PathBuf>,

    /// Authorities whose certificates are trusted (PEM: one root, or several)
    #[arg(long, env = "SKERRY_TLS_CA", value_name = "FILE")]
    pub tls_ca: Option<PathBuf>,
}

impl TlsArgs {
    /// Reads the files, if they are named.
    pub fn load(&self) -> anyhow::Result<Option<Arc<TlsFiles>>> {
        self.paths()?.map(|paths| Ok(Arc::new(TlsFiles::load(paths)?))).transpose()
    }

    /// Where the files are, if they are named. They are not looked at.
    pub fn paths(&self) -> anyhow::Result<Option<TlsPaths>> {
        let file = |setting, path: &PathBuf| TlsFile { setting, path: path.clone() };
        match (&self.tls_cert, &self.tls_key, &self.tls_ca) {
            (None, None, None) => Ok(None),
            (Some(certificate), Some(key), Some(authority)) => Ok(Some(TlsPaths {
                own: Some((file("--tls-cert", certificate), file("--tls-key", key))),
                authority: file("--tls-ca", authority),
            })),
            (certificate, key, authority) => {
                let all = [
                    ("--tls-cert", certificate.is_none()),
                    ("--tls-key", key.is_none()),
                    ("--tls-ca", authority.is_none()),
                ];
                let missing: Vec<&str> =
                    all.into_iter().filter_map(|(flag, missing)| missing.then_some(flag)).collect();
                bail!("--tls-cert, --tls-key and --tls-ca go together: {} is missing", missing.join(" and "));
            }
        }
    }
}

/// Whom a listener lets in that has these files, or was opened with `--insecure`. Plain HTTP/2 is never served without that word, on loopback
/// neither: every user and every program of a machine reaches its loopback.
pub fn access(tls: Option<&TlsFiles>, insecure: bool) -> anyhow::Result<Access> {
    match (tls, insecure) {
        (Some(_), true) => {
            bail!(
                "--insecure lets in anybody, and --tls-cert only who has a certificate: give one of the two"
            )
        }
        (Some(files), false) => Ok(Access::Certificate(files.server()?)),
        (None, true) => Ok(Access::Insecure),
        (None, false) => bail!(
            "nothing would prove who calls: give --tls-cert, --tls-key and --tls-ca (`skerry authority issue service NAME` makes these files), or --insecure to serve whoever reaches this address, without TLS"
        ),
    }
}

/// The same where machines enrol: with TLS it lets in also who has no certificate, for that alone.
pub fn access_for_enrolment(tls: Option<&TlsFiles>, insecure: bool) -> anyhow::Result<Access> {
    match (access(tls, insecure)?, tls) {
        (Access::Certificate(_), Some(files)) => Ok(Access::Certificate(files.server_for_enrolment()?)),
        (access, _) => Ok(access),
    }
}

/// Reads the files again when they change, until the end.
pub fn follow(files: &Arc<TlsFiles>, shutdown: &Shutdown) {
    let (files, end) = (Arc::clone(files), shutdown.wait());
    shutdown.spawn(async move {
        tokio::select! {
            () = files.follow() => {}
            () = end => {}
        }
    });
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_flags_go_together() {
        assert!(TlsArgs::default().load().expect("none").is_none());
        let some = TlsArgs { tls_cert: Some("a".into()), ..Default::default() };
        let error = some.load().expect_err("not all").to_string();
        assert!(error.ends_with("--tls-key and --tls-ca is missing"), "{error}");
    }

    #[test]
    fn plain_http_is_served_by_an_explicit_word_only() {
        let error = access(None, false).expect_err("not by default").to_string();
        assert!(error.contains("--tls-cert") && error.contains("--insecure"), "{error}");
        assert!(matches!(access(None, true), Ok(Access::Insecure)));
    }

    #[test]
    fn a_file_that_is_not_there_is_told_with_its_flag() {
        let at = |name: &str| Some(PathBuf::from("/nowhere").join(name));
        let all = TlsArgs { tls_cert: at("cert"), tls_key: at("key"), tls_ca: at("ca") };
        let error = all.load().expect_err("not there").to_string();
        assert_eq!(error, "--tls-ca /nowhere/ca: there is no such file");
    }
}
