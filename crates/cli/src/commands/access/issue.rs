//! Certificates for users: what is asked of the server, and the files in which they are kept.

use std::path::{Path, PathBuf};

use rustls_pki_types::CertificateSigningRequestDer;
use rustls_pki_types::pem::PemObject as _;
use skerry_identity::chain::chain_to_pem;
use skerry_identity::csr::Request as CertificateRequest;
use skerry_identity::{KeyId, KeyPair, SigningKey as _, private_file};
use skerry_model::UserRef;
use skerry_proto::registry::v1::{IssueCertificateRequest, IssueCertificateResponse};

use crate::client::{Client, Service, request, users};
use crate::error::CliError;
use crate::files::bounded;
use crate::print::{Printer, note};
use crate::render::time::moment;

/// A request for a certificate.
pub(super) struct Asked {
    /// PKCS#10 in DER.
    request: Vec<u8>,
    /// The key that it is for.
    key_id: KeyId,
    /// The key itself, if it was made here.
    made: Option<KeyPair>,
}

impl Asked {
    /// For a key that is made now.
    pub(super) fn for_new_key() -> Result<Self, CliError> {
        let failed = |error: &dyn std::fmt::Display| CliError::Failed(error.to_string());
        let key = KeyPair::generate().map_err(|error| failed(&error))?;
        let request = CertificateRequest::make(&key).map_err(|error| failed(&error))?.to_vec();
        Ok(Self { request, key_id: key.public_key().id(), made: Some(key) })
    }

    /// Of the file that `--csr` names, in PEM or DER; `-` is stdin.
    pub(super) fn read(file: &str) -> Result<Self, CliError> {
        let wrong = |why: &dyn std::fmt::Display| CliError::Usage(format!("--csr {file}: {why}"));
        let bytes = if file == "-" {
            bounded("stdin", std::io::stdin().lock())?
        } else {
            bounded(file, std::fs::File::open(file).map_err(|error| wrong(&error))?)?
        };
        let read = CertificateRequest::parse(&bytes).map_err(|error| wrong(&error))?;
        let request = match CertificateSigningRequestDer::from_pem_slice(&bytes) {
            Ok(der) => der.to_vec(),
            Err(_) => bytes,
        };
        Ok(Self { request, key_id: read.public_key().id(), made: None })
    }
}

/// Has a certificate issued, writes it with the roots, and the key if it was made here; says what is to be done with them.
pub(super) async fn issue(
    client: &Client,
    name: &UserRef,
    asked: &Asked,
    files: &Files,
    replace: bool,
    printer: &mut Printer,
) -> Result<(), CliError> {
    let message = IssueCertificateRequest {
        name: name.to_string(),
        certificate_request: asked.request.clone().into(),
        replace,
        known_only: false,
    };
    let issuing = client.call(Service::Registry, |channel, left| {
        let message = message.clone();
        async move { users(channel).issue_certificate(request(message, left)).await }
    });
    let issued = issuing.await?;
    files.write(&issued, asked.made.as_ref())?;
    if asked.made.is_none() {
        printer.line(&format!("key {}", asked.key_id))?;
    }
    printer.line(&format!(
        "{} is good until {}",
        files.certificate.display(),
        moment(issued.expire_time.as_ref())
    ))?;
    // Who has the key has it in a place of their own.
    let (whose, place) = match &asked.made {
        Some(_) => ("to use it", files),
        None => ("hand both back; to use them", &Files::of(Path::new(""), name)),
    };
    note(&format!(
        "{whose}: skerry config set-context {} --server URL --tls-cert {} --tls-key {} --tls-ca {}",
        name.user,
        place.certificate.display(),
        place.key.display(),
        place.authority.display()
    ));
    Ok(())
}

/// Where a user's key and certificates are.
pub(super) struct Files {
    pub(super) key: PathBuf,
    pub(super) request: PathBuf,
    certificate: PathBuf,
    authority: PathBuf,
}

impl Files {
    pub(super) fn of(directory: &Path, name: &UserRef) -> Self {
        let at = |suffix: &str| directory.join(format!("{}{suffix}", name.user));
        Self { key: at(".key"), request: at(".csr"), certificate: at(".crt"), authority: at("-ca.crt") }
    }

    fn write(&self, issued: &IssueCertificateResponse, key: Option<&KeyPair>) -> Result<(), CliError> {
        let write = |path: &Path, text: &str| {
            private_file::replace(path, text.as_bytes()).map_err(|error| CliError::Failed(error.to_string()))
        };
        let pem = |certificates: &[bytes::Bytes]| {
            let certificates: Vec<_> =
                certificates.iter().map(|der| rustls_pki_types::CertificateDer::from(der.to_vec())).collect();
            chain_to_pem(&certificates)
        };
        if let Some(key) = key {
            write(&self.key, &key.to_pem())?;
        }
        write(&self.certificate, &pem(&issued.chain))?;
        write(&self.authority, &pem(&issued.roots))
    }

    pub(super) fn check_absent(&self) -> Result<(), CliError> {
        for path in [&self.key, &self.certificate] {
            if path.exists() {
                return Err(CliError::Usage(format!(
                    "{} is there already: name another directory with --out",
                    path.display()
                )));
            }
        }
        Ok(())
    }
}
