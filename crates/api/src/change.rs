//! How resources are created, read, updated and deleted, the same for every [`Kind`]: find the request, read, check, merge, write on
//! condition of what was read, wait until the mirror shows it; again when somebody else was faster.

use std::time::SystemTime;

use prost::Message;
use prost_types::FieldMask;
use skerry_model::{ContentHash, Fault, InvalidName, ProjectName};
use skerry_proto::scheduler::v1::update_app_response::Outcome;
use skerry_proto::types::v1::{AuditCaller, AuditOutcome, Metadata};
use skerry_rpc::Peer;
use skerry_store::keys::RequestId;
use skerry_store::{Act, Key, RequestMark, Txn, TxnError, Versioned};

use crate::audit;
use crate::hub::Resource as _;
use crate::kind::{Kind, NameOf, ResourceName};
use crate::mask::Mask;
use crate::metadata::{Etag, check_metadata, metadata_of, new_meta};
use crate::own_annotations;
use crate::tenancy::{self, Takes};
use crate::tries::Tries;

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
    asked: Create<'_, K::Resource>,
) -> Result<K::Resource, Fault> {
    let project = ProjectName::parse_parent(asked.parent).map_err(|e| Fault::invalid_field("parent", e))?;
    let (sent, name) = named::<K>(asked.resource, |text| NameOf::<K>::parse_in(&project, text))?;
    if *name.project() != project {
        let field = format!("{}.metadata.name", K::FIELD);
        return Err(Fault::invalid_field(field, format!("`{name}` is not in {}", asked.parent)));
    }
    let mark = call.mark::<K>(&name)?;
    let may = May { create: true, update: false };
    let wanted = Wanted { name, sent, mask: Mask::all(), may, validate_only: asked.validate_only };
    Ok(change(kind, call.act(), mark, wanted, &|txn| txn).await?.0)
}

/// One resource as it is now. NOT_FOUND if there is none.
pub async fn read<K: Kind>(kind: &K, name: &NameOf<K>) -> Result<K::Resource, Fault> {
    let Some(record) = kind.store().get(&Key::<K::Record>::of(name)).await? else {
        return Err(absent(kind, name).await);
    };
    let Versioned { mut value, mod_revision, .. } = record;
    let spec = kind.spec(name, &value).await?;
    let metadata = metadata_of(name, K::meta(&mut value).as_ref(), Etag { mod_revision });
    Ok(kind.show(name, metadata, spec))
}

/// Updates a resource, or creates it where that is allowed. NOT_FOUND, or ABORTED if the etag is stale; a repeated request answers with the
/// resource, unchanged.
pub async fn update<K: Kind>(
    kind: &K,
    call: Call<'_, impl Message>,
    asked: Update<'_, K::Resource>,
) -> Result<(K::Resource, Outcome), Fault> {
    let (sent, name) = named::<K>(asked.resource, NameOf::<K>::parse)?;
    let mask = Mask::parse(asked.mask, K::SPEC_PATHS)?;
    let mark = call.mark::<K>(&name)?;
    let may = May { create: asked.allow_missing, update: true };
    let wanted = Wanted { name, sent, mask, may, validate_only: asked.validate_only };
    change(kind, call.act(), mark, wanted, &|txn| txn).await
}

/// What is compared and written in the same transaction as a change.
pub type Beside<'a> = &'a (dyn Fn(Txn) -> Txn + Send + Sync);

/// As [`update`], by who goes on with what somebody asked for before. Nothing is written, and nothing of `beside`, where nothing changes.
pub async fn update_for<K: Kind>(
    kind: &K,
    caused: Caused,
    asked: Update<'_, K::Resource>,
    beside: Beside<'_>,
) -> Result<(K::Resource, Outcome), Fault> {
    let (sent, name) = named::<K>(asked.resource, NameOf::<K>::parse)?;
    let mask = Mask::parse(asked.mask, K::SPEC_PATHS)?;
    let may = May { create: asked.allow_missing, update: true };
    let wanted = Wanted { name, sent, mask, may, validate_only: asked.validate_only };
    change(kind, caused, None, wanted, beside).await
}

/// Whether this very request was answered before: for who does something ahead of [`delete`] that a repeat must not do. INVALID_ARGUMENT if its id
/// is none, or another request's.
pub async fn is_repeat<K: Kind>(
    kind: &K,
    call: &Call<'_, impl Message>,
    name: &NameOf<K>,
) -> Result<bool, Fault> {
    is_repeated(kind, call.mark::<K>(name)?.as_ref()).await
}

