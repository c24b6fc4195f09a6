//! Update masks: which fields of a resource a caller means.

use std::collections::BTreeMap;

use skerry_model::{Fault, Violations};

/// Most paths of one mask.
const PATHS_MAX: usize = 256;
/// What may be updated of every resource; of those that end with `.*` any key below is meant.
const METADATA_PATHS: [&str; 4] =
    ["metadata.labels", "metadata.labels.*", "metadata.annotations", "metadata.annotations.*"];

/// The paths of an update mask, each one known. An empty mask, or `*`, means all of them.
#[derive(Debug, Clone)]
pub struct Mask {
    paths: Option<Vec<String>>,
}

impl Mask {
    /// Everything.
    pub fn all() -> Self {
        Self { paths: None }
    }

    /// Checks a mask against what may be updated: labels, annotations, and the paths of a kind's spec.
    pub fn parse(mask: Option<&prost_types::FieldMask>, spec_paths: &[&str]) -> Result<Self, Fault> {
        let paths = mask.map(|mask| mask.paths.clone()).unwrap_or_default();
        if paths.is_empty() || paths.iter().any(|path| path == "*") {
            return Ok(Self::all());
        }
        let known = [METADATA_PATHS.as_slice(), spec_paths].concat();
        let mut violations = Violations::new();
        if paths.len() > PATHS_MAX {
            violations.add("update_mask", format!("{} paths are too many: at most {PATHS_MAX}", paths.len()));
        }
        for path in &paths {
            let fits = |known: &&str| match known.strip_suffix('*') {
                Some(prefix) => path.strip_prefix(prefix).is_some_and(|key| !key.is_empty()),
                None => path == known,
            };
            if !known.iter().any(fits) {
                violations
                    .add("update_mask", format!("`{path}` cannot be updated: use {}", known.join(", ")));
            }
        }
        violations.finish(Some(Self { paths: Some(paths) }))
    }

    /// Whether the field at `path`, or one that holds it, is meant.
    pub fn covers(&self, path: &str) -> bool {
        let Some(paths) = &self.paths else { return true };
        paths
            .iter()
            .any(|p| p == path || path.strip_prefix(p.as_str()).is_some_and(|rest| rest.starts_with('.')))
    }

    /// The keys of the map at `path` that are meant one by one.
    pub fn keys_of<'a>(&'a self, path: &'a str) -> impl Iterator<Item = &'a str> {
        let paths = self.paths.iter().flatten();
        paths.filter_map(move |p| p.strip_prefix(path).and_then(|rest| rest.strip_prefix('.')))
    }

    /// Brings the map at `path` to what the caller sent, as far as it is meant: whole, or single keys (absent ones are removed).
    pub fn merge_map(
        &self,
        path: &str,
        stored: &mut BTreeMap<String, String>,
        sent: &BTreeMap<String, String>,
    ) {
        if self.covers(path) {
            stored.clone_from(sent);
            return;
        }
        let prefix = format!("{path}.");
        for key in self.paths.iter().flatten().filter_map(|p| p.strip_prefix(&prefix)) {
            match sent.get(key) {
                Some(value) => stored.insert(key.to_owned(), value.clone()),
                None => stored.remove(key),
            };
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn mask(paths: &[&str]) -> Result<Mask, Fault> {
        let paths = paths.iter().map(|p| (*p).to_owned()).collect();
        Mask::parse(Some(&prost_types::FieldMask { paths }), &["spec", "spec.cordoned"])
    }

    fn map(pairs: &[(&str, &str)]) -> BTreeMap<String, String> {
        pairs.iter().map(|(k, v)| ((*k).to_owned(), (*v).to_owned())).collect()
    }

    #[test]
    fn an_empty_mask_means_everything_and_an_unknown_path_is_refused() {
        assert!(mask(&[]).unwrap().covers("spec.cordoned"));
        let unknown = mask(&["spec", "spek"]).unwrap_err().violations;
        assert_eq!((unknown.len(), unknown[0].field.as_str()), (1, "update_mask"));
        assert!(
            unknown[0].description.contains("`spek`") && unknown[0].description.contains("spec.cordoned")
        );
        let spec = mask(&["spec"]).unwrap();
        assert!(spec.covers("spec.cordoned") && !spec.covers("metadata.labels") && !spec.covers("special"));
    }

    #[test]
    fn single_keys_are_set_and_removed_and_others_stay() {
        let mut stored = map(&[("a", "1"), ("b", "2"), ("x.y/z", "3")]);
        mask(&["metadata.labels.a", "metadata.labels.x.y/z", "metadata.labels.c"]).unwrap().merge_map(
            "metadata.labels",
            &mut stored,
            &map(&[("a", "9"), ("c", "4"), ("d", "5")]),
        );
        assert_eq!(stored, map(&[("a", "9"), ("b", "2"), ("c", "4")]));
        mask(&["metadata.labels"]).unwrap().merge_map("metadata.labels", &mut stored, &map(&[("d", "5")]));
        assert_eq!(stored, map(&[("d", "5")]));
    }
}
