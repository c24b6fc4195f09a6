//! A witness to what really runs: each copy of an instance signs a book when it starts, and is caught if it runs beside another.
//!
//! The copy's script holds an flock on the instance's file for as long as it lives. A second copy that finds it held writes a complaint.

use std::fs;
use std::path::{Path, PathBuf};

use skerry_proto::types::v1::ServiceSpec;
use skerry_testing::eventually;
use tempfile::TempDir;

use crate::apps::script;
use crate::stack::PATIENCE;

/// Watches over process instances of one machine.
#[derive(Debug)]
pub struct Witness {
    dir: TempDir,
}

/// One start of an instance.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Start {
    /// `<app>/<service>/<cluster>/<ordinal>`, with `_` for `/`.
    pub instance: String,
    /// Its process.
    pub pid: u32,
    /// What its `VERSION` variable said.
    pub version: String,
}

impl Witness {
    /// A new book.
    pub fn new() -> std::io::Result<Self> {
        Ok(Self { dir: TempDir::new()? })
    }

    /// Where the book lies.
    pub fn path(&self) -> &Path {
        self.dir.path()
    }

    /// A service whose copies sign the book and then stay. Needs `flock` of util-linux.
    pub fn service(&self, name: &str, version: &str) -> ServiceSpec {
        let dir = self.dir.path().display();
        // The lock is on descriptor 9, which the exec'ed sleep keeps.
        let text = format!(
            "i=$(echo \"$SKERRY_INSTANCE\" | tr / _); exec 9>>{dir}/$i.lock; \
             flock -n 9 || echo \"$i $$\" >>{dir}/complaints; \
             echo \"$i $$ $VERSION\" >>{dir}/starts; exec sleep 1000000"
        );
        crate::apps::with_env("VERSION", version, script(name, &text))
    }

    /// Every start, in order.
    pub fn starts(&self) -> Vec<Start> {
        let text = fs::read_to_string(self.file("starts")).unwrap_or_default();
        let start = |line: &str| {
            let mut words = line.split(' ');
            Some(Start {
                instance: words.next()?.to_owned(),
                pid: words.next()?.parse().ok()?,
                version: words.next().unwrap_or_default().to_owned(),
            })
        };
        text.lines().filter_map(start).collect()
    }

    /// The starts that still run.
    pub fn running(&self) -> Vec<Start> {
        let is_sleep = |pid: u32| {
            let line = fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
            line.starts_with(b"sleep\x001000000")
        };
        self.starts().into_iter().filter(|start| is_sleep(start.pid)).collect()
    }

    /// Waits until so many run: an instance counts as running before its script has come to the book.
    pub async fn wait_running(&self, count: usize) -> Vec<Start> {
        eventually(&format!("{count} running"), PATIENCE, async || {
            let running = self.running();
            if running.len() == count { Ok(running) } else { Err(format!("{running:?}")) }
        })
        .await
    }

    /// Copies that ran beside another of the same instance: must be empty.
    pub fn complaints(&self) -> String {
        fs::read_to_string(self.file("complaints")).unwrap_or_default()
    }

    /// Checks that nothing runs twice and nothing ever did.
    ///
    /// # Panics
    /// When something did.
    pub fn check(&self) {
        assert_eq!(self.complaints(), "", "copies that ran beside another");
        let mut running: Vec<String> = self.running().into_iter().map(|start| start.instance).collect();
        let count = running.len();
        running.sort();
        running.dedup();
        assert_eq!(running.len(), count, "an instance runs twice: {:?}", self.running());
    }

    fn file(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }
}
