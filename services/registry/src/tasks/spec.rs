//! What a task may be asked to do: checked, as it is stored, and as it is shown.

use std::time::Duration;

use skerry_model::app::check_image;
use skerry_model::meta::{check_labels, is_label_key};
use skerry_model::{
    ClusterName, Fault, IMAGES_MAX, ProjectName, ProjectRef, SecretName, Selector, Violations, time,
};
use skerry_proto::registry::v1 as pb;
use skerry_proto::registry::v1::task_spec::Work;
use skerry_proto::store::v1 as stored;
use skerry_proto::store::v1::task_record::Work as StoredWork;

/// Most keys that one task sets, and most that it removes.
const KEYS_MAX: usize = 64;
/// How long images may be kept.
const KEEP: std::ops::RangeInclusive<Duration> =
    Duration::from_secs(60)..=Duration::from_secs(30 * 24 * 3600);
/// The longest selector, in bytes.
const SELECTOR_BYTES_MAX: usize = 4096;

/// What a name that nobody gave begins with.
pub(super) fn word_of(spec: Option<&pb::TaskSpec>) -> &'static str {
    match spec.and_then(|spec| spec.work.as_ref()) {
        Some(Work::DrainCluster(_)) => "drain",
        Some(Work::DeleteProject(_)) => "delete",
        Some(Work::RelabelNodes(_)) => "relabel",
        Some(Work::PrefetchImages(_)) => "prefetch",
        None => "task",
    }
}

/// Checks all that can be told from the spec alone, and brings it into one form.
pub(super) fn check(spec: pb::TaskSpec) -> Result<pb::TaskSpec, Fault> {
    let mut wrong = Violations::new();
    let mut spec = spec;
    match &mut spec.work {
        None => wrong.add(
            "task.spec",
            "say what is to be done: drainCluster, deleteProject, relabelNodes or prefetchImages",
        ),
        Some(Work::DrainCluster(drain)) => {
            wrong.check("task.spec.drain_cluster.cluster", ClusterName::parse(&drain.cluster));
        }
        Some(Work::DeleteProject(delete)) => {
            let field = "task.spec.delete_project.project";
            if let Some(name) = wrong.check(field, ProjectRef::parse_short(&delete.project)) {
                if name.project.is_permanent() {
                    wrong.add(field, format!("{name} is always there and cannot be deleted"));
                }
                delete.project = name.project.to_string();
            }
        }
        Some(Work::RelabelNodes(relabel)) => check_relabel(relabel, &mut wrong),
        Some(Work::PrefetchImages(prefetch)) => check_prefetch(prefetch, &mut wrong),
    }
    wrong.finish(Some(spec))
}

fn check_relabel(relabel: &pb::RelabelNodesWork, wrong: &mut Violations) {
    let at = |field: &str| format!("task.spec.relabel_nodes.{field}");
    let selector = &relabel.label_selector;
    if selector.len() > SELECTOR_BYTES_MAX {
        wrong.add(at("label_selector"), format!("at most {SELECTOR_BYTES_MAX} bytes"));
    } else if let Some(parsed) = wrong.check(at("label_selector"), Selector::parse(selector))
        && parsed.is_empty()
    {
        wrong.add(at("label_selector"), "it would choose all nodes: say which are meant, as site=oslo");
    }
    check_labels(&at("set"), &relabel.set, wrong);
    if relabel.set.len() > KEYS_MAX || relabel.remove.len() > KEYS_MAX {
        wrong.add(at("set"), format!("at most {KEYS_MAX} labels are set, and as many removed"));
    }
    if relabel.set.is_empty() && relabel.remove.is_empty() {
        wrong.add(at("set"), "name a label to set, or a key to remove");
    }
    for (index, key) in relabel.remove.iter().enumerate().take(KEYS_MAX) {
        if !is_label_key(key) {
            wrong.add(at(&format!("remove[{index}]")), format!("{key:?} is no key of a label"));
        } else if relabel.set.contains_key(key) {
            wrong.add(at(&format!("remove[{index}]")), format!("{key} is set by the same task"));
        }
    }
}

