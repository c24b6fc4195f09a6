//! Pages that show commands, run as a reader would run them: every manifest is written, every command executed, every shown output held
//! against what was printed.
//!
//! What a page may hold is in [`page`], how output is compared in [`shown`], the shell that its commands are typed into in [`shell`].
//! Nothing here knows what the pages are about.

mod page;
mod shell;
mod shown;

pub use page::{Block, Page, Step};
pub use shell::{Setting, Shell};
pub use shown::fits;

use anyhow::{Context as _, Result};

/// Runs a page from its first block to its last, then ends what it left running.
///
/// # Errors
/// When a block cannot be read, a command fails that should not, or an output is not as shown: with its line in the page.
pub async fn run(page: &Page, setting: Setting) -> Result<()> {
    let mut shell = Shell::open(setting)?;
    let ran = blocks(page, &mut shell).await;
    let closed = shell.close().await;
    ran?;
    closed.with_context(|| format!("{}: after its last block", page.name))
}

async fn blocks(page: &Page, shell: &mut Shell) -> Result<()> {
    for (line, block) in &page.blocks {
        let at = || format!("{}:{line}", page.name);
        match block {
            Block::File { name, text } => shell.write(name, text).with_context(at)?,
            Block::Script(script) => shell.script(script).await.with_context(at)?,
            Block::Session(steps) => {
                for (index, step) in steps.iter().enumerate() {
                    // The next command looks at the exit code, so this one may fail.
                    let may_fail = steps.get(index + 1).is_some_and(|next| next.command.contains("echo $?"));
                    let at = || format!("{}:{}: $ {}", page.name, step.line, step.command);
                    shell.step(step, may_fail).await.with_context(at)?;
                }
            }
            Block::Background { command, shown } => {
                if let Some(command) = command {
                    shell.start(command).with_context(at)?;
                }
                shell.watch(shown).await.with_context(at)?;
            }
        }
    }
    Ok(())
}
