//! The descriptor set that `xtask/protoc` answers etcd-client's build script with.

use std::{
    env,
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::{Context, Result};

use super::{Files, output, readable};

/// As in etcd-client's own build script. A release that compiles others changes the checksum, so the build says so.
const INPUTS: [&str; 5] = [
    "etcd/api/authpb/auth.proto",
    "etcd/api/etcdserverpb/rpc.proto",
    "etcd/api/mvccpb/kv.proto",
    "etcd/server/etcdserver/api/v3election/v3electionpb/v3election.proto",
    "etcd/server/etcdserver/api/v3lock/v3lockpb/v3lock.proto",
];

/// The files of `xtask/etcd-protos`, made from the etcd-client that `Cargo.lock` names.
pub(super) fn generate(root: &Path) -> Result<Files> {
    let protos = package_dir(root, "etcd-client")?.join("proto");
    let mut compiler = protox::Compiler::new([&protos])?;
    compiler.include_imports(true).include_source_info(false);
    for input in INPUTS {
        compiler.open_file(input).map_err(|error| readable(&error))?;
    }
    let mut checksum = Command::new(root.join("xtask/protoc"));
    checksum.env_remove("SKERRY_PROTOC").arg("--print-checksum").arg("-I").arg(&protos);
    checksum.args(INPUTS.map(|input| protos.join(input)));
    let checksum = output(&mut checksum)?;

    let dir = Path::new("xtask/etcd-protos");
    Ok(Files::from([
        (dir.join("descriptors.bin"), compiler.encode_file_descriptor_set()),
        (dir.join("checksum"), checksum.into_bytes()),
    ]))
}

/// Where cargo keeps the sources of a dependency.
fn package_dir(root: &Path, name: &str) -> Result<PathBuf> {
    let mut cargo = Command::new(env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
    let metadata = output(cargo.current_dir(root).args(["metadata", "--format-version=1"]))?;
    let metadata: serde_json::Value = serde_json::from_str(&metadata).context("reading cargo metadata")?;
    let packages = metadata["packages"].as_array().context("cargo metadata has no packages")?;
    let package = packages.iter().find(|package| package["name"] == name);
    let manifest = package.and_then(|package| package["manifest_path"].as_str());
    let manifest = manifest.with_context(|| format!("{name} is not in Cargo.lock"))?;
    Ok(Path::new(manifest).parent().context("a manifest lies in a directory")?.to_path_buf())
}
