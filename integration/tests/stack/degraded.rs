//! A node with a full disk or a damaged state file: what ran runs on, the fault is told, and once it is mended the node follows again.

use std::fs::{self, File};
use std::io::Write as _;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context as _, Result, bail, ensure};
use skerry_integration::apps::{app, with_env};
use skerry_integration::stack::PATIENCE;
use skerry_integration::witness::Start;
use skerry_integration::{Stack, Witness};
use skerry_testing::eventually;
use tempfile::TempDir;

/// Large enough to be under no pressure while it is empty.
const DISK_MIB: usize = 144;

/// A small disk. Dropping it unmounts it.
struct SmallDisk {
    dir: TempDir,
}

impl SmallDisk {
    fn mount() -> Result<Self> {
        let dir = TempDir::new()?;
        let size = format!("size={DISK_MIB}m,mode=700");
        let args = ["-t", "tmpfs", "-o", &size, "skerry-small-disk"];
        let mounted = Command::new("mount").args(args).arg(dir.path()).output().context("starting mount")?;
        if !mounted.status.success() {
            let why = String::from_utf8_lossy(&mounted.stderr).into_owned();
            bail!("this test needs a disk that it can fill, and so the right to mount a tmpfs (root): {why}");
        }
        Ok(Self { dir })
    }

    fn path(&self) -> &Path {
        self.dir.path()
    }

    /// Writes until nothing more fits.
    fn fill(&self) -> Result<()> {
        for bytes in [1 << 20, 1] {
            let mut file = File::options().create(true).append(true).open(self.ballast())?;
            let block = vec![0; bytes];
            while let Ok(written) = file.write(&block) {
                ensure!(written > 0, "the disk takes nothing and does not say why");
            }
        }
        Ok(())
    }

    fn free(&self) -> Result<()> {
        fs::remove_file(self.ballast()).context("removing what fills the disk")
    }

    fn ballast(&self) -> PathBuf {
        self.dir.path().join("ballast")
    }
}

impl Drop for SmallDisk {
    fn drop(&mut self) {
        // Lazily: what still looks at it keeps it until it ends.
        let unmounted = Command::new("umount").arg("-l").arg(self.dir.path()).status();
        if !unmounted.as_ref().is_ok_and(std::process::ExitStatus::success) {
            eprintln!("{} stays mounted: {unmounted:?}", self.dir.path().display());
        }
    }
}

#[tokio::test]
async fn on_a_full_disk_what_runs_runs_on_changes_wait_and_are_made_once_there_is_room() -> Result<()> {
    let disk = SmallDisk::mount()?;
    let witness = Witness::new()?;
    let mut stack = Stack::start().await?;
    fs::create_dir_all(stack.dir().join("agents"))?;
    symlink(disk.path(), stack.agent_dir("n1"))?;
    stack.add_agent("n1", &[])?;
    stack.wait_connected("n1").await;
    for name in ["kept", "changed", "fallen"] {
        stack.apply(name, app([witness.service("a", "v1")])).await?;
        stack.wait_ready(name, 1).await;
    }
    let before = witness.wait_running(3).await;
    stack.wait_condition("n1", "DiskPressure", false, "DiskHasRoom").await;

    disk.fill()?;
    // Large, since a block or two may come free when a file is replaced.
    let large = |version| app([with_env("FILLER", &"x".repeat(100 * 1024), witness.service("a", version))]);
    stack.apply("changed", large("v2")).await?;
    stack.apply("new", large("v1")).await?;
    let told = stack.wait_condition("n1", "StateIntact", false, "WriteFailed").await;
    assert!(told.message.contains("No space left"), "{told:?}");
    stack.wait_condition("n1", "DiskPressure", true, "DiskFull").await;
    let counts = stack.app("changed").await?.status.and_then(|status| status.counts).unwrap_or_default();
    assert_eq!((counts.desired, counts.updated, counts.ready), (1, 0, 0), "not acknowledged: {counts:?}");
    assert_eq!(witness.running(), before, "what ran runs on");
    stack.check_ready("kept", 1).await.context("what did not change is as ready as before")?;

    // One that falls meanwhile either starts again or says what hinders it.
    let fallen = before.iter().find(|start| start.instance.starts_with("fallen_")).context("it ran")?;
    kill(fallen.pid)?;
    eventually("it is told or runs again", PATIENCE, async || {
        let again = |start: &Start| start.instance == fallen.instance && start.pid != fallen.pid;
        let runs = witness.running().iter().any(again);
        let told = stack.instances("fallen").await?;
        ensure!(runs || told.iter().any(|one| one.reason == "DiskFull"), "{told:?}");
        Ok(())
    })
    .await;

    // The agent itself starts on a full disk, and finds what runs.
    stack.kill_agent("n1")?;
    stack.start_agent("n1")?;
    stack.wait_connected("n1").await;
    stack.wait_condition("n1", "DiskPressure", true, "DiskFull").await;
    stack.wait_ready("kept", 1).await;
    stack.wait_condition("n1", "StateIntact", false, "WriteFailed").await;

    disk.free()?;
    for name in ["kept", "changed", "fallen", "new"] {
        stack.wait_ready(name, 1).await;
    }
    stack.wait_condition("n1", "StateIntact", true, "StateIntact").await;
    stack.wait_condition("n1", "DiskPressure", false, "DiskHasRoom").await;
    let running = witness.wait_running(4).await;
    let of = |name: &str| running.iter().find(|start| start.instance.starts_with(name)).cloned();
    assert_eq!(of("kept_"), before.iter().find(|start| start.instance.starts_with("kept_")).cloned());
    assert_eq!(of("changed_").map(|start| start.version).as_deref(), Some("v2"));
    assert_eq!(
        witness.starts().len(),
        6,
        "each once, the changed and the fallen one twice: {:?}",
        witness.starts()
    );
    stack.finish(Some(&witness)).await?;
    witness.check();
    Ok(())
}

