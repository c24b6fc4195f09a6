//! Which TLS files count: those of flags, then of `SKERRY_TLS_*`, then of the context.
//!
//! Certificate and key are taken from one source, never one from each. What a context names is for its own servers: who is sent elsewhere by a
//! flag or a variable brings nothing along.

use std::path::{Path, PathBuf};

use skerry_identity::PeerCertificate;
use skerry_rpc::{ClientTls, TlsFile, TlsFiles, TlsPaths};

use crate::error::CliError;

/// How a source calls the certificate, its key and the authority.
pub(crate) type Names = [&'static str; 3];

/// What one source says.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct TlsLayer {
    names: Names,
    certificate: Option<PathBuf>,
    key: Option<PathBuf>,
    authority: Option<PathBuf>,
}

impl TlsLayer {
    /// Certificate, key and authority, as a source that calls them by `names` gives them. Empty is not given.
    pub(crate) fn new(names: Names, [certificate, key, authority]: [Option<PathBuf>; 3]) -> Self {
        let given = |path: Option<PathBuf>| path.filter(|path| !path.as_os_str().is_empty());
        Self { names, certificate: given(certificate), key: given(key), authority: given(authority) }
    }

    fn own(&self) -> Option<Result<(TlsFile, TlsFile), CliError>> {
        let [certificate, key, _] = self.names;
        match (&self.certificate, &self.key) {
            (None, None) => None,
            (Some(first), Some(second)) => Some(Ok((file(certificate, first), file(key, second)))),
            (Some(_), None) => Some(Err(lonely(certificate, key))),
            (None, Some(_)) => Some(Err(lonely(key, certificate))),
        }
    }

    fn authority(&self) -> Option<TlsFile> {
        self.authority.as_ref().map(|path| file(self.names[2], path))
    }
}

/// What all sources say, the first one first. `None`: no TLS.
pub(crate) fn resolve(layers: &[TlsLayer]) -> Result<Option<TlsPaths>, CliError> {
    let own = layers.iter().find_map(TlsLayer::own).transpose()?;
    match (layers.iter().find_map(TlsLayer::authority), own) {
        (Some(authority), own) => Ok(Some(TlsPaths { own, authority })),
        (None, None) => Ok(None),
        (None, Some((certificate, _))) => Err(CliError::Usage(format!(
            "{} is given, and no authority that the server could be held against: --tls-ca FILE",
            certificate.setting
        ))),
    }
}

/// Reads the files; answers also who the own certificate says that calls.
pub(crate) fn load(paths: TlsPaths) -> Result<(ClientTls, Option<PeerCertificate>), CliError> {
    let files = TlsFiles::load(paths).map_err(|error| CliError::Usage(error.to_string()))?;
    Ok((files.client(), files.own()))
}

fn file(setting: &'static str, path: &Path) -> TlsFile {
    TlsFile { setting, path: path.to_owned() }
}

fn lonely(given: &str, missing: &str) -> CliError {
    CliError::Usage(format!("{given} and {missing} go together: {missing} is missing"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn layer(names: Names, files: [&str; 3]) -> TlsLayer {
        TlsLayer::new(names, files.map(|path| Some(PathBuf::from(path))))
    }

    const FLAGS: Names = ["--tls-cert", "--tls-key", "--tls-ca"];
    const CONTEXT: Names = ["certificate", "key", "authority"];

    #[test]
    fn the_first_source_that_says_something_decides_and_pairs_stay_together() {
        let context = layer(CONTEXT, ["c.crt", "c.key", "c-ca.crt"]);
        let settings = |layers: &[TlsLayer]| {
            let paths = resolve(layers).expect("complete")?;
            let own = paths.own.map(|(certificate, key)| (certificate.setting, key.setting));
            Some((own, paths.authority.setting))
        };
        assert_eq!(settings(&[]), None);
        assert_eq!(settings(&[layer(FLAGS, ["", "", "ca.crt"])]), Some((None, "--tls-ca")));
        let own = Some(("certificate", "key"));
        assert_eq!(
            settings(&[layer(FLAGS, ["", "", "ca.crt"]), context.clone()]),
            Some((own, "--tls-ca")),
            "the authority alone is another's"
        );
        let lonely = resolve(&[layer(FLAGS, ["a.crt", "", ""]), context]).expect_err("no key");
        assert_eq!(lonely.summary(), "--tls-cert and --tls-key go together: --tls-key is missing");
        let unchecked = resolve(&[layer(FLAGS, ["a.crt", "a.key", ""])]).expect_err("no authority");
        assert!(unchecked.summary().ends_with("--tls-ca FILE"));
    }
}
