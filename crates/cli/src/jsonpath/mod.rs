//! Templates as `kubectl -o jsonpath=` takes them: text with paths in braces, `{range}` and `{end}`, filters, quoted text.
//!
//! A grammar of our own, because libraries of this name speak RFC 9535: one query with no text around it, and none of these words.

mod parse;
mod walk;

use skerry_manifest::output::Value;

/// Longest template, in bytes.
const TEMPLATE_BYTES_MAX: usize = 64 * 1024;

/// A template that was read.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Template(Vec<Part>);

/// A piece of a template.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Part {
    /// As it is.
    Text(String),
    /// What a path finds, with spaces between.
    Path(Path),
    /// The pieces once for each thing that the path finds.
    Range(Path, Vec<Part>),
}

/// Where to look.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Path {
    /// From the whole document (`$`), else from where the range or the filter is.
    from_root: bool,
    steps: Vec<Step>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
enum Step {
    /// `.name`, `['name']`.
    Field(String),
    /// `.*`, `[*]`.
    All,
    /// `..`: all that is here or below.
    Below,
    /// `[0]`, `[-1]`, `[0,2]`, `['a','b']`.
    Union(Vec<Pick>),
    /// `[from:to:by]`; counts from the end where negative.
    Slice(Option<i64>, Option<i64>, usize),
    /// `[?(@.ready==true && @.restarts<3)]`: any of these, each all of its conditions.
    Filter(Vec<Vec<Condition>>),
}

/// A comparison, or with nothing to compare to: that there is such a thing.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Condition {
    left: Operand,
    right: Option<(Compare, Operand)>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
enum Pick {
    Index(i64),
    Name(String),
}

#[derive(Debug, Clone, PartialEq, Eq)]
enum Operand {
    Path(Path),
    /// A quoted text.
    Text(String),
    /// A number, true, false or null.
    Literal(String),
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Compare {
    Equal,
    Unequal,
    Less,
    LessOrEqual,
    Greater,
    GreaterOrEqual,
}

impl Template {
    /// Reads a template.
    ///
    /// # Errors
    /// What is wrong and at which character, as a sentence for people.
    pub fn parse(text: &str) -> Result<Self, String> {
        if text.len() > TEMPLATE_BYTES_MAX {
            return Err(format!("the template is longer than {TEMPLATE_BYTES_MAX} bytes"));
        }
        parse::template(text).map(Self)
    }

    /// The text for a document. What is not there is empty, as with kubectl.
    pub fn render(&self, document: &Value) -> String {
        let mut out = String::new();
        walk::render(&self.0, document, document, &mut out);
        out
    }
}
