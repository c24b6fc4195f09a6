//! Issuing a certificate to a user: for a key that it made, which counts from then on.

use std::time::SystemTime;

use bytes::Bytes;
use skerry_api::{Caused, Tries};
use skerry_identity::KeyId;
use skerry_identity::csr::Request as CertificateRequest;
use skerry_model::{Code, Fault, ServiceName, UserRef, time};
use skerry_proto::registry::v1 as pb;
use skerry_proto::store::v1 as stored;
use skerry_proto::types::v1::AuditOutcome;
use skerry_rpc::Peer;
use skerry_rpc::access::Authorizer as _;
use skerry_store::{Act, Key, Txn, TxnError};

use super::users::{KEYS_MAX, Users};

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
        let known = || self.shown.access.knows(&name, &asked.public_key().id());
        if request.known_only && !known() {
            let message = format!(
                "no key of {name} is the one of the request: an admin can issue a certificate for a new key"
            );
            return Err(Fault::new(Code::FailedPrecondition, "KEY_UNKNOWN", message));
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
                None if Self::is_first_admin(name) => Txn::new().when_absent(&record_key),
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
