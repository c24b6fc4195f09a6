//! Compose files: the flags of commands that take them, and `convert`.

use std::path::PathBuf;

use clap::{Args, ValueHint};

/// What makes an app of Compose files.
#[derive(Debug, Clone, Default, Args)]
#[command(next_help_heading = "Compose files")]
pub struct ComposeFlags {
    /// Take -f for Compose files, each over those before it, and make one app of this name of them
    #[arg(long, value_name = "NAME")]
    pub as_app: Option<String>,

    /// Services of this profile too (* for all); may be repeated [env: COMPOSE_PROFILES]
    #[arg(long = "profile", value_name = "PROFILE")]
    pub profiles: Vec<String>,

    /// Variables for Compose files, in place of .env in the project directory; may be repeated
    #[arg(long = "env-file", value_name = "FILE", value_hint = ValueHint::FilePath)]
    pub env_files: Vec<PathBuf>,

    /// What paths in Compose files are relative to, in place of the directory of the first one
    #[arg(long, value_name = "DIR", value_hint = ValueHint::DirPath)]
    pub project_directory: Option<PathBuf>,
}

impl ComposeFlags {
    /// The flag that makes no sense without `--as-app`, if one is given.
    pub(crate) fn stray(&self) -> Option<&'static str> {
        [
            ("--profile", !self.profiles.is_empty()),
            ("--env-file", !self.env_files.is_empty()),
            ("--project-directory", self.project_directory.is_some()),
        ]
        .into_iter()
        .find(|(_, given)| *given)
        .map(|(flag, _)| flag)
    }
}

/// `convert`
#[derive(Debug, Clone, Args)]
#[command(after_help = "\
Prints the app and the configs that `skerry apply -f FILE --as-app NAME` would make of Compose files, as a
manifest. Asks no server. What cannot be taken is an error with file and line; what is left out, or is
another way than the file says, is told on stderr. Values of secrets are not printed.

Examples:
  skerry convert -f docker-compose.yml
  skerry convert -f docker-compose.yml -f site.yml --as-app shop --profile debug > shop.yaml")]
pub struct ConvertArgs {
    /// Compose file, or - for stdin; may be repeated, each over those before it
    #[arg(short = 'f', long = "filename", required = true, value_name = "FILE|-", value_hint = ValueHint::FilePath)]
    pub files: Vec<String>,

    #[command(flatten)]
    #[allow(missing_docs, reason = "a comment here would become the title of all flags in --help")]
    pub compose: ComposeFlags,
}
