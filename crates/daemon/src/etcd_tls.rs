//! The flags that name the files of TLS to etcd. What is made of them is the store's.

use std::path::{Path, PathBuf};

use anyhow::{Context as _, bail};

/// What every certificate and every key has in PEM.
const CERTIFICATE: &str = "BEGIN CERTIFICATE";
const KEY: &str = "PRIVATE KEY";
/// Most bytes of a file of certificates.
const FILE_BYTES_MAX: u64 = 1024 * 1024;

/// Flags of a program that keeps its state in etcd.
#[derive(Debug, Clone, Default, PartialEq, Eq, clap::Args)]
pub struct EtcdTlsArgs {
    /// Authorities of etcd's certificate (PEM), for https:// in --etcd. Its files are read at the start
    #[arg(long, global = true, env = "SKERRY_ETCD_CA", value_name = "FILE")]
    pub etcd_ca: Option<PathBuf>,

    /// Certificate for etcd (PEM), where it asks for one, with --etcd-key
    #[arg(
        long,
        global = true,
        env = "SKERRY_ETCD_CERT",
        value_name = "FILE",
        requires = "etcd_key",
        requires = "etcd_ca"
    )]
    pub etcd_cert: Option<PathBuf>,

    /// Key of --etcd-cert (PEM), readable by its owner only
    #[arg(long, global = true, env = "SKERRY_ETCD_KEY", value_name = "FILE", requires = "etcd_cert")]
    pub etcd_key: Option<PathBuf>,
}

/// What the files hold.
pub struct EtcdPem {
    /// Authorities.
    pub authorities: Vec<u8>,
    /// Our certificate and its key.
    pub identity: Option<(Vec<u8>, Vec<u8>)>,
}

impl EtcdTlsArgs {
    /// Reads the files, if they are named.
    pub fn load(&self) -> anyhow::Result<Option<EtcdPem>> {
        let Some(authorities) = &self.etcd_ca else { return Ok(None) };
        let authorities = read("--etcd-ca", authorities, CERTIFICATE)?;
        let identity = match (&self.etcd_cert, &self.etcd_key) {
            (Some(certificate), Some(key)) => {
                Some((read("--etcd-cert", certificate, CERTIFICATE)?, read_key(key)?))
            }
            _ => None,
        };
        Ok(Some(EtcdPem { authorities, identity }))
    }
}

fn read(flag: &str, path: &Path, begins: &str) -> anyhow::Result<Vec<u8>> {
    let shown = path.display();
    let size = std::fs::metadata(path).with_context(|| format!("{flag} {shown}"))?.len();
    if size > FILE_BYTES_MAX {
        bail!("{flag} {shown}: {size} bytes are too many for certificates: at most {FILE_BYTES_MAX}");
    }
    let text = std::fs::read(path).with_context(|| format!("{flag} {shown}"))?;
    has(flag, path, text, begins)
}

/// The text, if it is PEM of what is wanted.
fn has(flag: &str, path: &Path, text: Vec<u8>, begins: &str) -> anyhow::Result<Vec<u8>> {
    if !text.windows(begins.len()).any(|part| part == begins.as_bytes()) {
        bail!("{flag} {}: it holds none ({begins} is not in it)", path.display());
    }
    Ok(text)
}

fn read_key(path: &Path) -> anyhow::Result<Vec<u8>> {
    let key = skerry_identity::private_file::read(path).with_context(|| "--etcd-key".to_owned())?;
    match key {
        Some(key) => has("--etcd-key", path, key.to_vec(), KEY),
        None => bail!("--etcd-key {}: there is no such file", path.display()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn files_are_told_with_their_flags() {
        let dir = tempfile::tempdir().expect("a directory");
        let file = |name: &str| Some(dir.path().join(name));
        assert!(EtcdTlsArgs::default().load().expect("nothing is named").is_none());
        let told = |args: EtcdTlsArgs| format!("{:#}", args.load().err().expect("refused"));
        let args = EtcdTlsArgs { etcd_ca: file("ca"), ..EtcdTlsArgs::default() };
        assert!(told(args.clone()).starts_with("--etcd-ca "));
        std::fs::write(dir.path().join("ca"), "ca").expect("written");
        assert!(told(args.clone()).contains("it holds none"), "no certificate");
        std::fs::write(dir.path().join("ca"), CERTIFICATE).expect("written");
        std::fs::write(dir.path().join("cert"), CERTIFICATE).expect("written");
        let args = EtcdTlsArgs { etcd_cert: file("cert"), etcd_key: file("key"), ..args };
        assert!(told(args.clone()).starts_with("--etcd-key "));
        std::fs::write(dir.path().join("key"), KEY).expect("written");
        assert!(told(args.clone()).contains("key"), "others may read it");
        skerry_identity::private_file::replace(&dir.path().join("key"), KEY.as_bytes()).expect("written");
        let read = args.load().expect("read").expect("named");
        assert_eq!(read.authorities, CERTIFICATE.as_bytes());
        assert_eq!(read.identity, Some((CERTIFICATE.into(), KEY.into())));
    }
}
