//! Whether an MPS daemon holds its clients to memory and compute, with the device in the mode that it is in: the daemon is the agent's own, in a directory
//! of its own, and a client gets what the agent gives an instance.
//!
//! After NVIDIA's "Multi-Process Service" guide: a client of which `CUDA_MPS_PINNED_DEVICE_MEM_LIMIT` says how much it may have is refused more, what CUDA
//! itself takes included; and the count of multiprocessors that it is told is the share that `CUDA_MPS_ACTIVE_THREAD_PERCENTAGE` leaves it. What the device
//! has without MPS is asked first, of a client without a daemon.

use std::collections::BTreeMap;
use std::path::Path;
use std::process::{Command, Stdio};

use anyhow::{Context as _, Result, bail};
use serde::{Deserialize, Serialize};
use skerry_agent::gpu_check::{MpsDaemon, mps_program};

use crate::compare::Verdict;
use crate::cuda::{Attribute, Context, OUT_OF_MEMORY};

/// What the client may have. Its context takes some hundred MiB of it on a large device.
const LIMIT: u64 = 2 << 30;
/// What it tries to take: once less, then more than that.
const TRIES: [u64; 2] = [LIMIT / 2, LIMIT + (64 << 20)];
const PERCENT: u32 = 50;
/// Multiprocessors come in groups: of the share so many percent of the device may be missing, or too many.
const OFF_PERCENT: i32 = 10;
/// What a client of the daemon's must not have of who started this program.
const VARIABLES: [&str; 5] = [
    "CUDA_MPS_PIPE_DIRECTORY",
    "CUDA_MPS_ACTIVE_THREAD_PERCENTAGE",
    "CUDA_MPS_PINNED_DEVICE_MEM_LIMIT",
    "CUDA_MPS_ENABLE_PER_CTX_DEVICE_MULTIPROCESSOR_PARTITIONING",
    "CUDA_VISIBLE_DEVICES",
];

/// What a client saw.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Client {
    pub(crate) multiprocessors: i32,
    /// Whether it is one of MPS, where its driver says so.
    pub(crate) mps: Option<bool>,
    /// What CUDA answered when it took less, and then more than the limit; 0: it had it.
    pub(crate) tries: [i32; 2],
}

/// What became of the limits.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub(crate) struct Limits {
    pub(crate) limit_bytes: u64,
    pub(crate) tried_bytes: [u64; 2],
    pub(crate) percent: u32,
    pub(crate) free: Client,
    pub(crate) limited: Client,
    /// What is not as it should be.
    pub(crate) wrong: Vec<String>,
    pub(crate) verdict: Verdict,
}

/// Where the daemon's program is not, that is the inner error. `client`: this program again.
pub(crate) fn look(
    program: Option<&Path>,
    client: &Path,
    uuid: &str,
) -> Result<std::result::Result<Limits, String>> {
    let program = match mps_program(program) {
        Ok(program) => program,
        Err(why) => return Ok(Err(why)),
    };
    let dir = tempfile::tempdir().context("making a directory for the MPS daemon")?;
    let none = dir.path().join("none").display().to_string();
    let variables = [("CUDA_VISIBLE_DEVICES", uuid.to_owned()), ("CUDA_MPS_PIPE_DIRECTORY", none)];
    let variables = variables.map(|(name, value)| (name.to_owned(), value)).into();
    let free = run(client, &variables).context("a client without MPS")?;
    let daemon = MpsDaemon::begin(program, dir.path())?;
    let limited = run(client, &daemon.variables(uuid, LIMIT, PERCENT)?).context("a client of MPS");
    daemon.end()?;
    Ok(Ok(judge(free, limited?)))
}

fn run(client: &Path, variables: &BTreeMap<String, String>) -> Result<Client> {
    let mut command = Command::new(client);
    for name in VARIABLES {
        command.env_remove(name);
    }
    let tries = TRIES.map(|bytes| bytes.to_string()).join(",");
    command.args(["--take", &tries]).envs(variables).stdin(Stdio::null()).stderr(Stdio::inherit());
    let output = command.output().context("starting this program again")?;
    if !output.status.success() {
        bail!("it ended ({}): what it said stands above", output.status);
    }
    let text = String::from_utf8_lossy(&output.stdout);
    serde_json::from_str(&text).with_context(|| format!("reading what it says: {text:?}"))
}

fn judge(free: Client, limited: Client) -> Limits {
    let mut wrong = Vec::new();
    let mut unless = |is_right: bool, what: String| {
        if !is_right {
            wrong.push(what);
        }
    };
    unless(free.tries[1] == 0, format!("without MPS the device has not as much either ({})", free.tries[1]));
    unless(limited.mps != Some(false), "the client did not come to the daemon".to_owned());
    unless(limited.tries[0] == 0, format!("less than the limit is refused ({})", limited.tries[0]));
    let more = limited.tries[1];
    unless(
        more == OUT_OF_MEMORY,
        if more == 0 {
            "more than the limit is given".to_owned()
        } else {
            format!("more than the limit is refused with {more}, and not with {OUT_OF_MEMORY}")
        },
    );
    let (all, some) = (free.multiprocessors, limited.multiprocessors);
    let share = all * i32::try_from(PERCENT).unwrap_or(0) / 100;
    let off = (all * OFF_PERCENT / 100).max(1);
    unless((share - off..=share + off).contains(&some), format!("it sees {some} of {all} multiprocessors"));
    let verdict = if wrong.is_empty() { Verdict::Same } else { Verdict::Different };
    Limits { limit_bytes: LIMIT, tried_bytes: TRIES, percent: PERCENT, free, limited, wrong, verdict }
}

impl Limits {
    /// For people, in lines.
    pub(crate) fn lines(&self) -> Vec<String> {
        let Self { limit_bytes, tried_bytes: [less, more], percent, free, limited, wrong, .. } = self;
        let tried = |code: i32| if code == 0 { "given".to_owned() } else { format!("refused ({code})") };
        let mut lines = vec![
            format!("MPS, limit of {limit_bytes} B and {percent} % of the multiprocessors:"),
            format!("  {less} B are {}, {more} B are {}", tried(limited.tries[0]), tried(limited.tries[1])),
            format!("  {} of {} multiprocessors", limited.multiprocessors, free.multiprocessors),
        ];
        lines.extend(wrong.iter().map(|what| format!("  {what}")));
        lines
    }
}

/// The client itself: looks at the first device that it sees, and takes so much memory of it, one after the other.
pub(crate) fn take(tries: &[u64]) -> Result<Client> {
    let context = Context::new(None)?;
    let multiprocessors = context.attribute(Attribute::Multiprocessors)?;
    let multiprocessors = multiprocessors.context("CUDA does not tell the count of multiprocessors")?;
    let mps = context.attribute(Attribute::Mps)?.map(|is| is != 0);
    let attempt = |bytes: &u64| {
        let taken = context.take(usize::try_from(*bytes).context("so much memory")?)?;
        Ok(match taken {
            Ok(memory) => context.give(&memory).map(|()| 0)?,
            Err(code) => code,
        })
    };
    let answers = tries.iter().map(attempt).collect::<Result<Vec<i32>>>()?;
    let tries = answers.try_into().map_err(|_| anyhow::anyhow!("--take: two amounts, with a comma"))?;
    Ok(Client { multiprocessors, mps, tries })
}

#[cfg(test)]
mod tests;
