//! Which GPUs a request means.

use std::collections::{BTreeMap, BTreeSet};

use skerry_model::{AppRef, Fault, NodeRef, ProjectName, Selector};
use skerry_proto::gpu::v1 as pb;

use crate::group::parse_gpu;
use crate::inventory::Held;

/// Nodes, or GPUs, that may be named.
const NAMED_MAX: usize = 256;

/// A parent and a selector, checked.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Selection {
    pub(crate) project: ProjectName,
    /// What the names of all that are meant begin with.
    pub(crate) prefix: String,
    nodes: BTreeSet<String>,
    labels: Selector,
    gpus: BTreeSet<String>,
    app: Option<String>,
}

impl Selection {
    /// Reads `parent` and `selector` of a request.
    pub(crate) fn parse(parent: &str, selector: Option<&pb::GpuSelector>) -> Result<Self, Fault> {
        let (project, prefix) = if let Ok(node) = NodeRef::parse(parent) {
            (node.project.clone(), format!("{node}/gpus/"))
        } else {
            let project = ProjectName::parse_parent(parent);
            let project = project.map_err(|error| Fault::invalid_field("parent", error))?;
            (project.clone(), format!("{}/nodes/", project.parent()))
        };
        let selector = selector.cloned().unwrap_or_default();
        for (field, named) in [("selector.nodes", &selector.nodes), ("selector.gpus", &selector.gpus)] {
            if named.len() > NAMED_MAX {
                return Err(Fault::invalid_field(field, format!("name at most {NAMED_MAX}")));
            }
        }
        let elsewhere = |field: &str| {
            Fault::invalid_field(field, format!("it is of another project than {}", project.parent()))
        };
        for node in &selector.nodes {
            let node = NodeRef::parse(node).map_err(|error| Fault::invalid_field("selector.nodes", error))?;
            if node.project != project {
                return Err(elsewhere("selector.nodes"));
            }
        }
        for gpu in &selector.gpus {
            if parse_gpu("selector.gpus", gpu)?.0.project != project {
                return Err(elsewhere("selector.gpus"));
            }
        }
        let app = match selector.app.as_str() {
            "" => None,
            app => {
                let app = AppRef::parse(app).map_err(|error| Fault::invalid_field("selector.app", error))?;
                if app.project != project {
                    return Err(elsewhere("selector.app"));
                }
                Some(format!("{}/", app.app))
            }
        };
        let labels = Selector::parse(&selector.label_selector)
            .map_err(|error| Fault::invalid_field("selector.label_selector", error))?;
        let (nodes, gpus) = (selector.nodes.into_iter().collect(), selector.gpus.into_iter().collect());
        Ok(Self { project, prefix, nodes, labels, gpus, app })
    }

    /// Whether a GPU is meant.
    pub(crate) fn means(&self, held: &Held) -> bool {
        let Held { gpu, node, labels } = held;
        let is_of = |app: &String| {
            let allocations = gpu.status.iter().flat_map(|status| &status.allocations);
            allocations.into_iter().any(|one| one.instance.starts_with(app.as_str()))
        };
        gpu.name.starts_with(&self.prefix)
            && (self.nodes.is_empty() || self.nodes.contains(node))
            && (self.gpus.is_empty() || self.gpus.contains(&gpu.name))
            && self.labels.matches(labels)
            && self.app.as_ref().is_none_or(is_of)
    }

    /// Those that are meant by their names alone, and so may be gone.
    pub(crate) fn named(&self) -> impl Iterator<Item = &String> {
        let by_name = self.app.is_none() && self.labels == Selector::default();
        let of_node = |gpu: &&String| {
            let node = gpu.split_once("/gpus/").map(|(node, _)| node);
            self.nodes.is_empty() || node.is_some_and(|node| self.nodes.contains(node))
        };
        self.gpus.iter().filter(move |gpu| by_name && gpu.starts_with(&self.prefix)).filter(of_node)
    }
}

/// Labels of a node.
pub(crate) type Labels = BTreeMap<String, String>;

#[cfg(test)]
mod tests {
    use super::*;

    const NODE: &str = "projects/p/nodes/n";

