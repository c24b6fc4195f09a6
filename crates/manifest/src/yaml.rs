//! YAML text -> trees with places. Parsing is saphyr-parser's; composing is ours, because it must be bounded, refuse duplicate
//! keys, keep places and share what aliases name.

use std::collections::HashMap;
use std::rc::Rc;

use saphyr_parser::{Event, Marker, Parser, ScalarStyle, Tag};

use crate::error::{ErrorSink, shorten};
use crate::position::Position;
use crate::tree::{
    Content, DEPTH_MAX, EXPANDED_BYTES_MAX, Entry, Mark, NODES_MAX, Node, Scalar, ScalarKind, plain_kind,
};

/// Composes all documents of a manifest. What can be composed before a fault of syntax is returned beside it.
pub(crate) fn read(text: &str, documents_max: usize, errors: &mut ErrorSink) -> Vec<Rc<Node>> {
    read_source(text, 0, documents_max, false, errors)
}

/// Composes all documents of one of several files, whose `source` is that of [`ErrorSink::add_file`]. With `marks`, the tags `!reset` and
/// `!override` of Compose files are read.
pub fn read_source(
    text: &str,
    source: u16,
    documents_max: usize,
    marks: bool,
    errors: &mut ErrorSink,
) -> Vec<Rc<Node>> {
    let position = |marker: Marker| Position { source, line: marker.line().max(1), column: marker.col() + 1 };
    let mut composer = Composer {
        marks,
        errors,
        documents: Vec::new(),
        stack: Vec::new(),
        anchors: HashMap::new(),
        size: Size::default(),
    };
    for event in &mut Parser::new_from_str(text) {
        let step = match event {
            Ok((event, span)) => composer.on(event, position(span.start), documents_max),
            Err(error) => Err((position(*error.marker()), format!("not valid YAML: {}", error.info()))),
        };
        if let Err((at, message)) = step {
            composer.errors.add(at, "", message);
            break;
        }
    }
    composer.documents
}

/// How much has been composed, aliases counted as often as they are used.
#[derive(Debug, Clone, Copy, Default)]
struct Size {
    nodes: usize,
    bytes: usize,
}

/// A list or mapping that is not complete yet.
struct Frame {
    at: Position,
    anchor: usize,
    before: Size,
    mark: Mark,
    kind: FrameKind,
}

enum FrameKind {
    List(Vec<Rc<Node>>),
    Map { entries: Vec<Entry>, keys: HashMap<Rc<str>, Position>, merges: Vec<Rc<Node>>, key: Option<Key> },
}

/// A key whose value comes next.
enum Key {
    Name(Rc<str>, Position),
    /// `<<`: the value's entries are those of this mapping, unless it has its own.
    Merge,
    /// Said to be wrong already; its value is passed over.
    Refused,
}

struct Composer<'a> {
    /// Whether `!reset` and `!override` are read.
    marks: bool,
    errors: &'a mut ErrorSink,
    documents: Vec<Rc<Node>>,
    stack: Vec<Frame>,
    anchors: HashMap<usize, (Rc<Node>, Size)>,
    size: Size,
}

/// A fault after which composing cannot go on.
type Fatal = (Position, String);

