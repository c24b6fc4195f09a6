//! Pages that show commands, run as a reader would run them: every manifest is written, every command executed, every shown output held
//! against what was printed.
//!
//! What a page may hold is in `page`, how output is compared in `shown`, the shell that its commands are typed into in `shell`.
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

#[cfg(test)]
mod tests {
    use super::*;

    async fn outcome(text: &str) -> Result<(), String> {
        let page = Page::parse("p.md", text).expect("a page");
        let setting =
            Setting { instead: vec![("world".to_owned(), "reader".to_owned())], ..Setting::default() };
        run(&page, setting).await.map_err(|error| format!("{error:#}"))
    }

    #[tokio::test]
    async fn a_page_that_is_true_passes() {
        let text = "```yaml\n# a.yaml\nkind: world\n```\n\
                    ```console\n$ cat a.yaml | tail -1\nkind: world\n$ export X=1\n$ echo $X; grep reader a.yaml\n1\nkind: world\n\
                    $ false\n$ echo $?\n1\n```\n\
                    ```console background\n$ sh -c 'trap \"echo bye; exit\" INT; echo up; while :; do sleep 0.01; done'\nup\n```\n\
                    ```console background\n^C\nbye\n```\n```sh\ntrue\n```\n";
        assert_eq!(outcome(text).await, Ok(()));
    }

    #[tokio::test]
    async fn a_page_that_is_not_fails_and_the_line_is_named() {
        for (text, told) in [
            ("```console\n$ true\n$ false\n```", "p.md:3: $ false: it fails with exit code 1"),
            (
                "```console\n$ echo two\none\n```",
                "p.md:2: $ echo two: it is shown to print:\none\nand prints:\ntwo",
            ),
            ("```console\n$ echo more\n```", "and prints:\nmore"),
            ("\n```sh\nfalse\ntrue\n```", "p.md:2: it fails with exit code 1"),
            ("```console background\n$ echo one\ntwo\n```", "p.md:1: `two` is shown where it prints:\none"),
            ("```console background\n$ echo one\n...\ntwo\n```", "before `two`"),
        ] {
            let error = outcome(text).await.expect_err(text);
            assert!(error.contains(told), "{text}: {error}");
        }
    }
}
