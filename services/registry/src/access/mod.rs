//! Users, groups, role bindings, grants, and what a caller is told of itself. Who is judged by them, and how, is `skerry-rpc`'s and `skerry-api`'s.

mod bindings;
mod grants;
mod groups;
mod issue;
mod named;
mod shown;
mod users;
mod whoami;

pub use self::issue::count_first_admin_key;

use std::sync::Arc;

use skerry_api::AccessMirror;
use skerry_daemon::Shutdown;
use skerry_proto::registry::v1::ChangeOutcome;
use skerry_proto::registry::v1::access_service_server::AccessServiceServer;
use skerry_proto::registry::v1::grant_service_server::GrantServiceServer;
use skerry_proto::registry::v1::group_service_server::GroupServiceServer;
use skerry_proto::registry::v1::role_binding_service_server::RoleBindingServiceServer;
use skerry_proto::registry::v1::user_service_server::UserServiceServer;
use skerry_proto::scheduler::v1::update_app_response::Outcome;
use skerry_resources::{GrantRules, GroupRules, RoleBindingRules, UserRules};
use skerry_rpc::{MESSAGE_BYTES_MAX, Server};
use skerry_store::{Mirror, Store};

use crate::authority::Issuer;

/// The handlers.
pub(crate) struct Access {
    users: users::Users,
    groups: groups::Groups,
    bindings: bindings::Bindings,
    grants: grants::Grants,
    whoami: whoami::WhoAmI,
}

impl Access {
    pub(crate) fn start(store: &Store, mirror: &AccessMirror, issuer: Issuer, shutdown: &Shutdown) -> Self {
        let shown = Arc::new(shown::Shown::new(mirror.clone()));
        shutdown.spawn(shown::follow(Arc::clone(&shown), shutdown.clone()));
        shutdown.spawn(grants::sweep(Arc::clone(&shown), store.clone(), shutdown.clone()));
        Self {
            users: users::Users {
                rules: UserRules::new(store.clone()),
                shown: Arc::clone(&shown),
                store: store.clone(),
                issuer,
            },
            groups: groups::Groups { rules: GroupRules::new(store.clone()), shown: Arc::clone(&shown) },
            grants: grants::Grants { rules: GrantRules::new(store.clone()), shown: Arc::clone(&shown) },
            bindings: bindings::Bindings { rules: RoleBindingRules::new(store.clone()), shown },
            whoami: whoami::WhoAmI { access: mirror.clone() },
        }
    }

    pub(crate) fn mirror(&self) -> &Mirror {
        self.whoami.access.mirror()
    }

    pub(crate) fn register(&self, server: &mut Server) {
        server
            .add(
                UserServiceServer::new(self.users.clone())
                    .max_decoding_message_size(MESSAGE_BYTES_MAX)
                    .max_encoding_message_size(MESSAGE_BYTES_MAX),
            )
            .add(
                GroupServiceServer::new(self.groups.clone())
                    .max_decoding_message_size(MESSAGE_BYTES_MAX)
                    .max_encoding_message_size(MESSAGE_BYTES_MAX),
            )
            .add(
                RoleBindingServiceServer::new(self.bindings.clone())
                    .max_decoding_message_size(MESSAGE_BYTES_MAX)
                    .max_encoding_message_size(MESSAGE_BYTES_MAX),
            )
            .add(
                GrantServiceServer::new(self.grants.clone())
                    .max_decoding_message_size(MESSAGE_BYTES_MAX)
                    .max_encoding_message_size(MESSAGE_BYTES_MAX),
            )
            .add(AccessServiceServer::new(self.whoami.clone()).max_decoding_message_size(MESSAGE_BYTES_MAX));
    }
}

pub(crate) fn outcome(outcome: Outcome) -> i32 {
    match outcome {
        Outcome::Unspecified => ChangeOutcome::Unspecified,
        Outcome::Created => ChangeOutcome::Created,
        Outcome::Updated => ChangeOutcome::Updated,
        Outcome::Unchanged => ChangeOutcome::Unchanged,
    }
    .into()
}
