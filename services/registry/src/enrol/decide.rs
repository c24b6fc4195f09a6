//! Who is let in, and what becomes of the records. Pure: what was read comes in, what is to be written goes out.

use std::collections::BTreeMap;
use std::time::{Duration, SystemTime};

use sha2::{Digest as _, Sha256};
use skerry_identity::KeyId;
use skerry_identity::hpke::HpkePublicKey;
use skerry_identity::token::{Token, TokenHash};
use skerry_model::meta::{CLUSTER_LABEL, system_app_label};
use skerry_model::{AppName, Code, Fault, NodeName, NodeRef, time};
use skerry_proto::store::v1 as stored;

use super::asked::{Asked, Machine};
use super::template::Template;

/// Most machines that one token remembers, at 16 bytes each: its record holds 256 KiB.
pub(super) const MACHINES_MAX: usize = 10_000;

/// Annotation: when the node's key was struck out, in nanoseconds since 1970. A token that is older lets it in no more.
const REVOKE_TIME: &str = "skerry.dev/revoke-time";
/// Annotation: the token by which the node enrolled.
pub(super) const TOKEN: &str = "skerry.dev/enrolled-by";

/// Why a token lets nobody in. The machine is not told which; the log is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Refusal {
    /// There is no such token, or its secret is another one.
    Unknown,
    /// It is of another project than the machine names.
    Project,
    /// Its time is over.
    Expired,
    /// It was used as often as it may be.
    UsedUp,
    /// This machine has used it.
    MachineUsed,
    /// It is older than the revocation of the node that it would make good again.
    Revoked,
}

impl Refusal {
    /// For the log and for events: one CamelCase word and a sentence.
    pub(super) fn told(self) -> (&'static str, &'static str) {
        match self {
            Self::Unknown => ("TokenUnknown", "there is no such token"),
            Self::Project => ("TokenOfOtherProject", "the token is of another project"),
            Self::Expired => ("TokenExpired", "the token has expired"),
            Self::UsedUp => ("TokenUsedUp", "the token was used as often as it may be"),
            Self::MachineUsed => ("TokenUsedByMachine", "this machine has used the token already"),
            Self::Revoked => ("TokenOlderThanRevocation", "the node was revoked after the token was made"),
        }
    }
}

/// What the machine is told, whichever it is.
pub(super) fn token_refused() -> Fault {
    let message = "the token is not good here: it is unknown, expired, used up or struck out; ask for a new one (skerry token create)";
    Fault::new(Code::PermissionDenied, "TOKEN_REFUSED", message)
}

/// Whether `token` is the one that the record is of.
pub(super) fn authenticate(token: &Token, record: Option<&stored::TokenRecord>) -> Result<(), Refusal> {
    let hash = record.and_then(|record| <[u8; 32]>::try_from(record.hash.as_ref()).ok());
    let matches = hash.is_some_and(|hash| TokenHash::from_bytes(hash).matches(token));
    if matches { Ok(()) } else { Err(Refusal::Unknown) }
}

/// One more use of the token by this machine: the record after it.
pub(super) fn admit(
    record: &stored::TokenRecord,
    machine: &Machine,
    now: SystemTime,
) -> Result<stored::TokenRecord, Refused> {
    let expires = record.expire_time.as_ref().and_then(time::from_timestamp);
    if expires.is_none_or(|expires| now >= expires) {
        return Err(Refusal::Expired.into());
    }
    let mut used = record.clone();
    used.uses = used.uses.checked_add(1).ok_or(Refusal::UsedUp)?;
    if record.uses_max != 0 && used.uses > record.uses_max {
        return Err(Refusal::UsedUp.into());
    }
    if record.once_per_machine {
        let hash = machine_hash(machine)?;
        if record.machines.iter().any(|known| known[..] == hash) {
            return Err(Refusal::MachineUsed.into());
        }
        if record.machines.len() >= MACHINES_MAX {
            return Err(Refusal::UsedUp.into());
        }
        used.machines.push(bytes::Bytes::copy_from_slice(&hash));
    }
    Ok(used)
}

