//! What each fuzz target does with its input: it must not panic, and what the input makes must keep the laws that are asserted here.
//!
//! `fuzz/` gives these functions to libFuzzer; `tests/corpus.rs` gives them what is in `fuzz/corpus/`, as any test.

mod api;
mod archive;
mod compose;
mod gpu;
mod sealed;
mod store;
mod sync;
mod text;
mod trust;

pub use api::{forwarded, request_names, versions};
pub use archive::archives;
pub use compose::{compose, env_files};
pub use gpu::gpu_frames;
pub use sealed::{key_rings, sealed};
pub use store::etcd_requests;
pub use sync::{agent_frames, desired_state, gateway_frames};
pub use text::{contexts, jsonpath, manifests};
pub use trust::{certificates, fingerprints, names, requests, tokens};

/// A target: takes any bytes, and returns.
pub type Target = fn(&[u8]);

/// Every target, by the name of its corpus.
pub const TARGETS: [(&str, Target); 21] = [
    ("agent_frames", agent_frames),
    ("archives", archives),
    ("certificates", certificates),
    ("compose", compose),
    ("contexts", contexts),
    ("desired_state", desired_state),
    ("env_files", env_files),
    ("etcd_requests", etcd_requests),
    ("fingerprints", fingerprints),
    ("forwarded", forwarded),
    ("gateway_frames", gateway_frames),
    ("gpu_frames", gpu_frames),
    ("jsonpath", jsonpath),
    ("key_rings", key_rings),
    ("manifests", manifests),
    ("names", names),
    ("request_names", request_names),
    ("requests", requests),
    ("sealed", sealed),
    ("tokens", tokens),
    ("versions", versions),
];

/// Most steps of one input: more of them find nothing that fewer do not, and take longer.
const STEPS_MAX: usize = 64;

/// An input as steps: a byte that says how, the length of what follows (two bytes, low first), and that.
fn steps(mut input: &[u8]) -> impl Iterator<Item = (u8, &[u8])> {
    std::iter::from_fn(move || {
        let [how, low, high, rest @ ..] = input else { return None };
        let length = usize::from(u16::from_le_bytes([*low, *high])).min(rest.len());
        let (step, after) = rest.split_at(length);
        input = after;
        Some((*how, step))
    })
    .take(STEPS_MAX)
}
