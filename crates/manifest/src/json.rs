//! JSON text -> trees with places: RFC 8259, several documents one after the other, no duplicate keys.
//!
//! YAML would read most of it; not surrogate pairs, tabs everywhere or long keys, and its errors would speak of YAML.

use std::collections::HashMap;
use std::iter::Peekable;
use std::rc::Rc;
use std::str::Chars;

use crate::error::{ErrorSink, shorten};
use crate::position::Position;
use crate::tree::{Content, DEPTH_MAX, Entry, NODES_MAX, Node, Scalar, ScalarKind};

/// Reads all documents. What could be read before a fault is returned beside it.
pub(crate) fn read(text: &str, documents_max: usize, errors: &mut ErrorSink) -> Vec<Rc<Node>> {
    let mut reader =
        Reader { chars: text.chars().peekable(), at: Position::START, nodes: 0, duplicates: Vec::new() };
    let mut documents = Vec::new();
    let outcome = loop {
        reader.skip_space();
        if reader.peek().is_none() {
            break Ok(());
        }
        if documents.len() >= documents_max {
            break Err((reader.at, format!("more than {documents_max} documents in one file")));
        }
        match reader.value(0) {
            Ok(node) => documents.push(node),
            Err(fault) => break Err(fault),
        }
    };
    for (at, message) in reader.duplicates.into_iter().chain(outcome.err()) {
        errors.add(at, "", message);
    }
    documents
}

type Fault = (Position, String);

struct Reader<'a> {
    chars: Peekable<Chars<'a>>,
    at: Position,
    nodes: usize,
    duplicates: Vec<Fault>,
}

