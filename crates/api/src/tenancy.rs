//! Projects as tenants: what is made in one needs its record, and none gets more than its quota allows.
//!
//! Both hold in the mutation's own transaction. It compares the project's record, so nothing is made in a project that is being deleted, and a
//! quota that was changed meanwhile is looked at again. What the quota limits is counted under `usage/`, which the transaction compares and
//! writes too: however many come at once, as many get through as fit.
//!
//! What has no limit is not counted, and costs nothing. The first change after a limit was set counts what there is: whoever counted nothing
//! before has compared the project's record as it was before, and so comes to nothing. A limit that is taken away takes its count along.

use std::time::SystemTime;

use skerry_model::{Code, Fault, ProjectName, ProjectRef};
use skerry_proto::store::v1 as stored;
use skerry_proto::types::v1::AuditOutcome;
use skerry_store::keys::{Counted, InProject, UsageName};
use skerry_store::{Act, Key, Mirror, PageRequest, Prefix, ReadError, Store, Txn, TxnError, Versioned};

use crate::audit;
use crate::metadata::new_meta;

/// Records that are read at once to be counted.
const PAGE_SIZE: usize = 1000;

/// How much more of something a change makes, or less.
pub type Charge = (Counted, i64);

/// What a record takes of its project's quota.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Takes {
    /// It counts as one of these.
    pub one_of: Option<Counted>,
    /// Its bytes that count.
    pub bytes: i64,
}

impl Takes {
    /// What a change costs that makes `before` into `after`. Pure.
    pub(crate) fn charges(before: Option<Self>, after: Option<Self>) -> Vec<Charge> {
        let (before, after) = (before.unwrap_or_default(), after.unwrap_or_default());
        let mut charges = Vec::new();
        if before.one_of != after.one_of {
            charges.extend(before.one_of.map(|counted| (counted, -1)));
            charges.extend(after.one_of.map(|counted| (counted, 1)));
        }
        if before.bytes != after.bytes {
            charges.push((Counted::Bytes, after.bytes.saturating_sub(before.bytes)));
        }
        charges
    }
}

/// The charges of several changes as those of one: each thing once, and none that comes to nothing. Pure.
pub(crate) fn sum_of(charges: impl IntoIterator<Item = Charge>) -> Vec<Charge> {
    let mut sums: Vec<Charge> = Vec::new();
    for (counted, change) in charges {
        match sums.iter_mut().find(|(of, _)| *of == counted) {
            Some((_, sum)) => *sum = sum.saturating_add(change),
            None => sums.push((counted, change)),
        }
    }
    sums.retain(|(_, change)| *change != 0);
    sums
}

/// [`admit`] where something is made, else [`account`].
pub(crate) async fn settle(
    store: &Store,
    project: &ProjectName,
    makes: bool,
    charges: &[Charge],
    txn: Txn,
) -> Result<Txn, Fault> {
    if makes {
        admit(store, project, charges, txn).await
    } else {
        account(store, project, charges, txn).await
    }
}

/// For what is made in `project`: only if that is there and has room for it. NOT_FOUND, FAILED_PRECONDITION if the project is being deleted,
/// RESOURCE_EXHAUSTED. `default` and `system`, which are always there, get their record with the first that is made in them. A project that `txn`
/// makes or changes itself counts as it will be.
pub async fn admit(store: &Store, project: &ProjectName, charges: &[Charge], txn: Txn) -> Result<Txn, Fault> {
    let key = key_of(project);
    if let Some(record) = txn.written(&key) {
        refuse_deleted(project, &record)?;
        return count(store, project, &record.quota.unwrap_or_default(), charges, txn).await;
    }
    match store.get(&key).await? {
        Some(read) => {
            refuse_deleted(project, &read.value)?;
            let quota = read.value.quota.unwrap_or_default();
            count(store, project, &quota, charges, txn.when_same(&read)).await
        }
        // What is made may be nothing that leaves a record in the audit log, as a machine that waits: the project leaves its own.
        None if project.is_permanent() => {
            Ok(txn.when_absent(&key).put(&key, &new_record()).audit(made(project)))
        }
        None => Err(Fault::no_project(project)),
    }
}

