//! `cp`: files into instances and out of them, as archives whose ends have checksums.
//!
//! | module | job |
//! |---|---|
//! | `place` | what is named, and where things go by the rules of `docker cp`; pure |
//! | `to` | into an instance |
//! | `from` | out of an instance |
//! | `worker` | the threads that pack and unpack; the latter leaves nothing behind, however the command ends |
//! | `progress` | how much is copied, on a terminal |

mod from;
mod place;
mod progress;
mod to;
mod worker;

use bytes::Bytes;
use skerry_model::{ClusterName, InstanceName, ServiceName};
use skerry_proto::relay::v1 as pb;

use self::place::{Remote, Side};
use super::rollout::one_app;
use crate::args::CpArgs;
use crate::client::Client;
use crate::error::CliError;
use crate::print::Printer;
use crate::target::{Target, Type};

pub(crate) async fn run(client: &Client, args: &CpArgs, printer: &mut Printer) -> Result<(), CliError> {
    match (Side::parse(&args.from)?, Side::parse(&args.to)?) {
        (Side::Remote(remote), local) if !matches!(local, Side::Remote(_)) => {
            from::run(client, start_of(client, args, &remote)?, local, printer).await
        }
        (local, Side::Remote(remote)) if !matches!(local, Side::Remote(_)) => {
            to::run(client, start_of(client, args, &remote)?, local, printer).await
        }
        (Side::Remote(_), _) => Err(CliError::Usage(
            "nothing is copied from one instance to another: copy it here first, and from here".to_owned(),
        )),
        _ => Err(CliError::Usage(
            "one of the two is in an instance: app/NAME:PATH, as app/hello:/etc/hosts".to_owned(),
        )),
    }
}

/// What the relay is asked.
fn start_of(client: &Client, args: &CpArgs, remote: &Remote) -> Result<pb::CopyStart, CliError> {
    let usage = |error: skerry_model::InvalidName| CliError::Usage(error.to_string());
    let target = one_app(std::slice::from_ref(&remote.app))?;
    let (app, service) = match target.name.split_once('/') {
        Some((app, service)) if !target.name.starts_with("projects/") => (app.to_owned(), service.to_owned()),
        _ => (target.name.clone(), String::new()),
    };
    if !service.is_empty() {
        ServiceName::parse(&service).map_err(usage)?;
    }
    let cluster = args.cluster.clone().unwrap_or_default();
    if !cluster.is_empty() {
        ClusterName::parse(&cluster).map_err(usage)?;
    }
    let instance = args.instance.clone().unwrap_or_default();
    let instance = instance.strip_prefix("instance/").unwrap_or(&instance).to_owned();
    if !instance.is_empty() {
        InstanceName::parse(&instance).map_err(usage)?;
    }
    let node = match &args.node {
        Some(node) => Target::node(node).full_name(client.project())?,
        None => String::new(),
    };
    Ok(pb::CopyStart {
        app: Target { kind: Type::App, name: app }.full_name(client.project())?,
        service,
        node,
        cluster,
        instance,
        path: remote.path.clone(),
        bare: false,
    })
}

/// Of an archive, as it passes.
#[derive(Default)]
struct Sum {
    bytes: u64,
    hasher: blake3::Hasher,
}

impl Sum {
    fn add(&mut self, part: &[u8]) {
        self.bytes += part.len() as u64;
        self.hasher.update(part);
    }

    fn digest(&self) -> pb::CopyDigest {
        let blake3 = Bytes::copy_from_slice(self.hasher.finalize().as_bytes());
        pb::CopyDigest { bytes: self.bytes, blake3 }
    }
}

/// An error of packing or unpacking.
fn failed(error: &skerry_archive::Error) -> CliError {
    CliError::Failed(error.to_string())
}
