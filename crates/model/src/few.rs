//! A few of many, for messages.

use std::fmt::Display;

/// The first `named_max` one by one, and how many more there are: `a, b and 3 more`.
pub fn few(all: &[impl Display], named_max: usize) -> String {
    let named: Vec<String> = all.iter().take(named_max).map(ToString::to_string).collect();
    let named = named.join(", ");
    match all.len().saturating_sub(named_max) {
        0 => named,
        more => format!("{named} and {more} more"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn those_beyond_the_bound_are_counted() {
        assert_eq!(few(&["a"; 0], 2), "");
        assert_eq!(few(&["a", "b"], 2), "a, b");
        assert_eq!(few(&["a", "b", "c"], 2), "a, b and 1 more");
    }
}
