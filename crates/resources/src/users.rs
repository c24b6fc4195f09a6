//! What a user is: by which keys somebody calls.

use std::time::SystemTime;

use skerry_api::{ADMIN, Mask, Rules};
use skerry_identity::KeyId;
use skerry_model::{Code, Fault, UserRef, time};
use skerry_proto::registry::v1::{User, UserKey, UserSpec};
use skerry_proto::store::v1 as stored;
use skerry_proto::types::v1::Metadata;
use skerry_rpc::Peer;
use skerry_store::{Store, Txn};

use crate::names::check_names;

/// Most keys of one user.
pub const KEYS_MAX: usize = 16;

/// The rules of users.
#[derive(Debug, Clone)]
pub struct UserRules {
    store: Store,
}

impl UserRules {
    /// Those over this store.
    pub fn new(store: Store) -> Self {
        Self { store }
    }
}

/// Whether it is the one who is admin whatever the bindings say.
pub fn is_first_admin(name: &UserRef) -> bool {
    name.project.is_system() && name.to_string() == ADMIN
}

/// The spec that a record stands for.
pub fn user_spec(record: &stored::UserRecord) -> UserSpec {
    let key = |key: &stored::UserKeyRecord| UserKey {
        // One that is none counts for nobody, and is shown as what it is: nothing.
        id: KeyId::try_from(&key.key_id[..]).map(|id| id.to_string()).unwrap_or_default(),
        create_time: key.create_time,
    };
    UserSpec { keys: record.keys.iter().map(key).collect() }
}

impl Rules for UserRules {
    type Record = stored::UserRecord;
    type Spec = UserSpec;
    type Resource = User;

    const FIELD: &'static str = "user";
    const SPEC_PATHS: &'static [&'static str] = &["spec", "spec.keys"];

    fn store(&self) -> &Store {
        &self.store
    }

    fn meta(record: &mut stored::UserRecord) -> &mut Option<stored::Meta> {
        &mut record.meta
    }

    async fn spec(&self, _: &UserRef, record: &stored::UserRecord) -> Result<UserSpec, Fault> {
        Ok(user_spec(record))
    }

    fn merge(stored: Option<&UserSpec>, sent: &User, mask: &Mask) -> Result<UserSpec, Fault> {
        let before = stored.cloned().unwrap_or_default();
        if !mask.covers("spec.keys") {
            return Ok(before);
        }
        let sent = sent.spec.clone().unwrap_or_default().keys;
        let ids: Vec<String> = sent.into_iter().map(|key| key.id).collect();
        check_names("user.spec.keys", &ids, KEYS_MAX, KeyId::parse)?;
        let now = Some(time::to_timestamp(SystemTime::now()));
        // When a key was added is the server's to say.
        let since = |id: &str| before.keys.iter().find(|key| key.id == id).map_or(now, |key| key.create_time);
        let keys = ids.into_iter().map(|id| UserKey { create_time: since(&id), id }).collect();
        Ok(UserSpec { keys })
    }

    async fn write(
        &self,
        name: &UserRef,
        record: &mut stored::UserRecord,
        spec: &UserSpec,
        txn: Txn,
    ) -> Result<Txn, Fault> {
        if is_first_admin(name) && spec.keys.is_empty() {
            return Err(admin_needed(name, "leave it one key at least"));
        }
        let key = |key: &UserKey| {
            let id = KeyId::parse(&key.id).map_err(|error| Fault::internal(error.to_string()))?;
            let key_id = id.as_bytes().to_vec().into();
            Ok(stored::UserKeyRecord { key_id, create_time: key.create_time })
        };
        record.keys = spec.keys.iter().map(key).collect::<Result<_, Fault>>()?;
        Ok(txn)
    }

    fn permits(peer: &Peer, name: &UserRef, sent: &User, mask: &Mask) -> Result<(), Fault> {
        keeps_own_key(peer, name, sent, mask)
    }

    fn resource(metadata: Metadata, spec: UserSpec) -> User {
        User { metadata: Some(metadata), spec: Some(spec) }
    }
}

/// Why the first admin stays as it is.
pub fn admin_needed(name: &UserRef, what: &str) -> Fault {
    let message = format!("{name} is who can always mend the installation: {what}");
    Fault::new(Code::FailedPrecondition, "ADMIN_NEEDED", message)
}

/// The first admin's keys are its own affair: whoever could add one would be the first admin.
pub fn only_itself(name: &UserRef) -> Fault {
    let message = format!(
        "nobody but {name} itself changes its keys: `skerry authority issue user admin`, where the authority is, makes a certificate of it anew"
    );
    Fault::new(Code::PermissionDenied, "ADMIN_ITSELF", message)
}

/// The first admin does not take the very key out by which it calls, and nobody else touches its keys.
fn keeps_own_key(peer: &Peer, name: &UserRef, sent: &User, mask: &Mask) -> Result<(), Fault> {
    let Some(certificate) = &peer.certificate else { return Ok(()) };
    if !is_first_admin(name) || !mask.covers("spec.keys") {
        return Ok(());
    }
    if certificate.identity.user().as_ref() != Some(name) {
        return Err(only_itself(name));
    }
    let own = certificate.key_id.to_string();
    let keys = sent.spec.as_ref().map_or(&[][..], |spec| &spec.keys);
    if keys.iter().any(|key| key.id == own) {
        return Ok(());
    }
    Err(admin_needed(name, &format!("keep the key by which you call, {own}")))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn key(byte: u8) -> String {
        KeyId::from_bytes([byte; 32]).to_string()
    }

    #[test]
    fn the_server_says_since_when_a_key_counts() {
        let long_ago = Some(prost_types::Timestamp { seconds: 1, nanos: 0 });
        let before = UserSpec { keys: vec![UserKey { id: key(1), create_time: long_ago }] };
        let claimed = Some(prost_types::Timestamp { seconds: 7, nanos: 0 });
        let sent = [key(1), key(2)].map(|id| UserKey { id, create_time: claimed });
        let user = User { metadata: Some(Metadata::default()), spec: Some(UserSpec { keys: sent.to_vec() }) };
        let merged = UserRules::merge(Some(&before), &user, &Mask::all()).unwrap();
        assert_eq!(merged.keys[0].create_time, long_ago);
        assert_ne!(merged.keys[1].create_time, claimed);
        let wrong = UserKey { id: "me".into(), create_time: None };
        let user = User { spec: Some(UserSpec { keys: vec![wrong] }), ..user };
        assert_eq!(
            UserRules::merge(None, &user, &Mask::all()).unwrap_err().violations[0].field,
            "user.spec.keys[0]"
        );
    }
}
