//! What the authority's record becomes. No I/O: roots and keys come in, a record goes out.

use std::sync::Arc;
use std::time::{Duration, SystemTime};

use rustls_pki_types::CertificateDer;
use skerry_identity::authority::{IntermediateAuthority, Life, RootAuthority};
use skerry_identity::bundle::{Root, TrustBundle};
use skerry_identity::chain::{chain_from_pem, chain_to_pem};
use skerry_identity::seal::{self, KeyEncryption};
use skerry_identity::{KeyId, KeyPair, SecretBytes};
use skerry_proto::store::v1::AuthorityRecord;
use skerry_store::Key;
use skerry_store::keys::TheAuthority;

use super::{AuthorityError, BACKDATED, FORMER_MAX, INTERMEDIATE_LIFE, ROLLOVER_MIN, ROOT_LIFE};

/// From a little before `now` on, for `lifetime`.
pub(super) fn life(now: SystemTime, lifetime: Duration) -> Life {
    let not_before = now.checked_sub(BACKDATED).unwrap_or(now);
    Life { not_before, lifetime: lifetime.saturating_add(BACKDATED) }
}

/// The roots of a record, the newest first.
pub(super) fn roots(record: &AuthorityRecord) -> Result<TrustBundle, AuthorityError> {
    let roots: Result<Vec<_>, _> =
        record.roots.iter().map(|der| Root::parse(&CertificateDer::from(der.as_ref()))).collect();
    Ok(TrustBundle::new(roots?)?)
}

/// The intermediate that issues.
pub(super) fn intermediate(
    record: &AuthorityRecord,
    keys: &dyn KeyEncryption,
) -> Result<IntermediateAuthority, AuthorityError> {
    let opened = seal::open(keys, &record.sealed_key, &aad())?;
    let key = Arc::new(KeyPair::from_pem(opened.expose())?);
    Ok(IntermediateAuthority::load(record.chain.as_bytes(), key)?)
}

/// The record with which an installation begins.
pub(super) fn first(
    root: &RootAuthority,
    keys: &dyn KeyEncryption,
    now: SystemTime,
) -> Result<AuthorityRecord, AuthorityError> {
    let (intermediate, sealed_key) = new_intermediate(root, keys, now)?;
    Ok(AuthorityRecord {
        roots: vec![der(root)],
        chain: intermediate.to_pem(),
        sealed_key: sealed_key.into(),
        former_chains: Vec::new(),
    })
}

/// Whether two thirds of the intermediate's life are over.
pub(super) fn is_due(intermediate: &IntermediateAuthority, now: SystemTime) -> bool {
    let (begin, end) = (intermediate.not_before(), intermediate.not_after());
    now >= begin + end.duration_since(begin).unwrap_or_default() * 2 / 3
}

/// With a new intermediate of the newest root, and the links that servers present for as long as there is a former root.
pub(super) fn renewed(
    record: &AuthorityRecord,
    root: &RootAuthority,
    keys: &dyn KeyEncryption,
    now: SystemTime,
) -> Result<AuthorityRecord, AuthorityError> {
    let (intermediate, sealed_key) = new_intermediate(root, keys, now)?;
    let mut chain = chain_from_pem(intermediate.to_pem().as_bytes())?;
    let former = chain_from_pem(record.chain.as_bytes())?;
    let links = former.get(1..former.len().saturating_sub(1)).unwrap_or_default();
    chain.splice(1..1, links.iter().cloned());
    Ok(AuthorityRecord {
        roots: record.roots.clone(),
        chain: chain_to_pem(&chain),
        sealed_key: sealed_key.into(),
        former_chains: with_former(record, &roots(record)?),
    })
}

