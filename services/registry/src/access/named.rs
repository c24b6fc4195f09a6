//! Who is deleted is named nowhere any more: groups and bindings lose the name in the transaction of the deletion, and grants to it go, so that
//! a namesake who comes later has nothing of its predecessor's.

use skerry_api::{Caused, ResourceName};
use skerry_model::{Code, Fault};
use skerry_proto::store::v1 as stored;
use skerry_proto::types::v1::AuditOutcome;
use skerry_store::{Prefix, Record, Snapshot, TXN_BYTES_MAX, Txn, Versioned};
use tracing::warn;

/// Most groups and bindings that one deletion changes: a transaction has 128 operations, and each has a record in the audit log besides.
const PLACES_MAX: usize = 50;
/// Most bytes that they may have together, with room for the deletion itself.
const BYTES_MAX: usize = TXN_BYTES_MAX - 16 * 1024;

/// A record that names others.
trait Names: Record<Name: ResourceName> {
    /// Takes `name` out; whether it stood there.
    fn take_out(&mut self, name: &str) -> bool;

    fn meta(&mut self) -> Option<&mut stored::Meta>;
}

impl Names for stored::GroupRecord {
    fn take_out(&mut self, name: &str) -> bool {
        without(&mut self.members, name)
    }

    fn meta(&mut self) -> Option<&mut stored::Meta> {
        self.meta.as_mut()
    }
}

impl Names for stored::RoleBindingRecord {
    fn take_out(&mut self, name: &str) -> bool {
        // A user and a group are never called alike: their full names have their kind.
        without(&mut self.users, name) | without(&mut self.groups, name)
    }

    fn meta(&mut self) -> Option<&mut stored::Meta> {
        self.meta.as_mut()
    }
}

fn without(names: &mut Vec<String>, name: &str) -> bool {
    let before = names.len();
    names.retain(|other| other != name);
    names.len() != before
}

/// Adds to the transaction that deletes the user or group `name` that nothing in `snapshot` names it any more, on condition that what
/// names it is still as it was.
pub(super) fn nowhere(
    name: &impl std::fmt::Display,
    snapshot: &Snapshot,
    caused: &Caused,
    txn: Txn,
) -> Result<Txn, Fault> {
    let text = name.to_string();
    let mut places = 0;
    let txn = out_of::<stored::GroupRecord>(&text, snapshot, caused, &mut places, txn);
    let txn = out_of::<stored::RoleBindingRecord>(&text, snapshot, caused, &mut places, txn);
    let txn = without_grants(&text, snapshot, caused, &mut places, txn);
    if places > PLACES_MAX || txn.bytes() > BYTES_MAX {
        let message = format!(
            "{name} is named in {places} groups, bindings and grants, more than one deletion can change: take it out of some first (a user without keys may do nothing meanwhile)"
        );
        return Err(Fault::new(Code::FailedPrecondition, "NAMED_TOO_OFTEN", message)
            .with("places", places)
            .with("most", PLACES_MAX));
    }
    Ok(txn)
}

fn without_grants(name: &str, snapshot: &Snapshot, caused: &Caused, places: &mut usize, mut txn: Txn) -> Txn {
    let grants = Prefix::<stored::GrantRecord>::all();
    // One that does not decode is nobody's.
    for found in snapshot.iter(&grants).filter_map(Result::ok).filter(|found| found.value.subject == name) {
        *places += 1;
        let act = caused.of(&found.key.name(), AuditOutcome::Deleted);
        txn = txn.when_same(&found).delete(&found.key).audit(act);
    }
    txn
}

fn out_of<R: Names>(
    name: &str,
    snapshot: &Snapshot,
    caused: &Caused,
    places: &mut usize,
    mut txn: Txn,
) -> Txn {
    for found in snapshot.iter(&Prefix::<R>::all()) {
        match found {
            Ok(found) => {
                if let Some(record) = less(&found, name) {
                    *places += 1;
                    let act = caused.of(&found.key.name(), AuditOutcome::Updated);
                    txn = txn.when_same(&found).put(&found.key, &record).audit(act);
                }
            }
            Err(error) => warn!(%error, "a record that does not decode names nobody"),
        }
    }
    txn
}

/// The record without the name; nothing if it does not have it.
fn less<R: Names>(found: &Versioned<R>, name: &str) -> Option<R> {
    let mut record = found.value.clone();
    if !record.take_out(name) {
        return None;
    }
    if let Some(meta) = record.meta() {
        meta.generation += 1;
    }
    Some(record)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_goes_out_of_every_list_and_others_stay() {
        let names = |texts: &[&str]| texts.iter().map(|text| (*text).to_owned()).collect::<Vec<_>>();
        let mut binding = stored::RoleBindingRecord {
            users: names(&["projects/a/users/ada", "projects/b/users/ada"]),
            groups: names(&["projects/a/groups/ada"]),
            ..Default::default()
        };
        assert!(binding.take_out("projects/a/users/ada"));
        assert!(!binding.take_out("projects/a/users/ada"));
        assert_eq!(binding.users, ["projects/b/users/ada"]);
        assert!(binding.take_out("projects/a/groups/ada"));
        assert!(binding.groups.is_empty());
        let mut group =
            stored::GroupRecord { members: names(&["projects/a/users/ada"]), ..Default::default() };
        assert!(group.take_out("projects/a/users/ada") && group.members.is_empty());
    }
}
