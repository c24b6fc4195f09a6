//! Somebody who follows a log of 10 MB/s and takes nothing of it.

use std::time::Duration;

use anyhow::Result;
use skerry_integration::apps::{app, script};
use skerry_proto::relay::v1 as pb;
use skerry_testing::anonymous_bytes;

use crate::support::control::app_name;
use crate::support::{proc, quick};
use crate::{Bench, LINE, SETTLE};

/// As long as a screen that somebody has walked away from.
const SILENCE: Duration = Duration::from_secs(300);
const SILENCE_QUICK: Duration = Duration::from_secs(10);

impl Bench<'_> {
    pub(crate) async fn silent(&self) -> Result<()> {
        let name = self.name("silent");
        let loud = format!("while :; do yes \"{LINE}\" | head -c 1000000; sleep 0.09; done");
        self.control.apply(&name, app([script("s", &loud)])).await?;
        self.control.wait_ready(&name, 1).await?;
        let silence = if quick() { SILENCE_QUICK } else { SILENCE };
        // The same time without a reader: what the parts do anyway is not the reader's doing.
        let (alone, _) = self.spent(silence).await?;
        let request = pb::LogsRequest { app: app_name(&name), follow: true, ..Default::default() };
        let before = self.memory()?;
        let mut told = self.control.relay().logs(request).await?.into_inner();
        told.message().await?;
        // What stands between fills.
        tokio::time::sleep(SETTLE).await;
        let (held, filled) = self.spent(silence).await?;
        drop(told);
        for (part, who) in ["relay", "agent"].into_iter().enumerate() {
            let percent =
                (held[part].as_secs_f64() - alone[part].as_secs_f64()) / silence.as_secs_f64() * 100.0;
            self.figures.show(&format!("relay.silent.{who}.cpu"), percent, "% of a core");
            let kib = (filled[part] as f64 - before[part] as f64) / 1024.0;
            self.figures.show(&format!("relay.silent.{who}.memory"), kib, "KiB");
        }
        self.control.delete(&name).await
    }

    /// Processor time of relay and agent in so long, and their memory at its end.
    async fn spent(&self, time: Duration) -> Result<([Duration; 2], [u64; 2])> {
        let pids = [self.control.pid(), self.agent];
        let before = [proc::processor_time(pids[0])?, proc::processor_time(pids[1])?];
        tokio::time::sleep(time).await;
        let after = [proc::processor_time(pids[0])?, proc::processor_time(pids[1])?];
        Ok(([after[0].saturating_sub(before[0]), after[1].saturating_sub(before[1])], self.memory()?))
    }

    fn memory(&self) -> Result<[u64; 2]> {
        Ok([anonymous_bytes(self.control.pid())?, anonymous_bytes(self.agent)?])
    }
}