fn kill(pid: u32) -> Result<()> {
    let pid = i32::try_from(pid).ok().and_then(rustix::process::Pid::from_raw).context("a process id")?;
    rustix::process::kill_process(pid, rustix::process::Signal::KILL).context("killing it")
}

/// How a file is spoilt.
#[derive(Debug, Clone, Copy)]
enum Damage {
    /// One bit of each KiB is another.
    Flipped,
    /// Nothing is left.
    Emptied,
}

impl Damage {
    fn of(self, path: &Path) -> Result<()> {
        let mut bytes = fs::read(path).with_context(|| format!("reading {}", path.display()))?;
        match self {
            Self::Flipped => bytes.iter_mut().skip(100).step_by(1024).for_each(|byte| *byte ^= 0x10),
            Self::Emptied => bytes.clear(),
        }
        fs::write(path, bytes).with_context(|| format!("spoiling {}", path.display()))
    }
}

/// The state files of an agent, the newest last: the number of the writing is in bytes 40 to 48.
fn state_files(dir: &Path) -> Result<Vec<PathBuf>> {
    let mut found = Vec::new();
    for name in ["desired.0", "desired.1"] {
        let path = dir.join(name);
        let bytes = fs::read(&path).with_context(|| format!("reading {}", path.display()))?;
        let number = bytes.get(40..48).context("it is too short")?;
        found.push((u64::from_le_bytes(number.try_into()?), path));
    }
    found.sort();
    Ok(found.into_iter().map(|(_, path)| path).collect())
}

/// The newest file alone: an older state is read. Both: none is.
async fn damaged(damage: Damage, both: bool) -> Result<()> {
    let witness = Witness::new()?;
    let mut stack = Stack::start().await?;
    stack.add_agent("n1", &[])?;
    stack.wait_connected("n1").await;
    stack.apply("kept", app([witness.service("a", "v1")])).await?;
    stack.wait_ready("kept", 1).await;
    stack.apply("changed", app([witness.service("a", "v1")])).await?;
    stack.wait_ready("changed", 1).await;
    // Its first revision is what the older file knows; then one that it does not know at all.
    stack.apply("changed", app([witness.service("a", "v2")])).await?;
    stack.wait_ready("changed", 1).await;
    let before = witness.wait_running(2).await;
    let starts = witness.starts();

    stack.kill_service("gateway-0")?;
    stack.kill_agent("n1")?;
    let files = state_files(&stack.agent_dir("n1"))?;
    for path in &files[usize::from(!both)..] {
        damage.of(path)?;
    }
    stack.start_agent("n1")?;
    let log = stack.log("agent-n1");
    eventually("the agent has looked and says what is damaged", PATIENCE, async || {
        let log = fs::read_to_string(&log)?;
        ensure!(log.contains("the desired state on disk is damaged"), "{log}");
        ensure!(
            log.rsplit_once("is damaged").is_some_and(|(_, later)| later.contains("not connected")),
            "{log}"
        );
        Ok(())
    })
    .await;
    assert_eq!(witness.running(), before, "nothing that runs is stopped");

    stack.start_service("gateway-0")?;
    stack.wait_service("gateway-0").await?;
    stack.wait_connected("n1").await;
    stack.wait_event("/nodes/n1", "StateDamaged").await;
    for name in ["kept", "changed"] {
        stack.wait_ready(name, 1).await;
    }
    stack.wait_condition("n1", "StateIntact", true, "StateIntact").await;
    assert_eq!(witness.running(), before, "what did not change was not restarted");
    assert_eq!(witness.starts(), starts, "nothing was started again");

    // It is whole again: without a link, all starts from what is on disk.
    stack.apply("kept", app([witness.service("a", "v3")])).await?;
    stack.wait_ready("kept", 1).await;
    let running = witness.wait_running(2).await;
    stack.kill_service("gateway-0")?;
    stack.kill_agent("n1")?;
    running.iter().try_for_each(|start| kill(start.pid))?;
    stack.start_agent("n1")?;
    eventually("both start without a link", PATIENCE, async || {
        let again = witness.running();
        // One that was killed is seen a moment longer.
        ensure!(!again.iter().any(|start| running.contains(start)), "a killed one is there still");
        let mut versions: Vec<_> = again.into_iter().map(|start| start.version).collect();
        versions.sort();
        ensure!(versions == ["v2", "v3"], "{versions:?}");
        Ok(())
    })
    .await;
    stack.start_service("gateway-0")?;
    stack.wait_service("gateway-0").await?;
    stack.finish(Some(&witness)).await?;
    witness.check();
    Ok(())
}

#[tokio::test]
async fn a_state_file_with_flipped_bits_stops_nothing_and_is_told_and_mended() -> Result<()> {
    damaged(Damage::Flipped, false).await
}

#[tokio::test]
async fn state_files_that_are_all_empty_stop_nothing_and_are_told_and_mended() -> Result<()> {
    damaged(Damage::Emptied, true).await
}
