//! From the text of a template to its pieces.

use super::{Compare, Condition, Operand, Part, Path, Pick, Step};

/// Deepest nesting of ranges and of filters in filters.
const DEPTH_MAX: usize = 16;

/// Reads a whole template.
pub(super) fn template(text: &str) -> Result<Vec<Part>, String> {
    let mut parser = Parser { text: text.chars().collect(), at: 0 };
    if !text.contains('{') {
        return Err(format!("there is no path in the template: write it in braces, as {{{}}}", dotted(text)));
    }
    let (parts, ended) = parser.parts(0)?;
    match ended {
        Ended::Text => Ok(parts),
        Ended::Range => Err(parser.fault("{end} without {range}")),
    }
}

/// What was most likely meant, as a path.
fn dotted(text: &str) -> String {
    if text.starts_with('.') { text.to_owned() } else { format!(".{text}") }
}

struct Parser {
    text: Vec<char>,
    at: usize,
}

/// What ended a run of pieces.
#[derive(PartialEq, Eq)]
enum Ended {
    Text,
    Range,
}

impl Parser {
    fn fault(&self, message: &str) -> String {
        format!("character {} of the template: {message}", self.at + 1)
    }

    fn peek(&self) -> Option<char> {
        self.text.get(self.at).copied()
    }

    fn take(&mut self, wanted: char) -> bool {
        let found = self.peek() == Some(wanted);
        self.at += usize::from(found);
        found
    }

    fn expect(&mut self, wanted: char) -> Result<(), String> {
        if self.take(wanted) {
            return Ok(());
        }
        let found = self.peek().map_or("the end".to_owned(), |c| format!("{c:?}"));
        Err(self.fault(&format!("expected {wanted:?}, found {found}")))
    }

    fn starts_with(&self, word: &str) -> bool {
        word.chars().enumerate().all(|(n, c)| self.text.get(self.at + n) == Some(&c))
    }

    fn take_word(&mut self, word: &str) -> bool {
        let after = self.text.get(self.at + word.len());
        let found = self.starts_with(word) && after.is_none_or(|c| !c.is_alphanumeric());
        self.at += if found { word.len() } else { 0 };
        found
    }

    fn spaces(&mut self) {
        while self.peek().is_some_and(char::is_whitespace) {
            self.at += 1;
        }
    }

    /// Pieces up to the end of the template or of the range they are in.
    fn parts(&mut self, depth: usize) -> Result<(Vec<Part>, Ended), String> {
        let mut parts = Vec::new();
        loop {
            let plain: String = self.text[self.at..].iter().take_while(|c| **c != '{').collect();
            self.at += plain.chars().count();
            if !plain.is_empty() {
                parts.push(Part::Text(plain));
            }
            if !self.take('{') {
                return Ok((parts, Ended::Text));
            }
            loop {
                self.spaces();
                match self.peek() {
                    Some('}') => break,
                    Some('"' | '\'') => parts.push(Part::Text(self.quoted()?)),
                    Some(_) if self.take_word("end") => {
                        self.spaces();
                        self.expect('}')?;
                        return Ok((parts, Ended::Range));
                    }
                    Some(_) if self.take_word("range") => {
                        self.spaces();
                        let path = self.path(depth)?;
                        self.spaces();
                        self.expect('}')?;
                        if depth == DEPTH_MAX {
                            return Err(self.fault(&format!("ranges are nested deeper than {DEPTH_MAX}")));
                        }
                        let (inside, ended) = self.parts(depth + 1)?;
                        if ended == Ended::Text {
                            return Err(self.fault("{range} without {end}"));
                        }
                        parts.push(Part::Range(path, inside));
                        // The brace of {end} is taken already.
                        self.at -= 1;
                    }
                    Some('.' | '$' | '@' | '[') => parts.push(Part::Path(self.path(depth)?)),
                    Some(_) => {
                        return Err(
                            self.fault("expected a path as .metadata.name, a quoted text, range or end")
                        );
                    }
                    None => return Err(self.fault("the brace is not closed")),
                }
            }
            self.expect('}')?;
        }
    }