/// A refusal that the machine is not told in full, or a fault that it is.
#[derive(Debug)]
pub(super) enum Refused {
    Quietly(Refusal),
    Openly(Fault),
}

impl From<Refusal> for Refused {
    fn from(refusal: Refusal) -> Self {
        Self::Quietly(refusal)
    }
}

impl From<Fault> for Refused {
    fn from(fault: Fault) -> Self {
        Self::Openly(fault)
    }
}

/// Which machine: its serial number, or its machine id where it has none.
fn machine_hash(machine: &Machine) -> Result<[u8; 16], Fault> {
    let (kind, value) = match (machine.serial.as_str(), machine.id.as_str()) {
        ("", "") => {
            let why = "the token takes each machine once, and this one tells neither a serial number nor a machine id";
            return Err(Fault::invalid_field("machine", why));
        }
        ("", id) => ("machine id", id),
        (serial, _) => ("serial", serial),
    };
    let hash = Sha256::new().chain_update(kind).chain_update([0]).chain_update(value).finalize();
    Ok(hash[..16].try_into().expect("shorter than the hash"))
}

/// What the node is called that enrols by this token, with this use.
pub(super) fn name_by_token(asked: &Asked, used: &stored::TokenRecord) -> Result<NodeName, Fault> {
    if used.node_name_template.is_empty() {
        return asked.wanted_name();
    }
    let template = Template::parse(&used.node_name_template)
        .map_err(|error| Fault::internal(format!("the token's template is not one: {error}")))?;
    template.render(&asked.machine, used.uses)
}

/// What lets a machine take a node's place.
#[derive(Debug, Clone)]
pub(super) struct Grant<'a> {
    pub(super) labels: &'a BTreeMap<String, String>,
    pub(super) annotations: BTreeMap<String, String>,
    pub(super) by: By,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum By {
    /// A token of this age. It takes nobody's place.
    Token { made: SystemTime },
    /// An operator, who says whether the machine may take another's place.
    Operator { replace: bool },
}

/// The keys by which a node is known from now on.
#[derive(Debug, Clone)]
pub(super) struct Keys {
    pub(super) key_id: KeyId,
    pub(super) sealing_key: [u8; 32],
}

/// The node's record once the machine with these keys is the node; `before`: as it is, if there is one.
pub(super) fn settle(
    name: &NodeRef,
    before: Option<&stored::NodeRecord>,
    keys: &Keys,
    grant: &Grant<'_>,
    now: SystemTime,
    new_uid: impl FnOnce() -> String,
) -> Result<stored::NodeRecord, Refused> {
    let mut record = match before {
        None => {
            let meta = stored::Meta {
                uid: new_uid(),
                create_time: Some(time::to_timestamp(now)),
                generation: 1,
                ..stored::Meta::default()
            };
            stored::NodeRecord { meta: Some(meta), ..stored::NodeRecord::default() }
        }
        Some(record) => {
            may_take(name, record, keys, grant.by)?;
            record.clone()
        }
    };
    let meta = record.meta.get_or_insert_default();
    meta.labels.extend(grant.labels.iter().map(|(key, value)| (key.clone(), value.clone())));
    meta.annotations.remove(REVOKE_TIME);
    meta.annotations.extend(grant.annotations.clone());
    record.key_id = bytes::Bytes::copy_from_slice(keys.key_id.as_bytes());
    record.next_key_id = bytes::Bytes::new();
    record.sealing_key = bytes::Bytes::copy_from_slice(&keys.sealing_key);
    Ok(record)
}

