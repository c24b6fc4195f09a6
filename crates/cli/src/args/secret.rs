//! Commands about secrets.

use clap::{Args, Subcommand};

/// `secret`
#[derive(Debug, Clone, Subcommand)]
pub enum SecretCommand {
    /// Set entries of a secret, which is made if there is none; other entries stay
    Set(SecretSetArgs),
    /// Add a new key to a key file of the scheduler; from then on it is the one that seals
    RotateKey(RotateKeyArgs),
    /// Seal all secrets under the newest key of the scheduler's key file, after one was added to it
    Reseal(ResealArgs),
}

/// `secret set`
#[derive(Debug, Clone, Args)]
#[command(after_help = "\
Values come from files and from standard input, never from the command line, which everybody on the
machine can see. They are taken as they are, with the end of the last line if there is one.

Examples:
  printf %s \"$PASSWORD\" | skerry secret set database password=-
  skerry secret set tls tls.crt=@server.crt tls.key=@server.key
  skerry secret set database password-")]
pub struct SecretSetArgs {
    /// Name of the secret
    pub name: String,

    /// KEY=@FILE or KEY=- (standard input) to set an entry, KEY- to remove it
    #[arg(value_name = "KEY=@FILE", required = true)]
    pub entries: Vec<String>,
}

/// `secret rotate-key`
#[derive(Debug, Clone, Args)]
#[command(after_help = "\
Asks no server. Registries and schedulers need the same file: give them the new one. Then seal
all that there is under the new key: the authority's keys with `skerry authority init`, or by
starting `skerry up` anew; the secrets with `skerry secret reseal`. After both, and not before, the
old keys can go, which are the lines before the last. Keep them with old backups of the store.

Examples:
  skerry secret rotate-key /var/lib/skerry/keys")]
pub struct RotateKeyArgs {
    /// The key file
    #[arg(value_name = "FILE", value_hint = clap::ValueHint::FilePath)]
    pub file: std::path::PathBuf,
}

/// `secret reseal`
#[derive(Debug, Clone, Args)]
pub struct ResealArgs {}
