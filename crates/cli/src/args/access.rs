//! `user`, `group`, `role` and `auth`: who may do what.

use std::path::PathBuf;

use clap::{Args, Subcommand, ValueEnum, ValueHint};
use clap_complete::engine::ArgValueCompleter;

use crate::complete;

/// `user`
#[derive(Debug, Clone, Subcommand)]
#[command(after_help = "\
A user is known by its keys: a certificate for another key is nobody's. Names are short, or full for a user
of another project: projects/PROJECT/users/NAME.

A key is best made by who uses it: they run `skerry user request` and hand over the request, which is no secret.

Examples:
  skerry user request ada
  skerry user create ada --csr ada.csr --role operator
  skerry user issue ada --csr ada.csr
  skerry user create ci --key-id 3f0c...
  skerry user list
  skerry user revoke ada
  skerry user delete ada")]
pub enum UserCommand {
    /// Make a key here and a request for a certificate, to be handed to an admin; asks no server
    Request(RequestArgs),
    /// Make a user, and have a certificate issued: for the key of a request, or for one that is made here
    Create(CreateUserArgs),
    /// Issue a certificate for the key of a request to a user that is there
    Issue(IssueArgs),
    /// Issue a certificate for a new key to a user that is there; one may do so for oneself
    Renew(RenewUserArgs),
    /// Show the users of the project
    List(ListArgs),
    /// Strike keys of a user out: what is open by them ends, and their certificates are nobody's
    Revoke(RevokeUserArgs),
    /// Delete a user
    Delete(UserArgs),
}

/// `user request`
#[derive(Debug, Clone, Args)]
#[command(after_help = "\
NAME.key and NAME.csr are written; a NAME.key that is there is used again. The key stays here: an admin takes NAME.csr
(skerry user create NAME --csr FILE) and hands NAME.crt and NAME-ca.crt back. What is printed is the key's SHA-256, by
which both see that they speak of the same one.")]
pub struct RequestArgs {
    /// Name of the user
    #[arg(value_name = "NAME")]
    pub name: String,

    /// Where to write the files
    #[arg(long, value_name = "DIR", default_value = ".", value_hint = ValueHint::DirPath)]
    pub out: PathBuf,
}

/// `user issue`
#[derive(Debug, Clone, Args)]
#[command(after_help = "\
NAME.crt and NAME-ca.crt are written, in the place of those that are there. None of them is a secret. A request of
openssl (P-256, SHA-256) is taken as well.")]
pub struct IssueArgs {
    /// Name of the user
    #[arg(value_name = "NAME", add = ArgValueCompleter::new(complete::users))]
    pub name: String,

    /// The request, as `skerry user request` makes it; - for stdin
    #[arg(long, value_name = "FILE", value_hint = ValueHint::FilePath)]
    pub csr: String,

    /// Where to write the files
    #[arg(long, value_name = "DIR", default_value = ".", value_hint = ValueHint::DirPath)]
    pub out: PathBuf,

    /// Count the keys before it no more
    #[arg(long)]
    pub replace: bool,
}

/// `user create`
#[derive(Debug, Clone, Args)]
#[command(after_help = "\
With --csr NAME.crt and NAME-ca.crt are written, for who has the key. Without it the key is made here, for oneself or a
program of one's own: NAME.key is written as well. With --key-id nothing is written: it
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

    /// Issue for the key of this request, as `skerry user request` makes it; - for stdin
    #[arg(long, value_name = "FILE", value_hint = ValueHint::FilePath)]
    pub csr: Option<String>,

    /// Count this key instead of making one; may be repeated
    #[arg(long, value_name = "SHA256", conflicts_with_all = ["out", "csr"])]
    pub key_id: Vec<String>,
}

/// `user renew`
#[derive(Debug, Clone, Args)]
pub struct RenewUserArgs {
    /// Name of the user
    #[arg(value_name = "NAME", add = ArgValueCompleter::new(complete::users))]
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
    #[arg(value_name = "NAME", add = ArgValueCompleter::new(complete::users))]
    pub name: String,

    /// Only this key; may be repeated [default: all]
    #[arg(long, value_name = "SHA256")]
    pub key_id: Vec<String>,
}

