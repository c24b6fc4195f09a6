//! `skerry authority`: the installation's own authority, made and cared for by who has its key file and its directory. Works on the store
//! itself: it is there before any service is.

mod args;
mod held;
mod place;

use std::fmt::Write as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use anyhow::{Context as _, anyhow};
use rustls_pki_types::DnsName;
use skerry_identity::TrustDomain;
use skerry_identity::bundle::Root;
use skerry_identity::seal::KeyEncryption;
use skerry_model::{ProjectName, ServiceName, quantity};
use skerry_registry::authority::{
    AuthorityDir, Changed, Force, Issuer, LIFE_MIN, PEER_LIFE, renew, reseal, retire, rotate,
};
use skerry_registry::count_first_admin_key;
use skerry_store::Store;

pub(crate) use args::AuthorityArgs;
use args::{IssueArgs, IssueCommand, Sub, Where};
pub(crate) use held::{Held, Whose};
use place::{Opened, load_keys};
pub(crate) use place::{authority_dir, ensure_authority, key_file, keys_for};

use crate::store::target_of;
use crate::up::say;

/// Runs one command.
pub(crate) async fn run(args: AuthorityArgs, project: &ProjectName) -> anyhow::Result<()> {
    let place = Place::of(&args.place)?;
    let opened = match &place.data_dir {
        Some(directory) => Opened::of_up(directory).await?,
        None => Opened::remote(target_of(&args.place.etcd, &args.place.etcd_tls)?).await?,
    };
    let done = place.execute(&opened.store, &args.command, project).await;
    opened.close().await;
    say(&[done?]);
    Ok(())
}

/// Where keys and files are.
struct Place {
    /// Of a `skerry up`; absent: an etcd is named.
    data_dir: Option<PathBuf>,
    key_file: Option<PathBuf>,
    authority_dir: Option<PathBuf>,
}

impl Place {
    fn of(args: &Where) -> anyhow::Result<Self> {
        let data_dir = args.data_dir.as_ref().map(std::path::absolute).transpose()?;
        let or_below = |given: &Option<PathBuf>, usual: fn(&Path) -> PathBuf| {
            given.clone().or_else(|| data_dir.as_deref().map(usual))
        };
        Ok(Self {
            key_file: or_below(&args.key_file, key_file),
            authority_dir: or_below(&args.authority_dir, authority_dir),
            data_dir,
        })
    }

    fn key_file(&self) -> anyhow::Result<&Path> {
        self.key_file
            .as_deref()
            .context("name the file that keys are sealed under: --key-file FILE (SKERRY_KEY_FILE)")
    }

    fn dir(&self) -> anyhow::Result<AuthorityDir> {
        let dir = self.authority_dir.clone();
        let dir =
            dir.context("name the directory of the roots' keys: --authority-dir DIR (SKERRY_AUTHORITY_DIR)")?;
        Ok(AuthorityDir::new(dir))
    }

