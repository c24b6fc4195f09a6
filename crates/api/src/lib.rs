//! How resources behave towards API clients, the same in every service: names and etags, masks, pages, watches, request ids.
//!
//! A service derives its resources from the store and publishes them in a [`Hub`]; reading and watching is then this crate's. What a resource
//! means, and how it is written, stays with the service.

mod change;
mod hub;
mod mask;
mod metadata;
mod request;
mod serve;
#[cfg(test)]
mod tests;
mod version;
mod watch;

pub use change::{Tried, Tries};
pub use hub::{Change, Hub, ListPage, Listed, Pinned, Resource};
pub use mask::Mask;
pub use metadata::{Etag, check_metadata, metadata_of, new_meta};
pub use request::{PageArgs, mark, page_args, page_size, parent_and_selector};
pub use serve::{ResponseStream, reply, stream_of};
pub use version::ResourceVersion;
pub use watch::{Told, Watcher};
