//! Before a project is deleted: it is empty, and nothing comes into it any more.
//!
//! First it is marked. Whoever makes something in a project compares its record, so what was on its way when it was marked comes to nothing, and
//! what comes later is refused. What is empty after that stays empty; what is not gets its mark taken off.

use std::time::SystemTime;

use skerry_api::{Beside, Caused, Etag, Tries};
use skerry_model::{Code, Fault, ProjectRef, time};
use skerry_proto::store::v1 as stored;
use skerry_proto::types::v1::AuditOutcome;
use skerry_store::keys::InProject;
use skerry_store::{Key, PageRequest, Prefix, ReadError, Txn, TxnError, Versioned};

use super::Projects;

/// Bindings that are read at once.
const PAGE_SIZE: usize = 100;
/// The reason that tells that something is in it.
pub(crate) const NOT_EMPTY: &str = "PROJECT_NOT_EMPTY";
/// What the audit log says of the mark.
const CLOSED: &str = "it is being deleted";
const OPENED: &str = "it is not being deleted: something is in it";

impl Projects {
    /// Closes an empty project, if it is still at `etag` (empty: at any); answers the etag that it has then. FAILED_PRECONDITION tells what
    /// is left in it. One that is not there has none: whether it was deleted by this very request is found out later. `beside` is in each
    /// transaction.
    pub(crate) async fn close(
        &self,
        name: &ProjectRef,
        etag: &str,
        caused: &Caused,
        beside: Beside<'_>,
    ) -> Result<String, Fault> {
        if name.project.is_permanent() {
            let message = format!("{name} is always there and cannot be deleted");
            return Err(Fault::new(Code::FailedPrecondition, "PROJECT_PERMANENT", message));
        }
        let key = Key::<stored::ProjectRecord>::of(name);
        let mut tries = Tries::default();
        loop {
            let Some(read) = self.store.get(&key).await? else { return Ok(etag.to_owned()) };
            let now = Etag { mod_revision: read.mod_revision }.to_string();
            if !etag.is_empty() && etag != now {
                return Err(Fault::stale_etag(name));
            }
            let is_marked = read.value.delete_time.is_some();
            let left = self.left(name).await?;
            if left.is_empty() && is_marked {
                return Ok(now);
            }
            if !left.is_empty() && !is_marked {
                return Err(not_empty(name, &left));
            }
            // The mark comes on what is empty, and off what is not.
            let delete_time = left.is_empty().then(|| time::to_timestamp(SystemTime::now()));
            let record = stored::ProjectRecord { delete_time, ..read.value.clone() };
            let detail = if left.is_empty() { CLOSED } else { OPENED };
            let act = caused.of(name, AuditOutcome::Updated).detail(detail);
            let txn = beside(Txn::new().when_same(&read).put(&key, &record).audit(act));
            match self.store.commit(txn).await {
                Ok(done) if left.is_empty() => {
                    let marked = Versioned { value: record, mod_revision: done.revision, ..read };
                    return self.look_again(name, &marked, caused, beside).await;
                }
                Ok(_) => return Err(not_empty(name, &left)),
                Err(TxnError::Conflict(_)) => tries.again(name).await?,
                Err(error) => return Err(error.into()),
            }
        }
    }

    /// What came in before the mark is seen now.
    async fn look_again(
        &self,
        name: &ProjectRef,
        marked: &Versioned<stored::ProjectRecord>,
        caused: &Caused,
        beside: Beside<'_>,
    ) -> Result<String, Fault> {
        let left = self.left(name).await?;
        if left.is_empty() {
            return Ok(Etag { mod_revision: marked.mod_revision }.to_string());
        }
        let record = stored::ProjectRecord { delete_time: None, ..marked.value.clone() };
        let act = caused.of(name, AuditOutcome::Updated).detail(OPENED);
        let txn = beside(Txn::new().when_same(marked).put(&marked.key, &record).audit(act));
        match self.store.commit(txn).await {
            // Somebody else deletes it too, and sees the same.
            Ok(_) | Err(TxnError::Conflict(_)) => Err(not_empty(name, &left)),
            Err(error) => Err(error.into()),
        }
    }

    /// What is in it, by how people call it, and how many of each.
    async fn left(&self, name: &ProjectRef) -> Result<Vec<(&'static str, u64)>, ReadError> {
        let left = tokio::try_join!(
            self.count::<stored::NodeRecord>(name, "nodes"),
            self.count::<stored::ClusterRecord>(name, "clusters"),
            self.count::<stored::AppRecord>(name, "apps"),
            self.count::<stored::ConfigRecord>(name, "configs"),
            self.count::<stored::SecretRecord>(name, "secrets"),
            self.count::<stored::TokenRecord>(name, "tokens"),
            self.count::<stored::UserRecord>(name, "users"),
            self.count::<stored::GroupRecord>(name, "groups"),
            self.bindings(name),
        )?;
        let (nodes, clusters, apps, configs, secrets, tokens, users, groups, bindings) = left;
        let left = [nodes, clusters, apps, configs, secrets, tokens, users, groups, bindings];
        Ok(left.into_iter().filter(|(_, count)| *count > 0).collect())
    }

    /// Bindings that give a role to somebody.
    async fn bindings(&self, name: &ProjectRef) -> Result<(&'static str, u64), ReadError> {
        let prefix = Prefix::<stored::RoleBindingRecord>::project(&name.project);
        let mut page = PageRequest::first(PAGE_SIZE);
        let mut count = 0;
        loop {
            let read = self.store.list(&prefix, &page).await?;
            let bound = read.items.iter().filter(|binding| {
                let stored::RoleBindingRecord { users, groups, .. } = &binding.value;
                !(users.is_empty() && groups.is_empty())
            });
            count += bound.map(|_| 1).sum::<u64>();
            match read.next {
                Some(next) => page = PageRequest::after(PAGE_SIZE, next),
                None => return Ok(("role bindings", count)),
            }
        }
    }

    async fn count<R: InProject>(
        &self,
        name: &ProjectRef,
        what: &'static str,
    ) -> Result<(&'static str, u64), ReadError> {
        Ok((what, self.store.count(&Prefix::<R>::project(&name.project)).await?))
    }
}

fn not_empty(name: &ProjectRef, left: &[(&str, u64)]) -> Fault {
    let one = |(what, count): &(&str, u64)| match (what.strip_suffix('s'), count) {
        (Some(one), 1) => format!("1 {one}"),
        _ => format!("{count} {what}"),
    };
    let all = left.iter().map(one).collect::<Vec<_>>().join(", ");
    let message = format!("{name} is not empty: it has {all}; delete them first");
    Fault::new(Code::FailedPrecondition, NOT_EMPTY, message).with("resource", name)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_left_is_told_by_number_and_kind() {
        let name = ProjectRef::parse("projects/shop").unwrap();
        let fault = not_empty(&name, &[("nodes", 1), ("role bindings", 2)]);
        assert_eq!(
            fault.message,
            "projects/shop is not empty: it has 1 node, 2 role bindings; delete them first"
        );
        assert_eq!(fault.code, Code::FailedPrecondition);
    }
}