/// With `next` as the newest root, linked to by `root`, which stays trusted.
pub(super) fn rotated(
    record: &AuthorityRecord,
    root: &RootAuthority,
    next: &RootAuthority,
    keys: &dyn KeyEncryption,
    now: SystemTime,
) -> Result<AuthorityRecord, AuthorityError> {
    let link = root.link(next.trusted(), life(now, ROOT_LIFE))?;
    let (intermediate, sealed_key) = new_intermediate(next, keys, now)?;
    let intermediate = intermediate.with_link(link, root.trusted())?;
    let mut der_roots = vec![der(next)];
    der_roots.extend(record.roots.iter().cloned());
    Ok(AuthorityRecord {
        roots: der_roots,
        chain: intermediate.to_pem(),
        sealed_key: sealed_key.into(),
        former_chains: with_former(record, &roots(record)?),
    })
}

/// With the newest root alone; nothing where it is alone already.
pub(super) fn retired(record: &AuthorityRecord) -> Result<Option<AuthorityRecord>, AuthorityError> {
    let [newest, _, ..] = record.roots.as_slice() else { return Ok(None) };
    let chain = chain_from_pem(record.chain.as_bytes())?;
    let (own, root) = (chain.first(), chain.last());
    let mut retired = AuthorityRecord {
        roots: vec![newest.clone()],
        chain: chain_to_pem(own.into_iter().chain(root)),
        ..record.clone()
    };
    let trusted = roots(&retired)?;
    retired.former_chains.retain(|chain| leads_to(chain, &trusted));
    Ok(Some(retired))
}

/// With the intermediate's key sealed under the newest key; nothing where it is already.
pub(super) fn resealed(
    record: &AuthorityRecord,
    keys: &dyn KeyEncryption,
) -> Result<Option<AuthorityRecord>, AuthorityError> {
    if !seal::needs_reseal(keys, &record.sealed_key)? {
        return Ok(None);
    }
    let opened = seal::open(keys, &record.sealed_key, &aad())?;
    let sealed_key = seal::seal(keys, &opened, &aad())?.into();
    Ok(Some(AuthorityRecord { sealed_key, ..record.clone() }))
}

/// How long certificates under a former root may still be in use.
pub(super) fn rollover_left(record: &AuthorityRecord, now: SystemTime) -> Result<Duration, AuthorityError> {
    let bundle = roots(record)?;
    let begun = bundle.roots().first().map_or(now, Root::not_before);
    Ok((begun + BACKDATED + ROLLOVER_MIN).duration_since(now).unwrap_or_default())
}

fn new_intermediate(
    root: &RootAuthority,
    keys: &dyn KeyEncryption,
    now: SystemTime,
) -> Result<(IntermediateAuthority, Vec<u8>), AuthorityError> {
    let key = Arc::new(KeyPair::generate()?);
    let secret = SecretBytes::new(key.to_pem().as_bytes().to_vec());
    let sealed = seal::seal(keys, &secret, &aad())?;
    Ok((root.intermediate(key, life(now, INTERMEDIATE_LIFE))?, sealed))
}

/// The former chains and the present one, the newest last, as far as they lead to a root that is trusted.
fn with_former(record: &AuthorityRecord, trusted: &TrustBundle) -> Vec<String> {
    let all = record.former_chains.iter().chain([&record.chain]);
    let kept: Vec<_> = all.filter(|chain| leads_to(chain, trusted)).cloned().collect();
    kept[kept.len().saturating_sub(FORMER_MAX)..].to_vec()
}

/// Whether a chain ends with a trusted root.
fn leads_to(chain: &str, trusted: &TrustBundle) -> bool {
    let root = chain_from_pem(chain.as_bytes()).ok().and_then(|chain| chain.last().cloned());
    root.is_some_and(|root| trusted.roots().iter().any(|other| *other.certificate() == root))
}

fn der(root: &RootAuthority) -> bytes::Bytes {
    bytes::Bytes::copy_from_slice(root.trusted().certificate())
}

/// The pins of a record's roots.
pub(super) fn pins(bundle: &TrustBundle) -> Vec<KeyId> {
    bundle.roots().iter().map(Root::pin).collect()
}

/// What the intermediate's key is sealed for: its place in the store.
fn aad() -> Vec<u8> {
    Key::<AuthorityRecord>::of(&TheAuthority).as_str().as_bytes().to_vec()
}
