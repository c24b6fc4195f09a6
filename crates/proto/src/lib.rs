//! Skerry's protocol in Rust: messages, clients and servers generated from `proto/`, and the descriptors for reflection.
//!
//! Nothing here is written by hand but this table of packages and how messages with secrets are shown (`redacted`); `cargo xtask codegen`
//! makes the rest. Meaning lives in `skerry-model`, which turns these messages into valid types.

mod redacted;

/// The compiled protos with all imports and without comments: what reflection serves.
pub const FILE_DESCRIPTOR_SET: &[u8] = include_bytes!("../descriptors/skerry.bin");

/// The same with comments: what explains a field to a person.
pub const FILE_DESCRIPTOR_SET_WITH_COMMENTS: &[u8] = include_bytes!("../descriptors/skerry-comments.bin");

/// Declares one package, and allows in generated code what nobody reads there.
macro_rules! package {
    ($(#[$doc:meta])* $name:ident, $file:literal) => {
        $(#[$doc])*
        pub mod $name {
            /// Version 1.
            #[allow(
                missing_docs,
                unreachable_pub,
                clippy::all,
                clippy::pedantic,
                clippy::allow_attributes_without_reason,
                clippy::wildcard_imports,
                rustdoc::all,
                reason = "generated code; its comments are those of proto/"
            )]
            pub mod v1 {
                include!(concat!("gen/", $file));
            }
        }
    };
}

package!(
    /// What all services share: metadata, app specs, status. The name that generated code uses; write [`types`].
    #[doc(hidden)]
    r#type, "skerry.type.v1.rs"
);
pub use self::r#type as types;

package!(
    /// Nodes: list, watch, label, cordon.
    registry, "skerry.registry.v1.rs"
);
package!(
    /// Apps, configs, revisions and what runs where.
    scheduler, "skerry.scheduler.v1.rs"
);
package!(
    /// The stream between a gateway and an agent.
    gateway, "skerry.gateway.v1.rs"
);
package!(
    /// Logs and other channels to what runs on nodes.
    relay, "skerry.relay.v1.rs"
);
package!(
    /// GPUs: what they are, how they are, samples and their way from the nodes.
    gpu, "skerry.gpu.v1.rs"
);
package!(
    /// What is stored in etcd. Never on the API.
    store, "skerry.store.v1.rs"
);
