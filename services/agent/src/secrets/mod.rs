//! Secrets of instances: kept sealed, opened with this node's own key when an instance is made, and given to it as files in memory or as variables.
//!
//! On the disk are only what is sealed to this node (in the desired state) and the key that opens it (`hpke.key`, beside the certificate). So a disk that is stolen
//! shows the secrets of this one node, and no other's: strike the node out and change these. With a TPM as the key store not even those.
//! Values are read when they are needed and not kept. They are on a tmpfs of the machine (`files`), which the kernel may swap out.

mod files;

use std::collections::BTreeMap;
use std::fmt;
use std::path::{Path, PathBuf};

use bytes::Bytes;
use prost::Message as _;
use skerry_identity::hpke::SealContext;
use skerry_identity::key_store::KeyStore as _;
use skerry_model::app::{OnChange, Program, SecretMount, normal_path};
use skerry_model::{InstanceName, NodeRef, SecretName};
use skerry_proto::types::v1::{ImageCredentials, SecretContent};

use crate::desired::InstanceSpec;
use crate::identity::Kept;
use crate::runtime::RuntimeError;
use files::Owner;

/// A secret as it came: sealed to this node.
#[derive(Clone, PartialEq, Eq)]
pub struct SealedContent {
    /// Names its values.
    pub version: String,
    /// Ciphertext.
    pub sealed: Bytes,
    /// The node's uid that it was sealed for.
    pub node_uid: String,
}

impl fmt::Debug for SealedContent {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "SealedContent({}, {} bytes)", self.version, self.sealed.len())
    }
}

/// What opens the secrets of this node, and where their values are laid out. Cheap to make: nothing is read before it is needed.
#[derive(Debug, Clone, Default)]
pub struct Secrets {
    project: String,
    identity: Kept,
    root: files::Root,
}

impl Secrets {
    /// Those of `node`, whose agent has its data in `data_dir`.
    pub fn new(node: &NodeRef, data_dir: &Path) -> Self {
        let place = blake3::hash(data_dir.as_os_str().as_encoded_bytes()).to_hex();
        Self {
            project: node.project.to_string(),
            identity: Kept::new(data_dir),
            root: files::Root::usual(&format!("skerry-{}", &place[..12])),
        }
    }

    /// The same, with values laid out below another directory, which must be a tmpfs.
    #[must_use]
    pub fn in_directory(self, directory: Option<PathBuf>) -> Self {
        match directory {
            Some(directory) => Self { root: files::Root::at(directory), ..self },
            None => self,
        }
    }

    /// The values of a secret that an instance uses.
    pub(crate) fn open(
        &self,
        instance: &InstanceSpec,
        name: &SecretName,
    ) -> Result<SecretContent, RuntimeError> {
        self.open_sealed(name, instance.secrets.get(name).map(AsRef::as_ref))
    }

    /// The values of a secret that came, or did not.
    fn open_sealed(
        &self,
        name: &SecretName,
        sealed: Option<&SealedContent>,
    ) -> Result<SecretContent, RuntimeError> {
        let sealed =
            sealed.ok_or_else(|| failed("SecretMissing", format!("secret `{name}` did not come with it")))?;
        // Looked up each time: a machine that enrols anew has other keys from then on.
        let key = self.identity.opening_keys().opening_key().map_err(|error| {
            failed("SecretNotOpened", format!("the key that opens secret `{name}`: {error}"))
        })?;
        let context = SealContext {
            project: &self.project,
            node_uid: &sealed.node_uid,
            secret: name.as_str(),
            version: &sealed.version,
        };
        let opened = key.open(&context, &sealed.sealed);
        let opened =
            opened.map_err(|error| failed("SecretNotOpened", format!("secret `{name}`: {error}")))?;
        SecretContent::decode(opened.expose()).map_err(|_| {
            failed("SecretNotOpened", format!("secret `{name}` holds what this agent does not know"))
        })
    }

    /// The credentials for the images of an instance, if it names some.
    pub(crate) fn image_credentials(
        &self,
        instance: &InstanceSpec,
    ) -> Result<Option<(SecretName, ImageCredentials)>, RuntimeError> {
        let Program::Container(container) = &instance.service.program else { return Ok(None) };
        let Some(name) = &container.image_credentials else { return Ok(None) };
        let credentials = self.credentials_in(name, instance.secrets.get(name).map(AsRef::as_ref))?;
        Ok(Some((name.clone(), credentials)))
    }

    /// The credentials for a registry in a secret that came, or did not.
    pub(crate) fn credentials_in(
        &self,
        name: &SecretName,
        sealed: Option<&SealedContent>,
    ) -> Result<ImageCredentials, RuntimeError> {
        self.open_sealed(name, sealed)?.image_credentials.ok_or_else(|| {
            let message =
                format!("secret `{name}` has no credentials of a registry: write imageCredentials in it");
            RuntimeError { transient: false, ..failed("SecretKindWrong", message) }
        })
    }

