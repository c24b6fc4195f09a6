//! `SecretService`: when a secret may go, sealing anew, and the handlers. Values come in here and never go out. What a secret means is in
//! `skerry-resources`.

mod handlers;
mod reseal;

use std::sync::Arc;

use skerry_api::{Caused, Kind};
use skerry_daemon::Shutdown;
use skerry_model::{AppName, Code, Fault, SecretRef};
use skerry_resources::{SecretKeys, SecretRules};
use skerry_store::{Mirror, Store, Txn};

use crate::follow::Shared;

/// Apps that a refusal names.
const USERS_NAMED: usize = 5;

/// The handlers.
#[derive(Clone)]
pub(crate) struct Secrets {
    rules: SecretRules,
    shared: Arc<Shared>,
    store: Store,
    keys: SecretKeys,
    shutdown: Shutdown,
}

impl Secrets {
    pub(crate) fn new(shared: Arc<Shared>, store: Store, keys: SecretKeys, shutdown: Shutdown) -> Self {
        let rules = SecretRules::new(store.clone(), keys.clone());
        Self { rules, shared, store, keys, shutdown }
    }
}

impl Kind for Secrets {
    type Rules = SecretRules;

    fn rules(&self) -> &SecretRules {
        &self.rules
    }

    fn mirror(&self) -> &Mirror {
        &self.shared.mirror
    }

    async fn caught_up(&self) -> Result<(), Fault> {
        self.shared.secrets.wait_for(self.shared.mirror.snapshot().version()).await
    }

    /// It must not be used. An app created at the same moment may still come to use it: its instances then wait with the reason
    /// `SecretMissing`.
    fn remove(&self, name: &SecretRef, txn: Txn, _: &Caused) -> Result<Txn, Fault> {
        let world = self.shared.world();
        let Some(project) = world.project(&name.project) else { return Ok(txn) };
        let users: Vec<_> = project.apps_with_secret(&name.secret).take(USERS_NAMED).collect();
        if users.is_empty() { Ok(txn) } else { Err(in_use(name, &users)) }
    }
}

fn in_use(name: &SecretRef, users: &[&AppName]) -> Fault {
    let users = users.iter().map(|app| app.as_str()).collect::<Vec<_>>().join(", ");
    let message = format!("{name} is used by {users}: remove it from there first");
    Fault::new(Code::FailedPrecondition, "SECRET_IN_USE", message).with("apps", users)
}
