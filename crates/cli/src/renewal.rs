//! The certificate by which a user calls is renewed beside a command, once two thirds of its life are over: for the same key, in the same file.
//!
//! No command fails for it, and none waits for it longer than [`GRACE`]. It is tried once a command, and not at all where its file could not
//! be replaced: in a place that is only read, or that belongs to somebody else. Only `--verbose` says what came of it.

use std::fs::Metadata;
use std::future::Future;
use std::io::Write as _;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::pin::pin;
use std::time::{Duration, SystemTime};

use rustls_pki_types::CertificateDer;
use skerry_identity::chain::chain_to_pem;
use skerry_identity::csr::Request as CertificateRequest;
use skerry_identity::{KeyPair, PeerCertificate, SigningKey as _, TrustBundle, private_file};
use skerry_model::UserRef;
use skerry_proto::registry::v1::{IssueCertificateRequest, IssueCertificateResponse};
use skerry_rpc::TlsPaths;
use tempfile::NamedTempFile;

use crate::client::{Client, request, users};
use crate::error::CliError;
use crate::files::bounded;
use crate::print::note;

/// Longest that the server may take for a new certificate.
const PATIENCE: Duration = Duration::from_secs(5);
/// Longest that a command which is done waits for it.
const GRACE: Duration = Duration::from_secs(1);

/// A certificate by which this program calls, and its files.
#[derive(Debug)]
pub(crate) struct Own {
    pub(crate) paths: TlsPaths,
    pub(crate) says: PeerCertificate,
}

/// Does `work`, and beside it renews the certificate if that is due.
pub(crate) async fn beside<T>(
    client: &Client,
    verbose: bool,
    work: impl Future<Output = Result<T, CliError>>,
) -> Result<T, CliError> {
    let Some((own, user)) = client.own().and_then(|own| Some((own, due(&own.says, SystemTime::now())?)))
    else {
        return work.await;
    };
    let (mut work, mut renewal) = (pin!(work), pin!(renew(client, own, &user)));
    let mut came = None;
    let outcome = loop {
        tokio::select! {
            biased;
            outcome = &mut work => break outcome,
            told = &mut renewal, if came.is_none() => came = Some(told),
        }
    };
    if came.is_none() && outcome.is_ok() {
        came = tokio::time::timeout(GRACE, renewal).await.ok();
    }
    if verbose {
        match came {
            Some(Ok(())) => note(&format!("the certificate of {user} was renewed")),
            Some(Err(why)) => note(&format!("the certificate of {user} was not renewed: {why}")),
            None => note(&format!("the certificate of {user} was not renewed: there was no time")),
        }
    }
    outcome
}

/// The user whose certificate it is, if it is one that should be renewed now. One that has expired opens no door any more.
fn due(says: &PeerCertificate, now: SystemTime) -> Option<UserRef> {
    let user = says.identity.user()?;
    (says.renew_at() <= now && now < says.not_after).then_some(user)
}

async fn renew(client: &Client, own: &Own, user: &UserRef) -> Result<(), String> {
    let (certificate, key) = own.paths.own.as_ref().ok_or("it has no file")?;
    // First, so that nobody is asked for what could not be kept.
    let place = Place::of(&certificate.path)?;
    let pair = read_key(&key.path)?;
    let asked = CertificateRequest::make(&pair).map_err(|error| error.to_string())?;
    let message = IssueCertificateRequest {
        name: user.to_string(),
        certificate_request: asked.to_vec().into(),
        replace: false,
        known_only: true,
    };
    let answer = client.once(PATIENCE, |channel| async move {
        users(channel).issue_certificate(request(message, PATIENCE)).await
    });
    let answer = answer.await.map_err(|error| CliError::from(error).summary())?;
    let authority = &own.paths.authority.path;
    let trusted =
        bounded("the authority", std::fs::File::open(authority).map_err(|error| error.to_string())?)
            .map_err(|error| error.summary())?;
    let fresh = Fresh::of(&answer, &own.says, &trusted)?;
    // The command may have replaced both meanwhile.
    if read_key(&key.path)?.public_key() != pair.public_key() {
        return Err("its key has become another one".into());
    }
    if let Some(roots) = fresh.roots {
        // Where they cannot be kept, those that are there still hold the server.
        if let Ok(place) = Place::of(authority) {
            place.write(&roots)?;
        }
    }
    place.write(&fresh.chain)
}