    fn path(&mut self, depth: usize) -> Result<Path, String> {
        let from_root = self.take('$');
        if !from_root {
            self.take('@');
        }
        let mut steps = Vec::new();
        loop {
            match self.peek() {
                Some('.') => {
                    self.at += 1;
                    if self.take('.') {
                        steps.push(Step::Below);
                    }
                    match self.peek() {
                        Some('*') => {
                            self.at += 1;
                            steps.push(Step::All);
                        }
                        Some('[') => {}
                        _ => {
                            let name = self.name()?;
                            // `{.}` is the thing itself.
                            if !name.is_empty() {
                                steps.push(Step::Field(name));
                            } else if !steps.is_empty() {
                                return Err(self.fault("expected the name of a field after the point"));
                            }
                        }
                    }
                }
                Some('[') => {
                    self.at += 1;
                    steps.push(self.bracket(depth)?);
                }
                _ => return Ok(Path { from_root, steps }),
            }
        }
    }

    /// A name after a point: up to what begins something else. `\.` is a point in it.
    fn name(&mut self) -> Result<String, String> {
        let mut name = String::new();
        while let Some(c) = self.peek() {
            match c {
                '\\' => {
                    self.at += 1;
                    let Some(escaped) = self.peek() else { return Err(self.fault("nothing after \\")) };
                    name.push(escaped);
                }
                '.' | '[' | ']' | '{' | '}' | '(' | ')' | '=' | '!' | '<' | '>' | ',' | '"' | '\'' => break,
                c if c.is_whitespace() => break,
                c => name.push(c),
            }
            self.at += 1;
        }
        Ok(name)
    }

    /// What is in brackets, after the first of them.
    fn bracket(&mut self, depth: usize) -> Result<Step, String> {
        self.spaces();
        let step = match self.peek() {
            Some('*') => {
                self.at += 1;
                Step::All
            }
            Some('?') => {
                self.at += 1;
                self.filter(depth)?
            }
            Some('"' | '\'') => {
                let mut picks = vec![Pick::Name(self.quoted()?)];
                while self.next_of_union() {
                    picks.push(Pick::Name(self.quoted()?));
                }
                Step::Union(picks)
            }
            _ => self.numbers()?,
        };
        self.spaces();
        self.expect(']')?;
        Ok(step)
    }

    fn next_of_union(&mut self) -> bool {
        self.spaces();
        let more = self.take(',');
        self.spaces();
        more
    }

    fn numbers(&mut self) -> Result<Step, String> {
        let first = self.number()?;
        if self.take(':') {
            let to = self.number()?;
            let by = if self.take(':') { self.number()? } else { None };
            let by = usize::try_from(by.unwrap_or(1)).ok().filter(|by| *by > 0);
            let by = by.ok_or_else(|| self.fault("the step of a slice is 1 or more"))?;
            return Ok(Step::Slice(first, to, by));
        }
        let expected = "expected a number, *, a quoted name or ?(...) in the brackets";
        let mut picks = vec![Pick::Index(first.ok_or_else(|| self.fault(expected))?)];
        while self.next_of_union() {
            picks.push(Pick::Index(self.number()?.ok_or_else(|| self.fault(expected))?));
        }
        Ok(Step::Union(picks))
    }

    fn number(&mut self) -> Result<Option<i64>, String> {
        let text: String =
            self.text[self.at..].iter().take_while(|c| c.is_ascii_digit() || **c == '-').collect();
        if text.is_empty() {
            return Ok(None);
        }
        let number = text.parse().map_err(|_| self.fault(&format!("{text} is no index")))?;
        self.at += text.len();
        Ok(Some(number))
    }

    /// `(@.a == "b")` after the question mark.
    fn filter(&mut self, depth: usize) -> Result<Step, String> {
        if depth == DEPTH_MAX {
            return Err(self.fault(&format!("filters are nested deeper than {DEPTH_MAX}")));
        }
        self.expect('(')?;
        let mut any = vec![vec![self.condition(depth + 1)?]];
        loop {
            self.spaces();
            if self.starts_with("&&") {
                self.at += 2;
                let condition = self.condition(depth + 1)?;
                any.last_mut().expect("begun with one").push(condition);
            } else if self.starts_with("||") {
                self.at += 2;
                any.push(vec![self.condition(depth + 1)?]);
            } else {
                break;
            }
        }
        self.expect(')')?;
        Ok(Step::Filter(any))
    }

