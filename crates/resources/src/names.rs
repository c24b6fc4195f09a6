//! Lists of names in groups and bindings.

use skerry_model::Fault;

/// Most names in one list of a group or a binding.
pub(crate) const NAMES_MAX: usize = 1000;

/// Checks a list of full names, each of which `parse` must take.
pub(crate) fn check_names<T, E: std::fmt::Display>(
    field: &str,
    names: &[String],
    most: usize,
    parse: impl Fn(&str) -> Result<T, E>,
) -> Result<(), Fault> {
    let mut violations = skerry_model::Violations::new();
    if names.len() > most {
        violations.add(field, format!("{} are too many: at most {most}", names.len()));
    }
    for (index, name) in names.iter().enumerate() {
        violations.check(format!("{field}[{index}]"), parse(name));
        if names[..index].contains(name) {
            violations.add(format!("{field}[{index}]"), format!("`{name}` stands in it twice"));
        }
    }
    violations.finish(Some(()))
}
