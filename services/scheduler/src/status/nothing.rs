//! Why nothing of an app is wanted anywhere.

use skerry_model::AppName;
use skerry_model::meta::system_app_label;

use crate::world::Project;

/// Why no instance of an app is wanted anywhere, as one word and a sentence.
pub(crate) fn nothing_wanted(project: &Project, app: &AppName) -> (&'static str, String) {
    let Some(placed) = project.state.apps.get(app) else {
        return ("RevisionMissing", "the current revision is not in the store".to_owned());
    };
    let spec = &placed.base.spec;
    let selector = &spec.selector;
    let count = project.solution.len();
    if count == 0 {
        ("NoNodes", "the project has no nodes yet".to_owned())
    } else if project.solution.iter().any(|(cluster, plan)| project.state.goes_to(cluster, plan, app, spec)) {
        let message = "clusters match, and no service wants an instance there";
        ("NoReplicas", message.to_owned())
    } else if spec.system {
        let label = system_app_label(app);
        let mut message =
            format!("no node or cluster is chosen for this system app: none has the label `{label}`");
        if !selector.is_empty() {
            message = format!("{message}, and none of {count} clusters matches the selector `{selector}`");
        }
        ("NotChosen", message)
    } else if project.state.clusters.is_empty() {
        ("NoMatchingNode", format!("none of {count} nodes matches the selector `{selector}`"))
    } else {
        let message = format!(
            "none of {count} clusters matches the selector `{selector}` (a node in none counts as one of its own)"
        );
        ("NoMatchingNode", message)
    }
}