fn check_prefetch(prefetch: &mut pb::PrefetchImagesWork, wrong: &mut Violations) {
    let at = |field: &str| format!("task.spec.prefetch_images.{field}");
    if prefetch.label_selector.len() > SELECTOR_BYTES_MAX {
        wrong.add(at("label_selector"), format!("at most {SELECTOR_BYTES_MAX} bytes"));
    } else {
        wrong.check(at("label_selector"), Selector::parse(&prefetch.label_selector));
    }
    if prefetch.images.is_empty() {
        wrong.add(at("images"), "name an image");
    }
    if prefetch.images.len() > IMAGES_MAX {
        wrong.add(at("images"), format!("at most {IMAGES_MAX} images"));
    }
    for (index, image) in prefetch.images.iter().enumerate().take(IMAGES_MAX) {
        check_image(&at(&format!("images[{index}]")), image, wrong);
        if prefetch.images[..index].contains(image) {
            wrong.add(at(&format!("images[{index}]")), format!("`{image}` is named twice"));
        }
    }
    if !prefetch.secret.is_empty() {
        wrong.check(at("secret"), SecretName::parse(&prefetch.secret));
    }
    let keep = prefetch.keep.as_ref().map(time::from_proto_duration);
    if keep.is_some_and(|keep| keep.is_none_or(|keep| !KEEP.contains(&keep))) {
        wrong.add(at("keep"), "1 min to 30 days, as 24h");
    }
}

/// As it is stored. The uid of a project that it names is filled in by who looks at that.
pub(super) fn stored_work(spec: &pb::TaskSpec) -> Option<StoredWork> {
    Some(match spec.work.clone()? {
        Work::DrainCluster(pb::DrainClusterWork { cluster }) => {
            StoredWork::DrainCluster(stored::DrainClusterRecord { cluster })
        }
        Work::DeleteProject(pb::DeleteProjectWork { project }) => {
            StoredWork::DeleteProject(stored::DeleteProjectRecord { project, uid: String::new() })
        }
        Work::RelabelNodes(pb::RelabelNodesWork { label_selector, set, remove, overwrite }) => {
            StoredWork::RelabelNodes(stored::RelabelNodesRecord { label_selector, set, remove, overwrite })
        }
        Work::PrefetchImages(pb::PrefetchImagesWork { label_selector, images, secret, keep }) => {
            StoredWork::PrefetchImages(stored::PrefetchImagesRecord { label_selector, images, secret, keep })
        }
    })
}

/// As it is shown. Nothing of what a newer version stored and this one does not know.
pub(super) fn shown_spec(record: &stored::TaskRecord) -> pb::TaskSpec {
    let work = record.work.clone().map(|work| match work {
        StoredWork::DrainCluster(stored::DrainClusterRecord { cluster }) => {
            Work::DrainCluster(pb::DrainClusterWork { cluster })
        }
        StoredWork::DeleteProject(stored::DeleteProjectRecord { project, .. }) => {
            Work::DeleteProject(pb::DeleteProjectWork { project })
        }
        StoredWork::RelabelNodes(stored::RelabelNodesRecord { label_selector, set, remove, overwrite }) => {
            Work::RelabelNodes(pb::RelabelNodesWork { label_selector, set, remove, overwrite })
        }
        StoredWork::PrefetchImages(stored::PrefetchImagesRecord { label_selector, images, secret, keep }) => {
            Work::PrefetchImages(pb::PrefetchImagesWork { label_selector, images, secret, keep })
        }
    });
    pb::TaskSpec { work }
}

