//! Making and changing the authority: read, decide, write on condition of what was read; again when somebody else was faster.

use std::time::{Duration, SystemTime};

use skerry_api::{Tries, audit};
use skerry_identity::authority::RootAuthority;
use skerry_identity::seal::KeyEncryption;
use skerry_identity::{KeyId, TrustDomain};
use skerry_model::{Fault, ProjectName};
use skerry_proto::store::v1::AuthorityRecord;
use skerry_proto::types::v1::AuditOutcome;
use skerry_store::keys::TheAuthority;
use skerry_store::{Act, Key, Store, Txn, TxnError, Versioned};

use super::dir::AuthorityDir;
use super::{AuthorityError, record};

/// The key of the authority's record.
pub fn authority_key() -> Key<AuthorityRecord> {
    Key::of(&TheAuthority)
}

/// What came of it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Changed {
    /// Whether anything was changed; a repeat changes nothing.
    pub changed: bool,
    /// The record as it is now.
    pub record: AuthorityRecord,
    /// The pins of the roots that are trusted now, the newest first.
    pub roots: Vec<KeyId>,
}

/// Whether it is done even where there is no need, or some risk.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Force {
    /// Only when it is time.
    No,
    /// Now.
    Yes,
}

/// Makes the authority of an installation: a root, whose key goes into `dir`, and an intermediate. Where there is one already it changes
/// nothing, as long as that is of `domain` and `keys` open it; its root's key may be elsewhere.
pub async fn init(
    store: &Store,
    dir: &AuthorityDir,
    keys: &dyn KeyEncryption,
    domain: &TrustDomain,
) -> Result<Changed, AuthorityError> {
    change(store, "init", |before| {
        let now = SystemTime::now();
        let Some(before) = before else {
            let root = dir.next_root(None, domain, keys, now)?;
            return record::first(&root, keys, now).map(Some);
        };
        let bundle = record::roots(before)?;
        if bundle.domain() != domain {
            return Err(AuthorityError::Domain { found: bundle.domain().clone(), wanted: domain.clone() });
        }
        record::intermediate(before, keys).map(|_| None)
    })
    .await
}

/// Makes a new intermediate of the newest root. Unless it is forced, only when two thirds of the present one's life are over.
pub async fn renew(
    store: &Store,
    dir: &AuthorityDir,
    keys: &dyn KeyEncryption,
    force: Force,
) -> Result<Changed, AuthorityError> {
    change(store, "renew", |before| {
        let (before, now) = (before.ok_or(AuthorityError::Absent)?, SystemTime::now());
        // An intermediate that does not open is replaced too: that is how a lost key file is mended.
        let due = match record::intermediate(before, keys) {
            Ok(present) => record::is_due(&present, now),
            Err(error) if force == Force::No => return Err(error),
            Err(_) => true,
        };
        if !due && force == Force::No {
            return Ok(None);
        }
        let root = newest_root(before, dir, keys)?;
        record::renewed(before, &root, keys, now).map(Some)
    })
    .await
}

/// Puts a new root before the present one and issues under it. Both are trusted, and servers present the link between them, until
/// [`retire`]. Nothing where a former root is still trusted.
pub async fn rotate(
    store: &Store,
    dir: &AuthorityDir,
    keys: &dyn KeyEncryption,
) -> Result<Changed, AuthorityError> {
    change(store, "rotate", |before| {
        let (before, now) = (before.ok_or(AuthorityError::Absent)?, SystemTime::now());
        if before.roots.len() > 1 {
            return Ok(None);
        }
        let root = newest_root(before, dir, keys)?;
        let newest = root.trusted();
        let next = dir.next_root(Some(newest), newest.domain(), keys, now)?;
        record::rotated(before, &root, &next, keys, now).map(Some)
    })
    .await
}

/// Takes the former root out. Unless it is forced, only once what was issued under it has expired.
pub async fn retire(store: &Store, force: Force) -> Result<Changed, AuthorityError> {
    change(store, "retire", |before| {
        let before = before.ok_or(AuthorityError::Absent)?;
        let Some(retired) = record::retired(before)? else { return Ok(None) };
        let left = record::rollover_left(before, SystemTime::now())?;
        if left > Duration::ZERO && force == Force::No {
            return Err(AuthorityError::TooEarly(left));
        }
        Ok(Some(retired))
    })
    .await
}

/// Seals the intermediate's key, and the roots' keys in `dir`, under the newest key of the key file. What is under it already stays as it is.
/// From then on nothing of the authority needs the older keys.
pub async fn reseal(
    store: &Store,
    dir: &AuthorityDir,
    keys: &dyn KeyEncryption,
) -> Result<Changed, AuthorityError> {
    let roots_changed = dir.reseal(keys)?;
    let decide =
        |before: Option<&AuthorityRecord>| record::resealed(before.ok_or(AuthorityError::Absent)?, keys);
    let done = change(store, "reseal", decide).await?;
    Ok(Changed { changed: done.changed || roots_changed, ..done })
}

fn newest_root(
    record: &AuthorityRecord,
    dir: &AuthorityDir,
    keys: &dyn KeyEncryption,
) -> Result<RootAuthority, AuthorityError> {
    let bundle = record::roots(record)?;
    let pin = bundle.roots().first().expect("a bundle has a root").pin();
    dir.root(pin, keys)?.ok_or_else(|| AuthorityError::NoRoot { pin, dir: dir.to_string() })
}

/// Does what `decide` says of the record; nothing: it is as it should be.
async fn change(
    store: &Store,
    what: &str,
    decide: impl Fn(Option<&AuthorityRecord>) -> Result<Option<AuthorityRecord>, AuthorityError>,
) -> Result<Changed, AuthorityError> {
    let key = authority_key();
    let mut tries = Tries::default();
    loop {
        let before = store.get(&key).await.map_err(|error| AuthorityError::Store(error.into()))?;
        let Some(after) = decide(before.as_ref().map(|before| &before.value))? else {
            let record = before.map(|before| before.value).unwrap_or_default();
            return done(false, record);
        };
        let txn = unchanged(&key, before.as_ref()).put(&key, &after).audit(act(what, before.is_none()));
        match store.commit(txn).await {
            Ok(_) => return done(true, after),
            // Of a write whose answer was lost the record says whether it happened.
            Err(TxnError::Conflict(_) | TxnError::Indeterminate { .. }) => {
                tries.again(&"the authority").await.map_err(AuthorityError::Store)?;
            }
            Err(error) => return Err(AuthorityError::Store(Fault::from(error))),
        }
    }
}

/// What the audit log says of it. Whoever does this has the key file and the store in hand, and no certificate is asked for.
fn act(what: &str, is_new: bool) -> Act {
    let outcome = if is_new { AuditOutcome::Created } else { AuditOutcome::Updated };
    let method = format!("skerry authority {what}");
    Act::new(audit::command(&method), method.clone(), ProjectName::system(), "authority", outcome)
}

fn unchanged(key: &Key<AuthorityRecord>, before: Option<&Versioned<AuthorityRecord>>) -> Txn {
    Txn::new().when_unchanged(key, before.map_or(0, |before| before.mod_revision))
}

fn done(changed: bool, record: AuthorityRecord) -> Result<Changed, AuthorityError> {
    let roots = record::pins(&record::roots(&record)?);
    Ok(Changed { changed, record, roots })
}