/// For what is there already and is changed or deleted: counts it where the project's quota limits it. RESOURCE_EXHAUSTED.
pub async fn account(
    store: &Store,
    project: &ProjectName,
    charges: &[Charge],
    txn: Txn,
) -> Result<Txn, Fault> {
    if charges.is_empty() {
        return Ok(txn);
    }
    let key = key_of(project);
    if let Some(record) = txn.written(&key) {
        return count(store, project, &record.quota.unwrap_or_default(), charges, txn).await;
    }
    match store.get(&key).await? {
        Some(read) => {
            let quota = read.value.quota.unwrap_or_default();
            count(store, project, &quota, charges, txn.when_same(&read)).await
        }
        // What an older version has made, before its project gets a record.
        None => Ok(txn.when_absent(&key)),
    }
}

fn refuse_deleted(project: &ProjectName, record: &stored::ProjectRecord) -> Result<(), Fault> {
    if record.delete_time.is_none() {
        return Ok(());
    }
    let name = project.parent();
    let message = format!("{name} is being deleted: nothing is made in it any more");
    Err(Fault::new(Code::FailedPrecondition, "PROJECT_DELETING", message).with("resource", name))
}

/// Why there is no such resource in `project`: that may not be there either.
pub(crate) async fn absent(store: &Store, project: &ProjectName, name: &impl std::fmt::Display) -> Fault {
    if project.is_permanent() {
        return Fault::not_found(name);
    }
    match store.get(&key_of(project)).await {
        Ok(Some(_)) => Fault::not_found(name),
        Ok(None) => Fault::no_project(project),
        Err(error) => error.into(),
    }
}

/// NOT_FOUND if there is no such project. `mirror` is asked first, and answers alone as long as it knows the project.
pub async fn known_project(store: &Store, mirror: &Mirror, project: &ProjectName) -> Result<(), Fault> {
    let key = key_of(project);
    if project.is_permanent() || mirror.snapshot().entry(&key).is_some() || store.get(&key).await?.is_some() {
        return Ok(());
    }
    Err(Fault::no_project(project))
}

/// Makes the record of a project that has none: for who decides that it is there.
pub async fn ensure_project(store: &Store, project: &ProjectName) -> Result<(), TxnError> {
    let key = key_of(project);
    match store.commit(Txn::new().when_absent(&key).put(&key, &new_record()).audit(made(project))).await {
        Ok(_) | Err(TxnError::Conflict(_)) => Ok(()),
        Err(error) => Err(error),
    }
}

/// What the audit log says of a project that gets its record without anybody's asking for it.
fn made(project: &ProjectName) -> Act {
    let method = "skerry.registry.v1.ProjectService/CreateProject";
    Act::new(audit::itself("skerry"), method, project.clone(), project.parent(), AuditOutcome::Created)
}

/// Takes the counts away of what `quota` does not limit, in the transaction that sets it.
pub fn uncount(project: &ProjectName, quota: &stored::QuotaRecord, txn: Txn) -> Txn {
    Counted::ALL.into_iter().filter(|counted| limit(quota, *counted).is_none()).fold(txn, |txn, counted| {
        txn.delete(&Key::<stored::UsageRecord>::of(&UsageName { project: project.clone(), counted }))
    })
}

/// What `quota` allows of something. Nothing: as much as there may be.
fn limit(quota: &stored::QuotaRecord, counted: Counted) -> Option<i64> {
    match counted {
        Counted::Nodes => quota.nodes,
        Counted::Apps => quota.apps,
        Counted::Secrets => quota.secrets,
        Counted::Configs => quota.configs,
        Counted::Bytes => quota.size_bytes,
    }
}

/// Counts what a project has of something, record by record.
pub async fn recount(store: &Store, project: &ProjectName, counted: Counted) -> Result<i64, ReadError> {
    async fn number<R: InProject>(store: &Store, project: &ProjectName) -> Result<i64, ReadError> {
        let count = store.count(&Prefix::<R>::project(project)).await?;
        Ok(i64::try_from(count).unwrap_or(i64::MAX))
    }
    match counted {
        Counted::Nodes => number::<stored::NodeRecord>(store, project).await,
        Counted::Apps => number::<stored::AppRecord>(store, project).await,
        Counted::Secrets => number::<stored::SecretRecord>(store, project).await,
        Counted::Configs => number::<stored::ConfigRecord>(store, project).await,
        Counted::Bytes => {
            let (apps, configs, secrets) = tokio::try_join!(
                sum(store, project, |app: &stored::AppRecord| app.size_bytes),
                sum(store, project, |config: &stored::ConfigRecord| config.size_bytes),
                sum(store, project, |secret: &stored::SecretRecord| secret.size_bytes),
            )?;
            Ok(apps.saturating_add(configs).saturating_add(secrets))
        }
    }
}

