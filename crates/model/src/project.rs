//! What a project may say of itself, and what its quota can hold.

use skerry_proto::registry::v1::ProjectSpec;

use crate::{Fault, Violations};

/// Longest description of a project, in bytes.
pub const DESCRIPTION_BYTES_MAX: usize = 1024;

/// Checks the spec of a project; the fault names each field that is wrong.
pub fn check(spec: &ProjectSpec) -> Result<(), Fault> {
    let mut violations = Violations::new();
    if spec.description.len() > DESCRIPTION_BYTES_MAX {
        let bytes = spec.description.len();
        violations
            .add("spec.description", format!("{bytes} bytes are too many: at most {DESCRIPTION_BYTES_MAX}"));
    }
    let quota = spec.quota.unwrap_or_default();
    for (field, limit) in [
        ("nodes", quota.nodes),
        ("apps", quota.apps),
        ("secrets", quota.secrets),
        ("configs", quota.configs),
        ("size_bytes", quota.size_bytes),
    ] {
        if let Some(limit) = limit.filter(|limit| *limit < 0) {
            violations.add(
                format!("spec.quota.{field}"),
                format!("{limit} is no limit: use 0 for none, or leave it out for as many as there may be"),
            );
        }
    }
    violations.finish(Some(()))
}

#[cfg(test)]
mod tests {
    use skerry_proto::registry::v1::ProjectQuota;

    use super::*;

    #[test]
    fn a_limit_is_not_below_nothing_and_a_description_is_short() {
        let quota = ProjectQuota { nodes: Some(0), apps: Some(-1), ..Default::default() };
        let spec = ProjectSpec { description: "x".repeat(2000), quota: Some(quota) };
        let fields: Vec<_> = check(&spec).unwrap_err().violations.into_iter().map(|v| v.field).collect();
        assert_eq!(fields, ["spec.description", "spec.quota.apps"]);
        let quota = ProjectQuota { size_bytes: Some(1), ..Default::default() };
        assert_eq!(check(&ProjectSpec { description: String::new(), quota: Some(quota) }), Ok(()));
    }
}
