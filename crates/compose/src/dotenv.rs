//! Environment files of Compose: `.env` and what `env_file` names.
//!
//! A line is `NAME=VALUE`, also `export NAME=VALUE` and `NAME: VALUE`. Blank lines and those that begin with `#` are passed over. In single quotes a
//! value is taken as it stands; in double quotes and without quotes its variables are replaced, and those of lines before count; a `#` after a
//! blank ends a value without quotes. Quoted values may go over several lines. A name alone is the variable of who applies.

use crate::interpolate::interpolate;

/// Most variables of one file.
pub const VARIABLES_MAX: usize = 4096;

/// A variable of an environment file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Variable {
    /// Its name.
    pub name: String,
    /// Its value; none where the line has a name alone.
    pub value: Option<String>,
    /// The line that it is in, from 1.
    pub line: usize,
}

/// What is wrong in a line, from 1.
pub type LineFault = (usize, String);

/// Reads an environment file. `lookup` has the variables that are set outside of it.
///
/// # Errors
/// The first line that is none.
pub fn read(text: &str, lookup: &dyn Fn(&str) -> Option<String>) -> Result<Vec<Variable>, LineFault> {
    let mut reader = Reader { rest: text.strip_prefix('\u{feff}').unwrap_or(text), line: 1 };
    let mut variables: Vec<Variable> = Vec::new();
    while let Some((line, name)) = reader.name()? {
        if variables.len() >= VARIABLES_MAX {
            return Err((line, format!("more than {VARIABLES_MAX} variables in one file")));
        }
        let Some(name) = name else { continue };
        let value = match reader.value(line)? {
            None => None,
            Some((raw, true)) => Some(raw),
            Some((raw, false)) => {
                let known = |name: &str| {
                    lookup(name).or_else(|| {
                        let before = variables.iter().rev().find(|variable| variable.name == name);
                        before.and_then(|variable| variable.value.clone())
                    })
                };
                Some(interpolate(&raw, &known).map_err(|why| (line, why))?.text)
            }
        };
        variables.push(Variable { name, value, line });
    }
    Ok(variables)
}

/// Reads an environment file whose values are taken as they stand (`format: raw`).
///
/// # Errors
/// The first line that is none.
pub fn read_raw(text: &str) -> Result<Vec<Variable>, LineFault> {
    let mut variables = Vec::new();
    for (index, line) in text.lines().enumerate() {
        let line_number = index + 1;
        if line.trim().is_empty() || line.starts_with('#') {
            continue;
        }
        if variables.len() >= VARIABLES_MAX {
            return Err((line_number, format!("more than {VARIABLES_MAX} variables in one file")));
        }
        let (name, value) = match line.split_once('=') {
            Some((name, value)) => (name, Some(value.to_owned())),
            None => (line, None),
        };
        check_name(name).map_err(|why| (line_number, why))?;
        variables.push(Variable { name: name.to_owned(), value, line: line_number });
    }
    Ok(variables)
}

fn check_name(name: &str) -> Result<(), String> {
    let good = |c: char| c.is_ascii_alphanumeric() || matches!(c, '_' | '.' | '-');
    if name.is_empty() || !name.chars().all(good) {
        return Err(
            "not a variable: write NAME=VALUE, with letters, digits, _, . and - in the name".to_owned()
        );
    }
    Ok(())
}

struct Reader<'a> {
    rest: &'a str,
    line: usize,
}

impl<'a> Reader<'a> {
    /// The line of the next variable and its name, none for a line without one; the end of the text answers none at all.
    fn name(&mut self) -> Result<Option<(usize, Option<String>)>, LineFault> {
        let line = self.line;
        if self.rest.is_empty() {
            return Ok(None);
        }
        let trimmed = self.rest.trim_start_matches([' ', '\t', '\r']);
        if trimmed.is_empty() || trimmed.starts_with(['\n', '#']) {
            self.rest_of_line();
            return Ok(Some((line, None)));
        }
        let trimmed = match trimmed.strip_prefix("export") {
            Some(after) if after.starts_with([' ', '\t']) => after.trim_start_matches([' ', '\t']),
            _ => trimmed,
        };
        let end = trimmed.find(['=', ':', '\n', ' ', '\t', '\r', '#']).unwrap_or(trimmed.len());
        let (name, rest) = trimmed.split_at(end);
        check_name(name).map_err(|why| (line, why))?;
        self.rest = rest;
        Ok(Some((line, Some(name.to_owned()))))
    }