fn read_key(path: &Path) -> Result<KeyPair, String> {
    let pem = private_file::read(path).map_err(|error| error.to_string())?;
    KeyPair::from_pem(&pem.ok_or("its key is gone")?).map_err(|error| error.to_string())
}

/// What goes into the files, as PEM.
struct Fresh {
    chain: String,
    /// Only if they are others than those that are there.
    roots: Option<String>,
}

impl Fresh {
    /// Of an answer that is for the same user and key, by an authority that is trusted already; `trusted` is the file of its roots.
    fn of(answer: &IssueCertificateResponse, has: &PeerCertificate, trusted: &[u8]) -> Result<Self, String> {
        let chain: Vec<_> = answer.chain.iter().map(|der| CertificateDer::from(der.to_vec())).collect();
        let says = PeerCertificate::of_chain(&chain, &has.identity.trust_domain)
            .map_err(|nobody| format!("the server sent a certificate that is nobody's: {nobody}"))?;
        if says.identity != has.identity || says.key_id != has.key_id || says.not_after <= has.not_after {
            return Err(format!("the server sent a certificate of {} that is no newer one", says.identity));
        }
        let before = TrustBundle::parse_pem(trusted).map_err(|error| error.to_string())?;
        let roots = TrustBundle::from_der(&answer.roots).map_err(|error| error.to_string())?;
        // An installation may have an authority beside a PKI that our servers are held against: that one issues to others.
        if !roots.roots().iter().any(|root| before.root(root.pin()).is_some()) {
            return Err("the server issues by an authority that is not in the file of --tls-ca".into());
        }
        let roots = (roots.digest() != before.digest()).then(|| roots.to_pem());
        Ok(Self { chain: chain_to_pem(&chain), roots })
    }
}

/// A file that can be replaced, and what it is replaced by.
struct Place {
    path: PathBuf,
    temporary: NamedTempFile,
    there: Metadata,
}

impl Place {
    /// Makes a file beside the one that `path` leads to. Refused where the new one would be somebody else's.
    fn of(path: &Path) -> Result<Self, String> {
        let failed = |error: std::io::Error| format!("{} cannot be replaced: {error}", path.display());
        // Through a link, so that what is kept elsewhere stays there.
        let place = std::fs::canonicalize(path).map_err(failed)?;
        let there = std::fs::metadata(&place).map_err(failed)?;
        let directory = place.parent().unwrap_or(Path::new("/"));
        // Gone again when it is dropped; its mode is 0600.
        let temporary = NamedTempFile::new_in(directory).map_err(failed)?;
        let made = temporary.as_file().metadata().map_err(failed)?;
        if !there.is_file() || (made.uid(), made.gid()) != (there.uid(), there.gid()) {
            return Err(format!("{} belongs to somebody else", path.display()));
        }
        Ok(Self { path: place, temporary, there })
    }

