//! Commands that people run beside instances, as runtimes are asked for them: what to run, what goes in and what comes out.

use bytes::Bytes;
use skerry_proto::relay::v1 as pb;
use tokio::sync::mpsc;

use super::RuntimeError;

/// Most bytes of output that are one piece.
pub(crate) const PIECE_BYTES_MAX: usize = 32 * 1024;
/// Exit code where it cannot be run, as shells have it.
pub(crate) const CANNOT_RUN: i32 = 126;
/// Exit code where there is no such program.
pub(crate) const NO_PROGRAM: i32 = 127;
/// Said to a program on a terminal where nothing else is.
pub(crate) const TERM: (&str, &str) = ("TERM", "xterm");
/// Ends the input of a program on a terminal, as Ctrl-D does.
pub(crate) const END_OF_INPUT: &[u8] = &[4];

/// What to run.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ExecAsk {
    /// Program and arguments. None only on the node itself: the user's shell.
    pub(crate) command: Vec<String>,
    /// Of the terminal that it has; absent: it has none.
    pub(crate) terminal: Option<TerminalSize>,
    /// Whether there is input.
    pub(crate) stdin: bool,
    pub(crate) env: Vec<(String, String)>,
    pub(crate) user: Option<String>,
    pub(crate) working_dir: Option<String>,
    /// In a new container of this image, beside the instance's.
    pub(crate) debug_image: Option<String>,
}

/// How large a terminal is, in characters.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct TerminalSize {
    pub(crate) columns: u16,
    pub(crate) rows: u16,
}

/// What is done to a command that runs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Act {
    Resize(TerminalSize),
    /// To its process group.
    Signal(ExecSignal),
}

/// A signal that may be sent, by its number.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct ExecSignal(i32);

/// What a command says.
#[derive(Debug)]
pub(crate) enum Told {
    /// It runs. First.
    Started,
    Stdout(Bytes),
    Stderr(Bytes),
}

/// How it ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Exit {
    /// 128 + n for signal n.
    pub(crate) code: i32,
    /// Why it was never run.
    pub(crate) message: String,
}

/// What flows to and from a command.
#[derive(Debug)]
pub struct ExecLine {
    /// Closed: nothing more for its input.
    pub(crate) stdin: mpsc::Receiver<Bytes>,
    pub(crate) acts: mpsc::Receiver<Act>,
    /// Taken at the pace of who reads.
    pub(crate) out: mpsc::Sender<Told>,
}

impl ExecAsk {
    /// As a relay asks.
    pub(crate) fn of(start: &pb::ExecStart) -> Result<Self, RuntimeError> {
        let invalid = |message: &str| {
            Err(RuntimeError { reason: "ExecInvalid", message: message.to_owned(), transient: false })
        };
        if start.command.is_empty() && !start.instance.is_empty() {
            return invalid("command: say what to run");
        }
        if start.env.keys().any(|name| name.is_empty() || name.contains('=')) {
            return invalid("env: names are not empty and without `=`");
        }
        let mut texts = start.command.iter().chain(start.env.keys()).chain(start.env.values());
        let words = [&start.user, &start.working_dir, &start.debug_image];
        if texts.any(|text| text.contains('\0')) || words.into_iter().any(|text| text.contains('\0')) {
            return invalid("no argument, variable or name can have a NUL");
        }
        let some = |text: &str| (!text.is_empty()).then(|| text.to_owned());
        let mut env: Vec<(String, String)> =
            start.env.iter().map(|(name, value)| (name.clone(), value.clone())).collect();
        env.sort_unstable();
        Ok(Self {
            command: start.command.clone(),
            terminal: start.tty.then(|| TerminalSize::of(start.size.as_ref())),
            stdin: start.stdin,
            env,
            user: some(&start.user),
            working_dir: some(&start.working_dir),
            debug_image: some(&start.debug_image),
        })
    }

    /// For people.
    pub(crate) fn program(&self) -> &str {
        self.command.first().map_or("a shell", String::as_str)
    }
}

impl TerminalSize {
    /// What is not said, or cannot be, is as of old: 80 by 24.
    pub(crate) fn of(size: Option<&pb::TerminalSize>) -> Self {
        let side = |side: Option<u32>, usual| match side.map(u16::try_from) {
            Some(Ok(side)) if side > 0 => side,
            _ => usual,
        };
        Self { columns: side(size.map(|size| size.columns), 80), rows: side(size.map(|size| size.rows), 24) }
    }
}

impl ExecSignal {
    /// By its name, with or without `SIG`, or by its number. Nothing: there is none that may be sent.
    pub(crate) fn parse(text: &str) -> Option<Self> {
        use signal_hook::consts as all;
        let number = match text.strip_prefix("SIG").unwrap_or(text) {
            "HUP" => all::SIGHUP,
            "INT" => all::SIGINT,
            "QUIT" => all::SIGQUIT,
            "KILL" => all::SIGKILL,
            "USR1" => all::SIGUSR1,
            "USR2" => all::SIGUSR2,
            "ALRM" => all::SIGALRM,
            "ABRT" => all::SIGABRT,
            "TERM" => all::SIGTERM,
            "CONT" => all::SIGCONT,
            "STOP" => all::SIGSTOP,
            "TSTP" => all::SIGTSTP,
            "WINCH" => all::SIGWINCH,
            number => number.parse().ok()?,
        };
        (1..=31).contains(&number).then_some(Self(number))
    }

    pub(crate) fn number(self) -> i32 {
        self.0
    }
}

impl Exit {
    /// Of what ran.
    pub(crate) fn of(code: i32) -> Self {
        Self { code, message: String::new() }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn signals_have_names_and_numbers() {
        let number = |text| ExecSignal::parse(text).map(ExecSignal::number);
        assert_eq!(number("SIGINT"), Some(2));
        assert_eq!(number("TERM"), Some(15));
        assert_eq!(number("9"), Some(9));
        for bad in ["", "SIG", "SIGNOTHING", "0", "32", "-1", "64"] {
            assert_eq!(number(bad), None, "{bad}");
        }
        assert!((1..=31).all(|n| rustix::process::Signal::from_named_raw(n).is_some()));
    }

    #[test]
    fn a_terminal_always_has_a_size() {
        let size = |columns, rows| TerminalSize::of(Some(&pb::TerminalSize { columns, rows }));
        assert_eq!(size(132, 43), TerminalSize { columns: 132, rows: 43 });
        assert_eq!(size(0, 70_000), TerminalSize { columns: 80, rows: 24 });
        assert_eq!(TerminalSize::of(None), TerminalSize { columns: 80, rows: 24 });
    }

    #[test]
    fn what_cannot_be_run_anywhere_is_refused() {
        let start = |command: &[&str]| pb::ExecStart {
            instance: "a/b/c/0".to_owned(),
            command: command.iter().map(ToString::to_string).collect(),
            ..pb::ExecStart::default()
        };
        assert!(ExecAsk::of(&start(&["ls"])).is_ok());
        assert!(ExecAsk::of(&start(&[])).is_err());
        assert!(ExecAsk::of(&pb::ExecStart { instance: String::new(), ..start(&[]) }).is_ok(), "a shell");
        assert!(ExecAsk::of(&start(&["l\0s"])).is_err());
        let env = [("A=B".to_owned(), String::new())].into();
        assert!(ExecAsk::of(&pb::ExecStart { env, ..start(&["ls"]) }).is_err());
    }
}