/// One user.
#[derive(Debug, Clone, Args)]
pub struct UserArgs {
    /// Name of the user
    #[arg(value_name = "NAME", add = ArgValueCompleter::new(complete::users))]
    pub name: String,
}

/// A listing.
#[derive(Debug, Clone, Args)]
pub struct ListArgs {
    /// Print no column names
    #[arg(long)]
    pub no_headers: bool,
}

/// `group`
#[derive(Debug, Clone, Subcommand)]
#[command(after_help = "\
A group gets its role as a user does: skerry role bind ROLE --group NAME. Who joins it has the role at once, who leaves
it no more. Users are named short, or full for one of another project: projects/PROJECT/users/NAME.

Examples:
  skerry group create night-shift --user ada --user bob
  skerry role bind operator --group night-shift
  skerry group add-user night-shift eve
  skerry group remove-user night-shift ada
  skerry describe group/night-shift")]
pub enum GroupCommand {
    /// Make a group
    Create(CreateGroupArgs),
    /// Show the groups of the project
    List(ListArgs),
    /// Delete groups; who had a role by them has it no more
    Delete(GroupsArgs),
    /// Put users into a group
    AddUser(MembersArgs),
    /// Take users out of a group
    RemoveUser(MembersArgs),
}

/// `group create`
#[derive(Debug, Clone, Args)]
pub struct CreateGroupArgs {
    /// Name of the group
    #[arg(value_name = "NAME")]
    pub name: String,

    /// Who is in it; may be repeated
    #[arg(long = "user", value_name = "NAME", add = ArgValueCompleter::new(complete::users))]
    pub users: Vec<String>,
}

/// Some groups.
#[derive(Debug, Clone, Args)]
pub struct GroupsArgs {
    /// Names of groups
    #[arg(value_name = "GROUP", required = true, add = ArgValueCompleter::new(complete::groups))]
    pub groups: Vec<String>,
}

/// `group add-user` and `group remove-user`
#[derive(Debug, Clone, Args)]
pub struct MembersArgs {
    /// Name of the group
    #[arg(value_name = "GROUP", add = ArgValueCompleter::new(complete::groups))]
    pub group: String,

    /// Names of users
    #[arg(value_name = "USER", required = true, add = ArgValueCompleter::new(complete::users))]
    pub users: Vec<String>,
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
    #[arg(long = "user", value_name = "NAME", required_unless_present = "groups", add = ArgValueCompleter::new(complete::users))]
    pub users: Vec<String>,

    /// A group, by its short name or as projects/PROJECT/groups/NAME; may be repeated
    #[arg(long = "group", value_name = "NAME", add = ArgValueCompleter::new(complete::groups))]
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
  skerry -p shop auth can-i delete nodes
  skerry -p shop auth can-i --list
  skerry auth can-i exec app/web
  if skerry auth can-i create apps --quiet; then skerry apply -f app.yaml; fi")]
pub enum AuthCommand {
    /// Show who the server says that calls, and its roles
    Whoami,
    /// Ask whether one may: exit code 0 for yes, 1 for no
    CanI(CanIArgs),
}

/// `auth can-i`
#[derive(Debug, Clone, Args)]
#[command(after_help = "\
The project is that of -p, or of the context. Exit code 0 for yes and 1 for no; who cannot ask gets another one (see
skerry --help).")]
pub struct CanIArgs {
    /// get, list, watch, create, update, delete; of nodes also revoke, approve; of users also issue; logs, exec, debug, port-forward, cp,
    /// restart, stop, start of an app, and logs, exec, bundle of a node, with a grant as well
    #[arg(value_name = "VERB", required_unless_present = "list")]
    pub verb: Option<String>,

    /// nodes, apps, configs, secrets, instances, revisions, events, tokens, enrollments, users, groups, rolebindings, grants, projects, tasks; or app/NAME, node/NAME; or a method's full name with the verb `call`
    #[arg(value_name = "TYPE", required_unless_present = "list")]
    pub resource: Option<String>,

    /// Show all that one may
    #[arg(long, conflicts_with_all = ["verb", "resource"])]
    pub list: bool,

    /// Say nothing: the exit code is the answer
    #[arg(short, long, conflicts_with = "list")]
    pub quiet: bool,

    /// With --list: print no column names
    #[arg(long, requires = "list")]
    pub no_headers: bool,
}
