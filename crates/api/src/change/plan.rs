//! What a change of one resource comes to, given what is there: checked, merged, and added to a transaction.

use std::time::SystemTime;

use skerry_model::Fault;
use skerry_proto::scheduler::v1::update_app_response::Outcome;
use skerry_proto::types::v1::{AuditOutcome, Metadata};
use skerry_rpc::Peer;
use skerry_store::{Key, Txn};

use super::{Update, named};
use crate::hub::Resource as _;
use crate::kind::{RecordName, ResourceName as _, Rules};
use crate::mask::Mask;
use crate::metadata::{Etag, check_metadata, metadata_of, new_meta};
use crate::own_annotations;
use crate::tenancy::{self, Charge, Takes};

/// A change that was asked for, checked as far as that goes without the store.
pub(super) struct Wanted<'a, R: Rules> {
    pub(super) name: RecordName<R>,
    pub(super) sent: &'a R::Resource,
    pub(super) mask: Mask,
    pub(super) may: May,
}

#[derive(Clone, Copy)]
pub(super) struct May {
    /// There may be none yet.
    pub(super) create: bool,
    /// There may be one already.
    pub(super) update: bool,
}

impl<'a, R: Rules> Wanted<'a, R> {
    /// What an update asks for.
    pub(super) fn update(peer: &Peer, asked: &Update<'a, R::Resource>) -> Result<Self, Fault> {
        let wanted = Self::allowed(asked)?;
        R::permits(peer, &wanted.name, wanted.sent, &wanted.mask)?;
        Ok(wanted)
    }

    /// The same, where it is known that the caller may.
    pub(super) fn allowed(asked: &Update<'a, R::Resource>) -> Result<Self, Fault> {
        let (sent, name) = named::<R>(asked.resource, <RecordName<R> as crate::ResourceName>::parse)?;
        let mask = Mask::parse(asked.mask, R::SPEC_PATHS)?;
        Ok(Self { name, sent, mask, may: May { create: asked.allow_missing, update: true } })
    }
}

/// What a change comes to.
pub(super) struct Planned<R: Rules> {
    /// With the change in it. Where nothing changes: only on condition that what was read stays.
    pub(super) txn: Txn,
    pub(super) outcome: Outcome,
    /// As it will be, without what is observed of it and with the etag of before.
    pub(super) resource: R::Resource,
    /// What it takes of its project's quota.
    pub(super) charges: Vec<Charge>,
}

/// Checks what is wanted against what is there, merges both, and adds that to `txn`. To create is to change what is all empty.
pub(super) async fn plan<R: Rules>(rules: &R, wanted: &Wanted<'_, R>, txn: Txn) -> Result<Planned<R>, Fault> {
    let (name, everything, unnamed) = (&wanted.name, Mask::all(), Metadata::default());
    let key = Key::<R::Record>::of(name);
    let before = rules.store().get(&key).await?;
    let before = before.as_ref();
    let sent = wanted.sent.metadata().unwrap_or(&unnamed);
    let mod_revision = before.map(|before| before.mod_revision);
    if let (None, false) = (before, wanted.may.create) {
        return Err(absent(rules, name).await);
    }
    admit(name, wanted.may, &sent.etag, mod_revision)?;

    let mask = if before.is_some() { &wanted.mask } else { &everything };
    let mut record = before.map(|before| before.value.clone()).unwrap_or_default();
    let stored = match before {
        Some(before) => Some(rules.spec(name, &before.value).await?),
        None => None,
    };
    let spec = R::merge(stored.as_ref(), wanted.sent, mask)?;
    let has_new_spec = stored.as_ref() != Some(&spec);
    let mut meta = match before {
        Some(_) => R::meta(&mut record).take().unwrap_or_default(),
        None => new_meta(SystemTime::now()),
    };
    let labels_before = before.map(|_| meta.labels.clone());
    mask.merge_map("metadata.labels", &mut meta.labels, &sent.labels);
    let own = own_annotations::of(&meta.annotations);
    mask.merge_map("metadata.annotations", &mut meta.annotations, &sent.annotations);
    own_annotations::put_back(&mut meta.annotations, own);
    check_metadata(&meta)?;
    meta.generation += i64::from(has_new_spec);
    *R::meta(&mut record) = Some(meta.clone());

    let outcome = match before {
        None => Outcome::Created,
        Some(before) if !has_new_spec && record == before.value => Outcome::Unchanged,
        Some(_) => Outcome::Updated,
    };
    let mut txn = match before {
        Some(before) => txn.when_same(before),
        None => txn.when_absent(&key),
    };
    let mut charges = Vec::new();
    if outcome != Outcome::Unchanged {
        if has_new_spec {
            txn = rules.write(name, &mut record, &spec, txn).await?;
        }
        txn = rules.labelled(name, labels_before.as_ref(), &meta.labels, txn).await?.put(&key, &record);
        charges = Takes::charges(before.map(|before| R::takes(&before.value)), Some(R::takes(&record)));
    }
    let etag = Etag { mod_revision: mod_revision.unwrap_or_default() };
    let resource = R::resource(metadata_of(name, Some(&meta), etag), spec);
    Ok(Planned { txn, outcome, resource, charges })
}

/// What the audit log says of a change that has this outcome.
pub(super) fn audited(outcome: Outcome) -> AuditOutcome {
    match outcome {
        Outcome::Created => AuditOutcome::Created,
        Outcome::Updated | Outcome::Unchanged | Outcome::Unspecified => AuditOutcome::Updated,
    }
}

/// Why there is no such resource: its project may not be there either.
pub(super) async fn absent<R: Rules>(rules: &R, name: &RecordName<R>) -> Fault {
    if R::IS_PROJECT {
        return Fault::not_found(name);
    }
    tenancy::absent(rules.store(), name.project(), name).await
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
