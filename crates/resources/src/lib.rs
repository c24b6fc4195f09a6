//! What each kind of resource means and how it is stored: its [`Rules`](skerry_api::Rules), over the store alone.
//!
//! The service that serves a kind adds what it observes of it (`skerry_api::Kind`). Whoever plans changes of several kinds together has
//! [`AllRules`].
//!
//! | module | job |
//! |---|---|
//! | `apps`, `configs`, `secrets` | what runs |
//! | `nodes`, `clusters` | where |
//! | `projects` | whose it is |
//! | `users`, `groups`, `role_bindings`, `grants` | who may what; `names` checks their lists |
//! | `rollouts`, `events` | what begins, and what is told, with a change of an app |
//! | `keys` | what values of secrets are sealed under |
//! | `all` | all kinds, for changes of several; `apply` is the service of these |

mod all;
mod apply;
mod apps;
mod clusters;
mod configs;
mod events;
mod grants;
mod groups;
mod keys;
mod names;
mod nodes;
mod projects;
mod role_bindings;
pub mod rollouts;
mod secrets;
mod users;

pub use self::all::AllRules;
pub use self::apply::Apply;
pub use self::apps::{AppRules, keep_restart_times};
pub use self::clusters::{ClusterRules, named_cluster, stored_cluster};
pub use self::configs::ConfigRules;
pub use self::events::AppEvents;
pub use self::grants::{GrantRules, Granted, granted};
pub use self::groups::GroupRules;
pub use self::keys::{SecretKeys, seal};
pub use self::nodes::NodeRules;
pub use self::projects::{ProjectRules, project_spec};
pub use self::role_bindings::{RoleBindingRules, binding_spec};
pub use self::secrets::{SecretRules, Values, shown};
pub use self::users::{KEYS_MAX, UserRules, admin_needed, is_first_admin, only_itself, user_spec};