/// Deletes a resource. NOT_FOUND if there is none, ABORTED if the etag is stale; a repeated request succeeds again.
pub async fn delete<K: Kind>(kind: &K, call: Call<'_, impl Message>, asked: Delete<'_>) -> Result<(), Fault> {
    let name = NameOf::<K>::parse(asked.name)?;
    let mark = call.mark::<K>(&name)?;
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
    let key = Key::<K::Record>::of(name);
    let mut tries = Tries::default();
    loop {
        let Some(before) = kind.store().get(&key).await? else { return Err(absent(kind, name).await) };
        Etag::check(etag, name, before.mod_revision)?;
        let txn = kind.remove(name, Txn::new().when_same(&before).delete(&key), caused)?;
        let charges = Takes::charges(Some(K::takes(&before.value)), None);
        let txn = tenancy::account(kind.store(), name.project(), &charges, txn).await?;
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
    fn mark<K: Kind>(&self, name: &NameOf<K>) -> Result<Option<RequestMark>, Fault> {
        if self.id.is_empty() {
            return Ok(None);
        }
        let id = RequestId::parse(self.id).map_err(|error| Fault::invalid_field("request_id", error))?;
        Ok(Some(RequestMark {
            project: name.remembered_in().clone(),
            id,
            method: self.method.to_owned(),
            hash: ContentHash::of(&self.request.encode_to_vec()),
            resource: name.to_string(),
        }))
    }
}

/// The resource of a request and its name.
fn named<K: Kind>(
    resource: Option<&K::Resource>,
    parse: impl FnOnce(&str) -> Result<NameOf<K>, InvalidName>,
) -> Result<(&K::Resource, NameOf<K>), Fault> {
    let resource =
        resource.ok_or_else(|| Fault::invalid_field(K::FIELD, format!("name the {}", K::FIELD)))?;
    let text = resource.metadata().map_or("", |metadata| metadata.name.as_str());
    let name = parse(text).map_err(|e| Fault::invalid_field(format!("{}.metadata.name", K::FIELD), e))?;
    Ok((resource, name))
}

/// A change that was asked for, checked as far as that goes without the store.
struct Wanted<'a, K: Kind> {
    name: NameOf<K>,
    sent: &'a K::Resource,
    mask: Mask,
    may: May,
    validate_only: bool,
}

#[derive(Clone, Copy)]
struct May {
    /// There may be none yet.
    create: bool,
    /// There may be one already.
    update: bool,
}

/// What one try shall do.
enum Plan<K: Kind> {
    Write(Txn, Outcome),
    /// There is nothing to write.
    Answer(K::Resource, Outcome),
}

async fn change<K: Kind>(
    kind: &K,
    caused: Caused,
    mark: Option<RequestMark>,
    wanted: Wanted<'_, K>,
    beside: Beside<'_>,
) -> Result<(K::Resource, Outcome), Fault> {
    let name = &wanted.name;
    if is_repeated(kind, mark.as_ref()).await? {
        return Ok((read(kind, name).await?, Outcome::Unchanged));
    }
    let mut tries = Tries::default();
    loop {
        let before = kind.store().get(&Key::<K::Record>::of(name)).await?;
        let (txn, outcome) = match plan(kind, &wanted, before.as_ref()).await? {
            Plan::Write(txn, outcome) => (txn, outcome),
            Plan::Answer(resource, outcome) => return Ok((resource, outcome)),
        };
        let came = match outcome {
            Outcome::Created => AuditOutcome::Created,
            _ => AuditOutcome::Updated,
        };
        let txn = beside(txn.audit(caused.of(name, came)));
        match commit(kind, txn, mark.as_ref()).await? {
            Tried::Done => return Ok((read(kind, name).await?, outcome)),
            Tried::Repeated => return Ok((read(kind, name).await?, Outcome::Unchanged)),
            Tried::Contended => tries.again(name).await?,
        }
    }
}

