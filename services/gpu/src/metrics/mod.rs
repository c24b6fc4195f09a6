//! What is known of the GPUs of this replica, for who watches: as text for Prometheus, under DCGM's names where DCGM has it, and by OpenTelemetry.
//!
//! What is absent has no line; there is no number that means "none". A node that is silent has no values, only the age of the last ones.

mod otel;
mod text;

use std::sync::Arc;
use std::time::Duration;

use skerry_gpu_model::Sample;
use skerry_model::NodeRef;
use skerry_proto::gpu::v1 as pb;

use crate::Shared;
use crate::convert::now;
use crate::fleet::Cell;
use crate::marks::{EccCount, XidCount};

pub(crate) use otel::register;
pub(crate) use text::write;

/// For so long it is told how long ago a node that is away was sampled.
const TOLD_OF: Duration = Duration::from_secs(3600);

/// A GPU, or a part of one, as it is now.
#[derive(Debug, Clone)]
pub(crate) struct Seen<'a> {
    pub(crate) project: &'a str,
    pub(crate) node: &'a str,
    pub(crate) device: &'a pb::Device,
    pub(crate) part: Option<&'a pb::MigDevice>,
    pub(crate) sample: &'a Sample,
    pub(crate) health: Option<&'a pb::Health>,
    pub(crate) allocations: Vec<&'a pb::Allocation>,
    pub(crate) xids: Vec<&'a XidCount>,
    pub(crate) ecc: Option<&'a EccCount>,
}

/// What looks at each.
pub(crate) trait Visit {
    /// A GPU, or a part of one, of a node that is heard.
    fn seen(&mut self, seen: &Seen<'_>);

    /// When a node was sampled last, in milliseconds ago.
    fn node(&mut self, project: &str, node: &str, age_millis: i64);
}

/// Looks at all that this replica has. A node is locked while it is looked at, and no longer.
pub(crate) fn visit(shared: &Shared, visit: &mut impl Visit) {
    let inventory = shared.inventory.all();
    let named = |cell: Arc<Cell>| {
        let name = cell.lock().name.clone();
        (name, cell)
    };
    let mut cells: Vec<_> = shared.fleet.all().into_iter().map(named).collect();
    cells.sort_by(|a, b| a.0.cmp(&b.0));
    for (_, cell) in cells {
        let node = cell.lock();
        let Ok(name) = NodeRef::parse(&node.name) else { continue };
        let (project, short) = (name.project.to_string(), name.node.to_string());
        if node.was_heard_within(TOLD_OF) {
            visit.node(&project, &short, now().saturating_sub(node.marks.last).max(0));
        }
        let Some((_, places)) = node.now().filter(|_| node.is_ours()) else { continue };
        for (at, part, sample) in places {
            let Some(device) = node.devices().get(at) else { continue };
            let held = inventory.get(&crate::group::gpu_name(&node.name, &device.uuid));
            let status = held.as_ref().and_then(|held| held.gpu.status.as_ref());
            let allocations = status.map_or(&[][..], |status| status.allocations.as_slice());
            let uuid = if part.is_empty() { &device.uuid } else { part };
            visit.seen(&Seen {
                project: &project,
                node: &short,
                device,
                part: device.mig_devices.iter().find(|one| one.uuid == part),
                sample,
                health: node.health(at).filter(|_| part.is_empty()),
                allocations: allocations.iter().filter(|one| one.mig_device == part).collect(),
                xids: node.marks.xids.iter().filter(|one| one.uuid == *uuid).collect(),
                ecc: node.marks.ecc.iter().find(|one| one.uuid == *uuid),
            });
        }
    }
}

/// The text of all, for `/metrics`.
pub(crate) fn source(shared: &Arc<Shared>) -> impl Fn(&mut String) + Send + Sync + 'static {
    let shared = Arc::downgrade(shared);
    move |out| {
        if let Some(shared) = shared.upgrade() {
            write(&shared, out);
        }
    }
}