/// Puts the counts of a project right that are not what is there; answers which, what they were and what is there. One that is being changed
/// meanwhile is left: whoever changed it has looked.
pub async fn heal(store: &Store, project: &ProjectName) -> Result<Vec<(Counted, i64, i64)>, Fault> {
    let Some(tenant) = store.get(&key_of(project)).await? else { return Ok(Vec::new()) };
    let mut healed = Vec::new();
    for counted in Counted::ALL {
        let key = Key::<stored::UsageRecord>::of(&UsageName { project: project.clone(), counted });
        let Some(read) = store.get(&key).await? else { continue };
        let (was, used) = (read.value.used, recount(store, project, counted).await?);
        if was == used {
            continue;
        }
        let txn = Txn::new().when_same(&tenant).when_same(&read).put(&key, &stored::UsageRecord { used });
        match store.commit(txn).await {
            Ok(_) => healed.push((counted, was, used)),
            Err(TxnError::Conflict(_)) => {}
            Err(error) => return Err(error.into()),
        }
    }
    Ok(healed)
}

async fn sum<R: InProject>(
    store: &Store,
    project: &ProjectName,
    bytes: impl Fn(&R) -> i64,
) -> Result<i64, ReadError> {
    let prefix = Prefix::<R>::project(project);
    let mut sum = 0_i64;
    let mut page = PageRequest::first(PAGE_SIZE);
    loop {
        let read = store.list(&prefix, &page).await?;
        sum = read.items.iter().fold(sum, |sum, item| sum.saturating_add(bytes(&item.value)));
        match read.next {
            Some(next) => page = PageRequest::after(PAGE_SIZE, next),
            None => return Ok(sum),
        }
    }
}

fn key_of(project: &ProjectName) -> Key<stored::ProjectRecord> {
    Key::of(&ProjectRef { project: project.clone() })
}

fn new_record() -> stored::ProjectRecord {
    let meta = stored::Meta { generation: 1, ..new_meta(SystemTime::now()) };
    stored::ProjectRecord { meta: Some(meta), ..stored::ProjectRecord::default() }
}

async fn count(
    store: &Store,
    project: &ProjectName,
    quota: &stored::QuotaRecord,
    charges: &[Charge],
    mut txn: Txn,
) -> Result<Txn, Fault> {
    for (counted, change) in charges {
        let Some(limit) = limit(quota, *counted) else { continue };
        let key = Key::<stored::UsageRecord>::of(&UsageName { project: project.clone(), counted: *counted });
        let read: Option<Versioned<stored::UsageRecord>> = store.get(&key).await?;
        let (used, mod_revision) = match read {
            Some(read) => (read.value.used, read.mod_revision),
            None => (recount(store, project, *counted).await?, 0),
        };
        let used = after(project, *counted, used, *change, limit)?;
        txn = txn.when_unchanged(&key, mod_revision).put(&key, &stored::UsageRecord { used });
    }
    Ok(txn)
}

/// How much there is after the change, if there may be so much. Pure.
fn after(project: &ProjectName, counted: Counted, used: i64, change: i64, limit: i64) -> Result<i64, Fault> {
    let after = used.saturating_add(change);
    if change <= 0 || after <= limit {
        return Ok(after.max(0));
    }
    let (name, what) = (project.parent(), counted.as_str());
    let (takes, field) = match counted {
        Counted::Bytes => (format!(", and this takes {change} more"), "size"),
        _ if change > 1 => (format!(", and these are {change} more"), what),
        Counted::Nodes | Counted::Apps | Counted::Secrets | Counted::Configs => (String::new(), what),
    };
    let message =
        format!("{name} has {used} of {limit} {what}{takes}; raise spec.quota.{field} or delete some");
    Err(Fault::quota(&name, message)
        .with("resource", name)
        .with("counted", what)
        .with("used", used)
        .with("limit", limit))
}

#[cfg(test)]
mod tests;
