//! Sealing anew under the newest key of the key file: in bounded parts, and each again at no harm.

use skerry_api::Caused;
use skerry_identity::seal;
use skerry_model::Fault;
use skerry_proto::scheduler::v1::ResealSecretsResponse;
use skerry_proto::store::v1 as stored;
use skerry_proto::types::v1::AuditOutcome;
use skerry_store::{Prefix, Txn};
use tracing::{info, warn};

use super::Secrets;

/// Most values that one call seals anew.
const RESEALED_MAX: usize = 500;
/// Values that are in memory at once, sealed anew and not yet written.
const BATCH: usize = 50;

/// Each value that is sealed anew leaves a record in the audit log, of what `caused` it.
pub(super) async fn reseal(secrets: &Secrets, caused: &Caused) -> Result<ResealSecretsResponse, Fault> {
    let ring = secrets.keys.reload()?;
    // What could not be opened before may be now.
    secrets.shared.reread_secrets();
    let snapshot = secrets.shared.mirror.snapshot();
    let all = Prefix::<stored::SecretRevisionRecord>::all();
    let due: Vec<_> = snapshot
        .iter(&all)
        .filter_map(Result::ok)
        .filter(|one| seal::needs_reseal(&*ring, &one.value.sealed).unwrap_or(true))
        .collect();
    let (mut resealed, mut unreadable, mut tried) = (0_usize, 0_usize, 0_usize);
    let mut txns = Vec::new();
    let mut last = None;
    let mut due_left = due.iter();
    loop {
        let next = if tried - unreadable < RESEALED_MAX { due_left.next() } else { None };
        if let Some(one) = next {
            tried += 1;
            match secrets.keys.open(&one.key, &one.value.sealed) {
                Ok(content) => {
                    let sealed = skerry_resources::seal(&ring, &one.key, &content)?.into();
                    let record = stored::SecretRevisionRecord { sealed, ..one.value.clone() };
                    let secret = one.key.name().secret;
                    let act = caused.of(&secret, AuditOutcome::Updated).detail("its values were sealed anew");
                    txns.push(Txn::new().when_same(one).put(&one.key, &record).audit(act));
                }
                Err(why) => {
                    unreadable += 1;
                    warn!(key = %one.key, why, "a secret cannot be sealed anew");
                }
            }
        }
        if txns.len() == BATCH || (next.is_none() && !txns.is_empty()) {
            let results = secrets.store.commit_all(std::mem::take(&mut txns), None).await;
            for result in results {
                match result {
                    Ok(committed) => {
                        resealed += 1;
                        last = Some(committed);
                    }
                    // It was changed or cleared away meanwhile: another call looks again.
                    Err(error) if error.conflict().is_some() => {}
                    Err(error) => return Err(error.into()),
                }
            }
        }
        if next.is_none() {
            break;
        }
    }
    if let Some(last) = &last {
        let shown = secrets.shared.mirror.wait_for(last).await;
        shown.map_err(|error| Fault::unavailable(error.to_string()))?;
    }
    info!(resealed, unreadable, "secrets sealed anew");
    let count = |number: usize| i64::try_from(number).unwrap_or(i64::MAX);
    Ok(ResealSecretsResponse {
        resealed: count(resealed),
        remaining: count(due.len() - resealed),
        unreadable: count(unreadable),
    })
}
