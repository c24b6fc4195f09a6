//! A `skerry-gpu` of its own, over an etcd, without TLS: a bench is its gateway, and who asks it.

use std::process::Command;

use anyhow::{Context as _, Result};
use skerry_proto::gpu::v1::gpu_service_client::GpuServiceClient;
use skerry_proto::gpu::v1::ingest_service_client::IngestServiceClient;
use skerry_rpc::MESSAGE_BYTES_MAX;
use skerry_testing::{Etcd, Process, bin, free_port, http_get};
use tempfile::TempDir;
use tonic::transport::Channel;

use crate::support::control::PATIENCE;

/// See the module.
pub(crate) struct Service {
    process: Process,
    address: String,
    metrics: String,
    _etcd: Etcd,
    _dir: TempDir,
}

impl Service {
    /// Starts one with an empty history; where it has one core, that is the machine's first.
    pub(crate) async fn start(has_one_core: bool) -> Result<Self> {
        let dir = tempfile::Builder::new().prefix("skerry-bench-").tempdir()?;
        let etcd = Etcd::start().await?;
        let (address, metrics) = (format!("127.0.0.1:{}", free_port()), format!("127.0.0.1:{}", free_port()));
        let program = bin("skerry-gpu");
        let mut command = if has_one_core {
            let mut command = Command::new("taskset");
            command.args(["--cpu-list", "0"]).arg(program);
            command
        } else {
            Command::new(program)
        };
        command.arg("--insecure").arg(format!("--etcd={}", etcd.endpoint()));
        command.arg(format!("--listen={address}")).arg(format!("--metrics-listen={metrics}"));
        command.arg(format!("--data-dir={}", dir.path().join("gpu").display()));
        let mut process = Process::spawn_command(&mut command, dir.path().join("gpu.log"))?;
        process.wait_for_line("serving", PATIENCE).await?;
        Ok(Self { process, address, metrics, _etcd: etcd, _dir: dir })
    }

    /// Its process.
    pub(crate) fn pid(&self) -> u32 {
        self.process.pid()
    }

    /// A connection as a gateway's.
    pub(crate) async fn gateway(&self) -> Result<IngestServiceClient<Channel>> {
        Ok(IngestServiceClient::new(self.connect().await?).max_encoding_message_size(MESSAGE_BYTES_MAX))
    }

    /// A connection as a user's.
    pub(crate) async fn user(&self) -> Result<GpuServiceClient<Channel>> {
        Ok(GpuServiceClient::new(self.connect().await?).max_decoding_message_size(MESSAGE_BYTES_MAX))
    }

    async fn connect(&self) -> Result<Channel> {
        Ok(skerry_rpc::connect(&format!("http://{}", self.address), None).await?)
    }

    /// All that it tells at `/metrics`.
    pub(crate) async fn metrics(&self) -> Result<String> {
        Ok(http_get(&self.metrics, "/metrics").await?.text())
    }

    /// What it counted under this name, whatever the labels.
    pub(crate) async fn counted(&self, name: &str) -> Result<f64> {
        let text = self.metrics().await?;
        let lines = text.lines().filter(|line| {
            line.strip_prefix(name).is_some_and(|rest| rest.starts_with('{') || rest.starts_with(' '))
        });
        let values = lines.filter_map(|line| line.rsplit_once(' ')?.1.parse::<f64>().ok());
        values.reduce(|sum, value| sum + value).with_context(|| format!("{name} on /metrics"))
    }
}