/// Whether a machine with these keys may be a node that is there already.
fn may_take(name: &NodeRef, record: &stored::NodeRecord, keys: &Keys, by: By) -> Result<(), Refused> {
    if has_key(record, &keys.key_id) {
        return Ok(());
    }
    let taken = |remedy: &str| {
        let message = format!("{name} is another machine's: {remedy}");
        Fault::new(Code::AlreadyExists, "NODE_TAKEN", message).with("resource", name)
    };
    match by {
        By::Operator { replace: true } => Ok(()),
        By::Operator { replace: false } => {
            Err(taken("approve it under another name (--name), or in the other's place (--replace)").into())
        }
        By::Token { .. } if !record.key_id.is_empty() => {
            let remedy = "choose another name, or leave the token out and let an operator approve it in the other's place (--replace)";
            Err(taken(remedy).into())
        }
        // A node without a key was never enrolled, or was revoked. Then only a token that was made after that lets it in again: an older
        // one may lie on the very disk that was stolen.
        By::Token { made } => match revoked_at(record) {
            Some(revoked) if made <= revoked => Err(Refusal::Revoked.into()),
            _ => Ok(()),
        },
    }
}

fn revoked_at(record: &stored::NodeRecord) -> Option<SystemTime> {
    let nanos = record.meta.as_ref()?.annotations.get(REVOKE_TIME)?.parse().ok()?;
    SystemTime::UNIX_EPOCH.checked_add(Duration::from_nanos(nanos))
}

/// What there was to strike out.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Struck {
    /// Keys, which are gone now.
    Keys,
    /// Nothing any more: it was done before.
    Before,
    /// Nothing: the node never enrolled.
    Nothing,
}

/// Strikes the keys of a node out.
pub(crate) fn strike_out(record: &mut stored::NodeRecord, now: SystemTime) -> Struck {
    if record.key_id.is_empty() && record.next_key_id.is_empty() && record.sealing_key.is_empty() {
        return if revoked_at(record).is_some() { Struck::Before } else { Struck::Nothing };
    }
    record.key_id.clear();
    record.next_key_id.clear();
    record.sealing_key.clear();
    let nanos = now.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default().as_nanos();
    record.meta.get_or_insert_default().annotations.insert(REVOKE_TIME.to_owned(), nanos.to_string());
    Struck::Keys
}

/// Whether a certificate for this key is the node's.
pub(super) fn has_key(record: &stored::NodeRecord, key: &KeyId) -> bool {
    [&record.key_id, &record.next_key_id].into_iter().any(|known| known[..] == key.as_bytes()[..])
}

/// Whether a machine that asks again with its key names the sealing key that it named before. A request proves the machine's own key and
/// nothing else: who has kept a copy of one, a gateway, could name a key of its own beside it, and read what is sealed to the machine from then on.
/// The machine itself may change it over its stream.
pub(super) fn same_sealing_key(known: &[u8], asked: &HpkePublicKey) -> Result<(), Fault> {
    if known.is_empty() || known == asked.as_bytes() {
        return Ok(());
    }
    let message = "the machine is known by this key with another sealing key: it must enrol with new keys";
    Err(Fault::new(Code::PermissionDenied, "SEALING_KEY_CHANGED", message))
}

/// The labels that the node gets of its token: those that it names, one for the cluster that it joins, and one for each system app.
pub(super) fn labels_of(token: &stored::TokenRecord) -> BTreeMap<String, String> {
    let mut labels = token.node_labels.clone();
    if !token.cluster.is_empty() {
        labels.insert(CLUSTER_LABEL.to_owned(), token.cluster.clone());
    }
    for app in token.system_apps.iter().filter_map(|app| AppName::parse(app).ok()) {
        // One that the token names with a value of its own keeps that.
        labels.entry(system_app_label(&app)).or_default();
    }
    labels
}

/// What the node gets of its token beside labels.
pub(super) fn annotations_of(id: &str) -> BTreeMap<String, String> {
    BTreeMap::from([(TOKEN.to_owned(), id.to_owned())])
}
