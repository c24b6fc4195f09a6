//! A command in one text, as the words that it is: quotes and backslashes as a shell reads them, and nothing else of a shell.

/// Splits `text` into words.
///
/// # Errors
/// What is wrong, for who wrote it.
pub fn split(text: &str) -> Result<Vec<String>, String> {
    let mut words = Vec::new();
    let mut word: Option<String> = None;
    let mut chars = text.chars();
    while let Some(c) = chars.next() {
        match c {
            ' ' | '\t' | '\n' | '\r' => words.extend(word.take()),
            '\'' => {
                let word = word.get_or_insert_default();
                loop {
                    match chars.next() {
                        None => return Err("a ' without its end".to_owned()),
                        Some('\'') => break,
                        Some(c) => word.push(c),
                    }
                }
            }
            '"' => {
                let word = word.get_or_insert_default();
                loop {
                    match chars.next() {
                        None => return Err("a \" without its end".to_owned()),
                        Some('"') => break,
                        Some('\\') => match chars.next() {
                            Some(c @ ('"' | '\\' | '$' | '`')) => word.push(c),
                            Some(c) => word.extend(['\\', c]),
                            None => return Err("a \" without its end".to_owned()),
                        },
                        Some(c) => word.push(c),
                    }
                }
            }
            '\\' => match chars.next() {
                Some(c) => word.get_or_insert_default().push(c),
                None => return Err("a \\ with nothing after it".to_owned()),
            },
            ';' | '|' | '&' | '<' | '>' => {
                return Err(format!(
                    "`{c}` means something to a shell, and none reads this: put it in quotes, or write [sh, -c, ...]"
                ));
            }
            c => word.get_or_insert_default().push(c),
        }
    }
    words.extend(word);
    Ok(words)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quotes_and_backslashes_are_a_shells() {
        for (text, expected) in [
            ("redis-server --appendonly yes", &["redis-server", "--appendonly", "yes"][..]),
            ("  a\tb\n", &["a", "b"]),
            ("", &[]),
            ("sh -c 'echo \"$HOME\" && ls'", &["sh", "-c", "echo \"$HOME\" && ls"]),
            ("a\"b c\"d'e f'", &["ab cde f"]),
            (r#"a\ b "c\"d" "e\nf" '\'"#, &["a b", "c\"d", "e\\nf", "\\"]),
            ("'' \"\"", &["", ""]),
            ("--url=http://x/?a=b", &["--url=http://x/?a=b"]),
        ] {
            assert_eq!(
                split(text).as_deref(),
                Ok(&expected.iter().map(ToString::to_string).collect::<Vec<_>>()[..]),
                "{text}"
            );
        }
    }

    #[test]
    fn what_has_no_end_or_needs_a_shell_is_refused() {
        for text in ["'a", "\"a", "a\\", "\"a\\", "a && b", "a | b", "a > f", "a; b"] {
            assert!(split(text).is_err(), "{text}");
        }
    }
}
