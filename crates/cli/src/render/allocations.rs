//! How what is booked on GPUs looks to people.

use skerry_proto::gpu::v1 as pb;

use crate::gpus::parts;
use crate::render::gpus::{amount, isolation, uuid_shown};
use crate::render::rows::{Cells, or_dash};

/// The columns: always, and where a wide table is asked for.
pub(super) const HEADERS: (&[&str], &[&str]) =
    (&["NODE", "GPU", "INSTANCE", "POLICY", "MEMORY", "COMPUTE", "ISOLATION"], &["PART"]);
/// The column that says of what is gone that it is.
pub(super) const STATE: usize = 6;
/// Of a device that is an instance's alone.
const ALL: &str = "all";

/// The cells of an allocation.
pub(super) fn cells(allocation: &pb::Allocation, wide: bool) -> Cells {
    let (node, uuid) = parts(&allocation.gpu);
    let share = allocation.share.clone().unwrap_or_default();
    let or_all =
        |part: Option<String>| if share.whole { ALL.to_owned() } else { or_dash(&part.unwrap_or_default()) };
    let narrow = vec![
        node.to_owned(),
        uuid_shown(uuid, wide),
        allocation.instance.clone(),
        policy(&share),
        or_all(share.memory_bytes.map(amount)),
        or_all(share.compute_percent.map(|percent| format!("{percent}%"))),
        isolation(allocation.isolation()).to_owned(),
    ];
    (narrow, vec![or_dash(&allocation.mig_device)])
}

/// How it has the device, in a word as manifests have it: `shared`, `mig (1g.10gb)`.
fn policy(share: &pb::GpuShare) -> String {
    match share.mig_profile.as_str() {
        "" if share.whole => "exclusive".to_owned(),
        "" => "shared".to_owned(),
        profile => format!("mig ({profile})"),
    }
}

#[cfg(test)]
mod tests {
    use skerry_proto::gpu::v1::allocation::Isolation;

    use crate::item::{ChangeKind, Item};
    use crate::render::rows::{cells, change_cells, headers};
    use crate::render::table::Table;
    use crate::target::Type;

    use super::pb;

    const GPU: &str = "projects/p/nodes/n1/gpus/GPU-5d2fa1b2-0000-0000-0000-000000000001";

    fn item(instance: &str, share: pb::GpuShare, isolation: Isolation) -> Item {
        let mig_device = if share.mig_profile.is_empty() { String::new() } else { "MIG-1".to_owned() };
        Item::Allocation(Box::new(pb::Allocation {
            gpu: GPU.into(),
            instance: instance.into(),
            share: Some(share),
            mig_device,
            isolation: isolation.into(),
        }))
    }

    #[test]
    fn a_line_tells_who_has_how_much_of_what_and_how_well_it_is_kept_from_others() {
        let none = pb::GpuShare::default;
        let both = pb::GpuShare { memory_bytes: Some(6 << 30), compute_percent: Some(40), ..none() };
        let all = [
            item("a/s/n1/0", both, Isolation::Mps),
            item("b/s/n1/0", none(), Isolation::Unspecified),
            item("c/s/n1/0", pb::GpuShare { whole: true, ..none() }, Isolation::Exclusive),
            item("d/s/n1/0", pb::GpuShare { mig_profile: "1g.10gb".into(), ..none() }, Isolation::Mig),
        ];
        let rows: Vec<_> = all.iter().map(|item| cells(item, false, 0)).collect();
        assert_eq!(
            Table::new(&headers(Type::Allocation, false), None, true).rows(&rows),
            "\
NODE   GPU            INSTANCE   POLICY          MEMORY    COMPUTE   ISOLATION
n1     GPU-5d2fa1b2   a/s/n1/0   shared          6.0 GiB   40%       mps
n1     GPU-5d2fa1b2   b/s/n1/0   shared          -         -         none
n1     GPU-5d2fa1b2   c/s/n1/0   exclusive       all       all       exclusive
n1     GPU-5d2fa1b2   d/s/n1/0   mig (1g.10gb)   -         -         mig
"
        );
        let wide = cells(&all[3], true, 0);
        assert_eq!(wide.len(), headers(Type::Allocation, true).len());
        assert!(GPU.ends_with(&wide[1]) && wide[7] == "MIG-1", "{wide:?}");
        assert_eq!(change_cells(ChangeKind::Deleted, &all[0], false, 0)[6], "Deleted");
    }
}
