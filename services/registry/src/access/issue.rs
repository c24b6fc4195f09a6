//! Issuing a certificate to a user: for a key that it made, which counts from then on.
//!
//! | who asks | for whom | for which key |
//! |---|---|---|
//! | a user (`known_only`) | itself | the one by which it calls: so a certificate is renewed, and nothing is recorded |
//! | an admin of the user's project | a user who has no role that the admin has not, and no grant where the admin could not give it | any |
//! | the first admin | itself | any |

use std::sync::Arc;
use std::time::SystemTime;

use bytes::Bytes;
use skerry_api::{ADMIN, Caused, Tries, audit};
use skerry_identity::KeyId;
use skerry_identity::csr::Request as CertificateRequest;
use skerry_model::{Code, Fault, ProjectName, ServiceName, UserRef, time};
use skerry_proto::registry::v1 as pb;
use skerry_proto::store::v1 as stored;
use skerry_proto::types::v1::AuditOutcome;
use skerry_resources::{KEYS_MAX, is_first_admin, only_itself};
use skerry_rpc::Peer;
use skerry_rpc::access::{Authorizer as _, Role};
use skerry_store::{Act, Key, Store, Txn, TxnError};

use super::users::Users;

impl Users {
    pub(super) async fn issue(
        &self,
        peer: &Peer,
        request: &pb::IssueCertificateRequest,
        caused: &Caused,
    ) -> Result<pb::IssueCertificateResponse, Fault> {
        let name = UserRef::parse(&request.name)?;
        let asked = CertificateRequest::parse(&request.certificate_request)
            .map_err(|error| Fault::invalid_field("certificate_request", error))?;
        let user =
            ServiceName::parse(name.user.as_str()).map_err(|error| Fault::invalid_field("name", error))?;
        match &peer.certificate {
            // A listener without TLS has decided already.
            None => {}
            Some(_) if request.known_only => self.check_renewal(peer, &name, asked.public_key().id()).await?,
            Some(certificate) => self.check_admin(certificate.identity.user().as_ref(), &name)?,
        }
        // First, since it may fail: a key that counts and has no certificate is of no use.
        let granted = self.issuer.issue_user(&name.project, &user, asked.public_key(), None)?;
        // Who only renews leaves no record either: the first admin has none until somebody else's key is to count.
        if !request.known_only {
            let act = caused.of(&name, AuditOutcome::Issued);
            let act = act.detail(format!("for the key {}", asked.public_key().id()));
            self.count_key(&name, asked.public_key().id(), peer, request.replace, &act).await?;
        }
        let der = |der: &rustls_pki_types::CertificateDer<'_>| Bytes::copy_from_slice(der);
        Ok(pb::IssueCertificateResponse {
            chain: granted.issued.chain.iter().map(der).collect(),
            roots: granted.roots.iter().map(der).collect(),
            expire_time: Some(time::to_timestamp(granted.issued.not_after)),
        })
    }

    /// A renewal is for the very key by which the user calls, if it counts still: that is asked of the store, since who lets callers in may be a moment behind.
    async fn check_renewal(&self, peer: &Peer, name: &UserRef, key: KeyId) -> Result<(), Fault> {
        if own_key(peer, name) == Some(key) && self.shown.access.knows(name, &key) {
            let found = self.store.get(&Key::<stored::UserRecord>::of(name)).await?;
            // The first admin may have no record, and then each of its keys counts.
            let counts = match &found {
                Some(found) => found.value.keys.iter().any(|known| known.key_id[..] == key.as_bytes()[..]),
                None => is_first_admin(name),
            };
            if counts {
                return Ok(());
            }
        }
        let message = format!(
            "known_only renews the certificate by which {name} calls, for the same key: an admin can issue one for a new key"
        );
        Err(Fault::new(Code::FailedPrecondition, "KEY_UNKNOWN", message))
    }

    /// Who adds a key to a user can be that user: so the caller has every role that the user has, and nobody is the first admin but itself.
    fn check_admin(&self, caller: Option<&UserRef>, name: &UserRef) -> Result<(), Fault> {
        let itself = caller == Some(name);
        if is_first_admin(name) && !itself {
            return Err(only_itself(name));
        }
        let has = |project: &ProjectName, role: Role| {
            caller.and_then(|caller| self.shown.access.role(caller, project)).is_some_and(|held| held >= role)
        };
        let needed = std::iter::once((name.project.clone(), Role::Admin));
        let roles = if itself { Vec::new() } else { self.shown.access.roles(name) };
        let now = SystemTime::now();
        let grants = if itself { Arc::default() } else { self.shown.access.grants(name) };
        // Who grants is an admin where the grant is, so who could act by one is no less.
        let granted = grants.iter().filter(|grant| grant.holds(now));
        let granted = granted.map(|grant| (grant.name.project.clone(), Role::Admin));
        match needed.chain(roles).chain(granted).find(|(project, role)| !has(project, *role)) {
            None => Ok(()),
            Some((project, role)) => {
                let message = format!(
                    "a certificate of {name} for a new key takes the role {role} in {project}, which {name} would act with"
                );
                let fault = Fault::new(Code::PermissionDenied, "ROLE_NEEDED", message);
                Err(fault.with("project", project).with("role", role))
            }
        }
    }