    /// Whole or not at all, and as open to others as before.
    fn write(mut self, text: &str) -> Result<(), String> {
        let path = self.path;
        let mut write = || {
            self.temporary.write_all(text.as_bytes())?;
            self.temporary.as_file().set_permissions(self.there.permissions())?;
            self.temporary.as_file().sync_all()
        };
        let written = write();
        let placed = written.and_then(|()| self.temporary.persist(&path).map_err(|error| error.error));
        placed.map(drop).map_err(|error| format!("writing {}: {error}", path.display()))
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt as _;

    use skerry_testing::Authority;

    use super::*;

    const DAY: Duration = Duration::from_secs(24 * 60 * 60);

    fn says(authority: &Authority, who: &str) -> (PeerCertificate, IssuedAs) {
        let (issued, _) = authority.issue(&format!("spiffe://example.org/project/{who}"));
        let says = PeerCertificate::of_chain(&issued.chain, authority.bundle().domain()).expect("a peer");
        let bytes = |der: &CertificateDer<'_>| bytes::Bytes::copy_from_slice(der);
        let roots = authority.bundle().roots().iter().map(|root| bytes(root.certificate())).collect();
        let chain = issued.chain.iter().map(bytes).collect();
        (says, IssueCertificateResponse { chain, roots, expire_time: None })
    }

    type IssuedAs = IssueCertificateResponse;

    #[test]
    fn a_users_certificate_is_due_in_the_last_third_of_its_life_and_nobody_elses_is() {
        let authority = Authority::new("example.org");
        let (ada, _) = says(&authority, "default/user/ada");
        let at = |days: u32| ada.not_before + DAY * days;
        assert_eq!(due(&ada, at(19)), None);
        assert_eq!(
            due(&ada, at(21)).map(|user| user.to_string()).as_deref(),
            Some("projects/default/users/ada")
        );
        assert_eq!(due(&ada, at(31)), None, "it has expired");
        let (service, _) = says(&authority, "system/service/registry");
        assert_eq!(due(&service, service.not_before + DAY * 21), None);
    }

    #[test]
    fn only_a_newer_certificate_of_the_same_user_and_authority_is_taken() {
        let (ours, other) = (Authority::new("example.org"), Authority::new("example.org"));
        let trusted = ours.to_pem();
        let (new, answer) = says(&ours, "default/user/ada");
        let former = PeerCertificate { not_after: new.not_after - DAY, ..new.clone() };
        let fresh = Fresh::of(&answer, &former, trusted.as_bytes()).expect("taken");
        assert_eq!(fresh.roots, None, "they are the same");
        let refused = |answer: &IssuedAs, has: &PeerCertificate| {
            Fresh::of(answer, has, trusted.as_bytes()).err().expect("refused")
        };
        assert!(refused(&answer, &new).contains("no newer one"));
        let (bob, _) = says(&ours, "default/user/bob");
        assert!(
            refused(&answer, &PeerCertificate { not_after: former.not_after, ..bob })
                .contains("no newer one")
        );
        let (foreign, theirs) = says(&other, "default/user/ada");
        let has = PeerCertificate { not_after: foreign.not_after - DAY, ..foreign };
        assert!(refused(&theirs, &has).contains("not in the file of --tls-ca"));
        assert!(refused(&IssuedAs { chain: vec![], ..answer }, &former).contains("nobody's"));
    }

    #[test]
    fn roots_that_came_since_are_kept_beside_the_former_one() {
        let (former_root, new_root) = (Authority::new("example.org"), Authority::new("example.org"));
        let (new, mut answer) = says(&new_root, "default/user/ada");
        let old = former_root.bundle().roots()[0].certificate().to_vec();
        answer.roots.push(old.into());
        let has = PeerCertificate { not_after: new.not_after - DAY, ..new };
        let fresh = Fresh::of(&answer, &has, former_root.to_pem().as_bytes()).expect("taken");
        let roots = TrustBundle::parse_pem(fresh.roots.expect("others").as_bytes()).expect("roots");
        assert_eq!(roots.roots().len(), 2);
    }

    #[test]
    fn a_file_is_replaced_through_a_link_with_its_mode_and_nothing_is_left_beside_it() {
        let directory = tempfile::tempdir().expect("a directory");
        let (real, link) = (directory.path().join("ada.crt"), directory.path().join("link.crt"));
        std::fs::write(&real, "former").expect("written");
        std::fs::set_permissions(&real, std::fs::Permissions::from_mode(0o640)).expect("set");
        std::os::unix::fs::symlink(&real, &link).expect("linked");
        drop(Place::of(&link).expect("replaceable"));
        assert_eq!(std::fs::read_to_string(&real).expect("there"), "former");
        Place::of(&link).expect("replaceable").write("new").expect("written");
        assert_eq!(std::fs::read_to_string(&real).expect("there"), "new");
        assert_eq!(std::fs::metadata(&real).expect("there").permissions().mode() & 0o777, 0o640);
        assert!(std::fs::symlink_metadata(&link).expect("there").is_symlink());
        assert_eq!(std::fs::read_dir(directory.path()).expect("there").count(), 2);
        assert!(Place::of(&directory.path().join("none")).is_err());
    }
}
