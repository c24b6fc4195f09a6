//! `UserService`: what is a user's own in the ways of `skerry-api`, and the handlers.

use std::sync::Arc;
use std::time::SystemTime;

use skerry_api::{ADMIN, Call, Caused, Create, Delete, Kind, Mask, Update, reply};
use skerry_identity::KeyId;
use skerry_model::{Code, Fault, ProjectName, UserRef, time};
use skerry_proto::registry::v1::user_service_server::UserService;
use skerry_proto::registry::v1::{self as pb, User, UserKey, UserSpec};
use skerry_proto::store::v1 as stored;
use skerry_proto::types::v1::Metadata;
use skerry_rpc::{Peer, status_of};
use skerry_store::{Mirror, Store, Txn};
use tonic::{Request, Response, Status};

use super::shown::{Shown, check_names, user_spec};
use super::{named, outcome};
use crate::authority::Issuer;

/// Most keys of one user.
pub(super) const KEYS_MAX: usize = 16;

/// The handlers.
#[derive(Clone)]
pub(crate) struct Users {
    pub(crate) shown: Arc<Shown>,
    pub(crate) store: Store,
    pub(crate) issuer: Issuer,
}

impl Users {
    /// Whether it is the one who is admin whatever the bindings say.
    pub(super) fn is_first_admin(name: &UserRef) -> bool {
        name.project.is_system() && name.to_string() == ADMIN
    }
}

impl Kind for Users {
    type Record = stored::UserRecord;
    type Spec = UserSpec;
    type Resource = User;

    const FIELD: &'static str = "user";
    const SPEC_PATHS: &'static [&'static str] = &["spec", "spec.keys"];

    fn store(&self) -> &Store {
        &self.store
    }

    fn mirror(&self) -> &Mirror {
        self.shown.access.mirror()
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
        if Self::is_first_admin(name) && spec.keys.is_empty() {
            return Err(needed(name, "leave it one key at least"));
        }
        let key = |key: &UserKey| {
            let id = KeyId::parse(&key.id).map_err(|error| Fault::internal(error.to_string()))?;
            let key_id = id.as_bytes().to_vec().into();
            Ok(stored::UserKeyRecord { key_id, create_time: key.create_time })
        };
        record.keys = spec.keys.iter().map(key).collect::<Result<_, Fault>>()?;
        Ok(txn)
    }

    fn remove(&self, name: &UserRef, txn: Txn, caused: &Caused) -> Result<Txn, Fault> {
        if Self::is_first_admin(name) {
            return Err(needed(name, "it cannot be deleted"));
        }
        named::nowhere(name, &self.shown.access.mirror().snapshot(), caused, txn)
    }

    fn show(&self, _: &UserRef, metadata: Metadata, spec: UserSpec) -> User {
        User { metadata: Some(metadata), spec: Some(spec) }
    }
}

fn needed(name: &UserRef, what: &str) -> Fault {
    let message = format!("{name} is who can always mend the installation: {what}");
    Fault::new(Code::FailedPrecondition, "ADMIN_NEEDED", message)
}

/// The first admin's keys are its own affair: whoever could add one would be the first admin.
pub(super) fn only_itself(name: &UserRef) -> Fault {
    let message = format!(
        "nobody but {name} itself changes its keys: `skerry authority issue user admin`, where the authority is, makes a certificate of it anew"
    );
    Fault::new(Code::PermissionDenied, "ADMIN_ITSELF", message)
}

/// The first admin does not take the very key out by which it calls, and nobody else touches its keys. `project`: that of short names.
fn keeps_own_key(
    peer: &Peer,
    project: Option<&ProjectName>,
    user: Option<&User>,
    mask: &Mask,
) -> Result<(), Fault> {
    let Some(certificate) = &peer.certificate else { return Ok(()) };
    let Some(user) = user else { return Ok(()) };
    let name = user.metadata.as_ref().map_or("", |metadata| &metadata.name);
    let named = match project {
        Some(project) => UserRef::parse_in(project, name),
        None => UserRef::parse(name),
    };
    let Some(first) = named.ok().filter(Users::is_first_admin).filter(|_| mask.covers("spec.keys")) else {
        return Ok(());
    };
    if certificate.identity.user().as_ref() != Some(&first) {
        return Err(only_itself(&first));
    }
    let own = certificate.key_id.to_string();
    let keys = user.spec.as_ref().map_or(&[][..], |spec| &spec.keys);
    if keys.iter().any(|key| key.id == own) {
        return Ok(());
    }
    Err(needed(&first, &format!("keep the key by which you call, {own}")))
}

