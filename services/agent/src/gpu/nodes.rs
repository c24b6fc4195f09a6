//! The device nodes of a GPU, for engines that know nothing of GPUs: which there are, by what the driver tells below `/proc`.
//!
//! After NVIDIA's driver README ("The /proc/driver/nvidia file system") and the MIG user guide ("Device nodes and capabilities"): `/dev/nvidia<minor>` with
//! the minor from `/proc/driver/nvidia/gpus/<pci>/information`, `/dev/nvidiactl` and `/dev/nvidia-uvm` for all, and for a part of a divided one the two
//! capabilities of its GPU instance and compute instance below `/dev/nvidia-caps`.

use std::fs;
use std::path::{Path, PathBuf};

use skerry_model::GpuShare;
use skerry_proto::gpu::v1 as pb;

use super::grant::Granted;

/// Without these no device is used.
const OF_ALL: [&str; 2] = ["/dev/nvidiactl", "/dev/nvidia-uvm"];
/// Used where it is there.
const OF_SOME: [&str; 1] = ["/dev/nvidia-uvm-tools"];

/// What is there of the device nodes that an instance needs.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Nodes {
    /// Each once, in order.
    pub(crate) there: Vec<Node>,
    /// What is not there, in words for people.
    pub(crate) missing: Vec<String>,
}

/// A device node.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Node {
    /// Its path on the machine.
    pub(crate) path: String,
    /// What it is called, on any machine.
    pub(crate) name: String,
}

impl Nodes {
    /// Those of what is granted, looked for below `root`.
    pub(crate) fn of(granted: &Granted, root: &Path) -> Self {
        let mut nodes = Self::default();
        for (booking, device) in granted.bookings.iter().zip(&granted.devices) {
            let Some(minor) = minor(device, root) else {
                nodes.missing.push(format!("the device node of {}", device.uuid));
                continue;
            };
            nodes.add(root, format!("/dev/nvidia{minor}"));
            if let GpuShare::Mig { device: part, .. } = &booking.share {
                let part = device.mig_devices.iter().find(|one| one.uuid == part.as_str());
                for path in part.into_iter().flat_map(|part| capabilities(minor, part)) {
                    match value(root, &path, "DeviceFileMinor:") {
                        Some(number) => {
                            nodes.add(root, format!("/dev/nvidia-caps/nvidia-cap{number}"));
                        }
                        None => nodes.missing.push(path),
                    }
                }
            }
        }
        for path in OF_ALL {
            nodes.add(root, path.to_owned());
        }
        for path in OF_SOME.into_iter().filter(|path| below(root, path).exists()) {
            nodes.add(root, path.to_owned());
        }
        nodes
    }

    fn add(&mut self, root: &Path, name: String) {
        let path = below(root, &name);
        if !path.exists() {
            if !self.missing.contains(&name) {
                self.missing.push(name);
            }
        } else if self.there.iter().all(|node| node.name != name) {
            self.there.push(Node { path: path.display().to_string(), name });
        }
    }
}

fn below(root: &Path, path: &str) -> PathBuf {
    root.join(path.trim_start_matches('/'))
}

/// The number of a device's node, by its UUID: places on the bus are written in several ways.
fn minor(device: &pb::Device, root: &Path) -> Option<u32> {
    let all = fs::read_dir(root.join("proc/driver/nvidia/gpus")).ok()?;
    all.filter_map(|one| fs::read_to_string(one.ok()?.path().join("information")).ok())
        .find(|text| field(text, "GPU UUID:") == Some(&device.uuid))
        .and_then(|text| field(&text, "Device Minor:")?.parse().ok())
}

/// Where the driver tells of what a part needs.
fn capabilities(minor: u32, part: &pb::MigDevice) -> [String; 2] {
    let (gi, ci) = (part.gpu_instance, part.compute_instance);
    let base = format!("/proc/driver/nvidia/capabilities/gpu{minor}/mig/gi{gi}");
    [format!("{base}/access"), format!("{base}/ci{ci}/access")]
}

fn value(root: &Path, path: &str, key: &str) -> Option<u32> {
    let text = fs::read_to_string(below(root, path)).ok()?;
    field(&text, key)?.parse().ok()
}

fn field<'a>(text: &'a str, key: &str) -> Option<&'a str> {
    text.lines().find_map(|line| line.strip_prefix(key)).map(str::trim)
}