impl Composer<'_> {
    fn on(&mut self, event: Event<'_>, at: Position, documents_max: usize) -> Result<(), Fatal> {
        match event {
            Event::Nothing | Event::StreamStart | Event::StreamEnd | Event::DocumentEnd => Ok(()),
            Event::DocumentStart(_) => {
                self.anchors.clear();
                if self.documents.len() >= documents_max {
                    return Err((at, format!("more than {documents_max} documents in one file")));
                }
                Ok(())
            }
            Event::Scalar(text, style, anchor, tag) => {
                let before = self.grow(1, text.len(), at)?;
                let mark = self.mark(tag.as_deref());
                let tag = tag.filter(|_| mark == Mark::None);
                let scalar = self.scalar(text.into_owned(), style, tag.as_deref(), at);
                let node = Rc::new(Node { at, content: Content::Scalar(scalar), mark });
                self.complete(node, anchor, before, at, style);
                Ok(())
            }
            Event::SequenceStart(anchor, tag) => {
                let mark = self.collection_tag(tag.as_deref(), "seq", at);
                self.open(at, anchor, mark, FrameKind::List(Vec::new()))
            }
            Event::MappingStart(anchor, tag) => {
                let mark = self.collection_tag(tag.as_deref(), "map", at);
                let kind = FrameKind::Map {
                    entries: Vec::new(),
                    keys: HashMap::new(),
                    merges: Vec::new(),
                    key: None,
                };
                self.open(at, anchor, mark, kind)
            }
            Event::SequenceEnd | Event::MappingEnd => {
                let Some(frame) = self.stack.pop() else { return Ok(()) };
                let content = match frame.kind {
                    FrameKind::List(items) => Content::List(items),
                    FrameKind::Map { entries, keys, merges, .. } => {
                        Content::Map(self.merge(entries, keys, &merges))
                    }
                };
                let node = Rc::new(Node { at: frame.at, content, mark: frame.mark });
                self.complete(node, frame.anchor, frame.before, frame.at, ScalarStyle::DoubleQuoted);
                Ok(())
            }
            Event::Alias(anchor) => {
                let Some((node, size)) = self.anchors.get(&anchor) else {
                    return Err((at, "this alias names something that contains it".into()));
                };
                let (node, size) = (Rc::clone(node), *size);
                let before = self.grow(size.nodes, size.bytes, at)?;
                self.complete(node, 0, before, at, ScalarStyle::DoubleQuoted);
                Ok(())
            }
        }
    }

    /// Counts what is added; answers how much there was before.
    fn grow(&mut self, nodes: usize, bytes: usize, at: Position) -> Result<Size, Fatal> {
        let before = self.size;
        self.size =
            Size { nodes: before.nodes.saturating_add(nodes), bytes: before.bytes.saturating_add(bytes) };
        if self.size.nodes > NODES_MAX || self.size.bytes > EXPANDED_BYTES_MAX {
            return Err((at, "too much in one file, counting what its aliases stand for".into()));
        }
        Ok(before)
    }

    fn open(&mut self, at: Position, anchor: usize, mark: Mark, kind: FrameKind) -> Result<(), Fatal> {
        if self.stack.len() >= DEPTH_MAX {
            return Err((at, format!("nested deeper than {DEPTH_MAX} levels")));
        }
        let before = self.grow(1, 0, at)?;
        self.stack.push(Frame { at, anchor, before, mark, kind });
        Ok(())
    }

    /// Puts a finished node where it belongs. `style` is that of a scalar; anything but `Plain` for other nodes.
    fn complete(&mut self, node: Rc<Node>, anchor: usize, before: Size, at: Position, style: ScalarStyle) {
        if anchor != 0 {
            let size = Size { nodes: self.size.nodes - before.nodes, bytes: self.size.bytes - before.bytes };
            self.anchors.insert(anchor, (Rc::clone(&node), size));
        }
        let Some(frame) = self.stack.last_mut() else {
            if !node.is_null() {
                self.documents.push(node);
            }
            return;
        };
        match &mut frame.kind {
            FrameKind::List(items) => items.push(node),
            FrameKind::Map { entries, keys, merges, key } => match key.take() {
                Some(Key::Name(name, key_at)) => entries.push(Entry { key: name, at: key_at, value: node }),
                Some(Key::Merge) => merges.push(node),
                Some(Key::Refused) => {}
                None => *key = Some(next_key(&node, at, style, keys, self.errors)),
            },
        }
    }

    fn scalar(&mut self, text: String, style: ScalarStyle, tag: Option<&Tag>, at: Position) -> Scalar {
        let by_form = if style == ScalarStyle::Plain { plain_kind(&text) } else { ScalarKind::Text };
        let Some(tag) = tag else { return Scalar { text, kind: by_form } };
        let wanted = match (tag.is_yaml_core_schema(), tag.suffix.as_str()) {
            (true, "str") => Some(ScalarKind::Text),
            (true, "int") => Some(ScalarKind::Int),
            (true, "float") => Some(ScalarKind::Float),
            (true, "bool") => Some(ScalarKind::Bool),
            (true, "null") => Some(ScalarKind::Null),
            _ => None,
        };
        let fits = match wanted {
            Some(ScalarKind::Text) => true,
            Some(kind) => plain_kind(&text) == kind,
            // `! text`, the non-specific tag: a string.
            None => tag.handle.is_empty() && tag.suffix == "!",
        };
        if !fits {
            let tag = shorten(&tag.to_string(), 40);
            self.errors.add(at, "", format!("the tag {tag:?} is not read, or its value does not fit it"));
        }
        Scalar { text, kind: wanted.unwrap_or(ScalarKind::Text) }
    }

    fn mark(&self, tag: Option<&Tag>) -> Mark {
        match tag.filter(|_| self.marks).map(ToString::to_string).as_deref() {
            Some("!reset") => Mark::Reset,
            Some("!override") => Mark::Override,
            _ => Mark::None,
        }
    }

    fn collection_tag(&mut self, tag: Option<&Tag>, core: &str, at: Position) -> Mark {
        let mark = self.mark(tag);
        let tag = tag.filter(|_| mark == Mark::None);
        if let Some(tag) = tag.filter(|tag| !(tag.is_yaml_core_schema() && tag.suffix == core)) {
            self.errors.add(at, "", format!("the tag {:?} is not read here", shorten(&tag.to_string(), 40)));
        }
        mark
    }

    /// Adds the entries of `<<` that the mapping does not have itself.
    fn merge(
        &mut self,
        mut entries: Vec<Entry>,
        mut keys: HashMap<Rc<str>, Position>,
        merges: &[Rc<Node>],
    ) -> Vec<Entry> {
        let sources = merges.iter().flat_map(|node| match &node.content {
            Content::List(items) => items.clone(),
            _ => vec![Rc::clone(node)],
        });
        for source in sources {
            let Content::Map(merged) = &source.content else {
                let found = source.describe();
                self.errors.add(
                    source.at,
                    "<<",
                    format!("expected a mapping or a list of mappings, found {found}"),
                );
                continue;
            };
            for entry in merged {
                if !keys.contains_key(&entry.key) {
                    keys.insert(Rc::clone(&entry.key), entry.at);
                    entries.push(entry.clone());
                }
            }
        }
        entries
    }
}