    /// The files of each mount, opened: whether all that is mounted is there, before anything is taken away for it.
    fn opened(&self, instance: &InstanceSpec) -> Result<Vec<(usize, files::Files)>, RuntimeError> {
        let mounts = instance.service.secrets.iter().enumerate();
        let opened = mounts.map(|(n, mount)| {
            let version =
                instance.secrets.get(&mount.secret).map(|one| one.version.clone()).unwrap_or_default();
            let data = self.open(instance, &mount.secret)?.data;
            let data = match &mount.key {
                None => data,
                Some(key) => {
                    let value = data.get(key).cloned().ok_or_else(|| no_entry(&mount.secret, key))?;
                    BTreeMap::from([(key.clone(), value)])
                }
            };
            Ok((n, files::Files { version, data, mode: mount.mode }))
        });
        opened.collect()
    }

    /// Whether all that an instance mounts opens and is there.
    pub(crate) fn check(&self, instance: &InstanceSpec) -> Result<(), RuntimeError> {
        self.image_credentials(instance)?;
        self.opened(instance).map(drop)
    }

    /// Lays out what an instance mounts, before it is started. `user` owns what names no owner. Blocks.
    pub(crate) fn lay_out(&self, instance: &InstanceSpec, user: Owner) -> Result<(), RuntimeError> {
        if instance.service.secrets.is_empty() {
            return Ok(());
        }
        let dir = self.dir(instance)?;
        for (n, files) in self.opened(instance)? {
            let owner = owner_of(&instance.service.secrets[n], user);
            files.lay_out(&dir.join(n.to_string()), owner).map_err(|error| in_memory(&error))?;
        }
        Ok(())
    }

    /// Exchanges, in the files of a copy that was laid out, what may change under it. Blocks.
    pub(crate) fn refresh(&self, instance: &InstanceSpec) -> Result<(), RuntimeError> {
        let Some(root) = self.root.existing() else { return Ok(()) };
        let dir = files::instance_dir(&root, instance);
        let is_stale = |(n, mount): &(usize, &SecretMount)| {
            let version = instance.secrets.get(&mount.secret).map(|one| one.version.as_str());
            mount.on_change == OnChange::Update
                && files::laid_out(&dir.join(n.to_string()))
                    .is_some_and(|laid| Some(laid.as_str()) != version)
        };
        if !instance.service.secrets.iter().enumerate().any(|one| is_stale(&one)) {
            return Ok(());
        }
        for (n, files) in self.opened(instance)? {
            let place = dir.join(n.to_string());
            if is_stale(&(n, &instance.service.secrets[n])) {
                let owner = files::owner_of(&place).map_err(|error| in_memory(&error))?;
                files.lay_out(&place, Some(owner)).map_err(|error| in_memory(&error))?;
            }
        }
        Ok(())
    }

    /// Where each mount is, as `lay_out` made it: of this machine, and as the spec names it.
    pub(crate) fn places<'a>(
        &self,
        instance: &'a InstanceSpec,
    ) -> Result<Vec<(PathBuf, &'a str)>, RuntimeError> {
        if instance.service.secrets.is_empty() {
            return Ok(Vec::new());
        }
        let dir = self.dir(instance)?;
        let place = |(n, mount): (usize, &'a SecretMount)| {
            let place = dir.join(n.to_string());
            match &mount.key {
                // Through the link: where it is a process's, it follows what changes.
                Some(key) => (place.join(key), mount.path.as_str()),
                None => (place, mount.path.as_str()),
            }
        };
        Ok(instance.service.secrets.iter().enumerate().map(place).collect())
    }

    /// Paths of mounts below the state directory of a process, plain.
    pub(crate) fn paths(instance: &InstanceSpec) -> impl Iterator<Item = String> {
        instance.service.secrets.iter().map(|mount| normal_path(&mount.path))
    }

    /// The directory for what an instance has beside mounts, made.
    pub(crate) fn dir(&self, instance: &InstanceSpec) -> Result<PathBuf, RuntimeError> {
        let root = self.root.find().map_err(|why| failed("NoMemoryFileSystem", why))?;
        files::make_instance_dir(&root, instance).map_err(|error| in_memory(&error))
    }

    /// Removes what no instance in `wanted` has any more. Blocks.
    pub(crate) fn sweep<'a>(
        &self,
        wanted: impl Iterator<Item = &'a InstanceSpec>,
    ) -> Result<(), RuntimeError> {
        let Some(root) = self.root.existing() else { return Ok(()) };
        let kept = wanted.map(|instance| files::instance_dir(&root, instance)).collect();
        files::sweep(&root, &kept).map_err(|error| in_memory(&error))
    }

    /// Whether something of this instance may change while it runs.
    pub(crate) fn may_change(instance: &InstanceSpec) -> bool {
        instance.service.secrets.iter().any(|mount| mount.on_change == OnChange::Update)
    }
}

pub(crate) fn no_entry(secret: &SecretName, key: &str) -> RuntimeError {
    failed("SecretKeyMissing", format!("secret `{secret}` has no entry `{key}`"))
}

fn owner_of(mount: &SecretMount, user: Owner) -> Owner {
    mount.owner.map_or(user, |(user, group)| Some((user, group.unwrap_or(0))))
}

fn failed(reason: &'static str, message: String) -> RuntimeError {
    RuntimeError { reason, message, transient: true }
}

fn in_memory(error: &std::io::Error) -> RuntimeError {
    failed("SecretLayoutFailed", format!("laying out secrets in memory: {error}"))
}

/// The instance's name as one part of a path: names have no points in them.
fn part(name: &InstanceName) -> String {
    name.to_string().replace('/', ".")
}
