//! A page of Markdown as what is to be done with it. Pure.
//!
//! | block | meaning |
//! |---|---|
//! | `yaml`, first line `# NAME.yaml` | a file of that name |
//! | `sh` | a script, which must succeed; what it prints is not shown |
//! | `console` | `$ COMMAND`, further lines of it after `> `, then everything that it prints; it may fail only where the next command is `echo $?` |
//! | `console background` | the same with one command, in another terminal: it runs on, and the lines come sooner or later |
//! | `console background` without a command | what comes next in that terminal; `^C` is typed |
//! | `text` | nothing to run |

use anyhow::{Context as _, Result, bail, ensure};

/// A page.
#[derive(Debug)]
pub struct Page {
    /// How errors name it.
    pub name: String,
    /// Its blocks, each with the number of its first line.
    pub blocks: Vec<(usize, Block)>,
}

/// One fenced block.
#[derive(Debug, PartialEq, Eq)]
pub enum Block {
    /// A file to be written.
    File {
        /// Relative path.
        name: String,
        /// All of it.
        text: String,
    },
    /// Commands without their output.
    Script(String),
    /// Commands with their output.
    Session(Vec<Step>),
    /// A command that runs on in another terminal, or more of what it prints.
    Background {
        /// Absent: the last one's.
        command: Option<String>,
        /// The lines to wait for.
        shown: Vec<String>,
    },
}

/// One command with its output.
#[derive(Debug, PartialEq, Eq)]
pub struct Step {
    /// Where it stands in the page.
    pub line: usize,
    /// The command.
    pub command: String,
    /// The lines that it prints.
    pub shown: Vec<String>,
}

impl Page {
    /// Reads a page.
    ///
    /// # Errors
    /// Names the line of a block that is none of the above: nothing in a page goes unrun by mistake.
    pub fn parse(name: &str, text: &str) -> Result<Self> {
        let mut blocks = Vec::new();
        let mut lines = text.lines().enumerate();
        while let Some((index, line)) = lines.next() {
            let Some(info) = line.trim_start().strip_prefix("```") else { continue };
            let at = || format!("{name}:{}", index + 1);
            let mut body = Vec::new();
            let mut closed = false;
            for (_, line) in lines.by_ref() {
                closed = line.trim() == "```";
                if closed {
                    break;
                }
                body.push(line);
            }
            ensure!(closed, "{}: the block has no end", at());
            if let Some(block) = block(info.trim(), index + 2, &body).with_context(at)? {
                blocks.push((index + 1, block));
            }
        }
        Ok(Self { name: name.to_owned(), blocks })
    }
}

fn block(info: &str, first_line: usize, body: &[&str]) -> Result<Option<Block>> {
    Ok(Some(match info {
        "text" => return Ok(None),
        "yaml" => file(body)?,
        "sh" => Block::Script(body.join("\n")),
        "console" => Block::Session(session(first_line, body)?),
        "console background" => background(body)?,
        other => bail!("`{other}` is no kind of block that is run, nor `text`"),
    }))
}

fn file(body: &[&str]) -> Result<Block> {
    let head = body.first().and_then(|line| line.strip_prefix("# "));
    let name = head.context("a manifest opens with `# NAME.yaml`")?;
    let plain = |c: char| c.is_ascii_alphanumeric() || "-_./".contains(c);
    ensure!(
        name.chars().all(plain) && !name.starts_with('/') && !name.contains(".."),
        "`{name}` is no name of a file"
    );
    Ok(Block::File { name: name.to_owned(), text: body.join("\n") + "\n" })
}

fn session(first_line: usize, body: &[&str]) -> Result<Vec<Step>> {
    let mut steps: Vec<Step> = Vec::new();
    for (index, line) in body.iter().enumerate() {
        if let Some(command) = line.strip_prefix("$ ") {
            let command = command.to_owned();
            steps.push(Step { line: first_line + index, command, shown: Vec::new() });
            continue;
        }
        let step = steps.last_mut().context("a session opens with `$ COMMAND`")?;
        match line.strip_prefix("> ").or_else(|| (*line == ">").then_some("")) {
            Some(more) if step.shown.is_empty() => step.command = format!("{}\n{more}", step.command),
            _ => step.shown.push((*line).to_owned()),
        }
    }
    ensure!(!steps.is_empty(), "a session has at least one command");
    Ok(steps)
}

fn background(body: &[&str]) -> Result<Block> {
    let owned = |lines: &[&str]| lines.iter().map(|line| (*line).to_owned()).collect();
    let Some(command) = body.first().and_then(|line| line.strip_prefix("$ ")) else {
        return Ok(Block::Background { command: None, shown: owned(body) });
    };
    let shown = &body[1..];
    ensure!(!shown.iter().any(|line| line.starts_with("$ ")), "a terminal in the background has one command");
    Ok(Block::Background { command: Some(command.to_owned()), shown: owned(shown) })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn blocks(text: &str) -> Vec<Block> {
        Page::parse("p.md", text).expect("a page").blocks.into_iter().map(|(_, block)| block).collect()
    }

    #[test]
    fn every_kind_of_block_is_read() {
        let text = "# Title\n```yaml\n# a.yaml\nkind: App\n```\nwords\n```sh\nx\ny\n```\n```text\nart\n```\n\
                    ```console\n$ one \\\n> two\nout\n$ three\n```\n```console background\n$ up\nready\n```\n\
                    ```console background\nmore\n```\n";
        let step = |line, command: &str, shown: &[&str]| Step {
            line,
            command: command.to_owned(),
            shown: shown.iter().map(|line| (*line).to_owned()).collect(),
        };
        assert_eq!(
            blocks(text),
            [
                Block::File { name: "a.yaml".to_owned(), text: "# a.yaml\nkind: App\n".to_owned() },
                Block::Script("x\ny".to_owned()),
                Block::Session(vec![step(15, "one \\\ntwo", &["out"]), step(18, "three", &[])]),
                Block::Background { command: Some("up".to_owned()), shown: vec!["ready".to_owned()] },
                Block::Background { command: None, shown: vec!["more".to_owned()] },
            ]
        );
    }

    #[test]
    fn nothing_goes_unrun_by_mistake() {
        for (text, told) in [
            ("```bash\nx\n```", "p.md:1: `bash`"),
            ("a\n```\nx\n```", "p.md:2: ``"),
            ("```yaml\nkind: App\n```", "opens with"),
            ("```yaml\n# ../a.yaml\n```", "no name of a file"),
            ("```console\nout\n```", "opens with `$"),
            ("```sh\nx", "no end"),
        ] {
            let error = format!("{:#}", Page::parse("p.md", text).expect_err(text));
            assert!(error.contains(told), "{error}");
        }
    }
}
