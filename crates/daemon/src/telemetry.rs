//! Logs: text on a terminal, JSON lines otherwise, to stderr.

use std::io::IsTerminal as _;

use tracing_subscriber::filter::{LevelFilter, Targets};
use tracing_subscriber::layer::SubscriberExt as _;
use tracing_subscriber::util::SubscriberInitExt as _;

/// How logs are written.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub enum LogFormat {
    /// For people.
    Text,
    /// One JSON object a line.
    Json,
}

/// Flags of every long-lived process.
#[derive(Debug, Clone, clap::Args)]
pub struct LogArgs {
    /// What to log: a level (error, warn, info, debug, trace), or levels by module as `info,skerry_gateway=debug`
    #[arg(long = "log", env = "SKERRY_LOG", default_value = "info", value_name = "FILTER", global = true, value_parser = parse_filter)]
    pub filter: Targets,

    /// How to log; absent: text on a terminal, else JSON
    #[arg(long = "log-format", env = "SKERRY_LOG_FORMAT", value_name = "FORMAT", global = true)]
    pub format: Option<LogFormat>,
}

fn parse_filter(text: &str) -> Result<Targets, String> {
    text.parse().map_err(|error| format!("{error}; write for example info or info,skerry_gateway=debug"))
}

impl Default for LogArgs {
    fn default() -> Self {
        Self { filter: Targets::new().with_default(LevelFilter::INFO), format: None }
    }
}

impl LogArgs {
    /// Begins to log. A second call changes nothing.
    pub fn init(&self) {
        let terminal = std::io::stderr().is_terminal();
        let format = self.format.unwrap_or(if terminal { LogFormat::Text } else { LogFormat::Json });
        let registry = tracing_subscriber::registry().with(self.filter.clone());
        let layer = tracing_subscriber::fmt::layer().with_writer(std::io::stderr);
        // An error means that somebody began before, as tests in one process do.
        let _ = match format {
            LogFormat::Text => registry.with(layer.with_ansi(terminal).with_target(false)).try_init(),
            LogFormat::Json => registry.with(layer.json().flatten_event(true)).try_init(),
        };
    }
}