/// Where a task of this kind may be: one that deletes a project outlives it, and what is of the installation is in `system`.
pub(super) fn check_place(project: &ProjectName, spec: &pb::TaskSpec) -> Result<(), Fault> {
    match &spec.work {
        Some(Work::DeleteProject(_)) if !project.is_system() => Err(Fault::invalid_field(
            "parent",
            "a task that deletes a project outlives it: create it in projects/system",
        )),
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn fields(work: Work) -> Vec<String> {
        let checked = check(pb::TaskSpec { work: Some(work) });
        let violations = checked.err().map(|fault| fault.violations).unwrap_or_default();
        violations.into_iter().map(|violation| violation.field).collect()
    }

    fn relabel(selector: &str, set: &[(&str, &str)], remove: &[&str]) -> Work {
        Work::RelabelNodes(pb::RelabelNodesWork {
            label_selector: selector.to_owned(),
            set: set.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned())).collect(),
            remove: remove.iter().map(|key| (*key).to_owned()).collect(),
            overwrite: false,
        })
    }

    #[test]
    fn what_cannot_be_done_is_told_by_its_field() {
        let nothing = check(pb::TaskSpec::default()).unwrap_err().violations;
        assert_eq!(nothing[0].field, "task.spec");
        let drain = |cluster: &str| Work::DrainCluster(pb::DrainClusterWork { cluster: cluster.to_owned() });
        assert_eq!(fields(drain("Plant")), ["task.spec.drain_cluster.cluster"]);
        assert!(fields(drain("plant")).is_empty());
        let delete =
            |project: &str| Work::DeleteProject(pb::DeleteProjectWork { project: project.to_owned() });
        assert_eq!(fields(delete("system")), ["task.spec.delete_project.project"]);
        assert!(fields(delete("projects/shop")).is_empty());
        assert_eq!(fields(relabel("", &[("a", "b")], &[])), ["task.spec.relabel_nodes.label_selector"]);
        assert_eq!(fields(relabel("a in (", &[("a", "b")], &[])), ["task.spec.relabel_nodes.label_selector"]);
        assert_eq!(fields(relabel("a=b", &[], &[])), ["task.spec.relabel_nodes.set"]);
        assert_eq!(fields(relabel("a=b", &[("a", "b")], &["a"])), ["task.spec.relabel_nodes.remove[0]"]);
        assert!(fields(relabel("a=b", &[("a", "c")], &["d"])).is_empty());
    }

    fn prefetch(images: &[&str], secret: &str, keep: Option<i64>) -> Work {
        Work::PrefetchImages(pb::PrefetchImagesWork {
            label_selector: "a=b".to_owned(),
            images: images.iter().map(ToString::to_string).collect(),
            secret: secret.to_owned(),
            keep: keep.map(|seconds| prost_types::Duration { seconds, nanos: 0 }),
        })
    }

    #[test]
    fn images_that_cannot_be_fetched_are_told_by_their_place() {
        let at = |field: &str| vec![format!("task.spec.prefetch_images.{field}")];
        assert!(fields(prefetch(&["r.example/a:1", "b@sha256:".to_owned().as_str()], "", None)).len() == 1);
        assert_eq!(fields(prefetch(&[], "", None)), at("images"));
        assert_eq!(fields(prefetch(&["a", "B"], "", None)), at("images[1]"));
        assert_eq!(fields(prefetch(&["a", "a"], "", None)), at("images[1]"));
        assert_eq!(fields(prefetch(&["a"], "No", None)), at("secret"));
        for keep in [-1, 0, 59, 31 * 24 * 3600] {
            assert_eq!(fields(prefetch(&["a"], "", Some(keep))), at("keep"), "{keep}");
        }
        assert!(fields(prefetch(&["a", "b:2"], "registry", Some(3600))).is_empty());
        let many: Vec<String> = (0..=IMAGES_MAX).map(|n| format!("a:{n}")).collect();
        let many: Vec<&str> = many.iter().map(String::as_str).collect();
        assert_eq!(fields(prefetch(&many, "", None)), at("images"));
        let spec = pb::TaskSpec { work: Some(prefetch(&["a"], "registry", Some(3600))) };
        let record = stored::TaskRecord { work: stored_work(&spec), ..Default::default() };
        assert_eq!(shown_spec(&record), spec);
    }

    #[test]
    fn what_is_stored_is_shown_as_it_was_sent() {
        let spec = pb::TaskSpec { work: Some(relabel("a=b", &[("a", "c")], &["d"])) };
        let record = stored::TaskRecord { work: stored_work(&spec), ..Default::default() };
        assert_eq!(shown_spec(&record), spec);
        let delete = pb::DeleteProjectWork { project: "projects/shop".to_owned() };
        let spec = check(pb::TaskSpec { work: Some(Work::DeleteProject(delete)) }).unwrap();
        let short = pb::DeleteProjectWork { project: "shop".to_owned() };
        assert_eq!(spec.work, Some(Work::DeleteProject(short)));
        let (shop, system) = (ProjectName::parse("shop").unwrap(), ProjectName::system());
        assert_eq!(check_place(&shop, &spec).unwrap_err().violations[0].field, "parent");
        assert!(check_place(&system, &spec).is_ok());
    }
}
