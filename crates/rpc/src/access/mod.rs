//! What a caller may do, decided in one place, for every method: denied unless the table says otherwise.
//!
//! | module | job |
//! |---|---|
//! | `table` | which method is for whom, and where its request names the project |
//! | `project` | finds that name in the encoded request |
//! | `judge` | the decision: table, peer, roles |
//! | `message` | reads a request ahead of its handler, and hands on the same bytes |
//! | `grants` | verbs that somebody may use for a while without the role, and the right by which a call goes on |
//! | `layer` | does all this for each call, and ends streams whose reader lost the right |
//! | `denied` | counts who was refused |
//! | `role` | roles, and who knows who has which |

mod denied;
mod grants;
mod judge;
mod layer;
mod message;
mod project;
mod role;
mod table;

use std::time::SystemTime;

use skerry_model::{Fault, ProjectName};

use crate::peer::Peer;

pub(crate) use denied::tell;
pub use denied::{Denied, DeniedCalls};
pub use grants::Right;
pub(crate) use layer::AccessLayer;
pub(crate) use role::KnowsNobody;
pub use role::{Authorizer, Role};

/// What `peer` would be told if it called `method` (`package.Service/Method`) about `named`, a project or what is in it, by its full name: nothing
/// if it may, by a role or by a grant. A peer of a listener without TLS may; there, the listener has decided.
pub fn check(method: &str, peer: &Peer, named: &str, authorizer: &dyn Authorizer) -> Result<(), Fault> {
    match &peer.certificate {
        Some(certificate) => {
            judge::would_say(&path_of(method), Some(certificate), named, authorizer, SystemTime::now())
        }
        None => Ok(()),
    }
}

/// Every method (`package.Service/Method`) that `peer` may call about `project`, by name.
pub fn allowed(peer: &Peer, project: &ProjectName, authorizer: &dyn Authorizer) -> Vec<&'static str> {
    let methods = table::TABLE.iter().map(|(path, _)| path.trim_start_matches('/'));
    let parent = project.parent();
    let mut allowed: Vec<_> =
        methods.filter(|method| check(method, peer, &parent, authorizer).is_ok()).collect();
    allowed.sort_unstable();
    allowed
}

/// The role that users need to call `method`, if it is for users.
pub fn role_for(method: &str) -> Option<Role> {
    judge::role_for(&path_of(method))
}

/// The text at `path` in an encoded request, as the layer reads it; nothing where it refuses the request.
#[doc(hidden)]
pub fn name_at<'a>(request: &'a [u8], path: &[u32]) -> Option<&'a str> {
    project::find(request, path).ok()
}

fn path_of(method: &str) -> String {
    format!("/{}", method.trim_start_matches('/'))
}