    /// What follows a name: none where nothing does. Whether it is taken as it stands.
    fn value(&mut self, line: usize) -> Result<Option<(String, bool)>, LineFault> {
        self.rest = self.rest.trim_start_matches([' ', '\t']);
        let Some(rest) = self.rest.strip_prefix(['=', ':']) else {
            let left = self.rest_of_line();
            let left = left.trim();
            let nothing = left.is_empty() || left.starts_with('#');
            return if nothing {
                Ok(None)
            } else {
                Err((line, "not a variable: write NAME=VALUE".to_owned()))
            };
        };
        self.rest = rest.trim_start_matches([' ', '\t']);
        let quote = self.rest.chars().next().filter(|c| matches!(c, '\'' | '"'));
        let value = if let Some(quote) = quote {
            self.rest = &self.rest[1..];
            let value = self.quoted(quote, line)?;
            let left = self.rest_of_line();
            let left = left.trim();
            if !left.is_empty() && !left.starts_with('#') {
                return Err((line, "there is something after the quoted value".to_owned()));
            }
            (value, quote == '\'')
        } else {
            let whole = self.rest_of_line();
            let comment = whole
                .char_indices()
                .find(|(at, c)| *c == '#' && (*at == 0 || whole[..*at].ends_with([' ', '\t'])));
            (whole[..comment.map_or(whole.len(), |(at, _)| at)].trim_end().to_owned(), false)
        };
        Ok(Some(value))
    }

    /// Up to the quote that ends it. In double quotes the escapes are undone, but for `\$`, which the variables' reader is given as `$$`.
    fn quoted(&mut self, quote: char, line: usize) -> Result<String, LineFault> {
        let mut value = String::new();
        let mut chars = self.rest.char_indices();
        while let Some((at, c)) = chars.next() {
            match c {
                c if c == quote => {
                    self.line += self.rest[..at].matches('\n').count();
                    self.rest = &self.rest[at + 1..];
                    return Ok(value);
                }
                '\\' if quote == '"' => match chars.next() {
                    Some((_, 'n')) => value.push('\n'),
                    Some((_, 'r')) => value.push('\r'),
                    Some((_, 't')) => value.push('\t'),
                    Some((_, '$')) => value.push_str("$$"),
                    Some((_, c @ ('"' | '\\'))) => value.push(c),
                    Some((_, c)) => value.extend(['\\', c]),
                    None => break,
                },
                '\\' if self.rest[at + 1..].starts_with('\'') => {
                    value.push('\'');
                    chars.next();
                }
                c => value.push(c),
            }
        }
        Err((line, format!("a {quote} without its end")))
    }

    fn rest_of_line(&mut self) -> &'a str {
        let (line, rest) = self.rest.split_once('\n').unwrap_or((self.rest, ""));
        self.rest = rest;
        self.line += 1;
        line
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pairs(text: &str) -> Result<Vec<(String, Option<String>)>, LineFault> {
        let lookup = |name: &str| (name == "HOME").then(|| "/root".to_owned());
        Ok(read(text, &lookup)?.into_iter().map(|variable| (variable.name, variable.value)).collect())
    }

    #[test]
    fn each_form_of_a_line_is_read() {
        let text = "# a comment\n\nA=1\nexport B=two words  # not of it\nC: yaml\nD='$A \\n'\nE=\"$A\\n\\$A\"\nF=x#y\nG=\nH = ${A}${HOME}\nI\n\
                    J=\"one\n two\"\nK.l-m=${NONE:-d}\nL='it\\'s'\n";
        let expected = [
            ("A", Some("1")),
            ("B", Some("two words")),
            ("C", Some("yaml")),
            ("D", Some("$A \\n")),
            ("E", Some("1\n$A")),
            ("F", Some("x#y")),
            ("G", Some("")),
            ("H", Some("1/root")),
            ("I", None),
            ("J", Some("one\n two")),
            ("K.l-m", Some("d")),
            ("L", Some("it's")),
        ];
        let expected: Vec<_> =
            expected.iter().map(|(name, value)| ((*name).to_owned(), value.map(str::to_owned))).collect();
        assert_eq!(pairs(text), Ok(expected));
    }

    #[test]
    fn a_line_that_is_none_is_named() {
        assert_eq!(pairs("A=1\n=2\n").map_err(|fault| fault.0), Err(2));
        assert_eq!(pairs("A='x\n\nB=1").map_err(|fault| fault.0), Err(1));
        assert_eq!(pairs("A=\"x\ny\"\nB C\n").map_err(|fault| fault.0), Err(3));
        assert_eq!(pairs("A='x' y\n").map_err(|fault| fault.0), Err(1));
        assert_eq!(pairs("A=${B:?say}\n").map_err(|fault| fault.0), Err(1));
    }

    #[test]
    fn raw_values_are_taken_as_they_stand() {
        let raw =
            read_raw("A='$x' # y\n#c\nB\n").map(|all| all.into_iter().map(|v| v.value).collect::<Vec<_>>());
        assert_eq!(raw, Ok(vec![Some("'$x' # y".to_owned()), None]));
    }
}
