//! Whether what was printed is what a page shows. Pure.
//!
//! Lines are compared word by word, so the width of columns is free. `...` stands for any part of a word, alone for any words of a
//! line, alone in a line for any lines. An age (`3s`), a time, a decimal number, a hash and an id stand for any other of their kind.

/// What stands for anything.
const ANY: &str = "...";
/// A hexadecimal word of so many digits is a hash or an id.
const HASH_DIGITS_MIN: usize = 8;
/// What may stand around a word that is an age or a hash.
const PUNCTUATION: &[char] = &['(', ')', '[', ']', ',', ';', ':', '"', '\'', '.'];

/// Whether `printed` fits `shown`, all of it.
#[must_use]
pub fn fits(shown: &[String], printed: &[&str]) -> bool {
    match (shown.split_first(), printed.split_first()) {
        (None, None) => true,
        (Some((line, rest)), _) if line.trim() == ANY => {
            (0..=printed.len()).any(|skipped| fits(rest, &printed[skipped..]))
        }
        (None, Some(_)) | (Some(_), None) => false,
        (Some((line, rest)), Some((first, others))) => line_fits(line, first) && fits(rest, others),
    }
}

/// Whether a line tells how something stands that is waited for, as `app/web: 0/1 ready; ...`. On a reader's terminal the next one takes its place, and
/// at last what came of it: a page does not show them.
pub(super) fn passes(printed: &str) -> bool {
    let subject = printed.split_once(": ").and_then(|(subject, _)| subject.split_once('/'));
    let name = |text: &str| text.chars().all(|c| c.is_ascii_alphanumeric() || c == '-');
    subject.is_some_and(|(kind, of)| ["app", "config", "node", "task"].contains(&kind) && name(of))
}

/// Whether one line does.
#[must_use]
pub(super) fn line_fits(shown: &str, printed: &str) -> bool {
    let words = |line: &str| line.split_whitespace().map(str::to_owned).collect::<Vec<_>>();
    words_fit(&words(shown), &words(printed))
}

fn words_fit(shown: &[String], printed: &[String]) -> bool {
    match (shown.split_first(), printed.split_first()) {
        (None, None) => true,
        (Some((word, rest)), _) if word == ANY => {
            (0..=printed.len()).any(|skipped| words_fit(rest, &printed[skipped..]))
        }
        (None, Some(_)) | (Some(_), None) => false,
        // The last word may stand for all that follows it.
        (Some((word, [])), Some((first, _))) if word.ends_with(ANY) => word_fits(word, first),
        (Some((word, rest)), Some((first, others))) => word_fits(word, first) && words_fit(rest, others),
    }
}

fn word_fits(shown: &str, printed: &str) -> bool {
    if shown.contains(ANY) {
        return glob(&shown.split(ANY).collect::<Vec<_>>(), printed);
    }
    if shown == printed {
        return true;
    }
    let bare = |word: &str| word.trim_matches(PUNCTUATION).to_owned();
    let (shown, printed) = (bare(shown), bare(printed));
    shown == printed || KINDS.iter().any(|is| is(&shown) && is(&printed))
}

/// Whether `text` is these parts in order with anything between.
fn glob(parts: &[&str], text: &str) -> bool {
    let (Some(first), Some(last)) = (parts.first(), parts.last()) else { return text.is_empty() };
    let Some(mut rest) = text.strip_prefix(first) else { return false };
    for part in &parts[1..parts.len() - 1] {
        match rest.split_once(part) {
            Some((_, after)) => rest = after,
            None => return false,
        }
    }
    rest.ends_with(last)
}

/// What any other of its kind may stand for. A word may be of two: `704004d0273d` is a hash, and an age of very many days.
const KINDS: [fn(&str) -> bool; 4] = [is_age, is_number, is_time, is_hash];

/// A decimal number, or a version.
fn is_number(word: &str) -> bool {
    word.contains('.') && word.chars().all(|c| c.is_ascii_digit() || c == '.')
}

fn is_time(word: &str) -> bool {
    let digits = word.chars().filter(char::is_ascii_digit).count();
    digits >= 6 && word.contains(':') && word.chars().all(|c| c.is_ascii_digit() || "-:.TZ".contains(c))
}

fn is_hash(word: &str) -> bool {
    let digits = word.chars().filter(char::is_ascii_hexdigit).count();
    digits >= HASH_DIGITS_MIN && word.chars().all(|c| c.is_ascii_hexdigit() || c == '-')
}

/// `3s`, `1.5s`, `250ms`, `2m10s`.
fn is_age(word: &str) -> bool {
    let mut rest = word;
    while !rest.is_empty() {
        let number = rest.find(|c: char| !(c.is_ascii_digit() || c == '.')).unwrap_or(rest.len());
        let unit = ["ms", "s", "m", "h", "d"].into_iter().find(|unit| rest[number..].starts_with(unit));
        match (number, unit) {
            (1.., Some(unit)) => rest = &rest[number + unit.len()..],
            _ => return false,
        }
    }
    !word.is_empty()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn lines(text: &str) -> Vec<String> {
        text.lines().map(str::to_owned).collect()
    }

    fn fit(shown: &str, printed: &str) -> bool {
        fits(&lines(shown), &printed.lines().collect::<Vec<_>>())
    }

    #[test]
    fn what_changes_from_run_to_run_may() {
        for (shown, printed) in [
            ("web  1/1  3s", "web      1/1   12ms"),
            ("a (2m10s)", "a (3s)"),
            ("after 0.1 s", "after 12.75 s"),
            ("id 0123abcd45", "id ffeeddcc00"),
            ("id 4921b8743a34", "id 704004d0273d"),
            ("id 4921b8743a34", "id ffeeddccbbaa"),
            ("at 2026-01-02T03:04:05Z", "at 2027-11-12T13:14:15.123Z"),
            ("a ... b", "a x y b"),
            ("{\"a\":1,...", "{\"a\":1,\"b\":\"c d\"}"),
            ("http://...:80/", "http://127.0.0.1:80/"),
            ("a\n...\nb", "a\n1\n2\nb"),
            ("...", ""),
            ("a\n...", "a"),
        ] {
            assert!(fit(shown, printed), "{shown:?} and {printed:?}");
        }
    }

    #[test]
    fn what_a_terminal_shows_for_a_while_is_known() {
        assert!(
            passes("app/web: 0/1 ready; Progressing (NotReported)") && passes("node/n-2: it does not exist")
        );
        for stays in
            ["app/web healthy", "error: app/web: no", "web.yaml:1:2: spec: no", "http://a: b", "app/web"]
        {
            assert!(!passes(stays), "{stays}");
        }
    }

    #[test]
    fn what_is_otherwise_does_not_fit() {
        for (shown, printed) in [
            ("web 1/1", "web 0/1"),
            ("web 3s", "web -"),
            ("created", ""),
            ("", "created"),
            ("a", "a b"),
            ("a\nb", "b\na"),
            ("exit 5", "exit 4"),
            ("0123abcd45", "word"),
            ("a...c", "ab"),
        ] {
            assert!(!fit(shown, printed), "{shown:?} and {printed:?}");
        }
    }
}
