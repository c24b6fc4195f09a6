//! Certificate, key and trusted authorities from PEM files, read again when they change.
//!
//! What is read anew counts from the next handshake on; open connections stay. A change that cannot be used (a tool has written the
//! certificate and not yet its key) leaves all three as they were, is told once, and is tried again at the next look.
//!
//! Where the store says which roots are trusted ([`TlsFiles::trust_roots`]), the file of authorities is no longer heeded: who writes it gains
//! nothing.

use std::fmt;
use std::fs::Metadata;
use std::io::{self, Read as _};
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, SystemTime};

use skerry_identity::chain::{CHAIN_BYTES_MAX, chain_from_pem};
use skerry_identity::clock::TimeFloor;
use skerry_identity::private_file;
use skerry_identity::tls::Credentials;
use skerry_identity::verify::{Clients, Expected, Time};
use skerry_identity::{KeyPair, PeerCertificate, Standing, Trust, TrustBundle};
use skerry_model::{ProjectName, ServiceName};
use tokio_rustls::rustls::pki_types::CertificateDer;

use super::{ClientTls, ServerTls, exact_time, exactly};

/// Between two looks whether the files have changed: three calls of the kernel each.
const LOOK_PERIOD: Duration = Duration::from_secs(10);
/// Of a certificate's life this share is left when it is told that nobody has renewed it: who does it has begun at a third.
const LATE_SHARE: u32 = 6;

/// A file, and what a person calls the setting that names it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TlsFile {
    /// As `--tls-cert`.
    pub setting: &'static str,
    /// Where it is.
    pub path: PathBuf,
}

/// Which files.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TlsPaths {
    /// Certificate chain, leaf first, and its key. Absent: nothing is presented.
    pub own: Option<(TlsFile, TlsFile)>,
    /// Roots that are trusted.
    pub authority: TlsFile,
}

/// A file that cannot be used.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{setting} {}: {why}", path.display())]
pub struct TlsFilesError {
    /// Which setting names it.
    setting: &'static str,
    path: PathBuf,
    why: String,
}

/// Files that were read, and what they hold, replaced where they change.
#[derive(Debug)]
pub struct TlsFiles {
    paths: TlsPaths,
    credentials: Arc<Credentials>,
    trust: Arc<Trust>,
    state: Mutex<State>,
}

#[derive(Debug)]
struct State {
    seen: Vec<Option<Stamp>>,
    own: Option<PeerCertificate>,
    /// Whether the roots are the store's, and the file is not heeded.
    roots_given: bool,
    /// The last failure that was told.
    told: Option<TlsFilesError>,
    /// The end of the certificate that was told to be near.
    told_end: Option<SystemTime>,
}

/// Tells one state of a file from another without reading it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Stamp {
    device: u64,
    inode: u64,
    length: u64,
    seconds: i64,
    nanoseconds: i64,
}

impl Stamp {
    fn of(metadata: &Metadata) -> Self {
        Self {
            device: metadata.dev(),
            inode: metadata.ino(),
            length: metadata.len(),
            seconds: metadata.mtime(),
            nanoseconds: metadata.mtime_nsec(),
        }
    }
}

/// What the files hold.
struct Contents {
    own: Option<Own>,
    bundle: TrustBundle,
}

struct Own {
    chain: Vec<CertificateDer<'static>>,
    key: Arc<KeyPair>,
    says: PeerCertificate,
}

impl TlsFiles {
    /// Reads `paths`.
    pub fn load(paths: TlsPaths) -> Result<Self, TlsFilesError> {
        let seen = stamps(&paths);
        let Contents { own, bundle } = read(&paths, None)?;
        let credentials = Credentials::none();
        let mut says = None;
        if let Some(own) = own {
            present(&paths, &credentials, &own)?;
            says = Some(own.says);
        }
        let state = Mutex::new(State { seen, own: says, roots_given: false, told: None, told_end: None });
        Ok(Self { credentials, trust: Trust::new(bundle), state, paths })
    }

    /// Who the own certificate says that this is; nothing without one.
    pub fn own(&self) -> Option<PeerCertificate> {
        self.state().own.clone()
    }

    /// For a server that lets in only who has a certificate. The own one must be a server's.
    pub fn server(&self) -> Result<ServerTls, TlsFilesError> {
        self.server_for(Clients::Required)
    }