/// Checks what is wanted against what is there, and merges both. To create is to change what is all empty.
async fn plan<K: Kind>(
    kind: &K,
    wanted: &Wanted<'_, K>,
    before: Option<&Versioned<K::Record>>,
) -> Result<Plan<K>, Fault> {
    let (name, everything, unnamed) = (&wanted.name, Mask::all(), Metadata::default());
    let sent = wanted.sent.metadata().unwrap_or(&unnamed);
    let mod_revision = before.map(|before| before.mod_revision);
    if let (None, false) = (before, wanted.may.create) {
        return Err(absent(kind, name).await);
    }
    admit(name, wanted.may, &sent.etag, mod_revision)?;

    let mask = if before.is_some() { &wanted.mask } else { &everything };
    let mut record = before.map(|before| before.value.clone()).unwrap_or_default();
    let stored = match before {
        Some(before) => Some(kind.spec(name, &before.value).await?),
        None => None,
    };
    let spec = K::merge(stored.as_ref(), wanted.sent, mask)?;
    let has_new_spec = stored.as_ref() != Some(&spec);
    let mut meta = match before {
        Some(_) => K::meta(&mut record).take().unwrap_or_default(),
        None => new_meta(SystemTime::now()),
    };
    let labels_before = before.map(|_| meta.labels.clone());
    mask.merge_map("metadata.labels", &mut meta.labels, &sent.labels);
    let own = own_annotations::of(&meta.annotations);
    mask.merge_map("metadata.annotations", &mut meta.annotations, &sent.annotations);
    own_annotations::put_back(&mut meta.annotations, own);
    check_metadata(&meta)?;
    meta.generation += i64::from(has_new_spec);
    *K::meta(&mut record) = Some(meta.clone());

    let outcome = match before {
        None => Outcome::Created,
        Some(before) if !has_new_spec && record == before.value => Outcome::Unchanged,
        Some(_) => Outcome::Updated,
    };
    let etag = Etag { mod_revision: mod_revision.unwrap_or_default() };
    let answer = |spec| Plan::Answer(kind.show(name, metadata_of(name, Some(&meta), etag), spec), outcome);
    if outcome == Outcome::Unchanged {
        return Ok(answer(spec));
    }
    let key = Key::<K::Record>::of(name);
    let mut txn = match before {
        Some(before) => Txn::new().when_same(before),
        None => Txn::new().when_absent(&key),
    };
    if has_new_spec {
        txn = kind.write(name, &mut record, &spec, txn).await?;
    }
    txn = kind.labelled(name, labels_before.as_ref(), &meta.labels, txn).await?;
    txn = charge(kind, name, before.map(|before| &before.value), &record, txn).await?;
    // Only now: what it takes of its project's quota is known when it would be written.
    Ok(if wanted.validate_only { answer(spec) } else { Plan::Write(txn.put(&key, &record), outcome) })
}

/// Adds to a change what its project says to it: see [`tenancy`].
async fn charge<K: Kind>(
    kind: &K,
    name: &NameOf<K>,
    before: Option<&K::Record>,
    after: &K::Record,
    txn: Txn,
) -> Result<Txn, Fault> {
    let charges = Takes::charges(before.map(K::takes), Some(K::takes(after)));
    match before {
        _ if K::IS_PROJECT => Ok(txn),
        None => tenancy::admit(kind.store(), name.project(), &charges, txn).await,
        Some(_) => tenancy::account(kind.store(), name.project(), &charges, txn).await,
    }
}

/// Why there is no such resource: its project may not be there either.
async fn absent<K: Kind>(kind: &K, name: &NameOf<K>) -> Fault {
    if !K::IS_PROJECT
        && let Err(fault) = tenancy::known_project(kind.store(), kind.mirror(), name.project()).await
    {
        return fault;
    }
    Fault::not_found(name)
}

/// Whether a change may be made of what is there: of nothing, or of a record at `mod_revision`.
fn admit(
    name: &impl std::fmt::Display,
    may: May,
    etag: &str,
    mod_revision: Option<i64>,
) -> Result<(), Fault> {
    match mod_revision {
        Some(_) if !may.update => Err(Fault::already_exists(name)),
        // Who read it expects it to be there.
        None if !etag.is_empty() => Err(Fault::stale_etag(name)),
        Some(mod_revision) => Etag::check(etag, name, mod_revision),
        None => Ok(()),
    }
}

/// Whether the request was made before; INVALID_ARGUMENT if its id was another's.
async fn is_repeated<K: Kind>(kind: &K, mark: Option<&RequestMark>) -> Result<bool, Fault> {
    match mark {
        Some(mark) => Ok(kind.store().find_request(mark).await?.is_some()),
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
    match kind.store().commit(txn).await {
        Ok(committed) => {
            let shown = kind.mirror().wait_for(&committed).await;
            shown.map(|_| Tried::Done).map_err(|e| Fault::unavailable(e.to_string()))
        }
        Err(TxnError::Conflict(_)) => Ok(Tried::Contended),
        Err(TxnError::Repeated { .. }) => Ok(Tried::Repeated),
        Err(error) => Err(error.into()),
    }
}

#[cfg(test)]
mod tests;
