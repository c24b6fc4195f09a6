//! Lines of logs as people and programs read them: with the name of the instance before each where there are several. The lines themselves
//! are bytes, and stay as they are.

use skerry_proto::relay::v1 as pb;
use skerry_proto::relay::v1::log_line::Source;

use super::colour::of_name;

/// Where a piece goes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum To {
    Out,
    Err,
}

/// See the module.
#[derive(Debug)]
pub(crate) struct Painter {
    colour: bool,
    timestamps: bool,
    prefix: bool,
    /// Whose line was begun and not ended.
    open: Option<(String, i32)>,
}

impl Painter {
    pub(crate) fn new(colour: bool, timestamps: bool, prefix: bool) -> Self {
        Self { colour, timestamps, prefix, open: None }
    }

    /// The lines of one answer, as pieces that go one after the other.
    pub(crate) fn paint(&mut self, answer: &pb::LogsResponse) -> Vec<(To, Vec<u8>)> {
        let mut pieces = Vec::new();
        let prefix = if self.prefix { self.prefix_of(&answer.instance) } else { String::new() };
        for line in &answer.lines {
            let to = if line.source() == Source::Stderr { To::Err } else { To::Out };
            if line.skipped_bytes > 0 {
                pieces.extend(self.pause());
                let told = format!(
                    "{prefix}[skerry: {} bytes were rotated away before they were read]\n",
                    line.skipped_bytes
                );
                push(&mut pieces, To::Err, told.as_bytes());
            }
            let goes_on = self
                .open
                .as_ref()
                .is_some_and(|(of, source)| *of == answer.instance && *source == line.source);
            if !goes_on {
                pieces.extend(self.pause());
                push(&mut pieces, to, prefix.as_bytes());
                if self.timestamps {
                    push(&mut pieces, to, time_of(line).as_bytes());
                }
            }
            push(&mut pieces, to, &line.data);
            if line.partial {
                self.open = Some((answer.instance.clone(), line.source));
            } else {
                self.open = None;
                push(&mut pieces, to, b"\n");
            }
        }
        pieces
    }

    /// Ends the line that was begun, so that something else may be written.
    pub(crate) fn pause(&mut self) -> Vec<(To, Vec<u8>)> {
        let open = self.open.take();
        let ended = open.map(|(_, source)| {
            let to = if source == i32::from(Source::Stderr) { To::Err } else { To::Out };
            (to, b"\n".to_vec())
        });
        ended.into_iter().collect()
    }

    fn prefix_of(&self, instance: &str) -> String {
        let name = instance.split_once('/').map_or(instance, |(_, rest)| rest);
        if self.colour { format!("{} | ", of_name(name)) } else { format!("{name} | ") }
    }
}

/// Adds to the last piece, where that goes to the same place.
fn push(pieces: &mut Vec<(To, Vec<u8>)>, to: To, bytes: &[u8]) {
    match pieces.last_mut() {
        Some((last, piece)) if *last == to => piece.extend_from_slice(bytes),
        _ => pieces.push((to, bytes.to_vec())),
    }
}

fn time_of(line: &pb::LogLine) -> String {
    if line.time_unix_nanos == 0 {
        return "- ".to_owned();
    }
    let time = jiff::Timestamp::from_nanosecond(i128::from(line.time_unix_nanos));
    time.map_or_else(|_| "- ".to_owned(), |time| format!("{time:.6} "))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn line(source: Source, text: &'static str) -> pb::LogLine {
        pb::LogLine { source: source.into(), data: text.into(), ..pb::LogLine::default() }
    }

    fn answer(instance: &str, lines: Vec<pb::LogLine>) -> pb::LogsResponse {
        pb::LogsResponse { instance: instance.to_owned(), lines, ..pb::LogsResponse::default() }
    }

    fn shown(pieces: Vec<(To, Vec<u8>)>) -> Vec<(To, String)> {
        pieces.into_iter().map(|(to, bytes)| (to, String::from_utf8(bytes).unwrap())).collect()
    }

    #[test]
    fn both_outputs_go_their_way_with_the_name_before_each_line() {
        let mut painter = Painter::new(false, false, true);
        let lines = vec![line(Source::Stdout, "a"), line(Source::Stdout, "b"), line(Source::Stderr, "c")];
        assert_eq!(
            shown(painter.paint(&answer("app/web/n1/0", lines))),
            [(To::Out, "web/n1/0 | a\nweb/n1/0 | b\n".to_owned()), (To::Err, "web/n1/0 | c\n".to_owned())]
        );
    }

    #[test]
    fn a_line_that_came_in_parts_is_one_line_unless_something_comes_between() {
        let part = |text| pb::LogLine { partial: true, ..line(Source::Stdout, text) };
        let mut painter = Painter::new(false, false, true);
        let whole = painter.paint(&answer("a/s/n/0", vec![part("one "), line(Source::Stdout, "line")]));
        assert_eq!(shown(whole), [(To::Out, "s/n/0 | one line\n".to_owned())]);
        painter.paint(&answer("a/s/n/0", vec![part("begun")]));
        let other = painter.paint(&answer("a/s/n/1", vec![line(Source::Stdout, "other")]));
        assert_eq!(shown(other).concat_out(), "\ns/n/1 | other\n");
        assert!(painter.pause().is_empty());
    }

    #[test]
    fn times_and_what_is_missing_are_told() {
        let mut painter = Painter::new(false, true, false);
        let timed =
            pb::LogLine { time_unix_nanos: 1_500_000_000, skipped_bytes: 9, ..line(Source::Stdout, "x") };
        assert_eq!(
            shown(painter.paint(&answer("a/s/n/0", vec![timed]))),
            [
                (To::Err, "[skerry: 9 bytes were rotated away before they were read]\n".to_owned()),
                (To::Out, "1970-01-01T00:00:01.500000Z x\n".to_owned())
            ]
        );
    }

    trait Concat {
        fn concat_out(self) -> String;
    }

    impl Concat for Vec<(To, String)> {
        fn concat_out(self) -> String {
            self.into_iter().filter(|(to, _)| *to == To::Out).map(|(_, text)| text).collect()
        }
    }
}