    fn held(node: &str, uuid: &str, app: &str) -> Held {
        let allocation = pb::Allocation { instance: format!("{app}/s/n/0"), ..pb::Allocation::default() };
        let status = pb::GpuStatus { allocations: vec![allocation], ..pb::GpuStatus::default() };
        let gpu = pb::Gpu { name: format!("{node}/gpus/{uuid}"), status: Some(status), ..pb::Gpu::default() };
        let labels = Labels::from([("site".to_owned(), "north".to_owned())]);
        Held { gpu, node: node.to_owned(), labels }
    }

    fn means(parent: &str, selector: &pb::GpuSelector, held: &Held) -> bool {
        Selection::parse(parent, Some(selector)).unwrap().means(held)
    }

    #[test]
    fn all_conditions_must_hold_and_none_means_all() {
        let one = held(NODE, "GPU-1", "web");
        let any = pb::GpuSelector::default;
        assert!(means("projects/p", &any(), &one) && means(NODE, &any(), &one));
        assert!(!means("projects/p/nodes/n2", &any(), &one) && !means("projects/other", &any(), &one));
        // Another node whose name begins alike.
        assert!(!means(NODE, &any(), &held("projects/p/nodes/n2", "GPU-1", "web")));
        let cases = [
            (pb::GpuSelector { nodes: vec![NODE.into()], ..any() }, true),
            (pb::GpuSelector { nodes: vec!["projects/p/nodes/x".into()], ..any() }, false),
            (pb::GpuSelector { gpus: vec![one.gpu.name.clone()], ..any() }, true),
            (pb::GpuSelector { gpus: vec![format!("{NODE}/gpus/GPU-2")], ..any() }, false),
            (pb::GpuSelector { label_selector: "site=north".into(), ..any() }, true),
            (pb::GpuSelector { label_selector: "site!=north".into(), ..any() }, false),
            (pb::GpuSelector { app: "projects/p/apps/web".into(), ..any() }, true),
            (pb::GpuSelector { app: "projects/p/apps/we".into(), ..any() }, false),
        ];
        for (selector, is_meant) in cases {
            assert_eq!(means("projects/p", &selector, &one), is_meant, "{selector:?}");
        }
    }

    #[test]
    fn what_is_named_may_be_gone_unless_something_else_must_hold() {
        let named = |selector: pb::GpuSelector| {
            let selection = Selection::parse("projects/p", Some(&selector)).unwrap();
            selection.named().count()
        };
        let gpus = vec![format!("{NODE}/gpus/GPU-1")];
        let by_name = pb::GpuSelector { gpus, ..pb::GpuSelector::default() };
        assert_eq!(named(by_name.clone()), 1);
        assert_eq!(named(pb::GpuSelector { label_selector: "a=b".into(), ..by_name.clone() }), 0);
        assert_eq!(named(pb::GpuSelector { nodes: vec!["projects/p/nodes/x".into()], ..by_name }), 0);
    }

    #[test]
    fn what_is_wrong_is_named() {
        let any = pb::GpuSelector::default;
        let cases = [
            ("p", any(), "parent"),
            ("projects/p", pb::GpuSelector { nodes: vec!["n".into()], ..any() }, "selector.nodes"),
            (
                "projects/p",
                pb::GpuSelector { nodes: vec!["projects/q/nodes/n".into()], ..any() },
                "selector.nodes",
            ),
            ("projects/p", pb::GpuSelector { gpus: vec!["GPU-1".into()], ..any() }, "selector.gpus"),
            (
                "projects/p",
                pb::GpuSelector { gpus: vec!["projects/q/nodes/n/gpus/G".into()], ..any() },
                "selector.gpus",
            ),
            ("projects/p", pb::GpuSelector { gpus: vec!["x".into(); 257], ..any() }, "selector.gpus"),
            ("projects/p", pb::GpuSelector { app: "web".into(), ..any() }, "selector.app"),
            (
                "projects/p",
                pb::GpuSelector { label_selector: "=".into(), ..any() },
                "selector.label_selector",
            ),
        ];
        for (parent, selector, field) in cases {
            let fault = Selection::parse(parent, Some(&selector)).unwrap_err();
            assert!(format!("{fault:?}").contains(field), "{fault:?}");
        }
    }
}
