//! How resources behave towards API clients, the same in every service: names and etags, masks, pages, watches, request ids.
//!
//! A service derives its resources from the store and publishes them in a [`Hub`]; listing and watching is then this crate's. [`Rules`] say what
//! a kind of resource means and how it is stored; creating, reading, updating and deleting it is then this crate's too, and so is changing
//! several together, of whichever kinds ([`Several`]).

mod access;
pub mod audit;
mod change;
mod follow;
mod hub;
mod kind;
mod links;
mod mask;
mod member;
mod metadata;
mod own_annotations;
mod request;
mod roots;
mod serve;
mod tenancy;
#[cfg(test)]
mod tests;
mod tries;
mod version;
mod watch;

pub use access::{ADMIN, AccessMirror};
pub use change::{
    Beside, Call, Caused, Changed, Create, Delete, Several, Update, create, delete, delete_for, is_repeat,
    read, update, update_for,
};
pub use follow::follow;
pub use hub::{Change, Hub, ListPage, Listed, Pinned, Resource};
pub use kind::{Kind, NameOf, RecordName, RecordOf, ResourceName, ResourceOf, Rules};
pub use links::{Borrowed, Links, Replica};
pub use mask::Mask;
pub use member::Member;
pub use metadata::{Etag, metadata_of, new_meta};
pub use request::{PageArgs, page_args, page_size};
pub use roots::{RootsError, StoreRoots};
pub use serve::{
    PAGE_BYTES_MAX, ResponseStream, list, list_projects, reply, stream_of, watch, watch_projects,
};
pub use tenancy::{Charge, Takes, account, admit, ensure_project, heal, known_project, recount, uncount};
pub use tries::Tries;
pub use version::ResourceVersion;
pub use watch::{Told, Watcher};
