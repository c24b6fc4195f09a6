//! How resources are created, read, updated and deleted, the same for every [`Kind`]: find the request, read, check, merge (`plan`), write on
//! condition of what was read, wait until the mirror shows it; again when somebody else was faster. Several together: `several`.

mod plan;
mod several;

use prost::Message;
use prost_types::FieldMask;
use skerry_model::{ContentHash, Fault, InvalidName, ProjectName};
use skerry_proto::scheduler::v1::update_app_response::Outcome;
use skerry_proto::types::v1::{AuditCaller, AuditOutcome};
use skerry_rpc::Peer;
use skerry_store::keys::RequestId;
use skerry_store::{Act, Key, RequestMark, Txn, TxnError, Versioned};

use crate::audit;
use crate::hub::Resource as _;
use crate::kind::{Kind, NameOf, RecordName, RecordOf, ResourceName, ResourceOf, Rules};
use crate::mask::Mask;
use crate::metadata::{Etag, metadata_of};
use crate::tenancy::{self, Takes};
use crate::tries::Tries;

use self::plan::{May, Wanted, plan};
pub use self::several::{Changed, Several};

/// The request that a mutation is, for remembering it by its id.
#[derive(Debug, Clone, Copy)]
pub struct Call<'a, M> {
    /// Full method name: an id of another method is another request.
    pub method: &'static str,
    /// The caller's id of it. Empty: it is not remembered.
    pub id: &'a str,
    /// All of it: the same id with another content is refused.
    pub request: &'a M,
    /// Who calls: no change is made without a record of it in the audit log.
    pub peer: &'a Peer,
}

/// What is asked of [`create`].
#[derive(Debug, Clone, Copy)]
pub struct Create<'a, R> {
    /// `projects/<project>`.
    pub parent: &'a str,
    /// The resource; its name is full or just the last part.
    pub resource: Option<&'a R>,
    /// Check all and change nothing.
    pub validate_only: bool,
}

/// What is asked of [`update`].
#[derive(Debug, Clone, Copy)]
pub struct Update<'a, R> {
    /// The new state; its name says which, its etag which version was read.
    pub resource: Option<&'a R>,
    /// What of it is meant.
    pub mask: Option<&'a FieldMask>,
    /// Create it if there is none; the mask then does not matter.
    pub allow_missing: bool,
    /// Check all and change nothing.
    pub validate_only: bool,
}

/// What is asked of [`delete`].
#[derive(Debug, Clone, Copy)]
pub struct Delete<'a> {
    /// Full name.
    pub name: &'a str,
    /// Only if still at this version. Empty: at any.
    pub etag: &'a str,
}

/// Creates a resource. ALREADY_EXISTS if there is one; a repeated request answers with the resource.
pub async fn create<K: Kind>(
    kind: &K,
    call: Call<'_, impl Message>,
    asked: Create<'_, ResourceOf<K>>,
) -> Result<ResourceOf<K>, Fault> {
    let project = ProjectName::parse_parent(asked.parent).map_err(|e| Fault::invalid_field("parent", e))?;
    let (sent, name) = named::<K::Rules>(asked.resource, |text| NameOf::<K>::parse_in(&project, text))?;
    if *name.project() != project {
        let field = format!("{}.metadata.name", K::Rules::FIELD);
        return Err(Fault::invalid_field(field, format!("`{name}` is not in {}", asked.parent)));
    }
    let mask = Mask::all();
    K::Rules::permits(call.peer, &name, sent, &mask)?;
    let mark = call.mark(&name)?;
    let may = May { create: true, update: false };
    let wanted = Wanted { name, sent, mask, may };
    Ok(change(kind, call.act(), mark, (wanted, asked.validate_only), &|txn| txn).await?.0)
}

/// One resource as it is now. NOT_FOUND if there is none.
pub async fn read<K: Kind>(kind: &K, name: &NameOf<K>) -> Result<ResourceOf<K>, Fault> {
    match stored(kind.rules(), name).await? {
        Some(resource) => Ok(kind.observed(name, resource)),
        None => Err(plan::absent(kind.rules(), name).await),
    }
}

/// One resource as it is stored, if there is one.
async fn stored<R: Rules>(rules: &R, name: &RecordName<R>) -> Result<Option<R::Resource>, Fault> {
    let Some(record) = rules.store().get(&Key::<R::Record>::of(name)).await? else { return Ok(None) };
    let Versioned { mut value, mod_revision, .. } = record;
    let spec = rules.spec(name, &value).await?;
    let metadata = metadata_of(name, R::meta(&mut value).as_ref(), Etag { mod_revision });
    Ok(Some(R::resource(metadata, spec)))
}