    async fn execute(&self, store: &Store, command: &Sub, project: &ProjectName) -> anyhow::Result<String> {
        let force = |force: bool| if force { Force::Yes } else { Force::No };
        match command {
            Sub::Init(args) => {
                let keys = keys_for(store, self.key_file()?).await?;
                let domain = args.domain.as_ref();
                let done = ensure_authority(store, &self.dir()?, &*keys, domain).await?;
                // At each start of a stack this is said: so the intermediate is never too old there.
                let renewed = renew(store, &self.dir()?, &*keys, Force::No).await?;
                // The key file may have a new key: so the older ones can go.
                let resealed = reseal(store, &self.dir()?, &*keys).await?;
                let word = match (done.changed, renewed.changed, resealed.changed) {
                    (true, _, _) => "made",
                    (false, true, _) => "renewed",
                    (false, false, true) => "sealed anew",
                    (false, false, false) => "unchanged",
                };
                told(word, store, &renewed).await
            }
            Sub::Show => {
                let record = roots(store).await?;
                Ok(shown("authority", record.domain(), record.roots()))
            }
            Sub::Renew(args) => {
                let keys = self.keys()?;
                let done = renew(store, &self.dir()?, &*keys, force(args.force)).await?;
                told(if done.changed { "renewed" } else { "unchanged: it is not time yet" }, store, &done)
                    .await
            }
            Sub::Rotate => {
                let keys = self.keys()?;
                let done = rotate(store, &self.dir()?, &*keys).await?;
                let word =
                    if done.changed { "rotated" } else { "unchanged: the former root is not retired yet" };
                told(word, store, &done).await
            }
            Sub::Retire(args) => {
                let done = retire(store, force(args.force)).await?;
                told(if done.changed { "retired" } else { "unchanged" }, store, &done).await
            }
            Sub::Issue(IssueCommand::Service(args)) => {
                let dns_names = args.dns.iter().map(|name| parse_dns(name)).collect::<Result<_, _>>()?;
                let name = ServiceName::parse(&args.name)?;
                let whose = Whose::Service { name, dns_names, addresses: args.ip.clone() };
                self.issue(store, &args.name, &whose, &args.common).await
            }
            Sub::Issue(IssueCommand::User(args)) => {
                let whose = Whose::User { project: project.clone(), name: ServiceName::parse(&args.name)? };
                self.issue(store, &args.name, &whose, &args.common).await
            }
        }
    }

    fn keys(&self) -> anyhow::Result<Arc<dyn KeyEncryption>> {
        load_keys(self.key_file()?, false)
    }

    async fn issue(
        &self,
        store: &Store,
        name: &str,
        whose: &Whose,
        args: &IssueArgs,
    ) -> anyhow::Result<String> {
        let life = args.life.as_deref().map(parse_life).transpose()?;
        let issuer = Issuer::new(store, Some(self.keys()?));
        issuer.ready().await.context("reading the authority")?;
        let held = Held::new(&args.out, name);
        let outcome = held.ensure(&issuer, whose, life, SystemTime::now())?;
        if matches!(whose, Whose::User { project, name } if project.is_system() && name.as_str() == "admin") {
            count_first_admin_key(store, outcome.key).await.map_err(|fault| anyhow!(fault.message))?;
        }
        let word = if outcome.issued { "issued" } else { "kept" };
        let until =
            jiff::Timestamp::try_from(outcome.not_after).context("the end of the certificate's life")?;
        Ok(format!("{} {word}, valid until {until:.0}", held.certificate.display()))
    }
}

/// A DNS name of a service.
pub(crate) fn parse_dns(name: &str) -> anyhow::Result<DnsName<'static>> {
    DnsName::try_from(name.to_owned())
        .map_err(|_| anyhow!("`{name}` is no DNS name: an address goes with --ip"))
}

fn parse_life(text: &str) -> anyhow::Result<Duration> {
    let life = quantity::parse_duration(text).ok().filter(|life| (LIFE_MIN..=PEER_LIFE).contains(life));
    life.with_context(|| format!("--life `{text}`: write a duration from 1m to 720h"))
}

async fn roots(store: &Store) -> anyhow::Result<skerry_identity::TrustBundle> {
    let issuer = Issuer::new(store, None);
    issuer.ready().await.context("reading the authority")?;
    issuer.roots().map_err(|fault| anyhow!(fault.message))
}

async fn told(word: &str, store: &Store, done: &Changed) -> anyhow::Result<String> {
    let bundle = roots(store).await?;
    let now: Vec<Root> =
        bundle.roots().iter().filter(|root| done.roots.contains(&root.pin())).cloned().collect();
    Ok(shown(&format!("authority {word}"), bundle.domain(), &now))
}

/// What people see of an authority: its domain, and the pins by which machines recognise its roots.
fn shown(head: &str, domain: &TrustDomain, roots: &[Root]) -> String {
    let mut text = format!("{head}\n  domain  {domain}");
    for (index, pin) in roots.iter().map(Root::pin).enumerate() {
        let kind = if index == 0 { "root  " } else { "former" };
        let _ = write!(text, "\n  {kind}  {pin}");
    }
    text
}