    /// For a server where machines enrol: it lets in also who has no certificate, for that alone.
    pub fn server_for_enrolment(&self) -> Result<ServerTls, TlsFilesError> {
        self.server_for(Clients::Optional)
    }

    fn server_for(&self, clients: Clients) -> Result<ServerTls, TlsFilesError> {
        if let (Some((certificate, _)), Some(own)) = (&self.paths.own, self.own())
            && own.usage.is_server()
        {
            // Told here, where it is a deployment's mistake; a client says it of itself otherwise.
            if own.standing(SystemTime::now()) != Standing::Valid {
                tracing::warn!(file = %certificate.path.display(), "the certificate is not valid now: nobody will accept it");
            }
            return Ok(ServerTls::new(Arc::clone(&self.credentials), Arc::clone(&self.trust), clients));
        }
        Err(self.not_a_service())
    }

    fn not_a_service(&self) -> TlsFilesError {
        self.refuse_own("not a service's certificate: it must be for a server and for a client")
    }

    /// For a client that reaches servers by their names, on a machine whose clock is kept right.
    pub fn client(&self) -> ClientTls {
        self.client_of(Expected::Dialled, exact_time())
    }

    /// For a service that reaches one of the services of these names, at addresses that come and go: what is expected is their identity.
    pub fn client_of_services(&self, names: &[&str]) -> ClientTls {
        let names = names.iter().map(|name| ServiceName::parse(name).expect("a service's name is a label"));
        let expected = Expected::Services { project: ProjectName::system(), names: names.collect() };
        self.client_of(expected, exact_time())
    }

    /// For a client that asks this very service, wherever it listens: what is expected is the own identity.
    pub fn client_of_itself(&self) -> Result<ClientTls, TlsFilesError> {
        Ok(self.client_of(self.itself()?, exact_time()))
    }

    /// What a client expects of this very service.
    pub fn itself(&self) -> Result<Expected, TlsFilesError> {
        self.own().and_then(|own| exactly(&own.identity)).ok_or_else(|| self.not_a_service())
    }

    /// For the agent of an edge machine, whose clock is not believed: it is not before `floor`.
    pub fn client_of_node(&self, expected: Expected, floor: &Arc<TimeFloor>) -> ClientTls {
        self.client_of(expected, Time::Floor(Arc::clone(floor)))
    }

    /// Who is trusted now.
    pub fn trust(&self) -> &Arc<Trust> {
        &self.trust
    }

    fn client_of(&self, expected: Expected, time: Time) -> ClientTls {
        ClientTls::new(Arc::clone(&self.credentials), Arc::clone(&self.trust), expected, time)
    }

    /// What a setting of these files that does not fit is told as: of the own certificate.
    pub fn refuse_own(&self, why: impl fmt::Display) -> TlsFilesError {
        let file = self.paths.own.as_ref().map_or(&self.paths.authority, |(certificate, _)| certificate);
        wrong(file, why)
    }

    /// Looks whether the files have changed, and takes what they hold now. `true`: it did.
    pub fn look(&self) -> Result<bool, TlsFilesError> {
        let seen = stamps(&self.paths);
        if self.state().seen == seen {
            return Ok(false);
        }
        let given = self.state().roots_given.then(|| self.trust.current());
        let Contents { own, bundle } = read(&self.paths, given.as_deref())?;
        if let Some(own) = &own {
            present(&self.paths, &self.credentials, own)?;
        }
        let mut state = self.state();
        if !state.roots_given {
            self.trust.replace(bundle);
        }
        (state.seen, state.own, state.told) = (seen, own.map(|own| own.says), None);
        Ok(true)
    }

    /// Trusts the roots of the store from now on, and what the file of authorities says no more. Refused where the own certificate is of another
    /// trust domain: then nobody would know whom to believe. `true`: they are others than before.
    pub fn trust_roots(&self, bundle: TrustBundle) -> Result<bool, TlsFilesError> {
        let mut state = self.state();
        if let Some(own) = state.own.as_ref().map(|own| &own.identity.trust_domain)
            && own != bundle.domain()
        {
            let domain = bundle.domain().clone();
            let why = format!(
                "it is of the trust domain {own}, and the authority in the store is of {domain}: issue it with `skerry authority issue`"
            );
            drop(state);
            return Err(self.refuse_own(why));
        }
        state.roots_given = true;
        let changed = self.trust.current().digest() != bundle.digest();
        self.trust.replace(bundle);
        Ok(changed)
    }

