//! Aligned columns.

use skerry_model::text::is_command;

use crate::render::colour;

/// Between two columns.
const GAP: usize = 3;
/// A column is cut no narrower than this to fit a terminal.
const CUT_MIN: usize = 12;

/// The widest column is cut in steps of this, so that columns of like width are cut alike.
const STEP: usize = 4;

/// A table that may be printed in pieces: columns keep their width from piece to piece, and grow when they must.
#[derive(Debug)]
pub(crate) struct Table {
    headers: Vec<&'static str>,
    widths: Vec<usize>,
    terminal: Option<usize>,
    header_due: bool,
    colour: bool,
}

impl Table {
    /// A table that is cut to `terminal` columns, if given.
    pub(crate) fn new(headers: &[&'static str], terminal: Option<usize>, with_headers: bool) -> Self {
        let widths = headers.iter().map(|header| if with_headers { header.len() } else { 0 }).collect();
        Self { headers: headers.to_vec(), widths, terminal, header_due: with_headers, colour: false }
    }

    /// States in colours.
    #[must_use]
    pub(crate) fn in_colour(mut self, colour: bool) -> Self {
        self.colour = colour;
        self
    }

    /// Makes columns at least so wide: for rows that come one at a time.
    #[must_use]
    pub(crate) fn at_least(mut self, widths: &[usize]) -> Self {
        for (width, least) in self.widths.iter_mut().zip(widths) {
            *width = (*width).max(*least);
        }
        self
    }

    /// The next rows as text, with the column names before the first.
    pub(crate) fn rows(&mut self, rows: &[Vec<String>]) -> String {
        for row in rows {
            for (width, cell) in self.widths.iter_mut().zip(row) {
                *width = (*width).max(cell.chars().count());
            }
        }
        let widths = self.fitting();
        let mut text = String::new();
        if std::mem::take(&mut self.header_due) {
            let headers: Vec<String> = self.headers.iter().map(|&header| header.to_owned()).collect();
            line(&mut text, &headers, &widths, |_, cell| cell);
        }
        for row in rows {
            line(&mut text, row, &widths, |index, cell| match self.headers.get(index) {
                Some(header) if self.colour => colour::cell(header, &cell),
                _ => cell,
            });
        }
        text
    }

    /// The widths, the widest cut until the line fits the terminal.
    fn fitting(&self) -> Vec<usize> {
        let mut widths = self.widths.clone();
        let Some(terminal) = self.terminal else { return widths };
        loop {
            let total = widths.iter().sum::<usize>() + GAP * widths.len().saturating_sub(1);
            let Some(widest) = widths.iter_mut().filter(|width| **width > CUT_MIN).max() else {
                return widths;
            };
            if total <= terminal {
                return widths;
            }
            *widest -= (total - terminal).clamp(1, *widest - CUT_MIN).min(STEP);
        }
    }
}

/// One row, each cell `painted` once it has its width: what paints has none.
fn line(text: &mut String, cells: &[String], widths: &[usize], painted: impl Fn(usize, String) -> String) {
    let last = cells.iter().rposition(|cell| !cell.trim_end().is_empty()).map_or(0, |index| index + 1);
    for (index, (cell, width)) in cells.iter().zip(widths).take(last).enumerate() {
        if index > 0 {
            text.push_str(&" ".repeat(GAP));
        }
        // One row of a table is one line, whatever a server says.
        let cell = plain(cell);
        let length = cell.chars().count();
        let cut = if length > *width {
            cell.chars().take(width.saturating_sub(1)).chain(['…']).collect()
        } else {
            cell
        };
        let cut = if index + 1 == last { cut.trim_end().to_owned() } else { cut };
        text.push_str(&painted(index, cut));
        if index + 1 < last {
            text.push_str(&" ".repeat(width.saturating_sub(length)));
        }
    }
    text.push('\n');
}

/// `text` on one line, with nothing in it that commands a terminal, or turns the direction of what stands around it.
pub(crate) fn plain(text: &str) -> String {
    text.chars().map(|c| if is_command(c) { ' ' } else { c }).collect()
}

/// The same of a text of several lines, which stay.
pub(crate) fn plain_lines(text: &str) -> String {
    text.split('\n').map(plain).collect::<Vec<_>>().join("\n")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn row(cells: &[&str]) -> Vec<String> {
        cells.iter().map(|&cell| cell.to_owned()).collect()
    }

    #[test]
    fn columns_are_aligned_and_lines_have_no_trailing_space() {
        let mut table = Table::new(&["NAME", "STATUS"], None, true);
        let text = table.rows(&[row(&["a", "Ready"]), row(&["longer", ""])]);
        assert_eq!(text, "NAME     STATUS\na        Ready\nlonger\n");
        assert_eq!(table.rows(&[row(&["b", "Ready"])]), "b        Ready\n");
    }

    #[test]
    fn rows_that_come_one_at_a_time_may_have_room() {
        let mut table = Table::new(&["A", "B"], None, true).at_least(&[4]);
        assert_eq!(table.rows(&[row(&["x", "y"])]), "A      B\nx      y\n");
        assert_eq!(table.rows(&[row(&["long", "y"])]), "long   y\n");
    }

    #[test]
    fn the_widest_column_is_cut_to_the_terminal() {
        let mut table = Table::new(&["NAME", "REASON"], Some(24), true);
        let text = table.rows(&[row(&["a", "a very long reason that does not fit"])]);
        assert_eq!(text, "NAME   REASON\na      a very long reas…\n");
        assert!(text.lines().all(|line| line.chars().count() <= 24));
    }

    #[test]
    fn colours_take_no_room() {
        let mut table = Table::new(&["STATUS", "AGE"], None, true).in_colour(true);
        let text = table.rows(&[row(&["Ready", "5m"]), row(&["x", "6m"])]);
        assert_eq!(text, "STATUS   AGE\n\x1b[32mReady\x1b[0m    5m\nx        6m\n");
    }

    #[test]
    fn no_headers_and_no_control_characters() {
        let mut table = Table::new(&["NAME"], None, false);
        assert_eq!(table.rows(&[row(&["a\nb"])]), "a b\n");
        assert_eq!(table.rows(&[row(&["a\u{202e}b\u{2066}c\u{200f}d"])]), "a b c d\n");
        assert_eq!(plain_lines("a\n\u{202b}b"), "a\n b");
    }
}