/// Updates a resource, or creates it where that is allowed. NOT_FOUND, or ABORTED if the etag is stale; a repeated request answers with the
/// resource, unchanged.
pub async fn update<K: Kind>(
    kind: &K,
    call: Call<'_, impl Message>,
    asked: Update<'_, ResourceOf<K>>,
) -> Result<(ResourceOf<K>, Outcome), Fault> {
    let wanted = Wanted::update(call.peer, &asked)?;
    let mark = call.mark(&wanted.name)?;
    change(kind, call.act(), mark, (wanted, asked.validate_only), &|txn| txn).await
}

/// What is compared and written in the same transaction as a change.
pub type Beside<'a> = &'a (dyn Fn(Txn) -> Txn + Send + Sync);

/// As [`update`], by who goes on with what somebody asked for before, and was allowed to. Nothing is written, and nothing of `beside`, where nothing changes.
pub async fn update_for<K: Kind>(
    kind: &K,
    caused: Caused,
    asked: Update<'_, ResourceOf<K>>,
    beside: Beside<'_>,
) -> Result<(ResourceOf<K>, Outcome), Fault> {
    change(kind, caused, None, (Wanted::allowed(&asked)?, asked.validate_only), beside).await
}

/// Whether this very request was answered before: for who does something ahead of [`delete`] that a repeat must not do. INVALID_ARGUMENT if its id
/// is none, or another request's.
pub async fn is_repeat<K: Kind>(
    kind: &K,
    call: &Call<'_, impl Message>,
    name: &NameOf<K>,
) -> Result<bool, Fault> {
    is_repeated(kind, call.mark(name)?.as_ref()).await
}

/// Deletes a resource. NOT_FOUND if there is none, ABORTED if the etag is stale; a repeated request succeeds again.
pub async fn delete<K: Kind>(kind: &K, call: Call<'_, impl Message>, asked: Delete<'_>) -> Result<(), Fault> {
    let name = NameOf::<K>::parse(asked.name)?;
    let mark = call.mark(&name)?;
    if is_repeated(kind, mark.as_ref()).await? {
        return Ok(());
    }
    remove(kind, &name, asked.etag, &call.act(), mark.as_ref(), &|txn| txn).await
}

/// As [`delete`], by who goes on with what somebody asked for before.
pub async fn delete_for<K: Kind>(
    kind: &K,
    caused: &Caused,
    asked: Delete<'_>,
    beside: Beside<'_>,
) -> Result<(), Fault> {
    remove(kind, &NameOf::<K>::parse(asked.name)?, asked.etag, caused, None, beside).await
}

async fn remove<K: Kind>(
    kind: &K,
    name: &NameOf<K>,
    etag: &str,
    caused: &Caused,
    mark: Option<&RequestMark>,
    beside: Beside<'_>,
) -> Result<(), Fault> {
    let (rules, key) = (kind.rules(), Key::<RecordOf<K>>::of(name));
    let mut tries = Tries::default();
    loop {
        let Some(before) = rules.store().get(&key).await? else {
            return Err(plan::absent(rules, name).await);
        };
        Etag::check(etag, name, before.mod_revision)?;
        kind.caught_up().await?;
        let txn = kind.remove(name, Txn::new().when_same(&before).delete(&key), caused)?;
        let charges = Takes::charges(Some(K::Rules::takes(&before.value)), None);
        let txn = tenancy::account(rules.store(), name.project(), &charges, txn).await?;
        let txn = beside(txn.audit(caused.of(name, AuditOutcome::Deleted)));
        match commit(kind, txn, mark).await? {
            Tried::Done | Tried::Repeated => return Ok(()),
            Tried::Contended => tries.again(name).await?,
        }
    }
}

/// What the audit log says of a call, but for what becomes of the resource.
#[derive(Debug, Clone)]
pub struct Caused {
    caller: AuditCaller,
    method: &'static str,
    request_id: String,
    request_hash: Option<ContentHash>,
    detail: String,
}

impl Caused {
    /// By a call that is remembered by no id.
    pub fn by<T: Message>(method: &'static str, request: &tonic::Request<T>) -> Self {
        Self::by_caller(method, audit::caller_of(request), request.get_ref())
    }

    /// By a caller that is known.
    pub fn by_caller(method: &'static str, caller: AuditCaller, request: &impl Message) -> Self {
        let request_hash = Some(ContentHash::of(&request.encode_to_vec()));
        Self { caller, method, request_id: String::new(), request_hash, detail: String::new() }
    }

    /// By a caller who asked for it before, by the request of this id. `detail` tells what goes on with it.
    pub fn before(caller: AuditCaller, method: &'static str, request_id: &str, detail: String) -> Self {
        Self { caller, method, request_id: request_id.to_owned(), request_hash: None, detail }
    }

    /// The act that it is where `name` becomes what `outcome` says.
    pub fn of(&self, name: &impl ResourceName, outcome: AuditOutcome) -> Act {
        self.of_resource(name.project(), name.to_string(), outcome)
    }

