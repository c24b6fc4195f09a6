//! Fifty apps on one node, changed at random while Docker dies twice. (`cargo xtask bench churn` does it for five minutes.)

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use anyhow::{Result, ensure};
use skerry_integration::churn::{Plan, churn};
use skerry_testing::Docker;

/// More than the allocator keeps between two times, less than what one app leaked each time would come to. Of a debug build. (Where it takes long until all runs,
/// the agent has given back what it does not need before the first look, 1 MiB, and after the second one not yet: it does so once in ten minutes.)
const GROWTH_BYTES_MAX: u64 = 3 << 20;

#[tokio::test]
async fn fifty_apps_changed_at_random_end_as_wanted_with_nothing_left_behind() -> Result<()> {
    // Where there shall be no Docker there is none to kill.
    if Docker::required().is_none() {
        return Ok(());
    }
    let since = SystemTime::now().duration_since(UNIX_EPOCH)?;
    let seed = std::env::var("SKERRY_CHURN_SEED").ok().and_then(|seed| seed.parse().ok());
    let seed = seed.unwrap_or(u64::from(since.subsec_nanos()));
    eprintln!("SKERRY_CHURN_SEED={seed}");
    let outcome = churn(Plan { length: Duration::from_secs(30), restarts: 2, seed }).await?;
    eprintln!("{outcome:?}");
    let most = outcome.memory_before + GROWTH_BYTES_MAX;
    ensure!(outcome.memory_after <= most, "the agent grew: {outcome:?}");
    Ok(())
}