fn next_key(
    node: &Node,
    at: Position,
    style: ScalarStyle,
    keys: &mut HashMap<Rc<str>, Position>,
    errors: &mut ErrorSink,
) -> Key {
    let Content::Scalar(scalar) = &node.content else {
        errors.add(at, "", format!("a key is a text, not {}", node.describe()));
        return Key::Refused;
    };
    if style == ScalarStyle::Plain && scalar.text == "<<" {
        return Key::Merge;
    }
    let name: Rc<str> = scalar.text.as_str().into();
    if let Some(first) = keys.get(&name) {
        let key = shorten(&name, 60);
        errors.add(at, "", format!("{key:?} is given twice in this mapping; first in line {}", first.line));
        return Key::Refused;
    }
    keys.insert(Rc::clone(&name), at);
    Key::Name(name, at)
}

#[cfg(test)]
mod tests {
    use std::fmt::Write as _;

    use super::*;

    fn show(node: &Node) -> String {
        match &node.content {
            Content::Scalar(scalar) if scalar.kind == ScalarKind::Text => format!("{:?}", scalar.text),
            Content::Scalar(scalar) => scalar.text.clone(),
            Content::List(items) => {
                format!("[{}]", items.iter().map(|i| show(i)).collect::<Vec<_>>().join(","))
            }
            Content::Map(entries) => {
                let all: Vec<_> =
                    entries.iter().map(|e| format!("{}@{}={}", e.key, e.at, show(&e.value))).collect();
                format!("{{{}}}", all.join(","))
            }
        }
    }

    fn read_all(text: &str) -> (Vec<String>, Vec<String>) {
        let mut errors = ErrorSink::new("f");
        let documents = read(text, 3, &mut errors).iter().map(|node| show(node)).collect();
        let errors = match errors.finish(()) {
            Ok(()) => vec![],
            Err(errors) => errors.errors.iter().map(ToString::to_string).collect(),
        };
        (documents, errors)
    }

    #[test]
    fn documents_keep_places_and_kinds() {
        let (documents, errors) =
            read_all("a: 1\nb:\n  - x\n  - '2'\n---\nc: |\n  one\n  two\n---\n---\n# nothing\n");
        assert_eq!(errors, [""; 0]);
        assert_eq!(documents, ["{a@1:1=1,b@2:1=[\"x\",\"2\"]}", "{c@6:1=\"one\\ntwo\\n\"}"]);
    }

    #[test]
    fn aliases_and_merges_stand_for_what_they_name() {
        let (documents, errors) = read_all("a: &x {k: 1, l: 2}\nb: *x\nc: {<<: *x, k: 3}\n");
        assert_eq!(errors, [""; 0]);
        assert_eq!(
            documents,
            ["{a@1:1={k@1:8=1,l@1:14=2},b@2:1={k@1:8=1,l@1:14=2},c@3:1={k@3:13=3,l@1:14=2}}"]
        );
    }

    #[test]
    fn a_duplicate_key_is_refused_with_both_places() {
        let (_, errors) = read_all("a: 1\nb: 2\na: 3\n");
        assert_eq!(errors, ["f:3:1: \"a\" is given twice in this mapping; first in line 1"]);
    }

    #[test]
    fn billion_laughs_are_refused() {
        let mut text = String::from("a0: &a0 [x, x, x, x, x, x, x, x, x, x]\n");
        for level in 1..12 {
            let refs = vec![format!("*a{}", level - 1); 10].join(", ");
            writeln!(text, "a{level}: &a{level} [{refs}]").expect("writing to a string");
        }
        let (_, errors) = read_all(&text);
        assert_eq!(errors.len(), 1, "{errors:?}");
        assert!(errors[0].contains("too much in one file"), "{errors:?}");
    }

    #[test]
    fn depth_documents_and_self_reference_are_bounded() {
        let deep = "[".repeat(DEPTH_MAX + 1);
        assert!(read_all(&deep).1[0].contains("nested deeper"), "{:?}", read_all(&deep).1);
        assert!(read_all("a\n---\na\n---\na\n---\na\n").1[0].contains("more than 3 documents"));
        assert!(read_all("&a [*a]").1[0].contains("contains it"));
        assert!(read_all("a: *nobody").1[0].contains("not valid YAML"));
    }

    #[test]
    fn tags_decide_or_are_refused() {
        assert_eq!(read_all("a: !!str 5").0, ["{a@1:1=\"5\"}"]);
        assert!(read_all("a: !!int x").1[0].contains("does not fit"));
        assert!(read_all("a: !Ref x").1[0].contains("is not read"));
        assert!(read_all("a: !Ref [x]").1[0].contains("is not read"));
    }
}
