//! A terminal with a program in it: what is typed goes to the program, and its screen is what a person would see.

use std::fs::File;
use std::io::{Read as _, Write as _};
use std::num::NonZero;
use std::path::Path;
use std::process::{Child, Command, ExitStatus};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use anyhow::{Context as _, Result, bail, ensure};
use rustix::fs::{Mode, OFlags};
use rustix::pty::{OpenptFlags, grantpt, openpt, ptsname, unlockpt};
use rustix::termios::{Winsize, tcsetwinsize};
use tokio::time::{Instant, sleep};

/// Time between two looks at the screen.
const POLL_PERIOD: Duration = Duration::from_millis(20);

/// A program in a terminal, whose other end is a file. Dropping it hangs up and kills the program.
pub struct Pty {
    /// What is written is typed; what is read is what the program writes.
    pub master: File,
    child: Child,
}

impl Pty {
    /// Runs the command in a new terminal of this size, as its controlling one.
    ///
    /// # Errors
    /// When there is no terminal to be had, or the program cannot be started by `setsid` (util-linux).
    pub fn run(command: &Command, columns: u16, rows: u16) -> Result<Self> {
        let master = openpt(OpenptFlags::RDWR | OpenptFlags::NOCTTY | OpenptFlags::CLOEXEC)?;
        grantpt(&master)?;
        unlockpt(&master)?;
        let name = ptsname(&master, Vec::new())?.into_string().context("the name of a terminal is text")?;
        resize(&master, columns, rows)?;
        // Not this process's terminal, though it may have none.
        let flags = OFlags::RDWR | OFlags::NOCTTY | OFlags::CLOEXEC;
        let slave = rustix::fs::open(Path::new(&name), flags, Mode::empty())?;
        let mut run = Command::new("setsid");
        run.arg("--ctty").arg(command.get_program()).args(command.get_args()).env("TERM", "xterm");
        for (name, value) in command.get_envs() {
            match value {
                Some(value) => run.env(name, value),
                None => run.env_remove(name),
            };
        }
        run.stdin(slave.try_clone()?).stdout(slave.try_clone()?).stderr(slave);
        let child = run.spawn().with_context(|| format!("starting {run:?}"))?;
        Ok(Self { master: File::from(master), child })
    }
}

impl Drop for Pty {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// A terminal with a screen.
pub struct Terminal {
    pty: Pty,
    screen: Arc<Mutex<vt100::Parser>>,
}

impl Terminal {
    /// Runs the command in a new terminal of this size.
    ///
    /// # Errors
    /// As of [`Pty::run`].
    pub fn run(command: &Command, columns: u16, rows: u16) -> Result<Self> {
        let pty = Pty::run(command, columns, rows)?;
        let screen = Arc::new(Mutex::new(vt100::Parser::new(lines(rows)?, lines(columns)?, 0)));
        let (mut reader, shown) = (pty.master.try_clone()?, Arc::clone(&screen));
        std::thread::Builder::new().name("screen".into()).spawn(move || {
            let mut piece = [0; 4096];
            // Ends with an error when nobody holds the other end.
            while let Ok(count @ 1..) = reader.read(&mut piece) {
                shown.lock().unwrap_or_else(PoisonError::into_inner).process(&piece[..count]);
            }
        })?;
        Ok(Self { pty, screen })
    }

    /// Types.
    ///
    /// # Errors
    /// When the program has hung up.
    pub fn press(&mut self, keys: &str) -> Result<()> {
        self.pty.master.write_all(keys.as_bytes()).with_context(|| format!("typing {keys:?}"))
    }

    /// Makes it larger or smaller.
    ///
    /// # Errors
    /// When the program has hung up.
    pub fn resize(&mut self, columns: u16, rows: u16) -> Result<()> {
        self.screen
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .screen_mut()
            .set_size(lines(rows)?, lines(columns)?);
        resize(&self.pty.master, columns, rows)
    }

    /// What is on the screen: its lines.
    #[must_use]
    pub fn text(&self) -> String {
        self.screen.lock().unwrap_or_else(PoisonError::into_inner).screen().contents()
    }

    /// Waits until the screen is as wanted.
    ///
    /// # Errors
    /// When it does not become so, with what is there.
    pub async fn wait(&self, what: &str, patience: Duration, wanted: impl Fn(&str) -> bool) -> Result<()> {
        let deadline = Instant::now() + patience;
        loop {
            let text = self.text();
            if wanted(&text) {
                return Ok(());
            }
            ensure!(Instant::now() < deadline, "{what} does not come; the screen has:\n{text}");
            sleep(POLL_PERIOD).await;
        }
    }

    /// Waits until the program has ended.
    ///
    /// # Errors
    /// When it does not.
    pub async fn ended(&mut self, patience: Duration) -> Result<ExitStatus> {
        let deadline = Instant::now() + patience;
        loop {
            if let Some(status) = self.pty.child.try_wait()? {
                return Ok(status);
            }
            if Instant::now() > deadline {
                bail!("it goes on; the screen has:\n{}", self.text());
            }
            sleep(POLL_PERIOD).await;
        }
    }

    /// The number of its process.
    #[must_use]
    pub fn pid(&self) -> u32 {
        self.pty.child.id()
    }

    /// Kills the program.
    ///
    /// # Errors
    /// When it cannot be killed.
    pub fn kill(&mut self) -> Result<()> {
        self.pty.child.kill().context("killing what runs in the terminal")
    }
}

fn lines(count: u16) -> Result<NonZero<u16>> {
    NonZero::new(count).context("a terminal has a size")
}

fn resize(master: impl std::os::fd::AsFd, columns: u16, rows: u16) -> Result<()> {
    let size = Winsize { ws_row: rows, ws_col: columns, ws_xpixel: 0, ws_ypixel: 0 };
    tcsetwinsize(master, size).context("setting the size of a terminal")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_program_has_a_terminal_is_typed_to_and_its_end_is_seen() {
        let mut command = Command::new("sh");
        command.args(["-c", "stty size; read word; echo got $word; exit 3"]);
        let mut terminal = Terminal::run(&command, 81, 23).expect("a terminal");
        let patience = Duration::from_secs(20);
        terminal.wait("its size", patience, |text| text.contains("23 81")).await.expect("its size");
        terminal.press("that\n").expect("it reads");
        terminal.wait("its answer", patience, |text| text.contains("got that")).await.expect("an answer");
        let ended = terminal.ended(patience).await.expect("it ends");
        assert_eq!(ended.code(), Some(3));
    }
}