#[tonic::async_trait]
impl UserService for Users {
    async fn create_user(
        &self,
        request: Request<pb::CreateUserRequest>,
    ) -> Result<Response<pb::CreateUserResponse>, Status> {
        let peer = Peer::of(&request).map_err(|fault| status_of(&fault))?;
        let request = request.get_ref();
        let method = "skerry.registry.v1.UserService/CreateUser";
        let pb::CreateUserRequest { parent, user, validate_only, .. } = request;
        let project = ProjectName::parse_parent(parent).ok();
        if let Err(fault) = keeps_own_key(&peer, project.as_ref(), user.as_ref(), &Mask::all()) {
            return reply(Err(fault));
        }
        let create = Create { parent, resource: user.as_ref(), validate_only: *validate_only };
        let made =
            skerry_api::create(self, Call { method, id: &request.request_id, request, peer: &peer }, create)
                .await;
        reply(made.map(|user| pb::CreateUserResponse { user: Some(user) }))
    }

    async fn get_user(
        &self,
        request: Request<pb::GetUserRequest>,
    ) -> Result<Response<pb::GetUserResponse>, Status> {
        let user = async { skerry_api::read(self, &UserRef::parse(&request.get_ref().name)?).await };
        reply(user.await.map(|user| pb::GetUserResponse { user: Some(user) }))
    }

    async fn list_users(
        &self,
        request: Request<pb::ListUsersRequest>,
    ) -> Result<Response<pb::ListUsersResponse>, Status> {
        let pb::ListUsersRequest { parent, label_selector, page_size, page_token } = request.get_ref();
        let page =
            skerry_api::list(self, &self.shown.users, parent, label_selector, *page_size, page_token).await;
        reply(
            page.map(|page| pb::ListUsersResponse {
                users: page.items,
                next_page_token: page.next_page_token,
            }),
        )
    }

    async fn update_user(
        &self,
        request: Request<pb::UpdateUserRequest>,
    ) -> Result<Response<pb::UpdateUserResponse>, Status> {
        let peer = Peer::of(&request).map_err(|fault| status_of(&fault))?;
        let request = request.get_ref();
        let method = "skerry.registry.v1.UserService/UpdateUser";
        let kept = Mask::parse(request.update_mask.as_ref(), Self::SPEC_PATHS)
            .and_then(|mask| keeps_own_key(&peer, None, request.user.as_ref(), &mask));
        if let Err(fault) = kept {
            return reply(Err(fault));
        }
        let update = Update {
            resource: request.user.as_ref(),
            mask: request.update_mask.as_ref(),
            allow_missing: request.allow_missing,
            validate_only: request.validate_only,
        };
        let done =
            skerry_api::update(self, Call { method, id: &request.request_id, request, peer: &peer }, update)
                .await;
        reply(done.map(|(user, came)| pb::UpdateUserResponse { user: Some(user), outcome: outcome(came) }))
    }

    async fn delete_user(
        &self,
        request: Request<pb::DeleteUserRequest>,
    ) -> Result<Response<pb::DeleteUserResponse>, Status> {
        let peer = Peer::of(&request).map_err(|fault| status_of(&fault))?;
        let request = request.get_ref();
        let method = "skerry.registry.v1.UserService/DeleteUser";
        let delete = Delete { name: &request.name, etag: &request.etag };
        let done =
            skerry_api::delete(self, Call { method, id: &request.request_id, request, peer: &peer }, delete)
                .await;
        reply(done.map(|()| pb::DeleteUserResponse {}))
    }

    async fn issue_certificate(
        &self,
        request: Request<pb::IssueCertificateRequest>,
    ) -> Result<Response<pb::IssueCertificateResponse>, Status> {
        let peer = Peer::of(&request).map_err(|fault| status_of(&fault))?;
        let caused = Caused::by("skerry.registry.v1.UserService/IssueCertificate", &request);
        reply(self.issue(&peer, request.get_ref(), &caused).await)
    }
}

#[cfg(test)]
mod tests;