    /// Looks for ever, every ten seconds. To be dropped at the end.
    pub async fn follow(self: Arc<Self>) {
        loop {
            tokio::time::sleep(LOOK_PERIOD).await;
            // Read here and not on another thread: three small files, seldom.
            match self.look() {
                Ok(true) => tracing::info!("the TLS files have changed and count from the next handshake on"),
                Ok(false) => {}
                Err(error) => self.tell(error),
            }
            self.tell_end(SystemTime::now());
        }
    }

    /// Tells once of each certificate that its end is near.
    fn tell_end(&self, now: SystemTime) {
        let mut state = self.state();
        let Some(own) = state.own.as_ref().filter(|own| is_late(own, now)) else { return };
        let end = Some(own.not_after);
        if state.told_end != end {
            let left = end.and_then(|end| end.duration_since(now).ok()).unwrap_or_default();
            tracing::warn!(
                hours_left = left.as_secs() / 3600,
                "the certificate ends soon and nobody has renewed it: say `skerry authority issue` again, each day; the new one counts without a restart"
            );
            state.told_end = end;
        }
    }

    fn tell(&self, error: TlsFilesError) {
        let mut state = self.state();
        if state.told.as_ref() != Some(&error) {
            tracing::warn!(%error, "the TLS files have changed and cannot be used: what they held before still counts");
            state.told = Some(error);
        }
    }

    fn state(&self) -> std::sync::MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn wrong(file: &TlsFile, why: impl fmt::Display) -> TlsFilesError {
    TlsFilesError { setting: file.setting, path: file.path.clone(), why: format!("{why}") }
}

fn stamps(paths: &TlsPaths) -> Vec<Option<Stamp>> {
    let own = paths.own.iter().flat_map(|(certificate, key)| [certificate, key]);
    let files = own.chain([&paths.authority]);
    files.map(|file| std::fs::metadata(&file.path).ok().as_ref().map(Stamp::of)).collect()
}

/// Whether so little is left of a certificate's life that whoever renews it should have done so.
fn is_late(own: &PeerCertificate, now: SystemTime) -> bool {
    let life = own.not_after.duration_since(own.not_before).unwrap_or_default();
    own.not_after.duration_since(now).is_ok_and(|left| left < life / LATE_SHARE)
        || own.standing(now) == Standing::Expired
}

/// Reads the files; that of authorities only where no roots are `given`.
fn read(paths: &TlsPaths, given: Option<&TrustBundle>) -> Result<Contents, TlsFilesError> {
    let bundle = match given {
        Some(bundle) => bundle.clone(),
        None => TrustBundle::parse_pem(&public(&paths.authority)?)
            .map_err(|error| wrong(&paths.authority, error))?,
    };
    let own = paths.own.as_ref().map(|(certificate, key)| read_own(certificate, key, &bundle)).transpose()?;
    Ok(Contents { own, bundle })
}

fn read_own(certificate: &TlsFile, key: &TlsFile, bundle: &TrustBundle) -> Result<Own, TlsFilesError> {
    let pem = public(certificate)?;
    let chain = chain_from_pem(&pem).map_err(|error| wrong(certificate, error))?;
    let says =
        PeerCertificate::of_chain(&chain, bundle.domain()).map_err(|nobody| wrong(certificate, nobody))?;
    let pem = private_file::read(&key.path).map_err(|error| wrong(key, error))?;
    let pem = pem.ok_or_else(|| wrong(key, "there is no such file"))?;
    let read = KeyPair::from_pem(&pem).map_err(|error| wrong(key, error))?;
    Ok(Own { chain, key: Arc::new(read), says })
}

fn present(paths: &TlsPaths, credentials: &Credentials, own: &Own) -> Result<(), TlsFilesError> {
    let key: Arc<KeyPair> = Arc::clone(&own.key);
    credentials.replace(own.chain.clone(), key).map_err(|error| {
        let file = paths.own.as_ref().map_or(&paths.authority, |(certificate, _)| certificate);
        wrong(file, error)
    })
}

/// Reads what anybody may read, up to what a bundle may have.
fn public(file: &TlsFile) -> Result<Vec<u8>, TlsFilesError> {
    let read = |path: &Path| -> io::Result<Vec<u8>> {
        let mut bytes = Vec::new();
        let limit = u64::try_from(CHAIN_BYTES_MAX + 1).expect("a small constant");
        std::fs::File::open(path)?.take(limit).read_to_end(&mut bytes)?;
        Ok(bytes)
    };
    let bytes = read(&file.path).map_err(|error| match error.kind() {
        io::ErrorKind::NotFound => wrong(file, "there is no such file"),
        _ => wrong(file, error),
    })?;
    if bytes.len() > CHAIN_BYTES_MAX {
        return Err(wrong(file, format_args!("it has more than {CHAIN_BYTES_MAX} bytes")));
    }
    Ok(bytes)
}

#[cfg(test)]
mod tests {
    use skerry_testing::Authority;

