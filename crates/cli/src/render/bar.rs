//! How far something is, as a bar of characters.

use crate::patience::Seen;

/// Characters of a bar.
const CELLS: u64 = 20;

/// One line for a terminal, as `app/web [##########----------] 1/2 ready; ...`. A percentage in the text, as the agent tells of a pull, has a
/// bar as well.
pub(crate) fn line(subject: &str, seen: &Seen) -> String {
    let text = with_bar(&seen.text);
    match seen.ready {
        Some((ready, wanted)) => {
            format!("{subject} {} {ready}/{wanted} ready; {text}", bar(ready.into(), wanted.into()))
        }
        None => format!("{subject}: {text}"),
    }
}

/// One line for a file.
pub(crate) fn plain(subject: &str, seen: &Seen) -> String {
    match seen.ready {
        Some((ready, wanted)) => format!("{subject}: {ready}/{wanted} ready; {}", seen.text),
        None => format!("{subject}: {}", seen.text),
    }
}

fn bar(done: u64, all: u64) -> String {
    let full = (done.min(all) * CELLS).checked_div(all).unwrap_or(0);
    let cells: String = (0..CELLS).map(|cell| if cell < full { '#' } else { '-' }).collect();
    format!("[{cells}]")
}

/// `...: 45 % (...)` with a bar before the number.
fn with_bar(text: &str) -> String {
    let Some(end) = text.find(" %") else { return text.to_owned() };
    let before = &text[..end];
    let digits = before.len() - before.trim_end_matches(|c: char| c.is_ascii_digit()).len();
    match before[end - digits..].parse::<u64>() {
        Ok(percent) if percent <= 100 => {
            format!("{}{} {}", &text[..end - digits], bar(percent, 100), &text[end - digits..])
        }
        _ => text.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn counts_and_percentages_have_bars() {
        let seen = |text: &str, ready| Seen { text: text.into(), ready };
        assert_eq!(
            line("app/a", &seen("Progressing", Some((1, 2)))),
            "app/a [##########----------] 1/2 ready; Progressing"
        );
        assert_eq!(line("app/a", &seen("x", Some((0, 0)))), "app/a [--------------------] 0/0 ready; x");
        assert_eq!(
            line("app/a", &seen("pulling image `b`: 45 % (4 MiB of 9 MiB)", None)),
            "app/a: pulling image `b`: [#########-----------] 45 % (4 MiB of 9 MiB)"
        );
        assert_eq!(line("n", &seen("a % b", None)), "n: a % b");
        assert_eq!(plain("app/a", &seen("45 %", Some((1, 2)))), "app/a: 1/2 ready; 45 %");
    }
}
