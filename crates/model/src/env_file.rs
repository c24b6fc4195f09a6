//! Environment files: lines of `NAME=VALUE`. The rules are at `EnvSource` in `skerry/type/v1/app.proto`.

use std::collections::BTreeMap;

/// Most bytes of an environment file, and of all variables of an instance together: the kernel takes no more than 2 MiB, arguments included.
pub const ENV_BYTES_MAX: usize = 512 * 1024;
/// Most bytes of one variable as `NAME=VALUE` with its end, and of one argument with its end: the kernel's own bound for each.
pub const VARIABLE_BYTES_MAX: usize = 128 * 1024;

/// Why a text is not an environment file.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("line {line}: {what}")]
pub struct EnvFileError {
    /// The line, from 1.
    pub line: usize,
    what: &'static str,
}

/// Whether `name` can be that of a variable.
pub fn is_variable(name: &str) -> bool {
    let mut bytes = name.bytes();
    bytes.next().is_some_and(|b| b.is_ascii_alphabetic() || b == b'_')
        && bytes.all(|b| b.is_ascii_alphanumeric() || b == b'_')
}

/// The variables of an environment file. A name that comes again takes the later value.
pub fn parse(text: &str) -> Result<BTreeMap<String, String>, EnvFileError> {
    let mut variables = BTreeMap::new();
    let mut rest = text.strip_prefix('\u{feff}').unwrap_or(text);
    let mut line = 0;
    while !rest.is_empty() {
        line += 1;
        let (first, after) = split_line(rest);
        let wrong = move |what| EnvFileError { line, what };
        let entry = first.trim();
        if entry.is_empty() || entry.starts_with(['#', ';']) {
            rest = after;
            continue;
        }
        let (name, _) = first.split_once('=').ok_or_else(|| wrong("write NAME=VALUE"))?;
        let value_at = name.len() + 1;
        let name = name.trim();
        let name =
            name.strip_prefix("export").filter(|rest| rest.starts_with([' ', '\t'])).map_or(name, str::trim);
        if !is_variable(name) {
            return Err(wrong(
                "use letters, digits and _, not beginning with a digit, as the name of a variable",
            ));
        }
        let value = rest[value_at..].trim_start_matches([' ', '\t']);
        let (value, after) = match value.chars().next() {
            Some(quote @ ('"' | '\'')) => {
                let (value, end) =
                    quoted(&value[1..], quote).ok_or_else(|| wrong("its quote is not closed"))?;
                line += value_lines(rest, end);
                let (tail, after) = split_line(end);
                if !tail.trim().is_empty() {
                    return Err(wrong("nothing may follow the closing quote"));
                }
                (value, after)
            }
            _ => (first[value_at..].trim().to_owned(), after),
        };
        if value.contains('\0') {
            return Err(wrong("a value cannot hold a NUL character"));
        }
        variables.insert(name.to_owned(), value);
        rest = after;
    }
    Ok(variables)
}

/// The first line without its end, and what comes after it.
fn split_line(text: &str) -> (&str, &str) {
    let (line, rest) = text.split_once('\n').unwrap_or((text, ""));
    (line.strip_suffix('\r').unwrap_or(line), rest)
}

/// The value up to its closing quote, and what comes after that.
fn quoted(text: &str, quote: char) -> Option<(String, &str)> {
    let mut value = String::new();
    let mut chars = text.char_indices().peekable();
    while let Some((at, c)) = chars.next() {
        match c {
            c if c == quote => return Some((value, &text[at + 1..])),
            '\\' if quote == '"' => match chars.next_if(|(_, next)| matches!(next, '"' | '\\' | '$' | '`')) {
                Some((_, escaped)) => value.push(escaped),
                None => value.push('\\'),
            },
            c => value.push(c),
        }
    }
    None
}

/// Line ends in `from` before `end`, which is the end of it.
fn value_lines(from: &str, end: &str) -> usize {
    from[..from.len() - end.len()].matches('\n').count()
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn pairs(text: &str) -> Vec<(String, String)> {
        parse(text).unwrap().into_iter().collect()
    }

    #[test]
    fn each_form_of_a_line_is_read_as_documented() {
        let rows = [
            ("A=b", Some("b")),
            ("  A = b c  \r\n", Some("b c")),
            ("export A=b", Some("b")),
            ("A=", Some("")),
            ("A=b # c", Some("b # c")),
            ("A=b=c", Some("b=c")),
            ("A=$HOME", Some("$HOME")),
            ("A='b \"c\" \\n $d'", Some("b \"c\" \\n $d")),
            ("A=\"b \\\"c\\\" \\$d \\n\"", Some("b \"c\" $d \\n")),
            ("A=\"one\ntwo\"\n", Some("one\ntwo")),
            ("# A=b\n; A=c\n\n", None),
            ("A=b\nA=c", Some("c")),
        ];
        for (text, value) in rows {
            let expected: Vec<_> =
                value.map(|value| ("A".to_owned(), value.to_owned())).into_iter().collect();
            assert_eq!(pairs(text), expected, "{text:?}");
        }
    }

    #[test]
    fn what_is_no_variable_is_refused_by_its_line() {
        let rows = [
            ("A", 1),
            ("A=1\nB C=2", 2),
            ("A=\"1\n2\"\n1A=3", 3),
            ("\nA='x' y", 2),
            ("A='x", 1),
            ("=x", 1),
            ("A=\0", 1),
        ];
        for (text, line) in rows {
            assert_eq!(parse(text).unwrap_err().line, line, "{text:?}");
        }
    }

    proptest! {
        #[test]
        fn any_value_can_be_written_in_double_quotes(value in "(?s)[^\0]{0,40}") {
            let mut text = "A=\"".to_owned();
            for c in value.chars() {
                if matches!(c, '"' | '\\' | '$' | '`') {
                    text.push('\\');
                }
                text.push(c);
            }
            text.push('"');
            prop_assert_eq!(parse(&text).map(|mut all| all.remove("A")), Ok(Some(value)));
        }

        #[test]
        fn no_text_panics(text in "(?s).{0,80}") {
            let _ = parse(&text);
        }
    }
}