impl Reader<'_> {
    fn peek(&mut self) -> Option<char> {
        self.chars.peek().copied()
    }

    fn next(&mut self) -> Option<char> {
        let c = self.chars.next()?;
        if c == '\n' {
            self.at = Position { line: self.at.line + 1, column: 1, ..self.at };
        } else {
            self.at.column += 1;
        }
        Some(c)
    }

    fn skip_space(&mut self) {
        while self.peek().is_some_and(|c| matches!(c, ' ' | '\t' | '\n' | '\r')) {
            self.next();
        }
    }

    fn unexpected(&mut self, wanted: &str) -> Fault {
        let found = self.peek().map_or("the end".to_owned(), |c| format!("{c:?}"));
        (self.at, format!("not valid JSON: expected {wanted}, found {found}"))
    }

    fn value(&mut self, depth: usize) -> Result<Rc<Node>, Fault> {
        let at = self.at;
        self.nodes += 1;
        if depth >= DEPTH_MAX {
            return Err((at, format!("nested deeper than {DEPTH_MAX} levels")));
        }
        if self.nodes > NODES_MAX {
            return Err((at, "too much in one file".into()));
        }
        let content = match self.peek() {
            Some('{') => self.object(depth)?,
            Some('[') => self.array(depth)?,
            Some('"') => Content::Scalar(Scalar { text: self.string()?, kind: ScalarKind::Text }),
            Some(c) if c == '-' || c.is_ascii_digit() => self.number()?,
            Some(c) if c.is_ascii_lowercase() => self.word()?,
            _ => return Err(self.unexpected("a value")),
        };
        Ok(Rc::new(Node::new(at, content)))
    }

    fn object(&mut self, depth: usize) -> Result<Content, Fault> {
        let mut entries: Vec<Entry> = Vec::new();
        let mut keys: HashMap<Rc<str>, Position> = HashMap::new();
        self.next();
        self.skip_space();
        if self.peek() == Some('}') {
            self.next();
            return Ok(Content::Map(entries));
        }
        loop {
            self.skip_space();
            if self.peek() != Some('"') {
                return Err(self.unexpected("a key in double quotes"));
            }
            let at = self.at;
            let key: Rc<str> = self.string()?.into();
            self.skip_space();
            if self.peek() != Some(':') {
                return Err(self.unexpected("':'"));
            }
            self.next();
            self.skip_space();
            let value = self.value(depth + 1)?;
            if let Some(first) = keys.get(&key) {
                let name = shorten(&key, 60);
                let message = format!("{name:?} is given twice in this object; first in line {}", first.line);
                self.duplicates.push((at, message));
            } else {
                keys.insert(Rc::clone(&key), at);
                entries.push(Entry { key, at, value });
            }
            self.skip_space();
            match self.peek() {
                Some(',') => self.next(),
                Some('}') => {
                    self.next();
                    return Ok(Content::Map(entries));
                }
                _ => return Err(self.unexpected("',' or '}'")),
            };
        }
    }

    fn array(&mut self, depth: usize) -> Result<Content, Fault> {
        let mut items = Vec::new();
        self.next();
        self.skip_space();
        if self.peek() == Some(']') {
            self.next();
            return Ok(Content::List(items));
        }
        loop {
            self.skip_space();
            items.push(self.value(depth + 1)?);
            self.skip_space();
            match self.peek() {
                Some(',') => self.next(),
                Some(']') => {
                    self.next();
                    return Ok(Content::List(items));
                }
                _ => return Err(self.unexpected("',' or ']'")),
            };
        }
    }

    fn string(&mut self) -> Result<String, Fault> {
        let mut text = String::new();
        self.next();
        loop {
            match self.peek() {
                Some('"') => {
                    self.next();
                    return Ok(text);
                }
                Some('\\') => {
                    self.next();
                    text.push(self.escape()?);
                }
                Some(c) if c >= ' ' => {
                    self.next();
                    text.push(c);
                }
                _ => return Err(self.unexpected("'\"' to end the string")),
            }
        }
    }

    fn escape(&mut self) -> Result<char, Fault> {
        let at = self.at;
        let simple = match self.peek() {
            Some(c @ ('"' | '\\' | '/')) => c,
            Some('b') => '\u{8}',
            Some('f') => '\u{c}',
            Some('n') => '\n',
            Some('r') => '\r',
            Some('t') => '\t',
            Some('u') => {
                self.next();
                let first = self.hex4()?;
                return self.unicode(first).ok_or((at, "not valid JSON: half of a surrogate pair".into()));
            }
            _ => return Err(self.unexpected("an escape")),
        };
        self.next();
        Ok(simple)
    }

    /// The character of `\uXXXX`, reading the second half of a surrogate pair where there must be one.
    fn unicode(&mut self, first: u32) -> Option<char> {
        if !(0xD800..0xDC00).contains(&first) {
            return char::from_u32(first);
        }
        let paired = self.next() == Some('\\') && self.next() == Some('u');
        let second =
            paired.then(|| self.hex4().ok()).flatten().filter(|low| (0xDC00..0xE000).contains(low))?;
        char::from_u32(0x1_0000 + ((first - 0xD800) << 10) + (second - 0xDC00))
    }

    fn hex4(&mut self) -> Result<u32, Fault> {
        let mut code = 0;
        for _ in 0..4 {
            let Some(digit) = self.peek().and_then(|c| c.to_digit(16)) else {
                return Err(self.unexpected("a hexadecimal digit"));
            };
            self.next();
            code = code * 16 + digit;
        }
        Ok(code)
    }

    fn digits(&mut self, text: &mut String) -> Result<(), Fault> {
        if !self.peek().is_some_and(|c| c.is_ascii_digit()) {
            return Err(self.unexpected("a digit"));
        }
        while let Some(c) = self.peek().filter(char::is_ascii_digit) {
            text.push(c);
            self.next();
        }
        Ok(())
    }

    fn number(&mut self) -> Result<Content, Fault> {
        let (at, mut text, mut kind) = (self.at, String::new(), ScalarKind::Int);
        text.extend(self.peek().filter(|c| *c == '-').and_then(|_| self.next()));
        self.digits(&mut text)?;
        let whole = text.trim_start_matches('-');
        if whole.len() > 1 && whole.starts_with('0') {
            return Err((at, "not valid JSON: a number does not begin with 0".into()));
        }
        if self.peek() == Some('.') {
            kind = ScalarKind::Float;
            text.extend(self.next());
            self.digits(&mut text)?;
        }
        if self.peek().is_some_and(|c| matches!(c, 'e' | 'E')) {
            kind = ScalarKind::Float;
            text.extend(self.next());
            text.extend(self.peek().filter(|c| matches!(c, '+' | '-')).and_then(|_| self.next()));
            self.digits(&mut text)?;
        }
        Ok(Content::Scalar(Scalar { text, kind }))
    }

    fn word(&mut self) -> Result<Content, Fault> {
        let (at, mut text) = (self.at, String::new());
        while let Some(c) = self.peek().filter(char::is_ascii_alphanumeric) {
            text.push(c);
            self.next();
        }
        let kind = match text.as_str() {
            "null" => ScalarKind::Null,
            "true" | "false" => ScalarKind::Bool,
            _ => return Err((at, format!("not valid JSON: {:?} is no value", shorten(&text, 40)))),
        };
        Ok(Content::Scalar(Scalar { text, kind }))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read_all(text: &str) -> (Vec<Rc<Node>>, Vec<String>) {
        let mut errors = ErrorSink::new("f");
        let documents = read(text, 3, &mut errors);
        let errors = match errors.finish(()) {
            Ok(()) => vec![],
            Err(errors) => errors.errors.iter().map(ToString::to_string).collect(),
        };
        (documents, errors)
    }

    fn scalar(text: &str) -> Scalar {
        let (documents, errors) = read_all(text);
        assert_eq!(errors, [""; 0]);
        match &documents[0].content {
            Content::Scalar(scalar) => scalar.clone(),
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn scalars_are_read() {
        assert_eq!(scalar(r#""a\"\\\/\n\u00e9\ud83d\ude00""#).text, "a\"\\/\né😀");
        assert_eq!(scalar("-1.5e+3"), Scalar { text: "-1.5e+3".into(), kind: ScalarKind::Float });
        assert_eq!(scalar("12").kind, ScalarKind::Int);
        assert_eq!(scalar("true").kind, ScalarKind::Bool);
        assert_eq!(scalar("null").kind, ScalarKind::Null);
    }

    #[test]
    fn objects_keep_places_and_refuse_duplicates() {
        let (documents, errors) = read_all("{\n\t\"a\": [1],\n  \"b\": {}}\n{\"a\": 1, \"a\": 2}");
        assert_eq!(errors, ["f:4:10: \"a\" is given twice in this object; first in line 4"]);
        let Content::Map(entries) = &documents[0].content else { panic!() };
        assert_eq!((entries[0].at.to_string(), entries[1].at.to_string()), ("2:2".into(), "3:3".into()));
    }

    #[test]
    fn what_is_not_json_is_refused_in_place() {
        for (text, error) in [
            ("{", "f:1:2: not valid JSON: expected a key in double quotes, found the end"),
            ("{\"a\" 1}", "f:1:6: not valid JSON: expected ':', found '1'"),
            ("[1,]", "f:1:4: not valid JSON: expected a value, found ']'"),
            ("01", "f:1:1: not valid JSON: a number does not begin with 0"),
            ("nul", "f:1:1: not valid JSON: \"nul\" is no value"),
            ("\"\\ud800x\"", "f:1:3: not valid JSON: half of a surrogate pair"),
            ("\"\n\"", "f:1:2: not valid JSON: expected '\"' to end the string, found '\\n'"),
            ("1 2 3 4", "f:1:7: more than 3 documents in one file"),
        ] {
            assert_eq!(read_all(text).1, [error], "{text:?}");
        }
        assert!(read_all(&"[".repeat(DEPTH_MAX + 1)).1[0].contains("nested deeper"));
    }
}