    /// The same where names have no type of their own.
    pub fn of_resource(&self, project: &ProjectName, resource: String, outcome: AuditOutcome) -> Act {
        let act = Act::new(self.caller.clone(), self.method, project.clone(), resource, outcome);
        Act {
            request_id: self.request_id.clone(),
            request_hash: self.request_hash,
            trace_id: audit::trace_id(),
            detail: self.detail.clone(),
            ..act
        }
    }
}

impl<M: Message> Call<'_, M> {
    fn act(&self) -> Caused {
        let caused = Caused::by_caller(self.method, audit::caller(self.peer), self.request);
        Caused { request_id: self.id.to_owned(), ..caused }
    }

    /// What the mutation leaves in its transaction, if the caller named the request.
    fn mark(&self, name: &impl ResourceName) -> Result<Option<RequestMark>, Fault> {
        self.mark_in(name.remembered_in(), name.to_string())
    }

    fn mark_in(&self, project: &ProjectName, resource: String) -> Result<Option<RequestMark>, Fault> {
        if self.id.is_empty() {
            return Ok(None);
        }
        let id = RequestId::parse(self.id).map_err(|error| Fault::invalid_field("request_id", error))?;
        Ok(Some(RequestMark {
            project: project.clone(),
            id,
            method: self.method.to_owned(),
            hash: ContentHash::of(&self.request.encode_to_vec()),
            resource,
        }))
    }
}

/// The resource of a request and its name.
fn named<R: Rules>(
    resource: Option<&R::Resource>,
    parse: impl FnOnce(&str) -> Result<RecordName<R>, InvalidName>,
) -> Result<(&R::Resource, RecordName<R>), Fault> {
    let resource =
        resource.ok_or_else(|| Fault::invalid_field(R::FIELD, format!("name the {}", R::FIELD)))?;
    let text = resource.metadata().map_or("", |metadata| metadata.name.as_str());
    let name = parse(text).map_err(|e| Fault::invalid_field(format!("{}.metadata.name", R::FIELD), e))?;
    Ok((resource, name))
}

async fn change<K: Kind>(
    kind: &K,
    caused: Caused,
    mark: Option<RequestMark>,
    (wanted, validate_only): (Wanted<'_, K::Rules>, bool),
    beside: Beside<'_>,
) -> Result<(ResourceOf<K>, Outcome), Fault> {
    let (rules, name) = (kind.rules(), &wanted.name);
    if is_repeated(kind, mark.as_ref()).await? {
        return Ok((read(kind, name).await?, Outcome::Unchanged));
    }
    let mut tries = Tries::default();
    loop {
        let planned = plan(rules, &wanted, Txn::new()).await?;
        let outcome = planned.outcome;
        if outcome == Outcome::Unchanged {
            return Ok((kind.observed(name, planned.resource), outcome));
        }
        let txn = if K::Rules::IS_PROJECT {
            planned.txn
        } else {
            let makes = outcome == Outcome::Created;
            tenancy::settle(rules.store(), name.project(), makes, &planned.charges, planned.txn).await?
        };
        // Only now: what it takes of its project's quota is known when it would be written.
        if validate_only {
            return Ok((kind.observed(name, planned.resource), outcome));
        }
        let act = caused.of(name, plan::audited(outcome));
        let act = match K::Rules::noted(&planned.resource) {
            noted if noted.is_empty() => act,
            noted => act.detail(noted),
        };
        let txn = beside(txn.audit(act));
        match commit(kind, txn, mark.as_ref()).await? {
            Tried::Done => return Ok((read(kind, name).await?, outcome)),
            Tried::Repeated => return Ok((read(kind, name).await?, Outcome::Unchanged)),
            Tried::Contended => tries.again(name).await?,
        }
    }
}

/// Whether the request was made before; INVALID_ARGUMENT if its id was another's.
async fn is_repeated<K: Kind>(kind: &K, mark: Option<&RequestMark>) -> Result<bool, Fault> {
    match mark {
        Some(mark) => Ok(kind.rules().store().find_request(mark).await?.is_some()),
        None => Ok(false),
    }
}

/// What came of one try.
enum Tried {
    /// Done, and the mirror shows it.
    Done,
    /// Somebody else was faster.
    Contended,
    /// The same request was made before.
    Repeated,
}

async fn commit<K: Kind>(kind: &K, txn: Txn, mark: Option<&RequestMark>) -> Result<Tried, Fault> {
    let txn = match mark {
        Some(mark) => txn.request(mark.clone()),
        None => txn,
    };
    match kind.rules().store().commit(txn).await {
        Ok(committed) => {
            let shown = kind.mirror().wait_for(&committed).await;
            shown.map_err(|e| Fault::unavailable(e.to_string()))?;
            kind.caught_up().await?;
            Ok(Tried::Done)
        }
        Err(TxnError::Conflict(_)) => Ok(Tried::Contended),
        Err(TxnError::Repeated { .. }) => Ok(Tried::Repeated),
        Err(error) => Err(error.into()),
    }
}

#[cfg(test)]
mod tests;
