//! The descriptors that decoding and output are driven by.

use std::sync::LazyLock;

use prost_reflect::{DescriptorPool, FieldDescriptor, MessageDescriptor};

static POOL: LazyLock<DescriptorPool> = LazyLock::new(|| {
    DescriptorPool::decode(skerry_proto::FILE_DESCRIPTOR_SET).expect("the checked-in descriptors are valid")
});

/// The message `name`, as `skerry.scheduler.v1.App`, if the protocol has it.
pub(crate) fn message(name: &str) -> Option<MessageDescriptor> {
    POOL.get_message_by_name(name)
}

/// A field whose last word is a unit, and how people write it without one: `memory: 512Mi` for `memory_bytes`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Unit {
    Bytes,
    CpuMillis,
}

/// The unit of `field` and its name without the unit, if people may leave it away.
pub(crate) fn unit_form(field: &FieldDescriptor) -> Option<(&'static str, Unit)> {
    match field.name() {
        "memory_bytes" => Some(("memory", Unit::Bytes)),
        "disk_bytes" => Some(("disk", Unit::Bytes)),
        "swap_bytes" => Some(("swap", Unit::Bytes)),
        "size_bytes" => Some(("size", Unit::Bytes)),
        "max_size_bytes" => Some(("maxSize", Unit::Bytes)),
        "shm_size_bytes" => Some(("shmSize", Unit::Bytes)),
        "cpu_millis" => Some(("cpu", Unit::CpuMillis)),
        _ => None,
    }
}
