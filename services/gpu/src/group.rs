//! Names of GPUs, and under which number their history is kept.

use skerry_model::{Fault, GpuId, NodeRef};
use skerry_series::Group;

/// `projects/<project>/nodes/<node>/gpus/<uuid>`.
pub(crate) fn gpu_name(node: &str, uuid: &str) -> String {
    format!("{node}/gpus/{uuid}")
}

/// The number of a GPU, or of a part of one: the first 16 bytes of a hash, so that nothing has to be looked up or kept.
pub(crate) fn group_of(gpu: &str, part: &str) -> Group {
    let mut hasher = blake3::Hasher::new();
    hasher.update(gpu.as_bytes()).update(b"\0").update(part.as_bytes());
    let hash = hasher.finalize();
    Group(hash.as_bytes().iter().take(16).fold(0, |number, byte| number << 8 | u128::from(*byte)))
}

/// Takes a name apart: the node, and the UUID. Error: `field` is none.
pub(crate) fn parse_gpu<'a>(field: &str, name: &'a str) -> Result<(NodeRef, &'a str), Fault> {
    let form = || {
        let message =
            "write projects/<project>/nodes/<node>/gpus/<uuid>, as `skerry get gpus -o name` shows it";
        Fault::invalid_field(field, message)
    };
    let (node, uuid) = name.split_once("/gpus/").ok_or_else(form)?;
    let node = NodeRef::parse(node).map_err(|error| Fault::invalid_field(field, error))?;
    if is_uuid(uuid) { Ok((node, uuid)) } else { Err(form()) }
}

/// Whether a GPU may be named so: without `/`, which UUIDs of parts may have.
pub(crate) fn is_uuid(text: &str) -> bool {
    GpuId::parse(text).is_ok() && !text.contains('/')
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_taken_apart_and_anything_else_is_told() {
        let name = gpu_name("projects/p/nodes/n", "GPU-1");
        let (node, uuid) = parse_gpu("name", &name).unwrap();
        assert_eq!((node.to_string().as_str(), uuid), ("projects/p/nodes/n", "GPU-1"));
        for wrong in
            ["", "GPU-1", "projects/p/nodes/n", "projects/p/nodes/n/gpus/", "projects/p/nodes/n/gpus/a b"]
        {
            assert!(parse_gpu("name", wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn a_part_is_another_group_than_its_gpu_and_than_that_of_another_node() {
        let all = [("a", ""), ("a", "x"), ("ax", ""), ("b", "")].map(|(gpu, part)| group_of(gpu, part));
        assert_eq!(all.into_iter().collect::<std::collections::BTreeSet<_>>().len(), 4);
        assert_eq!(group_of("a", "x"), all[1]);
    }
}