    use super::*;

    const SERVICE: &str = "spiffe://example.org/project/system/service/registry";

    fn load(files: &skerry_testing::TlsFiles) -> TlsFiles {
        let file = |setting, path: &Path| TlsFile { setting, path: path.to_owned() };
        let own = Some((file("--tls-cert", &files.certificate), file("--tls-key", &files.key)));
        TlsFiles::load(TlsPaths { own, authority: file("--tls-ca", &files.authority) }).expect("they fit")
    }

    #[test]
    fn roots_that_the_store_gives_count_whatever_the_file_says_afterwards() {
        let directory = tempfile::tempdir().expect("a directory");
        let (ours, mallory) = (Authority::new("example.org"), Authority::new("example.org"));
        let written = ours.write(directory.path(), "registry", SERVICE);
        let files = load(&written);
        let given = TrustBundle::parse_pem(ours.to_pem().as_bytes()).expect("roots");
        assert_eq!(files.trust_roots(given.clone()), Ok(false), "the same as in the file");

        std::fs::write(&written.authority, mallory.to_pem() + &ours.to_pem()).expect("written");
        assert_eq!(files.look(), Ok(true));
        assert_eq!(files.trust().current().digest(), given.digest(), "the file is not heeded");
        // Nor is it missed; and the own certificate is taken as before.
        std::fs::remove_file(&written.authority).expect("removed");
        let renewed = ours.write(directory.path(), "registry", SERVICE);
        std::fs::remove_file(&renewed.authority).expect("removed");
        assert_eq!(files.look(), Ok(true));
        let next = given
            .with(TrustBundle::parse_pem(mallory.to_pem().as_bytes()).expect("roots").roots()[0].clone());
        assert_eq!(files.trust_roots(next.expect("two")), Ok(true), "what the store says counts");
    }

    #[test]
    fn roots_of_another_trust_domain_than_the_own_certificate_are_refused_and_change_nothing() {
        let directory = tempfile::tempdir().expect("a directory");
        let (ours, other) = (Authority::new("example.org"), Authority::new("example.com"));
        let files = load(&ours.write(directory.path(), "registry", SERVICE));
        let before = files.trust().current().digest();
        let foreign = TrustBundle::parse_pem(other.to_pem().as_bytes()).expect("roots");
        let error = files.trust_roots(foreign).expect_err("another domain").to_string();
        assert!(error.starts_with("--tls-cert ") && error.contains("is of example.com"), "{error}");
        assert_eq!(files.trust().current().digest(), before);
    }

    #[test]
    fn a_certificate_that_nobody_renews_is_told_in_the_last_sixth_of_its_life_and_after_it() {
        let directory = tempfile::tempdir().expect("a directory");
        let files = load(&Authority::new("example.org").write(directory.path(), "registry", SERVICE));
        let own = files.own().expect("a certificate");
        let life = own.not_after.duration_since(own.not_before).expect("a life");
        for (parts, late) in [(0, false), (4, false), (6, true), (12, true)] {
            let now = own.not_before + life * parts / 6 - Duration::from_secs(u64::from(parts == 6));
            assert_eq!(is_late(&own, now), late, "{parts} sixths");
        }
    }
}