    fn condition(&mut self, depth: usize) -> Result<Condition, String> {
        let left = self.operand(depth)?;
        self.spaces();
        let signs = [
            ("==", Compare::Equal),
            ("!=", Compare::Unequal),
            ("<=", Compare::LessOrEqual),
            (">=", Compare::GreaterOrEqual),
            ("<", Compare::Less),
            (">", Compare::Greater),
        ];
        let sign = signs.into_iter().find(|(sign, _)| self.starts_with(sign));
        let right = match sign {
            Some((sign, compare)) => {
                self.at += sign.len();
                Some((compare, self.operand(depth)?))
            }
            None => None,
        };
        Ok(Condition { left, right })
    }

    fn operand(&mut self, depth: usize) -> Result<Operand, String> {
        self.spaces();
        match self.peek() {
            Some('"' | '\'') => self.quoted().map(Operand::Text),
            Some('@' | '$' | '.') => self.path(depth).map(Operand::Path),
            _ => {
                let stops = |c: &char| c.is_whitespace() || "()=!<>&|]}".contains(*c);
                let text: String = self.text[self.at..].iter().take_while(|c| !stops(c)).collect();
                let known = matches!(text.as_str(), "true" | "false" | "null") || text.parse::<f64>().is_ok();
                if !known {
                    return Err(self.fault("expected @.field, a quoted text, a number, true or false"));
                }
                self.at += text.chars().count();
                Ok(Operand::Literal(text))
            }
        }
    }

    /// A text in quotes of either kind, with \n, \t, \r, and any other character after \ as itself.
    fn quoted(&mut self) -> Result<String, String> {
        let Some(quote) = self.peek().filter(|c| matches!(c, '"' | '\'')) else {
            return Err(self.fault("expected a text in quotes"));
        };
        let start = self.at;
        self.at += 1;
        let mut text = String::new();
        loop {
            let c = self.peek();
            self.at += 1;
            match c {
                Some(c) if c == quote => return Ok(text),
                Some('\\') => {
                    let escaped = self.peek();
                    self.at += 1;
                    match escaped {
                        Some('n') => text.push('\n'),
                        Some('t') => text.push('\t'),
                        Some('r') => text.push('\r'),
                        Some(c) => text.push(c),
                        None => {}
                    }
                }
                Some(c) => text.push(c),
                None => {
                    self.at = start;
                    return Err(self.fault("the quotes are not closed"));
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn faults_name_the_character_and_what_is_expected() {
        for (text, fault) in [
            ("metadata.name", "there is no path in the template: write it in braces, as {.metadata.name}"),
            ("{.a", "character 4 of the template: the brace is not closed"),
            (
                "{a}",
                "character 2 of the template: expected a path as .metadata.name, a quoted text, range or end",
            ),
            (
                "{.a[}",
                "character 5 of the template: expected a number, *, a quoted name or ?(...) in the brackets",
            ),
            ("{.a[0}", "character 6 of the template: expected ']', found '}'"),
            ("{range .a}x", "character 12 of the template: {range} without {end}"),
            ("x{end}", "character 7 of the template: {end} without {range}"),
            ("{\"a}", "character 2 of the template: the quotes are not closed"),
            ("{.a[?(@.b=c)]}", "character 10 of the template: expected ')', found '='"),
            (
                "{.a[?(@.b==c)]}",
                "character 12 of the template: expected @.field, a quoted text, a number, true or false",
            ),
            ("{.a[1:2:0]}", "character 10 of the template: the step of a slice is 1 or more"),
        ] {
            assert_eq!(template(text), Err(fault.to_owned()), "{text}");
        }
    }

    #[test]
    fn nesting_is_bounded() {
        let ranges = "{range .a}".repeat(DEPTH_MAX + 1);
        assert!(template(&ranges).expect_err("refused").contains("nested deeper"));
        let filters = format!("{{{}", ".a[?(@".repeat(DEPTH_MAX + 2));
        assert!(template(&filters).expect_err("refused").contains("nested deeper"));
    }
}