    /// Adds the key to those that count, or leaves it the only one; waits until this replica knows it.
    async fn count_key(
        &self,
        name: &UserRef,
        key: KeyId,
        peer: &Peer,
        replace: bool,
        act: &Act,
    ) -> Result<(), Fault> {
        let record_key = Key::<stored::UserRecord>::of(name);
        let mut tries = Tries::default();
        loop {
            let found = self.store.get(&record_key).await?;
            let txn = match &found {
                Some(found) => Txn::new().when_same(found),
                // It may never have had a record, and must not lose the key by which it calls with the first one.
                None if is_first_admin(name) => Txn::new().when_absent(&record_key),
                None => return Err(Fault::not_found(name)),
            };
            let before = found.map(|found| found.value);
            let Some(record) = with_key(before.as_ref(), key, own_key(peer, name), replace)? else {
                // A certificate for a key that counts already is one more certificate all the same.
                self.store.commit(Txn::new().audit(act.clone())).await?;
                return Ok(());
            };
            match self.store.commit(txn.put(&record_key, &record).audit(act.clone())).await {
                Ok(committed) => {
                    self.shown.access.mirror().wait_for(&committed).await?;
                    return Ok(());
                }
                Err(TxnError::Conflict(_)) => tries.again(name).await?,
                Err(error) => return Err(error.into()),
            }
        }
    }
}

/// Counts a key of the first admin where it has a record: for who has the authority in hand, whatever became of the keys that counted. Answers
/// whether there was anything to do.
///
/// # Errors
/// The store's, and too many keys.
pub async fn count_first_admin_key(store: &Store, key: KeyId) -> Result<bool, Fault> {
    let name = UserRef::parse(ADMIN).expect("a name");
    let record_key = Key::<stored::UserRecord>::of(&name);
    let mut tries = Tries::default();
    loop {
        let Some(found) = store.get(&record_key).await? else { return Ok(false) };
        let Some(record) = with_key(Some(&found.value), key, None, false)? else { return Ok(false) };
        let project = name.project.clone();
        let act = Act::new(
            audit::itself("skerry"),
            "skerry authority",
            project,
            name.to_string(),
            AuditOutcome::Updated,
        );
        let act = act.detail(format!("the key {key} of who has the authority counts"));
        match store.commit(Txn::new().when_same(&found).put(&record_key, &record).audit(act)).await {
            Ok(_) => return Ok(true),
            Err(TxnError::Conflict(_)) => tries.again(&name).await?,
            Err(error) => return Err(error.into()),
        }
    }
}

/// The key by which `name` itself calls, if it does.
fn own_key(peer: &Peer, name: &UserRef) -> Option<KeyId> {
    let certificate = peer.certificate.as_ref()?;
    (certificate.identity.user().as_ref() == Some(name)).then_some(certificate.key_id)
}

/// The record with the key; nothing if it is as it should be already. A record that is new has the caller's own key too.
pub(super) fn with_key(
    before: Option<&stored::UserRecord>,
    key: KeyId,
    own: Option<KeyId>,
    replace: bool,
) -> Result<Option<stored::UserRecord>, Fault> {
    let now = Some(time::to_timestamp(SystemTime::now()));
    let entry =
        |key: KeyId| stored::UserKeyRecord { key_id: key.as_bytes().to_vec().into(), create_time: now };
    let is_new = before.is_none();
    let mut record = before.cloned().unwrap_or_else(|| stored::UserRecord {
        meta: Some(skerry_api::new_meta(SystemTime::now())),
        keys: own.into_iter().map(entry).collect(),
    });
    if replace {
        record.keys.retain(|known| known.key_id[..] == key.as_bytes()[..]);
    }
    if !record.keys.iter().any(|known| known.key_id[..] == key.as_bytes()[..]) {
        record.keys.push(entry(key));
    }
    if record.keys.len() > KEYS_MAX {
        let message =
            format!("at most {KEYS_MAX} keys count for one user: take some out, or ask with replace");
        return Err(Fault::new(Code::ResourceExhausted, "KEYS_MAX", message).with("most", KEYS_MAX));
    }
    if before == Some(&record) {
        return Ok(None);
    }
    if let Some(meta) = record.meta.as_mut() {
        meta.generation += i64::from(!is_new);
    }
    Ok(Some(record))
}
