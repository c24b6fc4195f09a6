//! `user`, `role` and `auth`: who may do what.

use std::path::PathBuf;

use clap::{Args, Subcommand, ValueEnum};

/// `user`
#[derive(Debug, Clone, Subcommand)]
#[command(after_help = "\
A user is known by its keys: a certificate for another key is nobody's. Names are short, or full for a user
of another project: projects/PROJECT/users/NAME.

Examples:
  skerry user create ada --role operator
  skerry user create ci --key-id 3f0c...
  skerry user list
  skerry user revoke ada
  skerry user delete ada")]
pub enum UserCommand {
    /// Make a user: its key here, its certificate by the server
    Create(CreateUserArgs),
    /// Issue a certificate for a new key to a user that is there; one may do so for oneself
    Renew(RenewUserArgs),
    /// Show the users of the project
    List(ListArgs),
    /// Strike keys of a user out: what is open by them ends, and their certificates are nobody's
    Revoke(RevokeUserArgs),
    /// Delete a user
    Delete(UserArgs),
}

/// `user create`
#[derive(Debug, Clone, Args)]
#[command(after_help = "\
NAME.key, NAME.crt and NAME-ca.crt are written; the key never leaves this machine. With --key-id nothing is written: it
is the SHA-256 of the public key of a certificate that was issued elsewhere, as of
  openssl x509 -in ada.crt -noout -pubkey | openssl pkey -pubin -outform der | sha256sum")]
pub struct CreateUserArgs {
    /// Name of the user
    #[arg(value_name = "NAME")]
    pub name: String,

    /// Where to write the files
    #[arg(long, value_name = "DIR", default_value = ".")]
    pub out: PathBuf,

    /// A role to give it in the project as well
    #[arg(long, value_enum, value_name = "ROLE")]
    pub role: Option<RoleName>,

    /// Count this key instead of making one; may be repeated
    #[arg(long, value_name = "SHA256", conflicts_with = "out")]
    pub key_id: Vec<String>,
}

/// `user renew`
#[derive(Debug, Clone, Args)]
pub struct RenewUserArgs {
    /// Name of the user
    #[arg(value_name = "NAME")]
    pub name: String,

    /// Where to write the files, in the place of those that are there
    #[arg(long, value_name = "DIR", default_value = ".")]
    pub out: PathBuf,

    /// Count the keys before it no more
    #[arg(long)]
    pub replace: bool,
}

/// `user revoke`
#[derive(Debug, Clone, Args)]
pub struct RevokeUserArgs {
    /// Name of the user
    #[arg(value_name = "NAME")]
    pub name: String,

    /// Only this key; may be repeated [default: all]
    #[arg(long, value_name = "SHA256")]
    pub key_id: Vec<String>,
}

/// One user.
#[derive(Debug, Clone, Args)]
pub struct UserArgs {
    /// Name of the user
    #[arg(value_name = "NAME")]
    pub name: String,
}

/// A listing.
#[derive(Debug, Clone, Args)]
pub struct ListArgs {
    /// Print no column names
    #[arg(long)]
    pub no_headers: bool,
}

/// `role`
#[derive(Debug, Clone, Subcommand)]
#[command(after_help = "\
Roles are bound in a project; in project system they hold in all. A viewer reads, an operator changes what runs as
well, an admin decides who is in as well.

Examples:
  skerry role bind operator --user ada
  skerry -p system role bind viewer --user projects/shop/users/watcher
  skerry role list
  skerry role unbind operator --user ada")]
pub enum RoleCommand {
    /// Give a role to users and groups
    Bind(BindArgs),
    /// Take a role from users and groups
    Unbind(BindArgs),
    /// Show who has which role in the project
    List(ListArgs),
}

/// `role bind` and `role unbind`
#[derive(Debug, Clone, Args)]
pub struct BindArgs {
    /// The role
    #[arg(value_enum, value_name = "ROLE")]
    pub role: RoleName,

    /// A user, by its short name or as projects/PROJECT/users/NAME; may be repeated
    #[arg(long = "user", value_name = "NAME", required_unless_present = "groups")]
    pub users: Vec<String>,

    /// A group, by its short name or as projects/PROJECT/groups/NAME; may be repeated
    #[arg(long = "group", value_name = "NAME")]
    pub groups: Vec<String>,

    /// The binding to change [default: viewers, operators or admins]
    #[arg(long, value_name = "NAME")]
    pub binding: Option<String>,
}

/// A role.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum RoleName {
    /// Get, list and watch
    Viewer,
    /// Change apps and configs, label and cordon nodes
    Operator,
    /// Users, roles, tokens, enrolment; revoke and delete nodes
    Admin,
}

/// `auth`
#[derive(Debug, Clone, Subcommand)]
#[command(after_help = "\
Examples:
  skerry auth whoami
  skerry auth can-i update apps
  skerry -p shop auth can-i delete nodes")]
pub enum AuthCommand {
    /// Show who the server says that calls, and its roles
    Whoami,
    /// Ask whether one may: exit code 0 for yes, 1 for no
    CanI(CanIArgs),
}

/// `auth can-i`
#[derive(Debug, Clone, Args)]
pub struct CanIArgs {
    /// get, list, watch, create, update, delete; of nodes also revoke, approve
    #[arg(value_name = "VERB")]
    pub verb: String,

    /// nodes, apps, configs, instances, revisions, events, projects, tokens, users, groups, roles; or a method's full name with the verb `call`
    #[arg(value_name = "TYPE")]
    pub resource: String,
}
