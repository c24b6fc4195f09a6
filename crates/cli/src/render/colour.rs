//! Colours of words that say how something stands. Which words are good is decided here and nowhere else.

const GREEN: &str = "\x1b[32m";
const YELLOW: &str = "\x1b[33m";
const RED: &str = "\x1b[31m";
const CYAN: &str = "\x1b[36m";
const RESET: &str = "\x1b[0m";

/// Columns whose words have a colour.
const STATES: [&str; 6] = ["STATUS", "PHASE", "READY", "REASON", "SEVERITY", "HEALTH"];

/// The text of a cell in the column `header`, in its colour.
pub(super) fn cell(header: &str, text: &str) -> String {
    match STATES.contains(&header).then(|| of_state(header, text)).flatten() {
        Some(colour) => painted(colour, text),
        None => text.to_owned(),
    }
}

fn of_state(header: &str, text: &str) -> Option<&'static str> {
    let text = text.trim_end();
    if header == "READY" {
        return match text.split_once('/') {
            Some((ready, wanted)) if ready == wanted => Some(GREEN),
            Some(_) => Some(YELLOW),
            None => Some(if text == "yes" { GREEN } else { YELLOW }),
        };
    }
    let first = text.split([' ', ',']).next().unwrap_or_default();
    if header == "REASON" {
        let failed = ["Failed", "Error", "Missing", "Unhealthy", "Exited", "OutOf", "Refused", "Unavailable"];
        return failed.iter().any(|word| first.contains(word)).then_some(RED);
    }
    match first {
        "Ready" if text.contains("Cordoned") || text.contains("Draining") => Some(YELLOW),
        "Ready" | "Available" | "Running" | "Completed" | "OK" => Some(GREEN),
        "Pending" | "Preparing" | "Progressing" | "Stopping" | "Backoff" | "Warning" => Some(YELLOW),
        "NotReady" | "Disconnected" | "Unavailable" | "Failed" | "Deleted" | "Critical" => Some(RED),
        _ => None,
    }
}

/// A line of a unified diff, in its colour.
pub(super) fn diff_line(line: &str) -> String {
    let colour = match line.chars().next() {
        Some('+') => GREEN,
        Some('-') => RED,
        Some('@') => CYAN,
        _ => return line.to_owned(),
    };
    match line.strip_suffix('\n') {
        Some(line) => painted(colour, line) + "\n",
        None => painted(colour, line),
    }
}

/// Green for what is well, red for what is not, and as it is for what is neither.
pub(super) fn outcome(text: &str, good: Option<bool>) -> String {
    match good {
        Some(true) => painted(GREEN, text),
        Some(false) => painted(RED, text),
        None => text.to_owned(),
    }
}

/// A name in a colour of its own: always the same one, and mostly another one than its neighbours'.
pub(super) fn of_name(name: &str) -> String {
    const COLOURS: [&str; 6] = [CYAN, YELLOW, GREEN, "\x1b[35m", "\x1b[34m", "\x1b[36;1m"];
    // FNV-1a, 32 bits.
    let hash =
        name.bytes().fold(0x811c_9dc5_u32, |hash, byte| (hash ^ u32::from(byte)).wrapping_mul(0x0100_0193));
    let index = usize::try_from(hash).unwrap_or(0) % COLOURS.len();
    painted(COLOURS[index], name)
}

fn painted(colour: &str, text: &str) -> String {
    format!("{colour}{text}{RESET}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn states_have_colours_and_other_words_have_none() {
        assert_eq!(cell("STATUS", "Ready"), "\x1b[32mReady\x1b[0m");
        assert_eq!(cell("STATUS", "Ready,Cordoned"), "\x1b[33mReady,Cordoned\x1b[0m");
        assert_eq!(cell("STATUS", "Unavailable (X)  "), "\x1b[31mUnavailable (X)  \x1b[0m");
        assert_eq!(cell("READY", "1/2"), "\x1b[33m1/2\x1b[0m");
        assert_eq!(cell("READY", "2/2"), "\x1b[32m2/2\x1b[0m");
        assert_eq!(cell("REASON", "ImagePullFailed"), "\x1b[31mImagePullFailed\x1b[0m");
        assert_eq!(cell("REASON", "Pulling"), "Pulling");
        assert_eq!(cell("NAME", "Ready"), "Ready");
        assert_eq!(diff_line("+a\n"), "\x1b[32m+a\x1b[0m\n");
        assert_eq!(diff_line(" a\n"), " a\n");
    }
}
